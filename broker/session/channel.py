"""The protocol side of one connection: bytes in, chunks out. The socket side is `listen.connection`, which extends it.

    state      | may receive                        | leads to
    -----------|------------------------------------|--------------------------------------------
    new        | CONNECT                            | admitting; anything else closes [MQTT-3.1.0-1]
    admitting  | nothing: reading is paused         | connected (CONNACK 0) or closed (CONNACK with a reason)
    connected  | all but CONNECT [MQTT-3.1.0-2]     | closed
    closed     | nothing                            |

`feed` is the hot path and therefore one long function: PUBLISH without properties, retain or QoS 2 on a topic that this
connection used before, and PUBACK, are served in it; all else goes to a method each.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from broker.errors import ProtocolError
from broker.limits import (
    CONNECT_BYTES_MAX,
    CONNECT_TIMEOUT_S,
    LARGE_BYTES,
    LATE_BYTES_MORE,
    OUT_BYTES_MAX,
    OWN_WORK_MIN,
    PACKET_WORK,
    RECEIVE_MAXIMUM,
    UNFINISHED_BYTES_MIN,
    WORK_BYTES_SHIFT,
)
from broker.message import Message, Promise
from broker.route.router import Route
from broker.session import connect, publish, subscribe
from broker.session.core import Core
from broker.session.session import Session
from broker.wire.codes import V4, V5, PacketType, Reason
from broker.wire.decode import decode, split
from broker.wire.encode import encode
from broker.wire.packets import (
    Auth,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Unsubscribe,
)
from broker.wire.publish import PACKET_ID, PUBACK, named_ack

if TYPE_CHECKING:
    from broker.session.rights import Rights

# A message to more receivers than this is work that is counted.
WIDE: Final = 32
# Bits of `held`, why a channel is not read: it is to be told what became of what it has published;
# its rights are not known; it waits for its turn.
OWED: Final = 1
ASKING: Final = 2
RESTING: Final = 4

_NO_ROUTES: Final[dict[bytes, Route[Session]]] = {}
_CONNECT: Final = int(PacketType.CONNECT)  # an enum's member costs 60 ns each time it is named
_PINGRESP: Final = b"\xd0\x00"


class Channel:
    """One connection. `out` holds what is to be written at the end of the round; `session` is set once connected."""

    __slots__ = (
        "acks",
        "admitting",
        "aliases",
        "closed",
        "core",
        "held",
        "keep_alive_s",
        "lack",
        "late_bytes",
        "names",
        "out",
        "packet_max",
        "rights",
        "routes",
        "seen",
        "session",
        "stamps",
        "tail",
        "throttled",
        "until",
        "v5",
        "wheel_at",
    )

    def __init__(self, core: Core) -> None:
        self.core = core
        self.out: list[bytes] = []
        self.tail: bytes | bytearray = b""  # of a packet that is not whole yet
        self.lack = 0  # bytes missing from it, where its length is known
        self.session: Session | None = None
        self.admitting: Connect | None = None
        self.closed = False
        self.v5 = 0
        self.packet_max = CONNECT_BYTES_MAX
        self.keep_alive_s = CONNECT_TIMEOUT_S
        self.seen = core.now
        self.until = 0.0  # when what it was admitted with ends; 0 = it does not
        self.late_bytes = 0
        self.stamps = False  # its QoS 1 and 2 publishes get message ids
        self.names = True  # it is told them in its acknowledgements
        self.rights: Rights | None = None  # of one whose identity does not say what it may do
        # What it is still to be told about its publishes, in their order [MQTT-4.6.0-2], [MQTT-4.6.0-3].
        self.acks: deque[Promise] | None = None
        self.held = 0  # why it is not read
        self.throttled = False  # it is not read for a while, for it sent more than it may
        self.routes: dict[bytes, Route[Session]] = _NO_ROUTES  # topics it has published to, and may
        self.aliases: dict[int, bytes] | None = None  # of this connection [MQTT-3.3.2-7]
        self.wheel_at = 0
        core.wheel.schedule(self, core.now + CONNECT_TIMEOUT_S)

    # -- what the socket side does -----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write out what is in `out`; call `block` if not all of it went, `unblock` once it has."""
        raise NotImplementedError

    def pause(self) -> None:
        """Stop reading."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read again."""
        raise NotImplementedError

    def shut(self) -> None:
        """Close the transport; what `flush` could not write is lost."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """The peer's address, for people."""
        raise NotImplementedError

    @property
    def certificate(self) -> bytes | None:
        """The client certificate that TLS has verified, DER; None without one."""
        raise NotImplementedError

    # -- bytes in ----------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take in what the peer sent. Whatever it is, only this connection can suffer from it."""
        try:
            self._feed(data)
        except ProtocolError as error:
            self.fail(error)

    def lone_puback(self, data: bytes) -> bool:
        """Take in four bytes if they are a PUBACK, as most of what a device sends is. False: they are not."""
        session = self.session
        if data[0] != 0x40 or data[1] != 2 or session is None or self.tail:
            return False
        self.seen = self.core.now
        try:
            session.puback(data[2] << 8 | data[3], 0)
        except ProtocolError as error:
            self.fail(error)
        return True

    def _feed(self, data: bytes) -> None:
        core = self.core
        self.seen = core.now
        if self.tail:
            if len(data) < self.lack:
                # Still not whole: what has come is not copied again for each piece.
                self.lack -= len(data)
                self.tail += data
                self._unfinished()
                return
            data = b"".join((self.tail, data))
            core.finish(self)
            self.tail, self.lack = b"", 0
        session = self.session
        if session is None:
            self._feed_new(data)
            return
        pos, end = 0, len(data)
        routes, dirty, out = self.routes, core.dirty, self.out
        inflight = session.inflight
        v5, packet_max = self.v5, self.packet_max
        received = sent = delivered = 0
        try:
            while pos + 2 <= end:
                first, size, at = data[pos], data[pos + 1], pos + 2
                if size & 128:
                    if at >= end:
                        break
                    byte = data[at]
                    at += 1
                    size = size & 127 | (byte & 127) << 7
                    if byte & 128:
                        if at >= end:
                            break
                        byte = data[at]
                        at += 1
                        size |= (byte & 127) << 14
                        if byte & 128:
                            if at >= end:
                                break
                            byte = data[at]
                            at += 1
                            size |= (byte & 127) << 21
                            if byte & 128:
                                raise ProtocolError("remaining length over four bytes", Reason.MALFORMED_PACKET)
                    if not byte:
                        raise ProtocolError("remaining length longer than needed", Reason.MALFORMED_PACKET)
                stop = at + size
                if stop - pos > packet_max:
                    raise ProtocolError(f"a packet of {stop - pos} bytes", Reason.PACKET_TOO_LARGE)  # §3.2.2.3.6
                if stop > end:
                    self.lack = stop - end
                    break

                if first == 0x30:  # PUBLISH, QoS 0
                    name_end = at + 2 + (data[at] << 8 | data[at + 1]) if size >= 2 else end
                    body = name_end + v5
                    if body <= stop and not (v5 and data[name_end]):
                        route = routes.get(data[at + 2 : name_end])
                        if route is not None and route.any4 is not None:
                            received += 1
                            same, other = (route.any5, route.any4) if v5 else (route.any4, route.any5)
                            if same:
                                # The same bytes for all of its version: it goes out as it came in.
                                packet = data[pos:stop]
                                for to in same:
                                    chunks = to.out
                                    if not chunks:
                                        if chunks is None:
                                            to.late(packet)
                                            continue
                                        dirty.append(to.channel)  # type: ignore[arg-type]  # where out is, it is
                                    chunks.append(packet)
                                sent += len(same)
                            if other or route.extra:
                                self._publish0(route, other, data[at + 2 : name_end], data[body:stop])
                            pos = stop
                            if len(route.every) > WIDE:
                                self._worked(len(route.every) * (1 + (size >> WORK_BYTES_SHIFT)))
                                if self.held:
                                    break
                            if self.closed:
                                break
                            continue
                elif first == 0x32:  # PUBLISH, QoS 1
                    name_end = at + 2 + (data[at] << 8 | data[at + 1]) if size >= 2 else end
                    body = name_end + 2 + v5
                    if body <= stop and size <= LARGE_BYTES and not (v5 and data[body - 1]):
                        topic = data[at + 2 : name_end]
                        route = routes.get(topic)
                        id = data[name_end] << 8 | data[name_end + 1]
                        if route is not None and route.any4 is not None and id:
                            received += 1
                            if self.stamps or route.lasting or self.acks is not None:
                                if self.stamps:
                                    publish.stamped(self, session, route, topic, data[body:stop], id)
                                else:
                                    message = Message(topic, data[body:stop], 1, publisher=session.key)
                                    promise = Promise(self, 0x40, id)
                                    if route.online:
                                        head, rest = data[pos:name_end], data[body - v5 : stop]
                                        reason = core.keep_online(route, message, session, promise, head, rest)
                                    elif route.lasting:
                                        reason = core.keep(route, message, session, promise)
                                    else:
                                        reason = core.publish(message, session)
                                    self.promised(promise, reason)
                                if len(route.every) > WIDE:
                                    self._worked(len(route.every) * (1 + (size >> WORK_BYTES_SHIFT)))
                                pos = stop
                                if self.closed or self.held:
                                    break
                                continue
                            kept = True
                            message = Message(topic, data[body:stop], 1, publisher=session.key)
                            same = route.some5 if v5 else route.some4
                            if same:
                                # The packet id goes between the bytes that came before and after the publisher's.
                                head, rest = data[pos:name_end], data[body - v5 : stop]
                                for to in same:
                                    chunks, flight = to.out, to.inflight
                                    if chunks is None or to.queue is not None or len(flight) >= to.window:
                                        kept &= to.hold(message)
                                        continue
                                    number = to.next_id + 1
                                    if number > 65535 or number in flight:
                                        number = to.free_id()
                                    to.next_id = number
                                    flight[number] = message
                                    if not chunks:
                                        dirty.append(to.channel)  # type: ignore[arg-type]  # where out is, it is
                                    chunks += (head, PACKET_ID[number], rest)
                                    sent += 1
                            if len(same) != len(route.every) or route.extra:
                                kept &= self._publish1(route, message)
                            if not kept:
                                self.answer(0x40, id, Reason.QUOTA_EXCEEDED)
                            else:
                                if not out:
                                    dirty.append(self)
                                if v5 and route.empty:
                                    out.append(b"\x40\x03" + PACKET_ID[id] + b"\x10")  # no matching subscribers
                                else:
                                    out.append(PUBACK[id])
                            pos = stop
                            if len(route.every) > WIDE:
                                self._worked(len(route.every) * (1 + (size >> WORK_BYTES_SHIFT)))
                                if self.held:
                                    break
                            if self.closed:
                                break
                            continue
                elif first == 0x40 and size == 2:  # PUBACK, success
                    id = data[at] << 8 | data[at + 1]
                    found = inflight.get(id)
                    if found is None or found.tracked:
                        session.puback(id, 0)
                    else:
                        del inflight[id]
                        delivered += 1
                        if session.queue is not None or session.resend is not None or not session.live:
                            session.refill()
                    pos = stop
                    continue

                self._packet(first, data[at:stop])
                pos = stop
                if self.closed or self.held:
                    break
                routes = self.routes
        finally:
            counters = core.counters
            if received:
                counters.messages_received += received
                counters.messages_sent += sent
            counters.messages_delivered += delivered
        if pos < end and not self.closed:
            self.tail = bytearray(memoryview(data)[pos:])
            self._unfinished()

    def _feed_new(self, data: bytes) -> None:
        """Before the session is there: one CONNECT, and what follows waits until it is admitted.

        If it is refused, what follows is not looked at [MQTT-3.1.4-6], 3.1.1 [MQTT-3.1.4-5].
        """
        if self.core.work > self.core.work_until:
            self.tail = data
            self.wait_for_turn()
            return
        if not self.admitting and data and data[0] >> 4 != _CONNECT:  # it need not be whole: HTTP never is
            raise ProtocolError("the first packet is not CONNECT", Reason.PROTOCOL_ERROR)  # [MQTT-3.1.0-1]
        frame = None if self.admitting else split(data, 0, self.packet_max)
        if frame is None:
            self.tail = data
            self._unfinished()
            return
        first, start, end = frame
        self.tail = data[end:]
        body = data[start:end]
        try:
            packet = decode(first, body, V5)
        except ProtocolError as error:
            connect.unreadable(self, body, error)
            raise
        assert isinstance(packet, Connect)  # by its type
        connect.received(self, packet)
        if self.session is not None and self.tail and not self.closed:
            rest, self.tail = self.tail, b""
            self._feed(rest)

    def _unfinished(self) -> None:
        """A part of a packet is kept until the rest has come."""
        size = len(self.tail)
        if size > UNFINISHED_BYTES_MIN:
            self.core.unfinish(self, size)

    def _packet(self, first: int, body: bytes) -> None:
        """Serve any packet but those that `_feed` has served itself."""
        session, router = self.session, self.core.router
        assert session is not None
        before = router.walked
        packet = decode(first, body, V5 if self.v5 else V4)
        try:
            serve = SERVE[type(packet)]
        except KeyError:
            # A second CONNECT [MQTT-3.1.0-2], or a packet that only a server sends.
            raise ProtocolError(f"{type(packet).__name__} from a client", Reason.PROTOCOL_ERROR) from None
        serve(self, session, packet)
        self._worked(PACKET_WORK + router.walked - before)

    # -- the less plain ways of a plain PUBLISH ----------------------------------------------------------------------

    def _publish0(self, route: Route[Session], other: tuple[Session, ...], topic: bytes, payload: bytes) -> None:
        """QoS 0, to receivers of the other version and to those who need a form of their own."""
        session, core = self.session, self.core
        assert session is not None
        message = Message(topic, payload, publisher=session.key)
        core.fan_out0(other, message, v5=not self.v5)
        if route.extra:
            core.hand_out_extra(route, message, session)

    def _publish1(self, route: Route[Session], message: Message) -> bool:
        """QoS 1, to all but the receivers of its own version with QoS 1 or 2. False: one of them was full."""
        core = self.core
        kept = core.fan_out(route.some4 if self.v5 else route.some5, message, v5=not self.v5)
        if route.zero4 or route.zero5:
            lesser = message.variant(0, False, b"")
            core.fan_out0(route.zero4, lesser, v5=False)
            core.fan_out0(route.zero5, lesser, v5=True)
        if route.extra:
            kept &= core.hand_out_extra(route, message, self.session)
        return kept

    # -- its share of a turn -----------------------------------------------------------------------------------------

    def _worked(self, work: int) -> None:
        """It has made us work so much. If that is enough for now, what it has sent waits until others were served."""
        core = self.core
        before = core.work
        core.work += work
        if self.closed:
            return
        if core.worker is not self:
            core.worker, core.worker_from = self, before
        if core.work > core.work_until and core.work - core.worker_from > OWN_WORK_MIN:
            self.wait_for_turn()

    def wait_for_turn(self) -> None:
        """Do not read on before the next turn."""
        self.held |= RESTING
        self.pause()
        self.core.rest(self, self)

    def go_on(self) -> None:
        """Its turn has come."""
        self.held &= ~RESTING
        self.resume()

    # -- what the publisher is told ----------------------------------------------------------------------------------

    def promised(self, promise: Promise, reason: int | None) -> None:
        """Tell the publisher what became of its message: now, or when that is known and all before it was told."""
        if reason is not None:
            promise.reason, promise.settled = reason, True
        acks = self.acks
        if acks is None:
            if promise.settled:
                self.answer(promise.first, promise.packet_id, promise.reason, promise.name)
                return
            acks = self.acks = deque()
        acks.append(promise)
        if self.v5 and self._too_many(acks):
            raise ProtocolError("more than the receive maximum", Reason.RECEIVE_MAXIMUM_EXCEEDED)  # [MQTT-3.3.4-7]
        if not self.v5 and (len(acks) > RECEIVE_MAXIMUM or promise.reason >= 0x80):
            # 3.1.1 knows no bound: it is not read until it has been told. And what it sends after what was refused is
            # not taken, for it will come again behind that.
            self.held |= OWED
            self.pause()

    def _too_many(self, acks: deque[Promise]) -> bool:
        """Whether more is under way than our receive maximum: QoS 1 without PUBACK, QoS 2 without PUBCOMP."""
        received = self.session.received if self.session is not None else None
        twos = len(received) if received is not None else 0
        if len(acks) + twos <= RECEIVE_MAXIMUM:
            return False
        ones = sum(promise.first == 0x40 for promise in acks)  # those of QoS 2 are in both
        return ones + max(twos, len(acks) - ones) > RECEIVE_MAXIMUM

    def settle(self) -> None:
        """A promise was settled: tell all that can be told in its turn."""
        acks = self.acks
        while acks and acks[0].settled and not self.closed:
            promise = acks.popleft()
            self.answer(promise.first, promise.packet_id, promise.reason, promise.name)
        if self.closed:
            return
        if not acks:
            self.acks = None
        if self.held & OWED and len(acks or ()) <= RECEIVE_MAXIMUM // 2 and not (acks and acks[-1].reason >= 0x80):
            self.held &= ~OWED
            self.core.after_round(self)

    def answer(self, first: int, id: int, reason: int, name: bytes = b"") -> None:
        """PUBACK (`first` is 0x40) or PUBREC (0x50), as the QoS asks for [MQTT-3.3.4-1, MQTT-4.3.2-4, MQTT-4.3.3-8].

        MQTT 5 is told the message's name, an encoded user property.

        Each has the packet id of its PUBLISH [MQTT-3.3.4-1, MQTT-2.2.1-5], 3.1.1 [MQTT-2.3.1-6, MQTT-4.3.2-2].
        There is no word for a refusal in 3.1.1 [MQTT-3.3.5-2]: it may close or acknowledge as if all were well. A
        success for what went nowhere would be a lie, so it closes.
        """
        if reason >= 0x80:
            self.core.counters.publishes_refused += 1
            if not self.v5:
                self.close(Reason(reason))
                return
        if name and self.v5:
            self.write(named_ack(first, id, reason, name))
        elif not self.v5 or not reason:
            self.write(PUBACK[id] if first == 0x40 else bytes((first, 2)) + PACKET_ID[id])
        else:
            self.write(bytes((first, 3)) + PACKET_ID[id] + bytes((reason,)))

    # -- chunks out --------------------------------------------------------------------------------------------------

    def write(self, *chunks: bytes) -> None:
        """Put bytes out, to be written at the end of the round."""
        out = self.out
        if not out:
            self.core.dirty.append(self)
        out += chunks

    def send(self, packet: Packet) -> None:
        """Encode and put out a packet that is not a PUBLISH."""
        self.write(encode(packet, V5 if self.v5 else V4))

    def send_if_open(self, packet: Packet) -> None:
        """Encode and put out a packet that had to wait, if the connection is still there."""
        if not self.closed:
            self.send(packet)

    def late(self, *chunks: bytes) -> bool:
        """Put out a QoS 0 message though the peer is slow; False: too much waits for it, and this one is dropped."""
        size = sum(map(len, chunks)) + LATE_BYTES_MORE
        if self.late_bytes + size > OUT_BYTES_MAX:
            self.core.counters.messages_dropped_slow += 1
            return False
        self.late_bytes += size
        self.write(*chunks)
        return True

    def block(self, waiting: int) -> None:
        """The socket does not take more now; `waiting` bytes wait in it. QoS 1 and 2 messages are kept back."""
        self.late_bytes = waiting
        if self.session is not None:
            self.session.out = None

    def unblock(self) -> None:
        """All was written: what was kept back may go."""
        self.late_bytes = 0
        session = self.session
        if session is not None and session.channel is self:
            session.out = self.out
            session.refill()

    # -- the end -----------------------------------------------------------------------------------------------------

    def fail(self, error: ProtocolError) -> None:
        """The peer broke the protocol: say how, as its version can, and close [MQTT-4.13.1-1], 3.1.1 [MQTT-4.8.0-1]."""
        if self.closed:
            return
        self.core.counters.protocol_errors += 1
        self.core.note("protocol error", client=self.label, reason=f"0x{error.reason:02x}", error=error.message)
        self.close(Reason(error.reason))

    def close(self, reason: Reason | None = None) -> None:
        """Close the connection, telling an MQTT 5 client why. Its will is published unless it said goodbye.

        A DISCONNECT is the last that is sent, and never the first [MQTT-3.14.4-1, -2, MQTT-3.14.0-1]. Whether it can be
        sent or not, the connection is closed [MQTT-4.13.2-1].
        """
        if self.closed:
            return
        self.closed = True
        try:
            if reason is not None and self.v5 and self.session is not None:
                self.send(Disconnect(reason))
            self.flush()
        finally:
            core = self.core
            self.shut()
            core.counters.connections_closed += 1
            core.wheel.cancel(self)
            if self.rights is not None:
                core.wheel.cancel(self.rights)
                self.rights = None
            if core.worker is self:
                core.worker = None
            self.aliases = self.acks = None
            self.tail = b""  # [MQTT-3.1.4-6]
            core.finish(self)
            self.routes = _NO_ROUTES
            session, self.session = self.session, None
            if session is not None and session.channel is self:
                core.leave(session)

    @property
    def label(self) -> str:
        """Who this is, for the log."""
        session = self.session
        if session is None:
            return self.address
        return f"{session.identity.path or 'anonymous'} {session.client_id} {self.address}"

    # -- time --------------------------------------------------------------------------------------------------------

    def due(self, now: float) -> float:
        """Close a connection that has been silent for too long (the wheel calls this).

        [MQTT-3.1.2-22], 3.1.1 [MQTT-3.1.2-24]. Only what the peer sends counts: a half-open connection must not live on
        what we send to it.
        """
        if self.closed:
            return 0.0
        if self.session is None:
            if self.admitting is not None:
                return now + 1
            self.core.counters.connections_refused += 1
            self.close()
            return 0.0
        if 0 < self.until <= now:
            self.core.counters.proofs_ended += 1
            self.close(Reason.MAXIMUM_CONNECT_TIME)
            return 0.0
        if not self.keep_alive_s:
            return self.until
        if self.held or self.throttled:
            self.seen = now  # it is we who do not hear it
        deadline = self.seen + self.keep_alive_s * 1.5
        if now < deadline:
            return min(deadline, self.until or deadline)
        self.core.counters.keep_alive_timeouts += 1
        self.close(Reason.KEEP_ALIVE_TIMEOUT)
        return 0.0


