"""Runs targets: a case again, all that is checked in, or the fuzzer for a while in a process of its own."""

import hashlib
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fuzz.target import Target

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "build" / "fuzz"
# For one input; nothing takes a hundredth of it.
_TIMEOUT_S = 20
_MEMORY_MIB_MAX = 1024
_PROGRESS = re.compile(r"#(\d+)\s.*cov: (\d+)(?:.* exec/s: (\d+))?")


@dataclass
class Outcome:
    """How a run of the fuzzer ended. `crash` is the file with the input that failed."""

    runs: int
    edges: int
    crash: Path | None
    output: str

    def __str__(self) -> str:
        return f"{self.runs} inputs, {self.edges} edges reached, {'FAILED' if self.crash else 'nothing found'}"


def fuzz(
    target: Target,
    *,
    runs: int = -1,
    seconds: float = 0,
    seed: int = 1,
    progress: Callable[[str], None] = lambda _: None,
    keep: bool = False,
) -> Outcome:
    """Let libFuzzer try so many inputs, beginning with the corpus; or for so long, beginning with the seeds, too.

    keep: of all that reaches something, make the smallest corpus that does.
    """
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        grown, merged = Path(directory, "corpus"), Path(directory, "merged")
        merged.mkdir()
        _fill(grown, [*target.corpus(), *(target.seeds() if seconds else ())])
        outcome = _engine(
            target,
            Path(directory),
            progress,
            f"-seed={seed}",
            f"-runs={runs}",
            f"-max_total_time={math.ceil(seconds)}",
            f"-artifact_prefix={ARTIFACTS / target.name}-",
            str(grown),
        )
        if keep and outcome.crash is None:
            _engine(
                target,
                Path(directory),
                lambda _: None,
                "-set_cover_merge=1",
                "-use_counters=0",
                str(merged),
                str(grown),
            )
            target.keep(path.read_bytes() for path in merged.iterdir())
    return outcome


def again(target: Target, case: str) -> str:
    """The command that runs one case again: as it is where it is short, else its file."""
    return f"make fuzz TARGET={target.name} CASE={case}"


def case_of(crash: Path) -> str:
    """How to name the input in a file on a command line."""
    data = crash.read_bytes()
    return data.hex() if 0 < len(data) <= 200 else str(crash)


def _fill(directory: Path, inputs: Iterable[bytes]) -> None:
    directory.mkdir()
    for data in inputs:
        (directory / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def _engine(target: Target, directory: Path, progress: Callable[[str], None], *arguments: str) -> Outcome:
    command = [
        *(sys.executable, "-m", "fuzz.engine", target.name),
        *(f"-timeout={_TIMEOUT_S}", "-report_slow_units=999", f"-rss_limit_mb={_MEMORY_MIB_MAX}", *arguments),
    ]
    path = f"{ROOT}:{ROOT / 'tests'}"
    env = {**os.environ, "PYTHONPATH": path, "FUZZ_DIRECTORY": str(directory), "PYTHONHASHSEED": "0"}
    outcome = Outcome(0, 0, None, "")
    lines: list[str] = []
    with subprocess.Popen(command, env=env, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                found = _PROGRESS.match(line)
                if found:
                    outcome.runs, outcome.edges = int(found[1]), int(found[2])
                    progress(f"{target.name}: {outcome.runs} inputs, {found[3] or '?'}/s, {outcome.edges} edges")
                else:
                    lines.append(line)
                    if "Test unit written to " in line:
                        outcome.crash = Path(line.split("Test unit written to ")[1].strip())
        finally:
            process.kill()
    outcome.output = "".join(lines)
    if process.returncode and outcome.crash is None:
        raise RuntimeError(f"the fuzzer ended with {process.returncode}:\n{outcome.output}")
    return outcome
