"""What a device does, whichever way its program waits: subscriptions, handlers, receipts, renewal.

All of it happens on the link's network thread; the two faces (`device`, `aio`) only carry messages to where handlers
run, and outcomes back. The promise: a message is acknowledged when its handler has returned, and not before; and a
message whose handler has returned is not handed over again, restarts included.
"""

import json
import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Unpack

from client_sdk.address import parse_url
from client_sdk.advice import Advice
from client_sdk.asking import Answer, Asking, Choice, ConversationEvent, History
from client_sdk.backoff import Backoff
from client_sdk.credentials import Credentials
from client_sdk.errors import PushError, Refused, Unreachable, describe
from client_sdk.fleet import CommandHandler, ConfigHandler, Done, Fleet, Perform
from client_sdk.inbox import Delivery, Inbox, Ticket, Verdict
from client_sdk.link import Link
from client_sdk.memory import Memory
from client_sdk.message import Message
from client_sdk.notification import CONTENT_TYPE, Notification, format_time
from client_sdk.packets import Incoming, Publish, UserProperties, first
from client_sdk.preferences import Preferences, Wishes, compose_wishes, merged
from client_sdk.topics import ENROL_ANSWER, ENROL_REQUEST, check_name

log = logging.getLogger(__name__)

SESSION_EXPIRY: Final = timedelta(weeks=4)
# What the broker may send before the first of it is acknowledged: enough to keep the line busy, little enough that a
# kiosk whose handler hangs holds a screenful and not a year of messages.
WINDOW: Final = 32
_LOOK_AT_CERTIFICATE_EVERY_S: Final = 12 * 3600.0
_RENEWAL_TIMEOUT_S: Final = 60.0
_OFF_THE_SCREEN: Final = ("opened", "dismissed")
_PREFERENCES: Final = "preferences"


@dataclass(frozen=True, slots=True)
class Status:
    """Whether the device can be reached, and if not, why and when it tries again (seconds)."""

    connected: bool
    error: PushError | None = None
    retry_in_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Notice:
    """That messages are not to be shown any more."""

    ticket: Ticket
    message_ids: frozenset[str]
    why: str


