"""Who asks to follow an item, not to any more, or to be left alone; and what followers are told of what changes.

An item that has changed is a row of the library until its followers are told, by a rich send for each of its languages:
so restraint, receipts and all else are those of any message.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from broker.bridge.dispatch import Dispatcher
from broker.bridge.intake import now_ms
from broker.bridge.people import People, Wanted
from broker.bridge.request import Code, Notification, RequestRefused, SendRequest, To
from broker.bridge.sends import Sends
from broker.errors import Failed
from broker.limits import (
    CHANGES_AT_ONCE,
    CHANGES_LOOK_S,
    CONDITION_BYTES_MAX,
    FOLLOW_TTL_S,
    FOLLOWED_EVERY_S,
    IDEMPOTENCY_MAX_S,
    NOT_BEFORE_MAX_S,
)
from broker.pull import rules
from broker.pull.question import Asker
from broker.pull.recognise import show
from broker.store.content import Changed, Content, ItemRow
from broker.store.entries import Who
from broker.store.follows import FollowTable
from broker.store.messages import Messages

SENDER: Final = "content"  # of what followers are told
TOLD_IN_TURN: Final = 20  # items of one brand, of 5 to 10 ms each, before it is the next one's turn
_LAST: Final = "\x7f"  # behind all names of items


class Follows:
    """Does what was asked for. All of it may be done again, and raises as `People` does."""

    def __init__(self, people: People) -> None:
        self._people = people

    async def follow(self, asker: Asker, item: str, every_s: int, source: str) -> None:
        """They hear of changes from now on, at most once in so many seconds."""
        await self._people.hear(_who(asker), Wanted(follows={item: every_s}), source, self._people.clock())

    async def unfollow(self, asker: Asker, item: str) -> None:
        """They do not any more."""
        await self._people.hear(_who(asker), Wanted(follows={item: None}), _source(asker), self._people.clock())

    async def opt_out(self, asker: Asker) -> None:
        """They want no topic, and follow nothing any more."""
        await self._people.opt_out(_who(asker), _source(asker))

    async def opt_in(self, asker: Asker) -> None:
        """They want again what they had when they opted out."""
        await self._people.opt_in(_who(asker), _source(asker))


class Changes:
    """Tells followers what has changed. `run` goes on for ever; what could not be told then is, later."""

    def __init__(
        self,
        *,
        content: Content,
        follows: FollowTable,
        sends: Sends,
        messages: Messages,
        dispatcher: Dispatcher,
        log: Callable[..., object],
        unexpected: Callable[[Exception], object],
    ) -> None:
        self._content = content
        self._follows = follows
        self._sends = sends
        self._messages = messages
        self._dispatcher = dispatcher
        self._log = log
        self._unexpected = unexpected
        self._lately: dict[tuple[str, str], float] = {}  # when followers of an item may be told again

    async def run(self) -> None:
        """Look for changes, and tell."""
        while True:
            try:
                await self.look()
            except Failed as error:
                self._log("followers cannot be told", error=error.message, remedy=error.remedy)
            except Exception as error:  # noqa: BLE001 - it goes on
                self._unexpected(error)
            await asyncio.sleep(CHANGES_LOOK_S)

    async def look(self) -> None:
        """Tell what has changed until now, but of what followers have just been told."""
        self._lately = {item: until for item, until in self._lately.items() if until > time.monotonic()}
        now = now_ms()
        after = {brand: "" async for brand in self._changing(now)}
        while after:
            for brand, name in list(after.items()):
                if last := await self._some(brand, name, now):
                    after[brand] = last
                else:
                    del after[brand]

    async def _changing(self, now: int) -> AsyncIterator[str]:
        """The brands whose items have changed."""
        brand = ""
        while first := await self._content.changed((brand, _LAST), now, 1):
            brand = first[0].brand
            yield brand

    async def _some(self, brand: str, after: str, now: int) -> str:
        """Tell of the next ones of a brand, behind this one. Returns the last that was looked at, '' at the end.

        A brand that changes thousands of items does not keep the others' followers waiting.
        """
        changes = await self._content.changed((brand, after), now, CHANGES_AT_ONCE)
        changes = [one for one in changes if one.brand == brand]
        followed = await self._follows.followed([one[:2] for one in changes])
        if ignored := [one for one in changes if one[:2] not in followed]:
            await self._content.told(ignored)
        due = [one for one in changes if one[:2] in followed and one[:2] not in self._lately]
        for one in due[:TOLD_IN_TURN]:
            await self._tell(one)
        if len(due) > TOLD_IN_TURN:
            return due[TOLD_IN_TURN - 1].name
        return changes[-1].name if changes else ""

    async def _tell(self, change: Changed) -> None:
        items = await self._content.named(*change[:2])
        language = rules.of(await self._content.rules(change.brand)).language
        first = 0
        for item, only in _versions(items, language):
            request = _request(item, only, change.at)
            if request is None:
                continue
            try:
                if len(only) > CONDITION_BYTES_MAX:
                    raise RequestRefused(Code.BAD_CONDITION, "to.only", "it is for too many stores and tags")
                answer = await self._sends.accept(change.brand, request, SENDER)
            except RequestRefused as error:
                if error.code != Code.IDEMPOTENCY_CONFLICT:  # else it was sent, with what the template said then
                    self._log(
                        "followers were not told",
                        item=f"{change.brand}/{change.name}",
                        error=error.message,
                        remedy="pushbroker content show has the item",
                    )
                continue
            message = await self._messages.by_id(answer.message_id)
            if message is not None:
                first = min(first, message.number) or message.number
        if first:
            self._dispatcher.supersede(first)
        self._lately[change[:2]] = time.monotonic() + FOLLOWED_EVERY_S
        await self._content.told([change])


def _versions(items: Sequence[ItemRow], language: str) -> Iterator[tuple[ItemRow, str]]:
    """Each language of an item, and for which followers that is: those of no other get the brand's."""
    rank = {"": 0, language: 1}
    by_rank = sorted(items, key=lambda item: rank.get(item.language, 2))
    for item in by_rank:
        conditions = [f"NOT language:{other.language}" for other in by_rank[1:]]
        if item is not by_rank[0]:
            conditions = [f"language:{item.language}"]
        for word, names in (("store", item.stores), ("tag", item.tags)):
            if some := msgspec.json.decode(names, type=list[str]):
                conditions.append(f"({' OR '.join(f'{word}:{name}' for name in some)})")
        yield item, " AND ".join(conditions)


