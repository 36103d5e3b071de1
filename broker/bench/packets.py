"""The few MQTT packets that the load needs, of 3.1.1 and 5, encoded apart from the code that is measured."""

import struct
from collections.abc import Sequence
from typing import Final

from broker.bench.machine import BenchError

PUBACK: Final = 0x40
PUBREC: Final = 0x50
PUBREL: Final = 0x62
PUBCOMP: Final = 0x70
CONNACK: Final = 0x20
SUBACK: Final = 0x90
DISCONNECT: Final = b"\xe0\x00"
BODY_BYTES_MIN: Final = 16

# Packet ids follow the numbers of the messages, so that an answer's id is known before it comes. Never 0.
FIRST_ID: Final = 0x8000
IDS: Final = 0x8000
_ID_RING: Final = b"".join(struct.pack(">H", FIRST_ID + at) for at in range(IDS)) * 2

# A message's number: whose it is, and the how manyeth.
STREAM_SHIFT: Final = 40


def connect_packet(
    client_id: bytes, *, version: int, clean: bool, user: bytes | None = None, password: bytes | None = None
) -> bytes:
    """CONNECT without keep-alive. A session that is not clean outlives its connection by an hour."""
    flags = (0x02 if clean else 0) | (0x80 if user is not None else 0) | (0x40 if password is not None else 0)
    properties = b"" if version == 4 else b"\x00" if clean else b"\x05\x11" + struct.pack(">I", 3600)
    secrets = b"".join(text_field(text) for text in (user, password) if text is not None)
    head = text_field(b"MQTT") + bytes([version, flags, 0, 0]) + properties
    return _packet(0x10, head + text_field(client_id) + secrets)


def subscribe_packet(filters: Sequence[bytes], *, version: int, qos: int) -> bytes:
    """SUBSCRIBE to all of them, with packet id 1."""
    properties = b"" if version == 4 else b"\x00"
    return _packet(0x82, b"\x00\x01" + properties + b"".join(text_field(name) + bytes([qos]) for name in filters))


def publish_packet(topic: bytes, body: bytes, *, version: int, qos: int, packet_id: int, retain: bool = False) -> bytes:
    """PUBLISH."""
    variable = text_field(topic) + (struct.pack(">H", packet_id) if qos else b"") + (b"" if version == 4 else b"\x00")
    return _packet(0x30 | qos << 1 | retain, variable + body)


def topic_of(number: int) -> bytes:
    """The topic of one session: 14 bytes, like every topic here."""
    return b"bench/%08d" % number


def text_field(text: bytes) -> bytes:
    """A text as MQTT writes it."""
    return struct.pack(">H", len(text)) + text


def measure(data: bytes) -> tuple[int, int] | None:
    """How long the header of the packet at the beginning is, and the packet; None when that has not come yet."""
    length = 0
    for at in range(1, min(5, len(data))):
        length |= (data[at] & 0x7F) << (7 * (at - 1))
        if data[at] < 0x80:
            return at + 1, at + 1 + length
    return None


def ids_of(first: int, count: int) -> bytes:
    """The packet ids of `count` messages, beginning with the `first`th, as they stand in their packets."""
    begin = first % IDS * 2
    return _ID_RING[begin : begin + 2 * count]


def answers(kind: int, ids: bytes) -> bytes:
    """One packet of that kind for each of these ids."""
    packets = bytearray(bytes([kind, 2, 0, 0]) * (len(ids) // 2))
    packets[2::4] = ids[0::2]
    packets[3::4] = ids[1::2]
    return bytes(packets)


def _packet(head: int, body: bytes) -> bytes:
    length = len(body)
    digits = [length & 0x7F]
    while length := length >> 7:
        digits[-1] |= 0x80
        digits.append(length & 0x7F)
    return bytes([head, *digits]) + body


class Form:
    """PUBLISH packets of one size. The body begins with the message's number; what follows is the same in all."""

    def __init__(self, version: int, qos: int, body_bytes: int, topic: bytes) -> None:
        self.version, self.qos, self.body_bytes = version, qos, body_bytes
        self.filler = bytes(at * 7 & 0xFF for at in range(body_bytes - 8))
        self.size = len(self.packet(topic, 0))
        self.number_at = self.size - body_bytes
        self.id_at = self.number_at - (2 if version == 4 else 3)  # before the properties, of which there are none

    def packet(self, topic: bytes, number: int, *, retain: bool = False) -> bytes:
        """One of them."""
        body = struct.pack(">Q", number) + self.filler
        packet_id = FIRST_ID + number % IDS
        return publish_packet(topic, body, version=self.version, qos=self.qos, packet_id=packet_id, retain=retain)


class Received:
    """The form of the PUBLISHes that one client gets: all of one size, learnt from the first."""

    def __init__(self, first: bytes, form: Form) -> None:
        found = measure(first)
        assert found is not None
        head, self.size = found
        if first[0] & 0xF0 != 0x30 or (first[0] >> 1 & 3) != form.qos or self.size < head + 2 + form.body_bytes:
            raise BenchError(f"the broker sent {first[:8].hex()} where one of the messages was to come")
        self._form = form
        self.id_at = head + 2 + int.from_bytes(first[head : head + 2], "big")
        self.number_at = self.size - form.body_bytes
        gap = self.number_at - self.id_at
        self._fields = struct.Struct(f">x{head - 1}s{self.id_at - head}s{gap}xQ{form.body_bytes - 8}s")
        self._heads = {0x30 | form.qos << 1 | again | kept for again in (0, 8) for kept in (0, 1)}
        self._length = first[1:head]

    def ids(self, packets: bytes) -> bytes:
        """The packet ids of whole packets."""
        ids = bytearray(len(packets) // self.size * 2)
        ids[0::2] = packets[self.id_at :: self.size]
        ids[1::2] = packets[self.id_at + 1 :: self.size]
        return bytes(ids)

    def numbers(self, packets: bytes, topics: set[bytes]) -> list[int]:
        """The numbers of whole packets, each of which must be as it was sent, but for its packet id."""
        if not packets:
            return []
        lengths, names, numbers, fillers = zip(*self._fields.iter_unpack(packets), strict=True)
        known = {text_field(topic) for topic in topics}
        heads = set(packets[:: self.size])
        if not (
            heads <= self._heads
            and set(lengths) == {self._length}
            and set(names) <= known
            and set(fillers) == {self._form.filler}
        ):
            raise BenchError("the broker sent something that is not one of the messages that it was sent")
        return list(numbers)
