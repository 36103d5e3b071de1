"""Who asks to follow an item, not to any more, or to be left alone: `follow wipro`, `stop wipro`, `stop`, `start`."""

from broker.bridge.people import People, Wanted
from broker.pull.question import Asker
from broker.store.entries import Who


class Follows:
    """Does what was asked for. All of it may be done again, and raises as `People` does."""

    def __init__(self, people: People) -> None:
        self._people = people

    async def follow(self, asker: Asker, item: str, every_s: int, source: str) -> None:
        """They hear of changes from now on, at most once in so many seconds."""
        await self._people.hear(_who(asker), Wanted(follows={item: every_s}), source, self._people.register.now())

    async def unfollow(self, asker: Asker, item: str) -> None:
        """They do not any more."""
        await self._people.hear(_who(asker), Wanted(follows={item: None}), _source(asker), self._people.register.now())

    async def opt_out(self, asker: Asker) -> None:
        """They want no topic, and follow nothing any more."""
        await self._people.opt_out(_who(asker), _source(asker))

    async def opt_in(self, asker: Asker) -> None:
        """They want again what they had when they opted out."""
        await self._people.opt_in(_who(asker), _source(asker))


def _who(asker: Asker) -> Who:
    return Who(asker.brand, asker.kind, asker.name)


def _source(asker: Asker) -> str:
    return f"device/{asker.device}"
