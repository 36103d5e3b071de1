"""The brokers: each as its users start it, with a directory of its own, one listener, and cores that it is bound to."""

import getpass
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from broker.bench import machine
from broker.bench.link import HOST, TRANSPORTS, Loop, Target, Transport
from broker.bench.load import Client
from broker.bench.machine import BenchError
from broker.bench.pki import Pki

START_S_MAX: Final = 300.0
STOP_S_MAX: Final = 300.0
_TLS: Final = ("tls", "wss")
_WEB: Final = ("ws", "wss")


@dataclass(frozen=True)
class Place:
    """Where brokers run: what they share, and the cores that they may use."""

    directory: Path
    pki: Pki
    environment: Mapping[str, str]
    cores: Collection[int]


@dataclass(frozen=True)
class Kind:
    """A broker that can be started: its name in the tables, what it is, and the program or the command."""

    name: str
    make: "type[Broker]"
    program: str

    def version(self) -> str:
        """Its name and version."""
        return self.make.version_of(self.program)


class Broker(ABC):
    """A broker in a process of its own. In `with` it runs; afterwards neither it nor its directory is there."""

    versions: ClassVar[tuple[int, ...]] = (4, 5)
    transports: ClassVar[tuple[Transport, ...]] = TRANSPORTS

    def __init__(self, kind: Kind, place: Place, transport: Transport = "tcp", *, durable: bool = False) -> None:
        self.name = kind.name
        self.program = kind.program
        self.transport = transport
        self.port = 0
        self.data = place.directory / f"{self.name}-{transport}"
        self._log = self.data.with_suffix(".log")
        self._place = place
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._counters: Mapping[str, int] | None = None

    @property
    def pid(self) -> int:
        """Its process; it must run."""
        assert self._process is not None
        return self._process.pid

    def target(self, version: int = 4) -> Target:
        """Where its clients connect."""
        return Target(self.port, self.transport, version)

    def start(self) -> float:
        """Start it; returns the seconds from exec until it lets a client in."""
        self.port = free_port()
        self._counters = None
        command = self._command()
        with self._log.open("ab") as log, machine.pinned(self._place.cores):
            began = time.perf_counter()
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._place.environment
                )
            except OSError as error:
                raise BenchError(f"{command[0]} cannot be run: {error.strerror}") from error
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
        """The end of its log, as one line."""
        lines = self._log.read_text(errors="replace").split("\n") if self._log.exists() else []
        return " | ".join(line.strip() for line in lines if line.strip())[-400:]

    def counters(self, *, again: bool = True) -> Mapping[str, int]:
        """What it has counted; nothing where it does not say.

        Not `again`: as it was when it was last asked, where no message has been sent since.
        """
        if again or self._counters is None:
            self._counters = self._count()
        return self._counters

    @staticmethod
    @abstractmethod
    def version_of(program: str) -> str:
        """Its name and version."""

    @abstractmethod
    def _command(self) -> list[str]:
        """What starts it."""

    def _count(self) -> Mapping[str, int]:
        """Ask it."""
        return {}

    def _lets_in(self) -> bool:
        """Whether a client gets its CONNACK; one that listens already may take its time."""
        try:
            socket.create_connection((HOST, self.port)).close()
        except OSError:
            return False
        with Loop() as loop:
            client = Client(loop, self.target(), b"bench-first")
            return loop.run(lambda: client.ready, START_S_MAX)

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
        self.kill()
        shutil.rmtree(self.data)
        self._log.unlink(missing_ok=True)


