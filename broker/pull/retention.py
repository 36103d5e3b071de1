"""Looks once an hour for what was kept for as long as it may, and forgets it, some at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from broker.bridge.intake import now_ms
from broker.errors import Failed
from broker.store.retention import Retention

SWEEP_S: Final = 3600.0
_REST_S: Final = 0.01  # between two steps: others write, too


class Kept(msgspec.Struct, frozen=True):
    """For how many seconds."""

    conversations_s: int
    questions_s: int
    consents_s: int
    audit_s: int


class Sweeper:
    """Forgets. `kept` may be changed at any time."""

    def __init__(
        self,
        store: Retention,
        kept: Kept,
        log: Callable[..., object],
        unexpected: Callable[[Exception], object],
    ) -> None:
        self._store = store
        self.kept = kept
        self._log = log
        self._unexpected = unexpected

    async def run(self) -> None:
        """For ever; first of all for what the last process left."""
        while True:
            try:
                await self.sweep(now_ms())
            except Failed as error:
                self._log("what is over cannot be forgotten", error=error.message, remedy=error.remedy)
            except Exception as error:  # noqa: BLE001 - it is tried again in an hour
                self._unexpected(error)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self, now: int) -> None:
        """Forget all that is over by now."""
        kept, store = self.kept, self._store
        await _all(lambda: store.conversations(now - kept.conversations_s * 1000))
        await _all(lambda: store.questions(now - kept.questions_s * 1000))
        await _all(lambda: store.audit(now - kept.audit_s * 1000))
        number = await store.consents(now - kept.consents_s * 1000, 0)
        while number:
            await asyncio.sleep(_REST_S)
            number = await store.consents(now - kept.consents_s * 1000, number)


async def _all(step: Callable[[], Awaitable[bool]]) -> None:
    more = True
    while more:
        more = await step()
        await asyncio.sleep(_REST_S)
