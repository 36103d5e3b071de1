"""Restraint: now, later or not at all, on any clock that people have on their wall."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bridge.restraint import (
    SEND,
    Decision,
    Defer,
    Drop,
    Follows,
    Got,
    check_quiet,
    check_zone,
    decide,
    due_at,
    is_quiet,
    look_back,
)
from broker.errors import Refused
from broker.store.entries import Cap, Kind, Quiet, Recipient, Restraint, Suppression

NIGHT = Quiet("22:00", "08:00")
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ROME = ZoneInfo("Europe/Rome")
NEW_YORK = ZoneInfo("America/New_York")
ZONES = ["Europe/Rome", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia", "UTC"]


def recipient(
    *,
    zone: str = "",
    quiet: Quiet | None = None,
    topics: frozenset[str] = frozenset(),
    suppressed: Suppression | None = None,
) -> Recipient:
    return Recipient(time_zone=zone, quiet_hours=quiet, locale="", topics=topics, suppressed=suppressed)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_without_rules_it_is_sent() -> None:
    assert decide(Restraint(), recipient(), kind="marketing", because="user", now=NOON) == SEND


def test_a_follower_gets_one_in_as_much_time_as_they_said() -> None:
    def decided(every_s: int, seconds_ago: int) -> Decision:
        follows = Follows(every_s, NOON - timedelta(seconds=seconds_ago))
        rules = Restraint(caps=(Cap(max=1),))
        return decide(rules, recipient(), kind="marketing", because="follow:wipro", now=NOON, follows=follows)

    assert decided(3600, 3600) == decided(0, 0) == SEND
    assert decided(3600, 3599) == Defer(
        NOON + timedelta(seconds=1),
        "follow_interval",
        "wants at most one message about wipro in 3600 s, and got one at 2026-11-22 11:00:01 UTC",
    )
    gone = decide(Restraint(), recipient(), kind="marketing", because="follow:wipro", now=NOON)
    assert gone == Drop("opted_out", "does not follow wipro any more")


@pytest.mark.parametrize("kind", ["marketing", "transactional"])
def test_who_is_suppressed_gets_nothing(kind: Kind) -> None:
    entry = Suppression(user="ada", reason="complaint 17", since=utc("2026-11-01"), until=utc("2026-11-23"))
    dropped = decide(Restraint(), recipient(suppressed=entry), kind=kind, because="user", now=NOON)
    assert dropped == Drop("suppressed", "suppressed since 2026-11-01, until 2026-11-23 00:00 UTC: complaint 17")
    over = decide(Restraint(), recipient(suppressed=entry), kind=kind, because="user", now=utc("2026-11-23"))
    assert over == SEND
    for_ever = Suppression(user="ada", reason="x", since=utc("2026-11-01"), until=None)
    assert isinstance(
        decide(Restraint(), recipient(suppressed=for_ever), kind=kind, because="user", now=utc("2030-01-01")), Drop
    )


def test_who_has_opted_out_of_the_topic_gets_nothing_by_it() -> None:
    ada = recipient(topics=frozenset({"news"}))
    assert decide(Restraint(), ada, kind="marketing", because="topic:news", now=NOON) == SEND
    assert decide(Restraint(), ada, kind="marketing", because="user", now=NOON) == SEND
    dropped = decide(Restraint(), ada, kind="marketing", because="topic:offers", now=NOON)
    assert isinstance(dropped, Drop)
    assert dropped.rule == "opted_out"


@pytest.mark.parametrize(
    ("quiet", "quiet_at", "loud_at"),
    [
        (NIGHT, ["22:00", "23:59", "00:00", "07:59"], ["08:00", "12:00", "21:59"]),
        (Quiet("13:00", "15:30"), ["13:00", "15:29"], ["12:59", "15:30", "00:00"]),
        (Quiet("22:00", "00:00"), ["22:00", "23:59"], ["00:00", "21:59"]),
    ],
)
def test_quiet_hours_begin_and_end_where_the_clock_says_so(
    quiet: Quiet, quiet_at: list[str], loud_at: list[str]
) -> None:
    assert all(is_quiet(quiet, time.fromisoformat(at)) for at in quiet_at)
    assert not any(is_quiet(quiet, time.fromisoformat(at)) for at in loud_at)


def test_in_quiet_hours_it_waits_until_they_end_where_they_are() -> None:
    brand = Restraint(quiet_hours=NIGHT, time_zone="Europe/Rome")
    late = utc("2026-11-22T22:30")  # 23:30 in Rome, 17:30 in New York
    waits = decide(brand, recipient(), kind="marketing", because="user", now=late)
    assert waits == Defer(
        utc("2026-11-23T07:00"),
        "quiet_hours",
        "it was 23:30 in Europe/Rome; the brand's quiet hours are 22:00 to 08:00",
    )
    assert decide(brand, recipient(zone="America/New_York"), kind="marketing", because="user", now=late) == SEND
    assert decide(brand, recipient(), kind="transactional", because="user", now=late) == SEND
    mine = decide(
        brand, recipient(quiet=Quiet("17:00", "18:00"), zone="America/New_York"), kind="marketing", because="user",
        now=late,
    )  # fmt: skip
    assert isinstance(mine, Defer)
    assert mine.until == utc("2026-11-22T23:00")
    assert "their quiet hours" in mine.detail
    all_kinds = Restraint(quiet_hours=NIGHT, quiet_kinds=("marketing", "transactional"))
    utc_night = decide(all_kinds, recipient(), kind="transactional", because="user", now=utc("2026-11-22T03:00"))
    assert isinstance(utc_night, Defer)
    assert utc_night.until == utc("2026-11-22T08:00")


def got(kind: Kind, *times: str) -> list[Got]:
    return [Got(utc(at), kind) for at in times]


def test_so_many_a_day_of_theirs_and_no_more() -> None:
    rules = Restraint(caps=(Cap(max=3),), time_zone="Europe/Rome")
    # 23:30 of the 21st in Rome, then the 22nd.
    had = got("marketing", "2026-11-21T22:30", "2026-11-21T23:00", "2026-11-22T09:00")
    assert decide(rules, recipient(), kind="marketing", because="user", now=NOON, got=had) == SEND
    had += got("transactional", "2026-11-22T10:00", "2026-11-22T10:00")
    assert decide(rules, recipient(), kind="marketing", because="user", now=NOON, got=had) == SEND
    had += got("marketing", "2026-11-22T11:00")
    dropped = decide(rules, recipient(), kind="marketing", because="user", now=NOON, got=had)
    assert dropped == Drop("cap", "had 3 marketing messages on 2026-11-22 in Europe/Rome, of at most 3")
    assert decide(rules, recipient(), kind="transactional", because="user", now=NOON, got=had) == SEND
    # In Honolulu the first of them was yesterday, too, and it is 02:00.
    assert (
        decide(rules, recipient(zone="Pacific/Honolulu"), kind="marketing", because="user", now=NOON, got=had) == SEND
    )


def test_so_many_within_some_seconds() -> None:
    rules = Restraint(caps=(Cap(max=5), Cap(max=1, per_s=3600), Cap(max=2, per_s=60, kind="transactional")))
    had = got("marketing", "2026-11-22T11:00") + got("transactional", "2026-11-22T11:59:30")
    dropped = decide(rules, recipient(), kind="marketing", because="user", now=NOON, got=had)
    assert dropped == Drop("cap", "had 1 marketing messages within 3600 s, of at most 1")
    later = NOON + timedelta(seconds=1)
    assert decide(rules, recipient(), kind="marketing", because="user", now=later, got=had) == SEND
    assert decide(rules, recipient(), kind="transactional", because="user", now=NOON, got=had) == SEND
    assert decide(rules, recipient(), kind="transactional", because="user", now=NOON, got=had * 2) != SEND


def test_how_far_back_one_has_to_look() -> None:
    rules = Restraint(caps=(Cap(max=3), Cap(max=1, per_s=60, kind="transactional"), Cap(max=9, per_s=7 * 86400)))
    assert look_back(rules, "transactional") == timedelta(seconds=60)
    assert look_back(rules, "marketing") == timedelta(days=7)
    assert look_back(Restraint(caps=(Cap(max=3),)), "marketing") > timedelta(days=1)
    assert look_back(Restraint(), "marketing") == timedelta(0)


@pytest.mark.parametrize(
    ("local", "zone", "not_before", "due"),
    [
        ("09:00", ROME, "2026-11-22T07:00", "2026-11-22T08:00"),
        ("09:00", ROME, "2026-11-22T08:00", "2026-11-22T08:00"),
        ("09:00", ROME, "2026-11-22T08:01", "2026-11-23T08:00"),
        ("09:00", NEW_YORK, "2026-11-22T00:00", "2026-11-22T14:00"),
        ("02:30", ROME, "2026-03-29T00:00", "2026-03-29T01:30"),  # there is no 02:30: an hour later, 03:30
        ("02:30", ROME, "2026-10-25T00:00", "2026-10-25T00:30"),  # twice: the first
        ("02:30", ROME, "2026-10-25T00:31", "2026-10-25T01:30"),  # ... and the second, of who missed it
        ("02:30", ROME, "2026-10-25T01:31", "2026-10-26T01:30"),
        ("23:30", ROME, "2026-10-24T21:31", "2026-10-25T22:30"),  # a day of 25 hours
        ("12:00", ZoneInfo("Pacific/Apia"), "2011-12-29T23:00", "2011-12-30T22:00"),  # a day that there never was
    ],
)
def test_when_their_clock_says_so(local: str, zone: ZoneInfo, not_before: str, due: str) -> None:
    assert due_at(local, zone, utc(not_before)) == utc(due)


clocks = st.times().map(lambda at: f"{at:%H:%M}")
moments = st.datetimes(datetime(2011, 12, 1), datetime(2030, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))


@given(clocks, clocks, st.sampled_from(ZONES), moments)
def test_after_quiet_hours_it_is_not_quiet(begin: str, end: str, name: str, now: datetime) -> None:
    """... but where the clock is set forward over their beginning."""
    quiet = Quiet(begin, end)
    if begin == end:
        with pytest.raises(Refused):
            check_quiet(quiet)
        return
    check_quiet(quiet)
    until = due_at(end, ZoneInfo(name), now)
    assert now <= until <= now + timedelta(hours=50)
    wall = until.astimezone(ZoneInfo(name)).time()
    if f"{wall:%H:%M}" == end:
        assert not is_quiet(quiet, wall)


def test_what_is_no_time_or_no_zone_is_refused() -> None:
    for text in ("24:00", "8:00", "08:60", "08:00:00", "", "noon", "٠٨:00"):
        with pytest.raises(Refused):
            check_quiet(Quiet(text, "08:00"))
    for name in ("Europe/Rom", "", "../etc/passwd", "/etc/localtime", "Europe", "x" * 300):
        with pytest.raises(Refused):
            check_zone(name)
    check_zone("Europe/Rome")
    check_zone("UTC")
