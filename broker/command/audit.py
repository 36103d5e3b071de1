"""`pushbroker audit`: who did what, and who looked at whom."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from broker.command.base import Duration, Run, pass_run, standard
from broker.command.names import brands
from broker.command.output import print_json, print_list, printable

_COLUMNS: Final = ("at", "actor", "brand", "operation", "target", "outcome", "detail")


@click.command(
    "audit",
    **standard(
        examples=[
            "pushbroker audit",
            "pushbroker audit acme --operation user --since 7d",
            "pushbroker audit acme --actor agent:mia --limit 1000 --json",
            "pushbroker audit --follow",
        ]
    ),
)
@click.argument("brand", required=False, shell_complete=brands)
@click.option("--actor", metavar="WHO", help="By them: operator:root, agent:mia, server:acme/server/crm.")
@click.option("--operation", metavar="NAME", help="Only this: user.erase, or user for all that begin with it.")
@click.option("--since", "since_s", type=Duration(), help="Of the last 12h, 7d.")
@click.option("--limit", type=click.IntRange(1, 5000), default=100, show_default=True, help="At most so many.")
@click.option("--follow", is_flag=True, help="Show what comes, until Ctrl-C.")
@pass_run
def command(
    run: Run,
    brand: str | None,
    actor: str | None,
    operation: str | None,
    since_s: int | None,
    limit: int,
    follow: bool,
) -> None:
    """Show what operators, agents and brands' servers did, and whose data they looked at.

    The newest entries, in their order. Secrets and what was said are not in it. An entry without an outcome was begun,
    and its end not seen.
    """
    which = {"brand": brand, "actor": actor, "operation": operation}
    if follow:
        for entry in run.stream("audit.watch", **which):
            if run.json:
                print_json(entry, indent=0)
            else:
                click.echo("  ".join(str(value) for value in _for_people(entry).values() if value))
        return
    since = None if since_s is None else datetime.now(UTC) - timedelta(seconds=since_s)
    found = run.call("audit.list", **which, since=since, most=limit)
    rows = found if run.json else [_for_people(entry) for entry in found]
    print_list(run, rows, _COLUMNS, empty="Nothing was noted.")


def _for_people(entry: Mapping[str, Any]) -> dict[str, str]:
    detail = ", ".join(f"{name}={_short(value)}" for name, value in entry["detail"].items())
    return {**{name: printable(str(entry[name])) for name in _COLUMNS[:-1]}, "detail": printable(detail)}


def _short(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
