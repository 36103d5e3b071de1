"""The bridge's books: what becomes of each message for each recipient, from facts to records, and who is told of it."""

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from broker.bridge.facts import Delivered, Gone, Saying, Sent
from broker.bridge.receipts import Receipts
from broker.store.messages import End, Happened, Messages, Spoken

_MESSAGE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)
RECEIPT_BYTES_MAX = 4096
ACTION_MAX = 64


class DeviceReceipt(msgspec.Struct):
    """What a device says of a message. `action` is the id of the button that was clicked."""

    message_id: str
    event: Literal["displayed", "opened", "clicked", "dismissed"]
    at: datetime | None = None
    action: str = ""


class Books:
    """Applies facts to the records of messages, and tells of what is new.

    A device's word on a message that is not in the books, one published without a rich send, goes to `receipts`.
    """

    def __init__(
        self, messages: Messages, receipts: Receipts, log: Callable[..., object], changed: asyncio.Event
    ) -> None:
        """`changed` is set when something happened that may have to be told."""
        self._messages = messages
        self._receipts = receipts
        self._log = log
        self._decode = msgspec.json.Decoder(DeviceReceipt).decode
        self._changed = changed

    async def book(self, facts: Sequence[Sent | Delivered | Gone | Saying], up_to: int) -> None:
        """Apply these, and remember the number of the last one with them."""
        sent: list[tuple[int, int, int, int]] = []
        spoken: list[Spoken] = []
        gone: list[End] = []
        said: list[tuple[Saying, DeviceReceipt]] = []
        for fact in facts:
            match fact:
                case Sent():
                    sent += [(fact.message, number, seq, fact.at) for number, seq in fact.recipients]
                case Delivered():
                    brand, kind, name = fact.topic.split("/", 2)
                    spoken.append(
                        Spoken(fact.id, brand, kind, name, fact.device, "delivered", fact.at, store=fact.store)
                    )
                case Gone():
                    gone.append(End(fact.seq, fact.at, fact.state, fact.rule, fact.detail))
                case Saying():
                    receipt = self._receipt(fact)
                    if receipt is not None:
                        said.append((fact, receipt))
        known = await self._messages.known({receipt.message_id for _, receipt in said}) if said else {}
        for saying, receipt in said:
            at = min(_utc(receipt.at, saying.at), saying.at)  # a device's clock may be ahead
            if known.get(receipt.message_id) == saying.brand:
                spoken.append(
                    Spoken(
                        receipt.message_id,
                        saying.brand,
                        "user",
                        saying.user,
                        saying.device,
                        receipt.event,
                        int(at.timestamp() * 1000),
                        receipt.action[:ACTION_MAX],
                        saying.store,
                    )
                )
            else:
                self._receipts.tell(saying, receipt.message_id, receipt.event, _utc(receipt.at, saying.at))
        self.announce(await self._messages.apply(sent=sent, spoken=spoken, gone=gone, up_to=up_to))

    async def applied_up_to(self, number: int) -> None:
        """Remember the number of the last fact that others have applied."""
        await self._messages.applied_up_to(number)

    def announce(self, happened: Sequence[Happened]) -> None:
        """This is in the books, and what is to be told of it in the outbox."""
        if happened:
            self._changed.set()

    def _receipt(self, saying: Saying) -> DeviceReceipt | None:
        try:
            if len(saying.payload) > RECEIPT_BYTES_MAX:
                raise msgspec.ValidationError("too long")
            receipt = self._decode(saying.payload)
            if not _MESSAGE_ID.fullmatch(receipt.message_id):
                raise msgspec.ValidationError("message_id is not one")
            _utc(receipt.at, saying.at)
        except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, RecursionError) as error:
            self._log("receipt refused", client=f"{saying.brand}/device/{saying.device}", error=str(error))
            return None
        return receipt


def _utc(at: datetime | None, otherwise: datetime) -> datetime:
    if at is None:
        return otherwise
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
