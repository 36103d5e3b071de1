"""Where a broker listens: Unix sockets, and sockets that a supervisor hands over."""

import socket
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.cli import PUSHBROKER, environment
from support.live import running, settings
from support.mqtt import Client
from support.programs import program
from support.web import WebClient, request

from broker.address import Listener, parse_listen
from broker.app import Broker
from broker.errors import Failed, Misconfigured
from broker.wire.packets import Connack, Connect


@pytest.fixture(autouse=True)
async def _leave_nothing() -> AsyncIterator[None]:
    yield
    await Client.abort_all()


def _unix(path: Path, mode: int = 0o660) -> tuple[Listener, ...]:
    return (Listener("mqtt+unix", path=str(path), mode=mode),)


# -- Unix sockets ------------------------------------------------------------------------------------------------------


async def test_clients_come_through_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    async with running(tmp_path / "data", listen=_unix(path), allow_anonymous=True) as broker:
        assert broker.addresses == [f"mqtt+unix://{path}"]
        client = await Client.connected(path, "here")
        await client.subscribe("t")
        await client.publish("t", b"x")
        await client.expect_message(b"x")
        (seen,) = broker.connections()
        assert seen["address"] == "unix"
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o666])
async def test_the_file_has_the_rights_that_were_asked_for(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "mqtt.sock"
    async with running(tmp_path / "data", listen=_unix(path, mode)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


async def test_a_file_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with running(tmp_path / "data", listen=_unix(path), allow_anonymous=True):
        await Client.connected(path)


async def test_a_socket_in_use_and_a_file_that_is_none_stay(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(Failed, match="another process uses it") as raised:
            await Broker(settings(tmp_path / "data", listen=_unix(path))).start()
        assert "--listen" in raised.value.remedy
    path.unlink()
    path.write_text("precious")
    with pytest.raises(Failed, match="or it is no socket"):
        await Broker(settings(tmp_path / "data", listen=_unix(path))).start()
    assert path.read_text() == "precious"


async def test_a_web_server_before_it(tmp_path: Path) -> None:
    """On a Unix socket, any path is answered: the URL's is that of the file."""
    path = tmp_path / "ws.sock"
    listen = (Listener("ws+unix", path=str(path)), Listener("ws", "127.0.0.1", 0, "/mqtt"))
    async with running(tmp_path / "data", listen=listen, allow_anonymous=True) as broker:
        for where in (path, broker.listeners[1].port):
            client = await WebClient.connected(where, options={"request": request("/mqtt")})
            await client.disconnect()


async def test_a_path_is_served_as_clients_send_it(tmp_path: Path) -> None:
    listen = tuple(parse_listen(f"ws://127.0.0.1:0{path}") for path in ("/m%C3%A9", "/mé", "/a%20b"))
    async with running(tmp_path / "data", listen=listen, allow_anonymous=True) as broker:
        for listener, path in zip(broker.listeners, ("/m%C3%A9", "/m%C3%A9", "/a%20b"), strict=True):
            await WebClient.connected(listener.port, options={"request": request(path)})
            assert listener.address.endswith(path)


@pytest.mark.parametrize("host", ["a" * 80, "a..b"])
async def test_what_is_no_host_name_is_refused_in_words(tmp_path: Path, host: str) -> None:
    with pytest.raises(Failed, match="is no host name"):
        await Broker(settings(tmp_path, listen=(Listener("mqtt", host, 0),))).start()


async def test_behind_a_balancer(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    listen = (Listener("mqtt+unix", path=str(path), proxy=("unix",)),)
    async with running(tmp_path / "data", listen=listen, allow_anonymous=True, allow_anonymous_anywhere=True) as broker:
        client = await Client.open(path)
        await client.send(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Connect("a", 5))
        await client.expect(Connack)
        (seen,) = broker.connections()
        assert seen["address"] == "192.0.2.1:56324"


# -- handed over -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bound", "named"), [("127.0.0.1", "localhost"), ("0.0.0.0", "::"), ("::", "0.0.0.0")])
async def test_a_socket_that_was_handed_over_is_used(tmp_path: Path, bound: str, named: str) -> None:
    six = ":" in bound  # systemd binds it for IPv4 as well
    given = socket.create_server((bound, 0), family=socket.AF_INET6 if six else socket.AF_INET, dualstack_ipv6=six)
    port = given.getsockname()[1]
    listen = (Listener("mqtt", named, port),)
    broker = Broker(
        settings(tmp_path, listen=listen, allow_anonymous=True, allow_anonymous_anywhere=True), inherited=[given]
    )
    await broker.start()  # a second socket on that address would have been refused
    try:
        await (await Client.connected(port)).silent()
    finally:
        await broker.stop()


async def test_a_unix_socket_that_was_handed_over_stays(tmp_path: Path) -> None:
    """It is the supervisor's: the file is not removed, nor are its rights changed."""
    path = tmp_path / "mqtt.sock"
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(path))
    path.chmod(0o640)
    broker = Broker(settings(tmp_path / "data", listen=_unix(path), allow_anonymous=True), inherited=[given])
    await broker.start()
    try:
        await Client.connected(path)
    finally:
        await broker.stop()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_a_socket_that_nothing_names_is_an_error(tmp_path: Path) -> None:
    """Its clients would connect, and wait for ever."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        name = f"127.0.0.1:{given.getsockname()[1]}"
        with pytest.raises(Misconfigured, match=f"handed over a socket at {name}") as raised:
            await Broker(settings(tmp_path), inherited=[given]).start()
        assert f"mqtts://{name}" in raised.value.remedy


async def test_a_client_that_connects_starts_the_broker(tmp_path: Path, free_port: int) -> None:
    """As under a `.socket` unit: systemd listens, the broker is started by the first client and gets the socket."""
    address = f"127.0.0.1:{free_port}"
    ours = [f"--setenv={name}={value}" for name, value in environment().items()]
    command = [program("systemd-socket-activate"), "--listen", address, *ours, str(PUSHBROKER), "serve"]
    flags = ["--data", str(tmp_path / "data"), "--listen", f"mqtt://{address}", "--allow-anonymous"]
    process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        while "Listening" not in process.stderr.readline():
            assert process.poll() is None
        client = await Client.open(free_port)
        await client.send(Connect("", 5))
        await client.expect(Connack, within_s=30)
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=20)
    assert f"ready: mqtt://{address}" in out
