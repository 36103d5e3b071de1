"""`pushbroker status`: what the running broker says of itself."""

import click

from broker.command.base import Run, pass_run, standard
from broker.command.output import print_one


@click.command("status", **standard(examples=["pushbroker status", "pushbroker status --json | jq .connections"]))
@pass_run
def command(run: Run) -> None:
    """Show how the running broker is."""
    print_one(run, run.call("status"))
