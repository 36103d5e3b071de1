"""What operators are told of devices: who is there, who is behind, what became of commands."""

from typing import TYPE_CHECKING, Any

import msgspec

from broker.admin.messages import at
from broker.store.entries import Device
from broker.store.fleet import Configured, FleetTables, Seen

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
