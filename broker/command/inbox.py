"""`pushbroker inbox`: customers who wait for a person, and what agents do with them."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from broker.command.base import Noun, Run, pass_run
from broker.command.names import agents, brands, canned_replies, conversations
from broker.command.output import print_json, print_list, printable, text

Function = TypeVar("Function", bound=Callable[..., Any])

_STATES: Final = ("held", "automated", "waiting", "agent", "closed", "all")
_COLUMNS: Final = ("id", "state", "agent", "with", "title", "store", "why", "waiting_since", "unread", "last")
_PAGE: Final = 500


@click.group("inbox", cls=Noun, invoke_without_command=True)
@click.option(
    "--brand", envvar="PUSHBROKER_BRAND", metavar="BRAND", shell_complete=brands,
    help="Whose. Without this $PUSHBROKER_BRAND, or the only one that there is.",
)  # fmt: skip
@click.option(
    "--as", "agent", envvar="PUSHBROKER_AGENT", metavar="AGENT", shell_complete=agents,
    help="Who you are. Without this $PUSHBROKER_AGENT, or the only agent that the brand has.",
)  # fmt: skip
@pass_run
@click.pass_context
def command(context: click.Context, run: Run, brand: str | None, agent: str | None) -> None:
    """The inbox: customers who wait for a person, and what agents do with them.

    Without a command it opens on the whole terminal, live: pushbroker inbox --brand acme --as mia
    """
    if context.invoked_subcommand is not None:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(
            "There is no terminal for the inbox: use pushbroker inbox list BRAND, or another command."
        )
    if brand is None:
        names = [one["name"] for one in run.call("brand.list")]
        if len(names) != 1:
            raise click.UsageError(f"Say whose inbox with --brand or $PUSHBROKER_BRAND; there are {len(names)} brands.")
        brand = str(names[0])
    who = _who(run, brand, agent)
    if who not in {one["name"] for one in run.call("agent.list", brand=brand)}:
        raise click.UsageError(f"{brand} has no agent {who!r}: pushbroker agent add {brand} {who}")
    from broker.command.inbox_screen import InboxScreen  # noqa: PLC0415 - 300 ms that only a terminal needs

    InboxScreen(run, brand, who).run()


_brand = click.argument("brand", shell_complete=brands)
_conversation = click.argument("conversation", shell_complete=conversations)
_agent = click.option(
    "--agent",
    envvar="PUSHBROKER_AGENT",
    metavar="NAME",
    shell_complete=agents,
    help="Who does it. Without this $PUSHBROKER_AGENT, or the only agent that the brand has.",
)


def _who(run: Run, brand: str, agent: str | None) -> str:
    """The agent who does it."""
    if agent:
        return agent
    names = [one["name"] for one in run.call("agent.list", brand=brand)]
    if len(names) != 1:
        why = (
            f"{brand} has {len(names)} agents" if names else f"{brand} has no agent: pushbroker agent add {brand} NAME"
        )
        raise click.UsageError(f"Say who does it with --agent or $PUSHBROKER_AGENT; {why}.")
    return str(names[0])


def _done(run: Run, changed: Mapping[str, Any], what: str) -> None:
    run.done(changed, f"{changed['id']} with {changed['with']} {what}")


# -- looking -----------------------------------------------------------------------------------------------------------


@command.command(
    "list",
    examples=[
        "pushbroker inbox list acme",
        "pushbroker inbox list acme --state waiting --agent mia",
        "pushbroker inbox list acme --state closed --before c06h0badtnr0000yexznwh --json",
    ],
)
@_brand
@click.option(
    "--state", type=click.Choice(_STATES), default="held", show_default=True,
    help="held: those that wait or are with an agent.",
)  # fmt: skip
@click.option("--agent", metavar="NAME", shell_complete=agents, help="Only those that this agent has, or is to have.")
@click.option("--store", metavar="NAME", help="Only of customers in this store.")
@click.option("--before", metavar="CONVERSATION", help="Go on behind this one, the last of the page before.")
@click.option("--limit", type=click.IntRange(1, _PAGE), default=50, show_default=True, help="At most so many.")
@pass_run
def list_(
    run: Run, brand: str, state: str, agent: str | None, store: str | None, before: str | None, limit: int
) -> None:
    """List conversations, the newest first."""
    found = run.call(
        "inbox.list", brand=brand, state=None if state == "all" else state, agent=agent, store=store, before=before,
        most=limit,
    )  # fmt: skip
    print_list(run, found, _COLUMNS, empty="Nobody waits." if state == "held" else "There are none.")
    if len(found) == limit:
        run.say(f"perhaps there are more: --before {found[-1]['id']}")


@command.command(
    "show",
    examples=[
        "pushbroker inbox show acme c06h0badtnr0000yexznwh",
        "pushbroker inbox show acme c06h0badtnr0000yexznwh --read --agent mia",
        "pushbroker inbox show acme c06h0badtnr0000yexznwh --before 201",
        "pushbroker inbox show acme c06h0badtnr0000yexznwh --json | jq -r '.entries[].text'",
    ],
)
@_brand
@_conversation
@click.option(
    "--before", type=click.IntRange(0), default=0, metavar="NUMBER", help="Only what was said before this entry."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=200, show_default=True, help="The last so many entries.")
@click.option("--read", is_flag=True, help="Note that the agent has read it: the customer is told.")
@_agent
@pass_run
def show(run: Run, brand: str, conversation: str, before: int, limit: int, read: bool, agent: str | None) -> None:
    """Show a conversation: what was said by whom, the automation's answers and agents' notes among it."""
    if read:
        run.call("inbox.read", brand=brand, conversation=conversation, agent=_who(run, brand, agent))
    shown = run.call("inbox.show", brand=brand, conversation=conversation, before=before, most=limit)
    if run.json:
        print_json(shown)
        return
    title = f" ({shown['title']})" if shown["title"] else ""
    store = f" in {shown['store']}" if shown["store"] else ""
    agent = f" {shown['agent']}" if shown["agent"] else ""
    click.echo(printable(f"{shown['with']}{title}{store}, {shown['state']}{agent}"))
    for entry in shown["entries"]:
        for line in lines(entry):
            click.echo(line)
    if len(shown["entries"]) == limit and shown["entries"][0]["number"] > 1:
        run.say(f"more was said before: --before {shown['entries'][0]['number']}")


def lines(entry: Mapping[str, Any]) -> list[str]:
    """An entry as lines of a conversation; a question with the automation's answer under it."""
    at = str(entry["at"])[:19].replace("T", " ")
    names = {"customer": "customer", "note": f"note by {entry['who']}", "system": entry["who"] or "operator"}
    who = names.get(str(entry["author"]), entry["who"])
    said = [_said(at, who, entry["text"], _receipt(entry))]
    if entry["answer"] and entry["answer"].get("text"):
        by = "automation" if entry["answer"].get("by", "automation") == "automation" else "the brand's server"
        said.append(_said(at, by, entry["answer"]["text"], ""))
    return [line for one in said for line in one]


