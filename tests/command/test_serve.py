"""`pushbroker serve` as a process: the line when ready, signals, supervisors, what it refuses."""

import json
import re
import resource
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.cli import PUSHBROKER, Serving, environment, ok, pushbroker, serving

LOOPBACK = ("--listen", "mqtt://127.0.0.1:0", "--listen", "mqtts://127.0.0.1:0")


def connect(port: int, *, v5: bool = True, context: ssl.SSLContext | None = None, name: bytes = b"x") -> socket.socket:
    """A client that presents nothing, connected; the answer is a CONNACK that accepts it."""
    plain = socket.create_connection(("127.0.0.1", port), 10)
    sock = context.wrap_socket(plain, server_hostname="localhost") if context else plain
    variable = b"\x00\x04MQTT" + bytes([5 if v5 else 4, 2]) + b"\x00\x3c" + (b"\x00" if v5 else b"")
    body = variable + b"\x00\x01" + name
    sock.sendall(bytes([0x10, len(body)]) + body)
    try:
        answer = sock.recv(100)
    except ConnectionResetError:
        answer = b""
    if answer[:1] != b"\x20" or answer[3] != 0:
        sock.close()
        raise ConnectionRefusedError(answer)
    return sock


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while chunk := sock.recv(1000):
        data += chunk
    return data


def test_the_contract(tmp_path: Path, free_port: int) -> None:
    """Two listeners, open mode, nothing made before: one line when ready, DISCONNECT and a clean exit on SIGTERM."""
    data = tmp_path / "new" / "data"
    listen = ("--listen", f"mqtt://127.0.0.1:{free_port}", "--listen", "mqtts://127.0.0.1:0")
    with serving("--data", data, *listen, "--allow-anonymous") as broker:
        line = rf"ready: mqtt://127\.0\.0\.1:{free_port} mqtts://127\.0\.0\.1:\d+ \(\d+\.\d\d s\)\n"
        assert re.fullmatch(line, broker.first_line)
        context = ssl.create_default_context(cafile=str(data / "certs/ca.crt"))
        with connect(free_port) as five, connect(broker.port("mqtts"), v5=False, context=context, name=b"y") as three:
            assert ok("status", "--data", data, "--json").json["clients"] == 2
            code, err = broker.stop()
            assert code == 0, err
            assert read_all(five) == b"\xe0\x01\x8b"  # DISCONNECT, server shutting down
            assert read_all(three) == b""
    assert not (data / "admin.sock").exists()
    assert "Traceback" not in err


def test_an_interrupt_is_a_clean_stop_too(tmp_path: Path) -> None:
    with serving("--data", tmp_path, *LOOPBACK) as broker:
        assert broker.stop(signal.SIGINT)[0] == 0


def test_sighup_reloads_without_dropping_a_connection(tmp_path: Path) -> None:
    with serving("--data", tmp_path, *LOOPBACK, "--allow-anonymous") as broker, connect(broker.port("mqtt")) as client:
        (tmp_path / "pushbroker.toml").write_text("colour = 1\n")
        wait_for_log(broker, signal.SIGHUP, "reload refused")
        (tmp_path / "pushbroker.toml").write_text("connections_max = 1\n")
        wait_for_log(broker, signal.SIGHUP, "reloaded")
        client.sendall(b"\xc0\x00")
        assert client.recv(2) == b"\xd0\x00"
        with pytest.raises(ConnectionRefusedError):  # closed without a word: one too many now
            connect(broker.port("mqtt"), name=b"y")


def wait_for_log(broker: Serving, number: int, text: str) -> None:
    assert broker.process.stderr is not None
    broker.process.send_signal(number)
    while text not in broker.process.stderr.readline():
        assert broker.process.poll() is None


def test_a_tail_ends_with_its_broker(tmp_path: Path) -> None:
    with serving("--data", tmp_path, *LOOPBACK) as broker:
        command = [PUSHBROKER, "tail", "--data", tmp_path]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as tail:
            assert tail.stderr is not None
            assert "following" in tail.stderr.readline()
            assert broker.stop()[0] == 0
            _, err = tail.communicate(timeout=20)
    assert tail.returncode == 5
    assert "it was stopped" in err


def test_anonymous_access_off_loopback_is_refused(tmp_path: Path) -> None:
    flags = ("--data", tmp_path, "--listen", "mqtt://0.0.0.0:0", "--allow-anonymous")
    done = pushbroker("serve", *flags)
    assert done.code == 4
    assert "--allow-anonymous-anywhere" in done.err
    with serving(*flags, "--allow-anonymous-anywhere") as broker:
        connect(broker.port("mqtt")).close()


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = pushbroker("serve", "--data", tmp_path, "--listen", f"mqtt://127.0.0.1:{port}")
    assert done.code == 1
    assert f"sport = :{port}" in done.err
    assert "Traceback" not in done.err


