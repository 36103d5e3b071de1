"""make_backup: complete or not there, of one moment, and no commit waits for it; check_backup sees any change."""

import fcntl
import hashlib
import json
import os
import random
import resource
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.stores import DAMAGES, ROWS, content, ends_at, files, fill_records, killed, make_data

from broker.config import CONFIG_FILE_NAME
from broker.errors import Failed, NotFound, Refused
from broker.store import backup as module
from broker.store.backup import check_backup, copy_database, make_backup, read_manifest
from broker.store.check import DATABASES, State
from broker.store.lock import RESTORING

NAMES = {
    *("records.db", "journal.db", "messages.db", "content.db", "pushbroker.toml"),
    *("certs/ca.crt", "certs/ca.key", "certs/server.crt", "certs/server.key"),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("made") / "data")


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture
def to(data: Path, tmp_path: Path) -> Path:
    """Where there is a backup of `data`."""
    make_backup(data, tmp_path / "backup", version="1.2.3")
    return tmp_path / "backup"


def beside(to: Path) -> list[str]:
    return sorted(path.name for path in to.parent.iterdir() if path.name.startswith(to.name))


def test_it_has_all_that_a_broker_needs(data: Path, to: Path) -> None:
    copies = files(to)
    assert set(copies) == {*NAMES, "manifest.json"}
    assert CONFIG_FILE_NAME in NAMES
    originals = files(data)
    for name in NAMES - set(DATABASES.values()):
        assert copies[name][1] == originals[name][1]
    for name in DATABASES.values():
        assert content(to / name) == content(data / name)
    assert beside(to) == ["backup"]


