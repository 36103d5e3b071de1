"""One coarse timer wheel for all deadlines: keep-alive, session expiry, will delay. No timer for each connection."""

from collections.abc import Callable
from typing import Final, Protocol

# What is further ahead than this many seconds hangs under a multiple of them, is asked there, and hung again where it
# belongs: a set for each second of 90 days would cost every session 250 bytes.
COARSE_S: Final = 1024


class Timed(Protocol):
    """Something with a deadline that moves. `wheel_at` is the wheel's own mark: the second under which it hangs."""

    wheel_at: int

    def due(self, now: float) -> float:
        """Do what is due at `now`, if anything is; return the next time to ask (0 = never again)."""
        ...


class Wheel:
    """Buckets of one second. A deadline that moves later costs nothing: it is asked again when the old one comes."""

    __slots__ = ("_at", "_buckets", "behind")

    def __init__(self, now: float) -> None:
        self._at = int(now)
        self._buckets: dict[int, set[Timed]] = {}
        self.behind = False  # `advance` ended before all were asked

    def schedule(self, item: Timed, when: float) -> None:
        """Ask `item` at `when` (monotonic seconds), or up to a second later; not again if it is asked before anyway."""
        second = max(int(when), self._at) + 1
        if second - self._at > COARSE_S:
            second -= second % COARSE_S
        if item.wheel_at:
            if item.wheel_at <= second:
                return
            self.cancel(item)
        item.wheel_at = second
        self._buckets.setdefault(second, set()).add(item)

    def cancel(self, item: Timed) -> None:
        """Ask `item` no more. What has ended must not stay in memory until its time, 90 days at most."""
        bucket = self._buckets.get(item.wheel_at)
        if bucket is not None:
            bucket.discard(item)
            if not bucket:
                del self._buckets[item.wheel_at]
        item.wheel_at = 0

    def advance(self, now: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Ask all whose time has come, until it is `enough`. What fails is raised when they were asked."""
        errors: list[Exception] = []
        self.behind = True
        for second in range(self._at, int(now) + 1):
            self._at = second
            bucket = self._buckets.get(second) or set()
            while bucket and not enough():
                item = bucket.pop()
                item.wheel_at = 0
                try:
                    again = item.due(now)
                except Exception as error:  # noqa: BLE001 - one bug must not keep the others from being asked
                    errors.append(error)
                    continue
                if again:
                    self.schedule(item, again)
            if bucket:
                break
            self._buckets.pop(second, None)
        else:
            self.behind = False
        if errors:
            raise ExceptionGroup("deadlines", errors)