def test_one_broker_on_a_directory(tmp_path: Path) -> None:
    with serving("--data", tmp_path, *LOOPBACK) as broker:
        done = pushbroker("serve", "--data", tmp_path, *LOOPBACK)
        assert done.code == 1
        assert f"in use by process {broker.process.pid}" in done.err
        ok("brand", "add", "acme", "--data", tmp_path)
        assert broker.stop()[0] == 0
    assert [brand["name"] for brand in ok("brand", "list", "--data", tmp_path, "--json").json] == ["acme"]


def test_settings_from_the_environment(tmp_path: Path) -> None:
    env = {
        "PUSHBROKER_DATA": str(tmp_path),
        "PUSHBROKER_LISTEN": "mqtt://127.0.0.1:0",
        "PUSHBROKER_PID_FILE": str(tmp_path / "pid"),
    }
    with serving(**env) as broker:
        assert (tmp_path / "pid").read_text() == f"{broker.process.pid}\n"
        assert broker.stop()[0] == 0
    assert not (tmp_path / "pid").exists()


def test_the_file_limit_is_raised(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with serving("--data", tmp_path, *LOOPBACK) as broker:
        assert resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)


@contextmanager
def supervisor(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.settimeout(20)
        yield listening


def await_state(listening: socket.socket, wanted: str) -> list[str]:
    while True:
        lines = listening.recv(4096).decode().splitlines()
        if wanted in lines:
            return lines


def test_a_supervisor_hears_of_each_stage(tmp_path: Path) -> None:
    with supervisor(tmp_path / "notify") as listening:
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with serving("--data", tmp_path, *LOOPBACK, **env) as broker:
            await_state(listening, "EXTEND_TIMEOUT_USEC=20000000")
            assert any(line.startswith("STATUS=serving mqtt://") for line in await_state(listening, "READY=1"))
            await_state(listening, "WATCHDOG=1")
            await_state(listening, "WATCHDOG=1")
            broker.process.send_signal(signal.SIGHUP)
            reloading = await_state(listening, "RELOADING=1")
            assert any(re.fullmatch(r"MONOTONIC_USEC=\d+", line) for line in reloading)
            await_state(listening, "READY=1")
            broker.process.send_signal(signal.SIGTERM)
            await_state(listening, "STOPPING=1")
            assert broker.process.wait(30) == 0


def test_a_data_directory_of_a_newer_version(tmp_path: Path) -> None:
    ok("init", "--data", tmp_path)
    with (tmp_path / "records.db").open("r+b") as file:
        file.seek(60)  # the user_version in an SQLite header
        file.write(struct.pack(">I", 999))
    for command in (["serve", *LOOPBACK], ["brand", "list"]):
        done = pushbroker(*command, "--data", tmp_path)
        assert done.code == 1, command
        assert "try: " in done.err
        assert "Traceback" not in done.err


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = pushbroker("serve", "--data", tmp_path / "file" / "data", *LOOPBACK)
    assert done.code == 1
    assert "--data" in done.err


def test_dev_furnishes_and_cleans_up() -> None:
    with serving("--json", command="dev") as dev:
        made = json.loads(dev.first_line)
        data = Path(made["data"])
        env = {"PUSHBROKER_DATA": str(data)}
        assert ok("device", "show", made["brand"], made["device"], "--json", **env).json["user"] == made["user"]
        out = data / "kiosk"
        url = made["addresses"][0].replace("127.0.0.1", "localhost")
        ok("device", "enrol", "--url", url, "--ca", made["ca"], "--out", out, stdin=made["code"] + "\n")
        used = pushbroker("device", "enrol", "--url", url, "--ca", made["ca"], "--out", data / "b", stdin=made["code"])
        assert used.code == 4
        again = pushbroker("device", "enrol", "--url", url, "--ca", made["ca"], "--out", out, stdin=made["code"])
        assert again.code == 4
        began = time.monotonic()
        trusting = pushbroker("device", "enrol", "--url", url, "--out", data / "c", stdin=made["code"])  # no --ca
        assert (trusting.code, "pushbroker cert ca > ca.crt" in trusting.err) == (5, True)
        assert time.monotonic() - began < 20  # and not the minute for which it would wait for a broker
        code, err = dev.stop(signal.SIGINT)
        assert code == 0, err
    assert not data.exists()


def test_dev_prints_lines_to_copy() -> None:
    with serving(command="dev") as dev:
        assert dev.process.stdout is not None
        lines = [dev.first_line, *(dev.process.stdout.readline() for _ in range(16))]
        text = "".join(lines)
        for line in ("pushbroker tail --data", "pushbroker send --data", "mosquitto_pub", "pushbroker device enrol"):
            assert line in text
