"""What to do with each message that arrives: run it, wait, or drop it. Pure: no clock, no network, no thread.

    arrived ─┬─ expired, replaced, handled or withdrawn before, failed too often → acknowledge
             ├─ a copy of one in progress (resent after a reconnect) ───→ take over its ticket
             └─ new ──→ waiting ──→ running ─┬─ handler returned ───────→ on the screen, acknowledge
                           ↑                 ├─ raised: resting ─┐
                           └─────────────────┴───────────────────┘
                                             └─ raised too often ───────→ remember, acknowledge, say so loudly

A newer message with the same collapse key replaces one that still waits; of one on the screen, its handler is told.
What is withdrawn while it waits is dropped. An acknowledgement is due only on the connection on which the (last) copy
came; its ticket says which.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Final, Protocol

from client_sdk.message import Message

# A second try soon, for what was a hiccup; then ever rarer, for what needs a person.
_REST_FIRST_S: Final = 5.0
_REST_LONGEST_S: Final = 300.0


class Remembers(Protocol):
    """What the inbox needs of a device's memory."""

    def handled(self, message_id: str) -> bool:
        """Whether the message is done with."""

    def record(self, message_id: str, *, shown_as: str | None = None) -> None:
        """Remember it as done with; with a collapse key or '', as being on the screen."""

    def newest(self, collapse_key: str) -> str:
        """The newest message that was shown with this key, or ''."""

    def on_screen(self, collapse_key: str) -> tuple[str, ...]:
        """What is on the screen with this key."""

    def attempts(self, message_id: str) -> int:
        """How often its handler was begun."""

    def attempt(self, message_id: str) -> None:
        """Count one more."""

    def forgive(self, message_id: str) -> None:
        """Count one less."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What an acknowledgement needs: the packet id, valid on one connection only (none is due for QoS 0)."""

    connection: int
    packet_id: int
    qos: int


class Verdict(Enum):
    """What became of an arrived or finished message."""

    WAIT = "wait"  # it is in the inbox; call next()
    HANDLED = "handled"
    DUPLICATE = "duplicate"
    EXPIRED = "expired"
    GIVEN_UP = "given up"
    DROPPED = "dropped"  # QoS 0 that came faster than the handler worked
    REPLACED = "replaced"  # by a newer one with its collapse key
    WITHDRAWN = "withdrawn"
    REST = "rest"  # its handler failed; call again() after rest_s

    @property
    def acknowledges(self) -> bool:
        """Whether the broker may forget the message now."""
        return self not in (Verdict.WAIT, Verdict.REST)


@dataclass(slots=True, eq=False)
class Delivery:
    """One message on its way through the handler."""

    message: Message
    ticket: Ticket
    failures: int = 0
    withdrawn: bool = False

    @property
    def rest_s(self) -> float:
        """How long to wait before the handler is tried again."""
        return min(_REST_FIRST_S * 2.0 ** max(self.failures - 1, 0), _REST_LONGEST_S)


