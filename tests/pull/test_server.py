"""A brand's own server is asked, and answers in time or the route says what is said instead. Real broker, real paho."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support.live import device, populate, port, running
from support.programs import program

from broker.app import Broker
from broker.errors import Refused
from broker.pull import rules, server
from broker.pull.question import Asker, AskServer, Decided, HandOver, Option
from broker.pull.server import Servers
from broker.store.conversations import Asked, Conversations

DOCUMENT = Path(__file__).parents[2] / "docs/asking-your-server.md"
ADA = Asker(brand="acme", device="kiosk-7", user="ada", store="milano", language="it", tags=frozenset({"vip"}))
RULES = {
    "routes": {
        "search": {"time_limit_s": 10, "fallback": {"it": "Riprova più tardi.", "": "Try again later."}},
        "soon": {"time_limit_s": 0.1, "or": "person"},
        "plain": {},
    }
}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        yield broker


@pytest.fixture
async def servers(broker: Broker) -> Servers:
    await broker.pull.content.set_rules("acme", json.dumps(RULES))
    return broker.pull.servers


class Shop:
    """A brand's program: it answers each question with what `answer` makes of it."""

    def __init__(self, client: paho.Client) -> None:
        self.client = client
        self.heard: asyncio.Queue[paho.MQTTMessage] = asyncio.Queue()
        self.answer: Callable[[Any], Any] = lambda asked: {"question": asked["question"], "text": "dal negozio"}


