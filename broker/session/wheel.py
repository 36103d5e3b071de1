"""One coarse timer wheel for all deadlines: keep-alive, session expiry, will delay. No timer for each connection."""

from typing import Protocol


class Timed(Protocol):
    """Something with a deadline that moves. `wheel_at` is the wheel's own mark: the second under which it hangs."""

    wheel_at: int

    def due(self, now: float) -> float:
        """Do what is due at `now`; return the next time to ask (0 = never again)."""
        ...


class Wheel:
    """Buckets of one second. A deadline that moves later costs nothing: it is asked again when the old one comes."""

    __slots__ = ("_at", "_buckets")

    def __init__(self, now: float) -> None:
        self._at = int(now)
        self._buckets: dict[int, list[Timed]] = {}

    def schedule(self, item: Timed, when: float) -> None:
        """Ask `item` at `when` (monotonic seconds), or up to a second later; not again if it is asked before anyway."""
        second = max(int(when), self._at) + 1
        if item.wheel_at and item.wheel_at <= second:
            return
        item.wheel_at = second
        self._buckets.setdefault(second, []).append(item)

    def advance(self, now: float) -> None:
        """Ask all whose time has come."""
        for second in range(self._at + 1, int(now) + 1):
            self._at = second
            for item in self._buckets.pop(second, ()):
                if item.wheel_at != second:
                    continue  # it was moved to an earlier second, and asked there
                item.wheel_at = 0
                again = item.due(now)
                if again:
                    self.schedule(item, again)
