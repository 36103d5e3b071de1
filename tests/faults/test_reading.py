"""A disk that does not read: who waits for a backlog gets it later, all others go on."""

import errno
from pathlib import Path

from support.faults import Faults
from support.served import Served, eventually, gets, publish

ENV = {"PUSHBROKER_QUEUE_BYTES_MAX": str(64 << 20)}
PAYLOADS = [b"%d " % n + bytes([n]) * 20_000 for n in range(250)]


async def with_a_backlog(broker: Served) -> None:
    """5 MB wait for two sessions, more than SQLite keeps in memory; the broker has just been started."""
    await broker.away("first", "t")
    await broker.away("second", "t")
    sender = await broker.client()
    for payload in PAYLOADS:
        assert await publish(sender, "t", payload) == 0
    assert broker.stop().code == 0
    broker.start()


async def goes_on(broker: Served) -> None:
    """Messages for those who are connected pass."""
    fleeting, sender = await broker.client("fleeting"), await broker.client("sender")
    await fleeting.subscribe("fleeting", qos=1)
    await sender.publish("fleeting", b"zero")
    await fleeting.expect_message(b"zero")
    assert await publish(sender, "fleeting", b"one") == 0
    await fleeting.expect_message(b"one")


async def test_reads_that_fail_are_tried_again(tmp_path: Path, faults: Faults) -> None:
    with Served(tmp_path, **faults.environment, **ENV) as broker:
        await with_a_backlog(broker)
        faults.set("read", error=errno.EIO)
        first = await broker.lasting("first")
        await eventually(lambda: broker.journal["state"].startswith("failing: "))
        assert faults.count("read") > 0
        second = await broker.lasting("second")
        await second.disconnect()
        await goes_on(broker)
        faults.clear()
        await gets(first, PAYLOADS)
        await gets(await broker.lasting("second"), PAYLOADS)
        await eventually(lambda: broker.journal["state"] == "ok")
        await goes_on(broker)


async def test_reads_that_bring_garbage(tmp_path: Path, faults: Faults) -> None:
    """A damage that shows while the broker runs: nobody gets what was not sent, and a repaired file has it all."""
    with Served(tmp_path, **faults.environment, **ENV) as broker:
        await with_a_backlog(broker)
        faults.set("read", garble=True, files=("database",))
        first = await broker.lasting("first")
        await eventually(lambda: broker.journal["state"].startswith("failing: "))
        assert "damaged" in broker.journal["state"]
        await goes_on(broker)
        await first.silent()
        assert "Traceback" not in broker.log
        broker.kill()
        faults.clear()
        broker.start()
        for name in ("first", "second"):
            await gets(await broker.lasting(name), PAYLOADS)
