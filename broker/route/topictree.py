"""A tree of topic names, level by level, that answers which of them a filter matches.

Serves twice: retained messages that a new subscription gets, and cached routes that it makes stale.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar, cast

T = TypeVar("T")

# The value of a topic hangs under a key that no level can be (levels are bytes).
_HERE = 0
_Node = dict[object, object]


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
        levels = filter.split(b"/")
        last = len(levels)
        # An explicit stack: a filter's depth is bounded, a recursion's cost in frames is not worth it.
        stack: list[tuple[_Node, int]] = [(self._root, 0)]
        while stack:
            node, depth = stack.pop()
            self.walked += 1
            if depth == last:
                if _HERE in node:
                    yield cast("T", node[_HERE])
                continue
            level = levels[depth]
            if level == b"#":
                yield from self._below(node, hidden=depth == 0)
            elif level == b"+":
                self.walked += len(node)
                for name, child in node.items():
                    if name is _HERE or (depth == 0 and cast("bytes", name)[:1] == b"$"):  # [MQTT-4.7.2-1]
                        continue
                    stack.append((cast("_Node", child), depth + 1))
            else:
                found = node.get(level)
                if found is not None:
                    stack.append((cast("_Node", found), depth + 1))

    def _below(self, node: _Node, hidden: bool) -> Iterator[T]:
        """All values at and under `node`: `a/#` matches `a` too (§4.7.1.2)."""
        stack = [node]
        while stack:
            top = stack.pop()
            self.walked += len(top)
            for name, child in top.items():
                if name is _HERE:
                    yield cast("T", child)
                elif not (hidden and top is node and cast("bytes", name)[:1] == b"$"):
                    stack.append(cast("_Node", child))