class DeviceCore:
    """See the module. `hand_over` and the three after it are called on the network thread and must not block.

    take_off(message ids, why, done): have the app take these off the screen, and then call `done`.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        hand_over: Callable[[Delivery], None],
        perform: Perform,
        take_off: Callable[[tuple[str, ...], str, Callable[[], None]], None],
        tell: Callable[[Status], None],
        hear: Callable[[ConversationEvent], None],
        session_expiry: timedelta,
        attempts_max: int,
        concurrency: int,
        backoff: Backoff | None,
    ) -> None:
        self.credentials = credentials
        self._hand_over = hand_over
        self._take_off = take_off
        self._notices: list[_Notice] = []  # of messages that the handler is at now
        self._tell = tell
        self._context = credentials.context()
        self._memory = Memory(credentials.directory / "memory.db")
        self._inbox = Inbox(memory=self._memory, attempts_max=attempts_max, concurrency=concurrency, waiting_max=1_000)
        self._renewals: list[Future[Credentials]] = []  # who waits for the one that is under way
        self._paused = False
        self._connected = False  # and subscribed to all that is wanted
        self._refused: set[str] = set()  # filters that this connection may not have
        self._fleet = Fleet(
            credentials.place,
            self._memory,
            perform=lambda begin, work, done: perform(begin, work, partial(self._performed, done)),
            say=lambda kind, payload: self._say(self._memory.keep(kind, payload), kind, payload),
        )
        address = parse_url(credentials.url)
        self.link = Link(
            address=address,
            context=self._context if address.tls else None,
            events=self,
            client_id=credentials.device,
            session_expiry_s=int(session_expiry.total_seconds()),
            receive_maximum=WINDOW,
            advice=Advice(
                refusal=f"the certificate of {credentials.identity} is not accepted any more",
                remedy="Ask the broker's operator for a new code "
                f"(pushbroker device code {credentials.brand} {credentials.device}), "
                f"remove {credentials.directory / 'identity.json'} and enrol again",
                authority=str(credentials.directory / "ca.crt"),
            ),
            backoff=backoff,
            will=self._state("offline"),
        )
        self._asking = Asking(credentials.place, self.link, subscribe=self._subscribe, heard=hear)

    # -- from any thread -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect, and stay connected."""
        self.link.call(self._start)
        self.link.start()

    def pause(self) -> None:
        """Hand over no more messages; what is not acknowledged comes again next time."""
        self.link.call(self._pause)

    def close(self, timeout_s: float) -> None:
        """Send what waits and disconnect. Blocks for about `timeout_s` at most."""
        self.link.call(self._goodbye)
        self.link.close(timeout_s)
        self._memory.close()

    def finished(self, delivery: Delivery, error: BaseException | None) -> None:
        """A handler returned, or raised `error`."""
        self.link.call(lambda: self._finished(delivery, error))

    def interrupted(self, delivery: Delivery) -> None:
        """A handler was cancelled from outside."""
        self.link.call(lambda: self._inbox.interrupted(delivery))

    def _performed(self, done: Done, output: Any, error: BaseException | None) -> None:
        self.link.call(lambda: done(output, error))

    def on_command(self, name: str, handler: CommandHandler) -> None:
        """Have `handler` do this command."""
        self._fleet.on_command(name, handler)
        self.link.call(self._subscribe)

    def on_config(self, handler: ConfigHandler) -> None:
        """Have `handler` take over configurations."""
        self._fleet.on_config(handler)
        self.link.call(self._subscribe)

    def follow(self, name: str) -> None:
        """Listen to a topic of the brand from now on."""
        self._memory.follow(check_name("topic", name))
        self.link.call(self._subscribe)

    def unfollow(self, name: str) -> None:
        """Stop listening to it."""
        self._memory.unfollow(check_name("topic", name))
        self.link.call(self._subscribe)

    def followed(self) -> frozenset[str]:
        """The names of the followed topics."""
        return self._memory.followed()

    def renew(self) -> Future[Credentials]:
        """Get a new certificate. The future fails with `Refused` or `Unreachable`."""
        future: Future[Credentials] = Future()
        if not self.link.call(lambda: self._renew(future)):
            future.set_exception(Unreachable("the device is closed"))
        return future

    # -- events of the link --------------------------------------------------------------------------------------------

    def up(self, *, session_present: bool, told: UserProperties) -> None:
        """Subscribe to what the broker's session lacks, and look at the certificate."""
        user, store = first(told, "user"), first(told, "store")
        place = self.credentials.place
        if (user is not None and user != place.user) or (store is not None and store != place.store):
            with suppress(OSError):  # a full disk: the broker will tell us again
                self.credentials = self.credentials.moved(
                    user=place.user if user is None else user, store=place.store if store is None else store
                )
        self._refused.clear()
        if not session_present:
            self._memory.confirm(frozenset())
        self._subscribe()
        self._look_at_certificate()
        self._publish_state("online", since=format_time(datetime.now(UTC)))

    def down(self, error: PushError, retry_in_s: float) -> None:
        """Remember that the broker will send again what is not acknowledged."""
        self._connected = False
        self._inbox.disconnected()
        self._renewal_failed(error)
        self._tell(Status(connected=False, error=error, retry_in_s=retry_in_s))

    def arrived(self, incoming: Incoming) -> None:
        """Judge a message and hand over what may be handed over."""
        if incoming.topic == ENROL_ANSWER:
            self.link.ack(incoming.connection, incoming.packet_id, incoming.qos)
            self._renewed(incoming.payload)
            return
        ticket = Ticket(incoming.connection, incoming.packet_id, incoming.qos)
        if self._asking.arrived(incoming) or self._fleet.arrived(incoming.topic, incoming.payload):
            self._ack(ticket)
            return
        place = self.credentials.place
        if incoming.topic == place.preferences_topic:
            self._memory.keep_preferences(incoming.payload)
            self._ack(ticket)
            return
        if incoming.topic == place.withdraw_topic:
            self._withdrawn(ticket, incoming.payload)
            return
        now = datetime.now(UTC)
        message = self._read(incoming, now)
        self._settle(self._inbox.arrived(message, ticket, now), message, ticket)
        self._next()

    # -- messages ------------------------------------------------------------------------------------------------------

    def _read(self, incoming: Incoming, now: datetime) -> Message:
        notification = None
        if incoming.content_type == CONTENT_TYPE:
            try:
                notification = Notification.from_json(incoming.payload)
            except ValueError as error:
                log.warning("a notification on %s cannot be read and is handed over raw: %s", incoming.topic, error)
        ends = [] if incoming.expiry_s is None else [now + timedelta(seconds=incoming.expiry_s)]
        if notification is not None and notification.expires_at is not None:
            ends.append(notification.expires_at)
        return Message(
            id=first(incoming.user_properties, "message-id") or "",
            topic=incoming.topic,
            payload=incoming.payload,
            content_type=incoming.content_type,
            notification=notification,
            user_properties=incoming.user_properties,
            response_topic=incoming.response_topic,
            correlation_data=incoming.correlation_data,
            received_at=now,
            expires_at=min(ends, default=None),
            retained=incoming.retained,
            _report=self.report,
        )

    def _next(self) -> None:
        while not self._paused:
            delivery = self._inbox.next(
                datetime.now(UTC), lambda other, verdict: self._settle(verdict, other.message, other.ticket)
            )
            if delivery is None:
                return
            self._hand_over(delivery)

    def _pause(self) -> None:
        self._paused = True

    def _finished(self, delivery: Delivery, error: BaseException | None) -> None:
        name = delivery.message.id or "without id"
        verdict = self._inbox.finished(delivery, failed=error is not None)
        if verdict is Verdict.REST:
            log.error(
                "the handler failed for message %s on %s (attempt %d); again in %.0f s",
                name, delivery.message.topic, delivery.failures, delivery.rest_s, exc_info=error,
            )  # fmt: skip
            self.link.call_later(delivery.rest_s, lambda: self._again(delivery))
        elif verdict is Verdict.GIVEN_UP:
            log.error(
                "the handler failed for message %s on %s for the last time; it is given up",
                name, delivery.message.topic, exc_info=error,
            )  # fmt: skip
        self._settle(verdict, delivery.message, delivery.ticket)
        notices, self._notices = self._notices, []
        for notice in notices:
            self._withdraw(notice)
        self._next()

    def _again(self, delivery: Delivery) -> None:
        self._inbox.again(delivery, connection=self.link.connection)
        self._next()

    def _settle(self, verdict: Verdict, message: Message, ticket: Ticket) -> None:
        if verdict.acknowledges:
            if verdict is not Verdict.HANDLED:
                log.info("message %s on %s is not shown: %s", message.id or "without id", message.topic, verdict.value)
            self._ack(ticket)

    def _ack(self, ticket: Ticket) -> None:
        self.link.ack(ticket.connection, ticket.packet_id, ticket.qos)

    # -- withdrawals ---------------------------------------------------------------------------------------------------

    def _withdrawn(self, ticket: Ticket, payload: bytes) -> None:
        try:
            said = json.loads(payload.decode())
            message_ids, why = said["message_ids"], str(said.get("why", ""))
            notice = _Notice(ticket, frozenset(str(message_id) for message_id in message_ids), why)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            log.warning("a withdrawal cannot be read: %r", error)
            self._ack(ticket)
            return
        self._withdraw(notice)
        self._next()

    def _withdraw(self, notice: _Notice) -> None:
        if self._inbox.withdraw(notice.message_ids):  # once the handler has returned it is on the screen
            self._notices.append(notice)
            return
        shown = tuple(message_id for message_id in self._memory.on_screen() if message_id in notice.message_ids)

        def done() -> None:
            self.link.call(lambda: self._taken_off(shown, notice.ticket))

        if shown:
            self._take_off(shown, notice.why, done)
        else:
            self._ack(notice.ticket)

    def _taken_off(self, shown: tuple[str, ...], ticket: Ticket) -> None:
        self._memory.take_off(shown)
        self._ack(ticket)

    def on_screen(self) -> tuple[str, ...]:
        """The ids of what is on the screen. From any thread."""
        return self._memory.on_screen()

    # -- preferences ---------------------------------------------------------------------------------------------------

    def preferences(self) -> Preferences:
        """What counts, with what was said here and the broker has not heard yet. From any thread."""
        said = [payload for _, kind, payload in self._memory.kept() if kind == _PREFERENCES]
        return Preferences.from_fields(merged(self._memory.preferences(), *said))

    def set_preferences(self, **wishes: Unpack[Wishes]) -> None:
        """Say what is wanted; kept until the broker has it. From any thread."""
        self._say_kept(_PREFERENCES, compose_wishes(**wishes))

    # -- questions -----------------------------------------------------------------------------------------------------

    def ask(self, text: str, locale: str, choice: Choice | str, timeout_s: float) -> Future[Answer]:
        """Ask the brand. From any thread."""
        return self._asking.ask(text, locale, choice, timeout_s)

    def history(self, before: int | None, most: int, timeout_s: float) -> Future[History]:
        """What was said in the conversation. From any thread."""
        return self._asking.history(before, most, timeout_s)

    def listen(self) -> None:
        """Hear what happens to the conversation. From any thread."""
        self._asking.listen()

    def rate(self, answer: Answer, *, useful: bool) -> None:
        """Whether an answer was of use; kept until the broker has it. From any thread."""
        self._say_of_conversation({"do": "rate", "question": answer.question, "thumb": 1 if useful else -1})

    def read(self, entry: int) -> None:
        """Everything up to this entry was read; kept until the broker has it. From any thread."""
        self._say_of_conversation({"do": "read", "entry": entry})

    def end_conversation(self) -> None:
        """There is no more to say; kept until the broker has it. From any thread."""
        self._say_of_conversation({"do": "close"})

    def typing(self) -> None:
        """The customer is writing. From any thread."""
        self._asking.tell("typing", {})

    def _say_of_conversation(self, said: dict[str, Any]) -> None:
        self._say_kept("conversation", json.dumps(said).encode())

    def _say_kept(self, kind: str, payload: bytes) -> None:
        number = self._memory.keep(kind, payload)
        if not self.link.call(lambda: self._say(number, kind, payload)):
            raise Unreachable("the device is closed")

    # -- what the device says ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for number, kind, payload in self._memory.kept():
            self._say(number, kind, payload)
        self._fleet.start()
        self.link.call_later(_LOOK_AT_CERTIFICATE_EVERY_S, self._look_regularly)

    def report(self, message_id: str, event: str, action: str = "") -> None:
        """What became of a message here, as the app says. From any thread."""
        said = {"message_id": message_id, "event": event, "at": format_time(datetime.now(UTC))}
        payload = json.dumps({**said, "action": action} if action else said).encode()

        def say() -> None:
            if event in _OFF_THE_SCREEN:
                self._memory.take_off([message_id])
            self._say(self._memory.keep("receipt", payload), "receipt", payload)

        if not self.link.call(say):
            log.warning("message %s was %s after the device was closed: nobody is told", message_id, event)

    def _say(self, number: int | None, kind: str, payload: bytes) -> None:
        topic = self.credentials.place.up_topic(kind)

        def said(future: Future[None]) -> None:
            error = future.exception()
            if isinstance(error, Refused):
                log.warning("the broker does not take %r on %s: %s", payload, topic, error)
            if kind == _PREFERENCES and error is None:  # it counts, although the broker has not said so yet
                self._memory.keep_preferences(json.dumps(merged(self._memory.preferences(), payload)).encode())
            if number is not None and (error is None or isinstance(error, Refused)):
                self._memory.drop(number)

        publish = Publish(topic=topic, payload=payload, content_type="application/json")
        self.link.publish(publish, lambda _: None).add_done_callback(said)

    def _state(self, state: str, **more: str) -> Publish:
        payload = json.dumps({"state": state, **more}).encode()
        topic = self.credentials.place.up_topic("state")
        return Publish(topic=topic, payload=payload, content_type="application/json", retain=True)

    def _publish_state(self, state: str, **more: str) -> None:
        self.link.publish(self._state(state, **more), lambda _: None)

    def _goodbye(self) -> None:
        if self.link.is_up:
            self._publish_state("offline")

    # -- subscriptions -------------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        """Make the broker's session match what is wanted, and say that we are connected when it does."""
        if not self.link.is_up:
            return
        wanted = self.credentials.place.filters(self._memory.followed()) | self._fleet.filters | self._asking.filters
        confirmed = self._memory.confirmed()
        missing, unwanted = sorted(wanted - confirmed - self._refused), sorted(confirmed - wanted)
        if unwanted:
            self.link.unsubscribe(unwanted).add_done_callback(lambda answer: self._unsubscribed(unwanted, answer))
        elif missing:
            self.link.subscribe(missing).add_done_callback(lambda answer: self._subscribed(missing, answer))
        elif not self._connected:
            self._connected = True
            self._tell(Status(connected=True))

    def _unsubscribed(self, filters: list[str], answer: Future[list[int]]) -> None:
        if answer.exception() is None:  # else the connection broke, and the next one begins anew
            self._memory.confirm(self._memory.confirmed() - {*filters})
            self._subscribe()

    def _subscribed(self, filters: list[str], answer: Future[list[int]]) -> None:
        if answer.exception() is None:
            refused = {name: code for name, code in zip(filters, answer.result(), strict=True) if code >= 0x80}
            for name, code in refused.items():
                log.error("the broker refuses the subscription to %s: %s", name, describe(code))
            self._refused |= {*refused}
            self._memory.confirm((self._memory.confirmed() | {*filters}) - {*refused})
            self._subscribe()

    # -- certificate ---------------------------------------------------------------------------------------------------

    def _look_regularly(self) -> None:
        self._look_at_certificate()
        self.link.call_later(_LOOK_AT_CERTIFICATE_EVERY_S, self._look_regularly)

    def _look_at_certificate(self) -> None:
        if self.link.is_up and self.credentials.needs_renewal(datetime.now(UTC)):
            future: Future[Credentials] = Future()
            future.add_done_callback(_log_failure)
            self._renew(future)

    def _renew(self, future: Future[Credentials]) -> None:
        if not self.link.is_up:
            future.set_exception(Unreachable("there is no connection"))
            return
        self._renewals.append(future)
        if len(self._renewals) == 1:
            request = Publish(topic=ENROL_REQUEST, payload=self.credentials.request())
            self.link.publish(request, lambda _: None).add_done_callback(self._renewal_asked)
            self.link.call_later(_RENEWAL_TIMEOUT_S, lambda: self._no_answer(future))

    def _renewal_asked(self, asked: Future[None]) -> None:
        error = asked.exception()
        if error is not None:
            self._renewal_failed(error)

    def _no_answer(self, future: Future[Credentials]) -> None:
        if future in self._renewals:
            self._renewal_failed(Unreachable("the broker did not answer the request for a new certificate in time"))

    def _renewal_failed(self, error: BaseException) -> None:
        waiting, self._renewals = self._renewals, []
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _renewed(self, answer: bytes) -> None:
        try:
            self.credentials = self.credentials.accept(answer)
            self.credentials.refresh(self._context)
        except (PushError, OSError) as error:
            self._renewal_failed(error)
            return
        log.info("the certificate was renewed and is good until %s", self.credentials.not_after)
        waiting, self._renewals = self._renewals, []
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(self.credentials)
        self._subscribe()


def _log_failure(renewal: Future[Credentials]) -> None:
    error = renewal.exception()
    if error is not None:
        log.warning("the certificate was not renewed: %s", error)
