"""What is measured from outside: cores, a process's CPU time, memory and writes, and the disk."""

import os
import platform
import re
import resource
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from broker.errors import Failed

APPENDS = 100
BLOCK_BYTES = 512  # the unit of st_blocks, whatever the filesystem's own is


class BenchError(Failed):
    """Something without which there is no figure: a broker that does not start, a message that is not there."""


def cores() -> tuple[int, int]:
    """The broker's core and the load's: one and the same where there are no two."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[min(1, len(allowed) - 1)]


@contextmanager
def pinned(to: Collection[int]) -> Iterator[None]:
    """What is started meanwhile, and we, stay on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """CPU time of a process with all its threads: what /proc/PID/stat has, but in nanoseconds rather than in ticks."""
    return time.clock_gettime((~pid << 3) | 2)  # how Linux names the clock of a process: clock_getcpuclockid(3)


def rss_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    return int(_entry(Path(f"/proc/{pid}/status"), r"VmRSS:\s+(\d+) kB")) * 1024


def written_bytes(pid: int) -> int:
    """What a process has given to the block layer so far."""
    return int(_entry(Path(f"/proc/{pid}/io"), r"\nwrite_bytes: (\d+)"))


def bytes_on_disk(directory: Path) -> int:
    """What the files in a directory occupy."""
    return sum(path.lstat().st_blocks for path in directory.rglob("*") if path.is_file()) * BLOCK_BYTES


def filesystem(directory: Path) -> str:
    """The type of the filesystem that a directory is on."""
    mounts = re.findall(r"^\S+ \S+ \S+ \S+ (\S+) .*? - (\S+) ", Path("/proc/self/mountinfo").read_text(), re.MULTILINE)
    place = directory.resolve()
    over: list[tuple[int, str]] = [
        (len(Path(point).parts), kind) for point, kind in mounts if place.is_relative_to(point)
    ]
    return max(over)[1]


def sync_ms(directory: Path) -> tuple[float, float]:
    """Median and p99 of appending 4 KiB and waiting until the disk has them, which bounds every single commit."""
    took = []
    with tempfile.TemporaryFile(buffering=0, dir=directory) as file:
        for _ in range(APPENDS):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return quantile(took, 0.5), quantile(took, 0.99)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all values do not exceed; 0 of none."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def open_files() -> int:
    """How many files one process may have open: as many as may be is asked for, for us and those whom we start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return 1 << 20
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def description() -> str:
    """The machine in a few words."""
    cpu = _entry(Path("/proc/cpuinfo"), r"model name\s*: (.+)") if platform.machine() == "x86_64" else "unknown CPU"
    return (
        f"{cpu}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}, Python {platform.python_version()}"
    )


def _entry(path: Path, pattern: str) -> str:
    found = re.search(pattern, path.read_text())
    if found is None:
        raise BenchError(f"{path} has no {pattern}")
    return found[1]
