"""What became of messages, read from DATA/messages.db: lists, counts, how long it took, and one recipient's story.

Everything is counted by SQLite, with the interpreter's lock released, and what comes out is bounded however many
recipients there are: delays are rounded to four digits before they are grouped. Times are milliseconds since 1970.
"""
# ruff: noqa: S608 - statements are put together of our own words; all else is a parameter

import sqlite3
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from broker.store.database import Database, guarded

T = TypeVar("T")

# Where the bars of a histogram end: about three times as long each, at times that people have a word for.
_S, _M, _H, _D = 1000, 60_000, 3_600_000, 86_400_000
BOUNDS_MS: Final = (
    *(10, 30, 100, 300),
    *(_S, 3 * _S, 10 * _S, 30 * _S),
    *(_M, 5 * _M, 15 * _M),
    *(_H, 3 * _H, 6 * _H),
    *(_D, 3 * _D, 7 * _D),
)
PAGE_MAX: Final = 5000


class Heading(msgspec.Struct, frozen=True, kw_only=True):
    """A message in a list."""

    number: int
    id: str
    brand: str
    sender: str
    campaign: str | None
    variant: str
    state: str
    kind: str
    priority: str
    content_type: str
    collapse_key: str
    receipts: str
    accepted_at: int
    expires_at: int
    recipients: int
    title: bytes  # what people call it: a notification's title or body, or how its payload begins


class Counts(msgspec.Struct, kw_only=True):
    """Where the transport has the recipients: `accepted` is all of them, and the sum of all the others."""

    accepted: int = 0
    delivered: int = 0
    expired: int = 0
    replaced: int = 0
    dropped: int = 0
    withdrawn: int = 0
    waiting: int = 0  # of these some are sent already:
    sent: int = 0


class Said(msgspec.Struct, kw_only=True):
    """For how many recipients, and on how many of their devices."""

    recipients: int = 0
    devices: int = 0


class Delays(msgspec.Struct, kw_only=True):
    """How long something took. Percentiles are the delay of one of them, rounded down to four digits; None: of nothing.

    `bars`: for each of `BOUNDS_MS` how many took less than it, but not less than the one before; the last has no bound.
    """

    count: int
    p50_ms: int | None
    p90_ms: int | None
    p99_ms: int | None
    bars: list[int]


class Figures(msgspec.Struct, kw_only=True):
    """What became of one message, at one moment."""

    counts: Counts
    reasons: dict[str, dict[str, int]]  # of those that do not get it, and of those that wait, by state
    delivered: Said
    displayed: Said
    opened: Said
    clicked: Said
    dismissed: Said
    to_delivered: Delays
    to_opened: Delays
    next_due_at: int | None  # when the first of those that are still to be sent is


class StoreFigures(msgspec.Struct, kw_only=True):
    """What devices did that stood in one store then; '' is none. Percentiles are rounded down to two digits."""

    store: str
    delivered: int = 0
    displayed: int = 0
    opened: int = 0
    clicked: int = 0
    dismissed: int = 0
    delivered_p50_ms: int | None = None
    delivered_p90_ms: int | None = None
    opened_p50_ms: int | None = None
    opened_p90_ms: int | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One recipient."""

    number: int
    kind: Literal["user", "device"]
    name: str
    because: str
    state: str
    reason: str
    due_at: int
    sent_at: int | None
    delivered_at: int | None
    displayed_at: int | None
    opened_at: int | None
    clicked_at: int | None
    dismissed_at: int | None
    ended_at: int | None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What a device did."""

    device: str
    event: str
    at: int
    detail: str
    store: str


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """Why somebody waits, or does not get it."""

    at: int
    rule: str
    outcome: str
    detail: str


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one recipient."""

    recipient: Row
    events: list[Event]
    decisions: list[Judgement]


_APP: Final = ("displayed", "opened", "clicked", "dismissed")
_EVENTS: Final = ("delivered", *_APP)
# As bytes: a payload may be anything.
_TITLE: Final = """
  CASE WHEN content_type = 'application/vnd.push+json' AND json_valid(CAST(payload AS TEXT)) THEN CAST(substr(
    coalesce(nullif(CAST(payload AS TEXT) ->> 'title', ''), CAST(payload AS TEXT) ->> 'body', ''), 1, 200) AS BLOB)
  ELSE coalesce(substr(payload, 1, 200), x'') END AS title
