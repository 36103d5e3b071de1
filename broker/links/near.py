"""Our end of a link: a channel of the core without a socket. To the core it is a brand's server as any other.

So all holds that holds for one: what it may do, its lasting session, in which what goes out waits, message ids, bounds.
Only MQTT's bytes are left out where there is no need for them: publishes and acknowledgements are handed over as they
are, and just PUBLISH, which the core encodes for all its receivers at once, is read back.
"""

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from broker.errors import ProtocolError
from broker.identity import Identity, Role
from broker.journal import SavedSession
from broker.limits import LINK_IN_FLIGHT_MAX, SESSION_EXPIRY_MAX_S
from broker.message import Promise
from broker.session import connect, publish, subscribe
from broker.session.channel import Channel
from broker.session.core import Core, session_key
from broker.session.session import Session
from broker.wire.codes import V5, Reason
from broker.wire.decode import decode, split
from broker.wire.packets import Connect, Packet, Properties, Publish, Request, Suback, Subscribe, Unsubscribe

CLIENT_ID: Final = "$link"
PREFIX: Final = "link-"  # of the server's name that a link has on our side
_SUBSCRIBE: Final = 1  # packet id


class Carrier(Protocol):
    """Who carries on what comes out of the core. Called within a round: nothing may be given back before it is over."""

    def answered(self, id: int, reason: int) -> None:
        """What became of the publish with this number."""

    def outgoing(self, packet: Publish) -> None:
        """A message for their side; `arrived` is called when they have it."""

    def subscribed(self, refused: Sequence[str]) -> None:
        """The session is there and has its subscriptions, but for these."""

    def closed(self) -> None:
        """The core has closed this channel, or it could not be opened."""


def session_of(core: Core, identity: Identity) -> Session | None:
    """The session of a link, if there is one."""
    return core.sessions.get(session_key(identity, CLIENT_ID))


def waiting(core: Core, identity: Identity) -> int:
    """Messages that are to go out through a link."""
    session = session_of(core, identity)
    if session is None:
        return 0
    return len(session.inflight) + session.waiting + (0 if session.live else session.backlog)


class Near(Channel):
    """One connection to the core. All methods but `__init__` are called within `Reactor.run`."""

    __slots__ = ("_carrier", "_filters", "refused_now", "title")

    def __init__(self, core: Core, carrier: Carrier, title: str) -> None:
        super().__init__(core)
        self.title = title
        self._carrier = carrier
        self._filters: list[str] = []
        self.refused_now = False

    def open(self, identity: Identity, filters: Sequence[str]) -> None:
        """Take up the session, which lasts, and have it subscribed to just these filters."""
        self.v5 = 1
        self.admitting = Connect(
            CLIENT_ID,
            version=V5,
            clean_start=False,
            properties=Properties(session_expiry=SESSION_EXPIRY_MAX_S, receive_maximum=LINK_IN_FLIGHT_MAX),
        )
        connect.accepted(self, identity)
        session = self.session
        if session is None:
            return
        stale = [s.name.decode() for s in session.subscriptions if s.name.decode() not in filters]
        if stale:
            subscribe.unsubscribe(self, session, Unsubscribe(_SUBSCRIBE, stale))
        self._filters = list(filters)
        if not filters:
            self._carrier.subscribed(())
            return
        requests = [
            Request(filter, qos=1, no_local=True, retain_as_published=True, retain_handling=1) for filter in filters
        ]
        subscribe.subscribe(self, session, Subscribe(_SUBSCRIBE, requests))

    def publish(self, packet: Publish) -> int:
        """Publish what came from their side. `answered` tells what became of it, if its QoS is 1.

        Returns a reason at once where it is refused at once: 0x97 for want of room, others for good.
        """
        session = self.session
        assert session is not None
        self.refused_now = False
        try:
            publish.received(self, session, packet)
        except ProtocolError as error:
            self.core.counters.publishes_refused += 1
            return error.reason
        return Reason.QUOTA_EXCEEDED if self.refused_now else 0

    def arrived(self, id: int) -> None:
        """Their side has what was sent with this packet id."""
        session = self.session
        if session is not None and id in session.inflight:
            session.puback(id, 0)

    # -- what the core does with a channel -------------------------------------------------------------------------

    def promised(self, promise: Promise, reason: int | None) -> None:
        """What becomes of a publish; a refusal is known at once, though it is told in its turn."""
        self.refused_now = reason == Reason.QUOTA_EXCEEDED
        super().promised(promise, reason)

    def answer(self, first: int, id: int, reason: int, name: bytes = b"") -> None:
        """PUBACK, without its bytes."""
        del first, name
        if reason >= 0x80:
            self.core.counters.publishes_refused += 1
        self._carrier.answered(id, reason)

    def send(self, packet: Packet) -> None:
        """Any packet but PUBLISH and what acknowledges one."""
        if isinstance(packet, Suback):
            self._carrier.subscribed([f for f, code in zip(self._filters, packet.reasons, strict=True) if code >= 0x80])

    def flush(self) -> None:
        """Read back what was put out: PUBLISH, and nothing else."""
        data = b"".join(self.out)
        self.out.clear()
        pos = 0
        while frame := split(data, pos, len(data) - pos):
            first, start, pos = frame
            packet = decode(first, data[start:pos], V5)
            assert isinstance(packet, Publish)  # all else is handed over by `send` and `answer`
            self._carrier.outgoing(packet)

    def pause(self) -> None:
        """Nothing: what comes is bounded by the link, and given to the core one by one."""

    def resume(self) -> None:
        """Nothing, as it never rests."""

    def shut(self) -> None:
        """There is nothing to close."""
        self._carrier.closed()

    def due(self, now: float) -> float:
        """It is never silent for too long."""
        del now
        return 0.0

    @property
    def address(self) -> str:
        """For people."""
        return self.title

    @property
    def certificate(self) -> bytes | None:
        """None: who it is was decided by the operator."""
        return None


def leftover(session: SavedSession, links: Collection[tuple[str, str]]) -> bool:
    """Whether a saved session is of a link that is not there any more."""
    if session.role != Role.SERVER or not session.key.endswith(f"\n{CLIENT_ID}"):
        return False
    return (session.brand, session.name.removeprefix(PREFIX)) not in links
