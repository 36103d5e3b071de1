"""Another process that works on the journal's file: it makes commits late, or fail for a while, and harms nothing.

`FAULTS_LONG=1 .venv/bin/pytest tests/faults/test_locked.py` holds the lock for longer, too.
"""

import asyncio
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.served import Served, answering, eventually, gets, publish

from broker.wire.codes import Reason

ENV = {"PUSHBROKER_QUEUE_BYTES_MAX": str(64 << 20), "PUSHBROKER_COMMIT_WINDOW_MS": "1000"}


@pytest.mark.parametrize("seconds", [1, 7, 20] if os.environ.get("FAULTS_LONG") else [1])
async def test_a_writer(tmp_path: Path, seconds: int) -> None:
    with Served(tmp_path, **ENV) as broker, closing(_connect(broker)) as other:
        await broker.away("away", "t")
        steady = await broker.lasting("steady")
        await steady.subscribe("steady", qos=1)
        sender, second = await broker.client("sender"), await broker.client("second")
        assert await publish(sender, "t", b"before") == 0
        accepted, answers = [b"before"], []
        other.execute("BEGIN IMMEDIATE")
        until = time.monotonic() + seconds
        async with answering(steady):
            publishing = asyncio.create_task(publish(sender, "t", b"0", within_s=30))
            while time.monotonic() < until:
                at = time.monotonic()
                assert await publish(second, "steady", b"x") == 0
                assert time.monotonic() - at < 1
                if publishing.done():
                    answers.append(await publishing)
                    if answers[-1] == 0:
                        accepted.append(b"%d" % (len(answers) - 1))
                    publishing = asyncio.create_task(publish(sender, "t", b"%d" % len(answers), within_s=30))
                await asyncio.sleep(0.02)
        assert set(answers) <= {Reason.QUOTA_EXCEEDED}  # while the lock was held
        assert answers or seconds < 7
        other.execute("COMMIT")
        if await publishing == 0:
            accepted.append(b"%d" % len(answers))
        await eventually(lambda: broker.journal["state"] == "ok")
        assert await publish(sender, "t", b"after") == 0
        broker.kill()
        broker.start()
        await gets(await broker.lasting("away"), [*accepted, b"after"])


async def test_a_reader_that_stays(tmp_path: Path) -> None:
    """It keeps the -wal from being begun anew, and nothing else; when it has gone, the file grows no longer."""
    with Served(tmp_path, **ENV) as broker, closing(_connect(broker)) as other:
        await broker.away("away", "t", qos=1)
        sender = await broker.client("sender")
        assert await publish(sender, "t", b"before") == 0
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        payloads = [b"%d " % n + bytes(500_000) for n in range(80)]  # a checkpoint is due each 16 MiB
        for payload in payloads[:40]:
            assert await publish(sender, "t", payload) == 0
        assert broker.journal["state"] == "ok"
        other.execute("COMMIT")
        wal = broker.data / "journal.db-wal"
        longest = wal.stat().st_size
        assert longest > 40 * 500_000
        for payload in payloads[40:]:
            assert await publish(sender, "t", payload) == 0
        assert wal.stat().st_size < 1.5 * longest
        broker.kill()
        broker.start()
        await gets(await broker.lasting("away"), [b"before", *payloads])


def _connect(broker: Served) -> sqlite3.Connection:
    return sqlite3.connect(broker.data / "journal.db", isolation_level=None)
