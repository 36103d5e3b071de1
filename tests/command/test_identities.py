"""Brands, users, stores, devices, tokens, certificates: the commands on the records, without a broker."""

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from support.cli import PUSHBROKER, environment, ok, pushbroker


@pytest.fixture
def data(tmp_path: Path) -> Path:
    ok("init", "--data", tmp_path)
    return tmp_path


@pytest.fixture
def acme(data: Path) -> Path:
    ok("brand", "add", "acme", "--title", "Acme [S.p.A.]", "--data", data)
    ok("user", "add", "acme", "ada", "--data", data)
    ok("store", "add", "acme", "milano", "--data", data)
    return data


def test_brands(acme: Path) -> None:
    env = {"PUSHBROKER_DATA": str(acme)}
    listed = ok("brand", "list", "--json", **env).json
    assert [brand["name"] for brand in listed] == ["acme"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", listed[0]["created_at"])
    table = ok("brand", "list", **env).out
    assert "Acme [S.p.A.]" in table
    assert "created at" in table.splitlines()[0].lower()
    shown = ok("brand", "show", "acme", "--json", **env).json
    assert (shown["users"], shown["overflow"]) == (1, "reject")
    assert "title" in ok("brand", "show", "acme", **env).out

    again = pushbroker("brand", "add", "acme", **env)
    assert again.code == 4
    bad = pushbroker("brand", "add", "ac/me", **env)
    assert bad.code == 4
    assert "try: " in bad.err
    assert pushbroker("brand", "show", "nobody", **env).code == 3
    assert pushbroker("brand", "add", **env).code == 2


def test_what_a_brand_does_when_too_much_waits(acme: Path) -> None:
    env = {"PUSHBROKER_DATA": str(acme)}
    ok("brand", "add", "bolt", "--overflow", "drop-oldest", **env)
    changed = ok("brand", "set", "acme", "--overflow", "drop-oldest", "--json", **env).json
    assert (changed["overflow"], changed["title"]) == ("drop-oldest", "Acme [S.p.A.]")
    assert ok("brand", "set", "bolt", "--overflow", "reject", "--title", "Bolt", **env).err == "brand bolt changed\n"
    listed = ok("brand", "list", "--json", **env).json
    assert {b["name"]: (b["overflow"], b["title"]) for b in listed} == {
        "acme": ("drop-oldest", "Acme [S.p.A.]"),
        "bolt": ("reject", "Bolt"),
    }
    table = ok("brand", "list", **env).out.splitlines()
    assert "Overflow" in table[0]
    assert "drop-oldest" in table[1]
    assert "drop-oldest" in ok("brand", "show", "acme", **env).out
    for wrong in (("brand", "set", "acme"), ("brand", "set", "acme", "--overflow", "perhaps")):
        assert pushbroker(*wrong, **env).code == 2
    assert pushbroker("brand", "set", "nobody", "--title", "x", **env).code == 3


def test_the_command_knows_all_ways_to_overflow() -> None:
    from broker.command.brand import _OVERFLOWS
    from broker.store.entries import Overflow

    assert list(_OVERFLOWS) == list(Overflow)


def test_nothing_destructive_without_a_word(acme: Path) -> None:
    env = {"PUSHBROKER_DATA": str(acme)}
    for command in (
        ("brand", "remove", "acme"),
        ("user", "remove", "acme", "ada"),
        ("store", "remove", "acme", "milano"),
    ):
        refused = pushbroker(*command, **env)
        assert refused.code == 2, command
        assert "--yes" in refused.err
        ok(command[0], "show", *command[2:], **env)
    assert ok("user", "remove", "acme", "ada", "--yes", "--json", **env).json["removed"] is True
    assert pushbroker("user", "show", "acme", "ada", **env).code == 3
    assert pushbroker("user", "remove", "acme", "ada", "--yes", **env).code == 3
    ok("brand", "remove", "acme", **env, PUSHBROKER_BRAND_REMOVE_YES="1")
    assert ok("brand", "list", "--json", **env).json == []


def test_nobody_is_asked_about_what_is_not_there(acme: Path) -> None:
    """Without a terminal a question is a usage error (2), so these come before it."""
    for command in (
        ("brand", "remove", "nobody"),
        ("brand", "token", "revoke", "acme", "none"),
        ("brand", "token", "revoke", "nobody", "none"),
        ("user", "remove", "acme", "bob"),
        ("store", "remove", "acme", "roma"),
        ("device", "revoke", "acme", "kiosk-7"),
        ("device", "remove", "acme", "kiosk-7"),
        ("cert", "revoke", "4f3c"),
    ):
        done = pushbroker(*command, "--data", acme)
        assert done.code == 3, (command, done.err)
        assert "try: pushbroker " in done.err


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1)])
def test_a_person_is_asked(acme: Path, answer: bytes, code: int) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PUSHBROKER, "brand", "remove", "acme", "--data", acme],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment(),
    )
    os.close(theirs)
    seen = b""
    while b"?" not in seen:
        seen += os.read(ours, 1000)
    os.write(ours, answer)
    assert process.wait(30) == code
    os.close(ours)
    assert (pushbroker("brand", "show", "acme", "--data", acme).code == 3) is (code == 0)


