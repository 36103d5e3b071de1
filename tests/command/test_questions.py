"""`pushbroker questions`: figures, what was asked in vain, lists; here without a broker."""

import asyncio
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.asked import book
from support.cli import Done

from broker.command.output import print_csv
from broker.command.root import run
from broker.pull.figures import OUTCOMES
from broker.store.content import Content

AT = 1_795_042_800_000  # 2026-11-18T23:00:00Z: midnight in Rome
LOST = {"outcome": "nothing", "rule": "not_found", "item": "", "score": 0, "folded": "fattur", "text": "una fattura?"}
ROWS: list[dict[str, Any]] = [
    *({"at": AT + number, "thumb": 1, "took_us": 3000} for number in range(8)),
    {"at": AT - 1, "store": "roma", "outcome": "server", "took_us": 700_000, "thumb": -1, "text": "cerca scarpe"},
    *({"at": AT - 10 + number, "store": "", **LOST} for number in range(2)),
    {"at": AT, "store": "", **LOST, "rule": "low_score", "score": 0.2, "nearest": "scontrino"},
]
TIME = ("--since", "2026-11-18", "--until", "2026-11-20")


async def fill(data: Path) -> None:
    await book(data / "messages.db", ROWS)
    async with await Content.open(data / "content.db") as content:
        await content.set_rules("acme", '{"time_zone": "Europe/Rome"}')


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("acme")
    for command in ("init", "brand add acme", "brand add quiet"):
        assert run([*command.split(), "--data", str(data)]) == 0
    asyncio.run(fill(data))
    return data


@pytest.fixture
def ask(acme: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def do(*command: str, code: int = 0) -> Done:
        capsys.readouterr()
        done = run(["questions", *command, "--data", str(acme)])
        said = capsys.readouterr()
        assert done == code, said.err
        return Done(done, said.out, said.err)

    return do


def test_one_screen_says_how_it_goes(ask: Callable[..., Done]) -> None:
    lines = ask("figures", "acme", *TIME).out.splitlines()
    assert lines[0] == "acme  from 2026-11-18 00:00 to 2026-11-20 00:00, Europe/Rome"
    assert lines[1] == "12 questions = 8 answered + 0 choice + 1 server + 0 person + 0 waiting + 3 nothing"
    shown = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[3:9]}
    assert shown["answered"] == f"8 66.7% {'█' * 20} half in 3 ms, 99% in 3 ms"
    assert shown["server"].endswith("half in 700 ms, 99% in 700 ms")
    assert shown["choice"] == "0 0.0%"
    assert "  rated: 9, 88.9% of them of use" in lines


def test_days_are_the_brands_and_each_has_a_line(ask: Callable[..., Done]) -> None:
    lines = ask("figures", "acme", "--by", "day", *TIME).out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["2026-11-18", "3"], ["2026-11-19", "9"]]


def test_stores_are_a_table_for_programs_too(ask: Callable[..., Done]) -> None:
    rows = list(csv.DictReader(io.StringIO(ask("figures", "acme", "--by", "store", "--csv", *TIME).out)))
    assert [(row["what"], row["questions"]) for row in rows] == [("", "3"), ("milano", "8"), ("roma", "1")]
    assert all(int(row["questions"]) == sum(int(row[name]) for name in OUTCOMES) for row in rows)
    assert rows[1]["automation_p99_s"] == "0.003"
    found = json.loads(ask("figures", "acme", "--by", "store", "--json", *TIME).out)
    assert [row["questions"] for row in found["figures"]] == [3, 8, 1]
    assert found["all"]["questions"] == 12
    assert found["time_zone"] == "Europe/Rome"


def test_missing_content_is_listed_with_an_example(ask: Callable[..., Done]) -> None:
    lines = ask("unanswered", "acme", *TIME).out.splitlines()
    assert lines[1].split() == ["3", "2026-11-18", "23:00", "0.20", "scontrino", "una", "fattura?"]


def test_questions_are_listed_the_newest_first(ask: Callable[..., Done]) -> None:
    listed = ask("list", "acme", "--limit", "3", *TIME)
    assert len(listed.out.splitlines()) == 4
    assert "perhaps there are more: --until 2026-11-18T23:00:00.00" in listed.err
    down = json.loads(ask("list", "acme", "--thumb", "down", "--json", *TIME).out)
    assert [(row["text"], row["outcome"], row["took_s"]) for row in down] == [("cerca scarpe", "server", 0.7)]
    only = json.loads(ask("list", "acme", "--outcome", "nothing", "--store", "", "--json", *TIME).out)
    assert only[0]["at"] == "2026-11-18T23:00:00.000Z"
    assert len(only) == 3


def test_questions_are_a_table_for_programs_too(ask: Callable[..., Done]) -> None:
    rows = list(csv.DictReader(io.StringIO(ask("unanswered", "acme", "--csv", *TIME).out)))
    assert [(row["questions"], row["nearest"], row["example"]) for row in rows] == [("3", "scontrino", "una fattura?")]
    (row,) = csv.DictReader(io.StringIO(ask("list", "acme", "--thumb", "down", "--csv", *TIME).out))
    assert (row["at"], row["took_s"], row["text"]) == ("2026-11-18T22:59:59.999Z", "0.7", "cerca scarpe")


@pytest.mark.parametrize("said", ['=HYPERLINK("x")', "+1", "-1", "@SUM(1)", "\t=1", "\x1b[2J"])
def test_what_a_customer_wrote_is_no_formula_and_moves_no_cursor(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_csv([{"text": said, "score": -0.5, "nearest": "a-b"}], ("text", "score", "nearest"))
    _, (text, score, nearest) = csv.reader(io.StringIO(capsys.readouterr().out))
    assert text[0] in "'\N{REPLACEMENT CHARACTER}"
    assert "\x1b" not in text
    assert (score, nearest) == ("-0.5", "a-b")


def test_nothing_asked_is_said_so(ask: Callable[..., Done]) -> None:
    assert "0 questions = 0 answered" in ask("figures", "quiet").out
    assert "Nobody asked anything from" in ask("figures", "quiet", "--by", "day").err
    assert ask("figures", "quiet", "--by", "day", "--csv").out.startswith("what,questions,answered")
    assert "Nothing was asked in vain" in ask("unanswered", "quiet").err
    assert "there is no brand" in ask("figures", "nobody", code=3).err


def test_a_time_that_is_none_is_refused(ask: Callable[..., Done]) -> None:
    said = ask("figures", "acme", "--since", "2026-11-20", "--until", "2026-11-18", code=4).err
    assert said.startswith("error: that ends before it begins")
    ask("figures", "acme", "--since", "2999-01-01", code=4)
    said = ask("figures", "acme", "--since", "yesterday", code=4).err
    assert "'yesterday' is no day and no time" in said
    assert "Write 2026-11-24" in said
