"""Durable delivery: QoS 1 to persistent sessions that are away, and what is left of it after a crash.

    make bench-durable
    make bench-durable ARGS='--row publish --row kill --json figures.json'
    .venv/bin/python -m bench.durable --help

The table is printed as Markdown. docs/performance.md says how each figure is measured.
"""

import signal
import statistics
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import click

from bench import machine
from bench.brokers import Broker, Mosquitto, Pushbroker, mosquitto_program, our_program
from bench.load import Loop, Publisher, Receivers, Traffic, Verdict, judge, make_sessions, must, publish
from bench.machine import BenchError
from bench.packets import Form, topic_of
from bench.probe import Latency, Probe
from bench.report import Figure
from bench.run import Bench, Meter, Plan, Row

PUBLISHERS: Final = 10
WINDOW: Final = 500
BODY_BYTES: Final = 64
PUBLISH_S_MAX: Final = 5.0
IDLE_S: Final = 1.0
SETTLE_S: Final = 2.5  # longer than a broker keeps what it means to write; mosquitto's autosave_interval is one second
QUIET_S: Final = 2.0  # so long nothing more has come: all is here
MISSING_S: Final = 20.0  # so long nothing more has come, and it should: it is lost
BROADCASTS: Final = 20
BROADCAST_ROUNDS: Final = 5
SAMPLE: Final = 100  # sessions that come back after a restart, to see whether all is there


def publishes(bench: Bench, broker: Broker) -> list[Figure]:
    """Publish to sessions that are away, as fast as it is acknowledged."""
    traffic = Traffic(bench.scaled(1_000), bench.scaled(300_000), PUBLISHERS, BODY_BYTES)
    with Loop() as loop:
        _make_sessions(bench, broker, loop, traffic.sessions)
        publishers = traffic.open(loop, broker.port, WINDOW)
        bench.say("a connected client, while nothing happens")
        with Probe(broker.port, bench.load_core) as idle:
            time.sleep(IDLE_S)
        before = broker.status()
        bench.say(f"{traffic.messages:,} messages")
        with Probe(broker.port, bench.load_core) as probe, Meter(broker) as meter:
            acknowledged = publish(loop, publishers, PUBLISH_S_MAX)
        after = broker.status()
    agree("messages_received", before, after, acknowledged)
    commits = _counted("journal_commits", before, after)
    return [
        Figure("per_s", "acknowledged messages", "1/s", acknowledged / meter.wall_s),
        Figure("cpu_us", "broker's CPU for a message", "µs", meter.cpu_s * 1e6 / acknowledged),
        Figure("load_share", "share of its core that the load used", "%", 100 * meter.load_cpu_s / meter.wall_s),
        Figure("commits", "commits", "", commits),
        Figure("per_commit", "messages in a commit", "", acknowledged / commits if commits else None),
        *_latency("idle", "idle", idle.latency),
        *_latency("busy", "meanwhile", probe.latency),
    ]


def broadcasts(bench: Bench, broker: Broker) -> list[Figure]:
    """One message at a time to few and to many sessions that are away."""
    sizes = sorted({bench.scaled(size) for size in (10, 1_000, 10_000)})
    topics = {size: topic_of(90_000_000 + size) for size in sizes}
    ack_ms: dict[int, list[float]] = {size: [] for size in sizes}
    cpu_us: dict[int, list[float]] = {size: [] for size in sizes}
    with Loop() as loop:
        bench.say(f"{sizes[-1]:,} sessions")
        make_sessions(
            loop, broker.port, ([topics[size] for size in sizes if session < size] for session in range(sizes[-1]))
        )
        for _ in range(BROADCAST_ROUNDS):
            for size in sizes:
                bench.say(f"to {size:,} sessions")
                meter = _one_by_one(broker, loop, topics[size], BROADCASTS)
                ack_ms[size].append(meter.wall_s * 1e3 / BROADCASTS)
                cpu_us[size].append(meter.cpu_s * 1e6 / BROADCASTS)
    median = statistics.median
    return [
        *(Figure(f"ack_ms_{size}", f"to {size:,}: until PUBACK", "ms", median(ack_ms[size])) for size in sizes),
        *(Figure(f"cpu_us_{size}", f"to {size:,}: broker's CPU", "µs", median(cpu_us[size])) for size in sizes),
    ]


