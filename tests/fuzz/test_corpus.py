"""What the fuzzer has found, again; and the fuzzer itself for a moment. `make fuzz` runs it for longer."""

import importlib.util
import sys

import pytest
from fuzz import runner, target

TARGETS = sorted(target.MODULES)
FUZZED = [name for name in TARGETS if target.find(name).runs_in_ci]


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    chosen = target.find(name)
    inputs = [*chosen.corpus(), b""]
    assert len(inputs) > 5, "no corpus: make fuzz ARGS=--keep"
    for data in inputs:
        try:
            chosen.run(data)
        except Exception as error:
            error.add_note(f"again: {runner.again(chosen, data.hex())}")
            raise


@pytest.mark.parametrize("name", FUZZED)
def test_a_moment(name: str) -> None:
    """The same inputs each time, as far as the broker is the same."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip(f"atheris has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]} here")
    chosen = target.find(name)
    runs = chosen.runs_in_ci + len(chosen.corpus())
    outcome = runner.fuzz(chosen, runs=runs)
    assert outcome.crash is None, f"{outcome.output}\nagain: {runner.again(chosen, runner.case_of(outcome.crash))}"
    assert outcome.runs >= chosen.runs_in_ci
    assert outcome.edges > 50
