"""Clients that do not read: they cost a bounded amount of memory, have to do with that, and harm nobody else."""

import asyncio
import socket
import tracemalloc
from contextlib import suppress

import pytest
from support.engine import Engine, until
from support.mqtt import GONE, Client
from support.pki import Pki

from broker.limits import OUT_BYTES_MAX
from broker.listen.connection import SEND_BYTES
from broker.listen.reactor import OPTIONS
from broker.message import Message
from broker.wire.packets import Properties, Puback, Publish, Request, Subscribe, Will

CHUNK = 250_000
COUNT = 200  # 50 MB
PINGS = 500_000


def _small_buffers(engine: Engine) -> None:
    """Let the kernel take little for those who connect from now on, so that little makes them slow."""
    for listener in engine.reactor.listeners:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)


def _stop_reading(client: Client) -> None:
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]


def _read_again(client: Client) -> None:
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1])
async def test_not_reading(engine: Engine, pki: Pki, tls: bool, version: int, qos: int) -> None:
    port, context = (engine.tls_port, pki.client()) if tls else (engine.port, None)
    slow = await Client.connected(port, "slow", version=version, tls=context)
    await slow.subscribe("t", qos=qos)
    _stop_reading(slow)
    other = await Client.connected(engine.port, "other")
    await other.subscribe("t", qos=qos)
    sender = await Client.connected(engine.port, "sender")

    async def send() -> None:
        for _ in range(COUNT):
            await sender.publish("t", bytes(CHUNK), qos=qos)

    tracemalloc.start()
    try:
        sending = asyncio.create_task(send())
        for _ in range(COUNT):
            assert len((await other.expect_message()).payload) == CHUNK
        await sending
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What is written out and not taken, and at QoS 1 what is in flight and what is queued; beside it what is on its way
    # through: the publisher's and the other's buffers.
    assert peak < (3 if qos else 1) * OUT_BYTES_MAX + (4 << 20)
    counters = engine.counters
    if qos:
        assert (counters.sessions_overrun, counters.messages_dropped_slow) == (1, 0)
        _read_again(slow)
        with suppress(*GONE):
            assert len(await slow.reader.read()) < COUNT // 2 * CHUNK
        slow = await Client.connected(port, "slow", version=version, tls=context)
        await slow.subscribe("t", qos=qos)
        kept = 0
    else:
        assert counters.messages_dropped_slow > COUNT // 2
        assert (counters.sessions_overrun, counters.messages_dropped_queue_full) == (0, 0)
        kept = COUNT - counters.messages_dropped_slow

    # Once it reads it gets what was kept, whole and in order, and then what is new.
    _read_again(slow)
    for _ in range(kept):
        assert len((await slow.expect_message()).payload) == CHUNK
    await until(lambda: engine.session("slow").out is not None)
    await sender.publish("t", b"news", qos=qos)
    await slow.expect_message(b"news")
    await other.expect_message(b"news")
    for client in (slow, other, sender):
        await client.close()


@pytest.mark.parametrize("version", [4, 5])
async def test_asks_and_does_not_read(engine: Engine, version: int) -> None:
    """Answers to a client that does not read them must not pile up: it is not read either, until it has."""
    _small_buffers(engine)
    client = await Client.connected(engine.port, "deaf", version=version)
    connection = next(iter(engine.reactor.connections.values()))
    _stop_reading(client)
    flood = asyncio.create_task(client.send(b"\xc0\x00" * PINGS))
    other = await Client.connected(engine.port, "other")
    most = 0

    def not_read() -> bool:
        nonlocal most
        most = max(most, len(connection.out))
        return not connection.reading

    await until(not_read)
    assert most < 50_000
    await other.silent()
    _read_again(client)
    await client.reader.readexactly(2 * PINGS)
    await flood
    await client.silent()
    await client.close()
    await other.close()


