"""Looks at a database of ours without changing it, and says how it is: written to meanwhile, or damaged as it may be.

What is seen is what SQLite can see: the structure of the file, and with `full` each index against its table, the
constraints and the references. A byte that is flipped within a payload or a name is a value like any other.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from broker.errors import Failed
from broker.store.database import (
    BUSY_TIMEOUT_MS,
    _migrations,
    application_id,
    bytes_of,
    columns,
    columns_of,
    failure,
)
from broker.store.lock import RESTORING, interrupted

# The databases of a data directory, by schema.
DATABASES: Final = {
    "records": "records.db",
    "journal": "journal.db",
    "messages": "messages.db",
    "content": "content.db",
}
CERTS: Final = "certs"
_PROBLEMS_TOLD: Final = 3
_OF_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class State(StrEnum):
    """How something is. All but the first two are wrong."""

    OK = "ok"
    OLDER = "older"  # of an earlier version; migrated at the next start
    NEWER = "newer"
    DAMAGED = "damaged"
    MISSING = "missing"
    FOREIGN = "foreign"  # a database, but not one of ours
    UNREADABLE = "unreadable"
    INTERRUPTED = "interrupted"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, how it is, and what to do where it is not well.

    Of a database: its version, its size with what is still to go into it, and how many rows each table has.
    """

    name: str
    path: str
    state: State
    words: str
    remedy: str = ""
    schema: int | None = None
    bytes: int | None = None
    tables: dict[str, int] = {}

    @property
    def well(self) -> bool:
        """Whether nothing has to be done."""
        return self.state in (State.OK, State.OLDER)

    def failed(self) -> Failed:
        """The error that it is, where it is not well."""
        return Failed(f"{self.path}: {self.words}", remedy=self.remedy)


def is_data(path: Path) -> bool:
    """Whether this is a data directory, whatever is missing in it."""
    return any((path / name).exists() for name in ("lock", RESTORING, *DATABASES.values()))


def check_data(data: Path, *, full: bool = False) -> list[Finding]:
    """How the databases of a data directory are, and whether its authority is there."""
    findings = []
    if (data / RESTORING).exists():
        error = interrupted(data)
        findings.append(
            Finding(
                name="restore",
                path=str(data / RESTORING),
                state=State.INTERRUPTED,
                words=error.message,
                remedy=error.remedy,
            )
        )
    findings += [check_database(data / name, schema, full=full) for schema, name in DATABASES.items()]
    return [*findings, check_authority(data)]


def check_authority(data: Path) -> Finding:
    """Only whether it is there: what its certificates say is the business of `doctor`."""
    path = data / CERTS
    missing = [name for name in ("ca.crt", "ca.key") if not (path / name).exists()]
    if not missing:
        return Finding(name=CERTS, path=str(path), state=State.OK, words="the authority and its key are there")
    words = f"no {' and no '.join(missing)}: without our authority every device would have to enrol again"
    return Finding(name=CERTS, path=str(path), state=State.MISSING, words=words, remedy=_way_back(data))


def _way_back(data: Path) -> str:
    return f"pushbroker store restore BACKUP --data {data}"


