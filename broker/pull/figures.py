"""Figures of questions: how many there were, what became of them, how long it took, whether it was of use.

Of a whole brand, of each store, or of each day of the brand's own calendar. What became of them always adds up to how
many there were.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from broker.store.asked import AskedQuestions, Count, Page

By = Literal["brand", "store", "day"]
_BY: Final[Mapping[str, str]] = {"answered": "automation", "choice": "automation", "server": "by_server"}
OUTCOMES: Final = ("answered", "choice", "server", "person", "waiting", "nothing")


class Took(msgspec.Struct, frozen=True, kw_only=True):
    """How long answers took: the delay of one of them, rounded down to three digits; None: of nothing."""

    count: int
    p50_s: float | None
    p99_s: float | None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What became of questions. `questions` is the sum of the six that follow it."""

    what: str
    questions: int
    answered: int  # at once, by an item or a command
    choice: int  # with a choice of several
    server: int  # by the brand's server
    person: int  # by a person
    waiting: int  # for one of these two
    nothing: int  # not at all
    handed_over: int  # to a person, whoever answered in the end
    said: int  # to persons, beyond the questions
    up: int
    down: int
    satisfied: float | None  # up, of those who said either
    automation: Took  # until the first answer
    by_server: Took
    by_person: Took


class _Sum:
    """Figures that grow."""

    __slots__ = ("_counts", "_took")

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._took: dict[str, Counter[int]] = {"automation": Counter(), "by_server": Counter(), "by_person": Counter()}

    def add(self, one: Count) -> None:
        self._counts[one.became] += one.questions
        if one.became == "said":
            return
        self._counts["up"] += one.questions * (one.thumb > 0)
        self._counts["down"] += one.questions * (one.thumb < 0)
        self._counts["handed_over"] += one.questions * one.handed_over
        if one.became == "person" and one.person_ms is not None:
            self._took["by_person"][one.person_ms * 1000] += one.questions
        elif one.became in _BY and one.took_us is not None:
            self._took[_BY[one.became]][one.took_us] += one.questions

    def figures(self, what: str) -> Figures:
        """As they are now."""
        counts = self._counts
        rated = counts["up"] + counts["down"]
        fields: dict[str, Any] = {name: counts[name] for name in (*OUTCOMES, "handed_over", "said", "up", "down")}
        fields |= {name: _took(delays) for name, delays in self._took.items()}
        return Figures(
            what=what,
            questions=sum(counts[outcome] for outcome in OUTCOMES),
            satisfied=round(counts["up"] / rated, 4) if rated else None,
            **fields,
        )


def _took(delays: Mapping[int, int]) -> Took:
    total = sum(delays.values())
    percentiles: list[float | None] = []
    ranks = [-(-total * percent // 100) for percent in (50, 99)]
    passed = 0
    for delay in sorted(delays):
        passed += delays[delay]
        while len(percentiles) < len(ranks) and passed >= ranks[len(percentiles)]:
            percentiles.append(delay / 1e6)
    p50, p99 = percentiles or (None, None)
    return Took(count=total, p50_s=p50, p99_s=p99)


async def figures(
    asked: AskedQuestions, brand: str, begin: int, end: int, by: By, zone: ZoneInfo
) -> tuple[Figures, list[Figures]]:
    """The figures of a brand's questions from `begin` until before `end`: of all, and of each store or day with one."""
    all_, sums = _Sum(), dict[str, _Sum]()
    async for day, page in _pages(asked, brand, begin, end, by, zone):
        for one in page.counts:
            all_.add(one)
            if by != "brand":
                sums.setdefault(one.store if by == "store" else day, _Sum()).add(one)
    whole = all_.figures(brand)
    return whole, [whole] if by == "brand" else [sums[what].figures(what) for what in sorted(sums)]


async def _pages(
    asked: AskedQuestions, brand: str, begin: int, end: int, by: By, zone: ZoneInfo
) -> AsyncIterator[tuple[str, Page]]:
    """Pages of questions, each of one day only where days are told apart."""
    if by != "day":
        async for page in asked.counts(brand, begin, end):
            yield "", page
        return
    while (first := await asked.first(brand, begin, end)) is not None:
        day = datetime.fromtimestamp(first / 1000, zone).date()
        begin = min(end, midnight(day + timedelta(days=1), zone))
        async for page in asked.counts(brand, first, begin):
            yield day.isoformat(), page


def midnight(day: date, zone: ZoneInfo) -> int:
    """When a day begins there, in milliseconds."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp() * 1000)


def moment(given: str, zone: ZoneInfo) -> int:
    """A day, or a time, as people write it: on the brand's clock, unless it says another. Raises `ValueError`."""
    at = datetime.fromisoformat(given)
    return int((at if at.tzinfo else at.replace(tzinfo=zone)).timestamp() * 1000)
