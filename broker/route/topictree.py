"""A tree of topic names, level by level, that answers which of them a filter matches.

Serves three times: retained messages that a new subscription gets, cached routes that it makes stale, topics of the log
in which a session finds what it has missed.
"""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar, cast

T = TypeVar("T")

# A level that ends one topic and goes on in none is that topic's value itself: a dict for each would cost 232 bytes.
# Else it is a dict, in which the value hangs under a key that no level can be (levels are bytes).
_HERE = 0
_Node = dict[object, object]
STEP: Final = 1000  # nodes; half a millisecond


class TopicTree(Generic[T]):
    """Topics (bytes) with a value each, no dict. Adding costs the topic's levels; matching, what the filter meets.

    `nodes` are held, about `limits.TREE_NODE_BYTES` each; `walked` counts those that `match` has met so far.
    """

    __slots__ = ("_root", "nodes", "walked")

    def __init__(self) -> None:
        self._root: _Node = {}
        self.nodes = 0
        self.walked = 0

    def add(self, topic: bytes, value: T) -> None:
        """Put `value` at `topic`, replacing what was there."""
        node = self._root
        *levels, last = topic.split(b"/")
        for level in levels:
            child = node.get(level)
            if type(child) is not dict:
                self.nodes += child is None
                more: _Node = {} if child is None else {_HERE: child}
                node[level] = child = more
            node = child
        child = node.get(last)
        if type(child) is dict:
            child[_HERE] = value
        else:
            self.nodes += child is None
            node[last] = value

    def lacks(self, topic: bytes) -> int:
        """How many nodes it would take to add `topic`."""
        node = self._root
        levels = topic.split(b"/")
        for depth, level in enumerate(levels, 1):
            child = node.get(level)
            if child is None:
                return len(levels) - depth + 1
            if type(child) is not dict:
                return len(levels) - depth
            node = child
        return 0

    def remove(self, topic: bytes) -> None:
        """Take `topic` out, with the branches that it leaves empty."""
        path: list[tuple[_Node, bytes]] = []
        node = self._root
        *levels, last = topic.split(b"/")
        for level in levels:
            child = node.get(level)
            if type(child) is not dict:
                return
            path.append((node, level))
            node = child
        child = node.get(last)
        if type(child) is dict:
            child.pop(_HERE, None)
        if child is None or (type(child) is dict and child):
            return  # it is not there, or others go on
        del node[last]
        self.nodes -= 1
        while path and not node:
            node, level = path.pop()
            del node[level]
            self.nodes -= 1

    def match(self, filter: bytes) -> Iterator[T]:
        """The values of all topics that `filter` matches (§4.7); `$` topics are hidden from a leading wildcard."""
        return (value for value in self.walk(filter) if value is not None)

    def walk(self, filter: bytes) -> Iterator[T | None]:
        """As `match`, but with a None now and then where nothing was found: a walk can be left there, and gone on with.

        What is added meanwhile may be missing, what is removed does not come.
        """
        levels = filter.split(b"/")
        last = len(levels)
        pause = self.walked + STEP
        # Nodes, those of their children that are still to be visited, and which level those are for.
        stack: list[tuple[_Node, Iterator[object], int]] = []
        node: object = self._root
        depth = 0
        while True:
            self.walked += 1
            level = levels[depth] if depth < last else b""
            if type(node) is not dict:
                if depth == last or level == b"#":
                    yield cast("T", node)
            elif depth == last or level == b"#":
                if _HERE in node:  # `a/#` matches `a` too (§4.7.1.2)
                    yield cast("T", node[_HERE])
                if depth < last:
                    stack.append((node, iter(list(node)), depth))
            elif level == b"+":
                stack.append((node, iter(list(node)), depth + 1))
            else:
                child = node.get(level)
                if child is not None:
                    node, depth = child, depth + 1
                    continue
            while stack:
                parent, names, at = stack[-1]
                name = next(names, None)
                if name is None:
                    stack.pop()
                    continue
                child = parent.get(name)
                if name is _HERE or child is None:
                    continue
                if parent is self._root and cast("bytes", name)[:1] == b"$":  # [MQTT-4.7.2-1]
                    continue
                node, depth = child, at
                break
            else:
                return
            if self.walked > pause:
                pause = self.walked + STEP
                yield None
