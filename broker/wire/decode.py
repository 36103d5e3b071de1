"""Bytes to packets (MQTT 5 §2 and §3, and the same sections of 3.1.1). Both directions: what clients and servers send.

Which packet may come when, and from which side, is the session's business; here a packet is looked at alone. A packet
that breaks the specification raises `ProtocolError`, whose reason is the one for DISCONNECT or CONNACK:
`MalformedPacket` (0x81) where it cannot be parsed, 0x82 where it can but says what it must not, and special ones where
the specification names them. Every function here is linear in the size of its packet.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from broker.errors import MalformedPacket, ProtocolError
from broker.limits import SUBSCRIPTIONS_MAX
from broker.wire.codes import REASONS, RETURN_CODES, V4, V5, PacketType, Reason
from broker.wire.packets import (
    NO_PROPERTIES,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.wire.primitives import read_binary, read_byte, read_text, read_u16, truncated
from broker.wire.properties import WILL, decode_properties
from broker.wire.topics import SHARE_PREFIX, check_filter, check_topic_name, check_wildcards

AckT = TypeVar("AckT", Puback, Pubrec, Pubrel, Pubcomp)
PingT = TypeVar("PingT", Pingreq, Pingresp)

_PROTOCOL: Final = b"\0\4MQTT"
_LEVELS: Final = (V4, V5)
_PUBLISH: Final = int(PacketType.PUBLISH)  # an enum's member costs 60 ns each time it is named
_REASON_OF_RETURN_CODE: Final = {code: int(reason) for reason, code in RETURN_CODES.items()}
_RETURN_CODES_OF_SUBACK: Final = frozenset({0, 1, 2, 0x80})  # 3.1.1 [MQTT-3.9.3-2]


def split(buffer: bytes | bytearray | memoryview, pos: int, maximum: int) -> tuple[int, int, int] | None:
    """The frame at `pos`: its first byte, and where its body starts and ends. None while it is incomplete.

    `maximum` bounds the whole packet in bytes; a longer one raises `ProtocolError` 0x95 as soon as its length is known,
    so that no one waits, or makes room, for it. A length over four bytes or not in its shortest form is malformed
    [MQTT-1.5.5-1], in 3.1.1, too.
    """
    size = len(buffer)
    start = pos + 2
    if start > size:
        return None
    byte = buffer[pos + 1]
    length = byte & 0x7F
    shift = 7
    while byte >= 0x80:
        if shift > 21:
            raise MalformedPacket("the remaining length is longer than four bytes")
        if start >= size:
            return None
        byte = buffer[start]
        if not byte:
            raise MalformedPacket("the remaining length is longer than it needs to be")
        length |= (byte & 0x7F) << shift
        shift += 7
        start += 1
    end = start + length
    if end - pos > maximum:
        raise ProtocolError(f"a packet of {end - pos} bytes; {maximum} are allowed", Reason.PACKET_TOO_LARGE)
    return (buffer[pos], start, end) if end <= size else None


def decode(first: int, body: bytes, version: int) -> Packet:
    """The packet whose fixed header begins with `first` and whose remaining bytes are `body`.

    `version` is the connection's (4 or 5); a CONNECT carries its own. Raises `ProtocolError`.
    """
    if first & 0xF0 == 0x30:
        return _publish(first, body, version)
    decoder = _DECODERS.get(first)
    if decoder is None:
        # A reserved flag is wrong [MQTT-2.1.3-1], 3.1.1 [MQTT-2.2.2-2], that of PUBREL, SUBSCRIBE, UNSUBSCRIBE and
        # DISCONNECT, too [MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1, MQTT-3.14.1-1].
        raise MalformedPacket(f"no packet begins with 0x{first:02X}")
    return decoder(body, version)


def _packet_id(body: bytes, pos: int) -> tuple[int, int]:
    """A packet identifier, which is never 0 [MQTT-2.2.1-3], 3.1.1 [MQTT-2.3.1-1]."""
    packet_id, pos = read_u16(body, pos)
    if not packet_id:
        raise ProtocolError("packet identifier 0")
    return packet_id, pos


def _end(body: bytes, pos: int) -> None:
    """Nothing may follow."""
    if pos != len(body):
        raise MalformedPacket(f"{len(body) - pos} bytes too many")


def _check_reason(kind: int, reason: int) -> None:
    """A packet carries only the reason codes of its own table."""
    if reason not in REASONS[kind]:
        raise ProtocolError(f"reason code 0x{reason:02X} is not one of {PacketType(kind).name}")


def _publish(first: int, body: bytes, version: int) -> Publish:
    """PUBLISH (§3.3)."""
    qos = first >> 1 & 3
    if qos == 3:
        raise MalformedPacket("QoS 3")  # [MQTT-3.3.1-4]
    dup = bool(first & 0x08)
    if dup and not qos:
        raise MalformedPacket("DUP at QoS 0")  # [MQTT-3.3.1-2]
    topic, pos = read_binary(body, 0)  # [MQTT-3.3.2-1]
    packet_id = 0  # [MQTT-2.2.1-2], 3.1.1 [MQTT-2.3.1-5]
    if qos:
        packet_id, pos = _packet_id(body, pos)
    if version == V5:
        properties, pos = decode_properties(body, pos, _PUBLISH)
        if not topic and properties.topic_alias is not None:
            return Publish(topic, body[pos:], qos, bool(first & 1), dup, packet_id, properties)
        if not topic:
            raise ProtocolError("neither a topic nor a topic alias")  # §3.3.2.1
    else:
        properties = Properties()
    check_topic_name(topic)
    return Publish(topic, body[pos:], qos, bool(first & 1), dup, packet_id, properties)


def _connect(body: bytes, _version: int) -> Connect:
    """CONNECT (§3.1)."""
    if len(body) < 10 or body[:6] != _PROTOCOL or body[6] not in _LEVELS:
        raise _no_header(body)
    level, flags, keep_alive, pos = body[6], body[7], body[8] << 8 | body[9], 10
    if flags & 0x3D:
        _check_will_flags(flags)
    if level == V4 and flags & 0xC0 == 0x40:
        raise MalformedPacket("a password without a user name")  # 3.1.1 [MQTT-3.1.2-22]
    properties = NO_PROPERTIES
    if level == V5:
        properties, pos = decode_properties(body, pos, PacketType.CONNECT)
        if properties.auth_data is not None and properties.auth_method is None:
            raise ProtocolError("authentication data without a method")  # §3.1.2.11.10
    # Client id, will, user name, password, in this order [MQTT-3.1.3-1]: those whose flags are set, and then nothing
    # more. [MQTT-3.1.2-16 to -19], 3.1.1 [MQTT-3.1.2-18 to -21].
    client_id, pos = read_text(body, pos)  # [MQTT-3.1.3-3, -4]
    will = username = password = None
    if flags & 0x04:
        will, pos = _will(body, pos, level)
        will.qos = flags >> 3 & 3
        will.retain = bool(flags & 0x20)
    if flags & 0x80:
        username, pos = read_text(body, pos)  # [MQTT-3.1.3-12], 3.1.1 [MQTT-3.1.3-11]
    if flags & 0x40:
        password, pos = read_binary(body, pos)
    _end(body, pos)
    return Connect(client_id, level, bool(flags & 0x02), keep_alive, username, password, will, properties)


def _no_header(body: bytes) -> ProtocolError:
    """What is wrong with the first ten bytes of what should be CONNECT: another protocol, or not all of them."""
    name, pos = read_text(body, 0)
    level, pos = read_byte(body, pos)
    if name != "MQTT" or level not in _LEVELS:  # [MQTT-3.1.2-1], [MQTT-3.1.2-2]
        return ProtocolError(f"protocol {name[:16]!r}, level {level}", Reason.UNSUPPORTED_VERSION)
    return truncated()


def _check_will_flags(flags: int) -> None:
    """Those of CONNECT that have to do with the will, and the reserved one."""
    if flags & 0x01:
        raise MalformedPacket("the reserved connect flag is set")  # [MQTT-3.1.2-3]
    if not flags & 0x04:
        # [MQTT-3.1.2-11, -13], 3.1.1 [MQTT-3.1.2-11, -13, -15]
        raise MalformedPacket("will QoS or will retain without a will")
    if flags & 0x18 == 0x18:
        raise MalformedPacket("will QoS 3")  # [MQTT-3.1.2-12], 3.1.1 [MQTT-3.1.2-14]


def _will(body: bytes, pos: int, version: int) -> tuple[Will, int]:
    """The will's part of CONNECT's payload (§3.1.3.2 to §3.1.3.4) [MQTT-3.1.2-9]."""
    properties = Properties()
    if version == V5:
        properties, pos = decode_properties(body, pos, WILL)
    topic, pos = read_binary(body, pos)
    check_topic_name(topic)  # [MQTT-3.1.3-11], 3.1.1 [MQTT-3.1.3-10]
    payload, pos = read_binary(body, pos)
    return Will(topic, payload, properties=properties), pos


def _connack(body: bytes, version: int) -> Connack:
    """CONNACK (§3.2). The return codes of 3.1.1 become reason codes."""
    flags, pos = read_byte(body, 0)
    if flags > 1:
        raise MalformedPacket("a reserved flag of CONNACK is set")  # [MQTT-3.2.2-1]
    code, pos = read_byte(body, pos)
    properties = Properties()
    if version == V5:
        reason = code
        _check_reason(PacketType.CONNACK, reason)  # [MQTT-3.2.2-8]
        properties, pos = decode_properties(body, pos, PacketType.CONNACK)
    else:
        if code not in _REASON_OF_RETURN_CODE:
            raise MalformedPacket(f"return code {code}")
        reason = _REASON_OF_RETURN_CODE[code]
    if flags and reason:
        raise ProtocolError("a session is present in a refusal")  # [MQTT-3.2.2-6]
    _end(body, pos)
    return Connack(bool(flags), reason, properties)


def _ack(kind: PacketType, make: type[AckT], body: bytes, version: int) -> AckT:
    """PUBACK, PUBREC, PUBREL, PUBCOMP (§3.4 to §3.7). Success without properties is the packet identifier alone."""
    packet_id, pos = _packet_id(body, 0)
    if len(body) == 2:
        return make(packet_id)
    if version == V4:
        _end(body, pos)
    reason = body[2]
    _check_reason(kind, reason)
    if len(body) == 3:
        return make(packet_id, reason)
    properties, pos = decode_properties(body, 3, kind)
    _end(body, pos)
    return make(packet_id, reason, properties)


def _subscribe(body: bytes, version: int) -> Subscribe:
    """SUBSCRIBE (§3.8). Whether a filter may be subscribed to is answered for each of them, in the SUBACK."""
    packet_id, pos = _packet_id(body, 0)
    properties = Properties()
    if version == V5:
        properties, pos = decode_properties(body, pos, PacketType.SUBSCRIBE)
    requests: list[Request] = []
    size = len(body)
    while pos < size:
        _check_count(requests)
        filter_, pos = _filter(body, pos, version)  # [MQTT-3.8.3-1]
        if pos >= size:
            raise truncated()
        requests.append(_request(filter_, body[pos], version))
        pos += 1
    if not requests:
        raise ProtocolError("SUBSCRIBE without a topic filter")  # [MQTT-3.8.3-2], 3.1.1 [MQTT-3.8.3-3]
    return Subscribe(packet_id, requests, properties)


def _filter(body: bytes, pos: int, version: int) -> tuple[str, int]:
    """A topic filter (§4.7, §4.8.2); one that is none breaks the protocol. 3.1.1 knows of no `$share/`."""
    filter_, pos = read_text(body, pos)
    if version == V5:
        check_filter(filter_)
    else:
        check_wildcards(filter_)
    return filter_, pos


def _request(filter_: str, options: int, version: int) -> Request:
    """One topic filter with its options (§3.8.3.1)."""
    qos = options & 3
    if version == V4:
        if options > 2:
            raise MalformedPacket("QoS over 2, or a reserved bit, in SUBSCRIBE")  # 3.1.1 [MQTT-3.8.3-4]
        return Request(filter_, qos)
    if options & 0xC0:
        raise MalformedPacket("a reserved subscription option is set")  # [MQTT-3.8.3-5]
    retain_handling = options >> 4
    if qos == 3 or retain_handling == 3:
        raise ProtocolError("QoS 3, or retain handling 3, in SUBSCRIBE")
    no_local = bool(options & 0x04)
    if no_local and filter_.startswith(SHARE_PREFIX):
        raise ProtocolError("No Local on a shared subscription")  # [MQTT-3.8.3-4]
    return Request(filter_, qos, no_local, bool(options & 0x08), retain_handling)


def _unsubscribe(body: bytes, version: int) -> Unsubscribe:
    """UNSUBSCRIBE (§3.10)."""
    packet_id, pos = _packet_id(body, 0)
    properties = Properties()
    if version == V5:
        properties, pos = decode_properties(body, pos, PacketType.UNSUBSCRIBE)
    filters: list[str] = []
    while pos < len(body):
        _check_count(filters)
        filter_, pos = _filter(body, pos, version)  # [MQTT-3.10.3-1]
        filters.append(filter_)
    if not filters:
        raise ProtocolError("UNSUBSCRIBE without a topic filter")  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id, filters, properties)


def _check_count(seen: list[Request] | list[str]) -> None:
    """A request may name as many filters as a session may hold: more would only buy our time."""
    if len(seen) >= SUBSCRIPTIONS_MAX:
        raise ProtocolError(f"more than {SUBSCRIPTIONS_MAX} topic filters in one packet", Reason.QUOTA_EXCEEDED)


def _suback(body: bytes, version: int) -> Suback:
    """SUBACK (§3.9)."""
    packet_id, pos = _packet_id(body, 0)
    properties = Properties()
    allowed = _RETURN_CODES_OF_SUBACK
    if version == V5:
        properties, pos = decode_properties(body, pos, PacketType.SUBACK)
        allowed = REASONS[PacketType.SUBACK]
    return Suback(packet_id, _reasons(body, pos, allowed), properties)


def _unsuback(body: bytes, version: int) -> Unsuback:
    """UNSUBACK (§3.11), which has no reasons in 3.1.1."""
    packet_id, pos = _packet_id(body, 0)
    if version == V4:
        _end(body, pos)
        return Unsuback(packet_id)
    properties, pos = decode_properties(body, pos, PacketType.UNSUBACK)
    return Unsuback(packet_id, _reasons(body, pos, REASONS[PacketType.UNSUBACK]), properties)


def _reasons(body: bytes, pos: int, allowed: frozenset[int]) -> list[int]:
    """The reason codes to the end of the packet, one for each filter of the request."""
    reasons = body[pos:]
    if not reasons:
        raise ProtocolError("an acknowledgement without reason codes")
    if not allowed.issuperset(reasons):
        raise ProtocolError("an acknowledgement has a reason code that is not its own")
    return list(reasons)


def _ping(make: type[PingT], body: bytes, _version: int) -> PingT:
    """PINGREQ and PINGRESP (§3.12, §3.13)."""
    _end(body, 0)
    return make()


def _disconnect(body: bytes, version: int) -> Disconnect:
    """DISCONNECT (§3.14)."""
    if not body:
        return Disconnect()
    if version == V4:
        _end(body, 0)
    reason = body[0]
    _check_reason(PacketType.DISCONNECT, reason)
    if len(body) == 1:
        return Disconnect(reason)
    properties, pos = decode_properties(body, 1, PacketType.DISCONNECT)
    _end(body, pos)
    return Disconnect(reason, properties)


def _auth(body: bytes, version: int) -> Auth:
    """AUTH (§3.15). Only the empty form, success, may leave out the method (§3.15.2.1, §3.15.2.2.2)."""
    if version == V4:
        raise MalformedPacket("packet type 15 is reserved in MQTT 3.1.1")
    if not body:
        return Auth()
    reason = body[0]
    _check_reason(PacketType.AUTH, reason)
    properties, pos = decode_properties(body, 1, PacketType.AUTH)
    _end(body, pos)
    if properties.auth_method is None:
        raise ProtocolError("AUTH without an authentication method")
    return Auth(reason, properties)


_DECODERS: Final[dict[int, Callable[[bytes, int], Packet]]] = {
    0x10: _connect,
    0x20: _connack,
    0x40: partial(_ack, PacketType.PUBACK, Puback),
    0x50: partial(_ack, PacketType.PUBREC, Pubrec),
    0x62: partial(_ack, PacketType.PUBREL, Pubrel),
    0x70: partial(_ack, PacketType.PUBCOMP, Pubcomp),
    0x82: _subscribe,
    0x90: _suback,
    0xA2: _unsubscribe,
    0xB0: _unsuback,
    0xC0: partial(_ping, Pingreq),
    0xD0: partial(_ping, Pingresp),
    0xE0: _disconnect,  # [MQTT-3.14.1-1]
    0xF0: _auth,  # [MQTT-3.15.1-1]
}
