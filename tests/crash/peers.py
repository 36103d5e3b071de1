"""The clients: connections that come and go, around the inboxes and outboxes that stay."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from crash.inbox import Inbox
from crash.ledger import Ledger
from crash.outbox import Outbox
from crash.process import BrokerProcess

from broker.errors import ProtocolError
from broker.wire.decode import decode, split
from broker.wire.encode import encode
from broker.wire.packets import (
    Ack,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)

_DAY_S = 86400
_AGAIN_S = 0.005  # between two connections

Times = tuple[float, float]  # seconds, from and to


class _Link(asyncio.Protocol):
    """One connection of a peer."""

    transport: asyncio.Transport

    def __init__(self, peer: "Peer") -> None:
        self.gone = asyncio.Event()
        self._peer = peer
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        pos = 0
        try:
            while frame := split(self._buffer, pos, 1 << 28):
                first, start, pos = frame
                self._peer.received(decode(first, bytes(self._buffer[start:pos]), self._peer.version))
        except ProtocolError as error:
            self._peer.ledger.wrong(self._peer.name, f"not MQTT: {error}")
            self.transport.abort()
        del self._buffer[:pos]
        self._peer.caught_up()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()


class Peer:
    """A client that comes back for as long as `wanted` is set."""

    clean_start = False

    def __init__(self, broker: BrokerProcess, ledger: Ledger, name: str, version: int) -> None:
        self.broker = broker
        self.ledger = ledger
        self.name = name
        self.version = version
        self.wanted = asyncio.Event()
        self.wanted.set()
        self.online = asyncio.Event()  # from CONNACK to the end of the connection
        self.ponged = asyncio.Event()
        self.link: _Link | None = None
        self._leaving = False

    @property
    def properties(self) -> Properties:
        """Of CONNECT, in MQTT 5."""
        return Properties(session_expiry=_DAY_S)

    async def run(self) -> None:
        """Connect, again and again."""
        while True:
            await self.wanted.wait()
            await self.broker.up.wait()
            with suppress(OSError):  # it is being killed
                await self._connection()
            await asyncio.sleep(_AGAIN_S)

    async def _connection(self) -> None:
        host, port = self.broker.address
        _, link = await asyncio.get_running_loop().create_connection(lambda: _Link(self), host, port)
        self.link = link
        self._leaving = False
        properties = self.properties if self.version == 5 else Properties()
        self.send(Connect(self.name, self.version, self.clean_start, 60, properties=properties))
        try:
            await link.gone.wait()
        finally:
            self.link = None
            if self.online.is_set():
                self.online.clear()
                self.closed(settled=self._leaving and not self.broker.ending)
            link.transport.abort()
            await link.gone.wait()

    def send(self, *packets: Packet) -> None:
        """Send packets in one write, if there is a connection that is not being left."""
        if self.link is not None and not self._leaving and not self.link.transport.is_closing():
            self.link.transport.write(b"".join(encode(packet, self.version) for packet in packets))

    def leave(self) -> None:
        """Say goodbye."""
        self.send(Disconnect())
        self._leaving = True

    async def come_again(self) -> None:
        """Leave, connect again, and wait for an answer."""
        if self.link is not None:
            gone = self.link.gone
            self.leave()
            await gone.wait()
        await self.ping()

    async def ping(self) -> None:
        """Wait for the answer to a PINGREQ."""
        await self.online.wait()
        self.ponged.clear()
        self.send(Pingreq())
        await self.ponged.wait()

    def received(self, packet: Packet) -> None:
        """A packet came."""
        match packet:
            case Connack(reason=0):
                self.online.set()
                self.opened(packet.session_present)
            case Connack():
                self.ledger.wrong(self.name, f"not let in: 0x{packet.reason:02x}")
            case Pingresp():
                self.ponged.set()
            case Disconnect():
                self.ledger.note(self.name, f"is told to go: 0x{packet.reason:02x}")
            case _:
                self.got(packet)

    def opened(self, present: bool) -> None:
        """CONNACK came."""

    def got(self, packet: Packet) -> None:
        """Another packet came."""

    def caught_up(self) -> None:
        """All that has come has been handled."""

    def closed(self, *, settled: bool) -> None:
        """The connection is over; `settled` means that the broker has read all that we sent."""


class Publisher(Peer):
    """Keeps its outbox's window full, with a pause of up to `pause_s` in between, while it is `publishing`."""

    def __init__(self, broker: BrokerProcess, outbox: Outbox, version: int, pause_s: float, seed: str) -> None:
        super().__init__(broker, outbox.ledger, outbox.name, version)
        self.outbox = outbox
        self.publishing = True
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._timer: asyncio.TimerHandle | None = None

    def resume(self) -> None:
        """Publish again."""
        self.publishing = True
        self._fill()

    def opened(self, present: bool) -> None:
        self.send(*self.outbox.opened(present))
        self._fill()

    def got(self, packet: Packet) -> None:
        assert isinstance(packet, Ack), packet
        answer = self.outbox.got(packet)
        if answer is not None:
            self.send(answer)

    def caught_up(self) -> None:
        if self._timer is None:
            delay = self._random.uniform(0, self._pause_s)
            self._timer = asyncio.get_running_loop().call_later(delay, self._fill)

    def _fill(self) -> None:
        self._timer = None
        room = self.outbox.window - len(self.outbox.unfinished)
        if self.publishing and self.online.is_set():
            self.send(*(self.outbox.next() for _ in range(room)))

    def closed(self, *, settled: bool) -> None:
        self.ledger.note(self.name, "lost its connection")


