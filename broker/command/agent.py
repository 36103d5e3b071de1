"""`pushbroker agent`: who answers a brand's customers."""

import click

from broker.command.base import Noun, Run, confirm, pass_run, yes_option
from broker.command.names import agents, brands, stores
from broker.command.output import print_list

command = Noun("agent", help="Agents: the people who answer a brand's customers.")
_brand = click.argument("brand", shell_complete=brands)
_agent = click.argument("agent", shell_complete=agents)
_title = click.option("--title", help="What customers know them as.")
_most = click.option("--most", type=click.IntRange(min=1), help="They are given so many conversations at a time.")


@command.command(
    "add",
    examples=[
        "pushbroker agent add acme mia --title 'Mia R.'",
        "pushbroker agent add acme leo --store milano --tag wine --most 10",
    ],
)
@_brand
@click.argument("agent")
@_title
@click.option("--store", "in_stores", multiple=True, metavar="NAME", help="First of all for customers in this store.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="First of all for customers with this tag.")
@_most
@pass_run
def add(
    run: Run, brand: str, agent: str, title: str | None, in_stores: tuple[str, ...], tags: tuple[str, ...],
    most: int | None,
) -> None:  # fmt: skip
    """Add an agent, who is given customers at once.

    Without --store and --tag they are for all. Without --most they take as many as the brand's rules say.
    """
    added = run.call("agent.add", brand=brand, name=agent, title=title or "", stores=in_stores, tags=tags, most=most)
    run.done(added, f"agent {agent} of {brand} added. Next: pushbroker inbox list {brand}")


@command.command("list", examples=["pushbroker agent list acme", "pushbroker agent list acme --json"])
@_brand
@pass_run
def list_(run: Run, brand: str) -> None:
    """List a brand's agents, and how many conversations each has."""
    columns = ("name", "title", "stores", "tags", "away", "conversations", "most")
    print_list(
        run,
        run.call("agent.list", brand=brand),
        columns,
        empty=f"There are no agents: pushbroker agent add {brand} NAME",
    )


@command.command(
    "set",
    examples=[
        "pushbroker agent set acme mia --away",
        "pushbroker agent set acme mia --back",
        "pushbroker agent set acme leo --store milano --store roma --most 5",
        "pushbroker agent set acme leo --store ''",
    ],
)
@_brand
@_agent
@_title
@click.option(
    "--store", "in_stores", multiple=True, metavar="NAME", help="These stores from now on; '': all.",
    shell_complete=stores,
)  # fmt: skip
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="These tags from now on; '': all.")
@_most
@click.option("--away/--back", default=None, help="Whether they are given conversations.")
@pass_run
def set_(
    run: Run, brand: str, agent: str, title: str | None, in_stores: tuple[str, ...], tags: tuple[str, ...],
    most: int | None, away: bool | None,
) -> None:  # fmt: skip
    """Change an agent. What waits for one who goes away is given to others; what they have, they keep."""
    said = {"title": title, "stores": _some(in_stores), "tags": _some(tags), "most": most, "away": away}
    changes = {name: value for name, value in said.items() if value is not None}
    if not changes:
        raise click.UsageError("Say what is to change: --title, --store, --tag, --most, --away or --back.")
    run.done(run.call("agent.set", brand=brand, name=agent, **changes), f"agent {agent} of {brand} changed")


@command.command("remove", examples=["pushbroker agent remove acme mia", "pushbroker agent remove acme mia --yes"])
@_brand
@_agent
@yes_option
@pass_run
def remove(run: Run, brand: str, agent: str, yes: bool) -> None:
    """Remove an agent. Their conversations are given to others; what they said stays in them."""
    confirm(f"Remove agent {agent} of {brand}?", yes=yes)
    run.done(run.call("agent.remove", brand=brand, name=agent), f"agent {agent} of {brand} removed")


def _some(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """None where nothing was said; '' empties a list."""
    return tuple(filter(None, names)) if names else None
