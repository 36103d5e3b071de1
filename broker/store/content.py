"""What brands have to say to who asks: DATA/content.db."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from broker.store.database import Database, guarded, open_database, open_reader
from broker.store.messages import transaction

T = TypeVar("T")

SCHEMA: Final = "content"


class Content:
    """The library. Every method raises `Failed` when the database cannot be read or written. Close it."""

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

    async def rules(self, brand: str) -> str:
        """How a brand answers, as JSON; '' where it never said."""
        sql = "SELECT rules FROM rules WHERE brand = ?"
        row = await self.read(lambda db: db.execute(sql, (brand,)).fetchone())
        return str(row[0]) if row else ""

    async def set_rules(self, brand: str, rules: str) -> None:
        """Say how a brand answers."""
        sql = "INSERT INTO rules VALUES (?, ?) ON CONFLICT (brand) DO UPDATE SET rules = excluded.rules"
        await self.write(lambda db: db.execute(sql, (brand, rules)))


class Lookup:
    """A connection for looking content up, and who asks: the records are `records` in it. Close it first."""

    def __init__(self, path: Path, db: Database) -> None:
        self.path = path
        self._db = db

    @classmethod
    async def open(cls, content: Path, records: Path) -> Self:
        """Both databases are open elsewhere, for writing."""
        db = await open_reader(content)
        try:
            with guarded(records):
                await db.execute_fetchall("ATTACH ? AS records", (_read_only(records),))
        except BaseException:
            await db.close()
            raise
        return cls(content, db)

    async def close(self) -> None:
        """Let go of them."""
        await self._db.close()

    async def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns."""
        with guarded(self.path):
            return await self._db.call(work)


def _read_only(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"
