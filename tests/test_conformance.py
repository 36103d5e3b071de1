"""Every numbered statement of MQTT has a row in `docs/conformance`, and what the row says is so."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple, cast

import pytest
from wire.cases import CASES

ROOT: Final = Path(__file__).parents[1]

# How many numbered statements each clause has, after the lists in the OASIS standards: appendix B of MQTT 3.1.1 (29
# October 2014; 141 of them) and of MQTT 5.0 (7 March 2019; 251). They are numbered from 1, without gaps but the one
# below. The standard writes two of its numbers wrongly; here they are 3.1.1 [MQTT-3.1.2-7, MQTT-3.8.3-4].
STATEMENTS: Final = {
    "3.1.1": {
        "1.5.3": 3, "2.2.2": 2, "2.3.1": 7,
        "3.1.0": 2, "3.1.2": 24, "3.1.3": 11, "3.1.4": 5, "3.2.0": 1, "3.2.2": 6,
        "3.3.1": 12, "3.3.2": 3, "3.3.4": 1, "3.3.5": 2, "3.6.1": 1,
        "3.8.1": 1, "3.8.3": 4, "3.8.4": 6, "3.9.3": 2, "3.10.1": 1, "3.10.3": 2, "3.10.4": 6,
        "3.12.4": 1, "3.14.1": 1, "3.14.4": 3,
        "4.1.0": 2, "4.3.1": 1, "4.3.2": 2, "4.3.3": 2, "4.4.0": 1, "4.5.0": 2, "4.6.0": 6,
        "4.7.1": 3, "4.7.2": 1, "4.7.3": 4, "4.8.0": 2, "6.0.0": 4, "7.0.0": 2, "7.1.1": 1, "7.1.2": 1,
    },
    "5.0": {
        "1.5.4": 3, "1.5.5": 1, "1.5.7": 1, "2.1.3": 1, "2.2.1": 6, "2.2.2": 1,
        "3.1.0": 2, "3.1.2": 30, "3.1.3": 12, "3.1.4": 6, "3.2.0": 2, "3.2.2": 22,
        "3.3.1": 13, "3.3.2": 20, "3.3.4": 10, "3.4.2": 3, "3.5.2": 3, "3.6.1": 1, "3.6.2": 3, "3.7.2": 3,
        "3.8.1": 1, "3.8.3": 5, "3.8.4": 8, "3.9.2": 2, "3.9.3": 2,
        "3.10.1": 1, "3.10.3": 2, "3.10.4": 6, "3.11.2": 2, "3.11.3": 2,
        "3.12.4": 1, "3.14.0": 1, "3.14.1": 1, "3.14.2": 4, "3.14.4": 3, "3.15.1": 1, "3.15.2": 3,
        "4.1.0": 2, "4.2.0": 1, "4.3.1": 1, "4.3.2": 5, "4.3.3": 13, "4.4.0": 2, "4.5.0": 2, "4.6.0": 6,
        "4.7.0": 1, "4.7.1": 2, "4.7.2": 1, "4.7.3": 4, "4.8.2": 6, "4.9.0": 3, "4.12.0": 7, "4.12.1": 2,
        "4.13.1": 1, "4.13.2": 1, "6.0.0": 4,
    },
}  # fmt: skip
GAPS: Final = {("5.0", "2.2.1-1")}

# Numbers that mean the same in both versions: there a bare tag is for both.
SAME: Final = {
    f"{clause}-{number}"
    for clause, numbers in {
        "3.1.0": (1, 2), "3.1.2": (1, 2, 3, 8, 9, 10), "3.1.3": (1, 2, 3, 4, 5, 6), "3.1.4": (1,),
        "3.3.1": (1, 2, 3, 4, 5), "3.3.2": (1, 2, 3), "3.3.4": (1,), "3.6.1": (1,),
        "3.8.1": (1,), "3.8.3": (1,), "3.8.4": (1, 2, 3), "3.9.3": (1, 2),
        "3.10.1": (1,), "3.10.3": (1, 2), "3.10.4": (1, 2, 3, 4, 5, 6), "3.12.4": (1,), "3.14.1": (1,), "3.14.4": (3,),
        "4.1.0": (1,), "4.3.1": (1,), "4.4.0": (1,), "4.5.0": (1, 2), "4.6.0": (1, 2, 3, 4),
        "4.7.2": (1,), "4.7.3": (1, 2, 3, 4), "6.0.0": (1, 2, 3, 4),
    }.items()
    for number in numbers
}  # fmt: skip


def order(number: str) -> list[int]:
    return [int(part) for part in re.split(r"[.-]", number)]


ALL: Final = {
    version: sorted(
        (
            number
            for clause, count in clauses.items()
            for number in (f"{clause}-{n}" for n in range(1, count + 1))
            if (version, number) not in GAPS
        ),
        key=order,
    )
    for version, clauses in STATEMENTS.items()
}


def section(number: str) -> str:
    """The heading that a statement stands under: `3.1` for `3.1.2-4`, `6` for `6.0.0-1`."""
    return ".".join(number.split(".")[:2]).removesuffix(".0")


# -- The documents -----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One line of a table, its cells as they are written."""

    version: str
    heading: str
    statement: str
    short: str
    code: str
    test: str

    @property
    def number(self) -> str:
        return self.statement.removeprefix("MQTT-")


