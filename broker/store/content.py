"""What brands have to say to who asks: DATA/content.db."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar

import msgspec

from broker.limits import ITEMS_MAX, ITEMS_REMOVED_AT_ONCE
from broker.store.database import BUSY_TIMEOUT_MS, Database, guarded, open_database
from broker.store.messages import transaction

T = TypeVar("T")

PIECES_MAX: Final = 3  # of the index; each is looked into for each word
PAGES_MERGED: Final = 64  # in one transaction: 5 ms
CACHE_KIB: Final = 16 << 10  # of who looks content up: an index of 10,000 items
Outcome = Literal["new", "changed", "same", "full"]  # full: the brand has as many as it may

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


# An item, and what finds its words if they are needed.
Written = tuple[ItemRow, Callable[[], Words]]

_FIELDS: Final = ItemRow.__struct_fields__
_COLUMNS: Final = ", ".join(_FIELDS)
_SET: Final = ", ".join(f"{field} = :{field}" for field in _FIELDS)
_VALUES: Final = ", ".join(f":{field}" for field in _FIELDS)
_INSERT: Final = f"INSERT INTO item ({_COLUMNS}, changed_at) VALUES ({_VALUES}, :at)"  # noqa: S608


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

    async def put(self, items: Sequence[Written], at: int, *, dry_run: bool = False) -> list[Outcome]:
        """Add items, or replace those of the same name and language. Returns what became of each.

        Who follows one that is new or different now is to be told. dry_run: all of it is undone.
        """
        if dry_run:
            return await self.read(lambda db: _undone(db, lambda db: _put_all(db, items, at)))
        return await self.write(lambda db: _put_all(db, items, at))

    async def change(
        self,
        brand: str,
        name: str,
        language: str | None,
        change: Callable[[list[ItemRow]], Sequence[Written]],
        at: int,
    ) -> list[Outcome]:
        """Replace the items of this name, in this language or in all, by what `change` makes of them."""
        return await self.write(lambda db: _put_all(db, change(_named(db, brand, name, language)), at))

    async def named(self, brand: str, name: str, language: str | None = None) -> list[ItemRow]:
        """The items of this name, in this language or in all."""
        return await self.read(lambda db: _named(db, brand, name, language))

    async def names_near(self, brand: str, name: str, each: int) -> list[str]:
        """The names of items that stand around `name` in the alphabet, up to `each` on either side."""
        names = "SELECT DISTINCT name FROM item WHERE brand = ? AND name"
        before, after = f"{names} < ? ORDER BY name DESC LIMIT ?", f"{names} > ? ORDER BY name LIMIT ?"
        values = (brand, name, each)
        return await self.read(lambda db: [row[0] for sql in (before, after) for row in db.execute(sql, values)])

    async def page(
        self, brand: str, after: tuple[str, str], most: int, language: str | None = None
    ) -> list[tuple[ItemRow, int]]:
        """Items behind the one with this name and language, in their order, each with when it was changed."""
        sql = f"""SELECT {_COLUMNS}, changed_at FROM item
            WHERE brand = ? AND (name, language) > (?, ?) AND language = coalesce(?, language)
            ORDER BY name, language LIMIT ?"""  # noqa: S608 - our own words
        return await self._rows(sql, brand, *after, language, most)

    async def search(self, brand: str, match: str, most: int, language: str | None = None) -> list[tuple[ItemRow, int]]:
        """Items that match an expression of FTS5's, the best first, each with when it was changed."""
        columns = ", ".join(f"i.{field}" for field in _FIELDS)
        sql = f"""SELECT {columns}, i.changed_at FROM item_text t JOIN item i ON i.number = t.rowid
            WHERE item_text MATCH ? AND i.brand = ? AND i.language = coalesce(?, i.language)
            ORDER BY t.rank LIMIT ?"""  # noqa: S608 - our own words
        return await self._rows(sql, match, brand, language, most)

    async def _rows(self, sql: str, *values: object) -> list[tuple[ItemRow, int]]:
        rows = await self.read(lambda db: db.execute(sql, values).fetchall())
        return [(_row(row[:-1]), row[-1]) for row in rows]

    async def count(self) -> int:
        """How many items there are, of all brands."""
        row = await self.read(lambda db: db.execute("SELECT count(*) FROM item").fetchone())
        return int(row[0])

    async def remove(self, brand: str, names: Sequence[tuple[str, str | None]]) -> int:
        """Remove items, each in one language or in all. Returns how many there were."""

        def work(db: sqlite3.Connection) -> int:
            numbers = [
                number
                for name, language in names
                for (number,) in db.execute(
                    "SELECT number FROM item WHERE brand = ? AND name = ? AND language = coalesce(?, language)",
                    (brand, name, language),
                )
            ]
            _remove(db, numbers)
            db.executemany(
                """DELETE FROM changed WHERE brand = ?1 AND name = ?2
                   AND NOT EXISTS (SELECT 1 FROM item WHERE brand = ?1 AND name = ?2)""",
                [(brand, name) for name, _ in names],
            )
            return len(set(numbers))

        return await self.write(work)

    async def brands(self) -> set[str]:
        """Those that have any content."""
        sql = """SELECT DISTINCT brand FROM item UNION SELECT brand FROM rules UNION SELECT brand FROM changed
            UNION SELECT brand FROM request"""
        return await self.read(lambda db: {brand for (brand,) in db.execute(sql)})

    async def brand_gone(self, brand: str) -> None:
        """Remove all of a brand's, in parts: others' changes wait for none of them for long."""

        def part(db: sqlite3.Connection) -> bool:
            rows = db.execute("SELECT number FROM item WHERE brand = ? LIMIT ?", (brand, ITEMS_REMOVED_AT_ONCE))
            numbers = [number for (number,) in rows.fetchall()]
            _remove(db, numbers)
            if not numbers:
                db.execute("DELETE FROM rules WHERE brand = ?", (brand,))
                db.execute("DELETE FROM changed WHERE brand = ?", (brand,))
                db.execute("DELETE FROM request WHERE brand = ?", (brand,))
            return bool(numbers)

        while await self.write(part):
            pass

    async def tidy(self) -> None:
        """Merge the pieces of the index that many changes have left, some pages at a time, until there are few.

        With 10,000 items, imported 1,000 at a time, a question costs a third less then.
        """
        pieces = "SELECT count(DISTINCT segid) FROM item_text_idx"
        (count,) = await self.read(lambda db: db.execute(pieces).fetchone())
        merge = "INSERT INTO item_text (item_text, rank) VALUES ('merge', ?)"
        pages = -PAGES_MERGED  # all that there are, whatever their sizes; then on with that
        while count > PIECES_MAX:

            def work(db: sqlite3.Connection, pages: int = pages) -> bool:
                before = db.total_changes
                db.execute(merge, (pages,))
                return db.total_changes - before > 1  # else nothing was left to be done

            if not await self.write(work):
                return
            pages = PAGES_MERGED

    # -- what is asked for ---------------------------------------------------------------------------------------------

    async def keep(self, id: str, brand: str, body: bytes, most: int) -> bool:
        """Put a request behind the others. False: so many bytes of the brand's wait already. Again it is there once."""

        def work(db: sqlite3.Connection) -> bool:
            (waiting,) = db.execute(
                "SELECT coalesce(sum(length(body)), 0) FROM request WHERE brand = ? AND id <> ?", (brand, id)
            ).fetchone()
            if waiting + len(body) > most:
                return False
            db.execute("INSERT OR IGNORE INTO request (id, brand, body) VALUES (?, ?, ?)", (id, brand, body))
            return True

        return await self.write(work)

    async def next_request(self, after: str) -> tuple[int, str, bytes] | None:
        """The first request of the brand whose turn it is after that one's: number, brand, body."""
        first = "SELECT number, brand, body FROM request WHERE brand {} ? ORDER BY brand, number LIMIT 1"

        def work(db: sqlite3.Connection) -> tuple[int, str, bytes] | None:
            for order in (">", "<="):
                if row := db.execute(first.format(order), (after,)).fetchone():
                    return int(row[0]), str(row[1]), bytes(row[2])
            return None

        return await self.read(work)

    async def request_done(self, number: int) -> None:
        """It is."""
        await self.write(lambda db: db.execute("DELETE FROM request WHERE number = ?", (number,)))

    async def any(self) -> bool:
        """Whether there is an item of anybody's."""
        return bool(await self.read(lambda db: db.execute("SELECT 1 FROM item LIMIT 1").fetchone()))

    async def changed(self, after: tuple[str, str], before: int, most: int) -> list[Changed]:
        """Items that changed before then and of which nobody was told yet, in the order of brand and name.

        Of what changed more than a minute later the clock was set back since: that is not waited for.
        """
        sql = """SELECT * FROM changed WHERE (brand, name) > (?, ?) AND at NOT BETWEEN ? AND ? + 60000
            ORDER BY brand, name LIMIT ?"""
        rows = await self.read(lambda db: db.execute(sql, (*after, before, before, most)).fetchall())
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


