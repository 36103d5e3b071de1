"""Hours of the week."""

import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Refused
from broker.pull.hours import is_open, next_open, week

ROME = ZoneInfo("Europe/Rome")
OFFICE = {"mon-fri": ["09:00-13:00", "14:00-18:00"], "sat": ["10:00-12:00"]}


def rome(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ROME).astimezone(UTC)


@pytest.mark.parametrize(
    ("at", "there"),
    [
        ("2026-11-23T09:00", True),
        ("2026-11-23T08:59", False),
        ("2026-11-23T13:00", False),
        ("2026-11-23T17:59", True),
        ("2026-11-21T11:00", True),
        ("2026-11-22T11:00", False),
    ],
)
def test_it_is_open_in_its_own_zone(at: str, there: bool) -> None:
    assert is_open(OFFICE, ROME, rome(at)) is there


@pytest.mark.parametrize(
    ("now", "then"),
    [
        ("2026-11-20T18:30", "2026-11-21T10:00"),
        ("2026-11-22T11:00", "2026-11-23T09:00"),
        ("2026-11-23T13:30", "2026-11-23T14:00"),
        ("2026-10-24T13:00", "2026-10-26T09:00"),  # the clock is set back on the way
    ],
)
def test_it_opens_next(now: str, then: str) -> None:
    assert next_open(OFFICE, ROME, rome(now)) == rome(then)


def test_no_hours_are_always_and_nights_go_on() -> None:
    now = rome("2026-11-22T03:00")
    assert is_open({}, ROME, now)
    assert next_open({}, ROME, now) == now
    assert is_open({"sat": ["22:00-04:00"]}, ROME, now)
    assert is_open({"sun": ["22:00-04:00"]}, ROME, rome("2026-11-23T03:59"))
    assert week({"mon-sun": ["00:00-24:00"]}) == [(0, 7 * 1440)]
    assert next_open({"mon": []}, ROME, now) is None


@pytest.mark.parametrize("hours", [{"monday": ["09:00-18:00"]}, {"mon": ["9-18"]}, {"mon": ["09:00-09:00"]}, {"": []}])
def test_what_are_no_hours_is_refused(hours: dict[str, list[str]]) -> None:
    with pytest.raises(Refused):
        week(hours)


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)))
def test_when_it_opens_it_is_open(at: datetime) -> None:
    then = next_open(OFFICE, ROME, at.replace(tzinfo=UTC))
    assert then is not None
    assert then >= at.replace(tzinfo=UTC)
    assert is_open(OFFICE, ROME, then)


@pytest.mark.parametrize("hours", [{"x" * 100_000: []}, {"mon": ["x" * 100_000]}, {"mon-sun": ["09:00-10:00"] * 9**5}])
def test_what_is_too_much_is_refused_in_few_words_and_at_once(hours: dict[str, list[str]]) -> None:
    began = time.thread_time()
    with pytest.raises(Refused) as caught:
        week(hours)
    assert time.thread_time() - began < 0.1
    assert len(caught.value.message) < 100
