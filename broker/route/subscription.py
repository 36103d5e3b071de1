"""A subscription: one session's wish for one filter, and the group that shares one."""

from typing import Generic, Protocol, TypeVar

# The options byte of SUBSCRIBE (§3.8.3.1), kept as it came.
QOS = 0x03
NO_LOCAL = 0x04
RETAIN_AS_PUBLISHED = 0x08
OPTIONS = QOS | NO_LOCAL | RETAIN_AS_PUBLISHED
# Ours: not all that is retained for it has arrived yet. It is sent again when the client comes back.
RETAINED_DUE = 0x80


class Receiver(Protocol):
    """What a route needs to know of a session."""

    __slots__ = ()

    key: str
    v5: bool

    @property
    def unlimited(self) -> bool:
        """It sets no bound on packet size: what is encoded for all is right for it too."""
        ...

    @property
    def ready(self) -> bool:
        """Connected, and able to take a message now."""
        ...

    @property
    def connected(self) -> bool:
        """Its client is there."""
        ...

    @property
    def lasting(self) -> bool:
        """It outlives its connection: what is accepted for it must not be lost."""
        ...

    @property
    def live(self) -> bool:
        """Connected, and up to date: it gets a message at once. One that is not finds it in the log."""
        ...


R = TypeVar("R", bound=Receiver)


class Subscription(Generic[R]):
    """One session's subscription. `id` is the encoded Subscription Identifier property, empty for none.

    It is for what comes in the log after `since`.
    """

    __slots__ = ("filter", "group", "id", "options", "session", "since")

    def __init__(
        self, session: R, filter: bytes, options: int, id: bytes = b"", group: bytes = b"", since: int = 0
    ) -> None:
        self.session = session
        self.filter = filter  # without $share/group/
        self.options = options
        self.id = id
        self.group = group
        self.since = since

    @property
    def name(self) -> bytes:
        """The filter as its client wrote it; a group's own name is the last part of `group`."""
        return b"$share/%b/%b" % (self.group.rpartition(b"/")[2], self.filter) if self.group else self.filter

    @property
    def plain(self) -> bool:
        """Nothing distinguishes what this one gets from what others of its version and QoS get."""
        return not self.id and not self.options & (NO_LOCAL | RETAIN_AS_PUBLISHED) and self.session.unlimited

    def merged(self, other: "Subscription[R]") -> "Subscription[R]":
        """The one delivery for two overlapping subscriptions: the higher QoS, all ids [MQTT-3.3.4-2 to -4].

        No Local holds only if both ask for it, as the other would have delivered; Retain As Published if either does.
        """
        qos = max(self.options & QOS, other.options & QOS)
        local = self.options & other.options & NO_LOCAL
        kept = (self.options | other.options) & RETAIN_AS_PUBLISHED
        since = min(s.since for s in (self, other) if s.options & QOS or not qos)
        return Subscription(self.session, self.filter, qos | local | kept, self.id + other.id, since=since)


class Group(Generic[R]):
    """A shared subscription (§4.8.2): each message goes to one member, in turn, those ready to take it first."""

    __slots__ = ("_next", "members", "name")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.members: dict[R, Subscription[R]] = {}
        self._next = 0

    def pick(self) -> Subscription[R]:
        """The member whose turn it is. There is at least one."""
        members = list(self.members.values())
        count = len(members)
        start = self._next % count
        for turn in range(start, start + count):
            member = members[turn % count]
            if member.session.ready:
                break
        else:
            turn, member = start, members[start]
        self._next = turn + 1  # after the one that got it, so that nobody gets the share of those passed over
        return member
