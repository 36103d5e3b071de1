"""Items from files: what each form says, and what is said of what cannot be read."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Failed, Refused
from broker.limits import ITEM_BYTES_MAX
from broker.pull import importing as module
from broker.pull.importing import Form, Found, Problem, as_markdown, form_of, markdown, read
from broker.pull.library import FIELDS

NAMES = {"csv": "x.csv", "json": "x.json", "jsonl": "x.jsonl", "markdown": "x.md"}


def entries(path: Path, form: Form, text: str | bytes) -> list[Found | Problem]:
    file = path / NAMES[form]
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read(file, form))


def fields(path: Path, form: Form, text: str | bytes) -> list[dict[str, Any]]:
    found = entries(path, form, text)
    assert all(isinstance(one, Found) for one in found), found
    return [one.fields for one in found if isinstance(one, Found)]


def problems(path: Path, form: Form, text: str | bytes) -> list[tuple[int, str]]:
    found = [one for one in entries(path, form, text) if isinstance(one, Problem)]
    assert all(one.remedy for one in found)
    return [(one.line, one.why) for one in found]


def test_the_fields_are_those_of_items() -> None:
    assert {*module.TEXTS, *module.LISTS, "hours", "data"} == set(FIELDS)


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.json", "a.jsonl", "a.ndjson", "a.md"])
def test_a_name_says_how_it_is_written(name: str) -> None:
    suffix = name.lower().partition(".")[2]
    assert form_of(Path(name)) == {"ndjson": "jsonl", "md": "markdown"}.get(suffix, suffix)


def test_one_that_says_nothing(tmp_path: Path) -> None:
    assert form_of(tmp_path) == "markdown"
    with pytest.raises(Refused, match="how it is written"):
        form_of(Path("items.txt"))


# -- CSV ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv(tmp_path: Path, delimiter: str, mark: bytes) -> None:
    header = ["name", "title", "language", "keywords", "stores", "hours", "data.price", "data.sku", "body"]
    row = ["cake", '"Torta, buona; ""proprio"""', "it", '"sacher; dolce;"', "milano",
           '"mon-fri 09:00-13:00 14:00-18:00; sat 09:00-12:00"', "3.50", "", '"due\r\nrighe"']  # fmt: skip
    text = f"{delimiter.join(header)}\r\n{delimiter.join(row)}\r\n\r\n{delimiter.join(['tart', 'Crostata'])}\r\n"
    assert fields(tmp_path, "csv", mark + text.encode()) == [
        {
            "name": "cake", "title": 'Torta, buona; "proprio"', "language": "it", "keywords": ["sacher", "dolce"],
            "stores": ["milano"], "hours": {"mon-fri": ["09:00-13:00", "14:00-18:00"], "sat": ["09:00-12:00"]},
            "data": {"price": "3.50"}, "body": "due\nrighe",
        },
        {"name": "tart", "title": "Crostata"},
    ]  # fmt: skip


