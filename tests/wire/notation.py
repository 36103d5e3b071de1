"""How the wire cases are written: bytes by hand after the specification, never with our own encoder."""

from typing import Final, Literal, NamedTuple

from broker.wire.packets import Packet

V4: Final = 4
V5: Final = 5
BOTH_VERSIONS: Final = (V4, V5)
MQTT4: Final = "00 04 4D 51 54 54 04"  # how a CONNECT begins
MQTT5: Final = "00 04 4D 51 54 54 05"
Direction = Literal["client", "server", "both"]


class Case(NamedTuple):
    """`packet` is None where the bytes are refused with `reason`. `shortest`: the encoder writes these bytes."""

    name: str
    version: int
    direction: Direction
    wire: bytes
    packet: Packet | None = None
    reason: int = 0
    shortest: bool = True

    @property
    def id(self) -> str:
        """The case's name in a test report."""
        return f"v{self.version}: {self.name}"


def frame(first: int, *parts: bytes | str | int) -> bytes:
    """A packet from its first byte and the parts of its body: bytes, hexadecimal text, or single bytes."""
    body = b"".join(
        bytes.fromhex(part) if isinstance(part, str) else bytes((part,)) if isinstance(part, int) else part
        for part in parts
    )
    length = len(body)
    remaining = b""
    while length > 127:
        remaining += bytes((length % 128 + 128,))
        length //= 128
    return bytes((first,)) + remaining + bytes((length,)) + body


def field(value: bytes | str) -> bytes:
    """A string or binary data with its two-byte length."""
    raw = value.encode() if isinstance(value, str) else value
    return bytes((len(raw) // 256, len(raw) % 256)) + raw


def block(*properties: str | bytes) -> bytes:
    """Properties, shorter than 128 bytes together, with their length."""
    raw = b"".join(bytes.fromhex(item) if isinstance(item, str) else item for item in properties)
    assert len(raw) < 128
    return bytes((len(raw),)) + raw


class Table(list[Case]):
    """Cases, added one by one for one version or for several."""

    def good(
        self,
        name: str,
        versions: int | tuple[int, ...],
        direction: Direction,
        wire: bytes,
        packet: Packet,
        *,
        shortest: bool = True,
    ) -> None:
        """Add a valid packet."""
        for version in (versions,) if isinstance(versions, int) else versions:
            self.append(Case(name, version, direction, wire, packet, 0, shortest))

    def bad(
        self, name: str, versions: int | tuple[int, ...], direction: Direction, wire: bytes, reason: int = 0x81
    ) -> None:
        """Add a packet that is refused with `reason`."""
        for version in (versions,) if isinstance(versions, int) else versions:
            self.append(Case(name, version, direction, wire, None, reason))