def _puback(_channel: Channel, session: Session, packet: Puback) -> None:
    session.puback(packet.packet_id, packet.reason)


def _pubrec(channel: Channel, session: Session, packet: Pubrec) -> None:
    reason = session.pubrec(packet.packet_id, packet.reason)
    if reason is not None:
        answer = Pubrel(packet.packet_id, reason)
        if session.lasting:
            channel.core.after_commit(lambda: channel.send_if_open(answer))
        else:
            channel.send(answer)


def _pubrel(channel: Channel, session: Session, packet: Pubrel) -> None:
    publish.released(channel, session, packet.packet_id)


def _pubcomp(_channel: Channel, session: Session, packet: Pubcomp) -> None:
    session.pubcomp(packet.packet_id)


def _pingreq(channel: Channel, _session: Session, _packet: Pingreq) -> None:
    channel.write(_PINGRESP)  # [MQTT-3.12.4-1]


def _auth(_channel: Channel, _session: Session, _packet: Auth) -> None:
    # No authentication method was agreed on in CONNECT [MQTT-4.12.0-7, MQTT-4.12.1-1, -2].
    raise ProtocolError("AUTH without an authentication method", Reason.PROTOCOL_ERROR)


# What a client may send once it is connected, and who serves it.
SERVE: Final[dict[type[Packet], Callable[[Channel, Session, Any], None]]] = {
    Publish: publish.received,
    Puback: _puback,
    Pubrec: _pubrec,
    Pubrel: _pubrel,
    Pubcomp: _pubcomp,
    Subscribe: subscribe.subscribe,
    Unsubscribe: subscribe.unsubscribe,
    Pingreq: _pingreq,
    Disconnect: connect.disconnect,
    Auth: _auth,
}
