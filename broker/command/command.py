"""`pushbroker command`: have devices do something, and see what came of it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from broker.command.base import Duration, Noun, Run, pass_run
from broker.command.fleet import address, addressed, pairs
from broker.command.names import brands, commands
from broker.command.output import print_json, print_list, print_one

_STATES: Final = ("waiting", "sent", "succeeded", "failed", "expired", "cancelled")
_SHOWN_MAX: Final = 50
_COLUMNS: Final = ("device", "state", "sent_at", "ended_at", "output", "error")

command = Noun("command", help="Commands: have devices do something, and see what came of it.")
_id = click.argument("id", metavar="COMMAND", shell_complete=commands)


@command.command(
    "run",
    examples=[
        "pushbroker command run acme reload --store milano",
        "pushbroker command run acme message --device kiosk-7 --arg 'text=Back in 5 minutes' --wait",
        "pushbroker command run acme update --all --stages 1,10%,100% --halt-after 5% --ttl 8h",
    ],
)
@click.argument("words", nargs=-1, required=True, metavar="[BRAND] NAME", shell_complete=brands)
@addressed
@click.option("--arg", "args", multiple=True, metavar="KEY=VALUE", help="What goes with it; once for each.")
@click.option("--ttl", type=Duration(), default="1h", show_default=True, help="Who has not done it by then, need not.")
@click.option("--stages", default="100%", show_default=True, help="How many devices have it after each stage.")
@click.option("--halt-after", default="0", show_default=True, help="No further stage with more failures: 3, or 5%.")
@click.option("--wait", is_flag=True, help="Follow it; exit with 1 unless all devices have succeeded.")
@pass_run
def run(
    run: Run,
    /,
    words: tuple[str, ...],
    args: tuple[str, ...],
    ttl: int,
    stages: str,
    halt_after: str,
    wait: bool,
    **to: Any,
) -> int:
    """Have devices do something.

    The brand may be left out where there is only one. A device that is away gets the command when it comes, unless it
    has expired by then. With --stages, devices that are online go first; the next stage begins when all before have
    answered or expired, and the command halts by itself when too many failed.
    """
    if len(words) > 2:
        raise click.UsageError("Name one brand and one command.")
    begun: dict[str, Any] = run.call(
        "command.run",
        brand=words[0] if len(words) == 2 else None,
        name=words[-1],
        to=address(to),
        args=pairs(args),
        ttl_s=ttl,
        stages=tuple(part.strip() for part in stages.split(",")),
        halt_after=halt_after,
    )
    if wait:
        return _follow(run, begun["id"])
    if run.json:
        print_json(begun)
    else:
        click.echo(begun["id"])
        run.say(f"for {begun['devices']:,} devices. See what comes of it: pushbroker command watch {begun['id']}")
    return 0


@command.command("list", examples=["pushbroker command list", "pushbroker command list acme --limit 5 --json"])
@click.argument("brand", required=False, shell_complete=brands)
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="At most so many.")
@pass_run
def list_(run: Run, brand: str | None, limit: int) -> None:
    """List commands, the newest first."""
    found = run.call("command.list", brand=brand, most=limit)
    rows = found if run.json else [{**one, **one["counts"]} for one in found]
    columns = ("id", "created_at", "brand", "name", "state", "devices", "succeeded", "failed", "expired")
    print_list(run, rows, columns, empty="There are no commands: pushbroker command run BRAND NAME --all")


@command.command(
    "show",
    examples=[
        "pushbroker command show c038g2hxy7r000wcndertm",
        "pushbroker command show c038g2hxy7r000wcndertm --state failed",
    ],
)
@_id
@click.option("--state", type=click.Choice(_STATES), help="Only devices in this state.")
@pass_run
def show(run: Run, id: str, state: str | None) -> None:
    """Show one command, and what became of it on each device.

    As a table the first 50 devices; with --json all.
    """
    shown = run.call("command.show", id=id)
    if run.json:
        print_json({**shown, "results": list(_results(run, id, state))})
        return
    print_one(run, {**shown, "stage": f"{shown['stage']} of {len(shown['stages'])}", "done": None, "succeeded": None})
    rows = run.call("command.devices", id=id, state=state, most=_SHOWN_MAX)
    click.echo()
    print_list(run, rows, _COLUMNS, empty="No device is in that state.")
    if len(rows) == _SHOWN_MAX:
        run.say(f"perhaps there are more: pushbroker command show {id} --json")


def _results(run: Run, id: str, state: str | None) -> Iterator[Mapping[str, Any]]:
    after = 0
    while page := run.call("command.devices", id=id, state=state, after=after):
        yield from page
        after = page[-1]["number"]


@command.command(
    "watch",
    examples=[
        "pushbroker command watch c038g2hxy7r000wcndertm",
        "pushbroker command watch c038g2hxy7r000wcndertm --json | jq -c .counts",
    ],
)
@_id
@pass_run
def watch(run: Run, id: str) -> int:
    """Follow a command until it is over or has halted; exit with 1 unless all devices have succeeded."""
    return _follow(run, id)


def _follow(run: Run, id: str) -> int:
    shown: dict[str, Any] = {}
    stream = run.stream("command.watch", id=id)
    try:
        for shown in stream:
            if run.json:
                print_json(shown, indent=0)
            else:
                click.echo(_one_line(shown))
            if shown["done"] or shown["state"] == "halted":
                break
    finally:
        stream.close()
    if shown.get("state") == "halted":
        run.say(f"halted: {shown['why']}. Look: pushbroker command show {id} --state failed")
        run.say(f"then: pushbroker command resume {id}, or cancel")
    return 0 if shown.get("succeeded") else 1


def _one_line(shown: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {state}" for state, count in shown["counts"].items() if count)
    stages = len(shown["stages"])
    stage = f", stage {shown['stage']} of {stages}" if stages > 1 else ""
    return f"{shown['id']} {shown['state']}{stage}: {counts} of {shown['devices']:,}"


@command.command("resume", examples=["pushbroker command resume c038g2hxy7r000wcndertm"])
@_id
@pass_run
def resume(run: Run, id: str) -> None:
    """Go on with a command that has halted; the failures so far are forgiven."""
    run.done(run.call("command.resume", id=id), f"command {id} goes on: pushbroker command watch {id}")


@command.command("cancel", examples=["pushbroker command cancel c038g2hxy7r000wcndertm"])
@_id
@pass_run
def cancel(run: Run, id: str) -> None:
    """Have nobody more do it. A device that has it already may, and what it says of it is noted."""
    cancelled = run.call("command.cancel", id=id)
    run.done(cancelled, f"command {id} cancelled for {cancelled['counts']['cancelled']:,} devices")
