"""What a device's user wants: which topics, when to be left alone, in which time zone and language."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from typing import Any, Self, TypedDict, Unpack

from client_sdk.topics import check_name

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """When not to disturb, by the clock on the wall: `QuietHours(time(22), time(8))`. They may go past midnight."""

    start: time
    until: time


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What counts for the user of a device, or for the device itself where it has none.

    `topics` are those of which they said something: True is in, False is out. `follows` are the items of whose changes
    they hear, and after how many seconds at the earliest again. Empty and None: not said.
    """

    topics: Mapping[str, bool] = field(default_factory=dict)
    follows: Mapping[str, int] = field(default_factory=dict)
    quiet_hours: QuietHours | None = None
    time_zone: str = ""
    locale: str = ""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of the JSON. What cannot be read in them counts as not said."""
        topics, quiet, follows = fields.get("topics"), fields.get("quiet_hours"), fields.get("follows")
        hours = None
        if isinstance(quiet, dict):
            try:
                hours = QuietHours(time.fromisoformat(quiet["from"]), time.fromisoformat(quiet["until"]))
            except (KeyError, TypeError, ValueError) as error:
                log.warning("quiet hours cannot be read: %r", error)
        zone, locale = fields.get("time_zone"), fields.get("locale")
        return cls(
            topics={name: said is True for name, said in topics.items()} if isinstance(topics, dict) else {},
            follows={name: said for name, said in follows.items() if isinstance(said, int)}
            if isinstance(follows, dict)
            else {},
            quiet_hours=hours,
            time_zone=zone if isinstance(zone, str) else "",
            locale=locale if isinstance(locale, str) else "",
        )


class Wishes(TypedDict, total=False):
    """What `set_preferences` takes, any part of it; the rest stays as it is.

    `topics`: {"news": True} is in, False is out. `follows`: {"wipro": 3600} wants changes of that item, once an hour at
    most; None ends it. `quiet_hours=None`, `time_zone=""` and `locale=""` take back what was
    said. `time_zone` is a name such as "Europe/Rome", `locale` one such as "it".
    """

    topics: Mapping[str, bool]
    follows: Mapping[str, int | None]
    quiet_hours: QuietHours | None
    time_zone: str
    locale: str


def compose_wishes(**wishes: Unpack[Wishes]) -> bytes:
    """What to publish. Raises `ValueError` for what is no wish."""
    if unknown := wishes.keys() - Wishes.__annotations__.keys():
        raise ValueError(f"there is no preference {', '.join(sorted(unknown))}")
    if not wishes:
        raise ValueError("say what is wanted: topics=, follows=, quiet_hours=, time_zone= or locale=")
    fields: dict[str, Any] = {**wishes}
    if "topics" in wishes:
        fields["topics"] = {check_name("topic", name): bool(wanted) for name, wanted in wishes["topics"].items()}
    if "follows" in wishes:
        fields["follows"] = {check_name("item", name): every for name, every in wishes["follows"].items()}
    if (quiet := wishes.get("quiet_hours")) is not None:
        fields["quiet_hours"] = {"from": f"{quiet.start:%H:%M}", "until": f"{quiet.until:%H:%M}"}
    return json.dumps(fields).encode()


def merged(known: bytes, *wishes: bytes) -> dict[str, Any]:
    """What counts once all of these are heard. What is no JSON object says nothing."""
    fields: dict[str, Any] = {}
    for said in (known, *wishes):
        new = _fields(said)
        parts = {
            part: {**fields.get(part, {}), **(new[part] if isinstance(new.get(part), dict) else {})}
            for part in ("topics", "follows")
        }
        fields = {**fields, **new, **parts}
    return fields


def _fields(payload: bytes) -> dict[str, Any]:
    if not payload:
        return {}
    try:
        fields = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        log.warning("preferences cannot be read: %r", error)
        return {}
    return fields if isinstance(fields, dict) else {}
