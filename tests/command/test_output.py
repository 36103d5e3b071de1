"""What is printed drives nobody's terminal, whoever wrote it."""

import io
import json

import pytest

from broker.command.base import report
from broker.command.export import write_export
from broker.command.output import print_json
from broker.errors import Refused

# Escape, CSI in one character, delete, right to left from here, nothing to be seen, and what is fine.
EVIL = {"text": "a\x1b[2Jb\x9b2Jc\x7fd\u202ee\u200bf\u2028g\U000e0041", "t\x9b": ["città", "😀 日本"]}


def harmless(printed: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in printed)


@pytest.mark.parametrize("indent", [0, 2])
def test_json_has_no_control_characters_and_says_the_same(capsys: pytest.CaptureFixture[str], indent: int) -> None:
    print_json(EVIL, indent=indent)
    printed = capsys.readouterr().out
    assert harmless(printed)
    assert json.loads(printed) == EVIL
    assert "città" in printed
    assert "😀 日本" in printed


def test_an_export_of_a_person_has_none_either() -> None:
    file = io.StringIO()
    write_export(iter([{"name": "ada", "sections": ["entries"]}, {"section": "entries", "rows": [EVIL]},
                       {"end": True, "counts": {"entries": 1}}]), file)  # fmt: skip
    assert harmless(file.getvalue())
    assert json.loads(file.getvalue())["entries"] == [EVIL]


def test_errors_that_quote_somebody_have_none_either(capsys: pytest.CaptureFixture[str]) -> None:
    report(Refused(f"there is no {EVIL['text']}\nat all", remedy="Write \x9b2J."))
    printed = capsys.readouterr().err
    assert harmless(printed)
    assert printed.count("\n") == 4
