"""Addresses to listen on."""

import errno
import socket

from broker.errors import Failed


def bind(host: str, port: int, url: str) -> socket.socket:
    """A socket bound to `host` and `port`; `url` is what the operator calls it. Raises `Failed` when it cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Failed(f"cannot listen on {url}: {error.strerror}", remedy="Check the address.") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen()  # only now does a second socket on the same address fail
    except OSError as error:
        sock.close()
        remedy = {
            errno.EADDRINUSE: f"See who has it: ss -ltnp 'sport = :{port}'; or choose another with --listen.",
            errno.EACCES: "Ports below 1024 need a privilege; choose a higher one, such as 8883, with --listen.",
            errno.EADDRNOTAVAIL: "That address is not of this machine: ip address",
        }.get(error.errno or 0, "Choose another address with --listen.")
        raise Failed(f"cannot listen on {url}: {error.strerror}", remedy=remedy) from None
    return sock
