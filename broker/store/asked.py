"""What became of questions, read from DATA/messages.db: how many, how long it took, and those without an answer.

SQLite counts, with the interpreter's lock released, figures a page of questions at a time: however many there are, no
read holds the log of the database up for long, and what comes out of each is bounded. Times are milliseconds since
1970 (UTC).
"""
# ruff: noqa: S608 - statements are put together of our own words; all else is a parameter

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from broker.limits import QUESTIONS_PAGE
from broker.store.database import Database, guarded
from broker.store.outcomes import rounded

T = TypeVar("T")
# What became of a question. Those that are with a person are `said`: what else was said to them is no question.
Became = Literal["answered", "choice", "server", "person", "waiting", "nothing", "said"]

DIGITS: Final = 3  # of a delay: rounded down to so many


class Count(NamedTuple):
    """So many questions in one store that became the same, took as long, and were rated alike."""

    store: str
    became: Became
    handed_over: int  # to a person
    took_us: int | None  # None: no answer yet, or none by the automation
    person_ms: int | None  # until a person first replied
    thumb: int
    questions: int


class Page(NamedTuple):
    """Questions of one stretch of time: from its beginning until before its end."""

    begin: int
    end: int
    counts: list[Count]


class Unanswered(msgspec.Struct, frozen=True, kw_only=True):
    """A question, by its folded words, that brought no answer."""

    folded: str
    questions: int
    last_at: int
    score: float  # the best of any item
    nearest: str  # which item that was
    example: str  # how it was asked last


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A question as it was asked, and what became of it."""

    id: str
    at: int
    conversation: str
    kind: str
    name: str
    device: str
    store: str
    text: str
    outcome: str
    rule: str
    item: str
    score: float
    nearest: str
    took_us: int | None
    person_at: int | None
    thumb: int


_FOUND: Final = "SELECT at FROM question WHERE brand = ? AND at >= ? AND at < ? ORDER BY at LIMIT 1 OFFSET ?"
# A person has it as soon as it is handed over; where they never replied, and it is closed, nobody answered it.
_BECAME: Final = """CASE
    WHEN q.rule = 'held' THEN 'said'
    WHEN q.outcome IN ('answered', 'command') THEN 'answered'
    WHEN q.outcome IN ('choice', 'server', 'nothing') THEN q.outcome
    WHEN q.outcome = 'asking' THEN 'waiting'
    WHEN q.person_at IS NOT NULL THEN 'person'
    WHEN (SELECT state FROM conversation WHERE number = q.conversation) = 'closed' THEN 'nothing'
    ELSE 'waiting' END"""
_COUNTS: Final = f"""SELECT q.store, {_BECAME} AS became, q.outcome = 'person' AS handed_over,
    CASE WHEN q.took_us IS NOT NULL AND q.outcome <> 'person' THEN {rounded("q.took_us", DIGITS)} END AS took_us,
    CASE WHEN q.person_at IS NOT NULL THEN {rounded("(q.person_at - q.at)", DIGITS)} END AS person_ms,
    q.thumb, count(*) FROM question q
  WHERE q.brand = ? AND q.at >= ? AND q.at < ? GROUP BY 1, 2, 3, 4, 5, 6"""
# What content was missing for: no item was good enough, or the brand's server, asked then, knew nothing either.
_UNANSWERED: Final = """(q.rule IN ('not_found', 'low_score') OR q.rule LIKE 'route:%')
    AND q.outcome IN ('nothing', 'person') AND q.folded <> ''"""
_LISTED: Final = ", ".join(
    {"id": "e.id", "conversation": "c.id", "kind": "c.kind", "name": "c.name", "device": "e.who", "text": "e.text"}.get(
        name, f"q.{name}"
    )
    for name in Listed.__struct_fields__
)


class AskedQuestions:
    """Reads what was asked. Every method raises `Failed` when the records cannot be read. Close it."""

    def __init__(self, path: Path, db: Database) -> None:
        self.path = path
        self._db = db

    async def close(self) -> None:
        """Let go of the database."""
        await self._db.close()

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with guarded(self.path):
            return await self._db.call(work)

    async def counts(self, brand: str, begin: int, end: int) -> AsyncIterator[Page]:
        """A brand's questions from `begin` until before `end`, page by page; times in which there are none left out."""
        while begin < end:
            page = await self._read(lambda db, begin=begin: _page(db, brand, begin, end))  # type: ignore[misc]
            if page is None:
                return
            yield page
            begin = page.end

    async def first(self, brand: str, begin: int, end: int) -> int | None:
        """When the first question in this time was."""
        row = await self._read(lambda db: db.execute(_FOUND, (brand, begin, end, 0)).fetchone())
        return None if row is None else int(row[0])

    async def unanswered(self, brand: str, begin: int, end: int, most: int) -> list[Unanswered]:
        """What was asked in vain, the most frequent first."""
        return await self._read(lambda db: _unanswered(db, brand, begin, end, most))

    async def listed(
        self,
        brand: str,
        begin: int,
        end: int,
        *,
        outcome: str | None = None,
        store: str | None = None,
        thumb: int | None = None,
        most: int,
    ) -> list[Listed]:
        """Questions, the newest first."""
        where, values = ["q.brand = ?", "q.at >= ?", "q.at < ?", "q.rule <> 'held'"], [brand, begin, end]
        for column, value in (("outcome", outcome), ("store", store), ("thumb", thumb)):
            if value is not None:
                where.append(f"q.{column} = ?")
                values.append(value)
        sql = f"""SELECT {_LISTED} FROM question q CROSS JOIN entry e CROSS JOIN conversation c
            WHERE {" AND ".join(where)} AND e.conversation = q.conversation AND e.number = q.entry
            AND c.number = q.conversation ORDER BY q.at DESC LIMIT ?"""
        rows = await self._read(lambda db: db.execute(sql, (*values, most)).fetchall())
        return [Listed(**dict(zip(Listed.__struct_fields__, row, strict=True))) for row in rows]


