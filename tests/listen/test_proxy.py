"""The PROXY protocol: who may announce whom, and every way in which a header can be there, or be wrong."""

import asyncio
import ipaddress
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engine import Engine, until
from support.mqtt import Client
from support.pki import Pki
from support.web import WebClient, request

from broker.errors import ProtocolError
from broker.limits import PROXY_BYTES_MAX
from broker.listen import reactor
from broker.listen.proxy import Header, Proxies, parse
from broker.listen.websocket import WebRules
from broker.wire.encode import encode
from broker.wire.packets import Connack, Connect

LOCAL = Proxies(["127.0.0.0/8", "unix"])
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIXED = len(SIGNATURE) + 4
ADDRESSES = bytes((192, 0, 2, 1, 198, 51, 100, 1)) + struct.pack("!HH", 56324, 443)
ADDRESSES6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") * 2 + struct.pack("!HH", 1, 443)


def v2(addresses: bytes = ADDRESSES, *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses) if length is None else length) + addresses


V1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"
GOOD = {
    "v1": (V1, "192.0.2.1:56324"),
    "v1, IPv6": (b"PROXY TCP6 2001:DB8:0::1 ::1 0 65535\r\n", "[2001:db8::1]:0"),
    "v1, unknown": (b"PROXY UNKNOWN\r\n", ""),
    "v1, unknown and more": (b"PROXY UNKNOWN ffff::1 what ever \r it is\r\n", ""),
    "v2": (v2(), "192.0.2.1:56324"),
    "v2, IPv6": (v2(ADDRESSES6, family=0x21), "[2001:db8::1]:1"),
    "v2, Unix": (v2(bytes(216), family=0x31), "unix"),
    "v2, TLVs": (v2(ADDRESSES + b"\x03\0\4abcd" + b"\x20\0\5\1\0\0\0\0"), "192.0.2.1:56324"),
    "v2, as long as may be": (v2(ADDRESSES + bytes(PROXY_BYTES_MAX - 12)), "192.0.2.1:56324"),
    "v2, local": (v2(b"", command=0x20, family=0), ""),
    "v2, local with addresses": (v2(command=0x20), ""),
    "v2, local of whatever": (v2(b"abc", command=0x20, family=0xFF), ""),
    "v2, unspecified": (v2(b"", family=0), ""),
    "v2, UDP": (v2(family=0x12), ""),  # §2.2: what is not implemented falls back
}
BAD = {
    "no header": (encode(Connect("a", 5), 5), "no PROXY header"),
    "TLS": (bytes.fromhex("16 03 01 00 c8 01 00 00 c4 03 03"), "no PROXY header"),
    "HTTP": (request(), "no PROXY header"),
    "v1, small letters": (V1.lower(), "no PROXY header"),
    "v1, no space": (b"PROXY\tTCP4", "no PROXY header"),
    "v1, line feed only": (V1.replace(b"\r", b""), "malformed"),
    "v1, too long": (b"PROXY UNKNOWN " + b"x" * 93 + b"\r\n", "more than 107"),
    "v1, without end": (b"PROXY TCP4 " + b"1" * 97, "more than 107"),
    "v1, nothing": (b"PROXY \r\n", "malformed"),
    "v1, another family": (b"PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n", "malformed"),
    "v1, unknown, nearly": (b"PROXY UNKNOWN4\r\n", "malformed"),
    "v1, two spaces": (V1.replace(b" 443", b"  443"), "malformed"),
    "v1, a space at the end": (V1.replace(b"\r", b" \r"), "malformed"),
    "v1, one port": (V1.replace(b" 443", b""), "malformed"),
    "v1, a port too many": (V1.replace(b" 443", b" 443 1"), "malformed"),
    "v1, port too large": (V1.replace(b"443", b"65536"), "malformed"),
    "v1, port with zero": (V1.replace(b"443", b"0443"), "malformed"),
    "v1, negative port": (V1.replace(b"443", b"-443"), "malformed"),
    "v1, port with _": (V1.replace(b"443", b"4_3"), "malformed"),
    "v1, other digits": (V1.replace(b"443", "٤٤٣".encode()), "malformed"),
    "v1, no address": (V1.replace(b"192.0.2.1", b"localhost"), "malformed"),
    "v1, short address": (V1.replace(b"192.0.2.1", b"192.1"), "malformed"),
    "v1, address with zeros": (V1.replace(b"192.0.2.1", b"192.0.2.01"), "malformed"),
    "v1, not ASCII": (V1.replace(b"192.0.2.1", b"\xff"), "malformed"),
    "v1, wrong destination": (V1.replace(b"198.51.100.1", b"::1"), "malformed"),
    "v1, IPv6 as IPv4": (b"PROXY TCP4 ::1 ::1 1 2\r\n", "malformed"),
    "v1, IPv4 as IPv6": (V1.replace(b"TCP4", b"TCP6"), "malformed"),
    "v1, with a zone": (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "malformed"),
    "v2, another signature": (v2().replace(b"QUIT", b"STOP"), "no PROXY header"),
    "v2, version 1": (v2(command=0x11), "command 0x11"),
    "v2, version 3": (v2(command=0x31), "command 0x31"),
    "v2, command 2": (v2(command=0x22), "command 0x22"),
    "v2, too long": (v2(length=PROXY_BYTES_MAX + 1), "4113 bytes"),
    "v2, as long as can be": (v2(length=0xFFFF), "65551 bytes"),
    "v2, family 4": (v2(family=0x41), "family 0x41"),
    "v2, protocol 3": (v2(family=0x13), "family 0x13"),
    "v2, short": (v2(ADDRESSES[:-1]), "11 bytes"),
    "v2, empty": (v2(b""), "0 bytes"),
    "v2, short IPv6": (v2(family=0x21), "12 bytes"),
    "v2, short Unix": (v2(bytes(215), family=0x31), "215 bytes"),
}


