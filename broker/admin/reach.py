"""Whom to ask: the running broker through its socket, or, where none runs, the records themselves."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from broker.admin import client
from broker.admin.wire import no_broker
from broker.config import Settings
from broker.errors import Failed, NotFound, Refused, Unreachable
from broker.store.lock import DataLock

# How long a command waits for a broker that is just starting, or for another command that has the records.
LOCK_WAIT_S: Final = 5.0
_RETRY_S: Final = 0.05
# Where the system service has its socket: its data directory is closed to everyone else.
SYSTEM_DATA: Final = Path("/var/lib/pushbroker")
SYSTEM_SOCKET: Final = Path("/run/pushbroker/admin.sock")
# The operations that make sense only where a broker runs: those of the table that need one.
BROKER_ONLY: Final = frozenset(
    {"status", "connections.list", "send", "tail", "message.send", "message.watch", "message.withdraw"}
    | {f"campaign.{verb}" for verb in ("add", "list", "show", "set", "test", "start", "pause", "resume", "stop")}
    | {"campaign.remove", "campaign.retarget", "campaign.figures"}
    | {f"inbox.{verb}" for verb in ("take", "reply", "note", "hand_back", "assign", "close", "typing", "read", "watch")}
    | {"agent.add", "agent.set", "agent.remove", "canned.set", "canned.remove"}
    | {"command.run", "command.watch", "command.resume", "command.cancel", "config.set"}
    | {"audit.watch", "user.erase"}
)


def call(settings: Settings, operation: str, arguments: Mapping[str, Any], *, wait_s: float = LOCK_WAIT_S) -> Any:
    """Do one operation and return its result as JSON has it.

    Raises what the operation raises, and `Unreachable` when a process has the data directory but does not answer.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return client.call(_socket(settings), operation, arguments)
        except client.NotListening:
            held = _directly(settings, operation, arguments)
        if not isinstance(held, Failed):
            return held
        _wait(settings, held, deadline)


class Stream(Protocol):
    """Answers with one thing after the other."""

    def __iter__(self) -> Iterator[Any]:
        """What comes."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def stream(settings: Settings, operation: str, arguments: Mapping[str, Any]) -> client.Stream:
    """Begin an operation that answers with one thing after the other, in the running broker."""
    found = _begun(settings, operation, arguments)
    assert isinstance(found, client.Stream)  # an operation that needs a broker never returns otherwise
    return found


def read(settings: Settings, operation: str, arguments: Mapping[str, Any]) -> Stream:
    """Begin one that works on the databases themselves, too, where no broker runs."""
    found = _begun(settings, operation, arguments)
    if isinstance(found, client.Stream):
        return found
    from broker.admin import direct  # noqa: PLC0415 - as below

    return direct.Stream(settings, operation, arguments, found.release)


def _begun(settings: Settings, operation: str, arguments: Mapping[str, Any]) -> client.Stream | DataLock:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return client.Stream(_socket(settings), operation, arguments)
        except client.NotListening:
            held = _locked(settings, operation)
        if isinstance(held, DataLock):
            return held
        _wait(settings, held, deadline)


def _socket(settings: Settings) -> Path:
    if settings.admin_socket is None and settings.data == SYSTEM_DATA and SYSTEM_SOCKET.exists():
        return SYSTEM_SOCKET
    return settings.admin_path


def _wait(settings: Settings, held: Failed, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise Unreachable(
            f"{held.message}, which does not answer on {settings.admin_path}",
            remedy=f"Wait until it has started, or look what it is: ps -fp $(cat {settings.lock_path})",
        )
    time.sleep(_RETRY_S)


def _directly(settings: Settings, operation: str, arguments: Mapping[str, Any]) -> Any:
    """Do the operation on the records, or return the `Failed` that says who has them."""
    lock = _locked(settings, operation)
    if isinstance(lock, Failed):
        return lock
    try:
        from broker.admin import direct  # noqa: PLC0415 - the broker's libraries, 300 ms, only where no broker runs

        return direct.call(settings, operation, arguments)
    finally:
        lock.release()


def _locked(settings: Settings, operation: str) -> DataLock | Failed:
    """The lock on the records, to be released; or the `Failed` that says who has them."""
    lock = DataLock(settings.lock_path)
    try:
        if not settings.records_path.exists():
            raise no_broker(settings) if operation in BROKER_ONLY else _no_data(settings)
        lock.acquire()
    except PermissionError:
        raise Refused(
            f"you may not work on {settings.data}", remedy="Run as the user that owns it, or with sudo."
        ) from None
    except Failed as held:
        if isinstance(held, Unreachable):
            raise
        return held
    if operation in BROKER_ONLY:
        lock.release()
        raise no_broker(settings)
    return lock


def _no_data(settings: Settings) -> NotFound:
    return NotFound(
        f"there is no data directory {settings.data}",
        remedy=f"pushbroker init --data {settings.data}, or name another with --data or PUSHBROKER_DATA",
    )
