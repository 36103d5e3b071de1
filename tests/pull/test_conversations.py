"""From the automation to a person and back: with real books, a real broker, and devices that are plain MQTT clients."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.live import device, populate, running, server
from support.mqtt import Client

from broker import limits
from broker.admin.operations import Context, stream
from broker.app import Broker
from broker.bridge.intake import now_ms
from broker.errors import NotFound, Refused
from broker.pull import inbox_requests as requests
from broker.pull.conversations import Inbox
from broker.pull.moves import InboxRefused
from broker.pull.question import Asker
from broker.pull.rules import Inbox as InboxRules
from broker.pull.rules import Rules, Wording
from broker.pull.ways import Ways
from broker.store.conversations import Asked
from broker.store.entries import Who
from broker.wire.packets import Properties

NOBODY: dict[str, list[str]] = {"sun": ["03:00-03:01"]}
ADA = Asker(brand="acme", device="kiosk-7", user="ada", store="milano", language="it", title="Ada L.")
BOB = Asker(brand="acme", device="till-3", user="bob", store="roma")


class Lab:
    """A running broker's inbox."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.inbox = broker.pull.inbox
        self.store = self.inbox.store
        self.watch = self.inbox.watch("acme")
        self._asked = 0

    async def rule(self, rules: Rules) -> None:
        """These are acme's from now on."""
        await self.broker.pull.content.set_rules("acme", json.dumps(msgspec.to_builtins(rules)))

    async def ask(
        self, asker: Asker, text: str = "un operatore, per favore", outcome: str = "person", *, held: bool = False
    ) -> str:
        """What the lane does with a question that is for a person: hands over, and books it.

        held: they were with a person when the lane looked.
        """
        self._asked += 1
        id = f"q{self._asked}"
        held = held or self.inbox.held(asker.brand, asker.kind, asker.name)
        words = "" if held or outcome != "person" else await self.inbox.hand_over(asker, "asked", id)
        asked = Asked(
            id=id, conversation=f"c{id}", brand=asker.brand, kind=asker.kind, name=asker.name, device=asker.device,
            store=asker.store, language=asker.language, at=now_ms(), text=text, folded=text, outcome=outcome,
            rule="command:operator", item="", score=0.0, answer=json.dumps({"text": words}), took_us=1,
        )  # fmt: skip
        places = await self.store.book([asked], 0)
        if outcome == "person":
            await self.inbox.said(places[id])
        return words

    async def id_of(self, asker: Asker) -> str:
        row = await self.store.of(asker.brand, asker.kind, asker.name)
        assert row is not None
        return row.id

    async def do(self, do: str, who: Asker = ADA, **more: Any) -> dict[str, Any]:
        """What agent mia does with somebody's conversation."""
        fields = {"do": do, "conversation": await self.id_of(who), "agent": "mia", **more}
        fields = {name: value for name, value in fields.items() if value is not None}
        return await self.inbox.do("acme", requests.parse(json.dumps(fields).encode()))

    async def event(self, name: str) -> dict[str, Any]:
        """The next event of that name."""
        async with asyncio.timeout(10):
            while (event := await self.watch.next())["event"] != name:
                pass
        return event

    async def state(self, who: Asker) -> tuple[str, str]:
        row = await self.store.of(who.brand, who.kind, who.name)
        assert row is not None
        return row.state, row.agent


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        yield Lab(broker)


@pytest.fixture
async def mia(lab: Lab) -> Lab:
    """With an agent, who is there."""
    await lab.inbox.staff.add("acme", "mia", "Mia R.")
    return lab


async def listening(broker: Broker, name: str, *filters: str) -> Client:
    kiosk = await device(broker, name)
    await kiosk.subscribe(*filters, qos=1)
    return kiosk


async def got(client: Client) -> Any:
    return json.loads((await client.expect_message()).payload)


# -- handing over ------------------------------------------------------------------------------------------------------


async def test_who_wants_a_person_waits_and_is_told_so_once(lab: Lab) -> None:
    assert await lab.ask(ADA) == "Ti risponderà qui una persona."
    assert lab.inbox.held("acme", "user", "ada")
    assert not lab.inbox.held("rival", "user", "ada")
    waiting = await lab.event("waiting")
    assert (waiting["conversation"]["with"], waiting["conversation"]["why"]) == ("user/ada", "asked")
    assert await lab.ask(ADA, "pronto?") == ""
    said = await lab.event("said")
    assert (said["entry"]["text"], said["by"]) == ("un operatore, per favore", "customer")
    assert (await lab.event("said"))["conversation"]["unread"] == 2


