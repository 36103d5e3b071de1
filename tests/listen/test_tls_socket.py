"""The lean TLS socket."""

import socket
import ssl
from pathlib import Path

from support.live import running

from broker.listen.tls import TLSSocket


def test_the_attributes_of_a_tls_socket_sit_in_its_slots(tmp_path: Path) -> None:
    """A dict for each would cost 240 bytes a connection; a Python that adds attributes makes this fail, and no more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = TLSSocket
    near, far = socket.socketpair()
    with far, context.wrap_socket(near, server_side=True, do_handshake_on_connect=False) as sock:
        assert isinstance(sock, TLSSocket)
        assert not vars(sock)


async def test_the_broker_accepts_into_lean_sockets(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        assert broker._tls_context().sslsocket_class is TLSSocket
        await broker.reload()
        assert broker._context.sslsocket_class is TLSSocket
