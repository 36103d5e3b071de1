"""Which devices are there, since when, and when the others were seen last: what the broker itself sees of connections.

It is kept in the books a little later, in one go for many, so that it costs a connection next to nothing. After a crash
those who were online were seen until the broker was there last.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from broker.bridge.intake import now_ms
from broker.errors import Failed
from broker.limits import PRESENCE_AT_ONCE, PRESENCE_S
from broker.session.session import Session
from broker.store.fleet import FleetTables, Seen

Who = tuple[str, str]  # brand and device
# How often the books say that the broker is there.
ALIVE_S: Final = 30.0


class Presence:
    """Hears of connections. sessions_of(path): all sessions of an identity."""

    def __init__(self, sessions_of: Callable[[str], Iterable[Session]], log: Callable[..., object]) -> None:
        self._sessions_of = sessions_of
        self._log = log
        self._tables: FleetTables
        self.online: dict[Who, int] = {}  # since when
        self._changed: dict[Who, Seen] = {}  # and not written
        self._watchers: list[Callable[[Who, bool], object]] = []

    def watch(self, came: Callable[[Who, bool], object]) -> None:
        """Call `came` for each device that connects; with whether its session was there before."""
        self._watchers.append(came)

    async def open(self, tables: FleetTables) -> None:
        """Begin with nobody."""
        self._tables = tables
        await tables.nobody()

    def came(self, session: Session, present: bool) -> None:
        """A device has connected."""
        who = (session.identity.brand, session.identity.name)
        now = now_ms()
        since = self.online.setdefault(who, now)
        self._changed[who] = Seen(*who, True, since, now)
        for watcher in self._watchers:
            watcher(who, present)

    def left(self, session: Session) -> None:
        """A device's connection is gone; it may have others."""
        identity = session.identity
        if not any(one.channel is not None for one in self._sessions_of(identity.path)):
            who = (identity.brand, identity.name)
            now = now_ms()
            self.online.pop(who, None)
            self._changed[who] = Seen(*who, False, now, now)

    def seen(self, who: Who) -> int:
        """When something was heard of a device that is online."""
        channels = (one.channel for one in self._sessions_of(f"{who[0]}/device/{who[1]}"))
        silent_s = min((time.monotonic() - channel.seen for channel in channels if channel is not None), default=0.0)
        return now_ms() - int(max(0.0, silent_s) * 1000)

    def unwritten(self, brand: str | None) -> list[Seen]:
        """What the tables do not know yet."""
        return [seen for seen in self._changed.values() if brand in (None, seen.brand)]

    def forget(self, gone: Iterable[Who]) -> None:
        """These devices are no more."""
        for who in gone:
            self._changed.pop(who, None)

    async def run(self) -> None:
        """Write what has changed, for ever."""
        written = 0.0
        while True:
            await asyncio.sleep(PRESENCE_S)
            if self._changed or (self.online and time.monotonic() >= written + ALIVE_S):
                try:
                    await self.write()
                    written = time.monotonic()
                except Failed as error:
                    self._log("who is online cannot be written", error=error.message, remedy=error.remedy)

    async def write(self) -> None:
        """Write what has changed."""
        while True:
            some = dict(islice(self._changed.items(), PRESENCE_AT_ONCE))
            await self._tables.presence(list(some.values()), now_ms())
            for who, seen in some.items():
                if self._changed.get(who) is seen:  # else it has changed again
                    del self._changed[who]
            if len(some) < PRESENCE_AT_ONCE:
                return
