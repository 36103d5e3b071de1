"""Who gets a topic: exact filters in a dict, wildcard filters in a tree, and a cache of resolved routes above both.

A subscription that comes or goes makes stale only the routes that it matches. A stale route is resolved again when the
next message asks for it.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, Generic

from broker.limits import NARROW_MAX, ROUTE_NODES_MAX, ROUTES_CACHED_MAX
from broker.message import Message
from broker.route.subscription import QOS, Group, R, Subscription
from broker.route.topictree import TopicTree
from broker.wire.topics import matches, wild

# Below this many nodes a walk through the cache takes less than a millisecond.
WALK_MIN: Final = 2000

# A part of this process that gets a topic's messages, and who published them (None: this process itself).
Service = Callable[[Message, R | None], None]


class _Bucket(Generic[R]):
    """One filter's subscriptions, by session, and its groups, by name.

    A million sessions may be away from a topic that a few are there for: a route is made of those who are there, and of
    so many of the others as it takes to know that they are many.
    """

    __slots__ = ("away", "groups", "idle", "there")

    def __init__(self) -> None:
        self.there: dict[R, Subscription[R]] = {}  # their clients are
        self.away: dict[R, Subscription[R]] = {}  # their clients are not, and will come for what is QoS 1 or 2
        self.idle: dict[R, Subscription[R]] = {}  # their clients are not, and miss it
        self.groups: dict[bytes, Group[R]] = {}

    def __len__(self) -> int:
        return len(self.there) + len(self.away) + len(self.idle) + len(self.groups)

    def put(self, subscription: Subscription[R]) -> bool:
        """Add a subscription, or put it in the place of that session's own. Whether it is one more."""
        session = subscription.session
        if subscription.group:
            group = self.groups.get(subscription.group)
            if group is None:
                group = self.groups[subscription.group] = Group(subscription.group)
            new = session not in group.members
            group.members[session] = subscription
            return new
        known = self._pop(session)
        if session.connected:
            self.there[session] = subscription
        elif subscription.options & QOS:
            self.away[session] = subscription
        else:
            self.idle[session] = subscription
        return known is None

    def take(self, subscription: Subscription[R]) -> bool:
        """Take a subscription out. Whether it was there."""
        if not subscription.group:
            return self._pop(subscription.session) is not None
        group = self.groups.get(subscription.group)
        if group is None or group.members.pop(subscription.session, None) is None:
            return False
        if not group.members:
            del self.groups[subscription.group]
        return True

    def sort(self, session: R) -> None:
        """The client of `session` has come or gone."""
        if (session in self.there) != session.connected:
            known = self._pop(session)
            if known is not None:
                self.put(known)

    def _pop(self, session: R) -> Subscription[R] | None:
        return self.there.pop(session, None) or self.away.pop(session, None) or self.idle.pop(session, None)


# Most filters (a device's, a user's) have one subscription, and a bucket for each would cost 350 bytes.
_Held = Subscription[R] | _Bucket[R]


class Route(Generic[R]):
    """Who gets one topic, sorted by what is sent to them. `any4 is None` means: stale, ask the router again.

    any*: plain subscriptions of any QoS, for a QoS 0 publish; zero*, some*: of QoS 0 and of QoS 1 or 2, for a QoS 1
    publish; 4 and 5 are the receiver's MQTT version. kept*: plain ones of QoS 1 or 2 of lasting sessions that are live;
    these are not in some*. every: all subscriptions of those who are connected, one for each session, for the
    general way. extra: there is someone for whom the plain way is not right.

    away: QoS 1 or 2 of sessions that are not live; of very many, some, but more than NARROW_MAX. lasting: something
    must be kept until it is acknowledged. online: that is so, and nobody gets the topic but those in kept*. writes: a
    service makes facts of what it hears.
    """

    __slots__ = ("any4", "any5", "away", "empty", "every", "extra", "groups", "kept4", "kept5", "lasting", "online",
                 "receivers",
                 "services", "some4", "some5", "special", "topic", "writes", "zero4", "zero5")  # fmt: skip

    def __init__(self, topic: bytes) -> None:
        self.topic = topic
        self.any4: tuple[R, ...] | None = None

    any5: tuple[R, ...]
    zero4: tuple[R, ...]
    zero5: tuple[R, ...]
    some4: tuple[R, ...]
    some5: tuple[R, ...]
    kept4: tuple[R, ...]
    kept5: tuple[R, ...]
    every: tuple[Subscription[R], ...]
    away: tuple[Subscription[R], ...]
    special: tuple[Subscription[R], ...]
    groups: tuple[Group[R], ...]
    services: tuple[Service[R], ...]
    extra: bool
    lasting: bool
    online: bool
    writes: bool

    receivers: int  # sessions and groups; of very many that are away, those with overlapping filters twice
    empty: bool  # nobody gets this topic; one who only watches does not count


