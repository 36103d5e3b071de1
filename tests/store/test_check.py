"""check_database: says of every file how it is, and changes none."""

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.stores import DAMAGES, ROWS, content, killed, make_data

from broker.config import Settings
from broker.store import check as module
from broker.store.check import DATABASES, State, check_data, check_database
from broker.store.lock import RESTORING


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("made") / "data")


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def test_the_names_are_those_of_the_settings(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    assert settings.records_path == tmp_path / DATABASES["records"]
    assert settings.journal_path == tmp_path / DATABASES["journal"]
    assert settings.messages_path == tmp_path / DATABASES["messages"]
    assert settings.content_path == tmp_path / DATABASES["content"]
    assert settings.certs_path == tmp_path / module.CERTS


@pytest.mark.parametrize("full", [False, True])
def test_what_is_whole(data: Path, full: bool) -> None:
    records, journal, messages, library, certs = found = check_data(data, full=full)
    assert [one.name for one in found] == ["records", "journal", "messages", "content", "certs"]
    assert all(one.state is State.OK and one.well and not one.remedy for one in (records, journal, messages, library))
    assert certs.well
    assert records.schema == len(module._migrations("records"))
    assert records.bytes == (data / "records.db").stat().st_size
    assert records.tables["users"] == records.tables["brands"] == ROWS
    assert max(journal.tables.values()) >= ROWS


@pytest.mark.parametrize("name", sorted(DATABASES))
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_with_the_way_back(data: Path, name: str, damage: str) -> None:
    path = data / DATABASES[name]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    before = path.read_bytes()
    finding = next(found for found in check_data(data) if found.name == name)
    assert finding.state is State.DAMAGED
    assert finding.words
    assert finding.remedy == f"pushbroker store restore BACKUP --data {data}"
    assert path.read_bytes() == before


def test_every_cut_is_seen(data: Path) -> None:
    path = data / "records.db"
    whole = path.read_bytes()
    sizes = {*range(0, 600, 37), *range(0, len(whole), 4096), *range(4095, len(whole), 9000), len(whole) - 1}
    for size in sorted(sizes):
        path.write_bytes(whole[:size])
        assert check_database(path, "records").state is State.DAMAGED, size


@pytest.mark.parametrize("name", sorted(DATABASES))
def test_flipped_bits_are_seen_or_cost_no_row(data: Path, name: str) -> None:
    """The header, the beginnings of pages, and anywhere. A value may be another then: there is nothing to compare."""
    path = data / DATABASES[name]
    whole = path.read_bytes()
    rows = {table: len(found) for table, found in content(path).items()}
    random_ = random.Random(name)
    places = [
        *range(100),
        *(start + random_.randrange(24) for start in range(0, len(whole), 4096) for _ in range(2)),
        *(random_.randrange(len(whole)) for _ in range(100)),
    ]
    seen = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random_.randrange(8)
        path.write_bytes(damaged)
        finding = check_database(path, name, closed=True)
        if finding.well:
            assert finding.tables == rows, place
        else:
            seen += 1
            assert finding.remedy, place
    assert seen > len(places) // 5


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        # An index that has a row less than its table.
        (
            (
                "PRAGMA writable_schema = ON",
                "UPDATE sqlite_schema SET sql = sql || ' WHERE brand <> ''b7''' WHERE name = 'tokens_of_brand'",
            ),
            "tokens_of_brand",
        ),
        (("PRAGMA foreign_keys = OFF", "DELETE FROM brands WHERE name = 'b7'"), "refer to what is not there"),
    ],
)
def test_a_full_check_sees_more(data: Path, statements: tuple[str, ...], words: str) -> None:
    path = data / "records.db"
    execute(path, *statements)
    assert check_database(path, "records").well
    found = check_database(path, "records", full=True)
    assert found.state is State.DAMAGED
    assert words in found.words


def test_a_file_that_is_gone(data: Path) -> None:
    path = data / "records.db"
    for name in ("records.db", "records.db-wal", "records.db-shm"):
        (data / name).unlink(missing_ok=True)
    assert check_database(path, "records").state is State.MISSING
    (data / "records.db-wal").write_bytes(b"what is left")
    found = check_database(path, "records")
    assert found.state is State.DAMAGED
    assert "records.db-wal is there" in found.words
    assert not path.exists()


def test_another_program_s_database(data: Path) -> None:
    path = data / "records.db"
    path.unlink()
    execute(path, "CREATE TABLE theirs (x)")
    assert check_database(path, "records").state is State.FOREIGN
    assert check_database(data / "journal.db", "records").state is State.FOREIGN


def test_other_versions(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data / "records.db"
    scripts = module._migrations("records")
    monkeypatch.setattr(module, "_migrations", lambda schema: (*scripts, "CREATE TABLE more (x)"))
    older = check_database(path, "records")
    assert (older.state, older.well) == (State.OLDER, True)
    assert f"schema {len(scripts)} of {len(scripts) + 1}" in older.words
    monkeypatch.setattr(module, "_migrations", lambda schema: scripts)
    execute(path, "PRAGMA user_version = 900")
    newer = check_database(path, "records")
    assert (newer.state, newer.schema, newer.well) == (State.NEWER, 900, False)
    assert "Install" in newer.remedy


def test_a_writer_does_not_disturb_it(data: Path) -> None:
    path = data / "records.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO brands (name, title, created_at) VALUES ('new', '', 0)")
        assert check_database(path, "records", full=True).tables["brands"] == ROWS
        writer.execute("COMMIT")
        assert check_database(path, "records", full=True).tables["brands"] == ROWS + 1


def test_what_a_crash_left_in_the_log_counts(data: Path, tmp_path: Path) -> None:
    found = check_database(killed(data, tmp_path / "killed") / "records.db", "records")
    assert found.tables["brands"] == ROWS + 5


def test_a_missing_authority(data: Path) -> None:
    (data / "certs" / "ca.key").unlink()
    certs = check_data(data)[-1]
    assert certs.state is State.MISSING
    assert "no ca.key" in certs.words


def test_a_restore_that_was_interrupted(data: Path) -> None:
    (data / RESTORING).mkdir()
    found = check_data(data)[0]
    assert found.state is State.INTERRUPTED
    assert "store restore" in found.remedy


def test_what_may_not_be_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data / "records.db"

    def refuse(*_args: object, **_options: object) -> sqlite3.Connection:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("broker.store.check.sqlite3.connect", refuse)
    found = check_database(path, "records")
    assert found.state is State.UNREADABLE
    assert "sudo" in found.remedy


def test_words_that_are_not_those_of_the_rows(data: Path) -> None:
    """An item that no question would find."""
    execute(data / "content.db", "DELETE FROM item_text_content WHERE id = 3")
    assert check_database(data / "content.db", "content").well
    finding = check_database(data / "content.db", "content", full=True)
    assert (finding.state, finding.words) == (State.DAMAGED, "the words of item_text are not those of its rows")
    assert "store restore" in finding.remedy
