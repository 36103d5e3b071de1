"""What operators are told of devices: who is there, who is behind, what became of commands."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from broker.admin.messages import WATCH_S, at
from broker.errors import NotFound
from broker.store.entries import Device
from broker.store.fleet import Command, Configured, FleetTables, Seen
from broker.store.fleet import DeviceState as State

if TYPE_CHECKING:
    from broker.bridge.presence import Presence


async def devices(
    tables: FleetTables,
    presence: "Presence | None",
    found: list[Device],
    brand: str | None,
    *,
    online: bool | None = None,
    behind: bool = False,
) -> list[dict[str, Any]]:
    """Devices, with who is online, and who is not set up as it should be. Without a broker nobody is online."""
    seen = {(one.brand, one.device): one for one in await tables.last_seen(brand)}
    if presence is not None:
        seen |= {(one.brand, one.device): one for one in presence.unwritten(brand)}
    configured = {(one.brand, one.device): one for one in await tables.configurations(brand)}
    rows = []
    for device in found:
        who = (device.brand, device.name)
        there = presence is not None and who in presence.online
        if online in (None, there) and (not behind or _behind(configured.get(who))):
            rows.append(
                {
                    **msgspec.structs.asdict(device),
                    "online": there,
                    **_times(seen.get(who), presence.seen(who) if presence is not None and there else None),
                    "configuration": _versions(configured.get(who)),
                }
            )
    return rows


def _times(seen: Seen | None, last: int | None) -> dict[str, Any]:
    if seen is None:
        return {"since": None, "last_seen": None}
    return {"since": at(seen.since), "last_seen": at(last or seen.seen)}


def _behind(configured: Configured | None) -> bool:
    return configured is not None and (configured.reported_version < configured.version or bool(configured.error))


def _versions(configured: Configured | None) -> str:
    """`7`, or `5 of 7`, or `7, failed`."""
    if configured is None:
        return ""
    done, wanted = configured.reported_version, configured.version
    versions = f"{wanted}" if done == wanted else f"{done} of {wanted}"
    return f"{versions}, failed" if configured.error else versions


# -- configuration -----------------------------------------------------------------------------------------------------


async def configurations(tables: FleetTables, brand: str, devices: Sequence[str] | None) -> list[dict[str, Any]]:
    """How devices are to be set up, and where they say that they are not."""
    rows = []
    for one in await tables.configurations(brand, devices):
        desired, reported = msgspec.json.decode(one.desired), msgspec.json.decode(one.reported)
        differs = {
            key: {"desired": desired.get(key), "reported": reported.get(key)}
            for key in sorted(desired.keys() | reported.keys())
            if desired.get(key) != reported.get(key)
        }
        rows.append(
            {
                "brand": one.brand,
                "device": one.device,
                "version": one.version,
                "desired": desired,
                "desired_at": at(one.desired_at),
                "reported_version": one.reported_version,
                "reported": reported,
                "reported_at": at(one.reported_at),
                "error": one.error,
                "behind": _behind(one),
                "differs": differs,
            }
        )
    return rows


# -- commands ----------------------------------------------------------------------------------------------------------

_ENDED: Final = ("cancelled", "done")


async def command(tables: FleetTables, id: str) -> Command:
    """The command with this id; `NotFound` with what to do."""
    found = await tables.command(id)
    if found is None:
        raise NotFound(f"there is no command {id!r}", remedy="pushbroker command list")
    return found


async def shown(tables: FleetTables, one: Command) -> dict[str, Any]:
    """A command, and what became of it on how many devices."""
    counts = await tables.counts(one.number)
    return {
        "id": one.id,
        "brand": one.brand,
        "name": one.name,
        "args": msgspec.json.decode(one.args),
        "state": one.state,
        "why": one.why,
        "stage": one.stage,
        "stages": msgspec.json.decode(one.stages),
        "halt_after": one.halt_after,
        "devices": one.devices,
        "counts": counts,
        "created_at": at(one.created_at),
        "expires_at": at(one.expires_at),
        "ended_at": at(one.ended_at),
        "done": one.state in _ENDED,
        "succeeded": counts["succeeded"] == one.devices,
    }


async def watched(tables: FleetTables, id: str) -> AsyncIterator[dict[str, Any]]:
    """What `shown` says, each time that it has changed, until it is over or halted."""
    before = None
    while True:
        now = await shown(tables, await command(tables, id))
        if now != before:
            before = now
            yield now
            if now["done"] or now["state"] == "halted":
                return
        await asyncio.sleep(WATCH_S)


async def told(tables: FleetTables, id: str, state: State | None, after: int, most: int) -> list[dict[str, Any]]:
    """What became of a command on its devices, those behind the one with the number `after`."""
    rows = await tables.told((await command(tables, id)).number, state, after, most)
    return [
        {
            "number": row.number,
            "device": row.device,
            "state": row.state,
            "sent_at": at(row.sent_at),
            "ended_at": at(row.ended_at),
            "output": row.output,
            "error": row.error,
        }
        for row in rows
    ]
