"""The bridge as a whole: builds its parts, begins where the last process ended, and stops."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from broker.bridge.address import Addresses
from broker.bridge.books import Books
from broker.bridge.campaigns import Campaigner
from broker.bridge.configuration import Configuration
from broker.bridge.desk import SEND, Desk
from broker.bridge.dispatch import Dispatcher
from broker.bridge.engaged import Engaged
from broker.bridge.fleet import Fleet
from broker.bridge.intake import Intake, now_ms
from broker.bridge.outbox import Outbox
from broker.bridge.people import People, Register
from broker.bridge.preferences import Preferences
from broker.bridge.presence import Presence
from broker.bridge.receipts import Receipts
from broker.bridge.sends import Sends
from broker.bridge.withdraw import Withdrawals
from broker.errors import Failed
from broker.journal import Journal
from broker.message import Message
from broker.session.core import Core
from broker.session.session import Session
from broker.store.campaigns import Campaigns
from broker.store.database import open_reader
from broker.store.fleet import FleetTables
from broker.store.messages import Messages
from broker.store.outcomes import Outcomes

RETRY_S: Final = 1.0


class Post(Protocol):
    """Who publishes for the bridge, so that it is kept."""

    def __call__(
        self,
        topic: str,
        payload: bytes,
        *,
        content_type: str = "application/json",
        ttl_s: float | None = None,
        retain: bool = False,
        correlation_data: bytes | None = None,
        user_properties: Sequence[tuple[str, str]] = (),
        publisher: str = "",
    ) -> Awaitable[int]:
        """Returns the reason code, when it is certain. publisher: as a `Message` has it."""
        ...


class Bridge:
    """What brands ask for beyond plain MQTT.

    run(work): do something to the core, and write out what came of it. spawn: a coroutine, beside all else.
    """

    def __init__(
        self,
        *,
        core: Core,
        receipts: Receipts,
        register: Register,
        post: Post,
        run: Callable[[Callable[[], object]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        log: Callable[..., object],
    ) -> None:
        self._core = core
        self._receipts = receipts
        self._run = run
        self._spawn = spawn
        self._log = log
        self.post = post
        self.people = People(register)

        def serve(filter: bytes, service: Callable[[Message, Session | None], None]) -> None:
            core.router.serve(filter, service, writes=True)

        self.intake = Intake(
            record=core.record,
            applied=core.applied,
            booked=core.log.booked,
            serve=serve,
            log=log,
            unexpected=core.unexpected,
        )
        self.desk = Desk(
            ids=receipts.ids,
            intake=self.intake,
            serve=serve,
            reply=self._reply,
        )
        self.preferences = Preferences(self.people, post, core.retained.get, core.counters, log)
        self.intake.on("preferences", self.preferences.handle)
        self.presence = Presence(core.sessions_of, log)
        core.came, core.left = self.presence.came, self.presence.left
        core.told = self.intake.told
        core.log.gone = self.intake.gone
        self.messages: Messages
        self.books: Books
        self.sends: Sends
        self.dispatcher: Dispatcher
        self.campaigns: Campaigner
        self._campaigns: Campaigns
        self.withdrawals: Withdrawals
        self.outbox: Outbox
        self._outcomes: Outcomes
        self._stack: AsyncExitStack
        self._left = 0  # the number of the last fact that the last process left
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, path: Path, journal: Journal, kept_s: int) -> None:
        """Open the books, and take what the journal has for them. Close it, whatever comes after."""
        async with AsyncExitStack() as stack:
            self.messages = await stack.enter_async_context(await Messages.open(path))
            self._outcomes = Outcomes(path, await open_reader(path))
            stack.push_async_callback(self._outcomes.close)
            self._campaigns = await Campaigns.open(self.messages, self.people.profiles.path)
            stack.push_async_callback(self._campaigns.close)
            await self._open(journal, kept_s)
            self._stack = stack.pop_all()

    async def _open(self, journal: Journal, kept_s: int) -> None:
        core = self._core
        self.fleet_tables = FleetTables(self.messages)
        await self.presence.open(self.fleet_tables)
        self.fleet = Fleet(
            core=core,
            tables=self.fleet_tables,
            people=self.people,
            presence=self.presence,
            intake=self.intake,
            ids=self._receipts.ids,
            run=self._run,
            log=self._log,
        )
        self.configuration = Configuration(
            tables=self.fleet_tables,
            people=self.people,
            intake=self.intake,
            post=self.post,
            counters=core.counters,
            log=self._log,
        )
        changed = asyncio.Event()
        self.books = Books(self.messages, self._receipts, self._log, changed)
        addresses = Addresses(self.people.profiles, self.messages)
        self.dispatcher = Dispatcher(
            core=core,
            messages=self.messages,
            intake=self.intake,
            books=self.books,
            restrain=addresses.restrain,
            run=self._run,
            kept_s=kept_s,
            log=self._log,
        )
        self.withdrawals = Withdrawals(
            core=core,
            messages=self.messages,
            profiles=self.people.profiles,
            intake=self.intake,
            books=self.books,
            dispatcher=self.dispatcher,
            post=self.post,
            run=self._run,
            spawn=self._spawn,
            log=self._log,
        )
        self.outbox = Outbox(
            messages=self.messages,
            outcomes=self._outcomes,
            withdrawals=self.withdrawals,
            changed=changed,
            post=self.post,
            unable=lambda: bool(core.unable),
            lost=self._lost,
            log=self._log,
            unexpected=core.unexpected,
        )
        self.sends = Sends(
            messages=self.messages,
            ids=self._receipts.ids,
            audience=Engaged(addresses.audience, self._campaigns),
            run=self._spawn,
            reply=self._reply,
            schedule=self.dispatcher.schedule,
            withdraw=self.withdrawals.begun,
            log=self._log,
            unexpected=core.unexpected,
        )
        self.campaigns = Campaigner(
            store=self._campaigns,
            messages=self.messages,
            sends=self.sends,
            dispatcher=self.dispatcher,
            withdraw=self.withdrawals.begin,
            log=self._log,
            unexpected=core.unexpected,
        )
        self.intake.open(self.books)
        self.intake.together(SEND, self.sends.asked)
        self.desk.open(SEND)
        # After a backup the books may know numbers that the log does not: they are not given again.
        core.log.head = max(core.log.head, await self.messages.highest())
        applied = await self.messages.applied()
        core.fact_head = max(core.fact_head, applied)
        self.intake.done = applied
        core.applied(applied)
        async for fact in journal.facts():
            if fact.number > applied:
                self._left = fact.number
                core.expect_fact(fact.number, len(fact.body))
                self.intake.told([fact])

    def start(self) -> None:
        """Begin: the core is there, with all that was kept."""
        self._tasks = [
            asyncio.create_task(work)
            for work in (self.intake.run(), self.preferences.run(), self.presence.run(), self._begin())
        ]

    async def _begin(self) -> None:
        """Go on with what the last process left, and then with all else."""
        while True:
            try:
                await self._resume()
                break
            except Failed as error:
                self._log("the bridge cannot begin", error=error.message, remedy=error.remedy)
                await asyncio.sleep(RETRY_S)
        work = (
            *(self.dispatcher.run(), self.dispatcher.sweep(), self.campaigns.run(), self.outbox.run()),
            *(self.fleet.run(), self.configuration.run()),
        )
        self._tasks += [asyncio.create_task(one) for one in work]

    async def _resume(self) -> None:
        """In the order in which one thing needs the other; what was done stays so when it is done again."""
        core = self._core
        await self.caught_up()
        booked = await self.messages.booked()
        core.log.booked |= booked
        if booked:
            for seq in booked.difference(core.log.numbers()):
                core.log.booked.discard(seq)
                self._run(lambda seq=seq: self.intake.gone(seq))  # type: ignore[misc]
        await self.sends.resume()
        await self.withdrawals.resume()
        await self.campaigns.begin()
        await self.devices_gone()

    async def caught_up(self) -> None:
        """Return when what the last process left is in the books."""
        await self.intake.until(self._left)

    async def devices_gone(self) -> None:
        """Forget what is kept of devices that were removed."""
        there = {(device.brand, device.name) for device in await self.people.records.devices()}
        if gone := [who for who in await self.fleet_tables.known() if who not in there]:
            await self.configuration.forget(gone)
            await self.fleet_tables.forget(gone, now_ms())
            self.presence.forget(gone)
            self.fleet.forget(gone)

    async def stop(self) -> None:
        """End all that goes on by itself. What was not applied is, at the next start."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        try:
            await self.presence.write()
        except Failed as error:
            self._log("who was online cannot be written", error=error.message, remedy=error.remedy)

    async def close(self) -> None:
        """Let go of the books."""
        await self._stack.aclose()

    def _lost(self, receipts: int) -> None:
        self._core.counters.receipts_lost += receipts

    def _reply(self, topic: str, correlation_data: bytes, answer: bytes) -> None:
        async def reply() -> None:
            await self.post(topic, answer, correlation_data=correlation_data or None)

        self._spawn(reply())
