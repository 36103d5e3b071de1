"""The router against brute force: after every step, every topic's route is what all filters one by one would give."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.effort import lines
from support.loopback import Lab

from broker import limits
from broker.limits import NARROW_MAX
from broker.message import Message
from broker.route.router import Route, Router
from broker.route.subscription import NO_LOCAL, QOS, RETAIN_AS_PUBLISHED, Group, Subscription
from broker.session import session
from broker.wire.packets import Publish
from broker.wire.topics import matches


@dataclass(eq=False)
class Receiver:
    key: str
    v5: bool = False
    unlimited: bool = True
    ready: bool = True
    connected: bool = True
    lasting: bool = False
    live: bool = True

    def __repr__(self) -> str:
        return self.key


Sub = Subscription[Receiver]
ROUTES_MAX = 6
FILTERS = ["a", "a/b", "b", "+", "#", "a/+", "a/#", "+/b", "+/+", "+/#", "/", "/+", "$s", "$s/+", "$s/#", "a/b/c/#"]
TOPICS = ["a", "b", "a/b", "a/c", "a/b/c", "/", "/b", "$s", "$s/a", "a/"]
OPTIONS = st.builds(
    lambda qos, flags: qos | flags, st.integers(0, 2), st.sampled_from([0, 0, 0, NO_LOCAL, RETAIN_AS_PUBLISHED])
)


class RouterMachine(RuleBasedStateMachine):
    """Everything that changes routes, in any order, with a cache so small that routes are evicted all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router[Receiver](routes_max=ROUTES_MAX)
        self.receivers = [Receiver(f"r{n}", v5=n % 2 == 1) for n in range(4)]
        self.held: dict[tuple[Receiver, str, bytes], Sub] = {}
        self.served: list[tuple[str, Any]] = []
        self.watching: list[tuple[str, Any]] = []
        self.asked: list[Route[Receiver]] = []

    # -- steps -------------------------------------------------------------------------------------------------------

    @rule(
        who=st.integers(0, 3),
        topic_filter=st.sampled_from(FILTERS),
        group=st.sampled_from([b"", b"", b"g", b"h"]),
        options=OPTIONS,
        id=st.sampled_from([b"", b"", b"\x0b\x01"]),
    )
    def subscribe(self, who: int, topic_filter: str, group: bytes, options: int, id: bytes) -> None:
        subscription = Sub(self.receivers[who], topic_filter.encode(), options, id, group)
        self._changes(topic_filter, lambda: self.router.subscribe(subscription))
        self.held[self.receivers[who], topic_filter, group] = subscription

    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        if self.held:
            key = data.draw(st.sampled_from(list(self.held)))
            subscription = self.held.pop(key)
            self._changes(key[1], lambda: self.router.unsubscribe(subscription))

    @rule(who=st.integers(0, 3), topic_filter=st.sampled_from(FILTERS), group=st.sampled_from([b"", b"g"]))
    def unsubscribe_unknown(self, who: int, topic_filter: str, group: bytes) -> None:
        if (self.receivers[who], topic_filter, group) not in self.held:
            self.router.unsubscribe(Sub(self.receivers[who], topic_filter.encode(), 0, b"", group))

    @rule(
        who=st.integers(0, 3),
        v5=st.booleans(),
        unlimited=st.booleans(),
        state=st.sampled_from(["live", "live", "catching up", "away"]),
    )
    def reconnect(self, who: int, v5: bool, unlimited: bool, state: str) -> None:
        receiver = self.receivers[who]
        receiver.v5, receiver.unlimited = v5, unlimited
        receiver.connected, receiver.live = state != "away", state == "live"
        for subscription in self.held.values():
            if subscription.session is receiver:
                self.router.touch((subscription,))

    @rule(topic_filter=st.sampled_from(["a/+", "b", "+/b/#"]))
    def serve(self, topic_filter: str) -> None:
        if len(self.served) < 3:
            service = Service()
            self._changes(topic_filter, lambda: self.router.serve(topic_filter.encode(), service))
            self.served.append((topic_filter, service))

    @rule(topic_filter=st.sampled_from(["a/#", "#", "$s/+"]))
    def watch(self, topic_filter: str) -> None:
        if len(self.watching) < 3:
            service = Service()
            self._changes(topic_filter, lambda: self.router.watch(topic_filter.encode(), service))
            self.watching.append((topic_filter, service))

    @rule(data=st.data())
    def unwatch(self, data: st.DataObject) -> None:
        if self.watching:
            topic_filter, service = self.watching.pop(data.draw(st.integers(0, len(self.watching) - 1)))
            self._changes(topic_filter, lambda: self.router.unwatch(topic_filter.encode(), service))

    @rule(topic=st.sampled_from(TOPICS))
    def ask(self, topic: str) -> None:
        """Whoever holds a route may go by it for as long as it is fresh."""
        route = self.router.route(topic.encode())
        assert route.any4 is not None
        assert self.router.route(topic.encode()) is route
        self.asked.append(route)

    def _changes(self, topic_filter: str, change: Any) -> None:
        """Precision: a change makes stale exactly the cached routes that its filter matches."""
        fresh = [route for route in self.router._cache.values() if route.any4 is not None]
        change()
        for route in fresh:
            assert (route.any4 is None) == matches(topic_filter, route.topic.decode()), (topic_filter, route.topic)

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def every_route_is_right_or_stale(self) -> None:
        """A route that somebody still holds, evicted or not, is either recognisably stale or what brute force says."""
        for route in self.asked:
            if route.any4 is not None:
                assert self.router._cache[route.topic] is route
                self._check(route)

    @invariant()
    def the_cache_is_bounded(self) -> None:
        assert len(self.router._cache) <= ROUTES_MAX
        assert sum(1 for f in ("#", "$s/#") for _ in self.router._cached.match(f.encode())) == len(self.router._cache)

    @invariant()
    def nothing_is_counted_twice(self) -> None:
        assert self.router.subscriptions == len(self.held)

    def _check(self, route: Route[Receiver]) -> None:
        topic = route.topic.decode()
        found = [s for (_, f, group), s in self.held.items() if not group and matches(f, topic)]
        assert route.any4 is not None
        every: dict[Receiver, tuple[int, list[bytes], bool, bool]] = {}
        for s in found:
            qos, ids, local, kept = every.get(s.session, (0, [], True, False))
            every[s.session] = (
                max(qos, s.options & QOS),
                sorted([*ids, s.id] if s.id else ids),
                local and bool(s.options & NO_LOCAL),
                kept or bool(s.options & RETAIN_AS_PUBLISHED),
            )
        assert route.receivers == len(every) + len(route.groups)
        away = {r for r, e in every.items() if e[0] and not r.live}
        assert_same(tuple(s.session for s in route.away), away)
        assert {s.session for s in self.router.away(route.topic)} == away
        every = {r: e for r, e in every.items() if r.connected}
        assert len(route.every) == len(every)
        for s in route.every:
            ids = sorted([b"\x0b\x01"] * (len(s.id) // 2))
            assert b"".join(ids) == s.id
            flags = bool(s.options & NO_LOCAL), bool(s.options & RETAIN_AS_PUBLISHED)
            assert (s.options & QOS, ids, *flags) == every[s.session]
        plain = {r: e for r, e in every.items() if r.unlimited and not e[1] and not e[2] and not e[3]}
        by_version = {v5: {r for r in plain if r.v5 is v5} for v5 in (False, True)}
        assert_same(route.any4, by_version[False])
        assert_same(route.any5, by_version[True])
        assert_same(route.zero4, {r for r in by_version[False] if plain[r][0] == 0})
        assert_same(route.zero5, {r for r in by_version[True] if plain[r][0] == 0})
        assert_same(route.some4, {r for r in by_version[False] if plain[r][0] and r.live})
        assert_same(route.some5, {r for r in by_version[True] if plain[r][0] and r.live})
        assert_same(tuple(s.session for s in route.special), set(every) - set(plain))
        shared = {
            (f, group): {s.session for (_, f2, g2), s in self.held.items() if (f2, g2) == (f, group)}
            for (_, f, group) in self.held
            if group and matches(f, topic)
        }
        assert sorted(sorted(r.key for r in g.members) for g in route.groups) == sorted(
            sorted(r.key for r in members) for members in shared.values()
        )
        for group in route.groups:
            assert all(s.session is r for r, s in group.members.items())
        served = [service for f, service in self.served if matches(f, topic)]
        watching = [service for f, service in self.watching if matches(f, topic)]
        assert list(route.services) == served + watching
        assert route.extra == bool(route.special or route.groups or route.services)
        assert route.empty == (not found and not shared and not served)

    def teardown(self) -> None:
        """Every route agrees; and pruning: when all have gone, the trees are as empty as they were."""
        for topic in TOPICS:
            self._check(self.router.route(topic.encode()))
        for subscription in self.held.values():
            self.router.unsubscribe(subscription)
        assert self.router.subscriptions == 0
        assert self.router._exact == {}
        assert self.router._wild.children == {}
        assert self.router._wild.here is self.router._wild.hash is None


@dataclass(eq=False)
class Service:
    heard: list[Message] = field(default_factory=list)

    def __call__(self, message: Message, origin: Receiver | None) -> None:
        self.heard.append(message)


def assert_same(found: tuple[Receiver, ...], expected: set[Receiver]) -> None:
    """The same, and nobody twice."""
    assert len(found) == len(expected)
    assert set(found) == expected


# [MQTT-3.3.2-3, MQTT-4.7.2-1]
TestRouter = RouterMachine.TestCase
TestRouter.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


def test_who_is_away_counts_once_whatever_its_filters() -> None:
    router = Router[Receiver]()
    gone, here = Receiver("gone", connected=False, live=False), Receiver("here")
    for receiver, topic_filter in [(gone, b"a"), (here, b"a"), (gone, b"+")]:
        router.subscribe(Sub(receiver, topic_filter, 0))
    assert router.route(b"a").receivers == 2


# -- very many -------------------------------------------------------------------------------------------------------


def test_a_route_is_made_of_those_who_are_there_however_many_are_away() -> None:
    router = Router[Receiver]()
    here = [Receiver(f"h{n}", lasting=True) for n in range(3)]
    gone = [Receiver(f"a{n}", connected=False, live=False, lasting=True) for n in range(1000)]
    for n, receiver in enumerate([*here, *gone]):
        router.subscribe(Sub(receiver, b"news", n % 3))
    before = router.walked
    route = router.route(b"news")
    assert router.walked - before < 3 * NARROW_MAX
    assert {s.session for s in route.every} == set(here)
    assert len(route.away) == NARROW_MAX + 1
    assert route.receivers == 1003
    gone[1].connected = gone[1].live = True
    router.touch([Sub(gone[1], b"news", 1)])
    assert {s.session for s in router.route(b"news").every} == {*here, gone[1]}
    assert len({s.session for s in router.away(b"news")}) == 665


def test_how_far_the_last_one_is_takes_no_look_at_all_who_are_away() -> None:
    """Each who came back had all the others looked through, twice a second: 0.2 s with a million."""
    lab = Lab()
    for n in range(500):
        client = lab.connect(f"c{n}", session_expiry=1000)
        client.subscribe("news", 1)
        client.drop()
    lab.connect("p").publish("news", qos=1)
    lab.connect("c250", clean=False, session_expiry=1000).drop()
    assert lab.core.log.touched
    assert lines(lambda: lab.core.tick(lab.core.now + 0.5)) < 250
    assert not lab.core.log.touched
    assert lab.core.log.messages == 1


def test_who_goes_while_the_others_are_looked_at_finds_what_it_has_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not among those who are away when that began, and not among those who are there when it ended."""
    lab = Lab()
    kept = {"clean": False, "session_expiry": 1000}
    names = ["slow", *(f"c{n}" for n in range(NARROW_MAX * 2))]
    for name in names:
        client = lab.connect(name, **kept)
        client.subscribe("news", 1)
        client.drop()
    sender = lab.connect("p")
    for number in range(8):
        sender.publish("news", b"%d" % number, 1)
    for name in names[1:]:
        client = lab.connect(name, **kept)
        client.ack(*(packet for packet in client.early if isinstance(packet, Publish)))
        client.drop()
    monkeypatch.setattr(session, "FETCH_MESSAGES_MAX", 1)
    slow = lab.connect("slow", receive_maximum=1, **kept)
    monkeypatch.setattr(limits, "SWEPT_MAX", NARROW_MAX + 4)
    assert slow.session.cursor < lab.core.log.head
    lab.advance(0.5)
    slow.drop()
    for _ in range(10):
        lab.advance(0.5)
    got = lab.connect("slow", **kept).early
    assert [packet.payload for packet in got if isinstance(packet, Publish)] == [b"%d" % n for n in range(8)]


# -- by name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic_filter", "gets"),
    [
        ("#", [b"a", b"a/b"]),
        ("+", [b"a"]),
        ("+/b", [b"a/b"]),
        ("+/#", [b"a", b"a/b"]),
        ("$a", [b"$a"]),
        ("$a/#", [b"$a", b"$a/b"]),
        ("$a/+", [b"$a/b"]),
    ],
)
def test_a_leading_wildcard_sees_nothing_that_begins_with_a_dollar(topic_filter: str, gets: list[bytes]) -> None:
    """[MQTT-4.7.2-1], and nothing else that the filter does not match [MQTT-3.3.2-3]."""
    router = Router[Receiver]()
    router.subscribe(Sub(Receiver("r"), topic_filter.encode(), 1))
    assert [topic for topic in (b"a", b"a/b", b"$a", b"$a/b") if router.route(topic).every] == gets


def test_an_evicted_route_is_stale_to_whoever_holds_it() -> None:
    router = Router[Receiver](routes_max=8)
    routes = [router.route(b"t%d" % n) for n in range(8)]
    router.route(b"one more")
    assert [route.any4 is None for route in routes] == [True] + [False] * 7
    assert router.route(b"t0") is not routes[0]


def test_deep_topics_use_up_the_cache_sooner() -> None:
    """50,000 topics of 32 levels were 400 MB: the cache is bounded by the nodes of its tree, too."""
    router = Router[Receiver](nodes_max=100)
    for number in range(50):
        router.route(b"%d" % number + b"/x" * 9)
    assert router._cached.nodes <= 110
    assert len(router._cache) <= 11


@pytest.mark.parametrize("topic_filter", ["#", "a/#", "a/+", "a/+/{}"])
def test_many_subscriptions_do_not_walk_through_the_cache_again_and_again(topic_filter: str) -> None:
    """A thousand filters in one SUBSCRIBE, each looking through 50,000 routes, were a stall of minutes."""
    router = Router[Receiver]()
    routes = [router.route(b"a/%d" % number) for number in range(5000)]
    for number in range(1000):
        before = router._cached
        router.subscribe(Sub(Receiver("r"), topic_filter.format(f"no-{number}").encode(), 1))
        if router._cached is not before:
            break
    assert before.walked < 40_000, "it would have gone on"
    assert router._cached.nodes == 0
    assert all(route.any4 is None for route in routes)  # who holds one asks again
    assert router.route(b"a/1").every == router.route(b"a/2").every


def test_a_cache_of_one() -> None:
    router = Router[Receiver](routes_max=1)
    first = router.route(b"a")
    second = router.route(b"b")
    assert first.any4 is None
    assert second.any4 == ()
    assert router.route(b"b") is second


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_group_serves_its_members_in_turn(count: int) -> None:
    group = Group[Receiver](b"g")
    members = [Receiver(f"r{n}") for n in range(count)]
    for member in members:
        group.members[member] = Sub(member, b"a", 1, b"", b"g")
    assert [group.pick().session for _ in range(2 * count)] == members * 2


def test_a_group_passes_over_those_who_are_not_ready_and_stays_fair() -> None:
    group = Group[Receiver](b"g")
    members = [Receiver(f"r{n}", ready=n != 0) for n in range(3)]
    for member in members:
        group.members[member] = Sub(member, b"a", 1, b"", b"g")
    assert [group.pick().session for _ in range(4)] == [members[1], members[2]] * 2


def test_a_group_of_which_nobody_is_ready_still_has_somebody() -> None:
    group = Group[Receiver](b"g")
    members = [Receiver(f"r{n}", ready=False) for n in range(2)]
    for member in members:
        group.members[member] = Sub(member, b"a", 1, b"", b"g")
    assert [group.pick().session for _ in range(4)] == members * 2


def test_a_topic_that_hardly_comes_again_pushes_none_out() -> None:
    """Each receipt has a topic of its own; the cache is for those that come again."""
    router = Router[Any](routes_max=4)
    known = router.route(b"often")
    for number in range(100):
        assert router.route_once(b"once/%d" % number).empty
    assert router.route(b"often") is known
    assert router.route_once(b"often") is known
