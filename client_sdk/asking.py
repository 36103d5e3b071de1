"""Questions, and the conversation that they are part of: what an app may ask, and what it is told."""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Self, TypeVar

from client_sdk.errors import AskRefused, Refused, Unreachable
from client_sdk.link import Link
from client_sdk.packets import Incoming, Publish
from client_sdk.topics import Place

T = TypeVar("T")
log = logging.getLogger(__name__)

# Questions that wait for their answers: a person asks one at a time.
_WAITING_MAX: Final = 100
_KINDS: Final = ("answer", "choice", "person", "nothing")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several to tap. Who takes it asks with it: `device.ask(choice=choice)`."""

    id: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a question was answered.

    `kind`: "answer"; "choice", of `choices`; "person": somebody will answer, as a message of its own, or has the
    conversation already (`text` is empty then); "nothing": there is no answer to that. `text` says all of it in words.
    `by`: "automation", or the brand's own "server". `item` names the brand's item, `data` has its fields.
    """

    question: str
    kind: Literal["answer", "choice", "person", "nothing"]
    by: str = "automation"
    text: str = ""
    item: str = ""
    language: str = ""
    title: str = ""
    body: str = ""
    image: str = ""
    link: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    choices: Sequence[Choice] = ()

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of the JSON. Raises `AskRefused` when the broker says no, `ValueError` for no answer."""
        if "code" in fields:
            raise AskRefused(str(fields.get("message", "")), code=str(fields["code"]))
        if fields.get("kind") not in _KINDS:
            raise ValueError(f"that is no kind of answer: {fields.get('kind')!r}")
        texts = {
            name: str(fields.get(name, ""))
            for name in ("question", "text", "item", "language", "title", "body", "image", "link")
        }
        offered, data = fields.get("choices", ()), fields.get("data", {})
        if not isinstance(offered, list | tuple) or not isinstance(data, dict):
            raise ValueError("choices must be a list, and data an object")
        choices = tuple(Choice(str(one["id"]), str(one["title"])) for one in offered)
        return cls(kind=fields["kind"], by=str(fields.get("by", "automation")), data=data, choices=choices, **texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What somebody said: "customer" (with what they were answered at once), "agent", or "system"."""

    number: int
    at: datetime
    author: str
    who: str
    text: str
    answer: Answer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A conversation so far, the oldest entry first.

    `state`: "automated", "waiting" for a person, with an "agent" (then `agent` says who), or "closed". `read`: up to
    which entry the agent has read.
    """

    conversation: str
    state: str
    agent: str
    read: int
    entries: Sequence[Entry]

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of the JSON. Raises as `Answer.from_fields`."""
        if "code" in fields:
            raise AskRefused(str(fields.get("message", "")), code=str(fields["code"]))
        entries = tuple(
            Entry(
                number=int(one["number"]),
                at=datetime.fromisoformat(one["at"]),
                author=str(one["author"]),
                who=str(one["who"]),
                text=str(one["text"]),
                answer=_answer(one.get("answer")),
            )
            for one in fields["entries"]
        )
        return cls(
            conversation=str(fields["conversation"]),
            state=str(fields["state"]),
            agent=str(fields["agent"]),
            read=int(fields["read"]),
            entries=entries,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationEvent:
    """Something has happened to the conversation: its "state" is another, the agent is "typing", or has "read"."""

    conversation: str
    event: str
    state: str
    agent: str
    read: int


def _answer(fields: Any) -> Answer | None:
    """What an entry was answered; None where that was a refusal, or is still to come."""
    if not isinstance(fields, dict):
        return None
    try:
        return Answer.from_fields(fields)
    except (AskRefused, ValueError, LookupError, TypeError):
        return None


class Asking:
    """Asks, and hands each answer to who waits for it. On the link's network thread, but for what says otherwise.

    subscribe(): have the filters, as they are now, subscribed to. heard(event): tell the app, where it wants to know.
    """

    def __init__(
        self, place: Place, link: Link, *, subscribe: Callable[[], None], heard: Callable[[ConversationEvent], None]
    ) -> None:
        self._place = place
        self._link = link
        self._subscribe = subscribe
        self._heard = heard
        self._waiting: dict[bytes, tuple[Future[Any], Callable[[Mapping[str, Any]], Any]]] = {}
        self._asks = self._listens = False

    @property
    def filters(self) -> frozenset[str]:
        """What it listens to: nothing before it is used."""
        wanted = {self._place.answer_topic} if self._asks else set()
        return frozenset(wanted | ({self._place.conversation_topic} if self._listens else set()))

    def listen(self) -> None:
        """Hear what happens to the conversation. From any thread."""
        self._listens = True
        self._link.call(self._subscribe)

    def ask(self, text: str, locale: str, choice: Choice | str, timeout_s: float) -> Future[Answer]:
        """Ask. The future fails with `AskRefused`, `Unreachable`, `Refused`. From any thread."""
        id = choice.id if isinstance(choice, Choice) else choice
        if not text.strip() and not id:
            raise ValueError("there is no question: give text, or one of the choices")
        said = {"text": text, "locale": locale, "choice": id}
        return self._request(
            "ask", {name: value for name, value in said.items() if value}, timeout_s, Answer.from_fields
        )

    def history(self, before: int | None, most: int, timeout_s: float) -> Future[History]:
        """Ask for what was said. From any thread."""
        return self._request("history", {"before": before or 0, "most": most}, timeout_s, History.from_fields)

    def tell(self, kind: str, said: Mapping[str, Any]) -> None:
        """Say something that is not answered, if there is a connection. From any thread."""

        def say() -> None:
            if self._link.is_up:
                self._link.publish(self._publish(kind, said), lambda _: None)

        self._link.call(say)

    def _request(
        self, kind: str, said: Mapping[str, Any], timeout_s: float, read: Callable[[Mapping[str, Any]], Any]
    ) -> Future[Any]:
        future: Future[Any] = Future()

        def request() -> None:
            if not self._link.is_up:
                future.set_exception(Unreachable("there is no connection, so nothing was asked: ask again later"))
                return
            if len(self._waiting) >= _WAITING_MAX:
                future.set_exception(AskRefused("too many questions wait for their answers", code="too_many"))
                return
            if not self._asks:
                self._asks = True
                self._subscribe()
            key = secrets.token_bytes(8)
            self._waiting[key] = future, read
            future.add_done_callback(lambda _: self._link.call(lambda: self._forget(key)))
            publish = self._publish(kind, said, key, max(1, int(timeout_s)))
            self._link.publish(publish, lambda _: None).add_done_callback(published)

        def published(sent: Future[None]) -> None:
            error = sent.exception()
            if isinstance(error, Refused):
                _fail(future, error)

        if not self._link.call(request):
            future.set_exception(Unreachable("the device is closed"))
        return future

    def _publish(self, kind: str, said: Mapping[str, Any], key: bytes = b"", expiry_s: int | None = None) -> Publish:
        return Publish(
            topic=self._place.up_topic(kind),
            payload=json.dumps(said, ensure_ascii=False).encode(),
            content_type="application/json",
            expiry_s=expiry_s,
            response_topic=self._place.answer_topic if key else "",
            correlation_data=key,
        )

    def _forget(self, key: bytes) -> None:
        self._waiting.pop(key, None)

    def arrived(self, incoming: Incoming) -> bool:
        """Whether this was for us: an answer, or an event of the conversation."""
        if incoming.topic == self._place.answer_topic:
            self._answered(incoming)
        elif incoming.topic == self._place.conversation_topic:
            self._happened(incoming)
        else:
            return False
        return True

    def _answered(self, incoming: Incoming) -> None:
        waiting = self._waiting.pop(incoming.correlation_data, None)
        if waiting is None:
            log.info("an answer came that nobody waits for any more")
            return
        future, read = waiting
        try:
            answer = read(_object(incoming.payload))
        except (AskRefused, Unreachable) as error:
            _fail(future, error)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            _fail(future, AskRefused(f"the answer cannot be read: {error}", code="unreadable"))
        else:
            if future.set_running_or_notify_cancel():
                future.set_result(answer)

    def _happened(self, incoming: Incoming) -> None:
        try:
            fields = _object(incoming.payload)
            event = ConversationEvent(
                conversation=str(fields["conversation"]),
                event=str(fields["event"]),
                state=str(fields["state"]),
                agent=str(fields["agent"]),
                read=int(fields["read"]),
            )
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            log.warning("an event of the conversation cannot be read: %r", error)
            return
        self._heard(event)


def waited(asked: Future[T], timeout_s: float) -> T:
    """What it brings. Raises `Unreachable` when that took too long."""
    try:
        return asked.result(timeout_s)
    except TimeoutError:
        asked.cancel()
        raise _late(timeout_s) from None


async def awaited(asked: Future[T], timeout_s: float) -> T:
    """As `waited`, on an event loop."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(asked), timeout_s)
    except TimeoutError:
        raise _late(timeout_s) from None


def _late(timeout_s: float) -> Unreachable:
    return Unreachable(f"no answer came within {timeout_s:g} s")


def _object(payload: bytes) -> Mapping[str, Any]:
    fields = json.loads(payload.decode())
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    return fields


def _fail(future: Future[Any], error: Exception) -> None:
    try:
        future.set_exception(error)
    except InvalidStateError:  # whoever asked has gone
        log.info("nobody waits any more to hear: %s", error)
