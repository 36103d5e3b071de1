"""Runs rows on each broker in turn, with progress for whoever waits."""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from broker.bench import machine
from broker.bench.brokers import Broker, Kind, Place
from broker.bench.link import Transport
from broker.bench.machine import BenchError
from broker.bench.pki import Pki
from broker.bench.report import Figure, Results

FILES_MORE: Final = 200  # what a process has open besides clients
LIMIT_SHARE: Final = 90.0  # per cent of its core, above which the load is what was measured
_SECONDS: Final = 0.6
_SECONDS_QUICK: Final = 0.3


@dataclass(frozen=True)
class Case:
    """A variant of a row. Version 4 is MQTT 3.1.1; `size` is of the body, in bytes."""

    transport: Transport = "tcp"
    qos: int = 0
    size: int = 64
    version: int = 4

    def label(self, varies: Sequence[str]) -> str:
        """In words; where the body and the version are as mostly, they are not named."""
        words = [self.transport.upper()] if "transport" in varies else []
        words += [f"QoS {self.qos}"] if "qos" in varies else []
        if "size" in varies and self.size != 64:
            words.append(f"{self.size // 1024} KiB" if self.size % 1024 == 0 else f"{self.size:,} bytes")
        if self.version != 4:
            words.append("MQTT 5")
        return ", ".join(words)


