"""Rich sends: from keyword arguments to a request on `{brand}/send`, and from its answer to what `push` returns."""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Self, TypedDict, Unpack

from client_sdk.errors import Rejected
from client_sdk.notification import Action, Notification, Priority, format_time
from client_sdk.sending import Tracked


@dataclass(frozen=True, slots=True, kw_only=True)
class To:
    """Whom a message is for: all of these together, each of them once.

    `topics` are what users opted in to; `stores` the devices that stand there; `segment` the name of a saved one;
    `condition` such as 'topic:news AND store:milano AND NOT tag:staff'; `following` an item of content. Of all
    those it is for whom the condition `only` is true, such as 'language:it'.
    """

    users: Sequence[str] = ()
    devices: Sequence[str] = ()
    stores: Sequence[str] = ()
    topics: Sequence[str] = ()
    segment: str = ""
    condition: str = ""
    following: str = ""
    only: str = ""

    def fields(self) -> dict[str, Any]:
        """As the broker reads it. Raises `ValueError` when it is for nobody."""
        lists = {name: getattr(self, name) for name in ("users", "devices", "stores", "topics")}
        for name, names in lists.items():
            if isinstance(names, str):
                raise ValueError(f"{name}= is a list: To({name}=[{names!r}])")
        fields = {name: list(names) for name, names in lists.items() if names}
        words = {name: word for name in ("segment", "condition", "following") if (word := getattr(self, name))}
        if not fields and not words:
            more = "devices, stores, topics, segment, condition or following"
            raise ValueError(f"it is for nobody: To(users=['ada']), or {more}")
        return {**fields, **words, **({"only": self.only} if self.only else {})}


class PushOptions(TypedDict, total=False):
    """What `push` takes besides `to`: either the fields of a notification, a `notification`, or a `payload`.

    `ttl` (seconds or a timedelta) is how long it is of use, a day unless it says another. `kind`: quiet hours and caps
    are for what is 'marketing', the default. `collapse_key`: a newer message with the same one replaces the one that
    waits or is on a screen. `idempotency_key`: a second push with the same one is the same message, for a day or
    `idempotency_window`; without one, `push` makes its own, so that its own repetitions are no second message.
    `not_before`: when to send it (aware); `local_time` ('09:00'): each gets it at that time where they are.
    `throttle_per_s`: to so many each second. `dry_run`: only say who would get it. `receipts`: 'none', 'summary'
    (counts, every few seconds while they change) or 'each'. `campaign` and `variant`: what figures are grouped by.
    """

    notification: Notification
    title: str
    body: str
    image: str
    click: str
    actions: Sequence[Action]
    data: Mapping[str, Any]
    payload: bytes | str
    content_type: str
    kind: Literal["marketing", "transactional"]
    ttl: float | timedelta
    priority: Priority
    collapse_key: str
    idempotency_key: str
    idempotency_window: float | timedelta
    not_before: datetime
    local_time: str
    throttle_per_s: float
    dry_run: bool
    receipts: Literal["none", "summary", "each"]
    campaign: str
    variant: str


