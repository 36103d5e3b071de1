"""What devices say of their user, what all of the user's devices are told, and what becomes of messages by it."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from support.live import device, server
from support.mqtt import Client

from broker.admin.operations import Context, perform
from broker.app import Broker
from broker.bridge.preferences import Preferences
from broker.store.entries import Who


@pytest.fixture
async def kiosk(broker: Broker) -> Client:
    """ada's, which listens for what counts."""
    client = await device(broker, "kiosk-7")
    await client.subscribe("acme/device/kiosk-7/preferences", qos=1)
    return client


async def say(client: Client, name: str, **wanted: Any) -> None:
    await client.publish(f"acme/device/{name}/up/preferences", json.dumps(wanted).encode(), qos=1)


async def told(client: Client) -> Any:
    message = await client.expect_message()
    return json.loads(message.payload) if message.payload else None


async def operate(broker: Broker, operation: str, **arguments: Any) -> Any:
    return await perform(Context(broker.settings, broker.directory, broker), operation, arguments)


async def test_what_one_device_says_all_of_the_users_devices_are_told(broker: Broker, kiosk: Client) -> None:
    await broker.directory.device_code("acme", "phone", user="ada")
    phone = await device(broker, "phone")
    night = {"from": "22:00", "until": "08:00"}
    await say(phone, "phone", topics={"news": True, "offers": False}, quiet_hours=night)
    wanted = {
        "topics": {"news": True, "offers": False},
        "quiet_hours": night,
        "time_zone": "",
        "locale": "",
    }
    assert await told(kiosk) == wanted
    await say(kiosk, "kiosk-7", time_zone="Europe/Rome", topics={"news": False})
    now = {**wanted, "topics": {"news": False, "offers": False}, "time_zone": "Europe/Rome"}
    assert await told(kiosk) == now
    log = await operate(broker, "profile.consents", brand="acme", name="ada")
    assert [(one["topic"], one["state"], one["source"]) for one in log] == [
        ("news", "in", "device/phone"),
        ("offers", "out", "device/phone"),
        ("news", "out", "device/kiosk-7"),
    ]

    async with asyncio.timeout(10):  # it is retained for who comes later, too
        while True:
            later = await device(broker, "phone", "later")
            await later.subscribe("acme/device/phone/preferences", qos=1)
            if await told(later) == now:
                break


async def test_what_they_follow_is_among_it(broker: Broker, kiosk: Client) -> None:
    await say(kiosk, "kiosk-7", follows={"wipro": 3600, "stracchino": 0, "old": None})
    assert (await told(kiosk))["follows"] == {"stracchino": 0, "wipro": 3600}
    await say(kiosk, "kiosk-7", follows={"wipro": 60, "stracchino": None})
    assert (await told(kiosk))["follows"] == {"wipro": 60}
    await say(kiosk, "kiosk-7", follows={"wipro": None})
    assert await told(kiosk) is None
    log = await operate(broker, "profile.consents", brand="acme", name="ada")
    assert [(one["topic"], one["state"], one["source"]) for one in log] == [
        ("item/wipro", "in", "device/kiosk-7"),
        ("item/stracchino", "in", "device/kiosk-7"),
        ("item/stracchino", "out", "device/kiosk-7"),
        ("item/wipro", "out", "device/kiosk-7"),
    ]


async def test_what_the_operator_says_is_told_as_well(broker: Broker, kiosk: Client) -> None:
    await operate(broker, "profile.say", brand="acme", name="ada", wanted={"topics": {"news": True}, "locale": "it"})
    assert (await told(kiosk))["topics"] == {"news": True}


async def test_what_is_taken_back_within_a_second_is_taken_back(broker: Broker, kiosk: Client) -> None:
    for wanted in (True, False, True, False):
        await say(kiosk, "kiosk-7", topics={"news": wanted})
        assert (await told(kiosk))["topics"] == {"news": wanted}
        await operate(broker, "profile.say", brand="acme", name="ada", wanted={"topics": {"news": not wanted}})
        assert (await told(kiosk))["topics"] == {"news": not wanted}


