"""Files and directories that are on the disk when the function returns."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

CHUNK_BYTES: Final = 1 << 20

# What is being done, and how far that is: bytes done, of how many (0: not known).
Progress = Callable[[str, int, int], None]


def quiet(_what: str, _done: int, _of: int) -> None:
    """Show no progress."""


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that only its owner may read, to be written."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        yield file
        file.flush()
        os.fsync(fd)


def copy_file(source: Path, copy: Path, progress: Progress = quiet) -> None:
    """Copy what is in a file to a new one that only its owner may read."""
    with source.open("rb") as reader, new_file(copy) as writer:
        for chunk in _chunks(reader, f"copying {source.name}", progress):
            writer.write(chunk)


def sha256(path: Path, progress: Progress = quiet) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in _chunks(file, f"checking {path.name}", progress):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: BinaryIO, what: str, progress: Progress) -> Iterator[bytes]:
    size = os.fstat(file.fileno()).st_size
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
        progress(what, file.tell(), size)


def sync_directory(path: Path) -> None:
    """What was made, renamed or removed in it is so on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """What the system says went wrong, and with which file if it names one."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
