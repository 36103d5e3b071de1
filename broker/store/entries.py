"""What the records hold: brands, users, stores, devices, and what proves who they are. Times are whole seconds, UTC.

`""` is no user or no store; None is a time that has not come, or never will.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import msgspec

from broker.identity import Identity, Role


class DeviceState(StrEnum):
    """How far a device has come."""

    PENDING = "pending"  # known, but it has nothing yet to sign in with
    ACTIVE = "active"
    REVOKED = "revoked"


class Overflow(StrEnum):
    """What happens when a session of a brand has as much waiting as it may."""

    REJECT = "reject"  # the new message is refused: its publisher is told, and nothing is dropped
    DROP_OLDEST = "drop-oldest"  # the oldest that waits for the session goes, and is counted


class Brand(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant, with the counts of what it has."""

    name: str
    title: str
    overflow: Overflow
    created_at: datetime
    users: int
    stores: int
    devices: int
    tokens: int  # those that are neither revoked nor expired


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person known to a brand."""

    brand: str
    name: str
    title: str
    created_at: datetime
    devices: int  # how many belong to them


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """A place in which devices stand."""

    brand: str
    name: str
    title: str
    created_at: datetime
    devices: int  # how many stand there


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A kiosk, tablet or app installation. `user` and `store` are '' where it has none."""

    brand: str
    name: str
    user: str
    store: str
    state: DeviceState
    created_at: datetime
    enrolled_at: datetime | None
    code_expires_at: datetime | None  # of its latest enrolment code
    certificate_not_after: datetime | None  # of the longest-lived certificate that is not revoked
    password: bool  # whether it has one


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a brand server's token; never the token. `used_at` is coarse: up to an hour late."""

    id: str
    brand: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    used_at: datetime | None


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that our CA issued. `serial` is lower-case hexadecimal."""

    serial: str
    identity: str
    role: Role
    brand: str
    name: str
    issued_at: datetime
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """A device's enrolment code, as its hash, and what it was used for."""

    brand: str
    device: str
    user: str
    store: str
    expires_at: datetime
    key_hash: bytes | None
    serial: str | None
    certificate: bytes | None


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a certificate or a password is, and whether it still counts. `state` is None for all but devices."""

    role: Role
    brand: str
    name: str
    user: str
    store: str
    state: DeviceState | None
    revoked_at: datetime | None = None
    not_after: datetime | None = None
    hash: str = ""

    @property
    def identity(self) -> Identity:
        """As the rest of the broker knows it."""
        return Identity(self.role, self.brand, self.name, self.user, self.store)

    def __repr__(self) -> str:
        return f"Holder({self.identity.path!r})"

    def __rich_repr__(self) -> Any:
        yield self.identity.path


# -- of whom brands address: times to the millisecond ------------------------------------------------------------------

WhoKind = Literal["user", "device"]
Kind = Literal["marketing", "transactional"]
ConsentState = Literal["in", "out"]


class Who(NamedTuple):
    """A user or a device of a brand."""

    brand: str
    kind: WhoKind
    name: str


class Quiet(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """Quiet hours by the clock on their wall: 'HH:MM' each. They go on past midnight where `from` is later."""

    from_: str
    until: str


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody said of a topic, when, and who told us: 'device/kiosk-7', 'brand' or 'operator'."""

    topic: str
    state: ConsentState
    at: datetime
    source: str


class Preferences(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants; "" and None are: not said."""

    quiet_hours: Quiet | None = None
    time_zone: str = ""
    locale: str = ""


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """An item of content that somebody follows: told of its changes at most once in `every_s` seconds."""

    item: str
    every_s: int
    since: datetime
    source: str  # as of a consent


class Suppression(msgspec.Struct, frozen=True, kw_only=True):
    """That a user gets nothing; `until` is None for ever."""

    user: str
    reason: str
    since: datetime
    until: datetime | None


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """All that a brand knows of a user or a device."""

    tags: tuple[str, ...]
    attributes: dict[str, str]
    topics: tuple[Consent, ...]
    follows: tuple[Followed, ...]
    preferences: Preferences
    suppressed: Suppression | None


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that a brand has given a name."""

    brand: str
    name: str
    title: str
    condition: str


class Cap(msgspec.Struct, frozen=True, kw_only=True):
    """At most `max` messages of a kind to one recipient: in each of their days, or in `per_s` seconds."""

    max: int
    per_s: int | None = None  # None: a day of theirs, from midnight to midnight
    kind: Kind = "marketing"


class Restraint(msgspec.Struct, frozen=True, kw_only=True):
    """What a brand holds itself to. Its quiet hours are those of who has none of their own, its zone likewise."""

    quiet_hours: Quiet | None = None
    time_zone: str = ""
    quiet_kinds: tuple[Kind, ...] = ("marketing",)  # for which quiet hours hold, theirs too
    caps: tuple[Cap, ...] = ()


class Recipient(msgspec.Struct, frozen=True, kw_only=True):
    """What decides whether somebody gets a message now. What a device is not told, its user has said."""

    time_zone: str
    quiet_hours: Quiet | None
    locale: str
    topics: frozenset[str]  # those they opted in to
    suppressed: Suppression | None
