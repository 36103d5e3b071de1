"""A backup of a data directory: a directory with copies of what a broker needs, made while one runs or not.

    manifest.json   when, of what, by which version; size and SHA-256 of each file     pushbroker.toml   if there is one
    records.db, journal.db, messages.db, content.db   each as of one moment
    certs/   the authority and its key, the server's certificate

It is complete or not there: it is made beside its place, and moved there when all of it is on the disk. It holds
private keys, so only its owner may enter it.
"""

import errno
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec

from broker.errors import Failed, NotFound, Refused
from broker.store.check import CERTS, DATABASES, Finding, State, check_authority, check_database
from broker.store.files import Progress, copy_file, new_file, quiet, reason, remove, sha256, sync_directory
from broker.store.lock import RESTORING, interrupted

MANIFEST: Final = "manifest.json"
CONFIG: Final = "pushbroker.toml"
FORMAT: Final = 1
# A database is copied in steps, each brought to the disk before the next. Left to itself the system writes everything
# at some later time, and the commits of a broker wait for it: at the 99th percentile for 69 ms, like this for 9.
STEP_BYTES: Final = 1 << 20
_MANIFEST_BYTES_MAX: Final = 1 << 20
_SCHEMAS: Final = {name: schema for schema, name in DATABASES.items()}
_ANOTHER: Final = "Use another backup."


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file of a backup. `mode` is what it had, and gets again; in the backup itself it is 0600."""

    bytes: int
    sha256: str
    mode: Annotated[str, msgspec.Meta(pattern="^0[0-7]{3}$")]
    schema: int | None = None
    tables: dict[str, int] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself: when it was made, by which version of pushbroker, of which data directory."""

    format: int
    made_at: datetime
    version: str
    data: str
    files: dict[str, Entry]

    @property
    def words(self) -> str:
        """That, for people."""
        return f"made at {self.made_at:%Y-%m-%dT%H:%M:%SZ} of {self.data} by version {self.version}"


# -- making one --------------------------------------------------------------------------------------------------------


def make_backup(data: Path, to: Path, *, version: str, replace: bool = False, progress: Progress = quiet) -> Manifest:
    """Make a backup of `data` at `to`, which is there afterwards as a whole or not at all.

    Raises `Refused` when there is something already, unless it is a backup and to be replaced; `Failed` when something
    is missing or damaged, cannot be read, or cannot be written.
    """
    if (data / RESTORING).exists():
        raise interrupted(data)
    if os.path.lexists(to) and not (replace and (to / MANIFEST).exists()):
        raise Refused(f"{to} is there already", remedy="Name one that is not there; --replace replaces a backup.")
    if not (authority := check_authority(data)).well:
        raise authority.failed()
    try:
        with _beside(to) as part:
            (part / CERTS).mkdir(mode=0o700)
            manifest = Manifest(
                format=FORMAT,
                made_at=datetime.now(UTC).replace(microsecond=0),
                version=version,
                data=str(data),
                files=dict(_copied(data, part, progress)),
            )
            sync_directory(part / CERTS)
            with new_file(part / MANIFEST) as file:
                file.write(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
            sync_directory(part)
            _put_in_place(part, to)
    except OSError as error:
        raise Failed(
            f"cannot make the backup {to}: {reason(error)}",
            remedy=f"Check the disk and the permissions: df -h {to.parent}; ls -ld {to.parent} {data}",
        ) from error
    return manifest


def _copied(data: Path, part: Path, progress: Progress) -> Iterator[tuple[str, Entry]]:
    # The journal first: those whom it names are in the records then, unless they were removed since. And what happens
    # is in the journal until it is in the books: what these have more of is passed over at the start. The other way
    # round, what was applied in between would be in neither, and sent a second time.
    for schema in ("journal", "messages", "content", "records"):
        source, copy = data / DATABASES[schema], part / DATABASES[schema]
        progress(f"checking {source.name}", 0, 0)
        found = check_database(source, schema)
        if found.state is State.MISSING and schema != "records":
            continue  # there is none before the first start
        if found.well:
            copy_database(source, copy, progress)
            progress(f"checking {copy.name}", 0, 0)
            found = check_database(copy, schema, full=True, closed=True)
        if not found.well:
            raise Failed(f"{source} is {found.state}: {found.words}", remedy=f"pushbroker store check --data {data}")
        yield source.name, _entry(source, copy, found)
    for source in sorted((*(data / CERTS).iterdir(), data / CONFIG)):
        if not source.is_file() or source.name.startswith("."):  # one that is being written
            continue
        name = str(source.relative_to(data))
        copy_file(source, part / name)
        yield name, _entry(source, part / name)


def _entry(source: Path, copy: Path, found: Finding | None = None) -> Entry:
    return Entry(
        bytes=copy.stat().st_size,
        sha256=sha256(copy),
        mode=f"{source.stat().st_mode & 0o777:04o}",
        schema=found.schema if found else None,
        tables=found.tables if found else {},
    )


def copy_database(source: Path, copy: Path, progress: Progress = quiet) -> None:
    """Copy a database as it is at this moment. Another process may write to it meanwhile: no commit waits for the copy.

    One read transaction holds what is copied, or each commit of a broker would make it begin anew. All that this costs
    the broker is that its log (-wal) grows for as long as it takes.
    """
    fd = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with closing(_connect(source, "ro")) as reader, closing(_connect(copy, "rw")) as writer:
            # What is left half written is thrown away, and when it goes to the disk is our business.
            writer.execute("PRAGMA journal_mode = OFF")
            writer.execute("PRAGMA synchronous = OFF")
            reader.execute("BEGIN")
            ((page_bytes,),) = reader.execute("PRAGMA page_size")
            reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()

            def stepped(_status: int, remaining: int, total: int) -> None:
                os.fdatasync(fd)
                progress(f"copying {source.name}", (total - remaining) * page_bytes, total * page_bytes)

            reader.backup(writer, pages=STEP_BYTES // page_bytes, progress=stepped)
        os.fsync(fd)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(copy)) from error
        raise Failed(f"cannot copy {source}: {error}", remedy="Look for disk errors: dmesg --level=err") from error
    finally:
        os.close(fd)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)


