"""When a client tries again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk.backoff import Backoff


def ceilings(backoff: Backoff, count: int) -> list[float]:
    return [backoff.delay_s() for _ in range(count)]


def highest(**settings: float) -> Backoff:
    return Backoff(**settings, uniform=lambda _low, high: high)


def test_the_ceiling_doubles_up_to_five_minutes() -> None:
    assert ceilings(highest(), 11) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_the_jitter_is_full() -> None:
    lowest = Backoff(uniform=lambda low, _high: low)
    assert ceilings(lowest, 5) == [0] * 5


@given(st.integers(1, 50))
def test_a_delay_lies_between_nothing_and_the_longest(attempts: int) -> None:
    assert all(0 <= delay <= 300 for delay in ceilings(Backoff(), attempts))


def test_a_connection_alone_resets_nothing() -> None:
    """Two devices with one identity get a good CONNACK each time they push each other off."""
    backoff = highest()
    now = 0.0
    delays = []
    for _ in range(6):
        backoff.connected(now)
        now += 0.2
        backoff.disconnected(now)
        delays.append(backoff.delay_s())
    assert delays == [1, 2, 4, 8, 16, 32]


def test_a_stable_connection_starts_over() -> None:
    backoff = highest()
    ceilings(backoff, 6)
    backoff.connected(100.0)
    backoff.disconnected(160.0)
    assert backoff.delay_s() == 1


def test_a_failed_attempt_does_not_count_as_a_stable_connection() -> None:
    backoff = highest()
    backoff.connected(0.0)
    backoff.disconnected(1.0)
    ceilings(backoff, 3)
    backoff.disconnected(1000.0)  # the attempt at 999 never got a CONNACK
    assert backoff.delay_s() == 8


def test_a_refused_identity_asks_rarely() -> None:
    backoff = highest()
    backoff.hopeless()
    assert backoff.delay_s() == 300


@pytest.mark.parametrize("first_s", [0, -1, 301])
def test_settings_without_sense_are_refused(first_s: float) -> None:
    with pytest.raises(ValueError, match="first_s"):
        Backoff(first_s=first_s)
