"""The few MQTT packets that the load needs, encoded apart from the code that is measured.

Everybody speaks MQTT 3.1.1, where a PUBACK says yes and nothing else.
"""

import struct
from collections.abc import Sequence
from typing import Final

from bench.machine import BenchError

PUBLISH_QOS1: Final = 0x32
PUBLISH_QOS1_AGAIN: Final = 0x3A
PUBACK: Final = b"\x40\x02"
DISCONNECT: Final = b"\xe0\x00"
NEW_SESSION: Final = b"\x20\x02\x00\x00"
OLD_SESSION: Final = b"\x20\x02\x01\x00"


def connect_packet(client_id: bytes, *, clean: bool) -> bytes:
    """CONNECT without keep-alive."""
    return _packet(0x10, _text(b"MQTT") + bytes([4, 2 if clean else 0, 0, 0]) + _text(client_id))


def subscribe_packet(filters: Sequence[bytes]) -> bytes:
    """SUBSCRIBE to all of them at QoS 1, with packet id 1."""
    return _packet(0x82, b"\x00\x01" + b"".join(_text(name) + b"\x01" for name in filters))


def topic_of(session: int) -> bytes:
    """The topic of one session: 14 bytes, like every topic here."""
    return b"bench/%08d" % session


def _text(text: bytes) -> bytes:
    return struct.pack(">H", len(text)) + text


def _packet(head: int, body: bytes) -> bytes:
    length = len(body)
    digits = [length & 0x7F]
    while length := length >> 7:
        digits[-1] |= 0x80
        digits.append(length & 0x7F)
    return bytes([head, *digits]) + body


class Form:
    """PUBLISH packets of one size: QoS 1, a topic of 14 bytes, a body that begins with the message's number."""

    def __init__(self, body_bytes: int) -> None:
        self._filler = bytes(body_bytes - 8)
        sample = self.packet(topic_of(0), 1, 0)
        self.size = len(sample)
        at = self.size - body_bytes - 2
        self._fields = struct.Struct(f">{at}x2sQ{body_bytes - 8}x")

    def packet(self, topic: bytes, packet_id: int, number: int) -> bytes:
        """One of them."""
        return _packet(PUBLISH_QOS1, _text(topic) + struct.pack(">HQ", packet_id, number) + self._filler)

    def fields(self, packets: bytes) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
        """Packet ids as they stand there, and numbers, of one or more whole packets."""
        if not set(packets[:: self.size]) <= {PUBLISH_QOS1, PUBLISH_QOS1_AGAIN}:
            raise BenchError("the broker sent something that is not one of the packets it was sent")
        ids, numbers = zip(*self._fields.iter_unpack(packets), strict=True)
        return ids, numbers
