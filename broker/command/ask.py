"""`pushbroker ask`: what a question would be answered, and why."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from broker.command.base import Run, pass_run, standard
from broker.command.campaign import Time
from broker.command.names import brands, devices, stores, users
from broker.command.output import print_json, print_list, printable


@click.command(
    "ask",
    **standard(
        examples=[
            'pushbroker ask --brand acme "torta al cioccolato" --as ada',
            'pushbroker ask --brand acme "opening hours" --as ada --store milano',
            'pushbroker ask --brand acme "opening hours" --device kiosk-7 --locale en --at 2026-12-24T18:00',
            'pushbroker ask --brand acme "torta" --json | jq .hits',
        ]
    ),
)
@click.argument("text", default="")
@click.option(
    "--brand", envvar="PUSHBROKER_BRAND", required=True, shell_complete=brands,
    help="Whom the question is for. Without this $PUSHBROKER_BRAND.",
)  # fmt: skip
@click.option("--as", "user", default="", metavar="USER", shell_complete=users, help="The user who asks.")
@click.option("--device", default="", shell_complete=devices, help="Where they ask: its store counts, and its user.")
@click.option("--store", default="", shell_complete=stores, help="The store in which they ask, without a device.")
@click.option("--locale", default="", help="Their language: it, de-CH. Without: the one of their preferences.")
@click.option("--choice", default="", metavar="ID", help="An option that was offered, instead of a text.")
@click.option("--at", type=Time(), help="As if it were that time: 2026-11-24T09:00, UTC. Without: now.")
@pass_run
def command(
    run: Run, text: str, brand: str, user: str, device: str, store: str, locale: str, choice: str, at: datetime | None
) -> None:
    """Show what a question would be answered, and why.

    The answer, the rule, and each item that was looked at with its score, what it has of the question, or why it is
    left out. Nothing is done: nobody is told, follows, or is handed over. docs/asking.md says how questions are
    recognised.
    """
    if bool(text) == bool(choice):
        raise click.UsageError("Say what is asked: a text, or --choice and the id of an option.")
    if device and store:
        raise click.UsageError("A device stands in its own store: say --device or --store.")
    found = run.call(
        "ask", brand=brand, text=text, choice=choice, user=user, device=device, store=store, locale=locale, at=at
    )
    if run.json:
        print_json(found)
        return
    for line in _lines(found):
        click.echo(line)
    if found["hits"]:
        print_list(run, [_hit(hit) for hit in found["hits"]], ("score", "item", "language", "title", "why"), empty="")


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{click.style(found['outcome'], bold=True)}  {printable(found['why'])}"
    shown = found["shown"]
    for name in ("title", "body", "image", "link"):
        for line in shown.get(name, "").splitlines():
            yield f"  {printable(line)}"
    for number, option in enumerate(found["choices"], 1):
        yield f"  {number}. {printable(option['title'])}  {click.style(printable(option['id']), dim=True)}"
    if found["action"]:
        (_, does), *more = found["action"].items()
        yield printable(" ".join((f"  then: {does}", *(f"{name}={value}" for name, value in more if value != ""))))
    if found["held"]:
        yield ""
        yield f"But their conversation is with a person ({found['held']}): what they ask goes there until it is closed."
    if found["hits"]:
        yield ""


def _hit(hit: Mapping[str, Any]) -> dict[str, str]:
    places: dict[str, list[str]] = {}
    for word, place in hit.get("matched", {}).items():
        places.setdefault(place, []).append(word)
    why = "; ".join(f"{', '.join(words)} in {place}" for place, words in places.items())
    if hit.get("exact"):
        why = "it is called that"
    left_out = hit.get("left_out", "")
    return {
        "score": "-" if left_out else f"{hit['score']:.2f}",
        "item": hit["item"],
        "language": hit["language"] or "all",
        "title": hit["title"],
        "why": f"left out: {left_out}" if left_out else why,
    }
