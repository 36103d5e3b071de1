"""Why somebody got a message, or did not: what the records say of it, in the order in which it happened.

What was sent is told from the books. Who was not addressed is explained from the records as they are now, and for
consent from its log; where a past state cannot be known, that is said.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from broker.bridge.condition import BadCondition, holds, terms
from broker.bridge.condition import Facts as About
from broker.bridge.people import People
from broker.bridge.request import To
from broker.bridge.split import place
from broker.errors import Refused
from broker.identity import check_name
from broker.limits import CONSENT_LOG_MAX
from broker.store.entries import Consent, Device, Who, WhoKind
from broker.store.follows import topic_of
from broker.store.outcomes import Heading, Outcomes, Story

_SHOWN: Final = 5
_FORMAT: Final = "%Y-%m-%d %H:%M:%S"


class Step(msgspec.Struct, frozen=True):
    """Something that happened."""

    at: int
    what: str
    detail: str = ""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """How one recipient fared: the person who was asked for, or a device of theirs."""

    recipient: str
    addressed: str
    state: str
    reason: str
    steps: list[Step]
    now: str  # what is still to come, or ''


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. Who is no recipient has no `parts`, but `why_not`. `unknown`: what nobody knows any more."""

    who: str
    verdict: str
    parts: list[Part]
    why_not: list[str]
    unknown: list[str]
    next: list[str]


