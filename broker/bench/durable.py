"""Durable delivery: QoS 1 to lasting sessions that are away, and what is left of it after a crash."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from broker.bench import machine
from broker.bench.brokers import Broker
from broker.bench.flows import seen
from broker.bench.link import Loop, Target
from broker.bench.load import (
    Done,
    Flow,
    Publisher,
    Receiver,
    Series,
    Task,
    agree,
    begin_all,
    complete,
    depart,
    judge,
    make_sessions,
    must,
)
from broker.bench.packets import STREAM_SHIFT, Form, topic_of
from broker.bench.probe import Probe
from broker.bench.report import Figure
from broker.bench.run import Bench, Case, Meter, Row

PUBLISHERS: Final = 10
WINDOW: Final = 500
PUBLISH_S_MAX: Final = 5.0
IDLE_S: Final = 1.0
SETTLE_S: Final = 2.5  # longer than a broker keeps what it means to write; mosquitto's autosave_interval is one second
QUIET_S: Final = 2.0  # so long nothing more has come: all is here
MISSING_S: Final = 20.0  # so long nothing more has come, and it should: it is lost
BROADCASTS: Final = 20
BROADCAST_ROUNDS: Final = 5
SAMPLE: Final = 100  # sessions that come back after a restart, to see whether all is there


@dataclass(frozen=True)
class Traffic:
    """So many messages to so many sessions, each with its own topic, in turn. Sessions are a multiple of ten."""

    target: Target
    sessions: int
    messages: int
    case: Case

    @property
    def form(self) -> Form:
        """Of its messages."""
        return Form(self.target.version, 1, self.case.size, topic_of(0))

    def open(self, loop: Loop, window: int) -> list[Publisher]:
        """The publishers, connected and ready to go."""
        topics = [topic_of(session) for session in range(self.sessions)]
        opened = [
            Publisher(
                loop,
                self.target,
                b"bench-publisher-%d" % at,
                Series(
                    self.form,
                    (
                        (topics[(nth * PUBLISHERS + at) % self.sessions], (at << STREAM_SHIFT) + nth)
                        for nth in range(self.messages // PUBLISHERS)
                    ),
                ),
                1,
                window,
            )
            for at in range(PUBLISHERS)
        ]
        must(loop.run(lambda: all(publisher.ready for publisher in opened)), "publishers were not let in")
        return opened

    def sent(self, publishers: list[Publisher], sessions: int | None = None) -> list[list[range]]:
        """The numbers that were sent to each of the first sessions."""
        return [
            [
                range(
                    (at << STREAM_SHIFT) + session // PUBLISHERS,
                    (at << STREAM_SHIFT) + publishers[at].sent,
                    self.sessions // PUBLISHERS,
                )
            ]
            for session in range(sessions or self.sessions)
            for at in [session % PUBLISHERS]
        ]

    @staticmethod
    def acknowledged(publishers: list[Publisher]) -> set[int]:
        """The numbers of the messages that were acknowledged."""
        return {
            (at << STREAM_SHIFT) + nth
            for at, publisher in enumerate(publishers)
            for nth in range(publisher.acknowledged)
        }


def publish(loop: Loop, publishers: list[Publisher], within_s: float = 600.0) -> int:
    """Publish all of it, or as much as goes in that time; returns how many messages were acknowledged."""
    for publisher in publishers:
        publisher.go()
    if not loop.run(lambda: all(publisher.done for publisher in publishers), within_s):
        for publisher in publishers:
            publisher.finish()
        must(loop.run(lambda: all(publisher.done for publisher in publishers)), "messages were not acknowledged")
    return sum(publisher.acknowledged for publisher in publishers)


class Receivers:
    """The clients of the first `count` sessions, who come back as fast as they are answered."""

    def __init__(self, loop: Loop, traffic: Traffic, count: int | None = None) -> None:
        self.flow = Flow(0)
        self._traffic = traffic
        self._loop = loop
        self._all: list[Receiver] = []
        self._count = count or traffic.sessions
        self._in = 0

    @property
    def connected(self) -> bool:
        """Whether all are back."""
        return self._in == self._count

    @property
    def received(self) -> int:
        """How many messages came."""
        return self.flow.delivered

    def numbers(self) -> list[list[int]]:
        """What each got, when the clock has stopped."""
        return [receiver.numbers([topic_of(at)]) for at, receiver in enumerate(self._all)]

    def come_back(self) -> None:
        """Begin to connect, some at a time."""
        begin_all(self._come_back(nth) for nth in range(self._count))

    def _come_back(self, nth: int) -> Task:
        def connect(ready: Done) -> None:
            def back() -> None:
                self._in += 1
                ready()

            traffic = self._traffic
            self._all.append(
                Receiver(self._loop, traffic.target, _name(nth), traffic.form, self.flow, clean=False, ready=back)
            )

        return connect


def _name(session: int) -> bytes:
    return b"bench-%08d" % session


def publishes(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """Publish to sessions that are away, as fast as it is acknowledged."""
    traffic = Traffic(broker.target(case.version), bench.scaled(1_000), bench.scaled(300_000), case)
    with Loop() as loop:
        _make_sessions(bench, loop, traffic.target, traffic.sessions)
        publishers = traffic.open(loop, WINDOW)
        bench.say("a connected client, while nothing happens")
        with Probe(broker.target(case.version), bench.load_cores) as idle:
            time.sleep(IDLE_S)
        before = broker.counters()
        bench.say(f"{traffic.messages:,} messages")
        with Probe(broker.target(case.version), bench.load_cores) as probe, Meter(broker) as meter:
            acknowledged = publish(loop, publishers, PUBLISH_S_MAX)
        after = broker.counters()
    agree("messages_received", before, after, acknowledged + probe.latency.messages)
    commits = _counted("journal_commits", before, after)
    return [
        Figure("per_s", "acknowledged messages", "1/s", acknowledged / meter.wall_s),
        Figure("cpu_us", "broker's CPU for a message", "µs", meter.cpu_s * 1e6 / acknowledged),
        Figure("load_share", "share of its core that the load used", "%", 100 * meter.load_cpu_s / meter.wall_s),
        Figure("commits", "commits", "", commits),
        Figure("per_commit", "messages in a commit", "", acknowledged / commits if commits else None),
        *seen(idle.latency, "idle_", " to somebody connected, idle"),
        *seen(probe.latency, "busy_", " to somebody connected, meanwhile"),
    ]


def broadcasts(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """One message at a time to few and to many sessions that are away."""
    sizes = sorted({bench.scaled(size) for size in (10, 1_000, 10_000)})
    topics = {size: topic_of(90_000_000 + size) for size in sizes}
    ack_ms: dict[int, list[float]] = {size: [] for size in sizes}
    cpu_us: dict[int, list[float]] = {size: [] for size in sizes}
    with Loop() as loop:
        bench.say(f"{sizes[-1]:,} sessions")
        target = broker.target(case.version)
        make_sessions(
            loop,
            target,
            ((_name(nth), [topics[size] for size in sizes if nth < size]) for nth in range(sizes[-1])),
        )
        for _ in range(BROADCAST_ROUNDS):
            for size in sizes:
                bench.say(f"to {size:,} sessions")
                meter = _one_by_one(broker, loop, case, topics[size])
                ack_ms[size].append(meter.wall_s * 1e3 / BROADCASTS)
                cpu_us[size].append(meter.cpu_s * 1e6 / BROADCASTS)
    median = statistics.median
    figures = []
    for size in sizes:
        figures += [
            Figure("ack_ms", "until PUBACK", "ms", median(ack_ms[size]), size, "sessions"),
            Figure("cpu_us", "broker's CPU", "µs", median(cpu_us[size]), size, "sessions"),
        ]
    return figures


def drain(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """Everybody comes back at once, and gets what waits."""
    traffic = Traffic(broker.target(case.version), bench.connections(10_000) // 10 * 10, bench.scaled(100_000), case)
    with Loop() as loop:
        publishers = _fill(bench, loop, traffic)
        before = broker.counters()
        bench.say(f"{traffic.sessions:,} clients come back")
        receivers = Receivers(loop, traffic)
        with Probe(broker.target(case.version), bench.load_cores) as probe, Meter(broker) as meter:
            receivers.come_back()
            loop.run(lambda: receivers.connected and receivers.received >= traffic.messages, quiet_s=MISSING_S)
        complete(receivers.numbers(), traffic.sent(publishers))
        after = broker.counters()
    agree("messages_delivered", before, after, receivers.received + probe.latency.messages)
    return [
        Figure("per_s", "messages", "1/s", receivers.received / meter.wall_s),
        Figure("s", f"until all {traffic.sessions:,} have all", "s", meter.wall_s),
        Figure("cpu_us", "broker's CPU for a message", "µs", meter.cpu_s * 1e6 / receivers.received),
        Figure("load_share", "share of its core that the load used", "%", 100 * meter.load_cpu_s / meter.wall_s),
        *seen(probe.latency, "busy_", " to somebody connected, meanwhile"),
    ]


def disk(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """What a waiting message takes on disk."""
    figures = []
    sessions = bench.scaled(1_000)
    with Loop() as loop:
        _make_sessions(bench, loop, broker.target(case.version), sessions)
    for body_bytes, messages in ((64, bench.scaled(50_000)), (1024, bench.scaled(20_000))):
        time.sleep(SETTLE_S)
        empty_bytes = machine.bytes_on_disk(broker.data)
        with Loop() as loop:
            _publish_all(bench, loop, Traffic(broker.target(case.version), sessions, messages, Case(size=body_bytes)))
        time.sleep(SETTLE_S)
        running_bytes = machine.bytes_on_disk(broker.data) - empty_bytes
        bench.say("stopping and starting")
        broker.stop()
        stopped_bytes = machine.bytes_on_disk(broker.data) - empty_bytes
        broker.start()
        what = f"body of {body_bytes:,} bytes"
        figures += [
            Figure(f"running_{body_bytes}", f"{what}, while it runs", "bytes", running_bytes / messages),
            Figure(f"stopped_{body_bytes}", f"{what}, after a clean stop", "bytes", stopped_bytes / messages),
        ]
    return figures


def online(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """Publish to sessions whose clients are there and answer."""
    traffic = Traffic(broker.target(case.version), 100, bench.scaled(50_000), case)
    with Loop() as loop:
        _make_sessions(bench, loop, traffic.target, traffic.sessions)
        receivers = Receivers(loop, traffic)
        receivers.come_back()
        must(loop.run(lambda: receivers.connected), "receivers were not let in")
        publishers = traffic.open(loop, window=10)
        time.sleep(SETTLE_S)
        before = broker.counters()
        bench.say(f"{traffic.messages:,} messages")
        with Meter(broker) as whole:
            with Meter(broker) as meter:
                acknowledged = publish(loop, publishers, PUBLISH_S_MAX)
                loop.run(lambda: receivers.received >= acknowledged, quiet_s=MISSING_S)
            time.sleep(SETTLE_S)
        complete(receivers.numbers(), traffic.sent(publishers))
        after = broker.counters()
    agree("messages_delivered", before, after, receivers.received)
    return [
        Figure("per_s", "messages", "1/s", acknowledged / meter.wall_s),
        Figure("cpu_us", "broker's CPU for a message", "µs", meter.cpu_s * 1e6 / acknowledged),
        Figure("written_bytes", "written to disk, in all", "bytes", whole.written_bytes),
        Figure("commits", "commits", "", _counted("journal_commits", before, after)),
        Figure("rows", "messages written", "", _counted("journal_rows", before, after)),
    ]


def kill(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """Kill the broker while it is published to, start it again, and see what of the acknowledged is there.

    Half of it is some seconds old by then.
    """
    wanted = bench.scaled(20_000)
    traffic = Traffic(broker.target(case.version), 100, 2 * wanted, case)
    with Loop() as loop:
        _make_sessions(bench, loop, traffic.target, traffic.sessions)
        time.sleep(SETTLE_S)
        publishers = traffic.open(loop, WINDOW)
        bench.say(f"kill -9 after {wanted:,} acknowledgements")
        for publisher in publishers:
            publisher.go(wanted // 2 // PUBLISHERS)
        must(loop.run(lambda: all(publisher.done for publisher in publishers)), "messages were not acknowledged")
        time.sleep(SETTLE_S)
        for publisher in publishers:
            publisher.go()
        must(
            loop.run(lambda: sum(publisher.acknowledged for publisher in publishers) >= wanted),
            "messages were not acknowledged",
        )
        broker.kill()
        for publisher in publishers:
            publisher.last_words()
        acknowledged = traffic.acknowledged(publishers)
        sent = traffic.sent(publishers)
    bench.say("starting again")
    start_s = broker.start()
    traffic = replace(traffic, target=broker.target(case.version))
    with Loop() as loop:
        receivers = Receivers(loop, traffic)
        receivers.come_back()
        loop.run(lambda: False, quiet_s=QUIET_S)
        verdict = judge(receivers.numbers(), sent, acknowledged)
    return [
        Figure("acknowledged", "acknowledged before", "messages", len(acknowledged)),
        Figure("lost", "lost of these", "messages", verdict.lost),
        Figure("double", "came twice", "messages", verdict.double),
        Figure("misplaced", "out of order, or to somebody else", "messages", verdict.misplaced),
        Figure("start_s", "until it lets a client in again", "s", start_s),
    ]


def restart(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """Start with a full store."""
    sessions, messages = (100_000, 1_000_000) if bench.full else (10_000, 100_000)
    traffic = Traffic(broker.target(case.version), bench.scaled(sessions), bench.scaled(messages), case)
    with Loop() as loop:
        publishers = _fill(bench, loop, traffic)
    before_bytes = machine.rss_bytes(broker.pid)
    bench.say("stopping")
    broker.stop()
    bench.say("starting")
    start_s = broker.start()
    after_bytes = machine.rss_bytes(broker.pid)
    with Loop() as loop:
        bench.say("looking whether all is there")
        sample = min(SAMPLE, traffic.sessions)
        receivers = Receivers(loop, replace(traffic, target=broker.target(case.version)), sample)
        receivers.come_back()
        sent = traffic.sent(publishers, sample)
        due = sum(len(numbers) for ranges in sent for numbers in ranges)
        loop.run(lambda: receivers.connected and receivers.received >= due, quiet_s=MISSING_S)
        complete(receivers.numbers(), sent)
    what = f"with {traffic.sessions:,} sessions and {traffic.messages:,} messages"
    return [
        Figure("start_s", f"from exec until it lets a client in, {what}", "s", start_s),
        Figure("rss_mib", "memory then", "MiB", after_bytes / 2**20),
        Figure("rss_before_mib", "memory before the stop", "MiB", before_bytes / 2**20),
    ]


def _make_sessions(bench: Bench, loop: Loop, target: Target, count: int) -> None:
    """So many sessions, each with its own topic, whose clients are away."""
    bench.say(f"{count:,} sessions")
    make_sessions(loop, target, ((_name(session), [topic_of(session)]) for session in range(count)))


def _publish_all(bench: Bench, loop: Loop, traffic: Traffic) -> list[Publisher]:
    """Publish to sessions that are away, without a bound in time."""
    bench.say(f"{traffic.messages:,} messages")
    publishers = traffic.open(loop, WINDOW)
    publish(loop, publishers)
    return publishers


def _one_by_one(broker: Broker, loop: Loop, case: Case, topic: bytes) -> Meter:
    """Publish some messages, each when the one before is acknowledged; returns what that took."""
    form = Form(case.version, 1, case.size, topic)
    supply = Series(form, ((topic, nth) for nth in range(BROADCASTS)))
    publisher = Publisher(loop, broker.target(case.version), b"bench-one-by-one", supply, 1, 1)
    must(loop.run(lambda: publisher.ready), "a publisher was not let in")
    with Meter(broker) as meter:
        publisher.go()
        must(loop.run(lambda: publisher.done), "messages were not acknowledged")
    depart(loop, [publisher])
    return meter


def _fill(bench: Bench, loop: Loop, traffic: Traffic) -> list[Publisher]:
    """Sessions that are away, and messages that wait for them."""
    _make_sessions(bench, loop, traffic.target, traffic.sessions)
    return _publish_all(bench, loop, traffic)


def _counted(counter: str, before: Mapping[str, int], after: Mapping[str, int]) -> int | None:
    """How far a counter of the broker went; None where it has none of that name."""
    return after[counter] - before[counter] if counter in after else None


ROWS: Final = tuple(
    Row(name, title, measure, (Case(),), ("transport", "version"), headline, repeat, fresh=True, durable=True,
        quick=int(name == "durable-publish"), skip=("amqtt", "nats"), needs=needs)
    for name, title, measure, headline, repeat, needs in (
        ("durable-publish", "QoS 1 to sessions that are away", publishes, "cpu_us", 2, 1_100),
        ("durable-broadcast", "A broadcast to sessions that are away", broadcasts, "ack_ms", 1, 1_100),
        ("durable-drain", "Clients come back to 10 messages each", drain, "cpu_us", 1, 10_300),
        ("durable-disk", "On disk for each waiting message", disk, "running_64", 1, 1_100),
        ("durable-online", "QoS 1 to lasting sessions that are there", online, "cpu_us", 1, 1_100),
        ("durable-kill", "kill -9 while it is published to", kill, "lost", 1, 1_100),
        ("durable-restart", "A restart with a full store", restart, "start_s", 1, 1_100),
    )
)  # fmt: skip
