"""What each attack does to the others, as a table in Markdown.

    make bench-hostile
    make bench-hostile ARGS='wills deep_wildcards --seconds 3'

Each attack meets a broker of its own, with default settings and open to all. docs/performance.md says more.
"""

import argparse
import sys
import time

from hostile.attacks import ATTACKS, Attack, attacking
from hostile.target import running
from hostile.witness import Witness, quantile

from broker.bench import machine

MIB = 1 << 20
QUIET_S = 0.5


def measure(attack: Attack, seconds: float, scale: float) -> tuple[str, bool]:
    """A row of the table, and whether it is as promised."""
    with running("--overload-lag-ms", 60_000) as target, Witness(target.port) as witness:
        time.sleep(QUIET_S)
        witness.tell()
        time.sleep(QUIET_S)
        quiet = witness.tell()
        rss, cpu_s, began = target.rss, target.cpu_s, time.monotonic()
        target.forget_peak()
        with attacking(target, seconds, scale) as scene:
            attack.run(scene)
            cpu = (target.cpu_s - cpu_s) / (time.monotonic() - began)
            took = witness.tell()
            grown = (target.peak - rss) / MIB
        log_kib = len(target.log) / 1024
    p99_ms = quantile(took, 0.99) * 1000
    row = (
        f"| {attack.does} | {quantile(quiet, 0.99) * 1000:.0f} | {quantile(took, 0.5) * 1000:.0f} | {p99_ms:.0f} | "
        f"{attack.latency_ms} | {grown:.0f} | {attack.memory_mib} | {100 * cpu:.0f}% | {log_kib:.0f} |"
    )
    return row, p99_ms <= attack.latency_ms and grown <= attack.memory_mib


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-hostile ARGS=...", description=__doc__)
    names = [attack.name for attack in ATTACKS]
    parser.add_argument("attack", nargs="*", help=f"only these: {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=1.5, metavar="N", help="how long each goes on; 1.5")
    parser.add_argument("--scale", type=float, default=1.0, metavar="N", help="with so many times the clients; 1")
    options = parser.parse_args()
    if unknown := set(options.attack) - set(names):
        parser.error(f"there is no attack {', '.join(sorted(unknown))}")
    print(f"{machine.description()}\n")
    print("| attack | quiet p99, ms | p50 | p99 | promised | MiB | promised | CPU | log, KiB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    missed = []
    for attack in ATTACKS:
        if not options.attack or attack.name in options.attack:
            row, kept = measure(attack, options.seconds, options.scale)
            print(row, flush=True)
            if not kept:
                missed.append(attack.name)
    print(f"\nNot as promised: {', '.join(missed)}" if missed else "\nAll as promised.")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
