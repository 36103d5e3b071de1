"""What to do with each message that arrives: run it, wait, or drop it. Pure: no clock, no network, no thread.

    arrived ─┬─ expired, handled before, failed too often ──────────────→ acknowledge
             ├─ a copy of one in progress (resent after a reconnect) ───→ take over its ticket
             └─ new ──→ waiting ──→ running ─┬─ handler returned ───────→ remember, acknowledge
                           ↑                 ├─ raised: resting ─┐
                           └─────────────────┴───────────────────┘
                                             └─ raised too often ───────→ remember, acknowledge, say so loudly

An acknowledgement is due only on the connection on which the (last) copy came; its ticket says which.
"""

from collections import deque
from collections.abc import Callable
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

    def record(self, message_id: str) -> None:
        """Remember it as done with."""

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

    def arrived(self, message: Message, ticket: Ticket, now: datetime) -> Verdict:
        """Judge a message. QoS 0 needs no acknowledgement, so nothing holds it back but this bound: beyond, dropped."""
        if message.id in self._by_id:
            self._by_id[message.id].ticket = ticket
            return Verdict.WAIT
        if message.id and self._memory.handled(message.id):
            return Verdict.DUPLICATE
        if message.expired(now):
            return self._done(message, Verdict.EXPIRED)
        if ticket.qos == 0 and len(self._waiting) >= self._waiting_max:
            return Verdict.DROPPED
        failures = self._memory.attempts(message.id) if message.id else 0
        if failures >= self._attempts_max:
            return self._done(message, Verdict.GIVEN_UP)
        delivery = Delivery(message, ticket, failures)
        if message.id:
            self._by_id[message.id] = delivery
        self._waiting.append(delivery)
        return Verdict.WAIT

    def next(self, now: datetime, expired: Callable[[Delivery], None]) -> Delivery | None:
        """The next message for the handler, counted as begun; `expired` gets those that became too old in the queue."""
        while self._waiting and len(self._running) < self._concurrency:
            delivery = self._waiting.popleft()
            if delivery.message.expired(now):
                self._done(delivery.message, Verdict.EXPIRED)
                expired(delivery)
                continue
            if delivery.message.id:
                self._memory.attempt(delivery.message.id)
            delivery.message = replace(delivery.message, attempt=delivery.failures + 1)
            self._running.add(delivery)
            return delivery
        return None

    def finished(self, delivery: Delivery, *, failed: bool) -> Verdict:
        """The handler returned or raised."""
        self._running.discard(delivery)
        if not failed:
            return self._done(delivery.message, Verdict.HANDLED)
        delivery.failures += 1
        if delivery.failures >= self._attempts_max:
            return self._done(delivery.message, Verdict.GIVEN_UP)
        return Verdict.REST

    def interrupted(self, delivery: Delivery) -> None:
        """The handler was stopped from outside: no failure of the message, which will come again."""
        self._running.discard(delivery)
        self._by_id.pop(delivery.message.id, None)
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

    def _done(self, message: Message, verdict: Verdict) -> Verdict:
        if message.id:
            self._by_id.pop(message.id, None)
            self._memory.record(message.id)
        return verdict
