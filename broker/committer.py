"""Writes what the core wants kept, a batch at a time, and reads what sessions want from the log.

While one batch is being written the next one fills: the busier the broker, the more messages share a commit. There is
no waiting for a batch to fill, and one that is written when nothing else goes on takes as long as the disk. Only facts,
for which nobody hurries, come at a pace: questions, receipts.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from broker.errors import Failed
from broker.journal import Batch, SavedMessage
from broker.session.core import Core

RETRY_S: Final = 1.0  # after a failed commit or read
READ_MESSAGES: Final = 1000  # looked for in the journal at once
# Between two commits of nothing but facts. One of 150 us for each question is most of what it costs; who has said
# something to the bridge hears 10 ms later that it is kept, if others do so at the same time.
FACTS_EVERY_S: Final = 0.01


class Store(Protocol):
    """The part of a journal that is needed here."""

    async def commit(self, batch: Batch) -> None:
        """As `Journal.commit`."""
        ...

    async def fetch(self, seqs: Sequence[int]) -> list[SavedMessage]:
        """As `Journal.fetch`."""
        ...

    async def probe(self) -> None:
        """As `Journal.probe`."""
        ...


class Committer:
    """The two tasks between a core and its journal. `wake` may be called before `start`."""

    def __init__(self, core: Core, journal: Store, run: Callable[[Callable[[], object]], None]) -> None:
        """`run` does something to the core and writes out what came of it."""
        self._core = core
        self._journal = journal
        self._run = run
        self._write = asyncio.Event()
        self._read = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._began_at = 0.0  # the commit that is under way
        self._last_at = 0.0  # when the last one began

    @property
    def busy_s(self) -> float:
        """For how long the present commit has been under way."""
        return time.monotonic() - self._began_at if self._began_at else 0.0

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._commits()), asyncio.create_task(self._reads())]

    def wake(self) -> None:
        """There is something to be written or read."""
        core = self._core
        if core.wanted:
            self._read.set()
        if core.to_write:
            self._write.set()
        elif self._timer is None and (closes := core.window_closes()):
            self._timer = asyncio.get_running_loop().call_later(max(0.0, closes - time.monotonic()), self._window)

    def _window(self) -> None:
        self._timer = None
        self._write.set()

    async def stop(self) -> None:
        """Write all that is left. Raises `Failed` when that cannot be done."""
        if self._timer is not None:
            self._timer.cancel()
        self._stopping = True
        self._write.set()
        if not self._tasks:
            return
        commits, reads = self._tasks
        reads.cancel()
        with suppress(asyncio.CancelledError):
            await reads
        await commits

    async def _commits(self) -> None:
        core = self._core
        while True:
            await self._write.wait()
            rest_s = self._last_at + FACTS_EVERY_S - time.monotonic()
            if rest_s > 0 and core.unhurried and not self._stopping:
                await asyncio.sleep(rest_s)
            self._write.clear()
            core.now = time.monotonic()
            core.log.offset = time.time() - core.now  # the wall clock may have been set
            batch = core.take(all=self._stopping)
            if batch is None and self._stopping:
                return
            if batch is None and not core.failing:
                self.wake()  # a window may be open still
                continue
            self._began_at = self._last_at = core.now
            try:
                if core.failing:
                    # All that would be written is refused meanwhile, and a batch that changes nothing is no proof.
                    await self._journal.probe()
                if batch is not None:
                    await self._journal.commit(batch)
            except Exception as error:
                failed = self._failed(error)
                self._run(lambda failed=failed: core.failed(failed.message, failed.remedy))  # type: ignore[misc]
                if self._stopping:
                    raise
                await asyncio.sleep(RETRY_S)
                self._write.set()
            else:
                self._run(core.committed)
                if self._stopping:
                    self._write.set()
            finally:
                self._began_at = 0.0

    async def _reads(self) -> None:
        core = self._core
        while True:
            await self._read.wait()
            self._read.clear()
            while core.wanted:
                sessions, seqs = core.next_wanted(READ_MESSAGES)
                try:
                    messages = await self._journal.fetch(seqs) if seqs else []
                except Exception as error:  # noqa: BLE001 - told by `_failed`
                    failed = self._failed(error)
                    core.note("journal cannot be read", error=failed.message, remedy=failed.remedy)
                    core.wanted.update(dict.fromkeys(s for s in sessions if s.fetching is not None))
                    await asyncio.sleep(RETRY_S)
                    continue
                self._run(lambda: core.fetched(sessions, messages))  # noqa: B023 - called at once

    def _failed(self, error: Exception) -> Failed:
        """`error` for those who wait, and for the operator. A bug is told, too; what was asked for is tried again."""
        if isinstance(error, Failed):
            return error
        self._core.unexpected(error)
        return Failed(f"an unexpected error: {error!r}", remedy="See the log for where, and report it.")
