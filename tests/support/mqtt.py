"""A raw MQTT client on asyncio streams: sends any bytes, reads packets with the broker's own wire package.

It never answers by itself, so a test sees, and sends, every packet of a conversation. Where it waits for the answer to
a request of its own, messages that come before it are kept for `receive`: answers and messages have no common order.
"""

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from broker.wire.decode import decode, split
from broker.wire.encode import encode
from broker.wire.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Publish,
    Request,
    Suback,
    Subscribe,
)

PacketT = TypeVar("PacketT", bound=Packet)
TIMEOUT_S = 10
# What a peer that is gone looks like, whether it said goodbye to TCP or not.
GONE = (ConnectionError, ssl.SSLError, EOFError)


class Client:
    """One connection. `version` is how packets are encoded and read."""

    _all: ClassVar[list["Client"]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self.reader = reader
        self.writer = writer
        self.version = version
        self.connack = Connack()
        self._buffer = bytearray()
        self._kept: deque[Publish] = deque()
        self._id = 0
        self._all.append(self)

    # -- opening and closing -------------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls, port: int | Path, *, version: int = 5, tls: ssl.SSLContext | None = None, **options: Any
    ) -> Self:
        """A connection to a port or a Unix socket, without a CONNECT. `options` go to asyncio.open_connection."""
        if tls is not None:
            options.setdefault("server_hostname", "localhost")
        async with asyncio.timeout(TIMEOUT_S):
            if isinstance(port, Path):
                reader, writer = await asyncio.open_unix_connection(port, ssl=tls, **options)
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, **options)
        return cls(reader, writer, version)

    @classmethod
    async def connected(
        cls,
        port: int | Path,
        client_id: str = "",
        *,
        version: int = 5,
        tls: ssl.SSLContext | None = None,
        reason: int = 0,
        options: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Self:
        """A client that has sent CONNECT with `fields` and got a CONNACK with `reason`."""
        client = await cls.open(port, version=version, tls=tls, **(options or {}))
        await client.send(Connect(client_id, version, **fields))
        client.connack = await client.expect(Connack)
        assert client.connack.reason == reason, client.connack
        return client

    async def close(self) -> None:
        """Close the socket, without a DISCONNECT."""
        self.writer.close()
        with suppress(GONE):
            await self.writer.wait_closed()

    def abort(self) -> None:
        """Drop the connection at once."""
        self.writer.transport.abort()

    @classmethod
    async def abort_all(cls) -> None:
        """Drop what a test has left open."""
        for client in cls._all:
            client.abort()
            await client.close()
        cls._all.clear()

    async def disconnect(self, reason: int = 0, properties: Properties | None = None) -> None:
        """Say goodbye, and wait until the broker has closed."""
        await self.send(Disconnect(reason, properties or Properties()))
        await self.expect_end()
        await self.close()

    # -- packets -------------------------------------------------------------------------------------------------------

    async def send(self, *packets: Packet | bytes) -> None:
        """Send packets, or bytes as they are, in one write."""
        self.writer.write(b"".join(p if isinstance(p, bytes) else encode(p, self.version) for p in packets))
        await self.writer.drain()

    async def receive(self, within_s: float = TIMEOUT_S) -> Packet | None:
        """The next packet, or None at the end of the connection."""
        return self._kept.popleft() if self._kept else await self._read(within_s)

    async def _read(self, within_s: float = TIMEOUT_S) -> Packet | None:
        async with asyncio.timeout(within_s):
            while True:
                frame = split(self._buffer, 0, 1 << 28)
                if frame is not None:
                    first, start, end = frame
                    body = bytes(self._buffer[start:end])
                    del self._buffer[:end]
                    return decode(first, body, self.version)
                try:
                    data = await self.reader.read(1 << 18)
                except GONE:
                    return None
                if not data:
                    return None
                self._buffer += data

    async def expect(self, kind: type[PacketT], within_s: float = TIMEOUT_S) -> PacketT:
        """The next packet, which must be a `kind`."""
        packet = await self.receive(within_s)
        assert isinstance(packet, kind), f"{packet!r} instead of {kind.__name__}"
        return packet

    async def _answer(self, kind: type[PacketT]) -> PacketT:
        """The answer to a request; messages that were on the way before it are read later."""
        while isinstance(packet := await self._read(), Publish):
            self._kept.append(packet)
        assert isinstance(packet, kind), f"{packet!r} instead of {kind.__name__}"
        return packet

    async def expect_end(self, reason: int | None = None) -> None:
        """The broker closes; with a DISCONNECT of `reason` before, if one is given."""
        if reason is not None:
            packet = await self.expect(Disconnect)
            assert packet.reason == reason, f"0x{packet.reason:02x} instead of 0x{reason:02x}"
        packet = await self.receive()
        assert packet is None, f"{packet!r} instead of the end"

    async def silent(self) -> None:
        """Nothing was sent to this client that it has not read: the answer to a PINGREQ comes first."""
        await self.send(Pingreq())
        await self.expect(Pingresp)

    def next_id(self) -> int:
        """A packet id that was not used before."""
        self._id += 1
        return self._id

    async def subscribe(self, *filters: str | Request, qos: int = 0, **properties: Any) -> Suback:
        """Subscribe and wait for the SUBACK."""
        requests = [Request(f, qos) if isinstance(f, str) else f for f in filters]
        id = self.next_id()
        await self.send(Subscribe(id, requests, Properties(**properties)))
        answer = await self._answer(Suback)
        assert answer.packet_id == id
        return answer

    async def publish(
        self, topic: str, payload: bytes = b"", *, qos: int = 0, retain: bool = False, **properties: Any
    ) -> Puback | None:
        """Publish; at QoS 1, wait for the PUBACK."""
        id = self.next_id() if qos else 0
        await self.send(Publish(topic.encode(), payload, qos, retain, False, id, Properties(**properties)))
        if qos != 1:
            return None
        answer = await self._answer(Puback)
        assert answer.packet_id == id
        return answer

    async def ask(self, topic: str, payload: bytes, **properties: Any) -> Publish:
        """Publish at QoS 1; the message that comes for it, before the PUBACK or after it, is acknowledged."""
        id = self.next_id()
        await self.send(Publish(topic.encode(), payload, 1, packet_id=id, properties=Properties(**properties)))
        message: Publish | None = None
        acknowledged = False
        while message is None or not acknowledged:
            packet = await self.receive()
            if isinstance(packet, Publish) and message is None:
                await self.send(Puback(packet.packet_id))
                message = packet
            else:
                assert isinstance(packet, Puback), packet
                assert (packet.packet_id, packet.reason < 0x80) == (id, True)
                acknowledged = True
        return message

    async def expect_message(self, payload: bytes | None = None, *, acknowledge: bool = True) -> Publish:
        """The next packet, a PUBLISH with `payload`; at QoS 1 it is acknowledged."""
        message = await self.expect(Publish)
        if payload is not None:
            assert message.payload == payload
        if acknowledge and message.qos == 1:
            await self.send(Puback(message.packet_id))
        return message
