"""What a handler gets, and what a brand learns about a message it sent."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from client_sdk.notification import Notification, parse_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """That a message is a person's reply, and in which conversation: entry number, and the agent's name."""

    conversation: str
    entry: int
    agent: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Message:
    """A message as it arrived.

    `notification` is set when the content is a well-formed rich notification; `payload` is always the bytes as sent.
    `id` is the broker's message id, empty for messages that have none (QoS 0, foreign publishers). `attempt` is above 1
    when an earlier run of the handler failed or the process died in it. `replaces` are the ids of earlier messages with
    the same collapse key that are still on the screen: this one goes into their place. Times are aware, in UTC.
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
    replaces: tuple[str, ...] = ()
    _report: Callable[[str, str, str], None] = field(repr=False)

    @property
    def text(self) -> str:
        """The payload as text; bytes that are not UTF-8 become replacement characters."""
        return self.payload.decode(errors="replace")

    @property
    def collapse_key(self) -> str:
        """Of several messages with the same one only the newest matters; empty for most."""
        if self.notification is not None and self.notification.collapse_key:
            return self.notification.collapse_key
        return next((value for name, value in self.user_properties if name == "collapse-key"), "")

    @property
    def reply(self) -> Reply | None:
        """What it is a reply in, where a person answers somebody who asked; None for any other message."""
        data = self.notification.data if self.notification is not None else {}
        conversation, entry, agent = (data.get(name) for name in ("conversation", "entry", "agent"))
        if not isinstance(conversation, str) or not isinstance(entry, int) or not isinstance(agent, str):
            return None
        return Reply(conversation=conversation, entry=entry, agent=agent)

    def expired(self, now: datetime) -> bool:
        """Whether it is too late to show it."""
        return self.expires_at is not None and now >= self.expires_at

    def displayed(self) -> None:
        """Tell the brand that a person can see it. Returns at once; kept until the broker has it, restarts included."""
        self._event("displayed")

    def opened(self) -> None:
        """Tell the brand that a person acted on it, which takes it off the screen here and on the user's other devices.

        Returns at once, as `displayed`.
        """
        self._event("opened")

    def dismissed(self) -> None:
        """Tell the brand that a person put it away, off this screen. Returns at once, as `displayed`."""
        self._event("dismissed")

    def clicked(self, action: str = "") -> None:
        """Tell the brand that a person chose the action with this id, or the message itself. As `displayed`."""
        self._event("clicked", action)

    def _event(self, event: str, action: str = "") -> None:
        if self.id:  # nobody can be told about a message without an id
            self._report(self.id, event, action)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One thing that became of a message.

    `event` is "delivered" (the device's acknowledgement); what its app said: "displayed", "opened", "clicked" (`action`
    is the id of the button), "dismissed"; or why it will not come: "expired", "replaced" (by a newer one with its
    collapse key), "dropped", "withdrawn", for which there is a `reason` and no `device`. A newer broker may send events
    that are not listed here. `recipient` ("user/ada", "device/kiosk-7") is whom a push was for, empty for a plain send.
    `user` and `store` are empty where there is none.
    """

    message_id: str
    event: str
    device: str = ""
    user: str = ""
    store: str = ""
    at: datetime
    recipient: str = ""
    action: str = ""
    reason: str = ""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of the JSON. Raises `ValueError` when they are not those of a receipt."""
        texts = {name: fields.get(name, "") for name in _TEXTS}
        if not all(isinstance(value, str) for value in texts.values()) or not texts["message_id"]:
            raise ValueError("a receipt needs message_id, event and at, and all that it says is text")
        return cls(**{**texts, "at": parse_time(texts["at"])})


_TEXTS: Final = ("message_id", "event", "device", "user", "store", "at", "recipient", "action", "reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Of how many recipients what has become, as of `at`.

    `counts` says where the transport has them: "accepted" is all, and the sum of "delivered", "expired", "replaced",
    "dropped", "withdrawn" and "waiting" (of which some are "sent"). The others are what apps said. When it is `done`,
    nobody waits any more; another one still follows when somebody opens it later.
    """

    message_id: str
    at: datetime
    counts: Mapping[str, int]
    displayed: int = 0
    opened: int = 0
    clicked: int = 0
    dismissed: int = 0
    done: bool = False

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of the JSON. Raises `ValueError` when they are not those of a summary."""
        counts, at = fields.get("counts"), fields.get("at")
        said = {name: fields.get(name, 0) for name in ("displayed", "opened", "clicked", "dismissed")}
        if not isinstance(counts, dict) or not all(isinstance(n, int) for n in (*counts.values(), *said.values())):
            raise ValueError("a summary needs counts, all of them numbers")
        if not isinstance(at, str) or not isinstance(message_id := fields.get("message_id"), str) or not message_id:
            raise ValueError("a summary needs message_id and at")
        return cls(message_id=message_id, at=parse_time(at), counts=counts, done=fields.get("done") is True, **said)


def read_receipt(payload: bytes) -> Receipt | Summary:
    """Read what the broker publishes of a message. Raises `ValueError` for anything else."""
    try:
        fields: Any = json.loads(payload.decode())
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("a receipt must be an object")
    return Summary.from_fields(fields) if fields.get("event") == "summary" else Receipt.from_fields(fields)