class Receiver(Peer):
    """Subscribes to its filters, once, and acknowledges what comes.

    With `toggled` filters it subscribes and unsubscribes all the time. While it is `restless` it leaves after `stay_s`,
    in one way or the other, for `away_s`, and may acknowledge late, `late_s` at the most, or not at all.
    """

    def __init__(
        self,
        broker: BrokerProcess,
        inbox: Inbox,
        version: int,
        filters: Sequence[str],
        qos: int,
        seed: str,
        *,
        toggled: Sequence[str] = (),
        stay_s: Times | None = None,
        away_s: Times = (0, 0),
        late_s: float = 0,
    ) -> None:
        super().__init__(broker, inbox.ledger, inbox.name, version)
        self.inbox = inbox
        self.restless = asyncio.Event()
        self.restless.set()
        self._filters = filters
        self._qos = qos
        self._toggled = toggled
        self._stay_s = stay_s
        self._away_s = away_s
        self._late_s = late_s
        self._random = random.Random(seed)
        self._granted: set[str] = set()
        self._asked: dict[int, tuple[str, bool]] = {}  # by packet id: a filter, and whether it is wanted
        self._held: list[
            Puback | Pubrec | Pubcomp
        ] = []  # acknowledgements that were not sent yet, in order [MQTT-4.6.0-2]
        self._delay_s: float | None = 0  # on this connection; None = it does not acknowledge

    @property
    def properties(self) -> Properties:
        properties = super().properties
        if self.inbox.receive_maximum < 65535:
            properties.receive_maximum = self.inbox.receive_maximum
        return properties

    # -- coming and going ----------------------------------------------------------------------------------------------

    async def flap(self) -> None:
        """Leave now and then, once everything is subscribed."""
        while self._stay_s:
            await self.restless.wait()
            await self.online.wait()
            await asyncio.sleep(self._random.uniform(*self._stay_s))
            if self.link is None or not self.restless.is_set() or not self._granted.issuperset(self._filters):
                continue
            if self._random.random() < 0.5:
                if self._delay_s is not None:
                    self._flush(self.link)
                self.leave()
            else:
                self.link.transport.abort()
            self.wanted.clear()
            await asyncio.sleep(self._random.uniform(*self._away_s))
            self.wanted.set()

    def calm(self) -> None:
        """Stay, and acknowledge at once."""
        self.restless.clear()
        self.wanted.set()
        self._delay_s = 0
        if self.link is not None:
            self._flush(self.link)

    def resume(self) -> None:
        """Go on as before."""
        self.restless.set()
        if self.online.is_set() and not self._asked:
            self._toggle()

    def opened(self, present: bool) -> None:
        self.inbox.opened(present)
        if not present:
            self._granted.clear()
        self._asked.clear()
        self._held.clear()
        self._delay_s = 0
        if self.restless.is_set() and self._late_s:
            self._delay_s = self._random.choice((0, self._random.uniform(0, self._late_s), None))
        wanted = [filter for filter in self._filters if filter not in self._granted]
        if wanted:
            self._subscribe(wanted)
        self._toggle()

    def closed(self, *, settled: bool) -> None:
        self.inbox.closed(settled=settled)

    # -- subscriptions -------------------------------------------------------------------------------------------------

    def _subscribe(self, filters: Sequence[str]) -> None:
        for filter in filters:
            self.inbox.subscribing(filter, self._qos)
            id = self._ask(filter, True)
            # What is retained was published before; it is looked at by who has never subscribed.
            self.send(Subscribe(id, [Request(filter, self._qos, retain_handling=2)]))

    def _ask(self, filter: str, wanted: bool) -> int:
        id = next(id for id in range(1, 65536) if id not in self._asked)
        self._asked[id] = (filter, wanted)
        return id

    def _toggle(self) -> None:
        """Ask for the other state of one of the toggled filters."""
        if not self._toggled or not self.restless.is_set():
            return
        filter = self._random.choice(self._toggled)
        if filter in self._granted:
            self.inbox.unsubscribing(filter)
            self.send(Unsubscribe(self._ask(filter, False), [filter]))
        else:
            self._subscribe([filter])

    def _answered(self, packet: Suback | Unsuback) -> None:
        filter, wanted = self._asked.pop(packet.packet_id)
        if any(reason >= 0x80 for reason in packet.reasons):
            self.ledger.wrong(self.name, f"a subscription is refused: {filter}, {packet.reasons}")
        elif wanted:
            self.inbox.subscribed(filter)
            self._granted.add(filter)
        else:
            self.inbox.unsubscribed(filter)
            self._granted.discard(filter)
        if filter in self._toggled:
            asyncio.get_running_loop().call_later(self._random.uniform(0, 0.02), self._toggle_on, self.link)

    def _toggle_on(self, link: _Link | None) -> None:
        if link is self.link:
            self._toggle()

    # -- messages ------------------------------------------------------------------------------------------------------

    def got(self, packet: Packet) -> None:
        match packet:
            case Publish(qos=0):
                self.ledger.wrong(self.name, f"QoS 0: {packet}")
            case Publish():
                self.inbox.arrived(packet)
                self._held.append((Puback if packet.qos == 1 else Pubrec)(packet.packet_id))
            case Pubrel():
                self.inbox.released(packet)
                self._held.append(Pubcomp(packet.packet_id))
            case Suback() | Unsuback():
                self._answered(packet)
            case _:
                self.ledger.wrong(self.name, f"not for a receiver: {packet}")

    def caught_up(self) -> None:
        if self.link is not None and self._delay_s is not None:
            if self._delay_s:
                asyncio.get_running_loop().call_later(self._delay_s, self._flush, self.link)
            else:
                self._flush(self.link)

    def _flush(self, link: _Link) -> None:
        """Send the acknowledgements that were held back, if it is still the connection that they are for."""
        if link is not self.link or self._leaving:
            return
        held, self._held = self._held, []
        if held:
            self.send(*held)
        for ack in held:
            self.inbox.acknowledged(ack)


class Newcomer(Peer):
    """Subscribes to what is retained, and has no session to speak of. `found` is payloads by topic."""

    clean_start = True

    def __init__(self, broker: BrokerProcess, ledger: Ledger, filter: str) -> None:
        super().__init__(broker, ledger, "newcomer", 5)
        self.found: dict[str, bytes] = {}
        self._filter = filter

    @property
    def properties(self) -> Properties:
        return Properties()

    def opened(self, present: bool) -> None:
        self.send(Subscribe(1, [Request(self._filter)]))

    def got(self, packet: Packet) -> None:
        if isinstance(packet, Publish):
            self.found[packet.topic.decode()] = packet.payload
            self.ledger.note(self.name, "finds something retained")
