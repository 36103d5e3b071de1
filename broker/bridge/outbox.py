"""Tells what happened to rich sends: the brand, as it asks for, and devices, of what another one has opened.

What is to be told stands in the outbox from the transaction in which it happened until it was published, so it is told
after a crash too, and then perhaps twice. One read and one write of the books serve hundreds of receipts.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from broker.bridge.intake import now_ms
from broker.bridge.withdraw import Withdrawals
from broker.errors import Failed
from broker.store.messages import Messages, Older, Untold
from broker.store.outcomes import Counts, Outcomes

AT_ONCE: Final = 500
SUMMARIES_MAX: Final = 1000
# Between two summaries of one message; longer where counting takes long, so that it costs a twentieth of a core.
SUMMARY_S: Final = 2.0
_REST: Final = 20
RETRY_S: Final = 1.0
APP_EVENTS: Final = ("displayed", "opened", "clicked", "dismissed")

_encode: Final = msgspec.json.Encoder().encode


class Receipt(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What the brand is told of one event. The fields of plain receipts, and whom it was addressed to."""

    message_id: str
    event: str
    recipient: str  # user/ada, or device/kiosk-7
    at: str  # UTC, to the millisecond
    device: str = ""
    user: str = ""
    store: str = ""
    reason: str = ""  # why it will not be delivered
    action: str = ""  # which was clicked


class Summary(msgspec.Struct, kw_only=True):
    """What the brand is told of all of them. The last one is `done`, unless somebody opens it later."""

    message_id: str
    event: str = "summary"
    at: str
    counts: Counts
    displayed: int
    opened: int
    clicked: int
    dismissed: int
    done: bool


class PostReceipt(Protocol):
    """Who publishes it."""

    def __call__(self, topic: str, payload: bytes) -> Awaitable[int]:
        """Returns the reason code, when it is certain."""
        ...


class Outbox:
    """Publishes what is in it, for ever.

    changed: there may be something to tell. unable: whether nothing can be kept at present. lost: count receipts that
    a brand's server has no room for.
    """

    def __init__(
        self,
        *,
        messages: Messages,
        outcomes: Outcomes,
        withdrawals: Withdrawals,
        changed: asyncio.Event,
        post: PostReceipt,
        unable: Callable[[], bool],
        lost: Callable[[int], object],
        log: Callable[..., object],
        unexpected: Callable[[Exception], object],
    ) -> None:
        self._messages = messages
        self._outcomes = outcomes
        self._withdrawals = withdrawals
        self._post = post
        self._unable = unable
        self._lost = lost
        self._log = log
        self._unexpected = unexpected
        self._changed = changed
        self._next: dict[int, float] = {}  # when the next summary of a message may come, on the monotonic clock

    async def run(self) -> None:
        """Tell, for ever."""
        self._changed.set()
        while True:
            wait_s = None if not self._next else max(0.0, min(self._next.values()) - time.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            self._changed.clear()
            try:
                while await self._some():
                    pass
                await self._summaries()
            except Failed as error:
                self._log("receipts cannot be told", error=error.message, remedy=error.remedy)
                await asyncio.sleep(RETRY_S)
                self._changed.set()
            except Exception as error:  # noqa: BLE001 - the next ones are told all the same
                self._unexpected(error)
                await asyncio.sleep(RETRY_S)

    async def _some(self) -> bool:
        """Tell some of it. Returns whether there may be more."""
        untold = await self._messages.untold(AT_ONCE)
        if not untold:
            return False
        await self._take_off([one for one in untold if one.event == "opened" and one.kind == "user"])
        await self._publish([(one.brand, one.id, _encode(_receipt(one))) for one in untold if one.receipts == "each"])
        await self._messages.told([one.number for one in untold])
        return len(untold) == AT_ONCE

    async def _take_off(self, opened: Sequence[Untold]) -> None:
        """What somebody has opened leaves their other devices, and does not come to those that have not got it."""
        for brand in {one.brand for one in opened}:
            of_brand = [one for one in opened if one.brand == brand]
            devices = await self._withdrawals.devices_of(brand, sorted({one.name for one in of_brand}))
            there = [one for one in of_brand if one.seq and one.state == "delivered"]
            waiting = [Older(0, 0, one.kind, one.name, one.seq) for one in there]
            self._withdrawals.take_back(brand, waiting, "it was opened on another device")
            for one in of_brand:
                others = [device for device in devices.get(one.name, ()) if device != one.device]
                await self._withdrawals.tell(brand, others, one.id, "opened", one.expires_at)

    async def _summaries(self) -> None:
        now = time.monotonic()
        for message in [message for message, due in self._next.items() if due <= now]:
            del self._next[message]
        for number, message, id, brand in await self._messages.changed(SUMMARIES_MAX):
            if message in self._next:
                continue
            began = time.monotonic()
            figures = await self._outcomes.figures(message)
            said = {name: getattr(figures, name).recipients for name in APP_EVENTS}
            at, counts = _at(now_ms()), figures.counts
            summary = Summary(message_id=id, at=at, counts=counts, done=not counts.waiting, **said)
            await self._publish([(brand, id, _encode(summary))])
            await self._messages.told([number])
            self._next[message] = began + max(SUMMARY_S, _REST * (time.monotonic() - began))

    async def _publish(self, receipts: Sequence[tuple[str, str, bytes]]) -> None:
        """Publish them, in this order. `Failed` when nothing can be kept: all of them are tried again."""
        posts = [self._post(f"{brand}/receipts/{id}", receipt) for brand, id, receipt in receipts]
        refused = sum(reason >= 0x80 for reason in await asyncio.gather(*posts))
        if refused and self._unable():
            raise Failed("nothing can be written to the journal", remedy="pushbroker status says why")
        self._lost(refused)


def _receipt(one: Untold) -> Receipt:
    return Receipt(
        message_id=one.id,
        event=one.event,
        recipient=f"{one.kind}/{one.name}",
        at=_at(one.at),
        device=one.device,
        user=one.name if one.kind == "user" else "",
        store=one.store,
        reason=one.detail if not one.device else "",
        action=one.detail if one.event == "clicked" else "",
    )


def _at(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
