"""`pushbroker store`: the places where a brand's devices stand, and what the broker itself keeps on disk."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import click

from broker.command.base import Noun, Run, confirm, counted, pass_run, yes_option
from broker.command.names import brands, stores
from broker.command.output import print_json, print_list, print_one, printable
from broker.errors import Failed, NotFound, Refused

if TYPE_CHECKING:
    from broker.store.backup import Manifest
    from broker.store.check import Finding

_SECTIONS: Final = {
    "Stores, where devices stand": ("add", "list", "show", "remove"),
    "The broker's own store, what it keeps on disk": ("check", "backup", "restore"),
}


class _Store(Noun):
    """Two things have this name: the help keeps them apart."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the commands by section."""
        del ctx
        for section, names in _SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(80)) for name in names])


command = _Store(
    "store", help="Stores where devices stand; and the broker's own store on disk: check, backup, restore."
)
_brand = click.argument("brand", shell_complete=brands)
_store = click.argument("store", shell_complete=stores)


@command.command(
    "add", examples=["pushbroker store add acme milano", "pushbroker store add acme milano --title 'Milano Centrale'"]
)
@_brand
@click.argument("store")
@click.option("--title", default="", help="A name for people.")
@pass_run
def add(run: Run, brand: str, store: str, title: str) -> None:
    """Add a store. What is sent to BRAND/store/STORE reaches its devices."""
    added = run.call("store.add", brand=brand, name=store, title=title)
    run.done(added, f"store {store} of {brand} added. Next: pushbroker device code {brand} DEVICE --store {store}")


@command.command("list", examples=["pushbroker store list", "pushbroker store list acme --json"])
@click.argument("brand", required=False, shell_complete=brands)
@pass_run
def list_(run: Run, brand: str | None) -> None:
    """List the stores, of one brand or of all."""
    print_list(
        run,
        run.call("store.list", brand=brand),
        ("brand", "name", "title", "created_at"),
        empty="There are no stores: pushbroker store add BRAND NAME",
    )


@command.command("show", examples=["pushbroker store show acme milano"])
@_brand
@_store
@pass_run
def show(run: Run, brand: str, store: str) -> None:
    """Show one store."""
    print_one(run, run.call("store.show", brand=brand, name=store))


@command.command(
    "remove", examples=["pushbroker store remove acme milano", "pushbroker store remove acme milano --yes"]
)
@_brand
@_store
@yes_option
@pass_run
def remove(run: Run, brand: str, store: str, yes: bool) -> None:
    """Remove a store. Its devices stay, and stand nowhere."""
    run.call("store.show", brand=brand, name=store)
    confirm(f"Remove store {store} of {brand}?", yes=yes)
    run.call("store.remove", brand=brand, name=store)
    run.done({"brand": brand, "name": store, "removed": True}, f"store {store} of {brand} removed")


# -- the broker's own store --------------------------------------------------------------------------------------------


@command.command(
    "check",
    examples=[
        "pushbroker store check",
        "pushbroker store check --full --json",
        "pushbroker store check /backup/pushbroker-2026-11-22",
    ],
)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--full", is_flag=True, help="Compare indexes and references, too, which takes longer.")
@pass_run
def check(run: Run, path: Path | None, full: bool) -> None:
    """Look at what is on disk, or at a backup, and say what to do if it is damaged.

    It changes nothing, and works while a broker runs. In a backup any change is seen. In a database that is in use,
    damage to its structure is: a byte that changed within a text or a payload cannot be told from another text.
    Exit code 1 when something is wrong.
    """
    from broker.store.backup import MANIFEST, check_backup  # noqa: PLC0415 - only where used
    from broker.store.check import check_data, is_data  # noqa: PLC0415

    place = path or _data(run)
    with _Progress(run) as progress:
        if (place / MANIFEST).exists():
            findings = check_backup(place, full=full, progress=progress)
        elif is_data(place):
            findings = check_data(place, full=full)
        else:
            raise NotFound(
                f"{place} is neither a data directory nor a backup",
                remedy="Name one of them, or the data directory with --data or PUSHBROKER_DATA.",
            )
    wrong = sum(not finding.well for finding in findings)
    if run.json:
        print_json(findings)
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            _print(finding, width)
    run.say(f"{counted(len(findings), 'thing')} looked at in {place}, {wrong} not well")
    if wrong:
        click.get_current_context().exit(1)


