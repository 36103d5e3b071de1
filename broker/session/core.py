"""The broker without its sockets: sessions, who gets a message, what happens when time passes. Sans-I/O."""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from itertools import islice, repeat
from typing import TYPE_CHECKING, Final, Protocol

from broker import limits
from broker.errors import ProtocolError, Refused
from broker.identity import DEVICES, Identity, Role
from broker.journal import SavedMessage, SavedSubscription, size_of
from broker.limits import (
    DEADLINE_WORK,
    DELIVERY_WORK,
    END_WORK,
    FLUSH_WORK,
    FLUSHED_MAX,
    HAND_ON_WORK,
    LARGE_BYTES,
    NARROW_MAX,
    RESUMED_MAX,
    SHARE_WORK_MAX,
    TURN_WORK_MAX,
    UNFINISHED_BYTES_MAX,
    WORK_BYTES_SHIFT,
)
from broker.message import Message, Promise
from broker.route.access import may_subscribe
from broker.route.retained import Retained
from broker.route.router import Route, Router
from broker.route.subscription import NO_LOCAL, OPTIONS, QOS, RETAIN_AS_PUBLISHED, Subscription
from broker.session.bounds import Limits
from broker.session.ledger import Ledger
from broker.session.session import Session
from broker.session.subscribe import group_of, retained_for
from broker.session.wheel import Wheel
from broker.wire.codes import Reason
from broker.wire.packets import Connect
from broker.wire.publish import PACKET_ID, forwarded, parts
from broker.wire.topics import parse_shared

if TYPE_CHECKING:
    from broker.session.channel import Channel


_ANONYMOUS: Final = Role.ANONYMOUS  # an enum's member costs 60 ns each time it is named
_DEVICE: Final = Role.DEVICE


class Bridge(Protocol):
    """What the core asks of the bridge: names for messages, and somebody who wants to know when one arrived."""

    def stamp(self, topic: bytes) -> str:
        """A message id for a brand server's publish to `topic`, '' for none."""
        ...

    def delivered(self, session: Session, message: Message) -> None:
        """A message for which a receipt was asked for has been acknowledged by `session`."""
        ...


class Resting(Protocol):
    """Somebody who waits for the next turn."""

    def go_on(self) -> None:
        """It has come."""
        ...


