"""A broker as a process that can be killed and started again, on the same directory and the same address."""

import asyncio
import itertools
import json
import os
import socket
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import IO

from support.cli import PUSHBROKER, environment

_READY_S = 30
_RECLAIMED_TRIES = 20  # of 0.3 s and more each: messages are reclaimed about each second
_numbers = itertools.count(os.getpid())


def _address() -> tuple[str, int]:
    """An address that stays ours while the broker is down: on 127.0.0.1 somebody else could get its port meanwhile."""
    host = socket.inet_ntoa((0x7F000000 | 1 + next(_numbers) % 0xFFFFFE).to_bytes(4))
    with socket.create_server((host, 0)) as listener:
        port: int = listener.getsockname()[1]
    return host, port


class BrokerProcess:
    """`pushbroker serve` on a data directory of its own. What it writes to stderr is in `log_path`."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.log_path = directory / "log"
        self.address = _address()
        self.up = asyncio.Event()  # it accepts connections
        self.ending = False  # it was told to stop, or killed
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def command(self) -> list[str]:
        host, port = self.address
        return [
            *(str(PUSHBROKER), "serve", "--data", str(self.data), "--listen", f"mqtt://{host}:{port}"),
            *("--allow-anonymous", "--queue-messages-max", "1000000", "--queue-bytes-max", str(1 << 30)),
        ]

    @property
    def environment(self) -> dict[str, str]:
        return environment()

    @property
    def written_path(self) -> Path:
        """A file that grows when something is committed."""
        return self.data / "journal.db-wal"

    async def start(self) -> None:
        """Start it, without waiting until it is `up`."""
        self.ending = False
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command, stdout=PIPE, stderr=log, env=self.environment
            )
        assert self._process.stdout
        self._reader = asyncio.create_task(self._read(self._process.stdout))

    async def _read(self, out: asyncio.StreamReader) -> None:
        async for line in out:
            if line.startswith(b"ready:") and not self.ending:
                self.up.set()

    async def ready(self) -> bool:
        """Wait until it is `up`; False when it ended instead, or takes too long."""
        assert self._process
        waiters = [asyncio.ensure_future(it) for it in (self.up.wait(), self._process.wait())]
        await asyncio.wait(waiters, timeout=_READY_S, return_when=asyncio.FIRST_COMPLETED)
        for waiter in waiters:
            waiter.cancel()
        return self.up.is_set()

    def signal(self, number: int) -> None:
        """Kill it, or tell it to stop."""
        assert self._process
        self.ending = True
        self.up.clear()
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)  # Process.send_signal may take the exit code away from wait()

    async def ended(self, within_s: float | None = None) -> int | None:
        """Wait for its end. The exit code, negative for a signal; None when it still runs after `within_s`."""
        assert self._process
        assert self._reader
        await asyncio.wait([self._reader], timeout=within_s)
        if not self._reader.done():
            return None
        code = await self._process.wait()
        self.up.clear()
        return code

    def killed(self) -> None:
        """It has ended with SIGKILL."""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def leftovers(self) -> str:
        """What should not be there when everything was delivered; '' for nothing."""
        for _ in range(_RECLAIMED_TRIES):
            arguments = ("status", "--json", "--data", str(self.data))
            asking = await asyncio.create_subprocess_exec(PUSHBROKER, *arguments, stdout=PIPE, env=environment())
            status = json.loads((await asking.communicate())[0])
            waiting = status["journal"]["messages"]
            if not waiting:
                break
        counters = status["counters"]
        over = sum(counters[f"log_messages_{name}"] for name in ("delivered", "expired", "dropped"))
        if waiting or over != counters["log_messages_appended"]:
            return f"{waiting} messages in the journal, {counters}"
        return ""

    @property
    def failed(self) -> bool:
        """Whether it has logged an error that nobody foresaw."""
        return b"Traceback" in self.log_path.read_bytes()

    def log_tail(self) -> str:
        """The end of its log."""
        with self.log_path.open("rb") as log:
            return _tail(log)


def _tail(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - 3000))
    return file.read().decode(errors="replace")
