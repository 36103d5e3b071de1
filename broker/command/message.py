"""`pushbroker message`: what brands sent through the bridge, and what became of it."""

import base64
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

import click

from broker import limits
from broker.command.base import Noun, Run, confirm, counted, pass_run, yes_option
from broker.command.figures import lines, one_line, span
from broker.command.files import read_input
from broker.command.names import brands, messages
from broker.command.output import print_csv, print_json, print_list

_STATES: Final = ("accepted", "sent", "delivered", "expired", "replaced", "dropped", "withdrawn")
_COLUMNS: Final = ("number", "kind", "name", "because", "state", "reason", "due_at", "sent_at", "delivered_at",
                   "displayed_at", "opened_at", "clicked_at", "dismissed_at", "ended_at")  # fmt: skip
_SHOWN_MAX: Final = 50
_PAGE: Final = 5000

command = Noun("message", help="Messages: what brands sent through the bridge, and what became of it.")
_message = click.argument("message", shell_complete=messages)


@command.command(
    "list",
    examples=[
        "pushbroker message list",
        "pushbroker message list acme --campaign spring",
        "pushbroker message list acme --before m038g2hxy7r000wcndertm --json",
    ],
)
@click.argument("brand", required=False, shell_complete=brands)
@click.option("--campaign", metavar="NAME", help="Only those of this campaign.")
@click.option("--before", metavar="MESSAGE", help="Go on behind this one, the last of the page before.")
@click.option("--limit", type=click.IntRange(1, _PAGE), default=20, show_default=True, help="At most so many.")
@pass_run
def list_(run: Run, brand: str | None, campaign: str | None, before: str | None, limit: int) -> None:
    """List messages, the newest first."""
    found = run.call("message.list", brand=brand, campaign=campaign, before=before, most=limit)
    columns = ("id", "accepted_at", "brand", "kind", "state", "recipients", "campaign", "title")
    print_list(run, found, columns, empty="Nothing has been sent through the bridge.")
    if len(found) == limit:
        run.say(f"perhaps there are more: --before {found[-1]['id']}")


