"""Figures of questions: they add up, whatever was asked and however it went."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.asked import AT, book

from broker.pull import figures as figures_
from broker.pull.figures import OUTCOMES, By, Figures, figures, moment
from broker.store import asked as asked_
from broker.store.asked import AskedQuestions
from broker.store.database import open_reader

UTC = ZoneInfo("UTC")
ROME = ZoneInfo("Europe/Rome")
DAY = 86_400_000


@asynccontextmanager
async def asked(directory: Path, questions: Sequence[Mapping[str, Any]]) -> AsyncIterator[AskedQuestions]:
    path = directory / "messages.db"
    await book(path, questions)
    reading = AskedQuestions(path, await open_reader(path))
    try:
        yield reading
    finally:
        await reading.close()


async def counted(
    directory: Path, questions: Sequence[Mapping[str, Any]], by: By = "brand", zone: ZoneInfo = UTC
) -> list[Figures]:
    async with asked(directory, questions) as reading:
        return (await figures(reading, "acme", AT - DAY, AT + 10 * DAY, by, zone))[1]


QUESTIONS = st.lists(
    st.fixed_dictionaries(
        {
            "brand": st.sampled_from(["acme", "acme", "acme", "other"]),
            "store": st.sampled_from(["", "milano", "roma"]),
            "at": st.integers(AT - 2 * DAY, AT + 3 * DAY),
            "outcome": st.sampled_from(["answered", "choice", "command", "server", "asking", "person", "nothing"]),
            "rule": st.sampled_from(["search", "held", "not_found", "route:x"]),
            "state": st.sampled_from(["automated", "waiting", "agent", "closed"]),
            "took_us": st.none() | st.integers(0, 10**11),
            "person_at": st.none() | st.integers(AT - DAY, AT + 9 * DAY),
            "thumb": st.sampled_from([-1, 0, 1]),
        }
    ),
    max_size=60,
)


@given(questions=QUESTIONS, page=st.integers(1, 70), by=st.sampled_from(["brand", "store", "day"]))
@settings(max_examples=40, deadline=None)
async def test_what_became_of_questions_adds_up_to_them(questions: list[dict[str, Any]], page: int, by: By) -> None:
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked_, "QUESTIONS_PAGE", page)
        async with asked(Path(directory), questions) as reading:
            whole, each = await figures(reading, "acme", AT - DAY, AT + 2 * DAY, by, ROME)
    there = [one for one in questions if one["brand"] == "acme" and AT - DAY <= one["at"] < AT + 2 * DAY]
    real = [one for one in there if one["rule"] != "held"]
    for rows in ([whole], each):
        for row in rows:
            assert row.questions == sum(getattr(row, name) for name in OUTCOMES)
            assert row.by_person.count == row.person
            assert row.by_server.count <= row.server
            assert row.automation.count <= row.answered + row.choice
        assert sum(row.questions for row in rows) == len(real)
        assert sum(row.said for row in rows) == len(there) - len(real)
        assert sum(row.handed_over for row in rows) == sum(one["outcome"] == "person" for one in real)
        assert sum(row.up for row in rows) == sum(one["thumb"] == 1 for one in real)
        assert sum(row.down for row in rows) == sum(one["thumb"] == -1 for one in real)
    if by == "store":
        assert {row.what for row in each} == {one["store"] for one in there}


async def test_each_outcome_is_counted_as_what_it_is(tmp_path: Path) -> None:
    handed: dict[str, Any] = {"outcome": "person", "rule": "not_found", "item": "", "took_us": 700}
    rows = await counted(
        tmp_path,
        [
            {}, {"outcome": "command"}, {"outcome": "choice"}, {"outcome": "server"},
            {"outcome": "asking", "took_us": None},
            {**handed, "state": "waiting"},
            {**handed, "at": AT, "person_at": AT + 90_000, "state": "closed"},
            {**handed, "state": "closed"},  # nobody ever replied
            {"outcome": "person", "rule": "held", "state": "agent"},
            {"outcome": "nothing", "rule": "not_found"},
        ],
    )  # fmt: skip
    (row,) = rows
    assert (row.questions, row.handed_over, row.said) == (9, 3, 1)
    assert [getattr(row, name) for name in OUTCOMES] == [2, 1, 1, 1, 2, 2]
    assert (row.by_person.p50_s, row.by_person.p99_s) == (90.0, 90.0)


async def test_automation_server_and_persons_take_their_own_time(tmp_path: Path) -> None:
    rows = [{"took_us": number * 1000} for number in range(1, 101)]
    rows += [{"outcome": "server", "took_us": 2_000_000}, {"outcome": "nothing", "took_us": 10**9}]
    (row,) = await counted(tmp_path, rows)
    assert (row.automation.count, row.automation.p50_s, row.automation.p99_s) == (100, 0.05, 0.099)
    assert (row.by_server.count, row.by_server.p50_s) == (1, 2.0)
    assert (row.by_person.count, row.by_person.p50_s) == (0, None)


async def test_thumbs_say_how_many_were_satisfied(tmp_path: Path) -> None:
    (row,) = await counted(tmp_path, [{"thumb": 1}, {"thumb": 1}, {"thumb": 1}, {"thumb": -1}, {}])
    assert (row.up, row.down, row.satisfied) == (3, 1, 0.75)
    (row,) = await counted(tmp_path / "other", [{}])
    assert row.satisfied is None


async def test_days_are_those_of_the_brands_own_calendar(tmp_path: Path) -> None:
    late = moment("2026-11-19T23:30", UTC)  # half past midnight in Rome
    rows = [{"at": late}, {"at": late - 3_600_000}, {"at": late + 3 * DAY}]
    assert [row.what for row in await counted(tmp_path, rows, "day")] == ["2026-11-19", "2026-11-22"]
    rome = await counted(tmp_path / "rome", rows, "day", ROME)
    assert [(row.what, row.questions) for row in rome] == [("2026-11-19", 1), ("2026-11-20", 1), ("2026-11-23", 1)]


async def test_a_day_on_which_the_clocks_change_is_one_day(tmp_path: Path) -> None:
    begin, end = moment("2026-10-25", ROME), moment("2026-10-26", ROME)
    assert end - begin == 25 * 3_600_000
    async with asked(tmp_path, [{"at": begin - 1}, {"at": begin}, {"at": end - 1}, {"at": end}]) as reading:
        _, rows = await figures(reading, "acme", begin - DAY, end + DAY, "day", ROME)
    assert [(row.what, row.questions) for row in rows] == [("2026-10-24", 1), ("2026-10-25", 2), ("2026-10-26", 1)]


async def test_as_many_as_may_be_in_one_millisecond_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_, "QUESTIONS_PAGE", 3)
    (row,) = await counted(tmp_path, [{"at": AT + number // 10} for number in range(35)])
    assert row.questions == 35


async def test_what_is_missing_is_what_is_asked_most_in_vain(tmp_path: Path) -> None:
    lost: dict[str, Any] = {"outcome": "nothing", "rule": "low_score", "folded": "pan gluten"}
    vain = [
        {**lost, "score": 0.3, "nearest": "pane", "text": "pane senza glutine"},
        {**lost, "score": 0.1, "nearest": "orari", "text": "PANE senza glutine?", "at": AT + DAY},
        {"outcome": "person", "rule": "not_found", "folded": "fattur", "score": 0, "text": "fattura"},
        {"outcome": "nothing", "rule": "route:search", "folded": "scarp ross", "score": 0, "text": "scarpe rosse"},
        # None of these lacks an item:
        {}, {"outcome": "nothing", "rule": "unable", "folded": ""}, {**lost, "brand": "other"},
        {"outcome": "person", "rule": "hand_over:reclamo", "folded": "reclam"},
        {"outcome": "server", "rule": "route:search", "folded": "cappell"},
    ]  # fmt: skip
    async with asked(tmp_path, vain) as reading:
        found = await reading.unanswered("acme", AT, AT + 2 * DAY, 10)
        first = await reading.unanswered("acme", AT, AT + 2 * DAY, 1)
    assert [(one.folded, one.questions) for one in found] == [("pan gluten", 2), ("scarp ross", 1), ("fattur", 1)]
    assert first == found[:1]
    best = found[0]
    assert (best.example, best.last_at, best.score, best.nearest) == ("PANE senza glutine?", AT + DAY, 0.3, "pane")


@pytest.mark.parametrize("wrong", ["yesterday", "", "2026-13-01", "2026-11-24T25:00"])
def test_a_time_that_is_none_is_no_time(wrong: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        figures_.moment(wrong, UTC)
