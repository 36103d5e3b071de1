"""Why somebody got a message, or did not: from the books, the consent log and the records, and what nobody knows."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.sent import AT, book

from broker.bridge.people import People, Wanted
from broker.bridge.why import Explanation, explained
from broker.errors import Refused
from broker.store.database import open_reader
from broker.store.entries import Who
from broker.store.outcomes import Outcomes
from broker.trust.directory import Directory, open_directory

THEN = datetime.fromtimestamp(AT / 1000, UTC)
ADA = Who("acme", "user", "ada")
Ask = Callable[..., Awaitable[Explanation]]


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Directory]:
    """A brand with two users, as of two days before the message."""
    async with open_directory(tmp_path, trust_domain="pushbroker.local", names=()) as directory:
        directory.now = lambda: THEN - timedelta(days=2)
        await directory.brand_add("acme")
        for user in ("ada", "bob"):
            await directory.user_add("acme", user)
        for store in ("milano", "roma"):
            await directory.store_add("acme", store)
        await directory.device_code("acme", "kiosk-7", user="ada", store="roma")
        yield directory


@pytest.fixture
def people(directory: Directory) -> People:
    return People(directory)


@pytest.fixture
def ask(people: People, tmp_path: Path) -> Ask:
    """Write a message down, and ask why somebody got it or did not."""

    async def asked(who: str, to: dict[str, Any], *, earlier: tuple[dict[str, Any], ...] = (), **more: Any) -> Any:
        path = tmp_path / "messages.db"
        await book(path, *earlier, {"address": json.dumps(to), **more})
        outcomes = Outcomes(path, await open_reader(path))
        try:
            (message, *_) = await outcomes.headings(None, None, None, 1)
            return await explained(message, who, outcomes, people)
        finally:
            await outcomes.close()

    return asked


async def consent(people: People, topic: str, state: bool, at: datetime) -> None:
    await people.hear(ADA, Wanted(topics={topic: state}), "device/kiosk-7", at)


async def test_each_step_is_told_in_order_with_who_was_asked_and_why(people: People, ask: Ask) -> None:
    await consent(people, "news", True, THEN - timedelta(days=1))
    answer = await ask(
        "ada",
        {"topics": ["news"]},
        people=[
            {
                "name": "ada", "because": "topic:news", "state": "delivered", "due_at": AT + 8000, "sent_at": AT + 8000,
                "delivered_at": AT + 9000, "clicked_at": AT + 9500,
            }
        ],
        decisions=[
            {"recipient": 1, "at": AT + 1, "rule": "quiet_hours", "outcome": "deferred", "detail": "it was 23:00"}
        ],
        events=[
            {"recipient": 1, "device": "kiosk-7", "event": "clicked", "at": AT + 9500, "detail": "ok"},
            {"recipient": 1, "device": "kiosk-7", "event": "delivered", "at": AT + 9000, "store": "roma"},
        ],
    )  # fmt: skip

    assert answer.verdict == "user/ada got it"
    (part,) = answer.parts
    assert part.addressed.startswith("in to.topics, for ada had opted in to news")
    assert "(device/kiosk-7)" in part.addressed
    assert [(step.what, step.at - AT) for step in part.steps] == [
        ("accepted", 0), ("deferred", 1), ("sent", 8000), ("delivered", 9000), ("clicked", 9500)
    ]  # fmt: skip
    assert [step.detail for step in part.steps[1:]] == [
        "quiet_hours: it was 23:00", "published to acme/user/ada", "on kiosk-7 in roma", "on kiosk-7 (ok)"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "reason", "verdict"),
    [
        ("accepted", "quiet_hours", "is still to get it"),
        ("sent", "", "no device has acknowledged it yet"),
        ("expired", "expired", "did not get it in time"),
        ("dropped", "no_subscriber", "no device of theirs had subscribed"),
    ],
)
async def test_what_became_of_it_is_one_sentence(ask: Ask, state: str, reason: str, verdict: str) -> None:
    answer = await ask("ada", {"users": ["ada"]}, people=[{"name": "ada", "state": state, "reason": reason}])

    assert answer.verdict.startswith("user/ada ")
    assert verdict in answer.verdict
    assert answer.parts[0].addressed == "by name, in to.users"
    assert bool(answer.parts[0].now) == (state in ("accepted", "sent"))


async def test_a_decision_is_the_reason(ask: Ask) -> None:
    said = "m9 replaces it, with the collapse key 'price'"
    answer = await ask(
        "user/ada",
        {"users": ["ada"]},
        people=[{"name": "ada", "state": "replaced", "reason": "collapse", "ended_at": AT + 5}],
        decisions=[{"recipient": 1, "at": AT + 5, "rule": "collapse", "outcome": "replaced", "detail": said}],
    )

    assert answer.verdict == f"user/ada did not get it: {said}"
    assert [step.what for step in answer.parts[0].steps] == ["accepted", "replaced"]


async def test_what_came_to_a_device_of_theirs_is_told(ask: Ask) -> None:
    reached = [{"kind": "device", "name": "kiosk-7", "because": "store:roma", "state": "delivered"}]
    answer = await ask("ada", {"stores": ["roma"]}, people=reached)

    assert (answer.verdict, answer.parts[0].recipient) == ("device/kiosk-7 got it", "device/kiosk-7")


async def test_a_device_is_told_by_what_its_user_was_sent(directory: Directory, ask: Ask) -> None:
    await directory.device_code("acme", "tablet-2", user="ada")
    ada = {"name": "ada", "state": "delivered"}
    event = {"recipient": 1, "device": "kiosk-7", "event": "delivered", "at": AT}
    to: dict[str, Any] = {"users": ["ada"]}

    has = await ask("device/kiosk-7", to, people=[ada], events=[event])
    has_not = await ask("device/tablet-2", to, id="m2", number=2, people=[ada])

    assert has.verdict == "device/kiosk-7 has it: delivered; it is ada's, and user/ada got it"
    assert has_not.verdict == "device/tablet-2 has not acknowledged it; it is ada's, and user/ada got it"


async def test_who_was_not_named_is_told_who_was(ask: Ask) -> None:
    answer = await ask("ada", {"users": [f"u{n}" for n in range(8)], "stores": ["milano"]})

    assert answer.verdict == "user/ada is no recipient of it"
    assert answer.why_not == [
        "to.users names u0, u1, u2, u3, u4 and 3 more, and not ada",
        "to.stores names milano; now kiosk-7 stands in roma",
    ]
    assert answer.unknown == ["where devices stood when it was accepted"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([], "ada has never opted in to news"),
        ([(True, -3), (False, -1)], "ada had opted out of news at"),
        ([(True, 1)], "ada opted in to news only at"),
        ([(False, -1), (True, 1)], "ada had opted out of news at"),
    ],
)
async def test_consent_is_told_as_it_was_then(
    people: People, ask: Ask, said: list[tuple[bool, int]], reason: str
) -> None:
    for state, hours in said:
        await consent(people, "news", state, THEN + timedelta(hours=hours))

    answer = await ask("ada", {"topics": ["news"]})

    assert len(answer.why_not) == 1
    assert reason in answer.why_not[0]
    assert answer.unknown == []


async def test_the_terms_of_a_condition_say_which_of_them_was_false(people: People, ask: Ask) -> None:
    await consent(people, "news", True, THEN - timedelta(days=1))
    await people.tag("acme", "user", "ada", ("vip",))

    answer = await ask("ada", {"condition": "topic:news AND store:milano AND tag:vip"})

    (line,) = answer.why_not
    assert "topic:news is true, store:milano is false, tag:vip is true" in line
    assert answer.unknown == ["what tags, attributes, stores and devices were then; only consent has a log"]


async def test_a_condition_that_is_true_now_was_not_then(people: People, ask: Ask) -> None:
    await people.tag("acme", "user", "ada", ("vip",))
    answer = await ask("ada", {"condition": "tag:vip"})
    assert "is true of them now, and was not when it was accepted" in answer.why_not[0]

    await consent(people, "news", True, THEN + timedelta(hours=1))
    answer = await ask("ada", {"condition": "topic:news"}, id="m2", number=2)
    assert "topic:news is false" in answer.why_not[0]


async def test_who_is_not_there_or_came_later_is_told_so(directory: Directory, ask: Ask) -> None:
    directory.now = lambda: THEN + timedelta(hours=1)
    await directory.user_add("acme", "eve")
    later = await ask("eve", {"users": ["ada"]})
    assert later.why_not == ["eve was added at 2026-11-18 12:06:40, after it was accepted"]

    nobody = await ask("zoe", {"users": ["ada"]}, id="m2", number=2)
    assert nobody.why_not[0] == "acme has no user 'zoe' now"
    assert "who is removed leaves no record" in nobody.unknown[0]


async def test_who_had_opened_the_earlier_one_is_told_when(ask: Ask) -> None:
    earlier = {"id": "m0", "people": [{"name": "ada", "state": "delivered", "opened_at": AT - 1000}]}

    answer = await ask("ada", {"unopened": {"message": "m0", "for_s": 60}}, earlier=(earlier,))

    assert answer.why_not[-1].endswith("ada had opened it at 2026-11-18 11:06:39")


async def test_while_recipients_are_looked_for_nobody_knows(ask: Ask) -> None:
    answer = await ask("ada", {"users": ["ada"]}, state="filling")
    assert answer.why_not == ["its recipients are still being looked for: ask again in a moment"]


async def test_a_word_that_names_nobody_is_refused(ask: Ask) -> None:
    with pytest.raises(Refused, match="names nobody"):
        await ask("store/milano", {"users": ["ada"]})
