"""`pushbroker connections`: who is connected."""

import click

from broker.command.base import Noun, Run, data_option, json_option, pass_run
from broker.command.output import print_list


@click.group("connections", cls=Noun, invoke_without_command=True, params=[json_option(), data_option()])
@click.pass_context
def command(context: click.Context) -> None:
    """Connections of the running broker. Without a verb: list."""
    if context.invoked_subcommand is None:
        context.invoke(list_)


@command.command("list", examples=["pushbroker connections list", "pushbroker connections list --json"])
@pass_run
def list_(run: Run) -> None:
    """List who is connected."""
    print_list(
        run,
        run.call("connections.list"),
        ("identity", "client_id", "address", "version", "subscriptions", "in_flight", "waiting", "silent_s"),
        empty="Nobody is connected.",
    )
