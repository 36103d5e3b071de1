"""Conversations in DATA/messages.db: what was asked, answered and said. Times are milliseconds since 1970 (UTC)."""

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from broker.store.messages import Messages, applied_in

ASKING: Final = "asking"


class Asked(msgspec.Struct, kw_only=True):
    """A question and what became of it, as it is booked. `conversation` is a new id, should none be open."""

    id: str
    conversation: str
    brand: str
    kind: str
    name: str
    device: str
    store: str
    language: str
    at: int
    text: str
    folded: str
    outcome: str
    rule: str
    item: str
    score: float
    answer: str  # while the brand's server is asked: how to answer
    took_us: int | None


class Place(NamedTuple):
    """Where something that was said stands: the number of its conversation, and its own in there."""

    conversation: int
    entry: int


class Conversations:
    """What is said, in the books. Every method raises `Failed` when they cannot be read or written."""

    def __init__(self, messages: Messages) -> None:
        self.messages = messages

    async def book(self, asked: Sequence[Asked], up_to: int) -> dict[str, Place]:
        """Write questions down, each once, with the number of the last fact. Returns where those stand that are new."""

        def work(db: sqlite3.Connection) -> dict[str, Place]:
            places = {one.id: place for one in asked if (place := _booked(db, one))}
            applied_in(db, up_to)
            return places

        return await self.messages.write(work)

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Which of these questions are in the books."""
        sql = "SELECT id FROM entry WHERE id IN (SELECT value FROM json_each(?))"
        listed = msgspec.json.encode(ids).decode()
        return {id for (id,) in await self.messages.read(lambda db: db.execute(sql, (listed,)).fetchall())}

    async def answered(self, id: str, outcome: str, answer: str, took_us: int, rule: str) -> bool:
        """A question for which the brand's server was asked has its answer, from whomever. False: it had one."""
        sql = """UPDATE question SET outcome = ?, answer = ?, took_us = ?, rule = ?
            WHERE outcome = 'asking'
            AND (conversation, entry) = (SELECT conversation, number FROM entry WHERE id = ?)"""
        values = (outcome, answer, took_us, rule, id)
        return await self.messages.write(lambda db: db.execute(sql, values).rowcount > 0)

    async def asking(self) -> list[Asked]:
        """The questions for which the brand's server was asked when the last process ended."""
        sql = """SELECT e.id, c.id, c.brand, c.kind, c.name, e.who, q.store, c.language, q.at, e.text, q.folded,
                q.outcome, q.rule, q.item, q.score, q.answer, q.took_us
            FROM question q JOIN entry e ON (e.conversation, e.number) = (q.conversation, q.entry)
            JOIN conversation c ON c.number = q.conversation WHERE q.outcome = 'asking' ORDER BY q.at"""
        rows = await self.messages.read(lambda db: db.execute(sql).fetchall())
        return [Asked(**dict(zip(Asked.__struct_fields__, row, strict=True))) for row in rows]


def _booked(db: sqlite3.Connection, one: Asked) -> Place | None:
    """Write one question down; None: it stands there."""
    if db.execute("SELECT 1 FROM entry WHERE id = ?", (one.id,)).fetchone():
        return None
    place = _said(db, one)
    db.execute(
        """INSERT INTO question (conversation, entry, brand, store, at, folded, outcome, rule, item, score, answer,
             took_us)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (*place, one.brand, one.store, one.at, one.folded, one.outcome, one.rule, one.item, one.score, one.answer,
         one.took_us),
    )  # fmt: skip
    return place


def _said(db: sqlite3.Connection, one: Asked) -> Place:
    """Write what a customer said into their conversation, which begins with it if none is open."""
    row = db.execute(
        """INSERT INTO conversation (id, brand, kind, name, store, language, state, opened_at, changed_at, entries)
           VALUES (?, ?, ?, ?, ?, ?, 'automated', ?, ?, 1)
           ON CONFLICT (brand, kind, name) WHERE state <> 'closed' DO UPDATE SET entries = entries + 1,
               changed_at = max(changed_at, excluded.changed_at), store = excluded.store, language = excluded.language
           RETURNING number, entries""",
        (one.conversation, one.brand, one.kind, one.name, one.store, one.language, one.at, one.at),
    ).fetchone()
    place = Place(*row)
    db.execute(
        "INSERT INTO entry (conversation, number, id, at, author, who, text) VALUES (?, ?, ?, ?, 'customer', ?, ?)",
        (*place, one.id, one.at, one.device, one.text),
    )
    return place
