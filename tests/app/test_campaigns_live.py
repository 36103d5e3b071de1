"""Campaigns, end to end: a broker that runs them, devices that get what they send, and what came of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from support.live import device, populate, running
from support.mqtt import Client

from broker.app import Broker
from broker.bridge.campaigns import Definition, Variant
from broker.bridge.request import SendRequest, To
from broker.bridge.schedule import Schedule
from broker.wire.packets import Properties


async def until(there: Callable[[], Awaitable[Any]], wanted: Any = True) -> None:
    """Wait until something is as it should be."""
    async with asyncio.timeout(10):
        while await there() != wanted:  # noqa: ASYNC110 - in another thread
            await asyncio.sleep(0.01)  # the books have no event for a test to wait for


TO_ADA = {"to": {"condition": "user:ada"}}
SPRING = (Variant("", 1, {"notification": {"title": "Spring"}}),)


async def kiosk_of_ada(broker: Broker) -> Client:
    client = await device(broker, "kiosk-7", properties=Properties(session_expiry=3600))
    await client.subscribe("acme/user/ada", qos=1)
    return client


async def next_id(client: Client) -> str:
    message = await client.expect_message()
    assert json.loads(message.payload) == {"title": "Spring"}
    return dict(message.properties.user_properties)["message-id"]


async def figures(broker: Broker, *names: str) -> list[Any]:
    ((found, *_), _) = await broker.bridge.campaigns.figures("acme", "spring")
    return [getattr(found, name) for name in names]


async def test_a_campaign_reaches_a_person_and_what_they_do_with_it_is_counted(broker: Broker) -> None:
    campaigns, kiosk = broker.bridge.campaigns, await kiosk_of_ada(broker)
    await campaigns.add("acme", "spring", Definition(TO_ADA, SPRING))
    await campaigns.start("acme", "spring")
    id = await next_id(kiosk)
    await until(lambda: figures(broker, "accepted", "delivered", "delivered_within", "opened"), [1, 1, 1, 0])

    (answer,) = await campaigns.retarget("acme", "spring", 0)
    assert answer.recipients == 1
    assert await next_id(kiosk) == answer.message_id
    (answer,) = await campaigns.retarget("acme", "spring", 0)
    assert answer.recipients == 0

    for event in ("displayed", "opened", "clicked"):
        said = json.dumps({"message_id": id, "event": event}).encode()
        await kiosk.publish("acme/device/kiosk-7/up/receipt", said, qos=1)
    await until(lambda: figures(broker, "accepted", "delivered", "displayed", "opened", "clicked"), [2, 2, 1, 1, 1])
    (_, store), _ = await campaigns.figures("acme", "spring", "store")
    assert (store.what, store.delivered) == ("milano", 2)


async def test_what_a_paused_campaign_has_accepted_waits_until_it_is_resumed(broker: Broker) -> None:
    campaigns, kiosk = broker.bridge.campaigns, await kiosk_of_ada(broker)
    soon = {**TO_ADA, "not_before": (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()}
    await campaigns.add("acme", "spring", Definition(soon, SPRING))
    await campaigns.start("acme", "spring")
    await until(lambda: accepted(broker))
    await campaigns.pause("acme", "spring")
    await until(lambda: due(broker))
    await broker.bridge.dispatcher.look()
    answer = await broker.bridge.sends.accept("acme", SendRequest(to=To(users=["ada"]), payload="a barrier"))
    assert answer.ok
    assert (await kiosk.expect_message()).payload == b"a barrier"
    assert await figures(broker, "waiting", "delivered") == [1, 0]
    assert (await campaigns.resume("acme", "spring"))["state"] == "done"
    await next_id(kiosk)


async def accepted(broker: Broker) -> bool:
    sql = "SELECT EXISTS (SELECT 1 FROM message WHERE state = 'open')"
    return bool(await broker.bridge.messages.read(lambda db: db.execute(sql).fetchone()[0]))


async def due(broker: Broker) -> bool:
    sql = "SELECT due_at <= ? FROM recipient"
    now = datetime.now(UTC).timestamp() * 1000
    return bool(await broker.bridge.messages.read(lambda db: db.execute(sql, (now,)).fetchone()[0]))


async def test_a_run_whose_time_comes_while_no_broker_is_there_is_made_once(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await populate(broker)
        kiosk = await kiosk_of_ada(broker)
        await kiosk.disconnect()
        campaigns = broker.bridge.campaigns
        await campaigns.add("acme", "spring", Definition(TO_ADA, SPRING, Schedule(cron="0 9 * * *")))
        shown = await campaigns.start("acme", "spring")
    async with running(tmp_path) as broker:
        store = broker.bridge._campaigns
        row = await store.one("acme", "spring")
        assert row is not None
        assert row.next_run_at is not None
        yesterday = datetime.now(UTC) - timedelta(days=1)
        row.next_run_at, row.next_run = int(yesterday.timestamp() * 1000), json.dumps({"at": yesterday.isoformat()})
        await store.change(row)  # and nobody is told: it has come while no broker was there
    for _ in range(2):
        async with running(tmp_path) as broker:
            await until(lambda: ran(broker))
            again = await broker.bridge.campaigns.show("acme", "spring")
            assert (again["state"], again["next_run"], len(again["runs"])) == ("running", shown["next_run"], 1)
            assert (await figures(broker, "accepted")) == [1]
    async with running(tmp_path) as broker:
        kiosk = await device(broker, "kiosk-7", clean_start=False, properties=Properties(session_expiry=3600))
        await next_id(kiosk)


async def ran(broker: Broker) -> bool:
    return bool((await broker.bridge.campaigns.show("acme", "spring"))["runs"])
