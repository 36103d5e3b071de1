"""TLS handshakes that fail, stall or succeed with a client certificate, on a live listener."""

import asyncio
import errno
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography import x509
from support.engine import Engine, until
from support.mqtt import GONE, Client
from support.pki import KIOSK, Pki

from broker.listen import reactor, tls
from broker.wire.encode import encode
from broker.wire.packets import Connect

HELLO = bytes.fromhex("16 03 01 00 c8 01 00 00 c4 03 03")  # how a ClientHello begins


async def _fine(engine: Engine, pki: Pki) -> None:
    """The listener goes on to serve, and nothing is left of those who failed."""
    client = await Client.connected(engine.tls_port, "fine", tls=pki.client())
    await client.silent()
    await until(lambda: engine.reactor.open == 1)
    await client.close()


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 100, encode(Connect("plain", 5), 5), HELLO + b"\xff" * 250],
    ids=["http", "zeros", "ones", "plain MQTT", "bad hello"],
)
async def test_not_tls(engine: Engine, pki: Pki, sent: bytes) -> None:
    client = await Client.open(engine.tls_port)
    client.writer.write(sent)
    try:
        while await client.reader.read(1000):  # an alert, perhaps
            pass
    except GONE:
        pass
    await client.close()
    await until(lambda: engine.counters.handshakes_failed == 1)
    await _fine(engine, pki)


@pytest.mark.parametrize("sent", [b"", HELLO[:5], HELLO], ids=["nothing", "a header", "half a hello"])
@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
async def test_gone_in_the_handshake(engine: Engine, pki: Pki, sent: bytes, abort: bool) -> None:
    client = await Client.open(engine.tls_port)
    client.writer.write(sent)
    await until(lambda: engine.reactor.open)
    if abort:
        client.abort()
    else:
        await client.close()
    await until(lambda: engine.counters.handshakes_failed == 1)
    await _fine(engine, pki)


async def test_tls_on_the_plain_port(engine: Engine, pki: Pki) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Client.open(engine.port, tls=pki.client())
    assert engine.counters.protocol_errors == 1
    await _fine(engine, pki)


