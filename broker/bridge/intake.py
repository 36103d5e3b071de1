"""Takes in what happened, in order, each thing once, and sees that the bridge's books have it.

What is heard becomes a fact in the journal, in the transaction of all else that happened in that turn. From there it
comes back, after a crash too, and is applied: to the books, with the number of the last fact in the same transaction,
or by the handler of its kind, which may see the last ones a second time.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Any, Final, Protocol

import msgspec

from broker.bridge.facts import Asked, Delivered, Gone, Happening, Questioned, Saying, Sent, decode, encode
from broker.errors import Failed
from broker.identity import Role
from broker.journal import Fact
from broker.limits import SAYING_BYTES_MAX
from broker.message import Message
from broker.session.core import Core
from broker.session.session import Session

# Applied in one transaction.
AT_ONCE: Final = 1000
# What comes one by one and is in no hurry waits for more, so that a transaction is worth its commit.
GATHERED: Final = 100
_LISTENERS: Final = (Role.SERVER, Role.ADMIN)
RETRY_S: Final = 1.0
UP: Final = "+/device/+/up/"
RECEIPT: Final = "receipt"

BOOKED: Final = "booked"
QUESTION: Final = "question"
_UP: Final = "up/"

Handler = Callable[[Saying], Awaitable[None]]
Booked = Sent | Delivered | Gone
# Applies facts of one sort, and remembers the number of the last one with them.
Together = Callable[[Sequence[Any], int], Awaitable[None]]


class Books(Protocol):
    """Who keeps the books."""

    async def book(self, facts: Sequence[Booked | Saying], up_to: int) -> None:
        """Apply these, and remember the number of the last one with them."""
        ...

    async def applied_up_to(self, number: int) -> None:
        """Remember the number of the last fact that others have applied."""
        ...


class Intake:
    """The way from the core to the bridge.

    record(body, firm): have a fact written. applied(number): up to here facts are no longer needed.
    booked: places in the log of whose end the core tells (`gone`). serve(filter, service): hear what is published.
    """

    def __init__(
        self,
        *,
        record: Callable[..., int],
        applied: Callable[[int], object],
        booked: set[int],
        serve: Callable[[bytes, Callable[[Message, Session | None], None]], object],
        log: Callable[..., object],
        unexpected: Callable[[Exception], object],
    ) -> None:
        self._record = record
        self._applied = applied
        self._booked = booked
        self._serve = serve
        self._log = log
        self._unexpected = unexpected
        self._each: dict[str, Callable[[Any], Awaitable[None]]] = {}
        self._together: dict[str, Together] = {}
        self._gather: dict[str, Callable[[Any], float]] = {}
        self._waiting: deque[Fact] = deque()
        self._arrived = asyncio.Event()
        self._books: Books | None = None
        self._why = ("", "", "")
        self.done = 0  # the number of the last fact that was applied
        self._changed = asyncio.Condition()

    def open(self, books: Books) -> None:
        """From now on receipts are heard, and go into these books."""
        self._books = books
        self._together[BOOKED] = books.book
        self._serve(f"{UP}{RECEIPT}".encode(), self.heard)

    def together(self, sort: str, handler: Together, *, gather: Callable[[Any], float] | None = None) -> None:
        """From now on facts of this sort go to `handler`, as many as come, and it books the number of the last.

        gather(fact): how long this one may wait for more of them.
        """
        self._together[sort] = handler
        if gather is not None:
            self._gather[sort] = gather

    def each(self, sort: str, handler: Callable[[Any], Awaitable[None]]) -> None:
        """From now on facts of this sort go to `handler`, one by one."""
        self._each[sort] = handler

    def on(self, kind: str, handler: Handler) -> None:
        """From now on what devices publish to their `up/{kind}` is written down, and goes to `handler`."""
        self.each(f"{_UP}{kind}", handler)
        self._serve(f"{UP}{kind}".encode(), self.heard)

    # -- what happens ------------------------------------------------------------------------------------------------

    def heard(self, message: Message, origin: Session | None) -> None:
        """A device has published to one of the topics that the bridge listens to."""
        if origin is None or origin.identity.role is not Role.DEVICE:
            return
        who = origin.identity
        kind = message.topic.rpartition(b"/")[2].decode()
        # What is longer is refused by whoever takes it; the journal, and the bound of all facts, need not hold it.
        payload = message.payload[: SAYING_BYTES_MAX + 1]
        self._record(encode(Saying(who.brand, who.name, who.user, who.store, kind, payload, now_ms())))

    def asked(self, request: Asked | Questioned) -> None:
        """A brand's server wants something done, or a device wants to know something."""
        self._record(encode(request))

    def delivered(self, session: Session, message: Message) -> None:
        """A session has acknowledged a message on which the bridge keeps books; a server that listens is nobody."""
        who = session.identity
        if who.role not in _LISTENERS:
            self._booked.discard(message.seq)
            fact = Delivered(message.id, message.topic.decode(), who.name or session.client_id, now_ms(), who.store)
            self._record(encode(fact), firm=True)

    def gone(self, seq: int) -> None:
        """The log has forgotten a message that nobody has acknowledged."""
        self._record(encode(Gone(seq, now_ms(), *self._why)), firm=True)

    def take_back(self, core: Core, topic: bytes, seq: int, state: str, rule: str, detail: str) -> bool:
        """Take back a message that waits, and write down why. False: it is in flight somewhere."""
        self._why = (state, rule, detail)
        try:
            return core.take_back(topic, seq)
        finally:
            self._why = ("", "", "")

    def sent(self, message: int, recipients: list[tuple[int, int]]) -> int:
        """These recipients have had a message published to them in this turn. Returns the fact's number."""
        return self._record(encode(Sent(message, now_ms(), recipients)))

    # -- and what becomes of it --------------------------------------------------------------------------------------

    def told(self, facts: Sequence[Fact]) -> None:
        """These are on the disk."""
        self._waiting += facts
        self._arrived.set()

    async def run(self) -> None:
        """Apply what comes, for ever. What cannot be written is tried again; what else goes wrong is told and left."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._some()

    async def _some(self) -> None:
        if self._gather and len(self._waiting) < GATHERED:
            first = self._decoded(self._waiting[0])
            if gather := self._gather.get(_sort(first)):
                await asyncio.sleep(gather(first))
        facts = [self._waiting[at] for at in range(min(len(self._waiting), AT_ONCE))]
        happened = [(fact.number, self._decoded(fact)) for fact in facts]
        for sort, run in groupby(happened, key=lambda one: _sort(one[1])):
            group = list(run)
            await self._applied_all(sort, group)
            for _ in group:
                self._waiting.popleft()
            await self._up_to(group[-1][0])

    async def _applied_all(self, sort: str, group: Sequence[tuple[int, Happening | None]]) -> None:
        """Apply these, with their numbers. Where a bug is in the way, each alone; the one it is about is left."""
        last = group[-1][0]
        while True:
            try:
                await self._apply(sort, [fact for _, fact in group], last)
            except Failed as error:
                self._log("the bridge's books cannot be written", error=error.message, remedy=error.remedy)
                await asyncio.sleep(RETRY_S)
                continue
            except Exception as error:  # noqa: BLE001 - what cannot be applied does not hold up the others, for ever
                if len(group) > 1:
                    for one in group:
                        await self._applied_all(sort, [one])
                else:
                    self._unexpected(error)
                    await self._applied_all("", [(last, None)])
            return

    def _decoded(self, fact: Fact) -> Happening | None:
        try:
            happening: Happening = decode(fact.body)
        except msgspec.MsgspecError as error:  # of a newer version, perhaps
            self._log("a fact cannot be read", number=fact.number, error=str(error))
            return None
        return happening

    async def _apply(self, sort: str, group: Sequence[Any], last: int) -> None:
        assert self._books is not None  # it is open
        if together := self._together.get(sort):
            await together(group, last)
            return
        handler = self._each.get(sort, _nothing)
        for one in group:
            try:
                await handler(one)
            except Failed:
                raise
            except Exception as error:  # noqa: BLE001 - one device's saying does not stop the others'
                self._unexpected(error)
        await self._books.applied_up_to(last)

    async def _up_to(self, number: int) -> None:
        self.done = number
        self._applied(number)
        async with self._changed:
            self._changed.notify_all()

    async def until(self, number: int) -> None:
        """Return when the fact with this number, and all before it, have been applied, or came to nothing."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.done >= number)


async def _nothing(_fact: object) -> None:
    """Becomes of a fact of an older or newer version."""


def _sort(fact: Happening | None) -> str:
    """Which facts are applied together, and by whom; '' by nobody."""
    match fact:
        case None:
            return ""
        case Saying():
            return BOOKED if fact.kind == RECEIPT else f"{_UP}{fact.kind}"
        case Asked():
            return fact.kind
        case Questioned():
            return QUESTION
        case _:
            return BOOKED


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def settling(told: asyncio.Future[int]) -> Callable[[int], None]:
    """What a promise calls: it puts the reason into `told`, unless nobody waits for it any more."""

    def settle(reason: int) -> None:
        if not told.done():
            told.set_result(reason)

    return settle
