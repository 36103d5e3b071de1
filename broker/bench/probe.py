"""Two connected clients that measure how soon a message of one is with the other, in a process of their own.

    python -m broker.bench.probe '{"port": 1883, ...}'

One publishes at a fixed rate, whether or not earlier messages have come, and the time of each is taken from when it
was due: a broker that stands still for a second has a second's worth of late messages and not one. It says `ready`
when both are connected, ends when its stdin does, and then prints what it saw as JSON.
"""

import gc
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from broker.bench import machine
from broker.bench.link import Loop, Target
from broker.bench.load import Endless, Flow, Publisher, Receiver, complete, depart, must
from broker.bench.machine import BenchError, quantile
from broker.bench.packets import STREAM_SHIFT, Form

RATE: Final = 200
ANSWER_S_MAX: Final = 120.0
STREAM: Final = 0xF0000
TOPIC: Final = b"bench/probe...."  # as long as the others


@dataclass(frozen=True)
class Latency:
    """What they saw, in milliseconds. `late_ms_p99` is how late the publisher itself was."""

    messages: int
    ms_p50: float
    ms_p99: float
    ms_p999: float
    ms_max: float
    late_ms_p99: float


class Probe:
    """The clients, for as long as `with` lasts."""

    def __init__(
        self, target: Target, cores: Collection[int], *, qos: int = 1, body_bytes: int = 64, rate: int = RATE
    ) -> None:
        what = {
            "port": target.port,
            "transport": target.transport,
            "version": target.version,
            "qos": qos,
            "body_bytes": body_bytes,
            "rate": rate,
        }
        self._command = [sys.executable, "-m", "broker.bench.probe", json.dumps(what)]
        self._cores = cores

    def __enter__(self) -> Self:
        with machine.pinned(self._cores):
            self._process = subprocess.Popen(  # noqa: S603
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            _, said = self._process.communicate()
            raise BenchError(f"clients that are to measure the latency cannot connect: {said.strip()[-300:]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._said, self._complained = self._process.communicate()

    @property
    def latency(self) -> Latency:
        """What they saw; after the end of `with`."""
        if self._process.returncode != 0:
            raise BenchError(f"the clients that measure the latency failed: {self._complained.strip()[-300:]}")
        return Latency(**json.loads(self._said))


class _Watch(Receiver):
    """Takes the time when something comes."""

    __slots__ = ("arrivals",)

    def __init__(self, loop: Loop, target: Target, form: Form, flow: Flow) -> None:
        self.arrivals: list[float] = []
        super().__init__(loop, target, b"bench-probe-receiver", form, flow, filters=[TOPIC])

    def _keep(self, packets: bytes, count: int) -> None:
        self.arrivals += [time.perf_counter()] * count
        super()._keep(packets, count)


def main() -> None:
    """Measure until stdin ends."""
    what = json.loads(sys.argv[1])
    _be_first()
    target = Target(what["port"], what["transport"], what["version"])
    form = Form(target.version, what["qos"], what["body_bytes"], TOPIC)
    flow = Flow(lag=1 << 40)
    with Loop() as loop:
        receiver = _Watch(loop, target, form, flow)
        publisher = Publisher(
            loop, target, b"bench-probe-publisher", Endless(form, TOPIC, STREAM), form.qos, 1 << 14, flow
        )
        must(loop.run(lambda: receiver.ready and publisher.ready), "clients were not let in")
        _say("ready")
        began, late = _publish(loop, publisher, what["rate"])
        must(loop.run(lambda: flow.complete and publisher.done, quiet_s=ANSWER_S_MAX), "messages did not come")
        depart(loop, [receiver, publisher])
        first = STREAM << STREAM_SHIFT
        complete([receiver.numbers([TOPIC])], [[range(first, first + publisher.sent)]])
    took = [(at - began - nth / what["rate"]) * 1000 for nth, at in enumerate(receiver.arrivals)]
    shares = (quantile(took, 0.5), quantile(took, 0.99), quantile(took, 0.999), max(took, default=0.0))
    _say(json.dumps(vars(Latency(len(took), *shares, quantile(late, 0.99)))))


def _publish(loop: Loop, publisher: Publisher, rate: int) -> tuple[float, list[float]]:
    """Publish on time until stdin ends; returns when that began, and how late each was, in milliseconds."""
    late: list[float] = []
    began = time.perf_counter()
    while not select.select([sys.stdin], [], [], 0)[0]:
        due = began + len(late) / rate
        now = time.perf_counter()
        if now < due:
            loop.step_until(min(due, now + 0.05))
            continue
        late.append((now - due) * 1000)
        publisher.go(len(late))
    return began, late


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