def test_tokens(acme: Path) -> None:
    env = {"PUSHBROKER_DATA": str(acme)}
    issued = ok("brand", "token", "issue", "acme", "--name", "crm", "--ttl", "90d", **env)
    secret = issued.out.strip()
    assert secret.startswith("pbt_")
    assert secret not in issued.err
    (token,) = ok("brand", "token", "list", "acme", "--json", **env).json
    assert token["name"] == "crm"
    assert secret not in ok("brand", "token", "list", "acme", **env).out
    assert pushbroker("brand", "token", "revoke", "acme", token["id"], **env).code == 2  # nobody said yes
    ok("brand", "token", "revoke", "acme", token["id"], "--yes", **env)
    (token,) = ok("brand", "token", "list", "acme", "--json", **env).json
    assert token["revoked_at"]
    assert pushbroker("brand", "token", "revoke", "acme", "none", "--yes", **env).code == 3
    assert pushbroker("brand", "token", "issue", "acme", "--ttl", "soon", **env).code == 2


def test_devices(acme: Path) -> None:
    env = {"PUSHBROKER_DATA": str(acme)}
    made = ok("device", "code", "acme", "kiosk-1", "--user", "ada", "--store", "milano", **env)
    assert re.fullmatch(r"[0-9A-Z]{5}(-[0-9A-Z]{5}){3}\n", made.out)
    assert "device enrol" in made.err
    (device,) = ok("device", "list", "acme", "--user", "ada", "--json", **env).json
    assert (device["name"], device["store"], device["state"]) == ("kiosk-1", "milano", "pending")
    ok("device", "assign", "acme", "kiosk-1", "--store", "", **env)
    shown = ok("device", "show", "acme", "kiosk-1", "--json", **env).json
    assert (shown["user"], shown["store"]) == ("ada", "")
    assert pushbroker("device", "assign", "acme", "kiosk-1", **env).code == 2
    missing = pushbroker("device", "code", "acme", "kiosk-2", "--user", "grace", **env)
    assert missing.code == 3
    assert "pushbroker user add acme grace" in missing.err
    ok("device", "revoke", "acme", "kiosk-1", "--yes", **env)
    assert ok("device", "show", "acme", "kiosk-1", "--json", **env).json["state"] == "revoked"
    ok("device", "remove", "acme", "kiosk-1", "--yes", **env)
    assert ok("device", "list", "--json", **env).json == []


def test_passwords_come_from_stdin(acme: Path) -> None:
    env = {"PUSHBROKER_DATA": str(acme)}
    ok("device", "code", "acme", "till-3", **env)
    ok("device", "password", "acme", "till-3", stdin="correct horse battery\n", **env)
    assert ok("device", "show", "acme", "till-3", "--json", **env).json["password"] is True
    assert pushbroker("device", "password", "acme", "till-3", stdin="", **env).code == 2
    ok("device", "password", "acme", "till-3", "--remove", **env)
    assert ok("device", "show", "acme", "till-3", "--json", **env).json["password"] is False
    ok("brand", "password", "acme", "crm", stdin="correct horse battery\n", **env)
    assert pushbroker("device", "password", "nobody", "till-3", stdin="correct horse battery\n", **env).code == 3
    short = pushbroker("device", "password", "acme", "till-3", stdin="short\n", **env)
    assert short.code == 4


