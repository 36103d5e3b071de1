"""Sends what was accepted, when its time has come: to each recipient once, as fast as its sender wants it.

Some recipients at a time: who is to wait or to be left out is sorted out, the others get the message published in one
turn of the core, together with the fact that they did. So a crash leaves both or neither, and the next some are looked
for when the books have that fact.
"""

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec

from broker.bridge.intake import Intake, now_ms, settling
from broker.errors import Failed
from broker.limits import PURGED_MAX
from broker.message import BOOKED, Message, Promise
from broker.session.core import Core
from broker.store.messages import Decision, Due, Happened, MessageRow, Messages, Older
from broker.wire.codes import Reason
from broker.wire.packets import Properties
from broker.wire.publish import forwarded, message_id

# Published in one turn: 2 ms, so that those who are connected do not wait for longer.
AT_ONCE: Final = 100
SWEEP_S: Final = 1.0
SWEPT_MAX: Final = 1000
PURGES: Final = 10  # in a sweep: others write meanwhile
# While nothing can be written, and after what was not expected.
PAUSE_S: Final = 1.0
# The wall clock may be set while we sleep; nobody notices a message that is late by so much then.
NAP_S: Final = 60.0

Restrain = Callable[[MessageRow, Sequence[Due], int], Awaitable[list[Decision]]]


class _Sending(msgspec.Struct):
    """A message some of whose recipients are to be served now."""

    row: MessageRow
    next_at: float = 0.0  # on the monotonic clock


class Announce(Protocol):
    """Who wants to know what happened."""

    def announce(self, happened: Sequence[Happened]) -> None:
        """This is in the books."""
        ...


