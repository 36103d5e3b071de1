"""What every command shares: its options, its examples, how it reaches the records, what becomes of an error."""

import difflib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.errors import Failed, PushbrokerError

if TYPE_CHECKING:
    from broker.admin.client import Stream
    from broker.admin.reach import Stream as Readable
    from broker.config import Settings

ENVIRONMENT_PREFIX = "PUSHBROKER"


class Run:
    """One invocation: where the data is, how to print, and the way to the operations."""

    def __init__(self) -> None:
        self.data: Path | None = None
        self.json = False
        self._settings: Settings | None = None

    @property
    def settings(self) -> "Settings":
        """The settings as far as a command needs them that is not the broker itself."""
        from broker import config  # noqa: PLC0415 - only where used

        if self._settings is None:
            self._settings = config.load({"data": self.data}, visitor=True)
        return self._settings

    def call(self, operation: str, /, **arguments: Any) -> Any:
        """Do an operation of `broker.admin.operations`: in the running broker, or else on the records themselves."""
        from broker.admin import reach  # noqa: PLC0415 - only where used

        return reach.call(self.settings, operation, arguments)

    def stream(self, operation: str, /, **arguments: Any) -> "Stream":
        """Do an operation that answers with one thing after the other, in the running broker."""
        from broker.admin import reach  # noqa: PLC0415 - only where used

        return reach.stream(self.settings, operation, arguments)

    def read(self, operation: str, /, **arguments: Any) -> "Readable":
        """The same for one that works without a running broker, too."""
        from broker.admin import reach  # noqa: PLC0415 - only where used

        return reach.read(self.settings, operation, arguments)

    def done(self, result: Any, words: str) -> None:
        """A change was made: words for people, the changed thing for programs."""
        if self.json:
            from broker.command.output import print_json  # noqa: PLC0415 - only where used

            print_json(result)
        self.say(words)

    def say(self, text: str) -> None:
        """Words for a person: to stderr, and not at all where a program reads."""
        if not self.json:
            click.echo(text, err=True)


pass_run = click.make_pass_decorator(Run, ensure=True)


def _remember_data(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(Run).data = value


def _remember_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Run).json = True


def data_option() -> click.Option:
    """`--data`, which the group and every command take."""
    return click.Option(
        ["--data"],
        type=click.Path(path_type=Path, file_okay=False, readable=False),  # who may not read it is told what to do
        metavar="DIR",
        expose_value=False,
        is_eager=True,
        callback=_remember_data,
        help="The data directory.",
    )


def json_option() -> click.Option:
    """`--json`, which every command takes that has data to print."""
    words = "Print JSON, for programs."
    return click.Option(["--json"], is_flag=True, expose_value=False, callback=_remember_json, help=words)


class Command(click.Command):
    """A command with `--data`, `--json` where it has data to print, and examples under its help."""

    def __init__(
        self, *args: Any, examples: Sequence[str] = (), data: bool = True, json: bool = True, **rest: Any
    ) -> None:
        super().__init__(*args, **rest)
        self.examples = examples
        if json:
            self.params.append(json_option())
        if data:
            self.params.append(data_option())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the examples where click prints an epilog."""
        del ctx
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


class Noun(click.Group):
    """A group of commands."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was perhaps meant."""
        name = str(args[0])
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            close = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"There is no command {name!r} in {ctx.command_path!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def noun(self, name: str, words: str) -> "Noun":
        """A noun under this one."""
        group = Noun(name, help=words)
        self.add_command(group)
        return group


def standard(
    *, examples: Sequence[str], json: bool = True, data: bool = True, kind: type[Command] = Command
) -> Mapping[str, Any]:
    """The keywords that make a click command one of ours: `@click.command("status", **standard(examples=[...]))`."""
    return {"cls": kind, "examples": examples, "json": json, "data": data}


def counted(number: int, thing: str) -> str:
    """`1 recipient`, `2 recipients`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if a person says so or `--yes` did; without a terminal to ask on, that is a usage error."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask on: add --yes to do it.")
    if not click.confirm(question, err=True):
        raise click.Abort


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def read_secret(what: str, *, again: bool = False, unseen: bool = True) -> str:
    """A secret that is typed, or else the first line of stdin. Never an argument: `ps` shows those to everyone."""
    if sys.stdin.isatty():
        return str(click.prompt(what.capitalize(), hide_input=unseen, confirmation_prompt=again, err=True))
    secret = sys.stdin.readline().strip()
    if not secret:
        raise click.UsageError(f"There is no {what}: write it to stdin, or run this on a terminal.")
    return secret


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A time span such as 90, 90s, 15m, 1h or 7d, in seconds."""

    name = "duration"
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}  # noqa: RUF012 - click's way

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse, or fail with what would do."""
        if isinstance(value, int):
            return value
        text = str(value).strip().lower()
        number, unit = (text[:-1], self.units[text[-1]]) if text and text[-1] in self.units else (text, 1)
        if not number.isdecimal() or len(number) > 9:
            self.fail(f"{value!r} is no time span: write 90s, 15m, 1h or 7d.", param, ctx)
        return int(number) * unit


def report(error: PushbrokerError) -> None:
    """One line of what happened, one of what to do."""
    from broker.command.output import printable  # noqa: PLC0415 - it wants what is here

    said = [f"error: {error.message or error}", *([f"  try: {error.remedy}"] if error.remedy else [])]
    for line in "\n".join(said).splitlines():
        click.echo(printable(line), err=True)


def guarded(action: Callable[[], Any]) -> int:
    """Run `action` and turn what it raises into an exit code and words; only bugs leave a traceback."""
    try:
        result = action()
    except PushbrokerError as error:
        report(error)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # click's word for Ctrl-C: something may have been done
            return 130
        click.echo("stopped; nothing was done", err=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has had enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = "Run as the user that the data belongs to, with sudo, or name another directory with --data."
        report(Failed(f"{where}{error.strerror or error}", remedy=remedy if isinstance(error, PermissionError) else ""))
        return 1
    return result if isinstance(result, int) else 0
