"""Receipts: what became of a message, told to the brand on `{brand}/receipts/{message id}`.

`delivered` is the transport's word: a device's PUBACK. `displayed`, `opened` and `dismissed` are the app's: it says so
on its own `up/receipt`, and they are passed on after a check (`books.py`). None is ever derived from another.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from broker.bridge.facts import Saying
from broker.bridge.message_id import MessageIds
from broker.identity import Role
from broker.message import BOOKED, Message
from broker.session.session import Session
from broker.wire.packets import Properties
from broker.wire.publish import forwarded

# Places to which a brand's messages go out, and where they therefore get a name.
_ADDRESSED = re.compile(rb"[^/]+/(?:user|device|store|topic)/.")
_JSON = forwarded(Properties(payload_format=1, content_type="application/json"))


class Receipt(msgspec.Struct, omit_defaults=True):
    """What the brand is told."""

    message_id: str
    event: str
    device: str
    at: str  # UTC, to the millisecond
    user: str = ""
    store: str = ""


class Receipts:
    """Gives messages their ids and turns what happens to them into receipts."""

    def __init__(self, publish: Callable[[Message], object], book: Callable[[Session, Message], object]) -> None:
        """`book` is for the acknowledgements of messages on which the bridge keeps books."""
        self._publish = publish
        self._book = book
        self.ids = MessageIds()
        self._encode = msgspec.json.Encoder().encode

    def stamp(self, topic: bytes) -> str:
        """An id for a brand server's message to a user, device, store or topic; '' for any other."""
        return self.ids.next() if _ADDRESSED.match(topic) else ""

    def delivered(self, session: Session, message: Message) -> None:
        """A session has acknowledged a message on which somebody wants a word."""
        if message.receipt == BOOKED:
            self._book(session, message)
        elif session.identity.role is Role.DEVICE:
            who = session.identity
            self._tell(who.brand, who.name, who.user, who.store, message.id, "delivered", datetime.now(UTC))

    def tell(self, saying: Saying, message_id: str, event: str, at: datetime) -> None:
        """A device has said something of a message that the bridge keeps no books on."""
        self._tell(saying.brand, saying.device, saying.user, saying.store, message_id, event, at)

    def _tell(self, brand: str, device: str, user: str, store: str, message_id: str, event: str, at: datetime) -> None:
        said = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        receipt = Receipt(message_id, event, device, said, user, store)
        topic = f"{brand}/receipts/{message_id}".encode()
        self._publish(Message(topic, self._encode(receipt), 1, properties=_JSON))
