"""What a broker does all day costs what its budgets say, in counts that no machine's speed changes.

`make costs` shows them, beside the budgets or another revision.
"""

import shutil
from pathlib import Path

import pytest
from costs import budgets
from costs.budgets import PYTHON, Budgets
from costs.counting import Counts
from costs.measuring import ROOT, measure
from costs.scenarios import SCENARIOS

NAMES = list(SCENARIOS)


def test_everything_costs_what_its_budget_says() -> None:
    have, now = budgets.read(), measure()
    found = budgets.findings(have, now)
    assert list(have.scenarios) == NAMES
    assert not found, budgets.advice(found)
    # What must not grow with what only waits.
    few, many = (now[f"away {n} QoS 1 together"].figures["opcodes"] for n in (10, 1000))
    assert many <= few
    assert now["tick, 10 connections idle"].figures == now["tick, 500 connections idle"].figures
    if have.python != PYTHON:
        pytest.skip(f"only system calls were checked: the other budgets are of Python {have.python}, this is {PYTHON}")


# What is put at the end of a module, so that the code that it slows down may change; and what sees it.
SLOWER = {
    "a read that looks at something more": (
        "session/channel.py",
        """
_feed = Channel._feed
def slower(self, data):
    self.core.counters
    _feed(self, data)
Channel._feed = slower
""",
        "ping",
        "opcodes",
    ),
    "a second send for each flush": (
        "listen/connection.py",
        """
_flush = Connection.flush
def slower(self):
    self.sock.send(b"")
    _flush(self)
Connection.flush = slower
""",
        "ping",
        "system_calls",
    ),
    "a dict for each session": (
        "session/session.py",
        """
_init, _dicts = Session.__init__, []
def slower(self, *args):
    _init(self, *args)
    _dicts.append({1: self})
Session.__init__ = slower
""",
        "kept: session away",
        "bytes",
    ),
}


@pytest.mark.parametrize("what", SLOWER)
def test_what_makes_it_slower_is_seen(what: str, tmp_path: Path) -> None:
    module, lines, name, figure = SLOWER[what]
    shutil.copytree(ROOT / "broker", tmp_path / "broker", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "broker" / module).open("a") as file:
        file.write(lines)
    before = measure([name])[name].figures
    (found,) = budgets.findings(Budgets(PYTHON, {name: before}), measure([name], tmp_path))
    assert found.startswith(f"{name}, for each ")
    assert f"  {figure}: " in found


def figures(**now: float) -> dict[str, Counts]:
    return {"ping": Counts(dict(now), {"a.py f": 60.0, "a.py g": 40.0})}


def test_above_and_below_a_budget_is_wrong_and_says_how_much() -> None:
    have = Budgets(PYTHON, {"ping": {"opcodes": 100.0, "system_calls": 3.0}})
    assert budgets.findings(have, figures(opcodes=100.9, system_calls=3.0)) == []
    above, below = (budgets.findings(have, figures(opcodes=n, system_calls=3.0)) for n in (102.0, 90.0))
    assert above == [
        "ping, for each ping:\n  opcodes: 102, budget 100 (+2.0%)\n  most of it in a.py f (60), a.py g (40)"
    ]
    assert "opcodes: 90, budget 100 (-10.0%)" in below[0]
    assert "make costs UPDATE=1" in budgets.advice(above)


def test_budgets_of_another_python_hold_for_system_calls_alone() -> None:
    have = Budgets("3.0", {"ping": {"opcodes": 100.0, "system_calls": 3.0}})
    assert budgets.findings(have, figures(opcodes=200.0, system_calls=3.0)) == []
    assert "system_calls: 4, budget 3" in budgets.findings(have, figures(opcodes=200.0, system_calls=4.0))[0]


def test_what_has_no_budget_is_wrong() -> None:
    assert budgets.findings(Budgets(PYTHON, {}), figures(opcodes=1.0)) == ["without a budget: ping"]


def test_an_update_leaves_what_only_trembles_and_is_read_again(tmp_path: Path) -> None:
    have = Budgets(PYTHON, {name: {"opcodes": 100.0, "system_calls": 3.0} for name in NAMES})
    new = budgets.updated(have, figures(opcodes=100.5, system_calls=2.0))
    assert new.scenarios["ping"] == {"opcodes": 100.0, "system_calls": 2.0}
    path = tmp_path / "budgets.toml"
    budgets.write(new, path)
    assert budgets.read(path) == new
