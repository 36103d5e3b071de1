"""The lock on the data directory."""

import os
from pathlib import Path

import pytest

from broker.errors import Failed
from broker.store.lock import DataLock


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = DataLock(path), DataLock(path)
    with first:
        with pytest.raises(Failed, match=f"in use by process {os.getpid()}") as raised:
            second.acquire()
        assert str(os.getpid()) in raised.value.remedy
    with second:
        assert path.read_text().strip() == str(os.getpid())
    assert path.exists()


def test_release_without_a_lock_is_nothing(tmp_path: Path) -> None:
    lock = DataLock(tmp_path / "lock")
    lock.release()
    lock.acquire()
    lock.release()
    lock.release()


def test_it_ends_with_its_process(tmp_path: Path) -> None:
    lock = DataLock(tmp_path / "lock")
    child = os.fork()
    if child == 0:
        lock.acquire()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with lock:
        pass


def test_with_waits_for_a_command_to_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = DataLock(tmp_path / "lock"), DataLock(tmp_path / "lock")
    first.acquire()
    waits = iter([None, None])
    monkeypatch.setattr("broker.store.lock.time.sleep", lambda _s: next(waits, None) or first.release())
    with second:
        pass
    monkeypatch.setattr("broker.store.lock.WAIT_S", 0)
    with first, pytest.raises(Failed), second:
        pass
