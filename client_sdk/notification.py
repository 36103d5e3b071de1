"""The rich notification and its JSON form, `application/vnd.push+json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NoReturn, Self, TypeVar

CONTENT_TYPE: Final = "application/vnd.push+json"

T = TypeVar("T")


class Priority(StrEnum):
    """How soon a notification wants to be seen."""

    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A button: `id` is what the app acts on, `title` what the person reads."""

    id: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What a person is to see.

    `image` and `click` are URLs as the brand gave them: an app that opens them decides which schemes it trusts. `data`
    is for the app alone, anything that JSON can say. Of several notifications with one `collapse_key` only the newest
    matters. After `expires_at` (aware) it is not to be shown any more.
    """

    title: str = ""
    body: str = ""
    image: str = ""
    click: str = ""
    actions: tuple[Action, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    priority: Priority = Priority.NORMAL
    collapse_key: str = ""
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ValueError("expires_at must say its time zone: datetime.now(UTC) + timedelta(hours=1)")

    def to_json(self) -> bytes:
        """The payload to send; fields at their default are left out. Raises `ValueError` when `data` is not JSON."""
        fields: dict[str, Any] = {
            "title": self.title,
            "body": self.body,
            "image": self.image,
            "click": self.click,
            "actions": [{"id": a.id, "title": a.title} for a in self.actions],
            "data": dict(self.data),
            "priority": "" if self.priority is Priority.NORMAL else str(self.priority),
            "collapse_key": self.collapse_key,
            "expires_at": "" if self.expires_at is None else format_time(self.expires_at),
        }
        present = {name: value for name, value in fields.items() if value}
        try:
            return json.dumps(present, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, RecursionError) as error:
            raise ValueError(f"data cannot be written as JSON: {error}") from error

    @classmethod
    def from_json(cls, payload: bytes) -> Self:
        """Read a payload. Unknown fields and priorities are let pass, for brands newer than this SDK.

        Raises `ValueError` for anything that is not such an object, however hostile.
        """
        try:
            decoded = json.loads(payload.decode(), parse_constant=_refuse_constant)
            # A lone surrogate is legal in JSON and fatal when printed. Encoding the whole finds it wherever it hides.
            json.dumps(decoded, ensure_ascii=False).encode()
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error
        fields = _typed(decoded, dict, "the notification")
        return cls(
            title=_get(fields, "title", str, ""),
            body=_get(fields, "body", str, ""),
            image=_get(fields, "image", str, ""),
            click=_get(fields, "click", str, ""),
            actions=tuple(_action(a) for a in _get(fields, "actions", list, [])),
            data=_get(fields, "data", dict, {}),
            priority=Priority.HIGH if _get(fields, "priority", str, "") == "high" else Priority.NORMAL,
            collapse_key=_get(fields, "collapse_key", str, ""),
            expires_at=parse_time(text) if (text := _get(fields, "expires_at", str, "")) else None,
        )


def format_time(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds: 2026-11-22T08:00:00.123Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """An ISO 8601 time as an aware one in UTC; one without a zone is taken as UTC. Raises `ValueError`."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:  # 0001-01-01 east of Greenwich lies before the beginning of time
        raise ValueError(f"{text!r} is out of range") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _typed(value: object, kind: type[T], what: str) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"{what} must be a {kind.__name__}, not a {type(value).__name__}")
    return value


def _get(fields: Mapping[str, Any], name: str, kind: type[T], default: T) -> T:
    value = fields.get(name)
    return default if value is None else _typed(value, kind, name)


def _action(value: object) -> Action:
    fields = _typed(value, dict, "an action")
    return Action(id=_typed(fields.get("id"), str, "an action's id"), title=_get(fields, "title", str, ""))
