"""Writing the files that a command hands out: keys that only their owner reads, certificates that anyone may."""

import os
import sys
import tempfile
from pathlib import Path

from broker.errors import Failed, Refused


def read_input(source: str, bytes_max: int) -> bytes:
    """What is in a file, or on stdin for `-`. Raises `Refused` beyond `bytes_max`, `Failed` when it cannot be read."""
    try:
        if source == "-":
            content = sys.stdin.buffer.read(bytes_max + 1)
        else:
            with Path(source).open("rb") as file:
                content = file.read(bytes_max + 1)
    except OSError as error:
        raise Failed(
            f"cannot read {source}: {error.strerror}", remedy="Name a file that is there, or - for stdin."
        ) from None
    if len(content) > bytes_max:
        raise Refused(
            f"{source} is larger than {bytes_max:,} bytes", remedy="Send an address where it can be fetched instead."
        )
    return content


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner may read; never over one that is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Refused(f"{path} is there already, and a key is never overwritten", remedy=f"rm {path}") from None
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def write_public(path: Path, content: bytes) -> None:
    """Write or replace a file that anyone may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
            os.fchmod(fd, 0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
