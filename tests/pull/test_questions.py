"""The lane: questions are decided upon, answered, and booked, each once."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.bridge.facts import Questioned
from broker.counters import Counters
from broker.errors import Failed, Refused
from broker.identity import Identity, Role
from broker.message import Message
from broker.pull import questions as module
from broker.pull.asking import Code, QuestionRefused
from broker.pull.question import (
    Answer,
    Asker,
    AskServer,
    Decided,
    Follow,
    HandOver,
    Option,
    OptOut,
    Shown,
    Unfollow,
)
from broker.pull.questions import Questions
from broker.store.conversations import Conversations, Opening, Place
from broker.store.messages import Messages
from broker.wire.packets import Properties
from broker.wire.publish import forwarded, properties_of

ADA = Identity(Role.DEVICE, brand="acme", name="kiosk-7", user="ada", store="milano")
BOB = Identity(Role.DEVICE, brand="acme", name="till-3", user="bob", store="roma")
KIOSK = Identity(Role.DEVICE, brand="acme", name="lobby", store="milano")


class Origin:
    """A session, as far as who it is matters."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity


class Lab:
    """A lane with real books; what is decided is said by `answers`, and what it does is noted."""

    def __init__(self, messages: Messages) -> None:
        self.store = Conversations(messages)
        self.counters = Counters()
        self.facts: list[Questioned] = []
        self.published: asyncio.Queue[Message] = asyncio.Queue()
        self.done: list[Any] = []
        self.people: set[tuple[str, str, str]] = set()
        self.bugs: list[Exception] = []
        self.batches: list[int] = []
        self.answers: dict[str, Decided | Exception] = {}
        self.gate = asyncio.Event()  # what the brand's server waits for
        self.servers_word = Decided(outcome="server", rule="route:search", shown=Shown(body="from the shop"))
        self.tasks: set[asyncio.Task[None]] = set()
        self.broken = ""
        self.number = 0
        self.questions = Questions(
            store=self.store, look=self.look, record=self.facts.append,
            publish=self.publish, spawn=self.spawn, persons=self, follows=self, servers=self, counters=self.counters,
            log=lambda *_, **__: None, unexpected=self.bugs.append,
        )  # fmt: skip

    # what the lane is given

    async def look(self, facts: Sequence[Questioned], at: int) -> list[tuple[Asker, Decided] | Exception]:
        await asyncio.sleep(0)
        if self.broken:
            raise ValueError(self.broken) if self.broken == "bug" else Failed(self.broken)
        self.batches.append(len(facts))
        return [self.decided(fact) for fact in facts]

    def decided(self, fact: Questioned) -> tuple[Asker, Decided] | Exception:
        asker = Asker(brand=fact.brand, device=fact.device, user=fact.user, store=fact.store, language="it")
        usual = Decided(
            outcome="answered", rule="search", shown=Shown(item="torta", title=fact.text.upper()), score=0.9
        )
        decided = self.answers.get(fact.text, usual)
        return decided if isinstance(decided, Exception) else (asker, decided)

    def publish(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.published.put_nowait(message)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def held(self, brand: str, kind: str, name: str) -> bool:
        return (brand, kind, name) in self.people

    async def hand_over(self, asker: Asker, why: str, question: str, *, booked: bool = False) -> str:
        await asyncio.sleep(0)
        self.people.add((asker.brand, asker.kind, asker.name))
        self.done.append(("hand_over", asker.name, why))
        return "Somebody comes."

    async def farewell(self, brand: str, kind: str, name: str) -> str:
        self.people.discard((brand, kind, name))
        return "bye"

    async def said(self, place: Place) -> None:
        self.done.append(("said", *place))

    async def follow(self, asker: Asker, item: str, every_s: int, source: str) -> None:
        if item == "too-much":
            raise Refused("more than 100 follows")
        self.done.append(("follow", asker.name, item, every_s, source))

    async def unfollow(self, asker: Asker, item: str) -> None:
        self.done.append(("unfollow", asker.name, item))

    async def opt_out(self, asker: Asker) -> None:
        self.done.append(("opt_out", asker.name))

    async def opt_in(self, asker: Asker) -> None:
        self.done.append(("opt_in", asker.name))

    async def ask(self, action: AskServer, question: str, asker: Asker, text: str) -> Decided:
        await self.gate.wait()
        self.done.append(("ask", action.route, text))
        return self.servers_word

    async def otherwise(self, route: str, asker: Asker) -> Decided:
        body = "non c'è nessuno" if asker.language == "it" else "nobody there"
        return Decided(outcome="nothing", rule=f"route:{route}", shown=Shown(body=body))

    # what a test does

    def say(self, payload: bytes | str, who: Identity = ADA, **properties: Any) -> None:
        body = payload.encode() if isinstance(payload, str) else payload
        topic = f"{who.brand}/device/{who.name}/up/ask".encode()
        message = Message(topic, body, 1, False, forwarded(Properties(**properties)))
        self.questions.heard(message, Origin(who))  # type: ignore[arg-type]

    async def answer(self) -> Answer:
        async with asyncio.timeout(5):
            message = await self.published.get()
        return msgspec.json.decode(message.payload, type=Answer)

    async def asked(self, payload: bytes | str, who: Identity = ADA, **properties: Any) -> Answer:
        self.say(payload, who, **properties)
        return await self.answer()

    async def book(self) -> None:
        facts, self.facts[:] = self.facts[:], []
        self.number += len(facts)
        async with asyncio.timeout(5):
            await self.questions.book(facts, self.number)

    async def rows(self, what: str = "text, outcome, rule, item") -> list[Any]:
        sql = f"""SELECT {what} FROM question q JOIN entry e ON (e.conversation, e.number) = (q.conversation, q.entry)
                  ORDER BY e.at, e.id"""
        return await self.store.messages.read(lambda db: db.execute(sql).fetchall())


@asynccontextmanager
async def laboratory(path: Path) -> AsyncIterator[Lab]:
    async with await Messages.open(path / "messages.db") as messages:
        lab = Lab(messages)
        running = asyncio.get_running_loop().create_task(lab.questions.run())
        try:
            yield lab
        finally:
            for task in [running, *lab.tasks]:
                task.cancel()
            await asyncio.gather(running, *lab.tasks, return_exceptions=True)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with laboratory(tmp_path) as lab:
        yield lab
        assert not lab.bugs


async def test_a_question_is_answered_where_its_device_says(lab: Lab) -> None:
    lab.say("torta?", response_topic="acme/device/kiosk-7/answers", correlation_data=b"7")
    message = await lab.published.get()
    answer = msgspec.json.decode(message.payload, type=Answer)
    assert (message.topic, message.qos) == (b"acme/device/kiosk-7/answers", 1)
    assert properties_of(message).correlation_data == b"7"
    assert message.expires_at > 0
    assert answer == Answer(question=lab.facts[0].id, kind="answer", text="TORTA?", title="TORTA?", item="torta")


async def test_a_question_is_a_fact_before_it_is_answered(lab: Lab) -> None:
    lab.say('{"text": "torta?", "locale": "it-IT"}')
    assert [(one.text, one.locale, one.user) for one in lab.facts] == [("torta?", "it-IT", "ada")]
    assert lab.published.empty()


async def test_it_is_booked_once_with_its_answer(lab: Lab) -> None:
    await lab.asked("torta?")
    facts = lab.facts[:]
    await lab.book()
    await lab.questions.book(facts, 1)
    assert await lab.rows() == [("torta?", "answered", "search", "torta")]
    ((answer, took_us),) = await lab.rows("answer, took_us")
    assert json_of(answer)["title"] == "TORTA?"
    assert took_us > 0


async def test_the_books_wait_for_what_is_not_decided_yet(lab: Lab) -> None:
    lab.say("torta?")
    await lab.book()
    assert len(await lab.rows()) == 1
    assert (await lab.answer()).kind == "answer"


async def test_after_a_crash_what_was_not_booked_is_answered_again_under_its_id(tmp_path: Path) -> None:
    async with laboratory(tmp_path) as lab:
        first = await lab.asked("torta?")
        await lab.asked("pane?")
        booked, unbooked = lab.facts
        await lab.questions.book([booked], 1)
    async with laboratory(tmp_path) as lab:
        await lab.questions.book([booked, unbooked], 2)
        again = await lab.answer()
        assert (again.question, again.title) == (unbooked.id, "PANE?")
        assert lab.published.empty()
        assert booked.id == first.question
        assert [row[0] for row in await lab.rows("text")] == ["torta?", "pane?"]


async def test_several_are_a_choice_and_words_for_a_plain_screen(lab: Lab) -> None:
    options = (Option(id="a", title="Torta"), Option(id="b", title="Tortelli"))
    lab.answers["tort"] = Decided(
        outcome="choice", rule="search", shown=Shown(body="Which of these?"), options=options, score=0.6
    )
    answer = await lab.asked("tort")
    assert (answer.kind, answer.choices, answer.text) == ("choice", options, "Which of these?\n1. Torta\n2. Tortelli")


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", Code.EMPTY),
        (b"  \n\x00 ", Code.EMPTY),
        (b'{"text": ""}', Code.EMPTY),
        (b"x" * (1 << 20), Code.TOO_LONG),
        (b"x" * 1001, Code.TOO_LONG),
        (b'{"text": 7}', Code.BAD_JSON),
        (b"{" * 5000, Code.BAD_JSON),
        (b"\xff\xfe", Code.BAD_JSON),
        (b'{"text": "torta", "locale": "it IT"}', Code.BAD_LOCALE),
    ],
)
async def test_what_is_no_question_is_refused_and_not_written(lab: Lab, payload: bytes, code: Code) -> None:
    answer = await lab.asked(payload)
    assert (answer.kind, answer.code) == ("refused", code)
    assert answer.message == answer.text != ""
    assert not lab.facts
    assert lab.counters.questions_refused == 1
    assert lab.questions.status() == {"waiting": 0, f"refused_{code}": 1}