@contextmanager
def _beside(to: Path) -> Iterator[Path]:
    """A directory beside `to` in which to make it, gone again unless it was moved. One process at a time has it."""
    part = to.with_name(f"{to.name}.part")
    part.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in part.iterdir():  # by a crash
            remove(left)
        try:
            yield part
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except BlockingIOError:
        raise Refused(f"another process is making {to}", remedy="Wait for it, or name another place.") from None
    finally:
        os.close(fd)


def _put_in_place(part: Path, to: Path) -> None:
    """Move the new one to its place. Where it replaces another, one of the two is whole at every moment."""
    old = to.with_name(f"{to.name}.old")
    if to.exists():
        remove(old)
        to.rename(old)
    part.rename(to)
    sync_directory(to.parent)
    remove(old)


# -- looking at one ----------------------------------------------------------------------------------------------------


def read_manifest(backup: Path) -> Manifest:
    """What the backup says of itself. Raises `NotFound` when it is none, `Failed` when that cannot be read."""
    path = backup / MANIFEST
    try:
        with path.open("rb") as file:
            manifest = msgspec.json.decode(file.read(_MANIFEST_BYTES_MAX), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"{backup} is no backup: there is no {MANIFEST} in it",
            remedy="Name a directory that `pushbroker store backup` has made.",
        ) from None
    except OSError as error:
        raise Failed(f"cannot read {path}: {error.strerror}", remedy="Run this with sudo.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Failed(f"{path} is damaged: {error}", remedy=_ANOTHER) from None
    if manifest.format > FORMAT:
        raise Failed(f"{backup} was made by a newer pushbroker, {manifest.version}", remedy="Install that version.")
    if strange := [name for name in manifest.files if not _is_ours(name)]:
        raise Failed(f"{path} is damaged: it names {strange[0]!r}", remedy=_ANOTHER)
    return manifest


def _is_ours(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return name in (*_SCHEMAS, CONFIG) or (folder == CERTS and file not in ("", ".", ".."))


def check_backup(backup: Path, *, full: bool = False, progress: Progress = quiet) -> list[Finding]:
    """How a backup is, and each file in it. Raises as `read_manifest` does."""
    manifest = read_manifest(backup)
    words = f"{manifest.words}; it holds private keys"
    return [
        Finding(name="backup", path=str(backup), state=State.OK, words=words),
        *check_files(backup, manifest, full=full, progress=progress),
    ]


def check_files(folder: Path, manifest: Manifest, *, full: bool, progress: Progress = quiet) -> list[Finding]:
    """How the files of a backup are, there or copied to `folder`: as the manifest says, and whole."""
    return [_check_file(folder / name, name, entry, full, progress) for name, entry in manifest.files.items()]


def _check_file(path: Path, name: str, entry: Entry, full: bool, progress: Progress) -> Finding:
    def found(state: State, words: str, remedy: str = _ANOTHER) -> Finding:
        return Finding(
            name=_SCHEMAS.get(name, name), path=str(path), state=state, words=words, remedy=remedy, bytes=entry.bytes
        )

    try:
        if (size := path.stat().st_size) != entry.bytes:
            return found(State.DAMAGED, f"it has {size:,} bytes of {entry.bytes:,}")
        if sha256(path, progress) != entry.sha256:
            return found(State.DAMAGED, "its SHA-256 is not that of what was backed up")
    except FileNotFoundError:
        return found(State.MISSING, "it is not there")
    except OSError as error:
        return found(State.UNREADABLE, f"it cannot be read: {error.strerror}", "Run this with sudo.")
    if name in _SCHEMAS:
        return check_database(path, _SCHEMAS[name], full=full, closed=True)
    return found(State.OK, "as it was backed up", remedy="")