async def test_out_of_hours_that_is_said_instead_with_when_they_are_back(lab: Lab) -> None:
    await lab.rule(Rules(hours=NOBODY))
    assert await lab.ask(ADA) == "Ora non c'è nessuno. Rispondiamo qui appena torniamo: domenica 03:00."
    assert await lab.ask(ADA, "pronto?") == ""
    assert await lab.state(ADA) == ("waiting", "")


def test_when_they_are_back_is_said_as_people_say_it() -> None:
    ways = Ways(Rules(hours={"mon-fri": ["09:00-18:00"]}, time_zone="Europe/Rome", language="de"))
    early, late = datetime(2026, 11, 23, 6, 0, tzinfo=UTC), datetime(2026, 11, 20, 20, 0, tzinfo=UTC)
    assert ways.handed_over(BOB, early).endswith("zurück sind: 09:00.")
    assert ways.handed_over(BOB, late).endswith("zurück sind: Montag 09:00.")
    assert ways.handed_over(BOB, datetime(2026, 11, 23, 12, 0, tzinfo=UTC)) == "Hier antwortet dir gleich jemand."


async def test_the_same_question_after_a_crash_hands_over_once_and_is_told_the_same(lab: Lab) -> None:
    words = await lab.inbox.hand_over(ADA, "asked", "q1")
    after = await opened_again(lab)  # the question was not booked
    assert not after.held("acme", "user", "ada")
    assert await after.hand_over(ADA, "asked", "q1") == words
    assert after.held("acme", "user", "ada")
    assert len(await lab.store.held()) == 1
    await lab.ask(ADA)
    assert (await opened_again(lab)).held("acme", "user", "ada")


async def opened_again(lab: Lab) -> Inbox:
    """The inbox as another process would find it."""
    broker = lab.broker
    inbox = Inbox(
        core=broker.core,
        bridge=broker.bridge,
        store=lab.store,
        ways=broker.pull._ways,
        run=broker.reactor.run,
        log=broker._log,
    )
    await inbox.open()
    return inbox


