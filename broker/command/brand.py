"""`pushbroker brand`: the tenants, and the tokens and passwords of their servers."""

import click

from broker.command.base import Duration, Noun, Run, confirm, pass_run, read_secret, yes_option
from broker.command.names import brands
from broker.command.output import print_json, print_list, print_one
from broker.errors import NotFound

command = Noun("brand", help="Brands: the tenants whose servers publish.")
_brand = click.argument("brand", shell_complete=brands)
_OVERFLOWS = ("reject", "drop-oldest")  # `Overflow` of broker.store.entries, which takes 30 ms to load
_OVERFLOW_HELP = (
    "When as much waits for a session as may: refuse the new message, and tell its publisher; or let the oldest go."
)


@command.command("add", examples=["pushbroker brand add acme", "pushbroker brand add acme --title 'Acme S.p.A.'"])
@click.argument("brand")
@click.option("--title", default="", help="A name for people.")
@click.option("--overflow", type=click.Choice(_OVERFLOWS), default="reject", show_default=True, help=_OVERFLOW_HELP)
@pass_run
def add(run: Run, brand: str, title: str, overflow: str) -> None:
    """Add a brand. Its name is the first level of its topics: BRAND/user/..."""
    added = run.call("brand.add", name=brand, title=title, overflow=overflow)
    run.done(
        added, f"brand {brand} added. Next: pushbroker brand token issue {brand}, pushbroker user add {brand} NAME"
    )


@command.command(
    "set",
    examples=["pushbroker brand set acme --overflow drop-oldest", "pushbroker brand set acme --title 'Acme S.p.A.'"],
)
@_brand
@click.option("--title", help="A name for people from now on; '' for none.")
@click.option("--overflow", type=click.Choice(_OVERFLOWS), help=_OVERFLOW_HELP)
@pass_run
def set_(run: Run, brand: str, title: str | None, overflow: str | None) -> None:
    """Change a brand. A running broker goes by it at once."""
    if title is None and overflow is None:
        raise click.UsageError("Say what is to change: --title TEXT, --overflow POLICY, or both.")
    run.done(run.call("brand.set", name=brand, title=title, overflow=overflow), f"brand {brand} changed")


@command.command("list", examples=["pushbroker brand list", "pushbroker brand list --json"])
@pass_run
def list_(run: Run) -> None:
    """List the brands."""
    print_list(
        run,
        run.call("brand.list"),
        ("name", "title", "overflow", "created_at"),
        empty="There are no brands: pushbroker brand add NAME",
    )


@command.command("show", examples=["pushbroker brand show acme"])
@_brand
@pass_run
def show(run: Run, brand: str) -> None:
    """Show one brand."""
    print_one(run, run.call("brand.show", name=brand))


@command.command("remove", examples=["pushbroker brand remove acme", "pushbroker brand remove acme --yes"])
@_brand
@yes_option
@pass_run
def remove(run: Run, brand: str, yes: bool) -> None:
    """Remove a brand and everything of it.

    Its users, stores, devices, tokens and certificates go with it; live connections end at once.
    """
    run.call("brand.show", name=brand)
    confirm(f"Remove brand {brand} and everything of it?", yes=yes)
    run.call("brand.remove", name=brand)
    run.done({"name": brand, "removed": True}, f"brand {brand} removed")


@command.command(
    "password",
    examples=["pushbroker brand password acme crm", "pass show acme/crm | pushbroker brand password acme crm"],
)
@_brand
@click.argument("server")
@click.option("--remove", "removes", is_flag=True, help="Remove the password instead.")
@pass_run
def password(run: Run, brand: str, server: str, removes: bool) -> None:
    """Set the password of a legacy server.

    For one that can do neither tokens nor certificates. It signs in with the user name BRAND/server/SERVER. The
    password is asked for, or read from stdin.
    """
    if removes:
        run.call("password.remove", brand=brand, role="server", name=server)
        run.done(
            {"identity": f"{brand}/server/{server}", "removed": True}, f"password of {brand}/server/{server} removed"
        )
        return
    secret = read_secret("password", again=True)
    run.call("password.set", brand=brand, role="server", name=server, password=secret)
    run.done({"identity": f"{brand}/server/{server}"}, f"password of {brand}/server/{server} set")


token = command.noun("token", "Tokens, with which a brand's servers sign in.")


@token.command(
    "issue",
    examples=[
        "pushbroker brand token issue acme",
        "pushbroker brand token issue acme --name crm --ttl 90d > crm.token",
    ],
)
@_brand
@click.option("--name", default="server", show_default=True, help="The server that will use it: BRAND/server/NAME.")
@click.option(
    "--ttl", type=Duration(), help="How long it is good for: 90s, 15m, 1h, 7d. Without this, until it is revoked."
)
@pass_run
def issue(run: Run, brand: str, name: str, ttl: int | None) -> None:
    """Issue a token and print it, this once.

    The server signs in with the brand as its user name and the token as its password.
    """
    issued = run.call("token.issue", brand=brand, name=name, ttl_s=ttl)
    if run.json:
        print_json(issued)
        return
    click.echo(issued["secret"])
    run.say(f"token {issued['id']} of {brand}/server/{name}. It is kept as a hash and cannot be shown again.")


@token.command("list", examples=["pushbroker brand token list acme"])
@_brand
@pass_run
def list_tokens(run: Run, brand: str) -> None:
    """List the tokens of a brand, without their secrets."""
    print_list(
        run,
        run.call("token.list", brand=brand),
        ("id", "name", "created_at", "expires_at"),
        empty=f"There are no tokens: pushbroker brand token issue {brand}",
    )


@token.command("revoke", examples=["pushbroker brand token revoke acme e0a3f4340dbf"])
@_brand
@click.argument("token_id")
@yes_option
@pass_run
def revoke(run: Run, brand: str, token_id: str, yes: bool) -> None:
    """Revoke a token. Connections that used it end at once."""
    if all(found["id"] != token_id for found in run.call("token.list", brand=brand)):
        raise NotFound(f"{brand} has no token {token_id!r}", remedy=f"pushbroker brand token list {brand}")
    confirm(f"Revoke token {token_id} of {brand}?", yes=yes)
    run.call("token.revoke", brand=brand, token_id=token_id)
    run.done({"id": token_id, "brand": brand, "revoked": True}, f"token {token_id} revoked")