@cache
def rows(version: str) -> list[Row]:
    found = []
    heading = ""
    for line in (ROOT / f"docs/conformance/mqtt-{version}.md").read_text().splitlines():
        if match := re.match(r"## ([\d.]+) ", line):
            heading = match[1]
        elif line.startswith("| MQTT-"):
            statement, short, code, test = (cell.strip() for cell in line.strip("|").split(" | "))
            found.append(Row(version, heading, statement, short, code, test))
    return found


def named(cell: str) -> list[str]:
    """What stands in backticks, separated by commas; nothing else may stand there."""
    names = re.findall(r"`([^`]+)`", cell)
    assert ", ".join(f"`{name}`" for name in names) == cell, cell
    return names


# -- The tags ----------------------------------------------------------------------------------------------------------

_TAG = re.compile(r"(3\.1\.1\s+(?:# )?)?\[MQTT-([^\]]*)\]")


def tags(text: str) -> Iterator[tuple[str, str]]:
    """The statements that a source names: `[MQTT-3.8.4-1, -5 to -7, MQTT-3.9.3-1]`, `3.1.1 [MQTT-3.1.2-22]`."""
    for old, inside in _TAG.findall(text):
        version = "3.1.1" if old else "5.0"
        clause = ""
        for item in re.split(r",\s+(?:# )?", inside):
            match = re.fullmatch(r"(?:(?:MQTT-)?([\d.]+))?-(\d+)(?: to -(\d+))?", item)
            if match is None:
                yield version, item
                continue
            clause = match[1] or clause
            for n in range(int(match[2]), int(match[3] or match[2]) + 1):
                yield version, f"{clause}-{n}"


def names_it(text: str, row: Row) -> bool:
    said = set(tags(text))
    return (row.version, row.number) in said or (row.number in SAME and ("5.0", row.number) in said)


@cache
def source(path: str) -> str:
    return (ROOT / path).read_text() if (ROOT / path).is_file() else ""


@cache
def parsed(path: str) -> ast.Module:
    return ast.parse(source(path))


def lines_of(path: str, node: ast.AST) -> str:
    """A statement's lines, with the comment right above and, of a function, the decorators."""
    assert isinstance(node, ast.stmt)
    assert node.end_lineno is not None
    lines = source(path).splitlines()
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))]) - 1
    while lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return "\n".join(lines[first : node.end_lineno])


