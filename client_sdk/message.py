"""What a handler gets, and what a brand learns about a message it sent."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from client_sdk.notification import Notification, parse_time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Message:
    """A message as it arrived.

    `notification` is set when the content is a well-formed rich notification; `payload` is always the bytes as sent.
    `id` is the broker's message id, empty for messages that have none (QoS 0, foreign publishers). `attempt` is above 1
    when an earlier run of the handler failed or the process died in it. Times are aware, in UTC.
    """

    id: str
    topic: str
    payload: bytes
    content_type: str = ""
    notification: Notification | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    response_topic: str = ""
    correlation_data: bytes = b""
    received_at: datetime
    expires_at: datetime | None = None
    retained: bool = False
    attempt: int = 1
    _report: Callable[[str, str], None] = field(repr=False)

    @property
    def text(self) -> str:
        """The payload as text; bytes that are not UTF-8 become replacement characters."""
        return self.payload.decode(errors="replace")

    def expired(self, now: datetime) -> bool:
        """Whether it is too late to show it."""
        return self.expires_at is not None and now >= self.expires_at

    def displayed(self) -> None:
        """Tell the brand that a person can see it. Returns at once; kept until the broker has it, restarts included."""
        self._event("displayed")

    def opened(self) -> None:
        """Tell the brand that a person acted on it. Returns at once, as `displayed`."""
        self._event("opened")

    def dismissed(self) -> None:
        """Tell the brand that a person put it away. Returns at once, as `displayed`."""
        self._event("dismissed")

    def _event(self, event: str) -> None:
        if self.id:  # nobody can be told about a message without an id
            self._report(self.id, event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One thing that became of a message on one device.

    `event` is "delivered" (the device's acknowledgement), or what its app said: "displayed", "opened", "dismissed". A
    newer broker may send events that are not listed here. `user` and `store` are empty where the device has none.
    """

    message_id: str
    event: str
    device: str
    user: str = ""
    store: str = ""
    at: datetime

    @classmethod
    def from_json(cls, payload: bytes) -> Self:
        """Read what the broker publishes. Raises `ValueError` for anything else."""
        try:
            fields: Any = json.loads(payload.decode())
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error
        if not isinstance(fields, dict):
            raise ValueError("a receipt must be an object")
        texts = {name: fields.get(name, "") for name in ("message_id", "event", "device", "user", "store", "at")}
        if not all(isinstance(value, str) for value in texts.values()) or not texts["message_id"]:
            raise ValueError("a receipt needs message_id, event, device and at, all of them text")
        return cls(**{**texts, "at": parse_time(texts["at"])})
