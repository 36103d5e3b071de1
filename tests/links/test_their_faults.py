"""What their broker may do to a link: speak an older version, refuse, close, say nonsense, send without end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.engine import until
from support.live import device, populate, running, server
from support.mqtt import Client

from broker.app import Broker
from broker.limits import LINK_HELD_BYTES_MAX, LINK_IN_FLIGHT_MAX
from broker.links.relay import Relay
from broker.wire.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from client_sdk.backoff import Backoff

Answer = Callable[[Client, Packet], Awaitable[bool]]


class Their:
    """A broker that does what it must, but for what a test lets it do otherwise."""

    def __init__(self, otherwise: Answer) -> None:
        self.otherwise = otherwise
        self.connects: list[Connect] = []
        self.got: list[bytes] = []
        self.acknowledged: list[int] = []
        self.connection: Client | None = None
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(reader, writer, 5)
        while (packet := await client.receive(60)) is not None:
            if isinstance(packet, Connect):
                client.version = packet.version
                self.connects.append(packet)
            if await self.otherwise(client, packet):
                continue
            match packet:
                case Connect():
                    await client.send(Connack(session_present=len(self.connects) > 1))
                    self.connection = client
                case Subscribe():
                    await client.send(Suback(packet.packet_id, [1] * len(packet.requests)))
                case Unsubscribe():
                    await client.send(Unsuback(packet.packet_id, [0] * len(packet.filters)))
                case Publish():
                    self.got.append(packet.payload)
                    await client.send(Puback(packet.packet_id))
                case Puback():
                    self.acknowledged.append(packet.packet_id)
                case Pingreq():
                    await client.send(Pingresp())
                case Disconnect():
                    break
        await client.close()

    async def say(self, *packets: Packet | bytes) -> None:
        assert self.connection is not None
        await self.connection.send(*packets)


@asynccontextmanager
async def their(otherwise: Answer) -> AsyncIterator[Their]:
    broker = Their(otherwise)
    listener = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    broker.url = f"mqtt://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield broker


async def as_usual(_client: Client, _packet: Packet) -> bool:
    return False


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running(tmp_path / "data") as broker:
        broker.links.backoff = lambda: Backoff(first_s=0.02, longest_s=0.05)
        await populate(broker)
        yield broker


async def linked(broker: Broker, url: str, **more: Any) -> Relay:
    given: dict[str, Any] = {
        "version": "auto",
        "client_id": "",
        "username": "",
        "password": None,
        "ca": "",
        "cert": "",
        "key": "",
        "inbound": ("crm/{user} -> acme/user/{user}",),
        "outbound": ("acme/topic/{name} -> push/{name}",),
    }
    await broker.links.book.add("acme", "crm", url=url, **{**given, **more})
    await broker.links.changed("acme", "crm")
    return broker.links._relays["acme", "crm"]


async def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1(broker: Broker) -> None:
    async def old(client: Client, packet: Packet) -> bool:
        if isinstance(packet, Connect) and packet.version == 5:
            await client.send(b"\x20\x02\x00\x01")  # as 3.1.1 says it
            client.abort()
            return True
        return False

    async with their(old) as there:
        link = await linked(broker, there.url)
        await until(lambda: link.state == "connected")
        assert [packet.version for packet in there.connects] == [5, 4]
        assert not there.connects[-1].clean_start
        await (await server(broker)).publish("acme/topic/x", b"out", qos=1)
        await until(lambda: there.got == [b"out"])


async def test_a_broker_that_closes_at_mqtt_5_is_not_guessed_at_and_the_way_out_is_told(broker: Broker) -> None:
    async def deaf(client: Client, packet: Packet) -> bool:
        if isinstance(packet, Connect) and packet.version == 5:
            client.abort()
            return True
        return False

    async with their(deaf) as there:
        link = await linked(broker, there.url)
        await until(lambda: link.error)
        assert link.error.endswith("if it speaks only 3.1.1: pushbroker link set acme crm --mqtt 3.1.1")
        await broker.links.book.set("acme", "crm", **_only(version="3.1.1"))
        await broker.links.changed("acme", "crm")
        await until(lambda: broker.links.connected == 1)


async def test_what_they_have_no_room_for_is_sent_again_in_its_order(broker: Broker) -> None:
    full = {b"1": 2}

    async def refuse(client: Client, packet: Packet) -> bool:
        if isinstance(packet, Publish) and full.get(packet.payload, 0):
            full[packet.payload] -= 1
            await client.send(Puback(packet.packet_id, 0x97))
            return True
        return False

    async with their(refuse) as there:
        link = await linked(broker, there.url)
        await until(lambda: link.state == "connected")
        brand = await server(broker)
        for n in range(3):
            await brand.publish("acme/topic/x", b"%d" % n, qos=1)
        await until(lambda: link.counts.messages_out >= 3 and link.status()["waiting_out"] == 0)
        assert list(dict.fromkeys(there.got)) in ([b"0", b"1", b"2"], [b"0", b"2", b"1"])
        assert there.got[there.got.index(b"1") :][-1] == b"1" or b"2" in there.got[there.got.index(b"1") :]
        assert full == {b"1": 0}
        assert link.counts.refused_out == 0


async def test_what_they_never_take_is_given_up_and_told(broker: Broker) -> None:
    async def refuse(client: Client, packet: Packet) -> bool:
        if isinstance(packet, Publish) and packet.payload == b"bad":
            await client.send(Puback(packet.packet_id, 0x87))
            return True
        return False

    async with their(refuse) as there:
        link = await linked(broker, there.url)
        await until(lambda: link.state == "connected")
        brand = await server(broker)
        await brand.publish("acme/topic/x", b"bad", qos=1)
        await brand.publish("acme/topic/x", b"good", qos=1)
        await until(lambda: there.got == [b"good"] and link.counts.refused_out == 1)
        assert "given up" in link.error
        await until(lambda: link.status()["waiting_out"] == 0)


async def test_a_message_for_which_they_close_is_found_among_others_and_given_up(broker: Broker) -> None:
    async def closes(client: Client, packet: Packet) -> bool:
        if isinstance(packet, Publish) and packet.payload == b"poison":
            await client.send(Disconnect(0x95))
            client.abort()
            return True
        return False

    async with their(closes) as there:
        link = await linked(broker, there.url)
        await broker.links.book.set("acme", "crm", **_only(paused=True))
        await broker.links.changed("acme", "crm")
        brand = await server(broker)
        for n in range(10):
            await brand.publish("acme/topic/x", b"poison" if n == 5 else b"%d" % n, qos=1)
        await broker.links.book.set("acme", "crm", **_only(paused=False))
        await broker.links.changed("acme", "crm")
        link = broker.links._relays["acme", "crm"]
        await until(lambda: link.counts.refused_out == 1)
        await until(lambda: link.status()["waiting_out"] == 0)
        assert sorted(set(there.got)) == [b"%d" % n for n in range(10) if n != 5]
        assert "closes the connection for it" in link.error or link.state == "connected"


def _only(**changes: Any) -> dict[str, Any]:
    names = (
        "url",
        "version",
        "client_id",
        "username",
        "password",
        "ca",
        "cert",
        "key",
        "inbound",
        "outbound",
        "paused",
    )
    return {**dict.fromkeys(names), **changes}


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_who_sends_without_end_waits_while_nothing_is_accepted_here(broker: Broker, version: str) -> None:
    """Even one that does not count what is not acknowledged."""
    kiosk = await device(broker, "kiosk-7", clean_start=False)
    brand = await server(broker)
    async with their(as_usual) as there:
        link = await linked(broker, there.url, version=version)
        await until(lambda: link.state == "connected")
        broker.core.failing = "the disk is full"  # so nothing more is taken for those who are away
        del kiosk, brand
        payload = b"x" * 1000
        broker.core.log.bytes += broker.core.limits.log_bytes_max
        many = [Publish(b"crm/ada", payload, 1, retain=True, packet_id=n) for n in range(1, 1001)]
        sending = asyncio.create_task(there.say(*many))
        await until(lambda: link.error)
        assert len(link._items) <= LINK_IN_FLIGHT_MAX + 20
        assert sum(len(item.incoming.payload) for item in link._items) <= LINK_HELD_BYTES_MAX
        assert there.acknowledged == []
        broker.core.failing = ""
        broker.core.log.bytes -= broker.core.limits.log_bytes_max
        await until(lambda: len(there.acknowledged) == 1000)
        assert there.acknowledged == list(range(1, 1001))
        await sending


@pytest.mark.parametrize(
    "nonsense",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x30\x04\x00\xff\xff\xff", b"\xff" * 100, b"\x32\x05\x00\x01\xff\x00\x01"],
    ids=["http", "short", "bytes", "topic"],
)
async def test_nonsense_costs_the_connection_and_nothing_else(broker: Broker, nonsense: bytes) -> None:
    async with their(as_usual) as there:
        link = await linked(broker, there.url)
        await until(lambda: there.connection is not None)
        first = there.connection
        await there.say(nonsense)
        assert first is not None
        first.writer.close()
        await until(lambda: len(there.connects) > 1 and link.state == "connected")
        await (await server(broker)).publish("acme/topic/x", b"out", qos=1)
        await until(lambda: there.got == [b"out"])
