"""`pushbroker status`: what the running broker says of itself."""

from typing import Any

import click

from broker.command.base import Run, counted, pass_run, standard
from broker.command.output import print_one


@click.command("status", **standard(examples=["pushbroker status", "pushbroker status --json | jq .connections"]))
@pass_run
def command(run: Run) -> None:
    """Show how the running broker is.

    Counters count since its start; those that are 0 are left out, but not from --json.
    """
    status = run.call("status")
    print_one(run, status if run.json else _for_people(status))


def _for_people(status: dict[str, Any]) -> dict[str, Any]:
    """The same with units, and without counters of 0."""
    seconds = round(status["uptime_s"])
    days, clock = divmod(seconds, 86400)
    hours, minutes, seconds = clock // 3600, clock // 60 % 60, clock % 60
    shown: dict[str, Any] = {"up_for": f"{counted(days, 'day')} {hours:02}:{minutes:02}:{seconds:02}"}
    for name, value in status.items():
        match name:
            case "uptime_s":
                continue
            case "loop_lag_ms":
                shown["loop_lag"] = f"{value} ms"
            case "counters":
                shown[name] = {counter: _grouped(count) for counter, count in value.items() if count}
            case "pid":
                shown[name] = value
            case _:
                many = isinstance(value, dict)
                shown[name] = {part: _grouped(item) for part, item in value.items()} if many else _grouped(value)
    return shown


def _grouped(value: Any) -> Any:
    """A count with separators for its thousands; anything else as it is."""
    return f"{value:,}" if type(value) is int else value
