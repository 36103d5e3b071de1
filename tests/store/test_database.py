"""open_database: whole or not at all, at this version's schema, and never silently empty."""

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiosqlite
import pytest
from support.stores import DAMAGES, make_data

from broker.errors import Failed
from broker.store import database
from broker.store.check import DATABASES
from broker.store.database import Database, application_id, failure, guarded, open_database, open_reader


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


async def value(db: aiosqlite.Connection, pragma: str) -> object:
    ((found,),) = await db.execute_fetchall(f"PRAGMA {pragma}")
    return found


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Database]:
    db = await open_database(path, "records")
    try:
        yield db
    finally:
        await db.close()


async def made(path: Path) -> None:
    await (await open_database(path, "records")).close()


async def refused(path: Path, schema: str = "records") -> Failed:
    with pytest.raises(Failed) as caught:
        await (await open_database(path, schema)).close()
    assert caught.value.remedy
    assert str(path) in caught.value.message
    return caught.value


async def test_a_new_one_is_durable_private_and_at_the_newest_version(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    old = os.umask(0)
    try:
        async with opened(path) as db:
            assert await value(db, "journal_mode") == "wal"
            assert await value(db, "synchronous") == 2  # FULL
            assert await value(db, "foreign_keys") == 1
            assert await value(db, "busy_timeout") == 5000
            assert await value(db, "application_id") == application_id("records")
            assert await value(db, "user_version") == len(database._migrations("records"))
            await db.execute_fetchall("INSERT INTO brands (name, title, created_at) VALUES ('acme', '', 0)")
            assert modes_in(tmp_path) == {"records.db": 0o600, "records.db-wal": 0o600, "records.db-shm": 0o600}
    finally:
        os.umask(old)


async def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    async with opened(path) as db:
        await db.execute_fetchall("INSERT INTO brands (name, title, created_at) VALUES ('acme', '', 0)")
    async with opened(path) as db:
        assert [tuple(row) for row in await db.execute_fetchall("SELECT name FROM brands")] == [("acme",)]


async def test_every_schema_has_its_own_mark(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    await made(path)
    assert "not one of pushbroker's journal" in (await refused(path, "journal")).message


async def test_a_foreign_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    assert "not one of pushbroker's records" in (await refused(path)).message
    assert path.read_bytes() == before


async def test_a_newer_store_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    await made(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 900")
    failed = await refused(path)
    assert "newer" in failed.message
    assert "900" in failed.message
    assert "Install that version" in failed.remedy
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (900,)


@pytest.mark.parametrize("damage", ["text", "header", "truncated", "page", "empty"])
async def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "records.db"
    async with opened(path) as db:
        await db.execute_fetchall(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
            " INSERT INTO brands (name, title, created_at) SELECT 'brand-' || i, printf('%.100c', 'x'), 0 FROM n"
        )
    whole = path.read_bytes()
    broken = {
        "text": b"not a database at all\n" * 100,
        "header": b"\0" * 100 + whole[100:],
        "truncated": whole[: len(whole) // 2 // 4096 * 4096],
        "page": whole[:4096] + b"\xff" * 4096 + whole[8192:],
        "empty": b"",
    }[damage]
    path.write_bytes(broken)
    failed = await refused(path)
    assert "damaged" in failed.message
    assert "backup" in failed.remedy
    assert path.read_bytes() == broken


async def test_a_log_without_its_database_is_no_empty_start(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    (tmp_path / "records.db-wal").write_bytes(b"what is left")
    assert "records.db-wal" in (await refused(path)).message
    assert not path.exists()


async def test_a_start_that_was_interrupted_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "records.db.new").write_bytes(b"")
    (tmp_path / "records.db.new-journal").write_bytes(b"half")
    await made(tmp_path / "records.db")
    assert modes_in(tmp_path) == {"records.db": 0o600}


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in (await refused(tmp_path / "none" / "records.db")).message


async def test_a_migration_runs_once_and_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.db"
    await made(path)
    first = database._migrations("records")
    second = "CREATE TABLE more (x INTEGER);\nINSERT INTO more VALUES (1);"

    monkeypatch.setattr(database, "_migrations", lambda schema: (*first, second + "INSERT INTO nowhere VALUES (1);"))
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):  # a bug of ours, and not dressed up
        await open_database(path, "records")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(first),)
        assert db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'more'").fetchone() == (0,)

    monkeypatch.setattr(database, "_migrations", lambda schema: (*first, second))
    for _ in range(2):
        async with opened(path) as db:
            assert await value(db, "user_version") == len(first) + 1
            assert [tuple(row) for row in await db.execute_fetchall("SELECT x FROM more")] == [(1,)]


async def test_a_full_disk_is_said_and_does_not_end_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    async with opened(path) as db:
        pages = await value(db, "page_count")
        await db.execute_fetchall(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(Failed, match="no room left") as caught, guarded(path):
            await db.execute_fetchall(
                "INSERT INTO brands (name, title, created_at) VALUES ('acme', printf('%.99999c', 'x'), 0)"
            )
        assert "df -h" in caught.value.remedy
        assert list(await db.execute_fetchall("SELECT * FROM brands")) == []


async def test_another_writer_is_said(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    async with opened(path) as db:
        await db.execute_fetchall("PRAGMA busy_timeout = 0")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Failed, match="another process"), guarded(path):
                await db.execute_fetchall("INSERT INTO brands (name, title, created_at) VALUES ('acme', '', 0)")


def add_brands(db: sqlite3.Connection, *names: str) -> int:
    db.execute("BEGIN IMMEDIATE")
    for name in names:
        db.execute("INSERT INTO brands (name, title, created_at) VALUES (?, '', 0)", (name,))
    db.execute("COMMIT")
    return len(names)


async def test_what_is_done_in_one_hop_is_not_mixed_with_others(tmp_path: Path) -> None:
    async with opened(tmp_path / "records.db") as db:
        added = await asyncio.gather(*(db.call(lambda raw, n=n: add_brands(raw, f"a{n}", f"b{n}")) for n in range(20)))
        assert added == [2] * 20
        assert await db.all("SELECT count(*) FROM brands WHERE name >= ?", "b") == [(20,)]


async def test_what_has_begun_goes_on_when_its_caller_is_cancelled(tmp_path: Path) -> None:
    async with opened(tmp_path / "records.db") as db:
        begun, go_on = threading.Event(), threading.Event()

        def work(raw: sqlite3.Connection) -> None:
            begun.set()
            go_on.wait()
            add_brands(raw, "acme")

        task = asyncio.create_task(db.call(work))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        assert await db.all("SELECT name FROM brands") == [("acme",)]


async def test_an_error_in_a_hop_comes_out_and_the_next_one_works(tmp_path: Path) -> None:
    async with opened(tmp_path / "records.db") as db:
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            await db.all("SELECT * FROM nowhere")
        assert await db.all("SELECT 1") == [(1,)]


async def test_a_reader_sees_each_commit_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    async with opened(path) as db:
        reader = await open_reader(path)
        try:
            for n in range(1, 4):
                await db.call(lambda raw, n=n: add_brands(raw, f"brand-{n}"))
                assert await reader.all("SELECT count(*) FROM brands") == [(n,)]
            with pytest.raises(Failed, match="cannot write"), guarded(path):
                await reader.all("DELETE FROM brands")
        finally:
            await reader.close()
    assert modes_in(tmp_path) == {"records.db": 0o600}


def test_bugs_are_not_dressed_up_as_failures(tmp_path: Path) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        for wrong in ("SELECT * FROM nowhere", "SELEKT"):
            with pytest.raises(sqlite3.OperationalError) as caught, guarded(tmp_path):
                db.execute(wrong)
            assert failure(tmp_path, caught.value) is None


async def test_the_schemas_are_shipped_as_package_data() -> None:
    assert all("CREATE TABLE" in script for script in database._migrations("records")[:1])
    with pytest.raises(FileNotFoundError):
        database._migrations("no-such-schema")


@pytest.mark.parametrize("schema", sorted(DATABASES))
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_of_many_kinds_is_refused_with_the_way_back(tmp_path: Path, schema: str, damage: str) -> None:
    await asyncio.to_thread(make_data, tmp_path / "data")
    path = tmp_path / "data" / DATABASES[schema]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    before = path.read_bytes()
    failed = await refused(path, schema)
    assert "damaged" in failed.message
    assert "pushbroker store restore" in failed.remedy
    assert path.read_bytes() == before


@pytest.mark.parametrize("there", [True, False])
async def test_who_is_cancelled_while_it_opens_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """As when a broker is told to stop while it starts: the thread would speak to a loop that is gone."""
    path = tmp_path / "records.db"
    if there:
        await made(path)
    connecting, may_go_on = threading.Event(), threading.Event()
    connect = sqlite3.connect

    def slow_connect(*args: object, **more: object) -> sqlite3.Connection:
        connecting.set()
        may_go_on.wait(10)
        return connect(*args, **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", slow_connect)
    opening = asyncio.ensure_future(open_database(path, "records"))
    await asyncio.to_thread(connecting.wait, 10)
    opening.cancel()
    done, _ = await asyncio.wait([opening], timeout=0.05)
    assert not done, "it did not wait for its thread"
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()
