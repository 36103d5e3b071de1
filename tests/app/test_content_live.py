"""A brand's server keeps its content over MQTT."""

import asyncio
import json
from pathlib import Path
from typing import Any

from support.cli import pushbroker
from support.library import item
from support.live import device, populate, running, server
from support.mqtt import Client

from broker import limits
from broker.admin.operations import Context, perform
from broker.app import Broker
from broker.pull.question import Asker
from broker.wire.packets import Publish

CAKE = {"name": "cake", "language": "it", "title": "Torta", "data": {"price": 3.5}}


async def shop_of(broker: Broker, brand: str = "acme") -> Client:
    shop = await server(broker, brand)
    await shop.subscribe(f"{brand}/content/answer", qos=1)
    return shop


async def asked(shop: Client, request: Any, brand: str = "acme") -> Any:
    payload = request if isinstance(request, bytes) else json.dumps(request).encode()
    await shop.publish(f"{brand}/content", payload, qos=1)
    answer = await shop.expect_message()
    assert answer.topic == f"{brand}/content/answer".encode()
    return json.loads(answer.payload)


async def test_items_are_put_changed_got_and_removed(broker: Broker) -> None:
    shop = await shop_of(broker)
    tart = {"name": "tart", "title": "Crostata"}
    put = {"put": [CAKE, {"name": "b b", "title": "B"}, tart], "request_id": "r1"}
    answer = await asked(shop, put)
    assert {**answer, "message": "", "refused": []} == {
        "ok": False, "request_id": "r1", "code": "some_refused", "field": "put[1].name", "message": "",
        "changed": 2, "new": 2, "same": 0, "refused": [],
    }  # fmt: skip
    assert answer["message"].startswith("1 of 3 items were refused; the others are taken")
    assert [(bad["index"], bad["name"], bad["field"], bad["code"]) for bad in answer["refused"]] == [
        (1, "b b", "name", "bad_value")
    ]
    again = await asked(shop, {"put": [CAKE, tart]})
    assert again == {"ok": True, "request_id": "", "changed": 0, "new": 0, "same": 2}
    assert (await asked(shop, {"set": {"name": "cake", "data": {"price": 4, "left": 2}}}))["changed"] == 1
    got = await asked(shop, {"get": "cake"})
    assert (got["ok"], got["items"]) == (True, [{**CAKE, "data": {"price": 4, "left": 2}}])
    assert (await asked(shop, {"remove": ["cake", {"name": "tart", "language": "de"}, "none"]}))["changed"] == 1
    assert (await asked(shop, {"get": "cake"}))["code"] == "not_found"
    assert await broker.pull.content.count() == 1


WRONG: tuple[tuple[Any, str, str], ...] = (
    (b"not JSON", "bad_json", ""),
    (b"\xff", "bad_json", ""),
    (b'{"put": ' + b"[" * 100_000, "bad_json", ""),
    ([], "bad_value", ""),
    ({}, "bad_value", ""),
    ({"put": [], "remove": []}, "bad_value", ""),
    ({"putt": []}, "unknown_field", "putt"),
    ({"put": {}}, "bad_value", "put"),
    ({"put": [{}] * (limits.ITEMS_AT_ONCE + 1)}, "bad_value", "put"),
    ({"set": {"data": {}}}, "missing_field", "name"),
    ({"set": {"name": 5}}, "bad_value", "name"),
    ({"set": {"name": "cake", "price": 4}}, "unknown_field", "price"),
    ({"set": {"name": "none", "data": {}}}, "not_found", "name"),
    ({"set": {"name": "cake", "link": "file:///"}}, "bad_value", "link"),
    ({"remove": [5]}, "bad_value", "remove[0]"),
)


async def test_what_is_no_request_is_told_why(broker: Broker) -> None:
    shop = await shop_of(broker)
    await asked(shop, {"put": [CAKE]})
    for request, code, field in WRONG:
        answer = await asked(shop, request)
        assert (answer["ok"], answer["code"], answer["field"]) == (False, code, field), request
        assert answer["message"]
    assert broker.core.counters.content_refused == len(WRONG)
    assert (await asked(shop, {"get": "cake"}))["items"] == [CAKE]
    await asked(shop, {"put": [CAKE, {"name": "no title"}]})
    assert broker.core.counters.content_refused == len(WRONG) + 1