def test_a_row_stands_on_the_line_on_which_it_begins(tmp_path: Path) -> None:
    text = 'name,title,body\na,A,"one\ntwo\nthree"\nb,B,\n'
    assert [one.line for one in entries(tmp_path, "csv", text)] == [2, 5]


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("", "no name and no title"),
        ("nome,titolo", "no name and no title"),
        ("name", "no title"),
        ("name,title,prezzo", "no field 'prezzo'"),
        ("name,title,data.", "no field 'data.'"),
        ("name,title,title", "title stands there twice"),
    ],
)
def test_a_header_that_says_nothing(tmp_path: Path, header: str, why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        entries(tmp_path, "csv", f"{header}\na,A\n")
    assert caught.value.remedy


def test_lines_that_cannot_be_read_stop_no_others(tmp_path: Path) -> None:
    text = b"name,title\na,A\nb,caff\xe8\nc,C,too,many\nd,D\x00\n" + b"e," + b"x" * ITEM_BYTES_MAX + b'\nf,"F"x\ng,G\n'
    assert problems(tmp_path, "csv", text) == [
        (3, "it is not UTF-8"),
        (4, "it has 4 cells, and the header 2"),
        (6, "it is longer than 64 KiB"),
        (7, "it is no CSV: ',' expected after '\"'"),
    ]
    assert [one.fields["name"] for one in entries(tmp_path, "csv", text) if isinstance(one, Found)] == ["a", "d", "g"]


def test_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    ((line, why),) = problems(tmp_path, "csv", 'name,title\na,A\nb,"B\nc,C\n')
    assert (line, why) == (3, "it is no CSV: unexpected end of data")


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_another_encoding_is_named(tmp_path: Path, form: Form) -> None:
    with pytest.raises(Refused, match="UTF-16") as caught:
        entries(tmp_path, form, "name,title\n".encode("utf-16"))
    assert "iconv" in caught.value.remedy


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    text = '{"name": "a", "data": {"x": [1, null]}}\n\n{"name": "b"}'
    assert fields(tmp_path, "jsonl", text) == [{"name": "a", "data": {"x": [1, None]}}, {"name": "b"}]


def test_json_lines_that_are_none(tmp_path: Path) -> None:
    text = b'{"name": "a"\n[1]\n{"name": "\xff"}\n' + b"[" * 60_000 + b'\n{"name": "b"}\n'
    found = problems(tmp_path, "jsonl", text)
    assert [line for line, _ in found] == [1, 2, 3, 4]
    assert [why for _, why in found[1:3]] == ["it is no object", "it is not UTF-8"]


@pytest.mark.parametrize("text", ["[]", " [ ] ", "\ufeff[]"])
def test_a_list_of_nothing(tmp_path: Path, text: str) -> None:
    assert entries(tmp_path, "json", text) == []


def test_a_list_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    bodies = [f"è{number} " * 997 for number in range(300)]
    lines = ",\n".join(f'{{"name": "n{number}",\n "body": "{body}"}}' for number, body in enumerate(bodies))
    found = entries(tmp_path, "json", f"[\n{lines}\n]")
    assert [one.fields["body"] for one in found if isinstance(one, Found)] == bodies
    assert [one.line for one in found] == [2 + 2 * number for number in range(300)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON from here on"),
        ('{"name": "a"}', "line 1: it is no list"),
        ('\n[{"name": "a"},\n{"name": b"}]', "line 3: it is no JSON"),
        ('[{"name": "a"}', "line 1: it is no JSON"),
        ('[{"name": "' + "a" * 300_000 + '"}]', "line 1: it is no JSON"),
        ("[" * 100_000, "line 1: it is no JSON"),
        (b'[{"name": "\xe8"}]', "UTF-8"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, text: str | bytes, why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        entries(tmp_path, "json", text)
    assert caught.value.remedy


def test_what_in_a_list_is_no_item(tmp_path: Path) -> None:
    assert problems(tmp_path, "json", '[{"name": "a"},\n 5,\n {"name": "b"}]') == [(2, "it is no object")]


# -- Markdown ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("# Orari #\n\nDalle 9 alle 18.\n", {"title": "Orari", "body": "Dalle 9 alle 18."}),
        ("---\ntitle: Orari\n---\n# Prima\n", {"title": "Orari", "body": "# Prima"}),
        ("---\nkeywords: [a, b]\n---\n\n# T\nx\n", {"keywords": ["a", "b"], "title": "T", "body": "x"}),
        ("---\n---\n# T", {"title": "T"}),
        ("---\nvalid_from: 2026-12-24\n---\n", {"valid_from": "2026-12-24"}),
        ("---\nlanguage: no\n---\n", {"language": "no"}),
        ("---\ndata: {price: 3.5, 1: x}\n---\n", {"data": {"price": 3.5, "1": "x"}}),
        ("#no heading", {"body": "#no heading"}),
        ("", {}),
    ],
)  # fmt: skip
def test_markdown(text: str, wanted: dict[str, Any]) -> None:
    assert markdown(text) == wanted


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("title: [", "no YAML, line"),
        ("a: b: c", "no YAML, line 2"),
        ("just words", "no fields"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "refers to itself"),
        ("a: !!python/object/apply:os.system [ls]", "no YAML"),
        ("a: " + "x" * 33_000, "longer than 32 KiB"),
        ("a: " + "[" * 5000, "no YAML|what no item"),
        ("? [a, b]\n: c", "no YAML|what no item"),
        ("a: 1" + ":1" * 8000 + ".5", "what no item"),
    ],
)
def test_a_head_that_is_none(head: str, why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        markdown(f"---\n{head}\n---\nx")
    assert caught.value.remedy


def test_names_and_languages_of_a_folder(tmp_path: Path) -> None:
    for name in ("orari.md", "it/torta.md", "dolci/de/torta.md", "torta.en.md", "v1.2.md", ".draft.md", "note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# T\n")
    (tmp_path / "named.md").write_text("---\nname: altro\nlanguage: fr\n---\n# T")
    found = [one for one in read(tmp_path, "markdown") if isinstance(one, Found)]
    assert [(one.file, one.fields["name"], one.fields.get("language")) for one in found] == [
        ("dolci/de/torta.md", "torta", "de"),
        ("it/torta.md", "torta", "it"),
        ("named.md", "altro", "fr"),
        ("orari.md", "orari", None),
        ("torta.en.md", "torta", "en"),
        ("v1.2.md", "v1.2", None),
    ]


def test_what_is_elsewhere_is_not_read_from_a_folder(tmp_path: Path) -> None:
    """Who sends a folder does not say which files of the operator's customers read."""
    folder = tmp_path / "items"
    (folder / "more.md").mkdir(parents=True)
    (folder / "more.md" / "cake.md").write_text("# Cake")
    (tmp_path / "secret.md").write_text("# Passwords")
    for name, target in {
        "again": "more.md/cake.md", "secret": "../secret.md", "nowhere": "none", "loop": "loop.md", "zero": "/dev/zero",
    }.items():  # fmt: skip
        (folder / f"{name}.md").symlink_to(target)
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "fifo.md")
    found = list(read(folder, "markdown"))
    assert [one.fields["name"] for one in found if isinstance(one, Found)] == ["again", "cake"]
    assert [one.file for one in found if isinstance(one, Problem)] == [
        "fifo.md", "loop.md", "more.md", "nowhere.md", "secret.md", "zero.md",
    ]  # fmt: skip


