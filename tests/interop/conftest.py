"""A broker for each module of tests, and a scene on it for each test, with the peers that join."""

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from interop.clients import CLIENTS
from interop.peer import WEBSOCKET_PATH, Client, Join, Peer, Way
from support.live import populate, running

from broker.address import Listener
from broker.app import Broker


@dataclass
class House:
    """A broker that lets everybody in, and the clients that know where it is."""

    broker: Broker
    clients: dict[type[Client], Client]
    scenes: Iterator[int]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    data = tmp_path_factory.mktemp("interop")
    tcp = (Listener("mqtt", "127.0.0.1"), Listener("mqtts", "127.0.0.1"))
    web = (Listener("ws", "127.0.0.1", path=WEBSOCKET_PATH), Listener("wss", "127.0.0.1", path=WEBSOCKET_PATH))
    async with running(data, allow_anonymous=True, listen=tcp + web) as broker:
        await populate(broker)
        ports = {str(url.scheme): url.port for url in map(urlsplit, broker.addresses)}
        clients = {client: client(ports, data / "certs/ca.crt") for client in CLIENTS}
        try:
            yield House(broker, clients, itertools.count(1))
        finally:
            for client in clients.values():
                await client.stop()


class Scene:
    """Topics and names of its own on the common broker, and the peers that came."""

    def __init__(self, house: House, number: int) -> None:
        self.broker = house.broker
        self.prefix = f"t{number}"
        self._clients = house.clients
        self._peers: list[Peer] = []

    def topic(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    async def join(self, way: Way, name: str, **how: Any) -> Peer:
        """A client, connected."""
        client = self._clients[way.client]
        peer = await client.join(way.version, way.scheme, Join(f"{self.prefix}-{name}", **how))
        self._peers.append(peer)
        return peer

    async def close(self) -> None:
        for peer in self._peers:
            await peer.leave()


@pytest_asyncio.fixture(loop_scope="module")
async def scene(house: House) -> AsyncIterator[Scene]:
    counters = house.broker.core.counters
    before = counters.protocol_errors, counters.handshakes_failed
    scene = Scene(house, next(house.scenes))
    try:
        yield scene
    finally:
        await scene.close()
    assert (counters.protocol_errors, counters.handshakes_failed) == before