@pytest.mark.parametrize(
    "topic",
    ["acme/device/other/answer", "acme/user/ada", "acme/device/kiosk-7/up/ask", "rival/x"],
)
async def test_an_answer_goes_to_nobody_else(lab: Lab, topic: str) -> None:
    lab.say("torta?", response_topic=topic)
    message = await lab.published.get()
    assert message.topic == b"acme/device/kiosk-7/answer"
    assert json_of(message.payload)["code"] == Code.BAD_TOPIC


async def test_control_characters_are_spaces(lab: Lab) -> None:
    await lab.asked(b"tor\x1b[31mta\x00?")
    assert lab.facts[0].text == "tor [31mta ?"


async def test_a_flood_of_one_device_is_refused_and_others_are_answered(lab: Lab) -> None:
    for _ in range(50):
        lab.say("torta?")
    codes = [(await lab.answer()).code for _ in range(50)]
    assert codes.count("") == len(lab.facts) == 20
    assert codes.count(Code.TOO_MANY) == 30
    assert (await lab.asked("torta?", BOB)).kind == "answer"


async def test_what_is_refused_does_not_wait_among_questions(lab: Lab) -> None:
    for _ in range(50):
        lab.say("torta?", correlation_data=b"x" * 60_000)
    assert lab.published.qsize() == 30
    assert lab.questions.status()["waiting"] == 20


