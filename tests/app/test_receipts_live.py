"""Message ids and receipts, end to end: a server publishes, a device acknowledges and reports."""

import json
import re
from typing import Any

import pytest
from support.live import device, server
from support.mqtt import Client

from broker.app import Broker
from broker.wire.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel

ASKED = [("receipt", "delivered")]


async def _send(client: Client, topic: str, payload: bytes = b"x", **properties: Any) -> str:
    """Publish at QoS 1; the message id that the broker tells."""
    answer = await client.publish(topic, payload, qos=1, **properties)
    assert answer is not None
    return dict(answer.properties.user_properties).get("message-id", "")


async def _receipt(client: Client) -> dict[str, str]:
    message = await client.expect_message()
    assert message.topic.startswith(b"acme/receipts/")
    assert message.properties.content_type == "application/json"
    found: dict[str, str] = json.loads(message.payload)
    assert message.topic == f"acme/receipts/{found['message_id']}".encode()
    return found


async def _listening(broker: Broker) -> Client:
    client = await server(broker, client_id="listening")
    await client.subscribe("acme/receipts/#", qos=1)
    return client


@pytest.mark.parametrize("version", [4, 5])
async def test_delivered_displayed_opened(broker: Broker, version: int) -> None:
    listening, sender = await _listening(broker), await server(broker)
    kiosk = await device(broker, "kiosk-7", version=version)
    await kiosk.subscribe("acme/user/ada", qos=1)
    id = await _send(sender, "acme/user/ada", user_properties=ASKED)
    message = await kiosk.expect_message(acknowledge=False)
    if version == 5:
        assert dict(message.properties.user_properties) == {"message-id": id, "receipt": "delivered"}
    await listening.silent()  # not before it was acknowledged
    await kiosk.send(Puback(message.packet_id))
    receipt = await _receipt(listening)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", receipt.pop("at"))
    assert receipt == {
        "message_id": id,
        "event": "delivered",
        "device": "kiosk-7",
        "user": "ada",
        "store": "milano",
    }
    for event in ("displayed", "opened", "dismissed"):
        said = json.dumps({"message_id": id, "event": event, "at": "2026-11-22T09:00:00.123456+01:00"})
        await kiosk.publish("acme/device/kiosk-7/up/receipt", said.encode(), qos=1)
        receipt = await _receipt(listening)
        assert (receipt["message_id"], receipt["event"], receipt["device"]) == (id, event, "kiosk-7")
        assert receipt["at"] == "2026-11-22T08:00:00.123Z"


async def test_one_for_each_device(broker: Broker) -> None:
    listening, sender = await _listening(broker), await server(broker)
    devices = {name: await device(broker, name) for name in ("kiosk-7", "till-3")}
    for client in devices.values():
        await client.subscribe("acme/topic/+", qos=1)
    id = await _send(sender, "acme/topic/news", user_properties=ASKED)
    for client in devices.values():
        await client.expect_message()
    receipts = [await _receipt(listening) for _ in devices]
    assert {r["device"] for r in receipts} == set(devices)
    assert {r["message_id"] for r in receipts} == {id}
    await listening.silent()


async def test_qos_2_is_told_once(broker: Broker) -> None:
    listening, sender = await _listening(broker), await server(broker)
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/user/ada", qos=2)
    await sender.publish("acme/user/ada", b"x", qos=2, user_properties=ASKED)
    told = await sender.expect(Pubrec)
    (name, id) = told.properties.user_properties[0]
    assert name == "message-id"
    await sender.send(Pubrel(told.packet_id))
    await sender.expect(Pubcomp)
    message = await kiosk.expect(Publish)
    await kiosk.send(Pubrec(message.packet_id), Pubrec(message.packet_id))
    for _ in range(2):
        await kiosk.expect(Pubrel)
    await kiosk.send(Pubcomp(message.packet_id))
    assert (await _receipt(listening))["message_id"] == id
    await listening.silent()


