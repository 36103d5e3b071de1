"""The load: clients in one thread, cheap enough that a core of Python keeps a broker busy.

Packets are encoded before they are needed, and what comes back is kept or compared, not parsed: all messages of a run
have one size, and acknowledgements must come in the order of their PUBLISHes [MQTT-4.6.0-2], so the bytes that a
broker will answer with are known. Each message has a number; when the clock has stopped, `judge` reads everything
that came, and tells what is lost, double, or was for somebody else.
"""

import ssl
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from broker.bench.link import Link, Loop, Target
from broker.bench.machine import BenchError
from broker.bench.packets import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    STREAM_SHIFT,
    SUBACK,
    Form,
    Received,
    answers,
    connect_packet,
    ids_of,
    measure,
    subscribe_packet,
)

UNANSWERED_MAX: Final = 64  # connection attempts at a time: below every broker's listen backlog
BLOCK_BYTES: Final = 262144
BLOCK_MESSAGES_MAX: Final = 256


class Client:
    """One connection: CONNECT, SUBSCRIBE if it has filters, and then what its kind does with what comes."""

    __slots__ = ("_gone", "_in", "_ready", "_rest", "_subscribing", "client_id", "link", "present", "ready")

    def __init__(
        self,
        loop: Loop,
        target: Target,
        client_id: bytes,
        *,
        clean: bool = True,
        filters: Sequence[bytes] = (),
        qos: int = 0,
        login: tuple[bytes, bytes] | None = None,
        ticket: ssl.SSLSession | None = None,
        ready: Callable[[], None] | None = None,
    ) -> None:
        self.client_id = client_id
        self.ready = self.present = False
        self._rest = b""
        self._in = False
        self._ready = ready
        self._gone: Callable[[], None] | None = None
        self._subscribing = bool(filters)
        user, password = login or (None, None)
        first = connect_packet(client_id, version=target.version, clean=clean, user=user, password=password)
        if filters:
            first += subscribe_packet(filters, version=target.version, qos=qos)
        self.link = Link(loop, target, first, self._read, ticket)

    def leave(self, gone: Callable[[], None]) -> None:
        """Say goodbye; `gone` is called when the broker has understood."""
        self._gone = gone
        self.link.send(DISCONNECT)

    def _take(self, data: bytes) -> None:
        """What comes to one who is in."""
        raise BenchError(f"the broker sent {data[:8].hex()} to a client that asked for nothing")

    def _read(self, data: bytes) -> None:
        if not data:
            self.link.drop()
            self._ended()
        elif self.ready:
            self._take(data)
        else:
            self._enter(self._rest + data)

    def _ended(self) -> None:
        if self._gone is None:
            raise BenchError(f"the broker cut {self.client_id.decode()} off{self.link.trouble}")
        self._gone()

    def _enter(self, data: bytes) -> None:
        """CONNACK, and SUBACK where one is due."""
        while not self.ready:
            found = measure(data)
            if found is None or len(data) < found[1]:
                self._rest = data
                return
            (head, size), kind = found, data[0]
            packet, data = data[head:size], data[size:]
            if kind == CONNACK and not self._in:
                if packet[1]:
                    raise BenchError(f"the broker did not let {self.client_id.decode()} in: {packet.hex()}")
                self._in, self.present = True, bool(packet[0])
                self.ready = not self._subscribing
            elif kind == SUBACK and self._in:
                if packet[-1] >= 0x80:
                    raise BenchError(f"the broker refused a subscription of {self.client_id.decode()}: {packet.hex()}")
                self.ready = True
            else:
                raise BenchError(f"the broker began with {kind:02x} {packet[:8].hex()}")
        self._rest = b""
        if self._ready is not None:
            self._ready()
        if data:
            self._take(data)


C = TypeVar("C", bound=Client)
Done = Callable[[], None]
Task = Callable[[Done], object]  # it begins something, which calls what it gets when it has ended


class Supply(Protocol):
    """Packets of one size, by their place in the series."""

    size: int
    count: int | None

    def view(self, first: int, upto: int) -> memoryview:
        """Packets from the `first`th on: at least one, and none behind `upto`. Good until the next call."""


class Series:
    """Packets that were all encoded before."""

    def __init__(self, form: Form, items: Iterable[tuple[bytes, int]], *, retain: bool = False) -> None:
        """Of topics and numbers; numbers must count from 0 in the last 15 bits, for they make the packet ids."""
        self.size = form.size
        self._bytes = memoryview(b"".join(form.packet(topic, number, retain=retain) for topic, number in items))
        self.count: int | None = len(self._bytes) // self.size

    def view(self, first: int, upto: int) -> memoryview:
        """See `Supply`."""
        return self._bytes[first * self.size : upto * self.size]