# -- the parser --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "peer"), GOOD.values(), ids=GOOD)
def test_whole_once_all_of_it_is_there(header: bytes, peer: str) -> None:
    for size in range(len(header)):
        assert parse(header[:size]) is None
    for rest in (b"", b"\n", SIGNATURE, bytes(5000)):
        assert parse(header + rest) == Header(len(header), peer)


@pytest.mark.parametrize(("data", "says"), BAD.values(), ids=BAD)
def test_wrong_as_soon_as_that_is_seen(data: bytes, says: str) -> None:
    """And from there on, whatever follows."""
    with pytest.raises(ProtocolError, match=says):
        parse(data)
    verdicts = []
    for size in range(len(data) + 1):
        try:
            verdicts.append(parse(data[:size]))
        except ProtocolError:
            verdicts.append(Header(-1, ""))
    assert verdicts == sorted(verdicts, key=bool)


@given(st.binary(max_size=200), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
def test_anything(data: bytes, start: bytes) -> None:
    """A header, not yet one, or none; and what is not whole is all of a header so far."""
    data = start + data
    try:
        header = parse(data)
    except ProtocolError:
        return
    if header is None:
        assert len(data) < FIXED + PROXY_BYTES_MAX
    else:
        assert 0 < header.size <= len(data)
        assert parse(data[: header.size]) == header
        assert parse(data[: header.size - 1]) is None


@given(st.ip_addresses(), st.integers(0, 65535), st.binary(max_size=100))
def test_both_versions_say_the_same(host: Any, port: int, rest: bytes) -> None:
    v6 = isinstance(host, ipaddress.IPv6Address)
    text = f"PROXY TCP{6 if v6 else 4} {host} {host} {port} 443\r\n".encode()
    binary = v2(host.packed * 2 + struct.pack("!HH", port, 443), family=0x21 if v6 else 0x11)
    peer = f"[{host}]:{port}" if v6 else f"{host}:{port}"
    assert parse(text + rest) == Header(len(text), peer)
    assert parse(binary + rest) == Header(len(binary), peer)


# -- who is trusted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "address", "yes"),
    [
        (["10.0.0.0/8"], ("10.1.2.3", 1), True),
        (["10.0.0.0/8"], ("11.1.2.3", 1), False),
        (["10.0.0.0/8"], ("::ffff:10.1.2.3", 1, 0, 0), True),
        (["10.0.0.0/8"], ("::ffff:11.1.2.3", 1, 0, 0), False),
        (["192.0.2.7"], ("192.0.2.7", 1), True),
        (["192.0.2.7"], ("192.0.2.8", 1), False),
        (["2001:db8::/32"], ("2001:db8::1", 1, 0, 0), True),
        (["fe80::/10"], ("fe80::1%eth0", 1, 0, 2), True),
        (["2001:db8::/32", "10.0.0.0/8"], ("10.0.0.1", 1), True),
        (["unix"], ("127.0.0.1", 1), False),
        (["unix"], "", True),
        (["127.0.0.1"], "", False),
        ([], ("127.0.0.1", 1), False),
    ],
)
def test_trusted_networks(trusted: list[str], address: Any, yes: bool) -> None:
    family = socket.AF_UNIX if address == "" else socket.AF_INET6 if len(address) > 2 else socket.AF_INET
    with socket.socket(family) as sock:
        assert Proxies(trusted).trusts(sock, address) == yes


