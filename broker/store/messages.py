"""What brands sent through the bridge and what became of it, in DATA/messages.db: the SQL of the bridge's books.

Times are milliseconds since 1970 (UTC). What comes in numbers goes to SQLite as one JSON array, and is applied by a few
statements: a statement for each row would wait for the interpreter's lock as often.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar

import msgspec

from broker.store.database import Database, guarded, open_database, rewrite
from broker.store.entries import Kind, WhoKind

SCHEMA: Final = "messages"
T = TypeVar("T")

_json = msgspec.json.Encoder().encode

# The app's words, and where the first of each stands.
APP_EVENTS: Final = ("displayed", "opened", "clicked", "dismissed")


class NewMessage(msgspec.Struct, kw_only=True):
    """A message as it is accepted; its recipients follow."""

    id: str
    brand: str
    sender: str
    campaign: str | None
    variant: str
    kind: Kind
    priority: str
    content_type: str
    payload: bytes
    collapse_key: str
    receipts: str
    throttle: float | None
    address: str
    not_before: int | None
    local_time: str
    request_id: str
    reply_topic: str
    reply_data: bytes
    accepted_at: int
    expires_at: int


class MessageRow(NewMessage, kw_only=True):
    """A message as it is kept."""

    number: int
    state: str
    recipients: int
    answer: str


class NewRecipient(NamedTuple):
    """Somebody to whom a message goes. `reason` says why not, if it does not: it is dropped at once, and why stays."""

    kind: str
    name: str
    because: str
    due_at: int
    reason: str = ""
    detail: str = ""


class Due(NamedTuple):
    """A recipient whose time has come."""

    number: int
    kind: WhoKind
    name: str
    because: str


class Decision(NamedTuple):
    """Why a recipient waits (until `due_at`), or does not get a message."""

    recipient: int
    outcome: Literal["deferred", "dropped"]
    rule: str
    detail: str
    due_at: int = 0


class Happened(NamedTuple):
    """A move of one recipient, or what its app said."""

    message: int
    recipient: int
    kind: str
    name: str
    event: str
    device: str
    at: int
    detail: str = ""


class Older(NamedTuple):
    """A message that still waits for a recipient, under a collapse key that a newer one has."""

    message: int
    recipient: int
    kind: str
    name: str
    seq: int | None


class End(NamedTuple):
    """A message of the log that was forgotten before it arrived; `state` and `rule` say why, '' where it was not us."""

    seq: int
    at: int
    state: str = ""
    rule: str = ""
    detail: str = ""


class Spoken(NamedTuple):
    """What a device said of a message: the transport in its name (`kind` and `name` say as whose), or its app."""

    id: str
    brand: str
    kind: str
    name: str
    device: str
    event: str
    at: int
    detail: str = ""
    store: str = ""


class Untold(NamedTuple):
    """What is still to be told to somebody. `seq`, `state`: where the recipient is now."""

    number: int
    id: str
    brand: str
    receipts: str
    expires_at: int
    kind: str
    name: str
    event: str
    device: str
    at: int
    detail: str
    store: str
    seq: int | None
    state: str


_COLUMNS: Final = ", ".join(NewMessage.__struct_fields__)
_VALUES: Final = ", ".join(f":{name}" for name in NewMessage.__struct_fields__)
_ROW: Final = ", ".join(MessageRow.__struct_fields__)


class Messages:
    """The books. Every method raises `Failed` when the database cannot be read or written. Close it."""

    def __init__(self, path: Path, db: Database) -> None:
        self.path = path
        self._db = db

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or make the database; `Failed` when that cannot be done."""
        return cls(path, await open_database(path, SCHEMA))

    async def close(self) -> None:
        """Let go of the database."""
        await self._db.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns."""
        with guarded(self.path):
            return await self._db.call(work)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, done in a transaction: all of it is on the disk then, or nothing."""
        with guarded(self.path):
            return await self._db.call(lambda db: transaction(db, work))

    async def rewrite(self) -> None:
        """Write the file anew, so that nothing is left in it of what was deleted."""
        with guarded(self.path):
            await rewrite(self._db)

    # -- accepting ---------------------------------------------------------------------------------------------------

    async def applied(self) -> int:
        """The number of the last fact that is in here."""
        (number,) = await self.read(lambda db: db.execute("SELECT fact FROM applied").fetchone())
        return int(number)

    async def applied_up_to(self, number: int) -> None:
        """Remember the number of the last fact that others have applied."""
        await self.write(lambda db: applied_in(db, number))

    async def add(
        self,
        new: Sequence[tuple[NewMessage, tuple[str, bytes, int] | None]],
        up_to: int,
        beside: Callable[[sqlite3.Connection], object] | None = None,
    ) -> list[tuple[str, bytes]]:
        """Add messages, each with its idempotency key, the request's digest and until when it is remembered.

        One whose key is known, or whose id is there already, is not added. Returns for each the id of the message that
        stands for it, and the digest of the request that that came with. `beside` is done in the same transaction;
        when it raises, nothing is added.
        """

        def work(db: sqlite3.Connection) -> list[tuple[str, bytes]]:
            stands = _add(db, new)
            applied_in(db, up_to)
            if beside is not None:
                beside(db)
            return stands

        return await self.write(work)

    async def filling(self) -> list[str]:
        """The ids of the messages whose recipients are still to be written, the oldest first."""
        sql = "SELECT id FROM message WHERE state = 'filling' ORDER BY number"
        return await self.read(lambda db: [id for (id,) in db.execute(sql)])

    async def fill(self, message: int, after: int, recipients: Sequence[NewRecipient]) -> None:
        """Write recipients, numbered on from `after`."""
        await self.write(lambda db: _fill(db, message, after, recipients))

    async def empty(self, message: int) -> None:
        """Take all its recipients out again, so that it can be filled from the start."""

        def work(db: sqlite3.Connection) -> None:
            for table in ("recipient", "decision"):
                db.execute(f"DELETE FROM {table} WHERE message = ?", (message,))  # noqa: S608 - our own words

        await self.write(work)

    async def open_up(self, message: int, recipients: int, answer: str) -> None:
        """All recipients are there: from now on it may be sent. It is done where there is nobody to send it to."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                """UPDATE message SET state = iif(withdrawn_at IS NULL, 'open', 'withdrawn'), recipients = ?, answer = ?
                   WHERE number = ?""",
                (recipients, answer, message),
            )
            close_done(db, {message})

        await self.write(work)

    async def discard(self, message: int) -> None:
        """Take a message out as if it had never come: its request was refused."""
        await self.write(lambda db: db.execute("DELETE FROM message WHERE number = ?", (message,)))

    async def by_id(self, id: str) -> MessageRow | None:
        """One message."""
        found = await self.read(lambda db: _messages(db, "id = ?", id))
        return found[0] if found else None

    async def numbered(self, number: int) -> MessageRow | None:
        """One message."""
        found = await self.read(lambda db: _messages(db, "number = ?", number))
        return found[0] if found else None

    async def forget_keys(self, now: int) -> None:
        """Forget the idempotency keys whose time is over."""
        await self.write(lambda db: db.execute("DELETE FROM idempotency WHERE expires_at <= ?", (now,)))

    # -- sending -----------------------------------------------------------------------------------------------------

    async def scheduled(self) -> list[tuple[int, int]]:
        """The messages with recipients that wait for their time, and when the first of these comes."""
        sql = """SELECT m.number,
                   (SELECT min(due_at) FROM recipient r WHERE r.message = m.number AND r.state = 'accepted') AS due
                 FROM message m WHERE m.state = 'open' AND due IS NOT NULL"""
        return await self.read(lambda db: db.execute(sql).fetchall())

    async def due(self, message: int, now: int, most: int) -> tuple[list[Due], int | None]:
        """Recipients whose time has come, in their order; and, where those are not `most`, when the next one's does."""

        def work(db: sqlite3.Connection) -> tuple[list[Due], int | None]:
            sql = """SELECT number, kind, name, because FROM recipient
                     WHERE message = ? AND state = 'accepted' AND due_at <= ? ORDER BY due_at, number LIMIT ?"""
            found = [Due(*row) for row in db.execute(sql, (message, now, most))]
            if len(found) == most:
                return found, None
            sql = "SELECT min(due_at) FROM recipient WHERE message = ? AND state = 'accepted' AND due_at > ?"
            return found, db.execute(sql, (message, now)).fetchone()[0]

        return await self.read(work)

    async def decide(self, message: int, at: int, decisions: Sequence[Decision]) -> list[Happened]:
        """Put recipients off, or drop them, and write down why."""
        return await self.write(lambda db: _noted(db, _decide(db, message, at, decisions)))

    async def counts_of(self, brand: str, names: Sequence[str], since: int) -> dict[str, list[tuple[Kind, int]]]:
        """For each user, the kind and time of all that was sent since then."""
        sql = """SELECT r.name, m.kind, r.sent_at FROM json_each(?) n
                 CROSS JOIN recipient r ON r.kind = 'user' AND r.name = n.value AND r.sent_at >= ?
                 CROSS JOIN message m ON m.number = r.message AND m.brand = ?"""
        found: dict[str, list[tuple[Kind, int]]] = {}
        for name, kind, at in await self.read(lambda db: db.execute(sql, (_array(names), since, brand)).fetchall()):
            found.setdefault(name, []).append((kind, at))
        return found

    async def older(self, message: MessageRow, recipients: Sequence[Due]) -> list[Older]:
        """What still waits for these under the collapse key of `message`."""
        sql = """SELECT r.message, r.number, r.kind, r.name, r.seq FROM json_each(?) n
                 CROSS JOIN recipient r ON r.kind = n.value ->> 0 AND r.name = n.value ->> 1 AND r.message < ?
                   AND r.state IN ('accepted', 'sent')
                 CROSS JOIN message m ON m.number = r.message AND m.brand = ? AND m.collapse_key = ?"""
        names = _array([(one.kind, one.name) for one in recipients])
        rows = await self.read(
            lambda db: db.execute(sql, (names, message.number, message.brand, message.collapse_key)).fetchall()
        )
        return [Older(*row) for row in rows]

    async def unsent(self, message: MessageRow, most: int) -> list[tuple[int, int]]:
        """Recipients, as message and number, of older messages under its collapse key who were not sent those yet."""
        sql = """SELECT r.message, r.number
                 FROM message m CROSS JOIN recipient r INDEXED BY recipient_due ON r.message = m.number
                 WHERE m.brand = ? AND m.collapse_key = ? AND m.state = 'open' AND m.number < ?
                 AND r.state = 'accepted' LIMIT ?"""
        values = (message.brand, message.collapse_key, message.number, most)
        return await self.read(lambda db: db.execute(sql, values).fetchall())

    async def end(
        self, ended: Sequence[tuple[int, int]], state: str, rule: str, detail: str, at: int
    ) -> list[Happened]:
        """Recipients (message and number each) that still wait will not get it: replaced, withdrawn, dropped."""
        return await self.write(lambda db: _noted(db, _end(db, ended, state, rule, detail, at)))

    async def expire(self, now: int, most: int) -> list[Happened]:
        """End what has waited for longer than its message is of use, some of it."""
        return await self.write(lambda db: _noted(db, _expire(db, now, most)))

    async def purge(self, before: int, most: int) -> bool:
        """Forget some recipients of a message that is over and was accepted before then, at last itself.

        False: there is none.
        """
        return await self.write(lambda db: _purge(db, before, most))

    async def forget(self, brand: str) -> None:
        """Forget all that a brand has sent, one message at a time: it may have many recipients."""
        sql = "DELETE FROM message WHERE number = (SELECT min(number) FROM message WHERE brand = ?) RETURNING number"
        while await self.write(lambda db: db.execute(sql, (brand,)).fetchall()):
            pass

    # -- what became of it -------------------------------------------------------------------------------------------

    async def booked(self) -> set[int]:
        """The places in the log of all that was sent and has arrived nowhere."""
        sql = "SELECT seq FROM recipient WHERE state = 'sent' AND seq IS NOT NULL"
        return await self.read(lambda db: {seq for (seq,) in db.execute(sql)})

    async def highest(self) -> int:
        """The highest of these places, or 0."""
        sql = "SELECT coalesce(max(seq), 0) FROM recipient WHERE state = 'sent' AND seq IS NOT NULL"
        (number,) = await self.read(lambda db: db.execute(sql).fetchone())
        return int(number)

    async def apply(
        self,
        *,
        sent: Sequence[tuple[int, int, int, int]] = (),
        spoken: Sequence[Spoken] = (),
        gone: Sequence[End] = (),
        up_to: int | None = None,
    ) -> list[Happened]:
        """Book what happened, each thing once, and the number of the last fact. Returns what is new in it.

        sent: message, recipient, place in the log, when.
        """

        def work(db: sqlite3.Connection) -> list[Happened]:
            happened = _noted(db, [*_sent(db, sent), *_spoken(db, spoken), *_gone(db, gone)])
            close_done(db, {one.message for one in happened})
            if up_to is not None:
                applied_in(db, up_to)
            return happened

        return await self.write(work)

    async def known(self, ids: set[str]) -> dict[str, str]:
        """Which of these messages are in the books, with the brand of each."""
        sql = "SELECT id, brand FROM message WHERE id IN (SELECT value FROM json_each(?))"
        return dict(await self.read(lambda db: db.execute(sql, (_array(sorted(ids)),)).fetchall()))

    # -- withdrawing -------------------------------------------------------------------------------------------------

    async def withdraw(self, message: int, by: str, at: int) -> None:
        """From now on nobody more gets it. What was withdrawn already stays as it is."""
        sql = """UPDATE message SET withdrawn_at = ?, withdrawn_by = ?, withdrawn_to = 0,
                   state = iif(state = 'filling', state, 'withdrawn') WHERE number = ? AND withdrawn_at IS NULL"""
        await self.write(lambda db: db.execute(sql, (at, by, message)))

    async def withdrawing(self) -> list[int]:
        """The messages that are being withdrawn."""
        sql = "SELECT number FROM message WHERE withdrawn_to IS NOT NULL ORDER BY number"
        return await self.read(lambda db: [number for (number,) in db.execute(sql)])

    async def withdrawal(self, message: int) -> tuple[MessageRow, str, int] | None:
        """A message that is being withdrawn, by whom, and for which recipient that was done last."""

        def work(db: sqlite3.Connection) -> tuple[MessageRow, str, int] | None:
            sql = "SELECT withdrawn_by, withdrawn_to FROM message WHERE number = ? AND withdrawn_to IS NOT NULL"
            found = db.execute(sql, (message,)).fetchone()
            return None if found is None else (*_messages(db, "number = ?", message), *found)

        return await self.read(work)

    async def withdrawable(self, message: int, after: int, most: int) -> list[tuple[Older, str]]:
        """Recipients who may have a message, or get it yet, in the order of their numbers, with their states."""
        sql = """SELECT message, number, kind, name, seq, state FROM recipient WHERE message = ? AND number > ?
                   AND state IN ('accepted', 'sent', 'delivered') ORDER BY number LIMIT ?"""
        rows = await self.read(lambda db: db.execute(sql, (message, after, most)).fetchall())
        return [(Older(*row), state) for *row, state in rows]

    async def withdrawn_from(self, message: int, up_to: int | None, told: Mapping[int, str], at: int) -> None:
        """It was withdrawn up to this recipient; None: from all. What was done about those who had it."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE message SET withdrawn_to = ? WHERE number = ?", (up_to, message))
            db.execute(
                """INSERT OR IGNORE INTO decision SELECT ?, value ->> 0, ?, 'withdraw', 'withdrawn', value ->> 1
                   FROM json_each(?)""",
                (message, at, _array(list(told.items()))),
            )

        await self.write(work)

    # -- telling -----------------------------------------------------------------------------------------------------

    async def untold(self, most: int) -> list[Untold]:
        """What is still to be told, in the order in which it happened."""
        sql = """SELECT o.number, m.id, m.brand, m.receipts, m.expires_at, r.kind, r.name, o.event, o.device, o.at,
                   o.detail, coalesce(e.store, ''), r.seq, r.state
                 FROM outbox o JOIN message m ON m.number = o.message
                 JOIN recipient r ON r.message = o.message AND r.number = o.recipient
                 LEFT JOIN event e ON e.message = o.message AND e.recipient = o.recipient AND e.device = o.device
                   AND e.event = o.event
                 WHERE o.event <> 'summary' ORDER BY o.number LIMIT ?"""
        return [Untold(*row) for row in await self.read(lambda db: db.execute(sql, (most,)).fetchall())]

    async def changed(self, most: int) -> list[tuple[int, int, str, str]]:
        """Messages whose counts have changed since they were told: the row, the message, its id and its brand."""
        sql = """SELECT o.number, o.message, m.id, m.brand FROM outbox o JOIN message m ON m.number = o.message
                 WHERE o.event = 'summary' LIMIT ?"""
        return await self.read(lambda db: db.execute(sql, (most,)).fetchall())

    async def told(self, numbers: Sequence[int]) -> None:
        """These were told. A row that was written anew since has another number."""
        sql = "DELETE FROM outbox WHERE number IN (SELECT value FROM json_each(?))"
        await self.write(lambda db: db.execute(sql, (_array(numbers),)))


# -- in the database's thread ------------------------------------------------------------------------------------------


def transaction(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """What `work` returns, done in a transaction."""
    db.execute("BEGIN IMMEDIATE")
    try:
        result = work(db)
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.OperationalError):  # SQLite has rolled back itself
            db.execute("ROLLBACK")
        raise
    return result


def _array(values: Sequence[Any]) -> str:
    return _json(values).decode()


def applied_in(db: sqlite3.Connection, number: int) -> None:
    """Remember, in this transaction, up to which number the facts of the journal are in here."""
    db.execute("UPDATE applied SET fact = max(fact, ?)", (number,))


def _messages(db: sqlite3.Connection, where: str, *values: object) -> list[MessageRow]:
    rows = db.execute(f"SELECT {_ROW} FROM message WHERE {where}", values)  # noqa: S608 - our own words
    return [MessageRow(**dict(zip(MessageRow.__struct_fields__, row, strict=True))) for row in rows]


def _add(
    db: sqlite3.Connection, new: Sequence[tuple[NewMessage, tuple[str, bytes, int] | None]]
) -> list[tuple[str, bytes]]:
    stands = []
    for message, key in new:
        if key is not None:
            sql = """SELECT m.id, i.digest FROM idempotency i JOIN message m ON m.number = i.message
                     WHERE i.brand = ? AND i.key = ? AND i.expires_at > ?"""
            known = db.execute(sql, (message.brand, key[0], message.accepted_at)).fetchone()
            if known is not None:
                stands.append(known)
                continue
        sql = f"INSERT OR IGNORE INTO message ({_COLUMNS}, state) VALUES ({_VALUES}, 'filling') RETURNING number"  # noqa: S608
        added = db.execute(sql, msgspec.structs.asdict(message)).fetchone()
        if added is not None and key is not None:
            row = (message.brand, key[0], key[1], added[0], key[2])
            db.execute("INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?)", row)
        stands.append((message.id, key[1] if key is not None else b""))
    return stands


def _fill(db: sqlite3.Connection, message: int, after: int, recipients: Sequence[NewRecipient]) -> None:
    found = db.execute("SELECT accepted_at FROM message WHERE number = ?", (message,)).fetchone()
    if found is None:
        return  # its brand was removed
    (at,) = found
    rows = _array([(after + place, *one) for place, one in enumerate(recipients, 1)])
    db.execute(
        """INSERT INTO recipient (message, number, kind, name, because, due_at, state, reason, ended_at)
           SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4,
             iif(value ->> 5 = '', 'accepted', 'dropped'), value ->> 5,
             iif(value ->> 5 = '', NULL, ?3)
           FROM json_each(?2)""",
        (message, rows, at),
    )
    if any(one.reason for one in recipients):
        left_out = [(after + place, one) for place, one in enumerate(recipients, 1) if one.reason]
        _decisions(db, [(message, number, at, one.reason, "dropped", one.detail) for number, one in left_out])


def _sent(db: sqlite3.Connection, sent: Sequence[tuple[int, int, int, int]]) -> list[Happened]:
    if not sent:
        return []
    sql = """UPDATE recipient SET state = 'sent', reason = '', seq = nullif(s.value ->> 2, 0), sent_at = s.value ->> 3
             FROM json_each(?) s
             WHERE recipient.message = s.value ->> 0 AND recipient.number = s.value ->> 1
               AND recipient.state = 'accepted'
             RETURNING message, number, kind, name, 'sent', '', sent_at"""
    return [Happened(*row) for row in db.execute(sql, (_array(sent),)).fetchall()]


def _spoken(db: sqlite3.Connection, spoken: Sequence[Spoken]) -> list[Happened]:
    if not spoken:
        return []
    # A device that is a recipient itself speaks for itself, else for its user.
    db.execute("CREATE TEMP TABLE IF NOT EXISTS said (message, recipient, device, event, at, detail, store)")
    db.execute("DELETE FROM temp.said")
    db.execute(
        """INSERT INTO temp.said
           SELECT message, recipient, device, event, at, detail, store FROM (
             SELECT m.number AS message, s.value ->> 4 AS device, s.value ->> 5 AS event, s.value ->> 6 AS at,
               s.value ->> 7 AS detail, s.value ->> 8 AS store, coalesce(
                 CASE WHEN s.value ->> 5 <> 'delivered' THEN (SELECT number FROM recipient r
                   WHERE r.message = m.number AND r.kind = 'device' AND r.name = s.value ->> 4) END,
                 (SELECT number FROM recipient r
                   WHERE r.message = m.number AND r.kind = s.value ->> 2 AND r.name = s.value ->> 3)) AS recipient
             FROM json_each(?) s CROSS JOIN message m ON m.id = s.value ->> 0 AND m.brand = s.value ->> 1)
           WHERE recipient IS NOT NULL""",
        (_array(spoken),),
    )
    sql = """INSERT OR IGNORE INTO event SELECT message, recipient, device, event, at, detail, store FROM temp.said
             RETURNING message, recipient, event, device, at, detail"""
    new = db.execute(sql).fetchall()
    if not new:
        return []
    db.execute(
        """UPDATE recipient SET state = 'delivered', reason = '', ended_at = NULL, delivered_at = s.at
           FROM (SELECT message, recipient, min(at) AS at FROM temp.said WHERE event = 'delivered'
                 GROUP BY message, recipient) s
           WHERE recipient.message = s.message AND recipient.number = s.recipient
             AND recipient.state IN ('accepted', 'sent')"""
    )
    for event in APP_EVENTS:
        if any(row[2] == event for row in new):
            db.execute(
                f"""UPDATE recipient SET {event}_at = s.at
                    FROM (SELECT message, recipient, min(at) AS at FROM temp.said WHERE event = '{event}'
                          GROUP BY message, recipient) s
                    WHERE recipient.message = s.message AND recipient.number = s.recipient
                      AND recipient.{event}_at IS NULL"""  # noqa: S608 - our own words
            )
    names = _names(db, [(message, recipient) for message, recipient, *_ in new])
    return [
        Happened(message, recipient, *names[message, recipient], event, device, at, detail)
        for message, recipient, event, device, at, detail in new
    ]


def _names(db: sqlite3.Connection, of: Sequence[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, str]]:
    sql = """SELECT r.message, r.number, r.kind, r.name FROM json_each(?) n
             JOIN recipient r ON r.message = n.value ->> 0 AND r.number = n.value ->> 1"""
    return {
        (message, number): (kind, name) for message, number, kind, name in db.execute(sql, (_array(of),)).fetchall()
    }


def _gone(db: sqlite3.Connection, gone: Sequence[End]) -> list[Happened]:
    if not gone:
        return []
    # What we took back says so. Else the broker has dropped it, which is after it has expired, or when a session ends.
    sql = """UPDATE recipient SET
               state = CASE WHEN g.value ->> 2 <> '' THEN g.value ->> 2
                       WHEN m.expires_at <= g.value ->> 1 THEN 'expired' ELSE 'dropped' END,
               reason = CASE WHEN g.value ->> 2 <> '' THEN g.value ->> 3
                        WHEN m.expires_at <= g.value ->> 1 THEN 'expired' ELSE 'session_ended' END,
               ended_at = g.value ->> 1
             FROM json_each(?) g, message m
             WHERE recipient.seq = g.value ->> 0 AND recipient.state = 'sent' AND m.number = recipient.message
             RETURNING seq, message, number, kind, name, state, '', ended_at, reason"""
    rows = db.execute(sql, (_array(gone),)).fetchall()
    said = {one.seq: one for one in gone if one.state}
    decisions = [
        (message, number, one.at, one.rule, one.state, one.detail)
        for seq, message, number, *_ in rows
        if (one := said.get(seq)) is not None
    ]
    _decisions(db, decisions)
    return [Happened(*row) for _, *row in rows]


def _decisions(db: sqlite3.Connection, rows: Sequence[tuple[int, int, int, str, str, str]]) -> None:
    if rows:
        db.execute(
            """INSERT OR IGNORE INTO decision
               SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?)""",
            (_array(rows),),
        )


def _decide(db: sqlite3.Connection, message: int, at: int, decisions: Sequence[Decision]) -> list[Happened]:
    if db.execute("SELECT 1 FROM message WHERE number = ?", (message,)).fetchone() is None:
        return []  # its brand was removed
    _decisions(db, [(message, one.recipient, at, one.rule, one.outcome, one.detail) for one in decisions])
    deferred = [(message, one.recipient, one.due_at, one.rule) for one in decisions if one.outcome == "deferred"]
    db.execute(
        """UPDATE recipient SET due_at = d.value ->> 2, reason = d.value ->> 3 FROM json_each(?) d
           WHERE message = d.value ->> 0 AND number = d.value ->> 1 AND state = 'accepted'""",
        (_array(deferred),),
    )
    dropped = [(message, one.recipient, one.rule) for one in decisions if one.outcome == "dropped"]
    sql = """UPDATE recipient SET state = 'dropped', reason = d.value ->> 2, ended_at = ? FROM json_each(?) d
             WHERE message = d.value ->> 0 AND number = d.value ->> 1 AND state = 'accepted'
             RETURNING message, number, kind, name, state, '', ended_at, reason"""
    happened = [Happened(*row) for row in db.execute(sql, (at, _array(dropped))).fetchall()]
    close_done(db, {message})
    return happened


def _end(
    db: sqlite3.Connection, ended: Sequence[tuple[int, int]], state: str, rule: str, detail: str, at: int
) -> list[Happened]:
    sql = """UPDATE recipient SET state = ?1, reason = ?2, ended_at = ?3 FROM json_each(?4) e
             WHERE message = e.value ->> 0 AND number = e.value ->> 1 AND state IN ('accepted', 'sent')
             RETURNING message, number, kind, name, state, '', ended_at, reason"""
    happened = [Happened(*row) for row in db.execute(sql, (state, rule, at, _array(ended))).fetchall()]
    _decisions(db, [(one.message, one.recipient, at, rule, state, detail) for one in happened])
    close_done(db, {one.message for one in happened})
    return happened


def _expire(db: sqlite3.Connection, now: int, most: int) -> list[Happened]:
    sql = """UPDATE recipient SET state = 'expired', reason = 'expired', ended_at = ?1
             WHERE (message, number) IN (
               SELECT r.message, r.number FROM message m JOIN recipient r ON r.message = m.number
               WHERE m.state = 'open' AND m.expires_at <= ?1 AND r.state IN ('accepted', 'sent') LIMIT ?2)
             RETURNING message, number, kind, name, state, '', ended_at, reason"""
    happened = [Happened(*row) for row in db.execute(sql, (now, most)).fetchall()]
    sql = "SELECT number FROM message WHERE state = 'open' AND expires_at <= ? LIMIT ?"
    close_done(db, {one.message for one in happened} | {number for (number,) in db.execute(sql, (now, most))})
    return happened


def _noted(db: sqlite3.Connection, happened: list[Happened]) -> list[Happened]:
    """Write down what is to be told of this, in the same transaction."""
    if happened:
        rows = _array([(one.message, one.recipient, one.event, one.device, one.at, one.detail) for one in happened])
        db.execute(
            """INSERT INTO outbox (message, recipient, event, device, at, detail)
               SELECT h.value ->> 0, h.value ->> 1, h.value ->> 2, h.value ->> 3, h.value ->> 4, h.value ->> 5
               FROM json_each(?) h CROSS JOIN message m ON m.number = h.value ->> 0
               WHERE (m.receipts = 'each' AND h.value ->> 2 <> 'sent') OR h.value ->> 2 = 'opened'""",
            (rows,),
        )
        db.execute(
            """INSERT OR REPLACE INTO outbox (message, recipient, event, device, at, detail)
               SELECT m.number, 0, 'summary', '', max(h.value ->> 4), ''
               FROM json_each(?) h CROSS JOIN message m ON m.number = h.value ->> 0 AND m.receipts = 'summary'
               GROUP BY m.number""",
            (rows,),
        )
    return happened


def _purge(db: sqlite3.Connection, before: int, most: int) -> bool:
    sql = """SELECT number FROM message WHERE state IN ('done', 'withdrawn') AND accepted_at < ?
             ORDER BY accepted_at LIMIT 1"""
    found = db.execute(sql, (before,)).fetchone()
    if found is None:
        return False
    (message,) = found
    sql = "SELECT max(number) FROM (SELECT number FROM recipient WHERE message = ? ORDER BY number LIMIT ?)"
    (last,) = db.execute(sql, (message, most)).fetchone()
    if last is None:
        db.execute("DELETE FROM message WHERE number = ?", (message,))
    else:
        for table, column in (("event", "recipient"), ("decision", "recipient"), ("recipient", "number")):
            db.execute(f"DELETE FROM {table} WHERE message = ? AND {column} <= ?", (message, last))  # noqa: S608
    return True


def close_done(db: sqlite3.Connection, messages: set[int]) -> None:
    """Those of whose recipients none waits any more are done.

    Left to itself SQLite looks for one who waits among all of a message's, each time.
    """
    db.execute(
        """UPDATE message SET state = 'done' WHERE state = 'open' AND number IN (SELECT value FROM json_each(?))
           AND NOT EXISTS (SELECT 1 FROM recipient r INDEXED BY recipient_due
             WHERE r.message = message.number AND r.state = 'accepted')
           AND NOT EXISTS (SELECT 1 FROM recipient r INDEXED BY recipient_sent
             WHERE r.message = message.number AND r.state = 'sent')""",
        (_array(sorted(messages)),),
    )
