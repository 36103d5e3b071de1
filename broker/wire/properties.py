"""MQTT 5 properties (§2.2.2): one table, and the reader and the writer that follow from it."""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple

from msgspec import to_builtins

from broker.errors import MalformedPacket, ProtocolError
from broker.limits import SUBSCRIPTIONS_MAX, USER_PROPERTIES_MAX
from broker.wire.codes import PacketType, Reason
from broker.wire.packets import Properties
from broker.wire.primitives import (
    decode_varint,
    encode_varint,
    read_binary,
    read_flag,
    read_pair,
    read_text,
    read_u16,
    read_u32,
    truncated,
    write_binary,
    write_byte,
    write_pair,
    write_text,
    write_u16,
    write_u32,
)
from broker.wire.topics import has_wildcard

WILL: Final = 0  # stands for "the will in a CONNECT", which has properties of its own; no packet type is 0


def _read_topic(buffer: bytes, pos: int) -> tuple[str, int]:
    """A string that names a topic: not empty [MQTT-4.7.3-1], without wildcards [MQTT-3.3.2-14]."""
    topic, pos = read_text(buffer, pos)  # [MQTT-3.3.2-13]
    if not topic or has_wildcard(topic):
        raise ProtocolError("a response topic is empty or contains a wildcard")
    return topic, pos


class Form(Enum):
    """How a property's value is written: its reader and its writer."""

    FLAG = (read_flag, write_byte)
    U16 = (read_u16, write_u16)
    U32 = (read_u32, write_u32)
    VARINT = (decode_varint, encode_varint)
    TEXT = (read_text, write_text)
    TOPIC = (_read_topic, write_text)
    BINARY = (read_binary, write_binary)
    PAIR = (read_pair, write_pair)


class Property(NamedTuple):
    """One row of table 2-4. `name` is the field of `Properties`.

    `zero_reason` is the reason code for a value of 0 where that is not allowed. `repeats_in` are the packets in which
    the property may come more than once, `count_max` how often we take it there; the field is a list then.
    """

    identifier: int
    name: str
    form: Form
    packets: frozenset[int]
    zero_reason: int = 0
    repeats_in: frozenset[int] = frozenset()
    count_max: int = 1


_T = PacketType
_MESSAGE = frozenset({_T.PUBLISH, WILL})
_PUBLISH = frozenset({_T.PUBLISH})
_WILL = frozenset({WILL})
_CONNECT = frozenset({_T.CONNECT})
_CONNACK = frozenset({_T.CONNACK})
_OPENING = frozenset({_T.CONNECT, _T.CONNACK})
_AUTHENTICATION = frozenset({_T.CONNECT, _T.CONNACK, _T.AUTH})
_REASONED = frozenset(
    {_T.CONNACK, _T.PUBACK, _T.PUBREC, _T.PUBREL, _T.PUBCOMP, _T.SUBACK, _T.UNSUBACK, _T.DISCONNECT, _T.AUTH}
)
_ALL = _REASONED | {_T.CONNECT, _T.PUBLISH, WILL, _T.SUBSCRIBE, _T.UNSUBSCRIBE}
_ZERO = Reason.PROTOCOL_ERROR

TABLE: Final = (
    Property(0x01, "payload_format", Form.FLAG, _MESSAGE),
    Property(0x02, "message_expiry", Form.U32, _MESSAGE),
    Property(0x03, "content_type", Form.TEXT, _MESSAGE),  # [MQTT-3.3.2-19]
    Property(0x08, "response_topic", Form.TOPIC, _MESSAGE),
    Property(0x09, "correlation_data", Form.BINARY, _MESSAGE),
    # A server names every matching subscription of the receiver in one PUBLISH [MQTT-3.3.4-4].
    Property(0x0B, "subscription_ids", Form.VARINT, _PUBLISH | {_T.SUBSCRIBE}, _ZERO, _PUBLISH, SUBSCRIPTIONS_MAX),
    Property(0x11, "session_expiry", Form.U32, _OPENING | {_T.DISCONNECT}),
    Property(0x12, "assigned_client_id", Form.TEXT, _CONNACK),
    Property(0x13, "server_keep_alive", Form.U16, _CONNACK),
    Property(0x15, "auth_method", Form.TEXT, _AUTHENTICATION),
    Property(0x16, "auth_data", Form.BINARY, _AUTHENTICATION),
    Property(0x17, "request_problem_info", Form.FLAG, _CONNECT),
    Property(0x18, "will_delay", Form.U32, _WILL),
    Property(0x19, "request_response_info", Form.FLAG, _CONNECT),
    Property(0x1A, "response_info", Form.TEXT, _CONNACK),
    Property(0x1C, "server_reference", Form.TEXT, _CONNACK | {_T.DISCONNECT}),
    Property(0x1F, "reason_string", Form.TEXT, _REASONED),
    Property(0x21, "receive_maximum", Form.U16, _OPENING, _ZERO),
    Property(0x22, "topic_alias_maximum", Form.U16, _OPENING),
    Property(0x23, "topic_alias", Form.U16, _PUBLISH, Reason.TOPIC_ALIAS_INVALID),  # [MQTT-3.3.2-8], §3.3.2.3.4
    Property(0x24, "maximum_qos", Form.FLAG, _CONNACK),
    Property(0x25, "retain_available", Form.FLAG, _CONNACK),
    Property(0x26, "user_properties", Form.PAIR, _ALL, 0, _ALL, USER_PROPERTIES_MAX),
    Property(0x27, "maximum_packet_size", Form.U32, _OPENING, _ZERO),
    Property(0x28, "wildcard_available", Form.FLAG, _CONNACK),
    Property(0x29, "subscription_ids_available", Form.FLAG, _CONNACK),
    Property(0x2A, "shared_available", Form.FLAG, _CONNACK),
)

