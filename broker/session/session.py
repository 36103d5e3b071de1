"""A session (§4.1): what outlives a connection, and the way of QoS 1 and 2 messages to the client.

Outgoing, for each packet id (§4.3):

    state       | event                   | next
    ------------|-------------------------|------------------------------------
    sent        | PUBACK (QoS 1)          | gone, delivered
    sent        | PUBREC success (QoS 2)  | released, PUBREL is sent
    sent        | PUBREC failure (QoS 2)  | gone
    released    | PUBREC success          | released, PUBREL is sent again
    released    | PUBCOMP                 | gone, delivered
    any         | the client comes back   | same; PUBLISH with DUP, or PUBREL, is sent again in order

An acknowledgement of the wrong kind for the state is a protocol error; one for an unknown id is answered as §4.4 says.

A session that outlives its connection (a lasting one) is *live* while it is connected and has got all that waited for
it. Otherwise it finds its messages in the log: what is above its cursor, under the topics that it subscribes to. What
it had in flight or queued when its connection ended has a row of its own in the journal, and in memory only a stub.

For such a session QoS 2 stays exactly once across a crash: the packet id is on the disk before PUBLISH goes out, that
it was received before PUBREL does. Afterwards the row stays until the session's cursor on the disk has passed it.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from broker.identity import Identity, Role
from broker.journal import DONE, RELEASED, SENT, SavedDelivery
from broker.limits import FETCH_MESSAGES_MAX, LARGE_BYTES, OUT_BYTES_MAX, OWN_WORK_MIN, RETAINED_WORK
from broker.message import Message, Promise, for_whoever_is
from broker.route.access import may_subscribe
from broker.route.subscription import NO_LOCAL, QOS, RETAIN_AS_PUBLISHED, RETAINED_DUE, Subscription
from broker.wire.codes import Reason
from broker.wire.packets import Will
from broker.wire.publish import PACKET_ID, parts
from broker.wire.topics import matches

if TYPE_CHECKING:
    from broker.session.channel import Channel
    from broker.session.core import Core

REPLAY_BYTES: Final = 256 << 10  # of retained messages, written out before more are taken


_NOTHING: Final = Message(b"", b"")
_RESUMING: Final[list[Message]] = []  # in place of what is fetched: nothing may be sent yet


def released(message: Message) -> bool:
    """Whether this stands for a QoS 2 message of which only PUBREL and PUBCOMP are left."""
    return message.qos == 2 and not message.topic and not message.absent


class Session:
    """One client's session. `key` is unique in the broker: who it is, and its client id.

    `out` is the connection's list of outgoing chunks while it can be written to, None while it is away or slow: the
    hot path asks this one field.
    """

    __slots__ = (
        "_heap",
        "_passed",
        "assigned",
        "backlog",
        "backlog_bytes",
        "channel",
        "core",
        "counted_at",
        "cursor",
        "done",
        "dup_until",
        "ends_at",
        "expiry_s",
        "fetching",
        "identity",
        "inflight",
        "key",
        "live",
        "next_id",
        "number",
        "out",
        "packet_max",
        "queue",
        "queue_bytes",
        "received",
        "replay",
        "resend",
        "rows",
        "saved",
        "staged",
        "subscriptions",
        "v5",
        "wheel_at",
        "will",
        "will_at",
        "window",
    )

    def __init__(self, core: "Core", key: str, identity: Identity, number: int) -> None:
        self.core = core
        self.key = key
        self.number = number  # in the journal
        self.saved = False  # it may have a row there
        self.identity = identity
        self.channel: Channel | None = None
        self.out: list[bytes] | None = None
        self.v5 = False
        self.packet_max = 0  # the client's Maximum Packet Size; 0 = none
        self.window = 65535  # the client's Receive Maximum, or our bound if that is lower
        self.next_id = 0
        # Not acknowledged, in the order sent [MQTT-4.6.0-1]. 3.1.1 [MQTT-4.3.2-1, MQTT-4.3.3-1].
        self.inflight: dict[int, Message] = {}
        self.resend: deque[int] | None = None  # in flight, and still to be sent again on this connection
        # What waits for room in the window, of all topics in one line: 3.1.1 [MQTT-4.6.0-5, -6].
        self.queue: deque[Message] | None = None
        self.queue_bytes = 0
        # Retained messages for new subscriptions, made as they are sent. While there are some, `queue` is not None.
        self.replay: deque[Iterator[Message | None]] | None = None
        # QoS 2 from the client: ids between PUBLISH and PUBREL, and what it is to be told of each; None: it was.
        self.received: dict[int, Promise | None] | None = None
        # A tuple: a device has few, and a dict for them would cost 160 bytes more; none has over a thousand.
        self.subscriptions: tuple[Subscription[Session], ...] = ()
        self.expiry_s = 0
        self.ends_at = 0.0  # while away: when the session expires
        self.will: Will | None = None
        self.will_at = 0.0  # while away: when a delayed will is due
        self.wheel_at = 0
        # -- its part in the log --
        self.live = False
        self.cursor = core.log.head  # while it is not live: what comes later in the log is still to be got
        self.assigned: deque[Message] | None = None  # stubs of what it gets out of turn, before what is in the log
        self.staged = 0  # in flight, and sent with the next commit
        # Its deliveries in the journal: packet ids by the number of the message; there may be one for each group, too.
        self.rows: dict[int, tuple[int, ...]] | None = None
        self.done: dict[int, tuple[int, ...]] | None = None  # those that are over, and that the cursor has not passed
        self.dup_until = 0  # after a crash: up to here it may have got them before
        self.counted_at = 0.0
        self.backlog = self.backlog_bytes = 0  # waiting for it, while it is away; too many rather than too few
        self.fetching: list[Message] | None = None  # stubs whose messages are being read
        self._heap: list[tuple[int, bytes, Subscription[Session]]] | None = None  # next in each topic, up to _passed
        self._passed = 0

    # -- what routes need to know ------------------------------------------------------------------------------------

    @property
    def client_id(self) -> str:
        """The client id, ours if the client had none."""
        return self.key.partition("\n")[2]

    @property
    def unlimited(self) -> bool:
        """Whether what was encoded for all is right for this client too."""
        return not self.packet_max

    @property
    def ready(self) -> bool:
        """Connected, not slow, and with room in its in-flight window."""
        return self.out is not None and not self.queue and len(self.inflight) < self.window

    @property
    def connected(self) -> bool:
        """Its client is there."""
        return self.channel is not None

    @property
    def lasting(self) -> bool:
        """It outlives its connection."""
        return self.expiry_s > 0

    @property
    def waiting(self) -> int:
        """Messages in the queue."""
        return len(self.queue) if self.queue else 0

    def full(self, size: int, copies: int = 1) -> bool:
        """Whether so many more of `size` bytes would be over what may wait. One always fits, however large."""
        limits = self.core.limits
        if self.live:
            count, total = self.waiting, self.queue_bytes
        else:
            count, total = self.backlog, self.backlog_bytes
        count += copies - 1
        return count >= limits.queue_messages_max or (count > 0 and total + copies * size > limits.queue_bytes_max)

    # -- messages to the client --------------------------------------------------------------------------------------

    def take(self, message: Message) -> bool:
        """Send `message` as its own QoS says, or keep it until that can be done.

        False: a bound was reached and it is dropped, though this session's life promised to keep it.
        """
        if message.qos == 0:
            self._send0(message)
            return True
        if message.seq:
            self.core.owe(message)
        if self.queue is not None or self.out is None or not self._room(message):
            return self.hold(message)
        self._send(message)
        return True

    def _room(self, message: Message) -> bool:
        """Whether one more fits the window [MQTT-3.3.4-9, MQTT-4.9.0-2], in number, and for large ones in bytes.

        Nothing but PUBLISH waits for it [MQTT-3.3.4-10, MQTT-4.9.0-3].
        """
        flight = len(self.inflight)
        return flight < self.window and (message.size <= LARGE_BYTES or flight * message.size < OUT_BYTES_MAX)

    def late(self, *chunks: bytes) -> None:
        """Give an encoded QoS 0 message to a client that is slow; nothing happens if it is away."""
        channel = self.channel
        # One is counted as sent by whoever sends to many; this one may not have been.
        if channel is None or not channel.late(*chunks):
            self.core.counters.messages_sent -= 1

    def write(self, packet: bytes) -> None:
        """Give encoded bytes to a client that is there."""
        if self.channel is not None:
            self.channel.write(packet)

    def resume(self, channel: "Channel") -> None:
        """The client is there again (or for the first time): in flight first, then what has waited [MQTT-4.4.0-1]."""
        self.out = channel.out
        core = self.core
        self.resend = deque(self.inflight) if self.inflight else None
        due = [subscription for subscription in self.subscriptions if subscription.options & RETAINED_DUE]
        if self.saved and (self.inflight or self.assigned or self.cursor < core.log.head):
            # Should the process end now, what is sent from here on is known to have been sent perhaps. And of QoS 2,
            # what is sent again must be on the disk, as when it was sent first.
            self.fetching = _RESUMING
            needed = any(message.qos == 2 for message in self.inflight.values())
            core.after_commit(lambda: self._resumed(channel, due), needed=needed)
        else:
            self._resumed(channel, due)
        if not self.live:  # else that is done
            core.router.touch(self.subscriptions)

    def _resumed(self, channel: "Channel", due: list[Subscription["Session"]]) -> None:
        if self.channel is not channel:
            return
        self.fetching = None
        for subscription in due:
            if subscription in self.subscriptions:
                self.core.send_retained(subscription, again=True)
        self.refill()

    def _send0(self, message: Message) -> None:
        channel = self.channel
        if channel is None:
            return  # QoS 0 is for those who are there
        head, between = parts(message, self.v5, self.core.now)
        payload = message.payload
        if self.packet_max and len(head) + len(between) + len(payload) > self.packet_max:
            self.core.counters.messages_dropped_too_large += 1  # [MQTT-3.1.2-24, -25]
            return
        self.core.counters.messages_sent += 1
        if self.out is None:
            self.late(head, between, payload)
        else:
            channel.write(head, between, payload)

    def _send(self, message: Message) -> None:
        """Give `message` (QoS 1 or 2) the next free packet id and send it; `out` is not None."""
        channel = self.channel
        assert channel is not None
        core = self.core
        if self.packet_max and self._too_large(message):
            core.counters.messages_dropped_too_large += 1  # [MQTT-3.1.2-25]: as if it had been delivered
            core.release(self, message)
            return
        id = self.free_id()
        self.inflight[id] = message
        core.counters.messages_sent += 1
        if message.qos == 2 and self.expiry_s:
            self._row(message, id, SENT)
        elif not self.staged and (message.promise is None or not message.promise.deferred):
            self.send_as(channel, message, id)
            return
        if core.durable:
            core.stage(self, channel, id, message)  # and what comes after it does not overtake it
        else:
            self.send_as(channel, message, id)

    def _too_large(self, message: Message) -> bool:
        head, between = parts(message, self.v5, self.core.now)
        return len(head) + 2 + len(between) + len(message.payload) > self.packet_max

    def send_as(self, channel: "Channel", message: Message, id: int) -> None:
        """Put out PUBLISH. What a crash has made uncertain says so [MQTT-3.3.1-1]."""
        head, between = parts(message, self.v5, self.core.now)
        if 0 < message.seq <= self.dup_until:
            head = bytes((head[0] | 0x08,)) + head[1:]
        channel.write(head, PACKET_ID[id], between, message.payload)

    def _row(self, message: Message, id: int, state: int) -> None:
        """Keep a delivery in the journal; one of the same message that was still to be sent goes."""
        seq = message.seq
        if not seq or not self.expiry_s:
            return
        deliveries = self.core.log.batch.deliveries
        ids = self.rows.get(seq, ()) if self.rows is not None else ()
        if id not in ids:
            if 0 in ids:
                deliveries[self.number, seq, 0] = None
            self._keep_rows(seq, (*(known for known in ids if known), id))
        deliveries[self.number, seq, id] = SavedDelivery(
            seq, id, state, message.qos, message.retain, message.subscription_ids, message.share
        )

    def _keep_rows(self, seq: int, ids: tuple[int, ...]) -> None:
        rows = self.rows or {}
        if ids:
            rows[seq] = ids
        else:
            del rows[seq]
        self.rows = rows or None

    def drop_row(self, seq: int, id: int) -> None:
        """A delivery is over. Its row, if it has one, goes; or stays until the cursor, too, is above the message."""
        ids = self.rows.get(seq, ()) if self.rows is not None else ()
        if id not in ids:
            id = 0  # QoS 1 keeps the row that it had before it was sent
        if id not in ids:
            return
        self._keep_rows(seq, tuple(known for known in ids if known != id))
        row = None
        if self.expiry_s and not self.live and seq > self.cursor:
            row = SavedDelivery(seq, id, DONE, 1)
            self._done(seq, id)
        self.core.log.batch.deliveries[self.number, seq, id] = row

    def _done(self, seq: int, id: int) -> None:
        self.done = self.done or {}
        self.done[seq] = (*self.done.get(seq, ()), id)

    def _finish(self, message: Message, id: int) -> None:
        """A QoS 2 delivery is complete. Its row stays until the cursor on the disk has passed it."""
        del self.inflight[id]
        seq = message.seq
        if seq and self.expiry_s:
            self._row(message, id, DONE)
            ids = self.rows[seq] if self.rows is not None else ()
            self._keep_rows(seq, tuple(known for known in ids if known != id))
            self._done(seq, id)
            self.core.moved[self] = None
        self.refill()

    def free_id(self) -> int:
        """The next packet id that is not in use [MQTT-2.2.1-4, MQTT-4.3.2-1, MQTT-4.3.3-1], 3.1.1 [MQTT-2.3.1-4].

        The window leaves some free.
        """
        id = self.next_id
        inflight = self.inflight
        while True:
            id = id + 1 if id < 65535 else 1
            if id not in inflight:
                self.next_id = id
                return id

    def hold(self, message: Message) -> bool:
        """Queue `message` (QoS 1 or 2) for later. False: the queue is full, though the session promises to keep.

        All that comes after it waits behind it: each topic is an ordered one [MQTT-4.6.0-5, -6].

        A session that ends with its connection promises nothing beyond it, but while the client is there and only slow,
        it gets as much room as its QoS 0 messages have. When that is used up it ends, for it must not lose what waits
        and go on [MQTT-4.1.0-1].
        """
        if self.channel is None and not self.expiry_s:
            return True  # it is ending
        size = message.size
        if self.expiry_s:
            while self.full(size) and self.core.drops_oldest(message.topic):
                self._drop_oldest()
            full = self.full(size)
        else:
            full = self.waiting > 0 and self.queue_bytes + size > OUT_BYTES_MAX
        if full:
            self.core.counters.messages_dropped_queue_full += 1
            self.core.hand_back(message)
            if self.expiry_s:
                return False
            self.core.overrun(self)
            return True
        self._queue(message)
        return True

    def _queue(self, message: Message) -> None:
        if self.queue is None:
            self.queue = deque()
        self.queue.append(message)
        self.queue_bytes += message.size

    def _drop_oldest(self) -> None:
        assert self.queue  # it was full
        oldest = self.queue.popleft()
        self.queue_bytes -= oldest.size
        self.core.counters.messages_dropped_queue_full += 1
        self.core.release(self, oldest)

    def take_back(self, seq: int) -> None:
        """Drop message `seq` if it waits here and has not been sent."""
        for message in [m for m in self.queue or () if m.seq == seq]:
            assert self.queue is not None  # it was in it
            self.queue.remove(message)
            self.queue_bytes -= message.size
            self.core.release(self, message)

    def refill(self) -> None:
        """Send what waits, as far as the window and the connection allow."""
        while self._refill():
            pass

    def _refill(self) -> bool:
        """Send what is in memory. True: more has been got from the log."""
        if self.fetching is _RESUMING:
            return False
        while self.out is not None and self.resend:
            if not self._resend(self.resend[0]):
                return self._fetch_inflight()
            self.resend.popleft()
        if self.resend:
            return False
        self.resend = None
        if self.replay and not self._replayed():
            return False
        queue = self.queue
        if queue is not None:
            now, core = self.core.now, self.core
            while queue and self.out is not None and self._room(queue[0]):
                message = queue.popleft()
                self.queue_bytes -= message.size
                if message.promise is not None and message.promise.reason >= 0x80:
                    core.release(self, message)  # its publisher was refused meanwhile, and may send it again
                elif message.expires_at and message.expires_at <= now:
                    core.counters.messages_dropped_expired += 1  # [MQTT-3.3.2-5]
                    core.release(self, message)
                else:
                    self._send(message)
            if queue:
                return False
            self.queue = None
        return not self.live and self.channel is not None and self.fetching is None and self._catch_up()

    def go_on(self) -> None:
        """Its turn has come: send what waits."""
        self.refill()

    def send_retained(self, messages: Iterator[Message | None]) -> None:
        """Send retained messages, as fast as the client takes them; they stay where they are until then."""
        if self.replay is None:
            self.replay = deque()
        self.replay.append(messages)
        if self.queue is None:
            self.queue = deque()
        self.refill()

    def _replayed(self) -> bool:
        """Send what is retained, as far as the window and the connection allow. False: there is more."""
        channel, replay, core = self.channel, self.replay, self.core
        if self in core.resting:
            return False
        unwritten = 0
        began = core.work
        inflight = self.inflight
        while replay and channel is not None and self.out is not None:
            if core.work > core.work_until and core.work - began > OWN_WORK_MIN:
                core.rest(self, channel)
                break
            # What the next one is like is known once it is taken; the last one stands for it.
            if not self._room(next(reversed(inflight.values()), _NOTHING)):
                break
            before = core.retained.walked
            message = next(replay[0], _NOTHING)
            core.work += core.retained.walked - before + RETAINED_WORK
            if message is None:
                continue
            if message is _NOTHING:
                replay.popleft()
                continue
            if message.qos:
                self._send(message)
            else:
                self._send0(message)
            unwritten += message.size
            if unwritten > REPLAY_BYTES:
                unwritten = 0
                channel.flush()  # if not all of it goes, `out` is None now
        if replay:
            return False
        self.replay = None
        self.core.moved[self] = None  # what was due is no longer
        return True

    def _resend(self, id: int) -> bool:
        """Send what is in flight under `id` again, even if it has expired [MQTT-4.3.3-7]. False: not now."""
        message = self.inflight.get(id)
        channel, core = self.channel, self.core
        if message is None or channel is None:
            return True
        if message.absent:
            return False
        if released(message):
            channel.write(b"\x62\x02", PACKET_ID[id])  # [MQTT-4.3.3-5, -6]
            return True
        # What is in flight and not in the deque has been sent on this connection, and is not yet answered.
        if len(self.inflight) - len(self.resend or ()) >= self.window:
            return False
        if self.packet_max and self._too_large(message):
            del self.inflight[id]
            core.counters.messages_dropped_too_large += 1
            core.release(self, message, id)
            return True
        head, between = parts(message, self.v5, core.now)
        channel.write(bytes((head[0] | 0x08,)), head[1:], PACKET_ID[id], between, message.payload)  # DUP [MQTT-3.3.1-1]
        core.counters.messages_sent += 1
        return True

    # -- what has waited in the log ----------------------------------------------------------------------------------

    def _catch_up(self) -> bool:
        """Get what waits next. When there is nothing more, the session is live. True: it is in the queue."""
        stubs: list[Message] = []
        while self.assigned and len(stubs) < FETCH_MESSAGES_MAX:
            stubs.append(self.assigned.popleft())
        if not stubs:
            self.assigned = None
            stubs = self._next_in_log()
        if stubs:
            return self._fetch(stubs)
        self.live = True
        self._heap = None
        if self.done:
            self.core.moved[self] = None
        self.backlog = self.backlog_bytes = 0
        self.core.router.touch(self.subscriptions)
        return False

    def _next_in_log(self) -> list[Message]:
        """The next messages above the cursor, in their order, as stubs in the form that this session gets. Held."""
        log = self.core.log
        stubs: list[Message] = []
        while not stubs:
            if not self._heap:
                if self.cursor >= log.head:
                    break
                # New topics may come: they are looked for when these are exhausted, so that nothing is passed over.
                self._passed = log.head
                self._heap = [
                    (seq, topic, subscription)
                    for topic, subscription in self._behind().items()
                    if (seq := self._seq_after(topic, max(self.cursor, subscription.since)))
                ]
                heapq.heapify(self._heap)
            heap = self._heap
            while heap and len(stubs) < FETCH_MESSAGES_MAX:
                seq, topic, subscription = heap[0]
                log.touched[topic] = None
                self.cursor = seq
                following = self._seq_after(topic, seq)
                if following:
                    heapq.heapreplace(heap, (following, topic, subscription))
                else:
                    heapq.heappop(heap)
                if not self.knows(seq, again=True):
                    log.hold(seq)
                    stubs.append(_stub(seq, subscription, self.key))
            if not heap:
                self.cursor = self._passed
        return stubs

    def _seq_after(self, topic: bytes, seq: int) -> int:
        """The next number after `seq` in a topic, 0 for none; not above what the heap was made for."""
        found = self.core.log.topics.get(topic)
        if found is None:
            return 0
        at = found.after(seq)
        return found.seqs[at] if at < len(found.seqs) and found.seqs[at] <= self._passed else 0

    def _behind(self) -> dict[bytes, "Subscription[Session]"]:
        """The topics in the log with something above the cursor, each with the subscription that gets it."""
        found: dict[bytes, Subscription[Session]] = {}
        for subscription in self.subscriptions:
            if subscription.group or not subscription.options & QOS:
                continue
            for topic, log in self.core.log.matching(subscription.filter):
                if log.seqs[-1] > self.cursor:
                    known = found.get(topic)
                    found[topic] = subscription if known is None else known.merged(subscription)
        lesser = [s for s in self.subscriptions if not s.group and not s.options & QOS]
        for topic, known in found.items() if lesser else ():
            for subscription in lesser:
                if matches(subscription.filter.decode(), topic.decode()):
                    known = found[topic] = known.merged(subscription)
        return found

    def secure(self) -> None:
        """Have rows for what is in flight or queued: a subscription that leads to it in the log is about to go."""
        for id, message in list(self.inflight.items()):
            if message.seq and not released(message):
                self._secured(message, id)
        for message in [*(self.queue or ()), *self._fetching_new()]:
            self._secured(message, 0)

    def gather(self) -> None:
        """Get what waits as its subscriptions are now: one is to be replaced by less [MQTT-3.8.4-4]."""
        self.secure()
        log = self.core.log
        if self.live:
            return
        for topic, subscription in self._behind().items():
            found = log.topics[topic]
            for seq in found.seqs[found.after(max(self.cursor, subscription.since)) :]:
                if not self.knows(seq, again=True):
                    self._assign(_stub(seq, subscription, self.key))

    def recount(self) -> list[tuple[int, int, bytes]]:
        """Find out how much waits. Returns number, size and topic of what does in the log."""
        waiting = []
        for topic, subscription in self._behind().items():
            log = self.core.log.topics[topic]
            at = log.after(max(self.cursor, subscription.since))
            waiting += [(seq, size, topic) for seq, size in zip(log.seqs[at:], log.sizes[at:], strict=True)]
        size_of = self.core.log.size_of_detached
        self.backlog = len(waiting) + len(self.assigned or ()) + len(self.fetching or ()) + self.waiting
        self.backlog_bytes = sum(size for _, size, _ in waiting) + self.queue_bytes
        self.backlog_bytes += sum(size_of(stub.seq) for stub in self.assigned or ())
        return waiting

    def trim(self, size: int, copies: int) -> None:
        """Give up the oldest of what waits, until so many more of `size` fit."""
        core = self.core
        waiting = deque(sorted(self.recount()))
        while self.full(size, copies) and (self.queue or self.assigned or waiting):
            self.backlog -= 1
            if self.queue:
                self.backlog_bytes -= self.queue[0].size
                self._drop_oldest()
                continue
            core.counters.messages_dropped_queue_full += 1
            if self.assigned:
                stub = self.assigned.popleft()
                self.backlog_bytes -= core.log.size_of_detached(stub.seq)
                core.release(self, stub)
            else:
                seq, bytes_, topic = waiting.popleft()
                self.backlog_bytes -= bytes_
                self.cursor = seq
                core.log.touched[topic] = None
                core.changed[self] = None
        self._heap = None

    def _fetch_inflight(self) -> bool:
        """Get the messages of what is to be sent again next. True: they are there."""
        if self.fetching is not None or not self.resend:
            return False
        next_ids = islice(self.resend, FETCH_MESSAGES_MAX)
        stubs = [m for id in next_ids if (m := self.inflight.get(id)) is not None and m.absent]
        return bool(stubs) and self._fetch(stubs)

    def _fetch(self, stubs: list[Message]) -> bool:
        """Get the messages for stubs. True: they were in memory; else they are read, and `fetched` is called."""
        body = self.core.log.body
        found = {stub.seq: message for stub in stubs if (message := body(stub.seq)) is not None}
        self.fetching = stubs
        if any(stub.absent and stub.seq not in found for stub in stubs):
            self.core.wanted[self] = None
            return False
        self._take_in(found)
        return True

    def fetched(self, found: dict[int, Message], asked: set[int], up_to: int) -> None:
        """Messages have been read, by number. What was asked for, is not above `up_to` and not found is not there."""
        stubs = self.fetching or []
        body = self.core.log.body
        first = self.core.log.head + 1  # that is still to be read
        for stub in stubs:
            seq = stub.seq
            if stub.absent and seq not in found:
                message = body(seq)
                if message is not None:
                    found[seq] = message
                elif seq not in asked or seq > up_to:
                    first = min(first, seq)
        self.fetching = [stub for stub in stubs if stub.seq < first]
        self._take_in(found)
        rest = [stub for stub in stubs if stub.seq >= first]
        if rest:
            self.fetching = rest
            self.core.wanted[self] = None
        self.refill()

    def _fetching_new(self) -> list[Message]:
        """What is being read to be sent for the first time, rather than again."""
        return [] if self.resend else self.fetching or []

    def _take_in(self, found: dict[int, Message]) -> None:
        stubs, self.fetching = self.fetching or [], None
        packet_ids = {id(message): number for number, message in self.inflight.items() if message.absent}
        who, core = self.identity, self.core
        for stub in stubs:
            message = found.get(stub.seq) if stub.absent else stub
            packet_id = packet_ids.get(id(stub))
            if (
                message is None
                or not ("\n" in message.publisher or self._is_meant(message))  # of a session, as most are
                or not may_subscribe(who, message.topic.decode())
            ):
                # Taken back by a failed commit; or the client has moved, and what it may not see any more goes.
                core.counters.messages_dropped_session_end += message is not None
            elif stub.absent and stub.publisher and stub.publisher == message.publisher:
                pass  # [MQTT-3.8.3-3]
            else:
                form = message.variant(
                    min(message.qos, stub.qos), message.retain and stub.retain, stub.subscription_ids
                )
                if stub.share:
                    form = message.copy() if form is message else form
                    form.share = stub.share
                if packet_id is None:
                    self._queue(form)
                else:
                    self.inflight[packet_id] = form
                continue
            if packet_id is not None:
                del self.inflight[packet_id]
            core.release(self, stub, packet_id or 0)

    def _is_meant(self, message: Message) -> bool:
        """Whether a message from the broker itself that was for whoever had this device is for who has it now."""
        who, whose = self.identity, message.publisher
        return not whose or who.role is not Role.DEVICE or whose == for_whoever_is(who.brand, who.user)

    def park(self) -> None:
        """The connection is gone: what is in flight or waits gets rows in the journal, and only stubs of it stay.

        It belongs to this session and to no other member of a group [MQTT-4.8.2-4].
        """
        core = self.core
        for message in self.inflight.values():
            if not message.seq:
                core.adopt_retained(message)  # it comes again under its packet id [MQTT-4.4.0-1]
        if self.live:
            self.cursor = core.log.head
            self.live = False
            self.backlog = self.backlog_bytes = 0
        else:
            self.backlog = core.limits.queue_messages_max  # perhaps; it is counted when that matters
        core.router.touch(self.subscriptions)
        if not core.failing:  # else it is not certain to be in the log
            self._look_for_retained()
            self._note_retained()
        waiting = [*(self.queue or ()), *self._fetching_new()]
        for id, message in list(self.inflight.items()) if self.inflight else ():
            if not released(message):
                self.inflight[id] = self._secured(message, id)
        if waiting or self.assigned:
            assigned = deque(self._secured(message, 0) for message in waiting)
            assigned += self.assigned or ()
            self.assigned = assigned
            self.backlog += len(assigned)
            self.backlog_bytes += sum(core.log.size_of_detached(stub.seq) for stub in assigned)
        self.staged = 0
        self.counted_at = 0.0
        self.queue = self.replay = self.resend = self.fetching = self._heap = None
        self.queue_bytes = 0

    def _secured(self, message: Message, id: int) -> Message:
        """Have a row for what is in flight or waits; return its stub, or itself if it cannot be kept."""
        if not message.absent and not self.core.kept(message):
            return message
        self._row(message, id, SENT)
        return message if message.absent else _parked(message)

    def assign(self, message: Message) -> None:
        """Give it a message that is in the log, out of turn. If it is live, it gets it behind what waits for it."""
        if self.live:
            self.live = False
            self.cursor = self.core.log.head
            self.backlog, self.backlog_bytes = self.waiting, self.queue_bytes
            self.core.router.touch(self.subscriptions)
        self._assign(_parked(message))
        self.backlog += 1
        self.backlog_bytes += message.size

    def _assign(self, stub: Message) -> None:
        self.core.log.hold(stub.seq)
        self._row(stub, 0, SENT)
        if self.assigned is None:
            self.assigned = deque()
        self.assigned.append(stub)

    def pick_row(self, message: Message) -> None:
        """A message that this one got as a member of a group is written: nobody but it will find it in the log."""
        id = next((id for id, known in self.inflight.items() if known is message), 0)
        if id or (self.queue is not None and any(known is message for known in self.queue)):
            self._row(message, id, SENT)

    def still_full(self, size: int, copies: int) -> bool:
        """Whether there is no room even when what others have reclaimed is looked at; that is done once a second."""
        core = self.core
        if core.now >= self.counted_at + 1:
            self.counted_at = core.now
            self.recount()
        return self.full(size, copies)

    def receive(self, id: int, promise: Promise) -> None:
        """A QoS 2 message came under `id`: it is not taken again until PUBREL frees that."""
        if self.received is None:
            self.received = {}
        self.received[id] = promise
        if self.expiry_s:
            self.core.log.batch.received[self.number, id] = True

    def unreceive(self, id: int) -> None:
        """Forget that a QoS 2 message came under `id`: free again, or what came was refused."""
        if self.received is not None and id in self.received:
            del self.received[id]
            self.received = self.received or None
            if self.expiry_s:
                self.core.log.batch.received[self.number, id] = False

    def abandon(self) -> tuple[int, list[Message]]:
        """The session ends: let go of all that it was to get.

        Returns how many messages those were, without those that it was to get as a member of a group. These come
        second, and are to be handed back; QoS 2 that was begun is not among them [MQTT-4.8.2-5].
        """
        core = self.core
        self.rows = self.done = None
        lost: list[Message] = []
        shared: list[Message] = []
        if self.inflight or self.queue or self.fetching or self.assigned:
            begun = [m for m in self.inflight.values() if not released(m)]
            waiting = [*(self.queue or ()), *self._fetching_new(), *(self.assigned or ())]
            shared = [m for m in begun if m.share and m.qos == 1] + [m for m in waiting if m.share]
            lost = [m for m in begun if not m.share or m.qos == 2] + [m for m in waiting if not m.share]
            for message in lost:
                core.hand_back(message)
        behind = 0
        if not self.live and self.cursor < core.log.head and core.log.topics:
            behind = len(self.recount())
        self.inflight.clear()
        self.queue = self.replay = self.received = self.resend = self.assigned = self.fetching = self._heap = None
        self.queue_bytes = 0
        return len(lost) + behind, shared

    def give_up(self, names: set[bytes]) -> list[Message]:
        """Let go of what waits by these shared subscriptions: to be handed on, and then back."""
        given = [stub for stub in self.assigned or () if stub.share in names]
        if given:
            self.assigned = deque(stub for stub in self.assigned or () if stub.share not in names) or None
            for stub in given:
                self.drop_row(stub.seq, 0)
        return given

    def low(self) -> int:
        """Up to here in the log nothing is left for this session to do."""
        low = self.core.log.head if self.live else self.cursor
        rows = self.rows or {}
        for message in chain(self.inflight.values(), self.queue or (), self.fetching or ()):
            if message.seq and message.seq not in rows:
                low = min(low, message.seq - 1)
        return low

    def settle(self) -> None:
        """Bring what the journal knows of this session up to date: its cursor, and what is complete below that."""
        core = self.core
        if self.connected:
            self._note_retained()
        if self.done or core.log.messages:
            core.changed[self] = None
        if self.done and not any(subscription.options & RETAINED_DUE for subscription in self.subscriptions):
            low = self.low()
            for seq in [seq for seq in self.done if seq <= low]:
                for id in self.done.pop(seq):
                    core.log.batch.deliveries[self.number, seq, id] = None
            self.done = self.done or None

    def knows(self, seq: int, *, again: bool) -> bool:
        """Whether message `seq` has a delivery in the journal; again: also one that is complete."""
        return (self.rows is not None and seq in self.rows) or (again and self.done is not None and seq in self.done)

    def _look_for_retained(self) -> None:
        """Find out, if that takes little, whether what was sent was all: nobody looks for more without room for it."""
        core, began = self.core, self.core.retained.walked
        while self.replay and core.retained.walked - began < OWN_WORK_MIN:
            message = next(self.replay[0], _NOTHING)
            if message is not _NOTHING:
                if message is not None:
                    core.hand_back(message)
                break
            self.replay.popleft()
        core.work += core.retained.walked - began

    def _note_retained(self) -> None:
        """If what is retained has all arrived, or is in the log, it is not due when the client comes back."""
        if self.replay or self.fetching is _RESUMING:
            return
        if all(message.seq for message in self.inflight.values()):
            for subscription in self.subscriptions:
                if subscription.options & RETAINED_DUE:
                    subscription.options &= ~RETAINED_DUE
                    self.core.keep_subscription(subscription)

    # -- answers of the client ---------------------------------------------------------------------------------------

    def puback(self, id: int, reason: int) -> None:
        """PUBACK arrived, and until then it is in flight [MQTT-4.3.2-3]; also if it refuses [MQTT-4.4.0-2].

        What a member of a group refuses goes to no other [MQTT-4.8.2-6]. Raises `ProtocolError` for QoS 2.
        """
        message = self.inflight.get(id)
        if message is None or message.absent:
            if not id:
                raise self.core.wrong_ack("packet identifier 0")  # [MQTT-2.2.1-3]
            return  # unknown, or for what came on another connection: there is nothing to answer to a PUBACK
        if message.qos == 2:
            raise self.core.wrong_ack("PUBACK for a QoS 2 message")
        del self.inflight[id]
        if reason < 0x80:
            self.core.delivered(self, message)
        if message.seq or self.expiry_s:  # else nobody waits for this
            self.core.release(self, message, id)
        if self.queue is not None or self.resend is not None or not self.live:
            self.refill()

    def pubrec(self, id: int, reason: int) -> int | None:
        """PUBREC arrived; return the reason code for PUBREL [MQTT-4.3.3-4], or None if none is to be sent.

        Until then PUBLISH is in flight [MQTT-4.3.3-3]; if it refuses, that is over [MQTT-4.4.0-2, MQTT-4.8.2-6].

        PUBREL, which has the same id 3.1.1 [MQTT-2.3.1-6], may go once what is to be written so far is on the disk.
        """
        message = self.inflight.get(id)
        if message is None:
            return Reason.PACKET_ID_NOT_FOUND
        if message.absent:
            return None  # for what came on another connection: it is about to be sent again
        if message.qos != 2:
            raise self.core.wrong_ack("PUBREC for a QoS 1 message")
        core = self.core
        if not released(message):
            if reason < 0x80:
                core.delivered(self, message)
            core.hand_back(message)
        if reason >= 0x80:
            self._finish(message, id)  # §4.3.3: the receiver does not want it, and the id is free
            return None
        if not released(message):
            del self.inflight[id]
            # At the end: PUBREL is sent again in the order of PUBREC [MQTT-4.6.0-4].
            gone = self.inflight[id] = Message(b"", b"", 2, tracked=True, seq=message.seq)
            if self.expiry_s:
                self._row(gone, id, RELEASED)
        return Reason.SUCCESS

    def pubcomp(self, id: int) -> None:
        """PUBCOMP arrived."""
        message = self.inflight.get(id)
        if message is None or message.absent:
            return
        if not released(message):
            raise self.core.wrong_ack("PUBCOMP before PUBREC")
        self._finish(message, id)

    # -- time --------------------------------------------------------------------------------------------------------

    def due(self, now: float) -> float:
        """Publish a delayed will, end an expired session (the wheel calls this)."""
        # [MQTT-4.1.0-1]: not while it is connected.
        if self.channel is not None or self.core.sessions.get(self.key) is not self:
            return 0.0  # while its client is there it cannot end 3.1.1 [MQTT-4.1.0-2]
        if self.will_at and self.will_at <= now:
            self.core.publish_will(self)
        if self.ends_at and self.ends_at <= now:
            self.core.counters.sessions_expired += 1
            self.core.end(self)
            return 0.0
        times = [t for t in (self.will_at, self.ends_at) if t]
        return min(times) if times else 0.0


def _stub(seq: int, subscription: "Subscription[Session]", key: str) -> Message:
    """Stands for a message in the log that a session gets by `subscription`, until it is read.

    It has the most that the subscription allows: QoS, the retain flag; and, with No Local, whose messages it does not.
    """
    options = subscription.options
    return Message(
        b"",
        b"",
        options & QOS,
        bool(options & RETAIN_AS_PUBLISHED),
        publisher=key if options & NO_LOCAL else "",
        subscription_ids=subscription.id,
        tracked=True,
        seq=seq,
        absent=True,
    )


def _parked(message: Message) -> Message:
    """Stands for a message that a session gets in this form, until it is read again."""
    return Message(
        b"",
        b"",
        message.qos,
        message.retain,
        subscription_ids=message.subscription_ids,
        tracked=True,
        seq=message.seq,
        absent=True,
        share=message.share,
    )
