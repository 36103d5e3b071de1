"""What became of a message, as lines of text for people: numbers that add up, bars of how long it took."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click

from broker.command.base import counted
from broker.command.output import printable

_ENDS: Final = ("delivered", "expired", "replaced", "dropped", "withdrawn")
_EVENTS: Final = ("displayed", "opened", "clicked", "dismissed")
_BAR: Final = 40
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"), (0.001, "ms"))


def lines(shown: Mapping[str, Any]) -> Iterator[str]:
    """A screenful about one message, as `message.show` gives it."""
    counts, reasons = shown["counts"], shown["reasons"]
    yield f"{click.style(shown['id'], bold=True)}  {printable(shown['title'])}".rstrip()
    campaign = f", campaign {shown['campaign']}" + (f" {shown['variant']}" if shown["variant"] else "")
    yield _dim(f"{shown['brand']}, {shown['kind']}, {shown['state']}{campaign if shown['campaign'] else ''}")
    yield _dim(f"accepted {_clock(shown['accepted_at'])} from {shown['sender'] or 'the operator'}, of use until "
               f"{_clock(shown['expires_at'])}")  # fmt: skip
    yield ""
    yield _sum(counts)
    if shown["state"] == "filling":
        yield "its recipients are still being looked for"
    yield ""
    width = max(len(f"{count:,}") for count in counts.values())
    for name in (*_ENDS, "waiting"):
        why = _waiting(shown) if name == "waiting" else _why(reasons.get(name))
        yield f"  {name:<10} {counts[name]:>{width},}  {_bar(counts[name], counts['accepted'])}{why}".rstrip()
    yield ""
    for name in _EVENTS:
        said = shown["events"][name]
        devices = f", on {counted(said['devices'], 'device')}" if said["devices"] else ""
        yield f"  {name:<10} {said['recipients']:>{width},}{devices}"
    for name in ("delivered", "opened"):
        yield from _took(name, shown[f"time_to_{name}"])


def one_line(shown: Mapping[str, Any]) -> str:
    """The same in a line, for a log."""
    said = ", ".join(f"{shown['events'][name]['recipients']:,} {name}" for name in _EVENTS)
    return f"{shown['at']}  {_sum(shown['counts'])}; {said}"


def span(seconds: float | None) -> str:
    """0.0123 as `12 ms`, 90 as `1.5 min`."""
    if seconds is None:
        return "-"
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
    number = seconds / size
    return f"{number:.0f} {unit}" if number >= 10 or number == int(number) else f"{number:.1f} {unit}"


def _sum(counts: Mapping[str, int]) -> str:
    parts = " + ".join(f"{counts[name]:,} {name}" for name in (*_ENDS, "waiting"))
    return f"{counts['accepted']:,} accepted = {parts}"


def _why(reasons: Mapping[str, int] | None) -> str:
    return "  " + ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) if reasons else ""


def _waiting(shown: Mapping[str, Any]) -> str:
    counts = shown["counts"]
    if not counts["waiting"]:
        return ""
    later = counts["waiting"] - counts["sent"]
    due = f" (the next at {_clock(shown['next_due_at'])})" if later else ""
    return f"  {counts['sent']:,} sent, {later:,} to be sent{due}{_why(shown['reasons'].get('waiting'))}"


def _took(name: str, took: Mapping[str, Any]) -> Iterator[str]:
    if not took["count"]:
        return
    percentiles = ", ".join(
        f"{part} in {span(took[key])}" for part, key in (("half", "p50_s"), ("90%", "p90_s"), ("99%", "p99_s"))
    )
    yield ""
    yield f"from sent to {name}: {percentiles}"
    yield from _bars(took["bars"])


def _bars(bars: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    filled = [at for at, bar in enumerate(bars) if bar["count"]]
    most = max(bar["count"] for bar in bars)
    width = len(f"{most:,}")
    for bar in bars[filled[0] : filled[-1] + 1]:
        bound = f"< {span(bar['under_s'])}" if bar["under_s"] else f"> {span(bars[-2]['under_s'])}"
        yield f"  {bound:>10} {bar['count']:>{width},}  {_bar(bar['count'], most)}".rstrip()


def blocks(count: int, of: int, width: int) -> str:
    """A bar: as much of its width as `count` is of all, and something if it is not nothing."""
    return "█" * (-(-count * width // of) if of else 0)


def _bar(count: int, of: int) -> str:
    return click.style(blocks(count, of, _BAR), fg="green")


def _clock(at: str | None) -> str:
    return f"{at[:10]} {at[11:19]}" if at else ""


def _dim(words: str) -> str:
    return click.style(words, dim=True)
