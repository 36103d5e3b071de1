"""One link at work: what comes from their broker is published here, what is for them is published there.

    their PUBLISH ──► waiting ──► our core ──► accepted: their PUBACK, in the order in which the messages came
                         ▲            ├──► no room (0x97): it waits, and all behind it
                         └────────────┘└──► refused for good: counted, noted, and acknowledged
    our session ──► their broker ──► PUBACK: ours settled     (refused for want of room: all of it again, later)

Our session is connected only while theirs is: what is for them waits in it as for any client that is away. All of this
runs on the loop, within `Reactor.run`.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from broker.errors import Failed
from broker.identity import Identity, Role
from broker.limits import LINK_IN_FLIGHT_MAX, LINK_PASSED_MAX, LINK_RETRY_S_MAX, LINK_STOP_S, USER_PROPERTIES_MAX
from broker.links import near
from broker.links.far import UNSUPPORTED_VERSION, Far, MqttVersion
from broker.links.mapping import Mapping, parse
from broker.links.near import Near
from broker.session.core import Core
from broker.store.links import Link, LinkTable
from broker.wire.codes import Reason
from broker.wire.packets import Properties, Publish
from client_sdk.backoff import Backoff
from client_sdk.errors import PushError, Refused, Unconfirmed, Unreachable, describe
from client_sdk.link import POISON
from client_sdk.packets import Incoming
from client_sdk.packets import Publish as Outgoing

# Says in a message which links it has passed, in their order: a link takes none that has passed it before.
PASSED: Final = "pushbroker-link"
# What their broker says of a message that it may take later.
_LATER: Final = frozenset({0x96, 0x97})
_PROPERTY_BYTES: Final = 64  # around a user property, and the packet: near enough


def identity_of(link: Link) -> Identity:
    """Who a link is on our side."""
    return Identity(Role.SERVER, link.brand, f"{near.PREFIX}{link.name}")


class Counts:
    """What a link has carried since it was started."""

    __slots__ = ("circled", "dropped", "messages_in", "messages_out", "refused_in", "refused_out")

    def __init__(self) -> None:
        self.messages_in = self.messages_out = 0
        self.refused_in = self.refused_out = 0  # for good
        self.circled = 0  # had passed this link before
        self.dropped = 0  # QoS 0, for want of room

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}


class _Item:
    """A message of theirs that is not acknowledged yet. `id` is ours, 0 while it waits."""

    __slots__ = ("at", "done", "id", "incoming")

    def __init__(self, incoming: Incoming, at: float) -> None:
        self.incoming = incoming
        self.at = at
        self.id = 0
        self.done = False


class Relay:
    """A link that is not paused. `start` it, then `stop`; not to be started again.

    run: does something to the core. log: says what an operator should see.
    """

    def __init__(
        self,
        link: Link,
        table: LinkTable,
        *,
        core: Core,
        run: Callable[..., None],
        log: Callable[..., object],
        backoff: Callable[[], Backoff],
    ) -> None:
        self.link = link
        self.identity = identity_of(link)
        self.counts = Counts()
        self.state = "connecting"
        self.since: float | None = None  # of the state "connected", on the wall clock
        self.retry_at: float | None = None  # of the state "retrying", on the wall clock
        self.error = ""  # the last one
        self.error_at: float | None = None
        self.version: MqttVersion = 4 if link.version == "3.1.1" else 5
        self._mark = f"{link.brand}/{link.name}/{link.client_id}"
        self._inbound = [parse(text) for text in link.inbound]
        self._outbound = [parse(text) for text in link.outbound]
        self._table = table
        self._core = core
        self._run = run
        self._log = partial(log, link=f"{link.brand}/{link.name}")
        self._make_backoff = backoff
        self._loop = asyncio.get_running_loop()
        self._password: str | None = None
        self._far: Far | None = None
        self._near: Near | None = None
        self._greeting: asyncio.Task[None] | None = None
        self._stopping = False
        self._quiet: asyncio.Future[None] | None = None  # the core has answered all, where we stop
        # -- what came --
        self._items: deque[_Item] = deque()  # in their order
        self._waiting: deque[_Item] = deque()  # those of them that are not with the core
        self._sent: dict[int, _Item] = {}  # the others, by our id
        self._next_id = 1
        self._resting: asyncio.TimerHandle | None = None  # there was no room here, or our end was closed
        self._here = _Pace()
        # -- what goes --
        self._ready: deque[Publish] = deque()  # not handed to them yet
        self._out: dict[int, Publish] = {}  # handed to them, by a number of ours
        self._out_number = 0
        self._later: asyncio.TimerHandle | None = None  # they had no room
        self._there = _Pace()
        # One message after the other, since they have closed a connection for one of several.
        self._careful = 0
        self._poison: tuple[bytes, bytes] | None = None  # topic and payload of what they close connections for

    # -- start and stop ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Have our session there, and begin to connect to theirs. Raises `Refused` for files of no use."""
        self._password = await self._table.password(self.link.brand, self.link.name)
        self._run(self._open)
        self._connect()

    def _connect(self) -> None:
        self._far = Far(self.link, self._password, version=self.version, events=self, backoff=self._make_backoff())
        self._far.start()

    async def stop(self, *, forget: bool = False) -> None:
        """Disconnect on both sides; what is under way arrives if it can in LINK_STOP_S. forget: end our session."""
        self._stopping = True
        for timer in (self._resting, self._later):
            if timer is not None:
                timer.cancel()
        if self._greeting is not None:
            self._greeting.cancel()
        if self._sent:
            self._quiet = self._loop.create_future()
            await asyncio.wait((self._quiet,), timeout=LINK_STOP_S)
        if self._far is not None:
            if forget and self.state == "connected":
                await self._give_up(self._far)
            await self._far.close()
            self._far = None

        def close() -> None:
            if self._near is not None:
                self._near.close()
            session = near.session_of(self._core, self.identity)
            if forget and session is not None:
                self._core.end(session)

        self._run(close)

    async def _give_up(self, far: Far) -> None:
        """Leave nothing behind at their broker that goes on collecting messages."""
        try:
            await asyncio.wait_for(far.subscribe((), [mapping.filter for mapping in self._inbound]), LINK_STOP_S)
        except (PushError, TimeoutError) as error:
            self._log("link: their broker keeps its session for a while", error=str(error))

    # -- our end -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Connect to our own core, if nobody has yet."""
        if self._near is None and not self._stopping:
            self._near = Near(self._core, self, f"link {self.link.name}")
            self._near.open(self.identity, [mapping.filter for mapping in self._outbound])

    def subscribed(self, refused: Sequence[str]) -> None:
        """As `Carrier` has it."""
        if refused:
            self._complain(f"our own broker refuses the subscription to {refused[0]}: pushbroker status")
        self._loop.call_soon(self._run, self._settled)

    def _settled(self) -> None:
        """Our session is as it should be: it goes on only while their end is there."""
        if self.state != "connected" and self._near is not None:
            self._near.close()
        else:
            self._pump()

    def closed(self) -> None:
        """As `Carrier` has it: what was under way here starts over."""
        self._near = None
        self._ready.clear()
        self._out.clear()
        for item in self._sent.values():
            item.id = 0
        self._sent.clear()
        self._waiting = deque(item for item in self._items if not item.done)
        if self.state == "connected" and self._later is None and not self._stopping:
            self._complain("our own broker has closed the link's session; its log says why")
            self._rest()

    def _rest(self) -> None:
        """Publish nothing here for a while."""
        if self._resting is None and not self._stopping:
            self._resting = self._loop.call_later(self._here.delay_s(), self._run, self._go_on)

    def _go_on(self) -> None:
        self._resting = None
        if self.state == "connected":
            if self._later is None:
                self._open()
            self._pump()

    # -- their end ---------------------------------------------------------------------------------------------------

    def up(self, far: Far, session_present: bool) -> None:
        """As `Events` of `far` has it."""
        if far is not self._far:
            return
        self.state, self.since, self.retry_at = "connected", time.time(), None
        self._log("link connected", mqtt=self.version, session_present=session_present)
        self._greeting = self._loop.create_task(self._greet(far, session_present))
        self._run(self._open)

    async def _greet(self, far: Far, session_present: bool) -> None:
        """Have their session subscribed to just what is mapped."""
        brand, name = self.link.brand, self.link.name
        wanted = {mapping.filter for mapping in self._inbound}
        try:
            known = await self._table.subscribed(brand, name)
            if known and not session_present:
                self._complain("their broker had forgotten our session: what it has kept for us meanwhile is lost")
            if not wanted <= known:
                await self._table.set_subscribed(brand, name, known | wanted)
            refused = await far.subscribe(sorted(wanted), sorted(known - wanted))
            if known - wanted:
                await self._table.set_subscribed(brand, name, wanted)
        except PushError:
            return  # the connection has ended, as `down` says
        except Failed as error:
            self._complain(f"what their broker is to send cannot be noted here: {error.message}")
            return
        if refused:
            self._complain(f"their broker refuses the subscription to {', '.join(refused)}")

    def down(self, far: Far, error: PushError, retry_in_s: float) -> None:
        """As `Events` of `far` has it."""
        if far is not self._far:
            return
        reason = error.reason if isinstance(error, Refused) else 0
        if reason == UNSUPPORTED_VERSION and self.link.version == "auto" and self.version != 4:
            self.version = 4
            self._log("link: their broker speaks no MQTT 5, going on with 3.1.1")
            far.connection.close(0, wait=False)
            self._connect()
            return
        if reason in POISON:
            self._find_poison()
        words = error.message
        if self.version == 5 and far.connection.reached and not far.connection.connection and not reason:
            # Some that know no MQTT 5 do not say so, but it may as well be starting just now: not ours to guess.
            words += f"; if it speaks only 3.1.1: pushbroker link set {self.link.brand} {self.link.name} --mqtt 3.1.1"
        self._disconnected(words, retry_in_s)

    def ended(self, far: Far) -> None:
        """As `Events` of `far` has it. A bug there is not the end of the link."""
        if far is not self._far or self._stopping:
            return
        self._core.counters.unexpected_errors += 1
        self._disconnected("the connection has met a bug, which the log has, and is made anew", LINK_RETRY_S_MAX)
        self._far = None
        if self._later is not None:
            self._later.cancel()
        self._later = self._loop.call_later(LINK_RETRY_S_MAX, self._connect_anew)

    def _connect_anew(self) -> None:
        self._later = None
        self._connect()

    def _disconnected(self, why: str, retry_in_s: float) -> None:
        self.state, self.since, self.retry_at = "retrying", None, time.time() + retry_in_s
        self._complain(why)
        self._items.clear()  # they come again
        self._waiting.clear()
        self._sent.clear()
        if self._near is not None:
            self._run(self._near.close)

    def _find_poison(self) -> None:
        """They have closed the connection for a message: the one that was under way, or one of several."""
        if len(self._out) == 1:
            (packet,) = self._out.values()
            self._poison = packet.topic, packet.payload
        elif self._out:
            self._careful = LINK_IN_FLIGHT_MAX

    # -- from them to us ---------------------------------------------------------------------------------------------

    def heard(self, far: Far, incoming: Incoming) -> None:
        """As `Events` of `far` has it."""
        if far is not self._far or self._stopping or incoming.connection != far.connection.connection:
            return
        item = _Item(incoming, time.monotonic())
        self._items.append(item)
        self._waiting.append(item)
        self._run(self._pump, self._near)

    def _pump(self) -> None:
        """Give the core what waits, as long as it takes it."""
        while self._waiting and self._resting is None and self._near is not None and self._near.session is not None:
            if self._stopping:
                return
            item = self._waiting.popleft()
            packet = self._translate(item)
            if packet is None:
                self._finish(item)
                continue
            if packet.qos:
                item.id = packet.packet_id
                self._sent[item.id] = item
            near_end = self._near
            reason = near_end.publish(packet)
            if reason == Reason.QUOTA_EXCEEDED:
                self._rest()  # what came behind it stays behind it
            elif reason:
                self._sent.pop(item.id, None)
                self._refuse(item, packet.topic.decode(), reason)
                self._finish(item)
            elif not packet.qos:
                self.counts.messages_in += 1
                self._finish(item)

    def _translate(self, item: _Item) -> Publish | None:
        """What is to be published here for a message of theirs; None for nothing."""
        incoming = item.incoming
        target = _first(self._inbound, incoming.topic)
        if target is None:
            self.counts.refused_in += 1
            self._complain(f"no mapping takes what came on {incoming.topic}")
            return None
        passed = [value for name, value in incoming.user_properties if name == PASSED]
        if self._circled(passed, incoming.topic):
            return None
        pairs = [*incoming.user_properties, (PASSED, self._mark)]
        size = len(target) + len(incoming.payload) + _PROPERTY_BYTES
        size += sum(len(name) + len(value) + _PROPERTY_BYTES for name, value in pairs)
        if size > self._core.limits.packet_bytes_max or len(pairs) > USER_PROPERTIES_MAX:
            self._refuse(item, target, Reason.PACKET_TOO_LARGE)
            return None
        id = 0
        if incoming.qos:
            id = self._next_id
            self._next_id = id % 65535 + 1
        reply = _first_back(self._outbound, incoming.response_topic)
        return Publish(
            target.encode(),
            incoming.payload,
            qos=min(incoming.qos, 1),
            retain=incoming.retained,
            packet_id=id,
            properties=Properties(
                content_type=incoming.content_type or None,
                message_expiry=incoming.expiry_s,
                response_topic=reply,
                correlation_data=incoming.correlation_data or None,
                user_properties=pairs,
            ),
        )

    def answered(self, id: int, reason: int) -> None:
        """As `Carrier` has it."""
        item = self._sent.pop(id, None)
        if item is None:
            return
        if self._quiet is not None and not (self._sent or self._quiet.done()):
            self._quiet.set_result(None)
        if reason == Reason.QUOTA_EXCEEDED:
            item.id = 0
            self._waiting = deque(item for item in self._items if not (item.id or item.done))
            self._complain(
                f"no room here for what came on {item.incoming.topic}: a receiver's queue is full, or the disk"
            )
            self._rest()
            return
        if reason >= 0x80:
            self._refuse(item, _first(self._inbound, item.incoming.topic) or "", reason)
        else:
            self.counts.messages_in += 1
            self._here.well()
        self._finish(item)

    def _refuse(self, item: _Item, topic: str, reason: int) -> None:
        """It will never be taken: say so. Their broker may forget it."""
        self.counts.refused_in += 1
        self._complain(f"what came on {item.incoming.topic} is refused on {topic}: {describe(reason)}")

    def _finish(self, item: _Item) -> None:
        """It was dealt with. Their messages are acknowledged in their order [MQTT-4.6.0-2]."""
        item.done = True
        while self._items and self._items[0].done:
            done = self._items.popleft()
            if self._far is not None:
                self._far.release(done.incoming)

    # -- from us to them ---------------------------------------------------------------------------------------------

    def outgoing(self, packet: Publish) -> None:
        """As `Carrier` has it."""
        if not packet.qos and len(self._ready) + len(self._out) >= LINK_IN_FLIGHT_MAX:
            self.counts.dropped += 1
            return
        self._ready.append(packet)
        self._loop.call_soon(self._run, self._send_on)

    def _send_on(self) -> None:
        """Hand them what is ready; one by one while it is not known which of them they do not take."""
        while self._ready and self._far is not None and self.state == "connected" and not self._stopping:
            if self._careful and self._out:
                return
            packet = self._ready.popleft()
            if (packet.topic, packet.payload) == self._poison:
                self._poison, self._careful = None, 0
                self._give_up_on(packet, "their broker closes the connection for it")
                continue
            outgoing = self._translated(packet)
            if outgoing is None:
                self._settle(packet)
                continue
            self._out_number += 1
            self._out[self._out_number] = packet
            self._hand_over(self._far, self._out_number, outgoing)

    def _hand_over(self, far: Far, number: int, outgoing: Outgoing) -> None:
        answer = far.publish(outgoing)
        answer.add_done_callback(lambda _: far.soon(self._run, partial(self._told, number, answer)))

    def _translated(self, packet: Publish) -> Outgoing | None:
        """What is to be published there for a message of ours; None for nothing."""
        topic = packet.topic.decode()
        target = _first(self._outbound, topic)
        if target is None:
            return None  # it was mapped once
        asked = packet.properties
        if self._circled([value for name, value in asked.user_properties if name == PASSED], topic):
            return None
        reply = _first_back(self._inbound, asked.response_topic or "")
        return Outgoing(
            topic=target,
            payload=packet.payload,
            content_type=asked.content_type or "",
            expiry_s=asked.message_expiry,
            user_properties=(*asked.user_properties, (PASSED, self._mark)),
            retain=packet.retain,
            response_topic=reply or "",
            correlation_data=asked.correlation_data or b"",
        )

    def _told(self, number: int, answer: "Future[None]") -> None:
        """They have it, or not."""
        error = answer.exception()
        if isinstance(error, Unconfirmed) or number not in self._out:
            return  # the connection is gone, or our end was closed meanwhile: it is sent again
        packet = self._out.pop(number)
        if error is None:
            self.counts.messages_out += 1
            self._there.well()
            self._careful = max(0, self._careful - 1)
            self._settle(packet)
        elif isinstance(error, Unreachable) or (isinstance(error, Refused) and error.reason in _LATER):
            self._complain(str(error))
            if self._later is None and not self._stopping:
                # Our session begins again with what they do not have, in its order.
                self._later = self._loop.call_later(self._there.delay_s(), self._run, self._try_again)
            if self._near is not None:
                self._near.close()
        else:
            self._give_up_on(packet, str(error))
        self._send_on()

    def _try_again(self) -> None:
        self._later = None
        if self.state == "connected":
            self._open()
            self._pump()

    def _give_up_on(self, packet: Publish, why: str) -> None:
        self.counts.refused_out += 1
        self._complain(f"what was for {packet.topic.decode()} is given up: {why}")
        self._settle(packet)

    def _settle(self, packet: Publish) -> None:
        if packet.qos and self._near is not None:
            self._near.arrived(packet.packet_id)

    # -- both ways ---------------------------------------------------------------------------------------------------

    def _circled(self, passed: Sequence[str], topic: str) -> bool:
        """Whether a message goes no further: it was here before, or has passed very many links."""
        if self._mark not in passed and len(passed) < LINK_PASSED_MAX:
            return False
        self.counts.circled += 1
        self._complain(f"a message goes in a circle: it came back on {topic}")
        return True

    def _complain(self, error: str) -> None:
        self.error, self.error_at = error, time.time()
        self._log("link in trouble", error=error)

    def status(self) -> dict[str, Any]:
        """How it stands, as JSON has it; times are of the wall clock."""
        oldest = self._items[0].at if self._items else None
        return {
            "state": self.state,
            "mqtt": "5" if self.version == 5 else "3.1.1",
            "since": self.since,
            "retry_at": self.retry_at,
            "last_error": self.error,
            "last_error_at": self.error_at,
            **self.counts.as_dict(),
            "waiting_out": near.waiting(self._core, self.identity),
            "waiting_in": len(self._items),
            "oldest_in_s": 0.0 if oldest is None else round(time.monotonic() - oldest, 1),
        }


class _Pace:
    """How long to wait before the next attempt, with full jitter; short again once one went well."""

    __slots__ = ("_ceiling_s",)

    def __init__(self) -> None:
        self._ceiling_s = 0.5

    def delay_s(self) -> float:
        delay = random.uniform(0.0, self._ceiling_s)  # noqa: S311 - not a secret
        self._ceiling_s = min(LINK_RETRY_S_MAX, self._ceiling_s * 2)
        return delay

    def well(self) -> None:
        self._ceiling_s = 0.5


def _first(mappings: Sequence[Mapping], topic: str) -> str | None:
    return next((target for mapping in mappings if (target := mapping.apply(topic)) is not None), None)


def _first_back(mappings: Sequence[Mapping], topic: str) -> str | None:
    if not topic:
        return None
    return next((source for mapping in mappings if (source := mapping.back(topic)) is not None), None)
