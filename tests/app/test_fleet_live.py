"""Commands and configurations, with plain MQTT devices: whom they reach, what counts, what survives."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.live import device, populate, running, server
from support.mqtt import Client
from support.served import eventually

from broker.admin.operations import Context, perform
from broker.app import Broker
from broker.bridge.fleet import allowed, stages_of
from broker.errors import Failed, NotFound, Refused
from broker.wire.packets import Properties

LASTING: dict[str, Any] = {"clean_start": False, "properties": Properties(session_expiry=3600)}


async def operate(broker: Broker, operation: str, **arguments: Any) -> Any:
    return await perform(Context(broker.settings, broker.directory, broker), operation, arguments)


async def command(broker: Broker, name: str = "reload", **more: Any) -> str:
    begun = await operate(broker, "command.run", **{"brand": "acme", "name": name, "to": {"all": True}, **more})
    return str(begun["id"])


async def until(broker: Broker, id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    return await found(lambda: operate(broker, "command.show", id=id), holds)


async def found(look: Callable[[], Awaitable[Any]], holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What is on the disk, once it is as it should be."""
    async with asyncio.timeout(10):
        while not holds(one := await look()):  # noqa: ASYNC110 - the disk has no event for us
            await asyncio.sleep(0.02)
    return dict(one)


async def listening(broker: Broker, name: str, **fields: Any) -> Client:
    client = await device(broker, name, **fields)
    await client.subscribe(f"acme/device/{name}/command", qos=1)
    return client


async def asked(client: Client) -> Any:
    return json.loads((await client.expect_message()).payload)


async def answer(client: Client, name: str, id: str, **said: Any) -> None:
    payload = json.dumps({"command_id": id, **said}).encode()
    await client.publish(f"acme/device/{name}/up/result", payload, qos=1)


async def test_a_command_reaches_a_device_and_its_answer_is_shown(broker: Broker) -> None:
    kiosk = await listening(broker, "kiosk-7")
    id = await command(broker, "message", to={"devices": ["kiosk-7"]}, args={"text": "ciao"})
    order = await asked(kiosk)
    assert {**order, "expires_at": ""} == {
        "command_id": id, "name": "message", "args": {"text": "ciao"}, "expires_at": ""
    }  # fmt: skip
    await until(broker, id, lambda shown: shown["counts"]["sent"] == 1)
    await answer(kiosk, "kiosk-7", id, ok=True, output="shown")
    shown = await until(broker, id, lambda shown: shown["done"])
    assert (shown["state"], shown["succeeded"]) == ("done", True)
    (told,) = await operate(broker, "command.devices", id=id)
    assert (told["device"], told["state"], told["output"]) == ("kiosk-7", "succeeded", "shown")


@pytest.mark.parametrize(
    ("to", "devices"),
    [
        ({"devices": ["kiosk-7", "till-3"]}, 2),
        ({"stores": ["milano"]}, 1),
        ({"tags": ["lobby"]}, 1),
        ({"stores": ["milano"], "tags": ["lobby"]}, 2),
        ({"condition": "store:roma AND NOT tag:staff"}, 1),
        ({"all": True}, 2),
    ],
)
async def test_whom_a_command_addresses(broker: Broker, to: dict[str, Any], devices: int) -> None:
    await operate(broker, "profile.tag", brand="acme", kind="device", name="till-3", tags=["lobby"])
    assert (await operate(broker, "command.run", brand="acme", name="reload", to=to))["devices"] == devices


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"to": {}}, "say which devices"),
        ({"to": {"all": True, "stores": ["milano"]}}, "say which devices"),
        ({"to": {"devices": ["kiosk-8"]}}, "kiosk-8"),
        ({"to": {"condition": "store:"}}, "condition"),
        ({"to": {"tags": ["nobody"]}}, "no such device"),
        ({"stages": ["10%", "50%"]}, "the last one is 100%"),
        ({"stages": ["x", "100%"]}, "no number of devices"),
        ({"halt_after": "-1"}, "no number of devices"),
        ({"ttl_s": 0}, "1 second"),
        ({"args": {"text": "x" * 20_000}}, "arguments"),
        ({"name": "a/b"}, "cannot name"),
    ],
)
async def test_bad_commands_are_refused_and_nothing_is_sent(
    broker: Broker, arguments: dict[str, Any], error: str
) -> None:
    with pytest.raises((Refused, NotFound), match=error):
        await command(broker, **arguments)
    assert await operate(broker, "command.list") == []


