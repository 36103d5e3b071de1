"""One epoll of our own, nested in asyncio's: it serves thousands of sockets without a task or a transport for each.

asyncio sees one readable descriptor, the epoll's. A round takes the ready sockets from it, lets each feed what it has
read, and then writes out, once for each connection, what the round has put into it. All of this runs on the loop's
thread; nothing here awaits.
"""

import asyncio
import errno
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from typing import Final

from broker.identity import Identity, Role
from broker.limits import (
    CONNECT_TIMEOUT_S,
    KEEP_ALIVE_MAX_S,
    KERNEL_BUFFER_BYTES,
    OVERLOAD_LAG_MS,
    OVERLOAD_TICKS,
    PROBE_INTERVAL_S,
    PROBES_MAX,
    ROUND_BYTES,
    WRONG_SECRETS_PER_S,
)
from broker.listen.connection import READ_BYTES, Connection, address_of, host_of, peer_name
from broker.listen.proxy import Announced, Proxies
from broker.listen.rates import NO_RATES, Allowance, Meter, Meters, Rates, RatesOf
from broker.listen.tls import Handshake, Handshakes
from broker.listen.websocket import WebRules, WebSocket
from broker.session.channel import Channel
from broker.session.core import Core
from broker.session.session import Session

IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT
_GONE: Final = select.EPOLLHUP | select.EPOLLERR

EVENTS_MAX: Final = 512  # taken from epoll at once
ROUNDS_MAX: Final = 4  # before asyncio's other work gets its turn
ACCEPTS_MAX: Final = 64  # from one listener at once
CLOSED_MAX: Final = 64  # in a round, of those that have gone: 4 ms
BACKLOG: Final = 4096
# Set on a listening socket; what it accepts inherits them.
OPTIONS: Final = (
    # Batching is done here already; Nagle would only hold the last part of a batch back.
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER_BYTES),
    (socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES),
    # Who is gone without a word is noticed, whatever its MQTT keep-alive.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_MAX_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES_MAX),
)
_SECRETS: Final = Rates(connects=WRONG_SECRETS_PER_S)
TICK_S: Final = 0.5
PAUSE_S: Final = 0.5  # accepting rests so long when descriptors or connections run out


class Listener:
    """A listening socket, and what it accepts: over TLS (with this context), WebSocket, by way of proxies; or not.

    Each is an ordered stream of bytes that loses none: [MQTT-4.2.0-1], 3.1.1 [MQTT-7.1.1-1].
    And how many at a time (0 = any number), and how much all of them together.
    """

    def __init__(
        self,
        sock: socket.socket,
        tls: Callable[[], ssl.SSLContext] | None,
        web: WebRules | None,
        proxy: Proxies | None,
        connections_max: int,
        rates: Rates,
    ) -> None:
        self.sock = sock
        self.tls = tls
        self.web = web
        self.proxy = proxy
        self.connections_max = connections_max
        self.connections = 0
        self.rates = rates
        self.meter = Meter()
        self.allowances: dict[Role, Allowance] = {}


