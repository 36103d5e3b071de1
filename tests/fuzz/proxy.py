"""The PROXY header: what is read of it does not depend on how it arrives, and is an address."""

import ipaddress
import struct
from collections.abc import Iterator

from fuzz.target import Target

from broker.errors import ProtocolError
from broker.limits import PROXY_BYTES_MAX
from broker.listen.proxy import Header, parse

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def run(data: bytes) -> None:
    """The first bytes of a connection."""
    whole = _parse(data)
    if isinstance(whole, Header):
        assert 0 < whole.size <= len(data)
        assert whole.size <= 16 + PROXY_BYTES_MAX
        _check_address(whole.peer)
        assert _parse(data[: whole.size]) == whole
    for end in range(len(data)):
        part = _parse(data[:end])
        if isinstance(whole, Header):
            assert part == (None if end < whole.size else whole)
        elif whole is None:
            assert part is None, "first this, then nothing"
        elif isinstance(part, Header):
            raise AssertionError("more bytes make it wrong")


def _parse(data: bytes) -> Header | str | None:
    try:
        return parse(data)
    except ProtocolError:
        return "refused"


def _check_address(peer: str) -> None:
    if peer in ("", "unix"):
        return
    host, _, port = peer.rpartition(":")
    assert 0 <= int(port) < 1 << 16
    ipaddress.ip_address(host.strip("[]"))


def seeds() -> Iterator[bytes]:
    for line in (
        b"TCP4 192.0.2.1 192.0.2.2 1 65535",
        b"TCP6 2001:db8::1 ::1 4000 8883",
        b"TCP6 ::ffff:192.0.2.1 ::1 4000 8883",
        b"UNKNOWN",
        b"UNKNOWN anything at all",
        b"TCP4 192.0.2.01 192.0.2.2 1 2",
        b"TCP4 192.0.2.1 192.0.2.2 01 2",
        b"TCP4 192.0.2.1 192.0.2.2 70000 2",
        b"TCP5 192.0.2.1 192.0.2.2 1 2",
        b"TCP6 fe80::1%eth0 ::1 1 2",
    ):
        yield b"PROXY " + line + b"\r\n\x10\x00"
        yield b"PROXY " + line + b"\n"
    for family, size in ((0x11, 12), (0x21, 36), (0x31, 216), (0x00, 0), (0x12, 12), (0x41, 4)):
        for command in (0x20, 0x21, 0x22, 0x11):
            for more in (0, 7, -1):
                length = max(0, size + more)
                yield _SIGNATURE + struct.pack("!BBH", command, family, length) + bytes(length) + b"\x10\x00"


TARGET = Target("proxy", "the PROXY header", run, seeds, bytes_max=300, runs_in_ci=500)
