"""A bug in our own code costs the connection that met it, and nobody else."""

import gc
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from support.engine import Engine, running, until
from support.mqtt import Client

from broker.listen import reactor
from broker.listen.connection import Connection
from broker.session.channel import SERVE, Channel
from broker.session.session import Session
from broker.wire.packets import Publish, Request, Subscribe


def _breaks_for(victim: str, function: Callable[..., object]) -> Callable[..., object]:
    """`function`, but it raises for the connection of one client."""

    def broken(channel: Channel, *args: object) -> object:
        if channel.session is not None and channel.session.client_id == victim:
            raise RuntimeError("a bug")
        return function(channel, *args)

    return broken


async def test_in_a_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.1.1 [MQTT-4.8.0-2]."""
    monkeypatch.setitem(SERVE, Subscribe, _breaks_for("victim", SERVE[Subscribe]))
    async with running() as engine:
        victim, other = [await Client.connected(engine.port, name) for name in ("victim", "other")]
        await victim.send(Subscribe(1, [Request("t")]))
        await victim.expect_end()
        await other.subscribe("t")
        await other.publish("t", b"x")
        await other.expect_message(b"x")
        assert engine.counters.unexpected_errors == 1
        assert len(engine.reactor.connections) == 1


async def test_in_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose turn is after it in the same round get what is theirs."""
    async with running() as engine:
        names = [f"c{n}" for n in range(10)]
        receivers = {name: await Client.connected(engine.port, name) for name in names}
        for client in receivers.values():
            await client.subscribe("t", qos=1)
        monkeypatch.setattr(Connection, "flush", _breaks_for("c3", Connection.flush))
        sender = await Client.connected(engine.port, "sender")
        await sender.publish("t", b"x", qos=1)
        victim = receivers.pop("c3")
        for client in receivers.values():
            await client.expect_message(b"x")
        await victim.expect_end()
        assert engine.counters.unexpected_errors == 1
        assert len(engine.reactor.connections) == 10


async def test_in_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of the same second, and later ones, are kept."""
    async with running() as engine:
        clients = [await Client.connected(engine.port, f"c{n}", keep_alive=5) for n in range(5)]
        monkeypatch.setattr(Channel, "due", _breaks_for("c2", Channel.due))
        monkeypatch.setattr(reactor, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 100))
        await until(lambda: engine.counters.keep_alive_timeouts == 4)
        monkeypatch.undo()
        for n in (0, 1, 3, 4):
            await clients[n].expect_end(0x8D)
        assert engine.counters.unexpected_errors >= 1


async def test_when_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where what ends a connection fails, its socket goes."""
    async with running() as engine:
        victim, other = [await Client.connected(engine.port, name) for name in ("victim", "other")]

        def leave(session: Session) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(engine.core, "leave", leave)
        await victim.close()
        await until(lambda: len(engine.reactor.connections) == 1)
        monkeypatch.undo()
        assert engine.counters.unexpected_errors == 1
        await other.silent()


async def test_the_lag_of_the_loop(engine: Engine) -> None:
    """Who blocks the loop is seen in its lag."""
    assert engine.reactor.lag_s < 0.2
    time.sleep(0.8)  # noqa: ASYNC251 - this is what is tested
    await until(lambda: engine.reactor.lag_s > 0.2)


async def test_messages_wait_while_the_loop_is_blocked(engine: Engine) -> None:
    client = await Client.connected(engine.port)
    await client.subscribe("t")
    client.writer.write(b"".join(b"\x30\x05\x00\x01t\x00" + bytes((n,)) for n in range(256)))
    time.sleep(0.05)  # noqa: ASYNC251 - this is what is tested
    for n in range(256):
        message = await client.expect(Publish)
        assert message.payload == bytes((n,))
    await client.close()


async def test_closed_connections_are_let_go(engine: Engine) -> None:
    """A deadline that lies an hour ahead does not keep a connection in memory that is closed."""

    def connections() -> int:
        gc.collect()
        return sum(type(thing) is Connection for thing in gc.get_objects())

    client = await Client.connected(engine.port, keep_alive=3600)
    core = engine.core
    core.tick(core.now + 60)  # beyond the deadline for CONNECT: the keep-alive's takes its place
    before = connections()
    await client.disconnect()
    assert connections() == before - 1
