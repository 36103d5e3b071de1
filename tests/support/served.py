"""`pushbroker serve` as a process whose disk a test has in its hands, and the clients that such a test needs."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

from support import forked
from support.cli import PUSHBROKER, Done, environment, pushbroker
from support.mqtt import Client

from broker.admin import client as admin
from broker.wire.packets import Properties, Puback, Pubcomp, Publish, Pubrec, Pubrel

_START_S: Final = 30
_STOP_S: Final = 30
_RECEIVE_S: Final = 20


class Served:
    """A broker on `directory`/data that lets everybody in. `inside` is a command that runs it somewhere else."""

    def __init__(self, directory: Path, *, inside: Sequence[object] = (), **env: str) -> None:
        self.data = directory / "data"
        self.socket = directory / "admin.sock"
        self._log = directory / "broker.log"
        self._began = 0  # in the log: where the process that runs began to write
        self._inside = inside
        self._env = {"PUSHBROKER_ADMIN_SOCKET": str(self.socket), "PUSHBROKER_LOG_FORMAT": "json", **env}
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # -- the process -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, and wait until it is ready."""
        line = self._run()
        assert line.startswith("ready:"), self._ended(_STOP_S)
        self.port = int(line.split()[1].rsplit(":", 1)[1])

    def refused(self) -> Done:
        """Start, which must not succeed; how it ended."""
        line = self._run()
        if line:
            self.kill()
            raise AssertionError(f"it started: {line}")
        return self._ended(_START_S)

    def stop(self) -> Done:
        """Stop with SIGTERM."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._ended(_STOP_S)

    def kill(self) -> None:
        """Stop with SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._ended(_STOP_S)

    def _run(self) -> str:
        self._began = self._log.stat().st_size if self._log.exists() else 0
        flags = ["--data", self.data, "--listen", "mqtt://127.0.0.1:0", "--allow-anonymous"]
        env = environment(**self._env)
        with self._log.open("ab") as log:
            if self._inside or "LD_PRELOAD" in env:
                command = [*self._inside, PUSHBROKER, "serve", *flags]
                self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
            else:
                self._process = forked.Process(["serve", *flags], stdout=subprocess.PIPE, stderr=log, env=env)
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _ended(self, within_s: float) -> Done:
        assert self._process is not None
        try:
            out, _ = self._process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        finally:
            code, self._process = self._process.returncode, None
        return Done(code, out, self.log)

    # -- what it says ------------------------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """What the process that runs, or ran last, wrote to stderr."""
        with self._log.open("rb") as file:
            file.seek(self._began)
            return file.read().decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def ask(self, operation: str, **arguments: Any) -> Any:
        """An operation on the admin socket."""
        return admin.call(self.socket, operation, arguments)

    def command(self, *args: object) -> Done:
        """A `pushbroker` command that is for this broker."""
        return pushbroker(*args, PUSHBROKER_DATA=str(self.data), PUSHBROKER_ADMIN_SOCKET=str(self.socket))

    @property
    def status(self) -> Any:
        return self.ask("status")

    @property
    def journal(self) -> Any:
        """What the status says of the journal."""
        return self.status["journal"]

    # -- its clients -------------------------------------------------------------------------------------------------

    async def client(self, client_id: str = "", **fields: Any) -> Client:
        """A client whose session ends with its connection."""
        return await Client.connected(self.port, client_id, **fields)

    async def lasting(self, client_id: str) -> Client:
        """A client with a session that stays; `connack.session_present` says whether it was there."""
        return await self.client(client_id, clean_start=False, properties=Properties(session_expiry=86400))

    async def away(self, client_id: str, *filters: str, qos: int = 2) -> None:
        """A session that stays, with subscriptions, whose client has gone."""
        client = await self.lasting(client_id)
        await client.subscribe(*filters, qos=qos)
        await client.disconnect()


async def eventually(condition: Callable[[], object], within_s: float = 10, *, every_s: float = 0.05) -> None:
    """Wait until a condition holds that another process brings about."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - another process has no event for us
            await asyncio.sleep(every_s)


async def publish(
    client: Client, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, within_s: float = 20
) -> int | None:
    """Publish at QoS 1 or 2, to the end. The reason code of the PUBACK or PUBREC; None: closed without one."""
    id = client.next_id()
    await client.send(Publish(topic.encode(), payload, qos, retain, packet_id=id))
    answer = await client.receive(within_s)
    if answer is None:
        return None
    assert isinstance(answer, Puback if qos == 1 else Pubrec), answer
    assert answer.packet_id == id
    if qos == 2 and answer.reason < 0x80:
        await client.send(Pubrel(id))
        assert await client.expect(Pubcomp) == Pubcomp(id)
    return answer.reason


async def receive_until(client: Client, last: bytes) -> list[bytes]:
    """Receive and acknowledge up to the message `last`; the payloads, in order."""
    return [payload for _, payload in await _receive(client, lambda got: bool(got) and got[-1][1] == last)]


async def gets(client: Client, expected: Sequence[bytes]) -> None:
    """Receive and acknowledge just these, each once; in order, but for those of another QoS [MQTT-4.6.0-6]."""
    got = await _receive(client, lambda got: len(got) >= len(expected))
    await client.silent()
    place = {payload: n for n, payload in enumerate(expected)}
    assert sorted(place[payload] for _, payload in got) == list(range(len(expected)))
    for qos in (1, 2):
        places = [place[payload] for of, payload in got if of == qos]
        assert places == sorted(places), f"QoS {qos} out of order: {places}"


async def _receive(client: Client, enough: Callable[[list[tuple[int, bytes]]], bool]) -> list[tuple[int, bytes]]:
    got: list[tuple[int, bytes]] = []
    unreleased: set[int] = set()  # QoS 2
    async with asyncio.timeout(_RECEIVE_S):
        while not enough(got) or unreleased:
            match packet := await client.receive(_RECEIVE_S):
                case Publish(qos=1, packet_id=id):
                    await client.send(Puback(id))
                case Publish(qos=2, packet_id=id):
                    assert id not in unreleased, packet
                    unreleased.add(id)
                    await client.send(Pubrec(id))
                case Pubrel(packet_id=id):
                    unreleased.remove(id)
                    await client.send(Pubcomp(id))
                case _:
                    raise AssertionError(f"{packet!r} instead of messages; {len(got)} came")
            if isinstance(packet, Publish):
                got.append((packet.qos, packet.payload))
    return got


@asynccontextmanager
async def answering(client: Client) -> AsyncIterator[list[bytes]]:
    """Let a client acknowledge QoS 1 by itself, at once. The payloads that it got."""
    got: list[bytes] = []

    async def answer() -> None:
        while True:
            packet = await client.receive(3600)
            assert isinstance(packet, Publish), packet
            got.append(packet.payload)
            if packet.qos:
                await client.send(Puback(packet.packet_id))

    task = asyncio.create_task(answer())
    try:
        yield got
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        task.result()