class Endless:
    """One packet to one topic again and again, each with the next number: a block of them, in which numbers change."""

    count: int | None = None

    def __init__(self, form: Form, topic: bytes, stream: int) -> None:
        self.size = form.size
        room = max(1, BLOCK_BYTES // form.size)
        self._messages = min(BLOCK_MESSAGES_MAX, 1 << (room.bit_length() - 1))
        self._stream = stream << STREAM_SHIFT
        self._form = form
        self._bytes = bytearray(b"".join(form.packet(topic, self._stream + at) for at in range(self._messages)))
        self._view = memoryview(self._bytes)
        self._block = 0

    def view(self, first: int, upto: int) -> memoryview:
        """See `Supply`."""
        block, at = divmod(first, self._messages)
        if block != self._block:
            self._renumber(block)
        return self._view[at * self.size : min(self._messages, at + upto - first) * self.size]

    def _renumber(self, block: int) -> None:
        self._block = block
        first, count, size = block * self._messages, self._messages, self.size
        low = self._form.number_at + 7
        if count < BLOCK_MESSAGES_MAX:
            self._bytes[low::size] = bytes((first + at) & 0xFF for at in range(count))
        for place in range(1, STREAM_SHIFT // 8):
            self._bytes[low - place :: size] = bytes([first >> (8 * place) & 0xFF]) * count
        if self._form.qos:
            ids = ids_of(first, count)
            self._bytes[self._form.id_at :: size] = ids[0::2]
            self._bytes[self._form.id_at + 1 :: size] = ids[1::2]


class Flow:
    """What some publishers send to some receivers: no more than `lag` messages of each may be on their way.

    `fan` is how many receivers get each message.
    """

    __slots__ = ("_publishers", "delivered", "fan", "lag", "sent")

    def __init__(self, lag: int, fan: int = 1) -> None:
        self.lag, self.fan = lag, fan
        self.sent = self.delivered = 0
        self._publishers: list[Publisher] = []

    def join(self, publisher: "Publisher") -> None:
        """A publisher of this flow."""
        self._publishers.append(publisher)

    @property
    def room(self) -> int:
        """How many more messages may be sent now."""
        return self.lag * len(self._publishers) - self.sent + self.delivered // self.fan

    @property
    def complete(self) -> bool:
        """Whether all that was sent has come."""
        return self.delivered == self.sent * self.fan

    def came(self, count: int) -> None:
        """So many messages were received."""
        self.delivered += count
        # Not for every message: a broker that delivers each on its own must not make us send each on its own.
        if self.room * 4 >= self.lag:
            for publisher in self._publishers:
                publisher.push()


class Publisher(Client):
    """Publishes a supply in order, with at most `window` of them unacknowledged (QoS 1 and 2)."""

    __slots__ = ("_flow", "_qos", "_recorded", "_supply", "_window", "acknowledged", "sent", "total")

    def __init__(
        self,
        loop: Loop,
        target: Target,
        client_id: bytes,
        supply: Supply,
        qos: int,
        window: int,
        flow: Flow | None = None,
        login: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.sent = self.acknowledged = self.total = 0
        self._supply = supply
        self._qos = qos
        self._window = window
        self._recorded = 0  # PUBRECs
        self._flow = flow
        if flow is not None:
            flow.join(self)
        super().__init__(loop, target, client_id, login=login)

    @property
    def done(self) -> bool:
        """Whether all it was to publish is sent, and acknowledged where it is to be."""
        return (self.acknowledged if self._qos else self.sent) == self.total

    def go(self, upto: int | None = None) -> None:
        """Publish the first `upto`, or as many as there are."""
        wanted = upto if upto is not None else self._supply.count
        self.total = 1 << 62 if wanted is None else wanted
        self.push()

    def finish(self) -> None:
        """Begin no further message."""
        self.total = self.sent

    def last_words(self) -> None:
        """Count what a broker that is gone had still sent."""
        self.total = self.sent
        for data in self.link.rest():
            self._take(data)

    def push(self) -> None:
        """Send what may be sent."""
        allowed = self.total - self.sent
        if self._qos:
            window = self._window - self.sent + self.acknowledged
            if window * 4 < self._window and window < allowed:
                return
            allowed = min(allowed, window)
        if self._flow is not None:
            allowed = min(allowed, self._flow.room)
        while allowed > 0:
            view = self._supply.view(self.sent, self.sent + allowed)
            count = len(view) // self._supply.size
            self.sent += count
            allowed -= count
            if self._flow is not None:
                self._flow.sent += count
            self.link.send(view)

    def _ended(self) -> None:
        if self._gone is None:
            raise BenchError(f"the broker cut a publisher off after {self.acknowledged} acknowledgements")
        self._gone()

    def _take(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        count, over = divmod(len(data), 4)
        if not over and data[1::4] == b"\x02" * count and len(kinds := set(data[0::4])) == 1:
            ids = bytearray(2 * count)
            ids[0::2] = data[2::4]
            ids[1::2] = data[3::4]
            self._answered(kinds.pop(), bytes(ids))
        else:
            self._parse(data)
        self.push()

    def _parse(self, data: bytes) -> None:
        """Answers of several kinds, or with reasons."""
        at = 0
        while (found := measure(data[at : at + 5])) is not None and at + found[1] <= len(data):
            head, size = found
            if size > head + 2 and data[at + head + 2] >= 0x80:
                raise BenchError(f"the broker refused a message: reason {data[at + head + 2]:#04x}")
            self._answered(data[at], data[at + head : at + head + 2])
            at += size
        self._rest = data[at:]

    def _answered(self, kind: int, ids: bytes) -> None:
        count = len(ids) // 2
        if kind == PUBREC and self._qos == 2:
            known, self._recorded = self._recorded, self._recorded + count
            self.link.send(answers(PUBREL, ids))
        elif kind == (PUBACK, PUBCOMP)[self._qos - 1]:
            known, self.acknowledged = self.acknowledged, self.acknowledged + count
        else:
            raise BenchError(f"the broker answered a message with {kind:02x}")
        if ids != ids_of(known, count) or known + count > self.sent:
            raise BenchError(f"an acknowledgement is wrong or out of order, after {known} right ones")


class Receiver(Client):
    """Keeps what it gets, and acknowledges it. `flow` is told how many."""

    __slots__ = ("_flow", "_form", "_kept", "_seen", "received")

    def __init__(
        self,
        loop: Loop,
        target: Target,
        client_id: bytes,
        form: Form,
        flow: Flow,
        *,
        filters: Sequence[bytes] = (),
        clean: bool = True,
        login: tuple[bytes, bytes] | None = None,
        ticket: ssl.SSLSession | None = None,
        ready: Callable[[], None] | None = None,
    ) -> None:
        self.received = 0
        self._form = form
        self._flow = flow
        self._seen: Received | None = None
        self._kept: list[bytes] = []
        super().__init__(
            loop, target, client_id, clean=clean, filters=filters, qos=form.qos, login=login, ticket=ticket, ready=ready
        )

    def numbers(self, topics: Iterable[bytes]) -> list[int]:
        """What it got, when the clock has stopped: each must be as it was sent, to one of these topics."""
        if self._seen is None:
            return []
        return self._seen.numbers(b"".join(self._kept), set(topics))

    def _take(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self._form.qos == 2:
            self._take_twice(data)
            return
        if self._seen is None:
            self._seen = self._learn(data)
            if self._seen is None:
                return
        seen = self._seen
        count, over = divmod(len(data), seen.size)
        if over:
            self._rest = data[-over:]
            data = data[:-over]
        if count:
            self._keep(data, count)
            if self._form.qos:
                self.link.send(answers(PUBACK, seen.ids(data)))
            self._flow.came(count)

    def _take_twice(self, data: bytes) -> None:
        """QoS 2: PUBLISH and PUBREL as they come, in runs."""
        at, came, replies = 0, 0, []
        while at < len(data):
            if self._seen is None or data[at] & 0xF0 != 0x30:
                found = measure(data[at : at + 5])
                if found is None or at + found[1] > len(data):
                    break
                if data[at] == PUBREL:
                    replies.append(answers(PUBCOMP, data[at + found[0] : at + found[0] + 2]))
                    at += found[1]
                    continue
                self._seen = self._learn(data[at:])
                assert self._seen is not None
            size = self._seen.size
            end = at
            while end + size <= len(data) and data[end] & 0xF0 == 0x30:
                end += size
            if end == at:
                break
            packets = data[at:end]
            self._keep(packets, len(packets) // size)
            came += len(packets) // size
            replies.append(answers(PUBREC, self._seen.ids(packets)))
            at = end
        self._rest = data[at:]
        if replies:
            self.link.send(b"".join(replies))
        if came:
            self._flow.came(came)

    def _learn(self, data: bytes) -> Received | None:
        """The form of what comes, from the first that is complete."""
        found = measure(data)
        if found is None or len(data) < found[1]:
            self._rest = data
            return None
        return Received(data, self._form)

    def _keep(self, packets: bytes, count: int) -> None:
        self._kept.append(packets)
        self.received += count


def connect_all(loop: Loop, makers: Iterable[Callable[[Done], C]]) -> list[C]:
    """Make all of these clients, some at a time. Each maker gets what its client must call when it is in."""
    made: list[C] = []

    def make(maker: Callable[[Done], C], ready: Done) -> None:
        made.append(maker(ready))

    _do_all(loop, (partial(make, maker) for maker in makers))
    return made


def depart(loop: Loop, clients: Iterable[Client]) -> None:
    """Let all of them say goodbye, and wait until the broker has understood."""
    left = 0

    def gone() -> None:
        nonlocal left
        left -= 1

    for client in clients:
        left += 1
        client.leave(gone)
    must(loop.run(lambda: left == 0), "the broker did not end connections")


def make_sessions(
    loop: Loop, target: Target, sessions: Iterable[tuple[bytes, Sequence[bytes]]], *, qos: int = 1
) -> None:
    """A lasting session for each client id, subscribed to its filters, whose client is away when this returns."""

    def passing(name: bytes, filters: Sequence[bytes], left: Done) -> None:
        client = Client(loop, target, name, clean=False, filters=filters, qos=qos, ready=lambda: client.leave(left))

    _do_all(loop, (partial(passing, name, filters) for name, filters in sessions))


def churn(
    loop: Loop, target: Target, count_max: int, within_s: float, ticket: ssl.SSLSession | None = None
) -> tuple[int, int]:
    """Connect and leave, over and over, once at least; returns how many did, and how many resumed that TLS session."""
    ends = time.monotonic() + within_s
    count = resumed = 0

    def passing(left: Done) -> None:
        nonlocal count
        client = Client(loop, target, b"bench-%d" % count, ticket=ticket, ready=lambda: passed(client, left))
        count += 1

    def passed(client: Client, left: Done) -> None:
        nonlocal resumed
        resumed += ticket is not None and client.link.resumed
        client.leave(left)

    _do_all(loop, (passing for _ in range(count_max) if not count or time.monotonic() < ends))
    return count, resumed


def begin_all(tasks: Iterable[Task], at_once: int = UNANSWERED_MAX) -> Callable[[], int]:
    """Begin so many tasks, as many as listeners stand, and another whenever one has called what it got.

    Returns what says how many are under way; 0: all have ended.
    """
    waiting = iter(tasks)
    under_way = 0

    def begin() -> None:
        nonlocal under_way
        for task in waiting:
            under_way += 1
            task(ended)
            return

    def ended() -> None:
        nonlocal under_way
        under_way -= 1
        begin()

    for _ in range(at_once):
        begin()
    return lambda: under_way


def _do_all(loop: Loop, tasks: Iterable[Task]) -> None:
    under_way = begin_all(tasks)
    must(loop.run(lambda: under_way() == 0), "clients were not let in, or not let go")


@dataclass(frozen=True)
class Verdict:
    """What came, compared with what should have come."""

    lost: int
    double: int
    misplaced: int  # for somebody else, or after a later one of the same publisher


def judge(
    received: Sequence[Sequence[int]], sent: Sequence[Sequence[range]], acknowledged: Collection[int] | None = None
) -> Verdict:
    """Compare the numbers that each got with those that were sent to each.

    With `acknowledged`, only those must have come: of the others the publisher did not get to know.
    """
    lost = double = misplaced = 0
    for numbers, ranges in zip(received, sent, strict=True):
        if acknowledged is None and len(ranges) == 1 and numbers == list(ranges[0]):
            continue
        distinct = dict.fromkeys(numbers)
        double += len(numbers) - len(distinct)
        due = {number for numbers_sent in ranges for number in numbers_sent}
        lost += len((due if acknowledged is None else due.intersection(acknowledged)).difference(distinct))
        latest: dict[int, int] = {}
        for number in distinct:
            stream = number >> STREAM_SHIFT
            misplaced += number not in due or number < latest.get(stream, 0)
            latest[stream] = number
    return Verdict(lost, double, misplaced)


def complete(
    received: Sequence[Sequence[int]], sent: Sequence[Sequence[range]], acknowledged: Collection[int] | None = None
) -> None:
    """Every message once, in order, to whom it was for."""
    verdict = judge(received, sent, acknowledged)
    if verdict != Verdict(lost=0, double=0, misplaced=0):
        raise BenchError(
            f"{verdict.lost:,} messages are lost, {verdict.double:,} double, {verdict.misplaced:,} misplaced"
        )


def agree(counter: str, before: Mapping[str, int], after: Mapping[str, int], expected: int) -> None:
    """The broker, where it counts, has counted what we have."""
    if counter in after and after[counter] - before[counter] != expected:
        raise BenchError(f"the broker counts {after[counter] - before[counter]:,} {counter}, we {expected:,}")


def must(done: bool, otherwise: str) -> None:
    """What was waited for has come about."""
    if not done:
        raise BenchError(f"{otherwise} within the time")
