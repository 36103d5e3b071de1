"""`pushbroker status`: what the running broker says of itself."""

import click

from broker.command.base import Run, pass_run, standard
from broker.command.output import print_one


@click.command("status", **standard(examples=["pushbroker status", "pushbroker status --json | jq .connections"]))
@pass_run
def command(run: Run) -> None:
    """Show how the running broker is.

    Counters count since its start; those that are 0 are left out, but not from --json.
    """
    status = run.call("status")
    if not run.json:
        status["counters"] = {name: count for name, count in status["counters"].items() if count}
    print_one(run, status)
