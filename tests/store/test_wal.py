"""find_hole: sees the holes that SQLite takes for the end of a log, and takes no torn end for a hole."""

import random
import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest

from broker.store.wal import find_hole

COMMITS = 12
HEADER = 32
FRAME = 4096 + 24


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM t").fetchone()[0])


def crashed(path: Path, commits: int = COMMITS, pages: int = 1, *, goes_on: Path | None = None) -> Path:
    """A database as a process that was killed leaves it: `commits` are in its log, each of them `pages` and some."""
    work = path.with_name(f"{path.name}.work")
    for suffix in ("", "-wal"):
        if goes_on is not None:
            shutil.copyfile(f"{goes_on}{suffix}", f"{work}{suffix}")
    with closing(sqlite3.connect(work, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.execute("CREATE TABLE IF NOT EXISTS t (x)")
        for _ in range(commits):
            database.execute("INSERT INTO t VALUES (?)", [random.Random(pages).randbytes(pages * 4096)])
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{work}{suffix}", f"{path}{suffix}")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return crashed(tmp_path / "a.db")


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def commits_at(log: bytes) -> list[int]:
    """Where the frames are that end a transaction."""
    return [at for at in range(HEADER, len(log), FRAME) if struct.unpack_from(">I", log, at + 4)[0]]


def test_a_whole_one(path: Path) -> None:
    assert find_hole(log_of(path)) == ""
    assert rows(path) == COMMITS
    assert find_hole(log_of(path)) == ""  # without a log


@pytest.mark.parametrize("offset", [0, 4, 8, 12, 16, 20, 24, 2000, 4119])
def test_a_hole_is_seen_as_long_as_two_commits_follow(path: Path, offset: int) -> None:
    log = log_of(path)
    whole = log.read_bytes()
    *_, last_but_one, _last = commits_at(whole)
    for frame in range(HEADER, len(whole), FRAME):
        damaged = bytearray(whole)
        damaged[frame + offset] ^= 4
        log.write_bytes(damaged)
        # A checksum that is wrong as it is written spoils the next frame, too.
        follows = frame + (FRAME if 16 <= offset < 24 else 0)
        assert bool(find_hole(log_of(path))) == (follows < last_but_one), frame
    log.write_bytes(whole)
    assert find_hole(log_of(path)) == ""


@pytest.mark.parametrize("offset", range(0, HEADER, 4))
def test_a_wrong_header_is_seen(path: Path, offset: int) -> None:
    log = log_of(path)
    damaged = bytearray(log.read_bytes())
    damaged[offset] ^= 4
    log.write_bytes(damaged)
    assert "header" in find_hole(log_of(path))


@pytest.mark.parametrize("fill", [b"", b"\0", b"\xff"])
def test_a_torn_end_is_none(path: Path, tmp_path: Path, fill: bytes) -> None:
    log = log_of(path)
    whole = log.read_bytes()
    ends = [at + FRAME for at in commits_at(whole)]
    for before, end in zip([HEADER, *ends], ends, strict=False):
        for kept in (before, before + 10, end - 1):
            log.write_bytes(whole[:kept] + fill * (end - kept))
            assert find_hole(log_of(path)) == "", kept
    log.write_bytes(b"")
    assert find_hole(log_of(path)) == ""
    log.write_bytes(bytes(5000))
    assert find_hole(log_of(path)) == ""


def test_what_is_left_of_failed_attempts_is_none(tmp_path: Path) -> None:
    """A commit that fails is written over by the next one, and what it was longer stays, with its end."""
    begun = crashed(tmp_path / "begun.db")
    log = b""
    for pages in (60, 40, 20):  # of which all but the last failed
        attempt = crashed(tmp_path / f"{pages}.db", 1, pages, goes_on=begun)
        attempted = log_of(attempt).read_bytes()
        log = attempted + log[len(attempted) :]
    log_of(attempt).write_bytes(log)
    assert len(commits_at(log)) == len(commits_at(log_of(begun).read_bytes())) + 3
    assert find_hole(log_of(attempt)) == ""
    assert rows(attempt) == COMMITS + 1


def test_what_is_left_of_an_earlier_log_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(tmp_path / "work.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (x)")
        for _ in range(20):
            database.execute("INSERT INTO t VALUES (zeroblob(5000))")
        database.execute("PRAGMA wal_checkpoint(RESTART)")
        database.execute("INSERT INTO t VALUES (1)")
        for suffix in ("", "-wal"):
            shutil.copyfile(tmp_path / f"work.db{suffix}", f"{path}{suffix}")
    assert len(commits_at(log_of(path).read_bytes())) > 20
    assert find_hole(log_of(path)) == ""
    assert rows(path) == 21


def test_holes_are_normal_where_no_commit_waited_for_the_disk(path: Path) -> None:
    log = log_of(path)
    damaged = bytearray(log.read_bytes())
    damaged[HEADER + 100] ^= 4
    log.write_bytes(damaged)
    assert "wrong" in find_hole(log_of(path))
    assert find_hole(log_of(path), durable=False) == ""
    damaged[0] ^= 4
    log.write_bytes(damaged)
    assert "header" in find_hole(log_of(path), durable=False)
