"""Certificates over MQTT: from a one-time code to a device that is connected with its own key."""

import json
from typing import Any

import pytest
from support.live import device, port, trusting
from support.mqtt import Client
from support.pki import key_and_csr

from broker.app import Broker
from broker.wire.packets import Connect, Puback, Publish, Request, Suback, Subscribe

ENROL = "$enrol/csr"
ANSWER = "$enrol/certificate"


async def _enrolling(broker: Broker, code: str, *, version: int = 5, client_id: str = "e", **more: Any) -> Client:
    return await Client.connected(
        port(broker, "mqtts"),
        client_id,
        version=version,
        tls=trusting(broker),
        username="enrol",
        password=code.encode(),
        **more,
    )


async def _ask(client: Client, csr: bytes) -> dict[str, Any]:
    """Send a signing request; the answer and the PUBACK come in either order."""
    await client.send(Publish(ENROL.encode(), csr, 1, packet_id=client.next_id()))
    packets = [await client.receive(), await client.receive()]
    assert any(isinstance(p, Puback) for p in packets)
    answer = next(p for p in packets if isinstance(p, Publish))
    assert answer.topic == ANSWER.encode()
    await client.send(Puback(answer.packet_id))
    if client.version == 5:
        assert answer.properties.content_type == "application/json"
    found: dict[str, Any] = json.loads(answer.payload)
    return found


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("subscribed", [False, True])
async def test_from_code_to_connection(broker: Broker, version: int, subscribed: bool) -> None:
    issued = await broker.directory.device_code("acme", "kiosk-7")
    client = await _enrolling(broker, issued.code, version=version)
    if subscribed:
        await client.subscribe(ANSWER, qos=1)
    key, csr = key_and_csr()
    answer = await _ask(client, csr)
    assert (answer["identity"], answer["brand"], answer["device"]) == ("acme/device/kiosk-7", "acme", "kiosk-7")
    assert (answer["user"], answer["store"]) == ("ada", "milano")
    assert answer["ca"].encode() == broker.authority.ca_pem
    await client.disconnect()
    context = broker.authority.client_context(answer["certificate"].encode(), key)
    kiosk = await Client.connected(port(broker, "mqtts"), "kiosk", version=version, tls=context)
    assert (await kiosk.subscribe("acme/user/ada", qos=1)).reasons == [1]
    # The next certificate comes in the same way.
    new_key, new_csr = key_and_csr()
    renewed = await _ask(kiosk, new_csr)
    assert renewed["identity"] == "acme/device/kiosk-7"
    context = broker.authority.client_context(renewed["certificate"].encode(), new_key)
    again = await Client.connected(port(broker, "mqtts"), "kiosk-2", version=version, tls=context)
    await again.silent()
    await kiosk.silent()


async def test_all_at_once(broker: Broker) -> None:
    """CONNECT and the request in one write: the request is not answered before the code was checked."""
    issued = await broker.directory.device_code("acme", "kiosk-7")
    client = await Client.open(port(broker, "mqtts"), tls=trusting(broker))
    _, csr = key_and_csr()
    await client.send(
        Connect("e", 5, username="enrol", password=issued.code.encode()),
        Subscribe(1, [Request(ANSWER, 1)]),
        Publish(ENROL.encode(), csr, 1, packet_id=2),
    )
    packets = [await client.receive() for _ in range(4)]
    answer = next(p for p in packets if isinstance(p, Publish))
    assert "certificate" in json.loads(answer.payload)
    assert any(isinstance(p, Suback) for p in packets)


async def test_lost_answer(broker: Broker) -> None:
    """The same key gets the same answer again, on the same connection and on a new one; another key gets none."""
    issued = await broker.directory.device_code("acme", "kiosk-7")
    _, csr = key_and_csr()
    client = await _enrolling(broker, issued.code)
    first = await _ask(client, csr)
    assert await _ask(client, csr) == first
    client = await _enrolling(broker, issued.code)
    assert await _ask(client, csr) == first
    client = await _enrolling(broker, issued.code)
    answer = await _ask(client, key_and_csr()[1])
    assert "error" in answer
    assert "pushbroker device code acme kiosk-7" in answer["remedy"]


@pytest.mark.parametrize(
    "csr", [b"", b"garbage", b"-----BEGIN CERTIFICATE REQUEST-----\n", bytes(20_000), b"\xff" * 99]
)
async def test_what_is_not_a_request(broker: Broker, csr: bytes) -> None:
    """It is told so, and the code is still good, here and now."""
    issued = await broker.directory.device_code("acme", "kiosk-7")
    client = await _enrolling(broker, issued.code)
    answer = await _ask(client, csr)
    assert answer["error"]
    assert answer["remedy"]
    assert "certificate" in await _ask(client, key_and_csr()[1])


async def test_rights_of_one_who_enrols(broker: Broker) -> None:
    issued = await broker.directory.device_code("acme", "kiosk-7")
    client = await _enrolling(broker, issued.code)
    assert (await client.subscribe(ANSWER, "acme/user/ada", "acme/#", "#", qos=1)).reasons == [1, 0x87, 0x87, 0x87]
    for topic in ("acme/device/kiosk-7/up/x", "acme/user/ada", ANSWER):
        answer = await client.publish(topic, b"x", qos=1)
        assert answer is not None
        assert answer.reason == 0x87


async def test_answers_go_to_the_asking_connection_only(broker: Broker) -> None:
    others = [await device(broker, name) for name in ("kiosk-7", "till-3")]
    for other in others:
        await other.subscribe(ANSWER, qos=1)
    code = (await broker.directory.device_code("acme", "new-1")).code
    client = await _enrolling(broker, code)
    assert "certificate" in await _ask(client, key_and_csr()[1])
    for other in others:
        await other.silent()
    # Nobody can make one up for another.
    answer = await others[0].publish(ANSWER, b"forged", qos=1)
    assert answer is not None
    assert answer.reason == 0x87


async def test_new_code_ends_who_enrols_with_the_old(broker: Broker) -> None:
    issued = await broker.directory.device_code("acme", "kiosk-7")
    client = await _enrolling(broker, issued.code)
    await broker.directory.device_code("acme", "kiosk-7")
    await client.expect_end(0x87)
    refused = await Client.connected(port(broker), username="enrol", password=issued.code.encode(), reason=0x86)
    await refused.expect_end()
