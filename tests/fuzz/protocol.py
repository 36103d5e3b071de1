"""Conversations of several clients, of both versions, beside a broker that is obviously right.

An input is a program: records of ten bytes, each one thing that happens. So the fuzzer changes and mixes programs,
hypothesis makes them shorter, and what failed can be run again from its bytes. Zeros are the plain case of everything.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from fuzz.reference import Copy, Link, Reference, show
from fuzz.target import Target
from support.loopback import Client, Lab

from broker.wire.encode import encode
from broker.wire.packets import (
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Subscribe,
    Unsubscribe,
    Will,
)

SIZE = 10
TOPICS = ["a", "a/b", "b", "/", "w", "$x"]
FILTERS = ["a", "a/b", "b", "#", "a/+", "+", "+/b", "a/#", "/", "w", "$share/g/a", "$share/g/#", "$share/h/a",
           "$share/g/+/b", "$x", "a/#/b", "$share//a"]  # fmt: skip
NAMES = ["ann", "bob", "cy", "di"]
# Nothing ends within a second and a half of a moment at which something happens: these are all multiples of three.
STEPS_S = [3, 6, 12, 30]
ITEM = TypeVar("ITEM")


def pick(options: Sequence[ITEM], byte: int) -> ITEM:
    return options[byte % len(options)]


class World:
    def __init__(self) -> None:
        self.lab = Lab()
        self.reference = Reference(self.lab.core.now)
        self.clients: list[tuple[Client, Link] | None] = [None] * len(NAMES)
        self.unsent: list[list[Packet]] = [[] for _ in NAMES]
        self.leaving: list[tuple[Client, Link]] = []
        self.packet_id = 0
        self.published = 0
        self.unreleased: list[list[int]] = [[] for _ in NAMES]  # QoS 2 of clients
        self.story: list[str] = []

    # -- what happens ------------------------------------------------------------------------------------------------

    def step(self, record: bytes) -> None:
        act = pick(ACTS, record[0])
        who = record[1] % len(NAMES)
        here = self.clients[who] is not None
        if act is World.connect or act is World.wait or here:
            act(self, who, record[2:])
        elif not record[1] & 0x80:
            self.connect(who, bytes(8))  # as it has just begun
            act(self, who, record[2:])
        self.settle()

    def connect(self, who: int, o: bytes) -> None:
        v5 = not o[0] & 1
        clean = bool(o[0] & 2)
        will = None
        if o[1]:
            properties = Properties(content_type="w") if v5 else Properties()
            if v5:
                properties.will_delay = pick([None, 6, 60], o[2])
                properties.message_expiry = pick([None, None, 7], o[3])
            will = Will(
                pick([b"w", b"a"], o[1]), self._payload(o[1]), o[1] >> 1 & 1 or o[1] >> 1 & 2, False, properties
            )
            will.retain = bool(o[1] & 8)
        properties = Properties()
        if v5:
            properties.session_expiry = pick([1000, None, 0, 10, 0xFFFFFFFF], o[4])
            properties.receive_maximum = pick([None, 1, 2, 5], o[5])
            properties.maximum_packet_size = pick([None, None, None, 40], o[6])
        packet = Connect(NAMES[who], 5 if v5 else 4, clean, pick([0, 21, 60], o[7]), will=will, properties=properties)
        self.tell(who, packet)
        self._gone(who)
        client = self.lab.client(packet.version)
        link = self.reference.connect(packet)
        self.clients[who] = client, link
        client.send(packet)

    def publish(self, who: int, o: bytes) -> None:
        current = self.clients[who]
        assert current is not None
        v5 = current[1].version == 5
        qos, topic = pick([0, 1, 2], o[0]), pick(TOPICS, o[1])
        retain = bool(o[2] & 1)
        properties = Properties()
        name = topic.encode()
        if v5:
            properties.message_expiry = pick([None, None, None, 7, 1000], o[3])
            if o[4] & 1:
                properties.content_type, properties.correlation_data = "t", b"\0"
            if o[4] & 2:
                properties.response_topic, properties.payload_format = "r", 1
            if o[4] & 4:
                properties.user_properties = [("a", "1"), ("a", "2"), ("", "")]
            alias = pick([0, 0, 0, 1, 2, 33], o[5])
            if alias:
                properties.topic_alias = alias
                name = b"" if o[5] & 0x80 else name
            if o[5] == 0xFF:
                properties.subscription_ids = [1]
        packet = Publish(name, b"" if o[6] == 1 else self._payload(o[6]), qos, retain, False, 0, properties)
        if qos:
            packet.packet_id = self._next_id()
        if qos == 2:
            self.unreleased[who].append(packet.packet_id)
            if o[6] & 0x40:  # the same once more
                again = Publish(name, packet.payload, 2, retain, True, packet.packet_id, properties)
                self.send(who, [packet, again], o)
                return
        self.send(who, [packet], o)

    def release(self, who: int, o: bytes) -> None:
        """PUBREL of one of its own messages; sometimes of none."""
        ids = self.unreleased[who]
        id = ids.pop(o[0] % len(ids)) if ids and o[0] != 0xFF else 60_000
        self.send(who, [Pubrel(id)], o)

    def subscribe(self, who: int, o: bytes) -> None:
        current = self.clients[who]
        assert current is not None
        v5 = current[1].version == 5
        requests = []
        for name, options in ((o[0], o[1]), (o[2], o[3]))[: 1 + (o[4] & 1)]:
            request = Request(pick(FILTERS, name), pick([2, 1, 0], options))
            if v5:
                request.no_local = options & 0xC0 == 0xC0
                request.retain_as_published = bool(options & 0x20)
                request.retain_handling = pick([0, 0, 1, 2], options >> 2)
            requests.append(request)
        properties = Properties(subscription_ids=pick([[], [1], [300]], o[5]) if v5 else [])
        # What is retained is looked up once this is on the disk: nothing may come between.
        self.send(who, [Subscribe(self._next_id(), requests, properties)], bytes(8))

    def unsubscribe(self, who: int, o: bytes) -> None:
        filters = [pick(FILTERS, name) for name in o[: 1 + (o[4] & 1)]]
        self.send(who, [Unsubscribe(self._next_id(), filters)], o)

    def acknowledge(self, who: int, o: bytes) -> None:
        """Answer some of what has come, in any order; now and then wrongly."""
        current = self.clients[who]
        assert current is not None
        _, link = current
        here = [copy for copy in link.session.inflight if copy.here]
        packets: list[Packet] = []
        if o[1] & 0xF0 == 0xF0:
            id = here[o[0] % len(here)].id if here and not o[1] & 8 else 60_000
            packets = [pick([Puback, Pubrec, Pubcomp], o[1])(id)]
        else:
            for _ in range(min(len(here), pick([1, 9, 2, 3], o[1]))):
                copy = here.pop(o[0] % len(here))
                packets.append(self._answer(copy))
                if link.version == 5 and o[2] == 0x80 and not isinstance(packets[-1], Pubcomp):
                    packets[-1].reason = 0x80
        self.send(who, packets, o)

    @staticmethod
    def _answer(copy: Copy) -> Puback | Pubrec | Pubcomp:
        if copy.released:
            return Pubcomp(copy.id)
        return Pubrec(copy.id) if copy.qos == 2 else Puback(copy.id)

    def ping(self, who: int, o: bytes) -> None:
        self.send(who, [Pingreq()], o)

    def disconnect(self, who: int, o: bytes) -> None:
        current = self.clients[who]
        assert current is not None
        packet = Disconnect()
        if current[1].version == 5:
            packet.reason = pick([0, 4], o[0])
            packet.properties.session_expiry = pick([None, None, 0, 10, 1000], o[1])
        self.send(who, [packet], o)

    def drop(self, who: int, o: bytes) -> None:
        """The connection breaks, perhaps in the middle of a packet."""
        current = self.clients[who]
        assert current is not None
        client, link = current
        self._flush(who, o[1])
        self.tell(who, "drops")
        if not client.closed:
            if o[0]:
                client.channel.feed(encode(Publish(b"a", b"never whole"), client.version)[: o[0] % 12])
            self.reference.drop(link)
            client.drop()

    def wait(self, who: int, o: bytes) -> None:
        for other in range(len(NAMES)):
            self._flush(other, 0)
        self.settle()
        seconds = pick(STEPS_S, o[0])
        self.tell(who, f"waits {seconds} s")
        for _ in range(seconds):
            self.reference.advance(1)
            self.lab.advance(1)
            self.settle()

    # -- how it is sent ----------------------------------------------------------------------------------------------

    def send(self, who: int, packets: Sequence[Packet], o: bytes) -> None:
        """Send packets: at once, or together with those that follow; whole, or in pieces."""
        for packet in packets:
            self.tell(who, packet)
        self.unsent[who] += packets
        if not o[7] & 1:
            self._flush(who, o[7])

    def _flush(self, who: int, pieces: int) -> None:
        packets, self.unsent[who] = self.unsent[who], []
        current = self.clients[who]
        if current is None or not packets:
            return
        client, link = current
        data = b"".join(encode(packet, client.version) for packet in packets)
        for packet in packets:
            if not link.closed:
                self.reference.packet(link, packet)
        length = pick([len(data), 1, 2, 3, 5, 9], pieces >> 1)
        for at in range(0, len(data), length):
            if not client.closed:
                client.channel.feed(data[at : at + length])
        self.lab.flush()

    def _gone(self, who: int) -> None:
        current, self.clients[who] = self.clients[who], None
        self.unsent[who] = []
        if current is not None:
            self.leaving.append(current)

    def _next_id(self) -> int:
        self.packet_id = self.packet_id % 50_000 + 1
        return self.packet_id

    def _payload(self, byte: int) -> bytes:
        self.published += 1
        return b"%d" % self.published + b"." * (40 if byte & 0x20 else 0)

    def tell(self, who: int, what: Any) -> None:
        self.story.append(f"{NAMES[who]}: {what if isinstance(what, str) else show(what)}")

    # -- what comes of it --------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let the reference see what everybody got."""
        there = [current for current in self.clients if current is not None]
        for client, link in [*self.leaving, *there]:
            for packet in client.packets():
                self.tell(NAMES.index(link.session.client_id), f"    gets {show(packet)}")
                self.reference.saw(link, packet)
            assert client.closed == link.closed, "closed" if client.closed else "not closed"
            self.reference.settled(link)
        self.leaving = []
        for who, current in enumerate(self.clients):
            if current is not None and current[0].closed:
                self._gone(who)
                self.leaving = []
        self.reference.all_shared()
        assert not self.lab.core.counters.unexpected_errors

    def finish(self) -> None:
        """Everybody comes back, and answers all."""
        for who in range(len(NAMES)):
            self._flush(who, 0)
        self.settle()
        for who, name in enumerate(NAMES):
            session = self.reference.sessions.get(name)
            if session is not None and session.link is None:
                self.connect(who, bytes(8))
                self.settle()
        for _ in range(1000):
            if not any(self._answer_all(who) for who in range(len(NAMES))):
                break
        self.reference.finished()

    def _answer_all(self, who: int) -> bool:
        current = self.clients[who]
        here = [copy for copy in current[1].session.inflight if copy.here] if current is not None else []
        if here:
            self.send(who, [self._answer(copy) for copy in here], bytes(8))
            self.settle()
        return bool(here)


