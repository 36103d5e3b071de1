"""Messages and connections while everybody is there: pairs, fan-in, broadcast, connects, latency, idle memory."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from broker.bench import machine
from broker.bench.brokers import Broker, Pushbroker
from broker.bench.link import Loop, Target
from broker.bench.load import (
    Client,
    Done,
    Endless,
    Flow,
    Publisher,
    Receiver,
    agree,
    churn,
    complete,
    connect_all,
    depart,
    must,
)
from broker.bench.packets import STREAM_SHIFT, Form, topic_of
from broker.bench.probe import Latency, Probe
from broker.bench.report import Figure
from broker.bench.run import Bench, Case, Meter, Row

PAIRS: Final = 10
WINDOW: Final = 64
# Of messages on their way to one receiver: half of what our broker keeps for one that is slow before it cuts it off.
LAG_BYTES_MAX: Final = 2 << 20
KEPT_BYTES_MAX: Final = 200_000_000  # of what receivers get in a run: it is kept until it was looked at
WARM_SHARE: Final = 0.2
SETTLE_S: Final = 1.0
RATE: Final = 1_000
CONNECTS_MAX: Final = 5_000  # each takes a port from the kernel for a while
DEVICES: Final = 2_000
BRAND: Final = "acme"
IDENTITY_ROUNDS: Final = 3
_PASSWORD: Final = "correct-horse-battery"  # noqa: S105 - of devices that live for a run


Login = tuple[bytes, bytes]


@dataclass(frozen=True)
class People:
    """Who publishes and who receives, and on what topics: one for each publisher. Nobody has to say who he is."""

    topics: Sequence[bytes]
    server: Login | None = None
    devices: Sequence[Login | None] = ()


class Traffic:
    """Publishers and the receivers of each, connected and ready. Each publisher has a topic."""

    def __init__(
        self,
        loop: Loop,
        broker: Broker,
        case: Case,
        receivers: Sequence[Sequence[int]],
        window: int,
        people: People,
    ) -> None:
        """`receivers` says which publishers' topics each of them subscribes to."""
        target = broker.target(case.version)
        self._topics = topics = people.topics
        publishers = len(topics)
        self.form = Form(case.version, case.qos, case.size, topics[0])
        self._heard = receivers
        self._loop = loop
        self._broker = broker
        # Who publishes at QoS 0 has no acknowledgements to wait for: the receivers hold it back.
        lag = min(window * 8 if case.qos else window, LAG_BYTES_MAX // case.size)
        window = min(window, lag)
        fan = sum(map(len, receivers)) // publishers
        alone = publishers == len(receivers)  # pairs
        self.flows = [Flow(lag, fan) for _ in range(publishers if alone else 1)]

        def receiver(nth: int) -> Callable[[Done], Receiver]:
            filters = [topics[at] for at in receivers[nth]]
            flow = self.flows[nth if alone else 0]
            login = people.devices[nth] if people.devices else None
            name = b"bench-receiver-%d" % nth
            return lambda ready: Receiver(
                loop, target, name, self.form, flow, filters=filters, login=login, ready=ready
            )

        self.receivers = connect_all(loop, map(receiver, range(len(receivers))))
        self.publishers = [
            Publisher(
                loop,
                target,
                b"bench-publisher-%d" % at,
                Endless(self.form, topic, at),
                case.qos,
                window,
                self.flows[at if alone else 0],
                people.server,
            )
            for at, topic in enumerate(topics)
        ]
        must(loop.run(lambda: all(publisher.ready for publisher in self.publishers)), "publishers were not let in")
        self._each_max = KEPT_BYTES_MAX // (self.form.size * fan * publishers)

    def run(self, seconds: float, *, again: bool = False) -> tuple[Meter, int]:
        """Publish for so long after a time to get going; returns what that took, and how many messages came.

        `again`: others than traffic like this have sent messages to this broker.
        """
        before = self._broker.counters(again=again)
        first = self.publishers[0]
        sent, delivered = self._sent(), self._delivered()
        for publisher in self.publishers:
            publisher.go(publisher.sent + self._each_max)
        self._loop.run(lambda: first.sent == first.total, seconds * WARM_SHARE)
        came = self._delivered()
        with Meter(self._broker) as meter:
            self._loop.run(lambda: first.sent == first.total, seconds)
            for publisher in self.publishers:
                publisher.finish()
            must(self._loop.run(self._all_done), "messages did not come")
            count = self._delivered() - came
        after = self._broker.counters()
        agree("messages_received", before, after, self._sent() - sent)
        agree("messages_sent", before, after, self._delivered() - delivered)
        return meter, count

    def end(self) -> None:
        """Let all go, and look at each message that came."""
        depart(self._loop, [*self.receivers, *self.publishers])
        complete(
            [
                receiver.numbers([self._topics[at] for at in heard])
                for receiver, heard in zip(self.receivers, self._heard, strict=True)
            ],
            [[_numbers(at, self.publishers[at].sent) for at in heard] for heard in self._heard],
        )

    def _sent(self) -> int:
        return sum(publisher.sent for publisher in self.publishers)

    def _delivered(self) -> int:
        return sum(flow.delivered for flow in self.flows)

    def _all_done(self) -> bool:
        return all(publisher.done for publisher in self.publishers) and all(flow.complete for flow in self.flows)


def anybody(publishers: int) -> People:
    """So many that need not say who they are."""
    return People([topic_of(at) for at in range(publishers)])


def _numbers(stream: int, count: int) -> range:
    first = stream << STREAM_SHIFT
    return range(first, first + count)


def flow(
    publishers: int, receivers: Callable[[Bench], Sequence[Sequence[int]]], window: int
) -> Callable[[Bench, Broker, Case], list[Figure]]:
    """Publishers that publish as fast as may be, to receivers that take it."""

    def measure(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
        bench.say("clients")
        with Loop() as loop:
            traffic = Traffic(loop, broker, case, receivers(bench), window, anybody(publishers))
            bench.say("messages")
            meter, count = traffic.run(bench.seconds)
            bench.say("looking at what came")
            traffic.end()
        return meter.figures(count)

    return measure


def identified(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """What it costs that everybody is somebody: a brand's server and its devices, and the same traffic without."""
    assert isinstance(broker, Pushbroker)
    bench.say("identities")
    broker.tell("brand", "add", BRAND)
    token: str = broker.tell("brand", "token", "issue", BRAND)["secret"]
    names = [f"d{at:07}" for at in range(PAIRS)]
    for name in names:
        broker.tell("device", "password", BRAND, name, stdin=_PASSWORD)
    devices = [(f"{BRAND}/device/{name}".encode(), _PASSWORD.encode()) for name in names]
    somebody = People([user for user, _ in devices], (BRAND.encode(), token.encode()), devices)
    spent: list[list[float]] = [[], []]
    with Loop() as loop:
        both = [
            Traffic(loop, broker, case, [[at] for at in range(PAIRS)], WINDOW, people)
            for people in (somebody, anybody(PAIRS))
        ]
        bench.say("messages")
        for _ in range(IDENTITY_ROUNDS):
            for traffic, took in zip(both, spent, strict=True):
                meter, count = traffic.run(bench.seconds / 2)
                took.append(meter.cpu_s * 1e6 / count)
        for traffic in both:
            traffic.end()
    mine, theirs = map(statistics.median, spent)
    return [
        Figure("cpu_us", "broker's CPU for each message, of a server with a token to devices", "µs", mine),
        Figure("anonymous_us", "the same, among those who need not say who they are", "µs", theirs),
        Figure("share", "what the identities cost", "%", 100 * (mine / theirs - 1)),
    ]


def connects(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """Clients that connect and leave again, so many at a time; by TLS also such that resume a TLS session."""
    figures = []
    target = broker.target(case.version)
    for resumes in (False, True) if case.transport in ("tls", "wss") else (False,):
        before = broker.counters()
        with Loop() as loop:
            bench.say("resumed connections" if resumes else "connections")
            ticket = None
            if resumes:
                client = Client(loop, target, b"bench-ticket")
                must(loop.run(lambda: client.ready), "a client was not let in")  # noqa: B023 - done within the turn
                ticket = client.link.ticket
                depart(loop, [client])
            with Meter(broker) as meter:
                count, resumed = churn(loop, target, bench.scaled(CONNECTS_MAX), bench.seconds, ticket)
        agree("connections_accepted", before, broker.counters(), count + resumes)
        if not resumes:
            figures = meter.figures(count, "connect")
        else:
            what = "broker's CPU for each connect that resumes a TLS session"
            figures.append(Figure("resumed_us", what, "µs", meter.cpu_s * 1e6 / count if resumed == count else None))
    return figures


def latency(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """A message each millisecond from one to another, whether or not the earlier ones have come."""
    bench.say(f"{RATE:,} messages a second")
    target = broker.target(case.version)
    before = broker.counters(again=False)
    with Probe(target, bench.load_cores, qos=case.qos, body_bytes=case.size, rate=RATE) as probe:
        time.sleep(5 * bench.seconds)
    after = broker.counters()
    for counter in ("messages_received", "messages_sent"):
        agree(counter, before, after, probe.latency.messages)
    p50, p99, longest = seen(probe.latency)
    return [p50, p99, Figure("ms_p999", "from due until delivered: p99.9", "ms", probe.latency.ms_p999), longest]


def seen(latency: Latency, name: str = "", when: str = "") -> list[Figure]:
    """What a probe saw, as figures."""
    return [
        Figure(f"{name}ms_{key}", f"from due until delivered{when}: {words}", "ms", value)
        for key, words, value in (
            ("p50", "p50", latency.ms_p50),
            ("p99", "p99", latency.ms_p99),
            ("max", "the longest", latency.ms_max),
        )
    ]


def device_filters(device: int) -> list[bytes]:
    """What a device subscribes to: its own branch, its user, and what all do."""
    return [b"bench/device/%08d/#" % device, b"bench/user/%08d" % device, ALL_DEVICES]


ALL_DEVICES: Final = b"bench/device.."  # 14 bytes, like every topic that is published to


def device(loop: Loop, target: Target, nth: int) -> Callable[[Done], Client]:
    """One of them."""
    name = b"bench-device-%08d" % nth
    return lambda ready: Client(loop, target, name, clean=False, filters=device_filters(nth), qos=1, ready=ready)


def idle(bench: Bench, broker: Broker, case: Case) -> list[Figure]:
    """Memory of a device that is connected, with a session and three subscriptions, in a fresh process."""
    count = bench.connections(DEVICES)
    target = broker.target(case.version)
    with Loop() as loop:
        time.sleep(bench.seconds * SETTLE_S)
        before = machine.rss_bytes(broker.pid)
        bench.say(f"{count:,} connections")
        with Meter(broker) as meter:
            connect_all(loop, (device(loop, target, nth) for nth in range(count)))
        time.sleep(bench.seconds * SETTLE_S)
        grown = machine.rss_bytes(broker.pid) - before
    return [
        Figure("bytes", "memory for each connection", "bytes", grown / count),
        Figure("connect_us", "broker's CPU for each: session, three subscriptions", "µs", meter.cpu_s * 1e6 / count),
    ]


_ALL: Final = ("transport", "qos", "size", "version")
ROWS: Final = (
    Row(
        "pairs",
        "10 publishers, each to a receiver of its own",
        flow(PAIRS, lambda _: [[at] for at in range(PAIRS)], WINDOW),
        (
            *(Case(qos=qos) for qos in (0, 1)),
            *(Case("tls", qos) for qos in (1, 0)),
            *(Case(transport, 2) for transport in ("tcp", "tls")),
            *(Case(transport, 1) for transport in ("ws", "wss")),
            Case(qos=1, version=5),
            *(Case(qos=1, size=size) for size in (16, 1024, 65536)),
        ),
        _ALL,
        quick=3,
    ),
    Row(
        "pairs-100",
        "100 publishers, each to a receiver of its own, at most 4 messages unacknowledged",
        flow(100, lambda _: [[at] for at in range(100)], 4),
        (Case(qos=1), Case("tls", 1)),
        _ALL,
    ),
    Row(
        "fan-in",
        "10 publishers to one receiver",
        flow(PAIRS, lambda _: [list(range(PAIRS))], WINDOW),
        (Case(), Case("tls")),
        _ALL,
    ),
    Row(
        "broadcast",
        "A broadcast to many receivers, each message when the one before has come",
        flow(1, lambda bench: [[0]] * bench.connections(1_000), 1),
        (Case(), Case(qos=1), Case("tls"), Case("tls", 1)),
        _ALL,
        quick=2,
    ),
    Row("connect", "Connect and disconnect, 64 at a time", connects, (Case(), Case("tls")), ("transport", "version"),
        quick=2),
    Row("latency", "1,000 messages a second from one client to another", latency,
        (Case(qos=1), Case("tls", 1)), _ALL, headline="ms_p99"),
    Row(
        "pairs-identified",
        "10 pairs: a brand's server and its devices, and the same anonymously",
        identified,
        (Case(), Case(qos=1)),
        _ALL,
        repeat=1,
        fresh=True,
        quick=0,
        only=("pushbroker",),
    ),
    Row(
        "idle",
        "A device that is connected: session, 3 subscriptions",
        idle,
        (Case("tls"), Case()),
        ("transport", "version"),
        headline="bytes",
        repeat=1,
        fresh=True,
        quick=2,
        needs=DEVICES,
    ),
)  # fmt: skip