async def test_nobody_is_told_what_nobody_asked_for(broker: Broker) -> None:
    listening, sender = await _listening(broker), await server(broker)
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/user/ada", qos=1)
    ids = [await _send(sender, "acme/user/ada") for _ in range(3)]
    assert all(ids)
    assert ids == sorted(set(ids))
    for id in ids:
        assert ("message-id", id) in (await kiosk.expect_message()).properties.user_properties
    # QoS 0 has no acknowledgement, so no receipt and no id; other topics have none either.
    await sender.publish("acme/user/ada", b"0", user_properties=ASKED)
    assert (await kiosk.expect_message(b"0")).properties.user_properties == ASKED
    assert await _send(sender, "acme/other/x") == ""
    await listening.silent()


async def test_nobody_there(broker: Broker) -> None:
    sender = await server(broker)
    answer = await sender.publish("acme/user/bob", b"x", qos=1)
    assert answer is not None
    assert answer.reason == 0x10
    assert answer.properties.user_properties[0][0] == "message-id"


async def test_an_id_cannot_be_made_up(broker: Broker) -> None:
    sender = await server(broker)
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/user/ada", qos=1)
    id = await _send(sender, "acme/user/ada", user_properties=[("message-id", "mine"), ("a", "b")])
    assert id != "mine"
    assert (await kiosk.expect_message()).properties.user_properties == [
        ("message-id", id),
        ("message-id", "mine"),
        ("a", "b"),
    ]


async def test_a_refused_message_is_not_delivered(broker: Broker) -> None:
    """A PUBACK with a failure is no receipt."""
    listening, sender = await _listening(broker), await server(broker)
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/user/ada", qos=1)
    await _send(sender, "acme/user/ada", user_properties=ASKED)
    message = await kiosk.expect_message(acknowledge=False)
    await kiosk.send(Puback(message.packet_id, 0x83))
    await kiosk.silent()
    await listening.silent()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"message_id":"m1","event":"delivered"}',
        b'{"message_id":"m1","event":"eaten"}',
        b'{"message_id":"m1","event":"opened","x":' + b"[" * 1500,
        b'{"message_id":"a/b","event":"opened"}',
        b'{"message_id":"#","event":"opened"}',
        b'{"message_id":"","event":"opened"}',
        b'{"message_id":"' + b"m" * 65 + b'","event":"opened"}',
        b'{"message_id":7,"event":"opened"}',
        b'{"message_id":"m1","event":"opened","at":"yesterday"}',
        b'{"message_id":"m1","event":"opened","at":"2026-13-45T00:00:00Z"}',
        b'{"message_id":"m1\xff","event":"opened"}',
        b'{"message_id":"m1","event":"opened","at":"0001-01-01T00:00:00+14:00"}',
        b"[" * 4000,
        b'{"message_id":"m1","event":"opened"}' + b" " * 5000,
    ],
    ids=range(18),
)
async def test_what_is_not_a_receipt(broker: Broker, said: bytes) -> None:
    listening = await _listening(broker)
    kiosk = await device(broker, "kiosk-7")
    await kiosk.publish("acme/device/kiosk-7/up/receipt", said, qos=1)
    await kiosk.silent()
    await listening.silent()


async def test_a_receipt_names_its_device_itself(broker: Broker) -> None:
    """Whatever a device writes into its receipt, and however old the event, it says who it is by its certificate."""
    listening = await _listening(broker)
    till = await device(broker, "till-3")
    forged = {"message_id": "m1", "event": "opened", "device": "kiosk-7", "user": "ada", "at": "0001-01-01T00:00:00"}
    await till.publish("acme/device/till-3/up/receipt", json.dumps(forged).encode(), qos=1)
    receipt = await _receipt(listening)
    assert (receipt["device"], receipt["user"], receipt["store"]) == ("till-3", "bob", "roma")


async def test_sent_by_the_admin(broker: Broker) -> None:
    listening = await _listening(broker)
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/user/ada", qos=1)
    sent = await broker.send("acme/user/ada", b"Ciao", user_properties=ASKED, ttl_s=60, content_type="text/plain")
    assert sent["recipients"] == 1
    message = await kiosk.expect_message(b"Ciao")
    assert ("message-id", sent["message_id"]) in message.properties.user_properties
    assert message.properties.content_type == "text/plain"
    assert message.properties.message_expiry in (59, 60, 61)
    assert (await _receipt(listening))["message_id"] == sent["message_id"]
