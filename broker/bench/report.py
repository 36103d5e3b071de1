"""What was measured, as Markdown for people and as JSON for programs."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Figure:
    """One figure of one run. `name` is for programs; a value is None where a broker does not say.

    `x` is where it was measured, where a row measures at several places: at so many of what `axis` says.
    """

    name: str
    title: str
    unit: str
    value: float | None
    x: int | None = None
    axis: str = ""


@dataclass(frozen=True)
class Ratio:
    """Ours divided by another's: the median of the runs' ratios, the least and the greatest."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        if self.least == self.most:
            return shown(self.median)
        return f"{shown(self.median)} ({shown(self.least)} to {shown(self.most)})"


@dataclass
class Line:
    """One figure of one variant of a row, by broker, each run's value; None where a run failed."""

    figure: Figure
    values: dict[str, list[float | None]] = field(default_factory=dict)

    def median(self, broker: str) -> float | None:
        """The middle of the runs that have a value."""
        there = [value for value in self.values.get(broker, []) if value is not None]
        return statistics.median(there) if there else None

    def ratio(self, broker: str, other: str) -> Ratio | None:
        """Paired: a run of one with the run of the other that came right after it."""
        pairs = zip(self.values.get(broker, []), self.values.get(other, []), strict=False)
        ratios = [one / two for one, two in pairs if one is not None and two]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


@dataclass
class Section:
    """A row: its lines by variant and figure."""

    title: str
    headline: str
    variants: dict[str, dict[tuple[str, int | None], Line]] = field(default_factory=dict)

    def lines(self) -> Iterator[tuple[str, Line]]:
        """All, with their variants."""
        for variant, lines in self.variants.items():
            for line in lines.values():
                yield variant, line

    def heads(self) -> Iterator[tuple[str, Line]]:
        """What says most of each variant: the headline; where there are several, that of the greatest size."""
        for variant, lines in self.variants.items():
            named = [line for line in lines.values() if line.figure.name == self.headline]
            if named:
                yield variant, max(named, key=lambda line: line.figure.x or 0)


@dataclass
class Results:
    """All figures of all runs, what they were measured on, and what is to be said with them."""

    about: Mapping[str, str]
    brokers: Sequence[str]
    failures: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    stopped: bool = False
    sections: dict[str, Section] = field(default_factory=dict)

    def add(
        self, row: str, title: str, headline: str, variant: str, broker: str, run: int, figures: Sequence[Figure]
    ) -> None:
        """Take the figures of one run."""
        section = self.sections.setdefault(row, Section(title, headline))
        lines = section.variants.setdefault(variant, {})
        for figure in figures:
            values = lines.setdefault((figure.name, figure.x), Line(figure)).values.setdefault(broker, [])
            values += [None] * (run - len(values))  # of runs that failed
            values.append(figure.value)

    def remark(self, text: str) -> None:
        """Something to be said once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def json(self) -> str:
        """Everything, each run's value too."""
        rows: dict[str, Any] = {}
        for name, section in self.sections.items():
            rows[name] = {"title": section.title, "headline": section.headline, "figures": []}
            for variant, line in section.lines():
                ours, *others = self.brokers
                figure = line.figure
                rows[name]["figures"].append(
                    {
                        "variant": variant,
                        "name": figure.name,
                        "title": figure.title,
                        "unit": figure.unit,
                        "at": figure.x,
                        "axis": figure.axis,
                        "runs": line.values,
                        "median": {broker: line.median(broker) for broker in line.values},
                        "ratio": {
                            other: vars(ratio) for other in others if (ratio := line.ratio(ours, other)) is not None
                        },
                    }
                )
        everything = {
            "about": self.about, "brokers": self.brokers, "rows": rows,
            "remarks": self.remarks, "failures": self.failures, "stopped": self.stopped,
        }  # fmt: skip
        return json.dumps(everything, indent=2, ensure_ascii=False)

    @classmethod
    def read(cls, text: str) -> Self:
        """What `json` has written."""
        found = json.loads(text)
        results = cls(found["about"], found["brokers"], found["failures"], found["remarks"], stopped=found["stopped"])
        for name, row in found["rows"].items():
            section = results.sections[name] = Section(row["title"], row["headline"])
            for item in row["figures"]:
                figure = Figure(item["name"], item["title"], item["unit"], None, item["at"], item["axis"])
                lines = section.variants.setdefault(item["variant"], {})
                lines[figure.name, figure.x] = Line(figure, item["runs"])
        return results

    def markdown(self) -> str:
        """The medians, and the ratios of the first broker to each other one, with their spread."""
        lines = [f"* {name}: {text}" for name, text in self.about.items()]
        heads = [(name, variant, line) for name, section in self.sections.items() for variant, line in section.heads()]
        if len(self.sections) > 1:
            whats = [_what(", ".join(filter(None, [name, variant])), line) for name, variant, line in heads]
            lines += self._table("In short", whats, [line for _, _, line in heads])
        for name, section in self.sections.items():
            pairs = list(section.lines())
            title = f"`{name}`: {section.title}"
            lines += self._table(title, [_what(*pair) for pair in pairs], [line for _, line in pairs])
        for head, texts in (("Note:", self.remarks), ("Failed:", self.failures)):
            if texts:
                lines += ["", head, "", *(f"* {text}" for text in texts)]
        return "\n".join(lines)

    def _table(self, title: str, whats: Sequence[str], lines: Sequence[Line]) -> list[str]:
        """Aligned, so that it can be read as it is. Who has no figure has no column."""
        ours, *others = [broker for broker in self.brokers if any(broker in line.values for line in lines)]
        heads = [title, "unit", ours, *(head for other in others for head in (other, "ratio"))]
        rows = [heads]
        for what, line in zip(whats, lines, strict=True):
            row = [what, line.figure.unit, shown(line.median(ours))]
            for other in others:
                ratio = None if line.figure.unit == "%" else line.ratio(ours, other)
                row += [shown(line.median(other)), str(ratio or "")]
            rows.append(row)
        widths = [max(3, *(len(row[at]) for row in rows)) for at in range(len(heads))]
        dashes = ["-" * width if at < 2 else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
        rows.insert(1, dashes)
        return ["", *(_row(row, widths) for row in rows)]


def _what(variant: str, line: Line) -> str:
    place = "" if line.figure.x is None else f"{line.figure.x:,} {line.figure.axis}"
    before = ", ".join(filter(None, [variant, place]))
    return f"{before}: {line.figure.title}" if before else line.figure.title


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if at < 2 else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def shown(value: float | None) -> str:
    """Three digits that mean something, or all of a large number."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"
