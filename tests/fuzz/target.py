"""What is fuzzed: functions of bytes that raise when something is not as it must be."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")


@dataclass(frozen=True)
class Target:
    """One function, and what it begins with. `bytes_max` bounds the inputs that are tried."""

    name: str
    about: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    bytes_max: int = 4096
    runs_in_ci: int = 2000  # 0: the corpus is enough

    @property
    def corpus_file(self) -> Path:
        """Inputs that each reach something that no other does, in hexadecimal, one in a line."""
        return CORPUS / f"{self.name}.hex"

    @property
    def regressions_file(self) -> Path:
        """Inputs that have failed, each below a line that says how."""
        return CORPUS / f"{self.name}.regressions.hex"

    def corpus(self) -> list[bytes]:
        """All that is checked in, what has failed first."""
        return [*read(self.regressions_file), *read(self.corpus_file)]

    def keep(self, inputs: Iterable[bytes]) -> None:
        """Replace the corpus, the shortest first."""
        lines = sorted({data.hex() for data in inputs}, key=lambda line: (len(line), line))
        self.corpus_file.write_text("".join(f"{line}\n" for line in lines))


# The module in which each target is `TARGET`; imported by those who need it, for the fuzzer does that in its own way.
MODULES = {
    "decode": "fuzz.decode",
    "stream": "fuzz.stream",
    "protocol": "fuzz.protocol",
    "topics": "fuzz.topics",
    "conditions": "fuzz.conditions",
    "proxy": "fuzz.proxy",
    "websocket": "fuzz.websocket",
    "payloads": "fuzz.payloads",
    "requests": "fuzz.requests",
    "effort": "fuzz.effort",
}


def find(name: str) -> Target:
    """The target with this name."""
    target: Target = importlib.import_module(MODULES[name]).TARGET
    return target


def read(path: Path) -> list[bytes]:
    """The inputs in a file of lines in hexadecimal; `#` begins a comment."""
    if not path.exists():
        return []
    return [bytes.fromhex(line) for line in path.read_text().splitlines() if not line.startswith("#")]
