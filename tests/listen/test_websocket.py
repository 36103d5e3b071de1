"""MQTT over WebSocket (§6), plain and TLS: packets in any frames, clients of other makers, whatever else may come."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.engine import Engine, until
from support.mqtt import TIMEOUT_S, Client
from support.pki import Pki
from support.web import BINARY, CLOSE, CONT, PING, TEXT, WebClient, frame, request
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed
from websockets.protocol import Protocol
from websockets.typing import Subprotocol

from broker.identity import ANONYMOUS
from broker.limits import (
    CONNECT_BYTES_MAX,
    FRAME_BYTES_MAX,
    FRAME_BYTES_MORE,
    PACKET_BYTES_MAX,
    REQUEST_BYTES_MAX,
)
from broker.listen.connection import READ_BYTES
from broker.listen.websocket import WebRules, WebSocket
from broker.session import connect
from broker.session.channel import Channel
from broker.wire.codes import Reason
from broker.wire.encode import encode
from broker.wire.packets import Connack, Connect, Disconnect, Publish, Request, Suback, Subscribe, Will

LARGE = bytes(range(256)) * ((PACKET_BYTES_MAX - 64) // 256)
FRAME_MAX = PACKET_BYTES_MAX + FRAME_BYTES_MORE  # of a client's frames
MQTT = [Subprotocol("mqtt")]


@pytest.fixture
def port(engine: Engine) -> int:
    """Of a listener for WebSockets."""
    return engine.listen(web=WebRules())


@pytest.fixture(params=["ws", "wss"])
def web(engine: Engine, pki: Pki, request: pytest.FixtureRequest) -> dict[str, Any]:
    """A listener's port, and what a client needs for it."""
    if request.param == "ws":
        return {"port": engine.listen(web=WebRules())}
    return {"port": engine.listen(lambda: pki.context, web=WebRules()), "tls": pki.client()}


@pytest.fixture
async def witness(engine: Engine) -> AsyncIterator[Client]:
    """Somebody else, who must notice nothing."""
    witness = await Client.connected(engine.port, "witness")
    await witness.subscribe("witness", qos=1)
    yield witness
    await witness.publish("witness", b"still here")
    await witness.expect_message(b"still here")
    assert engine.counters.unexpected_errors == 0


# -- packets in frames -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
async def test_there_and_back(web: dict[str, Any], version: int) -> None:
    client = await WebClient.connected(client_id="a", version=version, **web)
    await client.subscribe("t", qos=1)
    await client.publish("t", b"x")
    await client.expect_message(b"x")
    await client.disconnect()
    assert client.frames.close == b"\x03\xe8"  # 1000


@pytest.mark.parametrize("version", [4, 5])
async def test_a_byte_in_a_frame(web: dict[str, Any], version: int) -> None:
    """[MQTT-6.0.0-2]: packets need not be aligned with frames."""
    client = await WebClient.open(version=version, **web)
    client.writer.size = 1  # type: ignore[attr-defined]
    await client.send(Connect("bytes", version))
    await client.expect(Connack)
    await client.subscribe("t")
    await client.publish("t", b"payload")
    await client.expect_message(b"payload")


@pytest.mark.parametrize("version", [4, 5])
async def test_ten_packets_in_a_frame(web: dict[str, Any], version: int) -> None:
    """[MQTT-6.0.0-2], both ways: what a round has for a client goes in one frame, however many packets it is."""
    client = await WebClient.open(version=version, **web)
    packets = (Publish(b"t", b"%d" % n) for n in range(10))
    await client.send(Connect("many", version), Subscribe(1, [Request("t")]), *packets)
    await client.expect(Connack)
    await client.expect(Suback)
    for n in range(10):
        await client.expect_message(b"%d" % n)
    assert len(client.frames.sizes) == 1


@pytest.mark.parametrize("size", [1000, 16384, 1 << 20])
@pytest.mark.parametrize("version", [4, 5])
async def test_large_packets(web: dict[str, Any], version: int, size: int) -> None:
    """Nothing stays behind in OpenSSL, and a frame is as large as its sender wants."""
    client = await WebClient.connected(version=version, **web)
    await client.subscribe("t")
    client.writer.size = size  # type: ignore[attr-defined]
    for _ in range(2):
        sending = asyncio.ensure_future(client.publish("t", LARGE))
        await client.expect_message(LARGE)
        await sending