async def test_a_device_with_another_user_is_told_what_that_one_wants(broker: Broker) -> None:
    await operate(broker, "profile.say", brand="acme", name="bob", wanted={"locale": "de"})
    await broker.directory.device_assign("acme", "kiosk-7", user="bob")
    crm = await server(broker)
    await crm.subscribe("acme/device/kiosk-7/preferences", qos=1)
    assert (await told(crm))["locale"] == "de"
    await broker.directory.device_assign("acme", "kiosk-7", user="ada")  # who never said anything
    assert await told(crm) is None


async def test_who_was_not_told_before_a_crash_is_told_by_the_next_process(broker: Broker, kiosk: Client) -> None:
    async with broker.directory.records.transaction():  # as a process leaves it that has only just heard it
        profiles = broker.bridge.people.profiles
        await profiles.consent(Who("acme", "user", "ada"), "news", "in", datetime.now(UTC), "device/phone", 10)
        await profiles.owe(Who("acme", "user", "ada"))
    people = broker.bridge.people
    again = Preferences(people, broker.post, broker.core.retained.get, broker.core.counters, broker.bridge._log)
    telling = asyncio.create_task(again.run())
    assert (await told(kiosk))["topics"] == {"news": True}
    async with asyncio.timeout(10):
        while await profiles.untold(1):  # noqa: ASYNC110 - in another thread
            await asyncio.sleep(0.01)
    telling.cancel()


async def test_a_device_that_is_nobodys_speaks_for_itself(broker: Broker) -> None:
    await broker.directory.device_assign("acme", "till-3", user="")
    till = await device(broker, "till-3")
    await till.subscribe("acme/device/till-3/preferences", qos=1)
    await say(till, "till-3", topics={"news": True})
    assert (await told(till))["topics"] == {"news": True}
    profile = await broker.bridge.people.profiles.profile(Who("acme", "device", "till-3"))
    assert [consent.topic for consent in profile.topics] == ["news"]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"topics": {"news": "yes"}}',
        b'{"topics": {"a/b": true}}',
        b'{"colour": "red"}',
        b'{"follows": {"wipro": -1}}',
        b'{"follows": {"wipro": true}}',
        b'{"follows": {"wipro": 99999999}}',
        b'{"follows": {"a/b": 60}}',
        b'{"time_zone": "Mars/North"}',
        b'{"quiet_hours": {"from": "22:00"}}',
        b'{"quiet_hours": {"from": "22:00", "until": "22:00"}}',
        b'{"locale": "' + b"x" * 17_000 + b'"}',
        json.dumps({"topics": {f"t{n}": True for n in range(101)}}).encode(),
    ],
)
async def test_what_cannot_be_understood_changes_nothing(broker: Broker, kiosk: Client, payload: bytes) -> None:
    await kiosk.publish("acme/device/kiosk-7/up/preferences", payload, qos=1)
    await say(kiosk, "kiosk-7", locale="it")
    assert (await told(kiosk))["locale"] == "it"
    assert broker.core.counters.preferences_refused == 1
    assert await operate(broker, "profile.consents", brand="acme", name="ada") == []


async def test_who_opted_in_gets_what_is_sent_to_a_topic(broker: Broker, kiosk: Client) -> None:
    await kiosk.subscribe("acme/user/ada", qos=1)
    await say(kiosk, "kiosk-7", topics={"news": True})
    await told(kiosk)
    crm = await server(broker)
    await crm.subscribe("acme/send/answer", qos=1)

    async def send(**request: Any) -> Any:
        asked = {"notification": {"title": "Ciao", "body": "x"}, "to": {"topics": ["news"]}, **request}
        await crm.publish("acme/send", json.dumps(asked).encode(), qos=1)
        return json.loads((await crm.expect_message()).payload)

    accepted = await send()
    assert (accepted["ok"], accepted["recipients"], accepted["users"]) == (True, 1, 1)
    await kiosk.expect_message()
    assert (await send(to={"condition": "topic:offers OR NOT topic:news"}, dry_run=True))["users"] == 1  # bob
    refused = await send(to={"condition": "topic:news AND store:oslo"})
    assert (refused["code"], refused["field"]) == ("unknown_store", "to.condition")

    await operate(broker, "suppression.add", brand="acme", name="ada", reason="complaint")
    assert (await send(dry_run=True))["left_out"] == {"suppressed": 1}
