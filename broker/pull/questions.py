"""Answers what devices ask.

A question is a fact before its device hears that it was received, and goes at once, besides, to a *lane*: all that wait
are decided upon together by another process, and answered; then they are booked with what they were answered, in the
transaction that remembers the fact. After a crash what was not booked is answered again, under the same id.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from broker.bridge.facts import Questioned
from broker.bridge.intake import now_ms
from broker.bridge.message_id import MessageIds
from broker.counters import Counters
from broker.errors import Failed, PushbrokerError
from broker.identity import Identity, Role
from broker.limits import (
    ANSWER_TTL_S,
    ASKERS_KEPT,
    QUESTION_EVERY_S,
    QUESTIONS_AT_ONCE,
    QUESTIONS_MAX,
    QUESTIONS_TOGETHER,
)
from broker.message import Message, for_whoever_is
from broker.pull.asking import Code, QuestionRefused, parse, reply_topic
from broker.pull.commands import closes
from broker.pull.line import Line
from broker.pull.question import (
    Answer,
    Asker,
    AskServer,
    Close,
    Decided,
    Follow,
    HandOver,
    OptIn,
    Option,
    OptOut,
    Outcome,
    Question,
    Shown,
    Unfollow,
)
from broker.session.session import Session
from broker.store.conversations import ASKING, CLOSING, Asked, Conversations, Place
from broker.wire.packets import Properties
from broker.wire.publish import forwarded, properties_of

ASKS: Final = b"+/device/+/up/ask"
_STUCK_S: Final = 60.0
RETRY_S: Final = 1.0
# Between two batches, unless one is full: of those that come in a row several go together over the pipe.
LANE_EVERY_S: Final = 0.005
# Passed over in one go, of customers who are in it already: 100 us. Bursts of 50 devices hold up nobody behind them.
PASSED_MAX: Final = 1000
_Kind = Literal["answer", "choice", "person", "nothing"]
_KINDS: Final[dict[Outcome, _Kind]] = {"choice": "choice", "person": "person", "nothing": "nothing"}
_encode: Final = msgspec.json.Encoder().encode

# Whoever asks next sees what these have changed.
_CHANGES: Final = (Close, Follow, Unfollow, OptOut, OptIn, HandOver)

Look = Callable[[Sequence[Questioned], int], Awaitable[list[tuple[Asker, Decided] | Exception]]]


class Persons(Protocol):
    """Who answers where the automation ends."""

    def held(self, brand: str, kind: str, name: str) -> bool:
        """Whether a person has this customer's conversation, or is to have it."""
        ...

    async def hand_over(self, asker: Asker, why: str, question: str, *, booked: bool = False) -> str:
        """From now on that is so; no matter how often this is called. Returns what the customer is told, or ''.

        booked: the question is in the books; where it was erased there since, nothing is done.
        """
        ...

    async def farewell(self, brand: str, kind: str, name: str) -> str:
        """What the customer is told who closes their conversation; it ends when that is in the books."""
        ...

    async def said(self, place: Place) -> None:
        """The customer has said something that is for them."""
        ...


class Follows(Protocol):
    """Who hears of changes."""

    async def follow(self, asker: Asker, item: str, every_s: int, source: str) -> None:
        """Begin."""
        ...

    async def unfollow(self, asker: Asker, item: str) -> None:
        """End."""
        ...

    async def opt_out(self, asker: Asker) -> None:
        """End all that anybody sends them."""
        ...

    async def opt_in(self, asker: Asker) -> None:
        """Begin again with that."""
        ...


class Servers(Protocol):
    """Who asks the brand's own server."""

    async def ask(self, action: AskServer, question: str, asker: Asker, text: str) -> Decided:
        """What it says, or what the route says else; it may be to hand over."""
        ...

    async def otherwise(self, route: str, asker: Asker) -> Decided:
        """What the route says where the server has not answered."""
        ...


