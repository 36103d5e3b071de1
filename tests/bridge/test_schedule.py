"""When campaigns run, on the days when clocks change above all."""

from datetime import UTC, datetime

import pytest

from broker.bridge.schedule import Run, Schedule, checked, following, once
from broker.errors import Refused


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def naive(text: str) -> datetime:
    return datetime.fromisoformat(text)


def runs(schedule: Schedule, after: str, number: int) -> list[str]:
    found, at = [], utc(after)
    for _ in range(number):
        run = following(checked(schedule), at)
        assert run is not None
        at = run.at
        found.append(f"{at:%m-%d %H:%M}")
    return found


def test_a_time_is_on_the_clock_of_its_zone() -> None:
    schedule = checked(Schedule(at=naive("2026-07-01T09:00"), zone="Europe/Rome"))
    assert once(schedule, utc("2026-01-01")) == Run(utc("2026-07-01T07:00"))


def test_without_a_time_it_runs_when_it_is_started() -> None:
    assert once(checked(Schedule()), utc("2026-01-01T10:11")) == Run(utc("2026-01-01T10:11"))


def test_each_day_at_nine_stays_nine_when_summer_time_begins_and_ends() -> None:
    nine = Schedule(cron="0 9 * * *", zone="Europe/Rome")
    assert runs(nine, "2026-03-27T12:00", 3) == ["03-28 08:00", "03-29 07:00", "03-30 07:00"]
    assert runs(nine, "2026-10-24T06:00", 3) == ["10-24 07:00", "10-25 08:00", "10-26 08:00"]


def test_an_hour_that_is_left_out_or_comes_twice_has_one_run() -> None:
    half_past_two = Schedule(cron="30 2 * * *", zone="Europe/Rome")
    assert runs(half_past_two, "2026-03-28T12:00", 2) == ["03-29 01:00", "03-30 00:30"]
    assert runs(half_past_two, "2026-10-24T12:00", 2) == ["10-25 00:30", "10-26 01:30"]


def test_weekdays_have_names() -> None:
    assert runs(Schedule(cron="0 9 * * mon"), "2026-11-22T00:00", 2) == ["11-23 09:00", "11-30 09:00"]


def test_on_recipients_clocks_a_run_begins_where_the_day_begins_first() -> None:
    schedule = checked(Schedule(at=naive("2026-11-24T09:00"), local=True))
    assert once(schedule, utc("2026-01-01")) == Run(utc("2026-11-23T19:00"), naive("2026-11-24T09:00"))
    daily = Schedule(cron="0 9 * * *", local=True)
    assert following(daily, utc("2026-11-23T19:00")) == Run(utc("2026-11-24T19:00"), naive("2026-11-25T09:00"))


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule(cron="0 9 * *"), "five fields"),
        (Schedule(cron="* * * * * *"), "five fields"),
        (Schedule(cron="61 9 * * *"), "Bad minute"),
        (Schedule(cron="0 0 30 2 *"), "Bad day-of-month"),
        (Schedule(zone="Europe/Milano"), "no time zone 'Europe/Milano'"),
        (Schedule(zone="../../etc/passwd"), "no time zone"),
        (Schedule(zone=""), "no time zone"),
        (Schedule(local=True), "no time to wait for"),
        (Schedule(at=naive("2026-11-24T09:00"), cron="0 9 * * *"), "at a time or as a cron line"),
        (Schedule(at=utc("2026-11-24T09:00")), "no offset of its own"),
    ],
)
def test_what_is_no_schedule_is_refused(schedule: Schedule, words: str) -> None:
    with pytest.raises(Refused, match=words):
        checked(schedule)
