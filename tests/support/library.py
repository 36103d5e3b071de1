"""A library of answers for tests, written as the broker writes it."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from broker.pull.library import words_of
from broker.pull.question import Asker, Decided, Question
from broker.pull.recognise import Explained, Recogniser
from broker.store.content import Content, ItemRow, Outcome, Written, connect
from broker.store.records import Records

NOW = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)  # a Monday
AT = int(NOW.timestamp() * 1000)


def item(name: str, title: str = "", brand: str = "acme", **given: Any) -> Written:
    """An item with its words. Lists and mappings are written as JSON."""
    usual: dict[str, Any] = {
        "language": "it", "body": "", "image": "", "link": "", "keywords": [], "stores": [], "tags": [], "hours": {},
        "data": {},
    }  # fmt: skip
    fields = {**usual, **given}
    encoded = {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in fields.items()}
    row = ItemRow(brand=brand, name=name, title=title or name, **encoded)
    return row, lambda: words_of(row)


class Library:
    """Content, and who looks into it."""

    def __init__(self, content: Content, db: sqlite3.Connection, records: Records) -> None:
        self.content = content
        self.db = db
        self.records = records
        self.recogniser = Recogniser()

    async def put(self, *items: Written) -> list[Outcome]:
        return await self.content.put(items, AT)

    async def explain(self, text: str, *, choice: str = "", now: datetime = NOW, **who: Any) -> Explained:
        asker = Asker(**{"brand": "acme", "device": "kiosk-7", "user": "ada", "language": "it", **who})
        question = Question(text=text, choice=choice)
        return self.recogniser.explain(self.db, asker, question, now)

    async def ask(self, text: str, **given: Any) -> Decided:
        return (await self.explain(text, **given)).decided


@asynccontextmanager
async def library(path: Path) -> AsyncIterator[Library]:
    """An empty one."""
    records = await Records.open(path / "records.db")
    content = await Content.open(path / "content.db")
    db = connect(content.path, path / "records.db")
    try:
        yield Library(content, db, records)
    finally:
        db.close()
        await content.close()
        await records.close()