def _put_all(db: sqlite3.Connection, items: Sequence[Written], at: int) -> list[Outcome]:
    counts: dict[str, int] = {}  # of each brand that gets new ones
    return [_put(db, row, words, at, counts) for row, words in items]


def _put(db: sqlite3.Connection, row: ItemRow, words: Callable[[], Words], at: int, counts: dict[str, int]) -> Outcome:
    values = msgspec.structs.asdict(row)
    found = db.execute(
        f"SELECT number, {_COLUMNS} FROM item WHERE brand = ? AND name = ? AND language = ?",  # noqa: S608
        (row.brand, row.name, row.language),
    ).fetchone()
    if found is None:
        if row.brand not in counts:
            counts[row.brand] = db.execute("SELECT count(*) FROM item WHERE brand = ?", (row.brand,)).fetchone()[0]
        if counts[row.brand] >= ITEMS_MAX:
            return "full"
        counts[row.brand] += 1
        number = db.execute(_INSERT, {**values, "at": at}).lastrowid
        assert number is not None  # it was inserted
        _index(db, number, words())
    else:
        number, had = found[0], _row(found[1:])
        if had == row:
            return "same"
        db.execute(f"UPDATE item SET {_SET}, changed_at = :at WHERE number = :number",  # noqa: S608
                   {**values, "at": at, "number": number})  # fmt: skip
        if (had.title, had.keywords, had.body) != (row.title, row.keywords, row.body):
            _unindex(db, number)
            _index(db, number, words())
    db.execute(
        "INSERT INTO changed VALUES (?, ?, ?) ON CONFLICT (brand, name) DO UPDATE SET at = excluded.at",
        (row.brand, row.name, at),
    )
    return "new" if found is None else "changed"


