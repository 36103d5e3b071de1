"""`pushbroker user`: the people whom a brand addresses."""

import click

from broker.command.base import Noun, Run, confirm, pass_run, yes_option
from broker.command.names import brands, users
from broker.command.output import print_list, print_one

command = Noun("user", help="Users: the people whom a brand addresses.")
_brand = click.argument("brand", shell_complete=brands)
_user = click.argument("user", shell_complete=users)


@command.command(
    "add", examples=["pushbroker user add acme ada", "pushbroker user add acme ada --title 'Ada Lovelace'"]
)
@_brand
@click.argument("user")
@click.option("--title", default="", help="A name for people.")
@pass_run
def add(run: Run, brand: str, user: str, title: str) -> None:
    """Add a user. What is sent to BRAND/user/USER reaches its devices."""
    added = run.call("user.add", brand=brand, name=user, title=title)
    run.done(added, f"user {user} of {brand} added. Next: pushbroker device code {brand} DEVICE --user {user}")


@command.command("list", examples=["pushbroker user list", "pushbroker user list acme --json"])
@click.argument("brand", required=False, shell_complete=brands)
@pass_run
def list_(run: Run, brand: str | None) -> None:
    """List the users, of one brand or of all."""
    print_list(
        run,
        run.call("user.list", brand=brand),
        ("brand", "name", "title", "created_at"),
        empty="There are no users: pushbroker user add BRAND NAME",
    )


@command.command("show", examples=["pushbroker user show acme ada"])
@_brand
@_user
@pass_run
def show(run: Run, brand: str, user: str) -> None:
    """Show one user."""
    print_one(run, run.call("user.show", brand=brand, name=user))


@command.command("remove", examples=["pushbroker user remove acme ada", "pushbroker user remove acme ada --yes"])
@_brand
@_user
@yes_option
@pass_run
def remove(run: Run, brand: str, user: str, yes: bool) -> None:
    """Remove a user. Its devices stay, and belong to nobody."""
    run.call("user.show", brand=brand, name=user)
    confirm(f"Remove user {user} of {brand}?", yes=yes)
    run.call("user.remove", brand=brand, name=user)
    run.done({"brand": brand, "name": user, "removed": True}, f"user {user} of {brand} removed")
