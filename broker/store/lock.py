"""The lock on a data directory: one process works on it at a time, a broker for as long as it runs."""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from broker.errors import Failed, Refused

WAIT_S: Final = 2.0
_RETRY_S: Final = 0.02
# What a restore moves into place and aside, in the data directory for as long as it does so.
RESTORING: Final = "restoring"


class DataLock:
    """An exclusive flock on DATA/lock. The system takes it back when the process ends, however it ends.

    The file is never removed: a lock on an unlinked file would lock nobody out.
    """

    def __init__(self, path: Path, *, restoring: bool = False) -> None:
        self.path = path
        self._restoring = restoring
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock now, or raise `Failed` naming the process that has it.

        `with` waits a little, since a command holds the lock for no longer than it works. Raises `Refused` when a
        restore was interrupted, unless this is one: some of the files are of the backup then, and some are missing.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise Failed(
                f"the data directory {self.path.parent} is in use by process {holder or 'unknown'}",
                remedy=f"Stop that process, or use another directory (to see it: ps -fp {holder or 'PID'}).",
            ) from None
        if not self._restoring and (self.path.parent / RESTORING).exists():
            os.close(fd)
            raise interrupted(self.path.parent)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back, if we have it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
            os.close(fd)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                self.acquire()
            except Failed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def interrupted(data: Path) -> Refused:
    """The error of whoever would work on a directory that is half restored."""
    return Refused(
        f"a restore of {data} was interrupted, and is not complete",
        remedy=f"Finish it: pushbroker store restore BACKUP --data {data}",
    )
