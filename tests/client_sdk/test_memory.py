"""What a device remembers, also when its disk does not play along."""

import json
import logging
import sqlite3
from pathlib import Path

import pytest

from client_sdk import InUse, PushError
from client_sdk.memory import _SCHEMAS, HANDLED_MAX, OUTBOX_MAX, SHOWN_MAX, Memory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


def test_it_survives_a_restart(path: Path) -> None:
    memory = Memory(path)
    memory.record("m1")
    memory.attempt("m2")
    memory.attempt("m2")
    number = memory.keep("receipt", b"{}")
    memory.follow("news")
    memory.follow("offers")
    memory.unfollow("offers")
    memory.confirm({"acme/user/ada", "acme/topic/news"})
    memory.close()

    memory = Memory(path)
    assert memory.handled("m1")
    assert not memory.handled("m2")
    assert memory.attempts("m2") == 2
    assert memory.kept() == [(number, "receipt", b"{}")]
    assert memory.followed() == {"news"}
    assert memory.confirmed() == {"acme/user/ada", "acme/topic/news"}
    memory.close()


def test_attempts_are_forgotten_with_success_and_taken_back(path: Path) -> None:
    memory = Memory(path)
    for _ in range(3):
        memory.attempt("m1")
    memory.forgive("m1")
    assert memory.attempts("m1") == 2
    memory.record("m1")
    assert memory.attempts("m1") == 0
    memory.close()


def test_it_is_bounded(path: Path) -> None:
    memory = Memory(path)
    memory._db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO handled SELECT 'old' || i FROM n",
        (HANDLED_MAX + 500,),
    )
    for i in range(100):
        memory.record(f"new{i}")
    assert memory._db.execute("SELECT count(*) FROM handled").fetchone() == (HANDLED_MAX,)
    assert memory.handled("new99")
    assert not memory.handled("old1")
    memory.keep("preferences", b"0")
    for i in range(OUTBOX_MAX + 5):
        memory.keep("receipt", b"%d" % i)
    kept = memory.kept()
    assert (len(kept), kept[0][1], kept[-1][2]) == (OUTBOX_MAX + 1, "preferences", b"%d" % (OUTBOX_MAX + 4))
    memory.close()


def test_what_is_on_the_screen(path: Path) -> None:
    memory = Memory(path)
    memory.record("m1", shown_as="order")
    memory.record("m2", shown_as="")
    memory.record("m3")  # had expired
    memory.take_off(["m4"])  # says its own handler
    memory.record("m4", shown_as="order")
    assert memory.on_screen() == ("m2",)
    assert memory.newest("order") == "m4"
    memory.record("m5", shown_as="order")
    assert (memory.on_screen(), memory.on_screen("order")) == (("m2", "m5"), ("m5",))
    memory.close()

    memory = Memory(path)
    assert memory.on_screen() == ("m2", "m5")
    memory.take_off(["m2", "m5"])
    assert memory.on_screen() == ()
    assert (memory.newest("order"), memory.newest("other")) == ("m5", "")
    memory._db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO shown (id, key, gone) SELECT 'old' || i, '', 0 FROM n",
        (SHOWN_MAX + 50,),
    )
    for i in range(100):
        memory.record(f"n{i}", shown_as="")
    assert SHOWN_MAX <= len(memory.on_screen()) < SHOWN_MAX + 100
    memory.close()


def test_a_second_process_is_told(path: Path) -> None:
    memory = Memory(path)
    with pytest.raises(InUse, match="in use by another process"):
        Memory(path)
    memory.close()
    Memory(path).close()


def test_a_damaged_file_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"this is no database, it is what a dying flash disk left behind" * 100)
    memory = Memory(path)
    assert "set aside" in caplog.text
    memory.record("m1")
    assert memory.handled("m1")
    assert path.with_suffix(".damaged").exists()
    memory.close()


def test_a_full_disk_forgets_nothing_of_this_run(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(path)
    pages = memory._db.execute("PRAGMA page_count").fetchone()[0]
    memory._db.execute(f"PRAGMA max_page_count = {pages}")
    with caplog.at_level(logging.WARNING):
        for i in range(500):
            memory.record("m" + "x" * 100 + str(i))
    assert "cannot remember" in caplog.text
    assert all(memory.handled("m" + "x" * 100 + str(i)) for i in range(500))
    memory.close()


def test_a_file_of_a_newer_sdk_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(PushError, match="newer SDK"):
        Memory(path)
    assert path.exists()
    assert not path.with_suffix(".damaged").exists()


def test_a_file_of_the_first_version_is_brought_up_to_date(path: Path) -> None:
    with sqlite3.connect(path) as db:
        for statement in _SCHEMAS[0].split(";"):
            db.execute(statement)
        db.execute("INSERT INTO handled VALUES ('m1')")
        db.execute("INSERT INTO receipts VALUES (7, 'm1', 'displayed', '2026-11-22T08:00:00Z')")
        db.execute("PRAGMA user_version = 1")
    db.close()
    for _ in range(2):
        memory = Memory(path)
        assert memory.handled("m1")
        ((number, kind, payload),) = memory.kept()
        assert (number, kind) == (7, "receipt")
        assert json.loads(payload) == {"message_id": "m1", "event": "displayed", "at": "2026-11-22T08:00:00Z"}
        memory.close()
