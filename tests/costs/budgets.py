"""What each scenario may cost, in a file whose changes people read, and what is said when it costs more or less."""

import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from costs.counting import Counts
from costs.measuring import Measured
from costs.scenarios import SCENARIOS

PATH: Final = Path(__file__).with_name("budgets.toml")
# Of each figure, up and down. The same code comes within 0.1%; in memory, which lists and tables take in steps, within
# 5%: 4 KiB more or less where 64 are counted.
SLACK: Final = 0.01
MEMORY_SLACK: Final = 0.06
# Of these, the figures are the same with each Python.
PORTABLE: Final = {"system_calls"}
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_HEAD: Final = """\
# What each thing may cost. Written by `make costs UPDATE=1`; whoever reviews a change reads here what it costs.
# opcodes: bytecode instructions of the broker and of what it calls. c_calls: calls of functions in C; system_calls: of
# those, the ones on sockets and epoll. bytes, objects: what stays in Python's memory, and what its collector looks at.
"""
_SHOWN: Final = 5

Figures = dict[str, float]


class Budgets(msgspec.Struct):
    """By scenario, and the Python for which they hold."""

    python: str
    scenarios: dict[str, Figures]


def read(path: Path = PATH) -> Budgets:
    """The file."""
    content = tomllib.loads(path.read_text())
    return Budgets(content.pop("python"), content)


def write(budgets: Budgets, path: Path = PATH) -> None:
    """The file, in the order of the scenarios."""
    lines = [f'{_HEAD}python = "{budgets.python}"\n']
    for name, scenario in SCENARIOS.items():
        lines.append(f'\n["{name}"]  # for each {scenario.unit}\n')
        lines += [f"{figure} = {_short(value)}\n" for figure, value in budgets.scenarios[name].items()]
    path.write_text("".join(lines))


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def updated(budgets: Budgets, measured: Measured) -> Budgets:
    """With what was measured, where that is off its budget: what only trembles stays, so that nobody has to read it."""
    scenarios = dict(budgets.scenarios)
    for name, counts in measured.items():
        old = budgets.scenarios.get(name, {})
        scenarios[name] = {
            figure: old[figure] if figure in old and not off(figure, old[figure], now) else now
            for figure, now in counts.figures.items()
        }
    return Budgets(PYTHON, scenarios)


def off(figure: str, budget: float, now: float) -> bool:
    """Whether a figure is too far from its budget; 0.01 is what the file can say."""
    slack = MEMORY_SLACK if figure in ("bytes", "objects") else SLACK
    return abs(now - budget) > budget * slack + 0.005


def findings(budgets: Budgets, measured: Measured) -> list[str]:
    """What is above or below its budget, a paragraph for each scenario."""
    found = []
    if missing := [name for name in measured if name not in budgets.scenarios]:
        found.append(f"without a budget: {', '.join(missing)}")
    for name, counts in measured.items():
        lines = []
        for figure, budget in budgets.scenarios.get(name, {}).items():
            now = counts.figures[figure]
            if (figure in PORTABLE or budgets.python == PYTHON) and off(figure, budget, now):
                lines.append(f"  {figure}: {_short(now)}, budget {_short(budget)} ({change(budget, now)})")
        if lines:
            found.append("\n".join([f"{name}, for each {SCENARIOS[name].unit}:", *lines, *_most(counts)]))
    return found


def change(before: float, now: float) -> str:
    """In percent."""
    return f"{100 * (now - before) / before:+.1f}%" if before else "new"


def _most(counts: Counts) -> Iterable[str]:
    """Where most of it is spent."""
    most = sorted(counts.by_function.items(), key=lambda item: -item[1])[:_SHOWN]
    if most:
        yield "  most of it in " + ", ".join(f"{name} ({_short(count)})" for name, count in most)


def advice(found: Iterable[str]) -> str:
    """All findings, and what to do."""
    return "\n".join(
        [
            "",
            *(f"{finding}\n" for finding in found),
            f"Budgets are exact to {SLACK:.0%}, those of memory to {MEMORY_SLACK:.0%}, up and down.",
            "  Which functions it is:  make costs BASE=main ARGS=--functions",
            "  To accept it:           make costs UPDATE=1   and commit tests/costs/budgets.toml, with the reason",
        ]
    )
