"""What is known of persons, and where: every column of every database was thought of."""

import sqlite3
from contextlib import closing

import pytest

from broker.store.database import _migrations
from broker.store.personal import TABLES, Person, prepare, words

SCHEMAS = ("records", "messages", "content", "journal")
ADA = Person(brand="acme", user="ada", devices=("till-1",))


def made(schema: str) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    for script in _migrations(schema):
        db.executescript(script)
    return db


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_column_is_classified(schema: str) -> None:
    """Add yours to broker/store/personal.py: how it is exported and erased, or why it is nobody's."""
    names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    with closing(made(schema)) as db:
        there = {
            name: {row[1] for row in db.execute(f"PRAGMA table_xinfo({name})") if row[6] != 1}
            for (name,) in db.execute(names).fetchall()
        }
    assert {table.name: set(table.columns.split()) for table in TABLES if table.schema == schema} == there


@pytest.mark.parametrize("table", [table for table in TABLES if table.personal], ids=lambda table: table.kind)
def test_what_is_theirs_can_be_asked_for(table: object) -> None:
    assert table in TABLES
    (one,) = [found for found in TABLES if found is table]
    with closing(made(one.schema)) as db:
        prepare(db, ADA)
        for sql in filter(None, (one.theirs, one.left)):
            assert db.execute(sql, ADA.parameters).fetchall() == []


def test_each_section_is_of_one_table() -> None:
    sections = [table.section for table in TABLES if table.section]
    assert len(sections) == len(set(sections))


@pytest.mark.parametrize(
    ("text", "names_her"),
    [
        ('{"users": ["ada", "bob"]}', True),
        ('{"users": ["adalbert"]}', False),
        ("NOT (user:ada)", True),
        ("user:ada.b OR user:ada-c", False),
        ("device:till-1 AND tag:vip", True),
        ("acme has no user 'ada'", True),
        ("user/ada.", True),
        ("adapted", False),
    ],
)
def test_a_text_names_somebody(text: str, names_her: bool) -> None:
    assert bool(words(("ada", "till-1")).search(text)) is names_her
