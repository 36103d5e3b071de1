"""What expires, by the minute: found when its time has come, without looking at all that is kept."""

from typing import Final, Generic, TypeVar

K = TypeVar("K")

_MINUTE_S: Final = 60


class Expiring(Generic[K]):
    """Keys, each under the first whole minute after its time. Who adds one takes it out, too, under the same time."""

    __slots__ = ("_at", "_minutes")

    def __init__(self) -> None:
        self._minutes: dict[int, dict[K, None]] = {}
        self._at = 0  # the first minute that may have some

    def add(self, key: K, when: float) -> None:
        """`key` is to be found once it is `when`, or up to a minute later."""
        minute = int(when) // _MINUTE_S + 1
        self._at = min(self._at, minute) if self._minutes else minute
        self._minutes.setdefault(minute, {})[key] = None

    def discard(self, key: K, when: float) -> None:
        """It does not expire any more, or is gone."""
        minute = int(when) // _MINUTE_S + 1
        keys = self._minutes.get(minute)
        if keys is not None:
            keys.pop(key, None)
            if not keys:
                del self._minutes[minute]

    def take(self, now: float, most: int) -> list[K]:
        """Take out those whose time has come, so many at most."""
        found: list[K] = []
        while self._minutes and self._at <= int(now) // _MINUTE_S:
            keys = self._minutes.get(self._at)
            while keys and len(found) < most:
                found.append(keys.popitem()[0])
            if keys:
                break
            self._minutes.pop(self._at, None)
            self._at += 1
        return found
