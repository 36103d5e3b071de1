"""Hours of the week: when an item holds, when persons answer. `{"mon-fri": ["09:00-13:00", "14:00-18:00"]}`."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from broker.errors import Refused
from broker.limits import SPANS_MAX

Hours = Mapping[str, list[str]]

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK: Final = r"(?:[01]\d|2[0-3]):[0-5]\d"
_SPAN: Final = re.compile(rf"({_CLOCK})-({_CLOCK}|24:00)", re.ASCII)
_WEEK: Final = 7 * 1440


def check_hours(hours: Hours) -> None:
    """`Refused` when these are no hours."""
    week(hours)


def week(hours: Hours) -> list[tuple[int, int]]:
    """From when to when, in minutes since Monday's beginning, in order, joined where they touch.

    A span that ends before it begins goes on into the next day; Sunday's into Monday. Raises `Refused`.
    """
    spans: list[tuple[int, int]] = []
    for days, times in hours.items():
        for day in _days(days):
            for time in times:
                spans += _minutes(day, time)
                if len(spans) > SPANS_MAX:
                    raise Refused(f"more than {SPANS_MAX} spans in a week", reason=0x97, remedy="Join what touches.")
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def is_open(hours: Hours, zone: ZoneInfo, now: datetime) -> bool:
    """Whether it is within these hours, where the clock is that zone's. No hours: always."""
    return not hours or within(week(hours), zone, now)


def within(spans: Sequence[tuple[int, int]], zone: ZoneInfo, now: datetime) -> bool:
    """Whether it is within one of these spans of a week, where the clock is that zone's."""
    minute = _minute(now.astimezone(zone))
    return any(begin <= minute < end for begin, end in spans)


def next_open(hours: Hours, zone: ZoneInfo, now: datetime) -> datetime | None:
    """When the next hours begin (UTC), or `now` if it is within some; None: never."""
    if is_open(hours, zone, now):
        return now
    spans = week(hours)
    if not spans:
        return None
    local = now.astimezone(zone)
    minute = _minute(local)
    begin = min((begin - minute) % _WEEK for begin, _ in spans)
    wall = (local.replace(tzinfo=None, second=0, microsecond=0) + timedelta(minutes=begin)).replace(tzinfo=zone)
    return wall.astimezone(UTC)


def _minute(local: datetime) -> int:
    return local.weekday() * 1440 + local.hour * 60 + local.minute


def _days(text: str) -> list[int]:
    first, _, last = text.lower().partition("-")
    if first not in _DAYS or (last or first) not in _DAYS:
        raise Refused(
            f"{text[:40]!r} names no days", reason=0x83, remedy=f"Use {', '.join(_DAYS)}, or several: mon-fri."
        )
    begin, end = _DAYS.index(first), _DAYS.index(last or first)
    return [day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)]


def _minutes(day: int, text: str) -> list[tuple[int, int]]:
    found = _SPAN.fullmatch(text)
    begin, end = (int(clock[:2]) * 60 + int(clock[3:]) for clock in found.groups()) if found else (0, 0)
    if begin == end:
        raise Refused(f"{text[:40]!r} is no span of hours", reason=0x83, remedy="Write it as 09:00-18:00.")
    start = day * 1440 + begin
    stop = start + (end - begin if end > begin else end - begin + 1440)
    return [(start, stop)] if stop <= _WEEK else [(start, _WEEK), (0, stop - _WEEK)]