async def test_a_device_that_is_away_gets_it_when_it_comes_though_a_server_listens_to_all(broker: Broker) -> None:
    crm = await server(broker)
    await crm.subscribe("acme/#", qos=1)
    id = await command(broker, to={"devices": ["kiosk-7"]})
    await until(broker, id, lambda shown: shown["counts"]["waiting"] == 1)
    kiosk = await listening(broker, "kiosk-7")
    assert (await asked(kiosk))["command_id"] == id


async def test_a_session_that_is_new_gets_again_what_it_has_not_answered(broker: Broker) -> None:
    kiosk = await listening(broker, "kiosk-7")
    id = await command(broker, to={"devices": ["kiosk-7"]})
    await asked(kiosk)
    await until(broker, id, lambda shown: shown["counts"]["sent"] == 1)
    await kiosk.disconnect()
    kiosk = await listening(broker, "kiosk-7")
    assert (await asked(kiosk))["command_id"] == id


async def test_the_first_word_counts_and_what_nobody_asked_for_is_counted(broker: Broker) -> None:
    kiosk, till = await listening(broker, "kiosk-7"), await device(broker, "till-3")
    rival = await device(broker, "kiosk-7", "rival", brand="rival")
    id = await command(broker, to={"devices": ["kiosk-7"]})
    await asked(kiosk)
    ignored = 0
    for client, topic, payload in (
        (till, "acme/device/till-3/up/result", json.dumps({"command_id": id, "ok": True}).encode()),
        (rival, "rival/device/kiosk-7/up/result", json.dumps({"command_id": id, "ok": True}).encode()),
        (kiosk, "acme/device/kiosk-7/up/result", b'{"command_id": "c0", "ok": true}'),
        (kiosk, "acme/device/kiosk-7/up/result", b'{"command_id": 7}'),
        (kiosk, "acme/device/kiosk-7/up/result", b"\xff"),
        (kiosk, "acme/device/kiosk-7/up/result", b"[" * 5000),
        (kiosk, "acme/device/kiosk-7/up/result", b'{"command_id": "%b", "ok": true}' % (b"x" * 17000)),
    ):
        await client.publish(topic, payload, qos=1)
        ignored += 1
    await answer(kiosk, "kiosk-7", id, ok=False, error="no room")
    await answer(kiosk, "kiosk-7", id, ok=True)
    await eventually(lambda: broker.core.counters.fleet_refused == ignored + 1)
    (told,) = await operate(broker, "command.devices", id=id)
    assert (told["state"], told["error"]) == ("failed", "no room")


async def test_stages_go_on_when_all_have_answered_and_halt_on_failures(broker: Broker) -> None:
    for number in range(8):
        await broker.directory.device_code("acme", f"k{number}")
    clients = {name: await listening(broker, name) for name in ("kiosk-7", "till-3", *(f"k{n}" for n in range(8)))}
    id = await command(broker, stages=["1", "30%", "100%"], halt_after="1")

    async def stage(*oks: bool) -> None:
        told = [one for one in await operate(broker, "command.devices", id=id) if one["state"] == "sent"]
        assert len(told) == len(oks)
        for one, ok in zip(told, oks, strict=True):
            assert (await asked(clients[one["device"]]))["command_id"] == id
            await answer(clients[one["device"]], one["device"], id, ok=ok)

    await until(broker, id, lambda shown: shown["counts"]["sent"] == 1)
    await stage(True)
    await until(broker, id, lambda shown: shown["counts"]["sent"] == 2)
    await stage(False, False)
    halted = await until(broker, id, lambda shown: shown["state"] == "halted")
    assert halted["why"] == "2 of the first 3 devices failed, and 1 may: --halt-after 1"
    assert halted["counts"]["waiting"] == 7
    await operate(broker, "command.resume", id=id)
    await until(broker, id, lambda shown: shown["counts"]["sent"] == 7)
    await stage(*[True] * 7)
    done = await until(broker, id, lambda shown: shown["done"])
    assert (done["state"], done["succeeded"], done["counts"]["failed"]) == ("done", False, 2)


