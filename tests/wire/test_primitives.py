"""Integers, strings and frames, at their bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import MalformedPacket, ProtocolError
from broker.wire.decode import split
from broker.wire.primitives import (
    decode_varint,
    encode_varint,
    read_text,
    write_binary,
    write_pair,
    write_text,
    write_u16,
    write_u32,
)

# Table 1-1 of the specification.
VARINTS = (
    (0, "00"),
    (127, "7F"),
    (128, "8001"),
    (16_383, "FF7F"),
    (16_384, "808001"),
    (2_097_151, "FFFF7F"),
    (2_097_152, "80808001"),
    (268_435_455, "FFFFFF7F"),
)


@pytest.mark.parametrize(("number", "wire"), VARINTS)
def test_varint(number: int, wire: str) -> None:
    raw = bytes.fromhex(wire)
    assert encode_varint(number) == raw
    assert decode_varint(b"\xff" + raw + b"\xff", 1) == (number, 1 + len(raw))


@given(st.integers(0, 268_435_455))
def test_varint_round_trip(number: int) -> None:
    raw = encode_varint(number)
    assert decode_varint(raw, 0) == (number, len(raw))


@pytest.mark.parametrize(
    "wire", ["", "80", "8080", "808080", "80808080", "FFFFFFFF7F", "8000", "808000", "80808000", "FF00"]
)
def test_varint_refused(wire: str) -> None:
    with pytest.raises(MalformedPacket) as caught:
        decode_varint(bytes.fromhex(wire), 0)
    assert caught.value.reason == 0x81


@pytest.mark.parametrize("number", [-1, 268_435_456])
def test_varint_too_large_to_write(number: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        encode_varint(number)


@pytest.mark.parametrize(
    "write",
    [
        lambda: write_u16(65536),
        lambda: write_u16(-1),
        lambda: write_u32(1 << 32),
        lambda: write_binary(b"x" * 65536),
        lambda: write_text("x" * 65536),
        lambda: write_text("€" * 21846),
        lambda: write_text("\ud800"),
        lambda: write_text("a\0"),
        lambda: write_pair(("a", "\0")),
    ],
)
def test_what_the_wire_cannot_carry(write: object) -> None:
    """[MQTT-4.7.3-3]."""
    assert callable(write)
    with pytest.raises(ValueError, match=r"."):
        write()


def test_longest_string() -> None:
    text = "€" * 21845
    assert read_text(write_text(text), 0) == (text, 65537)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50), st.binary(max_size=3))
def test_text_round_trip(text: str, before: bytes) -> None:
    raw = before + write_text(text)
    assert read_text(raw, len(before)) == (text, len(raw))


# -- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_split_finds_frames_one_after_another(kind: type) -> None:
    buffer = kind(b"\xc0\x00" + b"\x30\x80\x01" + b"x" * 128 + b"\xe0\x00")
    assert split(buffer, 0, 200) == (0xC0, 2, 2)
    assert split(buffer, 2, 200) == (0x30, 5, 133)
    assert split(buffer, 133, 200) == (0xE0, 135, 135)
    assert split(buffer, 135, 200) is None


@pytest.mark.parametrize("size", [0, 127, 128, 16_383, 16_384, 100_000])
def test_split_waits_until_the_frame_is_complete(size: int) -> None:
    wire = b"\x30" + encode_varint(size) + b"x" * size
    for cut in {*range(min(len(wire), 6)), len(wire) - 1} - {len(wire)}:
        assert split(wire[:cut], 0, 1 << 20) is None
    assert split(wire, 0, 1 << 20) == (0x30, len(wire) - size, len(wire))
    assert split(b"??" + wire + b"?", 2, 1 << 20) == (0x30, 2 + len(wire) - size, 2 + len(wire))


@pytest.mark.parametrize(
    "wire", ["30 8000", "30 808000", "30 80808000", "30 FF00", "30 80808080", "30 FFFFFFFF", "30 FFFFFFFF7F"]
)
def test_split_refuses_a_bad_remaining_length(wire: str) -> None:
    with pytest.raises(MalformedPacket) as caught:
        split(bytes.fromhex(wire), 0, 1 << 30)
    assert caught.value.reason == 0x81


def test_split_bounds_the_whole_packet_before_it_has_come() -> None:
    assert split(b"\x30\x08", 0, 10) is None
    for wire in (b"\x30\x09", b"\x30\x89\x01", b"\x30\xff\xff\xff\x7f"):
        with pytest.raises(ProtocolError) as caught:
            split(wire, 0, 10)
        assert caught.value.reason == 0x95


@given(st.binary(max_size=8), st.integers(0, 8), st.integers(2, 300))
def test_split_answers_any_bytes(buffer: bytes, pos: int, maximum: int) -> None:
    try:
        found = split(buffer, pos, maximum)
    except ProtocolError:
        return
    if found is not None:
        first, start, end = found
        assert first == buffer[pos]
        assert buffer[pos + 1 : start] == encode_varint(end - start)
        assert pos + 2 <= start <= end <= len(buffer)
        assert end - pos <= maximum