def _index(db: sqlite3.Connection, number: int, words: Words) -> None:
    db.execute("INSERT INTO item_text (rowid, title, keywords, body) VALUES (?, ?, ?, ?)", (number, *words[:3]))
    db.executemany("INSERT INTO phrase VALUES (?, ?)", [(phrase, number) for phrase in words.phrases])


def _unindex(db: sqlite3.Connection, number: int) -> None:
    db.execute("DELETE FROM item_text WHERE rowid = ?", (number,))
    db.execute("DELETE FROM phrase WHERE item = ?", (number,))


def _remove(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
    for number in numbers:
        _unindex(db, number)
        db.execute("DELETE FROM item WHERE number = ?", (number,))


def _named(db: sqlite3.Connection, brand: str, name: str, language: str | None) -> list[ItemRow]:
    rows = db.execute(
        f"""SELECT {_COLUMNS} FROM item WHERE brand = ? AND name = ? AND language = coalesce(?, language)
            ORDER BY language""",  # noqa: S608 - our own words
        (brand, name, language),
    )
    return [_row(row) for row in rows]


def _row(values: Sequence[Any]) -> ItemRow:
    return ItemRow(**dict(zip(_FIELDS, values, strict=True)))


def _undone(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """What `work` would return."""
    db.execute("BEGIN IMMEDIATE")
    try:
        return work(db)
    finally:
        db.execute("ROLLBACK")


def connect(content: Path, records: Path) -> sqlite3.Connection:
    """A connection for looking content up, and who asks: the records are `records` in it. Both are there already."""
    db = sqlite3.connect(_read_only(content), uri=True, isolation_level=None, check_same_thread=False)
    try:
        db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.execute("ATTACH ? AS records", (_read_only(records),))
    except BaseException:
        db.close()
        raise
    return db


def _read_only(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"
