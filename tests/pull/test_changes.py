"""Who follows an item hears of its changes, as often as they said, by messages like any other."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support.library import item
from support.live import device, device_context, populate, port, running, server
from support.mqtt import Client

from broker.admin.operations import Context, perform
from broker.app import Broker
from broker.bridge.people import Wanted
from broker.pull import follow
from broker.store.entries import Who


@pytest.fixture
async def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    monkeypatch.setattr(follow, "CHANGES_LOOK_S", 0.01)
    monkeypatch.setattr(follow, "FOLLOWED_EVERY_S", 0.0)
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        yield broker


@pytest.fixture
async def kiosk(broker: Broker) -> Client:
    """ada's."""
    client = await device(broker, "kiosk-7")
    await client.subscribe("acme/user/ada", qos=1)
    return client


async def says(broker: Broker, name: str = "ada", **wanted: Any) -> None:
    await broker.bridge.people.hear(Who("acme", "user", name), Wanted(**wanted), "operator", datetime.now(UTC))


def wipro(price: str, **fields: Any) -> Any:
    usual = {"language": "", "body": "{{ data.price }}{{ user.title }}", "data": {"price": price}}
    return item("wipro", "Wipro", **{**usual, **fields})


_last = [0]


async def put(broker: Broker, *items: Any) -> None:
    """Change items, and wait until it is known what becomes of that."""
    content = broker.pull.content
    _last[0] = max(_last[0] + 1, int(datetime.now(UTC).timestamp() * 1000))
    await content.put(items, _last[0])
    await told(broker)


async def told(broker: Broker) -> None:
    async with asyncio.timeout(10):
        while await broker.pull.content.changed(("", ""), 1 << 60, 1):  # noqa: ASYNC110 - in another thread
            await asyncio.sleep(0.005)


async def rows(broker: Broker, sql: str) -> list[tuple[Any, ...]]:
    return await broker.bridge.messages.read(lambda db: db.execute(sql).fetchall())


async def states(broker: Broker, count: int, *, name: str = "ada") -> list[tuple[str, str]]:
    """What has become of all messages for somebody, once so many are there and none is on its way to be replaced."""
    sql = f"""SELECT r.state, r.reason FROM recipient r JOIN message m ON m.number = r.message
              WHERE r.name = '{name}' ORDER BY m.number"""
    async with asyncio.timeout(10):
        while True:
            found = await rows(broker, sql)
            if len(found) == count and sum(state == "accepted" for state, _ in found) < 2:
                return found
            await asyncio.sleep(0.01)


async def why(broker: Broker, count: int) -> list[Any]:
    """What is explained of ada's messages."""
    ids = await rows(broker, "SELECT id FROM message ORDER BY number")
    assert len(ids) == count
    context = Context(broker.settings, broker.directory, broker)
    return [await perform(context, "why", {"id": id, "who": "ada"}) for (id,) in ids]


async def test_a_change_comes_as_a_message_in_the_language_of_each(broker: Broker, kiosk: Client) -> None:
    till = await device(broker, "till-3")
    await till.subscribe("acme/user/bob", qos=1)
    await says(broker, follows={"wipro": 0}, locale="it-IT")
    await says(broker, "bob", follows={"wipro": 0}, locale="fr")
    german = {"language": "de", "body": "Kurs {{ data.price|number(2) }}", "image": "https://x.example/w.png"}
    await put(broker, wipro("12", language="it", body="A {{ data.price }} euro"), wipro("12", **german))
    message = await kiosk.expect_message()
    shown = json.loads(message.payload)
    assert (shown["title"], shown["body"], shown["data"]) == ("Wipro", "A 12 euro", {"price": "12", "item": "wipro"})
    assert shown["collapse_key"] == "follow:wipro"
    shown = json.loads((await till.expect_message()).payload)  # no French, nor a language of the brand's: one of those
    assert shown["body"] in ("Kurs 12,00", "A 12 euro")
    assert len(await rows(broker, "SELECT 1 FROM recipient")) == 2


async def test_who_follows_nothing_hears_nothing_and_nothing_is_kept(broker: Broker) -> None:
    await says(broker, follows={"cakes": 0})
    await put(broker, *(item(f"i{n}") for n in range(2500)), wipro("12"))
    assert await rows(broker, "SELECT 1 FROM message") == []


