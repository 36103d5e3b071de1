"""What a brand's server does, whichever way its program waits."""

import logging
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, Unpack

from client_sdk.address import parse_url, read_pem, tls_context
from client_sdk.advice import Advice, authority
from client_sdk.answering import Answering, Posed, QuestionHandler
from client_sdk.backoff import Backoff
from client_sdk.errors import PushError, Refused, Unconfirmed, Unreachable, describe, lasting
from client_sdk.link import Link
from client_sdk.message import Receipt, Summary, read_receipt
from client_sdk.packets import LATER, Accepted, Incoming, Later, Publish, UserProperties, first
from client_sdk.pushing import Answer, Push, PushOptions, Request, To, compose_push, compose_withdrawal
from client_sdk.sending import Ledger, PlainSend, SendOptions, compose
from client_sdk.topics import answer_topic, check_name, receipts_filter, request_topic

log = logging.getLogger(__name__)

TOKEN_VARIABLE: Final = "PUSHBROKER_TOKEN"  # noqa: S105 - where a token is, not one
_NO_SUBSCRIBERS: Final = 0x10
# Receipts of a moment without a connection; with a client id of one's own, also those of a restart.
_SESSION_EXPIRY: Final = timedelta(hours=1)
_SESSION_EXPIRY_NAMED: Final = timedelta(weeks=1)
_WINDOW: Final = 500

S = TypeVar("S", bound=PlainSend)
P = TypeVar("P", bound=Push)
T = TypeVar("T")
Heard = Receipt | Summary


@dataclass(slots=True, eq=False)
class _Asked:
    """A request that waits for its answer. `received`: the broker has it, and may only have been unable to say more."""

    request: Request
    publish: Publish
    answered: Callable[[bytes], None]
    received: bool = False
    future: Future[Any] | None = None


