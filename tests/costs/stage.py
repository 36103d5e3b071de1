"""A whole broker in this process, as `serve` makes it, and clients of which it does not notice that they are here.

Clients are bare sockets with bytes that were made before. Most come through a Unix socket, where what was sent is there
at once, so that the broker always reads the same; those of TLS come through TCP.
"""

import asyncio
import gc
import logging
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Final

from costs.counting import Counts, Meter, kept
from support.pki import key_and_csr

from broker.address import Listener
from broker.app import Broker
from broker.config import Settings
from broker.identity import Role
from broker.listen.reactor import TICK_S
from broker.watch.log import set_up
from broker.wire.codes import V5
from broker.wire.encode import encode
from broker.wire.packets import Connect, Packet, Publish, Request, Subscribe

BRAND: Final = "acme"
TOKENS: Final = 4  # servers, so that thousands of sessions are within what one may have
ROUNDS: Final = 3  # each measurement; the least counts, for a segment of TCP may come in two parts
TIMEOUT_S: Final = 30.0
BEGUN_S: Final = 0.2
_POLL_S: Final = 0.0005
_WAIT: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Client:
    """A socket of a client of MQTT 5 that is not connected yet."""

    def __init__(self, stage: "Stage", tls: ssl.SSLContext | None = None) -> None:
        self.stage = stage
        self.sock = socket.socket(socket.AF_UNIX if tls is None else socket.AF_INET)
        self.tls = tls
        self._data = b""
        self._packets: list[bytes] = []
        self.closed = False

    def open(self) -> None:
        """Connect the socket; over TLS, shake hands."""
        if self.tls is None:
            self.sock.connect(str(self.stage.path))
            self.sock.setblocking(False)
            return
        self.sock.connect(("127.0.0.1", self.stage.port))
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self.tls.wrap_socket(self.sock, server_hostname="localhost", do_handshake_on_connect=False)
        self.stage.until(self._shaken)

    def _shaken(self) -> bool:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except _WAIT:
            return False
        return True

    def send(self, *packets: Packet | bytes) -> None:
        """All of them in one piece."""
        data = b"".join(p if isinstance(p, bytes) else encode(p, V5) for p in packets)
        sent = self.sock.send(data)
        assert sent == len(data), "more than the socket takes at once"
        self.stage.sent += sent

    def has(self, count: int) -> bool:
        """Whether so many packets have come since the last `take`, or the end."""
        while not self.closed:
            try:
                data = self.sock.recv(1 << 18)
            except _WAIT:
                break
            self.closed = not data
            self._data += data
        self._split()
        return len(self._packets) >= count

    def take(self) -> list[bytes]:
        """What has come."""
        packets, self._packets = self._packets, []
        return packets

    def _split(self) -> None:
        """Cut what has come into packets, without the broker's code, which counts."""
        data, at = self._data, 0
        while True:
            length, shift, start = 0, 0, at + 1
            while start < len(data):
                length |= (data[start] & 0x7F) << shift
                start, shift = start + 1, shift + 7
                if data[start - 1] < 0x80:
                    break
            else:
                break
            if start + length > len(data):
                break
            self._packets.append(data[at : start + length])
            at = start + length
        self._data = data[at:]

    def gone(self) -> bool:
        """Whether the broker has closed the connection."""
        self.has(0)
        return self.closed

    def admitted(self) -> None:
        """Wait for the CONNACK, which must say yes."""
        (connack,) = self.expect()
        assert connack[3] == 0, connack

    def expect(self, count: int = 1) -> list[bytes]:
        """Wait for so many packets, and take them."""
        self.stage.until(lambda: self.has(count))
        packets = self.take()
        assert len(packets) == count, packets
        return packets