async def test_a_frame_for_a_connect_that_is_too_large(engine: Engine, port: int) -> None:
    """The library holds a frame until all of it has come: from somebody unknown, not more than a CONNECT needs."""
    client = await WebClient.open(port)
    client.raw.write(frame(BINARY, bytes(CONNECT_BYTES_MAX + 1000))[:-1])
    await client.expect_close(1009)
    assert engine.counters.protocol_errors == 1


@pytest.mark.parametrize("version", [4, 5])
async def test_a_packet_over_the_bound(port: int, witness: Client, version: int) -> None:
    client = await WebClient.connected(port, version=version)
    client.raw.write(frame(BINARY, b"\x30\xff\xff\xff\x7f"))
    await client.expect_close(1000, 0x95 if version == 5 else None)


async def test_fragments_with_control_frames_between(port: int) -> None:
    client = await WebClient.open(port)
    packet = encode(Connect("fragments", 5), 5)
    parts = [frame(BINARY, packet[:1], fin=False), frame(PING, b"1")]
    parts += [part for byte in packet[1:-1] for part in (frame(CONT, bytes((byte,)), fin=False), frame(PING, b"2"))]
    client.raw.write(b"".join((*parts, frame(CONT, packet[-1:]))))
    await client.expect(Connack)
    await client.silent()
    assert client.frames.pongs == [b"2"]  # RFC 6455 §5.5.3: the latest is enough


async def test_ping_and_empty_frames(port: int) -> None:
    client = await WebClient.connected(port)
    for data in (b"", b"x", bytes(125)):
        client.raw.write(frame(BINARY) + frame(PING, data))
        await client.silent()
        await client.silent()  # a pong follows what was put out in the same round
        assert client.frames.pongs[-1] == data


async def test_pings_are_no_packets(engine: Engine, port: int) -> None:
    """[MQTT-3.1.2-22] asks for packets: what WebSocket has of its own keeps no connection alive."""
    client = await WebClient.connected(port, "a", keep_alive=10)
    channel = engine.session("a").channel
    assert channel is not None
    seen = channel.seen
    before = engine.counters.bytes_received
    sent = frame(PING) + frame(BINARY)
    client.raw.write(sent)
    await until(lambda: engine.counters.bytes_received == before + len(sent))
    assert channel.seen == seen


# -- what is no MQTT ---------------------------------------------------------------------------------------------------

