"""A device asks a running broker, and is answered on the same connection."""

import asyncio
import json
from typing import Any

import pytest
from support.library import item
from support.live import device, server
from support.mqtt import Client

from broker.admin.operations import Context, perform, stream
from broker.app import Broker
from broker.wire.packets import Properties, Publish

CAKES = (
    item("torta-cioccolato", "Torta al cioccolato", keywords=["sacher"], body="Per {{ user.name }}"),
    item("torta-mele", "Torta di mele"),
)


async def asked(kiosk: Client, question: str | dict[str, Any]) -> Any:
    """What the device is answered."""
    payload = question if isinstance(question, str) else json.dumps(question)
    message = await kiosk.ask("acme/device/kiosk-7/up/ask", payload.encode(), correlation_data=b"c1")
    assert (message.topic, message.properties.correlation_data) == (b"acme/device/kiosk-7/answer", b"c1")
    assert message.properties.content_type == "application/json"
    return json.loads(message.payload)


async def kiosk_of(broker: Broker, *more: str) -> Client:
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/device/kiosk-7/answer", *more, qos=1)
    return kiosk


async def rows(broker: Broker, sql: str) -> list[Any]:
    await broker.bridge.intake.until(broker.core.fact_head)
    return await broker.bridge.messages.read(lambda db: db.execute(sql).fetchall())


async def test_a_question_is_answered_and_booked(broker: Broker) -> None:
    await broker.pull.content.put(CAKES, 0)
    kiosk = await kiosk_of(broker)
    answer = await asked(kiosk, "sacher")
    assert (answer["kind"], answer["item"], answer["body"]) == ("answer", "torta-cioccolato", "Per ada")
    choice = await asked(kiosk, {"text": "torta", "locale": "it-IT"})
    assert [one["id"] for one in choice["choices"]] == ["torta-cioccolato", "torta-mele"]
    assert (await asked(kiosk, {"choice": choice["choices"][1]["id"]}))["item"] == "torta-mele"
    assert (await asked(kiosk, {"choice": "rival-item"}))["code"] == "unknown_choice"
    booked = "SELECT outcome, rule, item FROM question ORDER BY entry"
    assert await rows(broker, booked) == [
        ("answered", "keyword", "torta-cioccolato"), ("choice", "search", ""), ("answered", "choice", "torta-mele"),
        ("nothing", "unknown_choice", ""),
    ]  # fmt: skip


async def test_another_brands_items_are_not_there(broker: Broker) -> None:
    await broker.pull.content.put([item("secret", "Secret sale", brand="rival")], 0)
    kiosk = await kiosk_of(broker)
    assert (await asked(kiosk, "secret sale"))["kind"] == "nothing"
    assert (await asked(kiosk, {"choice": "secret"}))["code"] == "unknown_choice"


async def test_follow_shows_up_in_the_preferences_of_all_devices(broker: Broker) -> None:
    await broker.pull.content.put([item("wipro", "Wipro")], 0)
    kiosk = await kiosk_of(broker, "acme/device/kiosk-7/preferences")
    await kiosk.send(Publish(b"acme/device/kiosk-7/up/ask", b"follow wipro daily", 1, packet_id=99))
    packets = [await kiosk.receive() for _ in range(3)]  # the PUBACK is one of them
    got = [packet for packet in packets if isinstance(packet, Publish)]
    told = {message.topic.rpartition(b"/")[2]: json.loads(message.payload) for message in got}
    assert told[b"answer"]["item"] == "wipro"
    assert told[b"preferences"]["follows"] == {"wipro": 86400}


async def test_the_brands_own_server_answers(broker: Broker) -> None:
    rules = '{"routes": {"search": {}}, "otherwise": "route:search"}'
    await broker.pull.content.set_rules("acme", rules)
    crm = await server(broker)
    await crm.subscribe("acme/ask/search", qos=1)
    kiosk = await kiosk_of(broker)
    await kiosk.publish("acme/device/kiosk-7/up/ask", b"red shoes", qos=1)
    question = json.loads((await crm.expect_message()).payload)
    assert (question["text"], question["user"]) == ("red shoes", "ada")
    answer = {"question": question["question"], "text": "Aisle 7"}
    await crm.publish("acme/ask/answer", json.dumps(answer).encode(), qos=1)
    got = json.loads((await kiosk.expect_message()).payload)
    assert (got["by"], got["text"]) == ("server", "Aisle 7")
    assert await rows(broker, "SELECT outcome FROM question") == [("server",)]


