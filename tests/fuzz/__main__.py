"""Tries inputs that nobody thought of: make fuzz, or PYTHONPATH=tests python -m fuzz.

Without a target all are run, each for its part of the time.
"""

import argparse
import random
import sys
import time
from pathlib import Path

from fuzz import live, runner, target

_EVERY_S = 5
LIVE = "live"  # not of bytes but of a seed


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


def _live(seconds: float, seed: int) -> bool:
    """A broker in another process, for so long."""
    print(f"{LIVE}: damaged conversations with a real broker; seed {seed}", flush=True)
    tell, until = _progress(), time.monotonic() + seconds

    def progress(done: int) -> bool:
        tell(f"{LIVE}: {done} conversations")
        return time.monotonic() < until

    try:
        done = live.run(seed, 1 << 30, progress)
    except BaseException:
        print(f"\nagain: make fuzz TARGET={LIVE} SEED={seed}\n", flush=True)
        raise
    print(f"{LIVE}: {done} conversations, nothing found", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--target", choices=sorted((*target.MODULES, LIVE)), help="one of them; all if not given")
    parser.add_argument("--minutes", type=float, default=5, help="in all; 5 if not given")
    parser.add_argument("--seed", type=int, default=0, help="a random one if not given")
    parser.add_argument("--case", default="", help="run this input only: hexadecimal, or a file")
    parser.add_argument("--keep", action="store_true", help="put into the corpus what reaches something new")
    options = parser.parse_args()
    if options.case:
        if options.target not in target.MODULES:
            parser.error("--case needs --target, of one that takes bytes")
        return _replay(options.target, options.case)
    names = [options.target] if options.target else [*target.MODULES, LIVE]
    seed = options.seed or random.randrange(1, 1 << 31)
    seconds = options.minutes * 60 / len(names)
    good = [_live(seconds, seed) if name == LIVE else _fuzz(name, seconds, seed, keep=options.keep) for name in names]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
