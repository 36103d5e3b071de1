"""A device and a brand's server for asyncio programs.

The connection lives on a thread of its own (see `link` for why); everything that is called here, and every handler,
runs on the event loop.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, Unpack

from client_sdk.answering import Posed, QuestionAsked, Reaction
from client_sdk.asking import Answer, Choice, ConversationEvent, awaited
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
from client_sdk.conversation import AsyncConversation
from client_sdk.credentials import Credentials
from client_sdk.device_core import SESSION_EXPIRY, DeviceCore, Status
from client_sdk.errors import Unreachable, lasting
from client_sdk.fleet import Done
from client_sdk.inbox import Delivery
from client_sdk.mailbox import guard
from client_sdk.message import Message, Receipt, Summary
from client_sdk.preferences import Preferences, Wishes
from client_sdk.pushing import Push, PushOptions, To
from client_sdk.sending import PlainSend, SendOptions, Tracked

T = TypeVar("T")
log = logging.getLogger(__name__)


class _Loop:
    """The way from the network thread to the event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def enter(self) -> None:
        self._loop = asyncio.get_running_loop()

    def post(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Run `function` on the event loop; False when that has ended without closing us."""
        try:
            assert self._loop is not None, "the link starts after enter()"
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return False
        return True

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await work()

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, timeout_s: float) -> None:
        """Let what runs finish, and cancel it when it takes too long."""
        others = self._tasks - {asyncio.current_task()}
        if others:
            _, late = await asyncio.wait(others, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)


class AsyncDevice:
    """Receives a device's messages for as long as it is entered, like `Device`, which tells the whole promise.

        async with AsyncDevice(Credentials.load("kiosk"), on_message=show) as device:
            await device.wait()

    `on_message` is a coroutine function: when it has returned, the message is acknowledged; when it raised, the message
    is tried again later. Up to `concurrency` run at a time; more than one gives up the order. One that is cancelled as
    the device is closed has not handled its message, which comes again next time. `on_withdrawn` is a coroutine
    function, too.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        on_message: Callable[[Message], Awaitable[None]],
        on_withdrawn: Callable[[tuple[str, ...], str], Awaitable[None]] | None = None,
        on_status: Callable[[Status], None] | None = None,
        session_expiry: timedelta = SESSION_EXPIRY,
        attempts: int = 5,
        concurrency: int = 1,
        backoff: Backoff | None = None,
    ) -> None:
        self._on_message = on_message
        self._on_withdrawn = on_withdrawn
        self._on_status = on_status
        self._loop = _Loop()
        self._changed = asyncio.Condition()
        self._status = Status(connected=False)
        self._closed = False
        self._core = DeviceCore(
            credentials,
            hand_over=self._hand_over,
            perform=self._perform,
            take_off=self._take_off,
            tell=self._tell,
            hear=self._hear,
            session_expiry=session_expiry,
            attempts_max=attempts,
            concurrency=concurrency,
            backoff=backoff,
        )
        self.conversation: Final = AsyncConversation(self._core)

    async def __aenter__(self) -> Self:
        self._loop.enter()
        self._core.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the time is for each of three steps
        """Let running handlers finish, send the receipts that wait, and disconnect: `timeout` seconds for each."""
        if self._closed:
            return
        self._closed = True
        self._core.pause()
        await self._loop.drain(timeout)
        await asyncio.to_thread(self._core.close, timeout)
        async with self._changed:
            self._changed.notify_all()

    @property
    def credentials(self) -> Credentials:
        """Who this device is, as of the last renewal."""
        return self._core.credentials

    @property
    def status(self) -> Status:
        """Whether the device is connected, and if not, why."""
        return self._status

    async def wait(self) -> None:
        """Wait until the device is closed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed)

    async def wait_connected(self, *, timeout: float) -> None:  # noqa: ASYNC109 - as `Device.wait_connected`
        """Wait until the device is connected and subscribed. Raises as `Device.wait_connected` does."""

        def decided() -> bool:
            return self._status.connected or lasting(self._status.error)

        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(decided), timeout)
            if not self._status.connected:
                raise self._status.error or Unreachable("there is no connection yet")

    def on_command(self, name: str, handler: Callable[[dict[str, str]], Awaitable[object]]) -> None:
        """Have a coroutine function do a command. As `Device.on_command`; one that is cancelled has failed."""
        self._core.on_command(name, handler)

    def on_config(self, handler: Callable[[dict[str, str]], Awaitable[object]]) -> None:
        """Have a coroutine function take over how the device is to be set up. As `Device.on_config`."""
        self._core.on_config(handler)

    async def follow(self, topic: str) -> None:
        """Receive what the brand sends to this topic, from now on and after restarts, until `unfollow`."""
        await asyncio.to_thread(self._core.follow, topic)

    async def unfollow(self, topic: str) -> None:
        """Receive it no more."""
        await asyncio.to_thread(self._core.unfollow, topic)

    @property
    def followed(self) -> frozenset[str]:
        """The names of the topics that are followed."""
        return self._core.followed()

    @property
    def on_screen(self) -> tuple[str, ...]:
        """The ids of messages that were shown and neither opened, dismissed, replaced nor withdrawn, oldest first.

        It is kept across restarts, up to 1,000 of them.
        """
        return self._core.on_screen()

    def report(
        self, message_id: str, event: Literal["displayed", "opened", "clicked", "dismissed"], action: str = ""
    ) -> None:
        """What `Message.opened` and the others say, for a message of which only the id is left, after a restart."""
        self._core.report(message_id, event, action)

    @property
    def preferences(self) -> Preferences:
        """What the device's user wants, as far as anybody said, here, on another device, or elsewhere."""
        return self._core.preferences()

    async def set_preferences(self, **wishes: Unpack[Wishes]) -> None:
        """Say what the user wants: `topics=`, `follows=`, `quiet_hours=`, `time_zone=`, `locale=`. See `Wishes`.

        It counts on all of their devices, for what comes through the bridge. It returns at once; what was said is kept
        until the broker has it, restarts included.
        """
        await asyncio.to_thread(lambda: self._core.set_preferences(**wishes))

    async def opt_in(self, *topics: str) -> None:
        """The user wants to be sent what is for these topics."""
        await self.set_preferences(topics=dict.fromkeys(topics, True))

    async def opt_out(self, *topics: str) -> None:
        """They do not, or not any more."""
        await self.set_preferences(topics=dict.fromkeys(topics, False))

    async def ask(
        self,
        text: str = "",
        *,
        locale: str = "",
        choice: Choice | str = "",
        timeout: float = 30.0,  # noqa: ASYNC109 - as `Device.ask`
    ) -> Answer:
        """Ask the brand, and return its answer. As `Device.ask`."""
        return await awaited(self._core.ask(text, locale, choice, timeout), timeout)

    async def rate(self, answer: Answer, *, useful: bool) -> None:
        """Say whether an answer was of use. As `Device.rate`."""
        await asyncio.to_thread(lambda: self._core.rate(answer, useful=useful))

    async def renew(self, *, timeout: float = 30.0) -> Credentials:  # noqa: ASYNC109 - as `Device.renew`
        """Get a new certificate now. This happens by itself when less than a third of its life is left."""
        return await asyncio.wait_for(asyncio.wrap_future(self._core.renew()), timeout)

    def _hand_over(self, delivery: Delivery) -> None:
        if not self._loop.post(self._loop.spawn, lambda: self._handle(delivery)):
            self._core.interrupted(delivery)
            self._core.pause()

    async def _handle(self, delivery: Delivery) -> None:
        if self._closed:
            self._core.interrupted(delivery)
            return
        try:
            await self._on_message(delivery.message)
        except asyncio.CancelledError:
            self._core.interrupted(delivery)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the message was not handled
            self._core.finished(delivery, error)
        else:
            self._core.finished(delivery, None)

    def _perform(self, begin: Callable[[], None], work: Callable[[], Awaitable[Any]], done: Done) -> None:
        async def run() -> None:
            if self._closed:  # it is done at the next start
                return
            try:
                await asyncio.to_thread(begin)
                output = await work()
            except Exception as error:  # noqa: BLE001 - whatever it is
                done(None, error)
            else:
                done(output, None)

        self._loop.post(self._loop.spawn, run)

    def _take_off(self, message_ids: tuple[str, ...], why: str, done: Callable[[], None]) -> None:
        taken_off = self._on_withdrawn
        if taken_off is None:
            done()
            return

        async def work() -> None:
            try:
                await taken_off(message_ids, why)
            except Exception:
                log.exception("the handler of withdrawals failed for %s", ", ".join(message_ids))
            done()

        self._loop.post(self._loop.spawn, work)

    def _hear(self, event: ConversationEvent) -> None:
        heard = self.conversation.handler
        if heard is not None:
            self._loop.post(guard, lambda: heard(event))

    def _tell(self, status: Status) -> None:
        self._loop.post(self._loop.spawn, lambda: self._told(status))

    async def _told(self, status: Status) -> None:
        async with self._changed:
            self._status = status
            self._changed.notify_all()
        if self._on_status is not None:
            told = self._on_status
            guard(lambda: told(status))