"""
_HEADING: Final = ", ".join([*Heading.__struct_fields__[:-1], _TITLE])
_ROW: Final = ", ".join(Row.__struct_fields__)


def rounded(delay: str, digits: int) -> str:
    """SQL that rounds milliseconds down: with four digits 0 to 9999, 10000, 10010, ..."""
    steps = [10**step for step in range(10 - digits)]
    whens = (f"WHEN {delay} < {step * 10**digits} THEN {delay} / {step} * {step}" for step in steps)
    return f"max(0, CASE {' '.join(whens)} ELSE {delay} / {10 * steps[-1]} * {10 * steps[-1]} END)"


class Outcomes:
    """Reads the records of messages. Every method raises `Failed` when they cannot be read. Close it."""

    def __init__(self, path: Path, db: Database) -> None:
        self.path = path
        self._db = db

    async def close(self) -> None:
        """Let go of the database."""
        await self._db.close()

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` finds, all of it at one moment."""

        def at_once(db: sqlite3.Connection) -> T:
            db.execute("BEGIN")
            try:
                return work(db)
            finally:
                db.execute("ROLLBACK")

        with guarded(self.path):
            return await self._db.call(at_once)

    async def changes(self) -> int:
        """A number that is another one when something was written since."""
        return await self._read(lambda db: int(db.execute("PRAGMA data_version").fetchone()[0]))

    async def headings(self, brand: str | None, campaign: str | None, before: int | None, most: int) -> list[Heading]:
        """Messages, the newest first; `before` is the number of the last one of the page before."""
        sql = f"""SELECT {_HEADING} FROM message WHERE number < coalesce(:before, 9223372036854775807)
                  {"AND brand = :brand" if brand is not None else ""}
                  {"AND campaign = :campaign" if campaign is not None else ""} ORDER BY number DESC LIMIT :most"""
        values = {"brand": brand, "campaign": campaign, "before": before, "most": most}
        return await self._read(lambda db: _all(db, Heading, sql, values))

    async def find(self, id: str) -> Heading | None:
        """The message with this id."""
        sql = f"SELECT {_HEADING} FROM message WHERE id = :id"
        found = await self._read(lambda db: _all(db, Heading, sql, {"id": id}))
        return found[0] if found else None

    async def address(self, message: int) -> str:
        """Whom a message addresses, as it was asked for, in JSON."""
        sql = "SELECT address FROM message WHERE number = ?"
        return await self._read(lambda db: str(db.execute(sql, (message,)).fetchone()[0]))

    async def figures(self, message: int) -> Figures:
        """What became of a message."""
        return await self._read(lambda db: _figures(db, message))

    async def stores(self, message: int) -> list[StoreFigures]:
        """What became of a message in each store."""
        return await self._read(lambda db: _stores(db, message))

    async def recipients(self, message: int, state: str | None, after: int, most: int) -> list[Row]:
        """Recipients in the order of their numbers, those after `after`."""
        sql = f"""SELECT {_ROW} FROM recipient WHERE message = :message AND number > :after
                  {"AND state = :state" if state is not None else ""} ORDER BY number LIMIT :most"""
        values = {"message": message, "state": state, "after": after, "most": most}
        return await self._read(lambda db: _all(db, Row, sql, values))

    async def stories(self, message: int, who: Sequence[tuple[str, str]]) -> list[Story]:
        """What is known of those of these (kind and name) who are recipients of a message."""
        return await self._read(lambda db: [story for one in who for story in _story(db, message, *one)])


# -- in the database's thread ------------------------------------------------------------------------------------------


def _all(db: sqlite3.Connection, kind: type[T], sql: str, values: dict[str, Any]) -> list[T]:
    rows = db.execute(sql, values)
    names = [column[0] for column in rows.description]
    return [kind(**dict(zip(names, row, strict=True))) for row in rows]