class Core(Ledger):
    """All state of the broker and its rules.

    admit(channel, connect): decide who the client is, then call `channel.accepted` or `channel.refused`, now or later.
    random_id(): an unguessable client id for clients that ask for one.
    log(event, fields): something that an operator should see.
    wake(): there is something to be written or read.
    """

    def __init__(
        self,
        *,
        now: float,
        wall: float,
        admit: Callable[["Channel", Connect], None],
        random_id: Callable[[], str],
        bridge: Bridge,
        log: Callable[..., object],
        wake: Callable[[], object] = lambda: None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(now=now, wall=wall, log=log, limits=limits or Limits())
        self.admit = admit
        self.random_id = random_id
        self.bridge = bridge
        self.came: Callable[[Session, bool], object] = lambda _session, _present: None  # a device has connected
        self.left: Callable[[Session], object] = lambda _session: None
        self.wake = wake
        self.router = Router[Session]()
        self.retained = Retained(*self.limits.retained)
        # Sessions by the first part of their path, and by path: most have one, and a dict for each costs 232 bytes.
        self._of_identity: dict[str, dict[str, Session | dict[Session, None]]] = {}
        self._next_number = 1  # of a session
        # Work so far (limits.TURN_WORK_MAX says what that is), and until when it goes on in this turn. Then these wait.
        self.work = 0
        self.work_until = TURN_WORK_MAX
        # Bytes of packets that are not whole yet, in the order in which they grew large.
        self._unfinished: dict[Channel, int] = {}
        self._unfinished_bytes = 0
        self.worker: Channel | None = None  # who has worked last, and from where on
        self.worker_from = 0
        self.resting: OrderedDict[Resting, Channel | None] = OrderedDict()
        self.again: Callable[[], object] = lambda: None  # asks for `turn`, soon, but not before others were served
        self._turn_asked = False
        self.dirty: list[Channel] = []
        self._unflushed = _Unflushed(self)
        self.wheel = Wheel(now)
        self._deadlines = _Deadlines(self)
        self._sweeping = self._swept()
        self._resumed: deque[Channel] = deque()  # were held, and are to be read again
        self._resuming = _Resuming()
        self._overrun: dict[Session, None] = {}  # nothing more can wait for them: to be closed
        self.drop_oldest: frozenset[bytes] = frozenset()  # brands with that policy; the others' publishers are refused

    # -- publishing --------------------------------------------------------------------------------------------------

    def publish(
        self,
        message: Message,
        origin: Session | None = None,
        *,
        retain: bool = False,
        once: bool = False,
        must: bool = False,
        promise: Promise | None = None,
    ) -> Reason | None:
        """Give `message` to all who get its topic.

        retain: keep it as the topic's last one, too, and only then [MQTT-3.3.1-5, -8], 3.1.1 [MQTT-3.3.1-12]. once: its
        topic hardly comes again. must: its acceptance itself is to be written.

        Returns what the publisher is told: success, nobody there, or over a bound (0x97). None: that is not known yet,
        for what was promised to be kept is neither acknowledged nor on the disk. Then `promise` is settled later.
        """
        kept = None
        if retain:  # else what is retained stays as it is [MQTT-3.3.1-8]
            # What is kept is as it was published, without the ids and the promise of this moment's receivers.
            kept = message.loose()
            kept.retain, kept.subscription_ids = True, b""
            if not self.retained.fits(kept):
                self.counters.retained_refused += 1
                return Reason.QUOTA_EXCEEDED
        route = self.router.route_once(message.topic) if once else self.router.route(message.topic)
        self.work += len(route.every) * (DELIVERY_WORK + (len(message.payload) >> WORK_BYTES_SHIFT))
        if route.writes and self.facts_full:
            self.counters.facts_refused += 1
            return Reason.QUOTA_EXCEEDED
        if message.qos and (route.lasting or kept is not None or must or route.writes):
            return self.keep(route, message, origin, promise or Promise(), retained=kept, must=must or route.writes)
        if kept is not None:
            self._retain(kept)
        return self.hand_out(route, message, origin)

    def keep(
        self,
        route: Route[Session],
        message: Message,
        origin: Session | None,
        promise: Promise,
        *,
        retained: Message | None = None,
        must: bool = False,
    ) -> Reason | None:
        """Hand out a message (QoS 1 or 2) that must not be lost once its publisher has been told of success.

        Who is away, or behind, finds it in the log, which is part of its session [MQTT-4.5.0-1].

        Sessions whose clients are away get it, too [MQTT-4.5.0-1], 3.1.1 [MQTT-3.1.2-5].
        It is written at once if somebody is away, or if it is QoS 2 for one who outlives its connection; else only if
        its receivers do not answer in time. Returns as `publish`.
        """
        log = self.log
        must = must or retained is not None
        picks = [group.pick() for group in route.groups]
        absent = [s for s in picks if s.options & QOS and not s.session.live]
        written = bool(route.away or absent or (route.lasting and (must or message.qos == 2)))
        size = size_of(message.topic, message.payload, message.properties, message.publisher)
        if (written or must) and (self.failing or self._log_full(size)):
            return Reason.QUOTA_EXCEEDED
        if not self._room(route, picks, message, size):
            return Reason.QUOTA_EXCEEDED
        log.head += 1
        message.seq = log.head
        message.tracked = True
        message.promise = promise
        promise.message = message
        promise.origin = origin
        promise.logged = written
        promise.reason = _reason(route)
        if retained is not None:
            retained.seq, retained.tracked = message.seq, True
            self._retain(retained)
        if written:
            for older in self._windows.older(message.topic, message.seq):
                self._write(older)
            log.append(message, listed=bool(route.away))
            if len(route.away) <= NARROW_MAX:
                for subscription in route.away:
                    subscription.session.backlog += 1
                    subscription.session.backlog_bytes += size
        self.owe(message)  # so that it is not over before all have got it
        self._hand_out_kept(route, picks, message, origin)
        if written:
            log.release(message.seq)
        else:
            promise.waiting -= 1
        if not self.durable:
            promise.settled = True
        if written or must:
            promise.message = None
            if not promise.settled:
                self._promised.append(promise)
        elif promise.waiting:
            promise.due = self.now + self.limits.commit_window_ms / 1000
            self._windows.add(message.topic, promise)
        else:
            promise.message = None
            promise.settled = True
        return Reason(promise.reason) if promise.settled else None

    def keep_online(
        self, route: Route[Session], message: Message, origin: Session, promise: Promise, head: bytes, rest: bytes
    ) -> Reason | None:
        """As `keep`, for a small plain message of QoS 1 that nobody gets but lasting sessions that are live.

        head, rest: the publisher's packet before and after the packet id, right for all receivers of its version.
        """
        if not self.durable:
            return self.keep(route, message, origin, promise)
        for session in (*route.kept4, *route.kept5):
            if session.queue is not None or session.out is None or session.staged:
                return self.keep(route, message, origin, promise)
            if len(session.inflight) >= session.window:
                return self.keep(route, message, origin, promise)
        log = self.log
        log.head += 1
        message.seq = log.head
        message.tracked = True
        message.promise = promise
        promise.message = message
        promise.origin = origin
        same, other = (route.kept5, route.kept4) if origin.v5 else (route.kept4, route.kept5)
        if same:
            self._fan_out(same, message, head, rest)
        if other:
            head, between = parts(message, not origin.v5, self.now)
            self._fan_out(other, message, head, between + message.payload)
        promise.due = self.now + self.limits.commit_window_ms / 1000
        self._windows.add(message.topic, promise)
        return None

    def take_back(self, topic: bytes, seq: int) -> bool:
        """Let nobody have message `seq` of `topic` who has not got it yet. False: somebody has it in flight."""
        for subscription in self.router.route_once(topic).every:
            subscription.session.take_back(seq)
        self.log.take_back(topic, seq)
        return not self.log.holds(seq)

    def forget_retained(self, filter: bytes) -> int:
        """Take away what is retained under topics that match; nobody is told. Returns how many."""
        gone = [message.topic for message in self.retained.walk(filter, 0.0) if message is not None]
        for topic in gone:
            self._retain(Message(topic, b"", retain=True))
        return len(gone)

    def end_sessions(self, path: str, user: str) -> None:
        """End the sessions of a device that a user had; it may connect again, and gets none of what waited."""
        for session in list(self.sessions_of(path)):
            if session.identity.user == user:
                if session.channel is not None:
                    session.channel.close(Reason.ADMINISTRATIVE_ACTION)
                session.will = None
                if self.sessions.get(session.key) is session:
                    self.end(session)

    def drops_oldest(self, topic: bytes) -> bool:
        """Whether a full session gives up its oldest message for a new one on `topic`, as its brand wants it."""
        return topic.partition(b"/")[0] in self.drop_oldest

    def _room(
        self,
        route: Route[Session],
        picks: list[Subscription[Session]],
        message: Message,
        size: int,
    ) -> bool:
        """Whether all who must keep a message have room for it, or give up something older."""
        full = [
            s.session
            for s in route.every
            if s.session.queue is not None
            and s.options & QOS
            and s.session.live
            and s.session.lasting
            and s.session.full(message.size)
        ]
        crowded = False
        if len(route.away) <= NARROW_MAX:
            full += [s.session for s in route.away if s.session.full(size)]
        else:
            # What waits on the topic itself stands for each of them: who is furthest behind has all of it.
            found = self.log.topics.get(message.topic)
            crowded = found is not None and found.full(self.limits.queue_messages_max, self.limits.queue_bytes_max)
        copies = dict.fromkeys(full, 1)
        members = [s.session for s in picks if s.options & QOS and (s.session.lasting or not s.session.live)]
        for session in members:  # who gets one for each of its groups, and one of its own
            count = members.count(session) + any(s.session is session for s in (*route.every, *route.away))
            if session.full(message.size if session.live else size, count):
                copies[session] = count
        if not copies and not crowded:
            return True
        if self.drops_oldest(message.topic):
            if crowded:
                self.log.trim(message.topic, self.limits.queue_messages_max, self.limits.queue_bytes_max)
            for session, count in copies.items():
                if not session.live:
                    session.trim(size, count)
            return True
        if crowded:
            self.log.touched[message.topic] = None  # perhaps nobody needs them any more
            self.note("queue full", topic=message.topic.decode(), sessions=route.receivers)
            return False
        for session, count in copies.items():
            if session.live or session.still_full(size, count):
                whose = f"{session.identity.path or 'anonymous'} {session.client_id}"
                self.note("queue full", client=whose, topic=message.topic.decode())
                return False
        return True

    def _hand_out_kept(
        self,
        route: Route[Session],
        picks: list[Subscription[Session]],
        message: Message,
        origin: Session | None,
    ) -> None:
        """Give a message that has a promise to all who are there, and to the groups' members whose turn it is."""
        forms: dict[tuple[int, bytes, bool], Message] = {}
        to = route.every
        promise = message.promise
        assert promise is not None  # its caller gave it one
        if message.qos == 1 and to and not promise.deferred:
            self._hand_out_plain(route, message)
            to = route.special
        for subscription in to:
            self._deliver(subscription, message, origin, forms)
        for subscription in picks:
            session = subscription.session
            if not subscription.options & QOS or (session.live and not session.lasting):
                self._share(subscription, message)
                continue
            retain = message.retain and bool(subscription.options & RETAIN_AS_PUBLISHED)
            # As this member was granted [MQTT-4.8.2-3], with the identifier of this subscription [MQTT-3.3.4-5].
            form = message.variant(min(message.qos, subscription.options & QOS), retain, subscription.id)
            if form is message:
                form = message.copy()  # this one's alone, to be found again
            form.share = subscription.name
            if not session.live:
                session.assign(form)
                continue
            session.take(form)
            if promise.logged:
                session.pick_row(form)
            else:
                promise.picks = [*(promise.picks or ()), (session, form)]
        for service in route.services:
            service(message, origin)

    def hand_out(self, route: Route[Session], message: Message, origin: Session | None) -> Reason:
        """Give a message to which no promise belongs to all who are there. Returns what the publisher is told."""
        if message.qos == 2:
            return _reason(route, self._hand_out_to(route.every, route, message, origin))
        kept = self._hand_out_plain(route, message)
        if route.extra:
            kept &= self.hand_out_extra(route, message, origin)
        return _reason(route, kept)

    def hand_out_extra(self, route: Route[Session], message: Message, origin: Session | None) -> bool:
        """The receivers of a route for whom the plain way is not right. False: one of them was full."""
        return self._hand_out_to(route.special, route, message, origin)

    def _hand_out_plain(self, route: Route[Session], message: Message) -> bool:
        """All receivers for whom the plain way is right; QoS 0 or 1. False: one of them was full."""
        form = message.variant(message.qos, False, b"")
        if not form.qos:
            assert route.any4 is not None  # it is fresh
            self.fan_out0(route.any4, form, v5=False)
            self.fan_out0(route.any5, form, v5=True)
            return True
        kept = True
        if route.kept4 or route.kept5:
            kept = self.fan_out(route.kept4, form, v5=False) & self.fan_out(route.kept5, form, v5=True)
        loose = form.loose() if form.seq else form
        if route.some4 or route.some5:
            kept &= self.fan_out(route.some4, loose, v5=False) & self.fan_out(route.some5, loose, v5=True)
        if route.zero4 or route.zero5:
            lesser = loose.variant(0, False, b"")
            self.fan_out0(route.zero4, lesser, v5=False)
            self.fan_out0(route.zero5, lesser, v5=True)
        return kept

    def fan_out0(self, sessions: tuple[Session, ...], message: Message, *, v5: bool) -> None:
        """Send a QoS 0 message to sessions that are there, all of one version: the same bytes to each."""
        if not sessions:
            return
        packet = b"".join((*parts(message, v5, self.now), message.payload))
        dirty = self.dirty
        for session in sessions:
            chunks = session.out
            if not chunks:
                if chunks is None:
                    session.late(packet)
                    continue
                dirty.append(session.channel)  # type: ignore[arg-type]  # where out is, it is
            chunks.append(packet)
        self.counters.messages_sent += len(sessions)

    def fan_out(self, sessions: tuple[Session, ...], message: Message, *, v5: bool) -> bool:
        """Send a QoS 1 message to live sessions, all of one version. False: one of them was full."""
        if not sessions:
            return True
        if message.size > LARGE_BYTES:
            return sum(session.take(message) for session in sessions) == len(sessions)
        head, between = parts(message, v5, self.now)
        return self._fan_out(sessions, message, head, between + message.payload)

    def _fan_out(self, sessions: tuple[Session, ...], message: Message, head: bytes, rest: bytes) -> bool:
        """The same, with what comes before and after the packet id."""
        kept, sent, dirty = True, 0, self.dirty
        for session in sessions:
            chunks, inflight = session.out, session.inflight
            if chunks is None or session.queue is not None or session.staged or len(inflight) >= session.window:
                kept &= session.take(message)
                continue
            id = session.next_id + 1
            if id > 65535 or id in inflight:
                id = session.free_id()
            session.next_id = id
            inflight[id] = message
            if not chunks:
                dirty.append(session.channel)  # type: ignore[arg-type]  # where out is, it is
            chunks += (head, PACKET_ID[id], rest)
            sent += 1
        self.counters.messages_sent += sent
        if message.seq:
            self.owe(message, sent)
        return kept

    def _hand_out_to(
        self, to: tuple[Subscription[Session], ...], route: Route[Session], message: Message, origin: Session | None
    ) -> bool:
        """Some receivers of a route, each as its subscription asks for, and its groups and services."""
        kept = True
        # Each class of receivers has its own form of the message, made and encoded once.
        forms: dict[tuple[int, bytes, bool], Message] = {}
        for subscription in to:
            kept &= self._deliver(subscription, message, origin, forms)
        for group in route.groups:
            kept &= self._share(group.pick(), message)
        for service in route.services:
            service(message, origin)
        return kept

    def _deliver(
        self,
        subscription: Subscription[Session],
        message: Message,
        origin: Session | None,
        forms: dict[tuple[int, bytes, bool], Message],
    ) -> bool:
        session, options = subscription.session, subscription.options & OPTIONS
        if options & NO_LOCAL and session is origin:  # [MQTT-3.8.3-3]
            return True
        lasting = False
        if message.qos and options & QOS:
            if not session.live:
                return True  # it will find it in the log
            lasting = session.lasting
        form = forms.get((options, subscription.id, lasting))
        if form is None:
            qos = min(message.qos, options & QOS)  # [MQTT-3.8.4-8], 3.1.1 [MQTT-3.8.4-6]
            # [MQTT-3.3.1-12, -13]; never in 3.1.1 [MQTT-3.3.1-9], which cannot ask for it.
            retain = message.retain and bool(options & RETAIN_AS_PUBLISHED)
            form = message.variant(qos, retain, subscription.id)
            if form.seq and not lasting:
                form = form.loose()
            forms[options, subscription.id, lasting] = form
        return session.take(form)

    @staticmethod
    def _share(subscription: Subscription[Session], message: Message) -> bool:
        """Give a message to a member of a group to whom nothing is promised beyond its connection."""
        options = subscription.options
        retain = message.retain and bool(options & RETAIN_AS_PUBLISHED)
        form = message.variant(min(message.qos, options & QOS), retain, subscription.id).loose()
        form.share = subscription.name
        form.retained_as = int(message.retain)  # another member may want to know that
        return subscription.session.take(form)

    def hand_on(self, session: Session, message: Message) -> bool:
        """Give what the ended `session` has not acknowledged to another member of its group (§4.8.2). False: to nobody.

        It goes through the log, for the other may be away, or promise more than the first one did.
        """
        shared = parse_shared(message.share.decode())
        assert shared is not None  # it is a subscription's name
        group = self.router.group(shared[1].encode(), group_of(session.identity, shared[0]))
        size = self.log.size_of_detached(message.seq) or message.size
        picks = (group.pick() for _ in group.members) if group is not None else ()
        subscription = next((s for s in picks if s.options & QOS and not s.session.full(size)), None)
        if subscription is None:
            return False
        to, options = subscription.session, subscription.options
        if not message.seq:
            if self.failing or self._log_full(message.size):
                return False
            message.retain = message.retained_as > 0
            self.log.head += 1
            message.seq = self.log.head
            self.log.append(message, listed=False)
            self.log.hold(message.seq)
        elif not self.kept(message):
            return True  # its publisher is told so
        to.assign(
            Message(
                b"",
                b"",
                min(message.qos, options & QOS),
                bool(options & RETAIN_AS_PUBLISHED),
                subscription_ids=subscription.id,
                seq=message.seq,
                share=message.share,
            )
        )
        to.refill()
        return True

    def _retain(self, message: Message) -> None:
        """Keep a message as its topic's, or take that away."""
        self.retained.set(message)
        self.log.batch.retained[message.topic] = self.log.saved(message) if message.payload else None

    def adopt_retained(self, message: Message) -> None:
        """Have a retained message in the log that is in flight to a session whose connection is gone. It is held."""
        kept = self.retained.get(message.topic)
        if kept is not None and kept.payload is message.payload:
            message.seq = kept.seq
            self.log.adopt(kept)
        else:  # replaced meanwhile
            self.log.head += 1
            message.seq = self.log.head
            self.log.append(message, listed=False)
        self.log.hold(message.seq)

    def delivered(self, session: Session, message: Message) -> None:
        """A receiver has acknowledged `message`."""
        self.counters.messages_delivered += 1
        if message.receipt:
            self.bridge.delivered(session, message)

    @staticmethod
    def wrong_ack(what: str) -> ProtocolError:
        """The error for an acknowledgement that does not fit the state."""
        return ProtocolError(what, Reason.PROTOCOL_ERROR)

    # -- sessions ----------------------------------------------------------------------------------------------------

    def open(self, channel: "Channel", identity: Identity, client_id: str, clean: bool) -> tuple[Session, bool]:
        """The session for a connection that was admitted, and whether it was there before (§3.1.2.4) [MQTT-3.1.4-4].

        A connection that holds the session is taken over [MQTT-3.1.4-3], 3.1.1 [MQTT-3.1.4-2]. Raises `Refused` (0x97)
        when there are too many.
        """
        path = identity.path
        key = f"{path}\n{client_id}"  # as `session_key`
        session = self.sessions.get(key)
        if session is not None:
            if session.channel is None:
                session.due(self.now)  # it may have expired since the last tick [MQTT-4.1.0-2]
                if not session.expiry_s and key in self.sessions:
                    self.end(session)  # it was over, but for its will
            if session.channel is not None:
                self.counters.sessions_taken_over += 1
                session.channel.close(Reason.SESSION_TAKEN_OVER)
            if clean and key in self.sessions:
                self.end(session)  # [MQTT-3.1.2-4], 3.1.1 [MQTT-3.1.2-6, MQTT-3.1.4-3]
            session = self.sessions.get(key)  # [MQTT-3.1.2-5], 3.1.1 [MQTT-3.1.2-4]
        present = session is not None  # [MQTT-3.2.2-2, -3]
        if session is None:
            if len(self.sessions) >= self.limits.sessions_max:
                self.counters.sessions_refused += 1
                raise Refused("too many sessions", reason=Reason.QUOTA_EXCEEDED)
            if len(self.sessions_of(path)) >= self._sessions_max(identity.role):
                self.counters.sessions_refused += 1
                raise Refused(f"{path or 'anonymous'} has too many sessions", reason=Reason.QUOTA_EXCEEDED)
            session = Session(self, key, identity, self.new_number())  # [MQTT-3.1.2-6]
            self.add(session)
        elif session.identity != identity:
            # The device has moved to another user or store since: what it may no longer see goes. Messages that were
            # meant for it are looked at when they are read.
            session.identity = identity
            subscriptions = session.subscriptions
            self.revoke(session, {s.name for s in subscriptions if not may_subscribe(identity, s.filter.decode())})
        session.will_at = session.ends_at = 0.0  # [MQTT-3.1.3-9]
        session.channel = channel
        if identity.role is _DEVICE:
            self.came(session, present)
        return session, present

    def restore_retained(self, saved: SavedMessage) -> None:
        """Retain a message from the journal."""
        message = self.log.restored(saved)
        if not message.seq:  # from before messages had numbers
            self.log.head += 1
            message.seq = self.log.head
        self.log.head = max(self.log.head, message.seq)
        message.retain = True
        self.retained.set(message)

    def add(self, session: Session) -> None:
        """Put in a session that is not there yet."""
        self._next_number = max(self._next_number, session.number + 1)
        self.sessions[session.key] = session
        path = session.identity.path
        paths = self._of_identity.setdefault(path.partition("/")[0], {})
        known = paths.get(path)
        if known is None:
            paths[path] = session
        elif isinstance(known, Session):
            paths[path] = {known: None, session: None}
        else:
            known[session] = None

    def drop_saved(self, number: int) -> None:
        """Leave a session of the journal out. Its number is not used again."""
        self._next_number = max(self._next_number, number + 1)
        self.log.batch.ended.append(number)

    def new_number(self) -> int:
        """A number for a session that none has had."""
        number = self._next_number
        self._next_number += 1
        return number

    def _sessions_max(self, role: Role) -> int:
        """How many sessions one identity may have, whatever client ids it thinks of."""
        if role is _ANONYMOUS:
            return max(1, int(self.limits.sessions_max * limits.SESSIONS_OF_ANONYMOUS))
        if role in DEVICES:
            return limits.SESSIONS_OF_DEVICE_MAX
        return limits.SESSIONS_OF_IDENTITY_MAX

    def _remove(self, session: Session) -> None:
        del self.sessions[session.key]
        path = session.identity.path
        brand = path.partition("/")[0]
        paths = self._of_identity[brand]
        known = paths[path]
        if isinstance(known, dict):
            del known[session]
        if not known or known is session:
            del paths[path]
        if not paths:
            del self._of_identity[brand]

    def sessions_of(self, path: str) -> Collection[Session]:
        """All of one identity."""
        known = self._of_identity.get(path.partition("/")[0], {}).get(path, ())
        return (known,) if isinstance(known, Session) else known

    def configure(self, session: Session, v5: bool, expiry_s: int, packet_max: int, window: int) -> None:
        """Take over what CONNECT says of the client. Its routes, which sort it by these, are made anew by `resume`."""
        session.v5, session.packet_max = v5, packet_max
        session.window = min(window, limits.IN_FLIGHT_MAX)  # [MQTT-4.9.0-1]
        session.expiry_s = expiry_s
        if expiry_s:
            self.changed[session] = None
            session.saved = True
        elif session.saved:
            self.log.batch.ended.append(session.number)  # from here on it ends with its connection
            session.saved = False

    def leave(self, session: Session) -> None:
        """The connection of `session` is gone; `session.will` is None if there was none, or the client said goodbye.

        What the session has stays until it ends [MQTT-4.1.0-1]. Without a will nothing is said 3.1.1 [MQTT-3.1.2-12].
        """
        session.channel = session.out = None
        if session.identity.role is _DEVICE:
            self.left(session)
        self.resting.pop(session, None)
        self.wanted.pop(session, None)
        if session.expiry_s:  # [MQTT-3.1.2-23]
            session.park()
            session.ends_at = self.now + session.expiry_s
            self.changed[session] = None
        will = session.will
        if will is not None:
            delay = min(will.properties.will_delay or 0, session.expiry_s)  # [MQTT-3.1.2-8]
            if delay:
                session.will_at = self.now + delay
                self.wheel.schedule(session, session.will_at)
            else:
                self.publish_will(session)
        if not session.expiry_s:
            self.end(session)
        else:
            self.wheel.schedule(session, session.ends_at)

    def end(self, session: Session) -> None:
        """The session ends: its subscriptions go, a will that still waits is published (§3.1.3.2.2).

        What its client has retained is no part of it, and stays: 3.1.1 [MQTT-3.1.2-7]. What a member of a group had in
        flight at QoS 2 goes to no other [MQTT-4.8.2-5], all else does. It is called when the expiry has passed, too
        [MQTT-4.1.0-2].
        """
        self.work += END_WORK
        if self.sessions.get(session.key) is session:
            self._remove(session)
        if session.wheel_at:
            self.wheel.cancel(session)
        if session.will_at:
            self.publish_will(session)
        lost, shared = session.abandon()
        for subscription in session.subscriptions:
            self.router.unsubscribe(subscription)
            self.log.touch(subscription.filter)
        session.subscriptions = ()
        self.counters.messages_dropped_session_end += lost
        if shared:
            _Left(self, session, shared).go_on()
        self.changed.pop(session, None)
        self.moved.pop(session, None)
        if session.saved:
            self.log.batch.ended.append(session.number)
            session.saved = False

    def publish_will(self, session: Session) -> None:
        """Publish the will of `session`, once [MQTT-3.1.2-10], retained or not as it says.

        [MQTT-3.1.2-14, -15], 3.1.1 [MQTT-3.1.2-16, -17].
        """
        will, session.will, session.will_at = session.will, None, 0.0
        if will is None:
            return
        self.counters.wills_published += 1
        expiry = will.properties.message_expiry
        message = Message(
            will.topic,
            will.payload,
            will.qos,
            will.retain,
            forwarded(will.properties),
            self.now + expiry if expiry is not None else 0.0,
            session.key,
            tracked=will.qos == 2,
        )
        self.changed[session] = None
        last = _LastWord(self, message, session)
        if self.work > self.work_until:
            self.rest(last, None)
        else:
            last.go_on()

    def drop_identity(self, path: str, gone: bool) -> None:
        """Disconnect everybody whose identity is `path` or under it (`acme/`); if `gone`, end their sessions.

        That is done at once; of a brand with very many sessions, in turns.
        """
        brand, _, name = path.partition("/")
        paths = [path] if name else self._of_identity.get(brand, ())
        _Dropped(self, [session for one in paths for session in self.sessions_of(one)], gone).go_on()

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def subscribe(self, session: Session, added: dict[bytes, Subscription[Session]]) -> None:
        """Add subscriptions by their names, replacing those that have the same [MQTT-3.8.4-3]."""
        known = {s.name: s for s in session.subscriptions if s.options & QOS and s.name in added}
        if session.lasting and any(
            not new.options & QOS or new.options & ~known[name].options & NO_LOCAL
            for name, new in added.items()
            if name in known
        ):
            session.gather()
        session.subscriptions = (*(s for s in session.subscriptions if s.name not in added), *added.values())
        for name, subscription in added.items():
            subscription.since = known[name].since if name in known else self.log.head
            self.router.subscribe(subscription)
            self.log.touch(subscription.filter)
            if session.lasting:
                self.keep_subscription(subscription)

    def keep_subscription(self, subscription: Subscription[Session]) -> None:
        """Have a subscription of a session that outlives its connection written."""
        self.log.batch.subscriptions[subscription.session.number, subscription.name] = SavedSubscription(
            subscription.name, subscription.options, subscription.id, subscription.since
        )

    def pending(self, subscription: Subscription[Session]) -> bool:
        """Whether something about this subscription is still to be written."""
        key = subscription.session.number, subscription.name
        return key in self.log.batch.subscriptions or (
            self._committing is not None and key in self._committing.batch.subscriptions
        )

    def unsubscribe(self, session: Session, names: set[bytes]) -> None:
        """Take out the subscriptions that the client calls so: it gets nothing new by them [MQTT-3.10.4-2]."""
        if session.lasting:
            session.secure()  # [MQTT-3.10.4-3]
        for subscription in session.subscriptions:
            if subscription.name in names:
                self.router.unsubscribe(subscription)
                self.log.touch(subscription.filter)
                if session.lasting:
                    self.log.batch.subscriptions[session.number, subscription.name] = None
        session.subscriptions = tuple(s for s in session.subscriptions if s.name not in names)

    def revoke(self, session: Session, names: set[bytes]) -> None:
        """Take out subscriptions that a client which comes back may not have any more.

        What waits by one that is shared goes to others of its group. By any other it is looked for in the log.
        """
        self.unsubscribe(session, names)
        left = session.give_up(names)
        if left:
            _Left(self, session, left).go_on()

    @staticmethod
    def send_retained(subscription: Subscription[Session], *, again: bool = False) -> None:
        """Send what is retained for a subscription; `again` as in `retained_for`."""
        subscription.session.send_retained(retained_for(subscription, again=again))

    def overrun(self, session: Session) -> None:
        """Disconnect a client for which nothing more can wait, at the end of the round."""
        self._overrun[session] = None

    # -- packets that are not whole -----------------------------------------------------------------------------------

    def unfinish(self, channel: "Channel", size: int) -> None:
        """`channel` keeps so many bytes of a packet. If all keep too many, who has for longest is closed."""
        waiting = self._unfinished
        self._unfinished_bytes += size - waiting.get(channel, 0)
        waiting[channel] = size
        while self._unfinished_bytes > UNFINISHED_BYTES_MAX:
            self.counters.packets_unfinished += 1
            next(iter(waiting)).fail(ProtocolError("a packet that is never whole", Reason.QUOTA_EXCEEDED))

    def finish(self, channel: "Channel") -> None:
        """`channel` keeps no part of a packet any more."""
        if channel in self._unfinished:
            self._unfinished_bytes -= self._unfinished.pop(channel)

    # -- turns -------------------------------------------------------------------------------------------------------

    def rest(self, who: "Resting", channel: "Channel | None") -> None:
        """`who` has worked for as long as it may at once, and goes on in the next turn; a bug then costs `channel`."""
        self.resting[who] = channel
        if not self._turn_asked:
            self._turn_asked = True
            self.again()

    def turn(self) -> None:
        """Go on with those who rest, for as long as they may together."""
        until = self.work + TURN_WORK_MAX
        while self.resting and self.work <= until:
            who, channel = self.resting.popitem(last=False)
            self.work_until = self.work + SHARE_WORK_MAX
            self.worker = None
            try:
                who.go_on()
            except Exception as error:  # noqa: BLE001 - one connection's bug is not the others' end
                self.unexpected(error, channel)
        self._turn_asked = bool(self.resting)
        if self._turn_asked:
            self.again()

    def after_round(self, channel: "Channel") -> None:
        """Read on from a channel that was held, so many at the end of each round: a commit may let a thousand go on."""
        self._resumed.append(channel)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what time brings. Call it about once a second."""
        self.now = now
        self._deadlines.go_on()
        gone = self.retained.purge(now, limits.SWEPT_MAX)
        self.counters.messages_dropped_expired += len(gone)
        self.log.batch.retained.update(dict.fromkeys(gone))
        self.log.expire_due(now, limits.SWEPT_MAX)
        self._sweep()

    def _sweep(self) -> None:
        """Forget what nobody needs any more, a bounded part at a time."""
        if len(list(islice(self._sweeping, limits.SWEPT_MAX))) < limits.SWEPT_MAX:
            self._sweeping = self._swept()  # it had come to its end
        for session in list(islice(self.moved, limits.SWEPT_MAX)):
            del self.moved[session]
            if session.lasting:
                session.settle()

    def _swept(self) -> Iterator[None]:
        """Forget what all have got of the topics in which somebody has got on; with a pause for each that is looked at.

        Who leaves, or subscribes, meanwhile, begins above the head of the log as it was when a topic's turn came.
        """
        log = self.log
        while log.touched or log.touched_widely:
            if not log.touched:
                filter, _ = log.touched_widely.popitem()
                yield
                for found in log.walk(filter):
                    if found is not None:
                        log.touched[found.topic] = None
                    yield from repeat(None, 1 if found is not None else 50)  # a thousand levels, half a millisecond
                continue
            topic = next(iter(log.touched))
            del log.touched[topic]
            found = log.topics.get(topic)
            if found is None:
                yield
                continue
            low = log.head
            for subscription in self.router.away(topic):
                yield
                low = min(low, max(subscription.session.cursor, subscription.since))
                if not found.seqs or low < found.seqs[0]:
                    break  # nothing is forgotten, whatever the others have got
            else:
                log.drop(topic, low)

    def flush(self) -> None:
        """Write out what has been put into the connections since the last time, and have written what is to be kept."""
        self.work_until = self.work + TURN_WORK_MAX
        self.worker = None  # what is done from now on is not the last one's
        while self._refused:
            self._tell(self._refused.popleft())
        if self._resumed:
            for _ in range(min(len(self._resumed), RESUMED_MAX)):
                self._resumed.popleft().resume()
            if self._resumed:
                self.rest(self._resuming, None)
        while self._overrun:
            session, _ = self._overrun.popitem()
            if session.channel is not None:
                self.counters.sessions_overrun += 1
                self.note("too slow", client=session.channel.label)
                session.channel.close(Reason.QUOTA_EXCEEDED)
        dirty = self.dirty
        while dirty:
            now, dirty[:] = dirty[:], []
            if len(now) > FLUSHED_MAX:
                self._unflushed.add(now[FLUSHED_MAX:])
                del now[FLUSHED_MAX:]
            for channel in now:
                try:
                    channel.flush()
                except Exception as error:  # noqa: BLE001 - one connection's bug is not the others' end
                    self.unexpected(error, channel)
        if self._unflushed.channels:
            self.work_until = self.work  # who sends to many waits until these have what they are to get
        if self._windows or self.wanted or self.to_write:
            self.wake()


def session_key(identity: Identity, client_id: str) -> str:
    """What a session is found by: who the client is, empty for anonymous, and its client id [MQTT-3.1.3-2].

    Between them stands a line feed, which no path contains: no client id reaches another identity's session.
    """
    return f"{identity.path}\n{client_id}"


class _Resuming:
    """Sees to it that there is another round for those who are still to be read again."""

    __slots__ = ()

    def go_on(self) -> None:
        pass


class _Unflushed:
    """Connections that have something to be written out, more than in one turn: a broadcast may be to all."""

    __slots__ = ("channels", "core")

    def __init__(self, core: Core) -> None:
        self.core = core
        self.channels: deque[Channel] = deque()

    def add(self, channels: list["Channel"]) -> None:
        """These come after those that are there."""
        self.channels += channels
        self._first()

    def _first(self) -> None:
        """Go on in the next turn, before those who would put out more."""
        self.core.rest(self, None)
        self.core.resting.move_to_end(self, last=False)

    def go_on(self) -> None:
        core, channels = self.core, self.channels
        for _ in range(min(len(channels), SHARE_WORK_MAX // FLUSH_WORK)):
            core.work += FLUSH_WORK
            channel = channels.popleft()
            try:
                channel.flush()
            except Exception as error:  # noqa: BLE001 - one connection's bug is not the others' end
                core.unexpected(error, channel)
        if channels:
            self._first()


class _Deadlines:
    """All whose time has come, in turns: a hundred thousand sessions may end at once."""

    __slots__ = ("core",)

    def __init__(self, core: Core) -> None:
        self.core = core

    def go_on(self) -> None:
        core = self.core
        try:
            core.wheel.advance(core.now, self._enough)
        finally:
            if core.wheel.behind:
                core.rest(self, None)

    def _enough(self) -> bool:
        self.core.work += DEADLINE_WORK
        return self.core.work > self.core.work_until


class _Left:
    """What a session that ends or loses a right leaves to other members of its groups, in turns: it may be much."""

    __slots__ = ("core", "messages", "session")

    def __init__(self, core: Core, session: Session, messages: list[Message]) -> None:
        self.core = core
        self.session = session
        self.messages = deque(messages)

    def go_on(self) -> None:
        core = self.core
        while self.messages:
            if core.work > core.work_until:
                core.rest(self, None)
                return
            core.work += HAND_ON_WORK
            message = self.messages.popleft()
            if not core.hand_on(self.session, message):
                core.counters.messages_dropped_session_end += 1
            core.hand_back(message)


class _Dropped:
    """Sessions whose identity is no more, or not what it was."""

    __slots__ = ("core", "gone", "sessions")

    def __init__(self, core: Core, sessions: list[Session], gone: bool) -> None:
        self.core = core
        self.sessions = sessions
        self.gone = gone

    def go_on(self) -> None:
        core = self.core
        while self.sessions:
            if core.work > core.work_until:
                core.rest(self, None)
                return
            core.work += DEADLINE_WORK
            session = self.sessions.pop()
            if session.channel is not None:
                session.will = None if self.gone else session.will
                session.channel.close(Reason.NOT_AUTHORIZED if self.gone else Reason.ADMINISTRATIVE_ACTION)
            if self.gone and core.sessions.get(session.key) is session:
                session.will = None
                core.end(session)


class _LastWord:
    """A will that is to be published, now or in another turn: a thousand may be due at once."""

    __slots__ = ("core", "message", "session")

    def __init__(self, core: Core, message: Message, session: Session) -> None:
        self.core = core
        self.message = message
        self.session = session

    def go_on(self) -> None:
        self.core.publish(self.message, self.session, retain=self.message.retain)


def _reason(route: Route[Session], all_kept: bool = True) -> Reason:
    if route.empty:
        return Reason.NO_MATCHING_SUBSCRIBERS
    return Reason.SUCCESS if all_kept else Reason.QUOTA_EXCEEDED
