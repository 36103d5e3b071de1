"""The load counts right, and says so when a broker does not do what is measured."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import pytest
from support.cli import serving
from support.mqtt import Client as Other

from broker.bench.durable import Receivers, Traffic, publish
from broker.bench.link import Loop, Target, Transport
from broker.bench.load import (
    Client,
    Endless,
    Flow,
    Publisher,
    Receiver,
    Series,
    Verdict,
    agree,
    churn,
    complete,
    depart,
    judge,
    make_sessions,
    must,
)
from broker.bench.machine import BenchError
from broker.bench.packets import STREAM_SHIFT, Form, topic_of
from broker.bench.run import Case
from broker.wire.packets import Puback, Publish

SESSIONS = 10
TOPIC = topic_of(SESSIONS)  # of no session
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
SCHEMES = {"tcp": "mqtt", "tls": "mqtts"}


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Transport, int]]:
    """A broker that lets everybody in, by all transports."""
    schemes = {transport: SCHEMES.get(transport, transport) for transport in TRANSPORTS}
    listen = [word for scheme in schemes.values() for word in ("--listen", f"{scheme}://127.0.0.1:0")]
    with serving("--data", tmp_path_factory.mktemp("data"), *listen, "--allow-anonymous") as broker:
        urls = [word for word in broker.first_line.split() if "://" in word]
        found = {url.partition(":")[0]: int(url.rpartition(":")[2].rstrip("/")) for url in urls}
        yield {transport: found[scheme] for transport, scheme in schemes.items()}


@pytest.fixture
def away(ports: dict[Transport, int]) -> Target:
    """Where ten sessions are away, with nothing waiting for them."""
    target = Target(ports["tcp"])
    with Loop() as loop:
        names = [b"bench-%08d" % nth for nth in range(SESSIONS)]
        for name in names:  # what was in a session of that name ends with it
            client = Client(loop, target, name)
            must(loop.run(lambda client=client: client.ready), "not let in")  # type: ignore[misc]
            depart(loop, [client])
        make_sessions(loop, target, ((name, [topic_of(nth)]) for nth, name in enumerate(names)))
    return target


def number_of(packet: Publish) -> int:
    return int.from_bytes(packet.payload[:8], "big")


async def test_what_the_load_has_published_is_what_another_client_gets(away: Target) -> None:
    traffic = Traffic(away, SESSIONS, 100, Case())
    with Loop() as loop:
        publishers = traffic.open(loop, window=7)
        assert publish(loop, publishers) == 100
        assert len(traffic.acknowledged(publishers)) == 100
    client = await Other.connected(away.port, "bench-00000003", version=4, clean_start=False)
    packets = [await client.expect(Publish) for _ in range(10)]
    await client.silent()
    await client.close()
    assert [number_of(packet) for packet in packets] == list(traffic.sent(publishers)[3][0])
    assert {(packet.topic, packet.qos, len(packet.payload)) for packet in packets} == {(topic_of(3), 1, 64)}


async def test_what_another_client_has_published_is_what_the_load_counts(away: Target) -> None:
    client = await Other.connected(away.port, "another")
    form = Form(4, 1, 64, topic_of(0))
    sent = [(0, 0), (1, 0), (1, 0), (2, 5)]  # (session, number): one double, and one that nobody has sent to it
    for packet_id, (session, number) in enumerate(sent, 1):
        body = number.to_bytes(8, "big") + form.filler
        await client.send(Publish(topic_of(session), body, 1, packet_id=packet_id))
        await client.expect(Puback)
    await client.close()
    with Loop() as loop:
        receivers = Receivers(loop, Traffic(away, SESSIONS, 100, Case()))
        receivers.come_back()
        assert loop.run(lambda: receivers.connected and receivers.received >= len(sent), within_s=10)
        assert not loop.run(lambda: False, quiet_s=0.1)
    assert receivers.numbers() == [[0], [0, 0], [5], *([] for _ in range(7))]
    due = [[range(1)] for _ in range(4)] + [[] for _ in range(6)]
    assert judge(receivers.numbers(), due) == Verdict(lost=2, double=1, misplaced=1)
    with pytest.raises(BenchError, match="2 messages are lost, 1 double, 1 misplaced"):
        complete(receivers.numbers(), due)


def test_a_loop_with_more_files_than_select_knows() -> None:
    with ExitStack() as files, socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(1100):
            files.enter_context(Path("/dev/null").open())
        with Loop() as loop:
            client = Client(loop, Target(listener.getsockname()[1]), b"one")
            broker, _ = listener.accept()
            with broker:
                broker.sendall(b"\x20\x02\x00\x00")
                assert loop.run(lambda: client.ready, within_s=10)
                assert not loop.run(lambda: False, within_s=0.05)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_flow_is_complete(ports: dict[Transport, int], transport: Transport, version: int, qos: int) -> None:
    """More than a block, so that the numbers in it have to be changed, and more than one frame, record or read."""
    target = Target(ports[transport], transport, version)
    form = Form(version, qos, 2048, TOPIC)
    flow = Flow(100)
    with Loop() as loop:
        receiver = Receiver(loop, target, b"receiver", form, flow, filters=[TOPIC])
        publisher = Publisher(loop, target, b"publisher", Endless(form, TOPIC, 3), qos, 50, flow)
        must(loop.run(lambda: receiver.ready and publisher.ready), "not let in")
        publisher.go(700)
        must(loop.run(lambda: flow.complete and publisher.done), "messages did not come")
        depart(loop, [receiver, publisher])
    first = 3 << STREAM_SHIFT
    assert receiver.numbers([TOPIC]) == list(range(first, first + 700))


def test_a_tls_session_is_resumed(ports: dict[Transport, int]) -> None:
    target = Target(ports["tls"], "tls")
    with Loop() as loop:
        form = Form(4, 1, 64, topic_of(0))
        first = Receiver(loop, target, b"first", form, Flow(0), filters=[TOPIC])
        must(loop.run(lambda: first.ready), "not let in")
        assert churn(loop, target, 5, 10, first.link.ticket) == (5, 5)
        assert churn(loop, target, 5, 10) == (5, 0)


@pytest.mark.parametrize(
    ("received", "verdict"),
    [
        ([[0, 2], [1, 3]], Verdict(lost=0, double=0, misplaced=0)),
        ([[0], [1, 3]], Verdict(lost=1, double=0, misplaced=0)),
        ([[0, 2, 2], [1, 3, 1]], Verdict(lost=0, double=2, misplaced=0)),
        ([[2, 0], [1, 3]], Verdict(lost=0, double=0, misplaced=1)),
        ([[0, 1, 2], [3]], Verdict(lost=1, double=0, misplaced=1)),
        ([[0, 2, 4], [1, 3]], Verdict(lost=0, double=0, misplaced=1)),
        ([[], []], Verdict(lost=4, double=0, misplaced=0)),
    ],
)
def test_what_is_lost_double_or_misplaced_is_seen(received: list[list[int]], verdict: Verdict) -> None:
    assert judge(received, [[range(0, 4, 2)], [range(1, 4, 2)]]) == verdict


def test_what_was_not_acknowledged_may_be_lost() -> None:
    sent = [[range(0, 4, 2)], [range(1, 4, 2)]]
    assert judge([[0], [1, 3]], sent, {0, 1, 3}) == Verdict(lost=0, double=0, misplaced=0)
    assert judge([[2], [1, 3]], sent, {0, 1, 3}) == Verdict(lost=1, double=0, misplaced=0)


def test_publishers_are_looked_at_apart() -> None:
    other = 1 << STREAM_SHIFT
    sent = [[range(2), range(other, other + 2)]]
    assert judge([[other, 0, other + 1, 1]], sent) == Verdict(lost=0, double=0, misplaced=0)
    assert judge([[other + 1, 0, other, 1]], sent) == Verdict(lost=0, double=0, misplaced=1)


@pytest.mark.parametrize("where", [-1, 12])
def test_a_message_that_is_not_as_it_was_sent_is_seen(where: int) -> None:
    form = Form(4, 0, 64, TOPIC)
    packet = form.packet(TOPIC, 7)
    changed = bytearray(packet)
    changed[where] ^= 1
    flow = Flow(0)
    with socket.create_server(("127.0.0.1", 0)) as listener, Loop() as loop:
        receiver = Receiver(loop, Target(listener.getsockname()[1]), b"one", form, flow)
        broker, _ = listener.accept()
        with broker:
            broker.sendall(b"\x20\x02\x00\x00" + packet + changed)
            assert loop.run(lambda: flow.delivered == 2, within_s=10)
    with pytest.raises(BenchError, match="not one of the messages"):
        receiver.numbers([TOPIC])


def test_a_broker_must_have_counted_what_the_load_has() -> None:
    before, after = {"messages_received": 1}, {"messages_received": 101}
    agree("messages_received", before, after, 100)
    agree("messages_received", {}, {}, 100)  # this one does not count
    with pytest.raises(BenchError, match="the broker counts 100 messages_received, we 99"):
        agree("messages_received", before, after, 99)


@pytest.mark.parametrize(
    "answer", [b"\x40\x02\x80\x02", b"\x40\x02\x80\x00" * 2, b"\x50\x02\x80\x01", b"\x40\x03\x80\x01\x97", b""]
)
def test_an_acknowledgement_that_is_not_the_next_one_ends_the_run(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, Loop() as loop:
        form = Form(4, 1, 64, topic_of(0))
        supply = Series(form, ((topic_of(0), nth) for nth in range(3)))
        publisher = Publisher(loop, Target(listener.getsockname()[1]), b"one", supply, 1, 3)
        broker, _ = listener.accept()
        with broker:
            broker.sendall(b"\x20\x02\x00\x00")
            assert loop.run(lambda: publisher.ready, within_s=10)
            publisher.go()
            broker.recv(4096)
            broker.sendall(b"\x40\x02\x80\x00" + answer)
        with pytest.raises(BenchError, match=r"after [01] |refused|answered"):
            loop.run(lambda: publisher.done, within_s=10)
