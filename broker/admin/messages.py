"""What operators are told of the messages that went through the bridge: times as text, a title, how long it took."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from broker.bridge.people import People
from broker.bridge.why import explained
from broker.errors import NotFound
from broker.store.outcomes import BOUNDS_MS, Delays, Heading, Outcomes, Row

# How often somebody who watches sees what is new; more seldom where looking takes long: it costs a tenth of a core.
WATCH_S: Final = 0.5
_REST: Final = 9


async def found(outcomes: Outcomes, id: str) -> Heading:
    """The message with this id; `NotFound` with what to do."""
    heading = await outcomes.find(id)
    if heading is None:
        raise unknown(id)
    return heading


def unknown(id: str) -> NotFound:
    """There is no such message."""
    return NotFound(
        f"there is no message {id!r} in the records of the bridge",
        remedy="pushbroker message list. What was published straight to a topic is not among them: its receipts "
        "go to BRAND/receipts/ID",
    )


async def listed(
    outcomes: Outcomes, brand: str | None, campaign: str | None, before: str | None, most: int
) -> list[dict[str, Any]]:
    """Messages, the newest first, those before the one with the id `before`."""
    place = None if before is None else (await found(outcomes, before)).number
    return [_head(heading) for heading in await outcomes.headings(brand, campaign, place, most)]


async def shown(outcomes: Outcomes, id: str) -> dict[str, Any]:
    """One message, with what became of it."""
    heading = await found(outcomes, id)
    figures = await outcomes.figures(heading.number)
    counts = figures.counts
    said = {name: getattr(figures, name) for name in ("delivered", "displayed", "opened", "clicked", "dismissed")}
    return {
        **_head(heading),
        "counts": counts,
        "reasons": figures.reasons,
        "events": said,
        "time_to_delivered": _took(figures.to_delivered),
        "time_to_opened": _took(figures.to_opened),
        "next_due_at": at(figures.next_due_at),
        "done": heading.state != "filling" and not counts.waiting,
    }


async def by_store(outcomes: Outcomes, id: str) -> list[dict[str, Any]]:
    """What devices in each store did with a message, and how long it took."""
    found_ = await outcomes.stores((await found(outcomes, id)).number)
    return [
        {name.replace("_ms", "_s"): value / 1000 if name.endswith("_ms") and value is not None else value
         for name, value in msgspec.structs.asdict(one).items()}
        for one in found_
    ]  # fmt: skip


async def watched(outcomes: Outcomes, id: str) -> AsyncIterator[dict[str, Any]]:
    """What `shown` says, each time that it has changed, until it is done."""
    seen = None
    while True:
        began = time.monotonic()
        changes = await outcomes.changes()
        if changes != seen:
            seen = changes
            figures = await shown(outcomes, id)
            yield {"at": at(time.time_ns() // 1_000_000), **figures}
            if figures["done"]:
                return
        await asyncio.sleep(max(WATCH_S, _REST * (time.monotonic() - began)))


async def recipients(outcomes: Outcomes, id: str, state: str | None, after: int, most: int) -> list[dict[str, Any]]:
    """Recipients of a message, those after the one with the number `after`."""
    heading = await found(outcomes, id)
    return [_row(row) for row in await outcomes.recipients(heading.number, state, after, most)]


async def why(outcomes: Outcomes, people: People, id: str, who: str) -> dict[str, Any]:
    """Why somebody got a message, or did not."""
    heading = await found(outcomes, id)
    answer = await explained(heading, who, outcomes, people)
    parts = msgspec.to_builtins(answer.parts)
    for part in parts:
        for step in part["steps"]:
            step["at"] = at(step["at"])
    return {"message": _head(heading), **msgspec.structs.asdict(answer), "parts": parts}


def at(milliseconds: int | None) -> str | None:
    """A time as people and programs read it."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _head(heading: Heading) -> dict[str, Any]:
    shown = msgspec.structs.asdict(heading)
    del shown["number"]
    return {
        **shown,
        "campaign": heading.campaign or "",
        "title": _title(heading),
        "accepted_at": at(heading.accepted_at),
        "expires_at": at(heading.expires_at),
    }


def _title(heading: Heading) -> str:
    try:
        return heading.title.decode().partition("\n")[0]
    except UnicodeDecodeError:
        return ""


def _row(row: Row) -> dict[str, Any]:
    shown = msgspec.structs.asdict(row)
    return {name: at(value) if name.endswith("_at") else value for name, value in shown.items()}


def _took(delays: Delays) -> dict[str, Any]:
    bounds = [*(bound / 1000 for bound in BOUNDS_MS), None]
    percentiles = {
        f"{name}_s": None if value is None else value / 1000
        for name, value in (("p50", delays.p50_ms), ("p90", delays.p90_ms), ("p99", delays.p99_ms))
    }
    bars = [{"under_s": bound, "count": count} for bound, count in zip(bounds, delays.bars, strict=True)]
    return {"count": delays.count, **percentiles, "bars": bars}