def _request(item: ItemRow, only: str, changed_at: int) -> SendRequest | None:
    """What is sent of it; None where it is over."""
    now = now_ms()
    begins = max(now, item.valid_from or 0)
    until = FOLLOW_TTL_S if item.valid_until is None else (item.valid_until - begins) // 1000
    if until < 1 or begins > now + NOT_BEFORE_MAX_S * 1000:
        return None
    shown = show(item, Asker(brand=item.brand, device="", language=item.language))
    return SendRequest(
        to=To(following=item.name, only=only),
        notification=Notification(
            title=shown.title[:1024] or ("" if shown.body else item.name),
            body=shown.body[:4096],
            image=shown.image,
            click=shown.link,
            data={
                name: msgspec.Raw(msgspec.json.encode(value))
                for name, value in (*shown.data.items(), ("item", item.name))
            },
        ),
        ttl_s=min(until, FOLLOW_TTL_S),
        not_before=datetime.fromtimestamp(begins / 1000, UTC) if begins > now else None,
        collapse_key=f"follow:{item.name}",
        idempotency_key=f"follow:{item.name}:{changed_at}:{item.language}",
        idempotency_s=IDEMPOTENCY_MAX_S,
    )


def _who(asker: Asker) -> Who:
    return Who(asker.brand, asker.kind, asker.name)


def _source(asker: Asker) -> str:
    return f"device/{asker.device}"
