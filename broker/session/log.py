"""The log as it is in memory: for each topic, the numbers of the messages that absent sessions will find there.

A message is *listed* under its topic while a session that is not up to date may still come for it, and *held* while
somebody has it in flight, queued or assigned. One that is neither is forgotten: its row is deleted. What has been
written is read again from the disk, but for the latest, which stay in memory too.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from broker.counters import Counters
from broker.journal import Batch, SavedMessage, size_of
from broker.limits import BODIES_BYTES_MAX
from broker.message import Message
from broker.route.expiring import Expiring
from broker.route.topictree import TopicTree
from broker.wire.topics import wild


class TopicLog:
    """What is listed under one topic, in order: numbers, sizes in bytes, and when they expire, if any of them does."""

    __slots__ = ("bytes", "expires", "expires_at", "seqs", "sizes", "topic")

    def __init__(self, topic: bytes) -> None:
        self.topic = topic
        self.bytes = 0
        self.seqs = array("Q")
        self.sizes = array("I")
        self.expires: array[float] | None = None
        self.expires_at = 0.0  # when it is to be looked through for that; 0 = never

    def add(self, seq: int, size: int, expires_at: float) -> None:
        """List one more; numbers only rise."""
        if expires_at and self.expires is None:
            self.expires = array("d", bytes(8 * len(self.seqs)))
        self.seqs.append(seq)
        self.sizes.append(size)
        self.bytes += size
        if self.expires is not None:
            self.expires.append(expires_at)

    def after(self, seq: int) -> int:
        """Where those above `seq` begin."""
        return bisect_right(self.seqs, seq)

    def full(self, messages_max: int, bytes_max: int) -> bool:
        """Whether as much is listed as may be."""
        count = len(self.seqs)
        return count >= messages_max or (count > 1 and self.bytes > bytes_max)

    def cut(self, first: int, last: int) -> None:
        """Take out those from place `first` up to, not including, `last`."""
        self.bytes -= sum(self.sizes[first:last])
        del self.seqs[first:last]
        del self.sizes[first:last]
        if self.expires is not None:
            del self.expires[first:last]


class Log:
    """All messages that are kept. `batch` collects what is to be written next. Times are monotonic."""

    def __init__(self, counters: Counters, offset: float) -> None:
        self.counters = counters
        self.offset = offset  # from the monotonic to the wall clock
        self.head = 0  # the highest number given so far
        self.messages = 0
        self.bytes = 0
        self.batch = Batch()
        self.topics: dict[bytes, TopicLog] = {}
        self._tree = TopicTree[TopicLog]()  # the same, for filters with wildcards
        self._expiring = Expiring[bytes]()
        self.touched: dict[bytes, None] = {}  # topics in which somebody has got on
        self.touched_widely: dict[bytes, None] = {}  # filters with wildcards, of which that is so
        self.unwritten_bytes = 0
        self._unwritten: dict[int, Message] = {}
        self._recent: OrderedDict[int, Message] = OrderedDict()
        self._recent_bytes = 0
        self._held: dict[int, int] = {}
        self.booked: set[int] = set()  # those of which the bridge wants to know when they are forgotten
        self.gone: Callable[[int], object] = lambda _: None
        self._detached: dict[int, int] = {}  # size of those that are held and not listed

    # -- in ----------------------------------------------------------------------------------------------------------

    def append(self, message: Message, *, listed: bool) -> None:
        """Have `message` written. Unless it is listed, somebody holds it."""
        seq, topic = message.seq, message.topic
        size = size_of(topic, message.payload, message.properties, message.publisher)
        self.batch.messages.append(self.saved(message))
        self.counters.log_messages_appended += 1
        self.messages += 1
        self.bytes += size
        self.unwritten_bytes += size
        self._unwritten[seq] = message
        if listed:
            found = self.topics.get(topic)
            if found is None:
                found = self._new(topic)
            self._add(found, seq, size, message.expires_at)
        else:
            self._detached[seq] = size

    def _new(self, topic: bytes) -> TopicLog:
        found = self.topics[topic] = TopicLog(topic)
        self._tree.add(topic, found)
        return found

    def _add(self, found: TopicLog, seq: int, size: int, expires_at: float) -> None:
        found.add(seq, size, expires_at)
        if expires_at and (not found.expires_at or expires_at < found.expires_at):
            self._expire_at(found, expires_at)

    def _expire_at(self, found: TopicLog, when: float) -> None:
        """Look through a topic at this time, and not at another; 0 = never."""
        if found.expires_at:
            self._expiring.discard(found.topic, found.expires_at)
        found.expires_at = when
        if when:
            self._expiring.add(found.topic, when)

    def _end(self, topic: bytes) -> None:
        found = self.topics.pop(topic, None)
        if found is not None:
            self._expire_at(found, 0.0)
            self._tree.remove(topic)

    def adopt(self, message: Message) -> None:
        """Have `message`, which has a number already, written for somebody who holds it, if it is not in the log."""
        found = self.topics.get(message.topic)
        seq = message.seq
        if seq in self._detached:
            return
        if found is not None:
            at = bisect_left(found.seqs, seq)
            if at < len(found.seqs) and found.seqs[at] == seq:
                return
        if seq in self.batch.forgotten:
            self.batch.forgotten.remove(seq)  # which would be done after messages are written
        self.append(message, listed=False)

    def load(self, entries: Iterable[tuple[int, bytes, int, float]]) -> None:
        """List what was in the journal: number, topic, size, and expiry by the wall clock, ascending."""
        topics, offset = self.topics, self.offset
        count = total = 0
        for seq, topic, size, expires_at in entries:
            found = topics.get(topic)
            if found is None:
                found = self._new(topic)
            self._add(found, seq, size, expires_at - offset if expires_at else 0.0)
            count += 1
            total += size
            self.head = seq
        self.messages += count
        self.bytes += total
        self.counters.log_messages_appended += count

    def saved(self, message: Message) -> SavedMessage:
        """As it is written: as it was published."""
        return SavedMessage(
            message.seq,
            message.topic,
            message.payload,
            message.qos,
            message.retain,
            message.properties,
            message.expires_at + self.offset if message.expires_at else 0.0,
            message.publisher,
            message.id,
            message.receipt,
        )

    def restored(self, saved: SavedMessage) -> Message:
        """A message from the journal."""
        return Message(
            saved.topic,
            saved.payload,
            saved.qos,
            saved.retain,
            saved.properties,
            saved.expires_at - self.offset if saved.expires_at else 0.0,
            saved.publisher,
            saved.id,
            tracked=True,
            receipt=saved.receipt,
            seq=saved.seq,
        )

    # -- bodies ------------------------------------------------------------------------------------------------------

    def body(self, seq: int) -> Message | None:
        """The message, if it is in memory."""
        return self._unwritten.get(seq) or self._recent.get(seq)

    def remember(self, message: Message) -> None:
        """Keep a message in memory, in place of older ones."""
        recent = self._recent
        if message.seq in recent:
            return
        recent[message.seq] = message
        self._recent_bytes += message.size
        while self._recent_bytes > BODIES_BYTES_MAX:
            self._recent_bytes -= recent.popitem(last=False)[1].size

    def written(self, messages: Iterable[SavedMessage]) -> None:
        """These are on the disk now."""
        for saved in messages:
            message = self._unwritten.pop(saved.seq, None)
            if message is not None:
                self.unwritten_bytes -= size_of(saved.topic, saved.payload, saved.properties, saved.publisher)
                self.remember(message)

    def undo(self, messages: Iterable[SavedMessage]) -> None:
        """These could not be written: it is as if they had not been appended."""
        for saved in messages:
            seq, size = saved.seq, size_of(saved.topic, saved.payload, saved.properties, saved.publisher)
            if self._unwritten.pop(seq, None) is None:
                continue  # forgotten meanwhile
            self.unwritten_bytes -= size
            self.booked.discard(seq)
            self.counters.log_messages_appended -= 1
            self.messages -= 1
            self.bytes -= size
            if self._detached.pop(seq, None) is None:
                found = self.topics[saved.topic]
                at = bisect_left(found.seqs, seq)
                found.cut(at, at + 1)
                if not found.seqs:
                    self._end(saved.topic)

    # -- who needs what ----------------------------------------------------------------------------------------------

    def hold(self, seq: int, times: int = 1) -> None:
        """Somebody has the message in flight, queued or assigned."""
        self._held[seq] = self._held.get(seq, 0) + times

    def release(self, seq: int) -> None:
        """Somebody who held the message has done with it."""
        left = self._held.get(seq, 0) - 1
        if left > 0:
            self._held[seq] = left
            return
        self._held.pop(seq, None)
        size = self._detached.pop(seq, None)
        if size is not None:
            self.counters.log_messages_delivered += 1
            self._forget(seq, size)

    def holds(self, seq: int) -> bool:
        """Whether somebody has the message in flight, queued or assigned."""
        return seq in self._held

    def size_of_detached(self, seq: int) -> int:
        """The size of a message that is held and not listed, else 0."""
        return self._detached.get(seq, 0)

    def touch(self, filter: bytes) -> None:
        """Whoever had this filter has got on in the topics that it matches."""
        if wild(filter):
            self.touched_widely[filter] = None  # they may be many: they are looked for later
        elif filter in self.topics:
            self.touched[filter] = None

    def drop(self, topic: bytes, low: int) -> None:
        """Nobody will come for messages of `topic` up to number `low`."""
        found = self.topics.get(topic)
        if found is not None:
            self.counters.log_messages_delivered += self._cut(topic, found, found.after(low))

    def trim(self, topic: bytes, messages_max: int, bytes_max: int) -> None:
        """Give up the oldest messages of `topic`, so that one more is within the bounds, and an eighth to spare."""
        found = self.topics[topic]
        last = max(1, len(found.seqs) - messages_max + messages_max // 8)
        over = found.bytes - sum(found.sizes[:last]) - bytes_max * 7 // 8
        while over > 0 and last < len(found.seqs):
            over -= found.sizes[last]
            last += 1
        self.counters.log_messages_dropped += self._cut(topic, found, last)

    def take_back(self, topic: bytes, seq: int) -> bool:
        """Nobody is to find this message any more. False: somebody holds it still, or it is not there."""
        found = self.topics.get(topic)
        at = bisect_left(found.seqs, seq) if found is not None else 0
        if found is None or at == len(found.seqs) or found.seqs[at] != seq:
            return False
        dropped = self._cut(topic, found, at + 1, at)
        self.counters.log_messages_dropped += dropped
        return bool(dropped)

    def expire_due(self, now: float, most: int) -> None:
        """Forget what has expired by now, or up to a minute ago, under so many topics at most."""
        for topic in self._expiring.take(now, most):
            self.expire(topic, now)

    def expire(self, topic: bytes, now: float) -> None:
        """Forget what has expired under `topic`."""
        found = self.topics.get(topic)
        if found is None or found.expires is None:
            return
        last = len(found.seqs)
        while last:
            # Runs of expired ones, from the end, so that places do not move under us.
            first = last
            while first and found.expires[first - 1] and found.expires[first - 1] <= now:
                first -= 1
            self.counters.log_messages_expired += self._cut(topic, found, last, first)
            last = first - 1 if first else 0
        if found.seqs:
            self._expire_at(found, min((at for at in found.expires if at), default=0.0))

    def _cut(self, topic: bytes, found: TopicLog, last: int, first: int = 0) -> int:
        """Take messages out of a topic's list; what nobody holds is forgotten. Returns how many."""
        if last <= first:
            return 0
        forgotten = 0
        held = self._held
        for at in range(first, last):
            seq, size = found.seqs[at], found.sizes[at]
            if seq in held:
                self._detached[seq] = size
            else:
                self._forget(seq, size)
                forgotten += 1
        found.cut(first, last)
        if not found.seqs:
            self._end(topic)
        return forgotten

    def _forget(self, seq: int, size: int) -> None:
        self.batch.forgotten.append(seq)
        if self.booked and seq in self.booked:
            self.booked.remove(seq)
            self.gone(seq)
        self.messages -= 1
        self.bytes -= size
        if self._unwritten.pop(seq, None) is not None:
            self.unwritten_bytes -= size
        recent = self._recent.pop(seq, None)
        if recent is not None:
            self._recent_bytes -= recent.size

    def numbers(self) -> Iterator[int]:
        """All that is in the log."""
        for found in self.topics.values():
            yield from found.seqs
        yield from self._detached

    def matching(self, filter: bytes) -> Iterator[tuple[bytes, TopicLog]]:
        """The topics with messages that a filter matches."""
        return ((found.topic, found) for found in self.walk(filter) if found is not None)

    def walk(self, filter: bytes) -> Iterator[TopicLog | None]:
        """As `matching`, with a None now and then where nothing was found (`TopicTree.walk`)."""
        if wild(filter):
            return self._tree.walk(filter)
        found = self.topics.get(filter)
        return iter([found] if found is not None else [])