class Why:
    """Answers for one message."""

    def __init__(self, message: Heading, to: To, outcomes: Outcomes, people: People) -> None:
        self._message = message
        self._to = to
        self._outcomes = outcomes
        self._people = people
        self._brand = message.brand
        self._at = datetime.fromtimestamp(message.accepted_at / 1000, UTC)
        self._unknown: list[str] = []

    async def explain(self, name: str) -> Explanation:
        """Why `name` ('ada', 'user/ada' or 'device/kiosk-7') got it, or did not."""
        kind, name = parsed(name, self._brand)
        who = f"{kind}/{name}"
        devices = await self._devices(kind, name)
        asked: list[tuple[str, str]] = [(kind, name)]
        asked += [("device", device.name) for device in devices] if kind == "user" else []
        asked += [("user", device.user) for device in devices if device.user] if kind == "device" else []
        stories = await self._outcomes.stories(self._message.number, asked)
        parts = [await self._part(story) for story in stories]
        if parts:
            verdict = _verdict(stories)
            if kind == "device" and stories[0].recipient.kind == "user":
                events = [event.event for event in stories[0].events if event.device == name]
                said = f"has it: {', '.join(events)}" if events else "has not acknowledged it"
                verdict = f"{who} {said}; it is {stories[0].recipient.name}'s, and {verdict}"
            return Explanation(
                who=who, verdict=verdict, parts=parts, why_not=[], unknown=self._unknown, next=self._next(stories[0])
            )
        why_not = [line async for line in self._why_not(kind, name, devices)]
        return Explanation(
            who=who,
            verdict=f"{who} is no recipient of it",
            parts=[],
            why_not=why_not,
            unknown=self._unknown,
            next=[f"pushbroker {kind} show {self._brand} {name}", f"pushbroker message show {self._message.id}"],
        )

    async def _devices(self, kind: WhoKind, name: str) -> list[Device]:
        given = {"user": name} if kind == "user" else {"name": name}
        return await self._people.records.devices(self._brand, **given)

    # -- a recipient -------------------------------------------------------------------------------------------------

    async def _part(self, story: Story) -> Part:
        row, message = story.recipient, self._message
        steps = [Step(message.accepted_at, "accepted", f"from {message.sender or 'the operator'}")]
        steps += [Step(one.at, one.outcome, f"{one.rule}: {one.detail}") for one in story.decisions]
        if row.sent_at is not None:
            steps.append(Step(row.sent_at, "sent", f"published to {self._brand}/{row.kind}/{row.name}"))
        for event in story.events:
            where = f"on {event.device}" + (f" in {event.store}" if event.store else "")
            steps.append(Step(event.at, event.event, where + (f" ({event.detail})" if event.detail else "")))
        told = {one.outcome for one in story.decisions}
        if row.ended_at is not None and row.state not in told:
            steps.append(Step(row.ended_at, row.state, _ENDS.get(row.reason, row.reason)))
        now = ""
        if row.state == "accepted":
            now = f"is to be sent at {_clock(row.due_at)}" + (f" ({row.reason})" if row.reason else "")
        elif row.state == "sent":
            now = f"waits for a device of theirs to acknowledge it, until {_clock(message.expires_at)}"
        return Part(
            recipient=f"{row.kind}/{row.name}",
            addressed=await self._addressed(row.because, Who(self._brand, row.kind, row.name)),
            state=row.state,
            reason=row.reason,
            steps=sorted(steps, key=lambda step: step.at),
            now=now,
        )

    async def _addressed(self, because: str, who: Who) -> str:
        """By what in the request, in words."""
        word, _, value = because.partition(":")
        match word:
            case "user" | "device":
                return f"by name, in to.{word}s"
            case "store":
                return f"in to.stores, for it stood in {value}"
            case "topic":
                last = _last(await self._people.profiles.consent_log(who, value), self._at)
                since = f", which was said at {last.at:{_FORMAT}} ({last.source})" if last is not None else ""
                return f"in to.topics, for {who.name} had opted in to {value}{since}"
            case "follow":
                last = _last(await self._people.profiles.consent_log(who, topic_of(value)), self._at)
                since = f", since {last.at:{_FORMAT}} ({last.source})" if last is not None else ""
                return f"in to.following, for {who.name} followed {value}{since}"
            case "segment":
                return f"in to.segment, for they were in {value}"
            case "condition":
                return f"by to.condition, which was true of them: {self._to.condition}"
            case "unopened":
                return f"for they had not opened {value}"
            case _:
                return because

    def _next(self, story: Story) -> list[str]:
        """What to look at, for what became of it."""
        row, brand = story.recipient, self._brand
        match row.reason if row.state == "dropped" else row.state:
            case "no_subscriber" | "session_ended" | "queue_full" | "sent":
                return [f"pushbroker device list {brand} --user {row.name}" if row.kind == "user" else
                        f"pushbroker device show {brand} {row.name}"]  # fmt: skip
            case "suppressed":
                return [f"pushbroker user show {brand} {row.name}"]
            case "cap" | "quiet_hours":
                return [f"pushbroker brand show {brand}"]
            case _:
                return []

    # -- somebody else -----------------------------------------------------------------------------------------------

    async def _why_not(self, kind: WhoKind, name: str, devices: Sequence[Device]) -> Any:
        message, to, brand = self._message, self._to, self._brand
        if message.state == "filling":
            yield "its recipients are still being looked for: ask again in a moment"
            return
        there = await self._people.records.users(brand, name) if kind == "user" else devices
        if not there:
            yield f"{brand} has no {kind} {name!r} now"
            self._unknown.append(f"whether {brand} had one when it was accepted: who is removed leaves no record")
        elif there[0].created_at > self._at:
            yield f"{name} was added at {there[0].created_at:{_FORMAT}}, after it was accepted"
            return
        mine = {device.name for device in devices} if kind == "user" else {name}
        if to.users:
            yield f"to.users names {_some(to.users)}, and not {name if kind == 'user' else 'the user of it'}"
        if to.devices:
            yield f"to.devices names {_some(to.devices)}, and none of {_some(mine)}"
        if to.stores:
            stand = [f"{device.name} stands in {device.store or 'no store'}" for device in devices]
            yield f"to.stores names {_some(to.stores)}; now {_some(stand) if stand else 'they have no device'}"
            self._unknown.append("where devices stood when it was accepted")
        about = await self._people.facts(Who(brand, kind, name))
        log = await self._people.profiles.consent_log(Who(brand, kind, name))
        for topic in to.topics:
            yield self._consent("to.topics", topic, topic, log, name)
        if to.following:
            yield self._consent("to.following", topic_of(to.following), to.following, log, name)
        conditions = ("segment", f"segment:{to.segment}" if to.segment else ""), ("condition", to.condition)
        for field, text in (*conditions, ("only", to.only)):
            if text:
                yield await self._condition(field, text, about, log)
        if to.unopened is not None:
            yield await self._unopened(to.unopened.message, kind, name)
        if to.part is not None:
            at = place(f"{brand}/{to.part.of}", kind, name)
            if not to.part.first <= at < to.part.until:
                share = (to.part.until - to.part.first) / 100
                yield f"only {share:g}% of those whom it addresses were to get it, and {name} is in another part"

    def _consent(self, field: str, topic: str, called: str, log: Sequence[Consent], name: str) -> str:
        said = [one for one in log if one.topic == topic]
        last = _last(said, self._at)
        if last is not None:
            how = "had opted out of" if last.state == "out" else "was yet left out, and had opted in to"
            return f"{field}: {name} {how} {called} at {last.at:{_FORMAT}} ({last.source})"
        if len(log) >= CONSENT_LOG_MAX:
            self._unknown.append(f"what {name} said of {called} before {log[0].at:{_FORMAT}}: the log is full")
        later = next((one for one in said if one.state == "in"), None)
        if later is not None:
            return f"{field}: {name} opted in to {called} only at {later.at:{_FORMAT}}, after it was accepted"
        return f"{field}: {name} has never opted in to {called}"

    async def _condition(self, field: str, text: str, about: About, log: Sequence[Consent]) -> str:
        """Which of its terms are true: of consent as it was, of all else as it is now."""
        try:
            condition = await self._people.condition(self._brand, text)
        except BadCondition as error:
            self._unknown.append(f"what to.{field} asks: {error.message}")
            return f"to.{field} ({text}) cannot be looked at any more"
        topics = {one.value for one in terms(condition) if one.word == "topic"}
        said = {topic: _last((one for one in log if one.topic == topic), self._at) for topic in topics}
        then = frozenset(topic for topic, last in said.items() if last is not None and last.state == "in")
        about = msgspec.structs.replace(about, topics=then)
        each = ", ".join(f"{one.text} is {'true' if holds(one, about) else 'false'}" for one in terms(condition))
        if any(one.word != "topic" for one in terms(condition)):
            self._unknown.append("what tags, attributes, stores and devices were then; only consent has a log")
        if field == "only" and holds(condition, about):
            return f"to.only ({text}) is true of them: {each}"
        if holds(condition, about):
            return f"to.{field} ({text}) is true of them now, and was not when it was accepted: {each}"
        return f"to.{field} ({text}) is not true of them: {each}"

    async def _unopened(self, id: str, kind: WhoKind, name: str) -> str:
        earlier = await self._outcomes.find(id)
        stories = await self._outcomes.stories(earlier.number, [(kind, name)]) if earlier is not None else []
        if not stories:
            return f"to.unopened is for those who got {id} and had not opened it: {name} is no recipient of that"
        row = stories[0].recipient
        what = f"had opened it at {_clock(row.opened_at)}" if row.opened_at else f"has it in state {row.state}"
        return f"to.unopened is for those who got {id} and had not opened it: {name} {what}"