BAD = {
    "unmasked": (frame(BINARY, b"\xc0\0", masked=False), 1002),
    "text": (frame(TEXT, b"\xc0\0"), 1003),  # [MQTT-6.0.0-1]
    "empty text": (frame(TEXT), 1003),
    "text in fragments": (frame(TEXT, b"\xc0", fin=False), 1003),
    "a reserved bit": (frame(BINARY, b"\xc0\0", rsv=4), 1002),
    "compressed": (frame(BINARY, b"\xc0\0", rsv=4), 1002),
    "reserved data": (frame(3, b"\xc0\0"), 1002),
    "reserved control": (frame(11), 1002),
    "a long ping": (frame(PING, bytes(126)), 1002),
    "a ping in fragments": (frame(PING, b"", fin=False), 1002),
    "nothing to go on with": (frame(CONT, b"\xc0\0"), 1002),
    "another message in a message": (frame(BINARY, b"\xc0", fin=False) + frame(BINARY, b"\0"), 1002),
    "a text in a message": (frame(BINARY, b"\xc0", fin=False) + frame(TEXT, b"\0"), 1002),
    "more than any packet": (frame(BINARY, bytes(FRAME_MAX + 1))[:20], 1009),
    "more in fragments than any packet": (
        frame(BINARY, b"\xc0", fin=False) + frame(CONT, bytes(FRAME_MAX))[:20],
        1009,
    ),
    "half a code": (frame(CLOSE, b"\x03"), 1002),
    "a reserved code": (frame(CLOSE, b"\x03\xed"), 1002),
    "no code": (frame(CLOSE, b"\0\0"), 1002),
    "a reason that is no UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(("sent", "code"), BAD.values(), ids=BAD)
async def test_bad_frames(
    engine: Engine, web: dict[str, Any], witness: Client, version: int, sent: bytes, code: int
) -> None:
    client = await WebClient.connected(version=version, **web)
    client.raw.write(sent)
    await client.expect_close(code, 0x82 if version == 5 else None)
    assert engine.counters.protocol_errors == 1
    assert len(engine.reactor.connections) == 1


async def test_bad_frames_before_connect(engine: Engine, port: int, witness: Client) -> None:
    for sent, code in BAD.values():
        client = await WebClient.open(port)
        client.raw.write(sent)
        await client.expect_close(code)
    assert engine.counters.protocol_errors == len(BAD)


async def test_what_came_before_a_bad_frame_counts(engine: Engine, port: int, witness: Client) -> None:
    client = await WebClient.connected(port)
    client.raw.write(frame(BINARY, encode(Publish(b"witness", b"before"), 5)) + frame(TEXT, b"x"))
    await witness.expect_message(b"before")
    await client.expect_close(1003, 0x82)


async def test_a_malformed_packet(engine: Engine, port: int, witness: Client) -> None:
    client = await WebClient.connected(port)
    await client.send(b"\x00\x00")
    await client.expect_close(1000, 0x81)


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"\x03\xe8", b"\x03\xe9gone", b"\x0f\xa0"], ids=["empty", "1000", "1001", "4000"]
)
async def test_close_is_answered(web: dict[str, Any], witness: Client, data: bytes) -> None:
    """It is no DISCONNECT: the will is published [MQTT-3.1.2-8]."""
    client = await WebClient.connected(will=Will(b"witness", b"bye"), **web)
    client.raw.write(frame(CLOSE, data) + frame(BINARY, b"\xc0\0"))
    await client.expect_end()
    assert client.frames.close == data
    await witness.expect_message(b"bye")


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
async def test_gone_without_close(web: dict[str, Any], witness: Client, abort: bool) -> None:
    client = await WebClient.connected(will=Will(b"witness", b"bye"), **web)
    if abort:
        client.abort()
    else:
        await client.close()
    await witness.expect_message(b"bye")


async def test_the_server_goes_away(engine: Engine, web: dict[str, Any]) -> None:
    client = await WebClient.connected(client_id="a", **web)
    channel = engine.session("a").channel
    assert channel is not None
    channel.close(Reason.SERVER_SHUTTING_DOWN)
    await client.expect_close(1001, 0x8B)


async def test_closed_connections_are_let_go(engine: Engine, port: int) -> None:
    """Nothing of a connection, nor of its handshake, waits for the garbage collector."""

    def left() -> int:
        return sum(isinstance(thing, (WebSocket, Protocol)) for thing in gc.get_objects())

    gc.collect()
    before = left()
    gc.disable()
    try:
        client = await WebClient.connected(port, keep_alive=60)
        refused = await Client.open(port)
        refused.writer.write(request(Sec_WebSocket_Protocol=None))
        await refused.reader.read()
        assert left() == before + 2  # the one that is open, and what it speaks
        await client.disconnect()
        await until(lambda: not engine.reactor.connections)
        assert left() == before
    finally:
        gc.enable()


async def test_close_waits_for_what_came_before_it(engine: Engine, port: int, witness: Client) -> None:
    """A client may say all it has to say at once; it is served when it has been let in."""
    waiting: list[Channel] = []

    def admit(channel: Channel, _packet: Connect) -> None:
        channel.pause()
        waiting.append(channel)

    engine.core.admit = admit
    client = await WebClient.open(port)
    packets = (Connect("hurried", 5), Publish(b"witness", b"said"), Disconnect())
    data = b"".join(frame(BINARY, encode(packet, 5)) for packet in packets)
    client.raw.write(data + frame(CLOSE, b"\x03\xe9"))
    await until(lambda: waiting)
    (channel,) = waiting
    engine.reactor.run(lambda: connect.accepted(channel, ANONYMOUS))
    engine.reactor.run(channel.resume)
    await witness.expect_message(b"said")
    await client.expect(Connack)
    await client.expect_close(1001)


