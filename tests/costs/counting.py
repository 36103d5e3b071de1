"""What a piece of work costs, in counts: bytecode instructions, calls into C, of these system calls; and what it keeps.

None of them depends on how fast the machine is or what else it does.
"""

import gc
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import msgspec

import broker

# What the broker's own functions do counts, and all that they call; not the loop that calls them.
_BROKER: Final = str(Path(broker.__file__).parent)
_OURSELVES: Final = str(Path(__file__).parent)
# Objects whose C functions are system calls (of TLS: lead to at least one), but for those that only ask the object.
_KERNEL: Final = {"socket", "epoll", "_SSLSocket"}
_NOT_KERNEL: Final = {"fileno", "detach", "gettimeout", "settimeout", "pending", "getpeercert", "shared_ciphers"}

Trace = Callable[[FrameType, str, Any], Any]


class Counts(msgspec.Struct):
    """Figures by name; by function instructions of those in Python, and calls of those in C."""

    figures: dict[str, float] = {}
    by_function: dict[str, float] = {}

    def __truediv__(self, units: int) -> "Counts":
        return Counts(
            *({name: count / units for name, count in each.items()} for each in msgspec.structs.astuple(self))
        )


class _Function:
    """Counts the instructions of one function."""

    __slots__ = ("code", "opcodes")

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.opcodes = 0

    def trace(self, _frame: FrameType, event: str, _arg: Any) -> Trace:
        if event == "opcode":
            self.opcodes += 1
        return self.trace

    @property
    def name(self) -> str:
        path = Path(self.code.co_filename)
        return f"{'/'.join(path.parts[-2:])} {self.code.co_qualname}"


class Meter:
    """Counts what this thread and those that start later do while it is counting. One at a time in a process."""

    def __init__(self) -> None:
        self._on = False
        self._away = True  # this thread does not do the broker's work
        self._main = threading.get_ident()
        self._functions: dict[CodeType, _Function] = {}
        self._c_calls: Counter[tuple[str, bool]] = Counter()
        threading.settrace(self._called)
        threading.setprofile(self._profiled)

    def close(self) -> None:
        threading.settrace(None)
        threading.setprofile(None)

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Count; the result is there at the end."""
        counts = Counts()
        for function in self._functions.values():
            function.opcodes = 0
        self._c_calls.clear()
        self._on = True
        sys.setprofile(self._profiled)
        sys.settrace(self._called)
        try:
            yield counts
        finally:
            sys.settrace(None)
            sys.setprofile(None)
            self._on = False
        by_function: Counter[str] = Counter()
        for function in self._functions.values():
            by_function[function.name] += function.opcodes
        counts.figures["opcodes"] = by_function.total()
        counts.figures["c_calls"] = self._c_calls.total()
        counts.figures["system_calls"] = sum(count for (_, kernel), count in self._c_calls.items() if kernel)
        for (name, _), count in self._c_calls.items():
            by_function[f"{name}()"] += count
        counts.by_function.update(+by_function)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Do not count for a while, in no thread."""
        on, self._on = self._on, False
        try:
            yield
        finally:
            self._on = on

    @contextmanager
    def working(self, yes: bool = True) -> Iterator[None]:
        """Whether what this thread does meanwhile is the broker's work; otherwise it is not."""
        before, self._away = self._away, not yes
        try:
            yield
        finally:
            self._away = before

    def _counts(self) -> bool:
        return self._on and not (self._away and threading.get_ident() == self._main)

    def _called(self, frame: FrameType, _event: str, _arg: Any) -> Trace | None:
        if not self._counts() or not _of_broker(frame):
            return None
        code = frame.f_code
        function = self._functions.get(code)
        if function is None:
            function = self._functions[code] = _Function(code)
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return function.trace

    def _profiled(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call" and frame.f_trace_opcodes and self._counts():
            kind, _, name = arg.__qualname__.rpartition(".")
            self._c_calls[arg.__qualname__, kind in _KERNEL and name not in _NOT_KERNEL] += 1


def kept() -> Counts:
    """What there is now: bytes of Python's memory, if it is traced, and objects that the garbage collector looks at.

    OpenSSL's own memory is not among them.
    """
    gc.collect()
    objects = len(gc.get_objects())
    return Counts({"bytes": tracemalloc.get_traced_memory()[0], "objects": objects})


def _of_broker(frame: FrameType | None) -> bool:
    """Whether this is, or was called by, a function of the broker."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_BROKER):
            return True
        if file.startswith(_OURSELVES):
            return False
        frame = frame.f_back
    return False
