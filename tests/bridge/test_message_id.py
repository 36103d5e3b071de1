"""Message ids."""

import re
import time

import pytest

from broker.bridge.message_id import MessageIds


def test_ids_are_in_the_order_in_which_they_were_made() -> None:
    ids = MessageIds()
    made = [ids.next() for _ in range(200_000)]  # more than the count within a millisecond, if the machine is fast
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"m[0-9a-z]{21}", id) for id in made[::1000])


def test_a_clock_that_is_set_back_does_not_set_ids_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_800_000_000_000_000_000]
    monkeypatch.setattr(time, "time_ns", lambda: clock[0])
    ids = MessageIds()
    first = ids.next()
    clock[0] -= 3600 * 10**9
    assert ids.next() > first


def test_a_count_that_overflows_goes_into_the_next_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    ids = MessageIds()
    made = [ids.next() for _ in range(0x10001)]
    assert made == sorted(set(made))


def test_two_brokers_make_different_ids_in_the_same_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    assert MessageIds().next() != MessageIds().next()


def test_ids_follow_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_800_000_000_000_000_000]
    monkeypatch.setattr(time, "time_ns", lambda: clock[0])
    ids = MessageIds()
    made = []
    for _ in range(300):  # three minutes, in steps that change different digits
        made += [ids.next(), ids.next()]
        clock[0] += 601_000_000
    assert made == sorted(set(made))
    assert len({id[:9] for id in made}) == 300  # 256 ms each