async def test_a_person_takes_over(broker: Broker) -> None:
    await broker.pull.inbox.staff.add("acme", "mia")
    kiosk = await kiosk_of(broker)
    assert (await asked(kiosk, "operator"))["kind"] == "person"
    assert await rows(broker, "SELECT state, why, agent FROM conversation") == [("waiting", "asked", "mia")]


async def test_an_agents_tool_looks_at_the_inbox_while_the_books_wait(broker: Broker) -> None:
    """What only looks is no fact, and does not wait for those that are."""
    tool = await server(broker)
    await tool.subscribe("acme/inbox/answer", qos=1)
    head = broker.core.fact_head
    answer = await tool.ask("acme/inbox", b'{"do": "list", "request_id": "1"}')
    assert json.loads(answer.payload) == {"ok": True, "request_id": "1", "conversations": []}
    assert broker.core.fact_head == head
    answer = await tool.ask("acme/inbox", b'{"do": "show", "conversation": "nobodys"}')
    assert json.loads(answer.payload)["code"] == "unknown_conversation"
    answer = await tool.ask("acme/inbox", b'{"do": "take", "conversation": "nobodys", "agent": "mia"}')
    assert json.loads(answer.payload)["code"] == "unknown_conversation"
    assert broker.core.fact_head == head + 1


async def test_who_has_closed_is_answered_by_the_automation_at_once(broker: Broker) -> None:
    await broker.pull.content.put([item("orari", "Orari", body="9-18")], 0)
    kiosk = await kiosk_of(broker)
    for number, text in enumerate((b"operator", b"close", b"orari"), 101):
        await kiosk.send(Publish(b"acme/device/kiosk-7/up/ask", text, 1, packet_id=number))
    packets = [await kiosk.receive() for _ in range(6)]
    answers = [json.loads(packet.payload) for packet in packets if isinstance(packet, Publish)]
    assert [one["kind"] for one in answers] == ["person", "answer", "answer"]
    assert answers[2]["item"] == "orari"
    assert await rows(broker, "SELECT state, entries FROM conversation") == [("closed", 2), ("automated", 1)]
    assert not broker.pull.inbox.held("acme", "user", "ada")


LASTING: dict[str, Any] = {"clean_start": False, "properties": Properties(session_expiry=3600)}
ANSWERS = "acme/device/kiosk-7/answer/#"


async def hears_only_what_is_for_the_device(broker: Broker, kiosk: Client | None = None) -> None:
    """Before this, which comes behind all that waits, the kiosk is told nothing."""
    shop = await server(broker)
    await shop.publish("acme/device/kiosk-7", b"for the device", qos=1)
    kiosk = kiosk or await device(broker, "kiosk-7", **LASTING)
    assert (await kiosk.expect_message()).payload == b"for the device"


async def test_what_waits_for_a_device_that_has_another_user_meanwhile_is_not_for_them(broker: Broker) -> None:
    kiosk = await device(broker, "kiosk-7", **LASTING)
    await kiosk.subscribe(ANSWERS, "acme/device/kiosk-7/conversation", "acme/device/kiosk-7", qos=1)
    for topic, number in ((b"ask", 101), (b"history", 102), (b"ask", 103)):
        properties = Properties(response_topic="acme/device/kiosk-7/answer/shell", correlation_data=b"c")
        await kiosk.send(Publish(b"acme/device/kiosk-7/up/" + topic, b"operator"[: 8 * (number != 102)], 1,
                                 packet_id=number, properties=properties))  # fmt: skip
    await rows(broker, "SELECT 1")
    while broker.core.counters.questions_answered < 2:  # noqa: ASYNC110 - it answers when it likes
        await asyncio.sleep(0.01)
    await kiosk.close()
    await broker.directory.device_assign("acme", "kiosk-7", user="bob")
    await hears_only_what_is_for_the_device(broker)


@pytest.mark.parametrize("there", [False, True])
async def test_a_late_answer_is_not_for_the_next_user_of_a_device(broker: Broker, there: bool) -> None:
    await broker.pull.content.set_rules("acme", '{"routes": {"search": {}}, "otherwise": "route:search"}')
    crm = await server(broker)
    await crm.subscribe("acme/ask/search", qos=1)
    kiosk = await device(broker, "kiosk-7", **LASTING)
    await kiosk.subscribe(ANSWERS, "acme/device/kiosk-7", qos=1)
    await kiosk.publish("acme/device/kiosk-7/up/ask", b"my test results", qos=1)
    question = json.loads((await crm.expect_message()).payload)["question"]
    await broker.directory.device_assign("acme", "kiosk-7", user="bob")
    bobs = await device(broker, "kiosk-7", **LASTING) if there else None
    await crm.publish("acme/ask/answer", json.dumps({"question": question, "text": "secret"}).encode(), qos=1)
    while not broker.core.counters.questions_answered:  # noqa: ASYNC110 - it answers when it likes
        await asyncio.sleep(0.01)
    assert await rows(broker, "SELECT outcome FROM question") == [("server",)]
    await hears_only_what_is_for_the_device(broker, bobs)


