"""The broker without its sockets: sessions, who gets a message, what happens when time passes. Sans-I/O."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from broker import limits
from broker.counters import Counters
from broker.errors import ProtocolError, Refused
from broker.identity import Identity, Role
from broker.limits import RETAINED_WALK_MAX
from broker.message import Message
from broker.route.access import may_subscribe
from broker.route.retained import Retained
from broker.route.router import Route, Router
from broker.route.subscription import NO_LOCAL, QOS, RETAIN_AS_PUBLISHED, Subscription
from broker.session.session import RELEASED, Session
from broker.session.wheel import Wheel
from broker.wire.codes import Reason
from broker.wire.packets import Connect
from broker.wire.publish import forwarded

if TYPE_CHECKING:
    from broker.session.channel import Channel


class Limits(msgspec.Struct, frozen=True):
    """The bounds that an operator may change; the others are constants of `broker.limits`."""

    connections_max: int = limits.CONNECTIONS_MAX
    packet_bytes_max: int = limits.PACKET_BYTES_MAX
    queue_messages_max: int = limits.QUEUE_MESSAGES_MAX
    queue_bytes_max: int = limits.QUEUE_BYTES_MAX
    sessions_max: int = limits.SESSIONS_MAX
    session_expiry_max_s: int = limits.SESSION_EXPIRY_MAX_S
    retained_messages_max: int = limits.RETAINED_MESSAGES_MAX
    retained_bytes_max: int = limits.RETAINED_BYTES_MAX
    retained_messages_of_brand_max: int = limits.RETAINED_MESSAGES_OF_BRAND_MAX
    retained_bytes_of_brand_max: int = limits.RETAINED_BYTES_OF_BRAND_MAX

    @property
    def retained(self) -> tuple[int, int, int, int]:
        """Those of retained messages, as `Retained` takes them."""
        return (
            self.retained_messages_max,
            self.retained_bytes_max,
            self.retained_messages_of_brand_max,
            self.retained_bytes_of_brand_max,
        )


class Bridge(Protocol):
    """What the core asks of the bridge: names for messages, and somebody who wants to know when one arrived."""

    def stamp(self, topic: bytes) -> str:
        """A message id for a brand server's publish to `topic`, '' for none."""
        ...

    def delivered(self, session: Session, message: Message) -> None:
        """A message for which a receipt was asked for has been acknowledged by `session`."""
        ...


