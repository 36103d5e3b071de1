"""What a brand's server does, whichever way its program waits."""

import logging
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Generic, TypeVar, Unpack

from client_sdk.address import parse_url, read_pem, tls_context
from client_sdk.advice import Advice, authority
from client_sdk.backoff import Backoff
from client_sdk.errors import PushError, Refused, Unconfirmed, Unreachable, describe, lasting
from client_sdk.link import Link
from client_sdk.message import Receipt
from client_sdk.packets import Accepted, Incoming, UserProperties, first
from client_sdk.sending import Ledger, SendOptions, Tracked, compose
from client_sdk.topics import check_name, receipts_filter

log = logging.getLogger(__name__)

TOKEN_VARIABLE: Final = "PUSHBROKER_TOKEN"  # noqa: S105 - where a token is, not one
_NO_SUBSCRIBERS: Final = 0x10
# Receipts of a moment without a connection; with a client id of one's own, also those of a restart.
_SESSION_EXPIRY: Final = timedelta(hours=1)
_SESSION_EXPIRY_NAMED: Final = timedelta(weeks=1)
_WINDOW: Final = 500

S = TypeVar("S", bound=Tracked)


class BrandCore(Generic[S]):
    """See the module. `hear` gets each receipt, and a function to call when it is dealt with; it must not block."""

    def __init__(
        self,
        url: str,
        *,
        brand: str,
        make: Callable[[str, str, bool], S],
        hear: Callable[[Receipt, Callable[[], None]], None],
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
        self._hear = hear
        self._receipts = receipts
        self._ledger: Ledger[S] = Ledger()
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
        self.link = Link(
            address=address,
            context=context,
            events=self,
            # Every process its own, or they would take each other's session over.
            client_id=client_id or f"{brand}-{secrets.token_hex(8)}",
            username=None if token is None else brand,
            password=token,
            session_expiry_s=int((_SESSION_EXPIRY_NAMED if named else _SESSION_EXPIRY).total_seconds()),
            receive_maximum=_WINDOW,
            forget_session=not named,
            patient=False,
            advice=_advice(brand, certificate, authority(ca)),
            backoff=backoff,
        )
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

    @staticmethod
    def gave_up(sending: Future[S]) -> PushError:
        """The error for a send that took too long, which depends on whether anything was sent at all."""
        if sending.cancel() or sending.cancelled():
            return Unreachable("there was no connection to the broker in time; nothing has been sent")
        return Unconfirmed("the broker did not answer in time; the message may have been accepted or not")

    # -- events of the link --------------------------------------------------------------------------------------------

    def up(self, *, session_present: bool, told: UserProperties) -> None:  # noqa: ARG002
        """Listen for receipts; ready when that is confirmed, so that none is missed."""
        if self._receipts:
            self.link.subscribe([receipts_filter(self.brand)]).add_done_callback(self._subscribed)
        else:
            self._decide(None)

    def _subscribed(self, answer: Future[list[int]]) -> None:
        if answer.exception() is None:
            code = answer.result()[0]
            if code >= 0x80:
                topic = receipts_filter(self.brand)
                self._decide(Refused(f"the subscription to {topic} is refused: {describe(code)}", reason=code))
            else:
                self._decide(None)

    def down(self, error: PushError, retry_in_s: float) -> None:  # noqa: ARG002
        """Whoever waits for the first connection learns at once of what waiting does not change."""
        self.error = error
        if lasting(error):
            self._decide(error)

    def arrived(self, incoming: Incoming) -> None:
        """A receipt, as nothing else is subscribed to."""

        def done() -> None:
            self.link.call(lambda: self.link.ack(incoming.connection, incoming.packet_id, incoming.qos))

        try:
            receipt = Receipt.from_json(incoming.payload)
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