def _figures(db: sqlite3.Connection, message: int) -> Figures:
    counts, reasons = Counts(), dict[str, dict[str, int]]()
    said = {event: Said() for event in _EVENTS}
    sums = ", ".join(f"count({event}_at)" for event in _EVENTS)
    sql = f"SELECT state, reason, count(*), {sums} FROM recipient WHERE message = ? GROUP BY state, reason"
    for state, reason, count, *events in db.execute(sql, (message,)):
        counts.accepted += count
        if state in ("accepted", "sent"):
            counts.waiting += count
        if state != "accepted":
            setattr(counts, state, getattr(counts, state) + count)
        if reason:
            reasons.setdefault("waiting" if state == "accepted" else state, {})[reason] = count
        for event, number in zip(_EVENTS, events, strict=True):
            said[event].recipients += number
    for event, count in db.execute("SELECT event, count(*) FROM event WHERE message = ? GROUP BY event", (message,)):
        said[event].devices = count
    sql = "SELECT min(due_at) FROM recipient WHERE message = ? AND state = 'accepted'"
    return Figures(
        counts=counts,
        reasons=reasons,
        **said,
        to_delivered=_delays(db, message, "delivered_at"),
        to_opened=_delays(db, message, "opened_at"),
        next_due_at=db.execute(sql, (message,)).fetchone()[0],
    )


def _delays(db: sqlite3.Connection, message: int, until: Literal["delivered_at", "opened_at"]) -> Delays:
    sql = f"""SELECT {rounded(f"({until} - sent_at)", 4)} AS delay, count(*) FROM recipient
              WHERE message = ? AND {until} IS NOT NULL AND sent_at IS NOT NULL GROUP BY delay ORDER BY delay"""
    return summed(db.execute(sql, (message,)).fetchall())


def _stores(db: sqlite3.Connection, message: int) -> list[StoreFigures]:
    stores: dict[str, StoreFigures] = {}
    sql = "SELECT store, event, count(*) FROM event WHERE message = ? GROUP BY store, event"
    for store, event, count in db.execute(sql, (message,)):
        setattr(stores.setdefault(store, StoreFigures(store=store)), event, count)
    for event in ("delivered", "opened"):
        sql = f"""SELECT e.store, {rounded("(e.at - r.sent_at)", 2)} AS delay, count(*)
                  FROM event e JOIN recipient r ON r.message = e.message AND r.number = e.recipient
                  WHERE e.message = ? AND e.event = '{event}' AND r.sent_at IS NOT NULL
                  GROUP BY e.store, delay ORDER BY e.store, delay"""
        for store, rows in groupby(db.execute(sql, (message,)), key=lambda row: row[0]):
            delays = summed([(delay, count) for _, delay, count in rows])
            setattr(stores[store], f"{event}_p50_ms", delays.p50_ms)
            setattr(stores[store], f"{event}_p90_ms", delays.p90_ms)
    return [stores[store] for store in sorted(stores)]


def summed(delays: Sequence[tuple[int, int]]) -> Delays:
    """Percentiles and bars of delays in ascending order, each with how many there are of it."""
    total = sum(count for _, count in delays)
    ranks = [-(-total * percent // 100) for percent in (50, 90, 99)]
    percentiles: list[int | None] = []
    bars = [0] * (len(BOUNDS_MS) + 1)
    bar = passed = 0
    for delay, count in delays:
        while bar < len(BOUNDS_MS) and delay >= BOUNDS_MS[bar]:
            bar += 1
        bars[bar] += count
        passed += count
        while len(percentiles) < len(ranks) and passed >= ranks[len(percentiles)]:
            percentiles.append(delay)
    p50, p90, p99 = percentiles or [None] * 3
    return Delays(count=total, p50_ms=p50, p90_ms=p90, p99_ms=p99, bars=bars)


def _story(db: sqlite3.Connection, message: int, kind: str, name: str) -> list[Story]:
    sql = f"SELECT {_ROW} FROM recipient WHERE message = :message AND kind = :kind AND name = :name"
    stories = []
    for row in _all(db, Row, sql, {"message": message, "kind": kind, "name": name}):
        of = {"message": message, "recipient": row.number}
        where = "WHERE message = :message AND recipient = :recipient ORDER BY at"
        events = _all(db, Event, f"SELECT device, event, at, detail, store FROM event {where}", of)
        decisions = _all(db, Judgement, f"SELECT at, rule, outcome, detail FROM decision {where}", of)
        stories.append(Story(recipient=row, events=events, decisions=decisions))
    return stories
