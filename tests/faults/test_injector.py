"""The faults themselves: SQLite in another process gets what was ordered, when it was ordered, and nothing else."""

import errno
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.faults import CALLS, Faults

# Answers each line, a statement, with how it ended: its rows, or the name of its error.
_SHELL = """
import json, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    try:
        answer = database.execute(line).fetchall()
    except sqlite3.Error as error:
        answer = getattr(error, "sqlite_errorname", str(error))
    print(json.dumps(answer), flush=True)
"""


class Shell:
    """SQLite in a process of its own."""

    def __init__(self, path: Path, faults: Faults) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SHELL, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=faults.environment,
        )

    def __call__(self, statement: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(statement + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "journal.db"


@pytest.fixture
def shell(path: Path, faults: Faults) -> Iterator[Shell]:
    """Twenty rows of 10 kB in a database, and another one beside it that nothing happens to."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (x)")
        database.executemany("INSERT INTO t VALUES (?)", [(bytes(10_000),)] * 20)
        database.commit()
    shell = Shell(path, faults)
    try:
        assert shell("PRAGMA synchronous = FULL") == shell("PRAGMA cache_size = 1") == []
        yield shell
    finally:
        shell.close()


INSERT = "INSERT INTO t VALUES (zeroblob(20000))"
COUNT = "SELECT count(*), sum(length(x)) FROM t"
WHOLE = "PRAGMA integrity_check"


@pytest.mark.parametrize(
    ("call", "error", "name"),
    [
        ("write", errno.ENOSPC, "SQLITE_FULL"),
        ("write", errno.EIO, "SQLITE_IOERR_WRITE"),
        ("sync", errno.EIO, "SQLITE_IOERR_FSYNC"),
    ],
)
def test_a_commit_fails_as_long_as_it_should(shell: Shell, faults: Faults, call: str, error: int, name: str) -> None:
    assert shell(INSERT) == []
    faults.set(call, error=error)
    assert shell(INSERT) == name
    assert shell(INSERT) == name
    assert faults.count(call) >= 2
    assert faults.count(*(other for other in CALLS if other != call)) == 0
    faults.clear()
    assert shell(INSERT) == []
    assert shell(COUNT) == [[22, 20 * 10_000 + 2 * 20_000]]
    assert shell(WHOLE) == [["ok"]]


def test_reads_fail(shell: Shell, faults: Faults) -> None:
    faults.set("read", error=errno.EIO)
    assert shell(COUNT) in ("SQLITE_CORRUPT", "SQLITE_IOERR_READ")  # newer versions of SQLite take EIO for damage
    assert faults.count("read") > 0
    faults.clear()
    assert shell(COUNT) == [[20, 200_000]]


def test_reads_bring_garbage(shell: Shell, faults: Faults) -> None:
    assert shell(COUNT) == [[20, 200_000]]
    faults.set("read", garble=True, files=("database",))
    assert shell(COUNT) in ("SQLITE_CORRUPT", "SQLITE_NOTADB")
    assert faults.count("read") > 0


def test_files_do_not_open(path: Path, shell: Shell, faults: Faults) -> None:
    assert shell(COUNT) == [[20, 200_000]]
    faults.set("open", error=errno.EIO)
    assert shell(INSERT) == []  # what is open stays open
    shell("PRAGMA journal_mode = DELETE")
    assert shell(INSERT) == "SQLITE_CANTOPEN"


def test_files_are_not_truncated(shell: Shell, faults: Faults) -> None:
    assert shell(INSERT) == []
    faults.set("truncate", error=errno.EIO)
    assert shell("PRAGMA wal_checkpoint(TRUNCATE)") == "SQLITE_IOERR_TRUNCATE"
    assert faults.count("truncate") == 1


def test_calls_take_their_time(shell: Shell, faults: Faults) -> None:
    faults.set("sync", delay_ms=300, files=("wal",))
    before = faults.calls("sync", files=("wal",))
    began = time.monotonic()
    assert shell(INSERT) == []
    syncs = faults.calls("sync", files=("wal",)) - before
    assert syncs >= 1
    assert 0.3 * syncs <= time.monotonic() - began < 0.3 * syncs + 1


def test_calls_do_a_part_at_a_time(shell: Shell, faults: Faults) -> None:
    """SQLite goes on where a call has ended, so nothing else is to be seen of it."""
    before = faults.calls("write")
    assert shell(INSERT) == []
    usual = faults.calls("write") - before
    faults.set("write", part=100, files=("wal",))
    assert shell(INSERT) == []
    assert faults.calls("write") - before - usual > 10 * usual
    faults.clear()
    assert shell(COUNT) == [[22, 240_000]]
    assert shell(WHOLE) == [["ok"]]


def test_a_rule_can_wait_for_its_turn(shell: Shell, faults: Faults) -> None:
    faults.set("sync", error=errno.EIO, files=("wal",), skip=2)
    before = faults.calls("sync", files=("wal",))
    answers = []
    while faults.count("sync") == 0:
        answers.append(shell(INSERT))
    assert answers == [[]] * (len(answers) - 1) + ["SQLITE_IOERR_FSYNC"]
    assert faults.calls("sync", files=("wal",)) - before == 3


def test_only_the_files_that_are_meant(tmp_path: Path, shell: Shell, faults: Faults) -> None:
    with closing(sqlite3.connect(tmp_path / "data" / "records.db")) as other:
        other.execute("CREATE TABLE t (x)")
    shell(f"ATTACH '{tmp_path / 'data' / 'records.db'}' AS other")
    faults.set("write", "sync", error=errno.EIO, files=("wal",))
    assert shell("INSERT INTO other.t VALUES (1)") == []
    assert faults.count(*CALLS) == 0
    assert shell(INSERT) == "SQLITE_IOERR_WRITE"
