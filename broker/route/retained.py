"""Retained messages (§3.3.1.3): the last one of each topic, for those who subscribe later."""

from collections.abc import Iterator

from broker.limits import RETAINED_BYTES_MAX, RETAINED_MESSAGES_MAX
from broker.message import Message
from broker.route.topictree import TopicTree


class Retained:
    """The retained messages, bounded by number and bytes."""

    def __init__(self, messages_max: int = RETAINED_MESSAGES_MAX, bytes_max: int = RETAINED_BYTES_MAX) -> None:
        self._messages: dict[bytes, Message] = {}
        self._tree = TopicTree[Message]()
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages.values())

    def bound(self, messages_max: int, bytes_max: int) -> None:
        """Change the bounds; what is over them already stays until it is replaced or expires."""
        self._messages_max, self._bytes_max = messages_max, bytes_max

    def fits(self, message: Message) -> bool:
        """Whether `message` may be retained; taking one away always may."""
        if not message.payload:
            return True
        known = self._messages.get(message.topic)
        messages = len(self._messages) + (known is None)
        size = self.bytes + message.size - (known.size if known else 0)
        return messages <= self._messages_max and size <= self._bytes_max

    def set(self, message: Message) -> None:
        """Keep `message` as its topic's; an empty payload takes the topic's away [MQTT-3.3.1-6]."""
        known = self._messages.pop(message.topic, None)
        if known is not None:
            self.bytes -= known.size
        if message.payload:
            self._messages[message.topic] = message
            self._tree.add(message.topic, message)
            self.bytes += message.size
        elif known is not None:
            self._tree.remove(message.topic)

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
            self._tree.remove(message.topic)
            self.bytes -= message.size
        return len(gone)
