"""What brands have to say to who asks: DATA/content.db."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar

import msgspec

from broker.store.database import BUSY_TIMEOUT_MS, Database, guarded, open_database
from broker.store.messages import transaction

T = TypeVar("T")

SCHEMA: Final = "content"


class ItemRow(msgspec.Struct, kw_only=True):
    """An item as it is kept. Lists and mappings are JSON; times are milliseconds since 1970 (UTC)."""

    brand: str
    name: str
    language: str
    title: str
    body: str
    image: str
    link: str
    keywords: str
    stores: str
    tags: str
    hours: str
    data: str
    valid_from: int | None = None
    valid_until: int | None = None


class Words(NamedTuple):
    """The words by which an item is found, and the phrases that mean it, folded."""

    title: str
    keywords: str
    body: str
    phrases: frozenset[str]


class Changed(NamedTuple):
    """An item, and when it changed last."""

    brand: str
    name: str
    at: int


_FIELDS: Final = ItemRow.__struct_fields__
_SET: Final = ", ".join(f"{field} = :{field}" for field in _FIELDS)
_VALUES: Final = ", ".join(f":{field}" for field in _FIELDS)
_INSERT: Final = f"INSERT INTO item ({', '.join(_FIELDS)}, changed_at) VALUES ({_VALUES}, :at)"  # noqa: S608


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

    async def put(self, items: Sequence[tuple[ItemRow, Words]], at: int) -> int:
        """Add items, or replace those of the same name and language. Returns how many were new or are different now.

        Who follows one of those is to be told.
        """
        return await self.write(lambda db: sum(_put(db, row, words, at) for row, words in items))

    async def any(self) -> bool:
        """Whether there is an item of anybody's."""
        return bool(await self.read(lambda db: db.execute("SELECT 1 FROM item LIMIT 1").fetchone()))

    async def named(self, brand: str, name: str) -> list[ItemRow]:
        """An item in all its languages."""
        sql = f"SELECT {', '.join(_FIELDS)} FROM item WHERE brand = ? AND name = ? ORDER BY language"  # noqa: S608
        rows = await self.read(lambda db: db.execute(sql, (brand, name)).fetchall())
        return [ItemRow(**dict(zip(_FIELDS, row, strict=True))) for row in rows]

    async def changed(self, after: tuple[str, str], before: int, most: int) -> list[Changed]:
        """Items that changed before then and of which nobody was told yet, in the order of brand and name."""
        sql = "SELECT * FROM changed WHERE (brand, name) > (?, ?) AND at < ? ORDER BY brand, name LIMIT ?"
        rows = await self.read(lambda db: db.execute(sql, (*after, before, most)).fetchall())
        return [Changed(*row) for row in rows]

    async def told(self, changes: Sequence[Changed]) -> None:
        """Of these followers were told, but of what has changed again since."""
        sql = "DELETE FROM changed WHERE brand = ? AND name = ? AND at = ?"
        await self.write(lambda db: db.executemany(sql, changes))

    async def rules(self, brand: str) -> str:
        """How a brand answers, as JSON; '' where it never said."""
        sql = "SELECT rules FROM rules WHERE brand = ?"
        row = await self.read(lambda db: db.execute(sql, (brand,)).fetchone())
        return str(row[0]) if row else ""

    async def set_rules(self, brand: str, rules: str) -> None:
        """Say how a brand answers."""
        sql = "INSERT INTO rules VALUES (?, ?) ON CONFLICT (brand) DO UPDATE SET rules = excluded.rules"
        await self.write(lambda db: db.execute(sql, (brand, rules)))


def _put(db: sqlite3.Connection, row: ItemRow, words: Words, at: int) -> bool:
    values = msgspec.structs.asdict(row)
    named = (row.brand, row.name, row.language)
    had = db.execute(
        f"SELECT number, {', '.join(_FIELDS)} FROM item WHERE brand = ? AND name = ? AND language = ?",  # noqa: S608
        named,
    ).fetchone()
    if had is None:
        number = db.execute(_INSERT, {**values, "at": at}).lastrowid
        db.execute("INSERT INTO item_text (rowid, title, keywords, body) VALUES (?, ?, ?, ?)", (number, *words[:3]))
    elif had[1:] == tuple(values.values()):
        return False
    else:
        number = had[0]
        db.execute(f"UPDATE item SET {_SET}, changed_at = :at WHERE number = :number",  # noqa: S608
                   {**values, "at": at, "number": number})  # fmt: skip
        db.execute("UPDATE item_text SET title = ?, keywords = ?, body = ? WHERE rowid = ?", (*words[:3], number))
        db.execute("DELETE FROM phrase WHERE item = ?", (number,))
    db.executemany("INSERT INTO phrase VALUES (?, ?)", [(phrase, number) for phrase in words.phrases])
    db.execute(
        "INSERT INTO changed VALUES (?, ?, ?) ON CONFLICT (brand, name) DO UPDATE SET at = excluded.at",
        (row.brand, row.name, at),
    )
    return True


def connect(content: Path, records: Path) -> sqlite3.Connection:
    """A connection for looking content up, and who asks: the records are `records` in it. Both are there already."""
    db = sqlite3.connect(_read_only(content), uri=True, isolation_level=None, check_same_thread=False)
    try:
        db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("ATTACH ? AS records", (_read_only(records),))
    except BaseException:
        db.close()
        raise
    return db


def _read_only(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"
