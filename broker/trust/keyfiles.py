"""Files that hold keys and certificates: written whole or not at all, private from their first byte."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.errors import Failed

# A certificate with its chain, or a key, is a few KiB; whatever is larger is something else.
FILE_BYTES_MAX = 256 << 10


def write_whole(path: Path, content: bytes, *, mode: int) -> None:
    """Put `content` at `path`: on the disk, complete, and never readable by more than `mode` says.

    Raises `Failed` when the disk or its permissions do not allow it.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with _guarded("write", path):
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read_public(path: Path) -> bytes | None:
    """What is in the file, or None when there is none."""
    return _read(path, forbidden=0)


def read_private(path: Path, *, forbidden: int) -> bytes | None:
    """Likewise, but `Failed` when its mode has any of the `forbidden` bits: others could have read the key."""
    return _read(path, forbidden=forbidden)


def make_private_directory(path: Path) -> None:
    """Make the directory, for its owner alone, if there is none."""
    with _guarded("make", path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _read(path: Path, *, forbidden: int) -> bytes | None:
    with _guarded("read", path):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        with file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & forbidden:
                raise Failed(
                    f"{path} holds a private key, but its mode {mode:04o} lets others use it",
                    remedy=f"chmod {mode & ~forbidden:04o} {path}, and replace the key if someone may have read it.",
                )
            return file.read(FILE_BYTES_MAX)


@contextmanager
def _guarded(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failed(
            f"cannot {verb} {path}: {error.strerror}",
            remedy=f"Check the disk and the permissions: df -h {path.parent}; ls -ld {path.parent} {path}",
        ) from error
