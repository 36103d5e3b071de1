"""What may be said of whom brands address: tags and attributes, consent, preferences, suppression, segments, restraint.

Each change is one transaction, within the bounds, of somebody who is there.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from broker.bridge.audience import Address, Audience, BadAddress, check_names
from broker.bridge.condition import BadCondition, Condition, Facts, explain, parse, with_segment
from broker.bridge.restraint import check_quiet, check_zone
from broker.errors import NotFound, Refused
from broker.identity import check_name
from broker.limits import (
    ATTRIBUTES_MAX,
    CAP_MAX,
    CAP_S_MAX,
    CAPS_MAX,
    CONSENT_LOG_MAX,
    FOLLOW_EVERY_S_MAX,
    FOLLOWS_MAX,
    LOCALE_BYTES_MAX,
    SEGMENTS_MAX,
    TAGS_MAX,
    TOPICS_MAX,
    VALUE_BYTES_MAX,
)
from broker.store.entries import (
    Cap,
    Consent,
    Kind,
    Preferences,
    Profile,
    Quiet,
    Restraint,
    Segment,
    Suppression,
    Who,
    WhoKind,
)
from broker.store.follows import item_of, topic_of
from broker.store.profiles import Profiles, ms
from broker.store.records import Records

Source = Literal["operator", "brand"]
_LOCALE: Final = re.compile(rf"[A-Za-z0-9_-]{{0,{LOCALE_BYTES_MAX}}}", re.ASCII)
_SHOWN: Final = 20
SUPPRESSED_S_MAX: Final = 10 * 365 * 86400


class Register(Protocol):
    """Who there is."""

    records: Records
    now: Callable[[], datetime]

    async def check(self, brand: str, kind: Literal["user", "store", "device"] | None = None, name: str = "") -> None:
        """`NotFound` when there is no such brand, or when it has no such user, store or device."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody says of themselves: any part of it, and the rest stays as it is. None and "" take it back."""

    topics: dict[str, bool] = {}
    follows: dict[str, int | None] = {}  # items, each with the seconds between two; None ends it
    quiet_hours: Quiet | UnsetType | None = UNSET
    time_zone: str | UnsetType = UNSET
    locale: str | UnsetType = UNSET


class Matching(msgspec.Struct, frozen=True, kw_only=True):
    """For whom a condition is true: how many, and the first of them."""

    users: int
    devices: int
    left_out: dict[str, int]
    first: list[str]


