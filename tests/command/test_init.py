"""`pushbroker init`: what it makes, and that it never makes it twice."""

from pathlib import Path

from support.cli import ok, pushbroker

from broker.command.init import config_text
from broker.config import SETTINGS, load


def test_init_makes_everything_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = ok("init", "--data", data, "--name", "push.example.com", "--json").json
    assert sorted(Path(path).name for path in first["made"]) == [
        "ca.crt",
        "ca.key",
        "pushbroker.toml",
        "records.db",
        "server.crt",
        "server.key",
    ]
    assert data.stat().st_mode & 0o777 == 0o700
    assert (data / "certs/ca.key").stat().st_mode & 0o777 == 0o600
    assert 'names = ["push.example.com"]' in (data / "pushbroker.toml").read_text()
    shown = ok("cert", "show", data / "certs/server.crt", "--json").json
    assert "push.example.com" in shown["names"]
    assert "localhost" in shown["names"]

    before = {path: path.read_bytes() for path in data.rglob("*") if path.suffix in (".crt", ".key", ".toml")}
    again = ok("init", "--data", data, "--json").json
    assert again["made"] == []
    assert {path: path.read_bytes() for path in before} == before
    changed = pushbroker("init", "--data", data, "--name", "other.example.com")
    assert changed.code == 4
    assert "Set names there" in changed.err


def test_init_says_what_comes_next(tmp_path: Path) -> None:
    done = ok("--data", tmp_path / "data", "init")
    assert done.out == ""
    assert f"pushbroker serve --data {tmp_path}/data" in done.err
    assert "pushbroker device code acme kiosk-1" in done.err


def test_init_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = pushbroker("init", "--data", tmp_path / "file" / "data")
    assert done.code == 1
    assert "Not a directory" in done.err
    assert "Traceback" not in done.err


def test_the_file_that_init_writes_is_read_back(tmp_path: Path) -> None:
    given = {"names": ("push.example.com",), "connections_max": 7}
    settings = load({"data": tmp_path, **given}, environment={})
    (tmp_path / "pushbroker.toml").write_text(config_text(settings, given=set(given)))
    assert load({"data": tmp_path}, environment={}) == settings
    # Each line that is commented out is a valid default, too.
    text = config_text(settings, given=set())
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ") and " = " in line]
    assert len(lines) == sum(setting.in_file for setting in SETTINGS)
    (tmp_path / "pushbroker.toml").write_text("\n".join(line for line in lines if not line.endswith('""')))
    assert load({"data": tmp_path}, environment={}) == load({"data": tmp_path / "empty"}, environment={}).__class__(
        data=tmp_path
    )
