"""Requests of brands' servers on `{brand}/{kind}`, beside rich sends."""

import pytest
from support.live import device, server
from support.mqtt import Client

from broker.app import Broker
from broker.bridge.facts import Asked
from broker.errors import Failed
from broker.wire.packets import Properties, Publish


@pytest.fixture
def asked(broker: Broker) -> list[Asked]:
    """What comes to `acme/menu`, which is answered in capitals."""
    requests: list[Asked] = []

    async def answer(request: Asked) -> bytes:
        requests.append(request)
        if len(requests) == 1 and request.payload == b"full":
            raise Failed("the disk is full")
        return request.payload.upper()

    broker.bridge.desk.on("menu", answer)
    return requests


async def answers_to(client: Client, topic: str = "acme/answers") -> Client:
    await client.subscribe(topic, qos=1)
    return client


async def test_a_request_is_answered_where_its_sender_says(broker: Broker, asked: list[Asked]) -> None:
    shop = await answers_to(await server(broker))
    await shop.publish("acme/menu", b"soup", qos=1, response_topic="acme/answers", correlation_data=b"1")
    answer = await shop.expect_message()
    assert (answer.topic, answer.payload, answer.properties.correlation_data) == (b"acme/answers", b"SOUP", b"1")
    assert [(one.brand, one.kind, one.sender) for one in asked] == [("acme", "menu", "acme/server/server")]


async def test_without_a_response_topic_the_answer_has_one_of_its_kind(broker: Broker, asked: list[Asked]) -> None:
    shop = await answers_to(await server(broker, version=4, client_id="old"), "acme/menu/answer")
    await shop.publish("acme/menu", b"soup", qos=1)
    assert (await shop.expect_message()).payload == b"SOUP"


async def test_what_fails_for_the_disk_is_done_later(broker: Broker, asked: list[Asked]) -> None:
    shop = await answers_to(await server(broker))
    await shop.publish("acme/menu", b"full", qos=1, response_topic="acme/answers")
    assert (await shop.expect_message()).payload == b"FULL"
    assert len(asked) == 2


@pytest.mark.parametrize("topic", ["acme/menu", "acme/send", "rival/answers"])
async def test_no_answer_becomes_a_request_or_reaches_another_brand(
    broker: Broker, asked: list[Asked], topic: str
) -> None:
    shop = await answers_to(await server(broker), "acme/menu/answer")
    await shop.send(Publish(b"acme/menu", b"{}", 1, packet_id=77, properties=Properties(response_topic=topic)))
    assert b"Response Topic" in (await shop.expect_message()).payload
    assert not asked


async def test_a_device_asks_for_nothing_there(broker: Broker, asked: list[Asked]) -> None:
    kiosk = await device(broker, "kiosk-7")
    await kiosk.send(Publish(b"acme/menu", b"soup", 1, packet_id=5))
    await kiosk.receive()  # refused
    assert not asked
