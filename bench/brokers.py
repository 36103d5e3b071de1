"""The brokers: each as its users start it, with a directory of its own and one core."""

import getpass
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import machine
from bench.machine import BenchError
from bench.packets import NEW_SESSION, connect_packet

HOST = "127.0.0.1"
START_S_MAX = 300.0
STOP_S_MAX = 300.0

MOSQUITTO_CONFIG = """\
user {user}
listener {port} {host}
allow_anonymous true
persistence true
persistence_location {data}/
autosave_interval 1
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
log_type error
log_type warning
"""


class Broker(ABC):
    """A broker in a process of its own. In `with` it runs; afterwards neither it nor its directory is there."""

    name: str

    def __init__(self, program: str, directory: Path, core: int, environment: Mapping[str, str]) -> None:
        self.program = program
        self.data = directory / self.name
        self.port = 0
        self._log = directory / f"{self.name}.log"
        self._core = core
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process; it must run."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Start it; returns the seconds from exec until it lets a client in."""
        self.port = _free_port()
        command = self._command()
        with self._log.open("ab") as log, machine.pinned(self._core):
            began = time.perf_counter()
            self._process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=self._environment
            )
        while not self._lets_in():
            if self._process.poll() is not None or time.perf_counter() - began > START_S_MAX:
                raise BenchError(f"{self.name} did not start")
            time.sleep(0.001)
        return time.perf_counter() - began

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would, as far as its own memory goes."""
        self._end(signal.SIGKILL)

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-1000:].strip()

    def status(self) -> dict[str, Any]:
        """What it says of itself; nothing where it has no such thing."""
        return {}

    @staticmethod
    @abstractmethod
    def version_of(program: str) -> str:
        """Its name and version."""

    @abstractmethod
    def _command(self) -> list[str]:
        """What starts it."""

    def _lets_in(self) -> bool:
        """Whether a client gets its CONNACK; one that listens already may take its time."""
        try:
            with socket.create_connection((HOST, self.port), timeout=START_S_MAX) as sock:
                sock.sendall(connect_packet(b"bench-first", clean=True))
                return sock.recv(len(NEW_SESSION)) == NEW_SESSION
        except ConnectionError:
            return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise BenchError(f"{self.name} did not stop within {STOP_S_MAX:.0f} s") from None
        finally:
            self._process = None

    def __enter__(self) -> Self:
        self.data.mkdir()
        try:
            self.start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and (said := self.said()):
            error.add_note(f"{self.name} said: {said}")
        self._remove()

    def _remove(self) -> None:
        self.kill()
        shutil.rmtree(self.data)
        self._log.unlink(missing_ok=True)


class Pushbroker(Broker):
    """Ours."""

    name = "pushbroker"

    @staticmethod
    def version_of(program: str) -> str:  # noqa: D102
        return _output([program, "--version"]).replace(",", "").replace("version ", "")

    def status(self) -> dict[str, Any]:  # noqa: D102
        status: dict[str, Any] = json.loads(
            _output([self.program, "status", "--json", "--data", str(self.data)], self._environment)
        )
        return status

    def _command(self) -> list[str]:
        listen = f"mqtt://{HOST}:{self.port}"
        options = ["--data", str(self.data), "--listen", listen, "--allow-anonymous", "--log-level", "warning"]
        return [self.program, "serve", *options]


class Mosquitto(Broker):
    """mosquitto, as durable as it can be set short of writing all it has at each change, and without bounds."""

    name = "mosquitto"

    @staticmethod
    def version_of(program: str) -> str:  # noqa: D102
        return _output([program, "-h"]).splitlines()[0].replace("version ", "")

    def _command(self) -> list[str]:
        config = self.data / "mosquitto.conf"
        config.write_text(
            MOSQUITTO_CONFIG.format(user=getpass.getuser(), host=HOST, port=self.port, data=self.data.absolute())
        )
        return [self.program, "-c", str(config)]


def our_program() -> str:
    """The `pushbroker` of this virtual environment."""
    return str(Path(sys.executable).with_name("pushbroker"))


def mosquitto_program() -> str | None:
    """The mosquitto that is installed; Debian puts it where only root looks."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def _output(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    if not done.stdout:
        raise BenchError(f"{command[0]} {command[1]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