def drain(bench: Bench, broker: Broker) -> list[Figure]:
    """Everybody comes back at once, and gets what waits."""
    traffic = Traffic(bench.scaled(10_000), bench.scaled(100_000), PUBLISHERS, BODY_BYTES)
    with Loop() as loop:
        expected = _fill(bench, broker, loop, traffic)
        before = broker.status()
        bench.say(f"{traffic.sessions:,} clients come back")
        receivers = Receivers(loop, broker.port, traffic.sessions, Form(BODY_BYTES))
        with Probe(broker.port, bench.load_core) as probe, Meter(broker) as meter:
            receivers.come_back()
            loop.run(lambda: receivers.connected and receivers.received >= len(expected), quiet_s=MISSING_S)
        complete(receivers, expected, traffic.sessions)
        after = broker.status()
    agree("messages_delivered", before, after, receivers.received)
    return [
        Figure("per_s", "messages", "1/s", receivers.received / meter.wall_s),
        Figure("s", f"until all {traffic.sessions:,} have all", "s", meter.wall_s),
        Figure("cpu_us", "broker's CPU for a message", "µs", meter.cpu_s * 1e6 / receivers.received),
        Figure("load_share", "share of its core that the load used", "%", 100 * meter.load_cpu_s / meter.wall_s),
        *_latency("busy", "meanwhile", probe.latency),
    ]


def disk(bench: Bench, broker: Broker) -> list[Figure]:
    """What a waiting message takes on disk."""
    figures = []
    sessions = bench.scaled(1_000)
    with Loop() as loop:
        _make_sessions(bench, broker, loop, sessions)
    for body_bytes, messages in ((64, bench.scaled(50_000)), (1024, bench.scaled(20_000))):
        time.sleep(SETTLE_S)
        empty_bytes = machine.bytes_on_disk(broker.data)
        with Loop() as loop:
            _publish_all(bench, broker, loop, Traffic(sessions, messages, PUBLISHERS, body_bytes))
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


def online(bench: Bench, broker: Broker) -> list[Figure]:
    """Publish to sessions whose clients are there and answer."""
    traffic = Traffic(100, bench.scaled(50_000), PUBLISHERS, BODY_BYTES)
    with Loop() as loop:
        _make_sessions(bench, broker, loop, traffic.sessions)
        receivers = Receivers(loop, broker.port, traffic.sessions, Form(BODY_BYTES))
        receivers.come_back()
        must(loop.run(lambda: receivers.connected), "receivers were not let in")
        publishers = traffic.open(loop, broker.port, window=10)
        time.sleep(SETTLE_S)
        before = broker.status()
        bench.say(f"{traffic.messages:,} messages")
        with Meter(broker) as whole:
            with Meter(broker) as meter:
                acknowledged = publish(loop, publishers, PUBLISH_S_MAX)
                loop.run(lambda: receivers.received >= acknowledged, quiet_s=MISSING_S)
            time.sleep(SETTLE_S)
        complete(receivers, traffic.acknowledged(publishers), traffic.sessions)
        after = broker.status()
    agree("messages_delivered", before, after, receivers.received)
    return [
        Figure("per_s", "messages", "1/s", acknowledged / meter.wall_s),
        Figure("cpu_us", "broker's CPU for a message", "µs", meter.cpu_s * 1e6 / acknowledged),
        Figure("written_bytes", "written to disk, in all", "bytes", whole.written_bytes),
        Figure("commits", "commits", "", _counted("journal_commits", before, after)),
        Figure("rows", "messages written", "", _counted("journal_rows", before, after)),
    ]


