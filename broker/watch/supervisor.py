"""What a supervisor is told and hands over: sd_notify(3), a pid file, inherited sockets (sd_listen_fds(3))."""

import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from broker.errors import Failed, Misconfigured

_FIRST_FD = 3


def notify(**state: str | int) -> bool:
    """Tell systemd, as in `notify(READY=1, STATUS="serving")`. False when nobody wants to know, or listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    name = "\0" + address[1:] if address[0] == "@" else address  # '@' stands for the NUL of the abstract namespace
    message = "\n".join(f"{key}={value}" for key, value in state.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(message.encode(), socket.MSG_DONTWAIT, name)
    except OSError:
        return False
    return True


def monotonic_usec() -> int:
    """The clock that systemd wants with RELOADING=1: CLOCK_MONOTONIC in microseconds."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def watchdog_interval_s() -> float:
    """How often systemd's watchdog wants to hear from us: half its time limit, or 0 when there is none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isdecimal() else 0


def inherited_sockets() -> list[socket.socket]:
    """The listening sockets that systemd's `.socket` units made for us. To be asked for once.

    Raises `Misconfigured` for what does not listen: of ListenDatagram=, of Accept=yes, or no socket at all.
    """
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    count = os.environ.pop("LISTEN_FDS", "0")
    sockets = []
    for fd in range(_FIRST_FD, _FIRST_FD + (int(count) if count.isdecimal() else 1)):
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
            listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            listens = False
        if not listens:
            raise Misconfigured(
                f"systemd handed over descriptor {fd}, which is no socket that listens (LISTEN_FDS={count})",
                remedy="Write ListenStream= in the .socket unit, without Accept=yes.",
            )
        sockets.append(sock)
    return sockets


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, which needs no privilege; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@contextlib.contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Keep our process id in `path` for the while; nothing when there is no path."""
    if path is None:
        yield
        return
    try:
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
    except OSError as error:
        raise Failed(
            f"cannot write the pid file {path}: {error.strerror}", remedy="Name another with --pid-file."
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
