"""Runs the rows of a benchmark on each broker in turn, with progress for whoever waits."""

import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from bench import machine
from bench.brokers import Broker
from bench.machine import BenchError
from bench.report import Figure, Results

CONNECTIONS: Final = 10_000  # of the largest row
OPEN_FILES_MORE: Final = 500


@dataclass(frozen=True)
class Bench:
    """What a row needs to know. Sizes are of the whole thing; a scale below 1 is for trying it out."""

    load_core: int
    scale: float
    full: bool
    say: Callable[[str], None]

    def scaled(self, size: int) -> int:
        """A multiple of ten."""
        return max(10, int(size * self.scale) // 10 * 10)


@dataclass(frozen=True)
class Row:
    """Something to measure, on a broker that was just started with nothing in it."""

    name: str
    title: str
    measure: Callable[[Bench, Broker], list[Figure]]
    repeat: int


@dataclass(frozen=True)
class Plan:
    """What is to be run, and where.

    `scale` and `full` are the sizes'; `repeat` None leaves it to each row; `settings` are our broker's, by name.
    """

    rows: Sequence[Row]
    brokers: Sequence[tuple[type[Broker], str]]
    directory: Path
    scale: float = 1.0
    full: bool = False
    repeat: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> Results:
        """All rows; each repetition on one broker after the other, so that what else the machine does hits both."""
        _allow_open_files(int(CONNECTIONS * self.scale) + OPEN_FILES_MORE)
        broker_core, load_core = machine.cores()
        results = Results(self._about(broker_core, load_core), [kind.name for kind, _ in self.brokers])
        environment = self._environment()
        runs = [
            (row, nth, kind, program)
            for row in self.rows
            for nth in range(self.repeat or row.repeat)
            for kind, program in self.brokers
        ]
        with (
            tempfile.TemporaryDirectory(prefix="pushbroker-bench-", dir=self.directory) as place,
            machine.pinned(load_core),
            _progress() as progress,
        ):
            task = progress.add_task("", total=len(runs))
            for row, nth, kind, program in runs:
                what = f"{row.name}, {kind.name}" + (f", again ({nth + 1})" if nth else "")
                bench = Bench(load_core, self.scale, self.full, partial(_describe, progress, task, what))
                bench.say("starting")
                try:
                    with kind(program, Path(place), broker_core, environment) as broker:
                        results.add(row.name, row.title, kind.name, row.measure(bench, broker))
                except (BenchError, OSError) as error:
                    results.failures.append("; ".join([f"{what}: {error}", *getattr(error, "__notes__", [])]))
                progress.advance(task)
        return results

    def _environment(self) -> dict[str, str]:
        """Ours, without what would set up our broker in another way than is said."""
        others = {
            name: value for name, value in os.environ.items() if not name.startswith(("PUSHBROKER_", "NOTIFY_SOCKET"))
        }
        return {**others, **{f"PUSHBROKER_{name.upper()}": value for name, value in self.settings.items()}}

    def _about(self, broker_core: int, load_core: int) -> dict[str, str]:
        median_ms, p99_ms = machine.sync_ms(self.directory)
        separate = f"broker on core {broker_core}, load on core {load_core}"
        sync = f"4 KiB and fdatasync take {median_ms:.2f} ms, p99 {p99_ms:.2f} ms"
        about = {
            "brokers": ", ".join(kind.version_of(program) for kind, program in self.brokers),
            "machine": machine.description(),
            "cores": separate if broker_core != load_core else "only one, for broker and load together",
            "disk": f"{machine.filesystem(self.directory)}; {sync}",
            "date": time.strftime("%Y-%m-%d"),
        }
        if self.scale != 1:
            about["sizes"] = f"multiplied by {self.scale:g}, for trying it out"
        if self.settings:
            about["settings"] = ", ".join(f"{name} = {value}" for name, value in self.settings.items())
        return about


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

    def _now(self) -> tuple[float, float, float, float]:
        pid = self._broker.pid
        return time.perf_counter(), machine.cpu_s(pid), time.process_time(), machine.written_bytes(pid)


def _progress() -> Progress:
    """On stderr, where that is a terminal, and drawn but twice a second: the load needs the core."""
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        refresh_per_second=2,
        disable=not console.is_terminal,
    )


def _describe(progress: Progress, task: TaskID, what: str, text: str) -> None:
    progress.update(task, description=f"{what}: {text}")


def _allow_open_files(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchError(f"{needed:,} open files are needed, {hard:,} are allowed; as root: ulimit -n {needed}")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
