"""Receipts of rich sends, what is opened on one device, and withdrawals; each of them after a restart too."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.live import device, populate, running, server
from support.mqtt import Client

from broker.app import Broker
from broker.wire.packets import Properties, Puback

TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()
STAYS = Properties(session_expiry=3600)


async def kiosk(broker: Broker, name: str = "kiosk-7", user: str = "ada") -> Client:
    """A device that hears of its user's messages and of withdrawals, and whose session stays."""
    client = await device(broker, name, clean_start=False, properties=STAYS)
    await client.subscribe(f"acme/user/{user}", f"acme/device/{name}", f"acme/device/{name}/withdraw", qos=1)
    return client


async def crm(broker: Broker) -> Client:
    """A brand's server that listens for receipts, and whose session stays."""
    client = await server(broker, client_id="crm", clean_start=False, properties=STAYS)
    await client.subscribe("acme/receipts/+", qos=1)
    return client


async def ask(broker: Broker, **request: Any) -> dict[str, Any]:
    """Ask for something as the brand, and return the answer."""
    client = await server(broker)
    await client.subscribe("acme/send/answer", qos=1)
    await client.publish("acme/send", json.dumps(request).encode(), qos=1)
    answer: dict[str, Any] = json.loads((await client.expect_message()).payload)
    await client.disconnect()
    assert answer["ok"], answer
    return answer


async def send(broker: Broker, *users: str, **request: Any) -> str:
    answer = await ask(broker, to={"users": users}, notification={"title": "Ciao"}, **request)
    return str(answer["message_id"])


async def say(client: Client, id: str, event: str, **more: Any) -> None:
    said = json.dumps({"message_id": id, "event": event, **more}).encode()
    await client.publish("acme/device/kiosk-7/up/receipt", said, qos=1)


async def heard(client: Client) -> dict[str, Any]:
    message: dict[str, Any] = json.loads((await client.expect_message()).payload)
    return message


async def counts(broker: Broker, id: str) -> dict[str, int]:
    sql = """SELECT r.state, count(*) FROM recipient r JOIN message m ON m.number = r.message WHERE m.id = ?
             GROUP BY r.state"""
    return dict(await broker.bridge.messages.read(lambda db: db.execute(sql, (id,)).fetchall()))


async def until(broker: Broker, id: str, wanted: dict[str, int]) -> None:
    async with asyncio.timeout(10):
        while await counts(broker, id) != wanted:  # noqa: ASYNC110 - in another thread
            await asyncio.sleep(0.01)  # the books have no event for a test to wait for


async def test_a_brand_hears_of_each_event_where_it_asks_for_that(broker: Broker) -> None:
    server_, client = await crm(broker), await kiosk(broker)
    id = await send(broker, "ada", "bob", receipts="each")
    dropped = await heard(server_)
    assert {**dropped, "at": ""} == {
        "message_id": id, "event": "dropped", "recipient": "user/bob", "user": "bob", "at": "",
        "reason": "no_subscriber",
    }  # fmt: skip
    await client.expect_message()
    delivered = await heard(server_)
    assert {**delivered, "at": ""} == {
        "message_id": id, "event": "delivered", "recipient": "user/ada", "user": "ada", "device": "kiosk-7",
        "store": "milano", "at": "",
    }  # fmt: skip
    assert delivered["at"].endswith("Z")
    await say(client, id, "clicked", action="ok")
    clicked = await heard(server_)
    assert (clicked["event"], clicked["action"], clicked["store"]) == ("clicked", "ok", "milano")

    quiet = await send(broker, "ada")
    await client.expect_message()
    await until(broker, quiet, {"delivered": 1})
    loud = await send(broker, "ada", receipts="each")
    await client.expect_message()
    assert (await heard(server_))["message_id"] == loud


