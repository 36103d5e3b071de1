"""Takes a person out of the records and of the books: what is deleted, and where a pseudonym takes their name's place.

Some rows at a time: each call is one short transaction, and says whether there may be more. What was done stays so when
it is done again.
"""
# ruff: noqa: S608 - statements are put together of our own words; all else is a parameter

import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import msgspec

from broker.limits import ERASED_AT_ONCE
from broker.store.audit import AuditLog, Done
from broker.store.database import Database
from broker.store.messages import close_done
from broker.store.personal import Person, prepare, words
from broker.store.records import Records
from broker.store.retention import forget_some

PREFIX: Final = "erased-"
_json: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def new_pseudonym() -> str:
    """Says nothing of whose place it takes."""
    return PREFIX + secrets.token_hex(8)


class Erasure(msgspec.Struct, kw_only=True):
    """One that is under way: a row of `erasures`."""

    pseudonym: str
    brand: str
    user: str
    devices: tuple[str, ...]
    shared: tuple[str, ...]
    actor: str
    began_at: int
    found: dict[str, int]
    left_over: dict[str, int] = {}
    files: tuple[str, ...] = ()

    @property
    def person(self) -> Person:
        """Who it is about."""
        return Person(brand=self.brand, user=self.user, devices=self.devices, shared=self.shared)


class ErasureTable:
    """The table `erasures`, and all else of the records that names somebody. Raises `Failed` as those do."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._run = records._run

    async def all(self) -> list[Erasure]:
        """Those under way, the oldest first."""
        async with self._records.transaction():
            rows = await self._run("SELECT * FROM erasures ORDER BY began_at")
        structured = ("devices", "shared", "found", "left_over", "files")
        return [
            msgspec.convert({**dict(row), **{name: _decode(row[name]) for name in structured}}, Erasure) for row in rows
        ]

    async def write(self, one: Erasure) -> None:
        """Keep it as it is now; within a transaction."""
        values = {
            name: value if isinstance(value, str | int) else _json(value).decode()
            for name, value in msgspec.structs.asdict(one).items()
        }
        columns = ", ".join(f":{name}" for name in values)
        await self._run(f"INSERT OR REPLACE INTO erasures VALUES ({columns})", **values)

    async def keep(self, one: Erasure) -> None:
        """The same, in a transaction of its own."""
        async with self._records.transaction():
            await self.write(one)

    async def end(self, one: Erasure, proof: Done) -> None:
        """It is done: what proves it stands in the audit log, and it is under way no more."""
        async with self._records.transaction() as after:
            await AuditLog(self._records).write(proof, "done", after)
            await self._run("DELETE FROM erasures WHERE pseudonym = :pseudonym", pseudonym=one.pseudonym)

    async def rename_segment(self, brand: str, name: str, condition: str) -> None:
        """Write a segment's condition anew."""
        async with self._records.transaction():
            sql = "UPDATE segments SET condition = :condition WHERE brand = :brand AND name = :name"
            await self._run(sql, brand=brand, name=name, condition=condition)

    async def rename(self, table: str, key: str, rows: Sequence[tuple[Any, dict[str, str]]]) -> None:
        """Write texts in which somebody was named: each row's key with its columns."""
        async with self._records.transaction():
            for number, columns in rows:
                sets = ", ".join(f"{name} = :{name}" for name in columns)
                await self._run(f"UPDATE {table} SET {sets} WHERE {key} = :_key", _key=number, **columns)


async def pages(db: Database, person: Person, sql: str) -> AsyncIterator[list[Any]]:
    """Rows as they were when it began, some at a time, found on a connection that only reads."""

    def begin(connection: sqlite3.Connection) -> sqlite3.Cursor:
        prepare(connection, person)
        return connection.execute(sql, person.parameters)

    cursor = await db.call(begin)
    while rows := await db.call(lambda _: cursor.fetchmany(ERASED_AT_ONCE)):
        yield rows


async def naming(
    db: Database, person: Person, pseudonym: str, table: str, key: str, columns: Sequence[str], where: str
) -> AsyncIterator[list[tuple[Any, dict[str, str]]]]:
    """Rows in which a text names them: the key of each, and the texts as they are to be."""
    pattern = words((person.user, *person.devices))
    tests = " OR ".join(f"mentions(coalesce({name}, ''))" for name in columns)
    sql = f"SELECT {key}, {', '.join(columns)} FROM {table} WHERE {where} AND ({tests})"
    async for rows in pages(db, person, sql):
        texts = [dict(zip(columns, row[1:], strict=True)) for row in rows]
        yield [
            (row[0], {name: pattern.sub(rf"\g<before>{pseudonym}", text) for name, text in of.items() if text})
            for row, of in zip(rows, texts, strict=True)
        ]


# -- in the books' thread, in a transaction ----------------------------------------------------------------------------

Step = Callable[[sqlite3.Connection], bool]