class _Waits(Tracked):
    """Waits until a receipt comes."""

    async def wait_for(self, event: str, *, timeout: float | None = None) -> Receipt | None:  # noqa: ASYNC109
        """The first receipt for `event`, or None when none came within `timeout` seconds."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.expect(event)), timeout)
        except TimeoutError:
            return None

    async def wait_delivered(self, *, timeout: float | None = None) -> Receipt | None:  # noqa: ASYNC109
        """The first device's acknowledgement, or None when none came in time: it may be switched off."""
        return await self.wait_for("delivered", timeout=timeout)


class AsyncSent(PlainSend, _Waits):
    """An accepted message: the broker has it on disk, or every receiver has it already."""


class AsyncPushed(Push, _Waits):
    """An accepted push: it is on the broker's disk, and each of its recipients is known."""


class AsyncContent:
    """A brand's library of answers, `AsyncBrand.content`. As `Content`."""

    def __init__(self, core: BrandCore[AsyncSent, AsyncPushed]) -> None:
        self._core = core

    async def put(self, items: Iterable[Mapping[str, Any]], *, timeout: float = 30.0) -> Stored:  # noqa: ASYNC109
        """Take these items, up to 1,000. As `Content.put`."""
        return await _result(self._core, self._core.ask(compose_put(items), Stored.from_json), timeout)

    async def set(self, name: str, *, language: str | None = None, timeout: float = 30.0, **changes: Any) -> int:  # noqa: ASYNC109
        """Change some fields of an item. As `Content.set`."""
        return await _result(self._core, self._core.ask(compose_set(name, language, changes), read_changed), timeout)

    async def remove(self, *names: str, language: str | None = None, timeout: float = 30.0) -> int:  # noqa: ASYNC109
        """Remove items. As `Content.remove`."""
        return await _result(self._core, self._core.ask(compose_remove(names, language), read_changed), timeout)

    async def get(self, name: str, *, timeout: float = 30.0) -> list[dict[str, Any]]:  # noqa: ASYNC109
        """An item as it is in each language."""
        return await _result(self._core, self._core.ask(compose_get(name), read_items), timeout)