class Dispatcher:
    """Serves the recipients of all messages in turn.

    run(work): do something to the core, and write out what came of it. restrain: who is not to get a message now, or at
    all.
    """

    def __init__(
        self,
        *,
        core: Core,
        messages: Messages,
        intake: Intake,
        books: Announce,
        restrain: Restrain,
        run: Callable[[Callable[[], object]], None],
        kept_s: int,
        log: Callable[..., object],
    ) -> None:
        self._core = core
        self._messages = messages
        self._intake = intake
        self._books = books
        self._restrain = restrain
        self._run = run
        self._log = log
        self.kept_s = kept_s  # how long what became of a message is kept
        self._due: list[tuple[int, int]] = []  # when, in milliseconds of the wall clock, and which message
        self._sending: dict[int, _Sending] = {}
        self._changed = asyncio.Event()
        self._newer: list[int] = []  # messages that take the place of what waits under their keys
        self.held: set[tuple[str, str | None]] = set()  # brand and name of campaigns of which nothing is sent for now

    def schedule(self, message: int, due_at: int) -> None:
        """A message has recipients to be served from `due_at` on (milliseconds)."""
        heapq.heappush(self._due, (due_at, message))
        self._changed.set()

    def supersede(self, message: int) -> None:
        """What is still to be sent under the collapse key of an older message than this is not sent any more.

        A message replaces what its recipients have not got when it is sent; this one, without waiting for that.
        """
        self._newer.append(message)
        self._changed.set()

    def forget(self, message: int) -> None:
        """It was withdrawn: nobody more is served."""
        self._sending.pop(message, None)

    async def look(self) -> None:
        """See what there is to be sent."""
        for number, due_at in await self._messages.scheduled():
            self.schedule(number, due_at)

    async def run(self) -> None:
        """Serve, for ever."""
        looked = False
        while True:
            try:
                if not looked:
                    await self.look()
                    looked = True
                await self._round()
            except Failed as error:
                self._failed(error)
                await asyncio.sleep(PAUSE_S)
            except Exception as error:  # noqa: BLE001 - it serves on
                self._core.unexpected(error)
                await asyncio.sleep(PAUSE_S)

    def _failed(self, error: Failed) -> None:
        self._log("messages cannot be sent", error=error.message, remedy=error.remedy)

    async def _round(self) -> None:
        if self._newer and not await self._superseded(self._newer[0]):
            del self._newer[0]
        now = now_ms()
        while self._due and self._due[0][0] <= now:
            due_at, number = heapq.heappop(self._due)
            if number not in self._sending:
                try:
                    row = await self._messages.numbered(number)
                except Failed:
                    self.schedule(number, due_at)
                    raise
                if row is not None and row.state == "open" and (row.brand, row.campaign) not in self.held:
                    self._sending[number] = _Sending(row)
        soonest = 0.0 if self._newer else time.monotonic() + NAP_S
        for number, sending in list(self._sending.items()):
            if sending.next_at > time.monotonic():
                soonest = min(soonest, sending.next_at)
                continue
            soonest = 0.0
            try:
                await self._some(number, sending)
            except Failed as error:
                self._failed(error)
                sending.next_at = time.monotonic() + PAUSE_S
            except Exception as error:  # noqa: BLE001 - one message's bug is not the others' end
                self._core.unexpected(error)
                sending.next_at = time.monotonic() + PAUSE_S
        if soonest:
            if self._due:
                soonest = min(soonest, time.monotonic() + (self._due[0][0] - now_ms()) / 1000)
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, soonest - time.monotonic())):
                    await self._changed.wait()

    async def _some(self, number: int, sending: _Sending) -> None:
        """Serve some recipients of one message."""
        row = sending.row
        if (row.brand, row.campaign) in self.held:
            self._sending.pop(number, None)
            return
        most = AT_ONCE if row.throttle is None else max(1, min(AT_ONCE, int(row.throttle / 10)))
        due, next_at = await self._messages.due(number, now_ms(), most)
        if not due:
            self.forget(number)
            if next_at is not None:
                self.schedule(number, next_at)
            return
        decisions = await self._restrain(row, due, now_ms())
        if decisions:
            await self._decided(row, decisions)
            out = {decision.recipient for decision in decisions}
            due = [one for one in due if one.number not in out]
        if not due:
            return
        if row.collapse_key:
            await self._replace(row, due)
        if row.throttle is not None:
            sending.next_at = time.monotonic() + len(due) / row.throttle
        if number not in self._sending:
            return  # withdrawn meanwhile
        turn = _Turn(self._core, self._intake, row)
        self._run(lambda: turn.publish(due))
        if not (turn.fact or turn.refused):
            turn.failed = True  # also by a bug, which has been told: what goes wrong is not tried all the time
        if turn.refused:
            await self._decided(row, turn.refused)
        if turn.fact:
            if not await turn.settled():
                turn.failed = True
            else:
                await self._intake.until(turn.fact)
        if turn.failed:
            sending.next_at = time.monotonic() + PAUSE_S

    async def _decided(self, row: MessageRow, decisions: Sequence[Decision]) -> None:
        happened = await self._messages.decide(row.number, now_ms(), decisions)
        self._books.announce(happened)

    async def _replace(self, row: MessageRow, due: Sequence[Due]) -> None:
        """Take back what waits for these under the same collapse key."""
        older = await self._messages.older(row, due)
        if not older:
            return
        why = f"{row.id} replaces it, with the collapse key {row.collapse_key!r}"
        self._run(lambda: self._take_back(row.brand, older, why))
        waiting = [(one.message, one.recipient) for one in older if one.seq is None]
        self._books.announce(await self._messages.end(waiting, "replaced", "collapse", why, now_ms()))

    async def _superseded(self, number: int) -> bool:
        """Some of that, between those that are served, so that none of it is just being sent. False: it is all done."""
        row = await self._messages.numbered(number)
        waiting = [] if row is None else await self._messages.unsent(row, SWEPT_MAX)
        if row is None or not waiting:
            return False
        why = f"{row.id} replaces it, with the collapse key {row.collapse_key!r}"
        self._books.announce(await self._messages.end(waiting, "replaced", "collapse", why, now_ms()))
        return True

    def _take_back(self, brand: str, older: Sequence[Older], why: str) -> None:
        for one in older:
            if one.seq is not None:
                topic = topic_of(brand, one.kind, one.name)
                self._intake.take_back(self._core, topic, one.seq, "replaced", "collapse", why)

    async def sweep(self) -> None:
        """End what has waited for too long, and forget what was over long ago; for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                while happened := await self._messages.expire(now_ms(), SWEPT_MAX):
                    self._books.announce(happened)
                await self._messages.forget_keys(now_ms())
                for _ in range(PURGES):
                    if not await self._messages.purge(now_ms() - self.kept_s * 1000, PURGED_MAX):
                        break
            except Failed as error:
                self._log("messages cannot be looked through", error=error.message, remedy=error.remedy)
            except Exception as error:  # noqa: BLE001 - as above
                self._core.unexpected(error)


class _Turn:
    """What one turn of the core makes of some recipients."""

    def __init__(self, core: Core, intake: Intake, row: MessageRow) -> None:
        self._core = core
        self._intake = intake
        self._row = row
        self._open: list[asyncio.Future[int]] = []
        self.fact = 0
        self.refused: list[Decision] = []
        self.failed = False  # nothing can be written at present: the others wait

    def publish(self, due: Sequence[Due]) -> None:
        """Publish the message to each of these, and write down that they have it."""
        core, row = self._core, self._row
        properties = _properties(row)
        expires_at = row.expires_at / 1000 - core.log.offset
        sent: list[tuple[int, int]] = []
        loop = asyncio.get_running_loop()
        try:
            for one in due:
                topic = topic_of(row.brand, one.kind, one.name)
                message = Message(
                    topic, row.payload, 1, False, properties, expires_at, "", row.id, tracked=True, receipt=BOOKED
                )
                promise = Promise()
                settled = loop.create_future()
                promise.then, promise.deferred = settling(settled), True
                reason = core.publish(message, once=True, promise=promise, must=True)
                if reason == Reason.QUOTA_EXCEEDED:
                    if core.unable:
                        self.failed = True
                        break
                    detail = "as much as may waits for one of the recipient's sessions already"
                    self.refused.append(Decision(one.number, "dropped", "queue_full", detail))
                elif promise.reason == Reason.NO_MATCHING_SUBSCRIBERS:
                    detail = "no device of the recipient's has ever subscribed, or its session is over"
                    self.refused.append(Decision(one.number, "dropped", "no_subscriber", detail))
                else:
                    if promise.logged:
                        core.log.booked.add(message.seq)
                    sent.append((one.number, message.seq if promise.logged else 0))
                    if reason is None:
                        self._open.append(settled)
        finally:  # whatever became of the others, these are not to get it again
            if sent:
                self.fact = self._intake.sent(row.number, sent)

    async def settled(self) -> bool:
        """Whether all of it is on the disk, once that is known."""
        reasons: list[Any] = await asyncio.gather(*self._open)
        return all(reason < 0x80 for reason in reasons)


def topic_of(brand: str, kind: str, name: str) -> bytes:
    """Where a recipient gets its messages."""
    return f"{brand}/{kind}/{name}".encode()


def _properties(row: MessageRow) -> bytes:
    said = []
    if row.collapse_key:
        said.append(("collapse-key", row.collapse_key))
    if row.priority == "high":
        said.append(("priority", "high"))
    more = forwarded(Properties(content_type=row.content_type or None, user_properties=said))
    return message_id(row.id) + more
