"""Addresses to listen on, as URLs: what is spoken, where, and what holds there.

| URL                            | speaks                                                 |
|--------------------------------|--------------------------------------------------------|
| `mqtt://HOST:PORT`             | MQTT on TCP                                            |
| `mqtts://HOST:PORT`            | MQTT on TLS                                            |
| `ws://HOST:PORT/PATH`          | MQTT on WebSocket; without a path, any is answered     |
| `wss://HOST:PORT/PATH`         | MQTT on WebSocket on TLS                               |
| `mqtt+unix:///FILE`            | MQTT on a Unix socket                                  |
| `ws+unix:///FILE`              | MQTT on WebSocket on a Unix socket, for a proxy before |

Options follow as in `?origin=https://shop.example&proxy=10.0.0.0/8`; each may stand where it has a meaning, and those
that are lists may be repeated.
"""

import difflib
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import msgspec

from broker.errors import Misconfigured

Scheme = Literal["mqtt", "mqtts", "ws", "wss", "mqtt+unix", "ws+unix"]

DEFAULT_PORTS: Final[dict[str, int]] = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_UNIX: Final = ("mqtt+unix", "ws+unix")
# What a client sends as it is in the path of a request (RFC 3986 §3.3); all else it encodes.
_PATH_SAFE: Final = "/%:@!$&'()*+,;="
# struct sockaddr_un has 108 bytes for the path, the last one NUL (unix(7)).
SOCKET_PATH_BYTES_MAX: Final = 107
_ORIGIN: Final = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@\s]+", re.IGNORECASE)
# Any network, or the one word for those who connect through a Unix socket.
_PROXY_OF_UNIX: Final = "unix"

_Rate = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class Listener(msgspec.Struct, frozen=True):
    """An address to listen on, with its options. Port 0 asks the system for a free one; 0 in a bound means none."""

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""  # of WebSocket requests, as they are sent ("": any), or of the Unix socket's file
    origin: tuple[str, ...] = ()  # web pages of other sites that may connect; "*": of any
    proxy: tuple[str, ...] = ()  # networks of proxies that announce their clients with the PROXY protocol
    mode: int = 0o660  # of the Unix socket's file
    connections_max: _Rate = 0
    connects_per_s: _Rate = 0
    messages_per_s: _Rate = 0
    bytes_per_s: _Rate = 0

    @property
    def tls(self) -> bool:
        """Whether it speaks TLS."""
        return self.scheme in ("mqtts", "wss")

    @property
    def web(self) -> bool:
        """Whether it speaks WebSocket."""
        return self.scheme in ("ws", "wss", "ws+unix")

    @property
    def unix(self) -> bool:
        """Whether it is a Unix socket."""
        return self.scheme in _UNIX

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it; who is behind a proxy may be anywhere."""
        if self.proxy:
            return False
        if self.unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def address(self) -> str:
        """The URL without its options."""
        if self.unix:
            return f"{self.scheme}://{quote(self.path)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def url(self) -> str:
        """As `parse_listen` reads it."""
        options = []
        for field in msgspec.structs.fields(self)[4:]:
            value = getattr(self, field.name)
            if value == field.default:
                continue
            values = value if isinstance(value, tuple) else (f"{value:o}" if field.name == "mode" else value,)
            options += [f"{field.name}={quote(str(each), safe=':/*[]')}" for each in values]
        return f"{self.address}?{'&'.join(options)}" if options else self.address


_EXAMPLES: Final = (
    "Write mqtts://HOST:PORT, or mqtt, ws or wss for mqtts, or mqtt+unix:///FILE; such as mqtts://0.0.0.0:8883, "
    "mqtt://127.0.0.1:1883 or wss://0.0.0.0:443/mqtt."
)


def parse_listen(url: str) -> Listener:
    """`mqtts://0.0.0.0:8883` as a `Listener`; raises `Misconfigured` with an example of what would do."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Misconfigured(f"{url!r} is no address to listen on: {error}", remedy=_EXAMPLES) from None
    if parts.fragment or (parts.query == "" and url.endswith("?")):
        raise Misconfigured(f"{url!r} is no address to listen on: it ends in nothing", remedy=_EXAMPLES)
    where = _unix_place(url, parts) if parts.scheme in _UNIX else _inet_place(url, parts, port)
    return msgspec.convert({**where, **_options(url, where["scheme"], parts.query)}, Listener)


