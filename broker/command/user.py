"""`pushbroker user`: the people whom a brand addresses."""

import sys
from pathlib import Path
from typing import Any

import click

from broker.command.base import Duration, Noun, Run, confirm, counted, pass_run, yes_option
from broker.command.export import private_file, write_export
from broker.command.names import brands, users
from broker.command.output import print_json, print_list, print_one
from broker.command.profiles import QuietHours, for_people, often, profile_commands, show_with_profile

command = Noun("user", help="Users: the people whom a brand addresses.")
_brand = click.argument("brand", shell_complete=brands)
_user = click.argument("user", shell_complete=users)


@command.command(
    "add", examples=["pushbroker user add acme ada", "pushbroker user add acme ada --title 'Ada Lovelace'"]
)
@_brand
@click.argument("user")
@click.option("--title", default="", help="A name for people.")
@pass_run
def add(run: Run, brand: str, user: str, title: str) -> None:
    """Add a user. What is sent to BRAND/user/USER reaches its devices."""
    added = run.call("user.add", brand=brand, name=user, title=title)
    run.done(added, f"user {user} of {brand} added. Next: pushbroker device code {brand} DEVICE --user {user}")


@command.command("list", examples=["pushbroker user list", "pushbroker user list acme --json"])
@click.argument("brand", required=False, shell_complete=brands)
@pass_run
def list_(run: Run, brand: str | None) -> None:
    """List the users, of one brand or of all."""
    print_list(
        run,
        run.call("user.list", brand=brand),
        ("brand", "name", "title", "created_at"),
        empty="There are no users: pushbroker user add BRAND NAME",
    )


@command.command("show", examples=["pushbroker user show acme ada"])
@_brand
@_user
@pass_run
def show(run: Run, brand: str, user: str) -> None:
    """Show one user: tags, attributes, what they opted in to, what they want."""
    show_with_profile(run, run.call("user.show", brand=brand, name=user), "user", brand, user)


@command.command("remove", examples=["pushbroker user remove acme ada", "pushbroker user remove acme ada --yes"])
@_brand
@_user
@yes_option
@pass_run
def remove(run: Run, brand: str, user: str, yes: bool) -> None:
    """Remove a user. Its devices stay, and belong to nobody."""
    run.call("user.show", brand=brand, name=user)
    confirm(f"Remove user {user} of {brand}?", yes=yes)
    run.call("user.remove", brand=brand, name=user)
    run.done(
        {"brand": brand, "name": user, "removed": True},
        f"user {user} of {brand} removed. What they were sent and what they said stays for as long as it is kept. "
        f"For all traces: pushbroker user erase {brand} {user}",
    )


profile_commands(command, "user", users)


# -- all of it ---------------------------------------------------------------------------------------------------------


@command.command(
    "export",
    examples=["pushbroker user export acme ada --output ada.json", "pushbroker user export acme ada | jq .entries"],
    json=False,
)
@_brand
@_user
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it there, for nobody else to read."
)
@pass_run
def export(run: Run, brand: str, user: str, output: Path | None) -> None:
    """Write all that is known of a user as one JSON document.

    Profile, devices, consents, conversations, what they were sent and what became of it, what waits for them: see
    docs/privacy.md. Secrets are not in it.
    """
    parts = run.read("user.export", brand=brand, name=user)
    try:
        if output is None:
            counts = write_export(iter(parts), sys.stdout)
        else:
            with private_file(output) as file:
                counts = write_export(iter(parts), file)
    finally:
        parts.close()
    where = "" if output is None else f" in {output}"
    run.say(f"{sum(counts.values()):,} rows of {sum(map(bool, counts.values()))} kinds{where}")


