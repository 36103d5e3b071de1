"""A broker as a process: started, watched, reloaded and stopped by signals. `serve` and `dev` share it."""

import asyncio
import contextlib
import gc
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import structlog

from broker.admin.operations import Context
from broker.admin.server import AdminServer
from broker.app import Broker
from broker.config import Settings
from broker.errors import PushbrokerError
from broker.watch import supervisor

_EXTEND_EVERY_S: Final = 5
_EXTEND_BY_S: Final = 20
_log = structlog.get_logger("pushbroker.service")


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Broker]:
    """A started broker with its admin socket, stopped again on the way out."""
    inherited = supervisor.inherited_sockets()
    ours = next((sock for sock in inherited if sock.getsockname() == str(settings.admin_path)), None)
    if ours is not None:
        inherited.remove(ours)
    broker = Broker(settings, inherited)
    async with _extending_the_timeout():
        with sparing_the_collector():
            await broker.start()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    admin = AdminServer(Context(settings, broker.directory, broker), settings.admin_path)
    try:
        await admin.start(ours)
        yield broker
    finally:
        await admin.stop()
        async with _extending_the_timeout():
            await broker.stop()


# The thread of the database takes the interpreter's lock a few times for each commit. With Python's default it waits up
# to 5 ms each time while the loop is busy: small batches came to 1,200 rows/s instead of 13,800.
_SWITCH_INTERVAL_S: Final = 0.001


# So many new objects that hold others, and the collector looks at them (1 ms); every third time at what it found alive
# before, too (4 ms). Then never again: that would be a standstill of half a second for each 100,000 sessions. Python's
# own 700 would start several collections in a broadcast to a thousand devices.
COLLECTOR_THRESHOLDS: Final = (5_000, 2, 1_000_000)


@contextlib.contextmanager
def sparing_the_collector() -> Iterator[None]:
    """Keep the garbage collector from walking through what is loaded here, and what lives long from then on.

    Nothing on the way of a message, nor a session or a connection, is part of a cycle: it goes when it is let go of.
    What is loaded lives as long as the process, and looking at it meanwhile would take a third of the time.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*COLLECTOR_THRESHOLDS)
        gc.enable()


async def serve(
    settings: Settings, *, load: Callable[[], Settings], ready: Callable[[Broker], Awaitable[None]]
) -> None:
    """Run a broker until SIGTERM or SIGINT. SIGHUP makes it `load` its settings again."""
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    reloading = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    loop.add_signal_handler(signal.SIGHUP, reloading.set)
    async with contextlib.AsyncExitStack() as stack:
        starting = asyncio.ensure_future(stack.enter_async_context(running(settings)))
        await _first_of(starting, ending.wait())
        if not starting.done():  # told to stop while it was still loading
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            return
        broker = starting.result()
        await ready(broker)
        supervisor.notify(READY=1, STATUS=f"serving {' '.join(broker.addresses)}")
        chores = [
            asyncio.ensure_future(_reload(broker, reloading, load)),
            asyncio.ensure_future(_feed_watchdog(broker)),
        ]
        await ending.wait()
        for chore in chores:
            chore.cancel()
        supervisor.notify(STOPPING=1, STATUS="stopping")


async def _first_of(*awaitables: Awaitable[object]) -> None:
    futures = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    futures[-1].cancel()


@contextlib.asynccontextmanager
async def _extending_the_timeout() -> AsyncIterator[None]:
    """Keep systemd patient while sessions are loaded or saved: it may take as long as it goes on."""

    async def extend() -> None:
        while supervisor.notify(EXTEND_TIMEOUT_USEC=_EXTEND_BY_S * 1_000_000):  # noqa: ASYNC110 - a clock, not a poll
            await asyncio.sleep(_EXTEND_EVERY_S)

    chore = asyncio.ensure_future(extend())
    try:
        yield
    finally:
        chore.cancel()


async def _reload(broker: Broker, reloading: asyncio.Event, load: Callable[[], Settings]) -> None:
    while True:
        await reloading.wait()
        reloading.clear()
        supervisor.notify(RELOADING=1, MONOTONIC_USEC=supervisor.monotonic_usec())
        try:
            await broker.reload(load())
        except PushbrokerError as error:
            # What was good before stays in force: a typing mistake must not stop a running broker.
            _log.error("reload refused", error=error.message, remedy=error.remedy)
        else:
            _log.info("reloaded")
        supervisor.notify(READY=1)


async def _feed_watchdog(broker: Broker) -> None:
    """Tell systemd that we are well, only while we are: the loop turns, and the disk answers.

    A full disk is no reason: a new process would find it as full, and those who are connected would lose that too.
    """
    interval_s = supervisor.watchdog_interval_s()
    while interval_s:
        before = time.monotonic()
        try:
            broker.probe()
        except PushbrokerError as error:
            _log.error("not well; the watchdog is not fed", error=str(error))
        else:
            failing = broker.core.failing
            status = f"cannot write: {failing}" if failing else f"serving {' '.join(broker.addresses)}"
            supervisor.notify(WATCHDOG=1, STATUS=status)
        await asyncio.sleep(max(interval_s / 2 - (time.monotonic() - before), 0.01))
