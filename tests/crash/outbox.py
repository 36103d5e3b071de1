"""A publisher's side of a session: a window of numbered messages, sent until they are acknowledged (§4.3, §4.4).

It outlives connections and the broker. Packet ids are the lowest that are free, so that each is soon used again: a
broker that forgets that one was released takes the next message for a copy of the last.
"""

import random
from collections.abc import Sequence

from crash.ledger import Ledger, Message

from broker.wire.packets import Ack, Puback, Pubcomp, Publish, Pubrec, Pubrel

_RETAINED = 0.15
_DELETED = 0.2
_PADDED = 0.02
_PADDING_BYTES = 20_000


class Outbox:
    """The state of one publisher, and the checks on the answers that it gets."""

    def __init__(
        self, ledger: Ledger, name: str, *, window: int, topics: Sequence[str], retained: Sequence[str], seed: str
    ) -> None:
        self.ledger = ledger
        self.name = name
        self.window = window
        self._topics = topics
        self._retained = retained
        self._random = random.Random(seed)
        self._pending: dict[int, Message] = {}  # by packet id, in the order sent
        self._released: set[int] = set()  # of them: QoS 2 after PUBREC
        self._promised = False  # the broker has told us that it has received a QoS 2 message

    @property
    def unfinished(self) -> list[Message]:
        """The messages whose exchange is under way."""
        return list(self._pending.values())

    def opened(self, present: bool) -> list[Publish | Pubrel]:
        """CONNACK came: what is to be sent again, in the order sent [MQTT-4.6.0-1]."""
        self.ledger.note(self.name, f"is connected, session present {present:d}")
        if not present:
            if self._promised:
                self.ledger.wrong(self.name, "its session is lost")
            self._promised = False
            for id in self._released:
                del self._pending[id]
            self._released.clear()
        return [
            self._release(id) if id in self._released else self._publish(id, message, dup=present)
            for id, message in self._pending.items()
        ]

    def next(self) -> Publish:
        """A new message, of any kind; there is room in the window."""
        if self._random.random() < _RETAINED:
            topic = self._random.choice(self._retained)
            # One QoS for each topic, since between two of them there is no order.
            qos = 1 + self._retained.index(topic) % 2
            delete = self._random.random() < _DELETED
            return self.send(self.ledger.make_retained(self.name, topic, qos, delete=delete))
        padding = _PADDING_BYTES if self._random.random() < _PADDED else 0
        topic, qos = self._random.choice(self._topics), self._random.choice((1, 2))
        return self.send(self.ledger.make(self.name, topic, qos, padding))

    def send(self, message: Message) -> Publish:
        """A message under the lowest packet id that is free."""
        id = next(id for id in range(1, 65536) if id not in self._pending)
        self._pending[id] = message
        return self._publish(id, message, dup=False)

    def got(self, ack: Ack) -> Pubrel | None:
        """PUBACK, PUBREC or PUBCOMP came; the answer to it, if there is one."""
        id = ack.packet_id
        message = self._pending.get(id)
        kind = type(ack)
        awaited = message and (Puback if message.qos == 1 else Pubcomp if id in self._released else Pubrec)
        if message is None or kind is not awaited:
            self.ledger.wrong(self.name, f"nothing waits for that: {kind.__name__.upper()} {id}", message)
            return None
        if ack.reason >= 0x80 and kind is not Pubcomp:  # that it knows no such id is no error (§3.7.2.1)
            self.ledger.wrong(self.name, f"refused: 0x{ack.reason:02x}", message)
        if kind is Pubrec:
            self.ledger.acknowledged(message)
            self._promised = True
            self._released.add(id)
            return self._release(id)
        if kind is Puback:
            self.ledger.acknowledged(message)
        self._released.discard(id)
        del self._pending[id]
        return None

    def _publish(self, id: int, message: Message, *, dup: bool) -> Publish:
        self.ledger.sent(message)
        return Publish(message.topic.encode(), message.payload, message.qos, message.retain, dup, id)

    def _release(self, id: int) -> Pubrel:
        self.ledger.note(self.name, f"sends PUBREL {id}", self._pending[id])
        return Pubrel(id)
