"""MQTT over WebSocket (§6), plain or TLS: HTTP first, then frames around what any other connection reads and writes.

The `websockets` library knows the protocols (RFC 9112, RFC 6455); the rules, and the way to the channel, are here.
"""

import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from websockets.exceptions import InvalidUpgrade, NegotiationError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from broker.errors import ProtocolError
from broker.limits import CONNECT_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MORE, REQUEST_BYTES_MAX
from broker.listen.connection import Connection
from broker.wire.codes import Reason

if TYPE_CHECKING:
    from broker.listen.reactor import Listener, Reactor

_MQTT: Final = Subprotocol("mqtt")
_GET: Final = b"GET "
_END: Final = b"\r\n\r\n"
# The library quotes headers in what it answers, and what is not ASCII cannot be in it.
_ASCII: Final = bytes(range(128)) + b"?" * 128
_QUOTE_MAX: Final = 200


class WebRules(NamedTuple):
    """Which requests a listener serves: for `path` ('' = any), and from pages of its own host and of these origins.

    An origin is `https://shop.example`, as browsers write it; `*` is all of them.
    """

    path: str = ""
    origins: frozenset[str] = frozenset()

    def admits(self, origin: str | None, host: str) -> bool:
        """Whether a page of `origin` may connect to us as `host`. Who sends no origin is no browser."""
        if origin is None or "*" in self.origins or origin in self.origins:
            return True
        return bool(host) and origin.partition("://")[2].lower() == host.lower()


