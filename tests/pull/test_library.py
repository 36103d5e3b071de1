"""The library of a brand: what an item may be, what becomes of a change, what is kept beside it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker import limits
from broker.errors import NotFound
from broker.pull import library as module
from broker.pull.library import ItemRefused, Library
from broker.store.content import Content

CAKE = {"name": "cake", "title": "Torta al cioccolato", "language": "it", "data": {"price": "3.50", "left": 4}}


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    async with await Content.open(tmp_path / "content.db") as content:
        yield Library(content)


async def rows(library: Library, sql: str) -> list[Any]:
    return await library.content.read(lambda db: db.execute(sql).fetchall())


async def put(library: Library, *items: dict[str, Any], brand: str = "acme", **how: bool) -> tuple[int, int, int]:
    stored = await library.put(brand, items, **how)
    assert stored.refused == []
    return stored.new, stored.changed, stored.same


async def names(library: Library, brand: str = "acme", **how: Any) -> list[str]:
    return [one["name"] for one in await library.list(brand, **how)]


async def test_an_item_is_shown_as_it_was_put(library: Library) -> None:
    whole = {
        **CAKE, "body": "Costa {{ data.price }}.\n\nBuona.", "image": "https://acme.it/cake.png",
        "link": "https://acme.it/{{ data.sku }}?a=1", "keywords": ["sacher", "dolce"], "stores": ["milano"],
        "tags": ["vip", "città"], "hours": {"mon-fri": ["09:00-18:00"]}, "valid_from": "2026-12-01T00:00:00Z",
    }  # fmt: skip
    assert await put(library, whole) == (1, 0, 0)
    assert await library.show("acme", "cake") == [whole]
    with pytest.raises(NotFound):
        await library.show("rival", "cake")


async def test_a_day_is_that_of_the_brands_zone_and_ends_with_it(library: Library) -> None:
    await library.content.set_rules("acme", '{"time_zone": "Europe/Rome"}')
    await put(library, {"name": "x", "title": "X", "valid_from": "2026-12-24", "valid_until": "2026-12-24"})
    (shown,) = await library.show("acme", "x")
    assert (shown["valid_from"], shown["valid_until"]) == ("2026-12-23T23:00:00Z", "2026-12-24T23:00:00Z")


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"name": ""}, "bad_value", "name"),
        ({"name": "due torte"}, "bad_value", "name"),
        ({"name": "../../etc"}, "bad_value", "name"),
        ({"language": "italian"}, "bad_value", "language"),
        ({"title": ""}, "bad_value", "title"),
        ({"title": "   "}, "bad_value", "title"),
        ({"title": "a\x1b[2Jb"}, "bad_value", "title"),
        ({"title": "a" * 201}, "bad_value", "title"),
        ({"title": 5}, "bad_value", "title"),
        ({"body": "a\x00"}, "bad_value", "body"),
        ({"body": "a" * 4001}, "bad_value", "body"),
        ({"body": "{% for x in data.y %}{% endfor %}"}, "bad_value", "body"),
        ({"title": "{{ user.__class__ }}"}, "bad_value", "title"),
        ({"link": "javascript:alert(1)"}, "bad_value", "link"),
        ({"link": "https://acme.it/a b"}, "bad_value", "link"),
        ({"link": "{{ data.url }}"}, "bad_value", "link"),
        ({"link": "https://acme.it/{{ data.sku"}, "bad_value", "link"),
        ({"image": "file:///etc/passwd"}, "bad_value", "image"),
        ({"image": "https://acme.it/{{ data.sku }}"}, "bad_value", "image"),
        ({"keywords": "a;b"}, "bad_value", "keywords"),
        ({"keywords": ["a"] * 101}, "bad_value", "keywords"),
        ({"keywords": ["a\nb"]}, "bad_value", "keywords[0]"),
        ({"stores": ["mi/lano"]}, "bad_value", "stores[0]"),
        ({"hours": {"someday": ["09:00-18:00"]}}, "bad_value", "hours"),
        ({"data": {"x": "a" * (16 << 10)}}, "bad_value", "data"),
        ({"data": []}, "bad_value", "data"),
        ({"valid_from": "tomorrow"}, "bad_value", "valid_from"),
        ({"valid_from": "2026-12-02", "valid_until": "2026-12-01"}, "bad_value", "valid_until"),
        ({"titel": "X"}, "unknown_field", "titel"),
    ],
)
async def test_what_is_not_right_says_where(library: Library, changes: dict[str, Any], code: str, field: str) -> None:
    stored = await library.put("acme", [{**CAKE, **changes}, {"name": "ok", "title": "OK"}])
    (bad,) = stored.refused
    assert (bad.index, bad.code, bad.field, stored.new) == (0, code, field, 1)
    assert bad.message
    assert await names(library) == ["ok"]


async def test_what_is_no_item_at_all(library: Library) -> None:
    stored = await library.put("acme", ["text", 5, None, {}])
    assert [bad.code for bad in stored.refused] == ["bad_value"] * 3 + ["missing_field"]


async def test_what_stays_the_same_is_no_change(library: Library) -> None:
    await put(library, CAKE)
    await library.content.write(lambda db: db.execute("DELETE FROM changed"))
    before = await rows(library, "SELECT * FROM item")
    assert await put(library, CAKE) == (0, 0, 1)
    assert (await library.set("acme", "cake", None, {"data": {"price": "3.50"}})).same == 1
    assert await rows(library, "SELECT * FROM item") == before
    assert await rows(library, "SELECT * FROM changed") == []
    assert await put(library, {**CAKE, "link": "https://acme.it"}) == (0, 1, 0)
    assert [row[:2] for row in await rows(library, "SELECT * FROM changed")] == [("acme", "cake")]


async def test_a_dry_run_changes_nothing(library: Library) -> None:
    await put(library, CAKE)
    changed = {**CAKE, "title": "Sacher"}
    assert await put(library, changed, {"name": "b", "title": "B"}, CAKE, dry_run=True) == (1, 2, 0)
    assert [one["title"] for one in await library.list("acme")] == ["Torta al cioccolato"]


async def test_words_are_those_of_the_last_change(library: Library) -> None:
    await put(library, CAKE, {"name": "tart", "title": "Crostata"})
    assert await names(library, search="torte") == ["cake"]
    await put(library, {**CAKE, "title": "Sacher", "keywords": ["dolce"]})
    assert await names(library, search="torta") == []
    assert await names(library, search="dolci") == ["cake"]
    assert await names(library, search="sach") == ["cake"]
    assert await library.remove("acme", [("cake", None)]) == 1
    assert await names(library, search="sacher") == []
    for kept in ("count(*) FROM item_text", "count(DISTINCT item) FROM phrase", "count(*) FROM item"):
        assert await rows(library, f"SELECT {kept}") == [(1,)]


@pytest.mark.parametrize("words", ['"', "torta OR", "NEAR(", "title:x", "*", "a^b", "(", "", "torta AND NOT cake"])
async def test_searching_knows_no_syntax(library: Library, words: str) -> None:
    await put(library, CAKE)
    assert isinstance(await library.list("acme", search=words), list)


async def test_nobody_finds_anothers(library: Library) -> None:
    await put(library, CAKE)
    await put(library, {"name": "cake", "title": "Torta"}, brand="rival")
    assert [one["title"] for one in await library.list("rival", search="torta")] == ["Torta"]
    assert await library.remove("rival", [("cake", None), ("cake", "it")]) == 1
    assert await names(library) == ["cake"]


async def test_pages_follow_each_other(library: Library) -> None:
    await put(
        library, *({"name": name, "title": name, "language": at} for name in ("a", "b") for at in ("", "de", "it"))
    )
    found, after = [], ""
    while page := await library.list("acme", after=after, most=2):
        found += [(one["name"], one["language"]) for one in page]
        after = "{name}:{language}".format(**page[-1])
    assert found == [(name, at) for name in ("a", "b") for at in ("", "de", "it")]
    assert await names(library, language="de") == ["a", "b"]


async def test_a_price_is_that_of_all_languages_and_a_text_of_one(library: Library) -> None:
    await put(library, CAKE, {**CAKE, "language": "de", "title": "Torte"})
    stored = await library.set("acme", "cake", None, {"data": {"price": 4, "left": None}, "link": "https://acme.it"})
    assert stored.changed == 2
    shown = await library.show("acme", "cake")
    assert [(one["title"], one["data"], one["link"]) for one in shown] == [
        ("Torte", {"price": 4}, "https://acme.it"), ("Torta al cioccolato", {"price": 4}, "https://acme.it"),
    ]  # fmt: skip
    with pytest.raises(ItemRefused, match="title in each of de, it"):
        await library.set("acme", "cake", None, {"title": "Sacher"})
    assert (await library.set("acme", "cake", "de", {"title": "Sachertorte", "link": None})).changed == 1
    (german,) = await library.show("acme", "cake", "de")
    assert (german["title"], "link" in german) == ("Sachertorte", False)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"name": "x"}, "name"), ({"titel": ""}, "titel"), ({"data": 5}, "data"), ({"title": None}, "title")],
)
async def test_a_change_that_is_not_right_changes_nothing(
    library: Library, changes: dict[str, Any], field: str
) -> None:
    await put(library, CAKE)
    with pytest.raises(ItemRefused) as caught:
        await library.set("acme", "cake", None, changes)
    assert caught.value.field == field
    assert await library.show("acme", "cake") == [CAKE]


async def test_of_what_is_not_there_nothing_can_be_changed(library: Library) -> None:
    await put(library, CAKE)
    for name, language in (("cake", "de"), ("tart", None)):
        with pytest.raises(NotFound):
            await library.set("acme", name, language, {"link": ""})


async def test_a_brand_has_so_many_and_no_more(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.content.ITEMS_MAX", 2)
    items = [{"name": name, "title": name} for name in "abc"]
    stored = await library.put("acme", items)
    assert (stored.new, [(bad.index, bad.name, bad.code) for bad in stored.refused]) == (2, [(2, "c", "too_many")])
    again = await library.put("acme", [{"name": "a", "title": "A!"}, *items[1:]])
    assert (again.changed, again.same, len(again.refused)) == (1, 1, 1)
    assert await put(library, *items[:2], brand="rival") == (2, 0, 0)


async def test_a_brand_that_is_gone_leaves_nothing(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.content.ITEMS_REMOVED_AT_ONCE", 2)
    await put(library, *({"name": name, "title": name} for name in "abcde"))
    await put(library, CAKE, brand="rival")
    await library.content.set_rules("acme", "{}")
    assert await library.content.brands() == {"acme", "rival"}
    await library.content.brand_gone("acme")
    assert await library.content.brands() == {"rival"}
    assert await rows(library, "SELECT count(*) FROM item_text") == [(1,)]


def test_the_bounds_are_those_of_the_limits() -> None:
    longest = {"name": "x", "title": "a" * limits.ITEM_TITLE_MAX, "body": "a" * limits.ITEM_BODY_MAX}
    assert module.parse(longest).title == "a" * limits.ITEM_TITLE_MAX
