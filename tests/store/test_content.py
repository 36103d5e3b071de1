"""The library of answers."""

from pathlib import Path

from broker.store.content import Content, Lookup
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
    lookup = await Lookup.open(content.path, tmp_path / "records.db")
    await content.set_rules("acme", "{}")
    sql = "SELECT (SELECT count(*) FROM rules), (SELECT count(*) FROM records.users)"
    assert await lookup.look(lambda db: db.execute(sql).fetchone()) == (1, 0)
    await lookup.close()
    await content.close()
    await records.close()