async def test_an_answer_waits_for_the_one_who_asked(broker: Broker) -> None:
    kiosk = await device(broker, "kiosk-7", **LASTING)
    await kiosk.subscribe(ANSWERS, qos=1)
    await kiosk.send(Publish(b"acme/device/kiosk-7/up/ask", b"operator", 1, packet_id=101))
    await kiosk.close()
    while not broker.core.counters.questions_answered:  # noqa: ASYNC110 - it answers when it likes
        await asyncio.sleep(0.01)
    kiosk = await device(broker, "kiosk-7", **LASTING)
    assert json.loads((await kiosk.expect_message()).payload)["kind"] == "person"


async def test_what_the_server_hands_over_after_the_conversation_was_closed_is_seen_by_the_person(
    broker: Broker,
) -> None:
    await broker.pull.content.set_rules("acme", '{"routes": {"search": {}}, "otherwise": "route:search"}')
    crm = await server(broker)
    await crm.subscribe("acme/ask/search", qos=1)
    kiosk = await kiosk_of(broker)
    await kiosk.publish("acme/device/kiosk-7/up/ask", b"where is my cake", qos=1)
    question = json.loads((await crm.expect_message()).payload)["question"]
    await kiosk.publish("acme/device/kiosk-7/up/conversation", b'{"do": "close"}', qos=1)
    assert await rows(broker, "SELECT state FROM conversation") == [("closed",)]
    await crm.publish("acme/ask/answer", json.dumps({"question": question, "hand_over": True}).encode(), qos=1)
    watch = broker.pull.inbox.watch("acme")
    assert json.loads((await kiosk.expect_message()).payload)["kind"] == "person"
    async with asyncio.timeout(10):
        while (event := await watch.next())["event"] != "said":
            pass
    assert (event["entry"]["text"], event["conversation"]["state"]) == ("where is my cake", "waiting")
    sql = """SELECT c.state, e.text, q.outcome FROM conversation c LEFT JOIN entry e ON e.conversation = c.number
             LEFT JOIN question q ON (q.conversation, q.entry) = (e.conversation, e.number) ORDER BY c.number"""
    assert await rows(broker, sql) == [("closed", None, None), ("waiting", "where is my cake", "person")]


@pytest.mark.parametrize("devices", ["remove", "keep"])
async def test_what_the_server_hands_over_of_somebody_who_was_erased_begins_nothing(
    broker: Broker, devices: str
) -> None:
    await broker.pull.content.set_rules("acme", '{"routes": {"search": {}}, "otherwise": "route:search"}')
    crm = await server(broker)
    await crm.subscribe("acme/ask/search", qos=1)
    kiosk = await kiosk_of(broker)
    await kiosk.publish("acme/device/kiosk-7/up/ask", b"where is my cake", qos=1)
    question = json.loads((await crm.expect_message()).payload)["question"]
    context = Context(broker.settings, broker.directory, broker)
    async for _ in await stream(context, "user.erase", {"brand": "acme", "name": "ada", "devices": devices}):
        pass
    await crm.publish("acme/ask/answer", json.dumps({"question": question, "hand_over": True}).encode(), qos=1)
    while not broker.core.counters.questions_answered:  # noqa: ASYNC110 - it answers when it likes
        await asyncio.sleep(0.01)
    assert await rows(broker, "SELECT state FROM conversation") == []
    assert not broker.pull.inbox.held("acme", "user", "ada")
    assert (await perform(context, "user.traces", {"brand": "acme", "name": "ada"}))["counts"] == {}


async def test_operators_see_what_would_be_answered_and_nothing_is_done(broker: Broker) -> None:
    await broker.pull.content.put([item("wipro", "Wipro", body="12")], 0)
    context = Context(broker.settings, broker.directory, broker)
    found = await perform(context, "ask", {"brand": "acme", "text": "follow wipro", "device": "kiosk-7"})
    assert (found["user"], found["action"]["does"], found["held"]) == ("ada", "follow", "")
    assert (await broker.bridge.people.show("acme", "user", "ada")).follows == ()
    kiosk = await kiosk_of(broker)
    await asked(kiosk, "operator")
    await rows(broker, "SELECT 1")
    assert (await perform(context, "ask", {"brand": "acme", "text": "wipro", "user": "ada"}))["held"] == "waiting"
