"""What a WebSocket client sends, out of its frames (RFC 6455 §5). Sans-I/O.

Of our own making, unlike the HTTP before it: the library holds a frame back until all of it has come, at 2.5 us and a
kilobyte for each that is under way. Here the bytes go on as they come, so that no frame is too large.
"""

import struct
from typing import Final

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, apply_mask  # type: ignore[attr-defined]  # the last is not in __all__

BINARY: Final = 0x82  # the first byte of a frame; all of ours are whole messages
CLOSE: Final = 0x88
PING: Final = 0x89
PONG: Final = 0x8A

_FIN, _RESERVED, _OPCODE, _CONTROL, _MASKED = 0x80, 0x70, 0x0F, 0x08, 0x80
_CONTROL_BYTES_MAX: Final = 125


class Frames:
    """Takes frames apart. After each `unwrap`, `pong` and `goodbye` say what is to be sent for what came."""

    __slots__ = ("_fragmented", "_left", "_mask", "_part", "error", "goodbye", "pong")

    def __init__(self) -> None:
        self.pong: bytes | None = None  # of pings the last is to be answered (§5.5.3)
        self.goodbye: bytes | None = None  # what a Close frame is to say; nothing is taken in any more
        self.error = ""  # how the peer broke the protocol
        self._part = b""  # of a header, or of a control frame
        self._left = 0  # bytes of a data frame that are still to come
        self._mask = b""  # from the next of them on
        self._fragmented = False

    def unwrap(self, data: bytes) -> bytes:
        """The bytes in data frames, as far as they have come. They are one stream [MQTT-6.0.0-2]."""
        if self._part:
            data, self._part = self._part + data, b""
        chunks = []
        left, mask = self._left, self._mask
        pos, end = 0, len(data)
        while pos < end:
            if left:
                stop = min(pos + left, end)
                chunks.append(apply_mask(data[pos:stop], mask))
                left -= stop - pos
                if left:
                    turn = stop - pos & 3
                    mask = mask[turn:] + mask[:turn]
                pos = stop
                continue
            first = data[pos]
            at = pos + 2
            if end < at:
                break
            size = data[pos + 1] - _MASKED
            if size < 0:
                self._fail(CloseCode.PROTOCOL_ERROR, "a frame without a mask")  # §5.1
                break
            at += 4 if size < 126 else 6 if size == 126 else 12
            if end < at:
                break
            if size >= 126:
                size = int.from_bytes(data[pos + 2 : at - 4])
            if first != BINARY or self._fragmented:
                self._check(first, size)
                if self.goodbye is not None:
                    break
                if first & _CONTROL:
                    if end < at + size:
                        break
                    pos = at + size
                    self._control(first, apply_mask(data[at:pos], data[at - 4 : at]))
                    if self.goodbye is not None:
                        break
                    continue
            left, mask, pos = size, data[at - 4 : at], at
        self._part = b"" if self.goodbye is not None else data[pos:]
        self._left, self._mask = left, mask if left else b""
        return b"".join(chunks)

    def _check(self, first: int, size: int) -> None:
        """A frame that is not a whole binary message; its header has come."""
        opcode, last = first & _OPCODE, bool(first & _FIN)
        if first & _RESERVED:
            self._fail(CloseCode.PROTOCOL_ERROR, "a reserved bit")
        elif opcode in (0, 2):
            if (opcode == 0) != self._fragmented:
                self._fail(CloseCode.PROTOCOL_ERROR, "fragments of a message that do not follow each other")
            self._fragmented = not last
        elif opcode == 1:
            self._fail(CloseCode.UNSUPPORTED_DATA, "a text frame")  # [MQTT-6.0.0-1]
        elif first not in (CLOSE, PING, PONG) or size > _CONTROL_BYTES_MAX:
            self._fail(CloseCode.PROTOCOL_ERROR, "a frame of no known kind")

    def _control(self, first: int, data: bytes) -> None:
        if first == PING:
            self.pong = data
        elif first == CLOSE:
            try:
                Close.parse(data)
            except ProtocolError:
                self._fail(CloseCode.PROTOCOL_ERROR, "a malformed Close frame")
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_DATA, "a Close frame that is no UTF-8")
            else:
                self.goodbye = data

    def _fail(self, code: CloseCode, error: str) -> None:
        self.goodbye, self.error = struct.pack("!H", code), error


def header(first: int, size: int) -> bytes:
    """Of a frame to a client, which has no mask."""
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)
