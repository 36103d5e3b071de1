"""The admin socket: one table on both sides, errors that keep their kind, files that are treated with care."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.admin import client, operations, reach
from broker.admin.operations import Context
from broker.admin.server import AdminServer, bind
from broker.admin.wire import decode_error, encode_error
from broker.config import Settings, load
from broker.errors import Failed, Misconfigured, NotFound, ProtocolError, Refused, Unreachable
from broker.store.lock import DataLock
from broker.trust.directory import open_directory


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load({"data": tmp_path}, environment={})


@pytest.fixture
async def context(settings: Settings) -> AsyncIterator[Context]:
    opening = open_directory(settings.data, trust_domain=settings.trust_domain)
    async with opening as directory:
        yield Context(settings, directory)


@pytest.fixture
async def server(context: Context) -> AsyncIterator[AdminServer]:
    server = AdminServer(context, context.settings.admin_path)
    await server.start()
    yield server
    await server.stop()


async def ask(context: Context, operation: str, **arguments: Any) -> Any:
    return await asyncio.to_thread(client.call, context.settings.admin_path, operation, arguments)


async def test_an_operation_and_its_errors(context: Context, server: AdminServer) -> None:
    made = await ask(context, "brand.add", name="acme", title="Acme")
    assert made["name"] == "acme"
    assert made["created_at"].endswith("Z")
    assert await ask(context, "brand.list") == [made]
    assert (await ask(context, "cert.ca"))["certificate"].startswith("-----BEGIN CERTIFICATE-----")
    with pytest.raises(Refused, match="there is a brand acme already") as refused:
        await ask(context, "brand.add", name="acme")
    assert refused.value.remedy == "pushbroker brand show acme"
    with pytest.raises(NotFound):
        await ask(context, "brand.show", name="other")
    with pytest.raises(NotFound, match="no operation"):
        await ask(context, "brand.paint")
    with pytest.raises(Unreachable, match="no broker is running"):
        await ask(context, "status")


@pytest.mark.parametrize("arguments", [{"nam": "x"}, {"name": 7}, {}, {"name": "x", "title": None}])
async def test_arguments_are_checked(context: Context, server: AdminServer, arguments: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"brand\.add"):
        await ask(context, "brand.add", **arguments)


async def test_what_is_no_request(context: Context, server: AdminServer) -> None:
    bodies = (b"[1]", b"{", b'{"a": "\xff"}', b'{"a": ' + b"[" * 5000)
    for body, status in (*((body, b"403") for body in bodies), (b"x" * (3 << 20), b"413")):
        reader, writer = await asyncio.open_unix_connection(context.settings.admin_path)
        writer.write(b"POST /v1/brand.list HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert (await reader.readline()).split()[1] == status
        writer.close()
    assert await ask(context, "brand.list") == []


async def test_a_bug_in_one_operation_is_not_the_end(
    context: Context, server: AdminServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_directory: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(type(context.directory.records), "brands", broken)
    with pytest.raises(Failed, match="an error that it did not expect"):
        await ask(context, "brand.list")
    assert "operation failed" in caplog.text
    assert (await ask(context, "cert.ca"))["certificate"]


async def test_a_stream_and_its_end(context: Context, server: AdminServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream has begun when the client has it; items come one by one; an error that comes later comes too."""
    told = asyncio.Event()
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def count(_context: Context, *, upto: int) -> AsyncIterator[Any]:
        try:
            await told.wait()
            for number in range(upto):
                yield {"number": number}
            if upto == 3:
                raise Refused("three is enough", remedy="Ask for two.")
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def count_operation(context: Context, *, upto: int) -> AsyncIterator[Any]:
        async for item in count(context, upto=upto):
            yield item

    monkeypatch.setattr(operations, "OPERATIONS", dict(operations.OPERATIONS))
    operations._register("count", count_operation, of=count_operation)

    def hang_up() -> Any:
        with closing(client.Stream(context.settings.admin_path, "count", {"upto": 1})) as stream:
            first = next(stream)
            with pytest.raises(TimeoutError):
                stream.next_within(0.05)
            return first

    numbers: list[Any] = []
    with pytest.raises(Refused, match="three is enough"):
        await asyncio.to_thread(lambda: collect(context, loop, told, numbers))
    assert numbers == [{"number": 0}, {"number": 1}, {"number": 2}]
    closed.clear()
    assert await asyncio.to_thread(hang_up) == {"number": 0}
    async with asyncio.timeout(5):
        await closed.wait()


