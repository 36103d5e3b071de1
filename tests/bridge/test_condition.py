"""Conditions: what is understood, what is refused and where; and that SQL finds whom they are true of."""

from collections.abc import Iterator
from contextlib import closing
from sqlite3 import Connection, connect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.bridge.condition import (
    All,
    Any,
    BadCondition,
    Condition,
    Facts,
    Named,
    Not,
    Query,
    Term,
    explain,
    holds,
    parse,
    terms,
    with_segment,
)
from broker.limits import CONDITION_BYTES_MAX, CONDITION_DEPTH_MAX, CONDITION_TERMS_MAX
from broker.store.database import _migrations
from broker.store.entries import WhoKind

ADA = Facts(
    kind="user",
    name="ada",
    devices=frozenset({"kiosk-7"}),
    stores=frozenset({"milano"}),
    topics=frozenset({"news"}),
    tags=frozenset({"vip"}),
    attributes={"city": "Milano Centrale"},
    locale="it-CH",
)
SEGMENTS = {"italy": "attr.country=it OR store:milano", "best": "tag:vip AND segment:italy"}


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("topic:news", True),
        ("topic:news AND store:milano AND NOT tag:staff", True),
        ("topic:offers OR topic:news AND tag:staff", False),
        ("(topic:offers OR topic:news) AND tag:vip", True),
        ("NOT NOT topic:news", True),
        ("NOT (topic:news AND tag:vip)", False),
        ("user:ada AND device:kiosk-7", True),
        ("language:it AND language:IT_ch AND NOT language:de AND NOT language:i", True),
        ("user:ADA", False),
        ('attr.city="Milano Centrale"', True),
        ("attr.city=Milano", False),
        ("attr.city!=Milano", True),
        ("attr.zip!=20100", True),
        ('attr.city="a \\" quote" OR ( tag:"vip" )', True),
        ("segment:best", True),
        ("\n topic:news\tAND tag:vip  ", True),
    ],
)
def test_what_a_condition_says_of_somebody(text: str, true: bool) -> None:
    assert holds(parse(text, SEGMENTS), ADA) is true


def test_it_says_which_of_its_terms_are_true() -> None:
    condition = parse('segment:best AND NOT attr.city!="Milano Centrale"', SEGMENTS)
    assert explain(condition, ADA) == {
        "tag:vip": True,
        "attr.country=it": False,
        "store:milano": True,
        'attr.city!="Milano Centrale"': False,
    }
    assert [term.text for term in terms(condition, of_segments=False)] == ['attr.city!="Milano Centrale"']


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", 1, "expected a term such as"),
        ("   ", 1, "found the end"),
        ("topic:news AND", 15, "found the end"),
        ("topic:news and tag:vip", 12, "expected AND, OR or the end, found 'and'"),
        ("topic:news tag:vip", 12, "expected AND, OR or the end"),
        ("(topic:news", 12, "expected AND, OR or ')'"),
        ("topic:news)", 11, "expected AND, OR or the end, found ')'"),
        ("topic:news AND OR tag:vip", 16, "found 'OR'"),
        ("colour:red", 1, "found 'colour:red'"),
        ("news", 1, "found 'news'"),
        ("topic:", 1, "expected a value"),
        ("topic:a/b", 1, "cannot name a topic"),
        ("NOT store:+", 5, "cannot name a store"),
        ("attr.=x", 1, "expected a term"),
        ("attr.a/b=x", 1, "cannot name a key"),
        ("attr.city=", 1, "expected a value"),
        (f"attr.city={'x' * 257}", 1, "at most 256 bytes"),
        ('tag:vip AND attr.city="Mil', 23, "a quote that is not closed"),
        ('attr.city=a"b"', 1, "expected a value"),
        ("segment:none", 1, "there is no segment 'none'"),
        ("segment:a", 1, "in segment a: at character 10: in segment b: at character 1: the segment refers to itself"),
        ("tag:vip OR segment:broken", 12, "in segment broken: at character 7: expected AND"),
        (" OR ".join(["tag:vip"] * (CONDITION_TERMS_MAX + 1)), 705, "more than 64 terms"),
        ("segment:many OR " + " OR ".join(["tag:x"] * 6), 62, "more than 64 terms"),
        ("NOT " * (CONDITION_DEPTH_MAX + 1) + "tag:x", 65, "more than 16 within each other"),
        ("NOT segment:deep", 5, "more than 16 within each other"),
        ("x" * (CONDITION_BYTES_MAX + 1), 1, "longer than 4096 bytes"),
    ],
)
def test_what_is_refused_and_where(text: str, place: int, words: str) -> None:
    segments = {
        "a": "tag:x OR segment:b",
        "b": "segment:a",
        "broken": "tag:x y",
        "many": " OR ".join(["tag:x"] * 58),
        "deep": "(" * 15 + "tag:x" + ")" * 15,
    }
    with pytest.raises(BadCondition) as refused:
        parse(text, segments)
    assert refused.value.place == place
    assert words in refused.value.message
    assert refused.value.remedy


def test_a_segment_may_not_refer_to_itself_once_it_is_saved() -> None:
    assert with_segment(SEGMENTS, "italy", "store:roma") == parse("store:roma", {})
    with pytest.raises(BadCondition, match="italy -> best -> italy"):
        with_segment(SEGMENTS, "italy", "NOT segment:best")


# -- SQL finds whom Python finds ---------------------------------------------------------------------------------------

FEW = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from(["x", "it's; -- \"%:p0{name}"])


