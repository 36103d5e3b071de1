"""What is taken away is taken away at once: connections end, sessions go, waiting messages with them."""

import asyncio
import time

import pytest
from support.live import device, device_context, port, server
from support.mqtt import Client

from broker.app import Broker
from broker.identity import Role
from broker.wire.packets import Connect, Properties, Will

KEEPS = {"clean_start": False, "properties": Properties(session_expiry=1000)}


@pytest.mark.parametrize("how", ["revoke", "remove", "brand"])
async def test_device(broker: Broker, how: str) -> None:
    ours = await server(broker, "rival")
    context = await device_context(broker, "acme", "kiosk-7")
    kiosk = await Client.connected(
        port(broker, "mqtts"), "k", tls=context, will=Will(b"acme/device/kiosk-7/up/gone", b""), **KEEPS
    )
    await kiosk.subscribe("acme/user/ada", qos=1)
    till = await device(broker, "till-3", **KEEPS)
    match how:
        case "revoke":
            await broker.directory.device_revoke("acme", "kiosk-7")
        case "remove":
            await broker.directory.device_remove("acme", "kiosk-7")
        case _:
            await broker.directory.brand_remove("acme")
    await kiosk.expect_end(0x87)
    if how == "brand":
        await till.expect_end(0x87)
    else:
        await till.silent()
    assert broker.status()["sessions"] == (1 if how == "brand" else 2)
    assert broker.status()["subscriptions"] == 0
    again = await Client.connected(port(broker, "mqtts"), "k", tls=context, reason=0x87)
    await again.expect_end()
    await ours.silent()
    assert broker.core.counters.wills_published == 0


async def test_device_that_is_away(broker: Broker) -> None:
    """What waits for it goes, too: its successor of the same name finds nothing of it."""
    kiosk = await device(broker, "kiosk-7", **KEEPS)
    await kiosk.subscribe("acme/user/ada", qos=1)
    await kiosk.disconnect()
    sender = await server(broker)
    await sender.publish("acme/user/ada", b"private", qos=1)
    await broker.directory.device_remove("acme", "kiosk-7")
    broker.core.tick(time.monotonic())
    assert broker.status()["waiting"]["messages"] == 0
    await broker.directory.device_code("acme", "kiosk-7", user="ada")
    successor = await device(broker, "kiosk-7", **KEEPS)
    assert not successor.connack.session_present
    await successor.silent()


async def test_device_that_moves(broker: Broker) -> None:
    """Reassigned while away: it comes back to its session, without what was for the user before."""
    kiosk = await device(broker, "kiosk-7", **KEEPS)
    await kiosk.subscribe("acme/user/ada", "acme/store/milano", "acme/topic/news", qos=1)
    sender = await server(broker)
    await broker.directory.device_assign("acme", "kiosk-7", user="bob")
    await kiosk.expect_end(0x98)
    await sender.publish("acme/user/ada", b"for ada", qos=1)
    await sender.publish("acme/topic/news", b"for all", qos=1)
    kiosk = await device(broker, "kiosk-7", **KEEPS)
    assert kiosk.connack.session_present
    await kiosk.expect_message(b"for all")
    await kiosk.silent()
    assert (await kiosk.subscribe("acme/user/ada", "acme/user/bob", qos=1)).reasons == [0x87, 1]


async def test_user_that_is_removed(broker: Broker) -> None:
    kiosk = await device(broker, "kiosk-7", **KEEPS)
    await kiosk.subscribe("acme/user/ada", qos=1)
    await broker.directory.user_remove("acme", "ada")
    await kiosk.expect_end(0x98)
    kiosk = await device(broker, "kiosk-7", **KEEPS)
    assert broker.status()["subscriptions"] == 0
    assert (await kiosk.subscribe("acme/user/ada", "acme/store/milano", qos=1)).reasons == [0x87, 1]


async def test_token(broker: Broker) -> None:
    token = await broker.directory.token_issue("acme", "crm")
    fields = {"username": "acme", "password": token.secret.encode()}
    crm = await Client.connected(port(broker), "crm", **fields)
    other = await server(broker)
    await broker.directory.token_revoke("acme", token.id)
    await crm.expect_end(0x98)
    await other.silent()
    again = await Client.connected(port(broker), "crm", reason=0x86, **fields)
    await again.expect_end()


async def test_one_certificate(broker: Broker) -> None:
    context = await device_context(broker, "acme", "kiosk-7")
    (certificate,) = [c for c in await broker.directory.cert_list("acme") if c.name == "kiosk-7"]
    kiosk = await Client.connected(port(broker, "mqtts"), "k", tls=context)
    await broker.directory.cert_revoke(certificate.serial)
    await kiosk.expect_end(0x98)
    again = await Client.connected(port(broker, "mqtts"), "k", tls=context, reason=0x87)
    await again.expect_end()


async def test_password(broker: Broker) -> None:
    await broker.directory.password_set("acme", Role.SERVER, "old", "correct horse battery")
    fields = {"username": "acme/server/old", "password": b"correct horse battery"}
    client = await Client.connected(port(broker), "old", version=4, **fields)
    await broker.directory.password_remove("acme", Role.SERVER, "old")
    await client.expect_end()
    again = await Client.connected(port(broker), "old", reason=0x86, **fields)
    await again.expect_end()


async def test_in_the_middle_of_a_connect(broker: Broker) -> None:
    """However a revocation and a CONNECT fall together, nobody who was revoked stays."""
    for round in range(10):
        name = f"racer-{round}"
        context = await device_context(broker, "acme", name)
        client = await Client.open(port(broker, "mqtts"), tls=context)
        await client.send(Connect(name, 5))
        for _ in range(round):
            await asyncio.sleep(0)
        await broker.directory.device_revoke("acme", name)
        while await client.receive() is not None:
            pass
    assert broker.status()["sessions"] == 0
