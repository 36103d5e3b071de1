"""Facts: what happened that the bridge keeps books on, as the journal holds them until the books have it.

Times are milliseconds since 1970 (UTC).
"""

from datetime import UTC, datetime
from typing import Final

import msgspec


class Sent(msgspec.Struct, frozen=True, array_like=True, tag="sent"):
    """Some recipients of a message have had it published to them: their numbers, and its place in the log; 0: none."""

    message: int
    at: int
    recipients: list[tuple[int, int]]


class Delivered(msgspec.Struct, frozen=True, array_like=True, tag="delivered"):
    """A device has acknowledged a message. `topic` says as whose it got it."""

    id: str
    topic: str
    device: str
    at: int
    store: str = ""  # where the device stands


class Gone(msgspec.Struct, frozen=True, array_like=True, tag="gone"):
    """The log has forgotten a message that had arrived nowhere; `state` and `rule` say why, if we took it back."""

    seq: int
    at: int
    state: str = ""
    rule: str = ""
    detail: str = ""


class Saying(msgspec.Struct, frozen=True, array_like=True, tag="up"):
    """A device has published to its `up/{kind}`."""

    brand: str
    device: str
    user: str
    store: str
    kind: str
    payload: bytes
    at_ms: int

    @property
    def at(self) -> datetime:
        """When."""
        return datetime.fromtimestamp(self.at_ms / 1000, UTC)


class Asked(msgspec.Struct, frozen=True, array_like=True, tag="asked"):
    """A brand's server has published to `{brand}/{kind}`. `id` is new: a message's, should it become one."""

    brand: str
    sender: str
    id: str
    payload: bytes
    reply_topic: str
    reply_data: bytes
    at: int
    kind: str = "send"


class Questioned(msgspec.Struct, frozen=True, array_like=True, tag="question"):
    """A device has published a question to its `up/ask`. `id` is the question's."""

    id: str
    brand: str
    device: str
    user: str
    store: str
    text: str
    locale: str
    choice: str
    reply_topic: str
    reply_data: bytes
    at: int


Happening = Sent | Delivered | Gone | Saying | Asked | Questioned
encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Happening).decode
