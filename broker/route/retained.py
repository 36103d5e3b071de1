"""Retained messages (§3.3.1.3): the last one of each topic, for those who subscribe later."""

from collections.abc import Iterator

from broker.limits import (
    RETAINED_BYTES_MAX,
    RETAINED_MESSAGES_MAX,
    RETAINED_OF_DEVICE_MAX,
    TREE_NODE_BYTES,
)
from broker.message import Message
from broker.route.topictree import TopicTree


class Retained:
    """The retained messages, bounded by number and bytes; those that one device says (`up/`) by a number of their own.

    A bound that all share could be used up by one: of a brand's servers we take that, of a device that anybody can
    walk up to we do not.
    """

    def __init__(self, messages_max: int = RETAINED_MESSAGES_MAX, bytes_max: int = RETAINED_BYTES_MAX) -> None:
        self._messages: dict[bytes, Message] = {}
        self._tree = TopicTree[Message]()
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self.bytes = 0  # in memory, near enough: the messages, and the tree that finds them
        self._of_devices: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages.values())

    @property
    def walked(self) -> int:
        """How many levels `match` has looked at so far."""
        return self._tree.walked

    def bound(self, messages_max: int, bytes_max: int) -> None:
        """Change the bounds; what is over them already stays until it is replaced or expires."""
        self._messages_max, self._bytes_max = messages_max, bytes_max

    def fits(self, message: Message) -> bool:
        """Whether `message` may be retained; taking one away always may."""
        if not message.payload:
            return True
        known = self._messages.get(message.topic)
        if known is not None:
            return self.bytes + message.size - known.size <= self._bytes_max
        if len(self._messages) >= self._messages_max:
            return False
        device = _device(message.topic)
        if device and self._of_devices.get(device, 0) >= RETAINED_OF_DEVICE_MAX:
            return False
        nodes = self._tree.lacks(message.topic)
        return self.bytes + message.size + nodes * TREE_NODE_BYTES <= self._bytes_max

    def set(self, message: Message) -> None:
        """Keep `message` as its topic's; an empty payload takes the topic's away [MQTT-3.3.1-6]."""
        known = self._messages.pop(message.topic, None)
        if known is not None:
            self._took(known)
        if message.payload:
            self._messages[message.topic] = message
            self.bytes += message.size + self._tree.lacks(message.topic) * TREE_NODE_BYTES
            self._tree.add(message.topic, message)
            self._count(message.topic, 1)

    def _took(self, message: Message) -> None:
        """`message` is not among those kept any more: its place in the tree goes, too."""
        before = self._tree.nodes
        self._tree.remove(message.topic)
        self.bytes -= message.size + (before - self._tree.nodes) * TREE_NODE_BYTES
        self._count(message.topic, -1)

    def _count(self, topic: bytes, by: int) -> None:
        device = _device(topic)
        if device:
            self._of_devices[device] = self._of_devices.get(device, 0) + by
            if not self._of_devices[device]:
                del self._of_devices[device]

    def get(self, topic: bytes) -> Message | None:
        """The retained message of a topic."""
        return self._messages.get(topic)

    def match(self, filter: bytes, now: float) -> list[Message]:
        """Those that `filter` matches and that have not expired at `now`."""
        if b"+" not in filter and b"#" not in filter:
            one = self._messages.get(filter)
            found = [one] if one is not None else []
        else:
            found = list(self._tree.match(filter))
        return [m for m in found if not m.expires_at or m.expires_at > now]

    def purge(self, now: float) -> int:
        """Take away those that have expired at `now`; return how many."""
        gone = [m for m in self._messages.values() if m.expires_at and m.expires_at <= now]
        for message in gone:
            del self._messages[message.topic]
            self._took(message)
        return len(gone)


def _device(topic: bytes) -> bytes:
    """The branch of the device that says `topic` (`{brand}/device/{device}/up/…`); empty for what others say."""
    levels = topic.split(b"/", 4)
    return b"/".join(levels[:3]) if len(levels) > 4 and levels[1] == b"device" and levels[3] == b"up" else b""
