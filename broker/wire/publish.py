"""PUBLISH for the hot path: encoded once for all receivers of a version, the packet id between the two parts."""

from typing import Final

from broker.message import Message
from broker.wire.codes import PacketType
from broker.wire.packets import Properties
from broker.wire.primitives import decode_varint, encode_varint, write_text
from broker.wire.properties import decode_properties, encode_properties

# Every packet id, and every plain PUBACK, encoded once: 5 MB of memory for 0.1 us on each message.
PACKET_ID: Final = [n.to_bytes(2) for n in range(65536)]
PUBACK: Final = [b"\x40\x02" + id for id in PACKET_ID]
_MESSAGE_ID: Final = b"\x26" + write_text("message-id")


def parts(message: Message, v5: bool, now: float) -> tuple[bytes, bytes]:
    """The bytes before the packet id, and those between it and the payload (at QoS 0 they follow one another).

    The Message Expiry Interval is what is left of it at `now` [MQTT-3.3.2-6], in whole seconds, rounded up; never more
    than was given, for less than a millisecond is the clock's error. The encoding stays with the message for the next
    receiver; the payload is not in it, for it would be in memory twice.
    """
    if v5:
        known = message.parts5
        if known is not None and (not message.expires_at or message.encoded_at == now):
            return known
        expiry = b""
        if message.expires_at:
            left = int(message.expires_at - now + 0.999)
            expiry = b"\x02" + max(0, left).to_bytes(4)
            message.encoded_at = now
        properties = message.subscription_ids + expiry + message.properties
        between = encode_varint(len(properties)) + properties
        made = message.parts5 = (_head(message, len(between) + len(message.payload)), between)
        return made
    known = message.parts4
    if known is None:
        known = message.parts4 = (_head(message, len(message.payload)), b"")
    return known


def _head(message: Message, tail: int) -> bytes:
    """The fixed header and the topic. DUP is not set, whatever the publisher's was [MQTT-3.3.1-2, -3, MQTT-4.3.1-1].

    At QoS 1 and 2 neither: `Session` sets it in what it sends again [MQTT-4.3.2-2, MQTT-4.3.3-2].
    """
    qos, topic = message.qos, message.topic
    size = 2 + len(topic) + (2 if qos else 0) + tail
    return bytes((0x30 | qos << 1 | message.retain,)) + encode_varint(size) + len(topic).to_bytes(2) + topic


def properties_of(message: Message) -> Properties:
    """What `forwarded` has encoded, read again."""
    encoded = message.properties
    properties, _ = decode_properties(encode_varint(len(encoded)) + encoded, 0, PacketType.PUBLISH)
    return properties


def forwarded(properties: Properties) -> bytes:
    """The properties that go on to the receivers as they came [MQTT-3.3.2-4, -15 to -18, -20], encoded, without length.

    Message Expiry goes on too, but counts down; Topic Alias and Subscription Identifier belong to one connection: no
    alias is ever sent [MQTT-3.1.2-26, -27]. User Properties keep their order, those of a will too [MQTT-3.1.3-10].
    """
    if (
        not properties.user_properties
        and properties.content_type is None
        and properties.payload_format is None
        and properties.response_topic is None
        and properties.correlation_data is None
    ):
        return b""
    encoded = encode_properties(
        Properties(
            payload_format=properties.payload_format,
            content_type=properties.content_type,
            response_topic=properties.response_topic,
            correlation_data=properties.correlation_data,
            user_properties=properties.user_properties,
        )
    )
    _, start = decode_varint(encoded, 0)
    return encoded[start:]


def message_id(id: str) -> bytes:
    """The user property by which a message's receivers and its publisher know it, encoded."""
    return _MESSAGE_ID + len(id).to_bytes(2) + id.encode()


def named_ack(first: int, packet_id: int, reason: int, user: bytes) -> bytes:
    """PUBACK (0x40) or PUBREC (0x50) of MQTT 5 with one encoded user property of up to 120 bytes."""
    return bytes((first, 4 + len(user))) + PACKET_ID[packet_id] + bytes((reason, len(user))) + user
