"""The real `pushbroker` command, as a process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import forked

PUSHBROKER = Path(sys.executable).with_name("pushbroker")
_TIMEOUT_S = 60


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would change the commands."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PUSHBROKER_", "NOTIFY_SOCKET"))}
    return {**ours, "COLUMNS": "120", **more}


def pushbroker(*args: object, stdin: str = "", **env: str) -> Done:
    """Run a command to its end."""
    return Done(*forked.run([str(arg) for arg in args], stdin, environment(**env), _TIMEOUT_S))


def without_rights(*args: object, **env: str) -> Done:
    """Run a command as one whom the rights of files hold back; to root they do so without two of its capabilities."""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*drop, PUSHBROKER, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        env=environment(**env),
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def ok(*args: object, stdin: str = "", **env: str) -> Done:
    """Run a command that must succeed."""
    done = pushbroker(*args, stdin=stdin, **env)
    assert done.code == 0, (args, done)
    return done


class Serving:
    """A running `pushbroker serve` (or `dev`)."""

    def __init__(self, process: "subprocess.Popen[str]", first_line: str) -> None:
        self.process = process
        self.first_line = first_line
        self.urls = [word for word in first_line.split() if word.startswith("mqtt")]

    def port(self, scheme: str) -> int:
        return int(next(url for url in self.urls if url.startswith(scheme + ":")).rsplit(":", 1)[1])

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signal it and wait; returns the exit code and what it wrote to stderr."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


@contextmanager
def serving(*args: object, command: str = "serve", **env: str) -> Iterator[Serving]:
    """A broker in its own process, ready; killed on the way out when it still runs."""
    process = forked.Process([command, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**env))
    try:
        assert process.stdout is not None
        first_line = process.stdout.readline()
        if not first_line:
            _, err = process.communicate(timeout=30)
            raise AssertionError(f"it did not start: {err}")
        yield Serving(process, first_line)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
