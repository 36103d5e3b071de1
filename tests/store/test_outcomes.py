"""What became of messages: counts that add up, how long it took, pages, and the story of one recipient."""

import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from support.sent import AT, book

from broker.store.database import open_reader
from broker.store.outcomes import BOUNDS_MS, Outcomes, summed

ENDS = ("expired", "replaced", "dropped", "withdrawn")


@asynccontextmanager
async def reading(path: Path) -> AsyncIterator[Outcomes]:
    outcomes = Outcomes(path, await open_reader(path))
    try:
        yield outcomes
    finally:
        await outcomes.close()


async def test_what_was_accepted_is_the_sum_of_what_became_of_it(tmp_path: Path) -> None:
    chance = random.Random(7)
    people: list[dict[str, Any]] = []
    for number in range(500):
        state = chance.choice(["accepted", "sent", "delivered", *ENDS])
        person = {"name": f"u{number}", "state": state, "reason": chance.choice(["a", "b"]) if state in ENDS else ""}
        # An app may say that it showed a message whose acknowledgement was lost.
        person |= {f"{word}_at": AT + 9 for word in ("displayed", "opened", "dismissed") if chance.random() < 0.3}
        people.append(person)
    await book(tmp_path / "messages.db", {"people": people, "state": "open"}, {"people": people[:3]})

    async with reading(tmp_path / "messages.db") as outcomes:
        figures = await outcomes.figures(1)

    counts = figures.counts
    assert counts.accepted == 500
    assert counts.accepted == sum(
        (counts.delivered, counts.expired, counts.replaced, counts.dropped, counts.withdrawn, counts.waiting)
    )
    for state in ("sent", "delivered", *ENDS):
        assert getattr(counts, state) == sum(person["state"] == state for person in people), state
    assert counts.waiting == sum(person["state"] in ("accepted", "sent") for person in people)
    assert figures.opened.recipients == sum("opened_at" in person for person in people)
    assert figures.reasons["dropped"]["a"] == sum(p["state"] == "dropped" and p["reason"] == "a" for p in people)


async def test_devices_count_beside_their_recipients(tmp_path: Path) -> None:
    events = [
        {"recipient": 1, "device": device, "event": event, "at": AT + 5}
        for device, event in (("kiosk-7", "delivered"), ("tablet-2", "delivered"), ("tablet-2", "opened"))
    ]
    ada = {"name": "ada", "state": "delivered", "sent_at": AT, "delivered_at": AT + 5, "opened_at": AT + 5}
    await book(tmp_path / "messages.db", {"people": [ada], "events": events})

    async with reading(tmp_path / "messages.db") as outcomes:
        figures = await outcomes.figures(1)

    assert (figures.delivered.recipients, figures.delivered.devices) == (1, 2)
    assert (figures.opened.recipients, figures.opened.devices) == (1, 1)
    assert (figures.clicked.recipients, figures.clicked.devices) == (0, 0)


async def test_how_long_it_took_is_counted_from_when_it_was_sent(tmp_path: Path) -> None:
    sent = {"state": "delivered", "sent_at": AT + 60_000}
    people = [{"name": f"u{n}", **sent, "delivered_at": AT + 60_000 + n} for n in range(1, 101)]
    await book(tmp_path / "messages.db", {"people": [*people, {"name": "bob", "state": "sent", "sent_at": AT}]})

    async with reading(tmp_path / "messages.db") as outcomes:
        delays = (await outcomes.figures(1)).to_delivered

    assert (delays.count, delays.p50_ms, delays.p90_ms, delays.p99_ms) == (100, 50, 90, 99)
    assert delays.bars == [9, 20, 70, 1, *[0] * (len(BOUNDS_MS) - 3)]


async def test_rounding_moves_nobody_to_another_bar(tmp_path: Path) -> None:
    edges = [edge for bound in BOUNDS_MS for edge in (bound - 1, bound)]
    people = [{"name": f"u{ms}", "state": "delivered", "sent_at": AT, "delivered_at": AT + ms} for ms in edges]
    people.append({"name": "clock set back", "state": "delivered", "sent_at": AT, "delivered_at": AT - 5})
    await book(tmp_path / "messages.db", {"people": people})

    async with reading(tmp_path / "messages.db") as outcomes:
        delays = (await outcomes.figures(1)).to_delivered

    assert delays.bars == [2, *[2] * (len(BOUNDS_MS) - 1), 1]
    assert delays.count == len(people)


