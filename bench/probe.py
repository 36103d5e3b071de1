"""A connected client that measures how soon the broker answers it, in a process of its own.

    python -m bench.probe PORT

It sends PINGREQ 200 times a second, whether or not the earlier ones are answered, and takes the time of each from when
it was due: a broker that stands still for a second has 200 late answers and not one. It says `ready` when it is
connected, ends when its stdin does, and then prints what it saw as JSON.
"""

import gc
import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from bench import machine
from bench.brokers import HOST
from bench.machine import BenchError, quantile
from bench.packets import NEW_SESSION, connect_packet

PINGS_PER_S: Final = 200
ANSWER_S_MAX: Final = 120.0
PINGREQ: Final = b"\xc0\x00"
PINGRESP: Final = b"\xd0\x00"


@dataclass(frozen=True)
class Latency:
    """What the client saw, in milliseconds. `late_ms_p99` is how late the client itself was with its questions."""

    pings: int
    ms_p50: float
    ms_p99: float
    ms_max: float
    late_ms_p99: float


class Probe:
    """The client, for as long as `with` lasts."""

    def __init__(self, port: int, core: int) -> None:
        self._command = [sys.executable, "-m", "bench.probe", str(port)]
        self._core = core

    def __enter__(self) -> Self:
        with machine.pinned(self._core):
            self._process = subprocess.Popen(  # noqa: S603
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self._process.communicate()
            raise BenchError("a client that is to measure the latency cannot connect")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._said, _ = self._process.communicate()

    @property
    def latency(self) -> Latency:
        """What it saw; after the end of `with`."""
        if self._process.returncode != 0:
            raise BenchError("the client that measures the latency was not answered")
        return Latency(**json.loads(self._said))


def main() -> None:
    """Measure until stdin ends."""
    _be_first()
    with socket.create_connection((HOST, int(sys.argv[1])), timeout=ANSWER_S_MAX) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(connect_packet(b"bench-probe", clean=True))
        if sock.recv(len(NEW_SESSION)) != NEW_SESSION:
            raise BenchError("not let in")
        _say("ready")
        _say(json.dumps(vars(_measure(sock))))


def _measure(sock: socket.socket) -> Latency:
    """Ask on time, whether or not earlier questions are answered; when stdin ends, wait for the last answer."""
    took: list[float] = []
    late: list[float] = []
    asking = True
    began = time.perf_counter()
    while asking or len(took) < len(late):
        due = began + len(late) / PINGS_PER_S
        wait_s = max(0.0, due - time.perf_counter()) if asking else ANSWER_S_MAX
        ready, _, _ = select.select([sock, sys.stdin] if asking else [sock], [], [], wait_s)
        now = time.perf_counter()
        if sock in ready:
            answers = sock.recv(4096)
            if not answers or answers != PINGRESP * (len(answers) // 2):
                raise BenchError(f"not an answer to PINGREQ: {answers[:8].hex() or 'the end'}")
            asked = range(len(took), len(took) + len(answers) // 2)
            took += [(now - began - nth / PINGS_PER_S) * 1000 for nth in asked]
        elif not ready and not asking:
            raise BenchError("not answered")
        asking = asking and sys.stdin not in ready
        if asking and now >= due:
            sock.sendall(PINGREQ)
            late.append((now - due) * 1000)
    return Latency(len(took), quantile(took, 0.5), quantile(took, 0.99), max(took, default=0.0), quantile(late, 0.99))


def _be_first() -> None:
    """Do not wait for the load, which has the same core, where that may be asked for."""
    gc.disable()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
