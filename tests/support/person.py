"""Somebody of whom much is known: words that are nowhere else, in every place in which anything can be kept of them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from support.live import device, server
from support.mqtt import Client

from broker.admin.operations import Context, perform
from broker.app import Broker
from broker.wire.packets import Properties, Puback, Publish

NAME: Final = "zelda.q7"
PHONE: Final = "phone-zq7"
# What they said and were told: none of it is to be found anywhere once they are erased.
WORDS: Final = (
    *("Zelda-Titel", "Heimatort", "Lieblingsfarbe", "nachricht-eins", "nachricht-zwei", "bleibtstehen"),
    *("fragewort", "notizwort", "schluesselwort"),
)


async def operate(broker: Broker, operation: str, /, **arguments: Any) -> Any:
    return await perform(Context(broker.settings, broker.directory, broker), operation, arguments)


async def phone(broker: Broker, **fields: Any) -> Client:
    return await device(broker, PHONE, properties=Properties(session_expiry=3600), clean_start=False, **fields)


async def make(broker: Broker) -> None:
    """Somebody of acme, beside ada and bob, who has done what one can do, and has gone."""
    await operate(broker, "user.add", brand="acme", name=NAME, title="Zelda-Titel")
    await operate(broker, "device.code", brand="acme", device=PHONE, user=NAME, store="milano")
    await operate(broker, "profile.set", brand="acme", kind="user", name=NAME, attributes={"city": "Heimatort"})
    await operate(broker, "profile.set", brand="acme", kind="device", name=PHONE, attributes={"f": "Lieblingsfarbe"})
    await operate(broker, "profile.tag", brand="acme", kind="user", name=NAME, tags=["vip"])
    await operate(broker, "segment.add", brand="acme", name="s1", condition=f"user:{NAME} OR user:ada")
    crm = await listening(broker)
    client = await phone(broker)
    branch = f"acme/device/{PHONE}"
    await client.subscribe(f"acme/user/{NAME}", f"{branch}/answer", f"{branch}/preferences", qos=1)
    wanted = {"topics": {"news": True}, "locale": "de-DE", "follows": {"wipro": 60}}
    await client.publish(f"{branch}/up/preferences", json.dumps(wanted).encode(), qos=1)
    await told(client)
    await client.publish(f"{branch}/up/ask", b"fragewort", qos=1)
    await told(client)
    await send(broker, crm, "nachricht-eins", [NAME], idempotency_key="schluesselwort", receipts="each")
    await told(client)
    await broker.bridge.intake.until(broker.core.fact_head)
    client.abort()
    await send(broker, crm, "nachricht-zwei", [NAME], collapse_key=NAME, receipts="each")
    await send(broker, crm, "fuer alle", [NAME, "ada"], receipts="summary")
    await crm.publish(f"acme/user/{NAME}", b"bleibtstehen", qos=1, retain=True)
    crm.abort()
    await operate(broker, "campaign.add", brand="acme", name="c1", definition=campaign())
    await operate(broker, "suppression.add", brand="acme", name=NAME, reason="complaint")
    await broker.bridge.messages.write(
        lambda db: db.execute(
            """INSERT INTO entry SELECT number, 99, 'e99', 1700000000000, 'note', 'mia', 'notizwort' FROM conversation
               WHERE name = ?""",
            (NAME,),
        )
    )


def campaign() -> dict[str, Any]:
    content = {"notification": {"title": "offer", "body": "cake"}}
    return {"request": {"to": {"users": [NAME, "ada"]}}, "variants": [{"name": "", "weight": 1, "content": content}]}


async def listening(broker: Broker) -> Client:
    """The brand's server, for which receipts wait while it is away."""
    crm = await server(broker, "acme", "crm", properties=Properties(session_expiry=3600), clean_start=False)
    await crm.subscribe("acme/receipts/#", "acme/send/answer", qos=1)
    return crm


async def told(client: Client) -> Publish:
    while True:
        packet = await client.receive()
        assert packet is not None
        if isinstance(packet, Publish):
            if packet.qos:
                await client.send(Puback(packet.packet_id))
            return packet


async def send(broker: Broker, crm: Client, body: str, users: list[str], **more: Any) -> str:
    """A rich send that was accepted; its id."""
    request = {"to": {"users": users}, "notification": {"title": "Hallo", "body": body}, **more}
    await crm.send(Publish(b"acme/send", json.dumps(request).encode(), 1, packet_id=crm.next_id()))
    while True:
        packet = await told(crm)
        if packet.topic == b"acme/send/answer":
            answer = json.loads(packet.payload)
            assert answer["ok"], answer
            return str(answer["message_id"])


async def until(there: Callable[[], Awaitable[Any]], wanted: Any = True) -> None:
    """Wait until something is as it should be."""
    async with asyncio.timeout(10):
        while await there() != wanted:  # noqa: ASYNC110 - in another thread
            await asyncio.sleep(0.01)  # the books have no event for a test to wait for


def found(data: Path, words: tuple[str, ...]) -> dict[str, list[str]]:
    """Which of these words are in the databases of a data directory, and in which files."""
    hits: dict[str, list[str]] = {}
    for path in sorted(data.glob("*.db*")):
        content = path.read_bytes()
        for word in words:
            if word.encode() in content:
                hits.setdefault(path.name, []).append(word)
    return hits
