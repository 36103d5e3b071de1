"""The audit log in the records: what operators, agents and brands' servers did, and what they looked at.

What changes the records is noted in the transaction that changes them; all else before it is done, with its outcome
behind it. Entries are only added, but for those whose time is over.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import msgspec

from broker.errors import NotFound, PushbrokerError, Refused, Unreachable
from broker.store.database import Database, open_reader
from broker.store.records import NOTE, Records

_INSERT: Final = """INSERT INTO audit (at, actor, brand, operation, target, detail, outcome)
  VALUES (:at, :actor, :brand, :operation, :target, :detail, :outcome) RETURNING number"""
_json: Final = msgspec.json.Encoder(enc_hook=str).encode


class Done(msgspec.Struct, kw_only=True):
    """What somebody does, until it stands in the log."""

    actor: str
    brand: str = ""
    operation: str
    target: str = ""
    detail: Mapping[str, Any] = {}
    number: int = 0  # in the log


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log. `at` is milliseconds since 1970."""

    number: int
    at: int
    actor: str
    brand: str
    operation: str
    target: str
    detail: str
    outcome: str


class AuditLog:
    """Writes the log. Every method raises `Failed` when the records cannot be written: then nothing is to be done."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._run = records._run

    async def note(self, done: Done, outcome: str = "") -> None:
        """Write it down."""
        async with self._records.transaction() as after:
            await self.write(done, outcome, after)

    async def write(self, done: Done, outcome: str, after: list[Callable[[], None]]) -> None:
        """The same, within a transaction and what is called behind it."""
        await _write(self._records, done, outcome, after)

    @asynccontextmanager
    async def around(self, done: Done) -> AsyncIterator[None]:
        """Note what is done in the block before it, and its outcome after."""
        await self.note(done)
        outcome = ""
        try:
            yield
            outcome = "done"
        except Exception as error:
            outcome = outcome_of(error)
            raise
        finally:
            if outcome:
                async with self._records.transaction():
                    await self._run(
                        "UPDATE audit SET outcome = :outcome WHERE number = :number",
                        outcome=outcome,
                        number=done.number,
                    )

    @asynccontextmanager
    async def within(self, done: Done) -> AsyncIterator[None]:
        """Note what is done in the block in the transaction that it makes; behind it where it makes none."""
        token = NOTE.set(lambda after: _write(self._records, done, "done", after))
        try:
            yield
        except Exception as error:
            NOTE.set(None)
            if not done.number:
                await self.note(done, outcome_of(error))
            raise
        finally:
            NOTE.reset(token)
        if not done.number:
            await self.note(done, "done")

    async def sweep(self, before: int, most: int) -> int:
        """Forget some of what was noted before then; says how many."""
        async with self._records.transaction():
            await self._run("UPDATE audit_kept SET since = max(since, :before)", before=before)
            sql = """DELETE FROM audit WHERE number IN (SELECT number FROM audit WHERE at < :before LIMIT :most)
                     RETURNING 1"""
            return len(await self._run(sql, before=before, most=most))


async def _write(records: Records, done: Done, outcome: str, after: list[Callable[[], None]]) -> None:
    """In a transaction. It has its number when that is on the disk, and is not written again."""
    if done.number:
        return
    ((number,),) = await records._run(
        _INSERT,
        at=time.time_ns() // 1_000_000,
        actor=done.actor,
        brand=done.brand,
        operation=done.operation,
        target=done.target,
        detail=_json(done.detail).decode(),
        outcome=outcome,
    )
    after.append(lambda: setattr(done, "number", number))


def outcome_of(error: Exception) -> str:
    """What went wrong, in a word: what the error says may name people."""
    match error:
        case NotFound():
            return "not_found"
        case Refused():
            return "refused"
        case Unreachable():
            return "unreachable"
        case PushbrokerError():
            return "failed"
        case _:
            return "error"


class AuditReader:
    """Reads the log, on a connection of its own. Close it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @classmethod
    async def open(cls, records: Records) -> Self:
        """The records are open elsewhere."""
        return cls(await open_reader(records.path))

    async def close(self) -> None:
        """Let go of the database."""
        await self._db.close()

    async def last(self) -> int:
        """The number of the newest entry, or 0."""
        ((number,),) = await self._db.all("SELECT coalesce(max(number), 0) FROM audit")
        return int(number)

    async def entries(
        self,
        *,
        brand: str | None = None,
        actor: str | None = None,
        operation: str | None = None,
        since: int = 0,
        after: int | None = None,
        most: int,
    ) -> list[Entry]:
        """The newest ones in their order; with `after`, the first behind that number. `operation` may be a prefix."""
        where = ["at >= ?"]
        values: list[object] = [since]
        for condition, value in (("brand = ?", brand), ("actor = ?", actor)):
            if value is not None:
                where.append(condition)
                values.append(value)
        if operation is not None:
            where.append("(operation = ? OR substr(operation, 1, ?) = ?)")
            values += [operation, len(operation) + 1, f"{operation}."]
        if after is not None:
            where.append("number > ?")
            values.append(after)
        columns = ", ".join(Entry.__struct_fields__)
        order = "DESC" if after is None else "ASC"
        sql = f"SELECT {columns} FROM audit WHERE {' AND '.join(where)} ORDER BY number {order} LIMIT ?"  # noqa: S608
        rows = await self._db.all(sql, *values, most)
        found = [Entry(**dict(zip(Entry.__struct_fields__, row, strict=True))) for row in rows]
        return found if after is not None else found[::-1]
