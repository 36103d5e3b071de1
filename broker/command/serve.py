"""`pushbroker serve`: the broker in the foreground."""

import functools
import time
from typing import TYPE_CHECKING, Any

import click

from broker.command.base import Command, Run, pass_run, standard

if TYPE_CHECKING:
    from broker.app import Broker
    from broker.config import Setting, Settings


class _Serve(Command):
    """Has each setting as a flag, from the one table, which it reads only when `serve` itself is asked for."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The common options and the settings."""
        return [*_setting_options(), *super().get_params(ctx)]


@functools.cache
def _setting_options() -> list[click.Parameter]:
    from broker.config import SETTINGS  # noqa: PLC0415 - 30 ms that the other commands need not wait for

    return [_option(setting) for setting in SETTINGS if setting.name != "data" and not setting.only_in_file]


def _option(setting: "Setting") -> click.Parameter:
    words = setting.sentence.replace("`", "")
    if setting.many:
        words += " May be repeated."
    if setting.default_text not in ("", "[]", "false"):
        words += f"  [default: {setting.default_text.strip(chr(34))}]"
    # The environment is read with the settings, not by click.
    option: dict[str, Any] = {"help": words, "default": None, "allow_from_autoenv": False}
    if setting.bare is bool:
        option |= {"is_flag": True}
    elif setting.choices:
        option |= {"type": click.Choice(setting.choices)}
    else:
        option |= {"type": str, "multiple": setting.many, "metavar": _METAVARS.get(setting.type_name, "N")}
    return click.Option([setting.flag, setting.name], **option)


_METAVARS = {"list of URLs": "URL", "list of texts": "NAME", "path": "FILE", "text": "TEXT"}


@click.command(
    "serve",
    **standard(
        kind=_Serve,
        json=False,
        examples=[
            "pushbroker serve",
            "pushbroker serve --data /var/lib/pushbroker --listen mqtts://0.0.0.0:8883 --log-format json",
            "pushbroker serve --data /tmp/open --listen mqtt://127.0.0.1:1883 --allow-anonymous",
        ],
    ),
)
@pass_run
def command(run: Run, /, **flags: Any) -> None:
    """Run the broker until it is told to stop.

    What is missing in the data directory is made. One line on stdout says when it is ready; the log goes to stderr.
    SIGTERM and SIGINT stop it cleanly, SIGHUP makes it read certificates and settings again.
    """
    began = time.perf_counter()
    import asyncio  # noqa: PLC0415 - only where used

    from broker import config  # noqa: PLC0415

    def load() -> "Settings":
        settings = config.load({"data": run.data, **flags})
        config.check_anonymous(settings)
        return settings

    settings = load()
    from broker.command import service  # noqa: PLC0415 - the broker's libraries, only where used
    from broker.watch import log, supervisor  # noqa: PLC0415

    log.set_up(settings.log_level, settings.log_format)
    supervisor.raise_file_limit()

    async def ready(broker: "Broker") -> None:
        click.echo(f"ready: {' '.join(broker.addresses)} ({time.perf_counter() - began:.2f} s)")

    with supervisor.pid_file(settings.pid_file):
        asyncio.run(service.serve(settings, load=load, ready=ready))
