"""The reconnect storm: thousands of devices lose their connections at once, and come back at once."""

import ssl
from collections.abc import Callable
from typing import Final

from broker.bench.brokers import Broker
from broker.bench.flows import ALL_DEVICES, device_filters, seen
from broker.bench.link import Loop, Target
from broker.bench.load import (
    Done,
    Endless,
    Flow,
    Publisher,
    Receiver,
    Task,
    begin_all,
    complete,
    connect_all,
    depart,
    must,
)
from broker.bench.machine import BenchError
from broker.bench.packets import STREAM_SHIFT, Form
from broker.bench.probe import Probe
from broker.bench.report import Figure
from broker.bench.run import Bench, Case, Meter, Row

DEVICES: Final = 10_000
STREAM: Final = 0xA0000
BACK_S_MAX: Final = 240.0


class Device(Receiver):
    """A device with a lasting session. One that is not let in tries again, as devices do."""

    __slots__ = ("_again",)

    def __init__(
        self,
        loop: Loop,
        target: Target,
        nth: int,
        form: Form,
        flow: Flow,
        ready: Done,
        again: Callable[[], None] | None = None,
        ticket: ssl.SSLSession | None = None,
    ) -> None:
        self._again = again
        filters = () if again else device_filters(nth)  # who comes back has subscribed
        name = b"bench-device-%08d" % nth
        super().__init__(loop, target, name, form, flow, filters=filters, clean=False, ticket=ticket, ready=ready)

    def _ended(self) -> None:
        if self._again is not None and not self.ready:
            self._again()
        else:
            super()._ended()


class Devices:
    """All of them."""

    def __init__(self, loop: Loop, target: Target, count: int, case: Case) -> None:
        self._loop = loop
        self._target = target
        self.form = Form(case.version, 1, case.size, ALL_DEVICES)
        self.flow = Flow(1, count)
        self.refused = 0
        self._all = connect_all(loop, (self._first(nth) for nth in range(count)))

    def come_back(self, *, resume: bool) -> None:
        """All connections end, with nothing said, and all are made again, by resuming their TLS sessions or not."""
        tickets = [device.link.ticket if resume else None for device in self._all]
        for device in self._all:
            device.link.drop(abruptly=True)
        self.refused = 0
        under_way = begin_all((self._back(nth, ticket) for nth, ticket in enumerate(tickets)), len(tickets))
        must(self._loop.run(lambda: under_way() == 0, BACK_S_MAX), "devices were not let in")

    @property
    def resumed(self) -> int:
        """How many have resumed their TLS sessions."""
        return sum(device.link.resumed for device in self._all)

    def look(self, publisher: Publisher) -> None:
        """All have the sessions that they had, and get what they subscribed to."""
        if strangers := sum(not device.present for device in self._all):
            raise BenchError(f"{strangers:,} of {len(self._all):,} sessions are gone")
        self.flow.sent = self.flow.delivered = 0
        publisher.go(publisher.sent + 1)
        must(self._loop.run(lambda: self.flow.complete and publisher.done), "a broadcast did not come to all")
        number = (STREAM << STREAM_SHIFT) + publisher.sent - 1
        numbers = [device.numbers([ALL_DEVICES]) for device in self._all]
        complete(numbers, [[range(number, number + 1)]] * len(numbers))

    def leave(self) -> None:
        """Goodbye."""
        depart(self._loop, self._all)

    def _first(self, nth: int) -> Callable[[Done], Device]:
        return lambda ready: Device(self._loop, self._target, nth, self.form, self.flow, ready)

    def _back(self, nth: int, ticket: ssl.SSLSession | None) -> Task:
        def connect(ready: Done) -> None:
            def again() -> None:
                self.refused += 1
                connect(ready)

            self._all[nth] = Device(self._loop, self._target, nth, self.form, self.flow, ready, again, ticket)

        return connect


def storm(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """Twice: without and with TLS session resumption. Two other clients see how long messages take meanwhile."""
    count = bench.connections(DEVICES)
    target = broker.target(case.version)
    figures: list[Figure] = []
    with Loop() as loop:
        bench.say(f"{count:,} devices")
        devices = Devices(loop, target, count, case)
        supply = Endless(devices.form, ALL_DEVICES, STREAM)
        publisher = Publisher(loop, target, b"bench-publisher", supply, 1, 1, devices.flow)
        must(loop.run(lambda: publisher.ready), "a publisher was not let in")
        for resume in (False, True) if case.transport in ("tls", "wss") else (False,):
            name, when = ("resume_", ", resuming TLS sessions") if resume else ("", "")
            bench.say(f"{count:,} devices come back{when}")
            with Probe(target, bench.load_cores) as probe, Meter(broker) as meter:
                devices.come_back(resume=resume)
            resumed = devices.resumed if resume else None
            bench.say("looking at their sessions")
            devices.look(publisher)
            figures += [
                Figure(f"{name}s", f"until all {count:,} are back{when}", "s", meter.wall_s),
                Figure(f"{name}cpu_us", f"broker's CPU for each{when}", "µs", meter.cpu_s * 1e6 / count),
                Figure(f"{name}refused", f"attempts that failed{when}", "", devices.refused),
                *([Figure("resumed", "TLS sessions resumed", "", resumed)] if resume else []),
                *seen(probe.latency, name, f" to others{when}"),
                Figure(f"{name}load_cpu_us", f"the load's CPU for each{when}", "µs", meter.load_cpu_s * 1e6 / count),
            ]
        bench.say("leaving")
        devices.leave()
    return figures


ROWS: Final = (
    Row(
        "reconnect-storm",
        "All devices lose their connections and come back at once; broker and load share the cores",
        storm,
        (Case("tls", 1),),
        ("transport", "version"),
        headline="ms_p99",
        repeat=1,
        fresh=True,
        both_cores=True,
        quick=1,
        skip=("amqtt", "nats"),
        needs=DEVICES,
    ),
)