class WebSocket(Connection):
    """A connection whose bytes come and go in binary frames."""

    __slots__ = ("control", "head", "protocol")

    dearer = 8  # 64 KiB of empty frames take 60 ms, and whoever has not said who it is can send them

    def __init__(self, reactor: "Reactor", sock: socket.SocketType, listener: "Listener", peer: str) -> None:
        super().__init__(reactor, sock, listener, peer)
        self.head = b""  # what has come of the request
        self.protocol: Protocol | None = None  # once the WebSocket is open
        self.control = b""  # a frame that is to follow what is put out: the latest pong, or the last of all, Close

    # -- HTTP --------------------------------------------------------------------------------------------------------

    def _request(self, data: bytes) -> bytes:
        """Take in a part of the request; once it is whole, answer it. Returns what came behind it."""
        start = max(0, len(self.head) - len(_END) + 1)
        head = self.head = self.head + data
        found = head.find(_END, start)
        if found < 0 and len(head) <= REQUEST_BYTES_MAX and _GET.startswith(head[: len(_GET)]):
            return b""
        end = found + len(_END) if found >= 0 else len(head)
        server = ServerProtocol(subprotocols=[_MQTT])
        answer = self._answer(server, head[:end])
        server.parser.close()  # it refers to itself
        self.write(answer.serialize())
        if answer.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self.core.counters.websocket_refused += 1
            error = f"{answer.status_code} {answer.body.decode().strip()}"
            self.core.note("WebSocket refused", client=self.address, error=error)
            self.close()
            return b""
        self.flush()
        self.head = b""
        if self.closed:
            return b""
        self.protocol = Protocol(SERVER, state=OPEN, max_size=self.core.limits.packet_bytes_max + FRAME_BYTES_MORE)
        return head[end:]

    def _answer(self, server: ServerProtocol, head: bytes) -> Response:
        if not head.startswith(_GET):
            sentence = "This is no request for a WebSocket. MQTT over plain TCP has a port of its own."
            return _refusal(server, HTTPStatus.BAD_REQUEST, sentence)
        if len(head) > REQUEST_BYTES_MAX:
            sentence = f"A request may have {REQUEST_BYTES_MAX} bytes."
            return _refusal(server, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, sentence)
        server.receive_data(head.translate(_ASCII))
        events = server.events_received()
        if not events:
            return _refusal(server, HTTPStatus.BAD_REQUEST, "This is no valid HTTP/1.1 request.")
        request = events[0]
        assert isinstance(request, Request)
        hosts = request.headers.get_all("Host")
        if len(hosts) != 1:
            return _refusal(server, HTTPStatus.BAD_REQUEST, "A request needs one Host header.")  # RFC 9112 §3.2
        rules = self.listener.web
        assert rules is not None
        path = head.split(b" ", 2)[1].partition(b"?")[0]  # as it was sent
        if rules.path and path != rules.path.encode():
            return _refusal(server, HTTPStatus.NOT_FOUND, f"There is nothing here. MQTT is spoken at {rules.path}")
        answer = server.accept(request)  # [MQTT-6.0.0-3], [MQTT-6.0.0-4]
        if server.handshake_exc is not None:
            server.handshake_exc.__traceback__ = None  # it refers to the frames that refer to it
        match server.handshake_exc:
            case None:
                if rules.admits(server.origin, hosts[0]):
                    return answer
                origin = (server.origin or "")[:_QUOTE_MAX]
                sentence = f"Pages of {origin} may not connect. To allow it, add origin={origin} to the listener."
                return _refusal(server, HTTPStatus.FORBIDDEN, sentence)
            case InvalidUpgrade():
                sentence = "MQTT over WebSocket is spoken here: connect with an MQTT client."
                answer = _refusal(server, HTTPStatus.UPGRADE_REQUIRED, sentence)
                answer.headers["Upgrade"] = "websocket"  # RFC 9110 §15.5.22
                return answer
            case NegotiationError():
                return _refusal(server, HTTPStatus.BAD_REQUEST, "Ask for the WebSocket subprotocol mqtt.")
            case error:
                return _refusal(server, HTTPStatus.BAD_REQUEST, f"No WebSocket can be opened: {error}"[:_QUOTE_MAX])

    # -- in ----------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take in what the peer sent: a request, and then frames. Packets need not begin or end with them."""
        if self.protocol is None:
            data = self._request(data)
        protocol = self.protocol
        if protocol is None or not data:
            return
        protocol.receive_data(data)
        chunks = []
        for frame in protocol.events_received():
            assert not isinstance(frame, (Request, Response))  # those came before
            if frame.opcode is Opcode.TEXT:
                protocol.fail(CloseCode.UNSUPPORTED_DATA, "MQTT comes in binary frames")  # [MQTT-6.0.0-1]
                break
            if frame.opcode in (Opcode.BINARY, Opcode.CONT):
                chunks.append(frame.data)
        payload = b"".join(chunks)
        if payload:
            super().feed(payload)  # what was in frames is one stream again [MQTT-6.0.0-2]
        if self.closed:
            return
        if self.session is None and self.admitting is None and len(protocol.reader.buffer) > CONNECT_BYTES_MAX:
            protocol.fail(CloseCode.MESSAGE_TOO_BIG)
        frames = [frame for frame in protocol.data_to_send() if frame]
        if not frames:
            return
        self.control = frames[-1]  # of pongs the last is enough (RFC 6455 §5.5.3)
        if protocol.state is OPEN:
            self.flush()
        elif protocol.close_rcvd is not None:
            self._goodbye()
        else:
            self.fail(ProtocolError(f"WebSocket closed with {protocol.close_sent}"))

    def resume(self) -> None:
        """Read again, unless the peer has said goodbye behind what was read before."""
        super().resume()
        if self.protocol is not None and self.protocol.close_rcvd is not None:
            self._goodbye()

    def _goodbye(self) -> None:
        """Close, once all is served that came before the peer's Close frame."""
        if self.reading and not self.closed:
            self.close()

    # -- out ---------------------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """Take a part of what was put out, in binary frames, and behind the last the control frame."""
        if self.protocol is None:
            return super().take()
        data = super().take() if self.out else b""
        pieces = [data[at : at + FRAME_BYTES_MAX] for at in range(0, len(data), FRAME_BYTES_MAX)]
        # Not through the protocol: it takes nothing after a Close, and what is put out goes before ours.
        frames = [Frame(Opcode.BINARY, piece).serialize(mask=False) for piece in pieces]
        if not self.out:
            frames.append(self.control)
            self.control = b""
        return b"".join(frames)

    def flush(self) -> None:
        """Write all that was put out in this round."""
        if self.pending is None and (self.out or self.control):
            self.pending = self.take()
            self.push()

    def writable(self) -> None:
        """The socket takes more."""
        super().writable()
        if self.control and not self.closed:
            self.flush()

    def close(self, reason: Reason | None = None) -> None:
        """Close the connection, with a Close frame where none was sent, if the socket takes it at once."""
        protocol = self.protocol
        if protocol is not None and not self.closed:
            if protocol.state is OPEN:
                leaving = reason is Reason.SERVER_SHUTTING_DOWN
                protocol.send_close(CloseCode.GOING_AWAY if leaving else CloseCode.NORMAL_CLOSURE)
            frames = [frame for frame in protocol.data_to_send() if frame]
            if frames:
                self.control = frames[-1]
        super().close(reason)

    def shut(self) -> None:
        """Close the socket."""
        super().shut()
        if self.protocol is not None:
            self.protocol.parser.close()  # it refers to itself


def _refusal(server: ServerProtocol, status: HTTPStatus, sentence: str) -> Response:
    return server.reject(status, sentence + "\n")
