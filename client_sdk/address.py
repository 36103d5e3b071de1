"""Where the broker is, and how its certificate is checked."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port of a broker, and whether to speak TLS to it; with a path, WebSocket."""

    host: str
    port: int
    tls: bool
    path: str = ""

    @property
    def loopback(self) -> bool:
        """Whether the address cannot leave this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_url(url: str) -> Address:
    """`mqtts://host[:8883]` or `mqtt://host[:1883]`. Raises `ValueError` for anything else, secrets in the URL too."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f"{url!r} is not a broker's URL: use mqtts://host:8883")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL ends up in logs: give the token or code as its own argument")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{url!r} has something after the port: use mqtts://host:8883")
    return Address(host=parts.hostname, port=parts.port or PORTS[parts.scheme], tls=parts.scheme == "mqtts")


def read_pem(source: Path | str | bytes) -> bytes:
    """Certificates as PEM bytes, from a file or from the text itself."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, str) and "-----BEGIN" in source:
        return source.encode()
    return Path(source).read_bytes()


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho drops such a socket without closing it."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def tls_context(*, ca: bytes | None, system: bool) -> ssl.SSLContext:
    """A context that verifies the server's chain and name, always.

    It trusts the certificates in `ca` (PEM), those of the system when `system` is set, and nothing else. Raises
    `ValueError` when `ca` holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name from the start
    context.sslsocket_class = _ClosingSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if system:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if ca:
        try:
            context.load_verify_locations(cadata=ca.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise ValueError(f"the CA certificate cannot be read: {error}") from error
    return context
