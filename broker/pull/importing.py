"""Reads items from files, one after the other: CSV, JSON, JSON Lines, a folder of Markdown.

Only the form is looked at here; what an item may be is said by `library`. What is wrong with one holds up no other.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import msgspec

from broker.errors import Failed, Refused
from broker.limits import ITEM_BYTES_MAX, ITEM_HEAD_BYTES_MAX

Form = Literal["csv", "json", "jsonl", "markdown"]

TEXTS: Final = ("name", "language", "title", "body", "image", "link", "valid_from", "valid_until")
LISTS: Final = ("keywords", "stores", "tags")
DATA: Final = "data."
_SUFFIXES: Final[Mapping[str, Form]] = {
    ".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".md": "markdown"
}  # fmt: skip
_CHUNK: Final = 64 << 10
_LANGUAGE: Final = re.compile(r"[a-z]{2}")
_HEAD: Final = re.compile(r"---[ \t]*\n(?:(.*?)\n)??---[ \t]*(?:\n|$)", re.DOTALL)
_HEADING: Final = re.compile(r"\s*#[ \t]+([^ \t\n][^\n]*)(?:\n|$)")
_ENCODING: Final = "it is not UTF-8"
_ICONV: Final = "Save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
_LONG: Final = f"it is longer than {ITEM_BYTES_MAX >> 10} KiB"
_SHORTER: Final = "Make it shorter, or look for a quote that is not closed."


class Found(msgspec.Struct, frozen=True):
    """An item as it stands in a file, from this line on."""

    file: str
    line: int
    fields: dict[str, Any]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What cannot be taken, where it stands, and what would do."""

    file: str
    line: int
    name: str = ""
    field: str = ""
    why: str
    remedy: str = ""


def form_of(path: Path) -> Form:
    """How a file is written, by its name; a folder is one of Markdown. Raises `Refused`."""
    if path.is_dir():
        return "markdown"
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise Refused(
            f"{path} does not say how it is written", remedy="Use --format csv, json, jsonl or markdown."
        ) from None


def read(path: Path, form: Form, seen: Callable[[int], object] = lambda _bytes: None) -> Iterator[Found | Problem]:
    """The items of a file or folder. `seen` is told how many bytes of it have been read.

    Raises `Refused` where nothing more of it can be understood, `Failed` when it cannot be read.
    """
    try:
        if form == "markdown":
            yield from _markdown(path, seen)
            return
        with path.open("rb") as file:
            if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise Refused(f"{path} is UTF-16", remedy="Save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW")
            reader = {"csv": _csv, "json": _json, "jsonl": _jsonl}[form]
            yield from reader(file, path.name, seen)
    except OSError as error:
        raise Failed(f"cannot read {error.filename or path}: {error.strerror}", remedy="Check its name.") from None


class _Lines:
    """The lines of a file. `wrong` says what was wrong with those since it was last emptied."""

    def __init__(self, file: BinaryIO, seen: Callable[[int], object]) -> None:
        self._file = file
        self._seen = seen
        self.number = 0
        self.wrong = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._file.readline(ITEM_BYTES_MAX)
        if not raw:
            raise StopIteration
        self.number += 1
        if len(raw) == ITEM_BYTES_MAX and not raw.endswith(b"\n"):
            self.wrong = _LONG
            while (raw := self._file.readline(_CHUNK)) and not raw.endswith(b"\n"):
                pass
            return "\n"
        if self.number % 256 == 0:
            self._seen(self._file.tell())
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            self.wrong = _ENCODING
            text = raw.decode(errors="replace")
        return text.removeprefix("\ufeff") if self.number == 1 else text

    def problem(self, file: str, line: int) -> Problem | None:
        """What was wrong."""
        wrong, self.wrong = self.wrong, ""
        if not wrong:
            return None
        return Problem(file=file, line=line, why=wrong, remedy=_ICONV if wrong == _ENCODING else _SHORTER)


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _csv(file: BinaryIO, name: str, seen: Callable[[int], object]) -> Iterator[Found | Problem]:
    lines = _Lines(file, seen)
    first = next(lines, "")
    if (bad := lines.problem(name, 1)) is not None:
        raise Refused(f"{name}, line 1: {bad.why}", remedy=bad.remedy)
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    header = _header(next(rows, []), name)
    while True:
        line = lines.number + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            lines.wrong = ""
            yield Problem(file=name, line=line, why=f"it is no CSV: {error}", remedy=_SHORTER)
            continue
        if row is None:
            return
        if (bad := lines.problem(name, line)) is not None:
            yield bad
        elif len(row) > len(header):
            why = f"it has {len(row)} cells, and the header {len(header)}"
            yield Problem(file=name, line=line, name=row[0][:64], why=why, remedy='Put "quotes" around such texts.')
        elif any(cell.strip() for cell in row):
            yield _row(dict(zip(header, row, strict=False)), name, line)


