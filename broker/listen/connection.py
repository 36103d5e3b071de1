"""One connection's socket, plain or TLS, non-blocking, in the reactor's hands. Its protocol side is `Channel`.

Both are ordered and lossless streams of bytes in both directions [MQTT-4.2.0-1].
"""

import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from broker.listen.rates import Allowance
from broker.session.channel import Channel

if TYPE_CHECKING:
    from broker.listen.reactor import Listener, Reactor

READ_BYTES: Final = 65536
RECORD_BYTES: Final = 16384  # the most that one TLS record carries (RFC 8446 §5.1)
RECORDS_MAX: Final = 3  # read at once, after the first, from a peer that sends full ones
# Taken in at a time from one whose messages are counted: at most 200 of the smallest, before it is asked to wait.
PIECE_BYTES: Final = 1024
# What is sent at once where much was put out, and the most that is copied for a peer whose socket does not take it: the
# rest stays as it is, the same bytes for all who are to get them. More than a TLS record, which OpenSSL wants again.
SEND_BYTES: Final = 65536
SEND_CHUNKS: Final = 16  # of fewer chunks it is not asked how many bytes they are, without TLS
# A peer that does not read so many answers is not read either, until it has: they would pile up without end.
UNREAD_MAX: Final = 4096
# What a TLS socket says instead of EWOULDBLOCK.
WAIT: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError, InterruptedError)