@contextmanager
def connected(broker: Broker, token: str, brand: str = "acme", version: int = 5) -> Iterator[Shop]:
    loop = asyncio.get_running_loop()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion(version))
    client.username_pw_set(brand, token)
    shop = Shop(client)

    def heard(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        loop.call_soon_threadsafe(shop.heard.put_nowait, message)
        if message.topic.endswith("/refused") or (said := shop.answer(json.loads(message.payload))) is None:
            return
        topic = f"{brand}/ask/answer" if version < 5 else message.properties.ResponseTopic
        client.publish(topic, said if isinstance(said, bytes) else json.dumps(said), 1)

    client.on_message = heard
    client.connect("127.0.0.1", port(broker))
    client.loop_start()
    try:
        yield shop
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.fixture(params=[5, 4])
async def shop(broker: Broker, request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    token = await broker.directory.token_issue("acme")
    with connected(broker, token.secret, version=getattr(request, "param", 5)) as shop:
        await subscribed(shop, *(f"acme/ask/{route}" for route in (*RULES["routes"], "refused")))
        yield shop


async def subscribed(shop: Shop, *filters: str) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    shop.client.on_subscribe = lambda *_: loop.call_soon_threadsafe(done.set_result, None)
    shop.client.subscribe([(filter, 1) for filter in filters])
    async with asyncio.timeout(10):
        await done


only_5 = pytest.mark.parametrize("shop", [5], indirect=True)


async def test_it_is_asked_with_what_it_may_know_and_its_answer_is_taken(servers: Servers, shop: Shop) -> None:
    shop.answer = lambda asked: {
        "question": asked["question"],
        "title": "Torta",
        "body": "3 pezzi",
        "link": "https://acme.example/torta",
        "data": {"price": 12.5},
        "choices": [{"id": "torta", "title": "Ordina"}],
    }
    said = await servers.ask(AskServer("search", "torta"), "q1", ADA, "avete torte?")
    assert (said.outcome, said.rule, said.options) == (
        "server",
        "route:search",
        (Option(id="route:search:torta", title="Ordina"),),
    )
    assert (said.shown.title, said.shown.body, said.shown.data) == ("Torta", "3 pezzi", {"price": 12.5})
    message = await shop.heard.get()
    assert json.loads(message.payload) == {
        "question": "q1", "text": "avete torte?", "choice": "torta", "language": "it", "user": "ada",
        "device": "kiosk-7", "store": "milano", "tags": ["vip"], "attributes": {}, "conversation": "", "history": [],
    }  # fmt: skip
    if message.properties is not None:
        assert (message.properties.CorrelationData, message.properties.MessageExpiryInterval) == (b"q1", 10)


@only_5
async def test_the_question_may_be_named_by_its_correlation_data_alone(servers: Servers, shop: Shop) -> None:
    def answer(asked: Any) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.CorrelationData = asked["question"].encode()
        shop.client.publish("acme/ask/answer", '{"text": "eccola"}', 1, properties=properties)

    shop.answer = answer
    assert (await servers.ask(AskServer("search"), "q1", ADA, "torta")).shown.body == "eccola"


@only_5
async def test_it_hears_what_was_said_before(broker: Broker, servers: Servers, shop: Shop) -> None:
    def asked(id: str, text: str, outcome: str, answer: str) -> Asked:
        return Asked(
            id=id, conversation="c1", brand="acme", kind="user", name="ada", device="kiosk-7", store="milano",
            language="it", at=1, text=text, folded=text, outcome=outcome, rule="search", item="", score=1.0,
            answer=answer, took_us=1,
        )  # fmt: skip

    before = [
        asked(f"q{n}", f"{n}?", "answered", '{"question": "q", "kind": "answer", "text": "no"}') for n in range(8)
    ]
    await Conversations(broker.bridge.messages).book([*before, asked("q9", "torta", "asking", "{}")], 0)
    await servers.ask(AskServer("search"), "q9", ADA, "torta")
    said = json.loads((await shop.heard.get()).payload)
    assert said["conversation"] == "c1"
    assert said["history"][-2:] == [{"by": "customer", "text": "7?"}, {"by": "automation", "text": "no"}]
    assert len(said["history"]) == 10


@only_5
async def test_it_may_hand_over_to_a_person(servers: Servers, shop: Shop) -> None:
    shop.answer = lambda asked: {"question": asked["question"], "hand_over": True}
    said = await servers.ask(AskServer("search"), "q1", ADA, "reclamo")
    assert (said.outcome, said.action) == ("person", HandOver("server"))


async def test_without_a_server_the_route_answers_at_once(broker: Broker, servers: Servers) -> None:
    tail = asyncio.ensure_future(anext(broker.tail(["acme/#"])))  # who only looks on does not answer
    await asyncio.sleep(0)
    said = await servers.ask(AskServer("search"), "q1", ADA, "torta")
    tail.cancel()
    assert (said.outcome, said.shown.body) == ("nothing", "Riprova più tardi.")
    assert (await servers.ask(AskServer("soon"), "q2", ADA, "torta")).action == HandOver("server")
    assert "risposta" in (await servers.ask(AskServer("plain"), "q3", ADA, "torta")).shown.body  # in our own words
    assert (await servers.ask(AskServer("gone"), "q4", ADA, "torta")).outcome == "nothing"  # a route of older rules
    assert await servers.otherwise("search", ADA) == said
    assert broker.core.counters.servers_absent == 4


@only_5
async def test_what_is_late_changes_nothing(broker: Broker, servers: Servers, shop: Shop) -> None:
    shop.answer = lambda _: None
    assert (await servers.ask(AskServer("soon"), "q1", ADA, "torta")).rule == "route:soon:otherwise"
    shop.answer = lambda asked: {"question": "q1", "text": "ecco"}
    late = asyncio.ensure_future(servers.ask(AskServer("search"), "q2", ADA, "torta"))
    async with asyncio.timeout(10):
        while not broker.core.counters.server_answers_late:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    shop.client.publish("acme/ask/answer", '{"question": "q2", "text": "sì"}', 1)
    assert (await late).shown.body == "sì"
    assert broker.core.counters.servers_silent == 1


@only_5
async def test_a_developer_hears_what_is_wrong_and_may_answer_again(servers: Servers, shop: Shop) -> None:
    wrong = [
        (b"eccola", "bad_json", ""),
        (b"\xff", "bad_json", ""),
        (b'{"data": {"a": ' + b"[" * 10_000, "bad_json", ""),
        (b"[]", "bad_value", ""),
        (b'{"question": "q1"}', "missing_field", "text"),
        (b'{"text": "ciao"}', "missing_field", "question"),
        (b'{"question": "q1", "txt": "ciao"}', "bad_value", ""),
        (b'{"question": "q1", "text": 7}', "bad_value", "text"),
        (b'{"question": "q1", "text": "a", "body": "b"}', "bad_value", "body"),
        (b'{"question": "q1", "choices": [{"id": "", "title": "x"}]}', "bad_value", "choices[0].id"),
        (b'{"question": "q1", "text": "a", "data": {"a": ' + b"[" * 70 + b"]" * 70 + b"}}", "bad_value", "data"),
        (b'{"question": "q1", "text": "' + b"x" * 40_000 + b'"}', "too_long", ""),
    ]
    shop.answer = lambda _: None
    asking = asyncio.ensure_future(servers.ask(AskServer("search"), "q1", ADA, "torta"))
    await shop.heard.get()
    async with asyncio.timeout(10):
        for payload, code, field in wrong:
            shop.client.publish("acme/ask/answer", payload, 1)
            told = json.loads((await shop.heard.get()).payload)
            assert (told["code"], told["field"]) == (code, field)
            assert told["message"]
    shop.client.publish("acme/ask/answer", '{"question": "q1", "text": "eccola"}', 1)
    assert (await asking).shown.body == "eccola"


async def test_nobody_else_answers_for_a_brand(broker: Broker, servers: Servers, shop: Shop) -> None:
    shop.answer = lambda _: None
    asking = asyncio.ensure_future(servers.ask(AskServer("search"), "q1", ADA, "torta"))
    await shop.heard.get()
    kiosk = await device(broker, "kiosk-7")
    assert (await kiosk.publish("acme/ask/answer", b'{"question": "q1", "text": "x"}', qos=1)).reason >= 0x80
    token = await broker.directory.token_issue("rival")
    with connected(broker, token.secret, "rival") as rival:
        rival.client.publish("rival/ask/answer", '{"question": "q1", "text": "rubato"}', 1)
        async with asyncio.timeout(10):
            while not broker.core.counters.server_answers_late:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
    shop.client.publish("acme/ask/answer", '{"question": "q1", "text": "mio"}', 1)
    assert (await asking).shown.body == "mio"


@only_5
async def test_of_too_many_at_a_time_the_others_are_answered_at_once(
    servers: Servers, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SERVER_QUESTIONS_MAX", 2)
    shop.answer = lambda _: None
    asking = [asyncio.ensure_future(servers.ask(AskServer("search"), f"q{n}", ADA, "torta")) for n in range(2)]
    for _ in asking:
        await shop.heard.get()
    assert (await servers.ask(AskServer("search"), "q7", ADA, "torta")).outcome == "nothing"
    for n in range(2):
        shop.client.publish("acme/ask/answer", json.dumps({"question": f"q{n}", "text": "ecco"}), 1)
    said: list[Decided] = await asyncio.gather(*asking)
    assert {one.shown.body for one in said} == {"ecco"}
    shop.answer = lambda asked: {"question": asked["question"], "text": "di nuovo"}
    assert (await servers.ask(AskServer("search"), "q8", ADA, "torta")).shown.body == "di nuovo"


@only_5
async def test_a_device_is_answered_by_it_and_takes_its_choice(broker: Broker, servers: Servers, shop: Shop) -> None:
    rules = {**RULES, "commands": [{"words": ["cerca *"], "route": "search"}]}
    await broker.pull.content.set_rules("acme", json.dumps(rules))
    shop.answer = lambda asked: {
        "question": asked["question"],
        "text": f"{asked['text']}{asked['choice']}",
        "choices": [{"id": "torta:12", "title": "12 pezzi"}],
    }
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/device/kiosk-7/answer", qos=1)

    async def ask(question: str) -> Any:
        return json.loads((await kiosk.ask("acme/device/kiosk-7/up/ask", question.encode())).payload)

    said = await ask("cerca torta")
    assert (said["kind"], said["by"], said["body"]) == ("answer", "server", "cerca torta")
    (choice,) = said["choices"]
    assert (await ask(json.dumps({"choice": choice["id"]})))["body"] == "torta:12"
    await broker.bridge.intake.until(broker.core.fact_head)
    sql = "SELECT outcome, rule, folded FROM question ORDER BY entry"
    async with asyncio.timeout(10):
        while (  # noqa: ASYNC110 - in another thread
            booked := await broker.bridge.messages.read(lambda db: db.execute(sql).fetchall())
        ) != [("server", "route:search", "cerca torta"), ("server", "route:search", "")]:
            await asyncio.sleep(0.01)
    assert len(booked) == 2


async def test_the_documented_examples_answer(broker: Broker, servers: Servers, tmp_path: Path) -> None:
    token = await broker.directory.token_issue("acme")
    sdk, python, shell = re.findall(r"```(?:python|sh)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    python = python.replace('"what pushbroker brand token issue acme printed"', repr(token.secret))
    sdk = sdk.replace("mqtts://push.example.org:8883", f"mqtt://localhost:{port(broker)}").replace(', ca="ca.crt"', "")
    shell = shell.replace("-h localhost", f"-h localhost -p {port(broker)}")

    async def answered(*command: str, **more: str) -> Decided:
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **more}, process_group=0)
        try:
            async with asyncio.timeout(30):
                while (  # noqa: ASYNC110 - nothing tells
                    said := await servers.ask(AskServer("search"), "q1", ADA, "cerca torta")
                ).outcome == "nothing":
                    await asyncio.sleep(0.02)  # it is starting
            return said
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    for said in (
        await answered(sys.executable, "-c", sdk, PUSHBROKER_TOKEN=token.secret),
        await answered(sys.executable, "-c", python.replace("1883", str(port(broker)))),
    ):
        assert (said.shown.body, said.shown.data) == ("torta al cioccolato: 3", {"stock": {"torta al cioccolato": 3}})
    program("mosquitto_pub")
    assert (await answered("sh", "-c", shell, TOKEN=token.secret)).outcome == "server"


@pytest.mark.parametrize("name", ["answer", "refused"])
def test_no_route_has_the_name_of_a_topic_for_other_things(name: str) -> None:
    with pytest.raises(Refused, match=name):
        rules.check(msgspec.convert({"routes": {name: {}}}, rules.Rules))
