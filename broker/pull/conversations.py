"""The inbox of each brand: customers who wait for a person, and agents who answer them.

What is done is in the books when it returns, with what was said of it in the same transaction; an agent's reply is
written with the message that carries it. Whatever comes again under the same id is done once.
"""

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from broker import limits
from broker.bridge.bridge import Bridge
from broker.bridge.facts import Asked
from broker.bridge.intake import now_ms
from broker.bridge.message_id import MessageIds
from broker.bridge.request import Notification, RequestRefused, SendRequest, To
from broker.errors import Failed, Refused
from broker.message import Message
from broker.pull import inbox_requests as requests
from broker.pull import template
from broker.pull.assign import choose
from broker.pull.inbox_requests import Request
from broker.pull.looking import Looking, entry
from broker.pull.moves import InboxRefused, Move, moved
from broker.pull.question import Asker
from broker.pull.staff import Staff
from broker.pull.telling import Telling, Watch
from broker.pull.ways import Ways
from broker.session.core import Core
from broker.store.agents import Agent, Agents
from broker.store.conversations import (
    HELD,
    Change,
    Conversation,
    Conversations,
    NewEntry,
    Opening,
    Place,
    changed,
)
from broker.store.entries import Who
from broker.wire.packets import Properties
from broker.wire.publish import forwarded

_JSON: Final = forwarded(Properties(content_type="application/json", payload_format=1))
IDLE_S: Final = 60.0  # between two looks for conversations that are silent
_raw: Final = msgspec.json.Encoder().encode


