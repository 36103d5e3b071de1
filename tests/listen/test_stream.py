"""Bytes as networks and careless clients deliver them: in pieces, all at once, half-closed, never sent."""

import asyncio
import socket
import struct
import time

import pytest
from support.engine import Engine, until
from support.mqtt import Client
from support.pki import Pki

from broker.limits import CONNECT_BYTES_MAX, PACKET_BYTES_MAX
from broker.listen import rates
from broker.listen.connection import PIECE_BYTES
from broker.listen.rates import Rates
from broker.message import Message
from broker.wire.encode import encode
from broker.wire.packets import Connack, Connect, Disconnect, Puback, Publish, Pubrel, Request, Suback, Subscribe, Will

LARGE = bytes(range(256)) * ((PACKET_BYTES_MAX - 64) // 256)


async def test_connect_byte_by_byte(engine: Engine) -> None:
    client = await Client.open(engine.port)
    for byte in encode(Connect("slow", 5, True, 60, "ada"), 5):
        await client.send(bytes((byte,)))
        await asyncio.sleep(0)
    assert (await client.expect(Connack)).reason == 0
    for byte in encode(Subscribe(1, [Request("a", 1)]), 5):
        await client.send(bytes((byte,)))
        await asyncio.sleep(0)
    await client.expect(Suback)
    await client.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("version", [4, 5])
async def test_all_in_one_write(engine: Engine, pki: Pki, version: int, tls: bool) -> None:
    """A client need not wait for CONNACK (§3.1.4); TCP and TLS are streams [MQTT-4.2.0-1].

    3.1.1 [MQTT-7.1.1-1].
    """
    port, context = (engine.tls_port, pki.client()) if tls else (engine.port, None)
    client = await Client.open(port, version=version, tls=context)
    await client.send(
        Connect("eager", version),
        Subscribe(1, [Request("t", 1)]),
        Publish(b"t", b"at 1", 1, packet_id=2),
        Publish(b"t", b"at 0"),
    )
    await client.expect(Connack)
    await client.expect(Suback)
    got = [await client.receive() for _ in range(3)]
    assert Puback(2) in got
    assert [p.payload for p in got if isinstance(p, Publish)] == [b"at 1", b"at 0"]
    await client.close()


async def test_connect_with_everything_and_half_closed(engine: Engine) -> None:
    """`printf … | nc` style: a client that closes its side has still said what it sent."""
    receiver = await Client.connected(engine.port)
    await receiver.subscribe("t", qos=1)
    client = await Client.open(engine.port)
    await client.send(Connect("piped", 5), Publish(b"t", b"x", 1, packet_id=1))
    client.writer.write_eof()
    await client.expect(Connack)
    await client.expect(Puback)
    await client.expect_end()
    await receiver.expect_message(b"x")
    await client.close()
    await receiver.close()


async def test_half_closed_before_connect(engine: Engine) -> None:
    client = await Client.open(engine.port)
    client.writer.write_eof()
    await client.expect_end()
    await client.close()
    await until(lambda: not engine.reactor.connections)


async def test_reset_publishes_the_will(engine: Engine) -> None:
    """[MQTT-3.1.2-8]."""
    watcher = await Client.connected(engine.port)
    await watcher.subscribe("gone")
    client = await Client.connected(engine.port, will=Will(b"gone", b"bye"))
    client.abort()
    await watcher.expect_message(b"bye")
    await watcher.close()


@pytest.mark.parametrize("version", [4, 5])
async def test_a_goodbye_that_is_read_after_a_write_has_failed(engine: Engine, version: int) -> None:
    """[MQTT-3.14.4-3]: a client that gets much, says goodbye and goes: we may be told first that it is gone."""
    watcher = await Client.connected(engine.port, "watcher")
    await watcher.subscribe("gone", "last")
    with socket.create_connection(("127.0.0.1", engine.port)) as leaving:
        hello = Connect("leaving", version, will=Will(b"gone", b"bye"))
        leaving.sendall(encode(hello, version) + encode(Subscribe(1, [Request("much")]), version))
        await until(lambda: engine.core.router.subscriptions == 3)
        # Nothing awaits until the write has failed, so the broker has not read this; closing sends a reset.
        leaving.sendall(encode(Publish(b"last", b"word"), version) + encode(Disconnect(), version))
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    engine.reactor.run(lambda: engine.core.publish(Message(b"much", b"x")))
    await watcher.expect_message(b"word")
    await until(lambda: len(engine.reactor.connections) == 1)
    await watcher.silent()
    assert engine.counters.wills_published == 0


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("versions", [(4, 4), (5, 5), (4, 5), (5, 4)], ids=str)
@pytest.mark.parametrize("qos", [0, 1])
async def test_large_message(engine: Engine, pki: Pki, tls: bool, versions: tuple[int, int], qos: int) -> None:
    port, context = (engine.tls_port, pki.client()) if tls else (engine.port, None)
    receiver = await Client.connected(port, version=versions[0], tls=context)
    sender = await Client.connected(port, version=versions[1], tls=context)
    await receiver.subscribe("large", qos=qos)
    for _ in range(2):  # the first time on a topic, and the fast way
        sending = asyncio.create_task(sender.publish("large", LARGE, qos=qos))
        assert (await receiver.expect_message()).payload == LARGE
        await sending
    await sender.close()
    await receiver.close()


@pytest.mark.parametrize("size", [16383, 16384, 16385, 32768, 49152, 65535, 65536, 65537, 131072])
async def test_around_a_tls_record(engine: Engine, pki: Pki, size: int) -> None:
    """Nothing stays behind in OpenSSL, where epoll would not see it, whatever the size of what was sent."""
    client = await Client.connected(engine.tls_port, tls=pki.client())
    await client.subscribe("t")
    head = len(encode(Publish(b"t", bytes(size)), 5)) - size
    for _ in range(3):
        await client.publish("t", bytes(size - head))
        assert len((await client.expect_message()).payload) == size - head
    await client.close()


# -- announced, too large ----------------------------------------------------------------------------------------------


async def test_announced_before_connect(engine: Engine) -> None:
    """Nobody waits for, or makes room for, what a stranger announces."""
    client = await Client.open(engine.port)
    await client.send(b"\x10" + bytes((0xFF, 0xFF, 0xFF, 0x7F)))
    await client.expect_end()
    await client.close()


async def test_connect_over_the_bound(engine: Engine) -> None:
    client = await Client.open(engine.port)
    await client.send(Connect("a", 5, password=bytes(CONNECT_BYTES_MAX - 100)))
    assert (await client.expect(Connack)).reason == 0
    await client.close()
    client = await Client.open(engine.port)
    assert len(encode(Connect("a", 5, password=bytes(CONNECT_BYTES_MAX - 1)), 5)) > CONNECT_BYTES_MAX
    await client.send(encode(Connect("a", 5, password=bytes(CONNECT_BYTES_MAX - 1)), 5)[:100])
    await client.expect_end()
    await client.close()


@pytest.mark.parametrize("version", [4, 5])
async def test_announced_in_a_session(engine: Engine, version: int) -> None:
    client = await Client.connected(engine.port, version=version)
    await client.send(b"\x30" + bytes((0xFF, 0xFF, 0xFF, 0x7F)))
    await client.expect_end(0x95 if version == 5 else None)
    await client.close()


async def test_maximum_packet_size_is_of_the_whole_packet(engine: Engine) -> None:
    """§3.2.2.3.6: what CONNACK says is what counts, the fixed header included."""
    client = await Client.connected(engine.port)
    assert client.connack.properties.maximum_packet_size == PACKET_BYTES_MAX
    empty = len(encode(Publish(b"t", bytes(PACKET_BYTES_MAX // 2)), 5)) - PACKET_BYTES_MAX // 2
    await client.publish("t", bytes(PACKET_BYTES_MAX - empty))
    await client.silent()
    await client.send(encode(Publish(b"t", bytes(PACKET_BYTES_MAX - empty + 1)), 5)[:10])
    await client.expect_end(0x95)
    await client.close()


async def test_much_more_after_a_mistake(engine: Engine) -> None:
    """A client that is told why it is closed reads it, though it has sent more than we have read."""
    client = await Client.connected(engine.port)
    sent = asyncio.ensure_future(client.send(b"\x30\xff\xff\xff\x7f" + bytes(1 << 20)))
    await client.expect_end(0x95)
    await asyncio.gather(sent, return_exceptions=True)
    await client.close()


# -- in small pieces ---------------------------------------------------------------------------------------------------


async def test_a_large_packet_in_small_pieces_costs_no_more(engine: Engine) -> None:
    """A byte that completes nothing must not cost a copy of all that came before."""
    client = await Client.connected(engine.port)
    await until(lambda: engine.reactor.connections)
    (connection,) = engine.reactor.connections.values()
    packet = encode(Publish(b"t", bytes(PACKET_BYTES_MAX - 100)), 5)
    connection.feed(packet[:-20_000])
    began = time.process_time()
    for byte in packet[-20_000:]:
        connection.feed(bytes((byte,)))
    assert time.process_time() - began < 0.2  # copies of 1 MiB would take 0.4 s and more
    assert engine.counters.messages_received == 1
    assert engine.counters.protocol_errors == 0
    await client.close()


async def test_disconnect_is_not_waited_for(engine: Engine) -> None:
    client = await Client.connected(engine.port)
    await client.send(Disconnect(), Publish(b"t", b"after goodbye"))
    await client.expect_end()
    await client.close()
    assert engine.counters.messages_received == 0


# -- four bytes that are, or are not, a PUBACK -------------------------------------------------------------------------


async def _read(engine: Engine, client: Client, data: bytes) -> None:
    """Have the broker read exactly this at once."""
    before = engine.counters.bytes_received
    await client.send(data)
    await until(lambda: engine.counters.bytes_received == before + len(data))


async def test_the_end_of_a_packet_that_looks_like_a_puback(engine: Engine) -> None:
    client = await Client.connected(engine.port, "c")
    await client.subscribe("t", qos=1)
    packet = encode(Publish(b"t", b"payload\x40\x02\x00\x01", 0), 5)
    await _read(engine, client, packet[:-4])
    await _read(engine, client, packet[-4:])
    await client.expect_message(b"payload\x40\x02\x00\x01")


async def test_a_puback_that_is_too_short(engine: Engine) -> None:
    client = await Client.connected(engine.port, "c")
    await _read(engine, client, b"\x40\x00\xc0\x00")
    assert engine.counters.protocol_errors == 1
    assert not engine.reactor.connections


@pytest.mark.parametrize("qos", [0, 2])
async def test_a_puback_for_what_was_not_sent_at_qos_1(engine: Engine, qos: int) -> None:
    client = await Client.connected(engine.port, "c")
    if qos:
        await client.subscribe("t", qos=qos)
        await client.send(Publish(b"t", b"x", qos, packet_id=1), Pubrel(1))
        await until(lambda: engine.session("c").inflight)
    await _read(engine, client, b"\x40\x02\x00" + (b"\x01" if qos else b"\x00"))
    assert engine.counters.protocol_errors == 1
    assert not engine.reactor.connections


async def test_a_puback_is_a_sign_of_life(engine: Engine) -> None:
    client = await Client.connected(engine.port, "c")
    channel = engine.session("c").channel
    assert channel is not None
    channel.seen = 0.0
    await _read(engine, client, b"\x40\x02\x00\x09")
    assert channel.seen > 0


async def test_pubacks_count_as_bytes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "BURST_S", 0.01)
    client = await Client.connected(engine.listen(rates=Rates(bytes=1000)), "c")
    for _ in range(PIECE_BYTES // 4 + 1):
        await _read(engine, client, b"\x40\x02\x00\x09")
    await until(lambda: engine.counters.readings_paused > 0)
