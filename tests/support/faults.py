"""Disk faults to order: calls of another process on its files fail, wait, or do only a part (see faults.c)."""

import ctypes
import mmap
import subprocess
from pathlib import Path
from typing import Final

from support.programs import program

_SOURCE: Final = Path(__file__).with_name("faults.c")
FILES: Final = ("database", "wal", "other")  # of an SQLite database: itself, its -wal, all others beside it
CALLS: Final = ("open", "read", "write", "sync", "truncate")


class _Rule(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("error", "delay_ms", "part", "garble", "skip", "calls", "faults")]


class _Control(ctypes.Structure):
    _fields_ = [("prefix", ctypes.c_char * 1024), ("rules", _Rule * len(CALLS) * len(FILES))]


def build(directory: Path) -> Path:
    """Compile the library that is loaded into the process; skips where there is no compiler."""
    library = directory / "faults.so"
    compile_ = [program("cc"), "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", library, _SOURCE]
    subprocess.run(compile_, check=True, timeout=60)
    return library


class Faults:
    """What happens to the files at `path` and beside it (`path`-wal and so on) in processes with `environment`."""

    def __init__(self, library: Path, control: Path, path: Path) -> None:
        control.write_bytes(bytes(ctypes.sizeof(_Control)))
        with control.open("r+b") as file:
            self._control = _Control.from_buffer(mmap.mmap(file.fileno(), 0))
        self._control.prefix = str(path.resolve()).encode()
        self.environment = {"LD_PRELOAD": str(library), "FAULTS_CONTROL": str(control)}

    def set(
        self,
        *calls: str,
        files: tuple[str, ...] = FILES,
        error: int = 0,
        delay_ms: int = 0,
        part: int = 0,
        garble: bool = False,
        skip: int = 0,
    ) -> None:
        """What the `calls` on `files` do from now on, after `skip` of them: as they should, if nothing else is said."""
        for file in files:
            for call in calls:
                rule = self._rule(file, call)
                rule.skip = skip
                rule.delay_ms, rule.part, rule.garble, rule.error = delay_ms, part, garble, error

    def clear(self) -> None:
        """Let all go as it should."""
        self.set(*CALLS)

    def calls(self, *calls: str, files: tuple[str, ...] = FILES) -> int:
        """How many of these calls there were."""
        return sum(self._rule(file, call).calls for file in files for call in calls)

    def count(self, *calls: str, files: tuple[str, ...] = FILES) -> int:
        """In how many of these calls something was done."""
        return sum(self._rule(file, call).faults for file in files for call in calls)

    def _rule(self, file: str, call: str) -> _Rule:
        rule: _Rule = self._control.rules[FILES.index(file)][CALLS.index(call)]
        return rule