@dataclass(frozen=True)
class Bench:
    """What a row needs to know. Sizes are of the whole thing; a scale below 1 is for trying it out."""

    load_cores: Collection[int]
    files: int
    scale: float
    full: bool
    seconds: float
    say: Callable[[str], None]
    remark: Callable[[str], None]

    def scaled(self, size: int) -> int:
        """A multiple of ten."""
        return max(10, int(size * self.scale) // 10 * 10)

    def connections(self, wanted: int) -> int:
        """So many connections as were wanted, scaled, or as one process may have."""
        return min(self.scaled(wanted), self.files - FILES_MORE)


@dataclass(frozen=True)
class Row:
    """Something to measure. `fresh`: on a broker that was just started with nothing in it.

    `varies` are the options that make sense. `quick` is how many of the cases are for those in a hurry; 0: the row is
    not, unless it is asked for. `skip` names brokers of which it asks too much, `only` the only ones that can do it.
    `needs` is how many connections it makes at its largest, `settings` are those of our broker without which a bound
    would be what is measured.
    """

    name: str
    title: str
    measure: Callable[[Bench, Broker, Case], list[Figure]]
    cases: Sequence[Case]
    varies: Sequence[str] = ("transport",)
    headline: str = "cpu_us"
    repeat: int = 3
    fresh: bool = False
    durable: bool = False
    both_cores: bool = False
    quick: int = 1
    skip: Sequence[str] = ()
    only: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    needs: int = 1_100

    def chosen(self, options: Mapping[str, Sequence[Any]], *, quick: bool) -> list[Case]:
        """The cases: all combinations of what was asked for, or the row's own."""
        asked = {name: values for name, values in options.items() if values and name in self.varies}
        if not asked:
            return list(self.cases[: max(1, self.quick)] if quick else self.cases)
        return [
            replace(self.cases[0], **dict(zip(asked, values, strict=True)))
            for values in itertools.product(*asked.values())
        ]


@dataclass(frozen=True)
class Plan:
    """What is to be run, and where.

    `options` are values for the rows' variants, by name; `repeat` None leaves it to each row; `settings` are our
    broker's, by name.
    """

    rows: Sequence[Row]
    kinds: Sequence[Kind]
    directory: Path
    options: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    scale: float = 1.0
    full: bool = False
    quick: bool = False
    repeat: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    command_line: str = ""

    def run(self) -> Results:
        """All rows; each repetition on one broker after the other, so that what else the machine does hits all."""
        files = machine.open_files()
        scale = self.scale * (0.1 if self.quick else 1.0)
        self._check(files, scale)
        everywhere = os.sched_getaffinity(0)
        broker_core, load_core = machine.cores()
        results = Results(self._about(broker_core, load_core, files, scale), [kind.name for kind in self.kinds])
        runs = [
            (row, case, nth, kind)
            for row in self.rows
            for case in row.chosen(self.options, quick=self.quick)
            for nth in range(self.repeat or (1 if self.quick else row.repeat))
            for kind in self.kinds
        ]
        with (
            tempfile.TemporaryDirectory(prefix="pushbroker-bench-", dir=self.directory) as directory,
            machine.pinned({load_core}),
            _progress() as progress,
            ExitStack() as stack,
        ):
            place = Place(Path(directory), Pki(Path(directory) / "pki"), self._environment(), {broker_core})
            brokers = stack.enter_context(Running())
            task = progress.add_task("", total=len(runs))
            for at, (row, case, nth, kind) in enumerate(runs):
                progress.update(task, completed=at)
                label = case.label(row.varies)
                what = ", ".join(filter(None, [row.name, label, kind.name, f"run {nth + 1}" if nth else ""]))
                load_cores = everywhere if row.both_cores else {load_core}
                bench = Bench(
                    load_cores,
                    files,
                    scale,
                    self.full,
                    (_SECONDS_QUICK if self.quick else _SECONDS) * min(1.0, self.scale),
                    partial(_describe, progress, task, what),
                    results.remark,
                )
                if not able(row, case, kind):
                    continue
                try:
                    with machine.pinned(load_cores):
                        where = replace(place, cores=everywhere) if row.both_cores else place
                        figures = brokers.measure(bench, row, case, kind, where)
                    results.add(row.name, row.title, row.headline, label, kind.name, nth, figures)
                    _remark_on_load(results, f"{row.name}, {label}" if label else row.name, kind, figures)
                except (BenchError, OSError) as error:
                    results.failures.append("; ".join([f"{what}: {error}", *getattr(error, "__notes__", [])]))
                except KeyboardInterrupt:
                    results.failures.append(f"stopped at {what}")
                    results.stopped = True
                    break
        return results

    def _check(self, files: int, scale: float) -> None:
        """Whether the rows are possible here; those that take what there is always are."""
        needed = max((int(row.needs * scale) for row in self.rows), default=0) + FILES_MORE
        if files < needed:
            raise BenchError(
                f"{needed:,} open files are needed, {files:,} are allowed",
                remedy=f"As root: ulimit -n {needed}; or run less, with --row, --quick or --scale",
            )

    def _environment(self) -> dict[str, str]:
        """Ours, without what would set up our broker in another way than is said."""
        others = {
            name: value for name, value in os.environ.items() if not name.startswith(("PUSHBROKER_", "NOTIFY_SOCKET"))
        }
        return {**others, **{f"PUSHBROKER_{name.upper()}": value for name, value in self.settings.items()}}

    def _about(self, broker_core: int, load_core: int, files: int, scale: float) -> dict[str, str]:
        median_ms, p99_ms = machine.sync_ms(self.directory)
        separate = f"broker on core {broker_core}, load on core {load_core}"
        sync = f"4 KiB and fdatasync take {median_ms:.2f} ms, p99 {p99_ms:.2f} ms"
        about = {
            "command": self.command_line,
            "brokers": ", ".join(kind.version() for kind in self.kinds),
            "machine": machine.description(),
            "cores": separate if broker_core != load_core else "only one, for broker and load together",
            "open files": f"{files:,} for each process",
            "disk": f"{machine.filesystem(self.directory)}; {sync}",
            "date": time.strftime("%Y-%m-%d"),
        }
        if scale != 1:
            about["sizes"] = f"multiplied by {scale:g}, for trying it out"
        if self.settings:
            about["settings"] = ", ".join(f"{name} = {value}" for name, value in self.settings.items())
        return about


def able(row: Row, case: Case, kind: Kind) -> bool:
    """Whether a broker can do that at all."""
    return (
        case.version in kind.make.versions
        and case.transport in kind.make.transports
        and not kind.name.startswith(tuple(row.skip))
        and (not row.only or kind.name.startswith(tuple(row.only)))
    )


class Running:
    """The brokers that are running: one for each kind and transport, for as long as rows can share it."""

    def __init__(self) -> None:
        self._shared: dict[tuple[str, Transport], Broker] = {}

    def measure(self, bench: Bench, row: Row, case: Case, kind: Kind, place: Place) -> list[Figure]:
        """Measure, on a broker that runs or is started. One on which it failed is not used again."""
        if row.fresh:
            self._end()
            bench.say("starting")
            ours = {f"PUSHBROKER_{name.upper()}": value for name, value in row.settings.items()}
            place = replace(place, environment={**ours, **place.environment})
            with kind.make(kind, place, case.transport, durable=row.durable) as broker:
                return row.measure(bench, broker, case)
        key = kind.name, case.transport
        if key not in self._shared:
            bench.say("starting")
            self._shared[key] = kind.make(kind, place, case.transport).__enter__()
        broker = self._shared[key]
        try:
            return row.measure(bench, broker, case)
        except BaseException as error:
            del self._shared[key]
            broker.__exit__(type(error), error, error.__traceback__)
            raise

    def _end(self) -> None:
        while self._shared:
            _, broker = self._shared.popitem()
            with suppress(BenchError):
                broker.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()


class Meter:
    """What the broker, and we, used during `with`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.wall_s = self.cpu_s = self.load_cpu_s = 0.0
        self.written_bytes = 0

    def __enter__(self) -> Self:
        self._before = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            used = (after - before for before, after in zip(self._before, self._now(), strict=True))
            self.wall_s, self.cpu_s, self.load_cpu_s, written = used
            self.written_bytes = int(written)

    def figures(self, count: int, thing: str = "message") -> list[Figure]:
        """What each of so many took, how many there were in a second, and whether that was the load's speed."""
        return [
            Figure("cpu_us", f"broker's CPU for each {thing}", "µs", self.cpu_s * 1e6 / count if count else None),
            Figure("per_s", f"{thing}s", "1/s", count / self.wall_s),
            Figure("load_share", "share of its core that the load used", "%", 100 * self.load_cpu_s / self.wall_s),
        ]

    def _now(self) -> tuple[float, float, float, float]:
        pid = self._broker.pid
        return time.perf_counter(), machine.cpu_s(pid), time.process_time(), machine.written_bytes(pid)


def _remark_on_load(results: Results, what: str, kind: Kind, figures: Sequence[Figure]) -> None:
    for figure in figures:
        if figure.name == "load_share" and (figure.value or 0) > LIMIT_SHARE:
            results.remark(
                f"{what}, {kind.name}: the load used more than {LIMIT_SHARE:.0f}% of its core, so what happens in a "
                "second is the load's limit; CPU for each still holds"
            )


def _progress() -> Progress:
    """On stderr, where that is a terminal, and drawn but twice a second: the load needs the core."""
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        refresh_per_second=2,
        disable=not console.is_terminal,
    )


def _describe(progress: Progress, task: TaskID, what: str, text: str) -> None:
    progress.update(task, description=f"{what}: {text}")
