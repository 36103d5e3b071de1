"""`pushbroker campaign`: what is sent to many, when, in which variants, and what came of it."""

import base64
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import click

from broker import limits
from broker.command.base import Duration, Noun, Run, confirm, counted, pass_run, yes_option
from broker.command.files import read_input
from broker.command.names import brands, campaigns, segments
from broker.command.output import print_csv, print_json, print_list, print_one
from broker.command.send import checked_notification

command = Noun("campaign", help="Campaigns: what is sent to many, when, in which variants, and what came of it.")
_brand = click.argument("brand", shell_complete=brands)
_campaign = click.argument("campaign", shell_complete=campaigns)
_VARIANT: Final = re.compile(r"([a-z0-9]{1,16})=(.+?)(?::([0-9]{1,4}))?", re.DOTALL)
_CAP: Final = re.compile(r"([0-9]{1,4})/([0-9]+[smhdw]?)")


class Cap(click.ParamType):  # type: ignore[type-arg]
    """How many messages within how long, such as 1/7d."""

    name = "cap"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int] | None:
        """Parse, or fail with what would do."""
        if value == "none":
            return None
        found = _CAP.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is no cap: write 1/7d, for one within seven days, or none.", param, ctx)
        return {"most": int(found[1]), "within_s": Duration().convert(found[2], param, ctx)}


