"""`pushbroker device`: kiosks, tablets, app installations, and how they get their certificates."""

import logging
from pathlib import Path
from typing import Any

import click

from broker.command.base import Duration, Noun, Run, confirm, pass_run, read_secret, yes_option
from broker.command.device_config import config_commands
from broker.command.names import brands, devices, stores, users
from broker.command.output import print_json, print_list
from broker.command.profiles import profile_commands, show_with_profile
from broker.errors import Refused, Unreachable

command = Noun("device", help="Devices: the kiosks, tablets and apps that show what is sent.")
_brand = click.argument("brand", shell_complete=brands)
_device = click.argument("device", shell_complete=devices)
_COLUMNS = ("brand", "name", "user", "store", "state", "online", "last_seen", "configuration", "certificate_not_after")


@command.command(
    "code",
    examples=[
        "pushbroker device code acme kiosk-7 --user ada --store milano",
        "pushbroker device code acme kiosk-7 --ttl 15m --json",
    ],
)
@_brand
@_device
@click.option("--user", default="", help="Whose device it is.", shell_complete=users)
@click.option("--store", default="", help="Where it stands.", shell_complete=stores)
@click.option("--ttl", type=Duration(), default="24h", show_default=True, help="How long the code is good for.")
@pass_run
def code(run: Run, brand: str, device: str, user: str, store: str, ttl: int) -> None:
    """Make a one-time code for a device and print it.

    The device exchanges it for a certificate. A device that is not known yet is added; a new code replaces an old one.
    """
    issued = run.call("device.code", brand=brand, device=device, user=user, store=store, ttl_s=ttl)
    if run.json:
        print_json(issued)
        return
    click.echo(issued["code"])
    run.say(f"good once, until {issued['expires_at']}")
    run.say("on the device: pushbroker device enrol --url mqtts://HOST --ca ca.crt --out DIR")


