"""SqliteJournal where the disk or the system fails: `Failed`, nothing of the batch, and it goes on afterwards."""

import asyncio
import resource
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from broker.errors import Failed
from broker.journal import Batch, SavedDelivery, SavedMessage, SavedSession
from broker.store import database
from broker.store.journal import SqliteJournal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = await SqliteJournal.open(path)
    yield journal
    await journal.close()


def batch_of(*seqs: int, payload: bytes = b"Ciao") -> Batch:
    """Messages, a session for each, and a delivery."""
    batch = Batch()
    batch.messages = [SavedMessage(seq, b"acme/user/ada", payload, 1) for seq in seqs]
    batch.sessions = {n: SavedSession(n, f"{n}", "device", "acme", "k", "", "", True, 9, 0.0, 0, 1) for n in seqs}
    batch.deliveries = {(seq, seq, 1): SavedDelivery(seq, 1, 0, 1) for seq in seqs}
    return batch


async def kept(journal: SqliteJournal) -> list[int]:
    """The numbers of what is there, which must be there whole."""
    seqs = [seq async for page in journal.index() for seq, *_ in page]
    sessions = [session async for session in journal.sessions()]
    assert [session.number for session in sessions] == seqs
    assert [d.seq for session in sessions for d in session.deliveries] == seqs
    return seqs


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size`: a write there fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk(journal: SqliteJournal, path: Path) -> None:
    await journal.commit(batch_of(1))
    ((pages,),) = await journal._writer.all("PRAGMA page_count")
    await journal._writer.all(f"PRAGMA max_page_count = {pages}")
    large = batch_of(2, 3, payload=bytes(100_000))
    for _ in range(2):
        with pytest.raises(Failed, match="no room left") as caught:
            await journal.commit(large)
        assert "df -h" in caught.value.remedy
        assert await kept(journal) == [1]
    await journal._writer.all(f"PRAGMA max_page_count = {pages + 1000}")
    await journal.commit(large)
    assert await kept(journal) == [1, 2, 3]


@pytest.mark.parametrize("payload", [100, 100_000, 20 << 20], ids=["one page", "some pages", "more than the cache"])
async def test_a_write_that_fails_at_the_commit(journal: SqliteJournal, path: Path, payload: int) -> None:
    await journal.commit(batch_of(1))
    wal = path.with_name("journal.db-wal")
    batch = batch_of(2, 3, payload=bytes(payload))
    with files_up_to(wal.stat().st_size + min(payload, 30_000) // 2 + 1):
        for _ in range(2):
            with pytest.raises(Failed, match="the disk failed") as caught:
                await journal.commit(batch)
            assert "dmesg" in caught.value.remedy
        assert await kept(journal) == [1]
    await journal.commit(batch_of(4))
    await journal.commit(batch)
    await journal.close()
    again = await SqliteJournal.open(path)
    try:
        assert await kept(again) == [1, 2, 3, 4]
    finally:
        await again.close()


async def test_a_process_that_died_after_a_failed_write_leaves_nothing_of_it(
    journal: SqliteJournal, path: Path, tmp_path: Path
) -> None:
    await journal.commit(batch_of(1))
    with files_up_to(path.with_name("journal.db-wal").stat().st_size + 50_000), pytest.raises(Failed):
        await journal.commit(batch_of(2, payload=bytes(100_000)))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("journal.db", "journal.db-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    after = await SqliteJournal.open(copy / "journal.db")
    try:
        assert await kept(after) == [1]
        await after.commit(batch_of(2))
        assert await kept(after) == [1, 2]
    finally:
        await after.close()


async def test_another_writer(journal: SqliteJournal, path: Path) -> None:
    await journal._writer.all("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Failed, match="another process"):
            await journal.commit(batch_of(1))
        with pytest.raises(Failed, match="another process"):
            await journal.probe()
        assert await kept(journal) == []
    await journal.commit(batch_of(1))
    assert await kept(journal) == [1]


async def test_a_batch_that_breaks_a_rule_is_a_bug_and_leaves_nothing(journal: SqliteJournal) -> None:
    batch = batch_of(1, 2)
    batch.messages[1].payload = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        await journal.commit(batch)
    batch = batch_of(1, 2)
    batch.deliveries[2, 2, 1] = SavedDelivery(2, 1, None, 1)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        await journal.commit(batch)
    assert await kept(journal) == []
    await journal.commit(batch_of(3))
    assert await kept(journal) == [3]


async def test_a_cancelled_commit_is_whole(journal: SqliteJournal) -> None:
    go_on = threading.Event()
    before = asyncio.create_task(journal._writer.call(lambda db: go_on.wait()))
    commit = asyncio.create_task(journal.commit(batch_of(1, 2)))
    await asyncio.sleep(0)  # let both begin
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    go_on.set()
    await before
    await journal.commit(batch_of(3))
    assert await kept(journal) == [1, 2, 3]


async def test_what_cannot_be_read_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await SqliteJournal.open(path)
    batch = batch_of(*range(1, 500), payload=bytes(1000))
    batch.retained = {message.topic + b"/%d" % message.seq: message for message in batch.messages}
    await journal.commit(batch)
    await journal.close()
    with closing(sqlite3.connect(path)) as db, path.open("r+b") as file:
        for (page,) in db.execute("SELECT rootpage FROM sqlite_schema WHERE name IN ('log', 'session', 'retained')"):
            file.seek((page - 1) * 4096)
            file.write(b"\xff" * 4096)
    monkeypatch.setattr(database, "CHECKED_BYTES_MAX", 0)
    journal = await SqliteJournal.open(path)
    try:
        with pytest.raises(Failed, match="damaged"):
            await journal.fetch(range(1, 500))
        for read in (journal.index(), journal.sessions(), journal.retained()):
            with pytest.raises(Failed, match="damaged") as caught:
                async for _ in read:
                    pass
            assert "backup" in caught.value.remedy
        with pytest.raises(Failed, match="damaged"):
            await journal.totals()
    finally:
        await journal.close()


async def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(Failed, match="too old") as caught:
        await SqliteJournal.open(path)
    assert "3.38" in caught.value.remedy
    assert not path.exists()


async def test_a_probe_says_what_a_commit_would(journal: SqliteJournal, path: Path) -> None:
    await journal.commit(batch_of(1))
    full = path.with_name("journal.db-wal").stat().st_size
    with files_up_to(full), pytest.raises(Failed, match="the disk failed"):
        await journal.probe()
    await journal.probe()