class Time(click.ParamType):  # type: ignore[type-arg]
    """A time on a clock, such as 2026-11-24T09:00."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse, or fail with what would do."""
        try:
            return datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time: write 2026-11-24T09:00.", param, ctx)


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a campaign consists of, for `add` and `set`."""
    for option in reversed(
        (
            click.option("--segment", help="To a segment.", shell_complete=segments),
            click.option("--condition", help="To those for whom this is true: 'topic:news AND store:milano'."),
            click.option("--notification", metavar="FILE", help="A notification as JSON; - is stdin."),
            click.option("--file", metavar="FILE", help="Anything else to send; - is stdin."),
            click.option("--content-type", metavar="TYPE", help="What kind of file that is."),
            click.option(
                "--variant",
                "variants",
                multiple=True,
                metavar="NAME=FILE[:SHARE]",
                help="One of several notifications, to a share of them; once for each.",
            ),
            click.option("--holdout", type=click.IntRange(0, 90), metavar="PERCENT", help="So many get nothing."),
            click.option("--at", type=Time(), metavar="TIME", help="Run once, when it is this time in --zone."),
            click.option("--cron", metavar="LINE", help="Run again and again: '0 9 * * mon' is Mondays at 9:00."),
            click.option("--now", is_flag=True, help="Run once, when it is started.  [default]"),
            click.option("--zone", metavar="ZONE", help="Whose clock counts, such as Europe/Rome.  [default: UTC]"),
            click.option("--local/--no-local", default=None, help="The clock that counts is each recipient's own."),
            click.option("--kind", type=click.Choice(["marketing", "transactional"]), help="Which rules hold for it."),
            click.option("--cap", type=Cap(), metavar="N/TIME", help="At most so many of it to each: 1/7d, or none."),
            click.option("--ttl", type=Duration(), metavar="TIME", help="For how long it is of use.  [default: 7d]"),
            click.option("--priority", type=click.Choice(["normal", "high"]), help="How urgent it is."),
            click.option("--collapse-key", metavar="KEY", help="Replaces what waits under the same key."),
            click.option(
                "--throttle", type=click.FloatRange(0.1, 10_000), metavar="N", help="At most so many a second."
            ),
            click.option("--receipts", type=click.Choice(["none", "summary", "each"]), help="What the brand is told."),
        )
    ):
        function = option(function)
    return function


@command.command(
    "add",
    examples=[
        "pushbroker campaign add acme spring --segment lapsed --notification spring.json",
        "pushbroker campaign add acme news --condition topic:news --notification news.json --cron '0 9 * * mon'",
        "pushbroker campaign add acme nine --segment best --notification nine.json --at 2026-11-24T09:00 --local",
        "pushbroker campaign add acme ab --segment best --variant a=a.json:50 --variant b=b.json:50 --holdout 10",
    ],
)
@_brand
@click.argument("campaign")
@_options
@pass_run
def add(run: Run, /, brand: str, campaign: str, **given: Any) -> None:
    """Add a campaign. Nothing is sent before it is started."""
    definition = _changed({"request": {"to": {}}, "variants": []}, campaign, given)
    if not {"segment", "condition"} & definition["request"]["to"].keys():
        raise click.UsageError("Say to whom: --segment NAME or --condition 'tag:vip'.")
    if not definition["variants"]:
        raise click.UsageError("Say what to send: --notification FILE, --file FILE, or --variant NAME=FILE for each.")
    added = run.call("campaign.add", brand=brand, name=campaign, definition=definition)
    run.done(
        added,
        f"campaign {campaign} of {brand} added. Next: pushbroker campaign test {brand} {campaign}, "
        f"then pushbroker campaign start {brand} {campaign}",
    )


@command.command(
    "set",
    examples=[
        "pushbroker campaign set acme news --cron '30 8 * * mon-fri'",
        "pushbroker campaign set acme spring --condition 'tag:vip AND NOT tag:staff' --throttle 200",
    ],
)
@_brand
@_campaign
@_options
@pass_run
def set_(run: Run, /, brand: str, campaign: str, **given: Any) -> None:
    """Change a campaign. What is not named stays as it is; a run that has begun goes on as it was."""
    before = run.call("campaign.show", brand=brand, name=campaign)["definition"]
    changed = run.call("campaign.set", brand=brand, name=campaign, definition=_changed(before, campaign, given))
    run.done(changed, _state(changed))


@command.command("list", examples=["pushbroker campaign list", "pushbroker campaign list acme --json"])
@click.argument("brand", required=False, shell_complete=brands)
@pass_run
def list_(run: Run, brand: str | None) -> None:
    """List the campaigns, of one brand or of all."""
    print_list(
        run,
        run.call("campaign.list", brand=brand),
        ("brand", "name", "state", "next_run", "created_at"),
        empty="There are no campaigns: pushbroker campaign add BRAND NAME",
    )


@command.command("show", examples=["pushbroker campaign show acme spring"])
@_brand
@_campaign
@pass_run
def show(run: Run, brand: str, campaign: str) -> None:
    """Show one campaign, with its latest runs."""
    shown = run.call("campaign.show", brand=brand, name=campaign)
    print_one(run, shown if run.json else _for_people(shown))


@command.command("test", examples=["pushbroker campaign test acme spring", "pushbroker campaign test acme ab --json"])
@_brand
@_campaign
@pass_run
def test(run: Run, brand: str, campaign: str) -> None:
    """Say who would get what if it ran now, and when it runs. Nothing is sent."""
    tried = run.call("campaign.test", brand=brand, name=campaign)
    if run.json:
        print_json(tried)
        return
    rows = [
        {"variant": name, **answer, "left_out": _left_out(answer), "sample": " ".join(answer.get("sample", [])[:5])}
        for name, answer in tried["variants"].items()
    ]
    print_list(run, rows, ("variant", "recipients", "users", "devices", "left_out", "sample"), empty="")
    run.say(f"would run {_when(tried['next_run'])}; nothing was sent")


@command.command("start", examples=["pushbroker campaign start acme spring"])
@_brand
@_campaign
@pass_run
def start(run: Run, brand: str, campaign: str) -> None:
    """Start a campaign: it runs at once, or when its time comes."""
    started = run.call("campaign.start", brand=brand, name=campaign)
    run.done(started, _state(started))


@command.command("pause", examples=["pushbroker campaign pause acme spring"])
@_brand
@_campaign
@pass_run
def pause(run: Run, brand: str, campaign: str) -> None:
    """Send nothing more until it is resumed: no run begins, and who still waits for one goes on waiting."""
    paused = run.call("campaign.pause", brand=brand, name=campaign)
    run.done(paused, f"{_state(paused)}. To go on: pushbroker campaign resume {brand} {campaign}")


@command.command("resume", examples=["pushbroker campaign resume acme spring"])
@_brand
@_campaign
@pass_run
def resume(run: Run, brand: str, campaign: str) -> None:
    """Go on with a paused campaign.

    Of one that recurs, runs that were due meanwhile are left out; one that runs once does so late.
    """
    resumed = run.call("campaign.resume", brand=brand, name=campaign)
    run.done(resumed, _state(resumed))


@command.command("stop", examples=["pushbroker campaign stop acme spring --yes"])
@_brand
@_campaign
@yes_option
@pass_run
def stop(run: Run, brand: str, campaign: str, yes: bool) -> None:
    """End a campaign, and withdraw its messages that somebody has not got yet.

    Who has not got them will not, and devices that show them take them off the screen.
    """
    confirm(f"Stop {campaign} of {brand}, and withdraw what has not been delivered to everybody?", yes=yes)
    stopped = run.call("campaign.stop", brand=brand, name=campaign)
    for message in stopped["withdrawn"]:
        run.say(f"withdrawing {message}. To see how far it is: pushbroker message show {message}")
    run.done(stopped, _state(stopped))


@command.command("remove", examples=["pushbroker campaign remove acme spring --yes"])
@_brand
@_campaign
@yes_option
@pass_run
def remove(run: Run, brand: str, campaign: str, yes: bool) -> None:
    """Remove a campaign that is not running. What it has sent stays, and its figures with it."""
    run.call("campaign.show", brand=brand, name=campaign)
    confirm(f"Remove campaign {campaign} of {brand}?", yes=yes)
    run.call("campaign.remove", brand=brand, name=campaign)
    run.done({"brand": brand, "name": campaign, "removed": True}, f"campaign {campaign} of {brand} removed")


@command.command(
    "retarget",
    examples=[
        "pushbroker campaign retarget acme spring --not-opened 24h",
        "pushbroker campaign retarget acme spring --not-opened 24h --notification reminder.json",
        "pushbroker campaign retarget acme m038g2hxy7r000wcndertm --not-opened 2d --dry-run",
    ],
)
@_brand
@click.argument("what", metavar="CAMPAIGN|MESSAGE", shell_complete=campaigns)
@click.option("--not-opened", type=Duration(), required=True, metavar="TIME", help="Who has it so long, unopened.")
@click.option("--notification", metavar="FILE", help="What they get; - is stdin.  [default: the same again]")
@click.option("--dry-run", is_flag=True, help="Only say who that is.")
@pass_run
def retarget(run: Run, brand: str, what: str, not_opened: int, notification: str | None, dry_run: bool) -> None:
    """Send it again to those to whom it was delivered and who have not opened it.

    Of a campaign its last run that is as old is meant. Nobody gets the same message again twice, however often this is
    done.
    """
    content = None if notification is None else _notification(notification)
    answers = run.call(
        "campaign.retarget", brand=brand, what=what, not_opened_s=not_opened, content=content, dry_run=dry_run
    )
    recipients = sum(answer.get("recipients") or 0 for answer in answers)
    if run.json:
        print_json(answers)
    elif not dry_run:
        for answer in answers:
            click.echo(answer["message_id"])
    run.say(f"{'would go' if dry_run else 'goes'} again to {counted(recipients, 'recipient')}")


@command.command(
    "figures",
    examples=[
        "pushbroker campaign figures acme spring",
        "pushbroker campaign figures acme ab --by variant",
        "pushbroker campaign figures acme spring --by store --csv > spring.csv",
        "pushbroker campaign figures acme news --run 2026-11-23T08:00:00Z --json",
    ],
)
@_brand
@_campaign
@click.option(
    "--by",
    type=click.Choice(["campaign", "variant", "run", "store"]),
    default="campaign",
    show_default=True,
    help="A line for each.",
)
@click.option("--within", type=Duration(), default="15m", show_default=True, help="How soon is soon.")
@click.option("--run", "run_at", metavar="TIME", help="Only of this run.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@pass_run
def figures(run: Run, brand: str, campaign: str, by: str, within: int, run_at: str | None, as_csv: bool) -> None:
    """Say what came of a campaign: how many got it, opened it, clicked, and how soon.

    Delivered is of those who were accepted, all else of those to whom it was delivered. How soon counts from when it
    was due for each of them.
    """
    found = run.call("campaign.figures", brand=brand, name=campaign, by=by, within_s=within, run=run_at)
    rows = found["figures"]
    if as_csv:
        print_csv(rows, list(rows[0]))
    elif run.json:
        print_json(found)
    else:
        soon = _span(within)
        columns = {
            by: "what", "accepted": "accepted", "delivered": "delivered",
            f"in {soon}": "delivered_within", "displayed": "displayed", "opened": "opened",
            f"opened in {soon}": "opened_within", "clicked": "clicked", "dismissed": "dismissed", "waiting": "waiting",
            "lost": "lost", "lift": "lift", "note": "note",
        }  # fmt: skip
        if by != "variant":
            del columns["lift"], columns["note"]
        shown = [{heading: _cell(row, name) for heading, name in columns.items()} for row in rows]
        print_list(run, shown, list(columns), empty="")
    if not found["complete"]:
        run.say(f"made of the latest {limits.FIGURES_RECIPIENTS_MAX:,} recipients; --run TIME has an older run alone")


def _cell(row: Mapping[str, Any], name: str) -> str:
    match name:
        case "what" | "note":
            return str(row[name])
        case "lift":
            return "" if row["lift"] is None else f"{row['lift']:+.1%}"
        case "lost":
            return f"{sum(row[state] for state in ('expired', 'replaced', 'dropped', 'withdrawn')):,}"
        case _:
            rate = row.get(f"{name}_rate")
            return f"{row[name]:,}" if rate is None else f"{row[name]:,} {rate:.1%}"


def _changed(before: dict[str, Any], name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A definition with what was given."""
    request = {**before["request"], "to": dict(before["request"].get("to", {}))}
    to = request["to"]
    if given["segment"] is not None or given["condition"] is not None:
        for field in ("segment", "condition"):
            to.pop(field, None)
            if given[field]:
                to[field] = given[field]
    context = click.get_current_context()
    if context.get_parameter_source("cap") is not click.core.ParameterSource.DEFAULT:
        to.pop("cap", None)
        if given["cap"] is not None:
            to["cap"] = {"campaign": name, **given["cap"]}
    for option, field in (("kind", "kind"), ("ttl", "ttl_s"), ("priority", "priority"), ("receipts", "receipts"),
                          ("collapse_key", "collapse_key"), ("throttle", "throttle_per_s")):  # fmt: skip
        if given[option] is not None:
            request[field] = given[option]
    after = {**before, "request": request, "schedule": _schedule(before.get("schedule", {}), given)}
    if given["holdout"] is not None:
        after["holdout"] = given["holdout"]
    if variants := _variants(given):
        after["variants"] = variants
    return after


