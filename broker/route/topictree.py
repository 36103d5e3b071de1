"""A tree of topic names, level by level, that answers which of them a filter matches.

Serves twice: retained messages that a new subscription gets, and cached routes that it makes stale.
"""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar, cast

T = TypeVar("T")

# The value of a topic hangs under a key that no level can be (levels are bytes).
_HERE = 0
_Node = dict[object, object]
STEP: Final = 1000  # nodes; half a millisecond


class TopicTree(Generic[T]):
    """Topics (bytes) with a value each. Adding costs the topic's levels; matching, what the filter meets.

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
        for level in topic.split(b"/"):
            child = node.get(level)
            if child is None:
                child = node[level] = {}
                self.nodes += 1
            node = cast("_Node", child)
        node[_HERE] = value

    def lacks(self, topic: bytes) -> int:
        """How many nodes it would take to add `topic`."""
        node = self._root
        levels = topic.split(b"/")
        for depth, level in enumerate(levels):
            child = node.get(level)
            if child is None:
                return len(levels) - depth
            node = cast("_Node", child)
        return 0

    def remove(self, topic: bytes) -> None:
        """Take `topic` out, with the branches that it leaves empty."""
        path: list[tuple[_Node, bytes]] = []
        node = self._root
        for level in topic.split(b"/"):
            child = node.get(level)
            if child is None:
                return
            path.append((node, level))
            node = cast("_Node", child)
        node.pop(_HERE, None)
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
        node, depth = self._root, 0
        while True:
            self.walked += 1
            level = levels[depth] if depth < last else b""
            if depth == last or level == b"#":
                if _HERE in node:  # `a/#` matches `a` too (§4.7.1.2)
                    yield cast("T", node[_HERE])
                if depth < last:
                    stack.append((node, iter(list(node)), depth))
            elif level == b"+":
                stack.append((node, iter(list(node)), depth + 1))
            else:
                child = node.get(level)
                if child is not None:
                    node, depth = cast("_Node", child), depth + 1
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
                node, depth = cast("_Node", child), at
                break
            else:
                return
            if self.walked > pause:
                pause = self.walked + STEP
                yield None
