"""`pushbroker why`: why somebody got a message, or did not."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from broker.command.base import Run, pass_run, standard
from broker.command.names import messages
from broker.command.output import print_json, printable


@click.command(
    "why",
    **standard(
        examples=[
            "pushbroker why m038g2hxy7r000wcndertm ada",
            "pushbroker why m038g2hxy7r000wcndertm device/kiosk-7",
            "pushbroker why m038g2hxy7r000wcndertm ada --json | jq -r .verdict",
        ]
    ),
)
@click.argument("message", shell_complete=messages)
@click.argument("who")
@pass_run
def command(run: Run, message: str, who: str) -> None:
    """Say why somebody got a message, or did not.

    WHO is a user, such as ada, or a device, such as device/kiosk-7. By what they were addressed, each step with its
    time, each decision with its reason; or, for who is no recipient, what kept them out.
    """
    answer = run.call("why", id=message, who=who)
    if run.json:
        print_json(answer)
        return
    for line in _lines(answer):
        click.echo(line)


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    message = answer["message"]
    yield click.style(printable(answer["verdict"]), bold=True)
    yield click.style(f"{message['id']}  {printable(message['title'])}".rstrip(), dim=True)
    for part in answer["parts"]:
        yield ""
        yield f"{part['recipient']} was addressed {printable(part['addressed'])}"
        for step in part["steps"]:
            at = f"{step['at'][:10]} {step['at'][11:23]}"
            yield f"  {click.style(at, dim=True)}  {step['what']:<9}  {printable(step['detail'])}".rstrip()
        if part["now"]:
            yield f"  {'now':<23}  {part['now']}"
    for title, lines in (("Why not", answer["why_not"]), ("Not known", answer["unknown"]), ("Look at", answer["next"])):
        if lines:
            yield ""
            yield f"{title}:"
            yield from (f"  {printable(line)}" for line in lines)