def test_it_is_private(data: Path, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        make_backup(data, tmp_path / "backup", version="")
    finally:
        os.umask(old)
    assert {mode for mode, _ in files(tmp_path / "backup").values()} == {0o600}
    for folder in (tmp_path / "backup", tmp_path / "backup" / "certs"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_the_manifest_says(data: Path, to: Path) -> None:
    manifest = json.loads((to / "manifest.json").read_bytes())
    assert (manifest["format"], manifest["version"], manifest["data"]) == (1, "1.2.3", str(data))
    assert manifest["made_at"].endswith("Z")
    for name in NAMES:
        entry = manifest["files"][name]
        whole = (to / name).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(whole), hashlib.sha256(whole).hexdigest())
        assert entry["mode"] == f"{(data / name).stat().st_mode & 0o777:04o}"
    assert manifest["files"]["records.db"]["tables"]["users"] == ROWS


def test_a_certificate_that_is_being_written_is_left_out(data: Path, tmp_path: Path) -> None:
    (data / "certs" / ".server.crt.1f2e3d4c").write_text("half of")
    make_backup(data, tmp_path / "backup", version="")
    assert set(read_manifest(tmp_path / "backup").files) == NAMES


def test_no_broker_has_run_yet(data: Path, tmp_path: Path) -> None:
    for name in ("journal.db", "messages.db", "content.db"):
        (data / name).unlink()
    (data / "pushbroker.toml").unlink()
    make_backup(data, tmp_path / "backup", version="")
    assert set(read_manifest(tmp_path / "backup").files) == {
        "records.db",
        *(name for name in NAMES if name.startswith("certs/")),
    }


def test_what_a_crash_left_in_the_log_is_in_it(data: Path, tmp_path: Path) -> None:
    make_backup(killed(data, tmp_path / "killed"), tmp_path / "backup", version="")
    assert len(content(tmp_path / "backup" / "records.db")["brands"]) == ROWS + 5


def test_commits_go_on_at_every_step_and_it_is_of_one_moment(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP_BYTES", 8192)
    path = data / "records.db"
    pages = path.stat().st_size // 4096
    steps = []
    with closing(sqlite3.connect(path, timeout=0)) as writer:  # whoever holds it up is an error at once

        def commit(what: str, done: int, of: int) -> None:
            steps.append((what, done, of))
            with writer:
                writer.execute("INSERT INTO brands (name, title, created_at) VALUES (?, '', 0)", (f"n{len(steps)}",))
                writer.execute("DELETE FROM tokens WHERE brand = ?", (f"b{len(steps)}",))

        before = content(path)
        copy_database(path, tmp_path / "copy.db", commit)
    assert content(tmp_path / "copy.db") == before
    assert len(steps) == -(-pages // 2) > 5  # each page once, though all of them are followed by a commit
    assert steps[-1] == ("copying records.db", pages * 4096, pages * 4096)
    assert len(content(path)["brands"]) == ROWS + len(steps)


def test_nothing_is_overwritten_unless_told(data: Path, to: Path) -> None:
    before = files(to)
    with pytest.raises(Refused, match="is there already") as raised:
        make_backup(data, to, version="")
    assert "--replace" in raised.value.remedy
    assert files(to) == before
    fill_records(data / "records.db", first=100, count=1)
    make_backup(data, to, version="", replace=True)
    assert len(content(to / "records.db")["brands"]) == ROWS + 1
    assert beside(to) == ["backup"]


@pytest.mark.parametrize("what", ["file", "directory", "data"])
def test_only_a_backup_is_replaced(data: Path, tmp_path: Path, what: str) -> None:
    to = data if what == "data" else tmp_path / "theirs"
    if what == "file":
        to.write_text("theirs")
    elif what == "directory":
        to.mkdir()
        (to / "theirs").write_text("")
    before = files(tmp_path)
    with pytest.raises(Refused, match="is there already"):
        make_backup(data, to, version="", replace=True)
    assert files(tmp_path) == before


def test_a_backup_that_fails_leaves_the_one_before(data: Path, to: Path) -> None:
    before = files(to)
    (data / "records.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(Failed, match="damaged") as raised:
        make_backup(data, to, version="", replace=True)
    assert "pushbroker store check" in raised.value.remedy
    assert files(to) == before
    assert beside(to) == ["backup"]


@pytest.mark.parametrize("name", sorted(DATABASES.values()))
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_not_backed_up(data: Path, tmp_path: Path, name: str, damage: str) -> None:
    (data / name).write_bytes(DAMAGES[damage]((data / name).read_bytes()))
    with pytest.raises(Failed, match=f"{name} is damaged: ") as raised:
        make_backup(data, tmp_path / "backup", version="")
    assert raised.value.remedy == f"pushbroker store check --data {data}"
    assert beside(tmp_path / "backup") == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: (data / "records.db").unlink(), "records.db is missing"),
        (lambda data: shutil.copy(data / "journal.db", data / "records.db"), "records.db is foreign"),
        (lambda data: (data / "certs" / "ca.key").unlink(), "no ca.key"),
        (lambda data: (data / RESTORING).mkdir(), "interrupted"),
    ],
)
def test_what_is_not_whole_is_not_backed_up(
    data: Path, tmp_path: Path, damage: Callable[[Path], Any], words: str
) -> None:
    damage(data)
    with pytest.raises((Failed, Refused), match=words) as raised:
        make_backup(data, tmp_path / "backup", version="")
    assert "pushbroker store" in raised.value.remedy
    assert beside(tmp_path / "backup") == []


def flip(path: Path, place: int) -> None:
    whole = bytearray(path.read_bytes())
    whole[place] ^= 0xFF
    path.write_bytes(whole)


@contextmanager
def file_bytes_max(bytes_max: int) -> Iterator[None]:
    """No file may grow beyond that, which is how a full disk looks to who writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("bytes_max", [0, 16, 5000, 40_000, 70_000])
def test_a_disk_that_takes_no_more_leaves_none(data: Path, tmp_path: Path, bytes_max: int) -> None:
    assert (data / "records.db").stat().st_size > 70_000
    with file_bytes_max(bytes_max), pytest.raises(Failed) as raised:
        make_backup(data, tmp_path / "backup", version="")
    assert raised.value.remedy
    assert beside(tmp_path / "backup") == []


def test_no_directory_to_put_it_in(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Failed, match="No such file") as raised:
        make_backup(data, tmp_path / "nowhere" / "backup", version="")
    assert f"ls -ld {tmp_path / 'nowhere'}" in raised.value.remedy


def test_one_at_a_time(data: Path, tmp_path: Path) -> None:
    (tmp_path / "backup.part").mkdir()
    fd = os.open(tmp_path / "backup.part", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(Refused, match="another process"):
        make_backup(data, tmp_path / "backup", version="")
    os.close(fd)
    make_backup(data, tmp_path / "backup", version="")


@pytest.mark.parametrize("replace", [False, True])
def test_a_crash_at_any_point_leaves_none_or_a_whole_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # the process ends, and not the system
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    to = tmp_path / "backup"
    make_backup(data, tmp_path / "old", version="old")
    step, nones = 0, 0
    while True:
        shutil.rmtree(to, ignore_errors=True)
        if replace:
            shutil.copytree(tmp_path / "old", to)
        crashed = ends_at(step, lambda: make_backup(data, to, version="new", replace=replace))
        left = next((path for path in (to, to.with_name("backup.old")) if path.exists()), None)
        assert left is None or all(found.well for found in check_backup(left)), step
        assert left or not replace, step
        nones += left is None
        if not crashed:
            break
        step += 1
    assert read_manifest(to).version == "new"
    assert step > 20
    assert replace or nones > 20
    make_backup(data, to, version="again", replace=True)
    assert beside(to) == ["backup"]


# -- looking at one ----------------------------------------------------------------------------------------------------


def wrong(backup: Path, **options: Any) -> list[tuple[str, State]]:
    return [(found.name, found.state) for found in check_backup(backup, **options) if not found.well]


def test_a_whole_one_is_well_and_left_as_it_is(to: Path) -> None:
    before = files(to)
    shown: list[str] = []
    assert wrong(to, full=True, progress=lambda what, *_: shown.append(what)) == []
    assert files(to) == before
    assert "private keys" in check_backup(to)[0].words
    assert {"checking records.db", "checking journal.db", "checking messages.db"} <= set(shown)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_change_of_a_file_is_seen(to: Path, name: str) -> None:
    whole = (to / name).read_bytes()
    expected = [(name.removesuffix(".db"), State.DAMAGED)]
    for place in random.Random(name).choices(range(len(whole)), k=20):
        flip(to / name, place)
        assert wrong(to) == expected, place
        (to / name).write_bytes(whole)
    for other in (whole[:-1], whole + b"\0", b""):
        (to / name).write_bytes(other)
        assert wrong(to) == expected
    (to / name).unlink()
    assert wrong(to) == [(expected[0][0], State.MISSING)]


def test_a_database_of_a_newer_version(to: Path) -> None:
    with closing(sqlite3.connect(to / "records.db")) as db:
        db.execute("PRAGMA user_version = 900")
    manifest = json.loads((to / "manifest.json").read_bytes())
    whole = (to / "records.db").read_bytes()
    manifest["files"]["records.db"] |= {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    (to / "manifest.json").write_text(json.dumps(manifest))
    assert wrong(to) == [("records", State.NEWER)]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "certs/../x", "certs/..", "certs/a/b", "x", ""])
def test_a_manifest_that_names_other_files_is_refused(to: Path, name: str) -> None:
    manifest = json.loads((to / "manifest.json").read_bytes())
    manifest["files"][name] = manifest["files"]["records.db"]
    (to / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Failed, match="damaged"):
        check_backup(to)


@pytest.mark.parametrize("text", ["", "{}", "null", "{" * 10_000, '{"format": 1, "files"', "\udcff"])
def test_a_manifest_that_cannot_be_read_is_refused(to: Path, text: str) -> None:
    (to / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Failed, match="damaged") as raised:
        check_backup(to)
    assert raised.value.remedy == "Use another backup."


def test_a_newer_format_is_refused(to: Path) -> None:
    manifest = json.loads((to / "manifest.json").read_bytes())
    (to / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(Failed, match=r"newer pushbroker, 1\.2\.3"):
        check_backup(to)


def test_what_is_no_backup(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(NotFound, match="no backup"):
            check_backup(path)
