"""A packet of the largest size costs time in proportion to its size, whatever it holds."""

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from broker.errors import ProtocolError
from broker.limits import PACKET_BYTES_MAX
from broker.wire.decode import decode, split
from broker.wire.primitives import encode_varint
from broker.wire.topics import check_filter, check_topic_name, covers, filter_fits, matches

SIZE = PACKET_BYTES_MAX


def fill(chunk: bytes) -> bytes:
    return chunk * (SIZE // len(chunk))


def in_properties(chunk: bytes) -> bytes:
    body = fill(chunk)
    return encode_varint(len(body)) + body


HOSTILE = {
    "user properties": (0x30, b"\x00\x01t" + in_properties(b"\x26\x00\x00\x00\x00")),
    "long user properties": (0x30, b"\x00\x01t" + in_properties(b"\x26\xff\xff" + b"x" * 65535 + b"\x00\x00")),
    "subscription identifiers": (0x30, b"\x00\x01t" + in_properties(b"\x0b\x01")),
    "a property repeated": (0x30, b"\x00\x01t" + in_properties(b"\x01\x01")),
    "topic of separators": (0x30, b"\xff\xff" + b"/" * 65535 + b"\x00"),
    "filters": (0x82, b"\x00\x01\x00" + fill(b"\x00\x01a\x00")),
    "empty filters": (0x82, b"\x00\x01\x00" + fill(b"\x00\x00\x00")),
    "long filters": (0x82, b"\x00\x01\x00" + fill(b"\xff\xff" + b"+/" * 32767 + b"a\x00")),
    "filters to leave": (0xA2, b"\x00\x01\x00" + fill(b"\x00\x00")),
    "reasons": (0x90, b"\x00\x01\x00" + bytes(SIZE)),
    "bad reasons": (0xB0, b"\x00\x01\x00" + b"\xff" * SIZE),
    "payload": (0x30, b"\x00\x01t\x00" + bytes(SIZE)),
    "tail": (0xC0, bytes(SIZE)),
}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_packet_is_cheap(name: str) -> None:
    """Anything quadratic takes minutes at 1 MiB: a bound of a second tells, on any machine."""
    first, body = HOSTILE[name]

    def work() -> None:
        try:
            decode(first, body, 5)
        except ProtocolError:
            return

    assert seconds(work) < 1.0


def test_hostile_topics_are_cheap() -> None:
    def work() -> None:
        for text in ("/" * SIZE, "+/" * (SIZE // 2), "$share/" + "g" * SIZE, "a" * SIZE, "#" * SIZE):
            with suppress(ProtocolError):
                check_filter(text)
                assert not filter_fits(text)
            with pytest.raises(ProtocolError):
                check_topic_name(text.encode())
        matches("+/" * 500 + "#", "/" * 1000)
        covers("+/" * 500 + "#", "+/" * 500 + "#")

    assert seconds(work) < 1.0


def test_a_frame_is_not_searched_again_for_each_byte_that_arrives() -> None:
    """`split` looks at five bytes at most, however much is there already."""
    buffer = b"\x30" + encode_varint(SIZE - 4) + bytes(SIZE - 5)
    assert seconds(lambda: [split(buffer, 0, SIZE) for _ in range(10_000)]) < 1.0