async def test_each_store_has_its_figures(tmp_path: Path) -> None:
    people = [{"name": f"u{n}", "state": "delivered", "sent_at": AT} for n in range(4)]
    events = [
        {"recipient": n + 1, "device": "d", "event": event, "at": AT + ms, "store": store}
        for n, store, event, ms in (
            (0, "milano", "delivered", 100), (1, "milano", "delivered", 1234), (1, "milano", "opened", 61_000),
            (2, "roma", "delivered", 50), (3, "", "displayed", 7),
        )
    ]  # fmt: skip
    await book(tmp_path / "messages.db", {"people": people, "events": events})

    async with reading(tmp_path / "messages.db") as outcomes:
        nowhere, milano, roma = await outcomes.stores(1)

    assert (nowhere.store, nowhere.delivered, nowhere.displayed, nowhere.delivered_p50_ms) == ("", 0, 1, None)
    assert (milano.delivered, milano.opened) == (2, 1)
    assert (milano.delivered_p50_ms, milano.delivered_p90_ms, milano.opened_p90_ms) == (100, 1200, 61_000)
    assert (roma.store, roma.delivered, roma.opened_p50_ms) == ("roma", 1, None)


def test_nothing_took_no_time() -> None:
    delays = summed([])

    assert (delays.count, delays.p50_ms, delays.p99_ms) == (0, None, None)
    assert sum(delays.bars) == 0


async def test_lists_are_read_a_page_at_a_time(tmp_path: Path) -> None:
    await book(
        tmp_path / "messages.db", *({"brand": brand, "campaign": "spring"} for brand in ("acme", "bolt") * 5),
        {"people": [{"name": f"u{n}", "state": "sent" if n % 2 else "expired"} for n in range(10)]},
    )  # fmt: skip

    async with reading(tmp_path / "messages.db") as outcomes:
        first = await outcomes.headings("acme", "spring", None, 3)
        rest = await outcomes.headings("acme", "spring", first[-1].number, 3)
        everything = await outcomes.headings(None, None, None, 100)
        sent = await outcomes.recipients(11, "sent", 0, 3)
        more = await outcomes.recipients(11, "sent", sent[-1].number, 3)

    assert [heading.number for heading in (*first, *rest)] == [9, 7, 5, 3, 1]
    assert [heading.number for heading in everything] == list(range(11, 0, -1))
    assert [row.name for row in (*sent, *more)] == ["u1", "u3", "u5", "u7", "u9"]


async def test_the_story_of_one_recipient_is_in_the_order_in_which_it_happened(tmp_path: Path) -> None:
    decisions = [
        {"recipient": 1, "at": AT + 3, "rule": "cap", "outcome": "dropped", "detail": "3 since midnight"},
        {"recipient": 1, "at": AT + 1, "rule": "quiet_hours", "outcome": "deferred", "detail": "until 08:00"},
        {"recipient": 2, "at": AT + 2, "rule": "cap", "outcome": "dropped", "detail": "somebody else's"},
    ]
    people = [{"name": "ada", "state": "dropped", "reason": "cap"}, {"name": "bob", "state": "dropped"}]
    await book(tmp_path / "messages.db", {"people": people, "decisions": decisions})

    async with reading(tmp_path / "messages.db") as outcomes:
        (story,) = await outcomes.stories(1, [("user", "ada"), ("device", "ada"), ("user", "eve")])

    assert (story.recipient.name, story.recipient.reason) == ("ada", "cap")
    assert [decision.rule for decision in story.decisions] == ["quiet_hours", "cap"]


@pytest.mark.parametrize(
    "read",
    [
        lambda outcomes: outcomes.headings("acme", None, 5, 20),
        lambda outcomes: outcomes.headings("acme", "spring", 5, 20),
        lambda outcomes: outcomes.headings(None, None, None, 20),
        lambda outcomes: outcomes.find("m1"),
        lambda outcomes: outcomes.figures(1),
        lambda outcomes: outcomes.stores(1),
        lambda outcomes: outcomes.recipients(1, None, 10, 20),
        lambda outcomes: outcomes.stories(1, [("user", "ada")]),
    ],
)  # fmt: skip
async def test_every_query_looks_only_at_its_message(read: Callable[[Outcomes], Any], tmp_path: Path) -> None:
    statements: list[str] = []
    await book(tmp_path / "messages.db", {"people": [{"name": "ada"}]})

    async with reading(tmp_path / "messages.db") as outcomes:
        await outcomes._db.set_trace_callback(statements.append)
        await read(outcomes)

    plans: list[str] = []
    with closing(sqlite3.connect(tmp_path / "messages.db")) as db:
        for statement in statements:
            if "SELECT" in statement:
                plans += [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert plans
    assert not [plan for plan in plans if plan.startswith("SCAN")]
