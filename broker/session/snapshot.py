"""Live sessions to records that a journal keeps, and back."""

from collections.abc import Iterator

import msgspec

from broker.identity import Identity, Role
from broker.journal import SavedDelivery, SavedMessage, SavedSession, SavedSubscription
from broker.message import Message
from broker.route.subscription import Subscription
from broker.session.core import Core
from broker.session.session import RELEASED, Session
from broker.session.subscribe import group_of
from broker.wire.packets import Will
from broker.wire.topics import parse_shared

# After a restart a client has so long to come back before its will is published.
WILL_GRACE_S = 60

_encode_will = msgspec.msgpack.Encoder().encode
_decode_will = msgspec.msgpack.Decoder(Will).decode


class CoreSnapshot:
    """The state of a core whose connections are all closed. `now` and `wall` are the two clocks at this moment."""

    def __init__(self, core: Core, *, now: float, wall: float) -> None:
        self._core = core
        self._offset = wall - now
        self._now = now
        # A message that many wait for has one form for each class of receivers. What is the same is stored once.
        self._numbers: dict[tuple[object, ...], int] = {}
        self._fresh: list[SavedMessage] = []

    def sessions(self) -> Iterator[SavedSession]:
        """The sessions that outlive their connection."""
        for session in self._core.sessions.values():
            if not session.expiry_s:
                continue
            identity = session.identity
            deliveries = [self._delivery(message, id) for id, message in session.inflight.items()]
            # What is retained and was still to be sent goes before what came later.
            waiting = (*self._to_replay(session), *(session.queue or ()))
            deliveries += [self._delivery(message, 0) for message in waiting]
            yield SavedSession(
                session.key,
                session.client_id,
                identity.role,
                identity.brand,
                identity.name,
                identity.user,
                identity.store,
                session.v5,
                session.expiry_s,
                self._wall(session.ends_at),
                session.next_id,
                _encode_will(session.will) if session.will is not None else b"",
                [SavedSubscription(s.name, s.options, s.id) for s in session.subscriptions],
                deliveries,
                sorted(session.received or ()),
            )

    def _to_replay(self, session: Session) -> Iterator[Message]:
        """What is retained and still to be sent, as far as the queue has room beside what was promised to be kept."""
        limits, counters = self._core.limits, self._core.counters
        room, room_bytes = limits.queue_messages_max - session.waiting, limits.queue_bytes_max - session.queue_bytes
        for messages in session.replay or ():
            for message in messages:
                if not message.qos:
                    continue
                room -= 1
                room_bytes -= message.size
                if room < 0 or room_bytes < 0:
                    counters.messages_dropped_queue_full += 1
                    return
                yield message

    def messages(self) -> Iterator[SavedMessage]:
        """The messages met since the last call."""
        fresh, self._fresh = self._fresh, []
        yield from fresh

    def retained(self) -> Iterator[tuple[SavedMessage, int]]:
        """The retained messages that have not expired."""
        for message in self._core.retained:
            if not message.expires_at or message.expires_at > self._now:
                yield self._saved(message, 0), message.qos

    def _delivery(self, message: Message, packet_id: int) -> SavedDelivery:
        if message is RELEASED:
            return SavedDelivery(0, packet_id, 2)
        saved = self._saved(message, 0)
        key = msgspec.structs.astuple(saved)
        number = self._numbers.get(key)
        if number is None:
            saved.number = number = self._numbers[key] = len(self._numbers) + 1
            self._fresh.append(saved)
        return SavedDelivery(number, packet_id, message.qos, message.retain, message.subscription_ids)

    def _saved(self, message: Message, number: int) -> SavedMessage:
        return SavedMessage(
            number,
            message.topic,
            message.payload,
            message.properties,
            self._wall(message.expires_at),
            message.publisher,
            message.id,
            message.receipt,
        )

    def _wall(self, at: float) -> float:
        return at + self._offset if at else 0.0


def restore_session(core: Core, saved: SavedSession, messages: dict[int, Message], *, now: float, wall: float) -> None:
    """Put a saved session into the core. `messages` are the restored ones by number, QoS 1.

    One that expired meanwhile is gone, unless its will is still to be published: it ends when that is due.
    """
    if saved.ends_at <= wall and not saved.will:
        return
    identity = Identity(Role(saved.role), saved.brand, saved.name, saved.user, saved.store)
    session = Session(core, saved.key, identity)
    session.v5, session.expiry_s, session.next_id = saved.v5, saved.expiry_s, saved.next_id
    session.ends_at = now + saved.ends_at - wall
    session.received = set(saved.received) or None
    for delivery in saved.deliveries:
        if delivery.message == 0:
            session.inflight[delivery.packet_id] = RELEASED
            continue
        message = messages[delivery.message].variant(delivery.qos, delivery.retain, delivery.subscription_ids)
        if delivery.packet_id:
            session.inflight[delivery.packet_id] = message
        else:
            session.hold(message)
    if saved.will:
        session.will = _decode_will(saved.will)
        delay = min(session.will.properties.will_delay or 0, saved.ends_at - wall)  # [MQTT-3.1.3-9]
        session.will_at = now + max(delay, WILL_GRACE_S)
        session.ends_at = max(session.ends_at, session.will_at)
    core.add(session)
    added = {}
    for subscription in saved.subscriptions:
        shared = parse_shared(subscription.name.decode())
        share, filter = (shared[0], shared[1].encode()) if shared else ("", subscription.name)
        group = group_of(identity, share)
        added[subscription.name] = Subscription(session, filter, subscription.options, subscription.id, group)
    core.subscribe(session, added)
    core.wheel.schedule(session, session.due(now) or session.ends_at)


def restore_message(saved: SavedMessage, *, qos: int, retain: bool, now: float, wall: float) -> Message:
    """A saved message as a live one. One that has expired meanwhile is restored too: who waits for it counts it."""
    return Message(
        saved.topic,
        saved.payload,
        qos,
        retain,
        saved.properties,
        now + saved.expires_at - wall if saved.expires_at else 0.0,
        saved.publisher,
        saved.id,
        tracked=saved.receipt or qos == 2,
        receipt=saved.receipt,
    )