class Inbox:
    """All messages that are here and not yet acknowledged.

    At most `concurrency` are with the handler at a time, in the order in which they came, except that one that failed
    lets the others pass. After `attempts_max` failures a message is given up: one that can never be shown must not
    hold a place in the window, or a kiosk in a crash loop, for ever.
    """

    def __init__(self, *, memory: Remembers, attempts_max: int, concurrency: int, waiting_max: int) -> None:
        self._memory = memory
        self._attempts_max = attempts_max
        self._concurrency = concurrency
        self._waiting_max = waiting_max
        self._waiting: deque[Delivery] = deque()
        self._running: set[Delivery] = set()
        self._by_id: dict[str, Delivery] = {}
        self._newest: dict[str, str] = {}  # with each collapse key, of those in `_by_id`

    def arrived(self, message: Message, ticket: Ticket, now: datetime) -> Verdict:
        """Judge a message. QoS 0 needs no acknowledgement, so nothing holds it back but this bound: beyond, dropped."""
        if message.id in self._by_id:
            self._by_id[message.id].ticket = ticket
            return Verdict.WAIT
        if message.id and self._memory.handled(message.id):
            return Verdict.DUPLICATE
        if message.expired(now):
            return self._done(message, Verdict.EXPIRED)
        if self._replaced(message):
            return self._done(message, Verdict.REPLACED)
        if ticket.qos == 0 and len(self._waiting) >= self._waiting_max:
            return Verdict.DROPPED
        failures = self._memory.attempts(message.id) if message.id else 0
        if failures >= self._attempts_max:
            return self._done(message, Verdict.GIVEN_UP)
        delivery = Delivery(message, ticket, failures)
        if message.id:
            self._by_id[message.id] = delivery
            if message.collapse_key:
                self._newest[message.collapse_key] = message.id
        self._waiting.append(delivery)
        return Verdict.WAIT

    def next(self, now: datetime, dropped: Callable[[Delivery, Verdict], None]) -> Delivery | None:
        """The next message for the handler, counted as begun; `dropped` gets those that are no longer to be shown."""
        while self._waiting and len(self._running) < self._concurrency:
            delivery = self._waiting.popleft()
            message = delivery.message
            if verdict := self._spoilt(delivery, now):
                dropped(delivery, self._done(message, verdict))
                continue
            if message.id:
                self._memory.attempt(message.id)
            replaces = self._memory.on_screen(message.collapse_key) if message.id and message.collapse_key else ()
            delivery.message = replace(message, attempt=delivery.failures + 1, replaces=replaces)
            self._running.add(delivery)
            return delivery
        return None

    def withdraw(self, message_ids: Collection[str]) -> bool:
        """These are not to be shown any more. Returns whether the handler is at one of them now."""
        busy = False
        for message_id in message_ids:
            delivery = self._by_id.get(message_id)
            if delivery is not None:
                delivery.withdrawn = True
                busy |= delivery in self._running
            elif not self._memory.handled(message_id):
                self._memory.record(message_id)  # it may still be on its way
        return busy

    def finished(self, delivery: Delivery, *, failed: bool) -> Verdict:
        """The handler returned or raised."""
        self._running.discard(delivery)
        if not failed:
            return self._done(delivery.message, Verdict.HANDLED)
        delivery.failures += 1
        if delivery.withdrawn:
            return self._done(delivery.message, Verdict.WITHDRAWN)
        if delivery.failures >= self._attempts_max:
            return self._done(delivery.message, Verdict.GIVEN_UP)
        return Verdict.REST

    def interrupted(self, delivery: Delivery) -> None:
        """The handler was stopped from outside: no failure of the message, which will come again."""
        self._running.discard(delivery)
        self._forget(delivery.message)
        if delivery.message.id:
            self._memory.forgive(delivery.message.id)

    def again(self, delivery: Delivery, *, connection: int) -> None:
        """It has rested, and now is `connection`."""
        if self._stays(delivery) or delivery.ticket.connection == connection:
            self._waiting.append(delivery)

    def disconnected(self) -> None:
        """Forget what the broker sends again and we could not recognise.

        Messages with an id stay, keep their place and their rest, and take over the new copy's ticket.
        """
        self._waiting = deque(filter(self._stays, self._waiting))

    def _stays(self, delivery: Delivery) -> bool:
        return bool(delivery.message.id) or delivery.ticket.qos == 0

    def _replaced(self, message: Message) -> bool:
        key = message.collapse_key
        if not (key and message.id):
            return False
        return max(self._newest.get(key, ""), self._memory.newest(key)) > message.id  # ids are in order

    def _spoilt(self, delivery: Delivery, now: datetime) -> Verdict | None:
        if delivery.withdrawn:
            return Verdict.WITHDRAWN
        if self._replaced(delivery.message):
            return Verdict.REPLACED
        return Verdict.EXPIRED if delivery.message.expired(now) else None

    def _done(self, message: Message, verdict: Verdict) -> Verdict:
        if message.id:
            self._forget(message)
            self._memory.record(message.id, shown_as=message.collapse_key if verdict is Verdict.HANDLED else None)
        return verdict

    def _forget(self, message: Message) -> None:
        self._by_id.pop(message.id, None)
        if self._newest.get(message.collapse_key) == message.id:
            del self._newest[message.collapse_key]