@pytest.mark.parametrize("word", ["", "10.0.0.1/8", "proxy.example", "10.0.0.0/33", "Unix"])
def test_not_a_network(word: str) -> None:
    with pytest.raises(ValueError, match=r"does not appear to be|has host bits set"):
        Proxies([word])


async def test_not_from_a_trusted_proxy(engine: Engine, witness: Client) -> None:
    """A header from anywhere else would be a lie; and without one nobody comes in either."""
    port = engine.listen(proxy=Proxies(["10.0.0.0/8"]))
    for sent in (V1, encode(Connect("a", 5), 5)):
        client = await Client.open(port)
        client.writer.write(sent)
        await client.expect_end()
    assert engine.counters.proxy_refused == 2
    assert {event for event, _ in engine.events} == {"PROXY header refused"}
    assert engine.events[0][1]["client"].startswith("127.0.0.1:")


# -- connections -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def witness(engine: Engine) -> AsyncIterator[Client]:
    """Somebody else, who must notice nothing."""
    witness = await Client.connected(engine.port, "witness")
    await witness.subscribe("witness", qos=1)
    yield witness
    await witness.publish("witness", b"still here")
    await witness.expect_message(b"still here")
    assert engine.counters.unexpected_errors == 0


def address(engine: Engine, client_id: str) -> str:
    channel = engine.session(client_id).channel
    assert channel is not None
    return channel.address


@pytest.mark.parametrize(("header", "peer"), GOOD.values(), ids=GOOD)
async def test_the_announced_address_is_the_clients(engine: Engine, witness: Client, header: bytes, peer: str) -> None:
    """CONNECT may come in the same segment."""
    client = await Client.open(engine.listen(proxy=LOCAL))
    own = "{}:{}".format(*client.writer.get_extra_info("sockname"))
    await client.send(header, Connect("a", 5))
    await client.expect(Connack)
    assert address(engine, "a") == (peer or own)
    await client.silent()
    await client.disconnect()
    assert engine.counters.connections_accepted == 2
    assert engine.counters.bytes_received > len(header)


@pytest.mark.parametrize(("sent", "says"), BAD.values(), ids=BAD)
async def test_bad_headers(engine: Engine, witness: Client, sent: bytes, says: str) -> None:
    client = await Client.open(engine.listen(proxy=LOCAL))
    client.writer.write(sent)
    await client.expect_end()
    assert engine.counters.proxy_refused == 1
    assert len(engine.reactor.connections) == 1
    ((event, fields),) = engine.events
    assert event == "PROXY header refused"
    assert says in fields["error"]
    assert fields["client"].startswith("127.0.0.1:")