def test_certificates(acme: Path, tmp_path: Path) -> None:
    env = {"PUSHBROKER_DATA": str(acme)}
    out = tmp_path / "crm"
    ok("cert", "issue", "acme/server/crm", "--out", out, **env)
    assert (out / "crm.key").stat().st_mode & 0o777 == 0o600
    assert ok("cert", "ca", **env).out.strip() == (out / "ca.crt").read_text().strip()
    shown = ok("cert", "show", out / "crm.crt", "--json", **env).json
    assert shown["names"] == ["spiffe://pushbroker.local/brand/acme/server/crm"]
    key = (out / "crm.key").read_bytes()
    assert pushbroker("cert", "issue", "acme/server/crm", "--out", out, **env).code == 4
    ok("cert", "renew", "acme/server/crm", "--out", out, **env)
    assert (out / "crm.key").read_bytes() == key
    serials = {issued["serial"] for issued in ok("cert", "list", "acme", "--json", **env).json}
    assert len(serials) == 2
    renewed = ok("cert", "show", out / "crm.crt", "--json", **env).json["serial"]
    assert renewed in serials
    assert renewed != shown["serial"]
    assert pushbroker("cert", "revoke", shown["serial"], **env).code == 2  # it is there, and nobody said yes
    as_openssl = ":".join(re.findall("..", shown["serial"].upper().rjust(len(shown["serial"]) // 2 * 2 + 2, "0")))
    assert ok("cert", "show", as_openssl, "--json", **env).json["revoked_at"] is None
    ok("cert", "revoke", as_openssl, "--yes", **env)
    assert ok("cert", "show", shown["serial"], "--json", **env).json["revoked_at"]
    assert pushbroker("cert", "revoke", "00", "--yes", **env).code == 3
    assert pushbroker("cert", "show", "00", **env).code == 3
    assert pushbroker("cert", "issue", "acme", "--out", out, **env).code == 2
    assert pushbroker("cert", "issue", "acme/server/x", **env).code == 2
    ok("cert", "issue", "admin/root", "--out", tmp_path / "admin", **env)


def test_a_request_made_elsewhere(acme: Path, tmp_path: Path) -> None:
    from broker.command.cert import _new_key

    _, csr = _new_key("whatever")
    done = ok("cert", "issue", "acme/server/crm", "--csr", "-", "--data", acme, stdin=csr.decode())
    assert done.out.startswith("-----BEGIN CERTIFICATE-----")
    bad = pushbroker("cert", "issue", "acme/server/crm", "--csr", "-", "--data", acme, stdin="no request")
    assert bad.code == 4
    assert "Traceback" not in bad.err


def test_names_complete_from_the_records(acme: Path) -> None:
    def complete(line: str) -> list[str]:
        done = subprocess.run(
            [PUSHBROKER],
            capture_output=True,
            text=True,
            check=True,
            env=environment(
                COMP_WORDS=line,
                COMP_CWORD=str(len(line.split(" ")) - 1),
                _PUSHBROKER_COMPLETE="bash_complete",
                PUSHBROKER_DATA=str(acme),
            ),
        )
        return [entry.partition(",")[2] for entry in done.stdout.split()]

    ok("device", "code", "acme", "kiosk-1", "--data", acme)
    assert complete("pushbroker brand show a") == ["acme"]
    assert complete("pushbroker user show acme ") == ["ada"]
    assert complete("pushbroker device show acme k") == ["kiosk-1"]
    assert complete("pushbroker device code acme x --store m") == ["milano"]
    assert complete("pushbroker user show other ") == []
    assert complete("pushbroker brand show _") == []


def test_without_a_data_directory(tmp_path: Path) -> None:
    done = pushbroker("brand", "list", "--data", tmp_path / "none")
    assert done.code == 3
    assert f"pushbroker init --data {tmp_path}/none" in done.err
    for command in (["status"], ["connections"], ["tail"], ["send", "acme/user/ada", "x"]):
        done = pushbroker(*command, "--data", tmp_path / "none")
        assert done.code == 5, command
        assert f"pushbroker serve --data {tmp_path}/none" in done.err


def test_a_wrong_setting_stops_every_command(data: Path) -> None:
    (data / "pushbroker.toml").write_text("colour = 1\n")
    done = pushbroker("brand", "list", "--data", data)
    assert done.code == 2
    assert "no setting 'colour'" in done.err


def test_a_broken_pipe_is_quiet(acme: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{PUSHBROKER} brand list --data {acme} | true"],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert done.stderr == ""
