"""What a WebSocket client sends: the request that opens it, and frames with MQTT in them, in pieces."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from fuzz.target import Target
from support.loopback import Lab
from support.web import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame, request
from websockets.protocol import CLIENT, OPEN, Protocol
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from broker.limits import PACKET_BYTES_MAX
from broker.listen.websocket import WebRules, WebSocket
from broker.wire.encode import encode
from broker.wire.packets import Connect, Disconnect, Pingreq, Publish

_LISTENER = cast("Any", SimpleNamespace(web=WebRules("/mqtt", frozenset({"https://shop.example"}))))
OPENING = request("/mqtt")


class _Socket:
    """Takes all that is sent."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def fileno(self) -> int:
        return 3

    def send(self, data: bytes) -> int:
        assert not self.closed
        self.sent += data
        return len(data)

    def close(self) -> None:
        assert not self.closed
        self.closed = True

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 1


def run(data: bytes) -> None:
    """The length of pieces; then what is sent, behind a request that is good, or as the request."""
    length, sent = (data[0], data[1:]) if data else (0, b"")
    if sent[:1] == b"G":
        _check_answer(sent)
    else:
        sent = OPENING + sent
    whole = converse(sent, len(sent))
    pieces = converse(sent, length or 1)
    assert pieces == whole, f"{pieces} instead of {whole}"


def converse(sent: bytes, length: int) -> tuple[bytes, bool]:
    """The MQTT that came back, and whether the connection was closed. Close frames: as far as there is time for one."""
    lab, sock = Lab(), _Socket()
    reactor = cast("Any", SimpleNamespace(core=lab.core, forget=lambda _: None, want=lambda *_, **__: None))
    connection = WebSocket(reactor, cast("Any", sock), _LISTENER, "")
    for at in range(0, len(sent), length):
        if not connection.closed:
            connection.feed(sent[at : at + length])
    lab.flush()
    assert lab.core.counters.unexpected_errors == 0
    assert sock.closed == connection.closed
    if not sock.sent.startswith(b"HTTP/1.1 101 "):
        return sock.sent.split(b"\r\n")[0], sock.closed
    frames = sock.sent.partition(b"\r\n\r\n")[2]
    client = Protocol(CLIENT, state=OPEN, max_size=2 * PACKET_BYTES_MAX)
    client.receive_data(frames)
    payload = b"".join(bytes(event.data) for event in client.events_received() if event.opcode == BINARY)
    assert client.parser_exc is None or client.close_rcvd is not None, "what we send is no WebSocket"
    closed = connection.closed
    connection.close()
    return payload, closed


def _check_answer(head: bytes) -> None:
    server = ServerProtocol(subprotocols=[Subprotocol("mqtt")])
    answer = WebSocket._answer(cast("Any", SimpleNamespace(listener=_LISTENER)), server, head)
    sent = answer.serialize()
    lines = sent.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert len(lines) == 1 + len(list(answer.headers.raw_items())), "a header is more than one line"
    assert b"\n" not in b"".join(lines)
    assert answer.status_code in (101, 400, 403, 404, 426, 431), answer
    if answer.status_code == 101:
        assert head.split(b" ")[1].partition(b"?")[0] == b"/mqtt"
        assert answer.headers["Sec-WebSocket-Protocol"] == "mqtt"
        assert "Sec-WebSocket-Extensions" not in answer.headers
    else:
        answer.body.decode()
        assert len(sent) < 1024


def seeds() -> Iterator[bytes]:
    headers: list[dict[str, str | None]] = [
        {},
        {"Origin": "https://shop.example"},
        {"Origin": "https://elsewhere.example"},
        {"Host": "shop.example:443", "Origin": "https://shop.example:443"},
        {"Sec_WebSocket_Protocol": "mqttv3.1, mqtt"},
        {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"},
    ]
    for name in ("Host", "Upgrade", "Connection", "Sec_WebSocket_Key", "Sec_WebSocket_Version"):
        headers += [{name: None}, {name: "é"}]
    for changed in headers:
        yield b"\x40" + request("/mqtt?x=1", **changed)
    yield b"\x00" + request("/")
    yield b"\x00" + request(first="GET /mqtt HTTP/1.0")
    mqtt = [encode(packet, 5) for packet in (Connect("a", 5), Publish(b"t", b"x" * 200), Pingreq(), Disconnect())]
    joined = b"".join(mqtt)
    for length in (0, 2, 3, 255):
        head = bytes((length,))
        yield head + b"".join(frame(BINARY, packet) for packet in mqtt)
        yield head + frame(BINARY, joined[:5], fin=False) + frame(PING, b"p") + frame(CONT, joined[5:])
        yield head + frame(BINARY, mqtt[0]) + frame(BINARY, b"") + frame(PONG) + frame(CLOSE, b"\x03\xe8bye")
    bad = [frame(TEXT, b"t"), frame(BINARY, b"x", masked=False), frame(BINARY, b"x", rsv=1), frame(3), frame(11)]
    bad += [frame(CLOSE, b"\x03"), frame(CLOSE, b"\x03\xed"), frame(CLOSE, b"\x03\xe8\xff"), frame(CONT, b"x")]
    bad += [frame(PING, b"p", fin=False), frame(PING, b"p" * 126)]
    for one in bad:
        yield b"\x01" + frame(BINARY, mqtt[0]) + one + frame(BINARY, mqtt[2])


TARGET = Target("websocket", "requests and frames of WebSocket", run, seeds, bytes_max=1024, runs_in_ci=150)
