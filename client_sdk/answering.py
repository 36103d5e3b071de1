"""A brand's own server: the questions of its routes, and what it answers."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Self

from client_sdk.asking import Choice
from client_sdk.link import Link
from client_sdk.packets import Incoming, Publish
from client_sdk.pushing import to_json
from client_sdk.topics import answered_topic, answers_refused_topic, questions_filter, questions_topic

log = logging.getLogger(__name__)

_UNBOUNDED_S: Final = 60.0  # the longest time limit that a route may have
_TEXTS: Final = ("text", "title", "body", "image", "link", "language")


@dataclass(frozen=True, slots=True)
class Said:
    """What was said before: `by` "customer", "automation", "server" or "agent"."""

    by: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAsked:
    """What a customer asks a brand's server.

    `choice` is the id of one that the server offered, if they took one. `history` is what was said before in the
    conversation, the last 10 at most.
    """

    question: str
    route: str
    text: str
    choice: str = ""
    language: str = ""
    user: str = ""
    device: str = ""
    store: str = ""
    tags: Sequence[str] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    conversation: str = ""
    history: Sequence[Said] = ()

    @classmethod
    def from_json(cls, payload: bytes, route: str) -> Self:
        """Read what came. Raises `ValueError`, `LookupError` or `TypeError` when it is no question."""
        try:
            fields: Any = json.loads(payload.decode())
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error
        names = ("choice", "language", "user", "device", "store", "conversation")
        return cls(
            question=str(fields["question"]),
            route=route,
            text=str(fields["text"]),
            tags=tuple(str(tag) for tag in fields.get("tags", ())),
            attributes=dict(fields.get("attributes", {})),
            history=tuple(Said(str(one["by"]), str(one["text"])) for one in fields.get("history", ())),
            **{name: str(fields.get(name, "")) for name in names},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAnswer:
    """What a brand's server answers: `text` says all of it, or instead `title`, `body`, `image`, `link` are its parts.

    `data` is for the app. `choices` are for tapping: who takes one asks again, with its id in `QuestionAsked.choice`.
    `hand_over`: a person is to answer instead.
    """

    text: str = ""
    title: str = ""
    body: str = ""
    image: str = ""
    link: str = ""
    language: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    choices: Sequence[Choice] = ()
    hand_over: bool = False

    def fields(self) -> dict[str, Any]:
        """As the broker reads it. Raises `ValueError` when it answers nothing."""
        if not (self.text or self.title or self.body or self.choices or self.hand_over):
            raise ValueError("there is no answer: give it text, title, body, choices or hand_over")
        said: dict[str, Any] = {name: value for name in _TEXTS if (value := getattr(self, name))}
        if self.data:
            said["data"] = dict(self.data)
        if self.choices:
            said["choices"] = [{"id": one.id, "title": one.title} for one in self.choices]
        return {**said, **({"hand_over": True} if self.hand_over else {})}


# What handlers return (with asyncio, once awaited): words, a whole answer, or nothing, so that the fallback holds.
Reaction = ServerAnswer | str | None
QuestionHandler = Callable[[QuestionAsked], Any]


class Posed:
    """A question that is to be answered, wherever handlers run. For any thread."""

    def __init__(self, asked: QuestionAsked, handler: QuestionHandler, until: float, say: Callable[[bytes, int], None]):
        self.asked = asked
        self.handler = handler
        self._until = until
        self._say = say

    @property
    def late(self) -> bool:
        """Whether its time is over, so that nobody waits for it."""
        return time.monotonic() >= self._until

    def answer(self, said: object) -> None:
        """Say what the handler returned. Raises `ValueError` or `TypeError` for what is no answer."""
        if said is None:
            return
        answer = ServerAnswer(text=said) if isinstance(said, str) else said
        if not isinstance(answer, ServerAnswer):
            raise TypeError(f"a handler returns text, a ServerAnswer or None, and not {type(said).__name__}")
        left_s = max(1, int(self._until - time.monotonic()))
        self._say(to_json({"question": self.asked.question, **answer.fields()}), left_s)

    def failed(self, error: BaseException) -> None:
        """The handler, or its answer, is no good."""
        name, route = self.asked.question, self.asked.route
        log.error("question %s of %s is not answered, and the fallback holds", name, route, exc_info=error)


class Answering:
    """Hands each question to the handler of its route. pose(posed): have it answered; it must not block.

    On the link's network thread, but for `on` and what `pose` is given.
    """

    def __init__(self, brand: str, link: Link, *, pose: Callable[[Posed], None]) -> None:
        self._brand = brand
        self._link = link
        self._pose = pose
        self._routes: dict[str, tuple[str, QuestionHandler]] = {}  # by topic
        self._refused = answers_refused_topic(brand)
        self._branch = f"{brand}/ask/"

    def on(self, route: str, handler: QuestionHandler) -> None:
        """Have `handler` answer. From any thread."""
        self._routes[questions_topic(self._brand, route)] = route, handler

    @property
    def filters(self) -> list[str]:
        """What it listens to: nothing before there is a handler."""
        filters = [questions_filter(self._brand, route) for route, _ in list(self._routes.values())]
        return [*filters, self._refused] if filters else []

    def arrived(self, incoming: Incoming) -> bool:
        """Whether this was for us: a question, or why an answer is none. It may be acknowledged then."""
        if incoming.topic == self._refused:
            log.warning("an answer to question %r is refused: %r", incoming.correlation_data, incoming.payload)
            return True
        if not incoming.topic.startswith(self._branch):
            return False
        route, handler = self._routes.get(incoming.topic, ("", None))
        if handler is None:  # of a session that outlived its program, which answered more
            log.warning("a question came on %s, which nothing answers here", incoming.topic)
            return True
        try:
            asked = QuestionAsked.from_json(incoming.payload, route)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("a question of %s cannot be read: %r", route, error)
            return True
        until = time.monotonic() + (_UNBOUNDED_S if incoming.expiry_s is None else incoming.expiry_s)
        self._pose(Posed(asked, handler, until, self._say))
        return True

    def _say(self, payload: bytes, expiry_s: int) -> None:
        publish = Publish(
            topic=answered_topic(self._brand), payload=payload, content_type="application/json", expiry_s=expiry_s
        )
        self._link.publish(publish, lambda _: None).add_done_callback(_log_failure)


def _log_failure(said: Future[None]) -> None:
    error = said.exception()
    if error is not None:
        log.warning("an answer has not reached the broker: %s", error)
