"""SUBSCRIBE and UNSUBSCRIBE (§3.8 to §3.11), and the retained messages that a new subscription gets."""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from broker.errors import ProtocolError
from broker.identity import Identity, Role
from broker.limits import FILTER_WORK, SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_OF_DEVICE_MAX
from broker.message import Message
from broker.route.access import may_subscribe
from broker.route.subscription import NO_LOCAL, OPTIONS, QOS, RETAIN_AS_PUBLISHED, RETAINED_DUE, Subscription
from broker.wire.codes import V5, Reason
from broker.wire.encode import encode
from broker.wire.packets import Request, Suback, Subscribe, Unsuback, Unsubscribe
from broker.wire.primitives import encode_varint
from broker.wire.topics import filter_fits, parse_shared

if TYPE_CHECKING:
    from broker.session.channel import Channel
    from broker.session.session import Session


def subscribe(channel: "Channel", session: "Session", packet: Subscribe) -> None:
    """SUBSCRIBE arrived: each filter is granted or refused on its own, then what is retained for it goes out.

    One SUBACK answers them all, in their order [MQTT-3.8.4-1, -2, -5 to -7, MQTT-3.9.3-1], 3.1.1 [MQTT-3.8.4-4 to -6,
    MQTT-2.3.1-7].
    What a session that outlives its connection has subscribed to is on the disk before the client is told.
    """
    _check_room(session, len(packet.requests))
    allowed = None
    if channel.rights is not None:
        allowed = channel.rights.allowed("subscribe", _filters(session, packet), packet)
        if allowed is None:
            return  # this is called again when it is known
    session.core.counters.subscriptions_asked += len(packet.requests)
    ids = packet.properties.subscription_ids
    id = b"\x0b" + encode_varint(ids[0]) if ids else b""
    known = {subscription.name for subscription in session.subscriptions}
    added: dict[bytes, Subscription[Session]] = {}
    granted: list[tuple[Subscription[Session], Request, bool]] = []
    reasons = []
    for request in packet.requests:
        verdict = _subscription(session, request, id, known, len(granted), allowed)
        if isinstance(verdict, Subscription):
            new = verdict.name not in known
            known.add(verdict.name)
            added[verdict.name] = verdict
            granted.append((verdict, request, new))
            reasons.append(request.qos)
        else:
            reasons.append(verdict)
    core = session.core
    retained = [s for s, request, new in granted if _wants_retained(session, s, request, new)]
    if session.lasting:
        for subscription in retained:
            if subscription.options & QOS:
                subscription.options |= RETAINED_DUE
    known_as = {(s.name, s.options, s.id) for s in session.subscriptions if s.name in added}
    changes = {name: s for name, s in added.items() if (name, s.options, s.id) not in known_as}
    core.work += len(known) + FILTER_WORK * len(packet.requests)
    walks = [retained_for(subscription) for subscription in retained]
    core.subscribe(session, changes)

    def answer() -> None:
        if session.channel is channel:
            channel.send(Suback(packet.packet_id, reasons))  # [MQTT-2.2.1-6]
            for walk in walks:
                session.send_retained(walk)

    if any(core.pending(subscription) for subscription in added.values()):
        core.after_commit(answer)
    else:
        answer()


def _filters(session: "Session", packet: Subscribe) -> list[str]:
    """The filters of `packet` that its client's identity does not already forbid, without `$share/group/`."""
    filters = []
    for request in packet.requests:
        with suppress(ProtocolError):  # `_subscription` answers it, and a filter that is too long
            _, plain = parse_shared(request.filter) or ("", request.filter)
            if filter_fits(request.filter) and may_subscribe(session.identity, plain):
                filters.append(plain)
    return filters


def _subscription(
    session: "Session", request: Request, id: bytes, known: set[bytes], granted: int, allowed: set[str] | None
) -> "Subscription[Session] | Reason":
    """The subscription that `request` asks for, or why it is refused.

    `known` are the names that the session has; `allowed`, where it is one, the only filters that it may have.
    """
    core = session.core
    try:
        shared = parse_shared(request.filter)
    except ProtocolError:
        return Reason.TOPIC_FILTER_INVALID  # in 3.1.1: there it is well-formed
    if not filter_fits(request.filter):
        return Reason.TOPIC_FILTER_INVALID
    group, plain = shared if shared is not None else ("", request.filter)
    if not may_subscribe(session.identity, plain) or (allowed is not None and plain not in allowed):
        core.counters.subscriptions_refused += 1
        core.note("subscription refused", client=session.identity.path or session.client_id, filter=request.filter)
        return Reason.NOT_AUTHORIZED
    name = request.filter.encode()
    few = session.identity.role in (Role.DEVICE, Role.GUEST)
    bound = SUBSCRIPTIONS_OF_DEVICE_MAX if few else SUBSCRIPTIONS_MAX
    if core.failing and session.lasting and name not in known:
        core.counters.subscriptions_refused += 1
        return Reason.QUOTA_EXCEEDED  # it could not be kept
    if len(known) >= bound and name not in known:
        core.counters.subscriptions_refused += 1
        return Reason.QUOTA_EXCEEDED
    if len(session.replay or ()) + granted >= SUBSCRIPTIONS_MAX:
        # It asks faster than it takes what is retained; each subscription, the same one again too, would wait for that.
        core.counters.subscriptions_refused += 1
        return Reason.QUOTA_EXCEEDED
    options = request.qos
    if request.no_local:
        options |= NO_LOCAL
    if request.retain_as_published:
        options |= RETAIN_AS_PUBLISHED
    filter = name if shared is None else plain.encode()
    return Subscription(session, filter, options, id, group_of(session.identity, group))