def _print(finding: "Finding", width: int) -> None:
    mark = click.style(f"{finding.state:<10}", fg="green" if finding.well else "red")
    words = finding.words
    if finding.well and finding.bytes is not None:
        words += f", {_size(finding.bytes)}"
    if finding.well and any(finding.tables.values()):
        words += f": {_rows(finding.tables)}"
    click.echo(f"{mark}  {finding.name:<{width}}  {printable(words)}")
    if finding.remedy:
        click.echo(f"{'':<{width + 14}}try: {finding.remedy}")


@command.command(
    "backup",
    examples=[
        "pushbroker store backup /backup/pushbroker-$(date +%F)",
        "pushbroker store backup /backup/latest --replace --json",
    ],
)
@click.argument("to", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Replace the backup that is there.")
@pass_run
def backup(run: Run, to: Path, replace: bool) -> None:
    """Make a backup, a new directory with all that a broker needs.

    It works while a broker runs: each database is copied as of one moment, no message waits for it, and the copies are
    checked. The backup is there as a whole, or not at all. It holds private keys, so only its owner may read it.
    """
    from importlib.metadata import version  # noqa: PLC0415 - only where used

    from broker.store.backup import make_backup  # noqa: PLC0415
    from broker.store.check import is_data  # noqa: PLC0415

    data, to = _data(run), to.absolute()
    if not is_data(data):
        raise NotFound(f"there is no data directory {data}", remedy="Name another with --data or PUSHBROKER_DATA.")
    with _Progress(run) as progress:
        manifest = make_backup(data, to, version=version("pushbroker"), replace=replace, progress=progress)
    words = (
        f"{to} is a backup of {data}:\n{_contents(manifest)}\nIt holds private keys: encrypt it where others may read."
    )
    run.done({"path": str(to), "manifest": manifest}, words)


@command.command(
    "restore",
    examples=[
        "pushbroker store restore /backup/pushbroker-2026-11-22",
        "pushbroker store restore /backup/pushbroker-2026-11-22 --data /var/lib/pushbroker --yes",
    ],
)
@click.argument("backup", type=click.Path(path_type=Path))
@yes_option
@pass_run
def restore(run: Run, backup: Path, yes: bool) -> None:
    """Put a backup in the place of what the data directory holds. The broker must be stopped.

    The backup is checked before anything is touched, and what was there is moved to DATA/replaced-TIME. If it is
    interrupted, do it again: no broker starts on a directory that is half restored.
    """
    from broker.store import restore as restoring  # noqa: PLC0415 - only where used
    from broker.store.backup import read_manifest  # noqa: PLC0415

    data = _data(run)
    manifest = read_manifest(backup)
    with _stopped(data):
        run.say(f"{backup}, {printable(manifest.words)}:\n{_contents(manifest)}")
        confirm(f"Replace what is in {data} by it, and undo what changed since, revocations too?", yes=yes)
        with _Progress(run) as progress:
            aside = restoring.restore(backup, data, progress)
    kept = f"\nWhat was there is in {aside}: remove it when all is well." if aside else ""
    run.done(
        {"data": str(data), "replaced": str(aside) if aside else None, "manifest": manifest},
        f"{data} is restored. Next: pushbroker serve --data {data}{kept}",
    )


def _data(run: Run) -> Path:
    """The data directory, also where the settings cannot be read."""
    from broker.config import default_data  # noqa: PLC0415 - only where used

    return (run.data or default_data()).absolute()


@contextmanager
def _stopped(data: Path) -> Iterator[None]:
    """While no broker and no other command works on the directory, which is made if there is none."""
    from broker.store.lock import DataLock  # noqa: PLC0415 - only where used

    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(DataLock(data / "lock", restoring=True))
        except Failed as held:
            raise Refused(held.message, remedy="Stop the broker first: systemctl stop pushbroker") from None
        yield


class _Progress:
    """How far it has got, in a line on a terminal that is wiped in the end; nothing elsewhere."""

    def __init__(self, run: Run) -> None:
        self._shown = sys.stderr.isatty() and not run.json
        self._line = ""

    def __call__(self, what: str, done: int, of: int) -> None:
        line = f"{what}, {done * 100 // of}% of {_size(of)}" if of else what
        if self._shown and line != self._line:
            self._line = line
            click.echo(f"\r\x1b[K{line}", nl=False, err=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._line:
            click.echo("\r\x1b[K", nl=False, err=True)


def _contents(manifest: "Manifest") -> str:
    """A line for each file of a backup."""
    return "\n".join(
        printable(f"  {name:<18} {_size(entry.bytes):>9}  {_rows(entry.tables)}".rstrip())
        for name, entry in manifest.files.items()
    )


def _rows(tables: Mapping[str, int]) -> str:
    return ", ".join(f"{table} {rows:,}" for table, rows in tables.items() if rows)


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