async def test_more_than_may_wait_are_told_that_there_is_nobody(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INBOX_OPEN_MAX", 1)
    await lab.rule(Rules(texts=Wording(nothing={"": "busy"})))
    await lab.ask(BOB)
    assert await lab.inbox.hand_over(ADA, "asked", "q9") == "busy"
    assert not lab.inbox.held("acme", "user", "ada")
    assert lab.broker.core.counters.inbox_full == 1
    assert await lab.inbox.hand_over(BOB, "asked", "q10") == ""


# -- agents ------------------------------------------------------------------------------------------------------------


async def test_from_waiting_to_a_reply_and_back_to_the_automation(mia: Lab) -> None:
    kiosk = await listening(
        mia.broker, "kiosk-7", "acme/user/ada", "acme/device/kiosk-7/conversation"
    )  # fmt: skip
    await mia.ask(ADA)
    assert (await got(kiosk))["state"] == "waiting"
    assert await mia.state(ADA) == ("waiting", "mia")
    assert (await mia.do("take"))["conversation"]["state"] == "agent"
    state = await got(kiosk)
    assert (state["event"], state["state"], state["agent"]) == ("state", "agent", "Mia R.")
    replied = await mia.do("reply", text="Ciao Ada!")
    shown = json.loads((await kiosk.expect_message()).payload)
    assert (shown["title"], shown["body"]) == ("Mia R.", "Ciao Ada!")
    assert shown["data"] == {
        "conversation": replied["conversation"]["id"],
        "entry": replied["entry"]["number"],
        "agent": "mia",
    }
    receipt = json.dumps({"message_id": replied["entry"]["message"], "event": "displayed"})
    await kiosk.publish("acme/device/kiosk-7/up/receipt", receipt.encode())
    await entry_with(mia, "displayed_at")
    assert (await mia.do("hand_back"))["conversation"]["state"] == "automated"
    assert not mia.inbox.held("acme", "user", "ada")
    history = (await mia.do("show", agent=None))["conversation"]
    assert [(one["author"], one["text"]) for one in history["entries"]] == [
        ("customer", "un operatore, per favore"),
        ("system", "taken"),
        ("agent", "Ciao Ada!"),
        ("system", "handed back"),
    ]
    assert history["entries"][0]["answer"] == {"text": "Ti risponderà qui una persona."}
    assert history["title"] == ""  # ada has none in the records


async def entry_with(lab: Lab, field: str) -> dict[str, Any]:
    """The reply, once this is in the books of it."""
    async with asyncio.timeout(10):
        while True:
            entries = (await lab.do("show", agent=None))["conversation"]["entries"]
            if found := [one for one in entries if one["author"] == "agent" and one[field]]:
                return dict(found[0])
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("do", ["close", "hand_back"])
async def test_what_was_on_its_way_to_a_person_who_let_go_waits_for_one(mia: Lab, do: str) -> None:
    await mia.ask(ADA)
    await mia.do("take")
    await mia.do(do)
    await mia.ask(ADA, "one more thing", held=True)
    assert mia.inbox.held("acme", "user", "ada")
    assert await mia.state(ADA) == ("waiting", "mia")
    entries = (await mia.do("show", agent=None))["conversation"]["entries"]
    assert entries[-1]["text"] == "one more thing"
    assert (await opened_again(mia)).held("acme", "user", "ada")


async def test_a_reply_takes_what_nobody_has_and_is_read_by_then(mia: Lab) -> None:
    await mia.ask(ADA)
    await mia.ask(ADA, "pronto?")
    replied = (await mia.do("reply", text="Eccomi"))["conversation"]
    assert (replied["state"], replied["agent"], replied["unread"]) == ("agent", "mia", 0)
    assert replied["waiting_since"] is None
    assert replied["replied_at"]
    await mia.ask(ADA, "grazie")
    assert (await mia.do("show", agent=None))["conversation"]["waiting_since"]


async def test_a_reply_that_comes_again_is_sent_once(mia: Lab) -> None:
    await mia.ask(ADA)
    request = requests.Reply(conversation=await mia.id_of(ADA), agent="mia", text="Ciao")
    first = await mia.inbox.do("acme", request, "m77")
    await mia.do("close")
    again = await mia.inbox.do("acme", request, "m77")
    assert again["entry"]["number"] == first["entry"]["number"]
    assert again["entry"]["message"] == "m77"
    row = await mia.broker.bridge.messages.by_id("m77")
    assert row is not None
    assert (row.kind, row.sender, row.recipients) == ("transactional", "acme/agent/mia", 1)
    sql = "SELECT count(*) FROM message"
    assert await mia.broker.bridge.messages.read(lambda db: db.execute(sql).fetchone()) == (1,)


async def test_a_reply_that_may_not_be_leaves_nothing(mia: Lab) -> None:
    await mia.inbox.staff.add("acme", "leo")
    await mia.ask(ADA)
    await mia.do("take")
    with pytest.raises(InboxRefused, match="mia has the conversation"):
        await mia.do("reply", agent="leo", text="Ciao")
    entries = (await mia.do("show", agent=None))["conversation"]["entries"]
    assert [one["author"] for one in entries] == ["customer", "system"]
    sql = "SELECT count(*) FROM message"
    assert await mia.broker.bridge.messages.read(lambda db: db.execute(sql).fetchone()) == (0,)


async def test_entry_and_message_of_a_reply_are_there_together_or_not_at_all(
    mia: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mia.ask(ADA)
    reserve = mia.store.reserve

    async def meanwhile(conversation: int, id: str) -> int:
        await mia.inbox.end(Who("acme", "user", "ada"), now_ms())
        return await reserve(conversation, id)

    monkeypatch.setattr(mia.store, "reserve", meanwhile)
    with pytest.raises(InboxRefused, match="is closed"):
        await mia.do("reply", text="Ciao")
    sql = "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM entry WHERE author = 'agent')"
    assert await mia.broker.bridge.messages.read(lambda db: db.execute(sql).fetchone()) == (0, 0)


async def test_a_reply_outlives_the_broker_and_comes_once(tmp_path: Path) -> None:
    lasting: dict[str, Any] = {"clean_start": False, "properties": Properties(session_expiry=3600)}
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        lab = Lab(broker)
        await lab.inbox.staff.add("acme", "mia")
        kiosk = await device(broker, "kiosk-7", **lasting)
        await kiosk.subscribe("acme/user/ada", qos=1)
        await kiosk.close()
        await lab.ask(ADA)
        id = (await lab.do("reply", text="Ciao"))["entry"]["id"]
    async with running(tmp_path / "data") as broker:
        lab = Lab(broker)
        kiosk = await device(broker, "kiosk-7", **lasting)
        assert (await got(kiosk))["body"] == "Ciao"
        assert (await entry_with(lab, "delivered_at"))["message"] == id
        await kiosk.silent()


async def test_a_reply_that_is_ready_is_filled_in(mia: Lab) -> None:
    staff = mia.inbox.staff
    await staff.canned_set("acme", "ciao", "Ciao {{ user.title }}, sono {{ data.agent }}. {{ user.attributes.city }}")
    await staff.canned_set("acme", "ciao", "Hallo", "de")
    await mia.broker.bridge.people.set("acme", "user", "ada", {"city": "Milano"})
    await mia.broker.directory.user_add("acme", "eve", "Eve")
    await mia.ask(ADA)
    assert (await mia.do("reply", canned="ciao"))["entry"]["text"] == "Ciao , sono Mia R.. Milano"
    with pytest.raises(InboxRefused, match="no reply 'addio'"):
        await mia.do("reply", canned="addio")
    with pytest.raises(Refused, match="line 1"):
        await staff.canned_set("acme", "bad", "{{ user.title() }}")
    assert await staff.canned_remove("acme", "ciao", "de") == 1


@pytest.mark.parametrize(
    ("do", "more", "code", "field"),
    [
        ("take", {"agent": "leo"}, "unknown_agent", "agent"),
        ("take", {"conversation": "c404"}, "unknown_conversation", "conversation"),
        ("reply", {}, "empty", "text"),
        ("reply", {"text": "a", "canned": "b"}, "empty", "text"),
        ("note", {"text": " "}, "empty", "text"),
        ("assign", {"to": "leo"}, "unknown_agent", "to"),
        ("dance", {}, "bad_value", "do"),
        ("take", {"colour": "red"}, "bad_value", "colour"),
        ("note", {}, "bad_value", "text"),
        ("reply", {"text": "x" * 5000}, "bad_value", "text"),
    ],
)
async def test_what_agents_cannot_do_is_refused(mia: Lab, do: str, more: dict[str, Any], code: str, field: str) -> None:
    await mia.ask(ADA)
    with pytest.raises(InboxRefused) as refused:
        await mia.do(do, **more)
    assert (refused.value.code, refused.value.field) == (code, field)


async def test_notes_stay_among_agents(mia: Lab) -> None:
    kiosk = await listening(mia.broker, "kiosk-7", "acme/device/kiosk-7/answer", "acme/user/ada")
    await mia.ask(ADA)
    await mia.do("note", text="parla piano")
    assert (await mia.event("noted"))["entry"]["text"] == "parla piano"
    await kiosk.publish("acme/device/kiosk-7/up/history", b"")
    history = await got(kiosk)
    assert [one["text"] for one in history["entries"]] == ["un operatore, per favore"]


async def test_assigned_to_another_it_waits_for_them(mia: Lab) -> None:
    await mia.inbox.staff.add("acme", "leo")
    await mia.ask(ADA)
    await mia.do("take")
    await mia.do("assign", to="leo")
    assert await mia.state(ADA) == ("waiting", "leo")
    await mia.inbox.staff.set("acme", "leo", away=True)
    assert await mia.state(ADA) == ("waiting", "mia")
    with pytest.raises(InboxRefused, match="leo is away"):
        await mia.do("assign", to="leo")


async def test_who_waits_is_given_to_who_has_room_and_who_is_there(lab: Lab) -> None:
    await lab.rule(Rules(inbox=InboxRules(most=1)))
    await lab.ask(ADA)
    await lab.ask(BOB)
    assert await lab.state(ADA) == ("waiting", "")
    staff = lab.inbox.staff
    assert (await staff.add("acme", "mia")).most == 1
    assert (await lab.event("assigned"))["conversation"]["agent"] == "mia"
    assert [await lab.state(who) for who in (ADA, BOB)] == [("waiting", "mia"), ("waiting", "")]
    await staff.add("acme", "leo", stores=("roma",))
    assert await lab.state(BOB) == ("waiting", "leo")
    await staff.set("acme", "leo", away=True)
    await lab.do("close")  # mia has room again
    assert await lab.state(BOB) == ("waiting", "mia")
    await lab.do("take", BOB)
    await staff.remove("acme", "mia")
    assert await lab.state(BOB) == ("waiting", "")
    with pytest.raises(NotFound, match="no agent 'mia'"):
        await staff.remove("acme", "mia")


async def test_what_an_agent_takes_meanwhile_is_given_to_nobody_else(mia: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await mia.inbox.staff.set("acme", "mia", away=True)
    await mia.ask(ADA)
    given = mia.inbox.staff.given
    taking: list[asyncio.Task[Any]] = []

    async def meanwhile(*who: Any) -> None:
        taking.append(asyncio.create_task(mia.do("take")))
        await mia.event("taken")
        await given(*who)

    monkeypatch.setattr(mia.inbox.staff, "given", meanwhile)
    await mia.inbox.staff.add("acme", "leo")
    await taking[0]
    assert await mia.state(ADA) == ("agent", "mia")


@pytest.mark.parametrize("do", ["take", "reply", "assign"])
async def test_who_is_removed_meanwhile_gets_nothing(mia: Lab, monkeypatch: pytest.MonkeyPatch, do: str) -> None:
    await mia.inbox.staff.add("acme", "leo")
    await mia.ask(ADA)
    call = mia.store.messages.write

    async def meanwhile(*given: Any) -> Any:
        monkeypatch.undo()
        await mia.inbox.staff.remove("acme", "leo")
        return await call(*given)

    monkeypatch.setattr(mia.store.messages, "write", meanwhile)
    with pytest.raises(InboxRefused, match="no agent 'leo'"):
        await mia.do(
            do, **({"to": "leo"} if do == "assign" else {"agent": "leo"}), text="Ciao" if do == "reply" else None
        )
    assert await mia.state(ADA) == ("waiting", "mia")


async def test_who_waits_for_an_agent_who_is_removed_just_then_waits_for_another(
    mia: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing: list[asyncio.Task[None]] = []
    hand_over = mia.store.hand_over

    async def meanwhile(*given: Any) -> Any:
        removing.append(asyncio.create_task(mia.inbox.staff.remove("acme", "mia")))
        while mia.inbox.staff.of("acme"):  # noqa: ASYNC110 - it goes on until it would look who has what
            await asyncio.sleep(0)
        return await hand_over(*given)

    monkeypatch.setattr(mia.store, "hand_over", meanwhile)
    await mia.ask(ADA)
    await removing[0]
    assert await mia.state(ADA) == ("waiting", "")
    assert [one.name for one in await mia.inbox.staff.tables.all()] == []


async def test_who_goes_away_while_one_is_given_to_them_is_away(mia: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over = mia.store.hand_over

    async def meanwhile(*given: Any) -> Any:
        going.append(asyncio.create_task(mia.inbox.staff.set("acme", "mia", away=True)))
        while not mia.inbox.staff.one("acme", "mia").away:  # noqa: ASYNC110 - it goes on until it would look who has what
            await asyncio.sleep(0)
        return await hand_over(*given)

    going: list[asyncio.Task[Any]] = []
    monkeypatch.setattr(mia.store, "hand_over", meanwhile)
    await mia.ask(ADA)
    await going[0]
    assert mia.inbox.staff.one("acme", "mia").away
    assert await mia.state(ADA) == ("waiting", "")


async def test_what_is_closed_while_an_agent_is_told_of_it_is_closed(mia: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await mia.ask(ADA)
    read = mia.store.entry

    async def meanwhile(place: Any) -> Any:
        found = await read(place)
        monkeypatch.undo()
        await mia.do("close")
        return found

    monkeypatch.setattr(mia.store, "entry", meanwhile)
    await mia.ask(ADA, "pronto?")
    assert not mia.inbox.held("acme", "user", "ada")


async def test_without_round_robin_nobody_is_given_one(mia: Lab) -> None:
    await mia.rule(Rules(inbox=InboxRules(assign="none")))
    await mia.ask(ADA)
    assert await mia.state(ADA) == ("waiting", "")


@pytest.mark.parametrize(
    "wrong",
    [{"title": "x" * 65}, {"most": 0}, {"stores": ("nowhere",)}, {"tags": ("a b",)}, {"tags": ("t",) * 101}],
)
async def test_an_agent_that_cannot_be_is_refused(mia: Lab, wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        await mia.inbox.staff.set("acme", "mia", **wrong)
    with pytest.raises(Refused, match="already"):
        await mia.inbox.staff.add("acme", "mia")


# -- time --------------------------------------------------------------------------------------------------------------


async def test_agents_are_reminded_once_while_somebody_waits(mia: Lab) -> None:
    await mia.ask(ADA)
    late = now_ms() + 301_000
    await mia.inbox.remind(late - 300_000)
    for _ in range(2):
        await mia.inbox.remind(late)
    assert (await mia.event("reminded"))["conversation"]["agent"] == "mia"
    await mia.do("reply", text="Eccomi")
    await mia.ask(ADA, "e poi?")
    await mia.inbox.remind(now_ms() + 301_000)
    names = []
    while len(names) < 3:
        names.append((await mia.watch.next())["event"])
    assert names == ["replied", "said", "reminded"]


async def test_nobody_is_reminded_out_of_hours(mia: Lab) -> None:
    await mia.rule(Rules(hours=NOBODY))
    await mia.ask(ADA)
    late = now_ms() + 3_600_000
    await mia.inbox.remind(late)
    (row,) = await mia.store.held()
    assert row.reminded_at is None
    await mia.rule(Rules())
    await mia.inbox.remind(late)
    (row,) = await mia.store.held()
    assert row.reminded_at == late


async def test_only_what_the_automation_has_ends_by_itself(mia: Lab) -> None:
    await mia.ask(ADA, outcome="answered")
    await mia.ask(BOB)
    await mia.inbox.close_idle(now_ms())
    assert [(await mia.state(who))[0] for who in (ADA, BOB)] == ["automated", "waiting"]
    await mia.inbox.close_idle(now_ms() + 86_401_000)
    assert [(await mia.state(who))[0] for who in (ADA, BOB)] == ["closed", "waiting"]


# -- what devices say --------------------------------------------------------------------------------------------------


async def test_a_device_reads_rates_and_closes(mia: Lab) -> None:
    kiosk = await listening(mia.broker, "kiosk-7", "acme/device/kiosk-7/conversation")
    await mia.ask(ADA)
    await mia.do("reply", text="Ciao")
    topic = "acme/device/kiosk-7/up/conversation"
    for said in ({"do": "read", "entry": 2}, {"do": "rate", "question": "q1", "thumb": -1}, {"do": "close"}):
        await kiosk.publish(topic, json.dumps(said).encode())
    assert (await mia.event("read"))["by"] == "customer"
    closed = await mia.event("closed")
    assert (closed["by"], closed["conversation"]["read_by_customer"]) == ("customer", 2)
    assert not mia.inbox.held("acme", "user", "ada")
    history = (await mia.do("show", agent=None))["conversation"]
    assert (history["entries"][0]["thumb"], history["closed_by"]) == (-1, "customer")
    with pytest.raises(InboxRefused, match="is closed"):
        await mia.do("take")


async def test_a_customer_closes_with_a_word(mia: Lab) -> None:
    kiosk = await listening(mia.broker, "kiosk-7", "acme/device/kiosk-7/answer")
    await mia.ask(ADA)
    await kiosk.publish("acme/device/kiosk-7/up/ask", b"Chiudi")
    answer = await got(kiosk)
    assert (answer["kind"], answer["text"]) == ("answer", "Questa conversazione è chiusa. Chiedi di nuovo quando vuoi.")
    closed = await mia.event("closed")
    assert (closed["by"], closed["entry"]["text"], closed["conversation"]["closed_by"]) == (
        "customer", "Chiudi", "customer"
    )  # fmt: skip
    assert not mia.inbox.held("acme", "user", "ada")


async def test_what_cannot_be_understood_changes_nothing(mia: Lab) -> None:
    kiosk = await device(mia.broker, "till-3")
    await mia.ask(ADA)
    wrong = [b"{", b'{"do":"dance"}', b'{"do":"read"}', b'{"do":"rate","question":"q1","thumb":1}', b" " * 2000]
    for payload in wrong:
        await kiosk.publish("acme/device/till-3/up/conversation", payload, qos=1)
    await mia.broker.bridge.intake.until(mia.broker.core.fact_awaited)
    assert mia.broker.core.counters.inbox_refused == len(wrong)


async def test_typing_goes_both_ways_once_a_second(mia: Lab) -> None:
    kiosk = await listening(mia.broker, "kiosk-7", "acme/device/kiosk-7/conversation")
    await mia.ask(ADA)
    await mia.do("take")
    assert [(await got(kiosk))["state"] for _ in range(2)] == ["waiting", "agent"]
    for _ in range(3):
        await kiosk.publish("acme/device/kiosk-7/up/typing", b"{}")
    assert (await mia.event("typing"))["conversation"]["typing"]
    await mia.do("typing")
    typing = await kiosk.expect_message(acknowledge=False)
    assert (json.loads(typing.payload)["event"], typing.qos) == ("typing", 0)
    assert not mia.watch._events
    await mia.do("read")
    read = await got(kiosk)
    assert (read["event"], read["read"]) == ("read", 2)
    await mia.ask(ADA, "ecco")
    assert not (await mia.event("said"))["conversation"]["typing"]


async def test_a_device_asks_for_what_was_said(mia: Lab) -> None:
    topics = ("answer", "h")
    kiosk = await listening(mia.broker, "kiosk-7", *(f"acme/device/kiosk-7/{topic}" for topic in topics))

    async def history(payload: bytes, topic: str = "acme/device/kiosk-7/h") -> Any:
        up = "acme/device/kiosk-7/up/history"
        await kiosk.publish(up, payload, response_topic=topic, correlation_data=b"7")
        message = await kiosk.expect_message()
        assert message.properties.correlation_data == b"7"
        return message.topic, json.loads(message.payload)

    assert (await history(b"{}"))[1] == {"conversation": "", "state": "closed", "agent": "", "read": 0, "entries": []}
    await mia.ask(ADA)
    await mia.do("reply", text="Ciao")
    topic, said = await history(b'{"most": 1}')
    assert (topic, said["agent"], said["state"]) == (b"acme/device/kiosk-7/h", "Mia R.", "agent")
    assert [(one["author"], one["who"], one["text"]) for one in said["entries"]] == [("agent", "Mia R.", "Ciao")]
    before = said["entries"][0]["number"]
    (first,) = (await history(json.dumps({"before": before}).encode()))[1]["entries"]
    assert (first["id"], first["answer"]) == ("q1", {"text": "Ti risponderà qui una persona."})
    assert (await history(b'{"most": 0}'))[1]["code"] == "bad_json"
    topic, refused = await history(b"{}", "acme/device/till-3/answer")
    assert (topic, refused["code"]) == (b"acme/device/kiosk-7/answer", "bad_topic")


async def test_histories_are_read_one_at_a_time_for_each_device(mia: Lab) -> None:
    kiosk = await listening(mia.broker, "kiosk-7", "acme/device/kiosk-7/answer")
    mia.broker.pull.voices._asking.add(("acme", "kiosk-7"))
    await kiosk.publish("acme/device/kiosk-7/up/history", b"{}")
    assert (await got(kiosk))["code"] == "too_many"


async def test_a_device_without_a_user_has_a_conversation_of_its_own(mia: Lab) -> None:
    await mia.broker.directory.device_code("acme", "totem")
    totem = Asker(brand="acme", device="totem")
    kiosk = await listening(mia.broker, "totem", "acme/device/totem")
    await mia.ask(totem)
    assert (await mia.do("reply", totem, text="Ciao"))["conversation"]["with"] == "device/totem"
    assert (await got(kiosk))["body"] == "Ciao"


async def test_what_was_meant_for_who_had_a_device_before_does_not_reach_its_user(mia: Lab) -> None:
    await mia.broker.directory.device_code("acme", "totem")
    totem = Asker(brand="acme", device="totem")
    await mia.ask(totem)
    await mia.broker.directory.device_assign("acme", "totem", user="bob")
    with pytest.raises(Refused, match="is bob's now"):
        await mia.do("reply", totem, text="Ciao")
    assert (await mia.do("close", totem))["conversation"]["state"] == "closed"


# -- agents' own tools -------------------------------------------------------------------------------------------------


async def test_an_agents_own_tool_works_over_mqtt(mia: Lab) -> None:
    tool = await server(mia.broker)
    await tool.subscribe("acme/inbox/+", qos=1)

    async def request(**fields: Any) -> Any:
        await tool.publish("acme/inbox", json.dumps(fields).encode())
        while (message := await tool.expect_message()).topic != b"acme/inbox/answer":
            events.append(json.loads(message.payload)["event"])
        return json.loads(message.payload)

    events: list[str] = []
    await mia.ask(ADA)
    (row,) = (await request(do="list", state="held", request_id="1"))["conversations"]
    assert (row["with"], row["agent"], row["store"]) == ("user/ada", "mia", "milano")
    taken = await request(do="take", conversation=row["id"], agent="mia", request_id="2")
    assert (taken["ok"], taken["request_id"], taken["conversation"]["state"]) == (True, "2", "agent")
    replied = await request(do="reply", conversation=row["id"], agent="mia", text="Ciao")
    assert replied["entry"]["text"] == "Ciao"
    assert (await request(do="take", conversation="c0", agent="mia", request_id="9")) == {
        "ok": False,
        "request_id": "9",
        "code": "unknown_conversation",
        "field": "conversation",
        "message": "acme has no conversation 'c0'",
    }
    assert mia.broker.core.counters.inbox_requests_refused == 1
    assert (await request(do="close", conversation=row["id"], agent="mia"))["conversation"]["state"] == "closed"
    while "closed" not in events:
        events.append((await got(tool))["event"])
    assert events == ["waiting", "said", "taken", "replied", "closed"]


async def test_a_long_conversation_is_read_a_page_at_a_time(mia: Lab) -> None:
    for number in range(1, 6):
        await mia.ask(ADA, f"question {number}", "nothing")

    async def texts(**which: int) -> list[str]:
        return [one["text"] for one in (await mia.do("show", agent=None, **which))["conversation"]["entries"]]

    assert await texts(most=2) == ["question 4", "question 5"]
    assert await texts(most=2, before=4) == ["question 2", "question 3"]
    assert await texts(before=2) == ["question 1"]
    assert await texts(before=1) == []
    for wrong in (-1, 1 << 53, "4"):
        with pytest.raises(InboxRefused) as refused:
            await mia.do("show", agent=None, before=wrong)
        assert (refused.value.code, refused.value.field) == ("bad_value", "before")


async def test_another_brands_conversations_are_not_there(mia: Lab) -> None:
    tool = await server(mia.broker, "rival")
    await tool.subscribe("rival/inbox/answer", qos=1)
    await mia.ask(ADA)
    await mia.inbox.staff.add("rival", "mia")
    for fields in ({"do": "show", "conversation": await mia.id_of(ADA)}, {"do": "list"}):
        await tool.publish("rival/inbox", json.dumps(fields).encode())
    assert (await got(tool))["code"] == "unknown_conversation"
    assert (await got(tool))["conversations"] == []


async def test_a_terminal_follows_what_happens_in_its_brand(mia: Lab) -> None:
    context = Context(mia.broker.settings, mia.broker.directory, mia.broker)
    events = await stream(context, "inbox.watch", {"brand": "acme"})
    assert isinstance(events, AsyncGenerator)
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    while len(mia.inbox.telling.watchers) < 2:  # noqa: ASYNC110 - it looks its brand up first
        await asyncio.sleep(0.01)
    await mia.inbox.hand_over(msgspec.structs.replace(ADA, brand="rival"), "asked", "q0")
    await mia.ask(ADA)
    assert ((await first)["event"], (await anext(events))["entry"]["who"]) == ("waiting", "kiosk-7")
    await events.aclose()
    assert mia.inbox.telling.watchers == {mia.watch}


# -- who is gone -------------------------------------------------------------------------------------------------------


async def test_what_waits_is_there_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        lab = Lab(broker)
        await lab.inbox.staff.add("acme", "mia", most=1)
        await lab.ask(ADA)
        await lab.ask(BOB)
    async with running(tmp_path / "data") as broker:
        lab = Lab(broker)
        assert lab.inbox.held("acme", "user", "ada")
        lab._asked = 2
        assert await lab.ask(ADA, "pronto?") == ""
        await lab.inbox.staff.set("acme", "mia", most=2)
        assert await lab.state(BOB) == ("waiting", "mia")


async def test_who_was_handed_over_by_a_question_that_a_crash_took_is_with_a_person(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        lab = Lab(broker)
        await lab.inbox.staff.add("acme", "mia")
        await lab.inbox.hand_over(ADA, "asked", "q404")
        await lab.inbox.hand_over(BOB, "asked", "q405")
        after = await opened_again(lab)
        assert not after.held("acme", "user", "ada")  # it may come yet
        await lab.do("take")
        row = await lab.store.of("acme", "user", "ada")
        assert row is not None
        await after.do("acme", requests.Reply(conversation=row.id, agent="mia", text="Ciao"))
        assert after.held("acme", "user", "ada")
    async with running(tmp_path / "data") as broker:
        async with asyncio.timeout(10):
            while not broker.pull.inbox.held("acme", "user", "bob"):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)


async def test_a_brand_that_is_gone_takes_all_of_it_along(mia: Lab) -> None:
    await mia.ask(ADA)
    await mia.inbox.staff.canned_set("acme", "ciao", "Ciao")
    await mia.inbox.brand_gone("acme")
    assert not mia.inbox.held("acme", "user", "ada")
    assert await mia.store.held() == []
    assert mia.inbox.staff.of("acme") == []
    assert await mia.inbox.staff.tables.canned("acme") == []


async def test_who_was_erased_waits_no_longer(mia: Lab) -> None:
    await mia.ask(ADA)
    mia.inbox.gone(Who("acme", "user", "ada"))
    assert not mia.inbox.held("acme", "user", "ada")
