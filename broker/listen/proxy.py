"""The PROXY protocol, versions 1 and 2: a load balancer says, before anything else, for whom it connects.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

import ipaddress
import socket
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from broker.errors import ProtocolError
from broker.limits import PROXY_BYTES_MAX
from broker.listen.connection import WAIT, Connection, host_and_port

if TYPE_CHECKING:
    from broker.listen.reactor import Listener, Reactor

_TEXT: Final = b"PROXY "
_TEXT_BYTES_MAX: Final = 107  # §2.1: the longest line there is, with its end
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_BYTES: Final = 16  # of a binary header, before the addresses
_LOCAL, _PROXY = 0x20, 0x21  # with the version, 2
_TCP4, _TCP6, _UNIX_STREAM = 0x11, 0x21, 0x31
_ADDRESS_BYTES: Final = {_TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216}


class Proxies:
    """Who may, and must, announce the clients of a listener: those in these networks; `unix`: on a Unix socket.

    Raises ValueError for a word that is no network.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        words = sorted(set(trusted))
        self.unix = "unix" in words
        self.networks = [ipaddress.ip_network(word) for word in words if word != "unix"]

    def trusts(self, sock: socket.SocketType, address: Any) -> bool:
        """Whether the peer at `address`, as `accept` gave it, is one of them."""
        if sock.family == socket.AF_UNIX:
            return self.unix
        host = ipaddress.ip_address(address[0])
        if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
            host = host.ipv4_mapped  # on a socket that takes both versions
        return any(host in network for network in self.networks)


class Header(NamedTuple):
    """A whole header: how long it is, and the address that it announces; '' where the proxy speaks for itself."""

    size: int
    peer: str


def parse(data: bytes) -> Header | None:
    """The header that `data` begins with; None: not all of it is there. Raises `ProtocolError` if it is none."""
    if data.startswith(_SIGNATURE):
        return _binary(data)
    if data.startswith(_TEXT):
        return _text(data)
    if _SIGNATURE.startswith(data) or _TEXT.startswith(data):
        return None
    raise ProtocolError("no PROXY header")


def _text(data: bytes) -> Header | None:
    size = data.find(b"\n", 0, _TEXT_BYTES_MAX) + 1
    if not size:
        if len(data) >= _TEXT_BYTES_MAX:
            raise ProtocolError(f"a PROXY line of more than {_TEXT_BYTES_MAX} bytes")
        return None
    line, end = data[: size - 2], data[size - 2 : size]
    if end == b"\r\n":
        match line.split(b" "):
            case [_, b"UNKNOWN", *_]:
                return Header(size, "")
            case [_, family, source, destination, port, to_port]:
                peer, here = _endpoint(family, source, port), _endpoint(family, destination, to_port)
                if peer and here:
                    return Header(size, peer)
    raise ProtocolError("a malformed PROXY line")


def _endpoint(family: bytes, host: bytes, port: bytes) -> str:
    """As we write it; '' if it is none."""
    kind = {b"TCP4": ipaddress.IPv4Address, b"TCP6": ipaddress.IPv6Address}.get(family)
    if kind is None or b"%" in host or not port.isdigit() or len(port) > 5 or (port[:1] == b"0" and port != b"0"):
        return ""
    number = int(port)
    try:
        return host_and_port(str(kind(host.decode("ascii"))), number) if number < 1 << 16 else ""
    except ValueError:
        return ""


def _binary(data: bytes) -> Header | None:
    if len(data) < _FIXED_BYTES:
        return None
    command, family, length = struct.unpack_from("!BBH", data, len(_SIGNATURE))
    if command not in (_LOCAL, _PROXY):
        raise ProtocolError(f"a PROXY header of version and command 0x{command:02x}")
    if length > PROXY_BYTES_MAX:
        raise ProtocolError(f"a PROXY header of {_FIXED_BYTES + length} bytes")
    size = _FIXED_BYTES + length
    if len(data) < size:
        return None
    if command == _LOCAL:
        return Header(size, "")  # whatever it says about addresses
    if family >> 4 > 3 or family & 15 > 2:
        raise ProtocolError(f"a PROXY header of the unknown family 0x{family:02x}")
    if length < _ADDRESS_BYTES.get(family, 0):
        raise ProtocolError(f"a PROXY header with {length} bytes of addresses")
    at = _FIXED_BYTES
    if family == _TCP4:
        host, port = str(ipaddress.IPv4Address(data[at : at + 4])), data[at + 8 : at + 10]
    elif family == _TCP6:
        host, port = str(ipaddress.IPv6Address(data[at : at + 16])), data[at + 32 : at + 34]
    else:
        # What is not TCP falls back to what the socket says (§2.2).
        return Header(size, "unix" if family == _UNIX_STREAM else "")
    return Header(size, host_and_port(host, int.from_bytes(port)))


class Announced(Connection):
    """A connection from a proxy that has not said yet for whom it is. Once it has, another one takes its place."""

    __slots__ = ("head",)

    def __init__(self, reactor: "Reactor", sock: socket.SocketType, listener: "Listener") -> None:
        super().__init__(reactor, sock, listener)
        self.head = b""  # what has come of the header

    def readable(self) -> None:
        """Take the header off the socket, and not a byte of what follows: that is for OpenSSL, or for another reader.

        As long as the header is not whole, all that is there is of it: so nothing stays behind for epoll to report on
        and on.
        """
        known = len(self.head)
        try:
            there = self.sock.recv(_FIXED_BYTES + PROXY_BYTES_MAX, socket.MSG_PEEK)
            if not there:
                if known:
                    raise ProtocolError("the peer went away within its PROXY header")
                self.close()  # a load balancer has looked whether we are there
                return
            header = parse(self.head + there)
            self.head += self.sock.recv(len(there) if header is None else header.size - known)
        except WAIT:
            return
        except OSError:
            self.close()
            return
        except ProtocolError as error:
            self.core.counters.proxy_refused += 1
            self.core.note("PROXY header refused", client=self.address, error=error.message)
            self.close()
            return
        self.core.counters.bytes_received += len(self.head) - known
        if header is not None and len(self.head) == header.size:
            self._make_way(header.peer)

    def _make_way(self, peer: str) -> None:
        self.closed = True
        self.core.wheel.cancel(self)
        self.reactor.mute(self)
        self.reactor.forget(self)
        self.reactor.begin(self.sock, self.listener, peer, self.seen)
