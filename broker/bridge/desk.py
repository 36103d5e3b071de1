"""Requests of brands' servers: JSON that they publish to `{brand}/{kind}`, answered on the request's Response Topic.

A request that changes something is a fact before its publisher hears that it was received, so it is done or refused
whatever happens to this process. Without a Response Topic (3.1.1 too) the answer goes to `{brand}/{kind}/answer`.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from broker.bridge import request as requests
from broker.bridge.facts import Asked
from broker.bridge.intake import now_ms
from broker.bridge.message_id import MessageIds
from broker.bridge.request import Answer, Code, RequestRefused, request_id_of
from broker.errors import ProtocolError
from broker.identity import Role
from broker.message import Message
from broker.route.access import may_publish
from broker.session.session import Session
from broker.wire.publish import properties_of
from broker.wire.topics import check_topic_name

SEND: Final = "send"

# Does what a request wants, and returns the answer. It may be called again for one that it has done.
Handler = Callable[[Asked], Awaitable[bytes]]


class Taking(Protocol):
    """Who makes facts of requests, and hands them back in order."""

    def asked(self, request: Asked) -> None:
        """Put it down."""
        ...

    def each(self, sort: str, handler: Callable[[Asked], Awaitable[None]]) -> None:
        """From now on facts of this sort go to `handler`, one by one."""
        ...


class Desk:
    """Hears requests, and answers them.

    serve(filter, service): hear what is published. reply(topic, correlation data, answer): publish it.
    """

    def __init__(
        self,
        *,
        ids: MessageIds,
        intake: Taking,
        serve: Callable[[bytes, Callable[[Message, Session | None], None]], object],
        reply: Callable[[str, bytes, bytes], object],
    ) -> None:
        self._ids = ids
        self._intake = intake
        self._serve = serve
        self._reply = reply
        self._kinds: set[str] = set()
        self._first: dict[str, Callable[[Asked], bool]] = {}

    def on(self, kind: str, handler: Handler, *, first: Callable[[Asked], bool] | None = None) -> None:
        """From now on `handler` answers what is published to `{brand}/{kind}`.

        first(request): whether it sees to the answer itself, and at once, so that it need not be a fact.
        """

        async def answered(request: Asked) -> None:
            self.answer(request, await handler(request))

        self._intake.each(kind, answered)
        if first is not None:
            self._first[kind] = first
        self.open(kind)

    def open(self, kind: str) -> None:
        """From now on what is published to `{brand}/{kind}` becomes facts of this sort."""
        self._kinds.add(kind)
        self._serve(f"+/{kind}".encode(), self.heard)

    def heard(self, message: Message, origin: Session | None) -> None:
        """A brand's server has published to one of the topics."""
        if origin is None or origin.identity.role is not Role.SERVER:
            return
        properties = properties_of(message)
        brand, _, kind = message.topic.decode().partition("/")
        topic = properties.response_topic or _answers(brand, kind)
        payload, correlation = message.payload, properties.correlation_data or b""
        try:
            check_topic_name(topic.encode())
            allowed = may_publish(origin.identity, topic.encode()) and topic.partition("/")[2] not in self._kinds
        except ProtocolError:
            allowed = False
        if not allowed:
            why = RequestRefused(
                Code.BAD_VALUE, "Response Topic", f"answers cannot go to {topic}: name a topic of your own"
            )
            self._reply(_answers(brand, kind), correlation, refusal(why, payload))
            return
        who = origin.identity.path
        request = Asked(brand, who, self._ids.next(), payload, topic, correlation, now_ms(), kind)
        first = self._first.get(kind)
        if first is None or not first(request):
            self._intake.asked(request)

    def answer(self, request: Asked, answer: bytes) -> None:
        """Answer a request."""
        self._reply(request.reply_topic, request.reply_data, answer)


def _answers(brand: str, kind: str) -> str:
    return f"{brand}/{kind}/answer"


def refusal(error: RequestRefused, payload: bytes) -> bytes:
    """What the sender of a request that is not right is told."""
    return requests.encode_answer(
        Answer(
            ok=False,
            request_id=request_id_of(payload),
            code=error.code,
            field=error.field,
            message=error.message,
        )
    )