def group_of(identity: Identity, share: str) -> bytes:
    """What names the group of a shared subscription; empty for none.

    Each kind of client has groups of its own: a device that may read a topic could otherwise join the servers that
    share it, and take away their part.
    """
    return f"{identity.role}/{share}".encode() if share else b""


def _wants_retained(session: "Session", subscription: "Subscription[Session]", request: Request, new: bool) -> bool:
    """Whether what is retained goes out: as Retain Handling says [MQTT-3.3.1-9 to -11, MQTT-3.8.4-4], not to groups."""
    if subscription.group or request.retain_handling == 2 or (request.retain_handling == 1 and not new):
        return False
    return len(session.core.retained) > 0


def retained_for(subscription: "Subscription[Session]", *, again: bool = False) -> Iterator[Message | None]:
    """What is retained, in the form of a subscription, looked up as it is sent; None: nothing was found for a while.

    again: what of it has arrived at QoS 2, or is in flight, is not sent.
    """
    return _retained_for(subscription, subscription.session.core.retained.count, again=again)


def _retained_for(subscription: "Subscription[Session]", last: int, *, again: bool) -> Iterator[Message | None]:
    """`last`: what was retained later has gone out as a new message."""
    session, options = subscription.session, subscription.options & OPTIONS
    core = session.core
    retained = core.retained
    for message in retained.walk(subscription.filter, core.now):
        if message is None:
            yield None
            continue
        if message.publisher == session.key and options & NO_LOCAL:
            continue  # [MQTT-3.8.3-3]
        if message.retained_as <= last and retained.get(message.topic) is message:
            qos = min(message.qos, options & QOS)
            if (qos == 2 or again) and session.knows(message.seq, again=again):
                continue
            form = message.variant(qos, True, subscription.id)  # it is retained: §3.3.1.3, 3.1.1 [MQTT-3.3.1-6, -8]
            if qos == 2 and session.lasting:
                # Exactly once across a crash needs the log; QoS 1 is sent again from what is retained.
                core.log.adopt(message)
                core.log.hold(message.seq)
            else:
                form = form.loose()
                form.tracked |= session.lasting  # when all of it has arrived, it is not due any more
            yield form


def unsubscribe(channel: "Channel", session: "Session", packet: Unsubscribe) -> None:
    """UNSUBSCRIBE arrived. What is in flight or queued is still delivered (§3.10.4).

    There is a reason for each filter, in their order [MQTT-3.11.3-1].
    Filters are compared byte by byte; one UNSUBACK answers all of them, known or not [MQTT-3.10.4-1, -4 to -6], 3.1.1
    [MQTT-2.3.1-7].
    """
    _check_room(session, len(packet.filters))
    core = session.core
    core.counters.subscriptions_asked += len(packet.filters)
    known = {subscription.name for subscription in session.subscriptions}
    core.work += len(known) + FILTER_WORK * len(packet.filters)
    reasons = []
    for filter in packet.filters:
        reasons.append(Reason.SUCCESS if filter.encode() in known else Reason.NO_SUBSCRIPTION_EXISTED)
        known.discard(filter.encode())
    core.unsubscribe(session, {filter.encode() for filter in packet.filters})
    answer = Unsuback(packet.packet_id, [int(reason) for reason in reasons])  # [MQTT-2.2.1-6]
    if session.lasting:
        core.after_commit(lambda: channel.send_if_open(answer))
    else:
        channel.send(answer)


def _check_room(session: "Session", filters: int) -> None:
    """Refuse a request whose answer, a SUBACK or an UNSUBACK, would be over the client's maximum [MQTT-3.1.2-24]."""
    if session.packet_max and len(encode(Suback(0, [0] * filters), V5)) > session.packet_max:
        raise ProtocolError("the answer is over the client's maximum packet size", Reason.PACKET_TOO_LARGE)