@pytest.mark.parametrize("header", [V1, v2(), v2(ADDRESSES + bytes(500))], ids=["v1", "v2", "v2, TLVs"])
async def test_a_byte_at_a_time(engine: Engine, header: bytes) -> None:
    client = await Client.open(engine.listen(proxy=LOCAL))
    before = engine.counters.bytes_received
    for n, byte in enumerate(header, 1):
        client.writer.write(bytes((byte,)))
        await until(lambda n=n: engine.counters.bytes_received == before + n)  # type: ignore[misc]
    await client.send(Connect("a", 5))
    await client.expect(Connack)
    assert address(engine, "a") == "192.0.2.1:56324"


async def test_an_unfinished_header_costs_nothing(engine: Engine) -> None:
    """What has come of it is not reported by epoll again and again."""
    client = await Client.open(engine.listen(proxy=LOCAL))
    client.writer.write(V1[:-1])
    await until(lambda: engine.counters.bytes_received == len(V1) - 1)
    rounds = 0

    def ready() -> None:
        nonlocal rounds
        rounds += 1

    fd = engine.reactor._epoll.fileno()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ready)
    try:
        for _ in range(100):
            await asyncio.sleep(0)
    finally:
        loop.add_reader(fd, engine.reactor._ready)
    assert rounds == 0


@pytest.mark.parametrize("segments", [1, 2, 1000])
async def test_before_tls(engine: Engine, pki: Pki, segments: int) -> None:
    """OpenSSL gets all that follows the header, also what came with it; and the certificate is the client's."""
    port = engine.listen(lambda: pki.context, proxy=LOCAL)
    client = await asyncio.to_thread(_over_tls, port, pki, segments)
    with client:
        assert address(engine, "a") == "192.0.2.1:56324"
        channel = engine.session("a").channel
        assert channel is not None
        assert channel.certificate is not None


