"""The table of wire cases, through the decoder and the encoder."""

import pytest
from wire.cases import CASES
from wire.notation import Case

from broker.errors import MalformedPacket, ProtocolError
from broker.wire.codes import PacketType
from broker.wire.decode import decode, split
from broker.wire.encode import encode
from broker.wire.packets import Packet

GOOD = [case for case in CASES if case.packet is not None]
BAD = [case for case in CASES if case.packet is None]


def read(wire: bytes, version: int) -> Packet:
    """The one packet that `wire` is."""
    found = split(wire, 0, 1 << 20)
    assert found is not None
    first, start, end = found
    assert end == len(wire)
    return decode(first, wire[start:end], version)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.id)
def test_decodes(case: Case) -> None:
    packet = read(case.wire, case.version)
    assert packet == case.packet
    assert type(packet) is type(case.packet)


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_refuses(case: Case) -> None:
    with pytest.raises(ProtocolError) as caught:
        read(case.wire, case.version)
    assert caught.value.reason == case.reason
    assert isinstance(caught.value, MalformedPacket) == (case.reason == 0x81)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.id)
def test_encodes(case: Case) -> None:
    """3.1.1 [MQTT-2.2.2-1]."""
    assert case.packet is not None
    wire = encode(case.packet, case.version)
    if case.shortest:
        assert wire == case.wire
    assert read(wire, case.version) == case.packet


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.id)
def test_every_cut_is_refused_or_another_packet(case: Case) -> None:
    """A body that ends too early never escapes as another exception."""
    found = split(case.wire, 0, 1 << 20)
    assert found is not None
    first, start, end = found
    for cut in range(start, min(end, start + 200)):
        try:
            decode(first, case.wire[start:cut], case.version)
        except ProtocolError:
            continue


@pytest.mark.parametrize("version", [4, 5])
def test_reserved_flags_are_as_listed(version: int) -> None:
    """[MQTT-2.1.3-1]: all first bytes but those of PUBLISH, which has no reserved flags."""
    listed = {kind << 4 | (2 if kind in (6, 8, 10) else 0) for kind in range(1, 15 if version == 4 else 16)}
    for first in set(range(256)) - set(range(0x30, 0x40)) - listed:
        with pytest.raises(MalformedPacket):
            decode(first, b"\0\1\0\0\1a\0", version)


def test_names_are_unique() -> None:
    names = [case.id for case in CASES]
    assert sorted(set(names)) == sorted(names)


def test_every_packet_type_is_covered_both_ways() -> None:
    for cases in (GOOD, BAD):
        for version in (4, 5):
            kinds = {case.wire[0] >> 4 for case in cases if case.version == version}
            wanted = set(PacketType) - ({PacketType.AUTH} if version == 4 and cases is GOOD else set())
            assert wanted <= kinds
