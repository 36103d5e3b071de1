"""The library of answers."""

import sqlite3
from pathlib import Path

import pytest
from support.library import item

from broker.store.content import PIECES_MAX, Content, Words, connect
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


async def test_an_item_and_its_words_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Words:
        raise ValueError("no words")

    async with await Content.open(tmp_path / "content.db") as content:
        good, (row, _) = item("good"), item("bad")
        with pytest.raises(ValueError, match="no words"):
            await content.put([good, (row, broken)], 0)
        tables = ("item", "item_text", "phrase", "changed")
        counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)
        assert await content.read(lambda db: db.execute(f"SELECT {counts}").fetchone()) == (0, 0, 0, 0)
        assert await content.put([good], 0) == ["new"]


async def test_many_pieces_of_the_index_become_few(tmp_path: Path) -> None:
    async with await Content.open(tmp_path / "content.db") as content:
        for start in range(6):
            await content.put([item(f"i{start}-{n}", f"word{n} in {start}") for n in range(300)], 1)
        pieces = "SELECT count(DISTINCT segid) FROM item_text_idx"
        assert (await content.read(lambda db: db.execute(pieces).fetchone()))[0] > PIECES_MAX
        await content.tidy()
        assert (await content.read(lambda db: db.execute(pieces).fetchone()))[0] <= PIECES_MAX
        check = "INSERT INTO item_text (item_text) VALUES ('integrity-check')"
        await content.write(lambda db: db.execute(check))
        await content.tidy()
