"""What the encoder does beyond writing back what was read: 3.1.1 says less, and short forms are preferred."""

import pytest

from broker.wire.codes import V4, V5, Reason
from broker.wire.encode import encode
from broker.wire.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Properties,
    Puback,
    Publish,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Will,
)

SAID = Properties(reason_string="why", user_properties=[("a", "b")])
# 3.1.1, table 3.1; a reason that fits none is "server unavailable", which a client may try again.
RETURN_CODES = {
    0x00: 0,
    0x84: 1,
    0x85: 2,
    0x88: 3,
    0x86: 4,
    0x8C: 4,
    0x87: 5,
    0x8A: 5,
    0x90: 5,
    0x80: 3,
    0x89: 3,
    0x95: 3,
    0x97: 3,
    0x9C: 3,
    0x9F: 3,
}


@pytest.mark.parametrize(("reason", "code"), RETURN_CODES.items())
def test_connack_of_3_1_1_has_a_return_code(reason: int, code: int) -> None:
    assert encode(Connack(False, reason, SAID), V4) == bytes((0x20, 2, 0, code))


@pytest.mark.parametrize("version", [V4, V5])
def test_a_refusal_never_has_a_session(version: int) -> None:
    """[MQTT-3.2.2-6]. 3.1.1 [MQTT-3.2.2-4]."""
    wire = encode(Connack(True, Reason.NOT_AUTHORIZED), version)
    assert wire[2] == 0


@pytest.mark.parametrize("reason", [0x80, 0x83, 0x87, 0x8F, 0x97, 0x9E, 0xA2])
def test_suback_of_3_1_1_knows_one_failure(reason: int) -> None:
    """[MQTT-3.9.3-2]."""
    assert encode(Suback(1, [1, reason, 2], SAID), V4) == bytes((0x90, 5, 0, 1, 1, 0x80, 2))


def test_3_1_1_leaves_out_what_it_lacks() -> None:
    assert encode(Puback(1, 0x10, SAID), V4) == b"\x40\x02\x00\x01"
    assert encode(Unsuback(1, [0x11], SAID), V4) == b"\xb0\x02\x00\x01"
    assert encode(Disconnect(0x8E, SAID), V4) == b"\xe0\x00"
    assert encode(Publish(b"t", b"x", properties=Properties(message_expiry=1)), V4) == b"\x30\x04\x00\x01tx"
    assert encode(Subscribe(1, [Request("a", 1, True, True, 2)], SAID), V4) == b"\x82\x06\x00\x01\x00\x01a\x01"
    with pytest.raises(ValueError, match=r"3\.1\.1"):
        encode(Auth(0x18), V4)


def test_short_forms() -> None:
    assert encode(Puback(1), V5) == b"\x40\x02\x00\x01"
    assert encode(Puback(1, 0x10), V5) == b"\x40\x03\x00\x01\x10"
    assert encode(Disconnect(), V5) == b"\xe0\x00"
    assert encode(Disconnect(0x8B), V5) == b"\xe0\x01\x8b"
    assert encode(Auth(), V5) == b"\xf0\x00"


def test_connect_carries_its_own_version() -> None:
    will = Will(b"w", b"x", properties=Properties(will_delay=1))
    for connection_version in (V4, V5):
        assert encode(Connect("", V4, will=will), connection_version)[8] == 4
        assert encode(Connect("", V5, will=will), connection_version)[8] == 5
    assert b"\x18\x00\x00\x00\x01" not in encode(Connect("", V4, will=will), V5)
    assert b"\x05\x18\x00\x00\x00\x01" in encode(Connect("", V5, will=will), V4)


@pytest.mark.parametrize(
    "packet",
    [
        Connect("x" * 65536),
        Connect("", keep_alive=65536),
        Connect("", username="\ud800"),
        Publish(b"t" * 65536),
        Publish(b"t", qos=1, packet_id=65536),
        Puback(1, 0, Properties(reason_string="a\0b")),
        Suback(1, [256]),
    ],
)
def test_what_the_wire_cannot_carry(packet: Connect | Publish | Puback | Suback) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode(packet, V5)