@command.command(
    "enrol",
    data=False,
    examples=[
        "pushbroker device enrol --url mqtts://push.example.com --ca ca.crt --out /etc/kiosk",
        "echo CODE | pushbroker device enrol --url mqtts://push.example.com --ca ca.crt --out /etc/kiosk",
    ],
)
@click.option("--url", required=True, help="The broker: mqtts://HOST, or mqtts://HOST:PORT where it is not 8883.")
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Whose signature the broker bears: what `pushbroker cert ca` prints.  [default: the system's authorities]",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where the identity goes.")
@click.option("--timeout", type=Duration(), default="60s", show_default=True, help="How long to try.")
@pass_run
def enrol(run: Run, url: str, ca: Path | None, out: Path, timeout: int) -> None:
    """On a device: exchange a one-time code for a certificate.

    The private key is made here and stays here. The code is asked for, or read from stdin.
    """
    import client_sdk  # noqa: PLC0415 - paho and cryptography, 150 ms, only where used
    from client_sdk import errors as sdk  # noqa: PLC0415

    code = read_secret("code", unseen=False)  # nobody types 20 characters blind, and it is good only once
    run.say(f"asking {url}, for at most {timeout} s")
    logging.getLogger("client_sdk").addHandler(logging.NullHandler())  # what it logs is in the error, too
    try:
        credentials = client_sdk.enrol(url=url, code=code, directory=out, ca=ca, timeout=timeout)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except FileExistsError as error:
        raise Refused(
            str(error), remedy=f"Use another directory, or rm -r {out} when it is no longer needed."
        ) from None
    except sdk.Refused as error:
        remedy = error.remedy or "Ask the broker's operator for a new code: pushbroker device code BRAND DEVICE"
        raise Refused(error.message, reason=error.reason, remedy=remedy) from None
    except sdk.PushError as error:
        remedy = error.remedy or f"Check {url} and --ca, then run this again: the code is still good."
        raise Unreachable(error.message, remedy=remedy) from None
    result = {"identity": credentials.identity, "directory": str(out), "not_after": credentials.not_after}
    run.done(result, f"enrolled as {credentials.identity}; its key and certificate are in {out}")


@command.command(
    "list",
    examples=[
        "pushbroker device list",
        "pushbroker device list acme --user ada --json",
        "pushbroker device list acme --store milano --offline",
        "pushbroker device list --behind",
    ],
)
@click.argument("brand", required=False, shell_complete=brands)
@click.option("--user", help="Only this user's.", shell_complete=users)
@click.option("--store", help="Only those in this store.", shell_complete=stores)
@click.option("--online/--offline", "online", default=None, help="Only those that are connected, or are not.")
@click.option("--behind", is_flag=True, help="Only those that are not set up as they should be.")
@pass_run
def list_(run: Run, brand: str | None, user: str | None, store: str | None, online: bool | None, behind: bool) -> None:
    """List devices: whose they are, who is online, when the others were seen last."""
    found = run.call("device.list", brand=brand, user=user, store=store, online=online, behind=behind)
    print_list(run, found, _COLUMNS, empty="There are no devices: pushbroker device code BRAND DEVICE")


@command.command("show", examples=["pushbroker device show acme kiosk-7"])
@_brand
@_device
@pass_run
def show(run: Run, brand: str, device: str) -> None:
    """Show one device: whether it is online, its state, tags and attributes.

    And what was said on it, where it is nobody's.
    """
    show_with_profile(run, run.call("device.show", brand=brand, device=device), "device", brand, device)


profile_commands(command, "device", devices)
config_commands(command)


@command.command(
    "assign",
    examples=[
        "pushbroker device assign acme kiosk-7 --user grace",
        "pushbroker device assign acme kiosk-7 --store ''",
    ],
)
@_brand
@_device
@click.option("--user", help="Whose device it is from now on; '' for nobody's.", shell_complete=users)
@click.option("--store", help="Where it stands from now on; '' for nowhere.", shell_complete=stores)
@pass_run
def assign(run: Run, brand: str, device: str, user: str | None, store: str | None) -> None:
    """Give a device to a user, or put it into a store."""
    if user is None and store is None:
        raise click.UsageError("Say what is to change: --user NAME, --store NAME, or both.")
    changes = {name: value for name, value in (("user", user), ("store", store)) if value is not None}
    run.done(run.call("device.assign", brand=brand, device=device, **changes), f"device {device} of {brand} assigned")


@command.command("revoke", examples=["pushbroker device revoke acme kiosk-7"])
@_brand
@_device
@yes_option
@pass_run
def revoke(run: Run, brand: str, device: str, yes: bool) -> None:
    """Lock a device out: lost, stolen, sold.

    Its certificates are revoked and its connection ends at once. A new code lets it enrol again.
    """
    _act(run, "revoke", brand, device, yes=yes)


@command.command("remove", examples=["pushbroker device remove acme kiosk-7 --yes"])
@_brand
@_device
@yes_option
@pass_run
def remove(run: Run, brand: str, device: str, yes: bool) -> None:
    """Remove a device and revoke its certificates."""
    _act(run, "remove", brand, device, yes=yes)


def _act(run: Run, verb: str, brand: str, device: str, *, yes: bool) -> None:
    run.call("device.show", brand=brand, device=device)
    confirm(f"{verb.capitalize()} device {device} of {brand}?", yes=yes)
    run.call(f"device.{verb}", brand=brand, device=device)
    past = f"{verb}d" if verb.endswith("e") else verb
    run.done({"brand": brand, "name": device, past: True}, f"device {device} of {brand} {past}")


@command.command(
    "password",
    examples=["pushbroker device password acme till-3", "echo PASSWORD | pushbroker device password acme till-3"],
)
@_brand
@_device
@click.option("--remove", "removes", is_flag=True, help="Remove the password instead.")
@pass_run
def password(run: Run, brand: str, device: str, removes: bool) -> None:
    """Set the password of a legacy device.

    For one that cannot use a certificate. It signs in with the user name BRAND/device/DEVICE. The password is asked
    for, or read from stdin. A device that is not known yet is added.
    """
    target: dict[str, Any] = {"brand": brand, "role": "device", "name": device}
    identity = f"{brand}/device/{device}"
    if removes:
        run.call("password.remove", **target)
        run.done({"identity": identity, "removed": True}, f"password of {identity} removed")
        return
    run.call("password.set", **target, password=read_secret("password", again=True))
    run.done({"identity": identity}, f"password of {identity} set")
