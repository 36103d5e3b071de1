"""Pull as a whole: builds its parts, begins where the last process ended, and stops."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from broker.bridge.bridge import Bridge
from broker.bridge.facts import Questioned
from broker.bridge.intake import QUESTION
from broker.errors import Failed
from broker.message import Message, for_whoever_is
from broker.pull import rules
from broker.pull.content_requests import ContentRequests
from broker.pull.conversations import Inbox
from broker.pull.follow import Changes, Follows
from broker.pull.library import Library
from broker.pull.looker import Looker
from broker.pull.noting import Notes
from broker.pull.questions import ASKS, Questions
from broker.pull.queue import Queue
from broker.pull.reads import Reads
from broker.pull.server import Servers
from broker.pull.voices import Voices
from broker.pull.ways import Ways
from broker.session.core import Core
from broker.store.audit import AuditLog
from broker.store.content import Content
from broker.store.conversations import Conversations

RETRY_S: Final = 1.0
TIDY_S: Final = 30.0
# Answered questions wait so long for others before they are booked: at 1,000 a second 20 commits instead of 400.
GATHER_S: Final = 0.05


class Pull:
    """What customers ask for, and who answers. `run`: do something to the core, and write out what came of it."""

    def __init__(
        self,
        *,
        core: Core,
        bridge: Bridge,
        run: Callable[[Callable[[], object]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        log: Callable[..., object],
    ) -> None:
        self._core = core
        self._bridge = bridge
        self._run = run
        self._spawn = spawn
        self._log = log
        self._looker: Looker
        self.content: Content
        self.inbox: Inbox
        self.questions: Questions
        self._stack: AsyncExitStack
        self._tasks: list[asyncio.Task[None]] = []
        self._forgetting = asyncio.Lock()

    async def open(self, content: Path, records: Path) -> None:
        """Open the library, and hear what devices and agents say. Close it, whatever comes after."""
        async with AsyncExitStack() as stack:
            self.content = await stack.enter_async_context(await Content.open(content))
            self._looker = Looker(content, records, self._log)
            stack.push_async_callback(self._looker.stop)
            await self._open()
            self._stack = stack.pop_all()

    async def _open(self) -> None:
        core, bridge = self._core, self._bridge
        store = Conversations(bridge.messages)
        self.inbox = Inbox(core=core, bridge=bridge, store=store, ways=self._ways, run=self._run, log=self._log)
        await self.inbox.open()
        self.voices = Voices(
            inbox=self.inbox,
            intake=bridge.intake,
            router=core.router,
            publish=lambda message: self._publish([message]),
            spawn=self._spawn,
            counters=core.counters,
            log=self._log,
        )
        self._notes = Notes(AuditLog(bridge.people.records), self._log)
        answer = self._notes.each(self.inbox.answer)
        reads = Reads(
            do=answer,
            answer=bridge.desk.answer,
            spawn=self._spawn,
            counters=core.counters,
            log=self._log,
            unexpected=core.unexpected,
        )
        bridge.desk.on("inbox", answer, first=reads.take)
        requests = ContentRequests(Library(self.content), core.counters)
        self._queue = Queue(
            content=self.content,
            do=self._notes.counted(requests.answer),
            answer=bridge.desk.answer,
            full=requests.full,
            log=self._log,
            unexpected=core.unexpected,
        )
        bridge.intake.each("content", self._queue.keep)
        bridge.desk.open("content")
        self.servers = Servers(core=core, run=self._run, rules=self.content.rules, history=store)
        self.changes = Changes(
            content=self.content,
            follows=bridge.people.profiles.follows,
            sends=bridge.sends,
            messages=bridge.messages,
            dispatcher=bridge.dispatcher,
            log=self._log,
            unexpected=core.unexpected,
        )
        self.questions = Questions(
            store=store,
            look=self._looker.look,
            record=bridge.intake.asked,
            publish=self._publish,
            spawn=self._spawn,
            persons=self.inbox,
            follows=Follows(bridge.people),
            servers=self.servers,
            counters=core.counters,
            log=self._log,
            unexpected=core.unexpected,
        )
        bridge.intake.together(QUESTION, self.questions.book, gather=self._gather)
        core.router.serve(ASKS, self.questions.heard, writes=True)

    def start(self) -> None:
        """Begin, after the bridge."""
        work = (self.questions.run(), self.inbox.telling.run(), self._notes.run(), self._begin())
        self._tasks = [asyncio.create_task(one) for one in work]

    async def _begin(self) -> None:
        while True:
            try:
                await self._brands_gone()
                if await self.content.any():  # else it is started by the first question
                    await self._looker.start()
                await self.questions.resume()
                break
            except Failed as error:
                self._log("pull cannot begin", error=error.message, remedy=error.remedy)
                await asyncio.sleep(RETRY_S)
        work = (self.changes.run(), self._queue.run(), self._tidy(), self._caught_up())
        self._tasks += [asyncio.create_task(one) for one in work]
        await self.inbox.run()

    async def _caught_up(self) -> None:
        await self._bridge.caught_up()
        self.inbox.caught_up()
        try:
            await self._brands_gone()  # what they said last may just have been booked
        except Failed as error:
            self._log("what removed brands left is there yet", error=error.message, remedy=error.remedy)

    async def _tidy(self) -> None:
        """Keep the index of content fast to look into."""
        while True:
            try:
                await self.content.tidy()
            except Failed as error:
                self._log("the index of content cannot be merged", error=error.message, remedy=error.remedy)
            await asyncio.sleep(TIDY_S)

    async def _brands_gone(self) -> None:
        """Forget all of brands that were removed while nobody ran, or shortly before a crash."""
        known = await self.content.brands() | await self.inbox.store.brands()
        there = {brand.name for brand in await self._bridge.people.records.brands(datetime.now(UTC))}
        for brand in known - there:
            await self._forget(brand)

    async def stop(self) -> None:
        """End all that goes on by itself. What was not booked is, at the next start."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        try:
            await self._notes.flush()
        except Failed as error:
            self._log("the audit log cannot be written", error=error.message, remedy=error.remedy)

    async def close(self) -> None:
        """Let go of the library."""
        await self._stack.aclose()

    async def brand_gone(self, brand: str) -> None:
        """Forget all of a brand's, with what it and its devices said last."""
        async with self._forgetting:
            await self._bridge.intake.until(self._core.fact_awaited)
            await self._forget(brand)

    async def _forget(self, brand: str) -> None:
        async with self._queue.working:
            await self.content.brand_gone(brand)
        await self.inbox.brand_gone(brand)

    def _gather(self, asked: Questioned) -> float:
        """What is for a person is not kept waiting."""
        kind, name = ("user", asked.user) if asked.user else ("device", asked.device)
        return 0.0 if self.inbox.held(asked.brand, kind, name) else GATHER_S

    async def _ways(self, brand: str) -> Ways:
        return Ways(rules.of(await self.content.rules(brand)))

    def _publish(self, messages: Sequence[Message]) -> None:
        """Answer devices, but for those that are somebody else's meanwhile."""

        def work() -> None:
            for message in messages:
                device = b"/".join(message.topic.split(b"/", 3)[:3]).decode()
                there = (one.identity for one in self._core.sessions_of(device) if one.connected)
                if all(message.publisher == for_whoever_is(who.brand, who.user) for who in there):
                    self._core.publish(message)

        self._run(work)
