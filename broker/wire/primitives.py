"""MQTT's data representations (MQTT 5 §1.5): integers, variable byte integers, binary data, UTF-8 strings.

Readers take a buffer and a position and return the value and the position behind it; they raise `MalformedPacket` where
the buffer ends too early. Writers raise `ValueError` for what MQTT cannot carry: that is a bug of the caller.
"""

from typing import Final

from broker.errors import MalformedPacket, ProtocolError

VARINT_MAX: Final = 268_435_455  # four bytes of seven bits (§1.5.5)
FIELD_BYTES_MAX: Final = 0xFFFF  # strings and binary data have a two-byte length (§1.5.4, §1.5.6)


def truncated() -> MalformedPacket:
    """The error for a field that reaches over the end of its packet or property block."""
    return MalformedPacket("a field is cut off")


def read_byte(buffer: bytes, pos: int) -> tuple[int, int]:
    """One byte."""
    if pos >= len(buffer):
        raise truncated()
    return buffer[pos], pos + 1


def read_flag(buffer: bytes, pos: int) -> tuple[int, int]:
    """One byte that may only be 0 or 1; anything else is a protocol error (0x82)."""
    if pos >= len(buffer):
        raise truncated()
    value = buffer[pos]
    if value > 1:
        raise ProtocolError("a flag is neither 0 nor 1")
    return value, pos + 1


def read_u16(buffer: bytes, pos: int) -> tuple[int, int]:
    """A two byte integer (§1.5.2)."""
    end = pos + 2
    if end > len(buffer):
        raise truncated()
    return buffer[pos] << 8 | buffer[pos + 1], end


def read_u32(buffer: bytes, pos: int) -> tuple[int, int]:
    """A four byte integer (§1.5.3)."""
    end = pos + 4
    if end > len(buffer):
        raise truncated()
    return int.from_bytes(buffer[pos:end], "big"), end


def read_binary(buffer: bytes, pos: int) -> tuple[bytes, int]:
    """Binary data of up to 65,535 bytes (§1.5.6)."""
    start = pos + 2
    if start > len(buffer):
        raise truncated()
    end = start + (buffer[pos] << 8 | buffer[pos + 1])
    if end > len(buffer):
        raise truncated()
    return buffer[start:end], end


def read_text(buffer: bytes, pos: int) -> tuple[str, int]:
    """A UTF-8 string of up to 65,535 bytes, well-formed [MQTT-1.5.4-1] and without U+0000 [MQTT-1.5.4-2].

    3.1.1 [MQTT-1.5.3-1, -2].
    """
    start = pos + 2
    if start > len(buffer):
        raise truncated()
    end = start + (buffer[pos] << 8 | buffer[pos + 1])
    if end > len(buffer):
        raise truncated()
    try:
        # Refuses surrogates and overlong forms, keeps U+FEFF [MQTT-1.5.4-3], 3.1.1 [MQTT-1.5.3-3].
        text = buffer[start:end].decode()
    except UnicodeDecodeError:
        raise MalformedPacket("a string is not UTF-8") from None
    if "\0" in text:
        raise MalformedPacket("a string contains U+0000")
    return text, end


def read_pair(buffer: bytes, pos: int) -> tuple[tuple[str, str], int]:
    """Two UTF-8 strings, each as any other [MQTT-1.5.7-1]."""
    name, pos = read_text(buffer, pos)
    value, pos = read_text(buffer, pos)
    return (name, value), pos


def decode_varint(buffer: bytes, pos: int) -> tuple[int, int]:
    """A variable byte integer of up to four bytes, in its shortest form [MQTT-1.5.5-1]."""
    if pos >= len(buffer):
        raise truncated()
    byte = buffer[pos]
    pos += 1
    if byte < 0x80:
        return byte, pos
    value = byte & 0x7F
    for shift in (7, 14, 21):
        if pos >= len(buffer):
            raise truncated()
        byte = buffer[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if not byte:
                raise MalformedPacket("a variable byte integer is longer than it needs to be")
            return value, pos
    raise MalformedPacket("a variable byte integer is longer than four bytes")


def encode_varint(n: int) -> bytes:
    """`n` as a variable byte integer, in its shortest form [MQTT-1.5.5-1]. `ValueError` above 268,435,455."""
    if n < 0x80:
        return n.to_bytes(1, "big")
    if n < 0x4000:
        return bytes((n & 0x7F | 0x80, n >> 7))
    if n > VARINT_MAX:
        raise ValueError(f"{n} does not fit a variable byte integer")
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def write_byte(value: int) -> bytes:
    """One byte."""
    return bytes((value,))


def write_u16(value: int) -> bytes:
    """A two byte integer."""
    if not 0 <= value <= 0xFFFF:
        raise ValueError(f"{value} does not fit a two byte integer")
    return value.to_bytes(2, "big")


def write_u32(value: int) -> bytes:
    """A four byte integer."""
    if not 0 <= value <= 0xFFFF_FFFF:
        raise ValueError(f"{value} does not fit a four byte integer")
    return value.to_bytes(4, "big")


def write_binary(value: bytes) -> bytes:
    """Binary data, or a topic [MQTT-4.7.3-3], with its length. `ValueError` above 65,535 bytes."""
    if len(value) > FIELD_BYTES_MAX:
        raise ValueError(f"{len(value)} bytes do not fit a field of MQTT (65,535 at most)")
    return len(value).to_bytes(2, "big") + value


def write_text(value: str) -> bytes:
    """A UTF-8 string with its length. `ValueError` above 65,535 bytes, for a surrogate, and for U+0000."""
    if "\0" in value:
        raise ValueError("a string of MQTT cannot contain U+0000")
    return write_binary(value.encode())


def write_pair(value: tuple[str, str]) -> bytes:
    """Two UTF-8 strings."""
    return write_text(value[0]) + write_text(value[1])
