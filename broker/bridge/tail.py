"""Following topics from inside the process, for `pushbroker tail`."""

import asyncio
from collections import deque
from typing import Final

from broker.message import Message
from broker.route.router import Router
from broker.session.session import Session

# For a reader that is slower than the broker: older ones are dropped and counted, nobody waits for it.
WAITING_MAX: Final = 1000


class Tail:
    """Sees what passes on topics that match its filters, as it was published. `dropped` counts what was too much."""

    def __init__(self, router: Router[Session], filters: list[bytes]) -> None:
        self._router = router
        self._filters = filters
        self._messages: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._last: Message | None = None
        self.dropped = 0
        for filter in filters:
            router.watch(filter, self._heard)

    def _heard(self, message: Message, origin: Session | None) -> None:  # noqa: ARG002 - as services are called
        if message is self._last:
            return  # more than one of the filters matches
        self._last = message
        if len(self._messages) >= WAITING_MAX:
            self._messages.popleft()
            self.dropped += 1
        self._messages.append(message)
        self._arrived.set()

    async def next(self) -> Message:
        """The next message, when there is one."""
        while not self._messages:
            self._arrived.clear()
            await self._arrived.wait()
        return self._messages.popleft()

    def close(self) -> None:
        """Follow no longer."""
        for filter in self._filters:
            self._router.unwatch(filter, self._heard)
