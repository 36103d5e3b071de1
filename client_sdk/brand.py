"""A brand's server for programs with threads."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from client_sdk.backoff import Backoff
from client_sdk.brand_core import BrandCore
from client_sdk.mailbox import guard
from client_sdk.message import Receipt
from client_sdk.sending import SendOptions, Tracked


class Sent(Tracked):
    """An accepted message: the broker has it on disk, or every receiver has it already."""

    def wait_for(self, event: str, *, timeout: float | None = None) -> Receipt | None:
        """The first receipt for `event`, or None when none came within `timeout` seconds."""
        future = self.expect(event)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            return None

    def wait_delivered(self, *, timeout: float | None = None) -> Receipt | None:
        """The first device's acknowledgement, or None when none came in time: it may be switched off."""
        return self.wait_for("delivered", timeout=timeout)


class Brand:
    """Sends as a brand for as long as it is entered.

        with Brand("mqtts://push.example:8883", brand="acme", ca="ca.crt") as brand:
            sent = brand.send(to_user="ada", title="Ciao Ada", body="Your order is ready", ttl=3600)

    It proves itself with `token` (or the environment variable PUSHBROKER_TOKEN), or with a `certificate` and its `key`
    (PEM files). `ca` is the certificate that vouches for the broker, a file or PEM text; without it, the system's
    authorities. A token goes over plain `mqtt://` only to this very machine.

    Entering waits up to `timeout` seconds for the connection, then raises `Unreachable`; it raises `Refused` or
    `Untrusted` at once, as waiting changes nothing. Later the connection comes back by itself. `on_receipt` is called
    for each receipt of any message of the brand, on a thread of its own, and the receipt is acknowledged when it has
    returned. Give a `client_id` of its own to a server that must not miss receipts while it restarts (two running
    processes must not share one); `receipts=False` is for programs that need none.
    """

    def __init__(
        self,
        url: str,
        *,
        brand: str,
        token: str | None = None,
        certificate: Path | str | None = None,
        key: Path | str | None = None,
        ca: Path | str | bytes | None = None,
        on_receipt: Callable[[Receipt], None] | None = None,
        receipts: bool = True,
        client_id: str | None = None,
        timeout: float = 10.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._on_receipt = on_receipt
        self._timeout = timeout
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name=f"{brand}-receipts", daemon=True)
        self._core: BrandCore[Sent] = BrandCore(
            url,
            brand=brand,
            make=lambda message_id, topic, nobody: Sent(message_id, topic, no_subscribers=nobody),
            hear=self._hear,
            token=token,
            certificate=certificate,
            key=key,
            ca=ca,
            client_id=client_id,
            receipts=receipts,
            backoff=backoff,
        )

    def __repr__(self) -> str:
        return repr(self._core)

    def __enter__(self) -> Self:
        self._worker.start()
        self._core.link.start()
        try:
            self._core.ready.result(self._timeout)
        except TimeoutError:
            self.close()
            raise self._core.error from None
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self, *, timeout: float = 5.0) -> None:
        """Wait up to `timeout` seconds for what is being sent, and disconnect."""
        self._jobs.put(None)
        if self._worker.ident is not None and threading.current_thread() is not self._worker:
            self._worker.join(timeout)
        self._core.link.close(timeout)

    def send(self, *, timeout: float = 30.0, **options: Unpack[SendOptions]) -> Sent:
        """Send, and wait until the broker has accepted: from then on it answers for the message.

        The options are those of `SendOptions`: `to_user=`, `to_device=`, `to_store=` or `to_topic=`; `title=`,
        `body=`, `image=`, `click=`, `actions=`, `data=`, `priority=`, `collapse_key=`, `expires_at=`, or a whole
        `notification=`, or a `payload=` with its `content_type=`; `ttl=`, `receipt=`, `user_properties=`.

        Raises `ValueError`; `Refused` when the broker does not accept it; `Unreachable` when it could not be sent
        within `timeout` seconds, and will not be; `Unconfirmed` when it was sent and the answer is missing.
        """
        sending = self._core.send(**options)
        try:
            return sending.result(timeout)
        except TimeoutError:
            raise self._core.gave_up(sending) from None

    def submit(self, **options: Unpack[SendOptions]) -> Future[Sent]:
        """Send without waiting, for many at a time. The future ends as `send` does, except that there is no time limit.

        It is kept and sent as soon as there is a connection; `cancel()` succeeds until then.
        """
        return self._core.send(**options)

    def _hear(self, receipt: Receipt, done: Callable[[], None]) -> None:
        heard = self._on_receipt
        if heard is None:
            done()
            return

        def job() -> None:
            guard(lambda: heard(receipt))
            done()

        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
