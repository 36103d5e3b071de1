"""Who is online: as the broker sees it, in the lists, and after a restart or a crash."""

from datetime import datetime
from pathlib import Path
from typing import Any

from support.live import device, populate, running

from broker.admin.operations import Context, perform
from broker.app import Broker


async def look(broker: Broker, **which: Any) -> dict[str, Any]:
    context = Context(broker.settings, broker.directory, broker)
    return {one["name"]: one for one in await perform(context, "device.list", {"brand": "acme", **which})}


async def test_who_is_online_since_when_and_who_was_seen_when(broker: Broker) -> None:
    before = await look(broker)
    assert [(one["online"], one["last_seen"]) for one in before.values()] == [(False, None), (False, None)]
    kiosk = await device(broker, "kiosk-7")
    there = await look(broker, online=True)
    assert list(there) == ["kiosk-7"]
    assert there["kiosk-7"]["since"] <= there["kiosk-7"]["last_seen"]
    assert list(await look(broker, online=False)) == ["till-3"]
    await kiosk.disconnect()
    one = (await look(broker, online=False))["kiosk-7"]
    assert one["last_seen"] >= there["kiosk-7"]["last_seen"]
    assert one["since"] == one["last_seen"]


async def test_a_device_with_two_connections_is_online_until_both_are_gone(broker: Broker) -> None:
    first, second = await device(broker, "kiosk-7", "a"), await device(broker, "kiosk-7", "b")
    since = (await look(broker))["kiosk-7"]["since"]
    await first.disconnect()
    assert (await look(broker))["kiosk-7"]["since"] == since
    assert (await look(broker))["kiosk-7"]["online"]
    await second.disconnect()
    assert not (await look(broker))["kiosk-7"]["online"]


async def test_last_seen_survives_a_restart_and_the_names_of_other_brands_do_not_matter(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        await device(broker, "kiosk-7")
        since = (await look(broker))["kiosk-7"]["since"]
    async with running(tmp_path / "data") as broker:
        one = (await look(broker))["kiosk-7"]
        assert not one["online"]
        assert one["last_seen"] >= since
        rival = await perform(Context(broker.settings, broker.directory, broker), "device.list", {"brand": "rival"})
        assert [other["last_seen"] for other in rival] == [None, None]


async def test_who_was_online_when_the_broker_was_killed_was_seen_until_then(broker: Broker) -> None:
    kiosk = await device(broker, "kiosk-7")
    presence, tables = broker.bridge.presence, broker.bridge.fleet_tables
    await presence.write()
    alive = int(datetime.fromisoformat((await look(broker))["kiosk-7"]["since"]).timestamp() * 1000) + 60_000
    await tables.presence([], alive)  # a minute later; nothing else was written
    await tables.nobody()  # as the next start does
    (seen,) = await tables.last_seen("acme")
    assert (seen.device, seen.online, seen.seen) == ("kiosk-7", False, alive)
    await kiosk.disconnect()
