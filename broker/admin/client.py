"""The client of the admin socket: blocking and on the standard library, because a command starts, asks and ends."""

import http.client
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec

from broker.admin.wire import PREFIX, decode_error
from broker.config import check_socket_path
from broker.errors import Failed, Refused, Unreachable

# An operation may wait for a commit on a slow disk; a broker that says nothing for longer is stuck.
ANSWER_TIMEOUT_S = 30
# Removing a brand removes its content, a quarter of a millisecond an item.
SLOW = {"brand.remove": 600}


class NotListening(Unreachable):
    """Nobody listens on the socket: the broker is not running, or not yet."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotListening(f"nobody listens on {self._path}") from None
        except PermissionError:
            raise Refused(
                f"you may not use the admin socket {self._path}",
                remedy="Run as the user that the broker runs as, with sudo, or as a member of the socket's group.",
            ) from None


def call(path: Path, operation: str, arguments: Mapping[str, Any]) -> Any:
    """Ask for one operation; raises the error that the broker answers, `NotListening`, or `Unreachable`."""
    connection, response = _ask(path, operation, arguments)
    try:
        return _checked(response.read(), path)
    except (TimeoutError, http.client.HTTPException, OSError) as error:
        raise _silent(path, error) from None
    finally:
        connection.close()


class Stream:
    """An operation that answers with one thing after the other. It has begun when the constructor returns."""

    def __init__(self, path: Path, operation: str, arguments: Mapping[str, Any]) -> None:
        self._path = path
        self._connection, self._response = _ask(path, operation, arguments)
        if self._response.status != http.HTTPStatus.OK:
            with closing(self._connection):
                _checked(self._response.read(), path)

    def next_within(self, seconds: float | None) -> Any:
        """The next thing. Raises `TimeoutError` when it is not there in time, `Unreachable` when the broker is gone."""
        assert self._connection.sock is not None  # connected since the constructor
        self._connection.sock.settimeout(seconds)
        try:
            line = self._response.readline()
        except TimeoutError:
            raise
        except (http.client.HTTPException, OSError):
            line = b""
        if not line:  # no stream ends by itself
            raise Unreachable(
                f"the broker behind {self._path} has hung up: it was stopped", remedy="pushbroker doctor says how it is"
            )
        return _checked(line, self._path)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next_within(None)

    def close(self) -> None:
        """Hang up. Who waits for the next thing on another thread hears that nothing comes any more."""
        if self._connection.sock is not None:
            with suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def _ask(path: Path, operation: str, arguments: Mapping[str, Any]) -> tuple[_Connection, http.client.HTTPResponse]:
    check_socket_path(path)
    connection = _Connection(path, SLOW.get(operation, ANSWER_TIMEOUT_S))
    body = msgspec.json.encode(arguments)
    try:
        connection.request("POST", PREFIX + operation, body=body, headers={"Content-Type": "application/json"})
        return connection, connection.getresponse()
    except (TimeoutError, http.client.HTTPException, OSError) as error:
        connection.close()
        raise _silent(path, error) from None
    except BaseException:
        connection.close()
        raise


def _checked(body: bytes, path: Path) -> Any:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Failed(
            f"what listens on {path} is no pushbroker", remedy="Name the broker's directory with --data."
        ) from None
    if error := decode_error(value):
        raise error
    return value


def _silent(path: Path, error: Exception) -> Unreachable:
    reason = "in time" if isinstance(error, TimeoutError) else f"({error})"
    return Unreachable(f"the broker behind {path} does not answer {reason}", remedy="Look into its log, or restart it.")