def _said(at: str, who: str, words: str, mark: str) -> list[str]:
    first, *more = [printable(line) for line in words.splitlines()] or [""]
    mark = click.style(f"  ({mark})", dim=True) if mark else ""
    return [
        f"{click.style(at, dim=True)}  {click.style(printable(who), bold=True)}: {first}{mark}",
        *(f"{'':21}{line}" for line in more),
    ]


def _receipt(entry: Mapping[str, Any]) -> str:
    """What became of a reply."""
    if entry["author"] != "agent":
        return ""
    if entry["displayed_at"]:
        return f"displayed {str(entry['displayed_at'])[11:19]}"
    if entry["delivered_at"]:
        return f"delivered {str(entry['delivered_at'])[11:19]}"
    return " ".join(filter(None, (entry["state"] or "not sent", entry["reason"])))


@command.command("watch", examples=["pushbroker inbox watch acme", "pushbroker inbox watch acme --json | jq -c .event"])
@_brand
@pass_run
def watch(run: Run, brand: str) -> None:
    """Follow what happens in the inbox. With --json one object on each line."""
    events = run.stream("inbox.watch", brand=brand)
    run.say("following; Ctrl-C ends it")
    try:
        for event in events:
            if run.json:
                print_json(event, indent=0)
            elif event["event"] != "typing":
                click.echo(event_line(event))
    finally:
        events.close()


def event_line(event: Mapping[str, Any]) -> str:
    """What has happened, on one line; a terminal calls for attention where somebody waits."""
    one = event["conversation"]
    words = event.get("entry", {}).get("text") or one["last"]
    agent = f" {one['agent']}" if one["agent"] else ""
    bell = "\a" if event["event"] in ("waiting", "reminded") and sys.stdout.isatty() else ""
    line = f"{event['event']:<11}  {one['id']}  {one['with']}, {one['state']}{agent}: {words}"
    return printable(" ".join(line.splitlines())) + bell


# -- doing -------------------------------------------------------------------------------------------------------------


@command.command(
    "take",
    examples=[
        "pushbroker inbox take acme c06h0badtnr0000yexznwh --agent mia",
        "pushbroker inbox take acme c06h0badtnr0000yexznwh --json",
    ],
)
@_brand
@_conversation
@_agent
@pass_run
def take(run: Run, brand: str, conversation: str, agent: str | None) -> None:
    """Take a conversation: this agent has it from now on."""
    agent = _who(run, brand, agent)
    changed = run.call("inbox.take", brand=brand, conversation=conversation, agent=agent)
    _done(run, changed, f"is {agent}'s. Next: pushbroker inbox reply {brand} {conversation} TEXT")


