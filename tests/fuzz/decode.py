"""Any bytes as a packet: refused as MQTT says, or read, and then written and read again without loss."""

from collections.abc import Iterator

from fuzz.target import Target
from wire.cases import CASES

from broker.errors import MalformedPacket, ProtocolError
from broker.wire.codes import REASONS, V4, V5, PacketType, Reason
from broker.wire.decode import decode, split
from broker.wire.encode import encode

_MAXIMUM = 1 << 20


def run(data: bytes) -> None:
    """The version, the first byte, the body."""
    if len(data) < 2:
        return
    version = V5 if data[0] & 1 else V4
    first, body = data[1], data[2:]
    try:
        packet = decode(first, body, version)
    except ProtocolError as error:
        _check_reason(first, error)
        return
    assert type(packet).__name__.upper() == PacketType(first >> 4).name
    wire = encode(packet, version)
    frame = split(wire, 0, _MAXIMUM)
    assert frame is not None
    again, start, end = frame
    assert end == len(wire)
    assert again == first
    assert end - start <= len(body), "the encoder does not write the shortest form"
    packet_again = decode(again, wire[start:], version)
    assert packet_again == packet
    assert encode(packet_again, version) == wire


def _check_reason(first: int, error: ProtocolError) -> None:
    """The peer can be told so: in CONNACK for a CONNECT, else in DISCONNECT."""
    answer = PacketType.CONNACK if first >> 4 == PacketType.CONNECT else PacketType.DISCONNECT
    assert error.reason in REASONS[answer], hex(error.reason)
    assert error.reason >= 0x80
    if isinstance(error, MalformedPacket):
        assert error.reason == Reason.MALFORMED_PACKET


def seeds() -> Iterator[bytes]:
    """All packets of the wire tables, the bad ones too."""
    for case in CASES:
        start = next(at for at in range(1, 5) if case.wire[at] < 0x80) + 1
        if len(case.wire) < 512:
            yield bytes((case.version == V5, case.wire[0])) + case.wire[start:]


TARGET = Target("decode", "the decoder, the encoder", run, seeds, runs_in_ci=10_000)
