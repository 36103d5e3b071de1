"""PUBLISH on its general way (§3.3): topic aliases, properties, retain, QoS 2, and the first time on a topic."""

from typing import TYPE_CHECKING

from broker.errors import ProtocolError
from broker.limits import RECEIVE_MAXIMUM, TOPIC_ALIASES_MAX
from broker.message import NO_RECEIPT, TOLD, Message, Promise
from broker.route.access import may_publish
from broker.route.router import Route
from broker.wire.codes import Reason
from broker.wire.packets import Pubcomp, Publish
from broker.wire.publish import forwarded, message_id, parts
from broker.wire.topics import check_topic_name

if TYPE_CHECKING:
    from broker.session.channel import Channel
    from broker.session.session import Session

# Topics that one connection has published to lately: permission and route in one look-up. Emptied when full.
ROUTES_KNOWN_MAX = 1024


def received(channel: "Channel", session: "Session", packet: Publish) -> None:
    """PUBLISH arrived. Raises `ProtocolError` for what closes the connection.

    At QoS 1 a packet id that comes again is a new message [MQTT-4.3.2-5]; at QoS 2 it is after PUBREL or a refusal.
    """
    channel.core.counters.messages_received += 1
    if packet.properties.subscription_ids:
        raise ProtocolError("a subscription identifier from a client", Reason.PROTOCOL_ERROR)  # [MQTT-3.3.4-6]
    serve(channel, session, packet)


def serve(channel: "Channel", session: "Session", packet: Publish) -> None:
    """Do what a PUBLISH asks for; once more, when it is known whether it may (`session.rights`)."""
    core = channel.core
    topic = _topic(channel, packet)
    id, qos = packet.packet_id, packet.qos
    promise = Promise(channel, 0x40 if qos == 1 else 0x50, id)
    if qos == 2 and session.received is not None:
        if id in session.received:
            # Seen before: not delivered again [MQTT-4.3.3-10], 3.1.1 [MQTT-4.3.3-2]. What becomes of it may be open.
            known = session.received[id]
            if known is None or known.settled:
                channel.promised(promise, Reason.SUCCESS)
            else:
                known.channel = channel
                channel.promised(known, None)
            return
        if len(session.received) >= RECEIVE_MAXIMUM:
            raise ProtocolError("more QoS 2 messages than the receive maximum", Reason.RECEIVE_MAXIMUM_EXCEEDED)
    route = _allowed(channel, session, topic, packet)
    if route is None:
        if channel.rights is not None and channel.rights.asking:
            return
        core.note("publish refused", client=channel.label, topic=topic.decode())
        if qos:
            channel.promised(promise, Reason.NOT_AUTHORIZED)
        else:
            core.counters.publishes_refused += 1
        return
    properties = packet.properties
    expiry = properties.message_expiry
    message = Message(
        topic,
        packet.payload,
        qos,
        packet.retain,
        b"",
        core.now + expiry if expiry is not None else 0.0,
        session.key,
        tracked=qos == 2,
    )
    if channel.stamps and qos:
        promise.name = _name(channel, message)
        if message.id:
            message.receipt = TOLD if ("receipt", "delivered") in properties.user_properties else NO_RECEIPT
            message.tracked |= message.receipt == TOLD
    # Ours stands before those of the publisher, which go on as they are [MQTT-3.3.2-17], [MQTT-3.3.2-18].
    message.properties += forwarded(properties)
    if not qos:
        reason = core.publish(message, session, retain=packet.retain)
        core.counters.publishes_refused += reason == Reason.QUOTA_EXCEEDED
        return
    promise.origin = session
    must = False
    if qos == 2:
        session.receive(id, promise)
        must = session.lasting
    reason = core.publish(message, session, retain=packet.retain, must=must, promise=promise)
    if qos == 2 and reason is not None and reason >= 0x80:
        session.unreceive(id)  # [MQTT-4.3.3-9]
    channel.promised(promise, reason)


def stamped(
    channel: "Channel", session: "Session", route: "Route[Session]", topic: bytes, payload: bytes, id: int
) -> None:
    """A small plain PUBLISH at QoS 1 to a topic whose route is known, from one whose messages get names."""
    core = channel.core
    message = Message(topic, payload, 1, publisher=session.key)
    name = _name(channel, message)
    if not route.lasting and channel.acks is None:
        channel.answer(0x40, id, core.hand_out(route, message, session), name)
        return
    promise = Promise(channel, 0x40, id, name)
    reason: Reason | None
    if route.online:
        head, between = parts(message, bool(channel.v5), core.now)
        reason = core.keep_online(route, message, session, promise, head, between + payload)
    elif route.lasting:
        reason = core.keep(route, message, session, promise)
    else:
        reason = core.hand_out(route, message, session)
    channel.promised(promise, reason)


def _name(channel: "Channel", message: Message) -> bytes:
    """Give a message a name, which its receivers know from a property. Returns what its publisher is told of it."""
    message.id = channel.core.bridge.stamp(message.topic)
    if not message.id:
        return b""
    message.properties = message_id(message.id)
    return message.properties if channel.names else b""


def released(channel: "Channel", session: "Session", id: int) -> None:
    """PUBREL arrived: the id of a QoS 2 message is free again [MQTT-4.3.3-12], once that is on the disk.

    Whatever has become of the message meanwhile: it may have expired [MQTT-4.3.3-11, -13].
    """
    known = session.received is not None and id in session.received
    session.unreceive(id)
    answer = Pubcomp(id, Reason.SUCCESS if known else Reason.PACKET_ID_NOT_FOUND)
    if session.lasting:
        channel.core.after_commit(lambda: channel.send_if_open(answer))
    else:
        channel.send(answer)


def _topic(channel: "Channel", packet: Publish) -> bytes:
    """The topic of a PUBLISH, through its alias if it has one (§3.3.2.3.4): any up to our maximum [MQTT-3.3.2-12]."""
    topic, alias = packet.topic, packet.properties.topic_alias
    if alias is None:
        return topic
    if alias > TOPIC_ALIASES_MAX:
        raise ProtocolError("topic alias above the maximum", Reason.TOPIC_ALIAS_INVALID)  # [MQTT-3.3.2-9]
    if channel.aliases is None:
        channel.aliases = {}
    if topic:
        channel.aliases[alias] = topic
        return topic
    known = channel.aliases.get(alias)
    if known is None:
        raise ProtocolError("topic alias that was not set", Reason.PROTOCOL_ERROR)
    return known


def _allowed(channel: "Channel", session: "Session", topic: bytes, packet: Publish) -> "Route[Session] | None":
    """The route of `topic` if this client may publish to it; known from now on, for the fast way."""
    known = channel.routes.get(topic)
    if known is None:
        check_topic_name(topic)
        if not may_publish(session.identity, topic):
            return None
        if channel.rights is not None and not channel.rights.allowed("publish", [topic.decode()], packet):
            return None
    route = channel.core.router.route(topic)
    if route is not known and not route.writes:  # the fast way asks no service whether it has written
        if not channel.routes:
            channel.routes = {}
        elif len(channel.routes) >= ROUTES_KNOWN_MAX:
            channel.routes.clear()
        channel.routes[topic] = route
    return route
