"""Tells agents and devices what becomes of conversations, in the order in which it happens.

Agents' own tools hear of it on `{brand}/inbox/event`, terminals as a stream, and devices of the customer on their
`conversation`. What was to be told when a process ends is not told: lists say how things are.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from broker.bridge.bridge import Post
from broker.bridge.people import People
from broker.counters import Counters
from broker.errors import Failed
from broker.limits import INBOX_EVENT_TTL_S, INBOX_EVENTS_MAX
from broker.message import for_whoever_is
from broker.pull.looking import Looking, entry
from broker.store.conversations import Conversation, Entry

WATCHED_MAX: Final = 1000  # events that wait for a terminal that is slow
POSTS_MAX: Final = 100
_json: Final = msgspec.json.Encoder().encode


class Watch:
    """What happens in one brand's inbox, for who looks on."""

    def __init__(self, brand: str) -> None:
        self.brand = brand
        self._events: deque[dict[str, Any]] = deque(maxlen=WATCHED_MAX)
        self._arrived = asyncio.Event()

    def put(self, event: dict[str, Any]) -> None:
        """This has happened."""
        self._events.append(event)
        self._arrived.set()

    async def next(self) -> dict[str, Any]:
        """The next event, when there is one."""
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()


class Telling:
    """ping(topic, payload): publish at QoS 0."""

    def __init__(
        self,
        *,
        people: People,
        looking: Looking,
        post: Post,
        ping: Callable[[str, bytes], object],
        counters: Counters,
        log: Callable[..., object],
        unexpected: Callable[[Exception], object],
    ) -> None:
        self._people = people
        self._looking = looking
        self._post = post
        self._ping = ping
        self._counters = counters
        self._log = log
        self._unexpected = unexpected
        self._waiting: deque[Callable[[], Awaitable[object]]] = deque()
        self._arrived = asyncio.Event()
        self._posts: set[asyncio.Task[None]] = set()  # that are not acknowledged
        self.watchers: set[Watch] = set()

    def agents(
        self, event: str, row: Conversation, *, said: Entry | None = None, by: str = "", lasting: bool = True
    ) -> None:
        """Something has happened to a conversation. by: the agent, or `customer`."""
        self._put(lambda: self._to_agents(event, row, said, by, lasting))

    def devices(self, event: str, row: Conversation, *, agent: str = "", lasting: bool = True) -> None:
        """Its customer is to know how it is: `state`, `read`, `typing`. agent: what who has it is called."""
        fields: dict[str, Any] = {
            "conversation": row.id,
            "event": event,
            "state": row.state,
            "agent": agent,
            "read": row.read_by_agent,
        }
        self._put(lambda: self._to_devices(row, fields, lasting))

    def _put(self, tell: Callable[[], Awaitable[object]]) -> None:
        if len(self._waiting) >= INBOX_EVENTS_MAX:
            self._waiting.popleft()
            self._counters.inbox_events_dropped += 1
        self._waiting.append(tell)
        self._arrived.set()

    async def run(self) -> None:
        """Tell what there is to tell, for ever."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting:
                    await self._told(self._waiting.popleft())
        finally:
            for post in self._posts:
                post.cancel()

    async def _told(self, tell: Callable[[], Awaitable[object]]) -> None:
        try:
            await tell()
        except Failed as error:
            self._log("an event of the inbox is not told", error=error.message, remedy=error.remedy)
        except Exception as error:  # noqa: BLE001 - the next ones are told all the same
            self._unexpected(error)

    async def _to_agents(self, event: str, row: Conversation, said: Entry | None, by: str, lasting: bool) -> None:
        (conversation,) = await self._looking.shown([row])
        fields: dict[str, Any] = {"event": event, "by": by, "conversation": conversation}
        if said is not None:
            fields["entry"] = entry(said)
        for watcher in self.watchers:
            if watcher.brand == row.brand:
                watcher.put(fields)
        await self._publish(f"{row.brand}/inbox/event", fields, lasting)

    async def _to_devices(self, row: Conversation, fields: Mapping[str, Any], lasting: bool) -> None:
        names = [row.name]
        if row.kind == "user":
            names = [device.name for device in await self._people.records.devices(row.brand, user=row.name)]
        for name in names:
            whose = for_whoever_is(row.brand, row.name if row.kind == "user" else "")
            await self._publish(f"{row.brand}/device/{name}/conversation", fields, lasting, whose)

    async def _publish(self, topic: str, fields: Mapping[str, Any], lasting: bool, whose: str = "") -> None:
        """Publish; who is slow to acknowledge it does not hold up the others."""
        if not lasting:
            self._ping(topic, _json(fields))
            return
        while len(self._posts) >= POSTS_MAX:
            await asyncio.wait(self._posts, return_when=asyncio.FIRST_COMPLETED)
        post = asyncio.create_task(self._posted(topic, _json(fields), whose))
        self._posts.add(post)
        post.add_done_callback(self._posts.discard)

    async def _posted(self, topic: str, payload: bytes, whose: str) -> None:
        if await self._post(topic, payload, ttl_s=INBOX_EVENT_TTL_S, publisher=whose) >= 0x80:
            self._counters.inbox_events_dropped += 1
