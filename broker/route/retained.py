"""Retained messages (§3.3.1.3): the last one of each topic, for those who subscribe later."""

from collections.abc import Iterator

from broker.limits import (
    RETAINED_BYTES_MAX,
    RETAINED_BYTES_OF_BRAND_MAX,
    RETAINED_MESSAGES_MAX,
    RETAINED_MESSAGES_OF_BRAND_MAX,
    RETAINED_OF_DEVICE_MAX,
    TREE_NODE_BYTES,
)
from broker.message import Message
from broker.route.expiring import Expiring
from broker.route.topictree import TopicTree


class Retained:
    """The retained messages, bounded by number and bytes: all of them, and those of each brand.

    Those that one device says (`up/`) have a number of their own, too. A bound that all share could be used up by one:
    a brand leaves the others their part, and a device that anybody can walk up to leaves its brand's.
    """

    def __init__(
        self,
        messages_max: int = RETAINED_MESSAGES_MAX,
        bytes_max: int = RETAINED_BYTES_MAX,
        brand_messages_max: int = RETAINED_MESSAGES_OF_BRAND_MAX,
        brand_bytes_max: int = RETAINED_BYTES_OF_BRAND_MAX,
    ) -> None:
        self._messages: dict[bytes, Message] = {}
        self._tree = TopicTree[Message]()
        self._expiring = Expiring[bytes]()
        self.bound(messages_max, bytes_max, brand_messages_max, brand_bytes_max)
        self.count = 0  # of messages that were ever retained
        self.bytes = 0  # in memory, near enough: the messages, and the tree that finds them
        self._of_brands: dict[bytes, tuple[int, int]] = {}  # number and bytes; none of those that have none
        self._of_devices: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages.values())

    @property
    def walked(self) -> int:
        """How many levels `match` has looked at so far."""
        return self._tree.walked

    def bound(self, messages_max: int, bytes_max: int, brand_messages_max: int, brand_bytes_max: int) -> None:
        """Change the bounds; what is over them already stays until it is replaced or expires."""
        self._messages_max, self._bytes_max = messages_max, bytes_max
        self._brand_messages_max, self._brand_bytes_max = brand_messages_max, brand_bytes_max

    def fits(self, message: Message) -> bool:
        """Whether `message` may be retained; taking one away always may, and so may one that is no larger."""
        if not message.payload:
            return True
        messages, size = self._of_brands.get(_brand(message.topic), (0, 0))
        known = self._messages.get(message.topic)
        if known is not None:
            more = message.size - known.size
            if more <= 0:
                return True
        else:
            if len(self._messages) >= self._messages_max or messages >= self._brand_messages_max:
                return False
            device = _device(message.topic)
            if device and self._of_devices.get(device, 0) >= RETAINED_OF_DEVICE_MAX:
                return False
            more = message.size + self._tree.lacks(message.topic) * TREE_NODE_BYTES
        return self.bytes + more <= self._bytes_max and size + more <= self._brand_bytes_max

    def set(self, message: Message) -> None:
        """Keep `message` as its topic's, whatever its QoS; an empty payload takes the topic's away and is not kept.

        [MQTT-3.3.1-5 to -7], 3.1.1 [MQTT-3.3.1-7, -10, -11].
        """
        known = self._messages.pop(message.topic, None)
        if known is not None:
            self._took(known)
        if message.payload:
            self.count += 1
            message.retained_as = self.count
            self._messages[message.topic] = message
            if message.expires_at:
                self._expiring.add(message.topic, message.expires_at)
            size = message.size + self._tree.lacks(message.topic) * TREE_NODE_BYTES
            self._tree.add(message.topic, message)
            self._count(message.topic, 1, size)

    def _took(self, message: Message) -> None:
        """`message` is not among those kept any more: its place in the tree goes, too."""
        if message.expires_at:
            self._expiring.discard(message.topic, message.expires_at)
        before = self._tree.nodes
        self._tree.remove(message.topic)
        self._count(message.topic, -1, -message.size - (before - self._tree.nodes) * TREE_NODE_BYTES)

    def _count(self, topic: bytes, messages: int, size: int) -> None:
        """One more or one less. A level of the tree is its brand's: the first one is the brand itself."""
        self.bytes += size
        brand, device = _brand(topic), _device(topic)
        before, before_size = self._of_brands.get(brand, (0, 0))
        if before + messages:
            self._of_brands[brand] = before + messages, before_size + size
        else:
            del self._of_brands[brand]
        if device:
            self._of_devices[device] = self._of_devices.get(device, 0) + messages
            if not self._of_devices[device]:
                del self._of_devices[device]

    def get(self, topic: bytes) -> Message | None:
        """The retained message of a topic."""
        return self._messages.get(topic)

    def match(self, filter: bytes, now: float) -> list[Message]:
        """Those that `filter` matches and that have not expired at `now`."""
        return [message for message in self.walk(filter, now) if message is not None]

    def walk(self, filter: bytes, now: float) -> Iterator[Message | None]:
        """As `match`, but one by one, with a None now and then where nothing was found, to be left and gone on with."""
        if b"+" not in filter and b"#" not in filter:
            one = self._messages.get(filter)
            found: Iterator[Message | None] = iter([one] if one is not None else [])
        else:
            found = self._tree.walk(filter)
        return (m for m in found if m is None or not m.expires_at or m.expires_at > now)

    def purge(self, now: float, most: int) -> list[bytes]:
        """Take away those that have expired at `now`, so many at most; return their topics."""
        gone = self._expiring.take(now, most)
        for topic in gone:
            self._took(self._messages.pop(topic))
        return gone


def _brand(topic: bytes) -> bytes:
    """Whose topic it is; in open mode, where nobody is anybody, whatever its first level is."""
    return topic.partition(b"/")[0]


def _device(topic: bytes) -> bytes:
    """The branch of the device that says `topic` (`{brand}/device/{device}/up/…`); empty for what others say."""
    levels = topic.split(b"/", 4)
    return b"/".join(levels[:3]) if len(levels) > 4 and levels[1] == b"device" and levels[3] == b"up" else b""
