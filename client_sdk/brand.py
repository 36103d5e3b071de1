"""A brand's server for programs with threads."""

import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from client_sdk.answering import Posed, QuestionAsked, Reaction
from client_sdk.backoff import Backoff
from client_sdk.brand_core import BrandCore
from client_sdk.content import (
    Stored,
    compose_get,
    compose_put,
    compose_remove,
    compose_set,
    read_changed,
    read_items,
)
from client_sdk.mailbox import guard
from client_sdk.message import Receipt, Summary
from client_sdk.pushing import Push, PushOptions, To
from client_sdk.sending import PlainSend, SendOptions, Tracked

T = TypeVar("T")

_ANSWERING_MAX: Final = 8  # questions that are answered at the same time


class _Waits(Tracked):
    """Blocks until a receipt comes."""

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


class Sent(PlainSend, _Waits):
    """An accepted message: the broker has it on disk, or every receiver has it already."""


class Pushed(Push, _Waits):
    """An accepted push: it is on the broker's disk, and each of its recipients is known."""


class Content:
    """A brand's library of answers, `Brand.content`. What an item may have, and what is refused: docs/content.md.

    All of it raises what `Brand.push` does. A change that is asked for twice is no second change.
    """

    def __init__(self, core: BrandCore[Sent, Pushed]) -> None:
        self._core = core

    def put(self, items: Iterable[Mapping[str, Any]], *, timeout: float = 30.0) -> Stored:
        """Take these items, up to 1,000, each in the place of the one with its name and language.

        Those that are not right are in `Stored.refused`, and hold up no other.
        """
        return _result(self._core, self._core.ask(compose_put(items), Stored.from_json), timeout)

    def set(self, name: str, *, language: str | None = None, timeout: float = 30.0, **changes: Any) -> int:
        """Change some fields of an item, those of `data` one by one: `set("torta", data={"left": 2})`.

        None takes a field back. It changes the item in all its languages, or in one. Returns in how many.
        """
        return _result(self._core, self._core.ask(compose_set(name, language, changes), read_changed), timeout)

    def remove(self, *names: str, language: str | None = None, timeout: float = 30.0) -> int:
        """Remove items, in all their languages or in one. Returns how many there were."""
        return _result(self._core, self._core.ask(compose_remove(names, language), read_changed), timeout)

    def get(self, name: str, *, timeout: float = 30.0) -> list[dict[str, Any]]:
        """An item as it is in each language."""
        return _result(self._core, self._core.ask(compose_get(name), read_items), timeout)


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
    returned; `on_summary` is the same for counts. Give a `client_id` of its own to a server that must not miss receipts
    while it restarts (two running processes must not share one); `receipts=False` is for programs that need none.
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
        on_summary: Callable[[Summary], None] | None = None,
        receipts: bool = True,
        client_id: str | None = None,
        timeout: float = 10.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._on_receipt = on_receipt
        self._on_summary = on_summary
        self._timeout = timeout
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name=f"{brand}-receipts", daemon=True)
        self._answering: set[Future[None]] = set()
        self._pool = ThreadPoolExecutor(_ANSWERING_MAX, thread_name_prefix=f"{brand}-questions")
        self._core: BrandCore[Sent, Pushed] = BrandCore(
            url,
            brand=brand,
            make=lambda message_id, topic, nobody: Sent(message_id, topic, no_subscribers=nobody),
            make_push=Pushed,
            hear=self._hear,
            pose=self._pose,
            token=token,
            certificate=certificate,
            key=key,
            ca=ca,
            client_id=client_id,
            receipts=receipts,
            backoff=backoff,
        )

        self.content = Content(self._core)

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
        """Wait up to `timeout` seconds for what is being answered, and for what is being sent, and disconnect."""
        self._jobs.put(None)
        if self._worker.ident is not None and threading.current_thread() is not self._worker:
            self._worker.join(timeout)
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait(list(self._answering), timeout)
        self._core.link.close(timeout)

    def send(self, *, timeout: float = 30.0, **options: Unpack[SendOptions]) -> Sent:
        """Send, and wait until the broker has accepted: from then on it answers for the message.

        The options are those of `SendOptions`: `to_user=`, `to_device=`, `to_store=` or `to_topic=`; `title=`,
        `body=`, `image=`, `click=`, `actions=`, `data=`, `priority=`, `collapse_key=`, `expires_at=`, or a whole
        `notification=`, or a `payload=` with its `content_type=`; `ttl=`, `receipt=`, `user_properties=`.

        Raises `ValueError`; `Refused` when the broker does not accept it; `Unreachable` when it could not be sent
        within `timeout` seconds, and will not be; `Unconfirmed` when it was sent and the answer is missing.
        """
        return self._result(self._core.send(**options), timeout)

    def submit(self, **options: Unpack[SendOptions]) -> Future[Sent]:
        """Send without waiting, for many at a time. The future ends as `send` does, except that there is no time limit.

        It is kept and sent as soon as there is a connection; `cancel()` succeeds until then.
        """
        return self._core.send(**options)

    def push(self, to: To, *, timeout: float = 30.0, **options: Unpack[PushOptions]) -> Pushed:
        """Send through the bridge: to many at once, on behalf of users who have said what they want, with figures.

            brand.push(To(topics=["news"], stores=["milano"]), title="Open until ten", ttl=3600, receipts="summary")

        It returns when the broker has written down each recipient. The options are those of `PushOptions`. Raises
        `ValueError`; `Rejected` with a code and the field at fault; and what `send` raises. After `Unconfirmed` push it
        again with the `idempotency_key` that the error names: that is no second message.
        """
        return self._result(self._core.push(to, **options), timeout)

    def submit_push(self, to: To, **options: Unpack[PushOptions]) -> Future[Pushed]:
        """Push without waiting, for many at a time. To `push` what `submit` is to `send`."""
        return self._core.push(to, **options)

    def withdraw(self, message_id: str, *, timeout: float = 30.0) -> int:
        """Take back a push: who has not got it will not, and devices take it off the screen.

        Returns how many recipients will not get it. Raises as `push` does; `Rejected` when there is no such message.
        """
        return self._result(self._core.withdraw(message_id), timeout)

    def on_question(self, route: str, handler: Callable[[QuestionAsked], Reaction]) -> None:
        """Have `handler` answer the questions that the brand's rules send to this route; register before entering.

            brand.on_question("search", lambda asked: f"{stock[asked.text]} left")

        It returns the words, a `ServerAnswer`, or None where it has no answer, and runs on a thread of its own, up to
        8 at a time. When it raises that is logged; then, and after the route's time limit, the fallback holds. Programs
        that answer the same route share its questions.
        """
        self._core.on_question(route, handler)

    def _result(self, sending: Future[T], timeout: float) -> T:
        return _result(self._core, sending, timeout)

    def _pose(self, posed: Posed) -> None:
        def job() -> None:
            if posed.late:
                return
            try:
                posed.answer(posed.handler(posed.asked))
            except BaseException as error:  # noqa: BLE001 - whatever it is, sys.exit() too
                posed.failed(error)

        with suppress(RuntimeError):  # closed: the fallback holds
            future = self._pool.submit(job)
            self._answering.add(future)
            future.add_done_callback(self._answering.discard)

    def _hear(self, receipt: Receipt | Summary, done: Callable[[], None]) -> None:
        if isinstance(receipt, Summary):
            self._hear_one(self._on_summary, receipt, done)
        else:
            self._hear_one(self._on_receipt, receipt, done)

    def _hear_one(self, heard: Callable[[T], None] | None, said: T, done: Callable[[], None]) -> None:
        if heard is None:
            done()
            return

        def job() -> None:
            guard(lambda: heard(said))
            done()

        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _result(core: BrandCore[Sent, Pushed], sending: Future[T], timeout: float) -> T:
    try:
        return sending.result(timeout)
    except TimeoutError:
        raise core.gave_up(sending) from None
