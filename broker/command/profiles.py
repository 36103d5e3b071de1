"""What `pushbroker user` and `pushbroker device` have in common: tags, attributes, and how a profile is shown."""

from collections.abc import Mapping
from typing import Any

import click

from broker.command.base import Noun, Run, pass_run
from broker.command.names import Completer, brands
from broker.command.output import print_one


class QuietHours(click.ParamType):  # type: ignore[type-arg]
    """`22:00-08:00`, or '' for none. Whether these are times of the day is for the broker to say."""

    name = "from-until"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse, or fail with what would do."""
        if not isinstance(value, str):
            return value
        begin, dash, end = value.partition("-")
        if value and not dash:
            self.fail(f"{value!r} are no quiet hours: write 22:00-08:00.", param, ctx)
        return {"from": begin.strip(), "until": end.strip()} if value else {}


def profile_commands(noun: Noun, kind: str, complete: Completer) -> None:
    """Add tag, untag, set and unset to a noun."""
    name = {"user": "ada", "device": "kiosk-7"}[kind]
    brand_argument = click.argument("brand", shell_complete=brands)
    argument = click.argument("name", metavar=kind.upper(), shell_complete=complete)

    @noun.command("tag", examples=[f"pushbroker {kind} tag acme {name} vip staff"], help=f"Add tags to a {kind}.")
    @brand_argument
    @argument
    @click.argument("tags", nargs=-1, required=True)
    @pass_run
    def tag(run: Run, brand: str, name: str, tags: tuple[str, ...]) -> None:
        changed = run.call("profile.tag", brand=brand, kind=kind, name=name, tags=tags)
        run.done(changed, f"{kind} {name} of {brand}: {', '.join(changed['tags'])}")

    @noun.command("untag", examples=[f"pushbroker {kind} untag acme {name} staff"], help=f"Take tags from a {kind}.")
    @brand_argument
    @argument
    @click.argument("tags", nargs=-1, required=True)
    @pass_run
    def untag(run: Run, brand: str, name: str, tags: tuple[str, ...]) -> None:
        changed = run.call("profile.untag", brand=brand, kind=kind, name=name, tags=tags)
        run.done(changed, f"{kind} {name} of {brand}: {', '.join(changed['tags']) or 'no tags'}")

    @noun.command(
        "set",
        examples=[f"pushbroker {kind} set acme {name} city=Milano", f"pushbroker {kind} set acme {name} 'shop=Via Po'"],
        help=f"Set attributes of a {kind}. Conditions ask for them: attr.city=Milano.",
    )
    @brand_argument
    @argument
    @click.argument("attributes", nargs=-1, required=True, metavar="KEY=VALUE...")
    @pass_run
    def set_(run: Run, brand: str, name: str, attributes: tuple[str, ...]) -> None:
        pairs = [attribute.partition("=") for attribute in attributes]
        for pair in pairs:
            if not pair[1]:
                raise click.UsageError(f"{pair[0]!r} has no value: write KEY=VALUE.")
        given = {key: value for key, _, value in pairs}
        changed = run.call("profile.set", brand=brand, kind=kind, name=name, attributes=given)
        run.done(
            changed, f"{kind} {name} of {brand}: {', '.join(f'{k}={v}' for k, v in changed['attributes'].items())}"
        )

    @noun.command(
        "unset", examples=[f"pushbroker {kind} unset acme {name} city"], help=f"Take attributes from a {kind}."
    )
    @brand_argument
    @argument
    @click.argument("keys", nargs=-1, required=True)
    @pass_run
    def unset(run: Run, brand: str, name: str, keys: tuple[str, ...]) -> None:
        changed = run.call("profile.unset", brand=brand, kind=kind, name=name, keys=keys)
        run.done(changed, f"{kind} {name} of {brand}: {', '.join(keys)} unset")


def show_with_profile(run: Run, thing: Mapping[str, Any], kind: str, brand: str, name: str) -> None:
    """A user or device, with what is known of them."""
    profile = run.call("profile.show", brand=brand, kind=kind, name=name)
    print_one(run, {**thing, **(profile if run.json else for_people(profile))})


def often(every_s: int) -> str:
    """How often somebody is told of changes."""
    return f"at most once in {every_s} s" if every_s else "each change"


def for_people(profile: Mapping[str, Any]) -> dict[str, Any]:
    """A profile, one line for each thing."""
    wanted = {name: value for name, value in profile["preferences"].items() if value}
    if hours := wanted.get("quiet_hours"):
        wanted["quiet_hours"] = f"{hours['from']} to {hours['until']}"
    suppressed = profile["suppressed"]
    return {
        "tags": profile["tags"],
        "attributes": profile["attributes"],
        "topics": {one["topic"]: f"{one['state']} since {one['at']} ({one['source']})" for one in profile["topics"]},
        "follows": {one["item"]: f"{often(one['every_s'])} ({one['source']})" for one in profile["follows"]},
        "preferences": wanted,
        "suppressed": suppressed and f"until {suppressed['until'] or 'that is ended'}: {suppressed['reason']}",
    }