class Stage:
    """A broker with one brand, and what a scenario needs to play."""

    def __init__(self, runner: asyncio.Runner, folder: Path, meter: Meter) -> None:
        self._runner = runner
        self._meter = meter
        self.sent = 0  # bytes, by all clients
        self.path = folder / "mqtt.sock"
        listen = (Listener("mqtt+unix", path=str(self.path)), Listener("mqtts", "127.0.0.1", 0))
        # Nobody is slowed down, but messages are counted as if they might be; and who is online has time to answer.
        rates = {f"{role}_{what}_per_s": 1 << 40 for role in ("device", "server") for what in ("connects", "messages")}
        self.broker = Broker(
            Settings(
                data=folder / "data",
                listen=listen,
                allow_anonymous=True,
                commit_window_ms=10_000,
                overload_lag_ms=10_000,
                **rates,  # type: ignore[arg-type]
            )
        )
        runner.run(self.broker.start())
        runner.run(asyncio.sleep(BEGUN_S))  # what begins by itself has begun, and sweeps have swept
        runner.run(self.broker.pull.stop())  # it looks after conversations at times of its own
        gc.disable()  # it would come at another time each time
        timer = self.broker.reactor._timer
        assert timer is not None
        timer.cancel()  # from now on, time passes when a scenario says so
        self.port = int(self.broker.addresses[1].rpartition(":")[2])
        directory = self.broker.directory
        runner.run(directory.brand_add(BRAND))
        self.tokens = [runner.run(directory.token_issue(BRAND, f"s{n}")).secret.encode() for n in range(TOKENS)]
        self._clients: list[Client] = []
        self._now = self.broker.core.now

    def close(self) -> None:
        self._runner.run(self.broker.stop())
        for client in self._clients:
            client.sock.close()
        assert self.broker.core.counters.unexpected_errors == 0

    # -- clients -----------------------------------------------------------------------------------------------------

    def clients(self, count: int, tls: ssl.SSLContext | None = None) -> list[Client]:
        """Sockets that are not connected yet."""
        made = [Client(self, tls) for _ in range(count)]
        self._clients += made
        return made

    def hello(self, name: str, *, lasting: bool = False, anonymous: bool = False) -> bytes:
        """The CONNECT of a server of the brand, with a token; or of somebody who presents nothing."""
        connect = Connect(name, V5, clean_start=not lasting, keep_alive=60)
        if not anonymous:
            connect.username, connect.password = BRAND, self.tokens[sum(name.encode()) % TOKENS]
        if lasting:
            connect.properties.session_expiry = 3600
        return encode(connect, V5)

    def connect(
        self,
        name: str,
        *filters: str,
        qos: int = 0,
        count: int = 1,
        lasting: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> list[Client]:
        """Clients that are connected, with subscriptions."""
        clients = self.clients(count, tls)
        self.enter(clients, name, *filters, qos=qos, lasting=lasting)
        return clients

    def enter(
        self, clients: Sequence[Client], name: str, *filters: str, qos: int = 0, first: int = 0, lasting: bool = False
    ) -> None:
        """Connect clients, which are numbered from `first` on, and subscribe."""
        for number, client in enumerate(clients, first):
            client.open()
            client.send(self.hello(f"{name}{number:04}", lasting=lasting))
        for client in clients:
            client.admitted()
        if filters:
            for client in clients:
                client.send(Subscribe(1, [Request(name, qos) for name in filters]))
            for client in clients:
                client.expect()

    def leave(self, clients: Sequence[Client]) -> None:
        """Say goodbye."""
        for client in clients:
            client.send(GOODBYE)
        self.until(lambda: all(client.gone() for client in clients))
        for client in clients:
            client.sock.close()

    def one(self, name: str, *filters: str, qos: int = 0, lasting: bool = False) -> Client:
        """One such client."""
        (client,) = self.connect(name, *filters, qos=qos, lasting=lasting)
        return client

    def away(self, name: str, *filters: str, count: int, qos: int = 1) -> None:
        """Sessions that stay, whose clients have gone."""
        self.leave(self.connect(name, *filters, qos=qos, count=count, lasting=True))

    def device_context(self) -> ssl.SSLContext:
        """A client's TLS context with the certificate of a device."""
        key, csr = key_and_csr()
        directory = self.broker.directory
        self._runner.run(directory.user_add(BRAND, "ada"))
        self._runner.run(directory.device_code(BRAND, "kiosk-7", user="ada"))
        enrolled = self._runner.run(directory.cert_issue(Role.DEVICE, BRAND, "kiosk-7", csr))
        return self.broker.authority.client_context(enrolled.certificate_pem, key)

    # -- playing -----------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the broker work until the clients say that it is done. Only here it is counted."""

        async def wait() -> None:
            deadline = time.monotonic() + TIMEOUT_S  # a timer would stay in the loop's memory
            while True:
                with self._meter.working(False):
                    if condition():
                        return
                    assert time.monotonic() < deadline, "the broker does not do what was expected"
                await asyncio.sleep(_POLL_S)

        with self._meter.working():
            self._runner.get_loop().run_until_complete(wait())

    def heard(self) -> None:
        """Let the broker work until it has read all that was sent."""
        self.until(lambda: self.broker.core.counters.bytes_received >= self.sent)

    def settle(self) -> None:
        """Let the broker work until nothing waits to be written."""
        core = self.broker.core
        self.until(lambda: not (core.to_write or core.window_closes() or core._committing))

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is only needed for the rest."""
        with self._meter.off():
            yield

    def ticks(self, count: int) -> None:
        """So many half seconds pass."""
        core = self.broker.core
        for _ in range(count):
            self._now += TICK_S
            with self._meter.working():
                core.tick(self._now)
                core.flush()

    def measure(self, play: Callable[[], None], units: int) -> Counts:
        """The counts of `play` for each of its units; played once before, so that what is done once is done."""
        self._play(play)
        found = []
        for _ in range(ROUNDS):
            with self._meter.counting() as counts:
                self._play(play)
            found.append(counts)
        return min(found, key=lambda counts: counts.figures["opcodes"]) / units

    def _play(self, play: Callable[[], None]) -> None:
        play()
        self.heard()
        self.settle()

    def grown(self, play: Callable[[int, int], None], units: int) -> Counts:
        """What the broker keeps for each of the units from `first` to before `last` that are played at once."""
        play(0, units)
        self.settle()
        before = kept()
        play(units, 2 * units)
        self.settle()
        after = kept()
        return Counts({name: after.figures[name] - before.figures[name] for name in after.figures}) / units


def publish(topic: str, qos: int = 0, ids: Sequence[int] = (0,), *, retain: bool = False) -> bytes:
    """PUBLISHes of one message of 64 bytes, with these packet ids."""
    return b"".join(
        encode(Publish(topic.encode(), b"x" * 64, qos, retain, packet_id=id if qos else 0), V5) for id in ids
    )


GOODBYE: Final = b"\xe0\x00"
PING: Final = b"\xc0\x00"


def answers(first: int, packets: Sequence[bytes]) -> bytes:
    """The PUBACK (0x40), PUBREC (0x50) or such for each of the packets; PUBLISHes of less than 128 bytes."""
    out = b""
    for packet in packets:
        at = 4 + int.from_bytes(packet[2:4]) if packet[0] >> 4 == 3 else 2
        out += bytes((first, 2)) + packet[at : at + 2]
    return out


class _Stopped:
    """The module `time`, of which the time stands still: how far it has got by when would show in memory and counts."""

    def __init__(self) -> None:
        # In C, so that they are no instructions.
        self.monotonic = repeat(time.monotonic()).__next__
        self.time = repeat(time.time()).__next__
        self.time_ns = repeat(time.time_ns()).__next__


@contextmanager
def staged(meter: Meter) -> Iterator[Stage]:
    """A stage in a directory of its own, which is removed."""
    set_up("info", "text")
    logging.getLogger().handlers[:] = [logging.NullHandler()]
    stopped = _Stopped()
    for name, module in list(sys.modules.items()):
        if name.startswith("broker.") and hasattr(module, "time"):
            vars(module)["time"] = stopped
    with tempfile.TemporaryDirectory(prefix="pb-") as folder, asyncio.Runner() as runner:
        stage = Stage(runner, Path(folder), meter)
        try:
            yield stage
        finally:
            stage.close()
