"""What must outlive the process, and the protocol behind which it is kept: a log of messages, and each session's state.

A message is one row of the log, whoever waits for it. A session that was away remembers up to where in the log it has
got (its cursor); what it must get out of turn, or has in flight, has a row of its own (a delivery).

The records here are plain data, which the sessions write and a `Journal` keeps. Times are of the wall clock, in
seconds, since the monotonic clock begins anew with each boot; 0 = never.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

import msgspec

# States of a delivery.
SENT: Final = 0  # or, with packet id 0, still to be sent
RELEASED: Final = 1  # QoS 2 after PUBREC
DONE: Final = 2  # QoS 2 after PUBCOMP, for as long as the session's cursor is below the message


class SavedMessage(msgspec.Struct, gc=False):
    """A message. `seq` is its place in the log; there are gaps, for not every message has to be written."""

    seq: int
    topic: bytes
    payload: bytes
    qos: int
    retain: bool = False
    properties: bytes = b""
    expires_at: float = 0.0
    publisher: str = ""
    id: str = ""
    receipt: int = 0


class SavedDelivery(msgspec.Struct, gc=False):
    """One session's share in a message, in the form that it gets. `packet_id` 0: not sent yet.

    `share` names the shared subscription that it got it by.
    """

    seq: int
    packet_id: int
    state: int
    qos: int
    retain: bool = False
    subscription_ids: bytes = b""
    share: bytes = b""


class SavedSubscription(msgspec.Struct, gc=False):
    """A subscription as the client named it, with its options and its encoded Subscription Identifier.

    It gets what comes in the log after `since`.
    """

    name: bytes
    options: int
    id: bytes = b""
    since: int = 0


class SavedSession(msgspec.Struct, gc=False):
    """A session. `ends_at` is 0 while its client is connected; `will` is the encoded will that is still due, if any.

    Messages up to number `dup_until` may have been sent to it before a crash.

    The lists are filled when it is read; a batch writes them on their own.
    """

    number: int
    key: str
    role: str
    brand: str
    name: str
    user: str
    store: str
    v5: bool
    expiry_s: int
    ends_at: float
    cursor: int
    next_id: int
    dup_until: int = 0
    will: bytes = b""
    subscriptions: list[SavedSubscription] = []
    deliveries: list[SavedDelivery] = []
    received: list[int] = []


class Fact(msgspec.Struct, gc=False):
    """Something that happened, for the bridge, which applies it once it is on the disk. Numbers rise; there are gaps.

    firm: it stays true when messages of its batch cannot be written.
    """

    number: int
    body: bytes
    firm: bool = False


class Batch:
    """What is written in one transaction, in the order of these fields. None, or False, takes a row away.

    Sessions are known by their number, which is not used again. What is written of one that ended goes with it: that
    comes last. A new session replaces one with the same key.
    """

    __slots__ = ("applied", "deliveries", "ended", "facts", "forgotten", "messages", "received", "retained", "sessions",
                 "subscriptions")  # fmt: skip

    def __init__(self) -> None:
        self.sessions: dict[int, SavedSession] = {}
        self.subscriptions: dict[tuple[int, bytes], SavedSubscription | None] = {}  # session, name
        self.messages: list[SavedMessage] = []
        self.forgotten: list[int] = []  # numbers of messages, some of them perhaps never written
        self.deliveries: dict[tuple[int, int, int], SavedDelivery | None] = {}  # session, seq, packet id
        self.received: dict[tuple[int, int], bool] = {}  # session, packet id: QoS 2 between PUBLISH and PUBREL
        self.retained: dict[bytes, SavedMessage | None] = {}  # by topic
        self.ended: list[int] = []
        self.facts: list[Fact] = []
        self.applied = 0  # facts up to this number are no longer needed: they go when something is written next

    def __bool__(self) -> bool:
        return bool(
            self.messages
            or self.forgotten
            or self.sessions
            or self.deliveries
            or self.received
            or self.retained
            or self.subscriptions
            or self.ended
            or self.facts
        )

    def add(self, later: "Batch") -> None:
        """Put what came later on top of this, but for its messages."""
        self.sessions |= later.sessions
        self.subscriptions |= later.subscriptions
        self.forgotten += later.forgotten
        self.deliveries |= later.deliveries
        self.received |= later.received
        self.retained |= later.retained
        self.ended += later.ended
        self.facts += later.facts
        self.applied = max(self.applied, later.applied)


class Totals(msgspec.Struct, frozen=True):
    """How much there is, before it is read: for showing progress. `head` is the highest number in use, or 0."""

    sessions: int
    messages: int
    head: int
    facts: int = 0  # the highest number of those, or 0


class Journal(Protocol):
    """The durable truth of the broker. One process has it at a time."""

    async def commit(self, batch: Batch) -> None:
        """Write `batch`, all of it or nothing. When this returns it is on the disk.

        Raises `Failed` when it cannot be written: the journal is as before, and may be tried again.
        """
        ...

    async def fetch(self, seqs: Sequence[int]) -> list[SavedMessage]:
        """The messages with these numbers, ascending, as many as fit FETCH_BYTES_MAX but at least one.

        Those below the last one returned that are missing are not there; if none is returned, none of them is there.
        Raises `Failed` when it cannot be read.
        """
        ...

    async def totals(self) -> Totals:
        """How much there is."""
        ...

    def index(self) -> AsyncIterator[list[tuple[int, bytes, int, float]]]:
        """Number, topic, size and expiry of every message, ascending, a few thousand at a time."""
        ...

    def sessions(self) -> AsyncIterator[SavedSession]:
        """The sessions with all that belongs to them; deliveries in the order of their numbers."""
        ...

    def retained(self) -> AsyncIterator[SavedMessage]:
        """The retained messages."""
        ...

    def facts(self) -> AsyncIterator[Fact]:
        """The facts that are there, in their order."""
        ...

    @property
    def bytes_on_disk(self) -> int:
        """How large its files are."""
        ...

    async def probe(self) -> None:
        """Find out whether the store takes a commit again after one has failed. Raises `Failed` when it does not."""
        ...

    async def rewrite(self) -> None:
        """Write its files anew, so that nothing is left in them of what was deleted."""
        ...

    async def close(self) -> None:
        """Let go of the store."""
        ...


def size_of(topic: bytes, payload: bytes, properties: bytes, publisher: str) -> int:
    """Bytes that a message takes in the log, near enough for bounds: what is in the row, and 60 for the row itself."""
    return len(topic) + len(payload) + len(properties) + len(publisher) + 60
