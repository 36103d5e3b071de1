"""`pushbroker ask`: what a question would be answered, and why; with a broker and without one."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import Done
from support.library import AT, item

from broker.command.root import run
from broker.store.content import Content

SHOP = (
    item("torta-cioccolato", "Torta al cioccolato", keywords=["sacher"], data={"price": 3},
         body="Per {{ user.title }}: {{ data.price }} €"),
    item("torta-mele", "Torta di mele", body="Con cioccolato fondente."),
    item("torta-vip", "Torta segreta", tags=["vip"]),
    item("orari", "Orari", stores=["milano"], body="9-18"),
    item("wipro", "Wipro", language=""),
)  # fmt: skip


async def fill(path: Path) -> None:
    async with await Content.open(path) as content:
        await content.put(SHOP, AT)


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("acme")
    for command in (
        "init", "brand add acme", "user add acme ada --title Ada", "store add acme milano",
        "device code acme kiosk-7 --user ada --store milano", "user preferences acme ada --locale it-IT",
    ):  # fmt: skip
        assert run([*command.split(), "--data", str(data)]) == 0
    asyncio.run(fill(data / "content.db"))
    return data


@pytest.fixture
def ask(acme: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def do(*command: str, code: int = 0) -> Done:
        capsys.readouterr()
        done = run(["ask", "--brand", "acme", *command, "--data", str(acme)])
        said = capsys.readouterr()
        assert done == code, said.err
        return Done(done, said.out, said.err)

    return do


def test_the_answer_and_what_speaks_for_it_are_shown(ask: Callable[..., Done]) -> None:
    out = ask("una torta con cioccolato", "--as", "ada").out
    assert out.startswith("answered  It is what an item is called")
    assert "  Per Ada: 3 €\n" in out
    lines = [line.split() for line in ask("torta cioccolato panna", "--as", "ada").out.splitlines()]
    assert ["Score", "Item", "Language", "Title", "Why"] in lines
    assert any(line[1:2] == ["torta-cioccolato"] and "torta, cioccolato in title" in " ".join(line) for line in lines)


def test_programs_get_all_of_it(ask: Callable[..., Done]) -> None:
    found = ask("torta", "--as", "ada", "--json").json
    assert (found["outcome"], found["rule"], found["language"]) == ("choice", "search", "it")
    assert [one["id"] for one in found["choices"]] == ["torta-cioccolato", "torta-mele"]
    assert [hit["left_out"] for hit in found["hits"] if "left_out" in hit] == ["it is for who has other tags"]
    followed = ask("follow wipro daily", "--as", "ada", "--json").json
    assert followed["action"] == {"does": "follow", "item": "wipro", "every_s": 86400}


def test_a_store_is_asked_in_without_a_device(ask: Callable[..., Done]) -> None:
    assert ask("orari", "--as", "ada", "--json").json["outcome"] == "nothing"
    found = ask("orari", "--as", "ada", "--store", "milano", "--json").json
    assert (found["outcome"], found["store"]) == ("answered", "milano")
    assert ask("orari", "--device", "kiosk-7", "--json").json["store"] == "milano"
    assert "acme has no store 'milan'" in ask("orari", "--store", "milan", code=3).err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("torta", "Several items have all of it that any item has, in title or keywords."),
        ("la mia torta sacher", "One item has all of it that any item has, in title or keywords."),
        ("cioccolato fondente", "Several items have about as much of it: the first is not 0.25 ahead of all others."),
        ("fattura", "No item that is for them now has a word of it."),
        ("torta fattura scontrino ricevuta partita iva", "No item has enough of it: 0."),
        ("operatore", "It is the command 'operator', and nothing else."),
    ],
)
def test_why_is_said_in_a_sentence(ask: Callable[..., Done], text: str, why: str) -> None:
    assert ask(text, "--as", "ada", "--json").json["why"].startswith(why)


def test_the_device_says_where_and_who(ask: Callable[..., Done]) -> None:
    assert ask("orari", "--as", "ada", "--json").json["outcome"] == "nothing"
    found = ask("orari", "--device", "kiosk-7", "--json").json
    assert (found["user"], found["store"], found["shown"]["body"]) == ("ada", "milano", "9-18")


def test_an_option_is_taken_by_its_id(ask: Callable[..., Done]) -> None:
    assert ask("--choice", "torta-mele", "--as", "ada", "--json").json["shown"]["title"] == "Torta di mele"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("--choice", "none"), 4, "unknown_choice"),
        (("x" * 1001,), 4, "too_long"),
        (("\x07 ",), 4, "empty"),
        ((), 2, "Say what is asked"),
        (("torta", "--as", "bob"), 3, "no user 'bob'"),
        (("torta", "--device", "kiosk-8"), 3, "no device 'kiosk-8'"),
        (("torta", "--at", "noon"), 2, "no time"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    ask: Callable[..., Done], command: tuple[str, ...], code: int, words: str
) -> None:
    assert words in ask(*command, code=code).err
