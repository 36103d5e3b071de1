"""Whom a request addresses and when each of them is to get it: what the records know, for sends and the dispatcher."""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from broker.bridge import restraint
from broker.bridge.audience import Address, Audience, BadAddress
from broker.bridge.audience import Addressee as Addressed
from broker.bridge.request import RequestRefused, To
from broker.bridge.sends import Addressee
from broker.store.follows import Last, Name
from broker.store.messages import Decision, Due, MessageRow, Messages
from broker.store.profiles import Profiles


class Addresses:
    """Looks up recipients, and what restrains a brand from sending to them."""

    def __init__(self, profiles: Profiles, messages: Messages) -> None:
        self._profiles = profiles
        self._messages = messages

    async def audience(
        self, brand: str, to: To, *, local_time: str, not_before: int, now: int
    ) -> AsyncIterator[list[Addressee]]:
        """All whom a request addresses, each once, some at a time. Raises `RequestRefused` for names there are not."""
        address = Address(
            users=tuple(to.users),
            devices=tuple(to.devices),
            stores=tuple(to.stores),
            topics=tuple(to.topics),
            segment=to.segment,
            condition=to.condition,
            following=to.following,
            only=to.only,
        )
        try:
            found = await Audience.of(self._profiles, brand, address, _at(now))
        except BadAddress as error:
            words = f"{error.message}. {error.remedy}" if error.remedy else error.message
            raise RequestRefused(error.code, f"to.{error.field}".rstrip("."), words) from None
        rules = await self._profiles.restraint(brand)
        async for page in found.pages():
            due = dict.fromkeys(((one.kind, one.name) for one in page), not_before)
            if local_time:
                known = await self._profiles.recipients(brand, list(due))
                for one, who in known.items():
                    zone = restraint.zone_of(rules, who)
                    due[one] = _ms(_due_at(local_time, zone, _at(not_before)))
            for one, last in (await self._last(brand, page)).items():
                due[one] = max(due[one], last.next_at)
            yield [Addressee(one.kind, one.name, one.because, one.left_out, due[one.kind, one.name]) for one in page]

    async def restrain(self, row: MessageRow, due: Sequence[Due], now: int) -> list[Decision]:
        """Who of these is not to get a message now, or at all, and why."""
        rules = await self._profiles.restraint(row.brand)
        known = await self._profiles.recipients(row.brand, [(one.kind, one.name) for one in due])
        got: dict[str, list[restraint.Got]] = {}
        if back := restraint.look_back(rules, row.kind):
            users = [one.name for one in due if one.kind == "user"]
            counts = await self._messages.counts_of(row.brand, users, now - int(back.total_seconds() * 1000))
            got = {name: [restraint.Got(_at(at), kind) for kind, at in of] for name, of in counts.items()}
        last = await self._last(row.brand, due)
        decisions: list[Decision] = []
        sent: dict[str, list[Name]] = {}
        for one in due:
            who = known.get((one.kind, one.name))
            if who is None:
                what = f"{row.brand} has no {one.kind} {one.name!r} any more"
                decisions.append(Decision(one.number, "dropped", f"unknown_{one.kind}", what))
                continue
            had = got.get(one.name, ()) if one.kind == "user" else ()
            had_last = last.get((one.kind, one.name))
            follows = had_last and restraint.Follows(
                had_last.every_s, _at(0 if had_last.sent == row.id else had_last.sent_at)
            )
            match restraint.decide(
                rules, who, kind=row.kind, because=one.because, now=_at(now), got=had, follows=follows
            ):
                case restraint.Defer(until, rule, detail):
                    decisions.append(Decision(one.number, "deferred", rule, detail, _ms(until)))
                case restraint.Drop(rule, detail):
                    decisions.append(Decision(one.number, "dropped", rule, detail))
                case restraint.Send() if item := restraint.followed(one.because):
                    sent.setdefault(item, []).append((one.kind, one.name))
        for item, names in sent.items():  # before they are sent it, so that no crash sends two
            await self._profiles.follows.sent(row.brand, item, names, row.id, now)
        return decisions

    async def _last(self, brand: str, who: Iterable[Addressed | Due]) -> dict[Name, Last]:
        """Of those who are addressed as followers, and still are, what they got last."""
        names: dict[str, list[Name]] = {}
        for one in who:
            if item := restraint.followed(one.because):
                names.setdefault(item, []).append((one.kind, one.name))
        found: dict[Name, Last] = {}
        for item, followers in names.items():
            found |= await self._profiles.follows.last(brand, item, followers)
        return found


def _due_at(local_time: str, zone: ZoneInfo, not_before: datetime) -> datetime:
    """When it is that time there next, or on the day that it names; where that is over, it is due at once."""
    if "T" not in local_time:
        return restraint.due_at(local_time, zone, not_before)
    return max(datetime.fromisoformat(local_time).replace(tzinfo=zone).astimezone(UTC), not_before)


def _at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