async def test_own_acknowledgements_reach_a_slow_reader(engine: Engine) -> None:
    """A slow client that publishes gets its PUBACKs, after what waits before them."""
    client = await Client.connected(engine.port, "both")
    await client.subscribe("t")
    _stop_reading(client)
    sender = await Client.connected(engine.port, "sender")
    for _ in range(40):
        await sender.publish("t", bytes(CHUNK))
    await sender.silent()
    await client.send(Publish(b"u", b"", 1, packet_id=9))
    await until(lambda: engine.counters.messages_received == 41)
    _read_again(client)
    while isinstance(packet := await client.receive(), Publish):
        pass
    assert packet == Puback(9, 0x10)
    await client.close()
    await sender.close()


@pytest.mark.parametrize("qos", [0, 1])
async def test_much_is_retained(engine: Engine, qos: int) -> None:
    """Who subscribes to everything gets all of it, as fast as it reads, and holds a bounded part of it in memory."""
    sender = await Client.connected(engine.port)
    for n in range(COUNT):
        await sender.publish(f"r/{n}", b"%d" % n + bytes(CHUNK), retain=True, qos=qos)
    await sender.silent()
    client = await Client.connected(engine.port, "slow", properties=Properties(receive_maximum=20))
    _stop_reading(client)
    tracemalloc.start()
    try:
        for id in range(1, 6):
            await client.send(Subscribe(id, [Request("#", qos)]))
            await sender.silent()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * OUT_BYTES_MAX
    # Replaced before its turn has come: what it was is not sent after what it is.
    for n in (0, COUNT - 1):
        await sender.publish(f"r/{n}", b"new", retain=True, qos=qos)
    _read_again(client)
    got: dict[bytes, list[Publish]] = {}
    while any(len(got.get(b"r/%d" % n, ())) < 5 for n in range(1, COUNT - 1)):
        packet = await client.receive()
        if isinstance(packet, Publish):
            got.setdefault(packet.topic, []).append(packet)
            if qos:
                await client.send(Puback(packet.packet_id))
    for messages in got.values():
        news = [message.payload == b"new" for message in messages]
        assert news == sorted(news)
    assert not engine.counters.messages_dropped_slow + engine.counters.messages_dropped_queue_full
    await client.close()
    await sender.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_many_who_do_not_read_share_what_waits(engine: Engine, pki: Pki, tls: bool) -> None:
    """What one round puts out was copied for each of them: 1,000 wills of 60 KB to 1,000 receivers took 9 GB."""
    _small_buffers(engine)
    port, context = (engine.tls_port, pki.client()) if tls else (engine.port, None)
    deaf = [await Client.connected(port, f"deaf{n}", tls=context) for n in range(20)]
    for client in deaf:
        await client.subscribe("w")
        _stop_reading(client)
    payloads = [b"%d " % n + bytes(60_000) for n in range(40)]
    leaving = [await Client.connected(engine.port, will=Will(b"w", payload)) for payload in payloads]
    tracemalloc.start()
    try:
        engine.reactor.run(lambda: [c.close() for c in list(engine.reactor.connections.values())[len(deaf) :]])
        await until(lambda: engine.counters.wills_published == len(leaving))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * 60_000 + 20 * 4 * SEND_BYTES
    for client in deaf:
        _read_again(client)
        assert [(await client.expect_message()).payload for _ in payloads] == payloads


@pytest.mark.parametrize("qos", [0, 1])
async def test_few_and_large_over_tls(engine: Engine, pki: Pki, qos: int) -> None:
    """OpenSSL has taken more than we keep in one piece when the socket is full, and wants all of that again."""
    client = await Client.connected(engine.tls_port, "c", tls=pki.client())
    await client.subscribe("t", qos=qos)
    bodies = [bytes((n,)) * 200_000 for n in range(5)]
    for body in bodies:
        engine.core.publish(Message(b"t", body, qos))
    engine.core.flush()
    for body in bodies:
        await client.expect_message(body)


async def test_what_is_accepted_inherits_what_is_set(engine: Engine) -> None:
    """Bounds on what the kernel holds for a peer, and on how long for one that is gone."""
    client = await Client.connected(engine.port)
    (connection,) = engine.reactor.connections.values()
    for level, option, value in OPTIONS:
        got = connection.sock.getsockopt(level, option)
        assert got == (2 * value if option in (socket.SO_SNDBUF, socket.SO_RCVBUF) else value), option
    await client.close()