async def test_nobody_waits_for_all_that_one_customer_asks_at_once(lab: Lab) -> None:
    for _ in range(20):
        lab.say("torta?")
    lab.say("torta?", BOB)
    topics = [(await lab.published.get()).topic for _ in range(2)]
    assert b"acme/device/till-3/answer" in topics
    assert lab.batches[0] == 2


async def test_a_brand_that_asks_much_holds_up_no_other(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUESTIONS_MAX", 100)
    for number in range(60):
        lab.say("torta?", Identity(Role.DEVICE, brand="acme", name=f"k{number}"))
    theirs = [Identity(Role.DEVICE, brand="rival", name=f"k{number}") for number in range(3)]
    for who in theirs:
        lab.say("torta?", who)
    first = [await lab.published.get() for _ in range(10 + 16)]
    refused, batch = first[:10], first[10:]
    assert all(msgspec.json.decode(one.payload, type=Answer).code == Code.BUSY for one in refused)
    assert [one.topic for one in batch[1:6:2]] == [f"rival/device/{who.name}/answer".encode() for who in theirs]
    assert [one.topic for one in batch[0:6:2]] == [f"acme/device/k{number}/answer".encode() for number in range(3)]
    assert lab.batches[0] == 16


async def test_who_talks_to_persons_keeps_nobody_from_their_turn(lab: Lab) -> None:
    devices = [Identity(Role.DEVICE, brand="acme", name=f"k{number}") for number in range(200)]
    lab.people.update(("acme", "device", who.name) for who in devices)
    for who in devices:
        lab.say("and at noon?", who)
    await lab.published.get()
    assert lab.questions.status()["waiting"] > 100


async def test_many_customers_are_looked_up_together(lab: Lab) -> None:
    devices = [Identity(Role.DEVICE, brand="acme", name=f"k{number}") for number in range(40)]
    for who in devices:
        lab.say("torta?", who)
    for _ in devices:
        await lab.answer()
    assert lab.batches == [16, 16, 8]


async def test_with_a_person_nothing_is_looked_up(lab: Lab) -> None:
    lab.people.add(("acme", "user", "ada"))
    answer = await lab.asked("and at noon?")
    assert (answer.kind, answer.text) == ("person", "")
    await lab.book()
    assert await lab.rows() == [("and at noon?", "person", "held", "")]
    assert lab.done == [("said", 1, 1)]
    assert lab.batches == []


async def test_who_says_so_to_a_person_has_closed_their_conversation(lab: Lab) -> None:
    lab.people.add(("acme", "user", "ada"))
    lab.say("good-bye")
    lab.say("Schließen!")
    lab.say("close")  # the automation has them again
    lab.answers["close"] = Decided(outcome="answered", rule="search", shown=Shown(body="We close at six."))
    answers = [await lab.answer() for _ in range(3)]
    assert [(one.kind, one.text) for one in answers] == [
        ("person", ""),
        ("answer", "bye"),
        ("answer", "We close at six."),
    ]
    await lab.book()
    sql = "SELECT state, closed_by, entries FROM conversation"
    rows = await lab.store.messages.read(lambda db: db.execute(sql).fetchall())
    assert rows == [("closed", "customer", 2), ("automated", "", 1)]
    assert lab.done == [("said", 1, 1), ("said", 1, 2)]


async def test_what_follows_a_hand_over_goes_to_the_person(lab: Lab) -> None:
    lab.answers["operator"] = Decided(outcome="person", rule="command:operator", action=HandOver("asked"))
    lab.say("operator")
    lab.say("my cake is broken")
    first, second = await lab.answer(), await lab.answer()
    assert (first.kind, first.text) == ("person", "Somebody comes.")
    assert (second.kind, second.text) == ("person", "")
    await lab.book()
    assert [row[:3] for row in await lab.rows()] == [
        ("operator", "person", "command:operator"), ("my cake is broken", "person", "held")
    ]  # fmt: skip
    assert lab.done == [("hand_over", "ada", "asked"), ("said", 1, 1), ("said", 1, 2)]


async def test_follows_are_kept_before_they_are_confirmed(lab: Lab) -> None:
    said = Shown(item="wipro", body="You follow Wipro.")
    lab.answers["follow wipro"] = Decided(
        outcome="command", rule="command:follow", shown=said, action=Follow("wipro", 60)
    )
    lab.answers["stop wipro"] = Decided(outcome="command", rule="command:stop", action=Unfollow("wipro"))
    lab.answers["stop"] = Decided(outcome="command", rule="command:stop", action=OptOut())
    for words in ("follow wipro", "stop wipro", "stop"):
        assert (await lab.asked(words, KIOSK)).kind == "answer"
    assert lab.done == [
        ("follow", "lobby", "wipro", 60, "device/lobby"), ("unfollow", "lobby", "wipro"), ("opt_out", "lobby")
    ]  # fmt: skip


async def test_what_cannot_be_done_is_said(lab: Lab) -> None:
    lab.answers["follow x"] = Decided(outcome="command", rule="command:follow", action=Follow("too-much"))
    answer = await lab.asked("follow x")
    assert (answer.kind, answer.code, answer.message) == ("refused", Code.UNABLE, "more than 100 follows")
    await lab.book()
    assert await lab.rows() == [("follow x", "nothing", "unable", "")]


async def test_an_unknown_choice_is_refused(lab: Lab) -> None:
    lab.answers["x"] = QuestionRefused(Code.UNKNOWN_CHOICE, "That was not offered.")
    assert (await lab.asked("x")).code == Code.UNKNOWN_CHOICE


async def test_a_bug_costs_one_question(lab: Lab) -> None:
    lab.answers["bug"] = ValueError("oh")
    lab.say("bug")
    lab.say("torta?", BOB)
    answers = {(one := await lab.answer()).kind: one for _ in range(2)}
    assert answers["refused"].code == Code.INTERNAL_ERROR
    assert answers["answer"].title == "TORTA?"
    assert [str(bug) for bug in lab.bugs] == ["oh"]
    lab.bugs.clear()


async def test_while_the_library_cannot_be_read_that_is_said(lab: Lab) -> None:
    lab.broken = "the disk failed"
    assert (await lab.asked("torta?")).code == Code.UNABLE
    lab.broken = ""
    assert (await lab.asked("torta?")).kind == "answer"


async def test_a_bug_in_looking_up_costs_one_batch(lab: Lab) -> None:
    lab.broken = "bug"
    assert (await lab.asked("torta?")).code == Code.INTERNAL_ERROR
    lab.broken = ""
    assert (await lab.asked("torta?")).kind == "answer"
    await lab.book()
    assert [str(bug) for bug in lab.bugs] == ["bug"]
    lab.bugs.clear()


async def test_the_brands_server_holds_nobody_up(lab: Lab) -> None:
    lab.answers["find me"] = Decided(outcome="asking", rule="route:search", action=AskServer("search"))
    lab.say("find me", correlation_data=b"1")
    assert (await lab.asked("torta?")).title == "TORTA?"
    await lab.book()
    assert [row[1] for row in await lab.rows()] == ["asking", "answered"]
    lab.gate.set()
    answer = await lab.answer()
    assert (answer.kind, answer.by, answer.text) == ("answer", "server", "from the shop")
    while lab.tasks:
        await asyncio.wait(lab.tasks)
    assert next(row[:3] for row in await lab.rows()) == ("find me", "server", "route:search")


async def test_what_the_brands_server_said_is_written_down_once_the_disk_lets_us(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    lab.answers["find me"] = Decided(outcome="asking", rule="route:search", action=AskServer("search"))
    lab.say("find me")
    await lab.book()
    failures = iter([Failed("the disk is full"), Failed("the disk is full")])
    write = lab.store.answered

    async def answered(*what: Any) -> Place | None:
        for error in failures:
            raise error
        return await write(*what)

    monkeypatch.setattr(lab.store, "answered", answered)
    lab.gate.set()
    assert (await lab.answer()).text == "from the shop"
    while lab.tasks:
        await asyncio.gather(*lab.tasks)
    assert [row[1] for row in await lab.rows()] == ["server"]


async def test_a_server_that_answers_at_once_is_booked_with_its_answer(lab: Lab) -> None:
    lab.gate.set()
    lab.answers["find me"] = Decided(outcome="asking", rule="route:search", action=AskServer("search"))
    await lab.asked("find me")
    await lab.book()
    assert [row[1] for row in await lab.rows()] == ["server"]


async def test_the_brands_server_may_hand_over(lab: Lab) -> None:
    lab.gate.set()
    lab.servers_word = Decided(outcome="person", rule="route:search", action=HandOver("server"))
    lab.answers["find me"] = Decided(outcome="asking", rule="route:search", action=AskServer("search"))
    assert (await lab.asked("find me")).text == "Somebody comes."
    assert lab.done[-1] == ("hand_over", "ada", "server")


async def test_after_a_crash_nobody_waits_for_the_brands_server(tmp_path: Path) -> None:
    async with laboratory(tmp_path) as lab:
        lab.answers["find me"] = Decided(outcome="asking", rule="route:search", action=AskServer("search"))
        lab.say("find me", correlation_data=b"1")
        await lab.book()
    async with laboratory(tmp_path) as lab:
        await lab.questions.resume()
        message = await lab.published.get()
        assert properties_of(message).correlation_data == b"1"
        assert json_of(message.payload)["text"] == "non c'è nessuno"
        while lab.tasks:
            await asyncio.wait(lab.tasks)
        assert await lab.rows("text, outcome") == [("find me", "nothing")]
        assert await lab.store.asking() == []


async def test_what_was_handed_over_at_a_crash_is_told_so(tmp_path: Path) -> None:
    async with laboratory(tmp_path) as lab:
        lab.answers["find me"] = Decided(outcome="asking", rule="route:search", action=AskServer("search"))
        lab.say("find me")
        (asked,) = lab.facts
        await lab.book()
        opening = Opening("c9", "acme", "user", "ada", "milano", "it", asked.at)
        await lab.store.hand_over(opening, lambda _: {"state": "waiting", "handed_by": asked.id})
    async with laboratory(tmp_path) as lab:
        await lab.questions.resume()
        answer = await lab.answer()
        assert (answer.kind, answer.text) == ("person", "Somebody comes.")
        while lab.tasks:
            await asyncio.wait(lab.tasks)
        assert await lab.rows("text, outcome") == [("find me", "person")]
        assert lab.done == [("hand_over", "ada", "server"), ("said", 1, 1)]


def json_of(text: str | bytes) -> Any:
    return msgspec.json.decode(text)
