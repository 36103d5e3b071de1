"""Sockets to listen on: made here, or handed over by the supervisor."""

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.address import Listener
from broker.errors import Failed


@contextmanager
def bound(listener: Listener, inherited: list[socket.socket]) -> Iterator[socket.socket]:
    """The socket of `listener`: taken out of those that were handed over if it is there, else made.

    On the way out it is closed; the file of a Unix socket that was made here is removed. Raises `Failed` when the
    address cannot be had.
    """
    for sock in inherited:
        if _is(sock, listener):
            inherited.remove(sock)
            with sock:
                yield sock
            return
    if listener.unix:
        path = Path(listener.path)
        with bind_unix(path, listener.mode, listener.address, "Name another with --listen.") as sock:
            try:
                yield sock
            finally:
                path.unlink(missing_ok=True)
        return
    with _bind_inet(listener) as sock:
        yield sock


def name_of(sock: socket.socket) -> str:
    """Where a socket listens, for people."""
    name = sock.getsockname()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)


def _is(sock: socket.socket, listener: Listener) -> bool:
    """Whether an inherited socket is what `listener` names. Every address is the same for IPv4 and IPv6."""
    name = sock.getsockname()
    if listener.unix:
        return sock.family == socket.AF_UNIX and name == listener.path
    if sock.family == socket.AF_UNIX or name[1] != listener.port:
        return False
    try:
        wanted = ipaddress.ip_address("127.0.0.1" if listener.host == "localhost" else listener.host)
    except ValueError:
        return False
    have = ipaddress.ip_address(name[0])
    return have == wanted or (have.is_unspecified and wanted.is_unspecified)


def _bind_inet(listener: Listener) -> socket.socket:
    port, url = listener.port, listener.address
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listener.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{listener.host} is no host name"
        raise Failed(f"cannot listen on {url}: {why}", remedy="Check the address.") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen()  # only now does a second socket on the same address fail
    except OSError as error:
        sock.close()
        remedy = {
            errno.EADDRINUSE: f"See who has it: ss -ltnp 'sport = :{port}'; or choose another with --listen.",
            errno.EACCES: "Ports below 1024 need a privilege: have systemd hand the socket over (systemd/README.md), "
            "or choose a higher one, such as 8883, with --listen.",
            errno.EADDRNOTAVAIL: "That address is not of this machine: ip address",
        }.get(error.errno or 0, "Choose another address with --listen.")
        raise Failed(f"cannot listen on {url}: {error.strerror}", remedy=remedy) from None
    return sock


def bind_unix(path: Path, mode: int, what: str, remedy: str) -> socket.socket:
    """A listening-to-be Unix socket at `path`, replacing a stale file; raises `Failed` when somebody answers there.

    `what` it is called and the `remedy` are for people.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if not _removed_stale(path):
                raise Failed(
                    f"cannot make {what}: another process uses it, or it is no socket",
                    remedy=f"Stop that process. {remedy}",
                ) from None
            sock.bind(str(path))
        # Before `listen` nobody can connect, so the file never stands open with other rights.
        path.chmod(mode)
    except OSError as error:
        sock.close()
        raise Failed(f"cannot make {what}: {os.strerror(error.errno or 0)}", remedy=remedy) from None
    except Failed:
        sock.close()
        raise
    return sock


def _removed_stale(path: Path) -> bool:
    """Remove the file of a Unix socket on which nobody listens any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            if path.is_socket():
                path.unlink()
                return True
        except OSError:
            pass
    return False
