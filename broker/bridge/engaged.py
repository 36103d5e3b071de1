"""Who is addressed by what became of earlier messages: those who have not opened one, who have had enough, and parts.

It stands before the audience that knows names, topics and conditions, and asks that for everything else: whether
somebody is suppressed, and when they are due, is decided there for all.
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from broker.bridge.request import Cap, Part, To
from broker.bridge.sends import Addressee, Audience
from broker.bridge.split import place
from broker.store.campaigns import Campaigns, unopened_of


class Engaged:
    """An audience: see `Audience`."""

    def __init__(self, audience: Audience, campaigns: Campaigns) -> None:
        self._audience = audience
        self._campaigns = campaigns
        # Who gets something again is looked up and then written down: two at once would both find the same people.
        self._again = asyncio.Lock()

    async def __call__(
        self, brand: str, to: To, *, local_time: str, not_before: int, now: int
    ) -> AsyncIterator[list[Addressee]]:
        """All of them, each once, some at a time."""
        part, cap = to.part, to.cap
        async for page in self._addressed(brand, to, local_time, not_before, now):
            if part is not None:
                page = [one for one in page if _in(brand, part, one)]
            if cap is not None:
                page = await self._capped(brand, cap, page, now)
            if page:
                yield page

    async def _addressed(
        self, brand: str, to: To, local_time: str, not_before: int, now: int
    ) -> AsyncIterator[list[Addressee]]:
        if to.unopened is None:
            named = msgspec.structs.replace(to, part=None, cap=None)
            async for page in self._audience(brand, named, local_time=local_time, not_before=not_before, now=now):
                yield page
            return
        message, because = to.unopened.message, unopened_of(to.unopened.message)
        async with self._again:
            async for some in self._campaigns.unopened(brand, message, now - to.unopened.for_s * 1000):
                named = To(
                    users=[one.name for one in some if one.kind == "user"],
                    devices=[one.name for one in some if one.kind == "device"],
                    only=to.only,
                )
                async for page in self._audience(brand, named, local_time=local_time, not_before=not_before, now=now):
                    yield [one._replace(because=because) for one in page]

    async def _capped(self, brand: str, cap: Cap, page: list[Addressee], now: int) -> list[Addressee]:
        names = [(one.kind, one.name) for one in page if not one.left_out]
        enough = await self._campaigns.had_enough(brand, cap.campaign, names, cap.most, now - cap.within_s * 1000)
        return [one._replace(left_out="campaign_cap") if (one.kind, one.name) in enough else one for one in page]


def _in(brand: str, part: Part, one: Addressee) -> bool:
    return part.first <= place(f"{brand}/{part.of}", one.kind, one.name) < part.until