def _header(row: list[str], file: str) -> list[str]:
    header = [cell.strip() for cell in row]
    known = ", ".join((*TEXTS, *LISTS, "hours", "data.NAME"))
    if missing := [column for column in ("name", "title") if column not in header]:
        raise Refused(
            f"{file}, line 1: the header has no {' and no '.join(missing)}",
            remedy=f"The first line says what stands where: {known}.",
        )
    for column in header:
        if column not in (*TEXTS, *LISTS, "hours") and not (column.startswith(DATA) and column != DATA):
            raise Refused(f"{file}, line 1: there is no field {column!r}", remedy=f"Use {known}.")
        if header.count(column) > 1:
            raise Refused(f"{file}, line 1: {column} stands there twice", remedy="Rename one of the columns.")
    return header


def _row(cells: dict[str, str], file: str, line: int) -> Found | Problem:
    fields: dict[str, Any] = {}
    for column, cell in cells.items():
        text = cell.strip()
        if not text:
            continue
        if column.startswith(DATA):
            fields.setdefault("data", {})[column.removeprefix(DATA)] = text
        elif column in LISTS:
            fields[column] = [word.strip() for word in text.split(";") if word.strip()]
        elif column == "hours":
            fields[column] = hours(text)
        else:
            fields[column] = text.replace("\r\n", "\n")
    return Found(file, line, fields)


def hours(text: str) -> dict[str, list[str]]:
    """Hours in one line: `mon-fri 09:00-13:00 14:00-18:00; sat 09:00-12:00`."""
    parts = [part.split() for part in text.split(";") if part.strip()]
    return {days: spans for days, *spans in parts}


# -- JSON --------------------------------------------------------------------------------------------------------------


def _jsonl(file: BinaryIO, name: str, seen: Callable[[int], object]) -> Iterator[Found | Problem]:
    lines = _Lines(file, seen)
    for text in lines:
        if (bad := lines.problem(name, lines.number)) is not None:
            yield bad
        elif text.strip():
            try:
                yield _object(msgspec.json.decode(text), name, lines.number)
            except (msgspec.DecodeError, RecursionError) as error:
                yield Problem(
                    file=name, line=lines.number, why=f"it is no JSON: {error}", remedy="Write one object a line."
                )


def _object(value: Any, file: str, line: int) -> Found | Problem:
    if isinstance(value, dict):
        return Found(file, line, value)
    return Problem(file=file, line=line, why="it is no object", remedy='Write an item as {"name": ..., "title": ...}.')


def _json(file: BinaryIO, name: str, seen: Callable[[int], object]) -> Iterator[Found | Problem]:
    """A list of objects, of which only one is in memory at a time."""
    decoder = json.JSONDecoder()
    text, line, begun = "", 1, False
    pieces = _pieces(file, name, seen)
    more = True
    while True:
        stripped = text.lstrip(" \t\r\n,") if begun else text.lstrip()
        line += text.count("\n", 0, len(text) - len(stripped))
        text = stripped
        if text and not begun:
            if text[0] != "[":
                raise Refused(
                    f"{name}, line {line}: it is no list",
                    remedy="Put the items into [ and ], or use --format jsonl for one object a line.",
                )
            text, begun = text[1:], True
            continue
        if text.startswith("]"):
            return
        value, end = _first(decoder, text) if text else (None, 0)
        if end:
            yield _object(value, name, line)
            line += text.count("\n", 0, end)
            text = text[end:]
        elif more and len(text) < ITEM_BYTES_MAX + _CHUNK:
            piece = next(pieces, "")
            more = bool(piece)
            text += piece
        else:
            raise Refused(f"{name}, line {line}: it is no JSON from here on", remedy="Look for what is missing there.")


def _first(decoder: json.JSONDecoder, text: str) -> tuple[Any, int]:
    """The value that a text begins with, and where it ends; 0 where it is not all there."""
    try:
        return decoder.raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0