class Core:
    """All state of the broker and its rules. `now` is the monotonic time of this round; whoever drives it sets it.

    admit(channel, connect): decide who the client is, then call `channel.accepted` or `channel.refused`, now or later.
    random_id(): an unguessable client id for clients that ask for one.
    log(event, fields): something that an operator should see.
    """

    def __init__(
        self,
        *,
        now: float,
        admit: Callable[["Channel", Connect], None],
        random_id: Callable[[], str],
        bridge: Bridge,
        log: Callable[..., object],
        limits: Limits | None = None,
    ) -> None:
        self.now = now
        self.admit = admit
        self.random_id = random_id
        self.bridge = bridge
        self.log = log
        self.limits = limits or Limits()
        self.counters = Counters()
        self.router = Router[Session]()
        self.retained = Retained(*self.limits.retained)
        self.sessions: dict[str, Session] = {}
        self._of_identity: dict[str, int] = {}  # sessions, by path; none of anonymous ones
        # Retained messages have been looked through so much that these wait for their turn, in the next ticks.
        self.resting: dict[Session, None] = {}
        self.walk_until = RETAINED_WALK_MAX
        self.dirty: list[Channel] = []
        self.wheel = Wheel(now)
        self.work = 0  # messages put out since the last flush
        self._purged_at = now

    # -- publishing --------------------------------------------------------------------------------------------------

    def publish(
        self, message: Message, origin: Session | None = None, retain: bool = False, once: bool = False
    ) -> Reason:
        """Give `message` to all who get its topic.

        retain: keep it as the topic's last one, too. once: its topic hardly comes again.

        Returns what the publisher is told: success, nobody there, or over a bound (0x97) if a session that promised to
        keep it could not.
        """
        if retain:
            # What is kept is as it was published, without the ids of this moment's receivers.
            kept = message.variant(message.qos, True, b"")
            if not self.retained.fits(kept):
                self.counters.retained_refused += 1
                return Reason.QUOTA_EXCEEDED
            self.retained.set(kept)
        route = self.router.route_once(message.topic) if once else self.router.route(message.topic)
        all_kept = self._hand_out(route, route.every, message, origin)
        if route.empty:
            return Reason.NO_MATCHING_SUBSCRIBERS
        return Reason.SUCCESS if all_kept else Reason.QUOTA_EXCEEDED

    def hand_out_extra(self, route: Route[Session], message: Message, origin: Session | None) -> bool:
        """The receivers of a route for whom the plain way is not right. False: one of them was full."""
        return self._hand_out(route, route.special, message, origin)

    def _hand_out(
        self, route: Route[Session], to: tuple[Subscription[Session], ...], message: Message, origin: Session | None
    ) -> bool:
        kept = True
        # Each class of receivers has its own form of the message, made and encoded once.
        forms: dict[tuple[int, bytes], Message] = {}
        for subscription in to:
            kept &= self._deliver(subscription, message, origin, forms)
        for group in route.groups:
            kept &= self._deliver(group.pick(), message, origin, forms)
        for service in route.services:
            service(message, origin)
        return kept

    def _deliver(
        self,
        subscription: Subscription[Session],
        message: Message,
        origin: Session | None,
        forms: dict[tuple[int, bytes], Message],
    ) -> bool:
        session, options = subscription.session, subscription.options
        if options & NO_LOCAL and session is origin:  # [MQTT-3.8.3-3]
            return True
        form = forms.get((options, subscription.id))
        if form is None:
            qos = min(message.qos, options & QOS)  # [MQTT-3.8.4-8]
            retain = message.retain and bool(options & RETAIN_AS_PUBLISHED)  # [MQTT-3.3.1-12], [MQTT-3.3.1-13]
            form = forms[options, subscription.id] = message.variant(qos, retain, subscription.id)
        return session.take(form)

    def delivered(self, session: Session, message: Message) -> None:
        """A receiver has acknowledged `message`."""
        if message is not RELEASED:
            self.counters.messages_delivered += 1
            if message.receipt:
                self.bridge.delivered(session, message)

    @staticmethod
    def wrong_ack(what: str) -> ProtocolError:
        """The error for an acknowledgement that does not fit the state."""
        return ProtocolError(what, Reason.PROTOCOL_ERROR)

    def unexpected(self, error: Exception, channel: "Channel | None" = None) -> None:
        """A bug of ours: tell it, and give up the connection that met it."""
        self.counters.unexpected_errors += 1
        self.log("unexpected error", client=channel.label if channel is not None else "", exc_info=error)
        if channel is not None:
            try:
                channel.close()
            except Exception as again:  # noqa: BLE001
                self.log("unexpected error", client=channel.label, exc_info=again)

    # -- sessions ----------------------------------------------------------------------------------------------------

    def open(self, channel: "Channel", identity: Identity, client_id: str, clean: bool) -> tuple[Session, bool]:
        """The session for a connection that was admitted, and whether it was there before (§3.1.2.4).

        A connection that holds the session is taken over [MQTT-3.1.4-3]. The key begins with who the client is, empty
        for anonymous, and a line feed, which no path contains: no client id reaches another identity's session. Raises
        `Refused` (0x97) when there are too many.
        """
        key = f"{identity.path}\n{client_id}"
        session = self.sessions.get(key)
        if session is not None:
            if session.channel is not None:
                self.counters.sessions_taken_over += 1
                session.channel.close(Reason.SESSION_TAKEN_OVER)
            if clean and key in self.sessions:
                self.end(session)  # [MQTT-3.1.2-4]
            session = self.sessions.get(key)
        present = session is not None
        if session is None:
            if len(self.sessions) >= self.limits.sessions_max:
                self.counters.sessions_refused += 1
                raise Refused("too many sessions", reason=Reason.QUOTA_EXCEEDED)
            if self._of_identity.get(identity.path, 0) >= _sessions_max(identity.role):
                self.counters.sessions_refused += 1
                raise Refused(f"{identity.path} has too many sessions", reason=Reason.QUOTA_EXCEEDED)
            session = Session(self, key, identity)
            self.add(session)
        elif session.identity != identity:
            # The device has moved to another user or store since: what it may no longer see goes, messages too.
            session.identity = identity
            lost = session.forget(lambda topic: may_subscribe(identity, topic.decode()))
            self.counters.messages_dropped_session_end += lost
            subscriptions = session.subscriptions
            self.unsubscribe(session, {s.name for s in subscriptions if not may_subscribe(identity, s.filter.decode())})
        session.will_at = session.ends_at = 0.0
        session.channel = channel
        return session, present

    def add(self, session: Session) -> None:
        """Put in a session that is not there yet."""
        self.sessions[session.key] = session
        path = session.identity.path
        if path:
            self._of_identity[path] = self._of_identity.get(path, 0) + 1

    def _remove(self, session: Session) -> None:
        del self.sessions[session.key]
        path = session.identity.path
        if path:
            self._of_identity[path] -= 1
            if not self._of_identity[path]:
                del self._of_identity[path]

    def configure(self, session: Session, v5: bool, packet_max: int, window: int) -> None:
        """Take over what CONNECT says of the client; routes that sorted it by these are made stale."""
        changed = session.v5 != v5 or bool(session.packet_max) != bool(packet_max)
        session.v5, session.packet_max = v5, packet_max
        session.window = min(window, limits.IN_FLIGHT_MAX)
        if changed:
            for subscription in session.subscriptions:
                self.router.touch(subscription)

    def leave(self, session: Session) -> None:
        """The connection of `session` is gone; `session.will` is None if the client said goodbye."""
        session.channel = session.out = session.resend = None
        self.resting.pop(session, None)
        will = session.will
        if will is not None:
            delay = min(will.properties.will_delay or 0, session.expiry_s)  # [MQTT-3.1.2-8], [MQTT-3.1.3-9]
            if delay:
                session.will_at = self.now + delay
                self.wheel.schedule(session, session.will_at)
            else:
                self.publish_will(session)
        if not session.expiry_s:
            self.end(session)
        else:
            session.ends_at = self.now + session.expiry_s
            self.wheel.schedule(session, session.ends_at)

    def end(self, session: Session) -> None:
        """The session ends: its subscriptions go, a will that still waits is published (§3.1.3.2.2)."""
        if self.sessions.get(session.key) is session:
            self._remove(session)
        self.wheel.cancel(session)
        if session.will_at:
            self.publish_will(session)
        for subscription in session.subscriptions:
            self.router.unsubscribe(subscription)
        session.subscriptions = ()
        lost = session.waiting + sum(m is not RELEASED for m in session.inflight.values())
        self.counters.messages_dropped_session_end += lost
        session.inflight.clear()
        session.queue = session.replay = session.received = None
        session.queue_bytes = 0

    def publish_will(self, session: Session) -> None:
        """Publish the will of `session`, once."""
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
        self.publish(message, session, will.retain)

    def drop_identity(self, path: str, gone: bool) -> int:
        """Disconnect, at once, everybody whose identity is `path` or under it (`acme/`); if `gone`, end their sessions.

        Returns how many connections were closed.
        """
        closed = 0
        for session in list(self.sessions.values()):
            known = session.identity.path
            if known == path or (path.endswith("/") and known.startswith(path)):
                if session.channel is not None:
                    session.will = None if gone else session.will
                    session.channel.close(Reason.NOT_AUTHORIZED if gone else Reason.ADMINISTRATIVE_ACTION)
                    closed += 1
                if gone and session.key in self.sessions:
                    session.will = None
                    self.end(session)
        return closed

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def subscribe(self, session: Session, added: dict[bytes, Subscription[Session]]) -> None:
        """Add subscriptions by their names, replacing those that have the same."""
        session.subscriptions = (*(s for s in session.subscriptions if s.name not in added), *added.values())
        for subscription in added.values():
            self.router.subscribe(subscription)

    def unsubscribe(self, session: Session, names: set[bytes]) -> None:
        """Take out the subscriptions that the client calls so."""
        for subscription in session.subscriptions:
            if subscription.name in names:
                self.router.unsubscribe(subscription)
        session.subscriptions = tuple(s for s in session.subscriptions if s.name not in names)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what time brings. Call it about once a second, and more often while there are some `resting`."""
        self.now = now
        self.wheel.advance(now)
        self.walk_until = self.retained.walked + RETAINED_WALK_MAX
        while self.resting and self.retained.walked <= self.walk_until:
            session = next(iter(self.resting))
            del self.resting[session]
            session.refill()
        if now - self._purged_at > 60:
            self._purged_at = now
            self.counters.messages_dropped_expired += self.retained.purge(now)

    def flush(self) -> None:
        """Write out what has been put into the connections since the last time."""
        self.work = 0
        dirty = self.dirty
        while dirty:
            now, dirty[:] = dirty[:], []
            for channel in now:
                try:
                    channel.flush()
                except Exception as error:  # noqa: BLE001 - one connection's bug is not the others' end
                    self.unexpected(error, channel)

    def connected(self) -> Iterator[Session]:
        """The sessions that have a connection."""
        return (s for s in self.sessions.values() if s.channel is not None)


def _sessions_max(role: Role) -> int:
    """How many sessions one identity may have, whatever client ids it thinks of."""
    return limits.SESSIONS_OF_DEVICE_MAX if role in (Role.DEVICE, Role.ENROLLING) else limits.SESSIONS_OF_IDENTITY_MAX
