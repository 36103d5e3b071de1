"""The group `pushbroker` itself: which commands there are, loaded when asked for."""

import importlib
import os
import sys
from typing import Any, Final

import click

from broker.command.base import ENVIRONMENT_PREFIX, Noun, Run, data_option, guarded

# In the order in which a newcomer needs them. The module of a command has its name.
SECTIONS: Final = {
    "Start": ("init", "serve", "dev"),
    "Identities": ("brand", "user", "store", "device", "segment", "cert"),
    "Messages": ("send", "tail", "message", "why", "campaign"),
    "Customers": ("content", "ask", "questions", "inbox", "agent"),
    "Fleet": ("command",),
    "Links": ("link",),
    "Watch": ("status", "connections", "audit", "doctor", "bench"),
    "Shell": ("completion",),
}
_HIDDEN: Final = ("reference",)
COMMANDS: Final = tuple(name for names in SECTIONS.values() for name in names)


class Root(Noun):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command that help shows."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from the module that has its name."""
        del ctx
        if cmd_name not in COMMANDS and cmd_name not in _HIDDEN:
            return None
        command = importlib.import_module(f"broker.command.{cmd_name}").command
        assert isinstance(command, click.Command)  # what `import_module` cannot know
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the commands by section."""
        for section, names in SECTIONS.items():
            with formatter.section(section):
                found = [(name, self.get_command(ctx, name)) for name in names]
                formatter.write_dl(
                    [(f"{name:<12}", command.get_short_help_str(80)) for name, command in found if command]
                )


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from importlib.metadata import version  # noqa: PLC0415 - 20 ms that only this needs

        click.echo(f"pushbroker {version('pushbroker')}")
        context.exit()


@click.group(
    "pushbroker",
    cls=Root,
    params=[data_option()],
    context_settings={"auto_envvar_prefix": ENVIRONMENT_PREFIX, "help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def pushbroker(context: click.Context) -> None:
    """A self-hosted push notification service on MQTT.

    Start with `pushbroker dev` to try it, with `pushbroker init` to run it. Every flag can be an environment variable:
    PUSHBROKER_DATA is --data, PUSHBROKER_SEND_TTL is --ttl of send.

    Data goes to stdout, words go to stderr. Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 refused,
    5 the broker is unreachable, 130 stopped with Ctrl-C.
    """
    context.ensure_object(Run)


def run(arguments: list[str] | None = None) -> int:
    """Run the CLI and return its exit code."""

    def action() -> Any:
        # click's own mode prints and exits by itself; ours adds remedies and codes.
        return pushbroker.main(args=arguments, prog_name="pushbroker", standalone_mode=False)

    if "_PUSHBROKER_COMPLETE" in os.environ:
        # The shell asks for completions: click answers and exits.
        pushbroker.main(args=arguments, prog_name="pushbroker")
    code = guarded(action)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
