"""Questions in the books."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.store.conversations import Asked, Conversations, Place
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