def _pieces(file: BinaryIO, name: str, seen: Callable[[int], object]) -> Iterator[str]:
    left, first = b"", True
    while raw := file.read(_CHUNK):
        seen(file.tell())
        whole = left + raw
        # A character may be cut: at most three bytes of it are here.
        for cut in range(4):
            try:
                text = whole[: len(whole) - cut].decode()
            except UnicodeDecodeError:
                continue
            left = whole[len(whole) - cut :]
            yield text.removeprefix("\ufeff") if first else text
            first = False
            break
        else:
            raise Refused(f"{name}: {_ENCODING}", remedy=_ICONV)
    if left:
        raise Refused(f"{name}: {_ENCODING}", remedy=_ICONV)


# -- Markdown ----------------------------------------------------------------------------------------------------------


def _markdown(path: Path, seen: Callable[[int], object]) -> Iterator[Found | Problem]:
    folder = path if path.is_dir() else path.parent
    files = sorted(one for one in path.rglob("*.md") if not one.name.startswith(".")) if path.is_dir() else [path]
    if not files:  # a name that was mistyped: with --replace all would be removed
        raise Refused(f"{path} has no Markdown files", remedy="Name the folder in which the .md files are.")
    done = 0
    for one in files:
        name = str(one.relative_to(folder))
        if one is not path and not _is_in(one, folder):
            why = "it is no file of this folder"
            yield Problem(file=name, line=1, why=why, remedy="Put the file itself there, not a link to it.")
            continue
        with one.open("rb") as file:
            raw = file.read(ITEM_BYTES_MAX + 1)
        done += len(raw)
        seen(done)
        if len(raw) > ITEM_BYTES_MAX:
            yield Problem(file=name, line=1, why=_LONG, remedy="Make an item of each of its parts.")
            continue
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            yield Problem(file=name, line=1, why=_ENCODING, remedy=_ICONV)
            continue
        try:
            fields = markdown(text.replace("\r\n", "\n"))
        except Refused as error:
            yield Problem(file=name, line=1, name=one.stem[:64], why=error.message, remedy=error.remedy)
            continue
        yield Found(name, 1, {**_called(one.relative_to(folder)), **fields})


def _is_in(path: Path, folder: Path) -> bool:
    """Whether that is a file, and none elsewhere: who sends a folder does not say what else of ours customers read."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _called(path: Path) -> dict[str, str]:
    """Name and language as `it/cake.md` and `cake.it.md` say them."""
    stem, _, suffix = path.stem.rpartition(".")
    if stem and _LANGUAGE.fullmatch(suffix):
        return {"name": stem, "language": suffix}
    folders = [part for part in path.parts[:-1] if _LANGUAGE.fullmatch(part)]
    return {"name": path.stem, "language": folders[-1]} if folders else {"name": path.stem}


def markdown(text: str) -> dict[str, Any]:
    """The fields of an item as Markdown: a head in YAML between `---`, a heading as its title, the rest its body."""
    fields: dict[str, Any] = {}
    if (head := _HEAD.match(text)) is not None:
        fields = _head(head[1] or "")
        text = text[head.end() :]
    if "title" not in fields and (heading := _HEADING.match(text)) is not None:
        title = heading[1].rstrip(" \t")
        fields["title"] = title.rstrip("#").rstrip(" \t") or title[:1]
        text = text[heading.end() :]
    body = text.strip()
    return {**fields, "body": body} if body else fields


def _head(text: str) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - only where used

    if len(text) > ITEM_HEAD_BYTES_MAX:
        raise Refused(f"its head is longer than {ITEM_HEAD_BYTES_MAX >> 10} KiB", remedy="Is the second --- missing?")
    try:
        # A head of anchors within anchors is small, and what it means is not.
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise Refused("its head refers to itself with *", remedy="Put that text into quotes.")
        # JSON has neither dates nor keys that are no text.
        head = msgspec.to_builtins(yaml.safe_load(text), str_keys=True)
        msgspec.json.encode(head)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 2}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise Refused(f"its head is no YAML{where}: {problem}", remedy="Put texts with : or # in quotes.") from None
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise Refused("its head has what no item can have", remedy="Use texts, numbers, lists.") from None
    if head is None:
        return {}
    if not isinstance(head, dict):
        raise Refused("its head has no fields", remedy="Write a field a line: keywords: [cake, tart]")
    if head.get("language") is False:  # YAML's word for Norwegian
        head["language"] = "no"
    return head


def as_markdown(fields: Mapping[str, Any]) -> str:
    """An item as Markdown that is read as the same."""
    import yaml  # noqa: PLC0415 - only where used

    head = {name: value for name, value in fields.items() if name != "body"}
    text = yaml.safe_dump(head, allow_unicode=True, sort_keys=False, default_flow_style=None, width=100)
    return f"---\n{text}---\n\n{fields.get('body', '')}\n"
