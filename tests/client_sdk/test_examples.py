"""The two example programs, as a reader of the README would run them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.authority import TestAuthority
from support.kiosk import until
from support.ours import OurBroker

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[OurBroker]:
    broker = OurBroker(tmp_path / "data")
    broker.start()
    broker.command("brand", "add", "acme")
    broker.command("user", "add", "acme", "ada")
    yield broker
    broker.kill()


def start(example: str, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / example), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def read_until(program: subprocess.Popen[str], word: str) -> str:
    """What it says, up to the line with `word`."""
    assert program.stdout
    said = ""
    for line in program.stdout:
        said += line
        if word in line:
            return said
    raise AssertionError(f"{word!r} was not said, but: {said}")


def test_both_together(broker: OurBroker, tmp_path: Path) -> None:
    code = broker.command("device", "code", "acme", "kiosk-7", "--user", "ada")["code"]
    token = str(broker.command("brand", "token", "issue", "acme")["secret"])
    kiosk = start(
        "kiosk.py", "--url", broker.url, "--dir", tmp_path / "kiosk", "--ca", broker.ca, "--code", code, "--until", "1"
    )
    assert "enrolled as acme/device/kiosk-7" in read_until(kiosk, "connected")
    server = start(
        "brand_server.py",
        *(
            "--url",
            broker.url,
            "--ca",
            broker.ca,
            "--user",
            "ada",
            "--title",
            "Ciao Ada",
            "--body",
            "It is \x1b[31mready",
        ),
        PUSHBROKER_TOKEN=token,
    )
    shown, _ = kiosk.communicate(timeout=20)
    told, _ = server.communicate(timeout=20)
    assert "┌─ Ciao Ada ─" in shown
    assert "\x1b" not in shown  # what a brand sends does not command the terminal
    assert [line.split()[0] for line in told.splitlines()] == ["accepted", "delivered", "displayed"]
    assert (kiosk.returncode, server.returncode) == (0, 0)

    kiosk = start("kiosk.py", "--dir", tmp_path / "kiosk")  # the directory is all that it needs now
    read_until(kiosk, "connected")
    kiosk.send_signal(signal.SIGINT)
    left, _ = kiosk.communicate(timeout=20)
    assert (left, kiosk.returncode) == ("", 0)


def test_pushed_and_withdrawn(broker: OurBroker, tmp_path: Path) -> None:
    code = broker.command("device", "code", "acme", "kiosk-7", "--user", "ada")["code"]
    token = str(broker.command("brand", "token", "issue", "acme")["secret"])
    where = ("--url", broker.url, "--ca", broker.ca)
    kiosk = start("kiosk.py", *where, "--dir", tmp_path / "kiosk", "--code", code, "--opt-in", "news")
    read_until(kiosk, "connected")
    until(lambda: broker.command("user", "consents", "acme", "ada"))
    pushing = ("--condition", "topic:news", "--title", "News", "--withdraw")
    server = start("brand_server.py", *where, *pushing, PUSHBROKER_TOKEN=token)
    assert "┌─ News ─" in read_until(kiosk, "taken off the screen: m")
    told, _ = server.communicate(timeout=20)
    assert [line.split()[0] for line in told.splitlines()] == ["accepted", "delivered", "displayed", "withdrawn"]
    kiosk.send_signal(signal.SIGTERM)
    kiosk.communicate(timeout=20)
    assert (kiosk.returncode, server.returncode) == (0, 0)


def test_asked_and_answered(broker: OurBroker, tmp_path: Path) -> None:
    cakes = [{"name": f"cake-{name}", "title": f"Cake with {name}"} for name in ("apples", "cream")]
    (tmp_path / "cakes.json").write_text(json.dumps(cakes))
    broker.command("content", "import", "acme", str(tmp_path / "cakes.json"))
    broker.command("agent", "add", "acme", "mia")
    code = broker.command("device", "code", "acme", "kiosk-7", "--user", "ada")["code"]
    where = ("--url", broker.url, "--ca", broker.ca)
    kiosk = start("kiosk.py", *where, "--dir", tmp_path / "kiosk", "--code", code, "--until", "1")
    assert kiosk.stdin
    print("cake\n2\noperator", file=kiosk.stdin, flush=True)
    assert "1. Cake with apples\n2. Cake with cream" in read_until(kiosk, "2. Cake with cream")
    read_until(kiosk, "Cake with cream")
    read_until(kiosk, "Somebody will answer you here.")
    (waiting,) = broker.command("inbox", "list", "acme")
    broker.command("inbox", "reply", "acme", waiting["id"], "Which one?", "--agent", "mia")
    shown, _ = kiosk.communicate(timeout=20)
    assert "Which one?" in shown
    assert kiosk.returncode == 0


def test_a_revoked_kiosk_says_what_to_do_and_goes_on(broker: OurBroker, tmp_path: Path) -> None:
    code = broker.command("device", "code", "acme", "kiosk-7")["code"]
    kiosk = start("kiosk.py", "--url", broker.url, "--dir", tmp_path / "kiosk", "--ca", broker.ca, "--code", code)
    read_until(kiosk, "connected")
    broker.command("device", "revoke", "acme", "kiosk-7", "--yes")
    said = read_until(kiosk, "offline")
    assert "the certificate of acme/device/kiosk-7 is not accepted any more" in said
    assert "pushbroker device code acme kiosk-7" in said
    assert kiosk.poll() is None
    kiosk.send_signal(signal.SIGTERM)
    kiosk.communicate(timeout=20)
    assert kiosk.returncode == 0


@pytest.mark.parametrize("wrong", ["ca", "token", "code"])
def test_what_waiting_does_not_heal_is_said_at_once(broker: OurBroker, tmp_path: Path, wrong: str) -> None:
    (tmp_path / "other.crt").write_bytes(TestAuthority("Somebody else").pem)
    ca = tmp_path / "other.crt" if wrong == "ca" else broker.ca
    where = ("--url", broker.url, "--ca", ca)
    if wrong == "code":
        program = start("kiosk.py", *where, "--dir", tmp_path / "kiosk", "--code", "00000-00000-00000-00000")
    else:
        program = start("brand_server.py", *where, "--user", "ada", PUSHBROKER_TOKEN="pbt_wrong")
    said, _ = program.communicate(timeout=9)  # less than any of their time limits
    assert program.returncode == 1
    assert len(said.splitlines()) == 1
    assert {"ca": "cert ca", "token": "brand token issue acme", "code": "device code BRAND DEVICE"}[wrong] in said


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    kiosk = start("kiosk.py", "--dir", tmp_path / "kiosk")
    said, _ = kiosk.communicate(timeout=20)
    assert "give --url and --code, and --ca" in said
    assert kiosk.returncode == 2
    server = start("brand_server.py", "--url", "mqtts://localhost:1", "--user", "ada", PUSHBROKER_TOKEN="")
    said, _ = server.communicate(timeout=20)
    assert "PUSHBROKER_TOKEN" in said
    assert server.returncode == 1


@pytest.mark.parametrize(
    "command",
    [
        ("kiosk.py", "--dir", "kiosk", "--code", "XXXXX-XXXXX-XXXXX-XXXXX"),
        ("brand_server.py", "--user", "ada", "--title", "x"),
    ],
    ids=lambda command: str(command[0]),
)
def test_a_certificate_that_is_not_there(command: tuple[str, ...], tmp_path: Path) -> None:
    example, *arguments = (str(tmp_path / word) if word == "kiosk" else word for word in command)
    missing = tmp_path / "ca.crt"
    program = start(example, "--url", "mqtts://localhost:1", "--ca", missing, *arguments, PUSHBROKER_TOKEN="pbt_x")
    said, _ = program.communicate(timeout=20)
    assert (program.returncode, said) == (1, f"{missing}: No such file or directory\n")


def test_a_kiosk_obeys(broker: OurBroker, tmp_path: Path) -> None:
    code = broker.command("device", "code", "acme", "kiosk-7")["code"]
    kiosk = start("kiosk.py", "--url", broker.url, "--dir", tmp_path / "kiosk", "--ca", broker.ca, "--code", code)
    read_until(kiosk, "connected")
    broker.command("command", "run", "acme", "reload", "--device", "kiosk-7", "--arg", "page=menu")
    read_until(kiosk, "reloaded menu")
    broker.command("command", "run", "acme", "message", "--all", "--arg", "text=Back in 5 \x1b[31mminutes")
    read_until(kiosk, "*** Back in 5 ?[31mminutes ***")
    broker.command("device", "config", "set", "acme", "kiosk-7", "volume=3")
    read_until(kiosk, "volume 3")
    kiosk.send_signal(signal.SIGTERM)
    kiosk.communicate(timeout=20)
    assert kiosk.returncode == 0