def _inet_place(url: str, parts: SplitResult, port: int | None) -> dict[str, Any]:
    web = parts.scheme in ("ws", "wss")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        raise Misconfigured(f"{url!r} is no address to listen on", remedy=_EXAMPLES)
    path = quote(parts.path, safe=_PATH_SAFE)
    if path == "/":
        path = ""
    if path and not web:
        raise Misconfigured(f"{url!r} is no address to listen on: only ws and wss have a path", remedy=_EXAMPLES)
    return {
        "scheme": parts.scheme,
        "host": parts.hostname,
        "port": DEFAULT_PORTS[parts.scheme] if port is None else port,
        "path": path,
    }


def _unix_place(url: str, parts: SplitResult) -> dict[str, Any]:
    path = unquote(parts.path)
    if parts.netloc or path in ("", "/") or "\0" in path:
        raise Misconfigured(
            f"{url!r} is no address to listen on: a Unix socket has the path of a file",
            remedy=f"Write {parts.scheme}:///run/pushbroker/mqtt.sock, with three slashes.",
        )
    check_unix_path(path, "Name a shorter one, such as /run/pushbroker/mqtt.sock.")
    return {"scheme": parts.scheme, "path": path}


def check_unix_path(path: str | Path, remedy: str) -> None:
    """Raise `Misconfigured`, with this remedy, for a path that no Unix socket can have."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES_MAX:
        raise Misconfigured(
            f"{path} is too long for a Unix socket: {length} bytes, and {SOCKET_PATH_BYTES_MAX} are allowed",
            remedy=remedy,
        )


def _options(url: str, scheme: str, query: str) -> dict[str, Any]:
    known = {"proxy", "connections_max", "connects_per_s", "messages_per_s", "bytes_per_s"}
    if scheme.startswith("ws"):
        known.add("origin")
    if scheme in _UNIX:
        known.add("mode")
    values: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"It may have: {', '.join(sorted(known))}."
            raise Misconfigured(f"{url!r}: {scheme} has no option {name!r}", remedy=hint)
        if name in ("origin", "proxy"):
            value = _origin(url, text) if name == "origin" else _proxy(url, scheme, text)
            values[name] = (*values.get(name, ()), value)
            continue
        if name in values:
            raise Misconfigured(f"{url!r}: {name} stands there twice", remedy="Leave one of them out.")
        digits, base = ("01234567", 8) if name == "mode" else ("0123456789", 10)
        if not 1 <= len(text) <= 12 or set(text) - set(digits) or (name == "mode" and int(text, 8) > 0o777):
            example = "660" if name == "mode" else "1000"
            raise Misconfigured(f"{url!r}: {name} cannot be {text!r}", remedy=f"Write a number: {name}={example}.")
        values[name] = int(text, base)
    return values


def _origin(url: str, text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise Misconfigured(
            f"{url!r}: {text!r} is no origin", remedy="Write it as browsers do: origin=https://shop.example; * for any."
        )
    return text.lower()


def _proxy(url: str, scheme: str, text: str) -> str:
    if scheme in _UNIX:
        if text != _PROXY_OF_UNIX:
            raise Misconfigured(
                f"{url!r}: who comes through a Unix socket has no network", remedy=f"Write proxy={_PROXY_OF_UNIX}."
            )
        return text
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise Misconfigured(
            f"{url!r}: {text!r} is no network: {error}",
            remedy="Write the address or the network of your load balancer: proxy=10.0.0.7 or proxy=10.0.0.0/8.",
        ) from None
