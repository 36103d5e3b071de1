"""A server that takes connections and says what a test wants: not a broker, but what a client may meet in its place."""

import socket
import ssl
import threading
from types import TracebackType
from typing import Self

CONNACK = bytes.fromhex("2003000000")


class MuteServer:
    """Reads whatever comes, and answers each CONNECT with `greeting` (a good CONNACK, or anything else)."""

    def __init__(self, greeting: bytes = CONNACK, *, context: ssl.SSLContext | None = None) -> None:
        self.greeting = greeting
        self.connections = 0
        self.received = bytearray()
        self.news = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._open: list[socket.socket] = []
        self._context = context
        self.url = f"{'mqtts' if context else 'mqtt'}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.hang_up()
        self._thread.join(10)
        self._listener.close()

    def hang_up(self) -> None:
        """Cut all connections."""
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it has gone by itself

    def say(self, what: bytes) -> None:
        """Send on the newest connection."""
        self._open[-1].sendall(what)

    def wait(self, what: bytes, timeout: float = 10) -> None:
        """Until `what` was received."""
        with self.news:
            assert self.news.wait_for(lambda: what in self.received, timeout), bytes(self.received)

    def _serve(self) -> None:
        readers = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._open.append(connection)
            readers.append(threading.Thread(target=self._read, args=(connection,), daemon=True))
            readers[-1].start()
        for reader in readers:
            reader.join(10)

    def _read(self, connection: socket.socket) -> None:
        with connection:
            greeted = False
            while data := self._recv(connection):
                with self.news:
                    self.received += data
                    self.connections += not greeted
                    self.news.notify_all()
                if not greeted:
                    greeted = True
                    try:
                        connection.sendall(self.greeting)
                    except OSError:
                        return

    @staticmethod
    def _recv(connection: socket.socket) -> bytes:
        try:
            return connection.recv(65536)
        except OSError:
            return b""


def publish(topic: str, payload: bytes, *, packet_id: int = 0, message_id: str = "") -> bytes:
    """A short PUBLISH of MQTT 5, at QoS 1 when it has a packet id."""
    properties = b""
    if message_id:
        properties = b"\x26" + _text("message-id") + _text(message_id)
    body = _text(topic) + (packet_id.to_bytes(2, "big") if packet_id else b"")
    body += bytes([len(properties)]) + properties + payload
    assert len(body) < 128
    return bytes([0x32 if packet_id else 0x30, len(body)]) + body


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()
