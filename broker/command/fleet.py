"""What commands and configurations have in common: how devices are addressed, and how results are counted."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from broker.command.names import devices, stores

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option("--device", "to_devices", multiple=True, metavar="NAME", help="This device.", shell_complete=devices),
    click.option("--store", "to_stores", multiple=True, metavar="NAME", help="In this store.", shell_complete=stores),
    click.option("--tag", "to_tags", multiple=True, metavar="TAG", help="With this tag."),
    click.option(
        "--condition", "to_condition", default="", help="Of which this is true: store:milano AND NOT tag:test"
    ),
    click.option("--all", "to_all", is_flag=True, help="All of the brand."),
)


def addressed(function: Function) -> Function:
    """Options that say which devices: any of them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def address(options: Mapping[str, Any], *, more: str = "") -> dict[str, Any]:
    """What the options say, and one device more."""
    to: dict[str, Any] = {name.removeprefix("to_"): value for name, value in options.items() if value}
    return {**to, "devices": (*options["to_devices"], more)} if more else to


def pairs(words: tuple[str, ...]) -> dict[str, str]:
    """`KEY=VALUE` each."""
    found = [word.partition("=") for word in words]
    for key, equals, _ in found:
        if not equals or not key:
            raise click.UsageError(f"{key!r} has no value: write KEY=VALUE.")
    return {key: value for key, _, value in found}
