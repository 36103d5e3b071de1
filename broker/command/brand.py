"""`pushbroker brand`: the tenants, and the tokens and passwords of their servers."""

from collections.abc import Sequence
from typing import Any

import click

from broker.command.base import Duration, Noun, Run, confirm, pass_run, read_secret, yes_option
from broker.command.names import brands
from broker.command.output import print_json, print_list, print_one
from broker.command.profiles import QuietHours
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


restraint = command.noun("restraint", "Restraint: quiet hours, and how much is too much.")


class _Cap(click.ParamType):  # type: ignore[type-arg]
    """`3/day`, `1/4h`, `transactional:20/day`; '' for none at all."""

    name = "cap"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse, or fail with what would do."""
        if not isinstance(value, str) or not value:
            return value
        kind, colon, rest = value.rpartition(":")
        count, slash, span = rest.partition("/")
        kind = kind if colon else "marketing"
        if kind not in ("marketing", "transactional") or not slash or not count.isdecimal() or len(count) > 9:
            self.fail(f"{value!r} is no cap: write 3/day, 1/4h or transactional:20/day.", param, ctx)
        per_s = None if span == "day" else Duration().convert(span, param, ctx)
        return {"max": int(count), "per_s": per_s, "kind": kind}


@restraint.command("show", examples=["pushbroker brand restraint show acme"])
@_brand
@pass_run
def show_restraint(run: Run, brand: str) -> None:
    """Show what a brand holds itself to."""
    rules = run.call("restraint.show", brand=brand)
    if not run.json:
        hours = rules["quiet_hours"]
        rules["quiet_hours"] = f"{hours['from']} to {hours['until']}" if hours else "none"
        rules["time_zone"] = rules["time_zone"] or "UTC"
        rules["caps"] = [_cap_text(cap) for cap in rules["caps"]] or "none"
    print_one(run, rules)


@restraint.command(
    "set",
    examples=[
        "pushbroker brand restraint set acme --quiet-hours 22:00-08:00 --time-zone Europe/Rome",
        "pushbroker brand restraint set acme --cap 3/day --cap 1/4h --cap transactional:20/day",
        "pushbroker brand restraint set acme --cap ''",
    ],
)
@_brand
@click.option("--quiet-hours", type=QuietHours(), help="Of users who have none of their own: 22:00-08:00; '' for none.")
@click.option("--time-zone", help="Of users of whom none is known: Europe/Rome; '' for UTC.")
@click.option(
    "--quiet-for", type=click.Choice(["marketing", "all"]), help="Which messages wait until quiet hours are over."
)
@click.option(
    "--cap",
    "caps",
    multiple=True,
    type=_Cap(),
    help="At most so many to one recipient, in a day of theirs or another time: 3/day, 1/4h, transactional:20/day. "
    "All of them at once; '' for none.",
)
@pass_run
def set_restraint(
    run: Run, brand: str, quiet_hours: Any, time_zone: str | None, quiet_for: str | None, caps: Sequence[Any]
) -> None:
    """Change it. It holds for whatever is sent from then on."""
    changes: dict[str, Any] = {}
    if quiet_hours is not None:
        changes["quiet_hours"] = quiet_hours or None
    if time_zone is not None:
        changes["time_zone"] = time_zone
    if quiet_for is not None:
        changes["quiet_kinds"] = ["marketing"] if quiet_for == "marketing" else ["marketing", "transactional"]
    if caps:
        changes["caps"] = [cap for cap in caps if cap]
    if not changes:
        raise click.UsageError("Say what is to change: --quiet-hours, --time-zone, --quiet-for, --cap.")
    run.done(run.call("restraint.set", brand=brand, **changes), f"restraint of {brand} changed")


def _cap_text(cap: dict[str, Any]) -> str:
    return f"{cap['max']} {cap['kind']} in {'a day' if cap['per_s'] is None else str(cap['per_s']) + ' s'}"