class Pushbroker(Broker):
    """Ours."""

    @staticmethod
    def version_of(program: str) -> str:  # noqa: D102
        return _output([program, "--version"])

    def tell(self, *words: str, stdin: str = "") -> Any:
        """Give it a command, as an operator would, and return its answer."""
        command = [self.program, *words, "--json", "--data", str(self.data)]
        return json.loads(_output(command, self._place.environment, stdin))

    def _count(self) -> Mapping[str, int]:
        counters: dict[str, int] = self.tell("status")["counters"]
        return counters

    def _command(self) -> list[str]:
        scheme = {"tcp": "mqtt", "tls": "mqtts"}.get(self.transport, self.transport)
        self._place.pki.install(self.data / "certs")
        options = ["--data", str(self.data), "--listen", f"{scheme}://{HOST}:{self.port}", "--log-level", "warning"]
        return [self.program, "serve", "--allow-anonymous", *options]


class Mosquitto(Broker):
    """mosquitto without bounds; for durable rows as durable as it can be set short of writing all at each change."""

    @staticmethod
    def version_of(program: str) -> str:  # noqa: D102
        return _output([program, "-h"]).splitlines()[0].replace("version ", "")

    def _command(self) -> list[str]:
        lines = [
            f"user {getpass.getuser()}",
            f"listener {self.port} {HOST}",
            *(["protocol websockets"] if self.transport in _WEB else []),
            *(
                [f"certfile {self._place.pki.certificate}", f"keyfile {self._place.pki.key}"]
                if self.transport in _TLS
                else []
            ),
            "allow_anonymous true",
            *(
                ["persistence true", f"persistence_location {self.data.absolute()}/", "autosave_interval 1"]
                if self._durable
                else ["persistence false"]
            ),
            "max_queued_messages 0",
            "max_inflight_messages 0",
            "set_tcp_nodelay true",
            "log_type error",
            "log_type warning",
        ]
        config = self.data / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        return [self.program, "-c", str(config)]


class Amqtt(Broker):
    """amqtt, which speaks 3.1.1."""

    versions = (4,)

    @staticmethod
    def version_of(program: str) -> str:  # noqa: D102
        return f"amqtt {_output([program, '--version']).split()[-1]}"

    def _command(self) -> list[str]:
        listener: dict[str, Any] = {"type": "ws" if self.transport in _WEB else "tcp", "bind": f"{HOST}:{self.port}"}
        if self.transport in _TLS:
            listener |= {"ssl": True, "certfile": str(self._place.pki.certificate), "keyfile": str(self._place.pki.key)}
        anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        config = self.data / "amqtt.yaml"
        config.write_text(json.dumps({"listeners": {"default": listener}, "plugins": anonymous}))  # JSON is YAML
        return [self.program, "-c", str(config)]


class Nats(Broker):
    """nats-server's MQTT gateway, which speaks 3.1.1 and keeps messages in its JetStream."""

    versions = (4,)

    @staticmethod
    def version_of(program: str) -> str:  # noqa: D102
        return _output([program, "--version"]).replace(": v", " ")

    def _command(self) -> list[str]:
        pki = self._place.pki
        tls = f'tls {{ cert_file: "{pki.certificate}", key_file: "{pki.key}" }}' if self.transport in _TLS else ""
        lines = [
            "server_name: bench",
            f'listen: "{HOST}:{free_port()}"',
            f'jetstream {{ store_dir: "{self.data.absolute()}" }}',
            f'mqtt {{ listen: "{HOST}:{self.port}", max_ack_pending: 10000, {tls} }}',
        ]
        if self.transport in _WEB:
            lines[-1] = f'mqtt {{ listen: "{HOST}:{free_port()}", max_ack_pending: 10000 }}'
            lines.append(f'websocket {{ listen: "{HOST}:{self.port}", {tls or "no_tls: true"} }}')
        config = self.data / "nats.conf"
        config.write_text("\n".join(lines) + "\n")
        return [self.program, "-c", str(config)]


_PORTS: Final[Mapping[Transport, str]] = {
    "tcp": "{port}", "tls": "{tls_port}", "ws": "{ws_port}", "wss": "{wss_port}"
}  # fmt: skip