class AsyncBrand:
    """Sends as a brand for as long as it is entered, like `Brand`, which explains the arguments.

        async with AsyncBrand("mqtts://push.example:8883", brand="acme", ca="ca.crt") as brand:
            sent = await brand.send(to_user="ada", title="Ciao Ada", ttl=3600)
            await sent.wait_delivered(timeout=10)

    `on_receipt` and `on_summary` are coroutine functions; a receipt is acknowledged when they have returned.
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
        on_receipt: Callable[[Receipt], Awaitable[None]] | None = None,
        on_summary: Callable[[Summary], Awaitable[None]] | None = None,
        receipts: bool = True,
        client_id: str | None = None,
        timeout: float = 10.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._on_receipt = on_receipt
        self._on_summary = on_summary
        self._timeout = timeout
        self._loop = _Loop()
        self._core: BrandCore[AsyncSent, AsyncPushed] = BrandCore(
            url,
            brand=brand,
            make=lambda message_id, topic, nobody: AsyncSent(message_id, topic, no_subscribers=nobody),
            make_push=AsyncPushed,
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

        self.content = AsyncContent(self._core)

    def __repr__(self) -> str:
        return repr(self._core)

    async def __aenter__(self) -> Self:
        self._loop.enter()
        self._core.link.start()
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._core.ready), self._timeout)
        except TimeoutError:
            await self.close()
            raise self._core.error from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the time is for each of two steps
        """Wait up to `timeout` seconds for what is being sent, and disconnect."""
        await self._loop.drain(timeout)
        await asyncio.to_thread(self._core.link.close, timeout)

    async def send(self, *, timeout: float = 30.0, **options: Unpack[SendOptions]) -> AsyncSent:  # noqa: ASYNC109
        """Send, and wait until the broker has accepted. Options and errors are those of `Brand.send`.

        Many at a time: `asyncio.gather` them.
        """
        return await self._result(self._core.send(**options), timeout)

    async def push(self, to: To, *, timeout: float = 30.0, **options: Unpack[PushOptions]) -> AsyncPushed:  # noqa: ASYNC109
        """Send through the bridge. Options and errors are those of `Brand.push`."""
        return await self._result(self._core.push(to, **options), timeout)

    async def withdraw(self, message_id: str, *, timeout: float = 30.0) -> int:  # noqa: ASYNC109
        """Take back a push, and return how many recipients will not get it. As `Brand.withdraw`."""
        return await self._result(self._core.withdraw(message_id), timeout)

    def on_question(self, route: str, handler: Callable[[QuestionAsked], Awaitable[Reaction]]) -> None:
        """Have the coroutine function `handler` answer a route's questions, all at a time. As `Brand.on_question`."""
        self._core.on_question(route, handler)

    async def _result(self, sending: Future[T], timeout: float) -> T:  # noqa: ASYNC109
        return await _result(self._core, sending, timeout)

    def _pose(self, posed: Posed) -> None:
        async def work() -> None:
            if posed.late:
                return
            try:
                posed.answer(await posed.handler(posed.asked))
            except Exception as error:  # noqa: BLE001 - whatever it is
                posed.failed(error)

        self._loop.post(self._loop.spawn, work)

    def _hear(self, receipt: Receipt | Summary, done: Callable[[], None]) -> None:
        if isinstance(receipt, Summary):
            self._hear_one(self._on_summary, receipt, done)
        else:
            self._hear_one(self._on_receipt, receipt, done)

    def _hear_one(self, heard: Callable[[T], Awaitable[None]] | None, said: T, done: Callable[[], None]) -> None:
        if heard is None:
            done()
            return

        async def work() -> None:
            try:
                await heard(said)
            finally:
                done()

        self._loop.post(self._loop.spawn, work)


async def _result(core: BrandCore[AsyncSent, AsyncPushed], sending: Future[T], timeout_s: float) -> T:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(sending), timeout_s)
    except TimeoutError:
        raise core.gave_up(sending) from None
