"""How a brand answers: what its rules may be."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Refused
from broker.pull.rules import Rules, in_language, of, parse, said
from broker.pull.template import check

DOCUMENT = Path(__file__).parents[2] / "docs/asking.md"

FULL: dict[str, Any] = {
    "language": "it", "time_zone": "Europe/Rome", "hours": {"mon-fri": ["09:00-18:00"]}, "score_min": 0.3, "lead": 0.2,
    "choices_max": 3, "otherwise": "route:search", "routes": {"search": {"time_limit_s": 2, "or": "person"}},
    "commands": [{"words": ["orari"], "item": "orari"}, {"words": ["cerca *"], "route": "search"}],
    "hand_over": [{"words": ["reclamo"], "tags": ["vip"]}], "texts": {"help": {"it": "Ciao {{ user.title }}"}},
    "inbox": {"remind_s": 60},
}  # fmt: skip


def test_rules_are_read_as_they_are_written() -> None:
    rules = parse(json.dumps(FULL).encode())
    assert rules.routes["search"].otherwise == "person"
    assert rules.inbox.remind_s == 60
    assert of("") == Rules()


def test_the_rules_and_the_template_of_the_document_are_ones() -> None:
    blocks = re.findall(r"^```(\w*)\n(.+?)^```", DOCUMENT.read_text(), flags=re.MULTILINE | re.DOTALL)
    (rules,) = (text for kind, text in blocks if kind == "json" and "otherwise" in text)
    (template,) = (text for _, text in blocks if "{%" in text)
    assert parse(rules.encode()).otherwise == "person"
    check(template)
    assert all(f"`{field}`" in DOCUMENT.read_text() for field in Rules.__struct_fields__)


@pytest.mark.parametrize(
    "change",
    [
        {"scoremin": 1},
        {"score_min": 2},
        {"time_zone": "Roma"},
        {"hours": {"mon": ["9"]}},
        {"otherwise": "route:none"},
        {"otherwise": "shrug"},
        {"commands": [{"words": ["x"]}]},
        {"commands": [{"words": ["*"], "item": "x"}]},
        {"hand_over": [{"words": ["?!"]}]},
        {"hand_over": [{}]},
        {"commands": [{"words": [], "item": "x"}]},
        {"commands": [{"words": ["x"], "item": "a", "hand_over": True}]},
        {"commands": [{"words": ["x"], "route": "none"}]},
        {"commands": [{"words": ["x"], "text": {"it": "{{ 9 * 9 }}"}}]},
        {"texts": {"help": {"it": "{% for %}"}}},
        {"texts": {"help": {"italiano": "x"}}},
        {"routes": {"a/b": {}}},
    ],
)
def test_what_cannot_be_meant_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        parse(json.dumps({**FULL, **change}).encode())
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{" * 10_000])
def test_what_are_no_rules_at_all_is_refused(content: bytes) -> None:
    with pytest.raises(Refused):
        parse(content)


def test_words_come_in_the_language_of_who_asks_or_the_brands() -> None:
    assert in_language({"it": "a", "": "b"}, "de", "it") == "a"
    assert in_language({"it": "a", "": "b"}, "de") == "b"
    assert in_language({"it": "a"}, "de") == "a"
    rules = parse(json.dumps(FULL).encode())
    assert said(rules, "help", "de") == "Ciao {{ user.title }}"
    assert said(rules, "nothing", "de").startswith("Darauf")
    assert said(rules, "nothing", "").startswith("Qui")