class Inbox:
    """Who waits, who has whom, and what may be done with it.

    run(work): do something to the core, and write out what came of it. ways(brand): what its rules say.
    """

    def __init__(
        self,
        *,
        core: Core,
        bridge: Bridge,
        store: Conversations,
        ways: Callable[[str], Awaitable[Ways]],
        run: Callable[[Callable[[], object]], None],
        log: Callable[..., object],
    ) -> None:
        self.store = store
        self.people = bridge.people
        self.staff = Staff(Agents(store.messages), self.people.register, ways)
        self._sends = bridge.sends
        self._ways = ways
        self._counters = core.counters
        self._log = log
        self._unexpected = core.unexpected
        self._ids = MessageIds("c")
        self._requests = MessageIds()
        self._held: dict[str, dict[tuple[str, str], Conversation]] = {}  # by brand
        self._unbooked: set[tuple[str, str, str]] = set()  # whose question has handed over, but is not in the books
        self._typing: dict[str, float] = {}  # until when customers do, by conversation
        self._giving = asyncio.Lock()  # to agents: one sees what another has got
        self.looking = Looking(store, self.people, self.typing)

        def ping(topic: str, payload: bytes) -> None:
            run(lambda: core.publish(Message(topic.encode(), payload, 0, False, _JSON)))

        self.telling = Telling(
            people=self.people,
            looking=self.looking,
            post=bridge.post,
            ping=ping,
            counters=core.counters,
            log=log,
            unexpected=core.unexpected,
        )
        self.staff.changed = self._staff_changed

    async def open(self) -> None:
        """Begin where the last process ended."""
        await self.staff.open()
        for row in await self.store.held():
            self._took(row)
        self._unbooked = await self.store.unbooked()

    # -- customers -----------------------------------------------------------------------------------------------------

    def held(self, brand: str, kind: str, name: str) -> bool:
        """Whether an agent has their conversation, or they wait for one."""
        row = self._held.get(brand, {}).get((kind, name))
        return row is not None and (row.state == "agent" or (brand, kind, name) not in self._unbooked)

    def caught_up(self) -> None:
        """What the last process left is in the books: a question that has handed over and is not was never received."""
        self._unbooked.clear()

    async def hand_over(self, asker: Asker, why: str, question: str, *, booked: bool = False) -> str:
        """From now on they wait for a person. Returns what they are told; again for the same question.

        '' where they wait already, or where the question was booked and is not there any more.
        """
        ways = await self._ways(asker.brand)
        now = now_ms()
        here = datetime.fromtimestamp(now / 1000, UTC)
        held = self._held.get(asker.brand, {})
        if (asker.kind, asker.name) not in held and len(held) >= limits.INBOX_OPEN_MAX:
            self._counters.inbox_full += 1
            return ways.words("nothing", asker)
        opening = Opening(self._ids.next(), asker.brand, asker.kind, asker.name, asker.store, asker.language, now)
        async with self._giving:
            agent = self._next(ways, asker.brand, asker.store, asker.tags)

            def change(row: Conversation) -> Mapping[str, object]:
                if row.state in HELD:
                    return {}
                return {
                    **_waiting(moved(row.state, "hand_over"), agent.name if agent else "", now),
                    "why": why,
                    "handed_by": question,
                    "replied_at": None,
                    "changed_at": now,
                }

            row = await self.store.hand_over(opening, change, question if booked else "")
            if row is None:
                return ""
            self._took(row)
            anew = row.handed_by == question and row.waiting_since == now
            if anew and agent:
                await self.staff.given(agent.brand, agent.name, now)
        self._unbooked.discard((asker.brand, asker.kind, asker.name))
        if row.handed_by != question:
            return ""
        if anew:
            self._happened("waiting", row)
        return ways.handed_over(asker, here)

    async def farewell(self, brand: str, kind: str, name: str) -> str:
        """What they are told who close their conversation; it ends when that is in the books."""
        row = self._held.get(brand, {}).pop((kind, name), None)  # what comes next is for the automation
        if row is None:
            return ""  # an agent was faster
        return (await self._ways(brand)).words("closed", await self._asker(row))

    async def said(self, place: Place) -> None:
        """The customer has said something, which is in the books; an agent is to hear of it."""
        said = await self.store.entry(place)
        row = await self.store.numbered(place.conversation)  # as it is now, not before the entry was read
        if row is None or said is None:
            return
        before = self._held.get(row.brand, {}).get((row.kind, row.name))
        self._took(row)
        self._typing.pop(row.id, None)
        if row.state == "waiting" and (before is None or before.number != row.number):
            self._happened("waiting", row)  # who had them has just closed it, or handed it back
            await self._spread(row.brand)
        if row.state in HELD:
            self.telling.agents("said", row, said=said, by="customer")
        elif row.state == "closed":
            self._happened("closed", row, by="customer", said=said)
            await self._spread(row.brand)

    async def end(self, who: Who, at: int) -> None:
        """The customer has closed their conversation, then."""
        row = await self.store.of(*who)
        if row is None or row.state == "closed" or row.opened_at > at:
            return

        def change(row: Conversation) -> Mapping[str, object]:
            if row.state == "closed":
                return {}  # an agent was faster
            return _closed(moved(row.state, "close"), "customer", at)

        was_held = row.state in HELD
        row, _ = await self.store.change(row.number, change)
        self._took(row)
        self._happened("closed", row, by="customer", agents=was_held)
        await self._spread(row.brand)

    async def seen(self, who: Who, number: int) -> None:
        """The customer has read up to this entry."""
        row = await self.store.of(*who)
        if row is None or number <= row.read_by_customer:
            return
        up_to = min(number, row.entries)
        row, _ = await self.store.change(row.number, lambda _: {"read_by_customer": up_to})
        self._took(row)
        if row.state in HELD:
            self.telling.agents("read", row, by="customer")

    def writes(self, who: Who) -> None:
        """The customer is writing."""
        row = self._held.get(who.brand, {}).get((who.kind, who.name))
        if row is not None:
            now = time.monotonic()
            self._typing[row.id] = now + limits.TYPING_SHOWN_S
            if len(self._typing) > limits.TYPISTS_KEPT:
                self._typing = {id: until for id, until in self._typing.items() if until > now}
            self.telling.agents("typing", row, by="customer", lasting=False)

    def typing(self, id: str) -> bool:
        """Whether the customer of this conversation is writing."""
        return self._typing.get(id, 0.0) > time.monotonic()

    # -- agents --------------------------------------------------------------------------------------------------------

    async def do(self, brand: str, request: Request, id: str = "") -> dict[str, Any]:
        """Do what an agent asks for; what was done under this id is not done again. Raises `Refused`."""
        match request:
            case requests.List():
                fields = msgspec.structs.asdict(request)
                return {"conversations": await self.looking.listed(brand, **fields)}
            case requests.Show():
                shown = await self.looking.show(brand, request.conversation, before=request.before, most=request.most)
                return {"conversation": shown}
        row = await self.looking.one(brand, request.conversation)
        if id and (place := await self.store.place(id)) is not None:
            return await self._shown(row, place.entry)
        id = id or self._requests.next()
        if isinstance(request, requests.Assign):
            return await self._assign(row, request, id)
        agent = self.staff.one(brand, request.agent)
        match request:
            case requests.Take():
                return await self._take(row, agent, id)
            case requests.Reply():
                return await self._reply(row, agent, request, id)
            case requests.Note():
                return await self._note(row, agent, request, id)
            case requests.HandBack():
                return await self._hand_back(row, agent, id)
            case requests.Close():
                return await self._close(row, agent, id)
            case requests.Typing():
                if row.state == "agent" and row.agent == agent.name:
                    self.telling.devices("typing", row, agent=_title(agent), lasting=False)
                return await self._shown(row)
            case requests.Read():
                return await self._read(row, agent)

    async def answer(self, request: Asked) -> bytes:
        """Answer a request of an agent's own tool."""
        payload = request.payload
        try:
            return requests.answer(payload, await self.do(request.brand, requests.parse(payload), request.id))
        except (InboxRefused, RequestRefused) as error:
            self._counters.inbox_requests_refused += 1
            return requests.refusal(payload, error.code, error.field, error.message)
        except Refused as error:
            self._counters.inbox_requests_refused += 1
            return requests.refusal(payload, "refused", "", error.message)

    async def _take(self, row: Conversation, agent: Agent, id: str) -> dict[str, Any]:
        def change(row: Conversation) -> Mapping[str, object]:
            return {"state": self._moved(row, "take", agent), "agent": agent.name}

        return await self._done("taken", row, change, NewEntry(id, now_ms(), "system", agent.name, "taken"))

    async def _hand_back(self, row: Conversation, agent: Agent, id: str) -> dict[str, Any]:
        def change(row: Conversation) -> Mapping[str, object]:
            return _at_rest(self._moved(row, "hand_back", agent))

        done = NewEntry(id, now_ms(), "system", agent.name, "handed back")
        return await self._done("handed_back", row, change, done)

    async def _close(self, row: Conversation, agent: Agent, id: str) -> dict[str, Any]:
        now = now_ms()

        def change(row: Conversation) -> Mapping[str, object]:
            return _closed(self._moved(row, "close", agent), agent.name, now)

        return await self._done("closed", row, change, NewEntry(id, now, "system", agent.name, "closed"))

    async def _assign(self, row: Conversation, request: requests.Assign, id: str) -> dict[str, Any]:
        to = self.staff.one(row.brand, request.to, "to") if request.to else None
        if to is not None and to.away:
            raise InboxRefused("away", "to", f"{to.name} is away", f"pushbroker agent set {row.brand} {to.name} --back")
        if request.agent:
            self.staff.one(row.brand, request.agent)
        now = now_ms()

        def change(row: Conversation) -> Mapping[str, object]:
            if request.to:
                self.staff.one(row.brand, request.to, "to")  # they may be gone by now
            return _waiting(moved(row.state, "assign"), request.to, row.waiting_since or now)

        words = f"assigned {request.to}".rstrip()
        return await self._done("assigned", row, change, NewEntry(id, now, "system", request.agent, words))

    async def _note(self, row: Conversation, agent: Agent, request: requests.Note, id: str) -> dict[str, Any]:
        if not request.text.strip():
            raise InboxRefused("empty", "text", "there is nothing in the note")
        row, number = await self.store.change(
            row.number, lambda _: {}, NewEntry(id, now_ms(), "note", agent.name, request.text)
        )
        self.telling.agents(
            "noted", row, said=await self.store.entry(Place(row.number, number)), by=agent.name
        )  # fmt: skip
        return await self._shown(row, number)

    async def _read(self, row: Conversation, agent: Agent) -> dict[str, Any]:
        if row.read_by_agent < row.entries:
            row, _ = await self.store.change(row.number, lambda row: {"read_by_agent": row.entries})
            self._took(row)
            self.telling.agents("read", row, by=agent.name)
            if row.state in HELD:
                self.telling.devices("read", row, agent=self._called(row))
        return await self._shown(row)

    async def _reply(self, row: Conversation, agent: Agent, request: requests.Reply, id: str) -> dict[str, Any]:
        text = await self._text(row, agent, request)
        now, before = now_ms(), row.state
        self._moved(row, "reply", agent)
        await self._check_there(row)
        number = await self.store.reserve(row.number, id)
        data = {"conversation": row.id, "entry": number, "agent": agent.name}
        send = SendRequest(
            to=To(users=[row.name]) if row.kind == "user" else To(devices=[row.name]),
            notification=Notification(
                title=_title(agent), body=text, data={key: msgspec.Raw(_raw(value)) for key, value in data.items()}
            ),
            kind="transactional",
        )
        found: list[Conversation] = []

        def change(row: Conversation) -> Mapping[str, object]:
            return {
                "state": self._moved(row, "reply", agent),
                "agent": agent.name,
                "waiting_since": None,
                "reminded_at": None,
                "replied_at": row.replied_at or now,
                "changed_at": now,
                "read_by_agent": row.entries,
            }

        def beside(db: sqlite3.Connection) -> None:
            said = NewEntry(id, now, "agent", agent.name, text)
            found.append(changed(db, row.number, change, said, number)[0])

        await self._sends.begin(
            row.brand, send, f"{row.brand}/agent/{agent.name}", id=id, beside=beside
        )  # fmt: skip
        self._took(found[0])
        said = await self.store.entry(Place(row.number, number))
        self.telling.agents("replied", found[0], said=said, by=agent.name)
        if before != "agent":
            self.telling.devices("state", found[0], agent=_title(agent))
        return await self._shown(found[0], number)

    async def _check_there(self, row: Conversation) -> None:
        """Raise `Refused` where what is said now would reach nobody, or another than was spoken with."""
        await self.people.register.check(row.brand, row.kind, row.name)
        if row.kind == "device":
            (device,) = await self.people.records.devices(row.brand, row.name) or (None,)
            if device is not None and device.user:
                what = f"the device {row.name} is {device.user}'s now, and this conversation was with who had it before"
                raise Refused(what, reason=0x83, remedy="Close the conversation.")

    async def _text(self, row: Conversation, agent: Agent, request: requests.Reply) -> str:
        """What a reply says."""
        if bool(request.text.strip()) == bool(request.canned):
            raise InboxRefused("empty", "text", "say either a text or the name of a reply that is ready")
        if not request.canned:
            return request.text
        canned = await self.staff.canned(row.brand, request.canned, row.language)
        asker = await self._asker(row)
        text = template.render(canned, asker, {"agent": _title(agent), "conversation": row.id}).strip()
        if not text or len(text) > limits.REPLY_MAX:
            what = f"the reply {request.canned} is empty, or longer than {limits.REPLY_MAX:,} characters, for them"
            raise InboxRefused("bad_canned", "canned", what)
        return text

    async def _asker(self, row: Conversation) -> Asker:
        """The customer, for templates."""
        profile = await self.people.profiles.profile(Who(row.brand, row.kind, row.name))
        (shown,) = await self.looking.shown([row])
        return Asker(
            brand=row.brand,
            device="" if row.kind == "user" else row.name,
            user=row.name if row.kind == "user" else "",
            store=row.store,
            language=row.language,
            title=shown["title"],
            tags=frozenset(profile.tags),
            attributes=profile.attributes,
        )

    async def _done(self, event: str, row: Conversation, change: Change, done: NewEntry) -> dict[str, Any]:
        """Make a move, and tell of it."""
        row, number = await self.store.change(row.number, change, done)
        self._took(row)
        said = await self.store.entry(Place(row.number, number))
        self._happened(event, row, by=done.who, said=said)
        await self._spread(row.brand)
        return await self._shown(row, number)

    def _happened(self, event: str, row: Conversation, *, by: str = "", said: Any = None, agents: bool = True) -> None:
        if agents:
            self.telling.agents(event, row, said=said, by=by)
        self.telling.devices("state", row, agent=self._called(row))

    async def _shown(self, row: Conversation, number: int = 0) -> dict[str, Any]:
        """How a conversation is now, and an entry of it."""
        now = await self.store.numbered(row.number)
        (shown,) = await self.looking.shown([now or row])
        said = await self.store.entry(Place(row.number, number)) if number else None
        return {"conversation": shown} if said is None else {"conversation": shown, "entry": entry(said)}

    def _moved(self, row: Conversation, move: Move, agent: Agent) -> str:
        self.staff.one(row.brand, agent.name)  # they may be gone by now
        return moved(row.state, move, has=row.agent, by=agent.name)

    def _called(self, row: Conversation) -> str:
        """What the agent who has it is called."""
        return self.called(row.brand, row.agent) if row.state == "agent" else ""

    def called(self, brand: str, name: str) -> str:
        """What customers know an agent as."""
        agent = self.staff.find(brand, name)
        return _title(agent) if agent else name

    def watch(self, brand: str) -> Watch:
        """Look on, until `leave`."""
        watch = Watch(brand)
        self.telling.watchers.add(watch)
        return watch

    def leave(self, watch: Watch) -> None:
        """Look on no longer."""
        self.telling.watchers.discard(watch)

    # -- who has what --------------------------------------------------------------------------------------------------

    def _took(self, row: Conversation) -> None:
        """This is in the books."""
        held = self._held.setdefault(row.brand, {})
        if row.state in HELD:
            held[row.kind, row.name] = row
        elif (before := held.get((row.kind, row.name))) is not None and before.number == row.number:
            del held[row.kind, row.name]
            self._typing.pop(row.id, None)

    def _next(self, ways: Ways, brand: str, store: str, tags: frozenset[str]) -> Agent | None:
        """Who is given the next one."""
        if not ways.round_robin:
            return None
        busy = Counter(row.agent for row in self._held.get(brand, {}).values())
        name = choose(self.staff.of(brand), busy, store=store, tags=tags)
        return self.staff.find(brand, name)

    async def _spread(self, brand: str) -> None:
        """Give those who wait for nobody to agents who have room, who waits longest first."""
        ways = await self._ways(brand)
        async with self._giving:
            while waiting := [
                row for row in self._held.get(brand, {}).values() if row.state == "waiting" and not row.agent
            ]:
                row = min(waiting, key=lambda row: row.waiting_since or 0)
                profile = await self.people.profiles.profile(Who(brand, row.kind, row.name))
                agent = self._next(ways, brand, row.store, frozenset(profile.tags))
                if agent is None:
                    return
                await self.staff.given(agent.brand, agent.name, now_ms())
                await self._give(row, agent.name)

    async def _give(self, row: Conversation, to: str) -> None:
        """Let it wait for this agent; '': for nobody yet. Where somebody was faster, it stays as they left it."""
        had = (row.state, row.agent)
        given = False

        def change(row: Conversation) -> Mapping[str, object]:
            nonlocal given
            given = (row.state, row.agent) == had
            return _waiting(moved(row.state, "assign"), to, row.waiting_since or now_ms()) if given else {}

        row, _ = await self.store.change(row.number, change)
        self._took(row)
        if given:
            self.telling.agents("assigned", row)
            if had[0] != row.state:
                self.telling.devices("state", row)

    async def _staff_changed(self, brand: str) -> None:
        """An agent is new, back, away or gone."""
        await self._release(brand)
        await self._spread(brand)

    async def _release(self, brand: str) -> None:
        """Whoever waits for an agent who is away or gone, or is with one who is gone, waits for another."""
        async with self._giving:  # or one that is just being given to them would be missed
            for row in list(self._held.get(brand, {}).values()):
                agent = self.staff.find(brand, row.agent)
                if row.agent and (agent is None or (agent.away and row.state == "waiting")):
                    await self._give(row, "")

    # -- time ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Remind agents, close what is over, for ever."""
        idle = 0.0
        begun = False
        while True:
            try:
                if not begun:
                    for brand in list(self._held):
                        await self._staff_changed(brand)
                    begun = True
                await self.remind(now_ms())
                if time.monotonic() >= idle:
                    idle = time.monotonic() + IDLE_S
                    await self.close_idle(now_ms())
            except Failed as error:
                self._log("the inbox cannot be looked after", error=error.message, remedy=error.remedy)
            except Exception as error:  # noqa: BLE001 - one brand's trouble is not the end
                self._unexpected(error)
            await asyncio.sleep(limits.INBOX_SWEEP_S)

    async def remind(self, now: int) -> None:
        """Tell agents of customers who have waited for too long, once while they wait, when persons answer."""
        here = datetime.fromtimestamp(now / 1000, UTC)
        for brand, held in list(self._held.items()):
            waiting = [row for row in held.values() if row.waiting_since is not None and row.reminded_at is None]
            if not waiting or not (ways := await self._ways(brand)).open(here):
                continue
            for row in waiting:
                if now - (row.waiting_since or now) >= ways.remind_s * 1000:
                    changed_row, _ = await self.store.change(row.number, lambda row: _reminded(row, now))
                    self._took(changed_row)
                    if changed_row.reminded_at == now:
                        self.telling.agents("reminded", changed_row)

    async def close_idle(self, now: int) -> None:
        """Close conversations with the automation in which nothing was said for long."""
        for brand in await self.people.records.brands(datetime.fromtimestamp(now / 1000, UTC)):
            before = now - (await self._ways(brand.name)).idle_s * 1000
            while await self.store.close_idle(brand.name, before, now, limits.IDLE_AT_ONCE) == limits.IDLE_AT_ONCE:
                pass

    # -- who is gone ---------------------------------------------------------------------------------------------------

    def gone(self, who: Who) -> None:
        """What is kept of somebody was erased."""
        self._held.get(who.brand, {}).pop((who.kind, who.name), None)

    async def brand_gone(self, brand: str) -> None:
        """Forget all of a brand's."""
        self._held.pop(brand, None)
        await self.staff.forget(brand)
        await self.store.forget(brand)


def _title(agent: Agent) -> str:
    return agent.title or agent.name


def _waiting(state: str, agent: str, since: int) -> dict[str, object]:
    return {"state": state, "agent": agent, "waiting_since": since, "reminded_at": None}


def _at_rest(state: str) -> dict[str, object]:
    return {"state": state, "agent": "", "waiting_since": None, "reminded_at": None}


def _closed(state: str, by: str, at: int) -> dict[str, object]:
    return {"state": state, "waiting_since": None, "reminded_at": None, "closed_at": at, "closed_by": by}


def _reminded(row: Conversation, now: int) -> dict[str, object]:
    return {"reminded_at": now} if row.waiting_since is not None and row.reminded_at is None else {}