@command.command(
    "erase",
    examples=[
        "pushbroker user erase acme ada --dry-run",
        "pushbroker user erase acme ada --yes --json > proof.json",
        "pushbroker user erase acme ada --devices keep",
        "pushbroker user erase acme ada --verify",
    ],
)
@_brand
@_user
@click.option(
    "--devices",
    type=click.Choice(["remove", "keep"]),
    default="remove",
    show_default=True,
    help="What becomes of their devices: they are theirs alone, or others use them, too.",
)
@click.option("--dry-run", is_flag=True, help="Say how much there is of them, and do nothing.")
@click.option("--verify", is_flag=True, help="Look whether anything is left of somebody who was erased.")
@yes_option
@pass_run
def erase(run: Run, brand: str, user: str, devices: str, dry_run: bool, verify: bool, yes: bool) -> int:
    """Erase all that is known of a user, and print what proves it.

    Nothing is left of them but figures: records, conversations, messages, what waits and what is retained. It goes on
    after a restart. Backups are not changed: see docs/privacy.md.
    """
    found = run.call("user.traces", brand=brand, name=user)
    if dry_run and not found["counts"]:
        run.say(f"nothing is known of {user}: pushbroker user list {brand}")
    elif not verify and "user" not in found["counts"]:  # perhaps a name that was mistyped: the audit log knows it, too
        run.say(f"{brand} has no user {user!r} (any more): this is what is left of them")
    if dry_run or verify:
        print_one(run, found if run.json else {"devices": found["devices"], **found["counts"]})
        if verify:
            run.say(f"something is left of {user}" if found["counts"] else f"nothing is left of {user}")
        return 1 if verify and found["counts"] else 0
    names = found["devices"]
    theirs = (
        f", and remove {counted(len(names), 'device')} ({', '.join(names)})" if devices == "remove" and names else ""
    )
    confirm(f"Erase all that is known of user {user} of {brand}{theirs}? There is no way back.", yes=yes)
    stream = run.stream("user.erase", brand=brand, name=user, devices=devices)
    try:
        proof = next(part["proof"] for part in stream if "proof" in part)
    finally:
        stream.close()
    print_json(proof)
    run.say("erased. Backups made before still have it: see docs/privacy.md")
    if proof["files_at_next_start"]:
        run.say(f"pieces may be left in large files until the next start: {', '.join(proof['files_at_next_start'])}")
    return 0


# -- what they say themselves ------------------------------------------------------------------------------------------

_topics = click.argument("topics", nargs=-1, required=True)
_source = click.option(
    "--source",
    type=click.Choice(["operator", "brand"]),
    default="operator",
    show_default=True,
    help="Who has it from them: it is kept with the consent.",
)


@command.command(
    "opt-in",
    examples=["pushbroker user opt-in acme ada news", "pushbroker user opt-in acme ada news offers --source brand"],
)
@_brand
@_user
@_topics
@_source
@pass_run
def opt_in(run: Run, brand: str, user: str, topics: tuple[str, ...], source: str) -> None:
    """Note that a user wants what is sent to these topics."""
    _consent(run, brand, user, topics, source, wanted=True)


@command.command("opt-out", examples=["pushbroker user opt-out acme ada news"])
@_brand
@_user
@_topics
@_source
@pass_run
def opt_out(run: Run, brand: str, user: str, topics: tuple[str, ...], source: str) -> None:
    """Note that a user wants it no more."""
    _consent(run, brand, user, topics, source, wanted=False)


def _consent(run: Run, brand: str, user: str, topics: tuple[str, ...], source: str, *, wanted: bool) -> None:
    said = {"topics": dict.fromkeys(topics, wanted)}
    changed = run.call("profile.say", brand=brand, name=user, wanted=said, source=source)
    run.done(changed, f"user {user} of {brand} opted {'in to' if wanted else 'out of'} {', '.join(topics)}")


@command.command(
    "follow",
    examples=["pushbroker user follow acme ada wipro", "pushbroker user follow acme ada wipro --every 1h"],
)
@_brand
@_user
@click.argument("item")
@click.option("--every", "every_s", type=Duration(), default=0, help="At most one in so long: 1h, 7d. Else of each.")
@_source
@pass_run
def follow(run: Run, brand: str, user: str, item: str, every_s: int, source: str) -> None:
    """Note that a user wants to hear of changes of an item of content."""
    changed = run.call("profile.say", brand=brand, name=user, wanted={"follows": {item: every_s}}, source=source)
    run.done(changed, f"user {user} of {brand} follows {item}, {often(every_s)}")


