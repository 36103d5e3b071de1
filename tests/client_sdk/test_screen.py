"""What is on a device's screen, what leaves it, and what its user wants; with a tester as the bridge."""

import asyncio
import json
import queue
from collections.abc import Callable
from datetime import time
from typing import Any

import pytest
from support.kiosk import Handler, until
from support.mosquitto import Mosquitto
from support.tester import Tester

from client_sdk import AsyncDevice, Backoff, Credentials, Device, Message, Preferences, QuietHours
from client_sdk.preferences import compose_wishes

ADA = "acme/user/ada"
WITHDRAW = "acme/device/kiosk-7/withdraw"
PREFERENCES = "acme/device/kiosk-7/preferences"
Run = Callable[..., Device]


@pytest.fixture
def withdrawn() -> "queue.SimpleQueue[tuple[tuple[str, ...], str]]":
    return queue.SimpleQueue()


@pytest.fixture
def run(credentials: Credentials, handler: Handler, quickly: Callable[[], Backoff], withdrawn: Any) -> Run:
    def run() -> Device:
        def taken_off(message_ids: tuple[str, ...], why: str) -> None:
            withdrawn.put((message_ids, why))

        return Device(credentials, on_message=handler, on_withdrawn=taken_off, backoff=quickly())

    return run


def withdraw(tester: Tester, *message_ids: str, why: str = "withdrawn") -> None:
    tester.publish(WITHDRAW, json.dumps({"message_ids": message_ids, "why": why}))


def test_withdrawn_from_the_screen(run: Run, handler: Handler, tester: Tester, withdrawn: Any) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
        for name in ("m1", "m2", "m3"):
            tester.publish(ADA, name, message_id=name)
            handler.next()
        until(lambda: device.on_screen == ("m1", "m2", "m3"))
        withdraw(tester, "m1", "m3", "m4", why="opened")
        assert withdrawn.get(timeout=10) == (("m1", "m3"), "opened")
        until(lambda: device.on_screen == ("m2",))
    with run() as device:  # it is remembered, and it is acknowledged
        device.wait_connected(timeout=10)
        assert device.on_screen == ("m2",)
        withdraw(tester, "m1")
        withdraw(tester, "m2")
        assert withdrawn.get(timeout=10) == (("m2",), "withdrawn")
        tester.publish(ADA, "m4", message_id="m4")  # withdrawn before it came
        tester.publish(ADA, "m5", message_id="m5")
        assert handler.next().id == "m5"


def test_withdrawn_while_its_handler_runs(run: Run, handler: Handler, tester: Tester, withdrawn: Any) -> None:
    handler.go.clear()
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, "m1", message_id="m1")
        tester.publish(ADA, "m2", message_id="m2")
        handler.next()
        withdraw(tester, "m1", "m2")
        until(lambda: device._core._notices)
        assert withdrawn.empty()
        handler.go.set()
        assert withdrawn.get(timeout=10) == (("m1",), "withdrawn")
        until(lambda: device.on_screen == ())
    assert handler.idle  # m2 was not shown


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"message_ids": 7}', "[" * 90_000])
def test_a_bad_withdrawal_is_left(run: Run, handler: Handler, tester: Tester, withdrawn: Any, said: str) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(WITHDRAW, said)
        tester.publish(ADA, "m1", message_id="m1")
        assert handler.next().id == "m1"
    assert withdrawn.empty()


def test_replaced(run: Run, handler: Handler, tester: Tester) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
        for name in ("m1", "m2"):
            tester.publish(ADA, name, message_id=name, **{"collapse-key": "order"})
        assert handler.next().replaces == ()
        assert handler.next().replaces == ("m1",)
        until(lambda: device.on_screen == ("m2",))


