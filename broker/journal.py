"""What must outlive the process, and the protocol behind which it is kept.

The records here are plain data: `session.snapshot` makes them from live sessions, a `Journal` keeps them. Times are
of the wall clock, in seconds, since the monotonic clock begins anew with each boot.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import msgspec


class SavedMessage(msgspec.Struct, gc=False):
    """A message, stored once, whoever waits for it. `number` is its place in the journal."""

    number: int
    topic: bytes
    payload: bytes
    properties: bytes = b""
    expires_at: float = 0.0
    publisher: str = ""
    id: str = ""
    receipt: bool = False


class SavedDelivery(msgspec.Struct, gc=False):
    """One session's share in a message: waiting (`packet_id` 0), in flight, or released (QoS 2, `message` 0)."""

    message: int
    packet_id: int
    qos: int
    retain: bool = False
    subscription_ids: bytes = b""


class SavedSubscription(msgspec.Struct, gc=False):
    """A subscription as the client named it, with its options byte and encoded Subscription Identifier."""

    name: bytes
    options: int
    id: bytes = b""


class SavedSession(msgspec.Struct, gc=False):
    """A session while its client is away. `will` is the encoded will that is still due, if any."""

    key: str
    client_id: str
    role: str
    brand: str
    name: str
    user: str
    store: str
    v5: bool
    expiry_s: int
    ends_at: float
    next_id: int
    will: bytes = b""
    subscriptions: list[SavedSubscription] = []
    deliveries: list[SavedDelivery] = []
    received: list[int] = []


class Snapshot(Protocol):
    """All that is to be saved, handed over piece by piece so that memory does not double."""

    def sessions(self) -> Iterator[SavedSession]:
        """The sessions; each message that their deliveries name is in `messages` afterwards."""
        ...

    def messages(self) -> Iterator[SavedMessage]:
        """The messages that the sessions so far wait for."""
        ...

    def retained(self) -> Iterator[tuple[SavedMessage, int]]:
        """The retained messages, each with its QoS."""
        ...


class Journal(Protocol):
    """The durable truth of the broker: sessions, what waits for them, and what is retained."""

    async def save(self, snapshot: Snapshot) -> None:
        """Replace what is kept by `snapshot`, in one transaction: after a failure the former state is still there.

        Raises `Failed` when it cannot be written.
        """
        ...

    def messages(self) -> AsyncIterator[SavedMessage]:
        """The messages that sessions wait for, in order."""
        ...

    def sessions(self) -> AsyncIterator[SavedSession]:
        """The sessions with all that belongs to them."""
        ...

    def retained(self) -> AsyncIterator[tuple[SavedMessage, int]]:
        """The retained messages with their QoS."""
        ...

    async def probe(self) -> None:
        """Find out whether the store takes a commit. Raises `Failed` when it does not."""
        ...

    async def close(self) -> None:
        """Let go of the store."""
        ...
