"""What operators are told of what was asked: times as text, days as the brand's time zone has them."""

import time
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from broker.admin.messages import at
from broker.errors import Refused
from broker.pull import figures, rules
from broker.store.asked import AskedQuestions

DAYS: Final = 30  # that are looked at if nobody says which


class Time(NamedTuple):
    """From when until before when, and on whose clock."""

    begin: int
    end: int
    zone: ZoneInfo

    def shown(self) -> dict[str, Any]:
        """As it is told."""
        return {"since": at(self.begin), "until": at(self.end), "time_zone": self.zone.key}


def time_of(brand_rules: str, since: str | None, until: str | None) -> Time:
    """What is meant: a day, or a time, on the brand's clock. Raises `Refused`."""
    zone = ZoneInfo(rules.of(brand_rules).time_zone)
    try:
        end = time.time_ns() // 1_000_000 + 1 if until is None else figures.moment(until, zone)
        if since is None:
            day = datetime.fromtimestamp(end / 1000, zone).date() - timedelta(days=DAYS)
            return Time(figures.midnight(day, zone), end, zone)
        begin = figures.moment(since, zone)
    except (ValueError, OverflowError):
        wrong = since if until is None else f"{since or ''} {until}".strip()
        raise Refused(
            f"{wrong!r} is no day and no time", reason=0x83, remedy="Write 2026-11-24, or 2026-11-24T09:00."
        ) from None
    if end <= begin:
        raise Refused(
            "that ends before it begins",
            reason=0x83,
            remedy="What is counted begins at --since and ends before --until.",
        )
    return Time(begin, end, zone)


async def counted(asked: AskedQuestions, brand: str, within: Time, by: figures.By) -> dict[str, Any]:
    """What became of a brand's questions."""
    whole, each = await figures.figures(asked, brand, within.begin, within.end, by, within.zone)
    return {"brand": brand, **within.shown(), "by": by, "all": whole, "figures": each}


async def unanswered(asked: AskedQuestions, brand: str, within: Time, most: int) -> dict[str, Any]:
    """What was asked in vain, the most frequent first."""
    found = await asked.unanswered(brand, within.begin, within.end, most)
    rows = [{**msgspec.structs.asdict(one), "last_at": at(one.last_at)} for one in found]
    return {"brand": brand, **within.shown(), "questions": rows}


async def listed(
    asked: AskedQuestions,
    brand: str,
    within: Time,
    *,
    outcome: str | None,
    store: str | None,
    thumb: int | None,
    most: int,
) -> list[dict[str, Any]]:
    """Questions, the newest first."""
    found = await asked.listed(brand, within.begin, within.end, outcome=outcome, store=store, thumb=thumb, most=most)
    return [_row(msgspec.structs.asdict(one)) for one in found]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    took = row.pop("took_us")
    who = f"{row.pop('kind')}/{row.pop('name')}"
    times = {name: at(row[name]) for name in ("at", "person_at")}
    return {**row, "with": who, **times, "took_s": None if took is None else took / 1e6}
