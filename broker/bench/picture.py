"""What was measured, as a picture: bars of ratios to the first of the others, and curves of what grows."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from broker.bench.machine import BenchError
from broker.bench.report import Line, Ratio, Results, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

KINDS: Final = (".svg", ".png")
_WIDTH_IN: Final = 11.0
_BAR_IN: Final = 0.27
_CURVES_IN: Final = 2.1
_HEAD_IN: Final = 1.15
_BETTER, _WORSE, _INK, _FAINT = "#1b7f79", "#c8553d", "#22313a", "#9aa5ab"
_LINES: Final = ("#1b7f79", "#c8553d", "#7a6fb0", "#c99a2e", "#5b8fb9")
_MARKS: Final = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class _Bar:
    label: str
    values: str
    ratio: Ratio


def check(path: Path) -> None:
    """Whether a picture can be drawn there; better said before ten minutes of measuring than after."""
    if path.suffix not in KINDS:
        raise BenchError(f"{path} is neither {' nor '.join(KINDS)}", remedy="Let the name end in one of these.")
    try:
        import matplotlib  # noqa: F401, PLC0415 - an extra, and a second to load
    except ImportError as error:
        raise BenchError(
            "matplotlib is not installed, which draws the picture",
            remedy="pip install 'pushbroker[bench]', or without --picture: --json keeps the figures, --from draws them",
        ) from error


def draw(results: Results, path: Path) -> None:
    """Draw it, as SVG or PNG."""
    import matplotlib as mpl  # noqa: PLC0415 - only where used
    from matplotlib.figure import Figure  # noqa: PLC0415

    bars = list(_bars(results))
    curves = [(name, by_figure) for name in results.sections if (by_figure := _curves(results, name))]
    if not bars and not curves:
        raise BenchError("there is nothing to draw: no row has figures of two brokers, or of several sizes")
    parts = [_HEAD_IN]
    if bars:
        parts.append(_BAR_IN * len(bars) + 1.1)
    parts += [_CURVES_IN] * len(curves)
    look: Any = {  # matplotlib's own type for this is a list of all names
        "font.size": 8.5,
        "font.family": "DejaVu Sans",
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.edgecolor": _FAINT,
        "svg.hashsalt": "pushbroker",
    }
    with mpl.rc_context(look):
        figure = Figure(figsize=(_WIDTH_IN, sum(parts)), layout="constrained", facecolor="white")
        places = iter(figure.subfigures(len(parts), 1, height_ratios=parts, squeeze=False)[:, 0])
        _head(next(places), results)
        if bars:
            _draw_bars(next(places).subplots(), bars, results.brokers[0], results.brokers[1])
        for (name, by_figure), place in zip(curves, places, strict=True):
            _draw_curves(place, results, name, by_figure)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _head(place: "SubFigure", results: Results) -> None:
    """What was measured, and on what."""
    about = results.about
    place.text(0.01, 0.88, "pushbroker bench", size=15, weight="bold", va="top")
    words = [about.get(name, "") for name in ("brokers", "machine", "cores", "date", "sizes")]
    lines = textwrap.wrap("; ".join(filter(None, words)), 160) + textwrap.wrap(about.get("command", ""), 160)[:1]
    place.text(0.01, 0.56, "\n".join(lines), size=7.5, va="top", color="#55636b", linespacing=1.4)


def _bars(results: Results) -> Iterator[_Bar]:
    """The headline of each variant, where both have it."""
    if len(results.brokers) < 2:
        return
    ours, other = results.brokers[:2]
    for name, section in results.sections.items():
        for variant, line in section.lines():
            figure, ratio = line.figure, line.ratio(ours, other)
            # Nothing lost is no ratio, and has no place on such an axis.
            if figure.name != section.headline or figure.x is not None or ratio is None or ratio.least <= 0:
                continue
            words = ", ".join(filter(None, [name, variant]))
            if figure.name != "cpu_us":
                words += f": {figure.title.rpartition(': ')[2]}"
            yield _Bar(words, f"{shown(line.median(ours))} : {shown(line.median(other))} {figure.unit}", ratio)


def _draw_bars(axes: "Axes", bars: list[_Bar], ours: str, other: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: PLC0415 - only where used

    places = range(len(bars))
    least = min(0.45, *(bar.ratio.least for bar in bars)) / 1.5
    most = max(2.2, *(bar.ratio.most for bar in bars)) * 1.5
    axes.set_xscale("log")
    axes.set_xlim(max(least, 0.03), min(most, 30))  # what is further off has its figure at the side
    for at, bar in zip(places, bars, strict=True):
        good = bar.ratio.median <= 1
        axes.barh(at, bar.ratio.median - 1, left=1, height=0.62, color=_BETTER if good else _WORSE, zorder=2)
        axes.plot([bar.ratio.least, bar.ratio.most], [at, at], color=_INK, lw=1.1, zorder=3, solid_capstyle="butt")
        for words, offset, weight, colour in (
            (shown(bar.ratio.median), 8, "bold", _INK),
            (bar.values, 52, "normal", "#55636b"),
        ):
            axes.annotate(
                words, (1.0, at), xycoords=("axes fraction", "data"), xytext=(offset, 0), textcoords="offset points",
                va="center", size=7.5, weight=weight, color=colour, annotation_clip=False,
            )  # fmt: skip
    axes.axvline(1, color=_INK, lw=1, zorder=4)
    axes.set_yticks(list(places), [textwrap.shorten(bar.label, 56, placeholder=" ...") for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    marks = [at for at in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if least <= at <= most]
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="x", color="#e4e8ea", zorder=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_title(
        f"{ours} : {other}; left of 1 is better\nCPU for each message or connect, where nothing else is said",
        loc="left", size=9, weight="bold",
    )  # fmt: skip


def _curves(results: Results, name: str) -> dict[str, list[Line]]:
    """The figures of a row that were measured at several places; one for each."""
    found: dict[str, list[Line]] = {}
    first = next(iter(results.sections[name].variants))  # curves of one variant, or nobody could read them
    for variant, line in results.sections[name].lines():
        if variant == first and line.figure.x is not None:
            found.setdefault(line.figure.name, []).append(line)
    return {figure: lines for figure, lines in found.items() if len(lines) > 1}


def _draw_curves(place: "SubFigure", results: Results, name: str, by_figure: dict[str, list[Line]]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator  # noqa: PLC0415 - only where used

    section = results.sections[name]
    variant = next(iter(section.variants))
    place.suptitle(f"{section.title} ({variant})", x=0.01, ha="left", size=9, weight="bold")
    all_axes = place.subplots(1, len(by_figure), squeeze=False)[0]
    for axes, lines in zip(all_axes, by_figure.values(), strict=True):
        figure = lines[0].figure
        for broker, colour, mark in zip(results.brokers, _LINES, _MARKS, strict=False):
            points = [(line.figure.x or 0, value) for line in lines if (value := line.median(broker)) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=mark, ms=3.5, lw=1.5, label=broker)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.15 * max(*(value for line in lines for value in _there(line)), 1e-9))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axes.set_xticks([line.figure.x or 0 for line in lines])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axes.tick_params(labelsize=7)
        axes.set_title(
            "\n".join(textwrap.wrap(f"{figure.title}, {figure.unit}", 130 // len(by_figure))), size=7.5, loc="left"
        )
        axes.set_xlabel(figure.axis, size=7.5)
        axes.grid(axis="y", color="#e4e8ea")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    all_axes[0].legend(frameon=False, fontsize=7, loc="best")


def _there(line: Line) -> list[float]:
    return [value for broker in line.values if (value := line.median(broker)) is not None]


def _short(value: float) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