async def test_a_summary_tells_counts_and_at_last_that_it_is_done(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.bridge.outbox.SUMMARY_S", 0.1)
    server_, client = await crm(broker), await kiosk(broker)
    id = await send(broker, "ada", "bob", receipts="summary")
    await client.expect_message()
    summary = await heard(server_)
    while not summary["done"]:
        summary = await heard(server_)
    assert (summary["message_id"], summary["event"]) == (id, "summary")
    assert summary["counts"] == {
        "accepted": 2, "delivered": 1, "expired": 0, "replaced": 0, "dropped": 1, "withdrawn": 0, "waiting": 0,
        "sent": 0,
    }  # fmt: skip
    await say(client, id, "opened")
    assert (await heard(server_))["opened"] == 1


async def test_what_was_not_told_is_told_by_the_next_process(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await populate(broker)
        await (await crm(broker)).disconnect()
        client = await kiosk(broker)
        for task in broker.bridge._tasks:
            if "Outbox" in repr(task):
                task.cancel()
        id = await send(broker, "ada", receipts="each")
        await client.expect_message()
        await until(broker, id, {"delivered": 1})
    async with running(tmp_path) as broker:
        server_ = await server(broker, client_id="crm", clean_start=False, properties=STAYS)
        told = await heard(server_)
        assert (told["message_id"], told["event"], told["store"]) == (id, "delivered", "milano")
        async with asyncio.timeout(10):  # it is told before it is off the list
            while await waiting(broker):  # noqa: ASYNC110 - the books are in another thread
                await asyncio.sleep(0.01)


async def waiting(broker: Broker) -> int:
    """How much is still to be told."""
    (count,) = await broker.bridge.messages.read(lambda db: db.execute("SELECT count(*) FROM outbox").fetchone())
    return int(count)


async def test_opened_on_one_device_it_leaves_the_others(broker: Broker) -> None:
    await broker.directory.device_code("acme", "tablet-2", user="ada")
    client, tablet = await kiosk(broker), await kiosk(broker, "tablet-2")
    id = await send(broker, "ada")
    await client.expect_message()
    await tablet.expect_message()
    await say(client, id, "opened")
    notice = await tablet.expect_message()
    assert notice.topic == b"acme/device/tablet-2/withdraw"
    assert json.loads(notice.payload) == {"message_ids": [id], "why": "opened"}
    assert notice.properties.message_expiry in (7 * 86400, 7 * 86400 - 1)
    await client.silent()


async def test_opened_on_one_device_it_does_not_come_to_another_that_is_away(broker: Broker) -> None:
    await broker.directory.device_code("acme", "tablet-2", user="ada")
    client = await kiosk(broker)
    await (await kiosk(broker, "tablet-2")).disconnect()
    id = await send(broker, "ada")
    await client.expect_message()
    await until(broker, id, {"delivered": 1})
    await say(client, id, "opened")
    async with asyncio.timeout(10):
        while broker.core.log.messages != 1:  # noqa: ASYNC110 - the notice alone; the core has no event for a test
            await asyncio.sleep(0.01)
    tablet = await device(broker, "tablet-2", clean_start=False, properties=STAYS)
    assert (await tablet.expect_message()).topic == b"acme/device/tablet-2/withdraw"


async def test_a_withdrawn_message_comes_to_nobody_more_and_leaves_the_screens(broker: Broker) -> None:
    client = await kiosk(broker)
    await (await kiosk(broker, "till-3", "bob")).disconnect()
    id = await send(broker, "ada", "bob")
    later = await send(broker, "ada", not_before=TOMORROW)
    await client.expect_message()
    await until(broker, id, {"delivered": 1, "sent": 1})

    answer = await ask(broker, withdraw=id, request_id="w1")

    assert {**answer} == {"ok": True, "request_id": "w1", "message_id": id, "recipients": 1}
    notice = await client.expect_message()
    assert notice.topic == b"acme/device/kiosk-7/withdraw"
    assert json.loads(notice.payload) == {"message_ids": [id], "why": "withdrawn"}
    await until(broker, id, {"delivered": 1, "withdrawn": 1})
    till = await device(broker, "till-3", clean_start=False, properties=STAYS)
    await till.silent()
    assert (await ask(broker, withdraw=later))["recipients"] == 1
    await until(broker, later, {"withdrawn": 1})
    assert (await ask(broker, withdraw=later))["recipients"] == 0  # it was


async def test_what_is_in_flight_is_withdrawn_by_a_notice_behind_it(broker: Broker) -> None:
    client = await kiosk(broker)
    id = await send(broker, "ada")
    message = await client.expect_message(acknowledge=False)
    await until(broker, id, {"sent": 1})
    assert (await ask(broker, withdraw=id))["recipients"] == 0
    await client.send(Puback(message.packet_id))
    assert (await client.expect_message()).topic == b"acme/device/kiosk-7/withdraw"
    await until(broker, id, {"delivered": 1})
    sql = "SELECT rule, outcome, detail FROM decision"
    ((rule, outcome, detail),) = await broker.bridge.messages.read(lambda db: db.execute(sql).fetchall())
    assert (rule, outcome) == ("withdraw", "withdrawn")
    assert "acme/server/" in detail
    assert "kiosk-7" in detail


async def test_a_withdrawal_goes_on_in_the_next_process(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await populate(broker)
        for number in range(250):
            await broker.directory.user_add("acme", f"user-{number}")
        users = [f"user-{number}" for number in range(250)]
        id = await send(broker, *users, not_before=TOMORROW)
        row = await broker.bridge.messages.by_id(id)
        assert row is not None
        # As a process leaves it that ends after the first hundred.
        await broker.bridge.messages.withdraw(row.number, "", 1)
        ended = [(row.number, number) for number in range(1, 101)]
        await broker.bridge.messages.end(ended, "withdrawn", "withdraw", "the operator withdrew it", 1)
        await broker.bridge.messages.withdrawn_from(row.number, 100, {}, 1)
    async with running(tmp_path) as broker:
        await until(broker, id, {"withdrawn": 250})
        async with asyncio.timeout(10):
            while await broker.bridge.messages.withdrawing():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)


async def test_nobody_withdraws_what_another_brand_has_sent(broker: Broker) -> None:
    id = await send(broker, "ada", not_before=TOMORROW)
    client = await server(broker, "rival")
    await client.subscribe("rival/send/answer", qos=1)
    await client.publish("rival/send", json.dumps({"withdraw": id}).encode(), qos=1)
    answer = await heard(client)
    assert (answer["ok"], answer["code"]) == (False, "not_found")
    await until(broker, id, {"accepted": 1})
