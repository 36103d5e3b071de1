"""Receipts: what became of a message, told to the brand on `{brand}/receipts/{message id}`.

`delivered` is the transport's word: a device's PUBACK. `displayed`, `opened` and `dismissed` are the app's: it says so
on its own `up/receipt`, and they are passed on after a check. None is ever derived from another.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from broker.bridge.message_id import MessageIds
from broker.identity import Identity, Role
from broker.message import Message
from broker.session.session import Session
from broker.wire.packets import Properties
from broker.wire.publish import forwarded

DEVICE_RECEIPTS = b"+/device/+/up/receipt"
# Places to which a brand's messages go out, and where they therefore get a name.
_ADDRESSED = re.compile(rb"[^/]+/(?:user|device|store|topic)/.")
_MESSAGE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)
_JSON = forwarded(Properties(payload_format=1, content_type="application/json"))
RECEIPT_BYTES_MAX = 4096


class DeviceReceipt(msgspec.Struct):
    """What a device says of a message."""

    message_id: str
    event: Literal["displayed", "opened", "dismissed"]
    at: datetime | None = None


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

    def __init__(self, publish: Callable[[Message], object], log: Callable[..., object]) -> None:
        self._publish = publish
        self._log = log
        self._ids = MessageIds()
        self._decode = msgspec.json.Decoder(DeviceReceipt).decode
        self._encode = msgspec.json.Encoder().encode

    def stamp(self, topic: bytes) -> str:
        """An id for a brand server's message to a user, device, store or topic; '' for any other."""
        return self._ids.next() if _ADDRESSED.match(topic) else ""

    def delivered(self, session: Session, message: Message) -> None:
        """A session has acknowledged a message for which receipts were asked for."""
        if session.identity.role is Role.DEVICE:
            self._tell(session.identity, message.id, "delivered", datetime.now(UTC))

    def heard(self, message: Message, origin: Session | None) -> None:
        """A device has published to its `up/receipt`. What is not a receipt is logged and goes no further."""
        if origin is None or origin.identity.role is not Role.DEVICE:
            return
        try:
            if len(message.payload) > RECEIPT_BYTES_MAX:
                raise msgspec.ValidationError("too long")
            receipt = self._decode(message.payload)
            if not _MESSAGE_ID.fullmatch(receipt.message_id):
                raise msgspec.ValidationError("message_id is not one")
            at = receipt.at or datetime.now(UTC)
            at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, RecursionError) as error:
            self._log("receipt refused", client=origin.identity.path, error=str(error))
            return
        self._tell(origin.identity, receipt.message_id, receipt.event, at)

    def _tell(self, device: Identity, message_id: str, event: str, at: datetime) -> None:
        said = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        receipt = Receipt(message_id, event, device.name, said, device.user, device.store)
        topic = f"{device.brand}/receipts/{message_id}".encode()
        self._publish(Message(topic, self._encode(receipt), 1, properties=_JSON))
