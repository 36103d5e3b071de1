"""`pushbroker store`: the places where a brand's devices stand."""

import click

from broker.command.base import Noun, Run, confirm, pass_run, yes_option
from broker.command.names import brands, stores
from broker.command.output import print_list, print_one

command = Noun("store", help="Stores: the places where a brand's devices stand.")
_brand = click.argument("brand", shell_complete=brands)
_store = click.argument("store", shell_complete=stores)


@command.command(
    "add", examples=["pushbroker store add acme milano", "pushbroker store add acme milano --title 'Milano Centrale'"]
)
@_brand
@click.argument("store")
@click.option("--title", default="", help="A name for people.")
@pass_run
def add(run: Run, brand: str, store: str, title: str) -> None:
    """Add a store. What is sent to BRAND/store/STORE reaches its devices."""
    added = run.call("store.add", brand=brand, name=store, title=title)
    run.done(added, f"store {store} of {brand} added. Next: pushbroker device code {brand} DEVICE --store {store}")


@command.command("list", examples=["pushbroker store list", "pushbroker store list acme --json"])
@click.argument("brand", required=False, shell_complete=brands)
@pass_run
def list_(run: Run, brand: str | None) -> None:
    """List the stores, of one brand or of all."""
    print_list(
        run,
        run.call("store.list", brand=brand),
        ("brand", "name", "title", "created_at"),
        empty="There are no stores: pushbroker store add BRAND NAME",
    )


@command.command("show", examples=["pushbroker store show acme milano"])
@_brand
@_store
@pass_run
def show(run: Run, brand: str, store: str) -> None:
    """Show one store."""
    print_one(run, run.call("store.show", brand=brand, name=store))


@command.command(
    "remove", examples=["pushbroker store remove acme milano", "pushbroker store remove acme milano --yes"]
)
@_brand
@_store
@yes_option
@pass_run
def remove(run: Run, brand: str, store: str, yes: bool) -> None:
    """Remove a store. Its devices stay, and stand nowhere."""
    run.call("store.show", brand=brand, name=store)
    confirm(f"Remove store {store} of {brand}?", yes=yes)
    run.call("store.remove", brand=brand, name=store)
    run.done({"brand": brand, "name": store, "removed": True}, f"store {store} of {brand} removed")
