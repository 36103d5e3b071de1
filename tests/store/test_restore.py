"""restore: what was backed up, or what was there before; and after a crash nobody works on anything in between."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.stores import ROWS, content, ends_at, files, killed, make_data

from broker.errors import Failed, NotFound, Refused
from broker.store.backup import make_backup, read_manifest
from broker.store.lock import RESTORING, DataLock
from broker.store.restore import KEPT, restore


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory and a backup of it."""
    made = tmp_path_factory.mktemp("made")
    make_backup(make_data(made / "data"), made / "backup", version="1")
    return made


@pytest.fixture
def backup(made: Path) -> Path:
    return made / "backup"


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A data directory that went on since the backup, and whose broker was killed."""
    data = killed(Path(shutil.copytree(made / "data", tmp_path / "went-on")), tmp_path / "data")
    (data / "certs" / "ca.key").write_text("another key")
    (data / "notes.txt").write_text("not ours")
    return data


def restored(backup: Path) -> dict[str, tuple[int, bytes]]:
    """What a directory holds that was restored."""
    manifest = read_manifest(backup)
    return {name: (int(entry.mode, 8), (backup / name).read_bytes()) for name, entry in manifest.files.items()}


def kept(data: Path) -> dict[str, tuple[int, bytes]]:
    """What a broker keeps there."""
    return {name: entry for name, entry in files(data).items() if name.split("/")[0] in KEPT}


def set_aside(data: Path) -> list[dict[str, tuple[int, bytes]]]:
    return [files(path) for path in sorted(data.glob("replaced-*"))]


def test_to_a_new_directory(backup: Path, tmp_path: Path) -> None:
    data = tmp_path / "new"
    data.mkdir()
    assert restore(backup, data) is None
    assert files(data) == restored(backup)
    assert len(content(data / "records.db")["brands"]) == ROWS
    assert (data / "certs").stat().st_mode & 0o777 == 0o700


def test_what_was_there_is_moved_aside(backup: Path, data: Path) -> None:
    before = kept(data)
    assert "records.db-wal" in before
    aside = restore(backup, data)
    assert kept(data) == restored(backup)
    assert aside is not None
    assert files(aside) == before
    assert (data / "notes.txt").exists()
    assert not list(data.glob(f"{RESTORING}*"))


def test_what_was_not_backed_up_is_not_there_afterwards(data: Path, tmp_path: Path) -> None:
    """As it was then: no messages, and the settings were the defaults."""
    for name in ("journal.db", "journal.db-wal", "journal.db-shm", "pushbroker.toml"):
        (tmp_path / "went-on" / name).unlink()
    make_backup(tmp_path / "went-on", tmp_path / "backup", version="")
    before = kept(data)
    aside = restore(tmp_path / "backup", data)
    assert kept(data) == restored(tmp_path / "backup")
    assert aside is not None
    assert files(aside) == before


def test_again_and_again(backup: Path, data: Path) -> None:
    for times in range(1, 4):
        restore(backup, data)
        assert len(set_aside(data)) == times
    assert set_aside(data)[-1] == restored(backup)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away; as root: sudo .venv/bin/pytest")
def test_root_restores_for_the_directory_s_owner(backup: Path, data: Path) -> None:
    os.chown(data, 12345, 54321)
    restore(backup, data)
    found = [path.lstat() for name in KEPT for path in (data / name, *(data / name).glob("*")) if path.exists()]
    assert {(stat.st_uid, stat.st_gid) for stat in found} == {(12345, 54321)}


@pytest.mark.parametrize("damage", ["flip", "gone", "newer", "no manifest"])
def test_a_backup_that_is_not_whole_changes_nothing(backup: Path, data: Path, tmp_path: Path, damage: str) -> None:
    bad = Path(shutil.copytree(backup, tmp_path / "bad"))
    path = bad / "journal.db"
    match damage:
        case "flip":
            whole = bytearray(path.read_bytes())
            whole[len(whole) // 2] ^= 1
            path.write_bytes(whole)
        case "gone":
            path.unlink()
        case "newer":
            (bad / "manifest.json").write_bytes(
                (bad / "manifest.json").read_bytes().replace(b'"format": 1', b'"format": 2')
            )
        case "no manifest":
            (bad / "manifest.json").unlink()
    before = files(data)
    with pytest.raises((Failed, NotFound)) as raised:
        restore(bad, data)
    assert raised.value.remedy
    assert files(data) == before
    assert not list(data.glob(f"{RESTORING}*"))


def test_what_cannot_be_moved_stops_it_with_nothing_changed(
    backup: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a mount point."""
    rename = Path.rename

    def busy(path: Path, target: Path) -> Any:
        if path == data / "certs":
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", busy)
    before = files(data)
    with pytest.raises(Failed, match="Device or resource busy"):
        restore(backup, data)
    assert files(data) == before
    with DataLock(data / "lock"):
        pass


def test_a_crash_at_any_point(backup: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is complete either all is as before, or nobody gets the lock; and the same command completes it."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # the process ends, and not the system
    old, new = kept(data), restored(backup)
    step, refused = 0, 0
    while True:
        trial = Path(shutil.copytree(data, tmp_path / "trial"))
        crashed = ends_at(step, lambda trial=trial: restore(backup, trial))  # type: ignore[misc]
        if kept(trial) in (old, new) and not (trial / RESTORING).exists():
            with DataLock(trial / "lock"):
                pass
        else:
            refused += 1
            with pytest.raises(Refused) as raised, DataLock(trial / "lock"):
                pass
            assert "pushbroker store restore" in raised.value.remedy
        with DataLock(trial / "lock", restoring=True):
            restore(backup, trial)
        assert kept(trial) == new, step
        assert old in set_aside(trial), step
        assert (trial / "notes.txt").exists()
        assert not list(trial.glob(f"{RESTORING}*"))
        shutil.rmtree(trial)
        if not crashed:
            break
        step += 1
    assert step > 40
    assert refused > 10


def test_another_backup_after_a_crash(backup: Path, data: Path, tmp_path: Path) -> None:
    """The one that was interrupted is completed first: what was there before is kept whole."""
    other = tmp_path / "other"
    make_backup(tmp_path / "went-on", other, version="2")
    old = kept(data)
    for path in (data / RESTORING, data / RESTORING / "new", data / RESTORING / "new" / "certs"):
        path.mkdir()
    for name, (mode, whole) in restored(backup).items():
        (data / RESTORING / "new" / name).write_bytes(whole)
        (data / RESTORING / "new" / name).chmod(mode)
    shutil.copy(backup / "manifest.json", data / RESTORING)
    restore(other, data)
    assert kept(data) == restored(other)
    assert set_aside(data) == [old, restored(backup)]
