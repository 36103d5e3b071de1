"""The broker under attack: a process whose memory, CPU time, counters and log are looked at from outside."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.cli import PUSHBROKER, environment

from broker.admin import client as admin
from broker.bench.machine import cpu_s


class Target:
    """A broker that runs, in open mode, with a brand that has a password."""

    def __init__(self, process: "subprocess.Popen[str]", directory: Path, urls: list[str]) -> None:
        self.pid = process.pid
        self.directory = directory
        self.port, self.tls_port = (int(url.rsplit(":", 1)[1]) for url in urls)

    def ask(self, operation: str, **arguments: Any) -> Any:
        """An operation on the admin socket."""
        return admin.call(self.directory / "admin.sock", operation, arguments)

    @property
    def status(self) -> Any:
        return self.ask("status")

    @property
    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.status["counters"]
        return counters

    @property
    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    @property
    def rss(self) -> int:
        """Bytes in memory."""
        return self._memory("VmRSS")

    @property
    def peak(self) -> int:
        """The most that it had since `forget_peak`."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """Begin anew with `peak`."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def alone(self) -> None:
        """Wait until nobody but the witness is connected."""
        end = time.monotonic() + 60  # what they have said is heard to the end
        while (connections := self.status["connections"]) > 2:
            assert time.monotonic() < end, f"{connections} connections"
            time.sleep(0.02)

    def _memory(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()


@contextmanager
def running(*flags: object) -> Iterator[Target]:
    """A broker on two free ports, killed at the end."""
    with tempfile.TemporaryDirectory(prefix="pb-") as name:
        directory = Path(name)
        listen = ["--listen", "mqtt://127.0.0.1:0", "--listen", "mqtts://127.0.0.1:0", "--allow-anonymous"]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [PUSHBROKER, "serve", "--data", directory, *listen, *map(str, flags)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(),
            )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready:"), (directory / "log").read_text()
            target = Target(process, directory, [word for word in line.split() if word.startswith("mqtt")])
            target.ask("brand.add", name="acme")
            target.ask("password.set", brand="acme", role="server", name="crm", password="correct horse battery")
            yield target
        finally:
            process.kill()
            process.communicate()