_Reader = Callable[[bytes, int], tuple[Any, int]]
_Writer = Callable[[Any], bytes]

# For each packet type: identifier -> field, reader, reason for a zero, and how often it may come (0: not a list).
_READERS: Final[dict[int, dict[int, tuple[str, _Reader, int, int]]]] = {
    packet: {
        row.identifier: (
            row.name,
            row.form.value[0],
            row.zero_reason,
            0 if not row.repeats_in else row.count_max if packet in row.repeats_in else 1,
        )
        for row in TABLE
        if packet in row.packets
    }
    for packet in _ALL
}
_WRITERS: Final[dict[str, tuple[bytes, _Writer, bool]]] = {
    row.name: (bytes((row.identifier,)), row.form.value[1], bool(row.repeats_in)) for row in TABLE
}


def decode_properties(buffer: bytes, pos: int, packet: int) -> tuple[Properties, int]:
    """The properties at `pos`, length first, of a packet of type `packet` (or `WILL`), and the position behind them.

    Raises `MalformedPacket` (0x81) for a property that the packet may not have or a field that leaves the block;
    `ProtocolError` 0x82 for one that is repeated, or whose value is out of range; 0x94 for topic alias 0; 0x97 for more
    user properties or subscription identifiers than we take.
    """
    length, pos = decode_varint(buffer, pos)
    properties = Properties()
    if not length:
        return properties, pos
    end = pos + length
    if end > len(buffer):
        raise truncated()
    block = buffer[pos:end]  # so that no reader can leave it
    readers = _READERS[packet]
    pos = 0
    while pos < length:
        row = readers.get(block[pos])
        if row is None:
            raise _unexpected(block[pos], packet)
        name, read, zero_reason, count_max = row
        value, pos = read(block, pos + 1)
        if zero_reason and not value:
            raise ProtocolError(f"{name} is 0", zero_reason)
        present = getattr(properties, name)
        if count_max:
            if len(present) >= count_max:
                raise _repeated(name, count_max)
            present.append(value)
        elif present is not None:
            raise _repeated(name, 1)
        else:
            setattr(properties, name, value)
    return properties, end


def encode_properties(properties: Properties) -> bytes:
    """All properties that are set, length first. Whether the packet may have them is up to the caller."""
    # `Properties` omits defaults, so this is what is set, found in C: asking for 27 attributes takes four times longer.
    fields = to_builtins(properties, builtin_types=(bytes,))
    if not fields:
        return b"\0"  # [MQTT-2.2.2-1]
    chunks: list[bytes] = []
    for name, value in fields.items():
        identifier, write, is_list = _WRITERS[name]
        if is_list:
            for item in value:
                chunks += (identifier, write(item))
        else:
            chunks += (identifier, write(value))
    block = b"".join(chunks)
    return encode_varint(len(block)) + block


def _unexpected(identifier: int, packet: int) -> MalformedPacket:
    """The error for an identifier that the packet's table does not have (§2.2.2.2)."""
    where = PacketType(packet).name if packet else "a will"
    return MalformedPacket(f"property 0x{identifier:02X} is not one of {where}")


def _repeated(name: str, count_max: int) -> ProtocolError:
    """The error for a property that comes too often."""
    if count_max == 1:
        return ProtocolError(f"{name} is repeated")
    return ProtocolError(f"more than {count_max} {name}", Reason.QUOTA_EXCEEDED)
