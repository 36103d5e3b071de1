"""Each thing that `doctor` looks at: well, and broken, with what to do."""

import shutil
import socket
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.cli import ok, pushbroker

from broker.address import Listener
from broker.command import checks
from broker.command.checks import Check
from broker.config import Settings, load


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("made") / "data"
    ok("init", "--data", data)
    return data


@pytest.fixture
def settings(made: Path, tmp_path: Path) -> Settings:
    shutil.copytree(made, tmp_path / "data")
    return load({"data": tmp_path / "data", "listen": ("mqtts://127.0.0.1:0",)}, environment={})


def bad(found: Iterator[Check]) -> list[tuple[str, str]]:
    """State and remedy of what is not well."""
    return [(check.state, check.remedy) for check in found if check.state != "ok"]


def test_all_is_well(settings: Settings) -> None:
    assert bad(checks.data_directory(settings)) == []
    assert bad(checks.certificates(settings, datetime.now(UTC))) == []
    assert [state for state, _ in bad(checks.schemas(settings))] == [
        "skipped",
        "skipped",
        "skipped",
    ]  # no journal, no messages, no content before the first start


def test_rights(settings: Settings) -> None:
    key = settings.certs_path / "ca.key"
    key.chmod(0o644)
    assert bad(checks.data_directory(settings)) == [("failed", f"chmod 600 {key}")]
    settings.data.chmod(0o755)
    assert ("failed", f"chmod 700 {settings.data}") in bad(checks.data_directory(settings))
    shutil.rmtree(settings.data)
    assert bad(checks.data_directory(settings)) == [("failed", f"pushbroker init --data {settings.data}")]


@pytest.mark.parametrize(("free", "state"), [(99 << 20, "failed"), (1000 << 20, "warning"), (2 << 30, "ok")])
def test_disk(settings: Settings, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    usage = shutil.disk_usage(settings.data)._replace(free=free)
    monkeypatch.setattr("broker.command.checks.shutil.disk_usage", lambda _path: usage)
    assert [check.state for check in checks.disk(settings)] == [state]


def test_databases(settings: Settings) -> None:
    with sqlite3.connect(settings.records_path) as database:
        database.execute("PRAGMA user_version = 999")
    database.close()
    states = {check.name: check for check in checks.schemas(settings)}
    assert states["records"].state == "failed"
    assert "make install" in states["records"].remedy
    settings.records_path.write_bytes(b"no database at all, but text" * 100)
    states = {check.name: check for check in checks.schemas(settings)}
    assert states["records"].state == "failed"
    assert "backup" in states["records"].remedy


@pytest.mark.parametrize(
    ("days", "states"),
    [
        (-2, ["failed", "failed"]),
        (0, ["ok", "ok"]),
        (390, ["ok", "warning"]),
        (500, ["ok", "failed"]),
        (3500, ["warning", "failed"]),
        (4000, ["failed", "failed"]),
    ],
)
def test_certificates_over_time(settings: Settings, days: int, states: list[str]) -> None:
    now = datetime.now(UTC) + timedelta(days=days)
    assert [check.state for check in checks.certificates(settings, now)] == states


def test_a_broken_certificate(settings: Settings) -> None:
    (settings.certs_path / "ca.crt").write_text("no certificate")
    assert bad(checks.certificates(settings, datetime.now(UTC)))[0][0] == "failed"


def test_a_port_that_is_taken(settings: Settings) -> None:
    assert bad(checks.free_ports(settings)) == []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        busy = load({"data": settings.data, "listen": (f"mqtt://127.0.0.1:{port}",)}, environment={})
        ((state, remedy),) = bad(checks.free_ports(busy))
    assert state == "failed"
    assert f"sport = :{port}" in remedy


def test_ports_that_do_not_answer_or_are_not_ours(settings: Settings, free_port: int) -> None:
    ((state, remedy),) = bad(checks.open_ports(settings, [Listener("mqtt", "127.0.0.1", free_port)]))
    assert state == "failed"
    assert "firewall" in remedy


def test_tokens_in_the_clear_are_warned_of(settings: Settings) -> None:
    open_to_all = load({"data": settings.data, "listen": ("mqtt://0.0.0.0:0",)}, environment={})
    assert [state for state, _ in bad(checks.free_ports(open_to_all))] == ["warning"]


def test_what_passes_through_a_unix_socket_is_not_in_the_clear(settings: Settings, tmp_path: Path) -> None:
    """Nor behind a proxy, with which others reach it: that one has the TLS."""
    listen = (f"ws+unix://{tmp_path}/s?proxy=unix",)
    assert bad(checks.free_ports(load({"data": settings.data, "listen": listen}, environment={}))) == []


def test_file_limits(settings: Settings) -> None:
    greedy = load({"data": settings.data, "connections_max": "10000000"}, environment={})
    ((state, remedy),) = [found for found in bad(checks.limits(greedy, None)) if "LimitNOFILE" in found[1]]
    assert state == "warning"
    assert "10000100" in remedy
    modest = load({"data": settings.data, "connections_max": "1"}, environment={})
    assert not [found for found in bad(checks.limits(modest, None)) if "LimitNOFILE" in found[1]]


def test_clock_says_something() -> None:
    (check,) = checks.clock()
    assert check.name == "clock"


def test_exit_codes(settings: Settings) -> None:
    env = {"PUSHBROKER_LISTEN": "mqtts://127.0.0.1:0"}
    well = pushbroker("doctor", "--data", settings.data, **env)
    assert well.code == 0, well
    assert "no broker is running" in well.out
    (settings.certs_path / "ca.key").chmod(0o644)
    ill = pushbroker("doctor", "--data", settings.data, "--json", **env)
    assert ill.code == 1
    assert [check["name"] for check in ill.json if check["state"] == "failed"] == ["keys"]
    (settings.data / "pushbroker.toml").write_text("colour = 1")
    worse = pushbroker("doctor", "--data", settings.data, "--json", **env)
    assert worse.code == 1
    assert worse.json[0]["name"] == "settings"
