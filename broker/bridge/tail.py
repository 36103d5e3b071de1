"""Following topics from inside the process: a session without a connection, for `pushbroker tail`."""

import asyncio
from collections import deque
from typing import Final

from broker.identity import ANONYMOUS
from broker.message import Message
from broker.route.subscription import RETAIN_AS_PUBLISHED, Subscription
from broker.session.core import Core
from broker.session.session import Session

# For a reader that is slower than the broker: older ones are dropped and counted, nobody waits for it.
WAITING_MAX: Final = 1000


class Tail(Session):
    """Gets what its filters match, as it was published. `dropped` counts what was too much for the reader."""

    __slots__ = ("_arrived", "_messages", "dropped")

    def __init__(self, core: Core, filters: list[bytes]) -> None:
        super().__init__(core, "$tail", "$tail", ANONYMOUS)
        self._messages: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self.dropped = 0
        for filter in filters:
            self.subscriptions[filter] = Subscription(self, filter, 2 | RETAIN_AS_PUBLISHED)
            core.router.subscribe(self.subscriptions[filter])

    @property
    def unlimited(self) -> bool:
        """Never served on the fast way, which writes to connections."""
        return False

    def take(self, message: Message) -> bool:
        """Keep it for the reader."""
        if len(self._messages) >= WAITING_MAX:
            self._messages.popleft()
            self.dropped += 1
        self._messages.append(message)
        self._arrived.set()
        return True

    async def next(self) -> Message:
        """The next message, when there is one."""
        while not self._messages:
            self._arrived.clear()
            await self._arrived.wait()
        return self._messages.popleft()

    def close(self) -> None:
        """Follow no longer."""
        for subscription in self.subscriptions.values():
            self.core.router.unsubscribe(subscription)
        self.subscriptions.clear()
