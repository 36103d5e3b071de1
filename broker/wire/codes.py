"""The numbers of MQTT: protocol levels, packet types, reason codes."""

from enum import IntEnum
from typing import Final

V4: Final = 4  # MQTT 3.1.1
V5: Final = 5  # MQTT 5.0


class PacketType(IntEnum):
    """The high nibble of the first byte (MQTT 5, table 2-1)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Reason(IntEnum):
    """MQTT 5 reason codes (table 2-6)."""

    SUCCESS = 0x00  # also: normal disconnection, granted QoS 0
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    REAUTHENTICATE = 0x19
    UNSPECIFIED = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC = 0x83
    UNSUPPORTED_VERSION = 0x84
    CLIENT_ID_NOT_VALID = 0x85
    BAD_USER_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTH_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_ID_IN_USE = 0x91
    PACKET_ID_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDS_NOT_SUPPORTED = 0xA1
    WILDCARDS_NOT_SUPPORTED = 0xA2


def _reasons(*codes: int) -> frozenset[int]:
    return frozenset(codes)


_PUBLISHED = _reasons(0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)
_RELEASED = _reasons(0x00, 0x92)

# The reason codes that each packet may carry (table 2-6).
REASONS: Final[dict[int, frozenset[int]]] = {
    PacketType.CONNACK: _reasons(  # [MQTT-3.2.2-8]
        0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, *range(0x99, 0x9E), 0x9F
    ),
    PacketType.PUBACK: _PUBLISHED,  # [MQTT-3.4.2-1]
    PacketType.PUBREC: _PUBLISHED,  # [MQTT-3.5.2-1]
    PacketType.PUBREL: _RELEASED,  # [MQTT-3.6.2-1]
    PacketType.PUBCOMP: _RELEASED,  # [MQTT-3.7.2-1]
    PacketType.SUBACK: _reasons(0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2),  # [MQTT-3.9.3-2]
    PacketType.UNSUBACK: _reasons(0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91),  # [MQTT-3.11.3-2]
    PacketType.DISCONNECT: _reasons(  # [MQTT-3.14.2-1]
        0x00, 0x04, *range(0x80, 0x84), 0x87, 0x89, *range(0x8B, 0x91), *range(0x93, 0xA3)
    ),
    PacketType.AUTH: _reasons(0x00, 0x18, 0x19),  # [MQTT-3.15.2-1]
}

# Those of DISCONNECT that only a server may send (§3.14.2.1).
SERVER_ONLY: Final = _reasons(0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, *range(0x9A, 0xA3))

# What a CONNACK of 3.1.1 can say (3.1.1, table 3.1), by the reason of MQTT 5 that is nearest.
RETURN_CODES: Final[dict[int, int]] = {
    Reason.SUCCESS: 0,
    Reason.UNSUPPORTED_VERSION: 1,
    Reason.CLIENT_ID_NOT_VALID: 2,
    Reason.SERVER_UNAVAILABLE: 3,
    Reason.BAD_USER_OR_PASSWORD: 4,
    Reason.NOT_AUTHORIZED: 5,
}
