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
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from broker.identity import Identity
from broker.limits import LARGE_BYTES, OUT_BYTES_MAX
from broker.message import Message
from broker.route.subscription import Subscription
from broker.wire.codes import Reason
from broker.wire.packets import Will
from broker.wire.publish import PACKET_ID, parts

if TYPE_CHECKING:
    from broker.session.channel import Channel
    from broker.session.core import Core

REPLAY_BYTES: Final = 256 << 10  # of retained messages, written out before more are taken

# Stands for a QoS 2 message of which only PUBREL and PUBCOMP are left.
RELEASED: Final = Message(b"", b"", qos=2, tracked=True)


class Session:
    """One client's session. `key` is unique in the broker: who it is, and its client id.

    `out` is the connection's list of outgoing chunks while it can be written to, None while it is away or slow: the
    hot path asks this one field.
    """

    __slots__ = (
        "channel",
        "core",
        "ends_at",
        "expiry_s",
        "identity",
        "inflight",
        "key",
        "next_id",
        "out",
        "packet_max",
        "queue",
        "queue_bytes",
        "received",
        "replay",
        "resend",
        "subscriptions",
        "v5",
        "wheel_at",
        "will",
        "will_at",
        "window",
    )

    def __init__(self, core: "Core", key: str, identity: Identity) -> None:
        self.core = core
        self.key = key
        self.identity = identity
        self.channel: Channel | None = None
        self.out: list[bytes] | None = None
        self.v5 = False
        self.packet_max = 0  # the client's Maximum Packet Size; 0 = none
        self.window = 65535  # the client's Receive Maximum, or our bound if that is lower
        self.next_id = 0
        self.inflight: dict[int, Message] = {}  # in the order sent [MQTT-4.6.0-1]
        self.resend: deque[int] | None = None  # in flight, and still to be sent again on this connection
        self.queue: deque[Message] | None = None
        self.queue_bytes = 0
        # Retained messages for new subscriptions, made as they are sent. While there are some, `queue` is not None.
        self.replay: deque[Iterator[Message]] | None = None
        self.received: set[int] | None = None  # QoS 2 from the client: ids between PUBLISH and PUBREL
        # A tuple: a device has few, and a dict for them would cost 160 bytes more; none has over a thousand.
        self.subscriptions: tuple[Subscription[Session], ...] = ()
        self.expiry_s = 0
        self.ends_at = 0.0  # while away: when the session expires
        self.will: Will | None = None
        self.will_at = 0.0  # while away: when a delayed will is due
        self.wheel_at = 0

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
    def waiting(self) -> int:
        """Messages in the queue."""
        return len(self.queue) if self.queue else 0

    # -- messages to the client --------------------------------------------------------------------------------------

    def take(self, message: Message) -> bool:
        """Send `message` as its own QoS says, or keep it until that can be done.

        False: a bound was reached and it is dropped, though this session's life promised to keep it.
        """
        if message.qos == 0:
            self._send0(message)
            return True
        if self.queue is not None or self.out is None or not self._room(message):
            return self.hold(message)
        self._send(message)
        return True

    def _room(self, message: Message) -> bool:
        """Whether one more fits the window, in number, and for large ones in bytes."""
        flight = len(self.inflight)
        return flight < self.window and (message.size <= LARGE_BYTES or flight * message.size < OUT_BYTES_MAX)

    def late(self, packet: bytes) -> None:
        """Give an encoded QoS 0 message to a client that is slow; nothing happens if it is away."""
        channel = self.channel
        # One is counted as sent by whoever sends to many; this one may not have been.
        if channel is None or not channel.late(packet):
            self.core.counters.messages_sent -= 1

    def write(self, packet: bytes) -> None:
        """Give encoded bytes to a client that is there."""
        if self.channel is not None:
            self.channel.write(packet)

    def resume(self, channel: "Channel") -> None:
        """The client is there again (or for the first time): in flight first, then what has waited [MQTT-4.4.0-1]."""
        self.out = channel.out
        if self.inflight:
            self.resend = deque(self.inflight)
        self.refill()

    def _send0(self, message: Message) -> None:
        channel = self.channel
        if channel is None:
            return  # QoS 0 is for those who are there
        head, between = parts(message, self.v5, self.core.now)
        payload = message.payload
        if self.packet_max and len(head) + len(between) + len(payload) > self.packet_max:
            self.core.counters.messages_dropped_too_large += 1  # [MQTT-3.1.2-25]
            return
        self.core.counters.messages_sent += 1
        if self.out is None:
            self.late(head + between + payload)
        else:
            channel.write(head, between, payload)

    def _send(self, message: Message) -> None:
        """Give `message` (QoS 1 or 2) the next free packet id and send it; `out` is not None."""
        channel = self.channel
        assert channel is not None
        head, between = parts(message, self.v5, self.core.now)
        if self.packet_max and len(head) + 2 + len(between) + len(message.payload) > self.packet_max:
            self.core.counters.messages_dropped_too_large += 1  # [MQTT-3.1.2-25]: as if it had been delivered
            return
        id = self.free_id()
        self.inflight[id] = message
        self.core.counters.messages_sent += 1
        channel.write(head, PACKET_ID[id], between, message.payload)

    def free_id(self) -> int:
        """The next packet id that is not in use [MQTT-2.2.1-3]. The window keeps the table from being full."""
        id = self.next_id
        inflight = self.inflight
        while True:
            id = id + 1 if id < 65535 else 1
            if id not in inflight:
                self.next_id = id
                return id

    def hold(self, message: Message) -> bool:
        """Queue `message` (QoS 1 or 2) for later. False: the queue is full, though the session promises to keep.

        A session that ends with its connection promises nothing, but while the client is there and only slow, it gets
        as much room as its QoS 0 messages have.
        """
        if self.channel is None and not self.expiry_s:
            return True  # it is ending
        size, waiting = message.size, self.waiting
        if self.expiry_s:
            limits = self.core.limits
            full = waiting >= limits.queue_messages_max
            bytes_max = limits.queue_bytes_max
        else:
            full, bytes_max = False, OUT_BYTES_MAX
        # One message always fits: the largest packet may be as large as the queue.
        if full or (waiting and self.queue_bytes + size > bytes_max):
            self.core.counters.messages_dropped_queue_full += 1
            return not self.expiry_s
        if self.queue is None:
            self.queue = deque()
        self.queue.append(message)
        self.queue_bytes += size
        return True

    def forget(self, allowed: Callable[[bytes], bool]) -> int:
        """Drop what is in flight or waits on topics that are not `allowed` any more; return how many."""
        unseen = [id for id, m in self.inflight.items() if m is not RELEASED and not allowed(m.topic)]
        for id in unseen:
            del self.inflight[id]
        waiting = self.queue or ()
        kept = deque(m for m in waiting if allowed(m.topic))
        lost = len(unseen) + len(waiting) - len(kept)
        self.queue, self.queue_bytes = kept or None, sum(m.size for m in kept)
        self.replay = None
        return lost

    def refill(self) -> None:
        """Send what waits, as far as the window and the connection allow."""
        while self.out is not None and self.resend:
            if not self._resend(self.resend.popleft()):
                return
        if not self.resend:
            self.resend = None
        if self.replay and not self._replayed():
            return
        queue = self.queue
        if queue is None:
            return
        now = self.core.now
        while queue and self.out is not None and self._room(queue[0]):
            message = queue.popleft()
            self.queue_bytes -= message.size
            if message.expires_at and message.expires_at <= now:
                self.core.counters.messages_dropped_expired += 1  # [MQTT-3.3.2-5]
            else:
                self._send(message)
        if not queue:
            self.queue = None

    def send_retained(self, messages: Iterator[Message]) -> None:
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
        if core.retained.walked > core.walk_until:
            core.resting[self] = None
            return False
        unwritten = 0
        inflight = self.inflight
        while replay and channel is not None and self.out is not None:
            # What the next one is like is known once it is taken; the last one stands for it.
            if not self._room(next(reversed(inflight.values()), RELEASED)):
                break
            message = next(replay[0], None)
            if message is None:
                replay.popleft()
                if replay and core.retained.walked > core.walk_until:
                    core.resting[self] = None
                    break
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
        return True

    def _resend(self, id: int) -> bool:
        """Send what is in flight under `id` again. False: the window is full, and `id` waits on."""
        message = self.inflight.get(id)
        channel = self.channel
        if message is None or channel is None:
            return True
        if message is RELEASED:
            channel.write(b"\x62\x02", PACKET_ID[id])
            return True
        now = self.core.now
        if message.qos == 1 and message.expires_at and message.expires_at <= now:
            del self.inflight[id]
            self.core.counters.messages_dropped_expired += 1
            return True
        # What is in flight and not in the deque has been sent on this connection, and is not yet answered.
        if len(self.inflight) - len(self.resend or ()) > self.window:
            if self.resend is not None:
                self.resend.appendleft(id)
            return False
        head, between = parts(message, self.v5, now)
        if self.packet_max and len(head) + 2 + len(between) + len(message.payload) > self.packet_max:
            del self.inflight[id]
            self.core.counters.messages_dropped_too_large += 1
            return True
        channel.write(bytes((head[0] | 0x08,)), head[1:], PACKET_ID[id], between, message.payload)  # DUP [MQTT-3.3.1-1]
        self.core.counters.messages_sent += 1
        return True

    # -- answers of the client ---------------------------------------------------------------------------------------

    def puback(self, id: int, reason: int) -> None:
        """PUBACK arrived. Raises `ProtocolError` if the message under `id` is QoS 2."""
        message = self.inflight.get(id)
        if message is None:
            if not id:
                raise self.core.wrong_ack("packet identifier 0")  # [MQTT-2.2.1-3]
            return  # after a resumption on another path; there is nothing to answer to a PUBACK
        if message.qos == 2:
            raise self.core.wrong_ack("PUBACK for a QoS 2 message")
        del self.inflight[id]
        if reason < 0x80:
            self.core.delivered(self, message)
        self.refill()

    def pubrec(self, id: int, reason: int) -> int | None:
        """PUBREC arrived; return the reason code for PUBREL, or None if none is to be sent."""
        message = self.inflight.get(id)
        if message is None:
            return Reason.PACKET_ID_NOT_FOUND
        if message.qos != 2:
            raise self.core.wrong_ack("PUBREC for a QoS 1 message")
        if reason >= 0x80:
            del self.inflight[id]  # §4.3.3: the receiver does not want it, and the id is free
            self.refill()
            return None
        if message is not RELEASED:
            del self.inflight[id]
            self.inflight[id] = RELEASED  # at the end: PUBREL is sent again in the order of PUBREC [MQTT-4.6.0-4]
            self.core.delivered(self, message)
        return Reason.SUCCESS

    def pubcomp(self, id: int) -> None:
        """PUBCOMP arrived."""
        message = self.inflight.get(id)
        if message is None:
            return
        if message is not RELEASED:
            raise self.core.wrong_ack("PUBCOMP before PUBREC")
        del self.inflight[id]
        self.refill()

    # -- time --------------------------------------------------------------------------------------------------------

    def due(self, now: float) -> float:
        """Publish a delayed will, end an expired session (the wheel calls this)."""
        if self.channel is not None or self.core.sessions.get(self.key) is not self:
            return 0.0
        if self.will_at and self.will_at <= now:
            self.core.publish_will(self)
        if self.ends_at and self.ends_at <= now:
            self.core.counters.sessions_expired += 1
            self.core.end(self)
            return 0.0
        times = [t for t in (self.will_at, self.ends_at) if t]
        return min(times) if times else 0.0