class Reactor:
    """All connections of the process and the epoll that watches them."""

    def __init__(self, core: Core, loop: asyncio.AbstractEventLoop) -> None:
        self.core = core
        self.loop = loop
        self.connections: dict[int, Connection] = {}
        self.listeners: list[Listener] = []
        self._epoll = select.epoll()
        self._timer: asyncio.TimerHandle | None = None
        self.share = READ_BYTES  # of one connection in this round
        core.again = lambda: loop.call_soon(self._turn)
        self.lag_s = 0.0  # by how much the last tick came late: how long the loop was busy with other things
        self.overload_lag_s = OVERLOAD_LAG_MS / 1000
        self.overloaded = False  # it was late for a while: those who are connected come first
        self._strained = 0  # ticks that were late, less those that were not
        self.rates = RatesOf()
        self._identities = Meters()
        self._addresses = Meters()
        self._secrets = Meters()  # that turned out wrong, by address
        self._handshakes = Handshakes(loop, self._secured, self._accept_on)
        self._closed = 0  # in this round, of those that have gone
        self._leaving: deque[Connection] = deque()  # they have gone, too, and are closed in other rounds
        self._held: list[Listener] = []  # they accept nobody until handshakes have been done
        loop.add_reader(self._epoll.fileno(), self._ready)
        self._tick_at = loop.time() + TICK_S
        self._timer = loop.call_at(self._tick_at, self._tick)

    # -- listening ---------------------------------------------------------------------------------------------------

    def listen(
        self,
        sock: socket.socket,
        tls: Callable[[], ssl.SSLContext] | None,
        *,
        web: WebRules | None = None,
        proxy: Proxies | None = None,
        connections_max: int = 0,
        rates: Rates = NO_RATES,
    ) -> None:
        """Accept connections from a bound socket. `tls` gives the context for each new one, so that it can change.

        web: they speak WebSocket, by these rules. proxy: these announce, in a PROXY header, for whom they connect, and
        nobody else may connect. connections_max: at a time; 0 is any number. rates: of all of them together.
        """
        sock.setblocking(False)
        for level, option, value in OPTIONS if sock.family != socket.AF_UNIX else ():
            sock.setsockopt(level, option, value)
        if tls is not None:
            self._handshakes.start()
        sock.listen(BACKLOG)
        listener = Listener(sock, tls, web, proxy, connections_max, rates)
        self.listeners.append(listener)
        self.loop.add_reader(sock.fileno(), self._accept, listener)

    def _accept(self, listener: Listener) -> None:
        core, limits = self.core, listener.rates
        now = core.now = time.monotonic()
        # What `socket.accept` wraps, and the type that `socket.socket` extends: an eighth of all that a connect costs.
        accept = listener.sock._accept  # type: ignore[attr-defined]
        make = socket.SocketType if listener.tls is None else socket.socket
        family, kind = int(listener.sock.family), int(listener.sock.type)
        for _ in range(ACCEPTS_MAX):
            if listener.tls is not None and self._handshakes.full():
                core.counters.handshakes_paced += 1
                self.loop.remove_reader(listener.sock.fileno())
                self._held.append(listener)
                return
            if limits.connects and not listener.meter.may_connect(limits, now):
                self._rest(listener, "too many connects a second")
                return
            try:
                fd, address = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest(listener, f"cannot accept: {error.strerror}")
                    return
                continue  # the peer has gone again
            sock = make(family, kind, 0, fd)
            full = listener.connections_max and listener.connections >= listener.connections_max
            if full or self.open >= core.limits.connections_max:
                core.counters.connections_refused += 1
                sock.close()
                self._rest(listener, "too many connections")
                return
            core.counters.connections_accepted += 1
            sock.setblocking(False)
            if listener.proxy is None:
                if self._welcome(sock, address[0] if isinstance(address, tuple) else ""):
                    self.begin(sock, listener)
            elif listener.proxy.trusts(sock, address):
                self._add(Announced(self, sock, listener))
            else:
                core.counters.proxy_refused += 1
                core.note("PROXY header refused", client=peer_name(address), error="not from a trusted proxy")
                sock.close()

    def begin(self, sock: socket.SocketType, listener: Listener, peer: str = "", since: float = 0.0) -> None:
        """Serve a client that `listener` has accepted.

        peer: its address, where a proxy announced it. since: when that was, if not now; its time for CONNECT runs.
        """
        now = self.core.now
        if peer and not self._welcome(sock, host_of(peer)):
            return
        if listener.rates.connects:
            listener.meter.charge(listener.rates, now, 1)
        if listener.tls is None:
            self._serve(sock, listener, peer, since)
        else:
            assert isinstance(sock, socket.socket)  # as `_accept` makes it where there is TLS
            listener.connections += 1
            until = (since or now) + CONNECT_TIMEOUT_S
            self._handshakes.begin(Handshake(sock, listener.tls(), listener, peer, until))

    def _secured(self, handshakes: list[Handshake]) -> None:
        """These handshakes are over: well, or the connection with them."""
        core = self.core
        core.now = time.monotonic()
        for handshake in handshakes:
            handshake.listener.connections -= 1
            if handshake.error is None and not handshake.late:
                began = handshake.until - CONNECT_TIMEOUT_S
                self._serve(handshake.sock, handshake.listener, handshake.peer, began)
                continue
            core.counters.connections_closed += 1
            if handshake.late:
                core.counters.connections_refused += 1
            elif isinstance(handshake.error, OSError | ValueError):
                core.counters.handshakes_failed += 1
                if not handshake.silent:
                    client = handshake.peer or address_of(handshake.sock)
                    core.note("TLS handshake failed", client=client, error=handshake.reason)
            elif handshake.error is not None:
                core.unexpected(handshake.error)
            handshake.sock.close()

    def _serve(self, sock: socket.SocketType, listener: Listener, peer: str, since: float) -> None:
        kind = Connection if listener.web is None else WebSocket
        connection = self._add(kind(self, sock, listener, peer))
        if since:
            self.core.wheel.schedule(connection, since + CONNECT_TIMEOUT_S)

    def _add(self, connection: Connection) -> Connection:
        self.connections[connection.fd] = connection
        connection.listener.connections += 1
        self._epoll.register(connection.fd, IN)
        return connection

    @property
    def open(self) -> int:
        """Connections that are open, those whose handshakes are not over included."""
        return len(self.connections) + self._handshakes.count

    def _welcome(self, sock: socket.SocketType, host: str) -> bool:
        """Whether `host` may connect now: not more often than its rate, and closed at once if not."""
        rates = self.rates.address
        if not rates.connects or self._meter_of(self._addresses, host).connect(rates, self.core.now):
            return True
        self.core.counters.connections_refused += 1
        self.core.note("connection refused", client=host, error="too many connects a second from this address")
        sock.close()
        return False

    def _meter_of(self, meters: Meters, host: str) -> Meter:
        """That of an address; of IPv6 it is the network that one customer has. Our own machine has none to keep."""
        if ":" in host:
            address = IPv6Address(host)
            mapped = address.ipv4_mapped
            host = str(mapped) if mapped else "" if address.is_loopback else str(int(address) >> 64)
        if not host or host.startswith("127."):
            return Meter()
        return meters.of(host, self.core.now)

    def sessions(self) -> Iterator[Session]:
        """The sessions of those who are connected."""
        return (c.session for c in self.connections.values() if c.session is not None and c.session.channel is c)

    # -- what each may do --------------------------------------------------------------------------------------------

    def set_rates(self, rates: RatesOf) -> None:
        """From now on, identities and addresses may do this much."""
        self.rates = rates
        for listener in self.listeners:
            for role, allowance in listener.allowances.items():
                allowance.change(rates.of(role))
        for connection in self.connections.values():
            if connection.session is not None:  # what had no bound may have one now
                self._apply(connection, connection.session.identity.role)

    def may_connect(self, identity: Identity) -> bool:
        """Whether `identity` may connect now, not more often than its rate."""
        rates = self.rates.of(identity.role)
        return not rates.connects or self._identities.of(identity.path, self.core.now).connect(rates, self.core.now)

    def allow(self, channel: Channel, role: Role) -> None:
        """From now on the client of `channel`, just let in, is read as its kind may be on its listener."""
        assert isinstance(channel, Connection)
        self._apply(channel, role)
        if channel.allowance is not None and channel.session is not None:
            channel.rest, channel.tail = bytes(channel.tail), b""  # what followed its CONNECT counts, too
            over = channel.allowance.spend(channel.session.identity, self.core.now, 0, 0)
            if over > 0:  # it has come back to get round its pause
                channel.throttle(over)

    def _apply(self, connection: Connection, role: Role) -> None:
        listener = connection.listener
        allowance = listener.allowances.get(role)
        if allowance is None:
            allowance = Allowance(listener.rates, listener.meter, self.rates.of(role), self._identities)
            listener.allowances[role] = allowance
        connection.allowance = allowance if allowance.bounded else None

    def may_guess(self, channel: Channel) -> bool:
        """Whether the address of `channel` may try one more secret. It is taken for wrong until `was_right`."""
        return self._secrets_of(channel).connect(_SECRETS, self.core.now)

    def was_right(self, channel: Channel) -> None:
        """The secret was right, or not looked at: it does not count."""
        self._secrets_of(channel).charge(_SECRETS, self.core.now, -1)

    def _secrets_of(self, channel: Channel) -> Meter:
        assert isinstance(channel, Connection)
        return self._meter_of(self._secrets, host_of(channel.address))

    def _rest(self, listener: Listener, why: str) -> None:
        """Leave new connections in the kernel's backlog for a moment: those who are connected come first."""
        self.core.note("accepting rests", error=why, connections=len(self.connections))
        self.loop.remove_reader(listener.sock.fileno())
        self.loop.call_later(PAUSE_S, self._accept_again, listener)

    def _accept_again(self, listener: Listener) -> None:
        if listener in self.listeners:
            self.loop.add_reader(listener.sock.fileno(), self._accept, listener)

    def _accept_on(self) -> None:
        """There is room for handshakes again."""
        held, self._held = self._held, []
        for listener in held:
            self._accept_again(listener)

    def stop_listening(self) -> None:
        """Accept nobody any more; who is in the middle of a handshake has come too late."""
        self._handshakes.close()
        for listener in self.listeners:
            self.loop.remove_reader(listener.sock.fileno())
            listener.sock.close()
        self.listeners.clear()

    # -- a round -----------------------------------------------------------------------------------------------------

    def _ready(self) -> None:
        core, connections = self.core, self.connections
        for _ in range(ROUNDS_MAX):
            core.now = time.monotonic()
            events = self._epoll.poll(0, EVENTS_MAX)
            self.share = min(READ_BYTES, ROUND_BYTES // (len(events) or 1))
            self._closed = 0
            if self._leaving:
                self._see_off()
            for fd, event in events:
                connection = connections.get(fd)
                if connection is None:
                    continue  # closed in this round by another
                try:
                    if event & IN:
                        connection.readable()
                    elif event & _GONE:
                        connection.lost()
                        continue
                    if event & OUT and not connection.closed:
                        connection.writable()
                except Exception as error:  # noqa: BLE001 - one connection's bug is not the others' end
                    core.unexpected(error, connection)
            core.flush()
            if len(events) < EVENTS_MAX:
                break

    def may_close(self, connection: Connection) -> bool:
        """Whether a connection whose peer has gone may be closed now. If not, that is done later, a part each round.

        When thousands go at once, those who stay would wait for all of their sessions to be put away.
        """
        self._closed += 1
        if self._closed <= CLOSED_MAX:
            return True
        if not self._leaving:
            self.loop.call_soon(self._leave)
        self._leaving.append(connection)
        return False

    def _leave(self) -> None:
        """Have another round, for those that are still to be closed."""
        if self._leaving and not self._epoll.closed:
            self._ready()
            self.loop.call_soon(self._leave)

    def _see_off(self) -> None:
        """Close some of those that have gone."""
        while self._leaving and self._closed < CLOSED_MAX:
            connection = self._leaving.popleft()
            if not connection.closed:  # by another that has taken over its session, perhaps
                self._closed += 1
                try:
                    connection.close()
                except Exception as error:  # noqa: BLE001 - as in a round
                    self.core.unexpected(error, connection)

    def _turn(self) -> None:
        """Go on with those who had worked enough, now that the others have been served."""
        if not self._epoll.closed:
            self.run(self.core.turn)

    def want(self, connection: Connection, *, write: bool) -> None:
        """Watch a connection for reading, if it reads, and for writing if `write`."""
        if not connection.closed and not connection.gone:
            self._epoll.modify(connection.fd, (IN if connection.reading else 0) | (OUT if write else 0))

    def mute(self, connection: Connection) -> None:
        """Stop watching a connection before it is closed: epoll would tell again and again that its peer is gone."""
        self._epoll.unregister(connection.fd)

    def forget(self, connection: Connection) -> None:
        """A connection is being closed: with its descriptor, epoll forgets it by itself."""
        if self.connections.pop(connection.fd, None) is not None:
            connection.listener.connections -= 1

    # -- time and the end --------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self.loop.time()
        self.lag_s = max(0.0, now - self._tick_at)
        self._judge()
        try:
            self.core.tick(time.monotonic())
        except Exception as error:  # noqa: BLE001 - time goes on
            self.core.unexpected(error)
        self.core.flush()
        self._tick_at = now + TICK_S
        self._timer = self.loop.call_at(self._tick_at, self._tick)

    def _judge(self) -> None:
        """Tell a strain that lasts, in which nobody new is let in, from one long piece of work."""
        late = self.lag_s > self.overload_lag_s
        self._strained = max(0, min(OVERLOAD_TICKS, self._strained + (1 if late else -1)))
        if self.overloaded != bool(self._strained) and self._strained in (0, OVERLOAD_TICKS):
            self.overloaded = bool(self._strained)
            self.core.counters.overloads += self.overloaded
            self.core.note("overloaded" if self.overloaded else "not overloaded any more", lag_s=round(self.lag_s, 3))

    def run(self, work: Callable[[], object], channel: Channel | None = None) -> None:
        """Do something to the core from outside of a round, and write out what it has put out.

        A bug in it costs `channel`, if it is for one.
        """
        self.core.now = time.monotonic()
        try:
            work()
        except Exception as error:  # noqa: BLE001 - as in a round
            self.core.unexpected(error, channel)
        self.core.flush()

    def close(self) -> None:
        """Stop altogether, time too. Close the connections before. May be called again."""
        if self._epoll.closed:
            return
        self.stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