class _Node(Generic[R]):
    """A level of the wildcard tree: what ends here, what ends here in `#`, and what goes on."""

    __slots__ = ("children", "hash", "here")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node[R]] = {}
        self.here: _Held[R] | None = None
        self.hash: _Held[R] | None = None


class Router(Generic[R]):
    """All subscriptions, and the cache of routes. Pure: it knows receivers only by their protocol."""

    def __init__(self, routes_max: int = ROUTES_CACHED_MAX, nodes_max: int = ROUTE_NODES_MAX) -> None:
        self._exact: dict[bytes, _Held[R]] = {}
        self._wild = _Node[R]()
        self._services: list[tuple[bytes, Service[R]]] = []
        self._writing: list[Service[R]] = []
        self._watchers: list[tuple[bytes, Service[R]]] = []
        self._cache: dict[bytes, Route[R]] = {}
        self._cached = TopicTree[Route[R]]()
        self._routes_max = routes_max
        self._nodes_max = nodes_max
        self.subscriptions = 0
        self.walked = 0  # nodes and subscriptions looked at so far, to make routes and to find those that are stale

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def serve(self, filter: bytes, service: Service[R], *, writes: bool = False) -> None:
        """Hand every message on topics that match `filter` to a part of this process, too.

        writes: it makes facts of what it hears, and a publisher is told of success once these are on the disk.
        """
        self._services.append((filter, service))
        if writes:
            self._writing.append(service)
        self._stale(filter)

    def watch(self, filter: bytes, service: Service[R]) -> None:
        """Show a part of this process what passes on topics that match `filter`; publishers are not told of it."""
        self._watchers.append((filter, service))
        self._stale(filter)

    def unwatch(self, filter: bytes, service: Service[R]) -> None:
        """End what `watch` began."""
        self._watchers.remove((filter, service))
        self._stale(filter)

    def subscribe(self, subscription: Subscription[R]) -> None:
        """Add a subscription, or replace that session's own for the same filter and group [MQTT-3.8.4-3]."""
        filter = subscription.filter
        if wild(filter):
            node = self._wild
            levels = filter.split(b"/")
            rest = levels[-1] == b"#"
            for level in levels[:-1] if rest else levels:
                child = node.children.get(level)
                if child is None:
                    child = node.children[level] = _Node()
                node = child
            if rest:
                node.hash = self._with(node.hash, subscription)
            else:
                node.here = self._with(node.here, subscription)
        else:
            self._exact[filter] = self._with(self._exact.get(filter), subscription)
        self._stale(filter)

    def _with(self, held: _Held[R] | None, subscription: Subscription[R]) -> _Held[R]:
        """What a filter holds with `subscription`."""
        if not isinstance(held, _Bucket):
            if not subscription.group and (held is None or held.session is subscription.session):
                self.subscriptions += held is None
                return subscription
            bucket = _Bucket[R]()
            if held is not None:
                bucket.put(held)
            held = bucket
        self.subscriptions += held.put(subscription)
        return held

    def unsubscribe(self, subscription: Subscription[R]) -> None:
        """Take out a subscription that was added."""
        filter = subscription.filter
        held = self._find(filter)
        if isinstance(held, _Bucket):
            self.subscriptions -= held.take(subscription)
            if len(held):
                self._stale(filter)
                return
        elif held is None or held.session is not subscription.session or subscription.group:
            return
        else:
            self.subscriptions -= 1
        if wild(filter):
            self._prune(filter)
        else:
            del self._exact[filter]
        self._stale(filter)

    def group(self, filter: bytes, name: bytes) -> Group[R] | None:
        """The members who share a filter under this name, if there are any."""
        held = self._find(filter)
        return held.groups.get(name) if isinstance(held, _Bucket) else None

    def touch(self, subscriptions: Iterable[Subscription[R]]) -> None:
        """The session of these subscriptions has come, gone, or changed: sort it anew."""
        for subscription in subscriptions:
            if not subscription.group:
                held = self._find(subscription.filter)
                if isinstance(held, _Bucket):
                    held.sort(subscription.session)
            self._stale(subscription.filter)

    def away(self, topic: bytes) -> Iterator[Subscription[R]]:
        """The subscriptions that get `topic` at QoS 1 or 2, of all sessions that are not live, some perhaps twice.

        Those who went first, mostly, come first: who wants to know how far the last one is need hardly look further.
        It can be left there, and gone on with: no session that is not live all the while is missing then.
        """
        for held in list(self._matching(topic)):
            if isinstance(held, _Bucket):
                if len(held.away) > NARROW_MAX:
                    yield from list(islice(held.away.values(), NARROW_MAX))
                # At one moment: who comes or goes meanwhile is in one of both.
                behind = (s for s in held.there.values() if s.options & QOS and not s.session.live)
                yield from [*held.away.values(), *behind]
            elif held.options & QOS and not held.session.live:
                yield held

    def _find(self, filter: bytes) -> _Held[R] | None:
        """What a filter holds."""
        if not wild(filter):
            return self._exact.get(filter)
        node: _Node[R] | None = self._wild
        levels = filter.split(b"/")
        rest = levels[-1] == b"#"
        for level in levels[:-1] if rest else levels:
            assert node is not None
            node = node.children.get(level)
            if node is None:
                return None
        assert node is not None
        return node.hash if rest else node.here

    def _prune(self, filter: bytes) -> None:
        """Take a wildcard filter whose last subscription went out of the tree, with the branch that it leaves empty."""
        levels = filter.split(b"/")
        path: list[tuple[_Node[R], bytes]] = []
        node = self._wild
        rest = levels[-1] == b"#"
        for level in levels[:-1] if rest else levels:
            path.append((node, level))
            node = node.children[level]
        if rest:
            node.hash = None
        else:
            node.here = None
        while path and not (node.children or node.here or node.hash):
            node, level = path.pop()
            del node.children[level]

    # -- routes ------------------------------------------------------------------------------------------------------

    def route(self, topic: bytes) -> Route[R]:
        """Who gets `topic` (checked UTF-8 without wildcards), from the cache if it is fresh there."""
        route = self._cache.get(topic)
        if route is None:
            if len(self._cache) >= self._routes_max or self._cached.nodes >= self._nodes_max:
                self._evict()
            route = self._cache[topic] = Route(topic)
            self._cached.add(topic, route)
        if route.any4 is None:
            self._resolve(route)
        return route

    def route_once(self, topic: bytes) -> Route[R]:
        """Who gets `topic`, for a topic that hardly comes again and should push no other out of the cache."""
        route = self._cache.get(topic)
        if route is None or route.any4 is None:
            route = Route(topic)
            self._resolve(route)
        return route

    def _evict(self) -> None:
        """Drop the oldest eighth of the cache; whoever still holds one of those routes finds it stale."""
        for topic in list(islice(self._cache, max(1, len(self._cache) // 8))):
            self._cache.pop(topic).any4 = None
            self._cached.remove(topic)

    def _drop(self) -> None:
        """Drop the whole cache."""
        for route in self._cache.values():
            route.any4 = None
        self._cache.clear()
        self._cached = TopicTree()

    def _stale(self, filter: bytes) -> None:
        if wild(filter):
            before = self._cached.walked
            for route in self._cached.match(filter):
                route.any4 = None
            self.walked += self._cached.walked - before + 4
            # Looking for stale routes has cost as much as looking at all of them twice: making them anew is cheaper by
            # now, and a peer that goes on subscribing finds nothing more to look through.
            if self._cached.walked > max(WALK_MIN, 2 * self._cached.nodes):
                self._drop()
        else:
            found = self._cache.get(filter)
            if found is not None:
                found.any4 = None

    def _matching(self, topic: bytes) -> Iterator[_Held[R]]:
        """What every filter that matches `topic` holds (§4.7), wildcards and all 3.1.1 [MQTT-3.8.3-2].

        Levels are compared as bytes [MQTT-4.7.3-4], so a client gets no topic that it has no filter for [MQTT-3.3.2-3].
        """
        held = self._exact.get(topic)
        if held is not None:
            yield held
        root = self._wild
        if not root.children and root.hash is None:
            return
        levels = topic.split(b"/")
        last = len(levels)
        hidden = topic[:1] == b"$"  # [MQTT-4.7.2-1]: a leading wildcard does not match
        stack = [(root, 0)]
        while stack:
            node, depth = stack.pop()
            self.walked += 1
            if node.hash is not None and not (hidden and depth == 0):
                yield node.hash
            if depth == last:
                if node.here is not None:
                    yield node.here
                continue
            child = node.children.get(levels[depth])
            if child is not None:
                stack.append((child, depth + 1))
            if not (hidden and depth == 0):
                child = node.children.get(b"+")
                if child is not None:
                    stack.append((child, depth + 1))

    def _resolve(self, route: Route[R]) -> None:
        found: list[Subscription[R]] = []
        groups: list[Group[R]] = []
        sources = count = 0
        for held in self._matching(route.topic):
            sources += 1
            if isinstance(held, Subscription):
                found.append(held)
                continue
            found += held.there.values()
            for absent in (held.away, held.idle):
                found += islice(absent.values(), NARROW_MAX + 1)
                count += max(0, len(absent) - NARROW_MAX - 1)
            groups += held.groups.values()
        self.walked += len(found) + len(groups)
        if sources > 1:  # only then can a session be there twice
            found = _one_each(found)
        count += len(found)
        there = [s for s in found if s.session.connected]
        plain = [s for s in there if s.plain]
        special = tuple(s for s in there if not s.plain) if len(plain) < len(there) else ()
        route.every = tuple(there)
        route.away = tuple(s for s in found if s.options & QOS and not s.session.live)
        route.special = special
        route.groups = tuple(groups)
        services = _heard(self._services, route.topic)
        route.services = services + _heard(self._watchers, route.topic)
        route.extra = bool(special or groups or route.services)
        route.receivers = count + len(groups)
        route.empty = not (route.receivers or services)
        zero = [s for s in plain if not s.options & QOS]
        some = [s for s in plain if s.options & QOS and s.session.live]
        kept = [s.session for s in some if s.session.lasting]
        route.kept4 = tuple(session for session in kept if not session.v5)
        route.kept5 = tuple(session for session in kept if session.v5)
        if kept:
            some = [s for s in some if not s.session.lasting]
        route.lasting = bool(
            kept
            or route.away
            or any(s.options & QOS and s.session.lasting for s in special)
            or any(
                s.options & QOS and (s.session.lasting or not s.session.live)
                for group in groups
                for s in group.members.values()
            )
        )
        route.writes = any(service in self._writing for service in services)
        route.online = bool(kept) and len(kept) == count and not route.extra
        route.any5 = tuple(s.session for s in plain if s.session.v5)
        route.zero4 = tuple(s.session for s in zero if not s.session.v5)
        route.zero5 = tuple(s.session for s in zero if s.session.v5)
        route.some4 = tuple(s.session for s in some if not s.session.v5)
        route.some5 = tuple(s.session for s in some if s.session.v5)
        # Last: from here on the route is fresh.
        route.any4 = tuple(s.session for s in plain if not s.session.v5)


def _heard(services: list[tuple[bytes, Service[R]]], topic: bytes) -> tuple[Service[R], ...]:
    """The services whose filter matches: they are few, and asked only when a route is made."""
    if not services:
        return ()
    name = topic.decode()
    return tuple(service for filter, service in services if matches(filter.decode(), name))


def _one_each(found: list[Subscription[R]]) -> list[Subscription[R]]:
    """One delivery for each session, overlapping subscriptions merged [MQTT-3.3.4-2], 3.1.1 [MQTT-3.3.5-1]."""
    merged: dict[R, Subscription[R]] = {}
    for subscription in found:
        known = merged.get(subscription.session)
        merged[subscription.session] = subscription if known is None else known.merged(subscription)
    return list(merged.values())
