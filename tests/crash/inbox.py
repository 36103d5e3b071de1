"""A receiver's side of a session: what MQTT makes it remember, and what the broker may send to it.

It outlives connections and the broker. What is checked, beside that only what was published and subscribed arrives:

- QoS 2 on both ways: delivered once, whatever happens (the receiver's part is method A of §4.3.3).
- QoS 1: without DUP as often as the broker was given the message (`Message.publications`), mostly once.
  With DUP only what may have been sent on an earlier connection. Never twice in one connection, and not after the
  broker has taken the acknowledgement, unless it crashed since: a crash may cost acknowledgements, never messages.
- Order: what comes for the first time comes in the order of its publisher, for each topic and QoS [MQTT-4.6.0-5], as
  far as it was published after the subscription.
- Packet ids: none that is in use; a message that was not acknowledged comes again under its own [MQTT-4.4.0-1]. After a
  crash this is asked of QoS 2 only: at QoS 1 nobody can tell the difference.
- Never more in flight than Receive Maximum [MQTT-3.3.4-9].
"""

import math
import re
from collections import Counter

from crash.ledger import Ledger, Message

from broker.wire.packets import Ack, Puback, Pubcomp, Publish, Pubrec, Pubrel


class _Interest:
    """A time for which a subscription was asked: surely in force from SUBACK until UNSUBSCRIBE was sent."""

    def __init__(self, filter: str, qos: int, asked: int) -> None:
        self.filter = filter
        self.qos = qos
        self.asked = asked
        self.granted = self.unwanted = self.gone = math.inf
        self._topics = re.compile(filter.replace("+", "[^/]+").replace("#", ".+"))

    def may_have(self, message: Message) -> bool:
        return (
            self.asked < message.acknowledged
            and message.first_sent < self.gone
            and self._topics.fullmatch(message.topic) is not None
        )

    def must_have(self, message: Message) -> bool:
        """What waits when a client unsubscribes may be dropped (§3.10.4), so only one that is in force demands."""
        return (
            self.granted < message.first_sent
            and message.acknowledged < math.inf
            and self.unwanted == math.inf
            and self._topics.fullmatch(message.topic) is not None
        )


