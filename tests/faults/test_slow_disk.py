"""A disk that is slow, or does little at a time: acknowledgements are late and right, and nobody else notices."""

import asyncio
import errno
import statistics
import time
from pathlib import Path

import pytest
from support.faults import Faults
from support.mqtt import Client
from support.served import Served, answering, eventually, gets, publish, receive_until

from broker.wire.packets import Puback, Publish

ENV = {"PUSHBROKER_QUEUE_BYTES_MAX": str(64 << 20)}
COUNT = 100


@pytest.mark.parametrize("delay_ms", [200, 2000])
async def test_slow_syncs(tmp_path: Path, faults: Faults, delay_ms: int) -> None:
    with Served(tmp_path, **faults.environment) as broker:
        await broker.away("away", "t", qos=1)
        steady = await broker.lasting("steady")
        await steady.subscribe("steady", qos=1)
        fleeting = await broker.client("fleeting")
        await fleeting.subscribe("fleeting", qos=0)
        sender, other = await broker.client("sender"), await broker.client("other")
        assert await publish(sender, "t", b"0") == 0

        faults.set("sync", delay_ms=delay_ms)
        began = time.monotonic()
        pending = range(1, COUNT)
        await sender.send(*(Publish(b"t", b"%d" % n, 1, packet_id=1000 + n) for n in pending))
        acknowledging = asyncio.create_task(_acknowledged(sender, len(pending)))
        latencies_ms, answers_ms = [], []
        async with answering(steady):
            while not acknowledging.done():
                at = time.monotonic()
                await other.publish("fleeting", b"x")
                await fleeting.expect_message(b"x")
                latencies_ms.append((time.monotonic() - at) * 1000)
                at = time.monotonic()
                assert await publish(other, "steady", b"x") == 0
                answers_ms.append((time.monotonic() - at) * 1000)
                await asyncio.sleep(0.01)
        first_s, last_s = await acknowledging
        for name, values in (("QoS 0", latencies_ms), ("QoS 1, online", answers_ms)):
            p90, p99 = (statistics.quantiles(values, n=100)[n] for n in (89, 98))
            print(f"{name}: median {statistics.median(values):.1f}, p90 {p90:.1f}, p99 {p99:.1f} ms of {len(values)}")
            assert p90 < delay_ms / 4
        # Not before the disk has it, and not one after the other.
        assert first_s - began >= delay_ms / 1000
        assert last_s - began < 10 * delay_ms / 1000

        broker.kill()
        faults.clear()
        broker.start()
        away = await broker.lasting("away")
        await gets(away, [b"%d" % n for n in range(COUNT)])


async def _acknowledged(sender: Client, count: int) -> tuple[float, float]:
    """When the first and the last acknowledgement came."""
    times = []
    for _ in range(count):
        assert (await sender.expect(Puback)).reason == 0
        times.append(time.monotonic())
    return times[0], times[-1]


async def test_a_stop_waits_for_the_disk(tmp_path: Path, faults: Faults) -> None:
    with Served(tmp_path, **faults.environment) as broker:
        await broker.away("away", "t", qos=1)
        sender = await broker.client("sender")
        assert await publish(sender, "t", b"0") == 0
        faults.set("sync", delay_ms=500)
        before = faults.count("sync")
        await sender.send(*(Publish(b"t", b"%d" % n, 1, packet_id=n) for n in range(1, 50)))
        await eventually(lambda: faults.count("sync") > before, every_s=0.01)
        done = broker.stop()
        assert done.code == 0, done.err
        faults.clear()
        accepted = [b"0"]
        while isinstance(answer := await sender.receive(), Puback):
            assert answer.reason == 0
            accepted.append(b"%d" % answer.packet_id)
        broker.start()
        away = await broker.lasting("away")
        assert await publish(await broker.client(), "t", b"last") == 0
        *got, _ = await receive_until(away, b"last")
        assert got[: len(accepted)] == accepted
        assert len(set(got)) == len(got)


async def test_writes_that_do_a_part_of_what_they_should(tmp_path: Path, faults: Faults) -> None:
    with Served(tmp_path, **faults.environment, **ENV) as broker:
        await broker.away("away", "t")
        sender = await broker.client("sender")
        faults.set("write", part=1000)
        payloads = [b"%d " % n + bytes(20_000) for n in range(20)]
        for n, payload in enumerate(payloads):
            assert await publish(sender, "t", payload, 1 + n % 2) == 0
        assert faults.count("write") > 0
        assert broker.journal["state"] == "ok"
        broker.kill()
        faults.clear()
        broker.start()
        await gets(await broker.lasting("away"), payloads)


async def test_a_database_that_takes_no_checkpoint(tmp_path: Path, faults: Faults) -> None:
    """What is in the -wal is safe: acknowledgements go on, and the file gets its share when it takes it again."""
    with Served(tmp_path, **faults.environment, **ENV) as broker:
        await broker.away("away", "t", qos=1)
        sender = await broker.client("sender")
        faults.set("write", "sync", files=("database",), error=errno.EIO)
        payloads = []

        async def send() -> None:
            payloads.append(b"%d " % len(payloads) + bytes(500_000))
            assert await publish(sender, "t", payloads[-1]) == 0

        while not faults.count("write", "sync"):
            await send()
        longest = (broker.data / "journal.db-wal").stat().st_size
        await send()
        assert broker.journal["state"] == "ok"
        faults.clear()
        for _ in payloads[:]:
            await send()
        # It is begun anew, and no longer grows with each commit.
        assert (broker.data / "journal.db-wal").stat().st_size < 1.5 * longest
        broker.kill()
        broker.start()
        await gets(await broker.lasting("away"), payloads)