@pytest.mark.parametrize("heading", ["# x" + " " * 1000 + "y", "# " + " #" * 1000 + "y", "#" + "\t" * 60_000])
def test_a_heading_takes_no_time(heading: str) -> None:
    began = time.thread_time()
    markdown(heading)
    assert time.thread_time() - began < 0.1


def test_files_that_cannot_be_read_stop_no_others(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"# caff\xe8")
    (tmp_path / "b.md").write_text("---\nx: [\n---\n")
    (tmp_path / "c.md").write_text("x" * (ITEM_BYTES_MAX + 1))
    (tmp_path / "d.md").write_text("# D")
    found = list(read(tmp_path, "markdown"))
    assert [type(one) for one in found] == [Problem, Problem, Problem, Found]
    assert [one.file for one in found] == ["a.md", "b.md", "c.md", "d.md"]


def test_what_is_edited_is_read_as_it_was(tmp_path: Path) -> None:
    item = {
        "title": "Città: #1", "keywords": ["è", "no", "1"], "hours": {"mon-fri": ["09:00-18:00"]},
        "data": {"price": "3.50", "left": 4, "ok": True, "list": [1, {"a": None}]}, "body": "# A\n\n---\nb",
        "valid_from": "2026-12-24T00:00:00Z",
    }  # fmt: skip
    assert markdown(as_markdown(item)) == item


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"gone\.csv"):
        list(read(tmp_path / "gone.csv", "csv"))


def test_it_is_told_how_far_it_is(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("[" + ",".join('{"name": "a"}' for _ in range(20_000)) + "]")
    seen: list[int] = []
    assert len(list(read(file, "json", seen.append))) == 20_000
    assert seen == sorted(seen)
    assert seen[-1] == file.stat().st_size