class Other(Broker):
    """Any other broker: a command in which `{port}` and the like are filled in, and so in a file that it names.

    `{config:FILE}` is a copy of FILE, filled in.
    """

    @staticmethod
    def version_of(program: str) -> str:  # noqa: D102
        return shlex.split(program)[0]

    @staticmethod
    def transports_of(command: str) -> tuple[Transport, ...]:
        """By what it listens: the ports that the command and its file speak of."""
        text = command + "".join(Path(name).read_text() for name in re.findall(r"\{config:([^}]+)\}", command))
        return tuple(transport for transport, port in _PORTS.items() if port in text)

    def _command(self) -> list[str]:
        values = {port: str(free_port()) for port in _PORTS.values()}
        values |= {
            _PORTS[self.transport]: str(self.port),
            "{data}": str(self.data.absolute()),
            "{cert}": str(self._place.pki.certificate),
            "{key}": str(self._place.pki.key),
        }

        def filled(text: str) -> str:
            for name, value in values.items():
                text = text.replace(name, value)
            return text

        def copied(found: "re.Match[str]") -> str:
            source = Path(found[1])
            (self.data / source.name).write_text(filled(source.read_text()))
            return str(self.data / source.name)

        return [filled(re.sub(r"\{config:([^}]+)\}", copied, word)) for word in shlex.split(self.program)]


@dataclass(frozen=True)
class _Known:
    make: type[Broker]
    programs: Sequence[str]
    remedy: str = field(default="")


KNOWN: Final = {
    "pushbroker": _Known(Pushbroker, ["pushbroker"]),
    "mosquitto": _Known(Mosquitto, ["mosquitto"], "apt-get install mosquitto"),
    "amqtt": _Known(Amqtt, ["amqtt"], "pip install 'pushbroker[amqtt]'"),
    "nats": _Known(Nats, ["nats-server"], "https://github.com/nats-io/nats-server/releases"),
}


def found() -> list[Kind]:
    """The brokers that are installed here, ours first."""
    places = ":".join([str(Path(sys.executable).parent), *("/usr/sbin", "/usr/local/sbin")])  # Debian hides mosquitto
    kinds = []
    for name, known in KNOWN.items():
        for program in known.programs:
            where = shutil.which(program, path=places) if name in ("pushbroker", "amqtt") else None
            where = where or shutil.which(program) or shutil.which(program, path=places)
            if where:
                kinds.append(Kind(name, known.make, where))
    return kinds


def given(name: str, value: str) -> Kind:
    """A broker that the user names: a command with `{port}`, or another program of one that is known."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise BenchError(f"{name!r} is no name for a broker", remedy="Letters, digits, dots and hyphens make a name.")
    if "{" in value:
        try:
            transports = Other.transports_of(value)
        except OSError as error:
            raise BenchError(f"{error.filename}: {error.strerror}") from error
        if not transports:
            raise BenchError(
                f"the command of {name} has no port in it",
                remedy="Write {port}, {tls_port}, {ws_port} or {wss_port} where it is to have one.",
            )
        return Kind(name, type(f"Other_{name}", (Other,), {"transports": transports}), value)
    for known, what in KNOWN.items():
        if name.startswith(known):
            if shutil.which(value) is None:
                raise BenchError(f"{value} is no program that can be run")
            return Kind(name, what.make, value)
    raise BenchError(
        f"{name} is not known here, and {value!r} has no {{port}}",
        remedy=f"Let the name begin with one of {', '.join(KNOWN)}, or give a command such as '{value} -p {{port}}'",
    )


def _output(command: list[str], environment: Mapping[str, str] | None = None, stdin: str = "") -> str:
    try:
        done = subprocess.run(  # noqa: S603
            command, input=stdin, capture_output=True, text=True, timeout=60, check=False, env=environment
        )
    except OSError as error:
        raise BenchError(f"{command[0]} cannot be run: {error.strerror}") from error
    said = (done.stdout or done.stderr).strip()
    if not said:
        raise BenchError(f"{' '.join(command[:2])} says nothing")
    return said


def free_port() -> int:
    """A port that nobody has."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