class Inbox:
    """The state of one receiver, and the checks on what it gets."""

    def __init__(self, ledger: Ledger, name: str, receive_maximum: int = 65535) -> None:
        self.ledger = ledger
        self.name = name
        self.receive_maximum = receive_maximum
        self._kept = False  # the broker has acknowledged a subscription, so the session must be there
        self._interests: list[_Interest] = []
        self._received: dict[int, Message] = {}  # QoS 2, between PUBLISH and PUBREL
        self._open: dict[int, Message] = {}  # sent to us on this connection, and not yet finished
        self._earlier: dict[int, Message] = {}  # left open by earlier connections, and not in `_received`
        # How often a message has arrived:
        self._delivered: Counter[Message] = Counter()  # as a new one
        self._fresh: Counter[Message] = Counter()  # without DUP
        self._here: Counter[Message] = Counter()  # on this connection
        self._taken: Counter[Message] = Counter()  # and was acknowledged, which the broker knows, since the last crash
        self._answered: list[Message] = []  # on this connection
        self._last: dict[tuple[str, str, int], int] = {}  # the newest number by publisher, topic, QoS
        self._crashes = 0
        self._connected = 0  # the event
        self._connections = 0

    # -- connections ---------------------------------------------------------------------------------------------------

    def opened(self, present: bool) -> None:
        """CONNACK came."""
        self._connected = self.ledger.note(self.name, f"is connected, session present {present:d}")
        self._connections += 1
        if not present:
            if self._kept:
                self.ledger.wrong(self.name, "its session is lost")
                for message in self.missing():
                    self._wrong("it was acknowledged, and is lost with the session", message)
            self._kept = False
            for interest in self._interests:
                interest.unwanted = min(interest.unwanted, self._connected)
                interest.gone = min(interest.gone, self._connected)
            self._received.clear()
            self._earlier.clear()
        if self._crashes != self.ledger.crashes:
            self._crashes = self.ledger.crashes
            self._earlier.clear()
            self._taken.clear()

    def closed(self, *, settled: bool) -> None:
        """The connection is over; `settled` means that the broker has read all that we sent."""
        self.ledger.note(self.name, "has left" if settled else "lost its connection")
        if settled:
            self._taken.update(self._answered)
        self._earlier |= {id: message for id, message in self._open.items() if id not in self._received}
        self._open.clear()
        self._here.clear()
        self._answered.clear()

    # -- subscriptions -------------------------------------------------------------------------------------------------

    def subscribing(self, filter: str, qos: int) -> None:
        self._interests.append(_Interest(filter, qos, self.ledger.note(self.name, f"asks for {filter} at qos{qos}")))

    def subscribed(self, filter: str) -> None:
        event = self.ledger.note(self.name, f"is subscribed to {filter}")
        self.ledger.totals.subscriptions_changed += 1
        self._current(filter).granted = event
        self._kept = True

    def unsubscribing(self, filter: str) -> None:
        event = self.ledger.note(self.name, f"wants {filter} no more")
        self._current(filter).unwanted = min(self._current(filter).unwanted, event)

    def unsubscribed(self, filter: str) -> None:
        """Every time that it was asked for is over."""
        event = self.ledger.note(self.name, f"is not subscribed to {filter} any more")
        self.ledger.totals.subscriptions_changed += 1
        for interest in self._interests:
            if interest.filter == filter:
                interest.gone = min(interest.gone, event)
                interest.unwanted = min(interest.unwanted, event)

    def _current(self, filter: str) -> _Interest:
        return next(interest for interest in reversed(self._interests) if interest.filter == filter)

    # -- messages ------------------------------------------------------------------------------------------------------

    def arrived(self, packet: Publish) -> None:
        """PUBLISH came."""
        self.ledger.totals.arrivals += 1
        self.ledger.totals.redeliveries += packet.dup
        if not packet.payload:
            return  # a retained message was taken away; it cannot say which it is
        message = self.ledger.messages.get(packet.payload)
        if message is None or packet.topic.decode() != message.topic:
            self.ledger.wrong(self.name, f"nobody published that: {packet.topic!r} {packet.payload[:60]!r}")
            return
        how = f"gets it at qos{packet.qos} as {packet.packet_id}{' with DUP' if packet.dup else ''}"
        self.ledger.note(self.name, how, message)
        if packet.qos not in {min(message.qos, i.qos) for i in self._interests if i.may_have(message)}:
            self._wrong("it is not subscribed to this, or not at this QoS", message)
        self._check_id(packet, message)
        self._open[packet.packet_id] = message
        again = packet.qos == 2 and packet.packet_id in self._received
        if packet.qos == 2:
            self._received[packet.packet_id] = message
        self._check_copies(packet, message, again)
        if not again:
            self._check_order(message)

    def acknowledged(self, ack: Ack) -> None:
        """We have sent this."""
        id = ack.packet_id
        message = self._received.get(id) if isinstance(ack, Pubrec) else self._open.get(id)
        self.ledger.note(self.name, f"sends {type(ack).__name__.upper()} {id}", message)
        if isinstance(ack, Puback | Pubcomp):
            self._earlier.pop(id, None)
            if message := self._open.pop(id, None):
                self._answered.append(message)

    def released(self, ack: Pubrel) -> None:
        """PUBREL came."""
        self.ledger.note(self.name, f"gets PUBREL {ack.packet_id}", self._received.pop(ack.packet_id, None))

    def _check_id(self, packet: Publish, message: Message) -> None:
        id = packet.packet_id
        if id in self._open:
            self._wrong(f"packet id in use on this connection: {id}, by {self._open[id]}", message)
        elif self._received.get(id, message) is not message:
            self._wrong(f"packet id in use, received and not released: {id}, by {self._received[id]}", message)
        elif self._earlier.get(id, message) is not message:
            self._wrong(f"packet id in use, not acknowledged: {id}, by {self._earlier[id]}", message)
        elif len(self._open) >= self.receive_maximum:
            self._wrong(f"more in flight than its Receive Maximum: {self.receive_maximum}", message)
        others = self._earlier if packet.qos == 1 else self._received
        if (packet.qos == 2 or message.publications == 1) and any(
            m is message and other != id for other, m in others.items()
        ):
            self._wrong("it comes again under another packet id", message)

    def _check_copies(self, packet: Publish, message: Message, again: bool) -> None:
        allowed = message.publications
        self._here[message] += 1
        self._fresh[message] += not packet.dup
        self._delivered[message] += not again
        if packet.qos == 2 and self._delivered[message] > 1:
            self._wrong("QoS 2, and delivered again", message)
        elif self._here[message] > allowed:
            self._wrong("it comes again on the same connection", message)
        elif self._fresh[message] > allowed:
            self._wrong("it comes again without DUP", message)
        elif self._taken[message] >= allowed:
            self._wrong("it comes again though it was acknowledged, and there was no crash", message)
        elif packet.dup and (self._connections == 1 or message.first_sent > self._connected):
            self._wrong("DUP, though it cannot have been sent before", message)

    def _check_order(self, message: Message) -> None:
        if self._delivered[message] > 1:
            return
        if not any(i.granted < message.first_sent and i.may_have(message) for i in self._interests):
            return  # the first copy may have been too early for the subscription, and this be another
        key = (message.publisher, message.topic, message.qos)
        if message.number < self._last.get(key, 0):
            self._wrong(f"out of order: after #{self._last[key]}", message)
        self._last[key] = message.number

    def _wrong(self, what: str, message: Message) -> None:
        self.ledger.wrong(self.name, what, message)

    # -- at the end ----------------------------------------------------------------------------------------------------

    def has(self, message: Message) -> bool:
        """Whether it was delivered."""
        return message in self._delivered

    def missing(self) -> list[Message]:
        """The acknowledged messages that it should have got by now, and has not."""
        wanted = [interest for interest in self._interests if interest.unwanted == math.inf]
        return [
            message
            for message in self.ledger.messages.values()
            if not self.has(message) and any(interest.must_have(message) for interest in wanted)
        ]