class BrandCore(Generic[S, P]):
    """See the module. `hear` gets each receipt, and a function to call when it is dealt with; it must not block.

    pose(question): have it answered; it must not block either.
    """

    def __init__(
        self,
        url: str,
        *,
        brand: str,
        make: Callable[[str, str, bool], S],
        make_push: Callable[[Answer], P],
        hear: Callable[[Heard, Callable[[], None]], None],
        pose: Callable[[Posed], None],
        token: str | None,
        certificate: Path | str | None,
        key: Path | str | None,
        ca: Path | str | bytes | None,
        client_id: str | None,
        receipts: bool,
        backoff: Backoff | None,
    ) -> None:
        self.brand = check_name("brand", brand)
        self.ready: Future[None] = Future()
        self.error: PushError = Unreachable("there is no connection to the broker yet")
        self._make = make
        self._make_push = make_push
        self._hear = hear
        self._receipts = receipts
        self._ledger = Ledger()
        self._asks = False
        self._asked: dict[bytes, _Asked] = {}
        address = parse_url(url)
        if (certificate is None) != (key is None):
            raise ValueError("certificate= and key= go together")
        if certificate is None and token is None:
            token = os.environ.get(TOKEN_VARIABLE)
            if not token:
                raise ValueError(f"give token=, or certificate= and key=, or set {TOKEN_VARIABLE}")
        if not address.tls and not address.loopback:
            raise ValueError(f"a token must not travel in the clear: use mqtts:// instead of {url}")
        context = None
        if address.tls:
            context = tls_context(ca=None if ca is None else read_pem(ca), system=ca is None)
            if certificate is not None and key is not None:
                context.load_cert_chain(certificate, key)
        named = client_id is not None
        # Every process its own, or they would take each other's session over.
        client_id = client_id or f"{brand}-{secrets.token_hex(8)}"
        self._answers = answer_topic(brand, client_id)
        self.link = Link(
            address=address,
            context=context,
            events=self,
            client_id=client_id,
            username=None if token is None else brand,
            password=token,
            session_expiry_s=int((_SESSION_EXPIRY_NAMED if named else _SESSION_EXPIRY).total_seconds()),
            receive_maximum=_WINDOW,
            forget_session=not named,
            patient=False,
            advice=_advice(brand, certificate, authority(ca)),
            backoff=backoff,
        )
        self._answering = Answering(self.brand, self.link, pose=pose)
        self.link.ended.add_done_callback(lambda _: self._fail_asked())
        self._host = address.host

    def __repr__(self) -> str:
        return f"Brand({self.brand!r} at {self._host})"

    # -- from any thread -----------------------------------------------------------------------------------------------

    def send(self, **options: Unpack[SendOptions]) -> Future[S]:
        """Publish. The future fails with `Refused`, `Unreachable` or `Unconfirmed`."""
        publish = compose(self.brand, datetime.now(UTC), **options)

        def accepted(answer: Accepted) -> S:
            message_id = first(answer.user_properties, "message-id") or ""
            return self._ledger.accepted(self._make(message_id, publish.topic, answer.reason == _NO_SUBSCRIBERS))

        return self.link.publish(publish, accepted)

    def push(self, to: To, **options: Unpack[PushOptions]) -> Future[P]:
        """Ask for a rich send. The future fails as that of `send`, and with `Rejected`."""
        request = compose_push(to, **options)

        def accepted(payload: bytes) -> P:
            answer = Answer.from_json(payload)
            if request.ours and answer.duplicate:  # of what was asked on the connection before
                answer = replace(answer, duplicate=False)
            return self._ledger.accepted(self._make_push(answer))

        return self.ask(request, accepted)

    def withdraw(self, message_id: str) -> Future[int]:
        """Ask for a message to be taken back. The future gets how many will not get it."""
        return self.ask(compose_withdrawal(message_id), lambda payload: Answer.from_json(payload).recipients)

    def on_question(self, route: str, handler: QuestionHandler) -> None:
        """Have `handler` answer the questions of a route."""
        self._answering.on(route, handler)
        self.link.call(self._listen_to_questions)

    def ask(self, request: Request, convert: Callable[[bytes], T]) -> Future[T]:
        """Ask the broker. The future gets what `convert` makes of its answer; see `push` for how it fails."""
        correlation = secrets.token_bytes(8)

        def answered(payload: bytes) -> None:
            if future.done():
                return
            try:
                future.set_result(convert(payload))
            except ValueError as error:
                future.set_exception(PushError(f"the broker's answer cannot be read: {error}"))
            except PushError as error:
                future.set_exception(error)

        def received(_: Accepted) -> Later:
            asked.received = True
            return LATER

        self.link.call(self._listen)
        publish = Publish(
            topic=request_topic(self.brand, request.kind),
            payload=request.payload,
            content_type="application/json",
            response_topic=self._answers,
            correlation_data=correlation,
        )
        asked = self._asked[correlation] = _Asked(request, publish, answered)
        future: Future[T] = self.link.publish(publish, received)
        asked.future = future
        future.add_done_callback(lambda _: self._asked.pop(correlation, None))
        return future

    def gave_up(self, sending: Future[Any]) -> PushError:
        """The error for what took too long, which depends on whether anything was sent at all."""
        if sending.cancel() or sending.cancelled():
            return Unreachable("there was no connection to the broker in time; nothing has been sent")
        for correlation, asked in list(self._asked.items()):
            if asked.future is sending:
                self._asked.pop(correlation, None)
                return _no_answer("the broker did not answer in time", asked.request)
        return Unconfirmed("the broker did not answer in time; the message may have been accepted or not")

    # -- events of the link --------------------------------------------------------------------------------------------

    def up(self, *, session_present: bool, told: UserProperties) -> None:  # noqa: ARG002
        """Listen for answers and receipts; ready when that is confirmed, so that none is missed."""
        wanted = [receipts_filter(self.brand)] * self._receipts + [self._answers] * self._asks
        wanted += self._answering.filters
        if wanted:
            self._subscribe(wanted)
        else:
            self._decide(None)

    def _listen(self) -> None:
        """The first request: from now on there are answers."""
        if not self._asks:
            self._asks = True
            if self.link.is_up:
                self._subscribe([self._answers])

    def _listen_to_questions(self) -> None:
        if self.link.is_up:
            self._subscribe(self._answering.filters)

    def _subscribe(self, wanted: list[str]) -> None:
        self.link.subscribe(wanted).add_done_callback(lambda answer: self._subscribed(wanted, answer))

    def _subscribed(self, wanted: list[str], answer: Future[list[int]]) -> None:
        if answer.exception() is not None:
            return
        for topic, code in zip(wanted, answer.result(), strict=True):
            if code >= 0x80:
                error = Refused(f"the subscription to {topic} is refused: {describe(code)}", reason=code)
                if topic == self._answers:
                    self._fail_asked(error)
                elif self.ready.done():  # nobody waits to hear
                    log.error("%s", error)
                else:
                    self._decide(error)
        self._decide(None)
        # The broker may have ended between taking a request and answering it. Its key says that it is the same.
        for asked in list(self._asked.values()):
            if asked.received:
                self.link.publish(asked.publish, lambda _: None)

    def _fail_asked(self, error: PushError | None = None) -> None:
        """No answer will come."""
        for asked in list(self._asked.values()):
            if asked.future is not None and not asked.future.done():
                why = error or _no_answer("the connection was closed before the broker answered", asked.request)
                asked.future.set_exception(why)

    def down(self, error: PushError, retry_in_s: float) -> None:  # noqa: ARG002
        """Whoever waits for the first connection learns at once of what waiting does not change."""
        self.error = error
        if lasting(error):
            self._decide(error)

    def arrived(self, incoming: Incoming) -> None:
        """An answer, a question or a receipt, as nothing else is subscribed to."""

        def done() -> None:
            self.link.call(lambda: self.link.ack(incoming.connection, incoming.packet_id, incoming.qos))

        if incoming.topic == self._answers:
            asked = self._asked.get(incoming.correlation_data)
            if asked is not None:
                asked.answered(incoming.payload)
            done()
            return
        if self._answering.arrived(incoming):
            done()
            return
        try:
            receipt = read_receipt(incoming.payload)
        except ValueError as error:
            log.warning("a receipt on %s cannot be read: %s", incoming.topic, error)
            done()
            return
        self._ledger.received(receipt)
        self._hear(receipt, done)

    def _decide(self, error: PushError | None) -> None:
        if not self.ready.done():
            if error is None:
                self.ready.set_result(None)
            else:
                self.ready.set_exception(error)


def _no_answer(what: str, request: Request) -> Unconfirmed:
    return Unconfirmed(f"{what}; the request may have been accepted or not", remedy=request.remedy)


def _advice(brand: str, certificate: Path | str | None, trusted: str) -> Advice:
    if certificate is None:
        return Advice(
            refusal=f"the token is not one of {brand}, or was revoked",
            remedy=f"Ask the broker's operator for a new one: pushbroker brand token issue {brand}",
            authority=trusted,
        )
    return Advice(
        refusal=f"the certificate {certificate} is not accepted, or not any more",
        remedy=f"Ask the broker's operator for a new one: pushbroker cert issue {brand}/server/NAME --out DIR",
        authority=trusted,
    )
