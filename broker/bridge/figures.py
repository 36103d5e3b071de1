"""A campaign's figures: what became of what it has sent, by variant, run or store."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from broker.bridge import split
from broker.store.campaigns import Counts, Message

AGAIN: Final = "(again)"  # what went to those who had not opened it: no variant beside the others
NO_VARIANT: Final = "(none)"
By = Literal["campaign", "variant", "run", "store"]


class Figures(msgspec.Struct, frozen=True):
    """What came of something: counts, and the rates that follow from them; `lift` is beside the first variant."""

    what: str
    accepted: int
    delivered: int
    displayed: int
    opened: int
    clicked: int
    dismissed: int
    waiting: int
    expired: int
    replaced: int
    dropped: int
    withdrawn: int
    delivered_within: int
    opened_within: int
    delivered_rate: float | None  # of the accepted
    opened_rate: float | None  # of the delivered, as all that follow
    clicked_rate: float | None
    dismissed_rate: float | None
    delivered_within_rate: float | None  # of the accepted
    opened_within_rate: float | None
    lift: float | None = None
    note: str = ""


def grouped(sent: Sequence[Message], each: Mapping[int, Counts], by: By) -> dict[str, Counts]:
    """The counts of messages, put together by variant or run."""
    groups: dict[str, Counts] = {}
    if by == "campaign":
        return groups
    for message in sorted(sent, key=lambda one: (bool(one.again), one.variant, one.number)):
        if by == "run":
            key = iso(message.at) + (f" again {message.again}" if message.again else "")
        else:
            key = AGAIN if message.again else message.variant or NO_VARIANT
        groups.setdefault(key, Counts()).add(each.get(message.number, Counts()))
    return groups


def compared(groups: Mapping[str, Counts]) -> list[Figures]:
    """Each variant beside the first: who opened of those who got it."""
    found: list[Figures] = []
    base: Counts | None = None
    for what, counts in groups.items():
        if base is None or what == AGAIN:
            base = base or counts
            found.append(figures_of(what, counts))
            continue
        said = split.compare((base.opened, base.delivered), (counts.opened, counts.delivered))
        found.append(msgspec.structs.replace(figures_of(what, counts), lift=said.lift, note=said.note))
    return found


def figures_of(what: str, counts: Counts) -> Figures:
    """The counts with their rates."""

    def rate(part: int, whole: int) -> float | None:
        return round(part / whole, 4) if whole else None

    return Figures(
        what=what,
        **msgspec.structs.asdict(counts),
        delivered_rate=rate(counts.delivered, counts.accepted),
        opened_rate=rate(counts.opened, counts.delivered),
        clicked_rate=rate(counts.clicked, counts.delivered),
        dismissed_rate=rate(counts.dismissed, counts.delivered),
        delivered_within_rate=rate(counts.delivered_within, counts.accepted),
        opened_within_rate=rate(counts.opened_within, counts.delivered),
    )


def iso(ms: int) -> str:
    """Milliseconds as time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
