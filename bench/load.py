"""The load: publishers and persistent sessions in one thread, cheap enough that a core of Python keeps a broker busy.

Packets are encoded before the clock runs, and what comes back is compared or counted, not parsed: all packets of a run
have one size, PUBACKs must come in the order of their PUBLISHes [MQTT-4.6.0-2], so the bytes that a broker will answer
with are known.

Each message has a number, and the number says all: `number % sessions` is the session that gets it, `number %
publishers` who sends it. So whoever receives it can tell what is missing, double or out of order, without a list.
"""

import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from bench.brokers import HOST
from bench.machine import BenchError
from bench.packets import (
    DISCONNECT,
    NEW_SESSION,
    OLD_SESSION,
    PUBACK,
    Form,
    connect_packet,
    subscribe_packet,
    topic_of,
)

UNANSWERED_MAX: Final = 64  # connection attempts at a time: below every broker's listen backlog
READ_BYTES: Final = 65536
PACKET_IDS: Final = 65535
STALL_S_MAX: Final = 60.0  # so long a broker may not say anything at all


class Loop:
    """Sockets, and what is to be done when one of them can be read. They are closed after `with`."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, tuple[socket.socket, Callable[[], None]]] = {}

    def open(self, port: int, first: bytes, handler: Callable[[], None]) -> socket.socket:
        """Connect, send these bytes, and call `handler` whenever there is something to read."""
        sock = socket.create_connection((HOST, port), timeout=STALL_S_MAX)
        self._sockets[sock.fileno()] = sock, handler
        self._poll.register(sock, select.EPOLLIN)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        sock.sendall(first)
        return sock

    def close(self, sock: socket.socket) -> None:
        """Drop a connection."""
        del self._sockets[sock.fileno()]
        sock.close()

    def run(self, done: Callable[[], bool], within_s: float = 600.0, *, quiet_s: float = STALL_S_MAX) -> bool:
        """Go on until `done`, or until `within_s` are over or nothing came for `quiet_s`: then False."""
        ends = time.monotonic() + within_s
        while not done():
            ready = self._poll.poll(min(quiet_s, max(0.0, ends - time.monotonic())))
            if not ready:
                return False
            for number, _ in ready:
                self._sockets[number][1]()
            if time.monotonic() > ends:
                return done()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for sock, _ in self._sockets.values():
            sock.close()
        self._poll.close()


class Publisher:
    """One connection that publishes a series of packets, in order, with at most `window` of them unacknowledged."""

    def __init__(self, loop: Loop, port: int, client_id: bytes, packets: Sequence[bytes], window: int) -> None:
        self.total = len(packets)
        self.acknowledged = 0
        self._size = len(packets[0])
        self._window = window
        self._bytes = memoryview(b"".join(packets))
        self._sent_bytes = 0
        self._answers = NEW_SESSION + b"".join(
            PUBACK + struct.pack(">H", at % PACKET_IDS + 1) for at in range(len(packets))
        )
        self._answered_bytes = 0
        self._loop = loop
        self._sock = loop.open(port, connect_packet(client_id, clean=True), self._read)

    @property
    def connected(self) -> bool:
        """Whether the broker has let it in."""
        return self._answered_bytes >= len(NEW_SESSION)

    @property
    def done(self) -> bool:
        """Whether all it was to publish is acknowledged."""
        return self.acknowledged == self.total

    def go(self, upto: int | None = None) -> None:
        """Publish the first `upto`, or all, of them."""
        self.total = len(self._bytes) // self._size if upto is None else upto
        self._send()

    def finish(self) -> None:
        """Begin no further packet."""
        self.total = -(-self._sent_bytes // self._size)
        self._send()

    def last_words(self) -> None:
        """Count what a broker that is gone had still sent."""
        try:
            while data := self._sock.recv(READ_BYTES):
                self._count(data)
        except OSError:
            return

    def close(self) -> None:
        """Leave."""
        self._sock.send(DISCONNECT)
        self._loop.close(self._sock)

    def _read(self) -> None:
        data = self._sock.recv(READ_BYTES)
        if not data:
            raise BenchError(f"the broker cut a publisher off after {self.acknowledged} acknowledgements")
        begun = self._sent_bytes > 0
        self._count(data)
        if begun:
            self._send()

    def _count(self, data: bytes) -> None:
        end = self._answered_bytes + len(data)
        if data != self._answers[self._answered_bytes : end]:
            raise BenchError(f"an acknowledgement is wrong or out of order, after {self.acknowledged} right ones")
        self._answered_bytes = end
        self.acknowledged = max(0, end - len(NEW_SESSION)) // 4

    def _send(self) -> None:
        end = min(self.total, self.acknowledged + self._window)
        unsent_bytes = end * self._size - self._sent_bytes
        # A broker that answers each packet on its own must not make us send each on its own.
        if unsent_bytes * 4 < self._window * self._size and end < self.total:
            return
        try:
            self._sent_bytes += self._sock.send(self._bytes[self._sent_bytes : end * self._size])
        except BlockingIOError:
            return  # its acknowledgements will bring us back here


@dataclass(frozen=True)
class Traffic:
    """So many messages to so many sessions, each with its own topic, from so many publishers."""

    sessions: int
    messages: int
    publishers: int
    body_bytes: int = 64

    def open(self, loop: Loop, port: int, window: int) -> list[Publisher]:
        """The publishers, connected and ready to go."""
        form = Form(self.body_bytes)
        topics = [topic_of(session) for session in range(self.sessions)]
        opened = []
        for at in range(self.publishers):
            packets = [
                form.packet(topics[number % self.sessions], nth % PACKET_IDS + 1, number)
                for nth, number in enumerate(range(at, self.messages, self.publishers))
            ]
            opened.append(Publisher(loop, port, b"bench-publisher-%d" % at, packets, window))
        must(loop.run(lambda: all(publisher.connected for publisher in opened)), "publishers were not let in")
        return opened

    def acknowledged(self, publishers: Sequence[Publisher]) -> set[int]:
        """The numbers of the messages that were acknowledged."""
        return {
            nth * self.publishers + at
            for at, publisher in enumerate(publishers)
            for nth in range(publisher.acknowledged)
        }


def publish(loop: Loop, publishers: Sequence[Publisher], within_s: float = 600.0) -> int:
    """Publish all of it, or as much as goes in that time; returns how many messages were acknowledged."""
    for publisher in publishers:
        publisher.go()
    if not loop.run(lambda: all(publisher.done for publisher in publishers), within_s):
        for publisher in publishers:
            publisher.finish()
        must(loop.run(lambda: all(publisher.done for publisher in publishers)), "messages were not acknowledged")
    return sum(publisher.acknowledged for publisher in publishers)


class _Joining:
    """A client that makes its session, subscribes, and leaves again."""

    def __init__(self, loop: Loop, port: int, session: int, filters: Sequence[bytes], left: Callable[[], None]) -> None:
        self._loop = loop
        self._left = left
        self._got = b""
        granted = bytes([0x90, 2 + len(filters), 0, 1]) + b"\x01" * len(filters)
        self._expected = NEW_SESSION + granted
        hello = connect_packet(_client_id(session), clean=False) + subscribe_packet(filters)
        self._sock = loop.open(port, hello, self._read)

    def _read(self) -> None:
        data = self._sock.recv(READ_BYTES)
        self._got += data
        if not data:
            if self._got != self._expected:
                raise BenchError(f"a session was not made: {self._got.hex()}")
            self._loop.close(self._sock)
            self._left()
        elif self._got == self._expected:
            self._sock.send(DISCONNECT)


def make_sessions(loop: Loop, port: int, filters: Iterable[Sequence[bytes]]) -> None:
    """A persistent session for each item, subscribed to its filters, whose client is away when this returns."""
    waiting = enumerate(filters)
    under_way = 0

    def join() -> None:
        nonlocal under_way
        for session, names in waiting:
            _Joining(loop, port, session, names, left)
            under_way += 1
            return

    def left() -> None:
        nonlocal under_way
        under_way -= 1
        join()

    for _ in range(UNANSWERED_MAX):
        join()
    must(loop.run(lambda: under_way == 0), "sessions were not made")


def _client_id(session: int) -> bytes:
    return b"bench-%08d" % session


class Receiver:
    """The client of one session, back again: acknowledges what it gets."""

    def __init__(self, crowd: "Receivers", loop: Loop, port: int, session: int) -> None:
        self.numbers: list[int] = []
        self._sock = loop.open(port, connect_packet(_client_id(session), clean=False), self._read)
        self._crowd = crowd
        self._answered = False
        self._rest = b""

    def _read(self) -> None:
        data = self._sock.recv(READ_BYTES)
        if not data:
            raise BenchError(f"the broker cut a receiver off after {len(self.numbers)} messages")
        data = self._rest + data
        if not self._answered:
            if len(data) < len(OLD_SESSION):
                self._rest = data
                return
            if data[: len(OLD_SESSION)] not in (OLD_SESSION, NEW_SESSION):
                raise BenchError(f"a receiver was not let in: {data[:4].hex()}")
            self._answered = True
            self._crowd.answered()
            data = data[len(OLD_SESSION) :]
        form = self._crowd.form
        whole = len(data) - len(data) % form.size
        self._rest = data[whole:]
        if whole:
            ids, numbers = form.fields(data[:whole])
            self.numbers += numbers
            self._crowd.received += len(numbers)
            acks = PUBACK + PUBACK.join(ids)
            if self._sock.send(acks) != len(acks):
                raise BenchError("the broker does not read acknowledgements")


class Receivers:
    """The clients of the first `count` sessions, who come back as fast as they are answered."""

    def __init__(self, loop: Loop, port: int, count: int, form: Form) -> None:
        self.form = form
        self.received = 0
        self._all: list[Receiver] = []
        self._loop = loop
        self._port = port
        self._count = count
        self._answers = 0

    @property
    def connected(self) -> bool:
        """Whether all are back."""
        return self._answers == self._count

    @property
    def numbers(self) -> list[list[int]]:
        """What each got."""
        return [receiver.numbers for receiver in self._all]

    def come_back(self) -> None:
        """Begin to connect."""
        for _ in range(min(UNANSWERED_MAX, self._count)):
            self._connect()

    def answered(self) -> None:
        """One of them is in: the next one, please."""
        self._answers += 1
        if len(self._all) < self._count:
            self._connect()

    def _connect(self) -> None:
        self._all.append(Receiver(self, self._loop, self._port, len(self._all)))


@dataclass(frozen=True)
class Verdict:
    """What came, compared with what should have come."""

    lost: int
    double: int
    misplaced: int  # for somebody else, or after a later one of the same topic


def judge(received: Sequence[Sequence[int]], expected: set[int], sessions: int) -> Verdict:
    """Compare the numbers that the first of `sessions` received with those that they should have received.

    More may come than was acknowledged: the broker had it, and the publisher did not get to know.
    """
    distinct = [list(dict.fromkeys(numbers)) for numbers in received]
    return Verdict(
        lost=len(expected.difference(*distinct)),
        double=sum(map(len, received)) - sum(map(len, distinct)),
        misplaced=sum(
            number % sessions != session or number < before
            for session, numbers in enumerate(distinct)
            for before, number in zip([0, *numbers], numbers, strict=False)
        ),
    )


def must(done: bool, otherwise: str) -> None:
    """What was waited for has come about."""
    if not done:
        raise BenchError(f"{otherwise} within the time")
