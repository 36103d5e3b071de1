"""Printing data: JSON for programs, aligned columns for pipes, a coloured table for people."""

import csv
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from broker.command.base import Run

# What a spreadsheet takes for the beginning of a formula.
_FORMULA: Final = ("=", "+", "-", "@")
_SPECIAL: Final = re.compile(r"[^\x20-\x7e\n]")


def print_json(value: Any, *, indent: int = 2) -> None:
    """One JSON value on stdout; `indent` 0 keeps it on one line."""
    import msgspec  # noqa: PLC0415 - 30 ms that help need not wait for

    encoded = msgspec.json.encode(value)
    click.echo(printable_json((msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()))


def print_list(run: Run, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
    """A list of things: JSON list, or one row each with the named columns. `empty` is said when there are none."""
    if run.json:
        print_json(rows)
    elif not rows:
        run.say(empty)
    else:
        _print_table(
            [_heading(column) for column in columns], [[text(row.get(column)) for column in columns] for row in rows]
        )


def print_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A table for a spreadsheet, with a row each as they come. What customers wrote is no formula to it."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value:
        value = printable(value)
        return f"'{value}" if value.startswith(_FORMULA) else value
    return value


def print_one(run: Run, thing: Mapping[str, Any]) -> None:
    """One thing: JSON object, or a line for each of its fields."""
    if run.json:
        print_json(thing)
        return
    flat = [(_heading(name).lower(), text(value)) for name, value in thing.items() if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in flat), default=0)
    for name, value in flat:
        first, *more = [printable(line) for line in value.splitlines()] or [""]
        click.echo(f"{click.style(f'{name:<{width}}', dim=True)}  {first}")
        for line in more:
            click.echo(f"{'':<{width}}  {line}")


def text(value: Any) -> str:
    """A value as a person reads it."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.3f}".rstrip("0").rstrip(".")
        case list() | tuple():
            return ", ".join(text(item) for item in value)
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        case dict():
            width = max((len(name) for name in value), default=0)
            return "\n".join(f"{name.replace('_', ' '):<{width}}  {text(item)}" for name, item in value.items())
        case _:
            return str(value)


def _heading(column: str) -> str:
    return column.replace("_", " ").capitalize()


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # What a device or a message says must not drive the operator's terminal, nor break the lines of a script.
    rows = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(len(row[at]) for row in (headings, *rows)) for at in range(len(headings))]
        for row in (headings, *rows):
            click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console  # noqa: PLC0415 - 80 ms that only a terminal needs
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # not as rich's markup: a title may hold brackets
    Console().print(table)


def printable_json(encoded: str) -> str:
    """JSON that means the same, in which what a terminal obeys, or does not show, is escaped."""
    return _SPECIAL.sub(_escaped, encoded)


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    if char.isprintable():
        return char
    return re.sub("....", r"\\u\g<0>", char.encode("utf-16-be", "surrogatepass").hex())


def printable(line: str) -> str:
    """`line` without control characters."""
    return "".join(char if char.isprintable() else "�" for char in line)