def source_of_test(path: str, name: str) -> str:
    """A test function and the tables that its decorators refer to; of a wire case its lines. Empty: does not exist.

    A class that hypothesis makes (`TestRouter = …`) is named by the comment above it.
    """
    if path.endswith("_cases.py") and not Path(path).name.startswith("test_"):
        return source_of_case(path, name) if any(case.name == name for case in CASES) else ""
    at_the_top = {
        target.id: node
        for node in parsed(path).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in parsed(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            used = {n.id for d in node.decorator_list for n in ast.walk(d) if isinstance(n, ast.Name)}
            tables = (lines_of(path, at_the_top[name]) for name in sorted(used & set(at_the_top)))
            return "\n".join((lines_of(path, node), *tables))
    return lines_of(path, at_the_top[name]) if name.startswith("Test") and name in at_the_top else ""


def source_of_case(path: str, name: str) -> str:
    """The calls of `good` and `bad` that add the case: those with its name, or else with a placeholder in it."""
    calls = [
        node
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) in ("good", "bad")
        and re.fullmatch(pattern(node.value.args[0]), name)
    ]
    exact = [node for node in calls if ast.unparse(cast("ast.Call", node.value).args[0]) == repr(name)]
    return "\n".join(lines_of(path, node) for node in exact or calls)


def pattern(argument: ast.expr) -> str:
    parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
    return "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in parts)


# -- The tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", STATEMENTS)
def test_every_statement_has_one_row_in_its_section(version: str) -> None:
    assert [row.number for row in rows(version)] == ALL[version]
    assert [row.statement for row in rows(version) if section(row.number) != row.heading] == []


@pytest.mark.parametrize(("version", "count"), [("3.1.1", 141), ("5.0", 251)])
def test_as_many_as_the_standard_says(version: str, count: int) -> None:
    assert len(ALL[version]) == count


@pytest.mark.parametrize("version", STATEMENTS)
def test_headings_are_those_of_the_sections_that_have_statements(version: str) -> None:
    text = (ROOT / f"docs/conformance/mqtt-{version}.md").read_text()
    assert re.findall(r"^## ([\d.]+) ", text, flags=re.MULTILINE) == list(dict.fromkeys(map(section, ALL[version])))


@pytest.mark.parametrize("version", STATEMENTS)
def test_the_code_names_the_statement(version: str) -> None:
    """`client`: only clients are bound. `none`: what it speaks of does not happen here."""
    wrong = [
        f"{row.statement}: {path}"
        for row in rows(version)
        if row.code not in ("client", "none")
        for path in named(row.code)
        if not path.startswith("broker/") or not names_it(source(path), row)
    ]
    assert wrong == []


@pytest.mark.parametrize("version", STATEMENTS)
def test_a_test_shows_it_and_names_it(version: str) -> None:
    """Only what binds clients alone may be without (`-`)."""
    wrong = []
    for row in rows(version):
        assert row.short
        if row.test == "-" and row.code == "client":
            continue
        for test in named(row.test):
            path, _, name = test.partition("::")
            if not path.startswith("tests/") or not names_it(source_of_test(path, name), row):
                wrong.append(f"{row.statement}: {test}")
    assert wrong == []


def test_tags_name_statements_that_exist() -> None:
    known = {(version, number) for version, numbers in ALL.items() for number in numbers}
    unknown = [
        f"{path.relative_to(ROOT)}: {version} [MQTT-{number}]"
        for path in sorted(ROOT.glob("[!.]*/**/*.py"))
        if path != Path(__file__)
        for version, number in tags(path.read_text())
        if (version, number) not in known
    ]
    assert unknown == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# [MQTT-3.1.0-1]", ["5.0 3.1.0-1"]),
        ("# 3.1.1 [MQTT-3.1.2-22]", ["3.1.1 3.1.2-22"]),
        ("# of 3.1.1\n    # [MQTT-3.1.2-22]", ["3.1.1 3.1.2-22"]),
        ("[MQTT-3.1.0-1, MQTT-3.8.3-4, -5], [MQTT-4.5.0-1]", ["3.1.0-1", "3.8.3-4", "3.8.3-5", "4.5.0-1"]),
        (
            "3.1.1 [MQTT-3.8.4-4 to -6, MQTT-3.9.3-1]",
            ["3.1.1 3.8.4-4", "3.1.1 3.8.4-5", "3.1.1 3.8.4-6", "3.1.1 3.9.3-1"],
        ),
        ("[MQTT-3.1.0-1,\n    # MQTT-3.1.2-4,\n    -5]", ["3.1.0-1", "3.1.2-4", "3.1.2-5"]),
        ("[MQTT-3.1.0.1]", ["3.1.0.1"]),
    ],
)
def test_tags_are_read(text: str, found: list[str]) -> None:
    assert [f"{version} {number}".removeprefix("5.0 ") for version, number in tags(text)] == [
        name.removeprefix("5.0 ") for name in found
    ]


def test_the_check_sees_what_is_missing() -> None:
    """A case, a test, a tag; and that the tag of the other version does not do."""
    assert source_of_test("tests/wire/connection_cases.py", "CONNECT reserved flag")
    assert not source_of_test("tests/wire/connection_cases.py", "CONNECT reserved flagg")
    assert "def test_the_code" in source_of_test("tests/test_conformance.py", "test_the_code_names_the_statement")
    assert not source_of_test("tests/test_conformance.py", "test_the_code_names")
    row = Row("3.1.1", "3.1", "MQTT-3.1.2-22", "", "", "")
    assert names_it("3.1.1 [MQTT-3.1.2-22]", row)
    assert not names_it("[MQTT-3.1.2-22]", row)
    assert names_it("[MQTT-3.1.2-3]", row._replace(statement="MQTT-3.1.2-3"))
    assert not names_it("3.1.1 [MQTT-3.1.2-3]", row._replace(version="5.0", statement="MQTT-3.1.2-3"))