@command.command(
    "reply",
    examples=[
        "pushbroker inbox reply acme c06h0badtnr0000yexznwh 'Buongiorno Ada!'",
        "pushbroker inbox reply acme c06h0badtnr0000yexznwh --canned hello --agent mia",
        "cat reply.txt | pushbroker inbox reply acme c06h0badtnr0000yexznwh -",
    ],
)
@_brand
@_conversation
@click.argument("words", required=False, default="", metavar="[TEXT]")
@click.option("--canned", default="", metavar="NAME", shell_complete=canned_replies, help="Say this ready reply.")
@_agent
@pass_run
def reply(run: Run, brand: str, conversation: str, words: str, canned: str, agent: str | None) -> None:
    """Say something to the customer; - reads it from stdin. Who replies to what nobody has, takes it."""
    said = sys.stdin.read().strip() if words == "-" else words
    if bool(said) == bool(canned):
        raise click.UsageError("Say a TEXT, or the name of a ready reply with --canned.")
    agent = _who(run, brand, agent)
    changed = run.call("inbox.reply", brand=brand, conversation=conversation, agent=agent, text=said, canned=canned)
    _done(run, changed, f"has the reply. Whether it was read: pushbroker inbox show {brand} {conversation}")


@command.command("note", examples=["pushbroker inbox note acme c06h0badtnr0000yexznwh 'waits for a refund'"])
@_brand
@_conversation
@click.argument("words", metavar="TEXT")
@_agent
@pass_run
def note(run: Run, brand: str, conversation: str, words: str, agent: str | None) -> None:
    """Write down what only agents see."""
    agent = _who(run, brand, agent)
    changed = run.call("inbox.note", brand=brand, conversation=conversation, agent=agent, text=words)
    _done(run, changed, "has the note")


@command.command("hand-back", examples=["pushbroker inbox hand-back acme c06h0badtnr0000yexznwh"])
@_brand
@_conversation
@_agent
@pass_run
def hand_back(run: Run, brand: str, conversation: str, agent: str | None) -> None:
    """Let the automation answer again."""
    agent = _who(run, brand, agent)
    changed = run.call("inbox.hand_back", brand=brand, conversation=conversation, agent=agent)
    _done(run, changed, "is with the automation again")


@command.command(
    "assign",
    examples=[
        "pushbroker inbox assign acme c06h0badtnr0000yexznwh --to leo",
        "pushbroker inbox assign acme c06h0badtnr0000yexznwh --to ''",
    ],
)
@_brand
@_conversation
@click.option("--to", required=True, metavar="NAME", shell_complete=agents, help="Whom it waits for; '': who is next.")
@pass_run
def assign(run: Run, brand: str, conversation: str, to: str) -> None:
    """Give a conversation to another agent, for whom it waits then."""
    changed = run.call("inbox.assign", brand=brand, conversation=conversation, to=to)
    _done(run, changed, f"waits for {changed['agent'] or 'an agent'}")


@command.command("close", examples=["pushbroker inbox close acme c06h0badtnr0000yexznwh --agent mia"])
@_brand
@_conversation
@_agent
@pass_run
def close(run: Run, brand: str, conversation: str, agent: str | None) -> None:
    """End a conversation. When the customer asks again, another one begins, with the automation."""
    agent = _who(run, brand, agent)
    changed = run.call("inbox.close", brand=brand, conversation=conversation, agent=agent)
    _done(run, changed, "is closed")


# -- replies that are ready --------------------------------------------------------------------------------------------

canned_noun = command.noun("canned", "Replies that are ready, with placeholders.")


@canned_noun.command(
    "set",
    examples=[
        "pushbroker inbox canned set acme hello 'Hello {{ user.title }}, this is {{ data.agent }}.'",
        "pushbroker inbox canned set acme hello 'Ciao {{ user.title }}!' --language it",
    ],
)
@_brand
@click.argument("name", shell_complete=canned_replies)
@click.argument("words", metavar="TEXT")
@click.option("--language", default="", help="For customers of this language: it. Without this for all others.")
@pass_run
def canned_set(run: Run, brand: str, name: str, words: str, language: str) -> None:
    """Keep a reply. {{ user.title }}, {{ user.attributes.city }} and {{ data.agent }} are filled in."""
    kept = run.call("canned.set", brand=brand, name=name, text=words, language=language)
    run.done(kept, f"reply {name} of {brand} kept. Use it: pushbroker inbox reply {brand} CONVERSATION --canned {name}")


@canned_noun.command("list", examples=["pushbroker inbox canned list acme"])
@_brand
@pass_run
def canned_list(run: Run, brand: str) -> None:
    """List the replies."""
    rows = run.call("canned.list", brand=brand)
    if not run.json:
        rows = [{**row, "text": " ".join(text(row["text"]).split())} for row in rows]
    empty = f"There are none: pushbroker inbox canned set {brand} NAME TEXT"
    print_list(run, rows, ("name", "language", "text"), empty=empty)


@canned_noun.command(
    "remove",
    examples=["pushbroker inbox canned remove acme hello", "pushbroker inbox canned remove acme hello --language it"],
)
@_brand
@click.argument("name", shell_complete=canned_replies)
@click.option("--language", help="Only in this language; without this in all.")
@pass_run
def canned_remove(run: Run, brand: str, name: str, language: str | None) -> None:
    """Remove a reply."""
    removed = run.call("canned.remove", brand=brand, name=name, language=language)
    run.done(removed, f"reply {name} of {brand} removed")