def check_database(path: Path, schema: str, *, full: bool = False, closed: bool = False) -> Finding:
    """How the database at `path` is.

    `closed` says that nobody has it open, as in a backup: then no lock is taken, and nothing is made beside it.
    """
    way_back = "Use another backup." if closed else _way_back(path.parent)
    damaged = Finding(name=schema, path=str(path), state=State.DAMAGED, words="the file is empty", remedy=way_back)
    wal = path.with_name(f"{path.name}-wal")
    try:
        size = path.stat().st_size
        if not size:
            return damaged
        log = 0 if closed else bytes_of(wal)
        damaged = replace(damaged, bytes=size + log)
        uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if closed else ''}"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)) as db:
            # SQLite takes what is missing of the last page for zeros. With a log this may be an interrupted checkpoint.
            if not log and size % _pragma(db, "page_size"):
                return replace(damaged, words="it ends within a page")
            return _look(db, damaged, full=full)
    except FileNotFoundError:
        if wal.exists():
            return replace(damaged, words=f"the file is gone, but {wal.name} is there")
        return replace(
            damaged,
            state=State.MISSING,
            words="there is none: as it should be before the first start, and a loss later",
        )
    except OSError as error:
        words = f"it cannot be read: {error.strerror}"
        return replace(damaged, state=State.UNREADABLE, words=words, remedy="Run this with sudo.")
    except UnicodeDecodeError:  # SQLite quotes what it does not understand
        return replace(damaged, words="its schema is no text")
    except sqlite3.Error as error:
        failed = failure(path, error)
        # What else SQLite has to say of statements that are right, it says of the file.
        if failed is None or error.sqlite_errorcode & 0xFF in _OF_DAMAGE:
            return replace(damaged, words=str(error))
        return replace(damaged, state=State.UNREADABLE, words=failed.message, remedy=failed.remedy)


def _look(db: sqlite3.Connection, damaged: Finding, *, full: bool) -> Finding:
    """How it is, as far as it can be read at all; `damaged` is the finding that it would be at the worst."""
    db.text_factory = lambda text: text.decode(errors="replace")
    db.execute("PRAGMA trusted_schema = OFF")
    schema = damaged.name
    if problems := list(_problems(db, full=full)):
        return replace(damaged, words="; ".join(problems))
    if _pragma(db, "application_id") != application_id(schema):
        words = f"it is a database, but not one of pushbroker's {schema}"
        remedy = f"Name the right data directory, or move {damaged.path} away."
        return replace(damaged, state=State.FOREIGN, words=words, remedy=remedy)
    migrations = _migrations(schema)
    newest = len(migrations)
    version = _pragma(db, "user_version")
    damaged = replace(damaged, schema=version, tables=_counts(db))
    if version > newest:
        words, remedy = f"schema {version}, and this program knows {newest}", "Install the version that wrote it."
        return replace(damaged, state=State.NEWER, words=words, remedy=remedy)
    if columns(db) != columns_of(migrations[:version]):
        return replace(damaged, words=f"its tables are not those of schema {version}")
    if version < newest:
        words = f"whole, schema {version} of {newest}: it is migrated at the next start"
        return replace(damaged, state=State.OLDER, words=words, remedy="")
    return replace(damaged, state=State.OK, words=f"whole, schema {version}", remedy="")


def _problems(db: sqlite3.Connection, *, full: bool) -> Iterator[str]:
    statement = f"PRAGMA {'integrity_check' if full else 'quick_check'}({_PROBLEMS_TOLD})"
    lines = [line for row in db.execute(statement) for line in row[0].splitlines()]
    if lines != ["ok"]:
        told = [line for line in lines if not line.startswith("***")]  # that is a heading
        yield from (told or lines)[:_PROBLEMS_TOLD]
    elif full:
        tables = {row[0] for row in db.execute("PRAGMA foreign_key_check")}
        yield from (f"rows of {table} refer to what is not there" for table in sorted(tables))
        yield from _words_problems(db)


def _words_problems(db: sqlite3.Connection) -> Iterator[str]:
    """What FTS5 says of its indexes. It says so only to who may write: to a copy in a file of SQLite's own."""
    found = "SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL TABLE % USING fts5 %'"
    names = [name for (name,) in db.execute(found)]
    if not names:
        return
    with closing(sqlite3.connect("", isolation_level=None)) as copy:
        db.backup(copy)
        for name in names:
            try:
                copy.execute(f"INSERT INTO {name} ({name}) VALUES ('integrity-check')")  # noqa: S608
            except sqlite3.DatabaseError:
                yield f"the words of {name} are not those of its rows"


def _counts(db: sqlite3.Connection) -> dict[str, int]:
    tables = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1")
    return {name: db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for (name,) in tables.fetchall()}  # noqa: S608


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
