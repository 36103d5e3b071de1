"""`pushbroker segment`: conditions that a brand has given a name."""

from typing import Any

import click

from broker.command.base import Noun, Run, confirm, counted, pass_run, yes_option
from broker.command.names import brands, devices, segments, users
from broker.command.output import print_json, print_list, print_one, text

command = Noun("segment", help="Segments: saved conditions, such as topic:news AND NOT tag:staff.")
_brand = click.argument("brand", shell_complete=brands)
_segment = click.argument("segment", shell_complete=segments)


@command.command(
    "add",
    examples=[
        "pushbroker segment add acme milan 'topic:news AND store:milano AND NOT tag:staff'",
        "pushbroker segment add acme best 'segment:milan AND attr.level=gold' --title 'Our best' --replace",
    ],
)
@_brand
@click.argument("segment")
@click.argument("condition")
@click.option("--title", default="", help="A name for people.")
@click.option("--replace", is_flag=True, help="In place of the one that has this name.")
@pass_run
def add(run: Run, brand: str, segment: str, condition: str, title: str, replace: bool) -> None:
    """Save a condition under a name.

    Terms are user: device: store: topic: tag: language: segment: and attr.KEY=VALUE or attr.KEY!=VALUE, between them
    AND, OR, NOT and parentheses.
    """
    added = run.call("segment.add", brand=brand, name=segment, condition=condition, title=title, replace=replace)
    run.done(added, f"segment {segment} of {brand} saved. Next: pushbroker segment test {brand} {segment}")


@command.command("list", examples=["pushbroker segment list", "pushbroker segment list acme --json"])
@click.argument("brand", required=False, shell_complete=brands)
@pass_run
def list_(run: Run, brand: str | None) -> None:
    """List the segments, of one brand or of all."""
    print_list(
        run,
        run.call("segment.list", brand=brand),
        ("brand", "name", "title", "condition"),
        empty="There are no segments: pushbroker segment add BRAND NAME CONDITION",
    )


@command.command("show", examples=["pushbroker segment show acme milan"])
@_brand
@_segment
@pass_run
def show(run: Run, brand: str, segment: str) -> None:
    """Show one segment."""
    print_one(run, run.call("segment.show", brand=brand, name=segment))


@command.command("remove", examples=["pushbroker segment remove acme milan --yes"])
@_brand
@_segment
@yes_option
@pass_run
def remove(run: Run, brand: str, segment: str, yes: bool) -> None:
    """Remove a segment to which no other refers."""
    run.call("segment.show", brand=brand, name=segment)
    confirm(f"Remove segment {segment} of {brand}?", yes=yes)
    run.call("segment.remove", brand=brand, name=segment)
    run.done({"brand": brand, "name": segment, "removed": True}, f"segment {segment} of {brand} removed")


@command.command(
    "test",
    examples=[
        "pushbroker segment test acme milan",
        "pushbroker segment test acme --condition 'topic:news AND NOT tag:staff'",
        "pushbroker segment test acme milan --user ada",
    ],
)
@_brand
@click.argument("segment", required=False, default="", shell_complete=segments)
@click.option("--condition", default="", help="This condition, instead of a saved one.")
@click.option("--user", help="Only for this user: say which terms are true.", shell_complete=users)
@click.option("--device", help="The same for a device.", shell_complete=devices)
@pass_run
def test(run: Run, brand: str, segment: str, condition: str, user: str | None, device: str | None) -> None:
    """Say who would get what is sent to a segment: how many, and the first of them."""
    if bool(segment) == bool(condition):
        raise click.UsageError("Name a segment, or write a --condition.")
    if user and device:
        raise click.UsageError("Name a --user or a --device.")
    if name := user or device:
        kind = "user" if user else "device"
        asked = condition or f"segment:{segment}"
        print_one(run, run.call("profile.explain", brand=brand, kind=kind, name=name, condition=asked))
        return
    found: dict[str, Any] = run.call("segment.test", brand=brand, segment=segment, condition=condition)
    if run.json:
        print_json(found)
        return
    run.say(f"{counted(found['users'], 'user')} and {counted(found['devices'], 'device')} of nobody")
    for reason, count in found["left_out"].items():
        run.say(f"{count:,} left out: {reason}")
    for one in found["first"]:
        click.echo(text(one))