# -- in the database's thread ------------------------------------------------------------------------------------------


def _page(db: sqlite3.Connection, brand: str, begin: int, end: int) -> Page | None:
    """The next questions, about `QUESTIONS_PAGE`; None: there are no more."""
    db.execute("BEGIN")
    try:
        first = db.execute(_FOUND, (brand, begin, end, 0)).fetchone()
        if first is None:
            return None
        begin = int(first[0])
        beyond = db.execute(_FOUND, (brand, begin, end, QUESTIONS_PAGE)).fetchone()
        until = end if beyond is None else max(int(beyond[0]), begin + 1)
        counts = [Count(*row) for row in db.execute(_COUNTS, (brand, begin, until))]
        return Page(begin, until, counts)
    finally:
        db.execute("ROLLBACK")


def _unanswered(db: sqlite3.Connection, brand: str, begin: int, end: int, most: int) -> list[Unanswered]:
    of = f"FROM question q WHERE q.brand = :brand AND q.at >= :begin AND q.at < :end AND {_UNANSWERED}"
    values: dict[str, Any] = {"brand": brand, "begin": begin, "end": end, "most": most}
    # Beside the one max() of a group SQLite gives the row that it is of: the last, and the best.
    last = f"""SELECT q.folded, count(*) AS questions, max(q.at) AS last, q.conversation, q.entry {of}
        GROUP BY q.folded ORDER BY questions DESC, last DESC LIMIT :most"""
    best = f"""SELECT q.folded, max(q.score), q.nearest {of}
        AND q.folded IN (SELECT value FROM json_each(:shown)) GROUP BY q.folded"""
    text = "SELECT text FROM entry WHERE conversation = ? AND number = ?"
    db.execute("BEGIN")
    try:
        groups = db.execute(last, values).fetchall()
        shown = msgspec.json.encode([folded for folded, *_ in groups]).decode()
        nearest = {folded: rest for folded, *rest in db.execute(best, {**values, "shown": shown})}
        found = []
        for folded, questions, last_at, *place in groups:
            score, item = nearest[folded]
            (example,) = db.execute(text, place).fetchone()
            found.append(
                Unanswered(
                    folded=folded, questions=questions, last_at=last_at, score=score, nearest=item, example=example
                )
            )
        return found
    finally:
        db.execute("ROLLBACK")
