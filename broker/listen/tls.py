"""TLS: the socket, and the handshakes, which have a thread of their own.

A handshake takes 0.3 ms, nearly all of it in OpenSSL and without the interpreter's lock. On the loop's thread nothing
would be delivered meanwhile; here it is done on another core, where there is one.
"""

import asyncio
import errno
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from broker.limits import HANDSHAKES_WAITING_MAX

if TYPE_CHECKING:
    from broker.listen.reactor import Listener

IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT

EVENTS_MAX: Final = 64  # taken from epoll at once: those under way come before those that begin
BEGUN_MAX: Final = 16  # then so many begin
HANDED_MAX: Final = 64  # so many are handed over in one turn of the loop: 2 ms
LOOK_S: Final = 1.0  # how often it is looked for those that take too long


class TLSSocket(ssl.SSLSocket):
    """A non-blocking SSLSocket that costs less: its attributes sit in slots, and reading and writing check nothing.

    A dict would be 240 bytes for each connection. The names are those that `ssl.SSLSocket` sets; one that another
    version of Python adds goes to the dict again.
    """

    __slots__ = (
        "_connected",
        "_context",
        "_session",
        "_sslobj",
        "do_handshake_on_connect",
        "server_hostname",
        "server_side",
        "suppress_ragged_eofs",
    )

    _sslobj: Any

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """At most one TLS record. The peer's end without close_notify is an `ssl.SSLEOFError`."""
        if self._sslobj is None:  # closed, or never connected
            return super().recv(buflen, flags)
        data: bytes = self._sslobj.read(buflen)
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        """What was taken. After `ssl.SSLWantWriteError` OpenSSL wants the same again."""
        if self._sslobj is None:
            return super().send(data, flags)
        sent: int = self._sslobj.write(data)
        return sent


class Handshake:
    """One that is to be done, is under way, or is over: `error` says how it went, `late` that it took too long."""

    __slots__ = ("context", "error", "late", "listener", "peer", "sock", "until", "writing")

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, listener: "Listener", peer: str, until: float
    ) -> None:
        self.sock = sock
        self.context = context
        self.listener = listener
        self.peer = peer  # as a proxy has announced it
        self.until = until
        self.error: Exception | None = None
        self.late = False
        self.writing = False  # it waits until the socket takes more

    @property
    def silent(self) -> bool:
        """The peer went without a word, as load balancers do that look whether somebody is there."""
        said = isinstance(self.sock, ssl.SSLSocket) and self.sock.shared_ciphers() is not None
        return not said and (isinstance(self.error, ssl.SSLEOFError) or self._gone)

    @property
    def reason(self) -> str:
        """What went wrong, in the words of OpenSSL's reason code where there is one."""
        error = self.error
        if isinstance(error, ssl.SSLError) and error.reason:
            return error.reason.replace("_", " ").lower()
        if self._gone:
            return "the peer went away"
        return str(error) or type(error).__name__

    @property
    def _gone(self) -> bool:
        return isinstance(self.error, OSError) and self.error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)


