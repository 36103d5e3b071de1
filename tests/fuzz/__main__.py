"""Tries inputs that nobody thought of: make fuzz, or PYTHONPATH=tests python -m fuzz.

Without a target all are run, each for its part of the time.
"""

import argparse
import random
import sys
import time
from pathlib import Path

from fuzz import runner, target

_EVERY_S = 5


def _progress() -> runner.Callable[[str], None]:
    """Prints a line now and then."""
    last = 0.0

    def tell(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY_S:
            last = time.monotonic()
            print(line, flush=True)

    return tell


def _replay(name: str, case: str) -> int:
    """Run one case; what is wrong is raised."""
    path = Path(case)
    data = path.read_bytes() if path.is_file() else bytes.fromhex(case)
    target.find(name).run(data)
    print(f"{name}: nothing wrong with these {len(data)} bytes")
    return 0


def _fuzz(name: str, seconds: float, seed: int, *, keep: bool) -> bool:
    chosen = target.find(name)
    print(f"{name}: {chosen.about}; seed {seed}", flush=True)
    outcome = runner.fuzz(chosen, seconds=seconds, seed=seed, progress=_progress(), keep=keep)
    print(f"{name}: {outcome}", flush=True)
    if outcome.crash is not None:
        print(f"\n{outcome.output}")
        print(f"the input: {outcome.crash}\nagain:     {runner.again(chosen, runner.case_of(outcome.crash))}\n")
    return outcome.crash is None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--target", choices=sorted(target.MODULES), help="one of them; all if not given")
    parser.add_argument("--minutes", type=float, default=5, help="in all; 5 if not given")
    parser.add_argument("--seed", type=int, default=0, help="of libFuzzer; a random one if not given")
    parser.add_argument("--case", default="", help="run this input only: hexadecimal, or a file")
    parser.add_argument("--keep", action="store_true", help="put into the corpus what reaches something new")
    options = parser.parse_args()
    if options.case:
        if not options.target:
            parser.error("--case needs --target")
        return _replay(options.target, options.case)
    names = [options.target] if options.target else list(target.MODULES)
    seed = options.seed or random.randrange(1, 1 << 31)
    good = [_fuzz(name, options.minutes * 60 / len(names), seed, keep=options.keep) for name in names]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
