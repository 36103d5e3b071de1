"""What an acknowledgement means over a live broker: all receivers have it, or the commit has returned."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.live import populate, port, running, server, settings
from support.mqtt import Client

from broker.app import Broker
from broker.journal import Batch
from broker.limits import RECEIVE_MAXIMUM
from broker.wire.codes import Reason
from broker.wire.packets import Properties, Puback, Pubcomp, Publish, Pubrec, Pubrel, Suback

KEEPS = {"clean_start": False, "properties": Properties(session_expiry=1000)}


class Gate:
    """Commits of a broker wait until it is opened; at the end of a test, it is."""

    _all: ClassVar[list["Gate"]] = []

    def __init__(self, broker: Broker) -> None:
        self._all.append(self)
        self.open = asyncio.Event()
        self.waiting = asyncio.Event()
        self._commit = broker.journal.commit
        broker.journal.commit = self._wait  # type: ignore[method-assign]

    async def _wait(self, batch: Batch) -> None:
        self.waiting.set()
        await self.open.wait()
        await self._commit(batch)

    @classmethod
    def open_all(cls) -> None:
        for gate in cls._all:
            gate.open.set()
        cls._all.clear()


@pytest.fixture(autouse=True)
async def no_gate_stays_closed(open_broker: Broker) -> AsyncIterator[None]:
    """Before `open_broker` stops, which waits for a commit."""
    yield
    Gate.open_all()


async def away(broker: Broker, name: str = "away", filter: str = "t", qos: int = 1) -> None:
    """Leave a session that waits for `filter`."""
    client = await Client.connected(port(broker), name, **KEEPS)
    await client.subscribe(filter, qos=qos)
    await client.disconnect()


async def publish(client: Client, payload: bytes, qos: int = 1, topic: bytes = b"t", **fields: Any) -> int:
    """Publish without waiting for the answer."""
    id = client.next_id()
    await client.send(Publish(topic, payload, qos, packet_id=id, **fields))
    return id


@pytest.mark.parametrize("qos", [1, 2])
async def test_the_acknowledgement_waits_for_the_commit(open_broker: Broker, qos: int) -> None:
    """3.1.1 [MQTT-4.3.2-2]."""
    await away(open_broker, qos=qos)
    sender = await Client.connected(port(open_broker))
    gate = Gate(open_broker)
    id = await publish(sender, b"x", qos)
    await gate.waiting.wait()
    await sender.silent()
    gate.open.set()
    assert await sender.receive() == (Puback(id) if qos == 1 else Pubrec(id))


async def test_a_subscription_is_granted_when_it_is_on_the_disk(open_broker: Broker) -> None:
    client = await Client.connected(port(open_broker), "new", **KEEPS)
    gate = Gate(open_broker)
    asking = asyncio.ensure_future(client.subscribe("t", qos=1))
    await gate.waiting.wait()
    await asyncio.wait([asking], timeout=0.1)
    assert not asking.done()
    gate.open.set()
    assert isinstance(await asking, Suback)


async def test_who_is_online_and_answers_costs_no_write(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True, commit_window_ms=10_000) as broker:
        receivers = [await Client.connected(port(broker), name, **KEEPS) for name in "abc"]
        for receiver in receivers:
            await receiver.subscribe("t", qos=1)
        sender = await Client.connected(port(broker), "sender", **KEEPS)
        await sender.subscribe("none", qos=1)  # its answer comes with the commit of all that was before
        before = broker.core.counters.journal_commits
        for n in range(50):
            id = await publish(sender, b"%d" % n)
            for receiver in receivers:
                await receiver.expect_message(b"%d" % n)
            assert await sender.receive() == Puback(id)
        broker.core.tick(time.monotonic())
        await asyncio.sleep(0)
        counters = broker.core.counters
        assert (counters.journal_commits, counters.journal_rows) == (before, 0)


async def test_who_is_online_and_does_not_answer_is_waited_for_no_longer_than_the_window(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True, commit_window_ms=200) as broker:
        quick, slow = [await Client.connected(port(broker), name, **KEEPS) for name in ("quick", "slow")]
        for receiver in (quick, slow):
            await receiver.subscribe("t", qos=1)
        sender = await Client.connected(port(broker))
        began = time.monotonic()
        id = await publish(sender, b"x")
        await quick.expect_message(b"x")
        unanswered = await slow.expect_message(b"x", acknowledge=False)
        assert await sender.receive() == Puback(id)
        assert time.monotonic() - began >= 0.2
        assert broker.status()["journal"]["messages"] == 1
        await slow.send(Puback(unanswered.packet_id))
        await slow.subscribe("other", qos=1)
        assert broker.status()["journal"]["messages"] == 0


async def test_memory_waits_for_nothing_and_a_clean_stop_loses_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True, durability="memory") as broker:
        assert broker.status()["durability"] == "memory"
        await away(broker)
        sender = await Client.connected(port(broker))
        gate = Gate(broker)
        id = await publish(sender, b"x")
        assert await sender.receive() == Puback(id)
        gate.open.set()
    async with running(tmp_path, allow_anonymous=True) as broker:
        assert broker.status()["durability"] == "commit"
        back = await Client.connected(port(broker), "away", **KEEPS)
        await back.expect_message(b"x")


async def test_a_refused_message_of_a_brand_that_wants_that(tmp_path: Path) -> None:
    """`reject` tells the publisher and keeps what there is; `drop-oldest` takes the latest. Each brand has its own."""
    async with running(tmp_path, allow_anonymous=True, queue_messages_max=3) as broker:
        await populate(broker)
        await broker.directory.brand_set("rival", overflow="drop-oldest")
        for brand in ("acme", "rival"):
            await away(broker, brand, f"{brand}/topic/news")
            sender = await server(broker, brand)
            reasons = []
            for n in range(8):
                answer = await sender.publish(f"{brand}/topic/news", b"%d" % n, qos=1)
                assert answer is not None
                reasons.append(answer.reason)
            back = await Client.connected(port(broker), brand, **KEEPS)
            if brand == "acme":
                assert reasons == [0] * 3 + [Reason.QUOTA_EXCEEDED] * 5
                expected = [b"0", b"1", b"2"]
            else:
                assert reasons == [0] * 8
                expected = [b"5", b"6", b"7"]
            for payload in expected:
                await back.expect_message(payload)
            await back.silent()
        counters = broker.core.counters
        assert (counters.publishes_refused, counters.messages_dropped_queue_full) == (5, 5)


async def test_a_full_log_refuses_until_somebody_has_got_his_part(tmp_path: Path) -> None:
    large = bytes(300_000)
    async with running(tmp_path, allow_anonymous=True, log_bytes_max=1 << 20, queue_bytes_max=1 << 30) as broker:
        await away(broker)
        sender = await Client.connected(port(broker))
        reasons = []
        for _ in range(5):
            answer = await sender.publish("t", large, qos=1)
            assert answer is not None
            reasons.append(answer.reason)
        assert reasons == [0, 0, 0, Reason.QUOTA_EXCEEDED, Reason.QUOTA_EXCEEDED]
        back = await Client.connected(port(broker), "away", **KEEPS)
        for _ in range(3):
            await back.expect_message(large)
        await back.disconnect()
        broker.core.tick(time.monotonic())
        answer = await sender.publish("t", large, qos=1)
        assert answer is not None
        assert answer.reason == 0


async def test_qos_2_goes_out_when_its_packet_id_is_on_the_disk(open_broker: Broker) -> None:
    """To the receiver: PUBLISH, then PUBREL; to the publisher: PUBREC, then PUBCOMP. Each waits for a commit."""
    receiver = await Client.connected(port(open_broker), "r", **KEEPS)
    await receiver.subscribe("t", qos=2)
    sender = await Client.connected(port(open_broker), "s", **KEEPS)
    await sender.subscribe("none", qos=1)
    gate = Gate(open_broker)
    id = await publish(sender, b"x", 2)
    await gate.waiting.wait()
    await receiver.silent()
    gate.open.set()
    message = await receiver.expect_message(b"x", acknowledge=False)
    assert await sender.receive() == Pubrec(id)

    for client, packet, answer in (
        (receiver, Pubrec(message.packet_id), Pubrel(message.packet_id)),
        (sender, Pubrel(id), Pubcomp(id)),
    ):
        gate.open.clear()
        gate.waiting.clear()
        await client.send(packet)
        await gate.waiting.wait()
        await client.silent()
        gate.open.set()
        assert await client.receive() == answer


async def test_the_order_of_acknowledgements_is_that_of_the_publishes(open_broker: Broker) -> None:
    """[MQTT-4.6.0-2]: one that needs no disk waits for one before it that does."""
    await away(open_broker)
    sender = await Client.connected(port(open_broker))
    gate = Gate(open_broker)
    first = await publish(sender, b"x")
    second = await publish(sender, b"x", topic=b"nobody")
    await gate.waiting.wait()
    await sender.silent()
    gate.open.set()
    assert [await sender.receive(), await sender.receive()] == [
        Puback(first),
        Puback(second, Reason.NO_MATCHING_SUBSCRIBERS),
    ]


async def test_3_1_1_is_not_read_while_too_much_is_unacknowledged(tmp_path: Path) -> None:
    """It knows no receive maximum: TCP makes it wait. All is acknowledged in the end."""
    async with running(tmp_path, allow_anonymous=True, queue_messages_max=10_000, queue_bytes_max=1 << 30) as broker:
        await away(broker)
        sender = await Client.connected(port(broker), "old", version=4)
        gate = Gate(broker)
        count = 5000
        try:
            await sender.send(*(Publish(b"t", b"x", 1, packet_id=n) for n in range(1, count + 1)))
            await gate.waiting.wait()
            await (await Client.connected(port(broker))).silent()  # others are served meanwhile
            assert broker.core.counters.messages_received <= RECEIVE_MAXIMUM + 1
        finally:
            gate.open.set()
        for n in range(1, count + 1):
            assert await sender.receive() == Puback(n)


async def test_5_is_disconnected_when_it_publishes_more_than_the_receive_maximum(open_broker: Broker) -> None:
    await away(open_broker)
    sender = await Client.connected(port(open_broker), "new")
    Gate(open_broker)
    await sender.send(*(Publish(b"t", b"x", 1, packet_id=n) for n in range(1, 1100)))
    await sender.expect_end(Reason.RECEIVE_MAXIMUM_EXCEEDED)


async def test_durability_stays_until_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True) as broker:
        await broker.reload(settings(tmp_path, allow_anonymous=True, durability="memory"))
        assert broker.status()["durability"] == "commit"
        assert broker.core.durable
