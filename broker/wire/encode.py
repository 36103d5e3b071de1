"""Packets to bytes. The shortest form that the specification allows is written.

The caller answers for what it sends: a value that the wire cannot carry raises `ValueError`, and that is a bug. What is
well-formed but not allowed (packet identifier 0, a property that the packet may not have) is not looked for.
"""

from collections.abc import Callable
from typing import Any, Final

from broker.wire.codes import RETURN_CODES, V4, V5, Reason
from broker.wire.packets import (
    Ack,
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
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from broker.wire.primitives import encode_varint, write_binary, write_text, write_u16
from broker.wire.properties import encode_properties

_NONE: Final = Properties()
# 3.1.1 cannot say more than its return codes 1 to 5: these are the refusals that no code fits exactly.
_RETURN_CODES: Final = RETURN_CODES | {Reason.BAD_AUTH_METHOD: 4, Reason.BANNED: 5, Reason.TOPIC_NAME_INVALID: 5}
_RETURN_CODE_OTHERWISE: Final = RETURN_CODES[Reason.SERVER_UNAVAILABLE]


def encode(packet: Packet, version: int) -> bytes:
    """The packet with its fixed header, for a connection of `version` (4 or 5); a CONNECT carries its own version.

    What 3.1.1 lacks (properties, most reasons) is left out. Raises `ValueError` for what cannot be written.
    """
    return _ENCODERS[type(packet)](packet, version)


def _frame(first: int, *chunks: bytes) -> bytes:
    """The fixed header and the rest."""
    return b"".join((bytes((first,)), encode_varint(sum(map(len, chunks))), *chunks))


def _properties(properties: Properties, version: int) -> bytes:
    """Properties where the version has them."""
    return encode_properties(properties) if version == V5 else b""


def _publish(packet: Publish, version: int) -> bytes:
    return _frame(
        0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain,
        write_binary(packet.topic),
        write_u16(packet.packet_id) if packet.qos else b"",  # [MQTT-2.2.1-2], 3.1.1 [MQTT-2.3.1-5]
        _properties(packet.properties, version),
        packet.payload,
    )


def _connect(packet: Connect, _version: int) -> bytes:
    version = packet.version
    flags = packet.clean_start << 1
    payload = [write_text(packet.client_id)]
    will = packet.will
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        payload += (_properties(will.properties, version), write_binary(will.topic), write_binary(will.payload))
    if packet.username is not None:
        flags |= 0x80
        payload.append(write_text(packet.username))
    if packet.password is not None:
        flags |= 0x40
        payload.append(write_binary(packet.password))
    return _frame(
        0x10,
        b"\0\4MQTT",
        bytes((version, flags)),
        write_u16(packet.keep_alive),
        _properties(packet.properties, version),
        *payload,
    )


def _connack(packet: Connack, version: int) -> bytes:
    present = packet.session_present and not packet.reason  # [MQTT-3.2.2-1, -6], 3.1.1 [MQTT-3.2.2-4]
    code = packet.reason if version == V5 else _RETURN_CODES.get(packet.reason, _RETURN_CODE_OTHERWISE)
    return _frame(0x20, bytes((present, code)), _properties(packet.properties, version))


def _ack(first: int) -> Callable[[Ack, int], bytes]:
    """The encoder of one of the four acknowledgements of PUBLISH."""
    short = bytes((first, 2))
    with_reason = bytes((first, 3))

    def encoder(packet: Ack, version: int) -> bytes:
        packet_id = write_u16(packet.packet_id)
        if version == V4:
            return short + packet_id
        if packet.properties != _NONE:
            return _frame(first, packet_id, bytes((packet.reason,)), encode_properties(packet.properties))
        if packet.reason:
            return with_reason + packet_id + bytes((packet.reason,))
        return short + packet_id

    return encoder


def _subscribe(packet: Subscribe, version: int) -> bytes:
    chunks = [write_u16(packet.packet_id), _properties(packet.properties, version)]
    for request in packet.requests:
        options = request.qos
        if version == V5:
            options |= request.no_local << 2 | request.retain_as_published << 3 | request.retain_handling << 4
        chunks += (write_text(request.filter), bytes((options,)))
    return _frame(0x82, *chunks)


def _suback(packet: Suback, version: int) -> bytes:
    reasons = packet.reasons
    if version == V4:
        reasons = [min(reason, 0x80) for reason in reasons]  # there is one failure in 3.1.1 [MQTT-3.9.3-2]
    return _frame(0x90, write_u16(packet.packet_id), _properties(packet.properties, version), bytes(reasons))


def _unsubscribe(packet: Unsubscribe, version: int) -> bytes:
    return _frame(
        0xA2,
        write_u16(packet.packet_id),
        _properties(packet.properties, version),
        *map(write_text, packet.filters),
    )


def _unsuback(packet: Unsuback, version: int) -> bytes:
    if version == V4:
        return _frame(0xB0, write_u16(packet.packet_id))
    return _frame(0xB0, write_u16(packet.packet_id), encode_properties(packet.properties), bytes(packet.reasons))


def _pingreq(_packet: Pingreq, _version: int) -> bytes:
    return b"\xc0\0"


def _pingresp(_packet: Pingresp, _version: int) -> bytes:
    return b"\xd0\0"


def _reasoned(first: int, packet: Disconnect | Auth) -> bytes:
    """DISCONNECT and AUTH, whose form for success without properties is empty (§3.14.2.1, §3.15.2.1)."""
    if packet.properties != _NONE:
        return _frame(first, bytes((packet.reason,)), encode_properties(packet.properties))
    return _frame(first, bytes((packet.reason,)) if packet.reason else b"")


def _disconnect(packet: Disconnect, version: int) -> bytes:
    return b"\xe0\0" if version == V4 else _reasoned(0xE0, packet)


def _auth(packet: Auth, version: int) -> bytes:
    if version == V4:
        raise ValueError("MQTT 3.1.1 has no AUTH")
    return _reasoned(0xF0, packet)


# The first bytes have the flags that the specification reserves for them [MQTT-2.1.3-1], 3.1.1 [MQTT-2.2.2-1].
_ENCODERS: Final[dict[type, Callable[[Any, int], bytes]]] = {
    Connect: _connect,
    Connack: _connack,
    Publish: _publish,
    Puback: _ack(0x40),
    Pubrec: _ack(0x50),
    Pubrel: _ack(0x62),
    Pubcomp: _ack(0x70),
    Subscribe: _subscribe,
    Suback: _suback,
    Unsubscribe: _unsubscribe,
    Unsuback: _unsuback,
    Pingreq: _pingreq,
    Pingresp: _pingresp,
    Disconnect: _disconnect,
    Auth: _auth,
}
