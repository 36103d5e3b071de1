"""A device for programs with threads."""

import queue
import threading
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Literal, Self, Unpack

from client_sdk.asking import Answer, Choice, ConversationEvent, waited
from client_sdk.backoff import Backoff
from client_sdk.conversation import Conversation
from client_sdk.credentials import Credentials
from client_sdk.device_core import SESSION_EXPIRY, DeviceCore, Status
from client_sdk.errors import Unreachable, lasting
from client_sdk.fleet import Done
from client_sdk.inbox import Delivery
from client_sdk.mailbox import guard
from client_sdk.message import Message
from client_sdk.preferences import Preferences, Wishes


class Device:
    """Receives a device's messages for as long as it is entered.

        with Device(Credentials.load("kiosk"), on_message=show) as device:
            device.wait()

    `on_message` is called for one message after the other, on a thread of its own. When it returns, the message is
    acknowledged. When it raises, the message is not: it is logged and tried again, 5 s later and then ever more rarely,
    while the others go on; after a restart it comes again, too. After `attempts` failures, deaths of the process
    included, it is given up. So a handler should be quick to return, and may see a message a second time if the power
    goes between its last line and its return; it never sees one again for which it has returned. (All of this holds
    for messages with an id: QoS 1 from a brand. A message without one comes at least once at QoS 1, at most once at 0.)

    A message is on the screen when its handler has returned, until the app says that it was opened or dismissed, a
    newer one with its collapse key takes its place (`Message.replaces` tells its handler), or it is withdrawn: then
    `on_withdrawn` is called with the ids and why: "withdrawn" by the brand, or "opened" on another device of the user.
    `on_screen` lists them. What expires or is withdrawn before is not handed over.

    `ask` asks the brand; `conversation` is what that is part of, with what a person of the brand has to say.

    All are called on the same thread; `on_status` when the connection comes or goes.

    There need not be a network when it starts: it tries for ever, with the pauses of `backoff`. While it is away, the
    broker keeps its messages for `session_expiry`. A device that was revoked tries for ever, too, but rarely, as it may
    be let in again; the error in its `Status` says that it needs a new code.

    Raises `NotEnrolled`, and `InUse` when another process runs the same device.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        on_message: Callable[[Message], None],
        on_withdrawn: Callable[[tuple[str, ...], str], None] | None = None,
        on_status: Callable[[Status], None] | None = None,
        session_expiry: timedelta = SESSION_EXPIRY,
        attempts: int = 5,
        backoff: Backoff | None = None,
    ) -> None:
        self._on_message = on_message
        self._on_withdrawn = on_withdrawn
        self._on_status = on_status
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name=f"{credentials.device}-handler", daemon=True)
        self._changed = threading.Condition()
        self._status = Status(connected=False)
        self._closed = False
        self._core = DeviceCore(
            credentials,
            hand_over=lambda delivery: self._jobs.put(lambda: self._handle(delivery)),
            perform=self._perform,
            take_off=self._take_off,
            tell=self._tell,
            hear=self._hear,
            session_expiry=session_expiry,
            attempts_max=attempts,
            concurrency=1,
            backoff=backoff,
        )
        self.conversation: Final = Conversation(self._core)

    def __enter__(self) -> Self:
        self._worker.start()
        self._core.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self, *, timeout: float = 5.0) -> None:
        """Let the running handler finish, send the receipts that wait, and disconnect: `timeout` seconds for each.

        The broker keeps the session: what is sent from now on waits for the next start.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._core.pause()
        self._jobs.put(None)
        if self._worker.ident is not None and threading.current_thread() is not self._worker:
            self._worker.join(timeout)
        self._core.close(timeout)

    @property
    def credentials(self) -> Credentials:
        """Who this device is, as of the last renewal."""
        return self._core.credentials

    @property
    def status(self) -> Status:
        """Whether the device is connected, and if not, why."""
        return self._status

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the device is closed; False when `timeout` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, timeout)

    def wait_connected(self, *, timeout: float) -> None:
        """Block until the device is connected and subscribed.

        Raises `Refused` as soon as the broker refuses this identity, and `Untrusted` as soon as the broker's own
        certificate is not good, else the last error when the time is up. The device goes on trying all the same.
        """

        def decided() -> bool:
            return self._status.connected or lasting(self._status.error)

        with self._changed:
            self._changed.wait_for(decided, timeout)
            if not self._status.connected:
                raise self._status.error or Unreachable("there is no connection yet")

    def on_command(self, name: str, handler: Callable[[dict[str, str]], object]) -> None:
        """Have `handler` do what the operator tells devices to do under this name; register before entering.

        It gets the arguments, on the same thread as messages. What it returns is the command's output; when it raises,
        the command has failed, and why. Each command is done at most once: one that was begun when the process ended
        counts as failed. So a handler that ends the process, or the machine, returns first and does so a moment later.
        The answer is kept until the broker has it, restarts included.
        """
        self._core.on_command(name, handler)

    def on_config(self, handler: Callable[[dict[str, str]], object]) -> None:
        """Have `handler` take over how the device is to be set up; register before entering.

        It gets all settings: those known at the start, and again at each change. When it has returned, the broker is
        told that they are in force; when it raises, why they are not.
        """
        self._core.on_config(handler)

    def follow(self, topic: str) -> None:
        """Receive what the brand sends to this topic, from now on and after restarts, until `unfollow`."""
        self._core.follow(topic)

    def unfollow(self, topic: str) -> None:
        """Receive it no more."""
        self._core.unfollow(topic)

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

    def set_preferences(self, **wishes: Unpack[Wishes]) -> None:
        """Say what the user wants: `topics=`, `follows=`, `quiet_hours=`, `time_zone=`, `locale=`. See `Wishes`.

        It counts on all of their devices, for what comes through the bridge. It returns at once; what was said is kept
        until the broker has it, restarts included.
        """
        self._core.set_preferences(**wishes)

    def opt_in(self, *topics: str) -> None:
        """The user wants to be sent what is for these topics."""
        self.set_preferences(topics=dict.fromkeys(topics, True))

    def opt_out(self, *topics: str) -> None:
        """They do not, or not any more."""
        self.set_preferences(topics=dict.fromkeys(topics, False))

    def ask(self, text: str = "", *, locale: str = "", choice: Choice | str = "", timeout: float = 30.0) -> Answer:
        """Ask the brand, and return its answer: in words, or by one of the choices of an earlier answer.

        It is answered now or not at all: without a connection it raises `Unreachable`, and so it does when no answer
        came within `timeout` seconds. Raises `AskRefused`, with a code, for what is no question or is too much. What a
        person replies later comes as a message (`Message.reply`).
        """
        return waited(self._core.ask(text, locale, choice, timeout), timeout)

    def rate(self, answer: Answer, *, useful: bool) -> None:
        """Say whether an answer was of use. Returns at once; kept until the broker has it, restarts included."""
        self._core.rate(answer, useful=useful)

    def renew(self, *, timeout: float = 30.0) -> Credentials:
        """Get a new certificate now. This happens by itself when less than a third of its life is left."""
        return self._core.renew().result(timeout)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _handle(self, delivery: Delivery) -> None:
        if self._closed:
            self._core.interrupted(delivery)
            return
        failure: BaseException | None = None
        try:
            self._on_message(delivery.message)
        except BaseException as error:  # noqa: BLE001 - whatever it is, sys.exit() too, the message was not handled
            failure = error
        self._core.finished(delivery, failure)

    def _perform(self, begin: Callable[[], None], work: Callable[[], Any], done: Done) -> None:
        def job() -> None:
            if self._closed:  # it is done at the next start
                return
            output, failure = None, None
            try:
                begin()
                output = work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, sys.exit() too
                failure = error
            done(output, failure)

        self._jobs.put(job)

    def _take_off(self, message_ids: tuple[str, ...], why: str, done: Callable[[], None]) -> None:
        taken_off = self._on_withdrawn

        def job() -> None:
            if taken_off is not None:
                guard(lambda: taken_off(message_ids, why))
            done()

        self._jobs.put(job)

    def _hear(self, event: ConversationEvent) -> None:
        heard = self.conversation.handler
        if heard is not None:
            self._jobs.put(lambda: guard(lambda: heard(event)))

    def _tell(self, status: Status) -> None:
        with self._changed:
            self._status = status
            self._changed.notify_all()
        if self._on_status is not None:
            told = self._on_status
            self._jobs.put(lambda: guard(lambda: told(status)))
