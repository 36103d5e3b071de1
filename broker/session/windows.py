"""Messages that wait for the acknowledgements of receivers who are online, before they are written."""

from collections import deque
from collections.abc import Iterator

from broker.message import Promise


class Windows:
    """Promises in the order of their deadlines, and for each topic in the order of their publishes.

    A promise whose `message` is None waits no more: it is passed over.
    """

    __slots__ = ("_in_time", "_on_topic")

    def __init__(self) -> None:
        self._in_time: deque[tuple[bytes, Promise]] = deque()
        self._on_topic: dict[bytes, deque[Promise]] = {}

    def __bool__(self) -> bool:
        return bool(self._in_time)

    def add(self, topic: bytes, promise: Promise) -> None:
        """`promise` waits until it is due."""
        self._in_time.append((topic, promise))
        same = self._on_topic.get(topic)
        if same is None:
            same = self._on_topic[topic] = deque()
        same.append(promise)

    def first_due(self) -> float:
        """When the next one is due; 0 if there is none."""
        while self._in_time:
            _, promise = self._in_time[0]
            if promise.message is not None:
                return promise.due
            self._pop()
        return 0.0

    def close(self, now: float) -> Iterator[Promise]:
        """Take out those that are due at `now`."""
        while self._in_time and (self._in_time[0][1].message is None or self._in_time[0][1].due <= now):
            promise = self._pop()
            if promise.message is not None:
                yield promise

    def older(self, topic: bytes, seq: int) -> Iterator[Promise]:
        """Take out those on `topic` that were published before number `seq`: what is written is written in order."""
        same = self._on_topic.get(topic)
        while same and ((message := same[0].message) is None or message.seq < seq):
            promise = same.popleft()
            if promise.message is not None:
                yield promise
        if same is not None and not same:
            self._on_topic.pop(topic, None)

    def _pop(self) -> Promise:
        topic, promise = self._in_time.popleft()
        same = self._on_topic.get(topic)
        if same and same[0] is promise:
            same.popleft()
            if not same:
                del self._on_topic[topic]
        return promise
