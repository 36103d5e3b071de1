"""Ends the broker's life hundreds of times under load, and looks whether anything that it acknowledged is lost.

make crash N=500, or PYTHONPATH=tests python -m crash --kills 500.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from crash.chain import HOW, Chain
from crash.ledger import Totals

_KILLS_OF_A_CHAIN = 25


def run_chain(how: str, seed: str, kills: int) -> tuple[Totals, str]:
    """One chain in a directory of its own; its totals, and what was wrong."""
    with tempfile.TemporaryDirectory(prefix="crash-") as directory:
        chain = Chain.of(how, Path(directory), seed)
        asyncio.run(chain.run(kills))
        return chain.ledger.totals, chain.ledger.report() if chain.ledger.problems else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="how many; 100 if not given")
    parser.add_argument("--seed", default="", help="of a chain that went wrong: run it again, as far as timing allows")
    parser.add_argument("--how", choices=HOW, default="kill", help="SIGKILL, a power cut, or SIGTERM alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="how many chains at a time")
    options = parser.parse_args()
    if options.seed:
        plan = [(options.seed, options.kills)]
    else:
        chains = max(1, round(options.kills / _KILLS_OF_A_CHAIN))
        plan = [(f"{random.getrandbits(32):08x}", -(-options.kills // chains)) for _ in range(chains)]
    sums, failed = Totals(), 0
    with ProcessPoolExecutor(options.jobs) as pool:
        runs = [(seed, kills, pool.submit(run_chain, options.how, seed, kills)) for seed, kills in plan]
        for seed, kills, run in runs:
            totals, report = run.result()
            sums.add(totals)
            failed += bool(report)
            print(f"seed {seed}: {totals}", flush=True)
            if report:
                print(f"\n{report}\n\nagain: make crash HOW={options.how} SEED={seed} N={kills}\n", flush=True)
    print(f"\n{'FAILED' if failed else 'nothing lost'}: {sums}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
