"""`pushbroker content import`: many items at once, from files, with a report of what was refused."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

import click

from broker import limits
from broker.command.base import Noun, Run, counted, pass_run
from broker.command.names import brands
from broker.command.output import print_json, printable
from broker.errors import Failed, Refused

if TYPE_CHECKING:
    from broker.pull.importing import Form, Found, Problem

_FORMS: Final = ("csv", "json", "jsonl", "markdown")
_SHOWN: Final = 20  # of those that were refused; all of them are counted, and in the report
_BATCH_BYTES: Final = 512 << 10  # on the admin socket, which takes 2 MiB


def import_command(content: Noun) -> None:
    """Add `import` to the noun."""

    @content.command(
        "import",
        examples=[
            "pushbroker content import acme items.csv --language it",
            "pushbroker content import acme answers/ --dry-run",
            "pushbroker content import acme items.jsonl --replace --report refused.csv",
        ],
    )
    @click.argument("brand", shell_complete=brands)
    @click.argument("source", metavar="FILE_OR_FOLDER", type=click.Path(path_type=Path))
    @click.option("--format", "form", type=click.Choice(_FORMS), help="How it is written. Without: by its name.")
    @click.option("--language", default="", help="Of items that name none: it, en.")
    @click.option("--dry-run", is_flag=True, help="Only say what would become of each.")
    @click.option("--replace", is_flag=True, help="Remove items that are not in it.")
    @click.option(
        "--report", type=click.Path(dir_okay=False, path_type=Path), help="A CSV file of all that is refused."
    )
    @pass_run
    def import_(
        run: Run,
        /,
        brand: str,
        source: Path,
        form: "Form | None",
        language: str,
        dry_run: bool,
        replace: bool,
        report: Path | None,
    ) -> int:
        """Import items from CSV, JSON, JSON Lines, or a folder of Markdown files.

        An item that is there under the same name and language is replaced; one that is not right holds up no other,
        and is named with its line, what is wrong, and what would do. Exit code 4 says that some were refused. What
        the files look like: docs/content.md.
        """
        from broker.pull.importing import form_of  # noqa: PLC0415 - only where used

        if not source.exists():
            raise Failed(f"there is no {source}", remedy="Name a file or a folder that is there.")
        with _Import(run, brand, report, dry_run=dry_run, language=language) as importing:
            importing.read(source, form or form_of(source))
            if replace:
                importing.prune()
            return importing.done(replace=replace)


class _Import:
    """One import: what has become of how many items, and of which not."""

    def __init__(self, run: Run, brand: str, report: Path | None, *, dry_run: bool, language: str) -> None:
        self._run = run
        self._brand = brand
        self._report_path = report
        self._dry_run = dry_run
        self._language = language
        self._counts: Counter[str] = Counter(new=0, changed=0, same=0, removed=0, refused=0, blanks=0)
        self._first: list[Problem] = []
        self._blanks: list[str] = []
        self._seen: dict[str, int] = {}  # where each name and language stands
        self._whole = True  # what each line says was understood
        self._report: Any = None
        self._stack = ExitStack()
        self._shown = sys.stderr.isatty() and not run.json

    def __enter__(self) -> Self:
        if self._report_path is not None:
            import csv  # noqa: PLC0415 - only where used

            file: IO[str] = self._stack.enter_context(self._report_path.open("w", encoding="utf-8", newline=""))
            self._report = csv.writer(file)
            self._report.writerow(("file", "line", "name", "field", "why", "what_would_do"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        self._wipe()
        self._stack.close()
        if kind is KeyboardInterrupt:
            words = "would be" if self._dry_run else "were"
            self._run.say(f"stopped, after {counted(self._taken, 'item')} {words} taken. Do it again for the rest.")

    @property
    def _taken(self) -> int:
        return self._counts["new"] + self._counts["changed"] + self._counts["same"]

    def read(self, source: Path, form: "Form") -> None:
        """Send all items of a source."""
        for batch in self._batches(source, form):
            self._send(batch)

    def _batches(self, source: Path, form: "Form") -> Iterator[list["Found"]]:
        import msgspec  # noqa: PLC0415 - only where used

        from broker.pull.importing import Problem, read  # noqa: PLC0415

        size = _size(source)
        batch: list[Found] = []
        room = _BATCH_BYTES
        found = read(source, form, lambda done: self._progress(done, size))
        while True:
            try:
                one = next(found, None)
            except Refused as error:
                if not (self._seen or self._counts["refused"]):
                    raise
                why = error.message.removeprefix(f"{source.name}, ")
                one = Problem(file=source.name, line=0, why=why, remedy=error.remedy)
            if one is None:
                break
            if isinstance(one, Problem):
                self._whole = False  # whose line that is, nobody knows
                self._refused(one)
                continue
            if self._language:
                one.fields.setdefault("language", self._language)
            if (twice := self._again(one)) is not None:
                self._refused(twice)
                continue
            try:
                bytes_ = len(msgspec.json.encode(one.fields))
            except (ValueError, TypeError, RecursionError):  # half a character, from an escape
                bytes_ = limits.ITEM_BYTES_MAX + 1
            if bytes_ > limits.ITEM_BYTES_MAX:
                why = f"it is no text, or longer than {limits.ITEM_BYTES_MAX >> 10} KiB"
                self._refused(Problem(file=one.file, line=one.line, why=why, remedy="Look at it, or make it shorter."))
                continue
            room -= bytes_
            batch.append(one)
            if room <= 0 or len(batch) == limits.ITEMS_AT_ONCE:
                yield batch
                batch, room = [], _BATCH_BYTES
        if batch:
            yield batch

    def _again(self, one: "Found") -> "Problem | None":
        """What is wrong when the same name and language stood there before."""
        from broker.pull.importing import Problem  # noqa: PLC0415 - only where used

        name, language = one.fields.get("name"), one.fields.get("language", "")
        if not isinstance(name, str):
            return None
        key = f"{name}:{language}"
        before = self._seen.get(key)
        if before is None:
            self._seen[key] = one.line
            return None
        return Problem(
            file=one.file, line=one.line, name=name[:64], field="name",
            why=f"an item of this name and language stands in line {before} already",
            remedy="Give one of them another name or language.",
        )  # fmt: skip

    def _send(self, batch: list["Found"]) -> None:
        from broker.pull.importing import Problem  # noqa: PLC0415 - only where used

        items = [one.fields for one in batch]
        stored = self._run.call("content.put", brand=self._brand, items=items, dry_run=self._dry_run)
        for name in ("new", "changed", "same"):
            self._counts[name] += stored[name]
        self._counts["blanks"] += len(stored["blanks"])
        self._blanks += stored["blanks"][: _SHOWN - len(self._blanks)]
        for bad in stored["refused"]:
            one = batch[bad["index"]]
            where = {"file": one.file, "line": one.line, "name": bad["name"], "field": bad["field"]}
            self._refused(Problem(**where, why=bad["message"], remedy=bad["remedy"]))

    def _refused(self, problem: "Problem") -> None:
        self._counts["refused"] += 1
        if len(self._first) < _SHOWN:
            self._first.append(problem)
        if self._report is not None:
            cells = (problem.file, problem.line, problem.name, problem.field, problem.why, problem.remedy)
            self._report.writerow(cells)

    def prune(self) -> None:
        """Remove what is there and was not in the source. What was refused is not removed."""
        if not self._whole:
            return
        after = ""
        gone: list[tuple[str, str]] = []
        while page := self._run.call("content.list", brand=self._brand, after=after, most=limits.ITEMS_PAGE_MAX):
            keys = [(one["name"], one["language"]) for one in page]
            gone += [key for key in keys if f"{key[0]}:{key[1]}" not in self._seen]
            after = f"{keys[-1][0]}:{keys[-1][1]}"
        for first in range(0, len(gone), limits.ITEMS_AT_ONCE):
            part = gone[first : first + limits.ITEMS_AT_ONCE]
            if not self._dry_run:
                self._run.call("content.prune", brand=self._brand, items=part)
            self._counts["removed"] += len(part)

    def done(self, *, replace: bool) -> int:
        """Say what has become of all of it. Returns the exit code."""
        self._wipe()
        counts = self._counts
        if self._run.json:
            import msgspec  # noqa: PLC0415 - only where used

            problems = msgspec.to_builtins(self._first)
            print_json({**counts, "dry_run": self._dry_run, "whole": self._whole, "problems": problems})
        for one in self._first:
            where = f"{one.file}:{one.line}" if one.line else one.file
            what = ", ".join(filter(None, (one.name, one.field)))
            self._run.say(printable(f"{where}: {what + ': ' if what else ''}{one.why}"))
            if one.remedy:
                self._run.say(printable(f"  try: {one.remedy}"))
        if (more := counts["refused"] - len(self._first)) and self._report is None:
            self._run.say(f"and {more:,} more: --report FILE has all of them")
        if counts["blanks"]:
            self._run.say(f"{counted(counts['blanks'], 'item')} with data to fill in that are not there:")
            for blank in self._blanks:
                self._run.say(printable(f"  {blank}"))
        would = "would be " if self._dry_run else ""
        words = ", ".join(f"{counts[name]:,} {name}" for name in ("new", "changed", "removed") if counts[name])
        words = f"{counted(self._taken, 'item')} of {self._brand}: " + (f"{would}{words}, " if words else "")
        self._run.say(f"{words}{counts['same']:,} as before, {counts['refused']:,} refused")
        if replace and not self._whole:
            self._run.say("Some of it cannot be read, so nothing was removed.")
        return 4 if counts["refused"] else 0

    def _progress(self, done: int, size: int) -> None:
        if self._shown and size:
            refused = self._counts["refused"]
            line = f"{min(done * 100 // size, 100)}%: {self._taken:,} items, {refused:,} refused"
            click.echo(f"\r\x1b[K{line}", nl=False, err=True)

    def _wipe(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)


def _size(source: Path) -> int:
    if source.is_dir():
        return sum(path.stat().st_size for path in source.rglob("*.md") if path.is_file())
    return source.stat().st_size