@st.composite
def worlds(draw: st.DrawFn) -> list[tuple[str, tuple[str | None, ...]]]:
    """Rows of a brand, and of another one with the same names."""
    rows: list[tuple[str, tuple[str | None, ...]]] = []
    for brand in ("acme", "bolt"):
        rows.append(("brands (name, title, created_at)", (brand, "", "0")))
        rows += [("users", (brand, user, "", "0")) for user in "abc"]
        rows += [("stores", (brand, store, "", "0")) for store in "abc"]
        for device in "abcd":
            user, store = (draw(st.none() | FEW) for _ in range(2))
            rows.append(
                ("devices (brand, name, user, store, state, created_at)", (brand, device, user, store, "active", "0"))
            )
        who = st.tuples(st.just(brand), st.sampled_from(["user", "device"]), FEW)
        for of in draw(st.sets(who, max_size=6)):
            rows += [("tags", (*of, tag)) for tag in draw(st.sets(FEW))]
            rows += [("attributes", (*of, key, draw(VALUES))) for key in draw(st.sets(FEW))]
            rows += [
                ("consents", (*of, topic, draw(st.sampled_from(["in", "out"])), "0", "brand"))
                for topic in draw(st.sets(FEW))
            ]
            rows.append(("preferences", (*of, "", "", "", draw(st.sampled_from(["", "a", "A_x", "b-x", "ab"])))))
    return rows


def written() -> st.SearchStrategy[str]:
    """Conditions as people write them."""
    quoted = VALUES.map(lambda value: '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"')
    term = st.tuples(st.sampled_from(["user", "device", "store", "topic", "tag", "language"]), FEW).map(":".join)
    attribute = st.tuples(st.just("attr."), FEW, st.sampled_from(["=", "!="]), quoted).map("".join)
    return st.recursive(
        term | attribute,
        lambda inner: (
            inner.map(lambda one: f"NOT ({one})")
            | st.tuples(inner, st.sampled_from([" AND ", " OR "]), inner).map(lambda parts: f"({''.join(parts)})")
        ),
        max_leaves=8,
    )


@pytest.fixture(scope="module")
def db() -> Iterator[Connection]:
    with closing(connect(":memory:", isolation_level=None)) as db:
        for script in _migrations("records"):
            db.executescript(script)
        yield db


def facts(db: Connection, kind: WhoKind, name: str) -> Facts:
    """What acme knows, read in the plainest way."""

    def column(sql: str) -> frozenset[str]:
        return frozenset(row[0] for row in db.execute(sql, (name,)) if row[0] is not None)

    of = f"brand = 'acme' AND kind = '{kind}' AND name = ?"
    mine = "brand = 'acme' AND " + ("user = ?" if kind == "user" else "name = ?")
    return Facts(
        kind=kind,
        name=name,
        user="" if kind == "user" else next(iter(column(f"SELECT user FROM devices WHERE {mine}")), ""),
        devices=column(f"SELECT name FROM devices WHERE {mine}"),
        stores=column(f"SELECT store FROM devices WHERE {mine}"),
        topics=column(f"SELECT topic FROM consents WHERE {of} AND state = 'in'"),
        tags=column(f"SELECT tag FROM tags WHERE {of}"),
        attributes=dict(db.execute(f"SELECT key, value FROM attributes WHERE {of}", (name,))),
        locale=next(iter(column(f"SELECT locale FROM preferences WHERE {of}")), ""),
    )


@settings(max_examples=150, deadline=None)
@given(worlds(), written(), st.booleans(), st.sampled_from(["user", "device"]))
def test_sql_finds_whom_python_finds(
    db: Connection, rows: list[tuple[str, tuple[str | None, ...]]], text: str, named: bool, kind: WhoKind
) -> None:
    condition = parse("NOT segment:s OR segment:s AND tag:a" if named else text, {"s": text})
    db.execute("BEGIN")
    try:
        for table, values in rows:
            db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
        everybody = [row[0] for row in db.execute(f"SELECT name FROM {kind}s WHERE brand = 'acme'")]
        true = {name for name in everybody if holds(condition, facts(db, kind, name))}

        query = Query()
        where = query.where(condition, kind, "s.name")
        sources = query.sources(condition, kind)
        values = {"brand": "acme", **query.values}
        found = {row[0] for row in db.execute(f"SELECT name FROM {kind}s s WHERE brand = :brand AND {where}", values)}
        assert found == true
        if sources is not None:  # they name at least all of these
            candidates = {
                row[0] for source in sources for row in db.execute(f"SELECT {source.column} FROM {source.rows}", values)
            }
            assert true <= candidates
    finally:
        db.execute("ROLLBACK")


def test_somebody_is_looked_for_where_the_fewest_are() -> None:
    def looked_for(text: str) -> list[str] | None:
        found = Query().sources(parse(text, SEGMENTS), "user")
        return None if found is None else [source.rows.split()[0] for source in found]

    assert looked_for("topic:news AND tag:vip AND NOT store:milano") == ["tags"]
    assert looked_for("topic:news AND (user:ada OR user:bob)") == ["users", "users"]
    assert looked_for("topic:news OR segment:best") == ["consents", "tags"]
    assert looked_for("NOT topic:news") is None
    assert looked_for("topic:news OR NOT tag:vip") is None
    assert looked_for("attr.city!=Roma") is None


def test_a_condition_is_a_tree() -> None:
    tree: Condition = parse("tag:a OR NOT (tag:b AND segment:s)", {"s": "topic:t"})
    a, b = (Term("tag", "", name, place, f"tag:{name}") for name, place in (("a", 1), ("b", 15)))
    named = Named(Term("segment", "", "s", 25, "segment:s"), Term("topic", "", "t", 1, "topic:t"))
    assert tree == Any((a, Not(All((b, named)))))
