"""Who answers for a brand: agents, in memory as they are in the books, and the replies that they have ready."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from broker import limits
from broker.bridge.people import Register
from broker.errors import Failed, NotFound, Refused
from broker.identity import check_name
from broker.pull import template
from broker.pull.moves import InboxUnknown
from broker.pull.ways import Ways
from broker.store.agents import Agent, Agents, Canned


class Staff:
    """The agents of all brands. changed(brand): one of them was added, is away or back, takes more, or is gone."""

    def __init__(self, tables: Agents, register: Register, ways: Callable[[str], Awaitable[Ways]]) -> None:
        """ways(brand): what its rules say."""
        self.tables = tables
        self._register = register
        self._ways = ways
        self._all: dict[str, dict[str, Agent]] = {}
        self._changing = asyncio.Lock()  # from when an agent is looked at until the change is written
        self.changed: Callable[[str], Coroutine[Any, Any, None]]

    async def open(self) -> None:
        """Load them."""
        for agent in await self.tables.all():
            self._all.setdefault(agent.brand, {})[agent.name] = agent

    def of(self, brand: str) -> list[Agent]:
        """Those of a brand."""
        return list(self._all.get(brand, {}).values())

    def find(self, brand: str, name: str) -> Agent | None:
        """One of them, if there is such."""
        return self._all.get(brand, {}).get(name)

    def one(self, brand: str, name: str, field: str = "agent") -> Agent:
        """One of them. Raises `InboxUnknown`."""
        agent = self.find(brand, name)
        if agent is None:
            what = f"{brand} has no agent {name!r}" if name else "say which agent does it"
            raise InboxUnknown("unknown_agent", field, what, f"pushbroker agent add {brand} {name or 'NAME'}")
        return agent

    async def given(self, brand: str, name: str, now: int) -> None:
        """They were given a conversation: the next one is somebody else's. Nothing if they are gone meanwhile."""
        async with self._changing:
            agent = self.find(brand, name)
            if agent is not None:
                await self._put(msgspec.structs.replace(agent, given_at=max(now, agent.given_at + 1)))

    # -- what operators do ---------------------------------------------------------------------------------------------

    async def add(
        self, brand: str, name: str, title: str = "", stores: tuple[str, ...] = (), tags: tuple[str, ...] = (),
        most: int | None = None,
    ) -> Agent:  # fmt: skip
        """Add an agent, who is there at once."""
        await self._register.check(brand)
        check_name("agent", name)
        if most is None:
            most = (await self._ways(brand)).most
        agent = Agent(
            brand=brand, name=name, title=title, stores=stores, tags=tags, away=False, most=most, given_at=0
        )  # fmt: skip
        async with self._changing:
            if self.find(brand, name):
                raise Refused(f"{brand} has an agent {name} already", remedy=f"pushbroker agent set {brand} {name}")
            if len(self.of(brand)) >= limits.AGENTS_MAX:
                what = f"{brand} has {limits.AGENTS_MAX} agents"
                raise Refused(what, reason=0x97, remedy="Remove those who are gone.")
            await self._check(agent)
            await self._put(agent)
        await self.changed(brand)
        return agent

    async def set(
        self, brand: str, name: str, title: str | None = None, stores: tuple[str, ...] | None = None,
        tags: tuple[str, ...] | None = None, most: int | None = None, away: bool | None = None,
    ) -> Agent:  # fmt: skip
        """Change what is known of an agent. What waits for one who goes away is given to others."""
        said = {"title": title, "stores": stores, "tags": tags, "most": most, "away": away}
        changes = {field: value for field, value in said.items() if value is not None}
        async with self._changing:
            agent = msgspec.structs.replace(self._known(brand, name), **changes)
            await self._check(agent)
            await self._put(agent)
        await self.changed(brand)
        return agent

    async def remove(self, brand: str, name: str) -> None:
        """Take an agent away. What they have is given to others; what they said stays."""
        async with self._changing:
            agent = self._known(brand, name)
            del self._all[brand][name]  # what they do from now on is refused
            try:
                await self.tables.remove(brand, name)
            except Failed:
                self._all.setdefault(brand, {})[name] = agent
                raise
        await self.changed(brand)

    def _known(self, brand: str, name: str) -> Agent:
        agent = self.find(brand, name)
        if agent is None:
            raise NotFound(f"{brand} has no agent {name!r}", remedy=f"pushbroker agent list {brand}")
        return agent

    async def _check(self, agent: Agent) -> None:
        """Raise `Refused` where that cannot be an agent."""
        for store in agent.stores:
            await self._register.check(agent.brand, "store", store)
        for tag in agent.tags:
            check_name("tag", tag)
        if max(len(agent.stores), len(agent.tags)) > limits.AGENT_PLACES_MAX:
            raise Refused(f"more than {limits.AGENT_PLACES_MAX} stores or tags", reason=0x97, remedy="Leave them out.")
        if len(agent.title) > limits.AGENT_TITLE_MAX or not agent.title.isprintable():
            raise Refused("that cannot be an agent's title", remedy=f"Use up to {limits.AGENT_TITLE_MAX} characters.")
        if not 0 < agent.most <= limits.AGENT_MOST_MAX:
            raise Refused(f"an agent takes 1 to {limits.AGENT_MOST_MAX} conversations at a time")

    async def _put(self, agent: Agent) -> None:
        await self.tables.put(agent)
        self._all.setdefault(agent.brand, {})[agent.name] = agent

    async def forget(self, brand: str) -> None:
        """A brand is no more."""
        async with self._changing:
            self._all.pop(brand, None)
            await self.tables.forget(brand)

    # -- replies that are ready ----------------------------------------------------------------------------------------

    async def canned_set(self, brand: str, name: str, text: str, language: str = "") -> Canned:
        """Keep a reply, in one language or ('') for all others."""
        await self._register.check(brand)
        check_name("reply", name)
        if language and not (len(language) == 2 and language.isascii() and language.islower()):
            raise Refused(f"{language!r} is no language", remedy="Write it with two letters: it, en, de.")
        if not text.strip() or len(text) > limits.REPLY_MAX:
            raise Refused("that is no reply", remedy=f"Write 1 to {limits.REPLY_MAX:,} characters.")
        template.check(text)
        canned = Canned(brand=brand, name=name, language=language, text=text)
        if not await self.tables.put_canned(canned, limits.CANNED_MAX):
            raise Refused(f"{brand} has {limits.CANNED_MAX} replies", reason=0x97, remedy="Remove what nobody uses.")
        return canned

    async def canned_remove(self, brand: str, name: str, language: str | None = None) -> int:
        """Take a reply away, in one language or in all."""
        count = await self.tables.remove_canned(brand, name, language)
        if not count:
            raise NotFound(f"{brand} has no reply {name!r}", remedy=f"pushbroker inbox canned list {brand}")
        return count

    async def canned(self, brand: str, name: str, language: str) -> str:
        """A reply's words, for somebody of this language. Raises `InboxUnknown`."""
        found = {one.language: one.text for one in await self.tables.canned(brand, name)}
        text = found.get(language) or found.get("") or next(iter(found.values()), "")
        if not text:
            what = f"{brand} has no reply {name!r}"
            raise InboxUnknown("unknown_canned", "canned", what, f"pushbroker inbox canned list {brand}")
        return text
