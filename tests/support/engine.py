"""The broker's core on real sockets, without stores and identities: everybody is anonymous."""

import asyncio
import socket
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from support.memory_journal import MemoryJournal
from support.mqtt import Client

from broker.committer import Committer
from broker.identity import ANONYMOUS, Role
from broker.journal import Batch, SavedMessage
from broker.listen.reactor import Reactor
from broker.message import Message
from broker.session import connect
from broker.session.bounds import Limits
from broker.session.channel import Channel
from broker.session.core import Core
from broker.session.session import Session
from broker.wire.packets import Connect


class _NoBridge:
    def stamp(self, topic: bytes) -> str:
        return ""

    def delivered(self, session: Session, message: Message) -> None:
        pass


class _Journal:
    """One in memory, as the committer wants it."""

    def __init__(self) -> None:
        self.memory = MemoryJournal()

    async def commit(self, batch: Batch) -> None:
        self.memory.commit(batch)

    async def fetch(self, seqs: Sequence[int]) -> list[SavedMessage]:
        return self.memory.fetch(seqs)


class Engine:
    """A core and a reactor, listening on free ports: `port`, and `tls_port` when there is a context."""

    def __init__(self, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> None:
        numbers = iter(range(1 << 30))
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.core = Core(
            now=time.monotonic(),
            wall=time.time(),
            admit=self._admit,
            random_id=lambda: f"auto-{next(numbers)}",
            bridge=_NoBridge(),
            log=self._log,
            wake=self._wake,
            limits=limits,
        )
        self.reactor = Reactor(self.core, asyncio.get_running_loop())
        self.committer = Committer(self.core, _Journal(), self.reactor.run)
        self.committer.start()
        self.port = self.listen()
        self.tls_port = self.listen(lambda: tls) if tls is not None else 0

    @property
    def counters(self) -> Any:
        return self.core.counters

    def session(self, client_id: str) -> Session:
        """The session of a client."""
        return next(session for session in self.core.sessions.values() if session.client_id == client_id)

    def _admit(self, channel: Channel, _packet: Connect) -> None:
        connect.accepted(channel, ANONYMOUS)
        if channel.session is not None:
            self.reactor.allow(channel, Role.ANONYMOUS)

    def _wake(self) -> None:
        self.committer.wake()

    def _log(self, event: str, **fields: Any) -> None:
        error = fields.get("exc_info")
        if error is not None:
            traceback.print_exception(error)
        self.events.append((event, fields))

    def listen(
        self,
        tls: Callable[[], ssl.SSLContext] | None = None,
        *,
        host: str = "127.0.0.1",
        **options: Any,
    ) -> int:
        """Listen on one more port, and say which. `options` go to `Reactor.listen`."""
        sock = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.reactor.listen(sock, tls, **options)
        port: int = sock.getsockname()[1]
        return port

    async def close(self) -> None:
        for connection in list(self.reactor.connections.values()):
            connection.close()
        self.reactor.close()
        await self.committer.stop()


@asynccontextmanager
async def running(limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Engine]:
    engine = Engine(limits, tls)
    try:
        yield engine
    finally:
        await Client.abort_all()
        await engine.close()


async def until(condition: Callable[[], object], within_s: float = 10) -> None:
    """Wait until something that has no event of its own has come about; the loop goes on meanwhile."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)