@pytest.mark.parametrize("event", ["opened", "dismissed"])
def test_what_the_app_says_takes_it_off(run: Run, handler: Handler, tester: Tester, event: str) -> None:
    tester.subscribe("acme/device/kiosk-7/up/receipt")
    with run() as device:
        device.wait_connected(timeout=10)
        for name in ("m1", "m2"):
            tester.publish(ADA, name, message_id=name)
        first = handler.next()
        handler.next()
        until(lambda: device.on_screen == ("m1", "m2"))
        first.displayed()
        first.clicked("map")
        assert device.on_screen == ("m1", "m2")
        getattr(first, event)()
        until(lambda: device.on_screen == ("m2",))
    with run() as device:  # nothing is left of the message but its id
        device.report("m2", "opened")
        until(lambda: device.on_screen == ())
        said = [json.loads(tester.next().payload) for _ in range(4)]
    assert [(one["message_id"], one["event"]) for one in said] == [
        ("m1", "displayed"), ("m1", "clicked"), ("m1", event), ("m2", "opened")
    ]  # fmt: skip
    assert said[1]["action"] == "map"


async def test_with_asyncio(credentials: Credentials, tester: Tester) -> None:
    got: asyncio.Queue[Message] = asyncio.Queue()
    off: asyncio.Queue[tuple[tuple[str, ...], str]] = asyncio.Queue()

    async def taken_off(message_ids: tuple[str, ...], why: str) -> None:
        off.put_nowait((message_ids, why))
        raise RuntimeError("the screen is dark")

    async with AsyncDevice(credentials, on_message=got.put, on_withdrawn=taken_off) as device:
        await device.wait_connected(timeout=10)
        tester.publish(ADA, "x", message_id="m1")
        await asyncio.wait_for(got.get(), 10)
        withdraw(tester, "m1")
        assert await asyncio.wait_for(off.get(), 10) == (("m1",), "withdrawn")
        await device.opt_in("news")
        assert device.preferences.topics == {"news": True}


# -- preferences -------------------------------------------------------------------------------------------------------


def test_preferences_are_kept_until_the_broker_has_them(run: Run, mosquitto: Mosquitto) -> None:
    quiet = QuietHours(time(22), time(8))
    with run() as device:  # there is no broker that could hear it
        mosquitto.stop()
        device.opt_in("news")
        device.set_preferences(topics={"offers": True}, quiet_hours=quiet, time_zone="Europe/Rome", locale="it")
        device.opt_out("offers")
        wanted = Preferences(
            topics={"news": True, "offers": False}, quiet_hours=quiet, time_zone="Europe/Rome", locale="it"
        )
        assert device.preferences == wanted
        device.close(timeout=0)
    mosquitto.start()
    with Tester(mosquitto.plain) as tester:
        tester.subscribe("acme/device/kiosk-7/up/preferences")
        with run() as device:
            assert device.preferences == wanted
            said = [json.loads(tester.next().payload) for _ in range(3)]
            until(lambda: not device._core._memory.kept())
            assert device.preferences == wanted  # the broker has them, and has not said so yet
    hours = {"from": "22:00", "until": "08:00"}
    assert said == [
        {"topics": {"news": True}},
        {"topics": {"offers": True}, "quiet_hours": hours, "time_zone": "Europe/Rome", "locale": "it"},
        {"topics": {"offers": False}},
    ]


def test_what_counts_is_what_the_broker_says(run: Run, tester: Tester) -> None:
    tester.publish(PREFERENCES, json.dumps({"topics": {"news": True}, "locale": "it"}), retain=True)
    with run() as device:
        until(lambda: device.preferences == Preferences(topics={"news": True}, locale="it"))
        for bad in ("[1]", "no JSON", '{"topics": 7, "quiet_hours": {"from": 7}, "locale": 7}'):
            tester.publish(PREFERENCES, bad, retain=True)
            until(lambda: device.preferences == Preferences())
            tester.publish(PREFERENCES, '{"locale": "it"}', retain=True)
            until(lambda: device.preferences == Preferences(locale="it"))
        tester.publish(PREFERENCES, "", retain=True)  # nobody has said anything any more
        until(lambda: device.preferences == Preferences())


@pytest.mark.parametrize("wishes", [{}, {"colour": "red"}, {"topics": {"a/b": True}}])
def test_no_wish(wishes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        compose_wishes(**wishes)


def test_a_wish_is_taken_back() -> None:
    assert json.loads(compose_wishes(quiet_hours=None, time_zone="")) == {"quiet_hours": None, "time_zone": ""}