def recipients(person: Person, now: int) -> Step:
    """Recipients get a name that is nobody's, each another; who still waited will get nothing."""

    def work(db: sqlite3.Connection) -> bool:
        rows: list[Any] = []
        for kind, names in (("user", (person.user,)), ("device", person.devices)):
            sql = """SELECT r.message, r.number, m.recipients FROM json_each(?) n
                     CROSS JOIN recipient r ON r.kind = ? AND r.name = n.value
                     CROSS JOIN message m ON m.number = r.message AND m.brand = ? AND m.state <> 'filling' LIMIT ?"""
            rows += db.execute(sql, (_text(names), kind, person.brand, ERASED_AT_ONCE - len(rows))).fetchall()
        if not rows:
            return False
        new = [(message, number, new_pseudonym()) for message, number, _ in rows]
        _anonymous_events(db, new)
        array = _text(new)
        for table in ("decision", "outbox"):
            db.execute(
                f"""DELETE FROM {table} WHERE (message, recipient) IN (
                      SELECT value ->> 0, value ->> 1 FROM json_each(?)) AND recipient <> 0""",
                (array,),
            )
        db.execute(
            """UPDATE recipient SET name = n.value ->> 2, seq = NULL,
                 reason = iif(state IN ('accepted', 'sent'), 'erased', reason),
                 ended_at = iif(state IN ('accepted', 'sent'), ?, ended_at),
                 state = iif(state IN ('accepted', 'sent'), 'dropped', state)
               FROM json_each(?) n WHERE message = n.value ->> 0 AND number = n.value ->> 1""",
            (now, array),
        )
        close_done(db, {message for message, _, _ in rows})
        alone = _text([message for message, _, count in rows if count <= 1])
        db.execute(
            """UPDATE message SET payload = x'', content_type = '', collapse_key = '', request_id = '',
                 reply_topic = '', reply_data = x'', answer = '' WHERE number IN (SELECT value FROM json_each(?))""",
            (alone,),
        )
        db.execute("DELETE FROM idempotency WHERE message IN (SELECT value FROM json_each(?))", (alone,))
        return True

    return work


def _anonymous_events(db: sqlite3.Connection, rows: Sequence[tuple[int, int, str]]) -> None:
    """The devices of these recipients get names that are nobody's; what they did still counts."""
    sql = """SELECT e.message, e.recipient, e.device, e.event, n.value ->> 2 FROM json_each(?) n
             CROSS JOIN event e ON e.message = n.value ->> 0 AND e.recipient = n.value ->> 1"""
    named: dict[tuple[int, int, str], str] = {}
    changes = []
    for message, recipient, device, event, pseudonym in db.execute(sql, (_text(rows),)).fetchall():
        if not device.startswith(PREFIX):
            known = named.setdefault((message, recipient, device), f"{pseudonym}-{len(named)}")
            changes.append((message, recipient, device, event, known))
    _rename_events(db, changes)


def _rename_events(db: sqlite3.Connection, changes: Sequence[tuple[int, int, str, str, str]]) -> None:
    db.execute(
        """UPDATE event SET device = n.value ->> 4, detail = '' FROM json_each(?) n
           WHERE message = n.value ->> 0 AND recipient = n.value ->> 1 AND device = n.value ->> 2
             AND event = n.value ->> 3""",
        (_text(changes),),
    )


def events(found: Sequence[tuple[int, int, str, str]]) -> Step:
    """What their devices did for others, before they were theirs: the same."""
    named: dict[tuple[int, int, str], str] = {}
    rows = [(*row, named.setdefault(row[:3], new_pseudonym())) for row in found]

    def work(db: sqlite3.Connection) -> bool:
        _rename_events(db, rows)
        return False

    return work


def commands(person: Person) -> Step:
    """Their devices' names give way in what devices were told to do; what they answered goes."""

    def work(db: sqlite3.Connection) -> bool:
        rows = db.execute(
            """SELECT d.command, d.number FROM json_each(?) n CROSS JOIN command_device d ON d.device = n.value
               CROSS JOIN command c ON c.number = d.command AND c.brand = ? LIMIT ?""",
            (_text(person.devices), person.brand, ERASED_AT_ONCE),
        ).fetchall()
        db.execute(
            """UPDATE command_device SET device = n.value ->> 2, output = '', error = '' FROM json_each(?) n
               WHERE command = n.value ->> 0 AND number = n.value ->> 1""",
            (_text([(*row, new_pseudonym()) for row in rows]),),
        )
        return bool(rows)

    return work


def conversations(person: Person) -> Step:
    """What was said goes, and then the conversation in which it was."""

    def work(db: sqlite3.Connection) -> bool:
        row = db.execute(
            """SELECT number FROM conversation WHERE brand = :brand AND (kind = 'user' AND name = :user
                 OR kind = 'device' AND name IN (SELECT value FROM json_each(:devices))) LIMIT 1""",
            person.parameters,
        ).fetchone()
        return row is not None and forget_some(db, row[0])

    return work


def renamed(table: str, key: str, rows: Sequence[tuple[Any, dict[str, str]]]) -> Step:
    """Texts in which they were named, by the rows' key."""

    def work(db: sqlite3.Connection) -> bool:
        for number, columns in rows:
            sets = ", ".join(f"{name} = :{name}" for name in columns)
            db.execute(f"UPDATE {table} SET {sets} WHERE {key} = :_key", {**columns, "_key": number})
        return False

    return work


def keys(brand: str, found: Sequence[str]) -> Step:
    """Idempotency keys that name them, or that are of what only they were sent."""

    def work(db: sqlite3.Connection) -> bool:
        db.execute(
            "DELETE FROM idempotency WHERE brand = ? AND key IN (SELECT value FROM json_each(?))", (brand, _text(found))
        )
        return False

    return work


def _text(value: Any) -> str:
    return _json(value).decode()
