"""When to try again: full jitter, and no reset before a connection has proved itself.

Full jitter (uniform between nothing and a growing ceiling) spreads a fleet that lost its broker at one moment. The
ceiling falls back only after a connection was stable for a while: two devices with one client id take each other's
session over again and again, each time with a good CONNACK, and would do so in a tight loop otherwise.
"""

import random
from collections.abc import Callable


class Backoff:
    """Delays before connection attempts. All times are seconds.

    `first_s` is the first ceiling, doubled with each attempt up to `longest_s`; a connection that lasted `stable_s`
    starts over.
    """

    def __init__(
        self,
        *,
        first_s: float = 1.0,
        longest_s: float = 300.0,
        stable_s: float = 60.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        if not 0 < first_s <= longest_s:
            raise ValueError("first_s must be positive and not above longest_s")
        self.first_s = first_s
        self.longest_s = longest_s
        self.stable_s = stable_s
        self._uniform = uniform
        self._ceiling_s = first_s
        self._up_since: float | None = None

    def connected(self, now: float) -> None:
        """A connection was accepted at `now` (any monotonic clock). This alone resets nothing."""
        self._up_since = now

    def disconnected(self, now: float) -> None:
        """The connection ended at `now`; if it had been stable, delays start small again."""
        if self._up_since is not None and now - self._up_since >= self.stable_s:
            self._ceiling_s = self.first_s
        self._up_since = None

    def hopeless(self) -> None:
        """The broker refused this identity: go on asking, as it may be let in again, but rarely."""
        self._ceiling_s = self.longest_s

    def delay_s(self) -> float:
        """The time to wait before the next attempt, which makes the one after it longer."""
        delay = self._uniform(0.0, self._ceiling_s)
        self._ceiling_s = min(self._ceiling_s * 2, self.longest_s)
        return delay