def collect(context: Context, loop: asyncio.AbstractEventLoop, told: asyncio.Event, into: list[Any]) -> None:
    with closing(client.Stream(context.settings.admin_path, "count", {"upto": 3})) as stream:
        loop.call_soon_threadsafe(told.set)
        for item in stream:
            into.append(item)


async def test_the_file_and_its_rights(context: Context, server: AdminServer) -> None:
    path = context.settings.admin_path
    assert path.stat().st_mode & 0o777 == 0o660
    await server.stop()
    assert not path.exists()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    bind(path).close()
    assert path.is_socket()
    live = bind(path)
    live.listen()
    with live, pytest.raises(Failed, match="another process uses it"):
        bind(path)
    other = tmp_path / "file"
    other.write_text("precious")
    with pytest.raises(Failed):
        bind(other)
    assert other.read_text() == "precious"
    with pytest.raises(Failed, match="cannot make the admin socket"):
        bind(tmp_path / "no" / "admin.sock")
    with pytest.raises(Misconfigured):
        bind(tmp_path / ("x" * 120))


async def test_an_inherited_socket_stays(context: Context, tmp_path: Path) -> None:
    path = tmp_path / "by-systemd.sock"
    inherited = bind(path)
    server = AdminServer(context, context.settings.admin_path)
    await server.start(inherited)
    assert await asyncio.to_thread(client.call, path, "brand.list", {}) == []
    await server.stop()
    assert path.exists()


def test_who_does_not_answer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(client.NotListening):
        client.call(settings.admin_path, "status", {})
    monkeypatch.setattr(client, "ANSWER_TIMEOUT_S", 0.05)
    with bind(settings.admin_path) as silent:
        silent.listen()
        with pytest.raises(Unreachable, match="does not answer in time"):
            client.call(settings.admin_path, "status", {})


@pytest.mark.parametrize("says", [b"hello", b'"\xff\xff"'])
def test_who_is_no_pushbroker(settings: Settings, says: bytes) -> None:
    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            request = b""
            while not request.endswith(b"{}"):
                request += connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(says) + says)

    with bind(settings.admin_path) as other:
        other.listen()
        thread = threading.Thread(target=answer, args=(other,))
        thread.start()
        with pytest.raises(Failed, match="is no pushbroker"):
            client.call(settings.admin_path, "status", {})
        thread.join()


def test_a_directory_that_is_held_but_does_not_answer(settings: Settings) -> None:
    settings.records_path.touch()
    with DataLock(settings.lock_path), pytest.raises(Unreachable, match="in use by process") as raised:
        reach.call(settings, "brand.list", {}, wait_s=0.1)
    assert str(settings.lock_path) in raised.value.remedy


@pytest.mark.parametrize("error", [NotFound("a", remedy="b"), Refused("a"), Unreachable("a"), Failed("a", remedy="b")])
def test_errors_keep_their_kind(error: Refused | Failed) -> None:
    back = decode_error(encode_error(error))
    assert type(back) is type(error)
    assert back is not None
    assert (back.message, back.remedy, back.exit_code) == (error.message, error.remedy, error.exit_code)


def test_what_is_no_error() -> None:
    assert decode_error({"error": "a sentence"}) is None
    assert decode_error([]) is None
    assert isinstance(decode_error(encode_error(ProtocolError("x"))), Failed)