def _schedule(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if sum((given["at"] is not None, given["cron"] is not None, given["now"])) > 1:
        raise click.UsageError("It runs in one way: --now, --at TIME or --cron LINE.")
    after = dict(before)
    if given["now"]:
        after.pop("local", None)
    if given["at"] is not None or given["cron"] is not None or given["now"]:
        after.pop("at", None)
        after.pop("cron", None)
    if given["at"] is not None:
        after["at"] = given["at"].isoformat()
    for field in ("cron", "zone", "local"):
        if given[field] is not None:
            after[field] = given[field]
    return after


def _variants(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is to be sent, in whatever way it was given."""
    ways = [name for name in ("notification", "file", "variants") if given[name]]
    if len(ways) > 1:
        raise click.UsageError("Say what to send in one way: --notification FILE, --file FILE, or --variant for each.")
    if given["content_type"] is not None and ways != ["file"]:
        raise click.UsageError("--content-type goes with --file.")
    if given["notification"]:
        return [{"name": "", "weight": 100, "content": _notification(given["notification"])}]
    if given["file"]:
        content = base64.b64encode(read_input(given["file"], limits.CAMPAIGN_BYTES_MAX)).decode()
        kind = given["content_type"] or ""
        return [{"name": "", "weight": 100, "content": {"payload_base64": content, "content_type": kind}}]
    return [_variant(one) for one in given["variants"]]


def _variant(given: str) -> dict[str, Any]:
    found = _VARIANT.fullmatch(given)
    if found is None:
        raise click.UsageError(f"{given!r} is no variant: write a=FILE, or a=FILE:50 for a share of 50.")
    return {"name": found[1], "weight": int(found[3] or 1), "content": _notification(found[2])}


def _notification(source: str) -> dict[str, Any]:
    return {"notification": checked_notification(read_input(source, limits.PACKET_BYTES_MAX))}


def _for_people(shown: Mapping[str, Any]) -> dict[str, Any]:
    definition = shown["definition"]
    request = dict(definition["request"])
    variants = {one["name"] or "all": f"{one['weight']}  {_title(one['content'])}" for one in definition["variants"]}
    return {
        **{name: shown[name] for name in ("brand", "name", "state", "next_run", "created_at")},
        **definition.get("schedule", {}),
        "to": request.pop("to"),
        **request,
        "holdout": f"{definition['holdout']}%" if definition.get("holdout") else "",
        "variants": variants,
        "runs": {
            run["at"]: run.get("problem") or (f"{run['held_out']:,} held out" if run["held_out"] else "ok")
            for run in shown["runs"]
        },
    }


def _title(content: Mapping[str, Any]) -> str:
    shown = content.get("notification")
    return str(shown.get("title") or shown.get("body")) if shown else content.get("content_type", "") or "a file"


def _state(shown: Mapping[str, Any]) -> str:
    run = f"; it runs {_when(shown['next_run'])}" if shown["next_run"] and shown["state"] == "running" else ""
    state = "a draft" if shown["state"] == "draft" else shown["state"]
    return f"campaign {shown['name']} of {shown['brand']} is {state}{run}"


def _when(next_run: str | None) -> str:
    return "no more" if next_run is None else f"at {next_run}"


def _left_out(answer: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {why}" for why, count in answer.get("left_out", {}).items())


def _span(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
