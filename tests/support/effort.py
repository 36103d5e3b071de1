"""How much Python a piece of work takes: the same each time, on any machine."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import broker

BROKER = str(Path(broker.__file__).parent)


def lines(work: Callable[[], object]) -> int:
    """How many lines of the broker are run, each time that one is; a comprehension is one for each element."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(BROKER):
            return None  # what the garbage collector calls, perhaps
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count
