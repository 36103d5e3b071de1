"""Restraint: whether somebody gets a message now, later, or not at all. The time is an argument; nothing is read here.

In this order: who is suppressed gets nothing; nor does who has taken back the consent by which they were addressed, or
does not follow any more what it is about. Who follows it gets a message when as much time is over as they said.
In quiet hours a message waits until they end. What would be one too many is dropped, for tomorrow it is no news.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from broker.errors import Refused
from broker.store.entries import Cap, Kind, Quiet, Recipient, Restraint

_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d", re.ASCII)
_DAY_MAX: Final = timedelta(hours=50)  # from one midnight to the next, where a clock is set back by a day
_NONE: Final = timedelta(0)


class Send(NamedTuple):
    """Now."""


class Defer(NamedTuple):
    """Not before `until`. `detail` is a sentence with the figures."""

    until: datetime
    rule: str
    detail: str


class Drop(NamedTuple):
    """Not at all."""

    rule: str
    detail: str


class Follows(NamedTuple):
    """That somebody follows an item: at most one message in so many seconds, and when the last one was."""

    every_s: int
    last: datetime


class Got(NamedTuple):
    """A message that somebody was sent."""

    at: datetime
    kind: Kind


Decision = Send | Defer | Drop
SEND: Final = Send()


def decide(
    rules: Restraint,
    who: Recipient,
    *,
    kind: Kind,
    because: str,
    now: datetime,
    got: Sequence[Got] = (),
    follows: Follows | None = None,
) -> Decision:
    """What becomes of a message of this kind now, for who was addressed as `because` says ('topic:news').

    got: what they were sent within `look_back`; more of it does no harm. follows: of an item, if that is why.
    """
    if who.suppressed and (who.suppressed.until is None or who.suppressed.until > now):
        ends = f", until {who.suppressed.until:%Y-%m-%d %H:%M} UTC" if who.suppressed.until else ""
        return Drop("suppressed", f"suppressed since {who.suppressed.since:%Y-%m-%d}{ends}: {who.suppressed.reason}")
    if because.startswith("topic:") and because[6:] not in who.topics:
        return Drop("opted_out", f"has not opted in to {because[6:]}, or not any more")
    if item := followed(because):
        if follows is None:
            return Drop("opted_out", f"does not follow {item} any more")
        if now < (then := follows.last + timedelta(seconds=follows.every_s)):
            often = f"wants at most one message about {item} in {follows.every_s} s"
            return Defer(then, "follow_interval", f"{often}, and got one at {follows.last:%Y-%m-%d %H:%M:%S} UTC")
    zone = zone_of(rules, who)
    quiet = who.quiet_hours or rules.quiet_hours
    wall = now.astimezone(zone).time()
    if quiet and kind in rules.quiet_kinds and is_quiet(quiet, wall):
        whose = "their" if who.quiet_hours else "the brand's"
        hours = f"{whose} quiet hours are {quiet.from_} to {quiet.until}"
        return Defer(due_at(quiet.until, zone, now), "quiet_hours", f"it was {wall:%H:%M} in {zone.key}; {hours}")
    for cap in rules.caps:
        if cap.kind == kind and (drop := _over(cap, zone, now, got)):
            return drop
    return SEND


def followed(because: str) -> str:
    """The item that somebody was addressed as a follower of; '' where that is not why."""
    return because[7:] if because.startswith("follow:") else ""


def _over(cap: Cap, zone: ZoneInfo, now: datetime, got: Sequence[Got]) -> Drop | None:
    if cap.per_s is None:
        local = now.astimezone(zone)
        begin = datetime.combine(local.date(), time.min, zone).astimezone(UTC)
        span = f"on {local:%Y-%m-%d} in {zone.key}"
    else:
        begin, span = now - timedelta(seconds=cap.per_s), f"within {cap.per_s} s"
    count = sum(1 for one in got if one.kind == cap.kind and one.at >= begin)
    if count < cap.max:
        return None
    return Drop("cap", f"had {count} {cap.kind} messages {span}, of at most {cap.max}")


def look_back(rules: Restraint, kind: Kind) -> timedelta:
    """How far back it matters what somebody got; nothing where no cap holds for this kind."""
    spans = [_DAY_MAX if cap.per_s is None else timedelta(seconds=cap.per_s) for cap in rules.caps if cap.kind == kind]
    return max(spans, default=_NONE)


def zone_of(rules: Restraint, who: Recipient) -> ZoneInfo:
    """Theirs, else the brand's, else UTC."""
    return ZoneInfo(who.time_zone or rules.time_zone or "UTC")


def is_quiet(quiet: Quiet, wall: time) -> bool:
    """Whether it is quiet when their clock says this."""
    begin, end = clock(quiet.from_), clock(quiet.until)
    return begin <= wall < end if begin < end else wall >= begin or wall < end


def due_at(local_time: str, zone: ZoneInfo, not_before: datetime) -> datetime:
    """When their clock next says so, as UTC; `not_before` itself if it does just then.

    What a clock that is set forward leaves out comes as much later. What it says twice, when it is set back, may be
    either of both.
    """
    today = not_before.astimezone(zone).date()
    wall = clock(local_time)
    due = []
    for day in range(3):
        said = datetime.combine(today + timedelta(days=day), wall, zone)
        due.append(said.astimezone(UTC))
        again = said.replace(fold=1).astimezone(UTC)
        if again.astimezone(zone).time() == wall:  # before the gap otherwise
            due.append(again)
    return min(at for at in due if at >= not_before)


@lru_cache(1440)
def clock(text: str) -> time:
    """'HH:MM' as a time; `Refused` when it is not one."""
    if not _CLOCK.fullmatch(text):
        raise Refused(f"{text!r} is no time of the day", reason=0x83, remedy="Write it as HH:MM, from 00:00 to 23:59.")
    return time.fromisoformat(text)


def check_quiet(quiet: Quiet | None) -> None:
    """`Refused` when these are no quiet hours."""
    if quiet and clock(quiet.from_) == clock(quiet.until):
        raise Refused(
            "quiet hours that end when they begin",
            reason=0x83,
            remedy="Leave a time at which messages may come: from 22:00 until 08:00.",
        )


def check_zone(name: str) -> None:
    """`Refused` when there is no such time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Refused(
            f"there is no time zone {name!r}", reason=0x83, remedy="Use a name of the IANA's list, such as Europe/Rome."
        ) from None
