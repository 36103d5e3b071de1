"""Asks the brand's own server: any program of theirs that subscribes to `{brand}/ask/{route}` and answers in time.

The answer comes on `{brand}/ask/answer`. Where nobody is there, too many are asked already, or the time is over, the
route says what is said instead.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, NamedTuple, Protocol

import msgspec
from msgspec import Meta

from broker.identity import Identity, Role
from broker.limits import (
    ANSWER_TTL_S,
    DATA_DEPTH_MAX,
    SERVER_ANSWER_BYTES_MAX,
    SERVER_CHOICES_MAX,
    SERVER_HISTORY,
    SERVER_QUESTIONS_MAX,
    TEXT_MAX,
)
from broker.message import Message
from broker.pull import rules as of_brands
from broker.pull import template
from broker.pull.question import Answer, Asker, AskServer, Decided, HandOver, Option, Shown
from broker.pull.recognise import ROUTE
from broker.pull.rules import Route, Rules
from broker.session.core import Core
from broker.session.session import Session
from broker.store.conversations import Conversation, Entry
from broker.wire.codes import Reason
from broker.wire.packets import Properties
from broker.wire.publish import forwarded, properties_of

ANSWERS: Final = b"+/ask/answer"

_Words = Annotated[str, Meta(max_length=TEXT_MAX)]
_Url = Annotated[str, Meta(max_length=2048)]


class _Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[str, Meta(min_length=1, max_length=64)]
    title: Annotated[str, Meta(min_length=1, max_length=200)]


class ServerAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a server says. `question` may be left out where the Correlation Data say it."""

    question: Annotated[str, Meta(max_length=64)] = ""
    text: _Words = ""  # all of it; or these:
    title: Annotated[str, Meta(max_length=1024)] = ""
    body: _Words = ""
    image: _Url = ""
    link: _Url = ""
    language: Annotated[str, Meta(pattern=r"^(?:[a-z]{2,3})?$")] = ""
    data: dict[str, Any] = {}
    choices: Annotated[tuple[_Choice, ...], Meta(max_length=SERVER_CHOICES_MAX)] = ()
    hand_over: bool = False


class _Refused(Exception):
    """An answer that is none. The exception's text says why, for people."""

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class _Pending(NamedTuple):
    brand: str
    answer: asyncio.Future[ServerAnswer]


class History(Protocol):
    """Who knows what was said before."""

    async def of(self, brand: str, kind: str, name: str) -> Conversation | None:
        """The conversation with somebody that is not closed, or else the last one."""
        ...

    async def entries(self, conversation: int, *, before: int = 0, most: int, notes: bool = True) -> list[Entry]:
        """The last of what was said there."""
        ...


_decode: Final = msgspec.json.Decoder(ServerAnswer).decode
_decode_answer: Final = msgspec.json.Decoder(Answer).decode
_encode: Final = msgspec.json.Encoder().encode


class Servers:
    """Asks brands' servers. rules(brand): what the brand's row has. run: as of `Pull`."""

    def __init__(
        self,
        *,
        core: Core,
        run: Callable[[Callable[[], object]], None],
        rules: Callable[[str], Awaitable[str]],
        history: History,
    ) -> None:
        self._core = core
        self._run = run
        self._rules = rules
        self._history = history
        self._counters = core.counters
        self._pending: dict[str, _Pending] = {}  # by question id
        self._of_brand: dict[str, int] = {}  # how many of them
        core.router.serve(ANSWERS, self.heard)

    async def ask(self, action: AskServer, question: str, asker: Asker, text: str) -> Decided:
        """What the brand's server says, or else what the route does."""
        route = action.route
        rules = of_brands.of(await self._rules(asker.brand))
        limits = rules.routes.get(route, Route())
        said = await self._asked(action, limits.time_limit_s, question, asker, text)
        if said is None:
            return _otherwise(rules, route, asker)
        rule = f"route:{route}"
        if said.hand_over:
            return Decided(outcome="person", rule=rule, action=HandOver("server"))
        shown = Shown(
            title=said.title,
            body=said.text or said.body,
            image=said.image,
            link=said.link,
            language=said.language,
            data=said.data,
        )
        options = tuple(Option(id=f"{ROUTE}{route}:{one.id}", title=one.title) for one in said.choices)
        return Decided(outcome="server", rule=rule, shown=shown, options=options)

    async def otherwise(self, route: str, asker: Asker) -> Decided:
        """What the route says where the server has not answered."""
        return _otherwise(of_brands.of(await self._rules(asker.brand)), route, asker)

    async def _asked(
        self, action: AskServer, time_limit_s: float, question: str, asker: Asker, text: str
    ) -> ServerAnswer | None:
        brand, topic = asker.brand, f"{asker.brand}/ask/{action.route}".encode()
        if self._of_brand.get(brand, 0) >= SERVER_QUESTIONS_MAX or not self._there(topic):
            self._counters.servers_absent += 1
            return None
        until = time.monotonic() + time_limit_s
        pending = _Pending(brand, asyncio.get_running_loop().create_future())
        self._pending[question] = pending
        self._of_brand[brand] = self._of_brand.get(brand, 0) + 1
        try:
            payload = await self._put(question, asker, text, action.choice)
            if not self._published(_message(topic, payload, question, until)):
                self._counters.servers_absent += 1
                return None
            async with asyncio.timeout(until - time.monotonic()):
                return await pending.answer
        except TimeoutError:
            self._counters.servers_silent += 1
            return None
        finally:
            del self._pending[question]
            self._of_brand[brand] -= 1
            if not self._of_brand[brand]:
                del self._of_brand[brand]

    def _there(self, topic: bytes) -> bool:
        """Whether a server is connected that gets it."""
        route = self._core.router.route(topic)
        members = (member for group in route.groups for member in group.members.values())
        return any(
            one.session.connected and one.session.identity.role is Role.SERVER for one in (*route.every, *members)
        )

    def _published(self, message: Message) -> bool:
        told: list[Reason | None] = []
        self._run(lambda: told.append(self._core.publish(message)))
        return told != [Reason.QUOTA_EXCEEDED]

    async def _put(self, question: str, asker: Asker, text: str, choice: str) -> bytes:
        """The question, as the server gets it."""
        conversation = await self._history.of(asker.brand, asker.kind, asker.name)
        history: list[dict[str, str]] = []
        if conversation is not None and conversation.state != "closed":
            entries = await self._history.entries(conversation.number, most=SERVER_HISTORY + 1, notes=False)
            history = [said for one in entries if one.id != question for said in _said(one)]
        return _encode(
            {
                "question": question,
                "text": text,
                "choice": choice,
                "language": asker.language,
                "user": asker.user,
                "device": asker.device,
                "store": asker.store,
                "tags": sorted(asker.tags),
                "attributes": asker.attributes,
                "conversation": conversation.id if history and conversation is not None else "",
                "history": history[-SERVER_HISTORY:],
            }
        )

    # -- what they answer ----------------------------------------------------------------------------------------------

    def heard(self, message: Message, origin: Session | None) -> None:
        """Somebody has published to `{brand}/ask/answer`."""
        if origin is None or origin.identity.role is not Role.SERVER:
            return
        correlation = properties_of(message).correlation_data or b""
        try:
            said = _parse(message.payload)
            question = _question(said, correlation)
        except _Refused as error:
            self._counters.server_answers_refused += 1
            self._refuse(origin.identity, correlation, error)
            return
        pending = self._pending.get(question)
        if pending is None or pending.brand != origin.identity.brand or pending.answer.done():
            self._counters.server_answers_late += 1
            return
        pending.answer.set_result(said)

    def _refuse(self, who: Identity, correlation: bytes, error: _Refused) -> None:
        """Tell a developer why nothing comes of it."""
        told = _encode({"server": who.name, "code": error.code, "field": error.field, "message": str(error)})
        properties = _json(correlation_data=correlation or None)
        until = time.monotonic() + ANSWER_TTL_S
        self._core.publish(Message(f"{who.brand}/ask/refused".encode(), told, 1, False, properties, until))


