"""The benchmarks count right, say so when a broker does not do what is measured, and leave nothing behind."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import serving
from support.mqtt import Client
from support.programs import program

from bench.durable import agree, complete
from bench.load import Loop, Publisher, Receivers, Traffic, Verdict, judge, make_sessions, publish
from bench.machine import BenchError
from bench.packets import PUBACK, Form, topic_of
from bench.report import Figure, Results
from broker.wire.packets import Puback, Publish

ROOT = Path(__file__).parents[1]
SESSIONS = 10


@pytest.fixture
def port(short_path: Path) -> Iterator[int]:
    """A broker that lets everybody in, with ten sessions that are away."""
    with serving("--data", short_path, "--listen", "mqtt://127.0.0.1:0", "--allow-anonymous") as broker:
        number = broker.port("mqtt")
        with Loop() as loop:
            make_sessions(loop, number, ([topic_of(session)] for session in range(SESSIONS)))
        yield number


def number_of(packet: Publish) -> int:
    return int.from_bytes(packet.payload[:8], "big")


async def test_what_the_load_has_published_is_what_another_client_gets(port: int) -> None:
    traffic = Traffic(SESSIONS, messages=100, publishers=2)
    with Loop() as loop:
        publishers = traffic.open(loop, port, window=7)
        assert publish(loop, publishers) == 100
        assert traffic.acknowledged(publishers) == set(range(100))
    client = await Client.connected(port, "bench-00000003", version=4, clean_start=False)
    packets = [await client.expect(Publish) for _ in range(10)]
    await client.silent()
    await client.close()
    assert [number_of(packet) for packet in packets] == list(range(3, 100, SESSIONS))
    assert {(packet.topic, packet.qos, len(packet.payload)) for packet in packets} == {(topic_of(3), 1, 64)}


async def test_what_another_client_has_published_is_what_the_load_counts(port: int) -> None:
    client = await Client.connected(port, "another")
    sent = [0, 1, 2, 10, 10, 13]  # 12 is missing, 10 comes twice, 13 is for another session than the one it goes to
    for packet_id, number in enumerate(sent, 1):
        topic = topic_of(2 if number == 13 else number % SESSIONS)
        await client.send(Publish(topic, number.to_bytes(8, "big") + bytes(56), 1, packet_id=packet_id))
        await client.expect(Puback)
    await client.close()
    with Loop() as loop:
        receivers = Receivers(loop, port, SESSIONS, Form(64))
        receivers.come_back()
        assert loop.run(lambda: receivers.connected and receivers.received >= len(sent), within_s=10)
        assert not loop.run(lambda: False, quiet_s=0.1)
    assert receivers.numbers == [[0, 10, 10], [1], [2, 13], *([] for _ in range(7))]
    assert judge(receivers.numbers, {0, 1, 2, 10, 12, 13}, SESSIONS) == Verdict(lost=1, double=1, misplaced=1)
    with pytest.raises(BenchError, match="lost=1, double=1, misplaced=1"):
        complete(receivers, {0, 1, 2, 10, 12, 13}, SESSIONS)


@pytest.mark.parametrize(
    ("received", "verdict"),
    [
        ([[0, 2], [1, 3]], Verdict(lost=0, double=0, misplaced=0)),
        ([[0, 2, 4], [1, 3]], Verdict(lost=0, double=0, misplaced=0)),  # 4 came, and was not acknowledged
        ([[0], [1, 3]], Verdict(lost=1, double=0, misplaced=0)),
        ([[0, 2, 2], [1, 3, 1]], Verdict(lost=0, double=2, misplaced=0)),
        ([[2, 0], [1, 3]], Verdict(lost=0, double=0, misplaced=1)),
        ([[0, 1, 2], [3]], Verdict(lost=0, double=0, misplaced=1)),
        ([[], []], Verdict(lost=4, double=0, misplaced=0)),
    ],
)
def test_what_is_lost_double_or_misplaced_is_seen(received: list[list[int]], verdict: Verdict) -> None:
    assert judge(received, {0, 1, 2, 3}, sessions=2) == verdict


def test_a_broker_must_have_counted_what_the_load_has() -> None:
    before, after = ({"counters": {"messages_received": count}} for count in (1, 101))
    agree("messages_received", before, after, 100)
    agree("messages_received", {}, {}, 100)  # this one does not count
    with pytest.raises(BenchError, match="the broker counts 100 messages_received, we 99"):
        agree("messages_received", before, after, 99)


@pytest.mark.parametrize("answer", [PUBACK + b"\x00\x03", PUBACK + b"\x00\x01" * 2, b"\xe0\x00", b""])
def test_an_acknowledgement_that_is_not_the_next_one_ends_the_run(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, Loop() as loop:
        packets = [Form(64).packet(topic_of(0), packet_id, packet_id) for packet_id in (1, 2, 3)]
        publisher = Publisher(loop, listener.getsockname()[1], b"one", packets, window=3)
        broker, _ = listener.accept()
        with broker:
            broker.sendall(b"\x20\x02\x00\x00")
            assert loop.run(lambda: publisher.connected, within_s=10)
            publisher.go()
            broker.recv(4096)
            broker.sendall(PUBACK + b"\x00\x01" + answer)
        with pytest.raises(BenchError, match=r"after [01] "):
            loop.run(lambda: publisher.done, within_s=10)


def test_medians_and_ratios() -> None:
    results = Results({}, ["pushbroker", "mosquitto"])
    for value in (1, 30, 2):
        results.add("row", "Row", "pushbroker", [Figure("us", "time", "µs", value)])
    results.add("row", "Row", "mosquitto", [Figure("us", "time", "µs", 8), Figure("more", "more", "", None)])
    assert "| time | µs | 2 | 8 | 0.25 |" in results.markdown()
    assert "| more |  |  |  |  |" in results.markdown()
    assert json.loads(results.json())["rows"]["row"]["figures"]["us"]["pushbroker"] == {
        "median": 2,
        "runs": [1, 30, 2],
    }


def start(*args: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bench.durable", *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_small_run_with_both_brokers(short_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    mosquitto = program("mosquitto")
    run = start(
        "--row", "drain", "--scale", "0.01", "--mosquitto", mosquitto, "--directory", short_path, "--json", target
    )
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (0, "")
    figures = json.loads(target.read_text())["rows"]["drain"]["figures"]
    assert {figures["per_s"][broker]["median"] > 0 for broker in ("pushbroker", "mosquitto")} == {True}
    assert all(figure["title"] in out for figure in figures.values())
    assert list(short_path.iterdir()) == []


def test_a_broker_that_fails_is_told_of(short_path: Path) -> None:
    """Of ten messages to each session it takes three."""
    options = ("--alone", "--directory", short_path, "--setting", "queue_messages_max=3")
    run = start("--row", "drain", "--scale", "0.01", *options)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "cut a publisher off" in out
    assert list(short_path.iterdir()) == []


def test_a_run_that_is_terminated_leaves_nothing(short_path: Path) -> None:
    run = start("--row", "drain", "--alone", "--directory", short_path)
    deadline = time.monotonic() + 30
    while not list(short_path.glob("*/pushbroker/lock")):  # it runs its broker
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=30)
    assert run.returncode == 143
    assert list(short_path.iterdir()) == []
