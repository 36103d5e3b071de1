"""Opens an SQLite database of ours: made whole or not at all, brought to this version's schema, never silently empty.

Connections are in autocommit mode: who wants a transaction says BEGIN and COMMIT. What SQLite reports about the disk
comes out as `Failed` with a remedy; any other of its errors is a bug and stays as it is.
"""

import asyncio
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from importlib import resources
from pathlib import Path
from textwrap import shorten
from typing import Any, Final, Literal, TypeVar

import aiosqlite

from broker.errors import Failed
from broker.store.wal import find_hole

T = TypeVar("T")

BUSY_TIMEOUT_MS: Final = 5000
# quick_check reads the whole file, about 0.5 s for each GiB that the system has cached; a start must stay fast.
CHECKED_BYTES_MAX: Final = 64 << 20

_MIGRATION = re.compile(r"(\d{4})_\w+\.sql")
_CONFIGURE = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = FULL",  # a commit that returned is on the disk
    "PRAGMA trusted_schema = OFF",
    "PRAGMA secure_delete = ON",  # what is deleted is overwritten, whatever SQLite was built with
)


class Database(aiosqlite.Connection):
    """A connection that also does several things in one hop to its thread.

    Each statement that is awaited on its own is a way there and back, on which a busy loop keeps it waiting, and other
    tasks' statements come in between; a task that is cancelled leaves the rest undone.
    """

    def __init__(self, path: Path, mode: Literal["rw", "ro"]) -> None:
        # With either mode SQLite itself never makes a file.
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        super().__init__(lambda: sqlite3.connect(uri, uri=True, isolation_level=None), iter_chunk_size=64)

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, called in the thread. It runs to its end even when the caller is cancelled."""
        result: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return result

    async def all(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of one statement."""
        return await self.call(lambda db: db.execute(statement, values).fetchall())


async def open_database(path: Path, schema: str, *, durable: bool = True) -> Database:
    """The database at `path`, made when there is none, at the newest version of `store/schema/{schema}`.

    durable: each commit in its log was waited for, so that a hole in it is damage.
    The caller holds the lock of the data directory, and closes the connection: its thread keeps the process alive.
    Raises `Failed` when the file is damaged, is not ours, or was written by a newer version.
    """
    migrations = _migrations(schema)
    with guarded(path):
        if not _is_there(path):
            await _create(path, schema, migrations)
        elif hole := find_hole(_beside(path, "-wal"), durable=durable):
            raise _damaged(path, f"in {path.name}-wal {hole}")
        # Read-only: closing the last connection otherwise puts the log into the file, also into one that is refused.
        with _reading(path):
            db = await _connect(path, "ro")
            try:
                await _check(db, path, schema, migrations)
            finally:
                await db.close()
        db = await _connect(path)
        try:
            await db.execute_fetchall("PRAGMA journal_mode = WAL")
            await _migrate(db, migrations)
        except BaseException:
            await db.close()
            raise
    return db


async def open_reader(path: Path) -> Database:
    """A second connection, read-only, to a database that is open: its reads do not wait for commits.

    The caller closes it first, for the last one to close a database puts its log into the file.
    """
    with guarded(path):
        return await _connect(path, "ro")


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turn what the system reports about the database at `path` into `Failed`."""
    try:
        yield
    except sqlite3.Error as error:
        failed = failure(path, error)
        if failed is None:
            raise
        raise failed from error
    except UnicodeDecodeError as error:  # SQLite quotes what it does not understand of a schema
        raise _damaged(path, "its schema is no text") from error
    except OSError as error:
        raise Failed(
            f"cannot use {path}: {error.strerror}",
            remedy=f"Check the disk and the permissions: ls -ld {path.parent} {path}",
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What SQLite has to say of statements that are right, it says of the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise failure(path, error) or _damaged(path, str(error)) from error


def failure(path: Path, error: sqlite3.Error) -> Failed | None:
    """`error` as `Failed`, or None when it is a bug of ours (bad SQL, a broken constraint)."""
    # The low byte is the primary code: https://www.sqlite.org/rescode.html. Errors of the module itself have none.
    code = getattr(error, "sqlite_errorcode", 0)
    match code & 0xFF:
        case sqlite3.SQLITE_IOERR if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # as SQLite reports a full disk at the open
            return Failed(
                f"there is no room left for {path}-shm, or the disk failed under it",
                remedy=f"Make room on that disk: df -h {path.parent}, or look for its errors: dmesg --level=err",
            )
        case sqlite3.SQLITE_FULL:
            return Failed(f"there is no room left for {path}", remedy=f"Make room on that disk: df -h {path.parent}")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Failed(f"another process is writing to {path}", remedy=f"Find it and stop it: fuser -v {path}")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return _damaged(path, str(error))
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return Failed(
                f"cannot write to {path}: {error}",
                remedy=f"Run as the user that owns it, or correct that: ls -ld {path.parent} {path}",
            )
        case sqlite3.SQLITE_IOERR:
            return Failed(f"the disk failed under {path}: {error}", remedy="Look for disk errors: dmesg --level=err")
        case _ if str(error).startswith("Could not decode to UTF-8"):
            return _damaged(path, str(error))
        case _:
            return None


def _damaged(path: Path, how: str) -> Failed:
    return Failed(
        f"{path} is damaged: {shorten(how, 200)}",
        remedy=f"See what is left: pushbroker store check --data {path.parent}. "
        f"To go back to a backup: pushbroker store restore BACKUP --data {path.parent}",
    )


def _is_there(path: Path) -> bool:
    """Whether there is a database. An empty file, or a log alone, was one once, and SQLite would begin anew on it."""
    if path.exists():
        if path.stat().st_size == 0:
            raise _damaged(path, "the file is empty")
        return True
    if _beside(path, "-wal").exists():
        raise _damaged(path, f"the file is gone, but {path.name}-wal is there")
    return False


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@cache
def _migrations(schema: str) -> tuple[str, ...]:
    """The scripts of a schema, in order. Number N takes the database from version N - 1 to N."""
    folder = resources.files("broker.store").joinpath("schema", schema)
    scripts = {entry.name: entry for entry in folder.iterdir() if _MIGRATION.fullmatch(entry.name)}
    if not scripts or [int(name[:4]) for name in sorted(scripts)] != list(range(1, len(scripts) + 1)):
        raise ValueError(f"the migrations of {schema} are not numbered from 0001 without a gap")
    return tuple(scripts[name].read_text(encoding="utf-8") for name in sorted(scripts))


def application_id(schema: str) -> int:
    """What marks a file as ours and as this schema's: 31 bits, never 0."""
    return zlib.crc32(f"pushbroker {schema}".encode()) & 0x7FFFFFFF | 1


