"""A thread's list of things to do: what other threads ask for, what is due at a time, and sockets to watch."""

import heapq
import itertools
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)


class Mailbox:
    """`call` is for any thread; everything else is for the one thread that waits. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()  # a pair, not a pipe: Windows selects only sockets
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._lock = threading.Lock()  # guards the next two
        self._calls: deque[Callable[[], None]] = deque()
        self._closed = False
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = itertools.count()

    def call(self, function: Callable[[], None]) -> bool:
        """Have `function` run soon on the waiting thread. False when it never will, because that has ended."""
        with self._lock:
            if self._closed:
                return False
            self._calls.append(function)
        with suppress(BlockingIOError, OSError):  # full: the thread wakes anyway; closed: it has run all calls
            self._wake_write.send(b"\0")
        return True

    @property
    def busy(self) -> bool:
        """Whether something that was asked for has not run yet."""
        return bool(self._calls)

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        """Run `function` after a while, unless the mailbox is closed before."""
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._timer_count), function))

    def watch(self, sock: Any, *, reading: bool = True, writing: bool = False, new: bool = False) -> None:
        """Wake for reading from `sock`, for writing to it, both, or not at all."""
        events = (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if writing else 0)
        if not events:
            self.unwatch(sock)
        elif new or sock not in self._selector.get_map():
            self._selector.register(sock, events)
        else:
            self._selector.modify(sock, events)

    def unwatch(self, sock: Any) -> None:
        """Forget a socket, before it is closed."""
        if sock in self._selector.get_map():
            self._selector.unregister(sock)

    def wait(self, timeout_s: float) -> list[object]:
        """Sleep until something happens; run what is due and what was asked for; return the ready sockets."""
        if self._timers:
            timeout_s = min(timeout_s, max(0.0, self._timers[0][0] - time.monotonic()))
        ready = [key.fileobj for key, _ in self._selector.select(timeout_s)]
        if self._wake_read in ready:
            with suppress(BlockingIOError):
                while self._wake_read.recv(4096):
                    pass
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            guard(heapq.heappop(self._timers)[2])
        for _ in range(len(self._calls)):
            guard(self._calls.popleft())
        return list(ready)

    def close(self) -> bool:
        """Run what was asked for so far and take nothing any more. False when it was closed before."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
        while self._calls:
            guard(self._calls.popleft())
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()
        return True


def guard(function: Callable[[], None]) -> None:
    """Run a callback that must not take the thread down with it."""
    try:
        function()
    except Exception:
        log.exception("a bug in the SDK, or in a callback given to it")
