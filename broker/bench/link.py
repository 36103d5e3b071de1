"""Connections of clients, by TCP, TLS and WebSocket, and the loop that serves them, in one thread."""

import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self, get_args

from broker.bench.machine import BenchError

Transport = Literal["tcp", "tls", "ws", "wss"]
TRANSPORTS: Final[tuple[Transport, ...]] = get_args(Transport)
HOST: Final = "127.0.0.1"
READ_BYTES: Final = 262144
STALL_S_MAX: Final = 60.0  # so long a broker may not say anything at all
_WANTS: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_UPGRADE: Final = (
    b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: cHVzaGJyb2tlci1iZW5jaA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the broker is what is measured, and it is ours on this machine
    return context


@dataclass(frozen=True)
class Target:
    """Where a broker listens, by what, and the version of MQTT that is spoken there (4 is 3.1.1)."""

    port: int
    transport: Transport = "tcp"
    version: int = 4
    context: ssl.SSLContext = field(default_factory=_context, compare=False)


class Loop:
    """Links, and what is to be done when one of them can be read or written. They are closed after `with`."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._links: dict[int, Link] = {}

    def add(self, link: "Link") -> None:
        """Serve this link."""
        self._links[link.fileno] = link
        self._poll.register(link.fileno, select.EPOLLIN)

    def watch(self, link: "Link", *, writable: bool) -> None:
        """Whether it matters that the link can be written."""
        self._poll.modify(link.fileno, select.EPOLLIN | (select.EPOLLOUT if writable else 0))

    def remove(self, link: "Link") -> None:
        """Serve it no more."""
        del self._links[link.fileno]
        self._poll.unregister(link.fileno)

    def step_until(self, due: float) -> None:
        """Serve those that are ready, or become so before `due` on the performance counter, to the microsecond.

        epoll counts in milliseconds; select does not, but knows only the first thousand files of a process.
        """
        select.select([self._poll.fileno()], [], [], max(0.0, due - time.perf_counter()))
        self.step(0)

    def step(self, wait_s: float) -> bool:
        """Serve those that are ready, or become so within that time. False when there were none."""
        ready = self._poll.poll(wait_s)
        links = self._links
        for number, events in ready:
            link = links.get(number)  # one that was ready may have been closed by another's handler
            if link is not None:
                link.handle(events)
        return bool(ready)

    def run(self, done: Callable[[], bool], within_s: float = 600.0, *, quiet_s: float = STALL_S_MAX) -> bool:
        """Go on until `done`, or until `within_s` are over or nothing came for `quiet_s`: then False."""
        ends = time.monotonic() + within_s
        while not done():
            left = ends - time.monotonic()
            if left <= 0 or (not self.step(min(quiet_s, left)) and quiet_s <= left):
                return done()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for link in list(self._links.values()):
            link.drop()
        self._poll.close()


class Link:
    """One connection. `reader` gets what comes, and b"" when the other side has ended it.

    `ticket` is a TLS session that may be resumed; `trouble` says why there is no connection.
    """

    __slots__ = (
        "_arrived",
        "_frames",
        "_loop",
        "_opening",
        "_pending",
        "_reader",
        "_secure",
        "_sock",
        "_ticket",
        "fileno",
        "trouble",
    )

    def __init__(
        self,
        loop: Loop,
        target: Target,
        first: bytes,
        reader: Callable[[bytes], None],
        ticket: ssl.SSLSession | None = None,
    ) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ticket = ticket
        self._arrived = False
        try:
            sock.connect((HOST, target.port))
            arrived = True
        except BlockingIOError:  # the listener's queue is full
            arrived = False
        except OSError:
            sock.close()
            raise
        self._secure = target.context if target.transport in ("tls", "wss") else None
        self._sock = sock
        self.fileno = sock.fileno()
        self._loop = loop
        self._reader = reader
        self._pending = b""
        self._frames = _Frames() if target.transport in ("ws", "wss") else None
        self._opening: bytes | None = first
        self.trouble = ""
        loop.add(self)
        if arrived:
            self._begin()
        else:
            loop.watch(self, writable=True)

    @property
    def ticket(self) -> ssl.SSLSession | None:
        """What a later link may resume."""
        assert isinstance(self._sock, ssl.SSLSocket)
        return self._sock.session

    @property
    def resumed(self) -> bool:
        """Whether it resumed a TLS session."""
        assert isinstance(self._sock, ssl.SSLSocket)
        return bool(self._sock.session_reused)

    def send(self, data: "bytes | memoryview") -> None:
        """Send it, now or when there is room."""
        if self._frames is not None:
            data = self._frames.framed(data)
        self._write(data)

    def drop(self, *, abruptly: bool = False) -> None:
        """Close it; abruptly: with nothing said, as when a network is gone."""
        if abruptly:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._loop.remove(self)
        self._sock.close()

    def rest(self) -> Iterator[bytes]:
        """What is still to be read of one whose other side is gone; nobody is told of its end."""
        while data := self._read():
            if self._frames is not None:
                data = self._frames.unframed(data)
            if data:
                yield data

    def handle(self, events: int) -> None:
        """Do what can be done now."""
        if not self._arrived:
            self._loop.watch(self, writable=False)
            number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                self._fail(OSError(number, os.strerror(number)))
            else:
                self._begin()
            return
        if events & select.EPOLLOUT:
            self._flush()
        if not events & ~select.EPOLLOUT:
            return
        if self._opening is not None:
            self._open()
            return
        data = self._read()
        if data and self._frames is not None:
            data = self._frames.unframed(data) or None  # half a frame is nothing yet
        if data is not None:
            self._reader(data)

    def _read(self) -> bytes | None:
        try:
            data = self._sock.recv(READ_BYTES)
            if self._secure:
                assert isinstance(self._sock, ssl.SSLSocket)
                while data and self._sock.pending():  # a record is 16 KiB at most
                    data += self._sock.recv(READ_BYTES)
        except _WANTS:
            return None
        except (ConnectionError, ssl.SSLError):
            return b""
        return data

    def _write(self, data: "bytes | memoryview") -> None:
        if self._pending:
            self._pending += data
            return
        try:
            sent = self._sock.send(data)
        except _WANTS:
            sent = 0
        except (ConnectionError, ssl.SSLError):
            return  # what the other side has ended is found when it is read
        if sent < len(data):
            self._pending = bytes(data[sent:])
            self._loop.watch(self, writable=True)

    def _begin(self) -> None:
        self._arrived = True
        if self._secure is not None:
            # Only now: the ssl module wants a socket that is connected.
            self._sock = self._secure.wrap_socket(self._sock, do_handshake_on_connect=False, session=self._ticket)
            self._shake_hands()
        else:
            self._secured()

    def _flush(self) -> None:
        data, self._pending = self._pending, b""
        self._write(data)
        if not self._pending:
            self._loop.watch(self, writable=False)

    def _open(self) -> None:
        """The handshake, or the answer to the upgrade."""
        if self._frames is None or (self._secure and not self._frames.asked):
            self._shake_hands()
            return
        data = self._read()
        if data is None:
            return
        if not data:
            self._reader(b"")
        elif self._frames.upgraded(data):
            first, self._opening = self._opening, None
            assert first is not None
            self.send(first)

    def _shake_hands(self) -> None:
        assert isinstance(self._sock, ssl.SSLSocket)
        try:
            self._sock.do_handshake()
        except _WANTS:
            return
        except OSError as error:
            self._fail(error)
            return
        self._secured()

    def _fail(self, error: OSError) -> None:
        self.trouble = f": {error}"
        self._reader(b"")

    def _secured(self) -> None:
        if self._frames is not None:
            self._frames.asked = True
            self._write(_UPGRADE)
            return
        first, self._opening = self._opening, None
        assert first is not None
        self._write(first)


class _Frames:
    """WebSocket's frames. Ours are masked with zeros: a mask, and nothing to compute."""

    __slots__ = ("_rest", "asked")

    def __init__(self) -> None:
        self._rest = b""
        self.asked = False

    def upgraded(self, data: bytes) -> bool:
        """Whether the broker has answered. It says nothing more before it is asked."""
        self._rest += data
        if not self._rest.endswith(b"\r\n\r\n"):
            return False
        if not self._rest.startswith(b"HTTP/1.1 101"):
            raise BenchError(f"no WebSocket with the broker: {self._rest[:60].decode(errors='replace')}")
        self._rest = b""
        return True

    @staticmethod
    def framed(data: "bytes | memoryview") -> bytes:
        """One frame."""
        size = len(data)
        if size < 126:
            head = bytes([0x82, 0x80 | size])
        elif size < 65536:
            head = struct.pack(">BBH", 0x82, 0xFE, size)
        else:
            head = struct.pack(">BBQ", 0x82, 0xFF, size)
        return head + b"\0\0\0\0" + data

    def unframed(self, data: bytes) -> bytes:
        """What is in the frames that are complete."""
        if self._rest:
            data = self._rest + data
        parts = []
        at, end = 0, len(data)
        while at + 2 <= end:
            size, begin = data[at + 1], at + 2
            if size == 126:
                size, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, begin = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if begin + size > end:
                break
            if data[at] & 0x0F < 8:  # the others are the frames' own: close, ping
                parts.append(data[begin : begin + size])
            at = begin + size
        self._rest = data[at:]
        return b"".join(parts)