async def test_of_what_changes_too_often_only_the_last_waits(broker: Broker, kiosk: Client) -> None:
    await says(broker, follows={"wipro": 3600})
    for price in ("12", "13", "14", "15"):
        await put(broker, wipro(price))
        if price == "12":
            assert json.loads((await kiosk.expect_message()).payload)["body"] == "12"
    first, *replaced, waiting = await states(broker, 4)
    assert first[0] in ("sent", "delivered")
    assert replaced == [("replaced", "collapse")] * 2
    assert waiting == ("accepted", "")
    ((sent_at, due_at),) = await rows(
        broker,
        """SELECT (SELECT max(sent_at) FROM recipient), due_at FROM recipient WHERE state = 'accepted'""",
    )
    assert abs(due_at - sent_at - 3_600_000) < 5000
    explained = await why(broker, 4)
    assert "replaces it" in explained[1]["verdict"]
    assert "followed wipro, since" in explained[3]["parts"][0]["addressed"]


async def test_when_it_is_time_they_get_what_is_new_unless_they_want_less(broker: Broker, kiosk: Client) -> None:
    till = await device(broker, "till-3")
    await till.subscribe("acme/user/bob", qos=1)
    await broker.directory.user_add("acme", "eve")
    for name in ("ada", "bob", "eve"):
        await says(broker, name, follows={"wipro": 1})
    await put(broker, wipro("12"))
    for client in (kiosk, till):
        assert json.loads((await client.expect_message()).payload)["body"] == "12"
    await put(broker, wipro("13"))
    await says(broker, follows={"wipro": None})
    await says(broker, "eve", follows={"wipro": 3600})
    assert json.loads((await till.expect_message()).payload)["body"] == "13"
    assert (await states(broker, 2))[1] == ("dropped", "opted_out")
    assert (await states(broker, 2, name="eve"))[1] == ("accepted", "follow_interval")
    (_, later) = await why(broker, 2)
    assert "does not follow wipro any more" in later["verdict"]


class App:
    """ada's kiosk, with paho."""

    def __init__(self, broker: Broker, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        self._port = port(broker, "mqtts")
        self._subscribed = asyncio.Event()
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, "kiosk-7", protocol=MQTTProtocolVersion.MQTTv5)
        self.client.tls_set_context(context)
        self.client.on_message = lambda _client, _data, message: loop.call_soon_threadsafe(
            self.heard.put_nowait, json.loads(message.payload)
        )
        self.client.on_subscribe = lambda *_: loop.call_soon_threadsafe(self._subscribed.set)

    async def __aenter__(self) -> Self:
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 3600
        where: dict[str, Any] = {"port": self._port, "clean_start": False, "properties": kept}
        await asyncio.to_thread(self.client.connect, "localhost", **where)
        self.client.loop_start()
        self.client.subscribe([("acme/device/kiosk-7/answer", 1), ("acme/user/ada", 1)])
        await self._subscribed.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)

    async def ask(self, question: str) -> Any:
        self.client.publish("acme/device/kiosk-7/up/ask", question, 1)
        return await self.heard.get()


async def test_who_asks_to_follow_hears_of_changes_after_a_restart_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "CHANGES_LOOK_S", 0.01)
    monkeypatch.setattr(follow, "FOLLOWED_EVERY_S", 0.0)
    async with asyncio.timeout(20):
        async with running(tmp_path / "data") as broker:
            await populate(broker)
            await put(broker, wipro("12"))
            context = await device_context(broker, "acme", "kiosk-7")
            async with App(broker, context) as app:
                assert (await app.ask("follow wipro"))["item"] == "wipro"
        async with running(tmp_path / "data") as broker:
            await put(broker, wipro("13"))
            async with App(broker, context) as app:
                assert (await app.heard.get())["body"] == "13"
                assert "no more" in (await app.ask("stop wipro"))["text"]
                await put(broker, wipro("14"))
                assert (await app.ask("wipro"))["body"] == "14"  # and no message before it


async def test_caps_hold(broker: Broker, kiosk: Client) -> None:
    context = Context(broker.settings, broker.directory, broker)
    await perform(context, "restraint.set", {"brand": "acme", "caps": [{"max": 1}]})
    await says(broker, follows={"wipro": 0})
    for price in ("12", "13"):
        await put(broker, wipro(price))
    await kiosk.expect_message()
    async with asyncio.timeout(10):
        while (found := await states(broker, 2))[1][0] == "accepted":  # noqa: ASYNC110 - in another thread
            await asyncio.sleep(0.01)
    assert found[1] == ("dropped", "cap")


async def test_what_changes_all_the_time_costs_little(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "FOLLOWED_EVERY_S", 3600.0)
    await says(broker, follows={"wipro": 0})
    await put(broker, wipro("0"))
    for price in range(1, 100):
        await broker.pull.content.put([wipro(str(price))], 10_000 + price)
    await broker.pull.changes.look()
    assert len(await rows(broker, "SELECT 1 FROM message")) == 1
    assert len(await broker.pull.content.changed(("", ""), 1 << 60, 10)) == 1
    broker.pull.changes._lately.clear()
    await told(broker)
    assert len(await rows(broker, "SELECT 1 FROM message")) == 2
    assert b'"99"' in (await rows(broker, "SELECT payload FROM message ORDER BY number"))[1][0]


