"""More clients than fit: the broker goes on to serve those who are in, and takes the next when one has left."""

import asyncio
import socket
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from support.engine import running, until
from support.mqtt import Client

from broker.listen import reactor
from broker.session.bounds import Limits
from broker.wire.packets import Connack, Connect, Properties, Will

LASTING = Properties(session_expiry=60)
SCRIPT = """
import asyncio, resource, socket, sys
from support.engine import running
from support.mqtt import Client
from broker.wire.packets import Connack, Connect

async def main():
    async with running() as engine:
        witness = await Client.connected(engine.port, "witness")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        idle = [socket.create_connection(("127.0.0.1", engine.port)) for _ in range(20)]
        used = max(s.fileno() for s in idle) + len(idle) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        # The kernel completes these; the broker has no descriptor for them.
        while True:
            try:
                idle.append(socket.create_connection(("127.0.0.1", engine.port)))
            except OSError:
                break
            await asyncio.sleep(0)
        for _ in range(20):
            idle.pop().close()
        waiting = await Client.open(engine.port)
        await waiting.send(Connect("waiting", 5))
        while not any("cannot accept" in str(fields) for _, fields in engine.events):
            await witness.silent()
        cpu = sum(__import__("os").times()[:2])
        await asyncio.sleep(0.3)
        spent = sum(__import__("os").times()[:2]) - cpu
        assert spent < 0.15, f"busy while it rests: {spent}"
        await witness.silent()
        for s in idle:
            s.close()
        await waiting.expect(Connack)
        assert engine.counters.unexpected_errors == 0
        print("fine", len(engine.events))

asyncio.run(main())
"""


async def test_connections_max() -> None:
    async with running(Limits(connections_max=3)) as engine:
        clients = [await Client.connected(engine.port, f"c{n}") for n in range(3)]
        too_many = await Client.open(engine.port)
        await too_many.send(Connect("too-many", 5))
        await too_many.expect_end()
        assert engine.counters.connections_refused == 1
        for client in clients:
            await client.silent()
        # Who comes now waits in the kernel, and is served when there is room.
        next_one = await Client.open(engine.port)
        await next_one.send(Connect("next", 5))
        await clients[0].disconnect()
        await next_one.expect(Connack)
        assert len(engine.reactor.connections) == 3
        assert engine.counters.unexpected_errors == 0


async def test_no_descriptors_left() -> None:
    """Accepting rests instead of spinning; those who are connected are served; then it goes on."""
    tests = Path(__file__).parent.parent
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, cwd=tests, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err.decode()
    assert out.startswith(b"fine")


async def test_a_rest_ends_with_the_listener() -> None:
    """Closing while accepting rests leaves nothing that comes back."""
    async with running(Limits(connections_max=1)) as engine:
        await Client.connected(engine.port)
        refused = await Client.open(engine.port)
        await refused.expect_end()
        engine.reactor.stop_listening()
        await asyncio.sleep(reactor.PAUSE_S + 0.05)
        assert not engine.reactor.listeners


async def test_a_storm_of_connections() -> None:
    """A fleet that comes back at once is let in while those who are there are served."""
    async with running() as engine:
        witness = await Client.connected(engine.port, "witness")
        storm = [asyncio.create_task(Client.connected(engine.port, f"c{n}")) for n in range(300)]
        while not all(task.done() for task in storm):
            await witness.silent()
        await asyncio.gather(*storm)
        await until(lambda: len(engine.reactor.connections) == 301)
        assert engine.counters.connections_refused == 0


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
async def test_very_many_that_go_at_once_are_seen_off_in_parts(monkeypatch: pytest.MonkeyPatch, abort: bool) -> None:
    """Those who stay would wait until the sessions of all of them are put away."""
    monkeypatch.setattr(reactor, "CLOSED_MAX", 4)
    async with running() as engine:
        witness = await Client.connected(engine.port, "witness")
        await witness.subscribe("gone/#")
        fleet = [
            await Client.connected(engine.port, f"c{n}", will=Will(b"gone/%d" % n, b""), properties=LASTING)
            for n in range(50)
        ]
        closed = [engine.counters.connections_closed]
        flush = engine.core.flush

        def counted() -> None:
            closed.append(engine.counters.connections_closed)
            flush()

        monkeypatch.setattr(engine.core, "flush", counted)
        for client in fleet[1:]:
            sock = client.writer.get_extra_info("socket")
            if abort:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.abort()
        again = await Client.connected(engine.port, "c40", clean_start=False, properties=LASTING)  # perhaps before that
        gone = {(await witness.expect_message()).topic for _ in fleet[1:]}
        assert gone == {b"gone/%d" % n for n in range(1, 50)}
        await until(lambda: engine.reactor.open == 3)
        assert max(after - before for before, after in pairwise(closed)) <= 4 + 1
        assert engine.counters.unexpected_errors == 0
        await again.silent()
        await fleet[0].silent()