_ENDS: Final = {
    "expired": "it was not acknowledged while it was of use",
    "session_ended": "the session in which it waited ended",
    "no_subscriber": "no device of theirs had subscribed",
    "suppressed": "they were suppressed",
    "revoked": "the device was revoked",
}


def parsed(name: str, brand: str) -> tuple[WhoKind, str]:
    """Whom a word such as 'ada', 'user/ada', 'device/kiosk-7' or 'acme/user/ada' names."""
    match name.removeprefix(f"{brand}/").split("/"):
        case ["user" | "device" as kind, word]:
            return ("user" if kind == "user" else "device"), check_name(kind, word)
        case [word]:
            return "user", check_name("user", word)
        case _:
            raise Refused(f"{name!r} names nobody", reason=0x83, remedy="Write ada, or device/kiosk-7 for a device.")


async def explained(message: Heading, name: str, outcomes: Outcomes, people: People) -> Explanation:
    """Why `name` got a message, or did not."""
    to = msgspec.json.decode(await outcomes.address(message.number), type=To)
    return await Why(message, to, outcomes, people).explain(name)


def _verdict(stories: Sequence[Story]) -> str:
    story = stories[0]
    first = story.recipient
    why = story.decisions[-1].detail if story.decisions else _ENDS.get(first.reason, first.reason)
    words = {
        "accepted": "is still to get it",
        "sent": "has been sent it, and no device has acknowledged it yet",
        "delivered": "got it",
        "expired": "did not get it in time",
        "replaced": f"did not get it: {why}",
        "dropped": f"did not get it: {why or _ENDS.get(first.reason, first.reason)}",
        "withdrawn": f"did not get it: {why}",
    }
    return f"{first.kind}/{first.name} {words[first.state]}"


def _last(log: Iterable[Consent], at: datetime) -> Consent | None:
    """What counted at a time, of one topic."""
    found = None
    for one in log:
        if one.at <= at:
            found = one
    return found


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nobody") + more


def _clock(at: int | None) -> str:
    return f"{datetime.fromtimestamp((at or 0) / 1000, UTC):{_FORMAT}}"