def _over_tls(port: int, pki: Pki, segments: int) -> socket.socket:
    """A client whose header and ClientHello arrive in so many segments (1000: byte by byte)."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = pki.client(pki.ours).wrap_bio(incoming, outgoing, server_hostname="localhost")
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(10)
    first = V1
    cut = {1: [], 2: [len(V1) - 1]}.get(segments, range(10_000))

    def talk(step: Callable[[], Any]) -> Any:
        nonlocal first
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                data, first = first + outgoing.read(), b""
                at = [0, *(n for n in cut if 0 < n < len(data)), len(data)]
                for start, stop in pairwise(at):
                    sock.sendall(data[start:stop])
                incoming.write(sock.recv(1 << 16))

    talk(tls.do_handshake)
    tls.write(encode(Connect("a", 5), 5))
    assert talk(lambda: tls.read(1)) == b"\x20"
    return sock


@asynccontextmanager
async def balancer(port: int) -> AsyncIterator[int]:
    """A load balancer of the plainest kind: it sends the header, and then passes on what comes, either way."""
    tasks = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader2, writer2 = await asyncio.open_connection("127.0.0.1", port)
        writer2.write(V1)
        for way in ((reader, writer2), (reader2, writer)):
            tasks.add(asyncio.create_task(pass_on(*way)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
async def test_before_websocket(engine: Engine, pki: Pki, tls: bool) -> None:
    port = engine.listen((lambda: pki.context) if tls else None, web=WebRules("/mqtt"), proxy=LOCAL)
    async with balancer(port) as front:
        options = {"request": request("/mqtt")}
        client = await WebClient.connected(front, "a", tls=pki.client() if tls else None, options=options)
        assert address(engine, "a") == "192.0.2.1:56324"
        await client.subscribe("t", qos=1)
        await client.publish("t", bytes(100_000))
        await client.expect_message(bytes(100_000))
        await client.disconnect()


async def test_the_request_in_the_same_segment(engine: Engine) -> None:
    port = engine.listen(web=WebRules("/mqtt"), proxy=LOCAL)
    client = await WebClient.connected(port, "a", options={"request": V1 + request("/mqtt")})
    assert address(engine, "a") == "192.0.2.1:56324"
    await client.silent()


async def test_on_a_unix_socket(engine: Engine, short_path: Path) -> None:
    for name, proxy in (("plain", None), ("proxy", LOCAL)):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(short_path / name))
        engine.reactor.listen(sock, None, proxy=proxy)
    direct = await Client.connected(short_path / "plain", "direct")
    proxied = await Client.open(short_path / "proxy")
    await proxied.send(V1, Connect("proxied", 5))
    await proxied.expect(Connack)
    local = await Client.open(short_path / "proxy")
    await local.send(v2(b"", command=0x20), Connect("local", 5))
    await local.expect(Connack)
    assert [address(engine, name) for name in ("direct", "proxied", "local")] == ["unix", "192.0.2.1:56324", "unix"]
    await direct.silent()


async def test_an_untrusted_unix_socket(engine: Engine, short_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(short_path / "s"))
    engine.reactor.listen(sock, None, proxy=Proxies(["127.0.0.1"]))
    client = await Client.open(short_path / "s")
    await client.expect_end()
    assert engine.counters.proxy_refused == 1
    assert engine.events[0][1]["client"] == "unix"


# -- those who do not finish -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", V1[:1], V1[:-1], v2()[:-1], V1, V1 + b"\x10"])
async def test_slow_ones_are_closed(engine: Engine, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """The time for CONNECT runs from the accept; it does not begin anew with what follows the header."""
    client = await Client.open(engine.listen(proxy=LOCAL))
    await until(lambda: engine.reactor.connections)
    accepted_at = engine.core.now
    monkeypatch.setattr(reactor, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 15))
    client.writer.write(sent)
    await until(lambda: engine.counters.bytes_received == len(sent))
    engine.core.tick(accepted_at + 22)
    assert not engine.reactor.connections
    assert engine.counters.connections_refused == 1
    await client.expect_end()


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("sent", [b"", V1, v2(b"", command=0x20)], ids=["nothing", "v1", "local"])
async def test_health_checks_leave_no_line(engine: Engine, pki: Pki, tls: bool, sent: bytes, abort: bool) -> None:
    """A load balancer looks in every second whether we are there."""
    client = await Client.open(engine.listen((lambda: pki.context) if tls else None, proxy=LOCAL))
    client.writer.write(sent)
    await until(lambda: engine.counters.bytes_received == len(sent) and engine.reactor.open)
    if abort:
        client.abort()
    else:
        await client.close()
    await until(lambda: not engine.reactor.open)
    assert not engine.events
    assert engine.counters.proxy_refused == 0


async def test_health_checks_of_a_tls_listener_leave_no_line(engine: Engine) -> None:
    client = await Client.open(engine.tls_port)
    await client.close()
    await until(lambda: engine.counters.handshakes_failed == 1)
    assert not engine.events


@pytest.mark.parametrize("sent", [V1[:3], V1[:-1], SIGNATURE, v2()[:-1]])
async def test_gone_within_the_header(engine: Engine, witness: Client, sent: bytes) -> None:
    client = await Client.open(engine.listen(proxy=LOCAL))
    client.writer.write(sent)
    await client.close()
    await until(lambda: engine.counters.proxy_refused == 1)
    assert "went away" in engine.events[0][1]["error"]
    assert len(engine.reactor.connections) == 1


async def test_many_at_once(engine: Engine, witness: Client) -> None:
    port = engine.listen(proxy=LOCAL)

    async def connect(n: int) -> Client:
        client = await Client.open(port)
        header = b"PROXY TCP4 192.0.2.1 198.51.100.1 %d 443\r\n" % n
        await client.send(header, Connect(f"c{n}", 5))
        await client.expect(Connack)
        return client

    clients = await asyncio.gather(*(connect(n) for n in range(100)))
    for n, client in enumerate(clients):
        assert address(engine, f"c{n}") == f"192.0.2.1:{n}"
        await client.silent()
    assert len(engine.reactor.connections) == 101
