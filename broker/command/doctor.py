"""`pushbroker doctor`: looks at everything that can be wrong, and says what to do."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from broker.command.base import Run, counted, pass_run, standard
from broker.command.output import print_json
from broker.errors import PushbrokerError, Unreachable

if TYPE_CHECKING:
    from broker.command.checks import Check
    from broker.config import Settings

_MARKS: Final = {
    "ok": ("ok", "green"),
    "warning": ("warn", "yellow"),
    "failed": ("FAIL", "red"),
    "skipped": ("-", "cyan"),
}


@click.command(
    "doctor", **standard(examples=["pushbroker doctor", "pushbroker doctor --no-push", "pushbroker doctor --json"])
)
@click.option(
    "--push/--no-push", default=True, help="Send a message through the running broker to a device of our own."
)
@pass_run
def command(run: Run, push: bool) -> None:
    """Check everything, and say what to do where something is wrong.

    Settings, data directory, disk, databases, certificates, clock, limits, ports, and a message through the running
    broker: a brand `pushbroker-doctor` is added for it and removed again. Exit code 1 when a check failed.
    """
    found = []
    for check in _checks(run, push=push):
        found.append(check)
        if not run.json:
            _print(check)
    if run.json:
        print_json(found)
    failed = sum(check.state == "failed" for check in found)
    warnings = sum(check.state == "warning" for check in found)
    run.say(f"{len(found)} checks, {failed} failed, {warnings} warnings")
    if failed:
        click.get_current_context().exit(1)


def _print(check: "Check") -> None:
    mark, colour = _MARKS[check.state]
    click.echo(f"{click.style(f'{mark:<4}', fg=colour)}  {check.name:<12}  {check.words}")
    if check.remedy:
        click.echo(f"{'':<20}try: {check.remedy}")


def _checks(run: Run, *, push: bool) -> Iterator["Check"]:
    from datetime import UTC, datetime  # noqa: PLC0415 - only where used

    from broker.command import checks  # noqa: PLC0415

    try:
        settings = run.settings
    except PushbrokerError as error:
        yield checks.Check("settings", "failed", error.message, error.remedy)
        return
    yield from checks.configuration(settings)
    yield from checks.data_directory(settings)
    if os.access(settings.data, os.R_OK | os.X_OK):
        yield from checks.disk(settings)
        yield from checks.schemas(settings)
        yield from checks.certificates(settings, datetime.now(UTC))
    yield from checks.clock()
    status = None
    try:
        status = run.call("status")
    except Unreachable as error:
        stuck = "does not answer" in error.message
        yield checks.Check("broker", "failed" if stuck else "skipped", error.message, error.remedy)
    except PushbrokerError as error:
        yield checks.Check("broker", "failed", error.message, error.remedy)
    yield from _of_broker(run, settings, status, push=push)


def _of_broker(run: Run, settings: "Settings", status: dict[str, Any] | None, *, push: bool) -> Iterator["Check"]:
    from broker.address import parse_listen  # noqa: PLC0415
    from broker.command import checks, probe  # noqa: PLC0415 - only where used

    yield from checks.limits(settings, status["pid"] if status else None)
    if status is None:
        yield from checks.free_ports(settings)
        return
    listeners = [parse_listen(url) for url in status["listeners"]]
    yield checks.Check(
        "broker", "ok", f"running, version {status['version']}, {counted(status['connections'], 'connection')}"
    )
    state = status["journal"]["state"]
    if state != "ok":
        yield checks.Check("journal", "failed", state, "The broker's log says what to do: journalctl -u pushbroker")
    yield from checks.open_ports(settings, listeners)
    if push:
        yield from probe.push(run, listeners)