async def test_old_tls(engine: Engine, pki: Pki) -> None:
    context = pki.client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Client.open(engine.tls_port, tls=context)
    await until(lambda: engine.counters.handshakes_failed == 1)
    await _fine(engine, pki)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_certificate(engine: Engine, pki: Pki, version: ssl.TLSVersion) -> None:
    context = pki.client(pki.ours)
    context.minimum_version = context.maximum_version = version
    client = await Client.connected(engine.tls_port, "device", tls=context)
    channel = engine.session("device").channel
    assert channel is not None
    assert channel.certificate is not None
    uris = x509.load_der_x509_certificate(channel.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert KIOSK.path.split("/")[-1] in str(uris)
    await client.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("issuer", ["other", "expired"])
async def test_client_certificate_of_another_or_expired(
    engine: Engine, pki: Pki, issuer: str, version: ssl.TLSVersion
) -> None:
    """With TLS 1.3 the client believes it is connected until it reads, so it may have sent its CONNECT already."""
    authority = getattr(pki, issuer)
    context = pki.client(authority)
    context.minimum_version = context.maximum_version = version
    with pytest.raises((AssertionError, *GONE)):  # noqa: PT012 - where it fails is up to the version
        client = await Client.open(engine.tls_port, tls=context)
        await client.send(Connect("intruder", 5))
        assert await client.receive()
    await until(lambda: engine.counters.handshakes_failed == 1)
    assert not engine.core.sessions
    await _fine(engine, pki)


async def test_the_address_and_reason_are_logged(engine: Engine) -> None:
    client = await Client.open(engine.tls_port)
    client.writer.write(bytes(100))
    await until(lambda: engine.counters.handshakes_failed == 1)
    ((event, fields),) = engine.events
    assert event == "TLS handshake failed"
    assert fields["client"].startswith("127.0.0.1:")
    assert fields["error"] == "wrong version number"


@contextmanager
def held(context: ssl.SSLContext) -> Iterator[threading.Event]:
    """The first handshake does not get beyond its ClientHello before the event is set, and no other one begins."""
    go_on = threading.Event()
    context.sni_callback = lambda *_: go_on.wait(30) and None
    try:
        yield go_on
    finally:
        go_on.set()
        context.sni_callback = None


async def test_nobody_waits_for_another_ones_handshake(engine: Engine, pki: Pki) -> None:
    witness = await Client.connected(engine.port, "witness")
    with held(pki.context) as go_on:
        opening = asyncio.create_task(Client.connected(engine.tls_port, "slow", tls=pki.client()))
        await until(lambda: engine.reactor.open == 2)
        for _ in range(10):
            await witness.silent()
        assert not opening.done()
        go_on.set()
        await (await opening).silent()


async def test_a_storm_of_handshakes(engine: Engine, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many are accepted as can be dealt with; the others are let in when it is their turn."""
    monkeypatch.setattr(tls, "HANDSHAKES_WAITING_MAX", 4)
    witness = await Client.connected(engine.port, "witness")
    stuck = threading.Event()
    with held(pki.context) as go_on:
        pki.context.sni_callback = lambda *_: stuck.set() or (go_on.wait(30) and None)
        storm = [asyncio.create_task(Client.connected(engine.tls_port, "first", tls=pki.client()))]
        await until(stuck.is_set)
        storm += [asyncio.create_task(Client.connected(engine.tls_port, f"c{n}", tls=pki.client())) for n in range(59)]
        await until(lambda: engine.counters.handshakes_paced)
        for _ in range(10):
            await witness.silent()
        assert engine.reactor.open == 2 + tls.HANDSHAKES_WAITING_MAX
        go_on.set()
        while not all(task.done() for task in storm):
            await witness.silent()
    for client in await asyncio.gather(*storm):
        await client.silent()
    assert engine.reactor.open == len(engine.core.sessions) == 61
    assert engine.counters.handshakes_failed == engine.counters.connections_refused == 0


async def test_one_listener_that_may_go_on_does_not_make_another_wait_for_ever(pki: Pki) -> None:
    """The thread takes some between the two looks that are had at how many there are."""

    class Looked(deque[tls.Handshake]):
        seen = [tls.HANDSHAKES_WAITING_MAX] * 3 + [tls.HANDSHAKES_WAITING_MAX - 1]

        def __len__(self) -> int:
            return self.seen.pop(0) if self.seen else super().__len__()

    again = asyncio.Event()
    handshakes = tls.Handshakes(asyncio.get_running_loop(), lambda _: None, again.set)
    handshakes._new = Looked()
    assert handshakes.full()
    assert not handshakes.full()
    ours, peer = socket.socketpair()
    with peer:
        ours.setblocking(False)
        handshakes.start()
        handshakes.begin(tls.Handshake(ours, pki.context, cast("Any", None), "", time.monotonic() + 9))
        await asyncio.wait_for(again.wait(), 9)
        handshakes.close()


async def test_descriptors_run_out_before_the_first_handshake(
    engine: Engine, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took another one, and failed: nobody got in over TLS from then on, also when there were some again."""

    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tls.select, "epoll", none_left)
    await _fine(engine, pki)


async def test_who_is_in_the_middle_of_a_handshake_when_the_broker_stops(engine: Engine, pki: Pki) -> None:
    stalled = await Client.open(engine.tls_port)
    stalled.writer.write(HELLO)
    await until(lambda: engine.reactor.open == 1)
    engine.reactor.stop_listening()
    await stalled.expect_end()
    assert engine.reactor.open == 0
    assert "tls-handshakes" not in [thread.name for thread in threading.enumerate()]


async def test_who_has_gone_before_the_handshake_begins(engine: Engine, pki: Pki) -> None:
    with held(pki.context) as go_on:
        opening = asyncio.create_task(Client.connected(engine.tls_port, "slow", tls=pki.client()))
        await until(lambda: engine.reactor.open == 1)
        gone = [await Client.open(engine.tls_port) for _ in range(3)]
        await until(lambda: engine.reactor.open == 4)
        for client in gone:
            linger = struct.pack("ii", 1, 0)  # so that closing resets the connection
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.abort()
        await asyncio.sleep(0.05)  # RST has no event here
        go_on.set()
        await (await opening).silent()
    await until(lambda: engine.counters.handshakes_failed == 3)
    assert engine.counters.unexpected_errors == 0
    assert not engine.events


async def test_a_context_that_does_not_serve(engine: Engine, pki: Pki) -> None:
    engine.reactor.listeners[1].tls = pki.client
    client = await Client.open(engine.tls_port)
    await client.expect_end()
    await until(lambda: engine.counters.handshakes_failed == 1)
    engine.reactor.listeners[1].tls = lambda: pki.context
    await _fine(engine, pki)


async def test_a_stalled_handshake_is_ended(engine: Engine, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reactor, "CONNECT_TIMEOUT_S", 0.1)
    client = await Client.open(engine.tls_port)
    client.writer.write(HELLO)
    await client.expect_end()
    assert engine.counters.connections_refused == 1
    assert engine.counters.connections_accepted == engine.counters.connections_closed == 1
    monkeypatch.undo()
    await _fine(engine, pki)


async def test_the_time_for_connect_includes_the_handshake(
    engine: Engine, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(pki.context) as go_on:
        opening = asyncio.create_task(Client.open(engine.tls_port, tls=pki.client()))
        await until(lambda: engine.reactor.open)
        accepted_at = engine.core.now
        monkeypatch.setattr(reactor, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 15))
        go_on.set()
        client = await opening
    await until(lambda: engine.reactor.connections)
    engine.core.tick(accepted_at + 22)
    assert not engine.reactor.open
    await client.expect_end()


async def test_no_connect(engine: Engine) -> None:
    client = await Client.open(engine.port)
    client.writer.write(b"\x10")
    await until(lambda: engine.counters.bytes_received == 1)
    engine.core.tick(engine.core.now + 22)
    await client.expect_end()
    assert engine.counters.connections_refused == 1


async def test_the_context_can_change(engine: Engine, pki: Pki) -> None:
    """New connections get what the listener's function returns then; those that are there stay."""
    before = await Client.connected(engine.tls_port, tls=pki.client())
    engine.reactor.listeners[1].tls = pki.other.server_context
    with pytest.raises(ssl.SSLCertVerificationError):
        await Client.open(engine.tls_port, tls=pki.client())
    after = await Client.connected(engine.tls_port, tls=pki.other.client_context())
    await before.silent()
    await after.silent()