async def test_not_all_that_is_refused_is_told(broker: Broker) -> None:
    shop = await shop_of(broker)
    answer = await asked(shop, {"put": [{"name": str(number)} for number in range(limits.ITEMS_AT_ONCE)]})
    assert len(answer["refused"]) == limits.ITEMS_REFUSED_TOLD
    assert answer["message"].startswith("1000 of 1000 items were refused")


async def test_each_brand_has_its_own(broker: Broker) -> None:
    shop, rival = await shop_of(broker), await shop_of(broker, "rival")
    await asked(shop, {"put": [CAKE]})
    assert (await asked(rival, {"get": "cake"}, "rival"))["code"] == "not_found"
    assert (await asked(rival, {"remove": ["cake"]}, "rival"))["changed"] == 0
    assert (await asked(shop, {"get": "cake"}))["ok"] is True


async def test_what_a_brand_said_last_before_it_was_removed_leaves_nothing(broker: Broker) -> None:
    rules = '{"routes": {"search": {"or": "person", "time_limit_s": 0.1}}, "otherwise": "route:search"}'
    await broker.pull.content.set_rules("acme", rules)
    await broker.pull.inbox.staff.add("acme", "mia")
    shop, kiosk = await shop_of(broker), await device(broker, "kiosk-7")
    await shop.subscribe("acme/ask/search", qos=1)
    cakes = {"put": [dict(CAKE, name=f"c{number}") for number in range(400)]}
    for number in (101, 102, 103):
        await shop.send(Publish(b"acme/content", json.dumps(cakes).encode(), 1, packet_id=number))
    for number, text in enumerate((b"where is my cake", b"operator", b"hello?"), 101):
        await kiosk.send(Publish(b"acme/device/kiosk-7/up/ask", text, 1, packet_id=number))
    while broker.core.counters.questions_received < 3:  # noqa: ASYNC110 - in another task
        await asyncio.sleep(0)
    await perform(Context(broker.settings, broker.directory, broker), "brand.remove", {"name": "acme"})
    while broker.core.counters.questions_answered < 3:  # noqa: ASYNC110 - one waits for the brand's server
        await asyncio.sleep(0.01)
    assert await broker.pull.content.brands() == set()
    assert await broker.pull.inbox.store.brands() == set()
    assert not broker.pull.inbox.held("acme", "user", "ada")
    assert await broker.pull.content.count() == 0


async def test_what_a_brand_left_that_was_removed_is_gone_at_the_next_start(tmp_path: Path) -> None:
    """It stays for a moment when a crash comes between the records and that."""
    data = tmp_path / "data"
    async with running(data) as broker:
        await populate(broker)
        await broker.pull.content.put([item("cake"), item("cake", brand="rival")], 0)
        await broker.pull.inbox.staff.add("rival", "mia")
        rivals = Asker(brand="rival", device="kiosk-7", user="ada")
        await broker.pull.inbox.hand_over(rivals, "asked", "q1")
        await broker.directory.records.remove_brand("rival")
    async with running(data) as broker:
        inbox = broker.pull.inbox
        async with asyncio.timeout(10):
            while await broker.pull.content.brands() != {"acme"} or await inbox.store.brands():  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert not inbox.held("rival", "user", "ada")
        assert inbox.staff.of("rival") == []


async def test_a_brand_that_is_removed_and_added_while_nobody_runs_begins_empty(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with running(data) as broker:
        await populate(broker)
        await broker.pull.content.put([item("cake")], 0)
        await broker.pull.inbox.staff.add("acme", "mia")
        await broker.pull.inbox.hand_over(Asker(brand="acme", device="kiosk-7", user="ada"), "asked", "q1")
    for words in (("brand", "remove", "acme", "--yes"), ("brand", "add", "acme")):
        done = await asyncio.to_thread(pushbroker, *words, PUSHBROKER_DATA=str(data))
        assert done.code == 0, done.err
    async with running(data) as broker:
        assert await broker.pull.content.brands() == set()
        assert await broker.pull.inbox.store.brands() == set()
