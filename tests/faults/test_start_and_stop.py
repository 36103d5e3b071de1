"""A disk that fails at the start or the stop: a clear refusal, and all that was acknowledged is there afterwards."""

import errno
from pathlib import Path

from support.cli import Done
from support.faults import Faults
from support.served import Served, gets, publish

from broker.wire.codes import Reason


def refusal(done: Done) -> str:
    """What a refusal says: one sentence of what is wrong, one of what to do, and nothing else."""
    assert done.code == 1, done
    error, remedy = [line for line in done.err.splitlines() if not line.startswith("{")]
    assert error.startswith("error: "), done.err
    assert remedy.startswith("  try: "), done.err
    assert "Traceback" not in done.err
    return error + "\n" + remedy


def test_the_first_start(tmp_path: Path, faults: Faults) -> None:
    """It can be tried again as soon as the disk is well."""
    broker = Served(tmp_path, **faults.environment)
    for call, error, words in (
        ("write", errno.ENOSPC, "no room"),
        ("write", errno.EIO, "disk"),
        ("sync", errno.EIO, "disk"),
        ("open", errno.EIO, "journal.db"),
    ):
        faults.set(call, error=error)
        said = refusal(broker.refused())
        assert words in said
        assert "journal.db" in said
        faults.clear()
    with broker:
        assert broker.journal["state"] == "ok"


async def test_a_later_start(tmp_path: Path, faults: Faults) -> None:
    with Served(tmp_path, **faults.environment) as broker:
        await broker.away("away", "t")
        sender = await broker.client()
        for n in range(10):
            assert await publish(sender, "t", b"%d" % n, 1 + n % 2) == 0
        broker.kill()
        for call, error, words in (
            ("write", errno.ENOSPC, "no room"),
            ("write", errno.EIO, "disk"),
            ("read", errno.EIO, "journal.db"),
            ("open", errno.EIO, "journal.db"),
        ):
            faults.set(call, error=error)
            said = refusal(broker.refused())
            assert words in said
            assert "journal.db" in said
            faults.clear()
        broker.start()
        await gets(await broker.lasting("away"), [b"%d" % n for n in range(10)])


async def test_a_stop_that_cannot_save_says_so(tmp_path: Path, faults: Faults) -> None:
    """All who are connected are told goodbye; what was acknowledged is safe; that something is not is no secret."""
    with Served(tmp_path, **faults.environment) as broker:
        await broker.away("away", "t")
        sender = await broker.client("sender")
        assert await publish(sender, "t", b"accepted") == 0
        faults.set("write", error=errno.ENOSPC)
        assert await publish(sender, "t", b"refused") == Reason.QUOTA_EXCEEDED
        await broker.away("new", "new")  # cannot be written before the stop
        done = broker.stop()
        said = refusal(done)
        assert "no room" in said
        assert "df -h" in said
        assert not done.out
        await sender.expect_end(Reason.SERVER_SHUTTING_DOWN)
        faults.clear()
        broker.start()
        away = await broker.lasting("away")
        await gets(away, [b"accepted"])
        assert broker.stop().code == 0


async def test_the_last_acknowledgement_before_a_stop(tmp_path: Path, faults: Faults) -> None:
    """A disk that fails at the stop takes nothing of what was acknowledged before it."""
    with Served(tmp_path, **faults.environment) as broker:
        await broker.away("away", "t")
        sender = await broker.client("sender")
        for n in range(100):
            assert await publish(sender, "t", b"%d" % n, 1 + n % 2) == 0
        faults.set("write", "sync", "truncate", error=errno.EIO)
        broker.stop()
        faults.clear()
        broker.start()
        await gets(await broker.lasting("away"), [b"%d" % n for n in range(100)])