async def _connect(path: Path, mode: Literal["rw", "ro"] = "rw") -> Database:
    db = Database(path, mode)
    await _opened(db)
    try:
        for statement in _CONFIGURE:
            await db.execute_fetchall(statement)
    except BaseException:
        await db.close()
        raise
    return db


async def _opened(db: Database) -> None:
    """Wait until the connection is open, to the end even if cancelled: its thread would outlive the loop."""
    opening = asyncio.ensure_future(_open(db))
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        with suppress(sqlite3.Error):
            await opening
            await db.close()
        raise


async def _open(db: Database) -> None:
    await db


async def _create(path: Path, schema: str, migrations: tuple[str, ...]) -> None:
    """Make the database beside its place and move it there when it is whole, so that a crash leaves none or all."""
    new = _beside(path, ".new")
    for left in (new, _beside(new, "-journal"), _beside(new, "-wal"), _beside(new, "-shm")):
        _remove(left)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    db = await _connect(new)
    try:
        await db.execute_fetchall(f"PRAGMA application_id = {application_id(schema)}")
        await _migrate(db, migrations)
    finally:
        await db.close()
    _move(new, path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _move(new: Path, path: Path) -> None:
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _size(path: Path) -> int:
    return path.stat().st_size


async def _check(db: Database, path: Path, schema: str, migrations: tuple[str, ...]) -> None:
    # SQLite takes what is missing of the last page for zeros. With a log this may be an interrupted checkpoint.
    if not bytes_of(_beside(path, "-wal")) and _size(path) % await _pragma(db, "page_size"):
        raise _damaged(path, "it ends within a page")
    if _size(path) <= CHECKED_BYTES_MAX:
        findings = [str(row[0]) for row in await db.execute_fetchall("PRAGMA quick_check(1)")]
        if findings != ["ok"]:
            raise _damaged(path, "; ".join(findings))
    if await _pragma(db, "application_id") != application_id(schema):
        raise Failed(
            f"{path} is a database, but not one of pushbroker's {schema}",
            remedy=f"Name the right data directory, or move {path} away.",
        )
    version, newest = await _pragma(db, "user_version"), len(migrations)
    if version > newest:
        raise Failed(
            f"{path} was written by a newer pushbroker (schema {version}; this one knows {newest})",
            remedy="Install that version again, or go back to a backup from before the upgrade: "
            f"pushbroker store restore BACKUP --data {path.parent}",
        )
    if await db.call(columns) != columns_of(migrations[:version]):
        raise _damaged(path, f"its tables are not those of schema {version}")


def columns(db: sqlite3.Connection) -> set[tuple[Any, ...]]:
    """The tables with their columns, and the indexes."""
    return set(
        db.execute(
            "SELECT s.type, s.name, s.tbl_name, c.name, c.type"
            " FROM sqlite_schema s LEFT JOIN pragma_table_xinfo(s.name) c ON s.type = 'table'"
        )
    )


@cache
def columns_of(migrations: tuple[str, ...]) -> set[tuple[Any, ...]]:
    """Those of a database to which these were applied: some milliseconds, so it is worked out once."""
    with closing(sqlite3.connect(":memory:")) as db:
        for script in migrations:
            db.executescript(script)
        return columns(db)


async def rewrite(db: Database) -> None:
    """Write the whole file anew: SQLite leaves pieces of rows behind where it has moved or deleted them.

    Nothing else is done on this connection meanwhile; it takes about a second for each 100 MB.
    """

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("VACUUM")
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError("somebody reads what was before")

    await db.call(work)


def bytes_of(path: Path) -> int:
    """The size of a file; 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


async def _migrate(db: aiosqlite.Connection, migrations: tuple[str, ...]) -> None:
    """Run what is missing, each script in a transaction of its own together with the version that it reaches."""
    version = await _pragma(db, "user_version")
    for number, script in enumerate(migrations[version:], version + 1):
        try:
            await db.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
        except BaseException:
            with suppress(sqlite3.OperationalError):  # none was begun
                await db.execute_fetchall("ROLLBACK")
            raise


async def _pragma(db: aiosqlite.Connection, name: str) -> int:
    ((value,),) = await db.execute_fetchall(f"PRAGMA {name}")
    return int(value)