async def test_not_many_frames_are_taken_in_at_once(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty ones cost 6 bytes and 6 us each, and there is no packet in them that would be counted."""
    sizes: list[int] = []
    feed = WebSocket.feed

    def measured(self: WebSocket, data: bytes) -> None:
        sizes.append(len(data))
        feed(self, data)

    monkeypatch.setattr(WebSocket, "feed", measured)
    client = await WebClient.open(port)
    client.raw.write(frame(2) * 20_000)
    await client.send(Connect("c", 5))
    await client.expect(Connack)
    assert sum(sizes) > 100_000
    assert max(sizes) <= READ_BYTES // 8


# -- slow readers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
async def test_a_slow_reader(engine: Engine, web: dict[str, Any], version: int) -> None:
    """What it did not take comes whole and in order, in frames that clients with a bound can take."""
    for listener in engine.reactor.listeners:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
    slow = await WebClient.connected(client_id="slow", version=version, **web)
    await slow.subscribe("t", qos=1)
    slow.raw.transport.pause_reading()  # type: ignore[attr-defined]
    sender = await Client.connected(engine.port)
    for n in range(120):
        await sender.publish("t", b"%03d" % n + bytes(30_000))
    for data in (b"1", b"2", b"later"):
        slow.raw.write(frame(PING, data))
        await sender.silent()
    assert engine.session("slow").out is None, "it was not slow"
    slow.raw.transport.resume_reading()  # type: ignore[attr-defined]
    for n in range(120):
        assert (await slow.expect_message()).payload[:3] == b"%03d" % n
    await slow.silent()
    assert max(slow.frames.sizes) <= FRAME_BYTES_MAX
    assert slow.frames.pongs[-1] == b"later"


# -- the request -------------------------------------------------------------------------------------------------------


async def _ask(port: int, sent: bytes, **options: Any) -> tuple[int, dict[str, str], str]:
    """What is answered to bytes, before the connection is closed: status, headers, body."""
    client = await Client.open(port, **options)
    client.writer.write(sent)
    async with asyncio.timeout(TIMEOUT_S):
        answer = (await client.reader.read()).decode("ascii")
    head, _, body = answer.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


REFUSED = {
    "no GET": (request(first="POST / HTTP/1.1"), 400, "no request for a WebSocket"),
    "plain MQTT": (encode(Connect("a", 5), 5), 400, "no request for a WebSocket"),
    "TLS": (bytes.fromhex("16 03 01 00 c8 01 00 00 c4 03 03"), 400, "no request for a WebSocket"),
    "HTTP/1.0": (request(first="GET / HTTP/1.0"), 400, "no valid HTTP/1.1"),
    "HTTP/2": (request(first="GET / HTTP/2"), 400, "no valid HTTP/1.1"),
    "no words": (b"GET \r\n\r\n", 400, "no valid HTTP/1.1"),
    "a body": (request(Content_Length="3"), 400, "no valid HTTP/1.1"),
    "chunks": (request(Transfer_Encoding="chunked"), 400, "no valid HTTP/1.1"),
    "a folded header": (request(Cookie="a\r\n b"), 400, "no valid HTTP/1.1"),
    "no host": (request(Host=None), 400, "one Host"),
    "two hosts": (request(host="another"), 400, "one Host"),
    "no upgrade": (request(Upgrade=None), 426, "connect with an MQTT client"),
    "no upgrade of this connection": (request(Connection="close"), 426, "connect with an MQTT client"),
    "another upgrade": (request(Upgrade="h2c"), 426, "connect with an MQTT client"),
    "no key": (request(Sec_WebSocket_Key=None), 400, "Sec-WebSocket-Key"),
    "a short key": (request(Sec_WebSocket_Key="c2hvcnQ="), 400, "Sec-WebSocket-Key"),
    "another version": (request(Sec_WebSocket_Version="8"), 400, "Sec-WebSocket-Version"),
    # [MQTT-6.0.0-3]
    "no subprotocol": (request(Sec_WebSocket_Protocol=None), 400, "subprotocol mqtt"),
    "another subprotocol": (request(Sec_WebSocket_Protocol="chat, wamp"), 400, "subprotocol mqtt"),
    "a page from elsewhere": (request(Origin="https://evil.example"), 403, "add origin=https://evil.example to the"),
    "a page from nowhere": (request(Origin="null"), 403, "origin=null"),
    "a page of a longer name": (request(Origin="https://localhost.evil.example"), 403, "may not connect"),
    "a page of another port": (request(Origin="https://localhost:8443"), 403, "may not connect"),
    "two origins": (request(Origin="https://localhost", origin="https://localhost"), 400, "Origin"),
    "not ASCII": (request(Upgrade="\xff\xfe"), 400, "??"),
    "a key that is not ASCII": (request(Sec_WebSocket_Key="\xff\xfe"), 400, "??"),
    "a page of no ASCII": (request(Origin="https://\xff"), 403, "https://?"),
    "a long origin": (request(Origin="https://" + 8000 * "a"), 403, "may not connect"),
    "a long line": (request(Cookie="a" * 8192), 400, "no valid HTTP/1.1"),
    "many headers": (request(**{f"X{n}": "y" for n in range(128)}), 400, "no valid HTTP/1.1"),
    "many long headers": (request(**{f"X{n}": "y" * 8000 for n in range(3)}), 431, str(REQUEST_BYTES_MAX)),
    "no end": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (REQUEST_BYTES_MAX // 6), 431, str(REQUEST_BYTES_MAX)),
}


@pytest.mark.parametrize(("sent", "status", "says"), REFUSED.values(), ids=REFUSED)
async def test_refused(engine: Engine, port: int, witness: Client, sent: bytes, status: int, says: str) -> None:
    """Each with a small answer that says what to do, and the end of the connection."""
    got, headers, body = await _ask(port, sent)
    assert got == status, body
    assert says in body
    assert headers["Connection"] == "close"
    assert headers["Content-Length"] == str(len(body))
    assert len(body) < 1000
    assert ("Upgrade" in headers) == (status == 426)
    assert engine.counters.websocket_refused == 1
    assert len(engine.reactor.connections) == 1
    ((event, fields),) = engine.events
    assert event == "WebSocket refused"
    assert fields["error"] == f"{status} {body.strip()}"


async def test_refused_over_tls(engine: Engine, pki: Pki) -> None:
    port = engine.listen(lambda: pki.context, web=WebRules())
    assert (await _ask(port, request(Upgrade=None), tls=pki.client()))[0] == 426


GRANTED = {
    "a byte more in the path": request("/?token=x"),
    "small letters": request(Upgrade="WebSocket", Connection="keep-alive, upgrade"),
    "other subprotocols": request(Sec_WebSocket_Protocol="mqttv3.1, chat, mqtt"),
    "a cookie that is no ASCII": request(Cookie="a=\xe4\xf6"),
    "compression": request(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"),
    "a page of this host": request(Origin="https://localhost"),
    "a page of this host and port": request(Host="Localhost:8083", Origin="http://localhost:8083"),
    "long headers": request(**{f"X{n}": "y" * 5000 for n in range(3)}),
}


@pytest.mark.parametrize("asked", GRANTED.values(), ids=GRANTED)
async def test_granted(port: int, asked: bytes) -> None:
    """[MQTT-6.0.0-4]: with the subprotocol mqtt, whatever else was offered; the client looks for it."""
    client = await WebClient.connected(port, options={"request": asked})
    await client.silent()


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        ({"https://shop.example"}, "https://shop.example", 101),
        ({"https://shop.example"}, "http://shop.example", 403),
        ({"https://shop.example"}, "https://shop.example:444", 403),
        ({"https://shop.example"}, "https://localhost", 101),
        ({"https://shop.example", "*"}, "https://anywhere.example", 101),
        ({"*"}, "null", 101),
        ({"null"}, "null", 101),
    ],
)
def test_origins(origins: set[str], origin: str, status: int) -> None:
    assert WebRules("", frozenset(origins)).admits(origin, "localhost") == (status == 101)
    assert WebRules("", frozenset(origins)).admits(None, "localhost")


def test_no_origin_is_that_of_no_host() -> None:
    assert not WebRules().admits("null", "")


async def test_only_the_path_of_the_listener(engine: Engine) -> None:
    port = engine.listen(web=WebRules("/mqtt"))
    for path in ("/", "/mqtt/", "/MQTT", "/other", "/mqtt2", "/mqttéx"):
        status, _, body = await _ask(port, request(path))
        assert (status, body) == (404, "There is nothing here. MQTT is spoken at /mqtt\n")
    for path in ("/mqtt", "/mqtt?a=b"):
        await WebClient.connected(port, options={"request": request(path)})


async def test_a_request_byte_by_byte(port: int) -> None:
    client = await Client.open(port)
    for byte in request():
        client.writer.write(bytes((byte,)))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


async def test_all_at_once(port: int) -> None:
    """A client should wait for the answer; one that does not is not punished."""
    client = await Client.open(port)
    client.writer.write(request() + frame(BINARY, encode(Connect("eager", 5), 5)))
    await client.reader.readuntil(b"\r\n\r\n")
    assert (await client.reader.readexactly(2))[0] == 0x80 | BINARY
    assert (await client.reader.read(1))[0] == 0x20


@pytest.mark.parametrize("sent", [b"", b"G", request()[:-1], request(), request() + frame(BINARY, b"\x10")[:3]])
async def test_slow_ones_are_closed(engine: Engine, web: dict[str, Any], sent: bytes) -> None:
    """The time for CONNECT includes the request."""
    client = await Client.open(**web)
    client.writer.write(sent)
    await until(lambda: engine.counters.bytes_received >= len(sent) and engine.reactor.connections)
    engine.core.tick(engine.core.now + 22)
    assert not engine.reactor.connections
    assert engine.counters.connections_refused == 1


@pytest.mark.parametrize("sent", [b"", b"GET / HT", request(), request() + frame(BINARY, b"\x10\x7f\0")])
@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
async def test_gone_early(engine: Engine, port: int, witness: Client, sent: bytes, abort: bool) -> None:
    client = await Client.open(port)
    client.writer.write(sent)
    if abort:
        client.abort()
    else:
        await client.close()
    await until(lambda: engine.counters.connections_closed == 1)
    assert not engine.events


# -- clients of other makers -------------------------------------------------------------------------------------------


async def test_the_websockets_library(web: dict[str, Any]) -> None:
    tls = web.get("tls")
    url = f"{'wss' if tls else 'ws'}://localhost:{web['port']}/mqtt"
    async with open_websocket(url, subprotocols=MQTT, ssl=tls, family=socket.AF_INET) as client:
        assert client.subprotocol == "mqtt"
        assert not client.protocol.extensions
        await client.send(encode(Connect("a", 5), 5))
        assert (await client.recv())[0] == 0x20
        await client.send([encode(Subscribe(1, [Request("t")]), 5)[:3], encode(Subscribe(1, [Request("t")]), 5)[3:]])
        assert (await client.recv())[0] == 0x90
        await client.send(encode(Publish(b"t", bytes(70_000)), 5))
        assert len(await client.recv()) == len(encode(Publish(b"t", bytes(70_000)), 5))
        await (await client.ping())
        await client.send("text")
        assert (await client.recv()) == b"\xe0\x01\x82"
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1003


async def test_the_websockets_library_says_goodbye(port: int, engine: Engine) -> None:
    async with open_websocket(f"ws://127.0.0.1:{port}", subprotocols=MQTT) as client:
        await client.send(encode(Connect("a", 4), 4))
        await client.recv()
        await client.close(1001, "closing the page")
        assert client.close_code == 1001
    await until(lambda: not engine.reactor.connections)
    assert engine.counters.protocol_errors == 0