class Handshakes:
    """All that are under way. What is not marked otherwise is for the loop's thread.

    `ended` is called with those that are over, `again` when others may begin after `full` was true.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ended: Callable[[list[Handshake]], None],
        again: Callable[[], None],
    ) -> None:
        self.count = 0
        self._loop = loop
        self._ended = ended
        self._again = again
        self._new: deque[Handshake] = deque()  # for the thread
        self._over: deque[Handshake] = deque()  # from it
        self._handing = False  # `_hand_over` is on its way
        self._held = False  # `again` is waited for
        self._asleep = False  # the thread has to be woken
        self._closing = False
        self._thread: threading.Thread | None = None
        # Both now: once descriptors run out, handshakes are still done.
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(self._bell, IN)

    def start(self) -> None:
        """Have a thread, before the first `begin`. May be called again."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tls-handshakes", daemon=True)
            self._thread.start()

    def begin(self, handshake: Handshake) -> None:
        """Have one done."""
        if self._closing:
            handshake.sock.close()
            return
        self.count += 1
        self._new.append(handshake)
        if self._asleep:
            os.eventfd_write(self._bell, 1)

    def full(self) -> bool:
        """Whether as many wait for their first step as may. Then `again` is called when that is over."""
        if len(self._new) < HANDSHAKES_WAITING_MAX:
            return False
        self._held = True  # and only now is it looked once more: the thread may just have taken them all
        # If not, `again` is called all the same: others may wait for it.
        return len(self._new) >= HANDSHAKES_WAITING_MAX

    def close(self) -> None:
        """Stop, and close the connections whose handshakes are not over. May be called again."""
        if self._closing:
            return
        self._closing = True
        if self._thread is not None:
            os.eventfd_write(self._bell, 1)
            self._thread.join()
        self._poll.close()
        os.close(self._bell)
        for handshake in (*self._new, *self._over):
            handshake.sock.close()
        self.count = 0

    def _hand_over(self) -> None:
        """Give those that are over to who waits for them, a part in each turn of the loop."""
        if self._closing:
            return
        self._handing = False
        over = [self._over.popleft() for _ in range(min(len(self._over), HANDED_MAX))]
        self.count -= len(over)
        self._ended(over)
        if self._over and not self._handing:
            self._handing = True
            self._loop.call_soon(self._hand_over)

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poll = self._poll
        under_way: dict[int, Handshake] = {}
        looked = time.monotonic()
        while not self._closing:
            self._asleep = True  # and only then is it looked whether there is something
            wait_s = 0 if self._new else LOOK_S if under_way else None
            events = poll.poll(wait_s, EVENTS_MAX)
            self._asleep = False
            for fd, _ in events:
                handshake = under_way.get(fd)
                if handshake is None:
                    os.eventfd_read(self._bell)
                elif _step(handshake, poll):
                    poll.unregister(fd)
                    del under_way[fd]
                    self._over.append(handshake)
            for _ in range(min(len(self._new), BEGUN_MAX)):
                handshake = self._new.popleft()
                if _start(handshake, poll):
                    under_way[handshake.sock.fileno()] = handshake
                else:
                    self._over.append(handshake)
            now = time.monotonic()
            if now - looked > LOOK_S:
                looked = now
                for fd, handshake in list(under_way.items()):
                    if handshake.until < now:
                        handshake.late = True
                        poll.unregister(fd)
                        del under_way[fd]
                        self._over.append(handshake)
            if self._held and len(self._new) <= HANDSHAKES_WAITING_MAX // 2:
                self._held = False
                self._loop.call_soon_threadsafe(self._again)
            if self._over and not self._handing:
                self._handing = True
                self._loop.call_soon_threadsafe(self._hand_over)
        for handshake in under_way.values():
            handshake.sock.close()


def _start(handshake: Handshake, poll: select.epoll) -> bool:
    """Make it a TLS socket, and watch it. False: that cannot be done."""
    try:
        handshake.sock.getpeername()  # of one that was reset meanwhile, `ssl` would leave its half-made socket behind
        handshake.sock = handshake.context.wrap_socket(
            handshake.sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        poll.register(handshake.sock.fileno(), IN)
    except Exception as error:  # noqa: BLE001 - one connection's bug is not the others' end
        handshake.error = error
        return False
    return True


def _step(handshake: Handshake, poll: select.epoll) -> bool:
    """Go on with it; True: it is over, well or not."""
    writing = False
    try:
        cast("ssl.SSLSocket", handshake.sock).do_handshake()
    except ssl.SSLWantReadError:
        pass
    except ssl.SSLWantWriteError:
        writing = True
    except Exception as error:  # noqa: BLE001 - one connection's bug is not the others' end
        handshake.error = error
        return True
    else:
        return True
    if writing != handshake.writing:
        handshake.writing = writing
        poll.modify(handshake.sock.fileno(), OUT if writing else IN)
    return False
