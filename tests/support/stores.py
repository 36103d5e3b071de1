"""Data directories with rows in every table, and what may befall them."""

import asyncio
import os
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from support.library import item

from broker.store.check import DATABASES
from broker.store.content import Content
from broker.store.database import open_database

ROWS = 60
# What may be under way in the file system when a process ends.
_STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.chown", "sqlite3.connect"}
_FILLER: dict[str, Callable[[int], object]] = {
    "INTEGER": int,
    "REAL": float,
    "TEXT": str,
    "BLOB": lambda n: b"%d " % n + bytes([n]) * 200,
}


# Each of them leaves something that SQLite can see, or that is not of our schema.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "cut within a page": lambda whole: whole[:-1],
    "text": lambda whole: b"not a database at all\n" * 100,
    "zeros": lambda whole: bytes(len(whole)),
    "no magic": lambda whole: b"\0" * 16 + whole[16:],
    "a page overwritten": lambda whole: whole[:4096] + b"\xff" * 4096 + whole[8192:],
    "unknown file format": lambda whole: whole[:47] + b"\x09" + whole[48:],
    "schema that is no text": lambda whole: whole.replace(b"CREATE TABLE", b"CRE\xc1TE TABLE"),
    "schema 0": lambda whole: whole[:60] + bytes(4) + whole[64:],
    "another name of a table": lambda whole: whole.replace(b"CREATE TABLE", b"CREATE TABLF"),
}


def make_data(data: Path) -> Path:
    """A data directory such as a broker has left it: databases in which tables have rows, certificates, settings."""

    async def make() -> None:
        for schema, name in DATABASES.items():
            await (await open_database(data / name, schema)).close()

    data.mkdir(mode=0o700)
    asyncio.run(make())
    fill_records(data / "records.db")
    fill_journal(data / "journal.db")
    asyncio.run(fill_content(data / "content.db"))
    (data / "certs").mkdir(mode=0o700)
    for name, mode in (("ca.crt", 0o644), ("ca.key", 0o600), ("server.crt", 0o644), ("server.key", 0o640)):
        path = data / "certs" / name
        path.write_text(f"not really {name}")
        path.chmod(mode)
    (data / "pushbroker.toml").write_text("connections_max = 7\n")
    return data


def fill_records(path: Path, first: int = 0, count: int = ROWS) -> None:
    """Brands, each with a user, a device of theirs and a token, in one transaction."""
    with closing(sqlite3.connect(path)) as db, db:
        for n in range(first, first + count):
            db.execute("INSERT INTO brands (name, title, created_at) VALUES (?, ?, ?)", (f"b{n}", "title " * 20, n))
            db.execute("INSERT INTO users (brand, name, title, created_at) VALUES (?, 'ada', '', 0)", (f"b{n}",))
            db.execute(
                "INSERT INTO devices (brand, name, user, state, created_at) VALUES (?, 'kiosk', 'ada', 'active', 0)",
                (f"b{n}",),
            )
            db.execute(
                "INSERT INTO tokens (id, brand, name, hash, created_at) VALUES (?, ?, '', ?, 0)",
                (f"t{n}", f"b{n}", os.urandom(32)),
            )


async def fill_content(path: Path) -> None:
    """Items of one brand."""
    async with await Content.open(path) as content:
        await content.put([item(f"item-{n}", brand="b0", body=f"word{n} " * 20) for n in range(ROWS)], 0)


def killed(data: Path, to: Path) -> Path:
    """A copy of `data` as a killed process leaves it: five more brands are in the log (-wal) alone."""
    with closing(sqlite3.connect(data / "records.db")) as db:
        db.execute("SELECT 1 FROM brands").fetchone()  # the last one to close it would empty the log
        fill_records(data / "records.db", first=100, count=5)
        shutil.copytree(data, to)
    assert (to / "records.db-wal").stat().st_size > 0
    return to


def fill_journal(path: Path) -> None:
    """Rows in every table, whatever tables there are. Those of one number refer to each other."""
    with closing(sqlite3.connect(path)) as db, db:
        for table in tables(db):
            columns = [row[2] for row in db.execute(f'PRAGMA table_info("{table}")')]
            rows = [[_FILLER[column](n) for column in columns] for n in range(ROWS)]
            db.executemany(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(columns))})', rows)


def tables(db: sqlite3.Connection) -> list[str]:
    found = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1")
    return [name for (name,) in found]


def content(path: Path) -> dict[str, list[Any]]:
    """All rows of all tables, read without a trace."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        return {table: db.execute(f'SELECT * FROM "{table}"').fetchall() for table in tables(db)}


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of all files."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def ends_at(step: int, action: Callable[[], object]) -> bool:
    """Do it in a process that ends, as by SIGKILL, at its `step`th change of a file; whether it came that far."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads have nothing that the child needs
        child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), code
        return code == 9
    left = step

    def hook(event: str, _args: tuple[object, ...]) -> None:
        nonlocal left
        if event in _STEPS:
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(hook)
    try:
        action()
    except BaseException:  # noqa: BLE001 - the parent's pytest must not go on here
        os._exit(1)
    os._exit(0)
