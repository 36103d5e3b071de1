"""`pushbroker tail`: follow the messages as the broker routes them."""

import json
from contextlib import suppress
from typing import Any

import click

from broker.command.base import Run, pass_run, standard
from broker.command.output import print_json, printable
from broker.errors import Refused

RICH_CONTENT_TYPE = "application/vnd.push+json"
# More of a payload than this says little on a terminal; --json has all of it.
_SHOWN_CHARACTERS_MAX = 500


@click.command(
    "tail",
    **standard(
        examples=[
            "pushbroker tail",
            "pushbroker tail 'acme/user/+' 'acme/receipts/#'",
            "pushbroker tail 'acme/#' --count 1 --json",
        ]
    ),
)
@click.argument("filters", nargs=-1, metavar="[FILTER]...")
@click.option("--count", type=click.IntRange(min=1), help="End after so many messages.")
@pass_run
def command(run: Run, filters: tuple[str, ...], count: int | None) -> None:
    """Follow messages whose topics match a filter.

    First what is retained, then what is published. Without a filter, all of them. With --json one object on each line.
    """
    try:
        messages = run.stream("tail", filters=filters or ("#",))
    except Refused as error:
        if not error.remedy:
            error.remedy = "Write it like 'acme/#' or 'acme/user/+': + stands for one level, # for all that follow."
        raise
    run.say("following; Ctrl-C ends it")
    for number, message in enumerate(messages, 1):
        if run.json:
            print_json(message, indent=0)
        else:
            click.echo(line(message))
        if number == count:
            return


def line(message: dict[str, Any]) -> str:
    """A message as one line, or a few where it has text of more lines."""
    at = str(message.get("at") or "")[11:19]
    marks = f"qos{message['qos']}" + (" retained" if message.get("retain") else "")
    topic = click.style(printable(message["topic"]), bold=True)
    return f"{click.style(at, dim=True)} {topic} {click.style(marks, dim=True)}  {_words(message)}"


def _words(message: dict[str, Any]) -> str:
    if "payload_base64" in message:
        return click.style(f"[{message['bytes']} bytes that are no text]", dim=True)
    payload = str(message["payload"])
    if message.get("content_type") == RICH_CONTENT_TYPE:
        with suppress(ValueError, AttributeError, TypeError, RecursionError):  # broken: shown as it came
            rich = json.loads(payload)
            payload = " - ".join(str(rich[part]) for part in ("title", "body") if rich.get(part)) or payload
    shown = payload[:_SHOWN_CHARACTERS_MAX] + ("..." if len(payload) > _SHOWN_CHARACTERS_MAX else "")
    return "\n         ".join(printable(part) for part in shown.splitlines())
