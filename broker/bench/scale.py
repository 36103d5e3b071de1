"""What one more costs: connections, sessions, topics and retained messages, from few to many."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from broker.bench import machine
from broker.bench.brokers import Broker
from broker.bench.flows import ALL_DEVICES, PAIRS, WINDOW, Traffic, anybody, device_filters
from broker.bench.link import Loop
from broker.bench.load import (
    Done,
    Endless,
    Flow,
    Publisher,
    Receiver,
    Series,
    agree,
    churn,
    complete,
    connect_all,
    depart,
    make_sessions,
    must,
)
from broker.bench.machine import BenchError
from broker.bench.packets import STREAM_SHIFT, Form
from broker.bench.report import Figure
from broker.bench.run import Bench, Case, Meter, Row

SETTLE_S: Final = 1.0
BROADCASTS: Final = 5
STREAM: Final = 0xB0000
FAR: Final = 100_000  # connections, to which is extrapolated
CONNECTS: Final = 500
PASS_MESSAGES_MIN: Final = 20_000
ASKS: Final = 200


def connections(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """Devices that are connected and have nothing to do, more and more of them."""
    wanted = (1_000, 5_000, 10_000, 15_000, 19_000) if bench.full else (1_000, 2_000, 4_000)
    target = broker.target(case.version)
    form = Form(case.version, 1, case.size, ALL_DEVICES)
    flow = Flow(1)
    figures: list[Figure] = []
    places: list[tuple[int, int]] = []
    with Loop() as loop:
        publisher = Publisher(loop, target, b"bench-publisher", Endless(form, ALL_DEVICES, STREAM), 1, 1, flow)
        must(loop.run(lambda: publisher.ready), "a publisher was not let in")

        def device(nth: int) -> Callable[[Done], Receiver]:
            name = b"bench-device-%08d" % nth
            return lambda ready: Receiver(
                loop, target, name, form, flow, filters=device_filters(nth), clean=False, ready=ready
            )

        time.sleep(SETTLE_S * bench.seconds)
        empty = machine.rss_bytes(broker.pid)
        devices: list[Receiver] = []
        for count in sorted({bench.connections(size) for size in wanted}):
            bench.say(f"{count:,} connections")
            devices += connect_all(loop, (device(nth) for nth in range(len(devices), count)))
            time.sleep(SETTLE_S * bench.seconds)
            used = machine.rss_bytes(broker.pid)
            places.append((count, used))
            with Meter(broker) as quiet:
                time.sleep(2 * SETTLE_S * bench.seconds)
            flow.fan = count
            flow.sent = flow.delivered = 0
            first = publisher.sent
            with Meter(broker) as meter:
                publisher.go(first + BROADCASTS)
                must(loop.run(lambda: flow.complete and publisher.done), "a broadcast did not come to all")
            delivered = BROADCASTS * count
            figures += [
                Figure("bytes", "memory for each", "bytes", (used - empty) / count, count, "connections"),
                Figure(
                    "idle_ms",
                    "broker's CPU in a second, idle",
                    "ms",
                    quiet.cpu_s * 1e3 / quiet.wall_s,
                    count,
                    "connections",
                ),
                Figure(
                    "broadcast_ms",
                    "a broadcast until all have it",
                    "ms",
                    meter.wall_s * 1e3 / BROADCASTS,
                    count,
                    "connections",
                ),
                Figure(
                    "broadcast_us",
                    "a broadcast: broker's CPU for each",
                    "µs",
                    meter.cpu_s * 1e6 / delivered,
                    count,
                    "connections",
                ),
                _message(bench, broker, case, count, "connections"),
            ]
        bench.say("leaving")
        number = STREAM << STREAM_SHIFT
        sent = [
            range(number + publisher.sent - rounds * BROADCASTS, number + publisher.sent)
            for rounds in (sum(nth < count for count, _ in places) for nth in range(len(devices)))
        ]
        depart(loop, [*devices, publisher])
        complete([device.numbers([ALL_DEVICES]) for device in devices], [[numbers] for numbers in sent])
    _extrapolate(bench, broker, empty, places)
    return figures


def _extrapolate(bench: Bench, broker: Broker, empty: int, places: Sequence[tuple[int, int]]) -> None:
    """Say what a hundred thousand would take, and how that is computed."""
    (few, of_few), (many, of_many) = places[0], places[-1]
    if few == many:
        few, of_few = 0, empty
    each = (of_many - of_few) / (many - few)
    far = of_many + (FAR - many) * each
    mib = 1 << 20
    bench.remark(
        f"scale-connections, {broker.name}: {few:,} connections take {of_few / mib:.1f} MiB in all, {many:,} take "
        f"{of_many / mib:.1f}: {each:,.0f} bytes each. {FAR:,} would take "
        f"{of_many / mib:.1f} + {FAR - many:,} * {each:,.0f} / 2^20 = {far / mib:,.0f} MiB"
    )


def sessions(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """Sessions whose clients are away, each with three subscriptions, more and more of them."""
    target = broker.target(case.version)
    figures = []
    made = 0
    with Loop() as loop:
        empty = machine.rss_bytes(broker.pid)
        for count in _sizes(bench):
            bench.say(f"{count:,} sessions")
            with Meter(broker) as making:
                make_sessions(
                    loop, target, ((b"bench-away-%08d" % nth, device_filters(nth)) for nth in range(made, count))
                )
            grown, made = count - made, count
            time.sleep(SETTLE_S * bench.seconds)
            used = machine.rss_bytes(broker.pid) - empty
            with Meter(broker) as meter:
                passed, _ = churn(loop, target, CONNECTS, bench.seconds)
            figures += [
                Figure("bytes", "memory for each", "bytes", used / count, count, "sessions"),
                Figure("make_us", "broker's CPU to make one", "µs", making.cpu_s * 1e6 / grown, count, "sessions"),
                Figure(
                    "connect_us",
                    "broker's CPU for a connect of another",
                    "µs",
                    meter.cpu_s * 1e6 / passed,
                    count,
                    "sessions",
                ),
                _message(bench, broker, case, count, "sessions"),
            ]
    return figures


def topics(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """Messages to more and more different topics: a first time, and again."""
    figures = []
    for count in _sizes(bench):
        bench.say(f"{count:,} topics")
        # Who sends few different ones sends them several times, or there is little to measure.
        again = max(count, int(PASS_MESSAGES_MIN * min(1.0, bench.scale)) // PAIRS * PAIRS)
        first_s, again_s = _pass_through(broker, case, count // PAIRS, again // PAIRS)
        figures += [
            Figure(
                "first_us",
                "broker's CPU for the first message to a topic",
                "µs",
                first_s * 1e6 / count,
                count,
                "topics",
            ),
            Figure("message_us", "broker's CPU for a later one", "µs", again_s * 1e6 / again, count, "topics"),
        ]
    return figures


def _pass_through(broker: Broker, case: Case, each: int, again: int) -> tuple[float, float]:
    """Each of ten publishers publishes to `each` topics, and `again` more messages to the same; returns CPU times."""
    target = broker.target(case.version)
    names = [[b"bench/%d/%06d" % (at, nth) for nth in range(each)] for at in range(PAIRS)]
    form = Form(case.version, case.qos, case.size, names[0][0])
    flow = Flow(WINDOW * 8)
    spent = []
    before = broker.counters()
    with Loop() as loop:
        receivers = [
            Receiver(loop, target, b"bench-receiver-%d" % at, form, flow, filters=[b"bench/%d/#" % at])
            for at in range(PAIRS)
        ]
        publishers = [
            Publisher(
                loop,
                target,
                b"bench-publisher-%d" % at,
                Series(form, ((names[at][nth % each], (at << STREAM_SHIFT) + nth) for nth in range(each + again))),
                case.qos,
                WINDOW,
                flow,
            )
            for at in range(PAIRS)
        ]
        clients = [*receivers, *publishers]
        must(loop.run(lambda: all(client.ready for client in clients)), "clients were not let in")
        for upto in (each, each + again):
            with Meter(broker) as meter:
                for publisher in publishers:
                    publisher.go(upto)
                done = loop.run(lambda: flow.complete and all(publisher.done for publisher in publishers))
                must(done, "messages did not come")
            spent.append(meter.cpu_s)
        depart(loop, clients)
    agree("messages_received", before, broker.counters(), (each + again) * PAIRS)
    complete(
        [receiver.numbers(names[at]) for at, receiver in enumerate(receivers)],
        [[range(at << STREAM_SHIFT, (at << STREAM_SHIFT) + each + again)] for at in range(PAIRS)],
    )
    return spent[0], spent[1]


def retained(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """More and more retained messages, each on a topic of its own."""
    figures = []
    kept = 0
    empty = machine.rss_bytes(broker.pid)
    for count in _sizes(bench):
        bench.say(f"{count:,} retained messages")
        keep_s = _keep(broker, case, kept, count)
        grown, kept = count - kept, count
        time.sleep(SETTLE_S * bench.seconds)
        used = machine.rss_bytes(broker.pid) - empty
        asks = min(ASKS, count)
        ask_s = _ask(broker, case, range(0, count, count // asks)[:asks])
        figures += [
            Figure("bytes", "memory for each", "bytes", used / count, count, "retained messages"),
            Figure("keep_us", "broker's CPU to keep one", "µs", keep_s * 1e6 / grown, count, "retained messages"),
            Figure(
                "ask_us",
                "broker's CPU for a client that comes for one of them",
                "µs",
                ask_s * 1e6 / asks,
                count,
                "retained messages",
            ),
            _message(bench, broker, case, count, "retained messages"),
        ]
    return figures


def _kept_topic(nth: int) -> bytes:
    return b"bench/r%07d" % nth


def _keep(broker: Broker, case: Case, first: int, upto: int) -> float:
    """Publish these retained messages; returns the CPU time."""
    form = Form(case.version, 1, case.size, _kept_topic(0))
    supply = Series(form, ((_kept_topic(nth), nth - first) for nth in range(first, upto)), retain=True)
    with Loop() as loop:
        publisher = Publisher(loop, broker.target(case.version), b"bench-keeper", supply, 1, 500)
        must(loop.run(lambda: publisher.ready), "a publisher was not let in")
        with Meter(broker) as meter:
            publisher.go()
            must(loop.run(lambda: publisher.done), "messages were not acknowledged")
        depart(loop, [publisher])
    return meter.cpu_s


def _ask(broker: Broker, case: Case, which: range) -> float:
    """For each of these retained messages a client that subscribes to it; returns the CPU time."""
    form = Form(case.version, 1, case.size, _kept_topic(0))
    flow = Flow(0)
    with Loop() as loop:

        def curious(nth: int) -> Callable[[Done], Receiver]:
            name, topic = b"bench-curious-%d" % nth, _kept_topic(nth)
            target = broker.target(case.version)
            return lambda ready: Receiver(loop, target, name, form, flow, filters=[topic], ready=ready)

        with Meter(broker) as meter:
            clients = connect_all(loop, map(curious, which))
            must(loop.run(lambda: flow.delivered == len(which)), "retained messages did not come")
            depart(loop, clients)
    for nth, client in zip(which, clients, strict=True):
        if len(client.numbers([_kept_topic(nth)])) != 1:
            raise BenchError("a retained message came twice, and another did not come")
    return meter.cpu_s


def _sizes(bench: Bench) -> list[int]:
    wanted = (1_000, 10_000, 100_000, 1_000_000) if bench.full else (1_000, 3_000, 10_000)
    return sorted({bench.scaled(size) for size in wanted})


def _message(bench: Bench, broker: Broker, case: Case, count: int, axis: str) -> Figure:
    """What a message costs between two who are there."""
    bench.say(f"messages, beside {count:,}")
    with Loop() as loop:
        traffic = Traffic(loop, broker, case, [[at] for at in range(PAIRS)], WINDOW, anybody(PAIRS))
        meter, came = traffic.run(bench.seconds / 2, again=True)
        traffic.end()
    return Figure(
        "message_us", "broker's CPU for a message between two others", "µs", meter.cpu_s * 1e6 / came, count, axis
    )


_UNBOUNDED: Final = {
    f"retained_{what}{of}_max": number
    for what, number in (("messages", "2000000"), ("bytes", "4000000000"))
    for of in ("", "_of_brand")
}
ROWS: Final = tuple(
    Row(name, title, measure, (case,), varies, headline="message_us", repeat=1, fresh=True, quick=quick,
        skip=("amqtt", "nats"), settings=settings, needs=needs)
    for name, title, measure, case, varies, quick, settings, needs in (
        ("scale-connections", "Devices that are connected and idle", connections, Case("tls", 1),
         ("transport", "version", "size"), 0, {}, 1_000),
        ("scale-sessions", "Sessions whose clients are away", sessions, Case(qos=1),
         ("transport", "version", "qos", "size"), 0, {"sessions_max": "4000000"}, 1_100),
        ("scale-topics", "Messages to different topics", topics, Case(qos=1),
         ("transport", "version", "qos", "size"), 1, {}, 1_100),
        ("scale-retained", "Retained messages", retained, Case(qos=1),
         ("transport", "version", "qos", "size"), 0, _UNBOUNDED, 1_100),
    )
)  # fmt: skip
