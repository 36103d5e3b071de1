"""`pushbroker audit`, with a running broker and without one."""

import json
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import PUSHBROKER, Done, environment, serving

from broker.command.root import run


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def cli(*args: str, code: int = 0) -> Done:
        found = run([*args, "--data", str(tmp_path)])
        written = capsys.readouterr()
        assert found == code, written
        return Done(found, written.out, written.err)

    cli("init")
    cli("brand", "add", "acme")
    cli("brand", "add", "zeta")
    cli("user", "add", "acme", "ada")
    return cli


def test_it_lists_who_did_what_and_only_what_was_asked_for(cli: Callable[..., Done]) -> None:
    heading, *lines = cli("audit").out.splitlines()
    assert heading.split() == ["At", "Actor", "Brand", "Operation", "Target", "Outcome", "Detail"]
    assert [line.split()[3] for line in lines if "init" not in line][-3:] == ["brand.add", "brand.add", "user.add"]
    assert [one["operation"] for one in cli("audit", "acme", "--operation", "user", "--json").json] == ["user.add"]
    assert cli("audit", "--actor", "agent:mia").err == "Nothing was noted.\n"
    assert [one["brand"] for one in cli("audit", "zeta", "--since", "1h", "--json").json] == ["zeta"]


def test_it_follows_what_is_done_in_the_running_broker(cli: Callable[..., Done], tmp_path: Path) -> None:
    command = [PUSHBROKER, "audit", "acme", "--operation", "user", "--follow", "--json", "--data", str(tmp_path)]
    with (
        serving("--data", tmp_path, "--listen", "mqtt://127.0.0.1:0"),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        ) as following,
    ):
        try:
            assert following.stdout is not None
            for number in range(100):  # it shows what comes after it has begun, and does not say when that is
                cli("user", "add", "acme", f"user-{number}")
                if select.select([following.stdout], [], [], 0.1)[0]:
                    break
            assert json.loads(following.stdout.readline())["operation"] == "user.add"
            following.send_signal(signal.SIGINT)
            assert following.wait(10) == 130
            assert following.stderr is not None
            assert not following.stderr.read().strip()
        finally:
            following.kill()
