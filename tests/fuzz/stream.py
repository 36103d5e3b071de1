"""The same bytes from a client, whole and cut into pieces, through the fast way and through the general one.

`channel._feed` has a parser of its own and serves plain messages in it. Here it gets the bytes in pieces; in a second
world a channel that only knows `split`, `decode` and the general way gets them in one. Nobody must be able to tell.
"""

from collections.abc import Iterator
from itertools import cycle

from fuzz.target import Target
from support.loopback import Client, Lab, Loopback
from wire.cases import CASES

from broker.wire.codes import V4, V5
from broker.wire.decode import split
from broker.wire.encode import encode
from broker.wire.packets import Connect, Pingreq, Properties, Puback, Publish, Pubrel, Request, Subscribe

_HEADER = 4  # options, and the lengths of the pieces


class Plain(Loopback):
    """A channel without a fast way."""

    __slots__ = ()

    def _feed(self, data: bytes) -> None:
        if self.session is None:
            super()._feed(data)
            return
        self.seen = self.core.now
        buffer = bytes(self.tail) + data
        self.tail = b""
        pos = 0
        while not self.closed and not self.held:
            frame = split(buffer, pos, self.packet_max)
            if frame is None:
                break
            first, start, pos = frame
            self._packet(first, buffer[start:pos])
        if not self.closed:
            self.tail = buffer[pos:]


class World:
    """A client that sends whatever it likes, and those who hear it."""

    def __init__(self, options: int, channel: type[Loopback]) -> None:
        self.lab = Lab(durability="memory" if options & 0x10 else "commit")
        self.others = [self.lab.connect("zero", 5), self.lab.connect("one", 4), self.lab.connect("two", 5)]
        for qos, other in enumerate(self.others):
            other.subscribe("#", qos, id=7 if options & 0x20 and other.version == V5 else 0)
        if options & 0x40:
            kept = self.lab.connect("kept", 5, clean=False, session_expiry=1000)
            kept.subscribe("a", 2)
            self.others.append(kept)
        version = V5 if options & 1 else V4
        self.client = Client(self.lab, version)
        self.client.channel = channel(self.lab.core)
        lasting = bool(options & 2)
        properties = Properties(session_expiry=1000) if lasting and version == V5 else Properties()
        self.client.send(Connect("me", version, not lasting, 60, properties=properties))
        if options & 4:
            subscription = encode(Subscribe(1, [Request("a", options >> 3 & 1)]), version)
            self.client.feed(subscription)

    def feed(self, pieces: list[bytes]) -> bool:
        """Send pieces in one round. False: the channel was held back meanwhile."""
        channel = self.client.channel
        for piece in pieces:
            if not channel.closed:
                channel.feed(piece)
            if channel.held:
                self.lab.flush()
                return False
        self.lab.flush()
        return True

    def outcome(self) -> list[object]:
        """All that anybody can see, and what is remembered."""
        counters = self.lab.core.counters
        assert counters.unexpected_errors == 0
        seen: list[object] = [
            (bytes(client.channel.raw), client.closed, bytes(client.channel.tail))
            for client in (self.client, *self.others)
        ]
        sessions = [
            (
                session.key,
                list(session.inflight),
                sorted(session.received or ()),
                [s.name for s in session.subscriptions],
            )
            for session in self.lab.core.sessions.values()
        ]
        retained = [(message.topic, message.payload) for message in self.lab.core.retained]
        return [seen, sessions, retained, self.lab.logged, counters.as_dict()]


def run(data: bytes) -> None:
    """Options, the lengths of three pieces (0: the rest), and what is sent."""
    options, lengths, sent = data[0] if data else 0, data[1:_HEADER], data[_HEADER:]
    fast, plain = World(options, Loopback), World(options, Plain)
    in_time = fast.feed(list(_pieces(sent, lengths)))
    if plain.feed([sent]) and in_time:
        assert fast.outcome() == plain.outcome()


def _pieces(sent: bytes, lengths: bytes) -> Iterator[bytes]:
    at = 0
    for length in cycle(lengths or b"\0"):
        end = at + length if length else len(sent)
        yield sent[at:end]
        at = end
        if at >= len(sent):
            return


def seeds() -> Iterator[bytes]:
    for case in CASES:
        if case.direction != "server" and len(case.wire) < 300:
            yield bytes((case.version == V5, 1, 2, 0)) + case.wire
    for version in (V4, V5):
        packets = [
            *[Publish(b"a", b"1"), Publish(b"a", b"2"), Publish(b"a", b"3", 1, packet_id=1)],
            *[Publish(b"a", b"4", 1, packet_id=2), Publish(b"a", b"5", 2, packet_id=3), Pubrel(3), Puback(1)],
            *[Publish(b"b", b"6", 1, True, packet_id=2), Publish(b"b", b"x" * 130), Pingreq(), Publish(b"b", b"7")],
        ]
        wire = b"".join(encode(packet, version) for packet in packets)
        for options in (0, 2, 4, 0x0E, 0x10, 0x20, 0x40, 0x66):
            yield bytes((options | (version == V5), 3, 1, 9)) + wire


TARGET = Target("stream", "a client's bytes, whole and in pieces", run, seeds, bytes_max=1024, runs_in_ci=150)
