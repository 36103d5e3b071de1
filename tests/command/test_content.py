"""`pushbroker content`, on the records and through a running broker."""

import asyncio
import csv
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Done, ok, serving

from broker import limits
from broker.command import content_import
from broker.command.base import Run
from broker.command.root import run
from broker.store.content import Content

CSV = """name,language,title,keywords,data.price,link
torta,it,Torta al cioccolato,sacher;dolce,3.50,https://acme.it/torta
torta,de,Schokoladentorte,,3.50,
orari,,Orari,aperto,,
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("content")
    for command in ("init", "brand add acme", "brand add rival"):
        assert run([*command.split(), "--data", str(data)]) == 0
    return data


@pytest.fixture
def acme(made: Path) -> Iterator[Path]:
    yield made
    for suffix in ("", "-wal", "-shm"):
        (made / f"content.db{suffix}").unlink(missing_ok=True)


Do = Callable[..., Done]


@pytest.fixture
def do(acme: Path, capsys: pytest.CaptureFixture[str]) -> Do:
    def call(*command: object, code: int = 0) -> Done:
        capsys.readouterr()
        done = run(["content", *map(str, command), "--data", str(acme)])
        said = capsys.readouterr()
        assert done == code, said.err
        return Done(done, said.out, said.err)

    return call


@pytest.fixture
def shop(do: Do, tmp_path: Path) -> Path:
    file = tmp_path / "shop.csv"
    file.write_text(CSV)
    do("import", "acme", file)
    return file


def listed(do: Do, *how: object) -> list[tuple[str, str]]:
    return [(one["name"], one["language"]) for one in do("list", "acme", "--json", *how).json]


def test_what_is_imported_is_there(do: Do, shop: Path) -> None:
    assert listed(do) == [("orari", ""), ("torta", "de"), ("torta", "it")]
    (shown,) = do("show", "acme", "torta", "--language", "it", "--json").json
    assert shown == {
        "name": "torta", "language": "it", "title": "Torta al cioccolato", "link": "https://acme.it/torta",
        "keywords": ["sacher", "dolce"], "data": {"price": "3.50"},
    }  # fmt: skip
    assert "Schokoladentorte" in do("show", "acme", "torta").out
    again = do("import", "acme", shop, "--json").json
    assert {name: again[name] for name in ("new", "changed", "same", "refused")} == {
        "new": 0, "changed": 0, "same": 3, "refused": 0,
    }  # fmt: skip


def test_lists_in_parts_and_by_words(do: Do, shop: Path) -> None:
    assert listed(do, "--limit", 2) == [("orari", ""), ("torta", "de")]
    assert "--after torta:de" in do("list", "acme", "--limit", 2).err
    assert listed(do, "--limit", 2, "--after", "torta:de") == [("torta", "it")]
    assert listed(do, "--search", "torte") == [("torta", "it")]
    assert listed(do, "--language", "") == [("orari", "")]
    assert "content import" in do("list", "rival").err
    do("list", "acme", "--search", "x", "--after", "y", code=2)
    do("list", "nobody", code=3)
    assert "try: pushbroker content list acme" in do("show", "acme", "cornetto", code=3).err
    for command in (("show", "acme", "tort"), ("edit", "acme", "tort", "--set", "title=x"), ("remove", "acme", "tort")):
        assert "Did you mean 'torta'?" in do(*command, code=3).err


def test_refused_items_are_told_line_by_line_and_stop_no_others(do: Do, tmp_path: Path) -> None:
    file, report = tmp_path / "some.csv", tmp_path / "report.csv"
    file.write_text("name,title,link,body\na,A,,\nb b,B,,\nc,C,ftp://x,\nd,D,,{% for x in y %}\na,A2,,\ne,E,,\n")
    done = do("import", "acme", file, "--report", report, code=4)
    assert "some.csv:6: a, name: an item of this name and language stands in line 2 already\n" in done.err
    assert "some.csv:3: b b, name: it is not written as it must be\n" in done.err
    assert "try: A name has 1 to 64" in done.err
    assert "2 items of acme: 2 new, 0 as before, 4 refused" in done.err
    rows = list(csv.DictReader(report.read_text().splitlines()))
    assert [(row["line"], row["name"], row["field"]) for row in rows] == [
        ("6", "a", "name"), ("3", "b b", "name"), ("4", "c", "link"), ("5", "d", "body"),
    ]  # fmt: skip
    assert all(row["why"] and row["what_would_do"] for row in rows)
    assert listed(do) == [("a", ""), ("e", "")]


def test_items_that_say_what_they_have_not_are_named(do: Do, tmp_path: Path) -> None:
    file = tmp_path / "shop.jsonl"
    good = {"name": "torta", "title": "Torta", "body": "{{ data.price }} {{ user.title }}", "data": {"price": 3}}
    file.write_text("\n".join(json.dumps(one) for one in (good, {**good, "name": "pane", "data": {"prize": 3}})))
    done = do("import", "acme", file)
    assert "1 item with data to fill in that are not there:\n  pane: data.price\n" in done.err
    assert len(listed(do)) == 2


def test_not_all_of_many_are_shown(do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_import, "_SHOWN", 2)
    file = tmp_path / "bad.jsonl"
    file.write_text('{"name": "a"}\n' + '{"title": "b"}\n' * 4)
    done = do("import", "acme", file, code=4)
    assert "and 3 more: --report FILE has all of them" in done.err
    assert len(do("import", "acme", file, "--json", code=4).json["problems"]) == 2


def test_a_dry_run_changes_nothing(do: Do, shop: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    file.write_text("name,title\norari,Aperto\nnuovo,Nuovo\n")
    done = do("import", "acme", file, "--dry-run", "--replace")
    assert "2 items of acme: would be 1 new, 1 changed, 2 removed" in done.err
    assert listed(do) == [("orari", ""), ("torta", "de"), ("torta", "it")]


def test_what_is_not_in_it_is_removed_if_all_of_it_was_understood(do: Do, shop: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.jsonl"
    file.write_text('{"name": "orari", "title": "Orari"}\n{"name": "torta"\n')
    done = do("import", "acme", file, "--replace", code=4)
    assert "nothing was removed" in done.err
    assert len(listed(do)) == 3
    file.write_text('{"name": "orari", "title": "Orari"}\n{"name": "torta", "language": "it"}\n')
    done = do("import", "acme", file, "--replace", "--json", code=4)
    assert (done.json["removed"], done.json["refused"]) == (1, 1)
    assert listed(do) == [("orari", ""), ("torta", "it")]


def test_nothing_is_done_with_what_is_no_import(do: Do, tmp_path: Path) -> None:
    file = tmp_path / "items.txt"
    file.write_text("nome;titolo\n")
    assert "--format" in do("import", "acme", file, code=4).err
    assert "no name and no title" in do("import", "acme", file, "--format", "csv", code=4).err
    assert "there is no" in do("import", "acme", tmp_path / "none.csv", code=1).err
    file.write_text("name,title\na,A\n")
    do("import", "nobody", file, "--format", "csv", code=3)


def test_many_go_in_several_requests(do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ITEMS_AT_ONCE", 4)
    monkeypatch.setattr(limits, "ITEMS_PAGE_MAX", 4)
    folder = tmp_path / "answers"
    (folder / "it").mkdir(parents=True)
    for number in range(9):
        (folder / f"it/n{number}.md").write_text(f"# Numero {number}\n\nTesto.\n")
    assert "9 items of acme: 9 new" in do("import", "acme", folder).err
    (folder / "it/n3.md").unlink()
    (folder / "it/n4.md").write_text("no title")
    done = do("import", "acme", folder, "--replace", code=4)
    assert "it/n4.md:1: n4, title: title is missing" in done.err
    assert listed(do) == [(f"n{number}", "it") for number in range(9) if number != 3]


def test_a_price_is_changed_without_an_editor(do: Do, shop: Path) -> None:
    do("edit", "acme", "torta", "--set", "data.price=4.00", "--set", "data.fresh=today", "--set", "link=")
    shown = do("show", "acme", "torta", "--json").json
    assert [(one["data"], one.get("link")) for one in shown] == [({"price": "4.00", "fresh": "today"}, None)] * 2
    assert "Say which language" in do("edit", "acme", "torta", "--set", "title=Torta", code=4).err
    do("edit", "acme", "torta", "--language", "it", "--set", "title=Torta", "--set", "keywords=dolce; sacher",
       "--set", "hours=mon-fri 09:00-18:00", "--set", "data.fresh=")  # fmt: skip
    (one,) = do("show", "acme", "torta", "--language", "it", "--json").json
    assert (one["title"], one["keywords"], one["hours"], one["data"]) == (
        "Torta", ["dolce", "sacher"], {"mon-fri": ["09:00-18:00"]}, {"price": "4.00"}
    )  # fmt: skip
    do("edit", "acme", "torta", "--set", "titel=x", code=4)
    do("edit", "acme", "torta", "--set", "title", code=2)


def editor(path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("EDITOR", str(path))
    monkeypatch.delenv("VISUAL", raising=False)


def test_an_item_is_edited_as_markdown(do: Do, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "editor"
    editor(
        program,
        monkeypatch,
        f"cp $1 {tmp_path}/shown.md; echo 'Dalle 9.' >> $1; sed -i s/aperto/aperti/ $1; touch -d 2030-01-01 $1",
    )
    do("edit", "acme", "orari")
    assert (tmp_path / "shown.md").read_text() == "---\ntitle: Orari\nkeywords: [aperto]\n---\n\n\n"
    (shown,) = do("show", "acme", "orari", "--json").json
    assert shown == {"name": "orari", "title": "Orari", "body": "Dalle 9.", "keywords": ["aperti"]}
    editor(program, monkeypatch, "true")
    assert "nothing was changed" in do("edit", "acme", "orari").err
    assert "--language de or --language it" in do("edit", "acme", "torta", code=2).err.replace(", ", " or ")


def test_what_is_edited_wrongly_is_not_kept(
    do: Do, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "editor"
    monkeypatch.setattr("click.confirm", lambda *_args, **_named: False)
    for script in ("sed -i s/title:/titel:/ $1", "echo '---\nx: [\n---' > $1"):
        editor(program, monkeypatch, f"{script}; touch -d 2030-01-01 $1")
        assert "refused: " in do("edit", "acme", "orari", code=1).err
    (shown,) = do("show", "acme", "orari", "--json").json
    assert shown["title"] == "Orari"


def test_without_an_editor_it_is_said_what_to_do(do: Do, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    assert "no terminal for an editor: use --set" in do("edit", "acme", "orari", code=2).err
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    assert "try: Set $EDITOR to an editor that is there" in do("edit", "acme", "orari", code=1).err


def test_what_cannot_be_imported_at_all_removes_nothing(do: Do, shop: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    said = do("import", "acme", empty, "--replace", code=4).err
    assert said == f"error: {empty} has no Markdown files\n  try: Name the folder in which the .md files are.\n"
    said = do("import", "acme", tmp_path / "shpo.csv", "--replace", code=1).err
    assert said == f"error: there is no {tmp_path}/shpo.csv\n  try: Name a file or a folder that is there.\n"
    assert listed(do) == [("orari", ""), ("torta", "de"), ("torta", "it")]


def test_an_import_that_is_stopped_says_what_was_taken(do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "many.csv"
    file.write_text("name,title\n" + "".join(f"n{number},T\n" for number in range(limits.ITEMS_AT_ONCE + 1)))
    put = Run.call

    def call(run: Run, operation: str, /, **arguments: Any) -> Any:
        if operation == "content.put" and len(arguments["items"]) == 1:
            raise KeyboardInterrupt  # what Ctrl-C does
        return put(run, operation, **arguments)

    monkeypatch.setattr(Run, "call", call)
    said = do("import", "acme", file, code=130).err
    assert said.strip() == "stopped, after 1,000 items were taken. Do it again for the rest."
    assert "nothing" not in said


def test_of_a_refused_item_it_is_said_what_would_do(do: Do, tmp_path: Path) -> None:
    file = tmp_path / "shop.json"
    file.write_text('[{"name": "a"}, {"name": "b", "title": "B"},')
    assert do("import", "acme", file, code=4).err.splitlines()[:4] == [
        "shop.json: line 1: it is no JSON from here on",
        "  try: Look for what is missing there.",
        "shop.json:1: a, title: title is missing",
        "  try: Every item has a name and a title.",
    ]


def test_items_are_removed(do: Do, shop: Path) -> None:
    do("remove", "acme", "torta", code=2)  # nobody was asked
    assert do("remove", "acme", "torta", "--language", "de", "--yes", "--json").json["removed"] == 1
    assert listed(do) == [("orari", ""), ("torta", "it")]
    do("remove", "acme", "torta", "--yes")
    do("remove", "acme", "torta", "--yes", code=3)


def test_rules_are_set_and_shown(do: Do, tmp_path: Path) -> None:
    assert do("rules", "show", "acme").json == {}
    file = tmp_path / "rules.json"
    file.write_text('{"language": "it", "hours": {"mon-fri": ["09:00-18:00"]}}')
    do("rules", "set", "acme", file)
    assert do("rules", "show", "acme").json == json.loads(file.read_text())
    for wrong in ('{"langage": "it"}', '{"time_zone": "Rome"}', "not JSON", '{"otherwise": "route:x"}'):
        file.write_text(wrong)
        assert "try: " in do("rules", "set", "acme", file, code=4).err
    assert do("rules", "show", "acme").json["language"] == "it"


def test_a_brand_that_was_removed_leaves_no_content(do: Do, shop: Path, acme: Path) -> None:
    assert run(["brand", "add", "gone", "--data", str(acme)]) == 0
    do("import", "gone", shop)
    assert run(["brand", "remove", "gone", "--yes", "--data", str(acme)]) == 0

    async def brands() -> set[str]:
        async with await Content.open(acme / "content.db") as content:
            return await content.brands()

    assert asyncio.run(brands()) == {"acme"}


def test_with_a_running_broker(acme: Path, tmp_path: Path) -> None:
    file = tmp_path / "shop.csv"
    file.write_text(CSV)
    with serving("--data", acme, "--listen", "mqtt://127.0.0.1:0"):
        ok("brand", "add", "shop", "--data", acme)
        ok("content", "import", "shop", file, "--data", acme)
        ok("content", "edit", "shop", "torta", "--set", "data.price=9", "--data", acme)
        listed = ok("content", "list", "shop", "--search", "sacher", "--json", "--data", acme).json
        assert [(one["name"], one["data"]) for one in listed] == [("torta", {"price": "9"})]
        assert ok("status", "--json", "--data", acme).json["content"]["items"] == 3
        ok("brand", "remove", "shop", "--yes", "--data", acme)
        ok("brand", "add", "shop", "--data", acme)
        assert ok("content", "list", "shop", "--json", "--data", acme).json == []
    assert os.access(acme / "content.db", os.R_OK)
