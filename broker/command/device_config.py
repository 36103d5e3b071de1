"""`pushbroker device config`: how devices are to be set up, and whether they are."""

from typing import Any

import click

from broker.command.base import Noun, Run, counted, pass_run
from broker.command.fleet import address, addressed, pairs
from broker.command.names import brands
from broker.command.output import print_json, print_list, print_one


def config_commands(device: Noun) -> None:
    """Add `config` to the noun of devices."""
    config = device.noun("config", "How devices are to be set up, and whether they say that they are.")
    brand_argument = click.argument("brand", shell_complete=brands)

    @config.command(
        "set",
        examples=[
            "pushbroker device config set acme kiosk-7 volume=3 theme=dark",
            "pushbroker device config set acme --store milano volume=3",
        ],
    )
    @brand_argument
    @click.argument("words", nargs=-1, required=True, metavar="[DEVICE] KEY=VALUE...")
    @addressed
    @pass_run
    def set_(run: Run, /, brand: str, words: tuple[str, ...], **to: Any) -> None:
        """Change settings of devices.

        They are told at once, or when they come; other settings stay as they are.
        """
        name, words = _named(words, to)
        _change(run, brand, address(to, more=name), pairs(words))

    @config.command(
        "unset",
        examples=[
            "pushbroker device config unset acme kiosk-7 theme",
            "pushbroker device config unset acme --tag lobby theme",
        ],
    )
    @brand_argument
    @click.argument("words", nargs=-1, required=True, metavar="[DEVICE] KEY...")
    @addressed
    @pass_run
    def unset(run: Run, /, brand: str, words: tuple[str, ...], **to: Any) -> None:
        """Take settings from devices."""
        name, words = _named(words, to)
        _change(run, brand, address(to, more=name), dict.fromkeys(words))

    @config.command(
        "show",
        examples=["pushbroker device config show acme kiosk-7", "pushbroker device config show acme --store milano"],
    )
    @brand_argument
    @click.argument("name", required=False, default="", metavar="[DEVICE]")
    @addressed
    @pass_run
    def show(run: Run, /, brand: str, name: str, **to: Any) -> None:
        """Show how devices are to be set up, how they say that they are, and where that differs."""
        if not name and not any(to.values()):
            raise click.UsageError("Name a DEVICE, or use --store, --tag, --condition or --all.")
        found = run.call("config.show", brand=brand, to=address(to, more=name))
        if name and len(found) == 1 and not run.json:
            one = found[0]
            print_one(run, {**one, "differs": _differences(one["differs"])})
            return
        if run.json:
            print_json(found)
            return
        rows = [{**one, "differs": ", ".join(one["differs"])} for one in found]
        columns = ("device", "version", "reported_version", "reported_at", "behind", "differs", "error")
        print_list(run, rows, columns, empty=f"Nothing is set: pushbroker device config set {brand} DEVICE KEY=VALUE")


def _named(words: tuple[str, ...], to: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The device that stands first where no option says which, and the words behind it."""
    if any(to.values()):
        return "", words
    if len(words) < 2 or "=" in words[0]:
        raise click.UsageError("Name a DEVICE first, or use --store, --tag, --condition or --all.")
    return words[0], words[1:]


def _change(run: Run, /, brand: str, to: dict[str, Any], changes: dict[str, str] | dict[str, None]) -> None:
    changed = run.call("config.set", brand=brand, to=to, changes=changes)
    words = f"{counted(changed['devices'], 'device')} of {brand}, changed for {changed['changed']:,}"
    run.done(changed, f"{words}. Who has taken it over: pushbroker device list {brand} --behind")


def _differences(differs: dict[str, dict[str, str | None]]) -> dict[str, str]:
    return {
        key: f"{_or_none(values['desired'])} desired, {_or_none(values['reported'])} reported"
        for key, values in differs.items()
    }


def _or_none(value: str | None) -> str:
    return "nothing" if value is None else repr(value)
