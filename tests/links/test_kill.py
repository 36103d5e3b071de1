"""kill -9 of our own broker, with messages on the way in both directions: what either end has accepted arrives."""

import asyncio
from pathlib import Path

from support.mosquitto import Mosquitto
from support.mqtt import Client
from support.served import Served, eventually

from broker.wire.packets import Properties, Puback, Publish

ROUNDS = 1
EACH = 150


async def collect(client: Client, seen: list[int]) -> None:
    """Receive and acknowledge, to the end of the connection."""
    while (packet := await client.receive(60)) is not None:
        if isinstance(packet, Publish):
            seen.append(int(packet.payload))
            await client.send(Puback(packet.packet_id))


async def test_nothing_is_lost_when_we_are_killed(tmp_path: Path) -> None:
    theirs = Mosquitto(tmp_path / "mosquitto")
    theirs.start()
    lasting = {"clean_start": False, "properties": Properties(session_expiry=3600)}
    try:
        with Served(tmp_path) as ours:
            ours.ask("brand.add", name="acme")
            ours.ask(
                "link.add",
                brand="acme",
                name="crm",
                url=f"mqtt://127.0.0.1:{theirs.plain}",
                username="tester",
                password="secret",
                inbound=["crm/{user} -> acme/user/{user}"],
                outbound=["acme/topic/{name} -> push/{name}"],
            )
            listener = await Client.connected(
                theirs.plain, "listener", username="tester", password=b"secret", **lasting
            )
            await listener.subscribe("push/#", qos=1)
            out: list[int] = []
            collecting = asyncio.create_task(collect(listener, out))
            publisher = await Client.connected(theirs.plain, "publisher", username="tester", password=b"secret")
            await ours.away("kiosk", "acme/user/ada")
            await eventually(lambda: "Sending SUBACK to pushbroker-acme-crm" in theirs.log)
            into: list[int] = []
            accepted: list[int] = []
            for number in range(ROUNDS * EACH):
                if number % EACH == 0:
                    kiosk = await ours.lasting("kiosk")
                    receiving = asyncio.create_task(collect(kiosk, into))
                    brand = await ours.client("brand")
                await publisher.publish("crm/ada", b"%d" % number, qos=1)
                answer = await brand.publish("acme/topic/x", b"%d" % number, qos=1)
                assert answer is not None
                assert answer.reason == 0
                accepted.append(number)
                if number % EACH == EACH - 1:
                    ours.kill()
                    await receiving
                    ours.start()
            kiosk = await ours.lasting("kiosk")
            receiving = asyncio.create_task(collect(kiosk, into))
            await eventually(lambda: out and out[-1] == accepted[-1] and into and into[-1] == ROUNDS * EACH - 1)
            everything = list(range(ROUNDS * EACH))
            assert list(dict.fromkeys(out)) == everything
            assert list(dict.fromkeys(into)) == everything
            collecting.cancel()
            receiving.cancel()
            await Client.abort_all()
    finally:
        theirs.stop()