ACTS = [
    *[World.publish, World.subscribe, World.acknowledge, World.connect, World.publish, World.release, World.wait],
    *[World.drop, World.unsubscribe, World.disconnect, World.ping, World.publish, World.acknowledge, World.subscribe],
]


def run(data: bytes) -> None:
    world = World()
    try:
        for at in range(0, len(data) - SIZE + 1, SIZE):
            world.step(data[at : at + SIZE])
        world.finish()
    except BaseException as error:
        error.add_note("\n".join(["", *world.story]))
        raise


def seeds() -> Iterator[bytes]:
    """Each act alone, and behind a subscription to everything."""
    everything = bytes((1, 1, 3)) + bytes(7)
    for act in range(len(ACTS)):
        for option in (0, 1, 0x21, 0x80, 0xF0):
            record = bytes((act, 0)) + bytes((option,)) * 8
            yield record
            yield everything + record + record
    for seed in range(200):
        yield program(random.Random(seed), 5 + seed // 5)


def program(chance: random.Random, records: int) -> bytes:
    """Any program; plain things are more frequent than others."""
    made = bytearray()
    for _ in range(records):
        who = chance.choice((0, 0, 1, 2, 3, 0x80))
        rest = (chance.randrange(256) if chance.random() < 0.55 else 0 for _ in range(SIZE - 2))
        made += bytes((chance.randrange(256), who, *rest))
    return bytes(made)


TARGET = Target("protocol", "conversations, beside a broker that is right", run, seeds, SIZE * 60, runs_in_ci=80)
