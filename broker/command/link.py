"""`pushbroker link`: connections to brokers of others, with the topics that pass."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from broker.command.base import Noun, Run, confirm, counted, pass_run, read_secret, yes_option
from broker.command.names import brands, links
from broker.command.output import print_json, print_list, print_one
from broker.errors import Failed

command = Noun("link", help="Links: to a brand's own MQTT broker, and the topics that pass.")
_brand = click.argument("brand", shell_complete=brands)
_name = click.argument("name", shell_complete=links)
_file = click.Path(path_type=Path, dir_okay=False, exists=True)
_version = click.option(
    "--mqtt",
    "version",
    type=click.Choice(("auto", "5", "3.1.1")),
    help="Which version to speak; auto: 5, and 3.1.1 where their broker knows no 5.  [default: auto]",
)
_client_id = click.option("--client-id", help="Who the link is there; without it, a name that nobody else has.")
_username = click.option("--username", help="The user name there; '' for none.")
_password = click.option("--password", "asks", is_flag=True, help="Ask for the password there, or read it from stdin.")
_ca = click.option("--ca", type=_file, help="Whom to trust (PEM); without it, the system's authorities.")
_cert = click.option("--cert", type=_file, help="The certificate to show there (PEM).")
_key = click.option("--key", type=_file, help="Its key (PEM), without a passphrase.")
_inbound = click.option(
    "--in",
    "inbound",
    multiple=True,
    metavar="MAPPING",
    help="THEIRS -> OURS, such as 'crm/{user}/notify -> acme/user/{user}'.",
)
_outbound = click.option(
    "--out",
    "outbound",
    multiple=True,
    metavar="MAPPING",
    help="OURS -> THEIRS, such as 'acme/receipts/{id} -> push/{id}'.",
)


@command.command(
    "add",
    examples=[
        "pushbroker link add acme crm mqtt://10.0.0.5 --in 'crm/{user}/notify -> acme/user/{user}'",
        "pass show crm | pushbroker link add acme x mqtts://mq.example --username me --password --in 'x -> acme/send'",
        "pushbroker link add acme shop wss://mq.example/mqtt --cert l.pem --key l.key --out 'acme/topic/x -> x'",
    ],
)
@_brand
@click.argument("name")
@click.argument("url")
@_version
@_client_id
@_username
@_password
@_ca
@_cert
@_key
@_inbound
@_outbound
@pass_run
def add(run: Run, /, brand: str, name: str, url: str, asks: bool, **given: Any) -> None:
    """Add a link to the broker at URL: mqtt://, mqtts://, ws:// or wss://.

    What is published there comes here with --in, and back with --out; {name} stands for one level, {name...} for all
    that follow. Each message is acknowledged when the other side has it. Files are read by the broker, whenever it
    connects; the password is kept in the records, readable.
    """
    password = read_secret("password") if asks else None
    added = run.call("link.add", brand=brand, name=name, url=url, password=password, **_given(given))
    run.done(added, f"link {name} of {brand} added. Next: pushbroker link test {brand} {name}")


@command.command("list", examples=["pushbroker link list", "pushbroker link list acme --json"])
@click.argument("brand", required=False, shell_complete=brands)
@pass_run
def list_(run: Run, brand: str | None) -> None:
    """List the links, with how they stand."""
    found = run.call("link.list", brand=brand)
    print_list(
        run,
        found if run.json else [_row(link) for link in found],
        ("brand", "name", "state", "in", "out", "refused", "waiting in", "waiting out", "last_error"),
        empty="There are no links: pushbroker link add BRAND NAME URL",
    )


@command.command("show", examples=["pushbroker link show acme crm"])
@_brand
@_name
@pass_run
def show(run: Run, brand: str, name: str) -> None:
    """Show one link: how it is set up, how it stands, what it has carried."""
    link = run.call("link.show", brand=brand, name=name)
    if not run.json:
        link = {**link, **{side: "\n".join(link[side]) for side in ("inbound", "outbound")}}
    print_one(run, link)


@command.command(
    "set",
    examples=[
        "pushbroker link set acme crm --in 'crm/{user}/notify -> acme/user/{user}'",
        "pass show crm | pushbroker link set acme crm --password",
        "pushbroker link set acme crm --ca '' --out ''",
    ],
)
@_brand
@_name
@click.option("--url", help="Where their broker is.")
@_version
@_client_id
@_username
@_password
@click.option("--ca", type=str, metavar="FILE", help="Whom to trust (PEM); '': the system's authorities.")
@click.option("--cert", type=str, metavar="FILE", help="The certificate to show there (PEM); '' for none.")
@click.option("--key", type=str, metavar="FILE", help="Its key (PEM); '' where the certificate's file has it.")
@_inbound
@_outbound
@pass_run
def set_(run: Run, /, brand: str, name: str, asks: bool, **given: Any) -> None:
    """Change a link. A running broker goes by it at once.

    --in and --out replace all mappings of their direction; '' leaves none.
    """
    changes = _given(given)
    if asks:
        changes["password"] = read_secret("password")
    elif changes.get("username") == "":
        changes["password"] = ""
    if not changes:
        raise click.UsageError("Say what is to change: pushbroker link set --help.")
    run.done(run.call("link.set", brand=brand, name=name, **changes), f"link {name} of {brand} changed")


@command.command("pause", examples=["pushbroker link pause acme crm"])
@_brand
@_name
@pass_run
def pause(run: Run, brand: str, name: str) -> None:
    """Disconnect a link until it is resumed. What is for the other side waits, on both sides."""
    run.done(run.call("link.set", brand=brand, name=name, paused=True), f"link {name} of {brand} paused")


@command.command("resume", examples=["pushbroker link resume acme crm"])
@_brand
@_name
@pass_run
def resume(run: Run, brand: str, name: str) -> None:
    """Connect a paused link again."""
    run.done(run.call("link.set", brand=brand, name=name, paused=False), f"link {name} of {brand} resumed")


@command.command("remove", examples=["pushbroker link remove acme crm", "pushbroker link remove acme crm --yes"])
@_brand
@_name
@yes_option
@pass_run
def remove(run: Run, brand: str, name: str, yes: bool) -> None:
    """Remove a link. What waits in it for the other side goes with it."""
    waiting = run.call("link.show", brand=brand, name=name)["waiting_out"]
    confirm(f"Remove link {name} of {brand}, with {counted(waiting, 'message')} that wait for the other side?", yes=yes)
    run.done(run.call("link.remove", brand=brand, name=name), f"link {name} of {brand} removed")


@command.command("test", examples=["pushbroker link test acme crm"])
@_brand
@_name
@pass_run
def test(run: Run, brand: str, name: str) -> None:
    """Connect once to the other side, beside the link itself, and say how that went.

    The client id is that of the link with -test behind it. It subscribes as the link does, takes no message, and leaves
    no session behind.
    """
    tried = run.call("link.test", brand=brand, name=name)
    if run.json:
        print_json(tried)
    if not tried["ok"]:
        raise Failed(tried["error"], remedy=tried["remedy"])
    run.say(f"connected with MQTT {tried['mqtt']} and subscribed, in {tried['took_ms']} ms")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, as the operations take it; files as absolute paths, for the broker runs elsewhere."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name in ("ca", "cert", "key"):
        if given.get(name):
            given[name] = str(Path(given[name]).absolute())
    for side in ("inbound", "outbound"):
        if side in given:
            given[side] = [mapping for mapping in given[side] if mapping]
    return given


def _row(link: Mapping[str, Any]) -> dict[str, Any]:
    """A link as a line for people."""
    state = link["state"]
    error = link["last_error"]
    if link["since"]:
        state = f"connected since {link['since']}"
        if (link["last_error_at"] or "") < link["since"]:
            error = ""  # that is over
    elif link["retry_at"]:
        left_s = (datetime.fromisoformat(link["retry_at"]) - datetime.now(UTC)).total_seconds()
        state = f"retrying in {max(0, round(left_s))} s"
    waits = f"{link['waiting_in']:,}"
    if link["waiting_in"]:
        waits += f" ({link['oldest_in_s']:.0f} s)"
    return {
        **link,
        "state": state,
        "last_error": error,
        "in": f"{link['messages_in']:,}",
        "out": f"{link['messages_out']:,}",
        "refused": f"{link['refused_in'] + link['refused_out']:,}",
        "waiting in": waits,
        "waiting out": f"{link['waiting_out']:,}",
    }