async def test_what_expires_counts_as_failed_and_halts_too(broker: Broker) -> None:
    id = await command(broker, stages=["1", "100%"], ttl_s=1)  # nobody is there
    done = await until(broker, id, lambda shown: shown["done"])
    assert (done["counts"]["expired"], done["succeeded"]) == (2, False)


async def test_a_command_that_is_cancelled_does_not_reach_who_comes_later(broker: Broker) -> None:
    away = await listening(broker, "kiosk-7", **LASTING)
    await away.disconnect()
    id = await command(broker)
    await until(broker, id, lambda shown: shown["counts"]["sent"] == 1)
    cancelled = await operate(broker, "command.cancel", id=id)
    assert (cancelled["state"], cancelled["counts"]["cancelled"]) == ("cancelled", 2)
    with pytest.raises(Refused, match="is cancelled"):
        await operate(broker, "command.resume", id=id)
    kiosk = await device(broker, "kiosk-7", **LASTING)
    later = await command(broker, "other", to={"devices": ["kiosk-7"]})
    assert (await asked(kiosk))["command_id"] == later


async def test_a_removed_device_is_not_waited_for_and_its_successor_inherits_nothing(broker: Broker) -> None:
    id = await command(broker, to={"devices": ["kiosk-7"]})
    await operate(broker, "config.set", brand="acme", to={"devices": ["kiosk-7"]}, changes={"volume": "3"})
    await broker.directory.device_remove("acme", "kiosk-7")
    done = await until(broker, id, lambda shown: shown["done"])
    assert done["counts"]["cancelled"] == 1
    await broker.directory.device_code("acme", "kiosk-7")
    assert await operate(broker, "config.show", brand="acme", to={"devices": ["kiosk-7"]}) == []
    again = await device(broker, "kiosk-7")
    await again.subscribe("acme/device/kiosk-7/desired", qos=1)
    await again.silent()


async def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        away = await listening(broker, "kiosk-7", **LASTING)
        await away.disconnect()
        id = await command(broker, stages=["1", "100%"])
        await operate(broker, "config.set", brand="acme", to={"all": True}, changes={"volume": "3"})
    async with running(tmp_path / "data") as broker:
        kiosk = await device(broker, "kiosk-7", **LASTING)
        till = await listening(broker, "till-3", **LASTING)
        both = {"kiosk-7": kiosk, "till-3": till}
        for _ in both:
            await until(broker, id, lambda shown: shown["counts"]["sent"] == 1)
            (told,) = [one for one in await operate(broker, "command.devices", id=id) if one["state"] == "sent"]
            name = told["device"]
            assert (await asked(both[name]))["command_id"] == id
            await answer(both[name], name, id, ok=True)
            await until(broker, id, lambda shown, name=name: shown["counts"]["sent"] == 0 or shown["done"])
        assert (await until(broker, id, lambda shown: shown["done"]))["succeeded"]
        await till.subscribe("acme/device/till-3/desired", qos=1)
        assert await asked(till) == {"version": 1, "config": {"volume": "3"}}