def kill(bench: Bench, broker: Broker) -> list[Figure]:
    """Kill the broker while it is published to, start it again, and see what of the acknowledged is there.

    Half of it is some seconds old by then.
    """
    wanted = bench.scaled(20_000)
    traffic = Traffic(100, 2 * wanted, PUBLISHERS, BODY_BYTES)
    with Loop() as loop:
        _make_sessions(bench, broker, loop, traffic.sessions)
        time.sleep(SETTLE_S)
        publishers = traffic.open(loop, broker.port, WINDOW)
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
    bench.say("starting again")
    start_s = broker.start()
    with Loop() as loop:
        receivers = Receivers(loop, broker.port, traffic.sessions, Form(BODY_BYTES))
        receivers.come_back()
        loop.run(lambda: False, quiet_s=QUIET_S)
        verdict = judge(receivers.numbers, acknowledged, traffic.sessions)
    return [
        Figure("acknowledged", "acknowledged before", "messages", len(acknowledged)),
        Figure("lost", "lost of these", "messages", verdict.lost),
        Figure("double", "came twice", "messages", verdict.double),
        Figure("misplaced", "out of order, or to somebody else", "messages", verdict.misplaced),
        Figure("start_s", "until it lets a client in again", "s", start_s),
    ]


def restart(bench: Bench, broker: Broker) -> list[Figure]:
    """Start with a full store."""
    sessions, messages = (100_000, 1_000_000) if bench.full else (10_000, 100_000)
    traffic = Traffic(bench.scaled(sessions), bench.scaled(messages), PUBLISHERS, BODY_BYTES)
    with Loop() as loop:
        expected = _fill(bench, broker, loop, traffic)
    before_bytes = machine.rss_bytes(broker.pid)
    bench.say("stopping")
    broker.stop()
    bench.say("starting")
    start_s = broker.start()
    after_bytes = machine.rss_bytes(broker.pid)
    with Loop() as loop:
        bench.say("looking whether all is there")
        receivers = Receivers(loop, broker.port, min(SAMPLE, traffic.sessions), Form(BODY_BYTES))
        receivers.come_back()
        sample = {number for number in expected if number % traffic.sessions < SAMPLE}
        loop.run(lambda: receivers.connected and receivers.received >= len(sample), quiet_s=MISSING_S)
        complete(receivers, sample, traffic.sessions)
    what = f"with {traffic.sessions:,} sessions and {len(expected):,} messages"
    return [
        Figure("start_s", f"from exec until it lets a client in, {what}", "s", start_s),
        Figure("rss_mib", "memory then", "MiB", after_bytes / 2**20),
        Figure("rss_before_mib", "memory before the stop", "MiB", before_bytes / 2**20),
    ]


ROWS: Final = (
    Row("publish", "QoS 1 to 1,000 sessions that are away", publishes, 3),
    Row("broadcast", "A broadcast to sessions that are away", broadcasts, 1),
    Row("drain", "10,000 clients come back to 10 messages each", drain, 1),
    Row("disk", "On disk for each waiting message", disk, 1),
    Row("online", "QoS 1 to 100 sessions that are there", online, 2),
    Row("kill", "kill -9 while it is published to", kill, 1),
    Row("restart", "A restart with a full store", restart, 1),
)


def _make_sessions(bench: Bench, broker: Broker, loop: Loop, count: int) -> None:
    """So many sessions, each with its own topic, whose clients are away."""
    bench.say(f"{count:,} sessions")
    make_sessions(loop, broker.port, ([topic_of(session)] for session in range(count)))


def _publish_all(bench: Bench, broker: Broker, loop: Loop, traffic: Traffic) -> set[int]:
    """Publish to sessions that are away, without a bound in time; returns the numbers of the messages."""
    bench.say(f"{traffic.messages:,} messages")
    publishers = traffic.open(loop, broker.port, WINDOW)
    publish(loop, publishers)
    return traffic.acknowledged(publishers)


def _one_by_one(broker: Broker, loop: Loop, topic: bytes, count: int) -> Meter:
    """Publish so many messages, each when the one before is acknowledged; returns what that took."""
    form = Form(BODY_BYTES)
    packets = [form.packet(topic, nth + 1, nth) for nth in range(count)]
    publisher = Publisher(loop, broker.port, b"bench-one-by-one", packets, window=1)
    must(loop.run(lambda: publisher.connected), "a publisher was not let in")
    with Meter(broker) as meter:
        publisher.go()
        must(loop.run(lambda: publisher.done), "messages were not acknowledged")
    publisher.close()
    return meter


