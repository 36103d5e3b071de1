"""Many clients of an attacker on one epoll: they send bytes that were made before, and read or do not."""

import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Final, Self

HOST: Final = "127.0.0.1"
CHUNK: Final = 1 << 18


class Peer:
    """One connection of an attacker.

    say: what it sends, once; then `over` again and again. drip: no more than so many bytes at a time, one time in each
    turn. reads: whether it takes what it gets; of that the beginning is kept in `got`.
    """

    def __init__(self, say: bytes = b"", over: bytes = b"", *, reads: bool = True, drip: int = 0) -> None:
        self.say = memoryview(say)
        self.over = over
        self.reads = reads
        self.drip = drip
        self.got = bytearray()
        self.got_bytes = 0
        self.sent = 0
        self.closed = False
        self.sock: socket.socket


class Crowd:
    """Peers, and what drives them."""

    def __init__(self) -> None:
        self.peers: dict[int, Peer] = {}
        self.ended: list[Peer] = []
        self._epoll = select.epoll()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers.values():
            # With a reset: what they have still to say would be heard to the end.
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.sock.close()
        self._epoll.close()

    def open(self, port: int, peers: Iterable[Peer], *, receive_bytes: int = 0) -> None:
        """Connect them, without waiting. receive_bytes: what the kernel takes for each of them."""
        for peer in peers:
            sock = peer.sock = socket.socket()
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect_ex((HOST, port))
            self.peers[sock.fileno()] = peer
            self._epoll.register(sock.fileno(), self._wish(peer))

    def run(self, seconds: float, until: Callable[[], bool] | None = None, *, every_s: float = 0.0) -> None:
        """Send and receive for so long, or `until` something is so. every_s: the pace of those that drip."""
        end = time.monotonic() + seconds
        turn = 0.0
        while (now := time.monotonic()) < end and not (until is not None and until()):
            dripping = every_s and now >= turn
            if dripping:
                turn = now + every_s
            for fd, event in self._epoll.poll(min(0.02, end - now), 1024):
                peer = self.peers.get(fd)
                if peer is None:
                    continue
                if event & select.EPOLLIN:
                    self._read(peer)
                elif event & (select.EPOLLHUP | select.EPOLLERR):
                    self.drop(peer)
                if event & select.EPOLLOUT and not peer.closed and not (peer.drip and every_s):
                    self._write(peer)
            if dripping:
                for peer in list(self.peers.values()):
                    if peer.drip and not peer.closed:
                        self._write(peer)

    def feed(self, peer: Peer, data: bytes) -> None:
        """Have a peer send something more, once."""
        peer.say = memoryview(bytes(peer.say) + data)
        self._epoll.modify(peer.sock.fileno(), self._wish(peer))

    def flood(self, peer: Peer, data: bytes) -> None:
        """Have a peer send this from now on, again and again."""
        peer.over = data
        self._epoll.modify(peer.sock.fileno(), self._wish(peer))

    def deafen(self, peer: Peer) -> None:
        """Have a peer read no more."""
        peer.reads = False
        if not peer.closed:
            self._epoll.modify(peer.sock.fileno(), self._wish(peer))

    def drop(self, peer: Peer) -> None:
        """Close one, or note that it was closed."""
        if not peer.closed:
            peer.closed = True
            del self.peers[peer.sock.fileno()]
            self._epoll.unregister(peer.sock.fileno())
            peer.sock.close()
            self.ended.append(peer)

    @staticmethod
    def _wish(peer: Peer) -> int:
        return (select.EPOLLIN if peer.reads else 0) | (select.EPOLLOUT if peer.say or peer.over else 0)

    def _read(self, peer: Peer) -> None:
        try:
            data = peer.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.drop(peer)
            return
        if not data:
            self.drop(peer)
            return
        peer.got_bytes += len(data)
        if len(peer.got) < 4096:
            peer.got += data[:4096]

    def _write(self, peer: Peer) -> None:
        if not peer.say:
            if not peer.over:
                self._epoll.modify(peer.sock.fileno(), self._wish(peer))
                return
            peer.say = memoryview(peer.over)
        try:
            sent = peer.sock.send(peer.say[: peer.drip] if peer.drip else peer.say)
        except BlockingIOError:
            return
        except OSError:
            self.drop(peer)
            return
        peer.sent += sent
        peer.say = peer.say[sent:]
        if not peer.say and not peer.over:
            self._epoll.modify(peer.sock.fileno(), self._wish(peer))
