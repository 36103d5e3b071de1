"""The library of answers."""

import sqlite3
from pathlib import Path

import pytest

from broker.store.content import Content, connect
from broker.store.records import Records


async def test_rules_of_a_brand_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "content.db"
    async with await Content.open(path) as content:
        assert await content.rules("acme") == ""
        await content.set_rules("acme", "{}")
        await content.set_rules("acme", '{"language": "it"}')
    async with await Content.open(path) as content:
        assert await content.rules("acme") == '{"language": "it"}'
        assert await content.rules("rival") == ""


async def test_who_looks_content_up_sees_the_records_beside_it(tmp_path: Path) -> None:
    records = await Records.open(tmp_path / "records.db")
    content = await Content.open(tmp_path / "content.db")
    db = connect(content.path, tmp_path / "records.db")
    await content.set_rules("acme", "{}")
    sql = "SELECT (SELECT count(*) FROM rules), (SELECT count(*) FROM records.users)"
    assert db.execute(sql).fetchone() == (1, 0)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM rules")
    db.close()
    await content.close()
    await records.close()
