"""Rows of messages.db as the bridge writes them, for tests of what reads them."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from broker.store.database import open_database

AT = 1_795_000_000_000  # when all of them were accepted: 2026-11-18


async def book(path: Path, *messages: Mapping[str, Any]) -> None:
    """Write messages, each with what it has in `people`, `events` and `decisions`, and all else as it mostly is."""
    db = await open_database(path, "messages")
    await db.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        for number, message in enumerate(messages, 1):
            _write(connection, message.get("number", number), dict(message))


def _write(db: sqlite3.Connection, number: int, message: dict[str, Any]) -> None:
    people: Sequence[Mapping[str, Any]] = message.pop("people", ())
    events, decisions = message.pop("events", ()), message.pop("decisions", ())
    usual = {"number": number, "id": f"m{number:021}", "brand": "acme", "sender": "acme/server/crm", "state": "done",
             "kind": "marketing", "priority": "normal", "content_type": "text/plain", "payload": b"Ciao",
             "receipts": "none", "address": '{"users": ["ada"]}', "accepted_at": AT, "expires_at": AT + 86_400_000,
             "recipients": len(people)}  # fmt: skip
    _insert(db, "message", usual | message)
    for at, person in enumerate(people, 1):
        usual = {"message": number, "number": at, "kind": "user", "because": "user", "state": "accepted", "due_at": AT}
        _insert(db, "recipient", usual | person)
    for event in events:
        _insert(db, "event", {"message": number, **event})
    for decision in decisions:
        _insert(db, "decision", {"message": number, **decision})


def _insert(db: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    names = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    db.execute(f"INSERT INTO {table} ({names}) VALUES ({values})", row)
