"""Who is given a conversation: never somebody who is away or full, those it fits first, the others in turn."""

from hypothesis import given
from hypothesis import strategies as st

from broker.pull.assign import choose
from broker.store.agents import Agent

places = st.sampled_from(["milano", "roma", "torino"])
tags = st.sampled_from(["vip", "wine"])


def agent(name: str, **more: object) -> Agent:
    fields = {"title": "", "stores": (), "tags": (), "away": False, "most": 5, "given_at": 0}
    return Agent(brand="acme", name=name, **{**fields, **more})  # type: ignore[arg-type]


agents = st.lists(
    st.builds(
        agent,
        st.text("abcdefgh", min_size=1, max_size=3),
        stores=st.lists(places, max_size=2).map(tuple),
        tags=st.lists(tags, max_size=1).map(tuple),
        away=st.booleans(),
        most=st.integers(1, 3),
        given_at=st.integers(0, 5),
    ),
    unique_by=lambda one: one.name,
    max_size=6,
)


@given(agents, st.data(), places, st.frozensets(tags))
def test_only_who_is_there_and_has_room_is_given_one(
    agents: list[Agent], data: st.DataObject, store: str, tags: frozenset[str]
) -> None:
    busy = {one.name: data.draw(st.integers(0, 3)) for one in agents}
    free = {one.name for one in agents if not one.away and busy[one.name] < one.most}
    chosen = choose(agents, busy, store=store, tags=tags)
    assert chosen in free if free else chosen == ""


@given(st.integers(1, 6), st.integers(1, 30))
def test_alike_ones_are_given_as_many_each(count: int, conversations: int) -> None:
    agents = {f"a{number}": agent(f"a{number}", most=100) for number in range(count)}
    busy = dict.fromkeys(agents, 0)
    for turn in range(1, conversations + 1):
        name = choose(agents.values(), busy, store="milano", tags=())
        busy[name] += 1
        agents[name] = agent(name, most=100, given_at=turn)
    assert max(busy.values()) - min(busy.values()) <= 1


def test_who_it_fits_comes_first_and_who_is_for_others_comes_last() -> None:
    ranks = [
        agent("both", stores=("milano",), tags=("vip",), given_at=9),
        agent("store", stores=("milano",), given_at=8),
        agent("all", given_at=7),
        agent("elsewhere", stores=("roma",), given_at=1),
        agent("nothing", stores=("roma",), tags=("wine",)),
    ]
    busy: dict[str, int] = {}
    order = []
    for _ in ranks:
        name = choose(ranks, busy, store="milano", tags={"vip"})
        order.append(name)
        busy[name] = 5
    assert order == ["both", "store", "all", "elsewhere", "nothing"]
    assert choose(ranks, busy, store="milano", tags={"vip"}) == ""
