"""A bound on what peers make us log: a line costs 30 us and a hundred bytes, a refused packet a third of that."""

from collections.abc import Callable

from broker.limits import LOG_LINES_MAX, LOG_WINDOW_S


class Throttle:
    """Lets through the first lines of each event in each window, and counts the others. `clock` is monotonic.

    Events are our own constant sentences, so there are few.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: dict[str, tuple[float, int]] = {}  # since when, how many

    def admits(self, event: str) -> int:
        """How many lines of `event` were held back since the last one, or -1: hold this one back, too."""
        now = self._clock()
        since, count = self._events.get(event, (now, 0))
        held = 0
        if now - since >= LOG_WINDOW_S:
            held = max(0, count - LOG_LINES_MAX)
            since, count = now, 0
        self._events[event] = (since, count + 1)
        return held if count < LOG_LINES_MAX else -1
