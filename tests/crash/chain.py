"""One data directory, one set of clients, and a broker that is killed again and again."""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from crash.inbox import Inbox
from crash.ledger import BROKER, Ledger
from crash.outbox import Outbox
from crash.peers import Newcomer, Publisher, Receiver
from crash.powercut import PowerCutProcess
from crash.process import BrokerProcess

# SIGKILL; SIGKILL, and only what was synced is sure to be on the disk; SIGTERM alone.
HOW = ("kill", "power", "stop")
# How a life of the broker ends, and how often.
WAYS = {
    "starting": 4,  # at any moment from its beginning
    "loaded": 4,  # at any moment after it began to serve
    "acknowledged": 4,  # when it has acknowledged something, or a moment later
    "written": 4,  # when its write-ahead log has just changed, perhaps in the middle of a transaction
    "stopping": 2,  # at any moment after SIGTERM
}
_LOAD_S = 0.12
_STOP_S = 0.25
_DRAIN_S = 60
_QUIET_S = 10
_DRAINED = 0.15  # of the lives are followed by a look at everything
_RETAINED = 30  # topics for each publisher


class Chain:
    """Ends the broker's life many times, and looks now and then whether everything has arrived.

    With `clean` it is stopped instead of killed. Without `strict` it goes on when something was wrong.
    """

    def __init__(self, broker: BrokerProcess, seed: str, *, clean: bool = False, strict: bool = True) -> None:
        self.broker = broker
        self.ledger = Ledger()
        self._seed = seed
        self._clean = clean
        self._strict = strict
        self._random = random.Random(seed)
        self._start_s = 0.4
        self._news = asyncio.Event()
        self._publishers = [
            self._publisher("p1", 5, window=8),
            self._publisher("p2", 4, window=8),
            self._publisher("p3", 5, window=3),
            self._publisher("p4", 4, window=20),
        ]
        restless: dict[str, Any] = {"stay_s": (0.005, 0.08), "away_s": (0, 0.06), "late_s": 0.05}
        asleep: dict[str, Any] = {"stay_s": (0, 0.1), "away_s": (0.5, 4), "late_s": 0.05}
        own = [f"all/p{n}/0" for n in range(1, 5)]
        self._receivers = [
            self._receiver("online-1", 5, ["all/#", "live/#"], 1),
            self._receiver("online-2", 4, ["all/#", "live/#"], 2),
            self._receiver("wild", 5, ["#"], 2),
            self._receiver("slow", 5, ["all/p1/+"], 2, receive_maximum=2, late_s=0.005),
            self._receiver("flapping-1", 5, ["all/#"], 2, **restless),
            self._receiver("flapping-2", 4, ["all/+/0"], 1, **restless),
            self._receiver("flapping-3", 4, ["all/p2/0", "all/p4/#"], 2, **restless),
            self._receiver("asleep-1", 4, ["all/+/1"], 1, **asleep),
            self._receiver("asleep-2", 5, ["all/p3/#", "live/p1"], 2, **asleep),
            self._receiver("changing", 5, [], 2, toggled=own),
        ]

    @classmethod
    def of(cls, how: str, directory: Path, seed: str) -> Self:
        """A chain for one of the ways in `HOW`."""
        broker = PowerCutProcess(directory, seed) if how == "power" else BrokerProcess(directory)
        return cls(broker, seed, clean=how == "stop")

    def _publisher(self, name: str, version: int, *, window: int) -> Publisher:
        # Those under live/ are for receivers only that are online, so that they need not be written.
        topics = [f"all/{name}/0", f"all/{name}/1", f"live/{name}"]
        retained = [f"kept/{name}/{n}" for n in range(_RETAINED)]
        seed = f"{self._seed} {name}"
        outbox = Outbox(self.ledger, name, window=window, topics=topics, retained=retained, seed=seed)
        return Publisher(self.broker, outbox, version, 0.03, seed)

    def _receiver(
        self, name: str, version: int, filters: list[str], qos: int, receive_maximum: int = 65535, **more: Any
    ) -> Receiver:
        inbox = Inbox(self.ledger, name, receive_maximum)
        return Receiver(self.broker, inbox, version, filters, qos, f"{self._seed} {name}", **more)

    # -- the story -----------------------------------------------------------------------------------------------------

    async def run(self, lives: int) -> None:
        """End the broker's life `lives` times. What was wrong is in the ledger afterwards."""
        self.ledger.noted = self._news.set
        bugs: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(peer.run()) for peer in (*self._publishers, *self._receivers)]
                tasks += [group.create_task(receiver.flap()) for receiver in self._receivers]
                try:
                    await self._live(lives)
                finally:
                    for task in tasks:
                        task.cancel()
        finally:
            if self.broker.running:
                self.broker.signal(signal.SIGKILL)
                await self.broker.ended()
        if bugs:
            raise RuntimeError(bugs[0]["message"]) from bugs[0].get("exception")

    async def _live(self, lives: int) -> None:
        """Stop at the first problem, if `strict`."""
        for n in range(1, lives + 1):
            await self._life()
            if n == lives or self._random.random() < _DRAINED:
                await self._drain()
            if self._strict and self.ledger.problems:
                return
            if n < lives:
                self._resume()
        if left := await self.broker.leftovers():
            self._wrong(f"it has leftovers, {left}")

    async def _life(self) -> None:
        """Let the broker live, and end that."""
        way = self._random.choices(list(WAYS), list(WAYS.values()))[0]
        began_s = time.monotonic()
        starting = not self.broker.running
        if starting:
            await self._start()
        if starting and way == "starting":
            # Most of a start is Python's; what the broker does itself comes at the end.
            begin = self._random.choice((0, 0.6))
            await asyncio.sleep(self._random.uniform(begin, 1) * self._start_s)
        else:
            if not await self.broker.ready():
                self._wrong("it does not begin to serve")
                return
            if starting:
                self._start_s = time.monotonic() - began_s
            await self._moment(way)
        if not self.broker.running:
            self._wrong("it ended by itself")
            return
        await self._end(way)

    async def _start(self) -> None:
        self.ledger.note(BROKER, "is started")
        await self.broker.start()

    async def _moment(self, way: str) -> None:
        """Wait for the moment that `way` means."""
        if way == "acknowledged":
            aim = self.ledger.totals.acknowledged + self._random.randint(1, 80)
            if not await self._until(lambda: self.ledger.totals.acknowledged >= aim):
                self._wrong("it acknowledges nothing any more")
            if self._random.random() < 0.5:
                await asyncio.sleep(self._random.uniform(0, 0.005))
        elif way == "written":
            for _ in range(self._random.randint(1, 8)):
                await self._written()
        else:
            await asyncio.sleep(self._random.uniform(0, _LOAD_S))

    async def _written(self) -> None:
        """Wait until a file changes, or for as long as a load lasts otherwise."""

        def state() -> object:
            try:
                status = self.broker.written_path.stat()
            except OSError:
                return None
            return status.st_size, status.st_mtime_ns

        before = state()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOAD_S):
                while state() == before:  # noqa: ASYNC110 - nothing tells of a change
                    await asyncio.sleep(0.0003)

    async def _end(self, way: str) -> None:
        """End a life: with SIGKILL, perhaps while it was stopping, or with SIGTERM alone."""
        totals = self.ledger.totals
        unfinished = any(publisher.outbox.unfinished for publisher in self._publishers)
        serving = self.broker.up.is_set()
        if self._clean or way == "stopping":
            self.ledger.note(BROKER, "is told to stop")
            self.broker.signal(signal.SIGTERM)
            await self.broker.ended(None if self._clean else self._random.uniform(0, _STOP_S))
        if self.broker.running:
            self.ledger.note(BROKER, f"is killed ({way})")
            self.broker.signal(signal.SIGKILL)
        code = await self.broker.ended()
        self.ledger.note(BROKER, f"has ended with {code}")
        if code == -signal.SIGKILL:
            self.broker.killed()
            self.ledger.crashes += 1
            totals.kills += 1
            totals.kills_at_start += not serving
            totals.kills_with_unacknowledged += serving and unfinished
        elif code not in (0, -signal.SIGTERM):
            self._wrong(f"it ended with code {code}")
        if self.broker.failed:
            self._wrong("it has met a bug of its own")

    def _wrong(self, what: str) -> None:
        self.ledger.wrong(BROKER, f"{what}: its log ends with\n{self.broker.log_tail()}")

    # -- looking -------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Publish no more, let everybody have everything, and see whether that is so."""
        if not self.broker.running:
            await self._start()
        if not await self.broker.ready():
            self._wrong("it does not begin to serve")
            return
        self.ledger.note(BROKER, "is left in peace")
        for publisher in self._publishers:
            publisher.publishing = False
        for receiver in self._receivers:
            receiver.calm()
        await self._all_acknowledged()
        await self._all_arrived()
        # Who comes again now must be sent nothing: the inboxes see to that.
        await self._in_time("they come again", *(receiver.come_again() for receiver in self._receivers))
        await self._check_retained()

    def _resume(self) -> None:
        for publisher in self._publishers:
            publisher.resume()
        for receiver in self._receivers:
            receiver.resume()

    async def _all_acknowledged(self) -> None:
        boxes = [publisher.outbox for publisher in self._publishers]
        if not await self._until(lambda: not any(box.unfinished for box in boxes)):
            for box in boxes:
                for message in box.unfinished:
                    self.ledger.wrong(box.name, "it is not acknowledged, for all time", message)

    async def _all_arrived(self) -> None:
        missing = [(receiver.inbox, receiver.inbox.missing()) for receiver in self._receivers]

        def arrived() -> bool:
            for inbox, messages in missing:
                while messages and inbox.has(messages[-1]):
                    messages.pop()
            return not any(messages for _, messages in missing)

        if not await self._until(arrived):
            for inbox, messages in missing:
                for message in messages:
                    if not inbox.has(message):
                        self.ledger.wrong(inbox.name, "it was acknowledged and never came", message)

    async def _check_retained(self) -> None:
        """Let somebody subscribe who was not there before. What is missing may take its time; then that is all."""
        newcomer = Newcomer(self.broker, self.ledger, "kept/#")
        needed = {topic for topic, messages in self.ledger.retained_now().items() if all(m.payload for m in messages)}
        task = asyncio.create_task(newcomer.run())
        try:
            await self._until(lambda: newcomer.found.keys() >= needed)
            await self._in_time("the newcomer is answered", newcomer.ping())
            self.ledger.check_retained(newcomer.found)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition that can change only with an event in the ledger.

        False when it does not come about: nothing happened for a while, or too much.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while not condition():
                    self._news.clear()
                    async with asyncio.timeout(_QUIET_S):
                        await self._news.wait()
        return condition()

    async def _in_time(self, what: str, *doings: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(_DRAIN_S):
                await asyncio.gather(*doings)
        except TimeoutError:
            self._wrong(f"it does not let this happen, {what}")