@command.command(
    "send",
    examples=[
        "pushbroker message send acme offer.json",
        "pushbroker message send acme offer.json --dry-run",
        """echo '{"to": {"stores": ["milano"]}, "notification": {"title": "Ciao"}}' | pushbroker message send acme -""",
    ],
)
@click.argument("brand", shell_complete=brands)
@click.argument("request", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--dry-run", is_flag=True, help="Say who would get it, and send nothing.")
@pass_run
def send(run: Run, brand: str, request: str, dry_run: bool) -> None:
    """Send a rich message: REQUEST is a file as a brand's server publishes it to BRAND/send, or - for stdin.

    What may stand in it is in docs/sends.md, and as a JSON Schema in docs/send.schema.json.
    """
    content = base64.b64encode(read_input(request, limits.PACKET_BYTES_MAX)).decode()
    answer = run.call("message.send", brand=brand, request=content, dry_run=dry_run)
    who = f"{counted(answer['users'], 'user')} and {counted(answer['devices'], 'device')}"
    left_out = "".join(f", {count:,} left out: {why}" for why, count in answer.get("left_out", {}).items())
    if run.json:
        print_json(answer)
    elif answer.get("dry_run"):
        for one in answer.get("sample", []):
            click.echo(one)
        run.say(f"nothing was sent; it is for {who}{left_out}")
    else:
        click.echo(answer["message_id"])
        again = "was accepted before, " if answer.get("duplicate") else ""
        run.say(f"{again}for {who}{left_out}. Follow it: pushbroker message watch {answer['message_id']}")


@command.command(
    "show",
    examples=[
        "pushbroker message show m038g2hxy7r000wcndertm",
        "pushbroker message show m038g2hxy7r000wcndertm --json | jq .counts",
        "pushbroker message show m038g2hxy7r000wcndertm --by-store",
    ],
)
@_message
@click.option("--by-store", is_flag=True, help="What devices did in each store, and in what time.")
@pass_run
def show(run: Run, message: str, by_store: bool) -> None:
    """Show one message, and what became of it for how many.

    All who were accepted are delivered, expired, replaced, dropped, withdrawn, or waiting. What apps say (displayed,
    opened, clicked, dismissed) stands beside that.
    """
    if by_store:
        stores = run.call("message.stores", id=message)
        columns = ("delivered", "displayed", "opened", "clicked", "dismissed")
        times = ("delivered_p50_s", "delivered_p90_s", "opened_p50_s", "opened_p90_s")
        if not run.json:
            named = [{**one, "store": one["store"] or "(none)"} for one in stores]
            stores = [{**one, **{name: span(one[name]) for name in times}} for one in named]
        print_list(run, stores, ("store", *columns, *times), empty="No device has said anything yet.")
        return
    shown = run.call("message.show", id=message)
    if run.json:
        print_json(shown)
    else:
        for line in lines(shown):
            click.echo(line)


@command.command(
    "watch",
    examples=[
        "pushbroker message watch m038g2hxy7r000wcndertm",
        "pushbroker message watch m038g2hxy7r000wcndertm --json | jq -c .counts",
    ],
)
@_message
@pass_run
def watch(run: Run, message: str) -> None:
    """Follow what becomes of a message, until nobody waits for it any more.

    On a terminal the figures of `show` are drawn anew as they change; else there is a line for each change, with
    --json an object on each line.
    """
    changes = _until_done(run, message)
    if run.json:
        for shown in changes:
            print_json(shown, indent=0)
    elif sys.stdout.isatty():
        _draw(changes)
    else:
        for shown in changes:
            click.echo(one_line(shown))


def _until_done(run: Run, message: str) -> Iterator[dict[str, Any]]:
    stream = run.stream("message.watch", id=message)
    try:
        for shown in stream:
            yield shown
            if shown["done"]:
                return
    finally:
        stream.close()


def _draw(changes: Iterator[dict[str, Any]]) -> None:
    from rich.live import Live  # noqa: PLC0415 - 80 ms that only a terminal needs
    from rich.text import Text  # noqa: PLC0415

    with Live(auto_refresh=False, vertical_overflow="crop") as live:
        for shown in changes:
            live.update(Text.from_ansi("\n".join(lines(shown))), refresh=True)


@command.command(
    "recipients",
    examples=[
        "pushbroker message recipients m038g2hxy7r000wcndertm --state dropped",
        "pushbroker message recipients m038g2hxy7r000wcndertm --csv > recipients.csv",
        "pushbroker message recipients m038g2hxy7r000wcndertm --json > recipients.json",
    ],
)
@_message
@click.option("--state", type=click.Choice(_STATES), help="Only those in this state.")
@click.option("--csv", "as_csv", is_flag=True, help="Print all of them as CSV.")
@pass_run
def recipients(run: Run, message: str, state: str | None, as_csv: bool) -> None:
    """List who gets a message, with the time of each step.

    As a table the first 50; with --csv or --json all.
    """
    if as_csv:
        print_csv(chain.from_iterable(_pages(run, message, state)), _COLUMNS)
    elif run.json:
        between = "[\n"
        for page in _pages(run, message, state):
            for row in page:
                click.echo(between, nl=False)
                print_json(row, indent=0)
                between = ","
        click.echo("]" if between == "," else "[]")
    else:
        rows = run.call("message.recipients", id=message, state=state, most=_SHOWN_MAX)
        columns = ("kind", "name", "because", "state", "reason", "sent_at", "delivered_at", "opened_at")
        print_list(run, rows, columns, empty="There are none.")
        if len(rows) == _SHOWN_MAX:
            run.say(f"perhaps there are more: pushbroker message recipients {message} --csv")


@command.command(
    "withdraw",
    examples=[
        "pushbroker message withdraw m038g2hxy7r000wcndertm",
        "pushbroker message withdraw m038g2hxy7r000wcndertm --yes --json",
    ],
)
@_message
@yes_option
@pass_run
def withdraw(run: Run, message: str, yes: bool) -> None:
    """Take a message back: who has not got it will not, and devices that show it take it off the screen.

    It goes on when this command is interrupted, or the broker ends and starts again.
    """
    shown = run.call("message.show", id=message)
    recipients = counted(shown["recipients"], "recipient")
    confirm(f"Withdraw {message} ({shown['title'] or 'no title'}) of {shown['brand']}, for {recipients}?", yes=yes)
    stream = run.stream("message.withdraw", id=message)
    try:
        for progress in stream:
            if progress["done"]:
                break
            run.say(f"{progress['looked_at']:,} of {progress['recipients']:,} done")
    finally:
        stream.close()
    told = counted(progress["told"], "device")
    run.done(progress, f"{message} withdrawn from {progress['withdrawn']:,}; {told} told to take it off the screen")


def _pages(run: Run, message: str, state: str | None) -> Iterator[list[Mapping[str, Any]]]:
    after = 0
    while page := run.call("message.recipients", id=message, state=state, after=after, most=_PAGE):
        yield page
        after = page[-1]["number"]
        if len(page) < _PAGE:
            return
