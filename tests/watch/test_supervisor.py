"""What a supervisor hears from us and hands to us."""

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker.errors import Failed
from broker.watch import supervisor


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@pushbroker-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        listening.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert supervisor.notify(READY=1, STATUS="serving mqtts://[::]:8883")
        assert listening.recv(1000) == b"READY=1\nSTATUS=serving mqtts://[::]:8883"


def test_notify_without_anyone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not supervisor.notify(READY=1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not supervisor.notify(READY=1)


def test_watchdog_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert supervisor.watchdog_interval_s() == 0
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert supervisor.watchdog_interval_s() == 15
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert supervisor.watchdog_interval_s() == 0


def test_inherited_socket(tmp_path: Path) -> None:
    """A process that gets a Unix socket as file descriptor 3, as from a `.socket` unit, finds it."""
    code = (
        "import os; os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "from broker.watch.supervisor import inherited_sockets\n"
        "(found,) = inherited_sockets()\n"
        "print(found.getsockname(), inherited_sockets())"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        fd = listening.fileno()
        command = f'exec 3<&{fd}; exec "$0" -c "$1"'
        done = subprocess.run(
            ["bash", "-c", command, sys.executable, code],
            pass_fds=[fd],
            env={**os.environ, "LISTEN_FDS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.strip() == f"{tmp_path / 's'} []"
    assert supervisor.inherited_sockets() == []


@pytest.mark.parametrize("what", ["datagram", "connected", "bound", "file", "nothing", "garbage"])
def test_what_does_not_listen_is_refused_in_words(what: str) -> None:
    code = (
        "import os; os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "from broker.errors import Misconfigured\n"
        "from broker.watch.supervisor import inherited_sockets\n"
        "try: inherited_sockets()\n"
        "except Misconfigured as error: print(error)"
    )
    one, other = socket.socketpair()
    with one, other, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, socket.socket() as bound:
        datagram.bind(("127.0.0.1", 0))
        bound.bind(("127.0.0.1", 0))
        sources = {"datagram": datagram.fileno(), "connected": one.fileno(), "bound": bound.fileno()}
        fd = sources.get(what, -1)
        fails = "exec 3</dev/null" if what == "file" else "exec 3<&-"
        redirection = f"exec 3<&{fd}" if fd >= 0 else fails
        done = subprocess.run(
            ["bash", "-c", f'{redirection}; exec "$0" -c "$1"', sys.executable, code],
            pass_fds=[fd] if fd >= 0 else [],
            env={**os.environ, "LISTEN_FDS": "many" if what == "garbage" else "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.startswith("systemd handed over descriptor 3, which is no socket that listens"), done


def test_file_limit_is_raised_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
    try:
        assert supervisor.raise_file_limit() == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_pid_file(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with supervisor.pid_file(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()
    with supervisor.pid_file(None):
        pass
    with pytest.raises(Failed, match="pid file"), supervisor.pid_file(tmp_path / "no" / "pid"):
        pass