_SHOWN: Final = frozenset({"title", "body", "image", "click", "actions", "data"})
_AS_THEY_ARE: Final = (
    "kind", "collapse_key", "idempotency_key", "local_time", "throttle_per_s", "dry_run", "receipts", "campaign",
    "variant",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What goes to `{brand}/{kind}`. `remedy`: what to do when nothing more was heard of it.

    `ours`: its idempotency key was made here, so any duplicate is our own.
    """

    payload: bytes
    remedy: str
    kind: str = "send"
    ours: bool = False


def compose_push(to: To, **options: Unpack[PushOptions]) -> Request:
    """The request that the options describe. Raises `ValueError` when they do not describe one."""
    if unknown := options.keys() - PushOptions.__annotations__.keys():
        raise ValueError(f"push does not know {', '.join(sorted(unknown))}")
    shown = {name: value for name, value in options.items() if name in _SHOWN}
    if ("payload" in options) + ("notification" in options) + bool(shown) != 1:
        raise ValueError("give the fields of a notification (title=, body=, …), or notification=, or payload=")
    fields: dict[str, Any] = {"to": to.fields()}
    if "payload" in options:
        payload = options["payload"]
        if isinstance(payload, str):
            fields["payload"] = payload
        else:
            fields["payload_base64"] = base64.b64encode(payload).decode()
        if options.get("content_type"):
            fields["content_type"] = options["content_type"]
    else:
        if "content_type" in options:
            raise ValueError("content_type= goes with payload=: a notification has its own")
        fields |= _notified(options.get("notification") or Notification(**shown))  # type: ignore[arg-type]
    fields |= {name: options[name] for name in _AS_THEY_ARE if name in options}
    if "priority" in options:
        fields["priority"] = str(options["priority"])
    if "ttl" in options:
        fields["ttl_s"] = _seconds("ttl", options["ttl"])
    if "idempotency_window" in options:
        fields["idempotency_s"] = _seconds("idempotency_window", options["idempotency_window"])
    if "not_before" in options:
        if options["not_before"].tzinfo is None:
            raise ValueError("not_before must say its time zone: datetime.now(UTC) + timedelta(hours=1)")
        fields["not_before"] = format_time(options["not_before"])
    ours = not fields.get("idempotency_key")
    if ours:
        fields["idempotency_key"] = secrets.token_urlsafe(16)
    again = f"Push it again with idempotency_key={fields['idempotency_key']!r}: that will not be a second message"
    return Request(to_json(fields), again, ours=ours)


def compose_withdrawal(message_id: str) -> Request:
    """The request to take a message back."""
    if not message_id:
        raise ValueError("a message without an id cannot be withdrawn")
    return Request(to_json({"withdraw": message_id}), "Do it again: a message is withdrawn once")


def _notified(notification: Notification) -> dict[str, Any]:
    """The fields of a request for a notification: what the broker must know of it stands beside it."""
    if notification.expires_at is not None:
        raise ValueError("expires_at= is for send: give push a ttl=")
    shown = json.loads(notification.to_json())
    beside = {name: shown.pop(name) for name in ("priority", "collapse_key") if name in shown}
    return {"notification": shown, **beside}


def _seconds(name: str, value: float | timedelta) -> int:
    seconds = int(value.total_seconds() if isinstance(value, timedelta) else value)
    if seconds < 1:
        raise ValueError(f"{name} must be at least one second")
    return seconds


def to_json(fields: Mapping[str, Any]) -> bytes:
    """What to publish. Raises `ValueError` for what is no number in JSON, `TypeError` for what is nothing there."""
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def answered(payload: bytes, *, good: str = "") -> dict[str, Any]:
    """The fields of the broker's answer. `good`: the code of a refusal that is none.

    Raises `Rejected` when it says no, `ValueError` when it is no answer.
    """
    try:
        fields: Any = json.loads(payload.decode())
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("ok"), bool):
        raise ValueError("an answer must be an object with ok")
    if not fields["ok"]:
        code, where, words = (str(fields.get(name, "")) for name in ("code", "field", "message"))
        if not good or code != good:
            raise Rejected(words, code=code, field=where)
    return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the broker says to a request that it accepts.

    `recipients` will get it, or would in a dry run: `users`, on all their devices, and `devices`. `left_out` says why
    others will not, such as {"suppressed": 1}. `sample` is of a dry run: the first of those who would get it.
    `duplicate`: the idempotency key was known, and this is the message that it came with first.
    """

    message_id: str = ""
    recipients: int = 0
    users: int = 0
    devices: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    sample: Sequence[str] = ()
    dry_run: bool = False
    duplicate: bool = False

    @classmethod
    def from_json(cls, payload: bytes) -> Self:
        """Read what the broker answers. Raises `Rejected` when it says no, `ValueError` when it is no answer."""
        fields = answered(payload)
        known: dict[str, Any] = {}
        for name, kind in _ANSWERED.items():
            value = fields.get(name)
            if value is None:
                continue
            if not isinstance(value, kind):
                raise ValueError(f"{name} must be a {kind.__name__}")
            known[name] = value
        return cls(**known)


_ANSWERED: Final[Mapping[str, type]] = {
    "message_id": str,
    "recipients": int,
    "users": int,
    "devices": int,
    "left_out": dict,
    "sample": list,
    "dry_run": bool,
    "duplicate": bool,
}


class Push(Tracked):
    """A rich send that was accepted, and what has become of it so far, as far as `receipts=` asks for that.

    Its attributes are those of `Answer`.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message_id)
        self.recipients = answer.recipients
        self.users = answer.users
        self.devices = answer.devices
        self.left_out = answer.left_out
        self.sample = answer.sample
        self.dry_run = answer.dry_run
        self.duplicate = answer.duplicate

    def __repr__(self) -> str:
        return f"{type(self).__name__}(message_id={self.message_id!r}, recipients={self.recipients})"