@command.command("unfollow", examples=["pushbroker user unfollow acme ada wipro"])
@_brand
@_user
@click.argument("item")
@_source
@pass_run
def unfollow(run: Run, brand: str, user: str, item: str, source: str) -> None:
    """Note that a user wants that no more."""
    changed = run.call("profile.say", brand=brand, name=user, wanted={"follows": {item: None}}, source=source)
    run.done(changed, f"user {user} of {brand} does not follow {item} any more")


@command.command("consents", examples=["pushbroker user consents acme ada", "pushbroker user consents acme ada --json"])
@_brand
@_user
@pass_run
def consents(run: Run, brand: str, user: str) -> None:
    """List each consent that a user gave or took back, with time and source; of what they follow as item/NAME."""
    print_list(
        run,
        run.call("profile.consents", brand=brand, name=user),
        ("at", "topic", "state", "source"),
        empty=f"{user} has said nothing of any topic: pushbroker user opt-in {brand} {user} TOPIC",
    )


@command.command(
    "preferences",
    examples=[
        "pushbroker user preferences acme ada",
        "pushbroker user preferences acme ada --quiet-hours 22:00-08:00 --time-zone Europe/Rome",
        "pushbroker user preferences acme ada --quiet-hours ''",
    ],
)
@_brand
@_user
@click.option("--quiet-hours", type=QuietHours(), help="When not to disturb them: 22:00-08:00; '' for the brand's.")
@click.option("--time-zone", help="Where they are: Europe/Rome; '' for the brand's.")
@click.option("--locale", help="Their language: it, it-IT; '' for none.")
@pass_run
def preferences(run: Run, brand: str, user: str, quiet_hours: Any, time_zone: str | None, locale: str | None) -> None:
    """Show or change what a user wants. Their devices are told."""
    said = {"quiet_hours": quiet_hours, "time_zone": time_zone, "locale": locale}
    wanted = {name: value for name, value in said.items() if value is not None}
    if not wanted:
        shown = run.call("profile.show", brand=brand, kind="user", name=user)
        readable = for_people(shown)
        follows = {one["item"]: one["every_s"] for one in shown["follows"]}
        print_one(
            run,
            {**shown["preferences"], "follows": follows}
            if run.json
            else {**readable["preferences"], "follows": readable["follows"]},
        )
        return
    if "quiet_hours" in wanted:
        wanted["quiet_hours"] = quiet_hours or None
    changed = run.call("profile.say", brand=brand, name=user, wanted=wanted)
    run.done(changed["preferences"], f"preferences of {user} of {brand} changed")


# -- who gets nothing --------------------------------------------------------------------------------------------------


@command.command(
    "suppress",
    examples=[
        "pushbroker user suppress acme ada --reason 'complaint 1234'",
        "pushbroker user suppress acme ada --reason holiday --for 14d",
    ],
)
@_brand
@_user
@click.option("--reason", required=True, help="Why; `pushbroker user show` tells it.")
@click.option("--for", "for_s", type=Duration(), help="For how long: 12h, 14d. Without this, for ever.")
@pass_run
def suppress(run: Run, brand: str, user: str, reason: str, for_s: int | None) -> None:
    """Send a user nothing any more, whatever is sent to them."""
    entry = run.call("suppression.add", brand=brand, name=user, reason=reason, for_s=for_s)
    run.done(entry, f"user {user} of {brand} gets nothing until {entry['until'] or 'that is ended'}")


@command.command("unsuppress", examples=["pushbroker user unsuppress acme ada"])
@_brand
@_user
@pass_run
def unsuppress(run: Run, brand: str, user: str) -> None:
    """End that."""
    was = run.call("suppression.remove", brand=brand, name=user)
    words = "gets messages again" if was else "was not suppressed"
    run.done({"brand": brand, "name": user, "was_suppressed": was}, f"user {user} of {brand} {words}")


@command.command("suppressed", examples=["pushbroker user suppressed acme", "pushbroker user suppressed acme --json"])
@_brand
@pass_run
def suppressed(run: Run, brand: str) -> None:
    """List the users who get nothing."""
    print_list(
        run,
        run.call("suppression.list", brand=brand),
        ("user", "reason", "since", "until"),
        empty="Nobody is suppressed: pushbroker user suppress BRAND USER --reason WHY",
    )