class Connection(Channel):
    """A channel on a socket. The reactor calls `readable` and `writable`, and `flush` at the end of each round."""

    __slots__ = (
        "allowance",
        "fd",
        "gone",
        "listener",
        "peer",
        "pending",
        "reactor",
        "reading",
        "rest",
        "sock",
        "tls",
        "uncounted",
        "unread",
    )

    dearer: ClassVar[int] = 1  # so many times more a byte may cost here; so many fewer are read in a round

    def __init__(self, reactor: "Reactor", sock: socket.SocketType, listener: "Listener", peer: str = "") -> None:
        super().__init__(reactor.core)
        self.reactor = reactor
        self.sock = sock
        self.listener = listener
        self.fd = sock.fileno()
        self.peer = peer  # its address, where a proxy has announced it
        self.tls = isinstance(sock, ssl.SSLSocket)
        self.allowance: Allowance | None = None  # how much it may send, where that has a bound
        self.uncounted = 0  # bytes of which it does not know yet
        self.rest = b""  # what was read before it turned out to be too much
        self.reading = True
        self.gone = False  # the peer is, and what it said before is not read to the end yet
        self.pending: bytes | memoryview | None = None  # what the socket did not take
        self.unread = 0  # answers put out while it did not

    # -- in ----------------------------------------------------------------------------------------------------------

    def readable(self) -> None:
        """Read what is there, a bounded part of it: epoll reports the rest again.

        One read takes a whole TLS record off OpenSSL (READ_BYTES is more than a record's 16 KiB, and OpenSSL does not
        read ahead unless told to), so nothing stays behind where epoll cannot see it.
        """
        share = self.reactor.share // self.dearer
        try:
            data = self.sock.recv(READ_BYTES if self.tls else share)
            self.core.counters.bytes_received += len(data)
            if not data:
                self._end()
                return
            before = len(self.out)
            self.feed(data)
            if len(data) == RECORD_BYTES and self.tls and share == READ_BYTES:
                self._read_on()
            if self.pending is not None and not self.gone:
                self.unread += len(self.out) - before
                if self.unread > UNREAD_MAX:
                    self.pause()
        except WAIT:
            if self.gone:
                self._end()
        except OSError:
            self._end()

    def _end(self) -> None:
        """There is nothing more to be heard: close, now or when it is its turn, if very many go at once."""
        if self.reactor.may_close(self):
            self.close()
        elif not self.gone:
            self._cut()

    def _read_on(self) -> None:
        """Read a few more TLS records, for as long as they are full ones."""
        for _ in range(RECORDS_MAX):
            if not self.reading or self.closed:
                return
            data = self.sock.recv(READ_BYTES)
            self.core.counters.bytes_received += len(data)
            self.feed(data)
            if len(data) < RECORD_BYTES:
                return

    def lost(self) -> None:
        """The peer is gone, as a write or epoll says. What it said before still counts, and is read to the end first.

        A DISCONNECT among that takes the will away [MQTT-3.14.4-3].
        """
        if self.closed or self.gone:
            return
        self._cut()
        self._hear_out_soon()  # and not now: we may be in the middle of what it said

    def _cut(self) -> None:
        """Nothing goes out any more, and epoll is not asked."""
        self.gone = True
        self.out.clear()
        self.pending = b""
        self.unread = 0
        self.block(0)
        self.reactor.mute(self)

    def _hear_out_soon(self) -> None:
        self.reactor.loop.call_soon(self.reactor.run, self._hear_out, self)

    def _hear_out(self) -> None:
        """Read what is left, a part in each turn of the loop. Where it may not be read now, `resume` goes on."""
        if not self.reading:
            self.resume()
        elif not self.closed:
            self.readable()
            if self.reading and not self.closed:
                self._hear_out_soon()
        if not (self.reading or self.closed or self.throttled or self.held):
            self.close()

    def feed(self, data: bytes) -> None:
        """Take in MQTT that the peer sent, and see that it does not send more than it may."""
        if len(data) == 4 and self.uncounted < PIECE_BYTES and self.lone_puback(data):
            self.uncounted += 4
            return
        if self.allowance is None:
            Channel.feed(self, data)
            self.uncounted = 0
            if not self.rest or not self.reading:
                return
            data, self.rest = self.rest, b""  # it was let in, and this followed its CONNECT
        if len(data) <= PIECE_BYTES:
            self._feed_counted(data, len(data))
            return
        for at in range(0, len(data), PIECE_BYTES):
            if self.closed:
                return
            if not self.reading:
                self.rest = data[at:]
                return
            piece = data[at : at + PIECE_BYTES]
            self._feed_counted(piece, len(piece))

    def _feed_counted(self, piece: bytes, size: int) -> None:
        """Take in a piece of which `size` bytes are not counted yet; if that is too much, read no more for a while."""
        counters = self.core.counters
        before = counters.messages_received + counters.subscriptions_asked
        session = self.session
        Channel.feed(self, piece)
        session = session or self.session
        if session is None or self.allowance is None:
            return
        messages = counters.messages_received + counters.subscriptions_asked - before
        size += self.uncounted
        if not messages and size < PIECE_BYTES:
            self.uncounted = size  # acknowledgements, most of them: looking at its buckets would be most of their cost
            return
        self.uncounted = 0
        # Also of one that has said goodbye: it may come back at once.
        over = self.allowance.spend(session.identity, self.core.now, messages, size)
        if over > 0 and not self.throttled and not self.closed:
            self.throttle(over)

    def throttle(self, pause_s: float) -> None:
        """Do not read for so long."""
        self.core.counters.readings_paused += 1
        self.core.note("sends too much, read more slowly", client=self.label, pause_s=round(pause_s, 3))
        self.throttled = True
        self.pause()
        self.reactor.loop.call_later(pause_s, self._try_again)

    def _try_again(self) -> None:
        """The pause is over, if not another connection of the same identity has used up what came in meanwhile."""
        if self.closed or self.session is None:
            return
        over = self.allowance.spend(self.session.identity, time.monotonic(), 0, 0) if self.allowance else 0
        if over > 0:
            self.reactor.loop.call_later(over, self._try_again)
            return
        self.throttled = False
        self.reactor.run(self.resume, self)

    def pause(self) -> None:
        """Stop reading; TCP makes the peer wait."""
        self.reading = False
        self.reactor.want(self, write=self.pending is not None)

    def resume(self) -> None:
        """Read again, unless there is another reason not to; what was read before comes first."""
        if self.closed or self.reading or self.held or self.throttled:
            return
        if self.admitting is not None or self.unread > UNREAD_MAX:
            return
        self.reading = True
        self.reactor.want(self, write=self.pending is not None)
        if self.tail and not self.lack:  # else it waits for the rest of its packet
            tail, self.tail = self.tail, b""
            self._feed_counted(bytes(tail), 0)
        if self.rest and self.reading and not self.closed:
            rest, self.rest = self.rest, b""
            Connection.feed(self, rest)
        if self.gone and self.reading and not self.closed:
            self._hear_out_soon()

    # -- out ---------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write all that was put out in this round, with one call where it is not much."""
        out = self.out
        if not out or self.pending is not None:
            return
        if len(out) == 1:
            data = out[0]
        elif len(out) > SEND_CHUNKS and sum(map(len, out)) > SEND_BYTES:
            self.push()
            return
        else:
            data = b"".join(out)
        if self.tls and len(data) > SEND_BYTES:
            # What is sent at once is what is kept: OpenSSL wants the same again, with all that it has taken.
            self.push()
            return
        try:
            sent = self.sock.send(data)
        except WAIT:
            sent = 0
        except OSError:
            out.clear()
            self.lost()
            return
        self.core.counters.bytes_sent += sent
        if sent == len(data):
            out.clear()
        else:
            self._keep(sent)

    def _keep(self, sent: int) -> None:
        """The socket has taken so many bytes of what was put out, and no more."""
        out = self.out
        whole = 0
        while sent >= len(out[whole]):
            sent -= len(out[whole])
            whole += 1
        del out[:whole]
        # OpenSSL wants the same bytes again after it could not send; a view of them costs no copy.
        self.pending = memoryview(self.take())[sent:]
        self._wait()

    def take(self) -> bytes:
        """Take what was put out first, a bounded part of it."""
        out = self.out
        count = size = 0
        while size < SEND_BYTES and count < len(out):
            size += len(out[count])
            count += 1
        data = b"".join(out[:count]) if count > 1 else out[0]
        del out[:count]
        return data

    def push(self) -> bool:
        """Write what waits, part by part, as far as the socket takes it. True: that was all."""
        while self.pending is not None or self.out:
            if self.pending is None:
                self.pending = self.take()
            try:
                sent = self.sock.send(self.pending)
            except WAIT:
                sent = 0
            except OSError:
                self.out.clear()
                self.lost()
                return False
            self.core.counters.bytes_sent += sent
            if sent < len(self.pending):
                self.pending = memoryview(self.pending)[sent:]
                self._wait()
                return False
            self.pending = None
        return True

    def _wait(self) -> None:
        """Go on when the socket takes more."""
        if not self.closed:
            assert self.pending is not None
            self.block(len(self.pending) + sum(map(len, self.out)))
            self.reactor.want(self, write=True)

    def writable(self) -> None:
        """The socket takes more."""
        if self.push():
            self.unread = 0
            self.reactor.want(self, write=False)
            self.unblock()
            self.resume()

    def shut(self) -> None:
        """Close the socket. A TLS peer gets no close_notify: MQTT's DISCONNECT has said it, and it could block."""
        self.out.clear()
        self.pending = None
        self.reactor.forget(self)
        self.sock.close()

    # -- who ---------------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """`host:port` of the peer, asked of the kernel: kept, it would cost 150 bytes for each connection."""
        return self.peer or address_of(self.sock)

    @property
    def certificate(self) -> bytes | None:
        """The verified client certificate, DER."""
        if isinstance(self.sock, ssl.SSLSocket):
            return self.sock.getpeercert(binary_form=True)
        return None


def host_and_port(host: str, port: int) -> str:
    """`host:port`, as people write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(address: str) -> str:
    """The host of what `host_and_port` made; '' of what has none."""
    return address.rpartition(":")[0].strip("[]")


def peer_name(address: Any) -> str:
    """`host:port` of an address as the kernel gives it; of a Unix socket just that."""
    return host_and_port(address[0], address[1]) if isinstance(address, tuple) else "unix"


def address_of(sock: socket.SocketType) -> str:
    """`host:port` of the peer of a socket, asked of the kernel."""
    try:
        return peer_name(sock.getpeername())
    except OSError:
        return "gone"
