"""Whatever may happen to publishers, receivers, the disk and the process, in any order, against a small model.

What holds, and is checked here:

- A message whose publisher was told of success reaches every session that outlives its connection and had subscribed to
  it with QoS 1 or 2, and one member of each group, through any number of crashes; unless it expires, the session ends,
  unsubscribes, or its brand's policy drops it, and that is counted.
- A message that was refused at once reaches nobody, one that was refused later nobody who was away.
- QoS 2 is exactly once for such sessions. Messages of one publisher, topic and QoS come in their order.
- No packet id is used again while its message is in flight. DUP is set on what may have been sent before.
- The log, the journal and what the sessions hold agree all the time; at the end, when everybody has got everything,
  nothing of it is left.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.loopback import Client, Lab

from broker.errors import Failed
from broker.journal import SENT, Batch, size_of
from broker.message import Message
from broker.session.session import Session, released
from broker.wire.packets import (
    Disconnect,
    Packet,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.wire.topics import matches

TOPICS = ["a", "a/x", "b", "r/1", "r/2"]  # what is retained is under r/
FILTERS = ["a", "a/x", "a/+", "b", "#", "r/#", "r/1", "$share/g/a", "$share/g/#", "$share/h/b"]
QUEUE_MAX = 3


@dataclass(eq=False)
class Sent:
    """A message as its publisher knows it."""

    number: int
    publisher: Peer
    topic: str
    qos: int
    id: int
    retain: bool
    expiry: int | None
    expires_at: float
    phase: str = "sent"  # released, done; refused; unknown: its publisher cannot know
    times: int = 0
    unlucky: bool = False  # refused once after others that came later had been taken
    audience: set[Peer] = field(default_factory=set)  # at first
    owed: set[Peer] = field(default_factory=set)
    groups: list[set[Peer]] = field(default_factory=list)
    was_away: set[Peer] = field(default_factory=set)

    def __repr__(self) -> str:
        return f"{self.number}({self.topic} by {self.publisher.name}, QoS {self.qos}, {self.phase})"


@dataclass(eq=False)
class Sub:
    qos: int
    no_local: bool
    id: int
    since: int  # the first message that it is for

    def __repr__(self) -> str:
        return f"QoS {self.qos}{', no local' * self.no_local}"


class Peer:
    """A client that does all as MQTT says. What it has to answer, it answers in order, when it is told to."""

    def __init__(self, name: str, version: int, expiry: int, window: int = 0) -> None:
        self.name = name
        self.version = version
        self.expiry = expiry
        self.window = window
        self.client: Client | None = None
        self.outbox: list[Sent] = []
        self.next_id = 0
        self.left_at = 0.0
        self.hasty = expiry < 60  # its session may expire in the course of things
        self.number = 0  # of its session in the journal
        self.cleans = False  # it knows of no session, and wants none that it does not know
        self.keeps = expiry > 0  # this connection's session outlives it
        self.forget()

    def forget(self) -> None:
        """Its session is over."""
        self.subs: dict[str, Sub] = {}
        self.unsure: dict[int, set[str]] = {}  # filters in SUBSCRIBE and UNSUBSCRIBE that were not answered, by id
        self.certain = False  # it was told of something that only a session that was written can know
        self.ids: dict[int, int] = {}  # QoS 2, between PUBLISH and PUBREL
        self.flight: dict[int, int] = {}  # QoS 1, on this connection
        self.answers: deque[Packet] = deque()
        self.got: Counter[int] = Counter()
        self.once: Counter[int] = Counter()  # of it, at QoS 2 and not known as the same
        self.fresh: Counter[int] = Counter()  # of it, without DUP
        self.replayed: Counter[int] = Counter()  # retained, at QoS 2
        self.acked: set[int] = set()
        self.highest: dict[tuple[Peer, str, int], int] = {}
        self.shares: set[str] = set()
        self.joined: Counter[str] = Counter()

    def __repr__(self) -> str:
        return self.name

    @property
    def key(self) -> str:
        return f"\n{self.name}"

    def matching(self, topic: str, *, publisher: Peer | None = None) -> list[Sub]:
        """Its own subscriptions, without those of groups."""
        found = [s for f, s in self.subs.items() if not f.startswith("$share") and matches(f, topic)]
        return [] if publisher is self and all(s.no_local for s in found) else found


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patches = [
            patch("broker.session.session.FETCH_MESSAGES_MAX", 2),
        ]

    @initialize(
        queue=st.sampled_from([QUEUE_MAX, 1000]),
        drop_oldest=st.booleans(),
        window=st.sampled_from([0, 50]),
        narrow=st.sampled_from([0, 32]),
        memory=st.sampled_from([0, 1200, 1 << 20]),
        durability=st.sampled_from(["commit", "commit", "commit", "memory"]),
        filters=st.lists(
            st.tuples(st.integers(0, 5), st.sampled_from(FILTERS), st.sampled_from([0, 1, 1, 2, 2])), max_size=8
        ),
    )
    def begin(
        self,
        queue: int,
        drop_oldest: bool,
        window: int,
        narrow: int,
        memory: int,
        durability: str,
        filters: list[tuple[int, str, int]],
    ) -> None:
        self.patches += [
            patch("broker.session.core.NARROW_MAX", narrow),
            patch("broker.session.log.BODIES_BYTES_MAX", memory),
        ]
        for one in self.patches:
            one.start()
        self.queue, self.narrow = queue, narrow
        self.drop_oldest = drop_oldest
        self.limits: dict[str, Any] = {
            "queue_messages_max": queue,
            "commit_window_ms": window,
            "durability": durability,
        }
        self.lab = Lab(**self.limits)
        self._prepare()
        self.peers = [
            Peer("v5", 5, 1000),
            Peer("v4", 4, 1000),
            Peer("narrow", 5, 1000, 2),
            Peer("short", 5, 6),
            Peer("passing5", 5, 0),
            Peer("passing4", 4, 0),
        ]
        self.numbers = itertools.count(1)
        self.sent: dict[int, Sent] = {}
        self.batch: Batch | None = None  # on its way to the disk
        self.reading: tuple[list[Session], list[int]] | None = None
        self.dropped = 0
        self.crashed = self.failed = False
        for peer in self.peers:
            self._connect(peer, not peer.expiry, peer.expiry)
        for who, name, qos in filters:
            self._subscribe(self.peers[who], name, qos)

    def _prepare(self) -> None:
        self.lab.hold = True
        if self.drop_oldest:
            self.lab.core.drop_oldest = frozenset({b"a", b"b", b"r"})

    def teardown(self) -> None:
        try:
            if hasattr(self, "lab"):
                self._finish()
        finally:
            for one in self.patches:
                one.stop()

    # -- clients -----------------------------------------------------------------------------------------------------

    @rule(
        who=st.integers(0, 5),
        clean=st.sampled_from([False] * 7 + [True]),
        expiry=st.sampled_from([None] * 7 + [0]),
        will=st.sampled_from([None, None, 0, 1, 2]),
    )
    def connect(self, who: int, clean: bool, expiry: int | None, will: int | None) -> None:
        peer = self.peers[who]
        if peer.client is not None and will is None:
            return  # a client takes its own connection over now and then
        expiry_s = peer.expiry if expiry is None else 0
        self._connect(peer, clean or (peer.version == 4 and not expiry_s), expiry_s, will)

    def _connect(
        self, peer: Peer, clean: bool, expiry_s: int, will: int | None = None, *, publish: bool = True
    ) -> None:
        if peer.client is not None:
            self._lost(peer)
        options: dict[str, int] = {}
        if peer.version == 5:
            options = {"session_expiry": expiry_s, "receive_maximum": peer.window or 65535}
        packet = None if will is None else Will(b"b", b"will", will)
        peer.keeps = expiry_s > 0
        clean, peer.cleans = clean or peer.cleans, False
        client = peer.client = self.lab.connect(
            peer.name, peer.version, clean=clean, keep_alive=0, will=packet, **options
        )
        if not client.connack.session_present:
            self._ended(peer, clean=clean)
        peer.number = client.session.number if not client.closed else 0
        if not expiry_s:
            self._discharge(peer)
        self._handle(peer, client.early)
        if publish:
            self._send_again(peer)
        self._read()

    def _send_again(self, peer: Peer) -> None:
        """What was not acknowledged when the connection was lost."""
        again: list[Packet] = []
        for sent in peer.outbox:
            if sent.phase == "released":
                again.append(Pubrel(sent.id))
            else:
                again.append(self._publish(sent))
        if again and peer.client is not None and not peer.client.closed:
            peer.client.feed(b"".join(map(self._encoder(peer), again)))

    @staticmethod
    def _encoder(peer: Peer) -> Any:
        from broker.wire.encode import encode

        return lambda packet: encode(packet, peer.version)

    def _ended(self, peer: Peer, *, clean: bool = False) -> None:
        """Its session is gone, as the broker says."""
        core = self.lab.core
        # After a crash, what the disk knew of it was perhaps older than its last connection.
        expired = not peer.expiry or core.now >= peer.left_at + peer.expiry - 0.01 or (peer.hasty and self.crashed)
        if not clean and not expired:
            assert not peer.certain, f"the session of {peer} is gone"
            mine = [s for s in self.sent.values() if peer in s.owed and s.number not in peer.acked]
            open_ = [sent for sent in mine if sent.phase in ("released", "done") and not self._excused(sent)]
            assert not open_, f"the session of {peer} is gone, which was owed {open_}"
        self._discharge(peer)
        for sent in peer.outbox:
            sent.phase = "unknown" if sent.phase == "sent" else "done"
        peer.outbox.clear()
        peer.forget()

    def _discharge(self, peer: Peer) -> None:
        for sent in self.sent.values():
            sent.owed.discard(peer)
            sent.audience.discard(peer)
            sent.groups = [group for group in sent.groups if peer not in group]

    def _lost(self, peer: Peer) -> None:
        """The client has no connection any more."""
        if peer.client is not None:
            channel = peer.client.channel
            refused = {promise.packet_id for promise in channel.acks or () if promise.reason >= 0x80}
            for sent in peer.outbox:  # it was refused, perhaps, and nobody has seen that
                sent.unlucky |= channel.stuck or sent.id in refused
        peer.client = None
        peer.left_at = self.lab.core.now if peer.keeps else -1.0  # then it may end at any time
        peer.flight.clear()
        peer.answers.clear()
        peer.unsure = {0: set().union(*peer.unsure.values())} if peer.unsure else {}

    @rule(who=st.integers(0, 5))
    def drop(self, who: int) -> None:
        peer = self.peers[who]
        if peer.client is not None:
            self._read()
            if peer.client is not None:
                client = peer.client
                self._lost(peer)
                client.drop()
                self._read()

    @rule(who=st.integers(0, 5), expiry=st.sampled_from([None, None, None, 0, 3]))
    def goodbye(self, who: int, expiry: int | None) -> None:
        peer = self.peers[who]
        if peer.client is None:
            return
        client = peer.client
        if peer.version == 4 or not client.session.expiry_s:
            expiry = None
        if expiry is not None:
            peer.keeps, peer.hasty = False, True
            if not expiry:
                self._discharge(peer)
        self._lost(peer)
        client.send(Disconnect(0, Properties(session_expiry=expiry)))
        self._read()

    @rule(who=st.integers(0, 5))
    def stick(self, who: int) -> None:
        peer = self.peers[who]
        if peer.client is not None:
            peer.client.channel.stuck = True

    @rule(who=st.integers(0, 5))
    def unstick(self, who: int) -> None:
        peer = self.peers[who]
        if peer.client is not None and peer.client.channel.stuck:
            peer.client.channel.unstick()
            self._read()

    # -- subscriptions -----------------------------------------------------------------------------------------------

    @rule(
        who=st.integers(0, 5),
        name=st.sampled_from(FILTERS),
        qos=st.sampled_from([0, 1, 1, 2, 2]),
        no_local=st.sampled_from([False, False, True]),
        id=st.sampled_from([0, 0, 7]),
        handling=st.sampled_from([0, 1, 2]),
    )
    def subscribe(self, who: int, name: str, qos: int, no_local: bool, id: int, handling: int) -> None:
        self._subscribe(self.peers[who], name, qos, no_local, id, handling)

    def _subscribe(
        self, peer: Peer, name: str, qos: int, no_local: bool = False, id: int = 0, handling: int = 0
    ) -> None:
        if peer.client is None or peer.client.channel.held:
            return
        if peer.version == 4:
            no_local, id, handling = False, 0, 0
        shared = name.startswith("$share")
        if self.lab.core.failing and name not in peer.subs:
            return  # it may be refused
        packet = Subscribe(
            self._next_id(peer),
            [Request(name, qos, no_local and not shared, False, handling)],
            Properties(subscription_ids=[id] if id else []),
        )
        before = peer.subs.get(name)
        since = before.since if before is not None and before.qos else len(self.sent) + 1
        peer.subs[name] = Sub(qos, no_local and not shared, id, since)
        peer.joined[name] += 1
        if shared:
            peer.shares.add(name)
        peer.unsure[packet.packet_id] = {name}
        peer.client.send(packet)
        self._read()

    @rule(who=st.integers(0, 5), data=st.data())
    def unsubscribe(self, who: int, data: st.DataObject) -> None:
        peer = self.peers[who]
        if peer.client is None or not peer.subs or peer.client.channel.held:
            return
        name = data.draw(st.sampled_from(sorted(peer.subs)))
        del peer.subs[name]
        for sent in self.sent.values():
            if not any(sub.qos and sub.since <= sent.number for sub in peer.matching(sent.topic)):
                sent.owed.discard(peer)
        packet = Unsubscribe(self._next_id(peer), [name])
        peer.unsure[packet.packet_id] = {name}
        peer.client.send(packet)
        self._read()

    # -- messages ----------------------------------------------------------------------------------------------------

    @rule(
        who=st.integers(0, 5),
        topic=st.sampled_from(TOPICS),
        qos=st.sampled_from([0, 1, 1, 1, 2, 2]),
        count=st.sampled_from([1, 1, 2, 4]),
        expiry=st.sampled_from([None, None, None, 3]),
    )
    def publish(self, who: int, topic: str, qos: int, count: int, expiry: int | None) -> None:
        peer = self.peers[who]
        if peer.client is None or peer.client.channel.held:
            return
        if peer.version == 4:
            expiry = None
        for _ in range(count):
            if peer.client is None or peer.client.closed or peer.client.channel.held:
                break
            expires_at = self.lab.core.now + expiry if expiry is not None else 0.0
            id = self._next_id(peer) if qos else 0
            sent = Sent(next(self.numbers), peer, topic, qos, id, topic[0] == "r", expiry, expires_at)
            self.sent[sent.number] = sent
            if qos:
                peer.outbox.append(sent)
            else:
                sent.phase = "unknown"
            peer.client.feed(self._encoder(peer)(self._publish(sent)))
        self._read()

    def _publish(self, sent: Sent) -> Publish:
        """The packet, sent now: who is to get it is who is there now."""
        sessions, peer = self.lab.core.sessions, sent.publisher
        known = sessions.get(peer.key)
        again = known is not None and sent.id in (known.received or ())
        sent.times += 1
        audience = {p for p in self.peers if p.key in sessions and (p.matching(sent.topic) or p.shares)}
        if sent.times == 1:
            sent.audience = audience
        if sent.qos and not again:
            sent.owed, sent.groups, sent.was_away = set(), [], set()
            groups: dict[str, list[tuple[Peer, Sub]]] = {}
            for other in self.peers:
                session = sessions.get(other.key)
                if session is None:
                    continue
                if not session.live:
                    sent.was_away.add(other)
                if session.lasting and any(s.qos for s in other.matching(sent.topic, publisher=peer)):
                    sent.owed.add(other)
                for name, sub in other.subs.items():
                    if name.startswith("$share") and matches(name.split("/", 2)[2], sent.topic):
                        groups.setdefault(name, []).append((other, sub))
            for members in groups.values():
                if all(sub.qos and sessions[other.key].lasting for other, sub in members):
                    sent.groups.append({other for other, _ in members})
        again = sent.times > 1 and sent.qos > 0
        properties = Properties(message_expiry=sent.expiry)
        return Publish(sent.topic.encode(), b"%d" % sent.number, sent.qos, sent.retain, again, sent.id, properties)

    @staticmethod
    def _next_id(peer: Peer) -> int:
        peer.next_id = peer.next_id % 60000 + 1
        return peer.next_id

    @rule(who=st.integers(0, 5), count=st.sampled_from([1, 2, 100]), refuse=st.sampled_from([False] * 9 + [True]))
    def answer(self, who: int, count: int, refuse: bool) -> None:
        """Acknowledge the first of what came and was not answered."""
        self._answer(self.peers[who], count, refuse=refuse)

    def _answer(self, peer: Peer, count: int, *, refuse: bool = False) -> None:
        for _ in range(count):
            if peer.client is None or not peer.answers or peer.client.channel.held:
                break
            packet = peer.answers.popleft()
            if isinstance(packet, Puback):
                number = peer.flight.pop(packet.packet_id)
                peer.acked.add(number)
            elif isinstance(packet, Pubrec):
                peer.acked.add(peer.ids[packet.packet_id])
            if refuse and peer.version == 5 and isinstance(packet, Puback | Pubrec):
                packet.reason = 0x80
                if isinstance(packet, Pubrec):
                    number = peer.ids.pop(packet.packet_id)  # it has not taken it
                    peer.once[number] -= 1
                    peer.replayed[number] -= 1
            peer.client.send(packet)
        self._read()

    # -- what comes --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """All clients take in what has come; publishers go on with their handshakes at once."""
        again = True
        while again:
            again = False
            for peer in self.peers:
                client = peer.client
                if client is None:
                    continue
                packets = client.packets()
                if client.closed:
                    self._handle(peer, packets, answer=False)
                    self._lost(peer)
                    for sent in peer.outbox:
                        sent.unlucky = True
                    again = True
                elif packets:
                    self._handle(peer, packets)
                    again = True

    def _handle(self, peer: Peer, packets: list[Packet], *, answer: bool = True) -> None:
        for packet in packets:
            match packet:
                case Publish():
                    self._arrived(peer, packet)
                case Puback() | Pubrec():
                    self._told(peer, packet, answer)
                case Pubcomp():
                    done = [s for s in peer.outbox if s.id == packet.packet_id and s.phase == "released"]
                    for sent in done:
                        sent.phase = "done"
                        peer.outbox.remove(sent)
                case Pubrel():
                    peer.ids.pop(packet.packet_id, None)
                    if answer:
                        peer.answers.append(Pubcomp(packet.packet_id))
                case Suback() | Unsuback():
                    if isinstance(packet, Suback):
                        assert packet.reasons[0] < 0x80
                    peer.unsure.pop(packet.packet_id)
                    assert peer.client is not None
                    if not peer.client.closed and peer.client.session.lasting:
                        peer.certain = True
                case Disconnect():
                    assert packet.reason in (0x8E, 0x97), packet
                case _:
                    raise AssertionError(packet)

    def _arrived(self, peer: Peer, packet: Publish) -> None:
        if packet.payload == b"will":
            if packet.qos == 1:
                assert packet.packet_id not in peer.flight, "a packet id is used again"
                peer.flight[packet.packet_id] = 0
                peer.answers.append(Puback(packet.packet_id))
            elif packet.qos == 2:
                assert peer.ids.setdefault(packet.packet_id, 0) == 0, "a packet id is used again"
                peer.answers.append(Pubrec(packet.packet_id))
            return
        number = int(packet.payload)
        sent = self.sent[number]
        assert packet.topic == sent.topic.encode()
        qos = packet.qos
        new = True
        if qos == 1:
            assert packet.packet_id not in peer.flight, f"{peer}: the id of {peer.flight[packet.packet_id]} for {sent}"
            peer.flight[packet.packet_id] = number
            peer.answers.append(Puback(packet.packet_id))
        elif qos == 2:
            new = packet.packet_id not in peer.ids
            before = peer.ids.setdefault(packet.packet_id, number)
            assert before == number, f"{peer}: the id of {before} for {sent}"
            peer.answers.append(Pubrec(packet.packet_id))
        if packet.retain:
            peer.got[number] += 1
            if qos == 2 and new:
                peer.replayed[number] += 1
                most = sum(peer.joined.values())
                assert peer.replayed[number] <= most, f"{peer} got what is retained too often: {sent}"
            return
        first = not peer.got[number]
        peer.got[number] += 1
        if not qos:
            return
        assert sent.phase != "refused" or peer not in sent.was_away or peer.got[number], (
            f"{peer} got what was refused: {sent}"
        )
        copies = 1 + len(peer.shares)
        if qos == 2 and new:
            peer.once[number] += 1
            if peer.keeps:
                assert peer.once[number] <= copies, f"{peer} got {sent} {peer.once[number]} times"
        if not packet.dup:
            peer.fresh[number] += 1
            # While the disk fails, who comes back is not made to wait until that is written.
            assert self.failed or peer.fresh[number] <= copies * sent.times, f"{peer} got {sent} again without DUP"
        if first and not peer.shares and not sent.unlucky and not self.drop_oldest and sent.expiry is None:
            key = sent.publisher, sent.topic, qos
            last = peer.highest.get(key, 0)
            assert number > last or peer not in sent.audience, f"{peer} got {sent} after {last}"
            peer.highest[key] = max(number, last)

    def _told(self, peer: Peer, packet: Puback | Pubrec, answer: bool) -> None:
        qos = 1 if isinstance(packet, Puback) else 2
        waiting = [s for s in peer.outbox if s.qos == qos and s.phase == "sent"]
        assert waiting, f"{peer} was told {packet}, and waits for nothing"
        sent = waiting[0]
        assert sent.id == packet.packet_id, f"{peer} was told {packet} before {sent}"
        if packet.reason >= 0x80:
            assert packet.reason == 0x97
            sent.phase = "refused"
            sent.owed.clear()
            sent.groups.clear()
            peer.outbox.remove(sent)
            return
        self._safe(sent)
        if qos == 1:
            sent.phase = "done"
            peer.outbox.remove(sent)
        else:
            sent.phase = "released"
            if answer and peer.client is not None:
                peer.client.send(Pubrel(sent.id))

    def _safe(self, sent: Sent) -> None:
        """Its publisher may be told: all have it, or it is on the disk."""
        if self._excused(sent) or not self.lab.core.durable:
            return
        sessions = self.lab.core.sessions  # one that is over is owed nothing
        missing = [p for p in sent.owed if sent.number not in p.acked and p.key in sessions]
        if missing:
            kept = {m.payload for m in self.lab.journal.messages.values()}
            assert b"%d" % sent.number in kept, f"{sent} was acknowledged, but not by {missing}"

    def _excused(self, sent: Sent) -> bool:
        """It may be lost."""
        return 0 < sent.expires_at <= self.lab.core.now + 1 or self.drop_oldest

    # -- the disk ----------------------------------------------------------------------------------------------------

    @rule()
    def write(self) -> None:
        """All that is to be written or read is."""
        self._end_commit()
        self._end_read()
        self._all_written()

    def _all_written(self) -> None:
        self.lab.commit()
        if self.lab.core.failing and not self.lab.journal.broken and not self.lab.core.to_write:
            self.lab.core.committed()  # the disk was asked
        self._read()
        while not self.lab.core.failing and (self.lab.core.to_write or self.lab.core.wanted):
            self.lab.commit()
            self._read()

    @rule()
    def take(self) -> None:
        """A batch is on its way."""
        if self.batch is None:
            self.batch = self.lab.core.take()
            self._read()

    @precondition(lambda self: self.batch is not None)
    @rule(crash=st.sampled_from([False, False, False, True]))
    def commit(self, crash: bool) -> None:
        """It is on the disk, and perhaps nobody has heard of that before all is over."""
        if crash:
            if not self.lab.journal.broken:
                assert self.batch is not None
                self.lab.journal.commit(self.batch)
            self.crash()
        else:
            self._end_commit()

    def _end_commit(self) -> None:
        batch, self.batch = self.batch, None
        if batch is not None:
            core = self.lab.core
            try:
                self.lab.journal.commit(batch)
            except Failed as error:
                core.failed(error.message)
                # What was refused late may have been overtaken.
            else:
                core.committed()
            core.flush()
            self._read()

    @precondition(lambda self: self.reading is None and self.lab.core.wanted)
    @rule()
    def look_up(self) -> None:
        """Messages are being read."""
        self.reading = self.lab.core.next_wanted(3)

    @precondition(lambda self: self.reading is not None)
    @rule()
    def looked_up(self) -> None:
        self._end_read()

    def _end_read(self) -> None:
        reading, self.reading = self.reading, None
        if reading is not None:
            sessions, seqs = reading
            self.lab.core.fetched(sessions, self.lab.journal.fetch(seqs))
            self.lab.core.flush()
            self._read()

    @rule(broken=st.booleans())
    def disk(self, broken: bool) -> None:
        self.lab.journal.broken = "disk full" if broken else ""
        self.failed |= broken

    @rule(seconds=st.sampled_from([0.06, 0.5, 1, 3, 7, 61]))
    def time(self, seconds: float) -> None:
        self._pass(seconds)

    def _pass(self, seconds: float) -> None:
        self.lab.advance(seconds)
        self._read()

    @rule()
    def crash(self) -> None:
        if not self.lab.core.durable:
            return  # nothing was promised
        self._note_dropped()
        self.crashed = True
        for peer in self.peers:
            if peer.client is not None:
                self._lost(peer)
        self.batch = self.reading = None
        self.lab = self.lab.crash(**self.limits)
        self._prepare()
        sessions = self.lab.core.sessions
        for peer in self.peers:
            session = sessions.get(peer.key)
            if session is None or session.number != peer.number or not peer.keeps:
                self._ended(peer)  # that it did, or that another began, is not on the disk
                peer.cleans = session is not None
            if session is None or not session.expiry_s:
                continue
            peer.number = session.number
            there = {s.name.decode(): s for s in session.subscriptions}
            unsure = set().union(*peer.unsure.values()) if peer.unsure else set()
            peer.unsure = {}
            if not peer.certain:
                unsure |= set(there) | set(peer.subs)
            for name in unsure:
                if name in there:
                    peer.shares |= {name} if name.startswith("$share") else set()
                    peer.subs[name] = Sub(there[name].options & 3, bool(there[name].options & 4), 0, 0)
                else:
                    peer.subs.pop(name, None)
            assert set(there) == set(peer.subs), (peer, there, peer.subs)
            for sent in self.sent.values():
                if not peer.matching(sent.topic):
                    sent.owed.discard(peer)
            for name, sub in peer.subs.items():
                assert there[name].options & 7 == sub.qos | 4 * sub.no_local, (peer, name)

    def _note_dropped(self) -> None:
        counters = self.lab.core.counters
        self.dropped += counters.messages_dropped_queue_full + counters.log_messages_dropped

    # -- what holds --------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_unexpected(self) -> None:
        if not hasattr(self, "lab"):
            return
        counters = self.lab.core.counters
        assert counters.unexpected_errors == 0
        assert counters.protocol_errors == 0, self.lab.logged

    @invariant()
    def the_log_is_exact(self) -> None:
        if hasattr(self, "lab"):
            idle = self.batch is None and not self.lab.core.to_write
            check_log(self.lab, idle=idle, failed=self.failed)
            if not self.drop_oldest:
                self._bounded()

    def _bounded(self) -> None:
        """No session has more waiting than it may."""
        if not self.narrow or self.crashed:  # then what was in flight, or had expired, may wait again
            return
        for session in self.lab.core.sessions.values():
            if session.channel is None:
                assert waiting_for(session) <= self.queue, session.key

    def _drain(self) -> None:
        """Everybody answers all that comes."""
        self._all_written()
        while any(peer.answers for peer in self.peers):
            for peer in self.peers:
                self._answer(peer, 1000)
            self._pass(0.06)  # a window closes
            self._all_written()

    def _finish(self) -> None:
        """Everybody comes and gets everything."""
        lab = self.lab
        lab.journal.broken = ""
        self._end_commit()
        self._end_read()
        for peer in self.peers:
            if peer.client is not None and peer.client.channel.stuck:
                peer.client.channel.unstick()
                self._read()
        for _ in range(50):
            back = [peer for peer in self.peers if peer.client is None and peer.expiry]
            for peer in back:
                self._connect(peer, False, peer.expiry, publish=False)
            self._drain()
            for peer in back:
                self._send_again(peer)
                self._read()
            self._drain()
            if all(peer.client is not None or not peer.expiry for peer in self.peers):
                break
        for _ in range(4):
            self._pass(1)
            self._all_written()
        self._pass(61)
        self._pass(1)
        self._all_written()
        self._note_dropped()
        missing = {}
        for sent in self.sent.values():
            if sent.phase == "done" and sent.qos and not self._excused(sent):
                lost = [p for p in sent.owed if not p.got[sent.number]]
                lost += [g for g in sent.groups if not any(p.got[sent.number] for p in g)]  # type: ignore[misc]
                if lost:
                    missing[sent] = lost
        assert not missing, f"acknowledged and not delivered: {missing}"
        assert all(not peer.outbox for peer in self.peers if peer.client), [p.outbox for p in self.peers]
        core, journal = lab.core, lab.journal
        assert core.counters.unexpected_errors == 0
        assert not journal.messages, journal.messages
        assert not journal.deliveries, journal.deliveries
        assert not journal.received, journal.received
        assert (core.log.messages, core.log.bytes, core.log._held, core.log._detached) == (0, 0, {}, {})
        assert not core.log.topics
        numbers = {session.number for session in core.sessions.values() if session.lasting}
        assert set(journal.sessions) == numbers
        assert {number for number, _ in journal.subscriptions} <= numbers


def holders(core: Any) -> tuple[Counter[int], Counter[int]]:
    """How many hold each message that is in the log, and each that its receivers still may acknowledge in time."""
    held: Counter[int] = Counter()
    owed: Counter[int] = Counter()
    for session in core.sessions.values():
        for message in has(session):
            promise = message.promise
            if promise is None or promise.logged:
                held[message.seq] += 1
            else:
                owed[id(promise)] += 1
                assert promise.waiting > 0
    return held, owed


def has(session: Session) -> list[Message]:
    """All that a session is to get and has a hand on."""
    found = [m for m in session.inflight.values() if not released(m)]
    flying = {id(m) for m in found}
    found += [m for m in session.fetching or () if id(m) not in flying]
    found += (*(session.queue or ()), *(session.assigned or ()))
    return [m for m in found if m.seq]


def waiting_for(session: Session) -> int:
    """What waits for it: out of turn, and in the log."""
    log, found = session.core.log, set()
    for subscription in session.subscriptions:
        if not subscription.group and subscription.options & 3:
            for _, topic in log.matching(subscription.filter):
                found |= {seq for seq in topic.seqs if seq > max(session.cursor, subscription.since)}
    found -= set(session.rows or ())
    found -= set(session.done or ())
    return len(found) + len(session.assigned or ())


def check_log(lab: Lab, *, idle: bool, failed: bool) -> None:
    core, log = lab.core, lab.core.log
    sizes: dict[int, int] = {}
    for name, topic in log.topics.items():
        assert topic.seqs
        assert list(topic.seqs) == sorted(set(topic.seqs)), name
        assert len(topic.sizes) == len(topic.seqs)
        assert topic.bytes == sum(topic.sizes)
        assert topic.expires is None or len(topic.expires) == len(topic.seqs)
        sizes |= dict(zip(topic.seqs, topic.sizes, strict=True))
    assert not set(sizes) & set(log._detached)
    sizes |= log._detached
    assert (log.messages, log.bytes) == (len(sizes), sum(sizes.values()))
    counters = core.counters
    assert counters.log_messages_appended == (
        log.messages + counters.log_messages_delivered + counters.log_messages_expired + counters.log_messages_dropped
    )
    held, owed = holders(core)
    assert log._held == held, (log._held, held)
    assert set(log._detached) <= set(held)
    assert log.unwritten_bytes == sum(
        size_of(m.topic, m.payload, m.properties, m.publisher) for m in log._unwritten.values()
    )
    assert log._recent_bytes == sum(m.size for m in log._recent.values())
    for session in core.sessions.values():
        for message in has(session):
            if message.promise is not None and not message.promise.logged:
                assert message.promise.waiting == owed[id(message.promise)]
    if not idle or core.changed:
        return
    journal = lab.journal
    assert {seq: size_of(m.topic, m.payload, m.properties, m.publisher) for seq, m in journal.messages.items()} == sizes
    lasting = {session.number: session for session in core.sessions.values() if session.lasting}
    rows = set()
    for session in lasting.values():
        for known in (session.rows, session.done):
            rows |= {(session.number, seq, id) for seq, ids in (known or {}).items() for id in ids}
    deliveries = {key for key in journal.deliveries if key[0] in lasting}
    if failed:  # of a message that could not be written, they may know different things
        assert all(key[1] not in sizes for key in deliveries - rows)
    else:
        assert deliveries == rows
        assert all(
            key[1] in sizes for key, row in journal.deliveries.items() if row.state == SENT and key[0] in lasting
        )
    assert {(n, s.name) for n, session in lasting.items() for s in session.subscriptions} == {
        key for key in journal.subscriptions if key[0] in lasting
    }
    received = {(n, id) for n, session in lasting.items() for id in session.received or ()}
    assert {key for key in journal.received if key[0] in lasting} == received


World.TestCase.settings = settings(max_examples=500, stateful_step_count=50, deadline=None)
TestWorld = World.TestCase
