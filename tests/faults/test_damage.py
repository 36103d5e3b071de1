"""Files that are damaged: the start is refused with the way back, nothing is changed, and never is a start empty.

What a power cut leaves is no damage: the end of the -wal is missing, and what was committed before it is there.

`FAULTS_LONG=1 .venv/bin/pytest -n 2 tests/faults/test_damage.py` flips bytes at some hundred places instead of a few.
"""

import asyncio
import os
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.cli import Done
from support.mqtt import Client
from support.served import Served, gets, publish

FLIPS = 300 if os.environ.get("FAULTS_LONG") else 4
ENV = {"PUSHBROKER_QUEUE_BYTES_MAX": str(64 << 20)}
BODY = 1500
COUNT = 120


def payload(n: int) -> bytes:
    return b"%d " % n + bytes([n % 256]) * BODY


async def fill(broker: Served) -> None:
    """Sessions, and messages that wait for them; brands and users."""
    for n in range(20):
        await broker.away(f"session-{n}", f"t/{n}", "all/#", qos=1)
    sender = await broker.client("sender")
    for n in range(COUNT):
        assert await publish(sender, "all/x", payload(n)) == 0
    for n in range(30):
        broker.ask("brand.add", name=f"brand-{n}")
        broker.ask("user.add", brand=f"brand-{n}", name="ada")
    await Client.abort_all()


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data directories: `stopped`, which is whole in its databases, and `killed`, with much in their -wal files."""
    made = tmp_path_factory.mktemp("stores")
    for name in ("stopped", "killed"):
        (made / name).mkdir()
        with Served(made / name, **ENV) as broker:
            asyncio.run(fill(broker))
            if name == "stopped":
                assert broker.stop().code == 0
    return made


@pytest.fixture
def stopped(stores: Path, tmp_path: Path) -> Path:
    shutil.copytree(stores / "stopped" / "data", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def killed(stores: Path, tmp_path: Path) -> Path:
    shutil.copytree(stores / "killed" / "data", tmp_path / "data", ignore=shutil.ignore_patterns("*.sock"))
    return tmp_path / "data"


def is_refused(directory: Path, path: Path) -> Done:
    """The start ends at once, says which file it is and how to get it back, and leaves all files as they are."""
    files = [path, path.with_name(path.name + "-wal")]
    before = contents(files)
    done = Served(directory, **ENV).refused()
    assert done.code == 1, done
    assert "Traceback" not in done.err
    error, remedy = [line for line in done.err.splitlines() if not line.startswith("{")]
    assert error.startswith("error: "), error
    assert str(path) in error
    assert remedy.startswith("  try: "), remedy
    assert "backup" in remedy.lower()
    assert contents(files) == before
    return done


def contents(files: list[Path]) -> list[bytes]:
    return [file.read_bytes() if file.exists() else b"" for file in files]


async def whole(broker: Served, count: int = COUNT) -> None:
    """Nothing is missing of the first `count` messages."""
    assert broker.status["sessions"] == 20
    for n in (0, 19):
        client = await broker.lasting(f"session-{n}")
        assert client.connack.session_present
        await gets(client, [payload(i) for i in range(count)])
    assert len(broker.ask("brand.list")) == 30


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size] if size >= 0 else data[: len(data) + size]


def page_types(data: bytes) -> bytes:
    """No page is of a type that there is."""
    size = page_size(data)
    damaged = bytearray(data)
    for start in range(size, len(data), size):
        damaged[start] ^= 0xFF
    return bytes(damaged)


def page_size(data: bytes) -> int:
    (size,) = struct.unpack_from(">H", data, 16)
    return int(size) if size > 1 else 65536


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "zero length": cut(0),
    "the first page": cut(4096),
    "half": lambda data: data[: len(data) // 2],
    "a page less": cut(-4096),
    "half a page less": cut(-2048),
    "noise": lambda data: random.Random(1).randbytes(len(data)),
    "no magic": lambda data: b"\0" * 16 + data[16:],
    "page types": page_types,
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("journal.db", damage) for damage in DAMAGES),
        *(("records.db", damage) for damage in ("zero length", "half", "page types")),
    ],
)
def test_a_damaged_database(tmp_path: Path, stopped: Path, name: str, damage: str) -> None:
    path = stopped / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    is_refused(tmp_path, path)


@pytest.mark.parametrize("name", ["journal.db", "records.db"])
def test_a_database_that_is_gone_while_its_wal_is_there(tmp_path: Path, killed: Path, name: str) -> None:
    path = killed / name
    path.unlink()
    assert path.with_name(name + "-wal").stat().st_size > 0
    assert "is gone" in is_refused(tmp_path, path).err
    assert not path.exists()


async def test_a_damaged_database_keeps_its_wal(tmp_path: Path, stopped: Path) -> None:
    """Who closes a database puts its -wal into it. From one that was refused, both may still be wanted."""
    path = stopped / "journal.db"
    with Served(tmp_path, **ENV) as broker:
        assert await publish(await broker.client(), "all/more", b"more") == 0
    assert (stopped / "journal.db-wal").stat().st_size > 0
    damaged = bytearray(path.read_bytes())
    size = page_size(damaged)
    for page in range(len(damaged) // size // 4, len(damaged) // size * 3 // 4):
        damaged[page * size] ^= 0xFF
    path.write_bytes(damaged)
    is_refused(tmp_path, path)


@pytest.mark.parametrize("part", range(2))
async def test_flipped_bytes(tmp_path: Path, stopped: Path, part: int) -> None:
    """What SQLite can see is refused. Elsewhere, in a payload or in unused space, the start is as usual."""
    path = stopped / "journal.db"
    data = path.read_bytes()
    size = page_size(data)
    random_ = random.Random(part)
    refused = 0
    for n in range(FLIPS):
        # Half of the places are where pages have their structure, the others anywhere.
        start = random_.randrange(len(data) // size) * size
        place = start + random_.randrange(8 if n % 2 else size)
        damaged = bytearray(data)
        damaged[place] ^= 1 << random_.randrange(8)
        path.write_bytes(damaged)
        if seen(path):
            refused += 1
            is_refused(tmp_path, path)
            assert path.read_bytes() == damaged
        else:
            broker = Served(tmp_path, **ENV)
            with broker:
                assert broker.status["sessions"] == 20, place
                assert broker.journal["messages"] == COUNT, place
                assert "Traceback" not in broker.log, place
                assert broker.stop().code == 0, place
    assert refused >= FLIPS // 4


def seen(path: Path) -> bool:
    """Whether SQLite itself finds something wrong with the file."""
    copy = path.with_name("copy.db")
    shutil.copyfile(path, copy)
    try:
        with closing(sqlite3.connect(copy)) as database:
            return database.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]
    except sqlite3.Error:
        return True
    finally:
        copy.unlink()


# -- the -wal ----------------------------------------------------------------------------------------------------------

WAL_HEADER = 32
FRAME_HEADER = 24


def frame_bytes(wal: bytes) -> int:
    (size,) = struct.unpack_from(">I", wal, 8)
    return int(size) + FRAME_HEADER


async def test_a_crash_loses_nothing(tmp_path: Path, killed: Path) -> None:
    with Served(tmp_path, **ENV) as broker:
        await whole(broker)


async def test_a_damaged_shm_is_made_anew(tmp_path: Path, killed: Path) -> None:
    shm = killed / "journal.db-shm"
    shm.write_bytes(random.Random(1).randbytes(shm.stat().st_size))
    with Served(tmp_path, **ENV) as broker:
        await whole(broker)


async def test_a_torn_tail_of_the_wal(tmp_path: Path, killed: Path) -> None:
    """As a power cut leaves it, before the commit returned: what was committed before is there, all of it."""
    log, database = killed / "journal.db-wal", killed / "journal.db"
    committed = len(log.read_bytes())
    with Served(tmp_path, **ENV) as broker:
        assert await publish(await broker.client(), "all/more", b"one more") == 0
        broker.kill()
    before, whole = database.read_bytes(), log.read_bytes()
    assert len(whole) > committed
    for lost, tail in ((1, b""), (3000, bytes(3000)), (3000, random.Random(1).randbytes(3000))):
        database.write_bytes(before)
        log.write_bytes(whole[:-lost] + tail)
        with Served(tmp_path, **ENV) as broker:
            assert broker.status["sessions"] == 20
            assert COUNT <= broker.journal["messages"] <= COUNT + 1
            broker.kill()
    with Served(tmp_path, **ENV) as broker:
        client = await broker.lasting("session-0")
        for n in range(COUNT):
            await client.expect_message(payload(n), acknowledge=False)


@pytest.mark.parametrize(
    ("name", "damage"),
    [*(("journal.db", damage) for damage in ("header", "noise", "in the middle")), ("records.db", "in the middle")],
)
def test_a_damaged_wal(tmp_path: Path, killed: Path, name: str, damage: str) -> None:
    """SQLite takes it for one that ends there. What was committed after that would be lost without a word."""
    wal = killed / f"{name}-wal"
    data = bytearray(wal.read_bytes())
    frame = frame_bytes(data)
    assert len(data) > WAL_HEADER + 20 * frame
    if damage == "in the middle":
        data[WAL_HEADER + 5 * frame + FRAME_HEADER + 100] ^= 1
    else:
        end = WAL_HEADER if damage == "header" else len(data)
        data[:end] = random.Random(1).randbytes(end)
    wal.write_bytes(data)
    done = is_refused(tmp_path, killed / name)
    assert f"{name}-wal" in done.err