def _fill(bench: Bench, broker: Broker, loop: Loop, traffic: Traffic) -> set[int]:
    """Sessions that are away, and messages that wait for them; returns the messages' numbers."""
    _make_sessions(bench, broker, loop, traffic.sessions)
    return _publish_all(bench, broker, loop, traffic)


def complete(receivers: Receivers, expected: set[int], sessions: int) -> None:
    """Every message once, in order, to whom it was for."""
    verdict = judge(receivers.numbers, expected, sessions)
    if verdict != Verdict(lost=0, double=0, misplaced=0) or receivers.received != len(expected):
        raise BenchError(f"{len(expected):,} messages were expected, {receivers.received:,} came: {verdict}")


def agree(counter: str, before: dict[str, Any], after: dict[str, Any], expected: int) -> None:
    """The broker, where it counts, has counted what we have."""
    counted = _counted(counter, before, after)
    if counted is not None and counted != expected:
        raise BenchError(f"the broker counts {counted:,} {counter}, we {expected:,}")


def _counted(counter: str, before: dict[str, Any], after: dict[str, Any]) -> int | None:
    """How far a counter of the broker went; None where it has none of that name."""
    then, now = (status.get("counters", {}).get(counter) for status in (before, after))
    return None if then is None or now is None else now - then


def _latency(name: str, when: str, seen: Latency) -> list[Figure]:
    return [
        Figure(f"{name}_ms_{key}", f"a connected client's round trip, {when}: {key}", "ms", value)
        for key, value in (("p50", seen.ms_p50), ("p99", seen.ms_p99), ("max", seen.ms_max))
    ]


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(143)  # by way of all that has to be cleaned up


def _named(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    if unnamed := [value for value in values if "=" not in value]:
        raise click.BadParameter(f"{unnamed[0]} is not NAME=VALUE")
    return {name: value for name, _, value in (text.partition("=") for text in values)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--row", "names", multiple=True, type=click.Choice([row.name for row in ROWS]), help="Only this row; repeatable."
)
@click.option("--repeat", type=click.IntRange(1), help="Measure each row so often; the table has the medians.")
@click.option("--full", is_flag=True, help="Restart with 100,000 sessions and 1,000,000 messages, not a tenth of it.")
@click.option("--scale", type=click.FloatRange(0, 10, min_open=True), default=1.0, help="Multiply all sizes by this.")
@click.option("--pushbroker", "ours", default=our_program(), help="The pushbroker to measure.", metavar="PROGRAM")
@click.option("--mosquitto", "other", default=mosquitto_program(), help="The mosquitto beside it.", metavar="PROGRAM")
@click.option("--alone", is_flag=True, help="Without mosquitto.")
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/var/tmp"),  # noqa: S108 - we make a directory of our own in it
    show_default=True,
    help="Where the brokers keep their data: on the disk that is to be measured.",
)
@click.option(
    "--setting",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_named,
    help="A setting of pushbroker, as in docs/configuration.md; repeatable.",
)
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures here, too.")
def main(
    names: tuple[str, ...],
    repeat: int | None,
    full: bool,
    scale: float,
    ours: str,
    other: str | None,
    alone: bool,
    directory: Path,
    settings: dict[str, str],
    target: Path | None,
) -> None:
    """Measure durable delivery, our broker and mosquitto in turn. Takes about three minutes."""
    signal.signal(signal.SIGTERM, _terminate)
    brokers: list[tuple[type[Broker], str]] = [(Pushbroker, ours)]
    if not alone:
        if other is None:
            raise click.ClickException("mosquitto is not installed: apt-get install mosquitto, as root, or --alone")
        brokers.append((Mosquitto, other))
    rows = [row for row in ROWS if not names or row.name in names]
    try:
        results = Plan(rows, brokers, directory, scale, full, repeat, settings).run()
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    click.echo(results.markdown())
    if target is not None:
        target.write_text(results.json() + "\n")
    if results.failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
