"""Conditions: each is understood, as SQL too, or refused with the place that is at fault."""

import sqlite3
from collections.abc import Iterator

from fuzz.target import Target

from broker.bridge.condition import BadCondition, Facts, Query, explain, holds, parse, terms
from broker.limits import CONDITION_TERMS_MAX
from broker.store.database import _migrations

_SEGMENTS = {"a": "tag:x OR topic:y", "b": "segment:a AND NOT segment:c", "c": "segment:b", "d": "attr.k!=v"}
_WHO = Facts(kind="user", name="ada", tags=frozenset({"x"}), attributes={"k": "v"})


def _database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for script in _migrations("records"):
        db.executescript(script)
    return db


_DB = _database()


def run(data: bytes) -> None:
    """A condition."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    try:
        condition = parse(text, _SEGMENTS)
    except BadCondition as error:
        _check(error, text)
        return
    assert 1 <= len(list(terms(condition))) <= CONDITION_TERMS_MAX
    for term in terms(condition, of_segments=False):
        assert text[term.place - 1 :].startswith(term.text)
    assert holds(condition, _WHO) in (True, False)
    assert explain(condition, _WHO)
    for kind in ("user", "device"):
        query = Query()
        where = query.where(condition, kind, "s.name")
        sources = query.sources(condition, kind) or []
        values = {"brand": "acme", **query.values}
        for source in sources:
            _DB.execute(f"SELECT {source.column} FROM {source.rows}", values).fetchall()
        _DB.execute(f"SELECT name FROM {kind}s s WHERE brand = :brand AND {where}", values).fetchall()


def _check(error: BadCondition, text: str) -> None:
    assert 1 <= error.place <= len(text) + 1, error.place
    assert error.message.startswith(f"at character {error.place}: ")


def seeds() -> Iterator[bytes]:
    yield from (
        text.encode()
        for text in (
            "topic:news AND store:milano AND NOT tag:staff",
            "(user:ada OR device:kiosk-7) AND attr.city=Milano",
            'attr.city!="Milano \\" Centrale" OR segment:a',
            "segment:d AND NOT NOT (tag:x)",
            "segment:b",
            "((((((((((((((((tag:x))))))))))))))))",
            "tag: AND", "attr.k=", '"', "OR", "NOT", "caffè:x", "tag:x tag:y", "{name}:{value}", "attr.{key}=:p0",
        )
    )  # fmt: skip


TARGET = Target("conditions", "conditions of segments and requests", run, seeds, bytes_max=300, runs_in_ci=2000)
