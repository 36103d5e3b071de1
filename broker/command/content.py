"""`pushbroker content`: what a brand answers to who asks."""

import os
import sys
from typing import Any, Final

import click

from broker import limits
from broker.command.base import Noun, Run, confirm, counted, pass_run, yes_option
from broker.command.content_import import import_command
from broker.command.files import read_input
from broker.command.names import brands, items
from broker.command.output import print_json, print_list, print_one, printable
from broker.errors import Failed, Refused

command = Noun("content", help="Content: what a brand answers to who asks.")
_brand = click.argument("brand", shell_complete=brands)
_name = click.argument("name", shell_complete=items)
_language = click.option("--language", metavar="LANGUAGE", help="In this language: it, en; '' is the one for all.")
_CLOSED: Final = ("name", "language")  # say which item it is, and are not changed

import_command(command)


@command.command(
    "list",
    examples=[
        "pushbroker content list acme",
        'pushbroker content list acme --search "torta cioccolato" --language it',
        "pushbroker content list acme --limit 1000 --after torta-mele:it --json",
    ],
)
@_brand
@click.option("--search", default="", metavar="WORDS", help="Those with all of these words, best first.")
@_language
@click.option("--limit", type=click.IntRange(1, limits.ITEMS_PAGE_MAX), default=100, show_default=True, help="So many.")
@click.option("--after", default="", metavar="NAME[:LANGUAGE]", help="Those behind this one.")
@pass_run
def list_(run: Run, /, brand: str, search: str, language: str | None, limit: int, after: str) -> None:
    """List the items of a brand, by name."""
    if search and after:
        raise click.UsageError("--after goes with the order of names, not with --search: use --limit.")
    found = run.call("content.list", brand=brand, search=search, language=language, after=after, most=limit)
    columns = ("name", "language", "title", "keywords", "valid_until", "changed_at")
    there = f"{brand} has no such items" if search or language is not None or after else f"{brand} has no items"
    print_list(run, found, columns, empty=f"{there}: pushbroker content import {brand} FILE")
    if len(found) == limit and not search:
        last = found[-1]
        run.say(f"There may be more: --after {last['name']}:{last['language']}")


@command.command("show", examples=["pushbroker content show acme orari", "pushbroker content show acme orari --json"])
@_brand
@_name
@_language
@pass_run
def show(run: Run, /, brand: str, name: str, language: str | None) -> None:
    """Show an item, in each of its languages."""
    found = run.call("content.show", brand=brand, name=name, language=language)
    if run.json:
        print_json(found)
        return
    for number, one in enumerate(found):
        if number:
            click.echo()
        print_one(run, one)


@command.command(
    "edit",
    examples=[
        "pushbroker content edit acme orari",
        "pushbroker content edit acme torta-mele --set data.price=3.50 --set data.sold_out=",
        'pushbroker content edit acme orari --language it --set title="Orari" --set keywords="aperto;chiuso"',
    ],
)
@_brand
@_name
@_language
@click.option(
    "--set", "fields", multiple=True, metavar="FIELD=VALUE", help="Change a field, or data.NAME; FIELD= empties it."
)
@pass_run
def edit(run: Run, /, brand: str, name: str, language: str | None, fields: tuple[str, ...]) -> None:
    """Change an item: in $EDITOR, as Markdown with its fields above, or by options.

    By options it is changed in all its languages, unless --language says in which.
    """
    from broker.pull.importing import as_markdown, markdown  # noqa: PLC0415 - only where used

    if fields:
        shown = run.call("content.set", brand=brand, name=name, language=language, changes=_changes(fields))
        run.done(shown, f"item {name} of {brand} changed in {counted(len(shown), 'language')}")
        return
    found = run.call("content.show", brand=brand, name=name, language=language)
    if len(found) > 1:
        languages = ", ".join(f"--language {one.get('language', '') or repr('')}" for one in found)
        raise click.UsageError(f"{name} is there in several languages: add one of {languages}.")
    called = {field: found[0][field] for field in _CLOSED if field in found[0]}
    before = {field: value for field, value in found[0].items() if field not in called}
    text = as_markdown(before)
    if not (sys.stdin.isatty() or any(map(os.environ.get, ("VISUAL", "EDITOR")))):
        raise click.UsageError("There is no terminal for an editor: use --set FIELD=VALUE.")
    while True:
        try:
            text = click.edit(text, extension=".md") or ""
        except click.ClickException as error:
            remedy = "Set $EDITOR to an editor that is there, or use --set FIELD=VALUE."
            raise Failed(f"the editor failed: {error.message}", remedy=remedy) from None
        try:
            after = markdown(text.replace("\r\n", "\n")) if text.strip() else before
            if after == before:
                run.done(found[0], "nothing was changed")
                return
            stored = run.call("content.put", brand=brand, items=[{**after, **called}])
            if not stored["refused"]:
                break
            bad = stored["refused"][0]
            why = f"{bad['field']}: {bad['message'].rstrip('.')}. {bad['remedy']}"
        except Refused as error:
            why = f"{error.message.rstrip('.')}. {error.remedy}"
        run.say(printable(f"refused: {why}"))
        if not click.confirm("Edit it again?", default=True, err=True):
            raise click.Abort
    (shown,) = run.call("content.show", brand=brand, name=name, language=called.get("language", ""))
    run.done(shown, f"item {name} of {brand} changed")


def _changes(words: tuple[str, ...]) -> dict[str, Any]:
    from broker.pull.importing import DATA, LISTS, hours  # noqa: PLC0415 - only where used

    changes: dict[str, Any] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if not equals or not field:
            raise click.UsageError(f"{word!r} has no value: write FIELD=VALUE.")
        if field.startswith(DATA):
            changes.setdefault("data", {})[field.removeprefix(DATA)] = value or None
        elif field in LISTS:
            changes[field] = [word.strip() for word in value.split(";") if word.strip()]
        elif field == "hours":
            changes[field] = hours(value)
        else:
            changes[field] = value or None
    return changes


@command.command(
    "remove",
    examples=["pushbroker content remove acme orari", "pushbroker content remove acme orari --language en --yes"],
)
@_brand
@_name
@_language
@yes_option
@pass_run
def remove(run: Run, /, brand: str, name: str, language: str | None, yes: bool) -> None:
    """Remove an item, in all its languages or in one. Who follows it hears no more of it."""
    found = run.call("content.show", brand=brand, name=name, language=language)
    confirm(f"Remove item {name} of {brand}, in {counted(len(found), 'language')}?", yes=yes)
    removed = run.call("content.remove", brand=brand, name=name, language=language)
    run.done(removed, f"item {name} of {brand} removed")


rules = command.noun("rules", "Rules: how a brand answers.")


@rules.command(
    "show", examples=["pushbroker content rules show acme", "pushbroker content rules show acme > rules.json"]
)
@_brand
@pass_run
def rules_show(run: Run, /, brand: str) -> None:
    """Print the rules of a brand, as JSON. What is not in them is as docs/asking.md says."""
    print_json(run.call("content.rules", brand=brand))


@rules.command(
    "set",
    examples=["pushbroker content rules set acme rules.json", "echo '{}' | pushbroker content rules set acme -"],
)
@_brand
@click.argument("file")
@pass_run
def rules_set(run: Run, /, brand: str, file: str) -> None:
    """Replace the rules of a brand by a file of JSON; - is stdin. They hold for the next question."""
    changed = run.call("content.rules_set", brand=brand, rules=read_input(file, limits.RULES_MAX))
    run.done(changed, f"rules of {brand} set. What they make of a question: pushbroker ask --brand {brand} TEXT")
