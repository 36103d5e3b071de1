"""`pushbroker bench`: our broker and others side by side, to compare them and to size a machine."""

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from broker.command.base import Run, pass_run, standard
from broker.errors import Failed, NotFound

if TYPE_CHECKING:
    from broker.bench.brokers import Kind
    from broker.bench.report import Results
    from broker.bench.run import Row

_VERSIONS: Final = {"3.1.1": 4, "5": 5}
_SIZE_BYTES: Final = click.IntRange(16, 1_000_000)


def _named(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    if unnamed := [value for value in values if "=" not in value]:
        raise click.BadParameter(f"{unnamed[0]} is not NAME=VALUE")
    return {name: value for name, _, value in (text.partition("=") for text in values)}


@click.command(
    "bench",
    **standard(
        data=False,
        examples=[
            "pushbroker bench --quick",
            "pushbroker bench --row pairs --row broadcast --transport tls --qos 1 --qos 2",
            "pushbroker bench --row durable --broker pushbroker --broker mosquitto --json > figures.json",
            "pushbroker bench --from figures.json --picture figures.svg",
            "pushbroker bench --peer mosquitto-new=/opt/mosquitto/sbin/mosquitto",
            "pushbroker bench --peer 'flashmq=flashmq -c {config:flashmq.conf}'",
        ],
    ),
)
@click.option("--list", "listed", is_flag=True, help="Show the rows and their variants, and which brokers are here.")
@click.option("--row", "rows", multiple=True, metavar="NAME", help="Only this row, or all that begin so; repeatable.")
@click.option(
    "--broker",
    "brokers",
    multiple=True,
    metavar="NAME",
    help="Only this broker; repeatable: the first is compared with the others.",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME=COMMAND",
    callback=_named,
    help="One more broker: a program, where NAME begins with that of one that is known, or a command with {port}.",
)
@click.option(
    "--transport",
    "transports",
    multiple=True,
    type=click.Choice(["tcp", "tls", "ws", "wss"]),
    help="This variant instead of each row's own; repeatable, like the next three.",
)
@click.option("--protocol", "protocols", multiple=True, type=click.Choice(list(_VERSIONS)), help="The version of MQTT.")
@click.option("--qos", multiple=True, type=click.IntRange(0, 2), help="The quality of service.")
@click.option("--size", "sizes", multiple=True, type=_SIZE_BYTES, metavar="BYTES", help="The size of a message's body.")
@click.option("--quick", is_flag=True, help="A minute: fewer rows and variants, a tenth of the sizes, each once.")
@click.option("--full", is_flag=True, help="The largest sizes too: sessions, topics and messages up to a million.")
@click.option("--scale", type=click.FloatRange(0, 10, min_open=True), default=1.0, help="Multiply all sizes by this.")
@click.option("--repeat", type=click.IntRange(1, 100), help="Measure so often; the tables have the medians.")
@click.option(
    "--setting",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_named,
    help="A setting of our broker, such as queue_messages_max=500; repeatable.",
)
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/var/tmp"),  # noqa: S108 - we make a directory of our own in it
    help="Where the brokers keep their data: on the disk that is to be measured.  [default: /var/tmp]",
)
@click.option(
    "--from",
    "figures",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Measure nothing: show the figures that --json wrote.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Draw the figures too, as .svg or .png.",
)
@pass_run
def command(run: Run, /, **options: Any) -> None:
    """Measure our broker and others side by side.

    mosquitto, amqtt and NATS's MQTT gateway are found where they are installed; others can be named. Each gets a core,
    the load gets another one. Takes about ten minutes; docs/performance.md says what is measured, and how.

    Ctrl-C shows what there is so far. Exit code 1 when something could not be measured.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if options["listed"]:
        _list(run)
        return
    picture: Path | None = options["picture"]
    if picture:
        from broker.bench.picture import check  # noqa: PLC0415 - only where used

        check(picture)
    results = _read(options["figures"]) if options["figures"] else _measure(options)
    click.echo(results.json() if run.json else results.markdown())
    if picture:
        from broker.bench.picture import draw  # noqa: PLC0415 - only where used

        draw(results, picture)
    if results.failures:
        click.get_current_context().exit(130 if results.stopped else 1)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(143)  # by way of all that has to be cleaned up


def _measure(options: Mapping[str, Any]) -> "Results":
    from broker.bench.run import Plan  # noqa: PLC0415 - only where used

    variants = {
        "transport": options["transports"],
        "version": [_VERSIONS[name] for name in options["protocols"]],
        "qos": options["qos"],
        "size": options["sizes"],
    }
    if not options["brokers"] and (missing := _missing()):
        click.echo(f"not installed, so not measured: {missing}", err=True)
    return Plan(
        _rows(options["rows"], quick=options["quick"]),
        _kinds(options["brokers"], options["peers"]),
        options["directory"],
        variants,
        scale=options["scale"],
        full=options["full"],
        quick=options["quick"],
        repeat=options["repeat"],
        settings=options["settings"],
        command_line=shlex.join(["pushbroker", *sys.argv[1:]]),
    ).run()


def _read(path: Path) -> "Results":
    from broker.bench.report import Results  # noqa: PLC0415 - only where used

    try:
        return Results.read(path.read_text())
    except (ValueError, KeyError, TypeError) as error:
        raise Failed(f"{path} is not what pushbroker bench --json writes: {error!r}") from error


def _rows(names: Sequence[str], *, quick: bool) -> "list[Row]":
    from broker.bench.rows import ROWS  # noqa: PLC0415 - only where used

    every = [row.name for row in ROWS]
    # `pairs` is that row and not `pairs-100`, `durable` is all that begin so.
    wanted = {
        row for name in names for row in every if row == name or (name not in every and row.startswith(f"{name}-"))
    }
    for name in names:
        if name not in every and not any(row.startswith(f"{name}-") for row in every):
            raise NotFound(f"there is no row {name!r}", remedy="pushbroker bench --list")
    return [row for row in ROWS if row.name in wanted or (not names and (row.quick or not quick))]


def _kinds(names: Sequence[str], peers: Mapping[str, str]) -> "list[Kind]":
    from broker.bench.brokers import KNOWN, found, given  # noqa: PLC0415 - only where used

    kinds = {kind.name: kind for kind in found()} | {name: given(name, value) for name, value in peers.items()}
    for name in names:
        if name not in kinds:
            remedy = KNOWN[name].remedy if name in KNOWN else "pushbroker bench --list"
            raise NotFound(f"there is no broker {name!r} here", remedy=remedy)
    if names:
        return [kinds[name] for name in dict.fromkeys(names)]
    # The first is compared with each other one, in pictures with the second: mosquitto, whichever, where there is one.
    known = list(KNOWN)
    places = {name: next((at for at, of in enumerate(known) if name.startswith(of)), len(known)) for name in kinds}
    return sorted(kinds.values(), key=lambda kind: places[kind.name])


def _missing() -> str:
    """Which of the brokers that are known are not here, and how to get them."""
    from broker.bench.brokers import KNOWN, found  # noqa: PLC0415 - only where used

    here = {kind.name for kind in found()}
    return "; ".join(f"{name}: {known.remedy}" for name, known in KNOWN.items() if name not in here)


def _list(run: Run) -> None:
    from broker.bench.brokers import found  # noqa: PLC0415 - only where used
    from broker.bench.rows import ROWS  # noqa: PLC0415
    from broker.command.output import print_list  # noqa: PLC0415

    print_list(
        run,
        [
            {
                "row": row.name,
                "measures": row.title,
                "variants": "; ".join(case.label(row.varies) for case in row.cases),
            }
            for row in ROWS
        ],
        ("row", "measures", "variants"),
        empty="",
    )
    run.say(f"brokers here: {', '.join(kind.name for kind in found())}")
    if missing := _missing():
        run.say(f"not here: {missing}")
