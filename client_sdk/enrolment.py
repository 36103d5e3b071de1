"""From a one-time code to a certificate, over the same port that messages use."""

import queue
import time
from concurrent.futures import Future
from pathlib import Path

from client_sdk.address import parse_url, read_pem, tls_context
from client_sdk.advice import Advice, authority
from client_sdk.backoff import Backoff
from client_sdk.credentials import Credentials, prepare
from client_sdk.errors import PushError, Unreachable, lasting
from client_sdk.link import Link
from client_sdk.packets import Incoming, Publish, UserProperties
from client_sdk.topics import ENROL_ANSWER, ENROL_REQUEST


def enrol(
    *, url: str, code: str, directory: Path | str, ca: Path | str | bytes | None = None, timeout: float = 60.0
) -> Credentials:
    """Make a key in `directory`, get a certificate for it with the one-time `code`, and save both there.

    `url` is the broker's, always TLS (`mqtts://host:8883`). `ca` is the certificate that vouches for it: a file or PEM
    text, which the operator hands out together with the code. Without it the system's authorities must vouch; there is
    no way to go without, as whoever answers in the broker's place would get the code.

    When it fails, or the power goes, call it again: the key stays, and with the same key the same code is good again.

    Blocks for up to `timeout` seconds; from asyncio: `await asyncio.to_thread(enrol, ...)`. Raises `Unreachable` when
    the time is up; at once: `Refused` for a code that is wrong or used, `Untrusted` when the broker's certificate is
    not good, and `FileExistsError` when the directory holds an identity already.
    """
    address = parse_url(url)
    if not address.tls:
        raise ValueError(f"a code must not travel in the clear: use mqtts:// instead of {url}")
    directory = Path(directory)
    if (directory / "identity.json").exists():
        raise FileExistsError(f"{directory} holds an identity already: load it with Credentials.load, or remove it")
    credentials = prepare(directory, url=url, ca=None if ca is None else read_pem(ca))
    context = tls_context(ca=(directory / "ca.crt").read_bytes(), system=credentials.trust_system)
    asking = _Asking(credentials.request())
    asking.link = Link(
        address=address,
        context=context,
        events=asking,
        client_id="",  # the broker gives one: there is no name yet
        username="enrol",
        password=code.strip(),
        clean_start=True,
        patient=False,
        advice=Advice(
            refusal="the code is wrong, used up or too old",
            remedy="Ask the broker's operator for a new one: pushbroker device code BRAND DEVICE",
            authority=authority(ca),
        ),
        backoff=Backoff(longest_s=10.0),
    )
    asking.link.start()
    try:
        return credentials.accept(asking.wait(timeout))
    finally:
        asking.link.close()


class _Asking:
    """Asks on each connection until there is an answer."""

    link: Link

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._outcome: queue.SimpleQueue[bytes | PushError] = queue.SimpleQueue()
        self._last: PushError = Unreachable("the broker did not answer the request for a certificate in time")

    def wait(self, timeout_s: float) -> bytes:
        until = time.monotonic() + timeout_s
        while True:
            try:
                outcome = self._outcome.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise self._last from None
            if isinstance(outcome, bytes):
                return outcome
            if lasting(outcome):
                raise outcome
            self._last = outcome

    def up(self, *, session_present: bool, told: UserProperties) -> None:  # noqa: ARG002
        self.link.subscribe([ENROL_ANSWER]).add_done_callback(self._ask)

    def _ask(self, subscribed: Future[list[int]]) -> None:
        if subscribed.exception() is None:  # whatever its reason codes: the answer comes to this connection anyway
            asked = self.link.publish(Publish(topic=ENROL_REQUEST, payload=self._request), lambda _: None)
            asked.add_done_callback(self._asked)

    def _asked(self, asked: Future[None]) -> None:
        error = asked.exception()
        if isinstance(error, PushError):
            self._outcome.put(error)

    def down(self, error: PushError, retry_in_s: float) -> None:  # noqa: ARG002
        self._outcome.put(error)

    def arrived(self, incoming: Incoming) -> None:
        self.link.ack(incoming.connection, incoming.packet_id, incoming.qos)
        if incoming.topic == ENROL_ANSWER:
            self._outcome.put(incoming.payload)
