"""`pushbroker bench` runs each row, tells of what fails, and leaves nothing behind."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.cli import PUSHBROKER, environment, ok, pushbroker
from support.programs import program

from broker.bench import durable, flows, picture, scale, storm
from broker.bench.brokers import found, given
from broker.bench.load import Receiver
from broker.bench.machine import BenchError
from broker.bench.report import Figure, Results
from broker.bench.rows import ROWS
from broker.bench.run import Plan, Row

TINY = ("--scale", "0.01", "--repeat", "1")


def measured(*args: object, brokers: tuple[str, ...] = ("pushbroker",)) -> dict[str, Any]:
    """Rows, at a hundredth of their size."""
    names = [word for name in brokers for word in ("--broker", name)]
    rows: dict[str, Any] = ok("bench", *TINY, *names, "--json", *args).json["rows"]
    return rows


def figures(rows: dict[str, Any], row: str, name: str) -> list[Any]:
    return [item["median"] for item in rows[row]["figures"] if item["name"] == name]


def test_every_row_of_those_who_are_there(short_path: Path) -> None:
    names = [row.name for row in flows.ROWS if row.name != "pairs-identified"]  # passwords take their time
    rows = measured("--directory", short_path, "--quick", *(word for name in names for word in ("--row", name)))
    assert set(rows) == set(names)
    for row in flows.ROWS:
        assert row.name not in names or figures(rows, row.name, row.headline)[0]["pushbroker"] is not None
    assert list(short_path.iterdir()) == []


def test_messages_of_those_who_are_somebody(short_path: Path) -> None:
    rows = measured("--directory", short_path, "--row", "pairs-identified", "--qos", "1")
    assert figures(rows, "pairs-identified", "cpu_us")[0]["pushbroker"] > 0


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_by_others_that_are_installed(short_path: Path, qos: int) -> None:
    program("mosquitto")
    options = ("--directory", short_path, "--row", "fan-in", "--transport", "tls", "--qos", qos)
    (medians,) = figures(measured(*options, brokers=("mosquitto", "amqtt")), "fan-in", "cpu_us")
    assert set(medians) == {"mosquitto", "amqtt"}
    assert min(medians.values()) > 0


@pytest.mark.parametrize("row", [*durable.ROWS, *storm.ROWS, *scale.ROWS], ids=lambda row: row.name)
def test_every_other_row(short_path: Path, monkeypatch: pytest.MonkeyPatch, row: Row) -> None:
    for name in ("IDLE_S", "SETTLE_S", "QUIET_S"):
        monkeypatch.setattr(durable, name, 0.2)
    results = plan(short_path, row, {})
    assert results.failures == []
    section = results.sections[row.name]
    assert list(section.lines())
    lost = [line.median("pushbroker") for _, line in section.lines() if line.figure.name in ("lost", "double")]
    assert lost == ([0, 0] if row.name == "durable-kill" else [])


def plan(directory: Path, row: Row, options: dict[str, list[Any]]) -> Results:
    ours = [kind for kind in found() if kind.name == "pushbroker"]
    return Plan([row], ours, directory, options, scale=0.01, repeat=1).run()


PAIRS = next(row for row in ROWS if row.name == "pairs")
ONE = {"qos": [1], "transport": ["tcp"]}


@pytest.mark.parametrize(("change", "said"), [(0, "lost"), (2, "double")])
def test_a_load_that_loses_or_doubles_is_found_out(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, change: int, said: str
) -> None:
    """Everything is counted when it comes, but what the tenth receiver has kept is not what it got."""
    keep = Receiver._keep

    def lie(receiver: Receiver, packets: bytes, count: int) -> None:
        keep(receiver, packets, count)
        if receiver.client_id == b"bench-receiver-9":
            receiver._kept[-1:] = [packets] * change

    monkeypatch.setattr(Receiver, "_keep", lie)
    results = plan(short_path, PAIRS, ONE)
    assert len(results.failures) == 1
    assert said in results.failures[0]
    assert results.sections == {}


def test_a_load_that_counts_too_much_is_found_out(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.Traffic, "_delivered", lambda traffic: sum(2 * flow.sent for flow in traffic.flows))
    results = plan(short_path, PAIRS, ONE)
    assert "the broker counts" in results.failures[0]


def test_another_broker_by_its_command(short_path: Path, tmp_path: Path) -> None:
    config = tmp_path / "their.conf"
    config.write_text("listener {port} 127.0.0.1\nallow_anonymous true\nlistener {tls_port} 127.0.0.1\n"
                      "certfile {cert}\nkeyfile {key}\nuser root\npersistence_location {data}/\n")  # fmt: skip
    command = f"their={program('mosquitto')} -c {{config:{config}}}"
    done = pushbroker(
        "bench", *TINY, "--peer", command, "--broker", "their", "--row", "connect", "--directory", short_path, "--json"
    )
    assert done.code == 0, done
    assert [item["variant"] for item in done.json["rows"]["connect"]["figures"] if item["name"] == "cpu_us"] == [
        "TCP",
        "TLS",
    ]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--row", "nonsense"], 3, "pushbroker bench --list"),
        (["--broker", "nonsense"], 3, "there is no broker 'nonsense' here"),
        (["--peer", "nonsense"], 2, "nonsense is not NAME=VALUE"),
        (["--peer", "their=/bin/true"], 1, "or give a command such as '/bin/true -p {port}'"),
        (["--peer", "their=x {data}"], 1, "Write {port}"),
        (["--peer", "their=x {config:/nowhere} {port}"], 1, "/nowhere: No such file"),
        (["--peer", "mosquitto-x=/nowhere"], 1, "no program"),
        (["--size", "3"], 2, "16<=x"),
        (["--from", "/etc/hostname"], 1, "is not what pushbroker bench --json writes"),
    ],
)
def test_what_is_wrong_is_said(args: list[str], code: int, said: str) -> None:
    done = pushbroker("bench", *args)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


def test_too_few_descriptors_are_said(short_path: Path) -> None:
    words = ["sh", "-c", 'ulimit -n 500 && exec "$0" "$@"', PUSHBROKER, "bench", "--row", "idle"]
    done = subprocess.run(
        [*map(str, words), "--directory", str(short_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "2,200 open files are needed, 500 are allowed" in done.stderr
    assert "ulimit -n 2200" in done.stderr


def test_brokers_that_a_user_names() -> None:
    assert given("mosquitto-x", sys.executable).make.version_of.__qualname__.startswith("Mosquitto")
    assert given("their", "x --port {port} --ws {ws_port}").make.transports == ("tcp", "ws")
    with pytest.raises(BenchError, match="no name"):
        given("a b", "x {port}")


def test_the_list() -> None:
    done = ok("bench", "--list")
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == [row.name for row in ROWS]
    assert "pushbroker" in done.err


def results() -> Results:
    made = Results({"date": "today"}, ["ours", "their"])
    for nth, (one, two) in enumerate([(1, 10), (30, 10), (2, 8)]):
        made.add("row", "Row", "us", "TCP", "ours", nth, [Figure("us", "time", "µs", one)])
        made.add("row", "Row", "us", "TCP", "their", nth, [Figure("us", "time", "µs", two), Figure("n", "n", "", None)])
    return made


def test_medians_and_paired_ratios() -> None:
    assert results().markdown().split("\n\n")[1] == (
        "| `row`: Row | unit | ours | their |           ratio |\n"
        "| ---------- | ---- | ---: | ----: | --------------: |\n"
        "| TCP: time  | µs   |    2 |    10 | 0.25 (0.1 to 3) |\n"
        "| TCP: n     |      |      |       |                 |"
    )


def test_a_run_that_failed_leaves_the_others_paired() -> None:
    made = Results({}, ["ours", "their"])
    for broker, nth, value in (("ours", 0, 1), ("their", 0, 10), ("their", 1, 20), ("ours", 2, 1), ("their", 2, 4)):
        made.add("row", "Row", "us", "", broker, nth, [Figure("us", "time", "µs", value)])
    assert "| 0.175 (0.1 to 0.25) |" in made.markdown()


def test_in_short_there_are_the_headlines_at_their_greatest() -> None:
    short = curves().markdown().split("\n\n")[1]
    assert [line.split("|")[1].strip() for line in short.splitlines()] == [
        "In short",
        "-" * len("scale-things, TCP, 100 things: time"),
        "row, TCP: time",
        "scale-things, TCP, 100 things: time",
    ]


def test_who_has_no_figure_has_no_column() -> None:
    made = results()
    made.add("other", "Other", "us", "", "ours", 0, [Figure("us", "time", "µs", 1)])
    assert made.markdown().endswith("| `other`: Other | unit | ours |\n| -------------- | ---- | ---: |\n"
                                    "| time           | µs   |    1 |")  # fmt: skip


def test_what_was_written_can_be_shown_again(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text(results().json())
    assert ok("bench", "--from", path).out == results().markdown() + "\n"
    assert json.loads(ok("bench", "--from", path, "--json").out) == json.loads(path.read_text())


def test_devices_whose_sessions_are_gone_are_found_out(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm.Device, "present", property(lambda _: False, lambda *_: None), raising=False)
    results = plan(short_path, storm.ROWS[0], {})
    assert "100 of 100 sessions are gone" in results.failures[0]


def curves() -> Results:
    made = results()
    for broker, each in (("ours", 1.0), ("their", 2.0)):
        at = [Figure("us", "time", "µs", each * size, size, "things") for size in (10, 100)]
        made.add("scale-things", "Things", "us", "TCP", broker, 0, at)
    return made


@pytest.mark.parametrize(("kind", "begin"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_picture(tmp_path: Path, kind: str, begin: bytes) -> None:
    figures, drawn = tmp_path / "figures.json", tmp_path / f"picture.{kind}"
    figures.write_text(curves().json())
    ok("bench", "--from", figures, "--picture", drawn)
    assert drawn.read_bytes().startswith(begin)


def test_a_picture_of_nothing_and_one_of_another_kind(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    figures.write_text(Results({}, ["ours"]).json())
    assert "nothing to draw" in pushbroker("bench", "--from", figures, "--picture", tmp_path / "x.svg").err
    assert "neither .svg nor .png" in pushbroker("bench", "--from", figures, "--picture", tmp_path / "x.gif").err


def test_a_picture_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchError) as caught:
        picture.check(tmp_path / "x.svg")
    assert "pip install 'pushbroker[bench]'" in caught.value.remedy


def start(*args: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [PUSHBROKER, "bench", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )


def test_a_broker_that_fails_is_told_of(short_path: Path) -> None:
    """Of ten messages to each session it takes three."""
    options = ("--broker", "pushbroker", "--directory", short_path, "--setting", "queue_messages_max=3")
    run = start("--row", "durable-drain", *TINY, *options)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "cut a publisher off" in out
    assert list(short_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_leaves_nothing(short_path: Path, number: signal.Signals, code: int) -> None:
    run = start("--row", "durable-drain", "--broker", "pushbroker", "--directory", short_path)
    deadline = time.monotonic() + 30
    while not list(short_path.glob("*/pushbroker-tcp/lock")):  # it runs its broker
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(number)
    out, _ = run.communicate(timeout=30)
    assert run.returncode == code
    assert ("stopped at durable-drain" in out) == (number == signal.SIGINT)
    assert list(short_path.iterdir()) == []
