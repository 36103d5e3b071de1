"""The one record that travels: an application message, from the publisher to the last receiver."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

# What is made of a receiver's acknowledgement.
NO_RECEIPT: Final = 0
TOLD: Final = 1  # the brand is told, as it comes
BOOKED: Final = 2  # it becomes a fact: the bridge keeps books on this message


class Promise:
    """What a publisher is still to be told about a message, and what that waits for.

    `waiting` receivers have it and have not answered; once it is `logged`, its commit is waited for instead. `channel`
    has the publisher's connection, whose acknowledgements leave in order; `then` is called for one that has none.
    """

    __slots__ = ("channel", "deferred", "due", "first", "logged", "message", "name", "origin", "packet_id", "picks",
                 "reason", "settled", "then", "waiting")  # fmt: skip

    def __init__(self, channel: Any = None, first: int = 0, packet_id: int = 0, name: bytes = b"") -> None:
        self.channel = channel
        self.first = first  # byte of the acknowledgement: 0x40 PUBACK, 0x50 PUBREC
        self.packet_id = packet_id
        self.name = name  # encoded user property that goes into it
        self.origin: Any = None  # the session of the publisher
        self.reason = 0
        self.waiting = 0
        self.settled = False
        self.logged = False
        self.message: Message | None = None  # until it is logged or settled
        self.picks: list[tuple[Any, Message]] | None = None  # members of groups that got it, each with its form
        self.due = 0.0  # when the wait for the receivers is over
        self.then: Callable[[int], None] | None = None
        self.deferred = False  # lasting sessions are sent it once it is on the disk: no crash sends it a second time


def for_whoever_is(brand: str, user: str) -> str:
    """What a message has as its publisher that is for a device only while this user has it; '': while nobody has.

    It is from the broker itself, and no key of a session: there is no line feed in it.
    """
    return f"{brand}/user/{user}"


class Message(msgspec.Struct, gc=False):
    """An application message. It is shared by all who wait for it, so nobody changes it after it was routed.

    gc=False: a message refers to bytes and strings only, so it can be part of no cycle, and a million queued ones cost
    the garbage collector nothing.
    """

    topic: bytes  # UTF-8, checked
    payload: bytes
    qos: int = 0
    retain: bool = False
    # MQTT 5 properties that are forwarded unaltered, encoded, without their length [MQTT-3.3.2-15 to -18, -20].
    properties: bytes = b""
    expires_at: float = 0.0  # on the monotonic clock; 0 = never
    publisher: str = ""  # key of the session that published it, for No Local; or as `for_whoever_is` says
    id: str = ""  # message id, where the bridge gave one
    subscription_ids: bytes = b""  # encoded properties, of the receiver's subscriptions that matched
    # Its acknowledgement goes through the long way: a receipt was asked for, it is QoS 2, or it has a number.
    tracked: bool = False
    receipt: int = NO_RECEIPT
    seq: int = 0  # its place in the log, written or not, where a session that outlives its connection gets it
    promise: Promise | None = None  # what its publisher is still to be told; None for what came from the log
    # In flight or assigned to a session that was away: the rest of it is in the log.
    absent: bool = False
    retained_as: int = 0  # the how manieth message to be retained it was; 0: it was not
    share: bytes = b""  # name of the shared subscription by which its receiver gets it, at QoS 1 and 2
    # Encodings made on the way, for all receivers of one version: fixed header and topic, and what stands between the
    # packet id and the payload.
    parts4: tuple[bytes, bytes] | None = None
    parts5: tuple[bytes, bytes] | None = None
    encoded_at: float = 0.0

    @property
    def size(self) -> int:
        """Bytes that this message holds in memory, near enough for bounds.

        Measured: 216 for the record with its topic and payload, 110 (3.1.1) or 160 (MQTT 5) for one encoding, which has
        the topic and the properties in it once more; the rest is its place in a queue or in flight.
        """
        return len(self.payload) + 2 * (len(self.topic) + len(self.properties)) + 416

    def variant(self, qos: int, retain: bool, subscription_ids: bytes) -> "Message":
        """This message as one class of receivers gets it; itself where nothing differs."""
        if qos == self.qos and retain == self.retain and subscription_ids == self.subscription_ids:
            return self
        return Message(
            self.topic,
            self.payload,
            qos,
            retain,
            self.properties,
            self.expires_at,
            self.publisher,
            self.id,
            subscription_ids,
            bool(self.receipt) or qos == 2 or self.seq > 0,
            self.receipt,
            self.seq,
            self.promise,
        )

    def copy(self) -> "Message":
        """The same once more."""
        form = self.loose()
        form.tracked, form.seq, form.promise = True, self.seq, self.promise
        return form

    def loose(self) -> "Message":
        """This message for those to whom nothing is promised beyond their connection."""
        return Message(
            self.topic,
            self.payload,
            self.qos,
            self.retain,
            self.properties,
            self.expires_at,
            self.publisher,
            self.id,
            self.subscription_ids,
            bool(self.receipt) or self.qos == 2,
            self.receipt,
        )