class _Case:
    """A question on its way."""

    __slots__ = ("asker", "began", "booked", "fact", "row")

    def __init__(self, fact: Questioned) -> None:
        self.fact = fact
        self.began = time.monotonic()
        self.asker = _unknown(fact)
        self.row: Asked | None = None  # as it is to be booked
        self.booked = False

    @property
    def who(self) -> tuple[str, str, str]:
        """Whose conversation it belongs to."""
        fact = self.fact
        return (fact.brand, "user", fact.user) if fact.user else (fact.brand, "device", fact.device)


class Questions:
    """Hears questions, has them decided upon, answers, and sees that they are booked.

    look(facts, now): what is decided of each. publish(messages): now, and durably. record(fact): keep it. spawn: a
    coroutine, beside all else. persons, follows, servers: who does what is decided.
    """

    def __init__(
        self,
        *,
        store: Conversations,
        look: Look,
        record: Callable[[Questioned], object],
        publish: Callable[[Sequence[Message]], object],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        persons: Persons,
        follows: Follows,
        servers: Servers,
        counters: Counters,
        log: Callable[..., object],
        unexpected: Callable[[Exception], object],
    ) -> None:
        self._store = store
        self._look = look
        self._record = record
        self._publish = publish
        self._spawn = spawn
        self._persons = persons
        self._follows = follows
        self._servers = servers
        self._counters = counters
        self._log = log
        self._unexpected = unexpected
        self._ids = MessageIds("q")
        self._conversations = MessageIds("c")
        self._waiting: Line[_Case] = Line()
        self._arrived = asyncio.Event()
        self._open: dict[str, _Case] = {}  # not booked yet, by id
        self._progress = asyncio.Event()
        self._refused: Counter[Code] = Counter()
        self._changing: dict[tuple[str, str, str], deque[_Case]] = {}  # what waits for what these customers change
        self._due: dict[tuple[str, str], float] = {}  # when each device would be at its pace again

    # -- what is asked -----------------------------------------------------------------------------------------------

    def heard(self, message: Message, origin: Session | None) -> None:
        """A device has published to its `up/ask`."""
        if origin is None or origin.identity.role is not Role.DEVICE:
            return
        who = origin.identity
        properties = properties_of(message)
        refused = None
        question, topic = Question(text=""), reply_topic(who, None)
        try:
            topic = reply_topic(who, properties.response_topic)
            self._pace(who)
            question = parse(message.payload)
        except QuestionRefused as error:
            self._refuse(error)
            refused = error
        fact = Questioned(
            self._ids.next(),
            who.brand,
            who.name,
            who.user,
            who.store,
            question.text,
            question.locale,
            question.choice,
            topic,
            properties.correlation_data or b"",
            now_ms(),
        )
        if refused is not None:  # at once, so that no flood of them waits among the others' questions
            self._send([(_Case(fact), refused.answer(fact.id))])
            return
        self._counters.questions_received += 1
        self._record(fact)
        self._take(fact)

    def _refuse(self, error: QuestionRefused) -> None:
        self._counters.questions_refused += 1
        self._refused[error.code] += 1

    def status(self) -> dict[str, int]:
        """How many wait, and how many were refused since the start, by code."""
        refused = {f"refused_{code}": count for code, count in sorted(self._refused.items())}
        return {"waiting": len(self._waiting), **refused}

    def _pace(self, who: Identity) -> None:
        """Raise `QuestionRefused` when this device, its brand, or all together, ask too much."""
        if self._waiting.of(who.brand) >= QUESTIONS_MAX - len(self._waiting):  # there is room for others, always
            raise QuestionRefused(Code.BUSY, "Too many ask at the moment: ask again in a minute.")
        now = time.monotonic()
        key = (who.brand, who.name)
        due = max(self._due.get(key, 0.0), now) + QUESTION_EVERY_S
        if due > now + QUESTIONS_AT_ONCE * QUESTION_EVERY_S:
            raise QuestionRefused(Code.TOO_MANY, "These are too many questions: wait a moment.")
        self._due[key] = due
        if len(self._due) > ASKERS_KEPT:
            self._due = {key: due for key, due in self._due.items() if due > now}

    def _take(self, fact: Questioned) -> None:
        case = self._open[fact.id] = _Case(fact)
        self._enqueue(case)
        while len(self._open) > QUESTIONS_MAX:  # facts that could not be written never come back
            oldest = next(iter(self._open.values()))
            if oldest.row is None or case.began < oldest.began + _STUCK_S:
                break
            del self._open[oldest.fact.id]

    def _enqueue(self, case: _Case) -> None:
        self._waiting.push(case.fact.brand, case)
        self._arrived.set()

    def _put_back(self, cases: Sequence[_Case]) -> None:
        for case in reversed(cases):
            self._waiting.push_back(case.fact.brand, case)

    # -- the lane ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Answer what comes, for ever."""
        last = 0.0
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                rest_s = last + LANE_EVERY_S - time.monotonic()
                if rest_s > 0 and len(self._waiting) < QUESTIONS_TOGETHER:
                    await asyncio.sleep(rest_s)
                last = time.monotonic()
                await self._some()

    async def _some(self) -> None:
        """The next questions, one at most of each customer: what one does may decide what becomes of the next."""
        batch: dict[tuple[str, str, str], _Case] = {}
        later: list[_Case] = []
        while self._waiting and len(batch) < QUESTIONS_TOGETHER and len(later) < PASSED_MAX:
            case = self._waiting.pop()
            if case.who in self._changing:
                self._changing[case.who].append(case)
            elif batch.setdefault(case.who, case) is not case:
                later.append(case)
        self._put_back(later)
        wanted = [case for case in batch.values() if not self._persons.held(*case.who)]
        found = dict(zip((case.who for case in wanted), await self._found(wanted), strict=True))
        answered: list[tuple[_Case, Answer]] = []
        for who, case in batch.items():
            result = found.get(who) or (_CLOSED if closes(case.fact.text) else _HELD)
            try:
                answer = self._answered(case, result)
            except Exception as error:  # noqa: BLE001 - a bug costs one question; the books would wait for it
                answer = self._failed(case, error)
            if answer is not None:
                answered.append((case, answer))
        self._send(answered)

    def _answered(self, case: _Case, result: tuple[Asker, Decided] | Decided | Exception) -> Answer | None:
        """What a device is told now; None where something is to be done before."""
        if isinstance(result, Exception):
            return self._failed(case, result)
        if isinstance(result, Decided):
            decided = result
        else:
            case.asker, decided = result
        if decided.action is None:
            return self._finish(case, decided)
        self._begin(case, decided)
        return None

    async def _found(self, cases: Sequence[_Case]) -> Sequence[tuple[Asker, Decided] | Exception]:
        """What is decided of these, and of whom."""
        if not cases:
            await asyncio.sleep(0)  # many who talk to persons do not keep others from their turn, either
            return ()
        try:
            return await self._look([case.fact for case in cases], now_ms())
        except Failed as error:
            self._log("questions cannot be looked up", error=error.message, remedy=error.remedy)
            return [error] * len(cases)
        except Exception as error:  # noqa: BLE001 - a bug costs these, not all that come after
            return [error] * len(cases)

    # -- what is done ------------------------------------------------------------------------------------------------

    def _begin(self, case: _Case, decided: Decided) -> None:
        if isinstance(decided.action, _CHANGES):
            self._changing[case.who] = deque()
        else:
            self._book_asking(case, decided)
        self._spawn(self._act(case, decided))

    async def _act(self, case: _Case, decided: Decided) -> None:
        try:
            answer = self._finish(case, await self._acted(case, decided))
        except Exception as error:  # noqa: BLE001 - a bug is told, and whoever asked is not left waiting
            answer = self._failed(case, error)
        finally:
            waiting = self._changing.pop(case.who, None) if isinstance(decided.action, _CHANGES) else None
            if waiting:
                self._put_back(waiting)
                self._arrived.set()
        self._send([(case, answer)])
        if case.booked and case.row is not None:  # its server was asked meanwhile
            place = await self._written(case.row)
            if place is not None and case.row.outcome == "person":
                await self._persons.said(place)

    async def _written(self, row: Asked) -> Place | None:
        """Write down what was answered that is in the books as being asked, as soon as the disk lets us."""
        while True:
            try:
                return await self._store.answered(row.id, row.outcome, row.answer, row.took_us or 0, row.rule)
            except Failed as error:
                self._log("an answer cannot be written down", error=error.message, remedy=error.remedy)
                await asyncio.sleep(RETRY_S)

    async def _acted(self, case: _Case, decided: Decided) -> Decided:
        """Do what is decided; returns what is to be said."""
        asker, action = case.asker, decided.action
        match action:
            case Close():
                words = await self._persons.farewell(*case.who)
                return msgspec.structs.replace(decided, shown=Shown(body=words), action=None)
            case Follow():
                await self._follows.follow(asker, action.item, action.every_s, f"device/{asker.device}")
            case Unfollow():
                await self._follows.unfollow(asker, action.item)
            case OptOut():
                await self._follows.opt_out(asker)
            case OptIn():
                await self._follows.opt_in(asker)
            case HandOver():
                return await self._handed_over(case, action, decided)
            case AskServer():
                said = await self._servers.ask(action, case.fact.id, asker, case.fact.text)
                if isinstance(said.action, HandOver):
                    said = await self._handed_over(case, said.action, said)
                return msgspec.structs.replace(
                    said, folded=decided.folded, score=decided.score, nearest=decided.nearest
                )
        return decided

    async def _handed_over(self, case: _Case, action: HandOver, decided: Decided) -> Decided:
        asker = case.asker
        words = await self._persons.hand_over(asker, action.why, case.fact.id, booked=case.booked)
        outcome: Outcome = "person" if self._persons.held(asker.brand, asker.kind, asker.name) else "nothing"
        return msgspec.structs.replace(decided, outcome=outcome, shown=Shown(body=words), action=None)

    # -- what is answered --------------------------------------------------------------------------------------------

    def _finish(self, case: _Case, decided: Decided) -> Answer:
        """What a device is told, and what is booked of it."""
        shown = decided.shown
        answer = Answer(
            question=case.fact.id,
            kind=_KINDS.get(decided.outcome, "answer"),
            by="server" if decided.outcome == "server" else "automation",
            text=_words(shown, decided.options),
            item=shown.item,
            language=shown.language,
            title=shown.title,
            body=shown.body,
            image=shown.image,
            link=shown.link,
            data=shown.data,
            choices=decided.options,
        )
        self._settle(case, decided, _encode(answer).decode())
        self._counters.questions_answered += 1
        return answer

    def _failed(self, case: _Case, error: Exception) -> Answer:
        """What a device is told whose question could not be answered, which is booked as well."""
        if isinstance(error, QuestionRefused):
            refused = error
        elif isinstance(error, PushbrokerError):
            refused = QuestionRefused(Code.UNABLE, error.message or "That cannot be done at present.")
        else:
            self._unexpected(error)
            refused = QuestionRefused(Code.INTERNAL_ERROR, "That cannot be answered: the operator is told why.")
        self._refuse(refused)
        answer = refused.answer(case.fact.id)
        self._settle(case, Decided(outcome="nothing", rule=str(refused.code)), _encode(answer).decode())
        return answer

    def _book_asking(self, case: _Case, decided: Decided) -> None:
        """The brand's server may take its time; the books do not wait for it, and know how to answer."""
        how = _Asking(
            route=decided.action.route if isinstance(decided.action, AskServer) else "",
            reply_topic=case.fact.reply_topic,
            reply_data=case.fact.reply_data,
        )
        self._settle(case, msgspec.structs.replace(decided, outcome=ASKING), _encode(how).decode())

    def _settle(self, case: _Case, decided: Decided, answer: str) -> None:
        fact, who = case.fact, case.who
        asking = decided.outcome == ASKING
        case.row = Asked(
            id=fact.id,
            conversation=case.row.conversation if case.row else self._conversations.next(),
            brand=fact.brand,
            kind=who[1],
            name=who[2],
            device=fact.device,
            store=fact.store,
            language=case.asker.language,
            at=fact.at,
            text=fact.text or decided.shown.title or fact.choice,
            folded=decided.folded,
            outcome=decided.outcome,
            rule=decided.rule,
            item=decided.shown.item,
            score=decided.score,
            nearest=decided.nearest,
            answer=answer,
            took_us=None if asking else int((time.monotonic() - case.began) * 1e6),
        )
        self._progress.set()

    def _send(self, answered: Sequence[tuple[_Case, Answer]]) -> None:
        if answered:
            now = time.monotonic()
            self._publish([_message(case.fact, answer, now + ANSWER_TTL_S) for case, answer in answered])

    # -- what is booked ----------------------------------------------------------------------------------------------

    async def book(self, facts: Sequence[Questioned], up_to: int) -> None:
        """These are on the disk: book them with what they were answered, and the number of the last."""
        if fresh := [fact for fact in facts if fact.id not in self._open]:  # of the last process
            known = await self._store.known([fact.id for fact in fresh])
            for fact in fresh:
                if fact.id not in known:
                    self._take(fact)
        cases = [case for fact in facts if (case := self._open.get(fact.id)) is not None]
        while any(case.row is None for case in cases):
            self._progress.clear()
            await self._progress.wait()
        rows = [case.row for case in cases if case.row is not None]
        for case in cases:
            case.booked = True  # what is answered from now on is written after these, in the order of the writes
        try:
            places = await self._store.book(rows, up_to)
        except Failed:
            for case in cases:
                case.booked = False
            raise
        for case in cases:
            self._open.pop(case.fact.id, None)
        for row in rows:
            if (row.outcome == "person" or row.rule == CLOSING) and row.id in places:
                await self._persons.said(places[row.id])

    async def resume(self) -> None:
        """Answer what the brand's server was asked when the last process ended, as if it had not answered.

        But what was handed over then goes on to be with a person.
        """
        handed_over = await self._store.handed_over()
        for row in await self._store.asking():
            how = _decode_asking(row.answer)
            fact = Questioned(
                row.id, row.brand, row.device, row.name if row.kind == "user" else "", row.store, row.text, "", "",
                how.reply_topic, how.reply_data, row.at,
            )  # fmt: skip
            case = _Case(fact)
            case.row, case.booked = row, True
            case.asker = msgspec.structs.replace(case.asker, language=row.language)
            handed = Decided(outcome="person", rule=f"route:{how.route}", action=HandOver("server"))
            self._spawn(self._resume(case, how.route, handed if row.id in handed_over else None))

    async def _resume(self, case: _Case, route: str, decided: Decided | None) -> None:
        await self._act(case, decided or await self._servers.otherwise(route, case.asker))


class _Asking(msgspec.Struct, frozen=True, kw_only=True):
    """How a question is to be answered for which the brand's server is asked."""

    route: str
    reply_topic: str
    reply_data: bytes


_decode_asking: Final = msgspec.json.Decoder(_Asking).decode
_HELD: Final = Decided(outcome="person", rule="held")
_CLOSED: Final = Decided(outcome="command", rule=CLOSING, action=Close())


def _unknown(fact: Questioned) -> Asker:
    """Who asks, before the records were asked who that is."""
    return Asker(brand=fact.brand, device=fact.device, user=fact.user, store=fact.store)


def _words(shown: Shown, options: Sequence[Option]) -> str:
    """All of it, for a screen that shows text and nothing else."""
    lines = [line for line in (shown.title, shown.body, shown.link) if line]
    return "\n".join([*lines, *(f"{number}. {option.title}" for number, option in enumerate(options, 1))])


def _message(fact: Questioned, answer: Answer, expires_at: float) -> Message:
    properties = Properties(content_type="application/json", payload_format=1, correlation_data=fact.reply_data or None)
    whose = for_whoever_is(fact.brand, fact.user)
    return Message(fact.reply_topic.encode(), _encode(answer), 1, False, forwarded(properties), expires_at, whose)
