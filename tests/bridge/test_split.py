"""Who is in which part of a split, and what is said of the difference."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bridge.split import PARTS, compare, cut, place


def test_halves_are_halves_and_a_person_stays_in_one() -> None:
    parts = cut({"a": 50, "b": 50}, 0)
    assert parts == {"a": (0, 5000), "b": (5000, 10_000)}
    places = [place("acme/spring", "user", f"user-{number}") for number in range(10_000)]
    assert places == [place("acme/spring", "user", f"user-{number}") for number in range(10_000)]
    in_a = sum(at < 5000 for at in places)
    assert abs(in_a - 5000) < 200  # four standard deviations


def test_another_campaign_splits_the_same_people_anew() -> None:
    names = [f"user-{number}" for number in range(10_000)]
    both = Counter(
        (place("acme/spring", "user", name) < 5000, place("acme/summer", "user", name) < 5000) for name in names
    )
    assert all(abs(number - 2500) < 200 for number in both.values())


def test_a_holdout_is_taken_from_all_parts_alike() -> None:
    assert cut({"a": 1, "b": 2}, 10) == {"a": (1000, 4000), "b": (4000, 10_000)}
    assert cut({"": 100}, 0) == {"": (0, PARTS)}


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=10), st.integers(0, 90))
def test_parts_leave_no_gap_and_do_not_overlap(weights: list[int], holdout: int) -> None:
    parts = list(cut({str(number): weight for number, weight in enumerate(weights)}, holdout).values())
    assert parts[0][0] == PARTS * holdout // 100
    assert parts[-1][1] == PARTS
    assert all(before[1] == after[0] for before, after in itertools.pairwise(parts))


@pytest.mark.parametrize(
    ("base", "other", "lift", "words"),
    [
        ((0, 0), (5, 10), None, "nothing to compare yet"),
        ((2, 20), (4, 20), 1.0, "too few to say anything"),
        ((0, 1000), (40, 1000), None, "more than chance (z = 6.4, p < 0.001)"),
        ((100, 1000), (140, 1000), 0.4, "more than chance (z = 2.8, p = 0.006)"),
        ((100, 1000), (110, 1000), 0.1, "may be chance (z = 0.7, p = 0.466); were it real, it would take some 15,000"),
        ((100, 1000), (100, 1000), 0.0, "may be chance (z = 0.0, p = 1.000)"),
    ],
)
def test_a_difference_comes_with_what_it_is_worth(
    base: tuple[int, int], other: tuple[int, int], lift: float | None, words: str
) -> None:
    found = compare(base, other)
    assert found.lift == (None if lift is None else pytest.approx(lift))
    assert found.note.startswith(words)
