"""Puts a backup in the place of what a data directory holds.

Everything is copied beside its place and looked at first. Then it becomes `DATA/restoring`, and from there on the
restore is completed, however often it is interrupted: nobody else works on the directory while that is there
(`DataLock`). What was in the directory is moved aside, never removed.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from broker.errors import Failed
from broker.store.backup import CONFIG, MANIFEST, Manifest, check_files, read_manifest
from broker.store.check import CERTS, DATABASES
from broker.store.files import Progress, copy_file, new_file, quiet, reason, remove, sync_directory
from broker.store.lock import RESTORING

# All that a broker keeps, and that a restore therefore replaces or takes away.
KEPT: Final = (
    *(name + suffix for name in DATABASES.values() for suffix in ("", "-wal", "-shm")),
    CERTS,
    CONFIG,
)
_NEW: Final = "new"
_OLD: Final = "old"


def restore(backup: Path, data: Path, progress: Progress = quiet) -> Path | None:
    """Replace what `data` holds by what was backed up; returns where the former is now, if there was any.

    The caller holds the lock (with `restoring`). Raises `Failed`, with nothing changed, when the backup is not whole,
    cannot be copied, or when what is there cannot be moved.
    """
    manifest = read_manifest(backup)
    try:
        if (data / RESTORING).exists():
            finished = read_manifest(data / RESTORING)
            aside = _swap(data)
            if finished == manifest:
                return aside
        part = _staging(data)
        remove(part)
        try:
            _stage(backup, manifest, data, part, progress)
        except BaseException:
            remove(part)
            raise
        part.rename(data / RESTORING)
        sync_directory(data)
        return _swap(data)
    except OSError as error:
        raise Failed(
            f"cannot restore {backup} to {data}: {reason(error)}",
            remedy=f"Check the disk and the backup: df -h {data}; pushbroker store check {backup}",
        ) from error


def _staging(data: Path) -> Path:
    return data / f"{RESTORING}.part"


def _stage(backup: Path, manifest: Manifest, data: Path, part: Path, progress: Progress) -> None:
    """Copy the backup to `part`, look at the copies, and bring them to the disk as they are to be."""
    new = part / _NEW
    for folder in (part, new, new / CERTS, part / _OLD):
        folder.mkdir(mode=0o700)
    for name in manifest.files:
        copy_file(backup / name, new / name, progress)
    with new_file(part / MANIFEST) as file:
        file.write(msgspec.json.encode(manifest))
    for finding in check_files(new, manifest, full=True, progress=progress):
        if not finding.well:
            raise Failed(
                f"{backup} cannot be restored: {finding.name} is {finding.state}: {finding.words}",
                remedy=finding.remedy,
            )
    for name, entry in manifest.files.items():
        (new / name).chmod(int(entry.mode, 8))
    if os.geteuid() == 0:  # whose the directory is, theirs are the files: a broker need not be root
        owner = data.stat()
        for path in (part, *part.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
    for folder in (new / CERTS, new, part):
        sync_directory(folder)


def _swap(data: Path) -> Path | None:
    """Move what there is aside, and the new to its place; from wherever a crash has left that."""
    restoring = data / RESTORING
    new, old = restoring / _NEW, restoring / _OLD
    restored = {name.partition("/")[0] for name in read_manifest(restoring).files}
    old.mkdir(mode=0o700, exist_ok=True)
    untouched = all((new / name).exists() for name in restored)
    try:
        for name in KEPT:
            # What is no more among the new is in its place already.
            if os.path.lexists(data / name) and (name not in restored or (new / name).exists()):
                (data / name).rename(old / name)
    except OSError:  # such as a mount point
        if untouched:
            for path in old.iterdir():
                path.rename(data / path.name)
            _discard(data)
        raise
    sync_directory(old)
    sync_directory(data)
    for name in restored:
        if (new / name).exists():
            (new / name).rename(data / name)
    sync_directory(data)
    aside = None
    if any(old.iterdir()):
        aside = data / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        old.rename(aside)
    _discard(data)
    return aside


def _discard(data: Path) -> None:
    (data / RESTORING).rename(_staging(data))
    sync_directory(data)
    remove(_staging(data))
