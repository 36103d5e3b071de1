"""Packets as attackers send them: encoded before the clock starts, and not always right."""

import struct
from collections.abc import Sequence


def text(value: bytes) -> bytes:
    """A length of two bytes, and the value."""
    return struct.pack(">H", len(value)) + value


def header(first: int, length: int) -> bytes:
    """The fixed header of a packet whose remaining length is said to be `length`."""
    digits = [length & 0x7F]
    while length := length >> 7:
        digits[-1] |= 0x80
        digits.append(length & 0x7F)
    return bytes([first, *digits])


def packet(first: int, body: bytes) -> bytes:
    """A whole packet."""
    return header(first, len(body)) + body


def connect(
    client_id: bytes = b"",
    version: int = 4,
    *,
    clean: bool = True,
    keep_alive: int = 60,
    will: tuple[bytes, bytes, int, bool] | None = None,
    username: bytes | None = None,
    password: bytes | None = None,
    properties: bytes = b"",
) -> bytes:
    """CONNECT. `will` is topic, payload, QoS, retain."""
    flags = 2 * clean
    end = b""
    if will is not None:
        topic, payload, qos, retain = will
        flags |= 4 | qos << 3 | retain << 5
        end += (b"\0" if version == 5 else b"") + text(topic) + text(payload)
    if username is not None:
        flags |= 0x80
        end += text(username)
    if password is not None:
        flags |= 0x40
        end += text(password)
    middle = header(0, len(properties))[1:] + properties if version == 5 else b""
    return packet(0x10, b"\0\4MQTT" + struct.pack(">BBH", version, flags, keep_alive) + middle + text(client_id) + end)


def publish(
    topic: bytes,
    payload: bytes = b"",
    qos: int = 0,
    *,
    packet_id: int = 0,
    retain: bool = False,
    properties: bytes | None = None,
) -> bytes:
    """PUBLISH; with `properties` (b"" for none), of MQTT 5."""
    middle = header(0, len(properties))[1:] + properties if properties is not None else b""
    id = struct.pack(">H", packet_id) if qos else b""
    return packet(0x30 | qos << 1 | retain, text(topic) + id + middle + payload)


def subscribe(filters: Sequence[bytes], qos: int = 0, packet_id: int = 1, *, v5: bool = False) -> bytes:
    """SUBSCRIBE to all of them."""
    head = struct.pack(">H", packet_id) + (b"\0" if v5 else b"")
    return packet(0x82, head + b"".join(text(filter) + bytes([qos]) for filter in filters))


def unsubscribe(filters: Sequence[bytes], packet_id: int = 1, *, v5: bool = False) -> bytes:
    """UNSUBSCRIBE from all of them."""
    head = struct.pack(">H", packet_id) + (b"\0" if v5 else b"")
    return packet(0xA2, head + b"".join(text(filter) for filter in filters))
