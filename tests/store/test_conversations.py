"""Questions in the books."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.store.conversations import CLOSING, Asked, Conversations, NewEntry, Opening, Place, changed
from broker.store.messages import Messages

AT = 1_795_000_000_000


@pytest.fixture
async def conversations(tmp_path: Path) -> AsyncIterator[Conversations]:
    async with await Messages.open(tmp_path / "messages.db") as messages:
        yield Conversations(messages)


def asked(number: int, **given: Any) -> Asked:
    usual: dict[str, Any] = {
        "id": f"q{number}", "conversation": f"c{number}", "brand": "acme", "kind": "user", "name": "ada",
        "device": "kiosk",
        "store": "milano", "language": "it", "at": AT + number, "text": "torta?", "folded": "tort",
        "outcome": "answered", "rule": "search", "item": "torta", "score": 0.9, "answer": "{}", "took_us": 900,
    }  # fmt: skip
    return Asked(**(usual | given))


async def rows(conversations: Conversations, sql: str) -> list[Any]:
    return await conversations.messages.read(lambda db: db.execute(sql).fetchall())


async def test_questions_of_one_person_are_one_conversation(conversations: Conversations) -> None:
    places = await conversations.book([asked(1), asked(2, store="roma"), asked(3, name="bob")], 7)
    assert places == {"q1": Place(1, 1), "q2": Place(1, 2), "q3": Place(2, 1)}
    said = "SELECT id, name, store, state, entries, opened_at, changed_at FROM conversation"
    assert await rows(conversations, said) == [
        ("c1", "ada", "roma", "automated", 2, AT + 1, AT + 2),
        ("c3", "bob", "milano", "automated", 1, AT + 3, AT + 3),
    ]
    assert await conversations.messages.applied() == 7


async def test_a_question_that_comes_again_stands_once(conversations: Conversations) -> None:
    await conversations.book([asked(1)], 1)
    assert await conversations.book([asked(1), asked(2)], 2) == {"q2": Place(1, 2)}
    assert await conversations.known(["q1", "q2", "q3"]) == {"q1", "q2"}
    assert await rows(conversations, "SELECT count(*) FROM question") == [(2,)]


async def test_after_the_last_one_was_closed_a_new_conversation_begins(conversations: Conversations) -> None:
    await conversations.book([asked(1)], 1)
    close = "UPDATE conversation SET state = 'closed'"
    await conversations.messages.write(lambda db: db.execute(close))
    assert await conversations.book([asked(2)], 2) == {"q2": Place(2, 1)}


async def test_what_the_brands_server_was_asked_is_answered_once(conversations: Conversations) -> None:
    one = asked(1, outcome="asking", answer='{"reply_topic":"x"}', took_us=None)
    await conversations.book([one, asked(2)], 1)
    assert await conversations.asking() == [one]
    assert await conversations.answered("q1", "server", "{}", 5000, "route:search")
    assert not await conversations.answered("q1", "nothing", "{}", 6000, "late")
    assert await conversations.asking() == []
    told = "SELECT outcome, took_us, rule FROM question WHERE entry = 1"
    assert await rows(conversations, told) == [("server", 5000, "route:search")]


OPENING = Opening("c9", "acme", "user", "ada", "milano", "it", AT)


async def test_a_hand_over_opens_a_conversation_or_changes_the_open_one(conversations: Conversations) -> None:
    waiting = {"state": "waiting", "waiting_since": AT}
    opened = await conversations.hand_over(OPENING, lambda _: waiting)
    assert (opened.id, opened.state, opened.entries) == ("c9", "waiting", 0)
    again = await conversations.hand_over(OPENING._replace(id="c10"), lambda _: {})
    assert again == opened
    assert await conversations.held() == [opened]
    await conversations.book([asked(1)], 1)
    assert await conversations.by_id("acme", "c9") == await conversations.of("acme", "user", "ada")
    assert await conversations.by_id("rival", "c9") is None


async def test_an_entry_is_written_once_and_the_change_is_made_once(conversations: Conversations) -> None:
    await conversations.book([asked(1, outcome="person")], 1)
    reply = NewEntry("m1", AT + 5, "agent", "mia", "Ciao!")
    taken = {"state": "agent", "agent": "mia"}
    number = await conversations.reserve(1, "m1")
    for _ in range(2):
        row, place = await conversations.messages.write(lambda db: changed(db, 1, lambda _: taken, reply, number))
        assert (row.state, row.last, place) == ("agent", "Ciao!", 2)
        assert await conversations.reserve(1, "m1") == 2
    assert await conversations.change(1, lambda _: {"agent": "leo"}, reply) == (row, 2)
    assert await rows(conversations, "SELECT person_at FROM question") == [(AT + 5,)]


async def test_what_may_not_be_changed_leaves_no_trace(conversations: Conversations) -> None:
    await conversations.book([asked(1)], 1)

    def refuse(_: object) -> dict[str, object]:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await conversations.change(1, refuse, NewEntry("n1", AT, "note", "mia", "x"))
    assert len(await conversations.entries(1, most=10)) == 1


async def test_unread_is_what_the_customer_said_since(conversations: Conversations) -> None:
    await conversations.book([asked(1), asked(2)], 1)
    row, _ = await conversations.change(1, lambda row: {"read_by_agent": row.entries})
    assert row.unread == 0
    await conversations.book([asked(3, text="x" * 500)], 2)
    (row,) = await conversations.listed("acme", states=["automated"], store="milano", agent="", most=5)
    assert (row.unread, row.last) == (1, "x" * 120)


async def test_history_comes_in_pages_without_notes(conversations: Conversations) -> None:
    await conversations.book([asked(number) for number in range(1, 6)], 1)
    await conversations.change(1, lambda _: {}, NewEntry("n1", AT, "note", "mia", "rude"))
    assert [one.number for one in await conversations.entries(1, most=2)] == [5, 6]
    assert [one.number for one in await conversations.entries(1, most=2, notes=False)] == [4, 5]
    assert [one.number for one in await conversations.entries(1, before=3, most=2)] == [1, 2]
    entry = await conversations.entry(Place(1, 6))
    assert entry is not None
    assert (entry.author, entry.answer) == ("note", None)


async def test_lists_go_on_behind_a_conversation(conversations: Conversations) -> None:
    await conversations.book([asked(number, name=f"u{number}") for number in range(1, 5)], 1)
    assert [one.id for one in await conversations.listed("acme", before="c3", most=1)] == ["c2"]
    assert await conversations.listed("rival", most=9) == []


async def test_lists_do_not_say_what_others_have(conversations: Conversations) -> None:
    await conversations.book([asked(1), asked(2, brand="rival")], 1)
    assert await conversations.listed("acme", before="c2", most=9) == []  # as behind what there is not


async def test_only_silent_ones_of_the_automation_are_closed(conversations: Conversations) -> None:
    await conversations.book([asked(1), asked(2, name="bob"), asked(900, name="cyd")], 1)
    await conversations.change(2, lambda _: {"state": "agent"})
    assert await conversations.close_idle("acme", AT + 100, AT + 2000, 10) == 1
    assert await rows(conversations, "SELECT id, state FROM conversation") == [
        ("c1", "closed"),
        ("c2", "agent"),
        ("c900", "automated"),
    ]


async def test_only_who_asked_rates_an_answer(conversations: Conversations) -> None:
    await conversations.book([asked(1)], 1)
    assert not await conversations.rate("acme", "user", "bob", "q1", 1)
    assert await conversations.rate("acme", "user", "ada", "q1", -1)
    assert (await conversations.entries(1, most=1))[0].thumb == -1


async def test_all_of_a_brand_is_forgotten(conversations: Conversations) -> None:
    await conversations.book([asked(1), asked(2, brand="rival")], 1)
    await conversations.forget("acme")
    assert await rows(conversations, "SELECT brand FROM conversation") == [("rival",)]
    assert await rows(conversations, "SELECT brand FROM question") == [("rival",)]


async def test_the_nearest_item_is_kept_where_none_was_good_enough(conversations: Conversations) -> None:
    await conversations.book([asked(1, outcome="nothing", item="", score=0.2, nearest="torta")], 1)
    assert await rows(conversations, "SELECT score, nearest FROM question") == [(0.2, "torta")]


async def test_who_is_not_looked_up_keeps_their_language(conversations: Conversations) -> None:
    await conversations.book([asked(1), asked(2, language="")], 1)
    await conversations.hand_over(OPENING._replace(language=""), lambda _: {})
    row = await conversations.numbered(1)
    assert row is not None
    assert row.language == "it"


async def test_what_ends_a_conversation_is_its_last_word(conversations: Conversations) -> None:
    closing = asked(2, rule=CLOSING, outcome="command")
    for _ in range(2):
        places = await conversations.book([asked(1), closing, asked(3), asked(4, name="bob")], 1)
    assert places == {}
    sql = "SELECT id, state, entries, closed_by FROM conversation"
    assert await rows(conversations, sql) == [
        ("c1", "closed", 2, "customer"),
        ("c3", "automated", 1, ""),
        ("c4", "automated", 1, ""),
    ]