class People:
    """Every operation on profiles. Raises `NotFound` and `Refused` as they say, and `Failed` for the disk."""

    def __init__(self, register: Register) -> None:
        self.register = register
        self.records = register.records
        self.profiles = Profiles(register.records)
        self.clock: Callable[[], datetime] = _now
        self._watchers: list[Callable[[], None]] = []

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` when there is somebody whose devices are to be told what counts; it must not raise."""
        self._watchers.append(callback)

    async def show(self, brand: str, kind: WhoKind, name: str) -> Profile:
        """All that is known of somebody."""
        await self.register.check(brand, kind, name)
        return await self.profiles.profile(Who(brand, kind, name))

    # -- tags and attributes -------------------------------------------------------------------------------------------

    async def tag(self, brand: str, kind: WhoKind, name: str, tags: tuple[str, ...]) -> Profile:
        """Add tags."""
        for tag in tags:
            check_name("tag", tag)
        async with self.records.transaction():
            await self.register.check(brand, kind, name)
            if await self.profiles.tag(Who(brand, kind, name), tags) > TAGS_MAX:
                raise _too_many("tags", TAGS_MAX, f"pushbroker {kind} untag {brand} {name} TAG")
        return await self.show(brand, kind, name)

    async def untag(self, brand: str, kind: WhoKind, name: str, tags: tuple[str, ...]) -> Profile:
        """Take tags away, where they are there."""
        async with self.records.transaction():
            await self.register.check(brand, kind, name)
            await self.profiles.untag(Who(brand, kind, name), tags)
        return await self.show(brand, kind, name)

    async def set(self, brand: str, kind: WhoKind, name: str, attributes: dict[str, str]) -> Profile:
        """Set attributes."""
        for key, value in attributes.items():
            check_name("key", key)
            if not 0 < len(value.encode()) <= VALUE_BYTES_MAX or not value.isprintable():
                raise Refused(
                    f"that cannot be the value of {key}",
                    reason=0x90,
                    remedy=f"Use 1 to {VALUE_BYTES_MAX} bytes on one line.",
                )
        async with self.records.transaction():
            await self.register.check(brand, kind, name)
            if await self.profiles.set(Who(brand, kind, name), attributes) > ATTRIBUTES_MAX:
                raise _too_many("attributes", ATTRIBUTES_MAX, f"pushbroker {kind} unset {brand} {name} KEY")
        return await self.show(brand, kind, name)

    async def unset(self, brand: str, kind: WhoKind, name: str, keys: tuple[str, ...]) -> Profile:
        """Take attributes away, where they are there."""
        async with self.records.transaction():
            await self.register.check(brand, kind, name)
            await self.profiles.unset(Who(brand, kind, name), keys)
        return await self.show(brand, kind, name)

    # -- what they say themselves --------------------------------------------------------------------------------------

    async def say(self, brand: str, name: str, wanted: Wanted, source: Source = "operator") -> Profile:
        """Note what a user said: consent to topics, preferences. The operator or the brand has it from them."""
        await self.hear(Who(brand, "user", name), wanted, source, self.clock())
        return await self.show(brand, "user", name)

    async def hear(self, who: Who, wanted: Wanted, source: str, at: datetime) -> None:
        """Note what somebody said, then. It makes no difference whether it is heard once or again."""
        check_wanted(wanted)
        async with self.records.transaction() as after:
            await self.register.check(*who)
            for topic, state in wanted.topics.items():
                await self.profiles.follows.forget(who, topic)
                said = await self.profiles.consent(who, topic, "in" if state else "out", at, source, CONSENT_LOG_MAX)
                if said > TOPICS_MAX:
                    raise _too_many("topics", TOPICS_MAX, "Use fewer, larger topics, and tags for the rest.")
            for item, every_s in wanted.follows.items():
                await self.profiles.follows.forget(who, topic_of(item))
                await self._follow(who, item, every_s, source, at)
            had = await self.profiles.preferences(who)
            changes = {field: getattr(wanted, field) for field in Preferences.__struct_fields__}
            now = msgspec.structs.replace(
                had, **{field: value for field, value in changes.items() if value is not UNSET}
            )
            if now != had:
                await self.profiles.prefer(who, now)
            await self.profiles.owe(who)
            after += self._watchers

    async def _follow(self, who: Who, item: str, every_s: int | None, source: str, at: datetime) -> None:
        """Somebody follows an item this often, or not at all, unless they have said something else since."""
        profiles, topic = self.profiles, topic_of(item)
        if await profiles.said_later(who, topic, at):
            return
        if every_s is None:
            if await profiles.follows.end(who, item):
                await profiles.log_consent(who, topic, "out", at, source, CONSENT_LOG_MAX)
        elif await profiles.follows.begin(who, item, every_s, ms(at), source):
            if len(await profiles.follows.of(who)) > FOLLOWS_MAX:
                raise _too_many("follows", FOLLOWS_MAX, "End one that is of no use any more.")
            await profiles.log_consent(who, topic, "in", at, source, CONSENT_LOG_MAX)

    async def opt_out(self, who: Who, source: str) -> None:
        """Somebody wants no topic and follows nothing any more; what they had is remembered."""
        at, follows = self.clock(), self.profiles.follows
        async with self.records.transaction() as after:
            await self.register.check(*who)
            profile = await self.profiles.profile(who)
            for consent in profile.topics:
                if consent.state == "in":
                    await follows.remember(who, consent.topic)
                    await self.profiles.consent(who, consent.topic, "out", at, source, CONSENT_LOG_MAX)
            for followed in profile.follows:
                await follows.remember(who, topic_of(followed.item), followed.every_s)
                await self._follow(who, followed.item, None, source, at)
            await self.profiles.owe(who)
            after += self._watchers

    async def opt_in(self, who: Who, source: str) -> None:
        """They want again what they had then, but for what they have said something else of since."""
        at, follows = self.clock(), self.profiles.follows
        async with self.records.transaction() as after:
            await self.register.check(*who)
            for topic, every_s in await follows.remembered(who):
                if item := item_of(topic):
                    await self._follow(who, item, every_s, source, at)
                else:
                    await self.profiles.consent(who, topic, "in", at, source, CONSENT_LOG_MAX)
                await follows.forget(who, topic)
            await self.profiles.owe(who)
            after += self._watchers

    async def consent_log(self, brand: str, name: str, kind: WhoKind = "user") -> list[Consent]:
        """Each consent that somebody gave or took back, the oldest first."""
        await self.register.check(brand, kind, name)
        return await self.profiles.consent_log(Who(brand, kind, name))

    # -- suppression ---------------------------------------------------------------------------------------------------

    async def suppress(self, brand: str, name: str, reason: str, for_s: int | None = None) -> Suppression:
        """From now on a user gets nothing, whatever is sent to them; for some time, or for ever."""
        if not 0 < len(reason.encode()) <= VALUE_BYTES_MAX or not reason.isprintable():
            raise Refused(
                "that cannot be a reason", reason=0x90, remedy=f"Use 1 to {VALUE_BYTES_MAX} bytes on one line."
            )
        if for_s is not None and not 0 < for_s <= SUPPRESSED_S_MAX:
            raise Refused("that time is too short or too long", remedy="Use up to 10 years, or none, for ever.")
        now = self.register.now()
        until = None if for_s is None else now + timedelta(seconds=for_s)
        entry = Suppression(user=name, reason=reason, since=now, until=until)
        async with self.records.transaction():
            await self.register.check(brand, "user", name)
            await self.profiles.suppress(brand, entry)
        return entry

    async def unsuppress(self, brand: str, name: str) -> bool:
        """End that; says whether it was so."""
        async with self.records.transaction():
            await self.register.check(brand, "user", name)
            return await self.profiles.unsuppress(brand, name)

    async def suppressions(self, brand: str) -> list[Suppression]:
        """Who gets nothing."""
        await self.register.check(brand)
        now = self.register.now()
        return [one for one in await self.profiles.suppressions(brand) if one.until is None or one.until > now]

    # -- segments ------------------------------------------------------------------------------------------------------

    async def segment_add(
        self, brand: str, name: str, condition: str, title: str = "", replace: bool = False
    ) -> Segment:
        """Save a condition under a name, in place of one that has it where `replace` says so."""
        check_name("segment", name)
        if len(title.encode()) > VALUE_BYTES_MAX or not title.isprintable():
            raise Refused(
                "that cannot be a title", reason=0x90, remedy=f"Use up to {VALUE_BYTES_MAX} bytes on one line."
            )
        segment = Segment(brand=brand, name=name, title=title, condition=condition)
        async with self.records.transaction():
            await self.register.check(brand)
            there = await self._segments(brand)
            if name in there and not replace:
                raise Refused(
                    f"{brand} has a segment {name} already",
                    remedy=f"pushbroker segment show {brand} {name}, or add --replace",
                )
            if len({*there, name}) > SEGMENTS_MAX:
                raise _too_many("segments", SEGMENTS_MAX, f"pushbroker segment remove {brand} NAME")
            await check_names(self.profiles, brand, with_segment(there, name, condition))
            await self.profiles.set_segment(segment)
        return segment

    async def segment_list(self, brand: str | None = None) -> list[Segment]:
        """The segments of a brand, or of all."""
        if brand is not None:
            await self.register.check(brand)
        return await self.profiles.segments(brand)

    async def segment_show(self, brand: str, name: str) -> Segment:
        """One segment, or `NotFound`."""
        await self.register.check(brand)
        found = await self.profiles.segments(brand, name)
        if not found:
            raise NotFound(f"{brand} has no segment {name!r}", remedy=f"pushbroker segment list {brand}")
        return found[0]

    async def segment_remove(self, brand: str, name: str) -> Segment:
        """Remove a segment to which no other refers."""
        async with self.records.transaction():
            segment = await self.segment_show(brand, name)
            others = await self._segments(brand)
            del others[name]
            for other, text in others.items():
                if name in text and _refers(text, others):
                    raise Refused(
                        f"segment {other} refers to it",
                        remedy=f"pushbroker segment add {brand} {other} CONDITION --replace",
                    )
            await self.profiles.remove_segment(brand, name)
        return segment

    async def segment_test(self, brand: str, segment: str = "", condition: str = "") -> Matching:
        """For whom a segment or a condition is true: how many, and the first of them."""
        await self.register.check(brand)
        if segment:
            await self.segment_show(brand, segment)
        to = Address(segment=segment, condition=condition)
        try:
            audience = await Audience.of(self.profiles, brand, to, self.register.now())
        except BadAddress as error:
            raise Refused(error.message, reason=error.reason, remedy=error.remedy) from None
        counts = {"user": 0, "device": 0}
        left_out: dict[str, int] = {}
        first: list[str] = []
        async for page in audience.pages():
            for one in page:
                if one.left_out:
                    left_out[one.left_out] = left_out.get(one.left_out, 0) + 1
                else:
                    counts[one.kind] += 1
                    if len(first) < _SHOWN:
                        first.append(f"{one.kind}/{one.name}")
        return Matching(users=counts["user"], devices=counts["device"], left_out=left_out, first=first)

    async def explain(self, brand: str, kind: WhoKind, name: str, condition: str) -> dict[str, bool]:
        """For each term of a condition, whether it is true of somebody."""
        await self.register.check(brand, kind, name)
        return explain(await self.condition(brand, condition), await self.facts(Who(brand, kind, name)))

    async def condition(self, brand: str, text: str) -> Condition:
        """The condition that a text is, with the brand's segments; `BadCondition`."""
        return parse(text, await self._segments(brand))

    async def facts(self, who: Who) -> Facts:
        """What conditions may ask of somebody."""
        profile = await self.profiles.profile(who)
        given = {"user": who.name} if who.kind == "user" else {"name": who.name}
        devices = await self.records.devices(who.brand, **given)
        return Facts(
            kind=who.kind,
            name=who.name,
            user="" if who.kind == "user" else "".join(device.user for device in devices),
            devices=frozenset(device.name for device in devices),
            stores=frozenset(device.store for device in devices if device.store),
            topics=frozenset(consent.topic for consent in profile.topics if consent.state == "in"),
            tags=frozenset(profile.tags),
            attributes=profile.attributes,
            locale=profile.preferences.locale,
        )

    async def _segments(self, brand: str) -> dict[str, str]:
        return {segment.name: segment.condition for segment in await self.profiles.segments(brand)}

    # -- restraint -----------------------------------------------------------------------------------------------------

    async def restraint_show(self, brand: str) -> Restraint:
        """What a brand holds itself to."""
        await self.register.check(brand)
        return await self.profiles.restraint(brand)

    async def restraint_set(
        self,
        brand: str,
        *,
        quiet_hours: Quiet | UnsetType | None = UNSET,
        time_zone: str | UnsetType = UNSET,
        quiet_kinds: tuple[Kind, ...] | UnsetType = UNSET,
        caps: tuple[Cap, ...] | UnsetType = UNSET,
    ) -> Restraint:
        """Change what of it is given."""
        given: Mapping[str, object] = {
            "quiet_hours": quiet_hours, "time_zone": time_zone, "quiet_kinds": quiet_kinds, "caps": caps
        }  # fmt: skip
        async with self.records.transaction():
            await self.register.check(brand)
            had = await self.profiles.restraint(brand)
            rules = msgspec.structs.replace(had, **{name: value for name, value in given.items() if value is not UNSET})
            _check_rules(rules)
            await self.profiles.set_restraint(brand, rules)
        return rules


def _now() -> datetime:
    """Not the register's, which has whole seconds: consent may be given and taken back within one."""
    return datetime.now(UTC)


def _refers(text: str, segments: Mapping[str, str]) -> bool:
    """Whether a condition names a segment that is not among these."""
    try:
        parse(text, segments)
    except BadCondition:
        return True
    return False


def check_wanted(wanted: Wanted) -> None:
    """What cannot be wanted raises `Refused`."""
    if len(wanted.topics) > TOPICS_MAX:
        raise _too_many("topics", TOPICS_MAX, "Say it in several messages.")
    for topic in wanted.topics:
        check_name("topic", topic)
    if len(wanted.follows) > FOLLOWS_MAX:
        raise _too_many("follows", FOLLOWS_MAX, "Say it in several messages.")
    for item, every_s in wanted.follows.items():
        check_name("item", item)
        if every_s is not None and not 0 <= every_s <= FOLLOW_EVERY_S_MAX:
            raise Refused(
                f"{item}: {every_s} seconds are too short or too long",
                reason=0x83,
                remedy=f"Use 0, for each change, to {FOLLOW_EVERY_S_MAX} ({FOLLOW_EVERY_S_MAX // 86400} days).",
            )
    if wanted.quiet_hours is not UNSET:
        check_quiet(wanted.quiet_hours)
    if wanted.time_zone is not UNSET and wanted.time_zone:
        check_zone(wanted.time_zone)
    if wanted.locale is not UNSET and not _LOCALE.fullmatch(wanted.locale):
        raise Refused(f"{wanted.locale!r} is no locale", reason=0x83, remedy="Write it like it, it-IT or zh-Hant.")


def _check_rules(rules: Restraint) -> None:
    check_quiet(rules.quiet_hours)
    if rules.time_zone:
        check_zone(rules.time_zone)
    if len(rules.caps) > CAPS_MAX:
        raise _too_many("caps", CAPS_MAX, "Keep those that matter most.")
    for cap in rules.caps:
        if not 0 < cap.max <= CAP_MAX or (cap.per_s is not None and not 0 < cap.per_s <= CAP_S_MAX):
            raise Refused(
                f"a cap of {cap.max} in {cap.per_s or 86400} s",
                reason=0x83,
                remedy=f"Use 1 to {CAP_MAX} messages, in a day or in up to {CAP_S_MAX // 86400} days.",
            )


def _too_many(things: str, most: int, remedy: str) -> Refused:
    return Refused(f"more than {most} {things}", reason=0x97, remedy=remedy)
