"""Runs one target in libFuzzer, in a process of its own: `python -m fuzz.engine TARGET FLAGS DIRECTORIES`.

The broker is instrumented while it is imported, so nothing may have imported it before. libFuzzer ends the process.
"""

import os
import stat
import sys
from pathlib import Path

import atheris
from fuzz import target


def main() -> None:
    name, *flags = sys.argv[1:]
    with atheris.instrument_imports(include=["broker", "websockets"]):
        chosen = target.find(name)
    # To merge, libFuzzer starts its first argument again, which must therefore be a program.
    script = Path(os.environ["FUZZ_DIRECTORY"]) / "engine"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fuzz.engine {name} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    atheris.Setup([str(script), f"-max_len={chosen.bytes_max}", *flags], chosen.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