async def test_a_change_that_was_told_when_the_process_ended_is_told_once(broker: Broker, kiosk: Client) -> None:
    await says(broker, follows={"wipro": 0})
    await put(broker, wipro("12"))
    await kiosk.expect_message()
    await broker.pull.content.write(lambda db: db.execute("INSERT INTO changed VALUES ('acme', 'wipro', ?)", _last))
    await told(broker)
    await put(broker, wipro("13"))
    assert json.loads((await kiosk.expect_message()).payload)["body"] == "13"
    assert len(await rows(broker, "SELECT 1 FROM message")) == 2


async def test_what_changed_before_the_clock_was_set_back_is_told_at_once(broker: Broker, kiosk: Client) -> None:
    await says(broker, follows={"wipro": 0})
    an_hour_on = int(datetime.now(UTC).timestamp() * 1000) + 3_600_000
    await broker.pull.content.put([wipro("12")], an_hour_on)
    assert json.loads((await kiosk.expect_message()).payload)["body"] == "12"
    await told(broker)


async def test_what_is_over_or_for_others_is_not_told(broker: Broker, kiosk: Client) -> None:
    await says(broker, follows={"wipro": 0, "cakes": 0, "later": 0, "none": 0})
    later = int(datetime.now(UTC).timestamp() * 1000) + 3_600_000
    await put(
        broker,
        wipro("12", valid_until=1),
        item("cakes", "Cakes", stores=["roma"]),
        item("none", "None", stores=["oslo"]),
        item("later", "Later", valid_from=later),
    )
    assert await rows(broker, "SELECT collapse_key, recipients, not_before FROM message ORDER BY number") == [
        ("follow:cakes", 0, None), ("follow:later", 1, later)
    ]  # fmt: skip
    await put(broker, item("cakes", "Cakes", stores=["milano"], tags=["vip"]))
    await broker.bridge.people.tag("acme", "user", "ada", ("vip",))
    await put(broker, item("cakes", "More cakes", stores=["milano", "roma"], tags=["vip", "gold"]))
    assert json.loads((await kiosk.expect_message()).payload)["title"] == "More cakes"


async def test_after_stop_nothing_comes_until_start(broker: Broker, kiosk: Client) -> None:
    await says(broker, follows={"wipro": 0})
    await broker.bridge.people.opt_out(Who("acme", "user", "ada"), "operator")
    await put(broker, wipro("12"))
    await broker.bridge.people.opt_in(Who("acme", "user", "ada"), "operator")
    await put(broker, wipro("13"))
    assert json.loads((await kiosk.expect_message()).payload)["body"] == "13"


async def test_a_brands_server_sends_to_followers_too(broker: Broker, kiosk: Client) -> None:
    await says(broker, follows={"wipro": 3600})
    crm = await server(broker)
    await crm.subscribe("acme/send/answer", qos=1)

    async def send(**to: Any) -> Any:
        request = {"to": {"following": "wipro", **to}, "notification": {"title": "Breaking"}}
        await crm.publish("acme/send", json.dumps(request).encode(), qos=1)
        return json.loads((await crm.expect_message()).payload)

    assert (await send(only="language:it"))["recipients"] == 0
    assert (await send(only="langage:it"))["field"] == "to.only"
    assert (await send(following="a b"))["field"] == "to.following"
    assert (await send())["recipients"] == 1
    assert json.loads((await kiosk.expect_message()).payload)["title"] == "Breaking"
    await put(broker, wipro("12"))
    assert (await states(broker, 2))[1][0] == "accepted"  # it was less than an hour ago


async def test_a_brand_that_changes_much_keeps_no_other_waiting(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"item-{number:02}" for number in range(90)]
    for brand, followed in (("acme", names), ("rival", ["wipro"])):
        wanted = Wanted(follows=dict.fromkeys(followed, 0))
        await broker.bridge.people.hear(Who(brand, "user", "ada"), wanted, "operator", datetime.now(UTC))
    order: list[str] = []

    async def tell(changes: follow.Changes, change: Any) -> None:
        order.append(change.brand)
        await broker.pull.content.told([change])

    monkeypatch.setattr(follow.Changes, "_tell", tell)
    await put(broker, *(item(name) for name in names), item("wipro", brand="rival"))
    assert sorted(order) == ["acme"] * 90 + ["rival"]
    assert order.index("rival") == follow.TOLD_IN_TURN
