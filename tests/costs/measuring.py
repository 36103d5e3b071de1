"""All scenarios, in a process of their own, on the broker of any source tree."""

import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from costs.counting import Counts, Meter
from costs.scenarios import SCENARIOS
from costs.stage import staged

ROOT: Final = Path(__file__).parents[2]
TESTS: Final = ROOT / "tests"
_TIMEOUT_S: Final = 300

Measured = dict[str, Counts]


def measure_here(names: Iterable[str]) -> Measured:
    """Play the scenarios in this process. It should do nothing else."""
    meter = Meter()
    found = {}
    for name in names:
        scenario = SCENARIOS[name]
        if scenario.memory:
            tracemalloc.start()
        try:
            with staged(meter) as stage:
                found[name] = scenario.play(stage)
        finally:
            tracemalloc.stop()
        gc.collect()
    meter.close()
    return found


def measure(names: Sequence[str] = (), tree: Path = ROOT) -> Measured:
    """Play the scenarios, all if none is named, with the broker in `tree`. Raises `RuntimeError` if one cannot be."""
    done = subprocess.run(
        [sys.executable, "-m", "costs", "--here", *names],
        cwd=tree,  # python -m looks there first
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the broker in {tree} cannot be measured:\n{done.stderr.decode()}")
    return msgspec.json.decode(done.stdout, type=Measured)
