"""All links of a broker: started with it, stopped with it, and made anew when they are changed."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from broker.errors import Refused
from broker.links.book import Book
from broker.links.relay import Relay
from broker.session.core import Core
from broker.store.links import Link
from client_sdk.backoff import Backoff

# Of a link that is not at work.
_IDLE: Final[dict[str, Any]] = {
    "mqtt": "",
    "since": None,
    "retry_at": None,
    "last_error": "",
    "last_error_at": None,
    "messages_in": 0,
    "messages_out": 0,
    "refused_in": 0,
    "refused_out": 0,
    "circled": 0,
    "dropped": 0,
    "waiting_in": 0,
    "oldest_in_s": 0.0,
    "waiting_out": 0,
}


class Links:
    """See the module. A link that fails, whatever the reason, is its own affair: the broker goes on."""

    def __init__(self, book: Book, core: Core, run: Callable[..., None], log: Callable[..., object]) -> None:
        self.book = book
        self.backoff: Callable[[], Backoff] = Backoff
        self._core = core
        self._run = run
        self._log = log
        self._relays: dict[tuple[str, str], Relay] = {}
        self._failed: dict[tuple[str, str], str] = {}  # could not be started, and why
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Start those that are not paused. Nobody waits for their brokers."""
        for link in await self.book.all():
            await self._start(link)

    async def _start(self, link: Link) -> None:
        key = link.brand, link.name
        self._failed.pop(key, None)
        if link.paused:
            return
        relay = Relay(link, self.book.table, core=self._core, run=self._run, log=self._log, backoff=self.backoff)
        try:
            await relay.start()
        except Refused as error:  # a certificate is gone, perhaps
            self._failed[key] = error.message
            self._log("a link cannot start", link="/".join(key), error=error.message, remedy=error.remedy)
            await relay.stop()
        else:
            self._relays[key] = relay

    async def changed(self, brand: str, name: str) -> None:
        """A link was added, changed or removed: go by what the records say of it now."""
        async with self._changing:
            link = next((one for one in await self.book.all(brand) if one.name == name), None)
            relay = self._relays.pop((brand, name), None)
            if relay is not None:
                await relay.stop(forget=link is None)
            if link is not None:
                await self._start(link)

    async def brand_gone(self, brand: str) -> None:
        """A brand was removed, and its links with it."""
        for key in [key for key in self._relays if key[0] == brand]:
            await self.changed(*key)

    async def stop(self) -> None:
        """Stop all of them."""
        async with self._changing:
            await asyncio.gather(*(relay.stop() for relay in self._relays.values()))
            self._relays.clear()

    @property
    def count(self) -> int:
        """How many are not paused."""
        return len(self._relays) + len(self._failed)

    @property
    def connected(self) -> int:
        """How many are."""
        return sum(relay.state == "connected" for relay in self._relays.values())

    def state(self, link: Link) -> dict[str, Any]:
        """How a link stands, as JSON has it."""
        relay = self._relays.get((link.brand, link.name))
        if relay is not None:
            status = relay.status()
            return {**status, **{name: _iso(status[name]) for name in ("since", "retry_at", "last_error_at")}}
        if link.paused:
            return {"state": "paused", **_IDLE}
        failed = self._failed.get((link.brand, link.name), "")
        return {"state": "failed" if failed else "stopped", **_IDLE, "last_error": failed}


def idle(link: Link) -> dict[str, Any]:
    """How a link stands where no broker runs."""
    return {"state": "paused" if link.paused else "stopped", **_IDLE}


def _iso(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
