"""What each thing that a broker does all day costs, in counts that no machine's speed changes.

    make costs                     # beside the budgets
    make costs BASE=main           # beside another revision: what a change costs, or brings
    make costs BASE=main ARGS='--functions "ping"'
    make costs UPDATE=1            # take over what is measured as budgets

docs/performance.md says more.
"""

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import msgspec
from costs import budgets
from costs.counting import Counts
from costs.measuring import ROOT, Measured, measure, measure_here
from costs.scenarios import SCENARIOS


def measure_at(revision: str, names: list[str]) -> Measured:
    """The scenarios of this tree with the broker of another revision."""
    archive = subprocess.run(["git", "archive", revision, "broker"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        sys.exit(archive.stderr.decode())
    with tempfile.TemporaryDirectory(prefix="pb-base-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
        return measure(names, Path(folder))


def show(before: Measured, now: Measured, title: str, functions: bool) -> None:
    """A table of both."""
    print(f"{'':36} {'figure':14} {title:>12} {'now':>12} {'change':>8}")
    for name, counts in now.items():
        old = before.get(name, Counts())
        unit = SCENARIOS[name].unit
        print(f"{name}, for each {unit}")
        for figure, value in counts.figures.items():
            row(figure, old.figures.get(figure), value)
        if functions:
            found = {**old.by_function, **counts.by_function}
            pairs = {f: (old.by_function.get(f, 0.0), counts.by_function.get(f, 0.0)) for f in found}
            if old.by_function:
                pairs = {f: pair for f, pair in pairs.items() if abs(pair[0] - pair[1]) >= 0.01}
            for function, (was, value) in sorted(pairs.items(), key=lambda item: -max(item[1])):
                row(function, was if old.by_function else None, value)


def row(what: str, before: float | None, now: float) -> None:
    """One figure."""
    if before is None:
        print(f"    {what:46} {'':>12} {now:12.2f}")
    else:
        print(f"    {what:46} {before:12.2f} {now:12.2f} {budgets.change(before, now) if before != now else '':>8}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make costs ARGS=...", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="*", help=f"only these: {', '.join(SCENARIOS)}")
    parser.add_argument("--base", metavar="REV", help="compare with this revision of git")
    parser.add_argument("--functions", action="store_true", help="by function, too: those that changed, if compared")
    parser.add_argument("--update", action="store_true", help="write the budgets")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # the process that measures
    options = parser.parse_args()
    names = options.scenario or list(SCENARIOS)
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}")
    if options.here:
        sys.stdout.buffer.write(msgspec.json.encode(measure_here(names)))
        return 0
    now = measure(names)
    if options.base:
        show(measure_at(options.base, names), now, options.base[:12], options.functions)
        return 0
    have = budgets.read() if budgets.PATH.exists() else budgets.Budgets(budgets.PYTHON, {})
    show({name: Counts(figures) for name, figures in have.scenarios.items()}, now, "budget", options.functions)
    if options.update:
        budgets.write(budgets.updated(have, now))
        print(f"\nWritten: git diff {budgets.PATH.relative_to(ROOT)}")
        return 0
    found = budgets.findings(have, now)
    print(budgets.advice(found) if found else "\nAll within their budgets.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
