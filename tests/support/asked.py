"""Questions in messages.db as they are booked, for tests of what reads them."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from broker.store.database import open_database

AT = 1_795_000_000_000  # 2026-11-18T13:06:40Z
_USUAL: Mapping[str, Any] = {
    "brand": "acme", "store": "milano", "name": "ada", "state": "automated", "text": "torta?", "folded": "tort",
    "outcome": "answered", "rule": "search", "item": "torta", "score": 0.9, "nearest": "", "took_us": 900,
    "person_at": None, "thumb": 0,
}  # fmt: skip
_QUESTION = ("brand", "store", "at", "folded", "outcome", "rule", "item", "score", "nearest", "took_us", "person_at",
             "thumb")  # fmt: skip


async def book(path: Path, questions: Iterable[Mapping[str, Any]]) -> None:
    """Write questions, each in a conversation of its own, with all else as it mostly is."""
    path.parent.mkdir(exist_ok=True)
    await (await open_database(path, "messages")).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        for number, given in enumerate(questions, 1):
            _write(connection, number, {**_USUAL, "at": AT + number, **given})


def _write(db: sqlite3.Connection, number: int, row: Mapping[str, Any]) -> None:
    db.execute(
        """INSERT INTO conversation (number, id, brand, kind, name, store, language, state, opened_at, changed_at,
             closed_at) VALUES (?, ?, ?, 'device', ?, ?, 'it', ?, ?, ?, ?)""",
        (number, f"c{number}", row["brand"], f"{row['name']}{number}", row["store"], row["state"], row["at"], row["at"],
         row["at"] if row["state"] == "closed" else None),
    )  # fmt: skip
    entry = (number, f"q{number}", row["at"], row["text"])
    db.execute("INSERT INTO entry VALUES (?, 1, ?, ?, 'customer', 'kiosk', ?)", entry)
    columns = ", ".join(_QUESTION)
    db.execute(
        f"INSERT INTO question (conversation, entry, answer, {columns}) VALUES (?, 1, '{{}}', "
        f"{', '.join('?' * len(_QUESTION))})",
        (number, *(row[name] for name in _QUESTION)),
    )
