"""`pushbroker questions`: what customers ask, and what becomes of it."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import click

from broker.command.base import Noun, Run, counted, pass_run
from broker.command.figures import blocks, span
from broker.command.names import brands
from broker.command.output import print_csv, print_json, print_list

command = Noun("questions", help="Questions: what customers ask, what became of it, what content is missing.")
_brand = click.argument("brand", shell_complete=brands)
_csv = click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
_OUTCOMES: Final = ("answered", "choice", "server", "person", "waiting", "nothing")
_TOOK: Final = {"answered": "automation", "server": "by_server", "person": "by_person"}
_TIME: Final = ("since", "until")
_PAGE: Final = 1000


def _within(function: Callable[..., Any]) -> Callable[..., Any]:
    """In which time."""
    words = "on the brand's clock: 2026-11-24, or 2026-11-24T09:00."
    since = click.option("--since", metavar="TIME", help=f"From then on, {words}  [default: 30 days before the end]")
    until = click.option("--until", metavar="TIME", help="Until before then.  [default: now]")
    return since(until(function))


@command.command(
    "figures",
    examples=[
        "pushbroker questions figures acme",
        "pushbroker questions figures acme --by store --since 2026-11-01",
        "pushbroker questions figures acme --by day --csv > questions.csv",
    ],
)
@_brand
@click.option(
    "--by",
    type=click.Choice(["brand", "store", "day"]),
    default="brand",
    show_default=True,
    help="A line for each; days are those of the brand's time zone.",
)
@_within
@_csv
@pass_run
def figures(run: Run, brand: str, by: str, since: str | None, until: str | None, as_csv: bool) -> None:
    """Say what became of questions, how long it took, and whether it was of use.

    Each question is counted once: answered at once, answered with a choice, by the brand's server, by a person,
    waiting for one of these two, or not answered at all.
    """
    found = run.call("questions.figures", brand=brand, by=by, since=since, until=until)
    rows = found["figures"]
    if as_csv:
        print_csv(map(_flat, rows), list(_flat(found["all"])))
    elif run.json:
        print_json(found)
    elif by == "brand":
        for line in _lines(found["all"], _time(found)):
            click.echo(line)
    else:
        most = max((row["questions"] for row in rows), default=0)
        shown = [_cells(row, by, most) for row in rows]
        print_list(run, shown, list(shown[0]) if shown else (), empty=f"Nobody asked anything {_time(found)}.")


@command.command(
    "unanswered",
    examples=[
        "pushbroker questions unanswered acme",
        "pushbroker questions unanswered acme --since 2026-11-01 --limit 100 --csv > missing.csv",
    ],
)
@_brand
@_within
@click.option("--limit", type=click.IntRange(1, _PAGE), default=20, show_default=True, help="At most so many.")
@_csv
@pass_run
def unanswered(run: Run, brand: str, since: str | None, until: str | None, limit: int, as_csv: bool) -> None:
    """List what is asked most, and in vain: the content that is missing.

    Questions of the same words are one, with an example. Nearest is the item that has most of it; to see what it
    lacks: pushbroker ask.
    """
    found = run.call("questions.unanswered", brand=brand, since=since, until=until, most=limit)
    if as_csv:
        print_csv(found["questions"], ("questions", "last_at", "score", "nearest", "example"))
        return
    if run.json:
        print_json(found)
        return
    shown = [
        {
            **row,
            "last": _clock(row["last_at"]),
            "score": f"{row['score']:.2f}" if row["nearest"] else "-",
            "nearest": row["nearest"] or "-",
        }
        for row in found["questions"]
    ]
    columns = ("questions", "last", "score", "nearest", "example")
    print_list(run, shown, columns, empty=f"Nothing was asked in vain {_time(found)}.")


@command.command(
    "list",
    examples=[
        "pushbroker questions list acme",
        "pushbroker questions list acme --outcome nothing --store milano",
        "pushbroker questions list acme --thumb down --json",
    ],
)
@_brand
@_within
@click.option(
    "--outcome",
    type=click.Choice(["answered", "choice", "command", "server", "asking", "person", "nothing"]),
    help="Only those of which that became.",
)
@click.option("--store", metavar="NAME", help="Only those that were asked in this store.")
@click.option("--thumb", type=click.Choice(["up", "down"]), help="Only those whose answer was rated so.")
@click.option("--limit", type=click.IntRange(1, _PAGE), default=50, show_default=True, help="At most so many.")
@_csv
@pass_run
def list_(
    run: Run,
    brand: str,
    since: str | None,
    until: str | None,
    outcome: str | None,
    store: str | None,
    thumb: str | None,
    limit: int,
    as_csv: bool,
) -> None:
    """List questions, the newest first."""
    rated = {None: None, "up": 1, "down": -1}[thumb]
    found = run.call(
        "questions.list", brand=brand, since=since, until=until, outcome=outcome, store=store, thumb=rated, most=limit
    )
    columns = ("at", "with", "store", "outcome", "rule", "item", "took", "thumb", "text")
    if as_csv:
        print_csv(found, [{"took": "took_s"}.get(column, column) for column in columns])
        return
    if run.json:
        print_json(found)
        return
    thumbs = {1: "up", 0: "", -1: "down"}
    shown = [
        {**row, "at": _clock(row["at"]), "took": span(row["took_s"]), "thumb": thumbs[row["thumb"]]} for row in found
    ]
    print_list(run, shown, columns, empty="Nobody asked that.")
    if len(found) == limit:
        run.say(f"perhaps there are more: --until {found[-1]['at']}")


def _lines(row: Mapping[str, Any], time: str) -> Iterator[str]:
    """A screenful about all questions."""
    yield f"{click.style(row['what'], bold=True)}  {click.style(time, dim=True)}"
    yield f"{counted(row['questions'], 'question')} = {' + '.join(f'{row[name]:,} {name}' for name in _OUTCOMES)}"
    yield ""
    width = len(f"{row['questions']:,}")
    for name in _OUTCOMES:
        drawn = click.style(blocks(row[name], row["questions"], 30), fg="green")
        took = row[_TOOK[name]] if name in _TOOK else None
        soon = f"  half in {span(took['p50_s'])}, 99% in {span(took['p99_s'])}" if took and took["count"] else ""
        yield f"  {name:<10} {row[name]:>{width},} {_share(row, name):>6}  {drawn}{soon}".rstrip()
    yield ""
    yield f"  handed over to a person: {row['handed_over']:,}; said to them beyond that: {row['said']:,}"
    if row["satisfied"] is not None:
        yield f"  rated: {row['up'] + row['down']:,}, {row['satisfied']:.1%} of them of use"


def _cells(row: Mapping[str, Any], by: str, most: int) -> dict[str, Any]:
    return {
        by: row["what"] or "(none)",
        "questions": f"{row['questions']:,}",
        "": blocks(row["questions"], most, 10),
        **{name: f"{row[name]:,} {_share(row, name)}" for name in _OUTCOMES},
        "handed_over": f"{row['handed_over']:,}",
        "half_in": span(row["automation"]["p50_s"]),
        "99%_in": span(row["automation"]["p99_s"]),
        "person_half_in": span(row["by_person"]["p50_s"]),
        "person_99%_in": span(row["by_person"]["p99_s"]),
        "of_use": "" if row["satisfied"] is None else f"{row['satisfied']:.1%}",
    }


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as a row of a table."""
    flat = {name: value for name, value in row.items() if not isinstance(value, Mapping)}
    for name in _TOOK.values():
        flat |= {f"{name}_{key}": row[name][key] for key in ("count", "p50_s", "p99_s")}
    return flat


def _share(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name] / row['questions']:.1%}" if row["questions"] else "-"


def _time(found: Mapping[str, Any]) -> str:
    zone = ZoneInfo(found["time_zone"])
    since, until = (f"{datetime.fromisoformat(found[name]).astimezone(zone):%Y-%m-%d %H:%M}" for name in _TIME)
    return f"from {since} to {until}, {zone.key}"


def _clock(at: str) -> str:
    return f"{at[:10]} {at[11:16]}"