async def test_what_was_not_answered_before_a_restart_is_sent_again_and_once_to_those_away(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        kiosk, away = await listening(broker, "kiosk-7", **LASTING), await listening(broker, "till-3", **LASTING)
        await away.disconnect()
        id = await command(broker)
        assert (await asked(kiosk))["command_id"] == id
        await until(broker, id, lambda shown: shown["counts"]["sent"] == 2)
        await kiosk.disconnect()
    async with running(tmp_path / "data") as broker:
        kiosk, away = await device(broker, "kiosk-7", **LASTING), await device(broker, "till-3", **LASTING)
        for client in (kiosk, away):
            assert (await asked(client))["command_id"] == id
            await client.silent()


async def test_books_that_fail_for_a_while_lose_no_session_that_is_new(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    kiosk = await listening(broker, "kiosk-7")
    id = await command(broker, to={"devices": ["kiosk-7"]})
    await asked(kiosk)
    await until(broker, id, lambda shown: shown["counts"]["sent"] == 1)
    failed = asyncio.Event()

    async def unable(*_: object) -> None:
        failed.set()
        raise Failed("the disk is full", remedy="")

    with monkeypatch.context() as patched:
        patched.setattr(broker.bridge.fleet_tables, "unsend", unable)
        await kiosk.disconnect()
        kiosk = await listening(broker, "kiosk-7")
        await asyncio.wait_for(failed.wait(), 5)
    assert (await asked(kiosk))["command_id"] == id


async def test_a_configuration_that_one_device_cannot_hold_is_set_on_none(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.bridge.fleet._PAGE", 1)
    await operate(broker, "config.set", brand="acme", to={"devices": ["till-3"]}, changes={"a": "x" * 9000})
    with pytest.raises(Refused, match="till-3 would take more"):
        await operate(broker, "config.set", brand="acme", to={"all": True}, changes={"b": "x" * 9000})
    shown = await operate(broker, "config.show", brand="acme", to={"all": True})
    assert [(one["device"], one["version"]) for one in shown if one["version"]] == [("till-3", 1)]


async def test_desired_and_reported_configurations(broker: Broker) -> None:
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/device/kiosk-7/desired", qos=1)
    to = {"stores": ["milano"]}

    async def change(**changes: str | None) -> Any:
        return await operate(broker, "config.set", brand="acme", to=to, changes=changes)

    async def show() -> dict[str, Any]:
        (one,) = await operate(broker, "config.show", brand="acme", to=to)
        return dict(one)

    async def report(version: Any, config: dict[str, str], **more: str) -> None:
        payload = json.dumps({"version": version, "config": config, **more}).encode()
        await kiosk.publish("acme/device/kiosk-7/up/reported", payload, qos=1)

    async def reported(holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        return await found(show, holds)

    assert await change(volume="3", theme="dark") == {"devices": 1, "changed": 1}
    assert await asked(kiosk) == {"version": 1, "config": {"theme": "dark", "volume": "3"}}
    assert await change(volume="3") == {"devices": 1, "changed": 0}
    await report(1, {"theme": "dark", "volume": "3"})
    assert not (await reported(lambda one: one["reported_version"] == 1))["behind"]
    await change(volume="4", theme=None)
    assert await asked(kiosk) == {"version": 2, "config": {"volume": "4"}}
    one = await show()
    assert one["behind"]
    assert one["differs"] == {
        "theme": {"desired": None, "reported": "dark"},
        "volume": {"desired": "4", "reported": "3"},
    }
    assert [d["name"] for d in await operate(broker, "device.list", brand="acme", behind=True)] == ["kiosk-7"]
    await report(2, {"theme": "dark", "volume": "3"}, error="4 is too loud")
    one = await reported(lambda one: one["reported_version"] == 2)
    assert (one["behind"], one["error"]) == (True, "4 is too loud")
    for version, config in ((1, {}), (3, {}), (-1, {}), ("2", {}), (2, {"volume": "x" * 30_000})):
        await report(version, config)
    await eventually(lambda: broker.core.counters.fleet_refused == 5)
    assert (await show())["reported_version"] == 2
    with pytest.raises(Refused, match="kiosk-7 would take more"):
        await change(large="x" * 20_000)


@pytest.mark.parametrize(
    ("stages", "devices", "reached"),
    [
        (["1", "10%", "100%"], 1000, [1, 100, 1000]),
        (["1", "10%", "100%"], 5, [1, 5]),
        (["100%"], 1, [1]),
        (["50", "100%"], 3, [3]),
        (["1%", "100%"], 150, [2, 150]),
    ],
)
def test_stages(stages: list[str], devices: int, reached: list[int]) -> None:
    assert stages_of(stages, devices) == reached


@pytest.mark.parametrize(("bound", "devices", "may"), [("0", 9, 0), ("5%", 100, 5), ("5%", 10, 0), ("3", 1, 3)])
def test_how_many_may_fail(bound: str, devices: int, may: int) -> None:
    assert allowed(bound, devices) == may
