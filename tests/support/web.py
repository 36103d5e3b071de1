"""A raw MQTT client over WebSocket: frames of our own making, so that they can be wrong."""

import asyncio
import os
import ssl
import struct
from pathlib import Path
from typing import Any, Self

from support.mqtt import GONE, TIMEOUT_S, Client
from websockets.utils import apply_mask  # the one in Python: the broker has the other

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # and its answer, from RFC 6455 §1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """A frame as a client sends it, unless told otherwise."""
    size, mask = len(data), 0x80 if masked else 0
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    if size < 126:
        head += bytes((mask | size,))
    elif size < 1 << 16:
        head += struct.pack("!BH", mask | 126, size)
    else:
        head += struct.pack("!BQ", mask | 127, size)
    if not masked:
        return head + data
    key = os.urandom(4)
    return head + key + apply_mask(data, key)


def request(path: str = "/", *, drop: str = "", first: str = "", **changed: str | None) -> bytes:
    """An opening request. `changed` headers have `_` for `-`; None leaves one out; `first` is the request line."""
    headers: dict[str, str | None] = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "mqtt",
    }
    headers.update({name.replace("_", "-"): value for name, value in changed.items()})
    lines = [
        first or f"GET {path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items() if value is not None),
    ]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


class _Reader:
    """Gives what is in binary frames, as a stream; keeps what else came."""

    def __init__(self, raw: asyncio.StreamReader) -> None:
        self.raw = raw
        self.sizes: list[int] = []  # of binary frames
        self.pongs: list[bytes] = []
        self.close: bytes | None = None

    async def read(self, _size: int) -> bytes:
        while self.close is None:
            try:
                first, size = await self.raw.readexactly(2)
                if size == 126:
                    (size,) = struct.unpack("!H", await self.raw.readexactly(2))
                elif size == 127:
                    (size,) = struct.unpack("!Q", await self.raw.readexactly(8))
                data = await self.raw.readexactly(size)
            except GONE:
                return b""
            assert first & 0x80, "a fragment"
            match first & 0x7F:
                case 2:
                    self.sizes.append(size)
                    return data
                case 8:
                    self.close = data
                case 10:
                    self.pongs.append(data)
                case other:
                    raise AssertionError(f"a frame that begins with 0x{other:02x}")
        assert await self.raw.read() == b"", "something after Close"
        return b""


class _Writer:
    """Sends each write in a frame of its own, or of at most `size` bytes."""

    def __init__(self, raw: asyncio.StreamWriter) -> None:
        self.raw = raw
        self.size = 0

    def write(self, data: bytes) -> None:
        size = self.size or len(data)
        self.raw.write(b"".join(frame(BINARY, data[at : at + size]) for at in range(0, len(data), size)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


class WebClient(Client):
    """`frames` are what it reads, `raw` is what it writes past them."""

    frames: _Reader
    raw: asyncio.StreamWriter

    @classmethod
    async def open(
        cls, port: int | Path, *, version: int = 5, tls: ssl.SSLContext | None = None, **options: Any
    ) -> Self:
        """A connection whose WebSocket is open, without a CONNECT."""
        asked = options.pop("request", request())
        client = await super().open(port, version=version, tls=tls, **options)
        client.writer.write(asked)
        async with asyncio.timeout(TIMEOUT_S):
            head = (await client.reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 101 "), head
        assert f"Sec-WebSocket-Accept: {ACCEPT}\r\n" in head
        assert "Sec-WebSocket-Protocol: mqtt\r\n" in head  # [MQTT-6.0.0-4]
        assert "Sec-WebSocket-Extensions" not in head
        client.raw = client.writer
        client.frames = _Reader(client.reader)
        client.reader = client.frames  # type: ignore[assignment]  # as much of one as is used
        client.writer = _Writer(client.raw)  # type: ignore[assignment]
        return client

    async def expect_close(self, code: int | None, reason: int | None = None) -> None:
        """The end, after a Close frame with this code (None: an empty one), after a DISCONNECT if one is given."""
        await self.expect_end(reason)
        assert self.frames.close is not None, "no Close frame"
        got = int.from_bytes(self.frames.close[:2]) if self.frames.close else None
        assert got == code, self.frames.close
