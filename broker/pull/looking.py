"""Conversations as agents see them: on the terminal, in their own tools, in what they are told."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from broker.bridge.people import People
from broker.pull.moves import InboxUnknown
from broker.store.conversations import HELD, Conversation, Conversations, Entry

_HIDDEN = ("number", "kind", "name", "handed_by", "reminded_at", "entries")


def at(milliseconds: int | None) -> str | None:
    """A time as JSON has it: UTC, to the millisecond."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Looking:
    """Shows conversations. typing(id): whether the customer is writing just now."""

    def __init__(self, store: Conversations, people: People, typing: Callable[[str], bool] = lambda _: False) -> None:
        self._store = store
        self._people = people
        self._typing = typing

    async def listed(
        self,
        brand: str,
        *,
        state: str | None = None,
        agent: str | None = None,
        store: str | None = None,
        before: str | None = None,
        most: int = 50,
    ) -> list[dict[str, Any]]:
        """A brand's, the newest first; of state `held` those that wait or are with an agent."""
        await self._people.register.check(brand)
        states = () if state is None else HELD if state == "held" else (state,)
        rows = await self._store.listed(brand, states=states, agent=agent, store=store, before=before, most=most)
        return await self.shown(rows)

    async def one(self, brand: str, id: str) -> Conversation:
        """The one with this id. Raises `InboxUnknown`."""
        row = await self._store.by_id(brand, id)
        if row is None:
            what = f"{brand} has no conversation {id!r}"
            raise InboxUnknown("unknown_conversation", "conversation", what, f"pushbroker inbox list {brand}")
        return row

    async def show(self, brand: str, id: str, *, before: int = 0, most: int) -> dict[str, Any]:
        """One with the last of what was said in it, or the last of it before an entry's number."""
        row = await self.one(brand, id)
        (shown,) = await self.shown([row])
        entries = await self._store.entries(row.number, before=before, most=most)
        return {**shown, "entries": [entry(one) for one in entries]}

    async def shown(self, rows: Sequence[Conversation]) -> list[dict[str, Any]]:
        """As they stand in lists."""
        titles = await self._titles(rows)
        return [self._shown(row, titles.get((row.brand, row.name), "") if row.kind == "user" else "") for row in rows]

    def _shown(self, row: Conversation, title: str) -> dict[str, Any]:
        fields = {name: getattr(row, name) for name in row.__struct_fields__ if name not in _HIDDEN}
        times = {name: at(value) for name, value in fields.items() if name.endswith(("_at", "_since"))}
        return {**fields, **times, "with": f"{row.kind}/{row.name}", "title": title, "typing": self._typing(row.id)}

    async def _titles(self, rows: Sequence[Conversation]) -> dict[tuple[str, str], str]:
        """What the users among them are called."""
        sql = "SELECT name, title FROM users WHERE brand = :brand AND name IN (SELECT value FROM json_each(:names))"
        titles: dict[tuple[str, str], str] = {}
        for brand in {row.brand for row in rows}:
            names = msgspec.json.encode([row.name for row in rows if row.brand == brand and row.kind == "user"])
            values = {"brand": brand, "names": names.decode()}
            titles |= {(brand, name): title for name, title in await self._people.profiles.select(sql, values)}
        return titles


def entry(one: Entry) -> dict[str, Any]:
    """An entry as agents see it."""
    fields = msgspec.structs.asdict(one)
    fields["answer"] = None if one.answer is None else msgspec.json.decode(one.answer)
    return {name: at(value) if name == "at" or name.endswith("_at") else value for name, value in fields.items()}
