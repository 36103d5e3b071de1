"""What was measured, as a Markdown table for people and as JSON for programs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One figure of one run. `name` is for programs; a value is None where a broker does not say."""

    name: str
    title: str
    unit: str
    value: float | None


@dataclass
class Results:
    """All figures of all repetitions, and what they were measured on."""

    about: Mapping[str, str]
    brokers: Sequence[str]
    failures: list[str] = field(default_factory=list)
    _titles: dict[str, str] = field(default_factory=dict)
    _figures: dict[str, dict[str, dict[str, list[Figure]]]] = field(default_factory=dict)  # row, name, broker

    def add(self, row: str, title: str, broker: str, figures: Sequence[Figure]) -> None:
        """Take the figures of one repetition."""
        self._titles[row] = title
        of_row = self._figures.setdefault(row, {})
        for figure in figures:
            of_row.setdefault(figure.name, {}).setdefault(broker, []).append(figure)

    def json(self) -> str:
        """Everything, each repetition's value too."""
        rows = {
            row: {
                "title": self._titles[row],
                "figures": {
                    name: {
                        "title": _any(runs).title,
                        "unit": _any(runs).unit,
                        **{broker: self._numbers(runs, broker) for broker in self.brokers},
                        "ratio": self._ratio(runs),
                    }
                    for name, runs in figures.items()
                },
            }
            for row, figures in self._figures.items()
        }
        everything = {"about": self.about, "rows": rows, "failures": self.failures}
        return json.dumps(everything, indent=2, ensure_ascii=False)

    def markdown(self) -> str:
        """The medians."""
        lines = [f"* {name}: {text}" for name, text in self.about.items()]
        for row, figures in self._figures.items():
            ratio = ["ratio"] if len(self.brokers) == 2 else []
            heads = [self._titles[row], "unit", *self.brokers, *ratio]
            lines += ["", _line(heads), _line(["---", "---", *["---:"] * (len(heads) - 2)])]
            for runs in figures.values():
                values = [_shown(_median(runs.get(broker, []))) for broker in self.brokers]
                last = [_shown(self._ratio(runs))] if ratio else []
                lines.append(_line([_any(runs).title, _any(runs).unit, *values, *last]))
        if self.failures:
            lines += ["", "Failed:", "", *(f"* {failure}" for failure in self.failures)]
        return "\n".join(lines)

    def _numbers(self, runs: Mapping[str, list[Figure]], broker: str) -> dict[str, Any]:
        of_broker = runs.get(broker, [])
        return {"median": _median(of_broker), "runs": [figure.value for figure in of_broker]}

    def _ratio(self, runs: Mapping[str, list[Figure]]) -> float | None:
        ours, *others = (_median(runs.get(broker, [])) for broker in self.brokers)
        return ours / others[0] if ours and others and others[0] else None


def _any(runs: Mapping[str, list[Figure]]) -> Figure:
    return next(iter(runs.values()))[0]


def _median(figures: Sequence[Figure]) -> float | None:
    values = [figure.value for figure in figures if figure.value is not None]
    return statistics.median(values) if values else None


def _shown(value: float | None) -> str:
    """Three digits that mean something, or all of a large number."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
