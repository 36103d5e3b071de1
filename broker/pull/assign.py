"""Who is given a conversation that waits for a person: those it fits first, of them who was given one longest ago."""

from collections.abc import Collection, Iterable, Mapping

from broker.store.agents import Agent


def choose(agents: Iterable[Agent], busy: Mapping[str, int], *, store: str, tags: Collection[str]) -> str:
    """The agent's name; '' where all are away or have as many as they take. busy: how many each of them has."""
    free = [one for one in agents if not one.away and busy.get(one.name, 0) < one.most]
    best = min(free, key=lambda one: (-_fit(one, store, tags), one.given_at, one.name), default=None)
    return best.name if best else ""


def _fit(agent: Agent, store: str, tags: Collection[str]) -> int:
    """2 for each of store and tags that is theirs first, 1 where they are for all, 0 where they are for others."""
    stores = 1 if not agent.stores else 2 * (store in agent.stores)
    return stores + (1 if not agent.tags else 2 * any(tag in agent.tags for tag in tags))