def _otherwise(rules: Rules, route: str, asker: Asker) -> Decided:
    limits = rules.routes.get(route, Route())
    rule = f"route:{route}:otherwise"
    if limits.otherwise == "person":
        return Decided(outcome="person", rule=rule, action=HandOver("server"))
    text = of_brands.in_language(limits.fallback, asker.language, rules.language)
    words = template.render(text or of_brands.said(rules, "nothing", asker.language), asker, {})
    return Decided(outcome="nothing", rule=rule, shown=Shown(body=words))


def _message(topic: bytes, payload: bytes, question: str, until: float) -> Message:
    brand = topic.partition(b"/")[0].decode()
    properties = _json(response_topic=f"{brand}/ask/answer", correlation_data=question.encode())
    return Message(topic, payload, 1, False, properties, until)


def _json(**properties: Any) -> bytes:
    return forwarded(Properties(content_type="application/json", payload_format=1, **properties))


def _said(entry: Entry) -> list[dict[str, str]]:
    """What was said, and what the automation or the server answered, if they did."""
    said = [{"by": entry.author, "text": entry.text}]
    if entry.answer is not None and entry.outcome not in ("asking", "person"):
        answer = _decode_answer(entry.answer)
        said.append({"by": answer.by, "text": answer.text})
    return said


def _parse(payload: bytes) -> ServerAnswer:
    """The answer in a payload, or why it is none."""
    if len(payload) > SERVER_ANSWER_BYTES_MAX:
        raise _Refused("too_long", "", f"An answer has at most {SERVER_ANSWER_BYTES_MAX} bytes: send a link.")
    try:
        payload.decode()  # what is skipped would not be looked at
        said = _decode(payload)
    except msgspec.ValidationError as error:
        words, _, path = str(error).partition(" - at `$")
        raise _Refused("bad_value", path.strip("`.")[:64], f"{words}.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _Refused(
            "bad_json", "", 'Write the answer as a JSON object: {"question": "...", "text": "..."}.'
        ) from None
    if not (said.text or said.title or said.body or said.choices or said.hand_over):
        raise _Refused("missing_field", "text", "There is no answer: give it text, title, body, choices or hand_over.")
    if said.text and said.body:
        raise _Refused("bad_value", "body", "The words stand in text or in body, not in both.")
    if _deep(said.data):
        raise _Refused("bad_value", "data", f"More than {DATA_DEPTH_MAX} lists or objects within each other.")
    return said


def _question(said: ServerAnswer, correlation: bytes) -> str:
    try:
        named = correlation.decode()
    except UnicodeDecodeError:
        named = ""
    if not (said.question or named):
        raise _Refused("missing_field", "question", "Say which question that answers, or send its Correlation Data.")
    return said.question or named


def _deep(value: Any, within: int = 0) -> bool:
    if within > DATA_DEPTH_MAX:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_deep(one, within + 1) for one in inner if isinstance(one, dict | list))
