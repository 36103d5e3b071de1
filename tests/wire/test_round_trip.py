"""Packets made at random, written and read again; and bytes made at random, which never hurt."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire.cases import CASES

from broker.errors import ProtocolError
from broker.wire.codes import REASONS, RETURN_CODES, V4, V5, PacketType
from broker.wire.decode import decode, split
from broker.wire.encode import encode
from broker.wire.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.wire.properties import TABLE, WILL, Form

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
TOPIC = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#/"), min_size=1, max_size=20)
FILTER = st.builds(
    lambda shared, levels, rest: "/".join([*shared, *levels, *rest]),
    st.just([]) | TOPIC.map(lambda name: ["$share", name]),
    st.lists(st.just("+") | st.just("") | TOPIC, min_size=1, max_size=3).filter(any),
    st.just([]) | st.just(["#"]),
)
BINARY = st.binary(max_size=40)
PACKET_ID = st.integers(1, 65535)
QOS = st.integers(0, 2)
VALUES: dict[Form, st.SearchStrategy[Any]] = {
    Form.FLAG: st.integers(0, 1),
    Form.U16: st.integers(0, 65535),
    Form.U32: st.integers(0, 0xFFFF_FFFF),
    Form.VARINT: st.integers(0, 268_435_455),
    Form.TEXT: TEXT,
    Form.TOPIC: TOPIC,
    Form.BINARY: BINARY,
    Form.PAIR: st.tuples(TEXT, TEXT),
}


def properties(packet: int, version: int, **required: st.SearchStrategy[Any]) -> st.SearchStrategy[Properties]:
    """Any properties that the packet may have; none in 3.1.1."""
    if version == V4:
        return st.just(Properties())
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for row in TABLE:
        if packet in row.packets and row.name not in required:
            value = VALUES[row.form].filter(bool) if row.zero_reason else VALUES[row.form]
            many = st.lists(value, min_size=1, max_size=4 if packet in row.repeats_in else 1)
            optional[row.name] = many if row.repeats_in else value
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: Properties(**fields))


def reason(packet: PacketType) -> st.SearchStrategy[int]:
    """One of the packet's reason codes."""
    return st.sampled_from(sorted(REASONS[packet]))


def wills(version: int) -> st.SearchStrategy[Will]:
    return st.builds(Will, TOPIC.map(str.encode), BINARY, QOS, st.booleans(), properties(WILL, version))


@st.composite
def connects(draw: st.DrawFn, version: int) -> Connect:
    username = draw(st.none() | TEXT)
    return Connect(
        draw(TEXT),
        version,
        draw(st.booleans()),
        draw(st.integers(0, 65535)),
        username,
        None if version == V4 and username is None else draw(st.none() | BINARY),
        draw(st.none() | wills(version)),
        draw(
            properties(PacketType.CONNECT, version).filter(lambda p: p.auth_data is None or p.auth_method is not None)
        ),
    )


@st.composite
def connacks(draw: st.DrawFn, version: int) -> Connack:
    code = draw(reason(PacketType.CONNACK) if version == V5 else st.sampled_from(sorted(RETURN_CODES)))
    return Connack(not code and draw(st.booleans()), int(code), draw(properties(PacketType.CONNACK, version)))


@st.composite
def publishes(draw: st.DrawFn, version: int) -> Publish:
    qos = draw(QOS)
    described = draw(properties(PacketType.PUBLISH, version))
    topic = draw(TOPIC).encode() if described.topic_alias is None or draw(st.booleans()) else b""
    dup = bool(qos) and draw(st.booleans())
    return Publish(topic, draw(BINARY), qos, draw(st.booleans()), dup, draw(PACKET_ID) if qos else 0, described)


def acks(make: type, kind: PacketType, version: int) -> st.SearchStrategy[Any]:
    code = reason(kind) if version == V5 else st.just(0)
    return st.builds(make, PACKET_ID, code, properties(kind, version))


@st.composite
def requests(draw: st.DrawFn, version: int) -> Request:
    if version == V4:
        return Request(draw(FILTER), draw(QOS))
    topic_filter = draw(FILTER)
    no_local = not topic_filter.startswith("$share/") and draw(st.booleans())
    return Request(topic_filter, draw(QOS), no_local, draw(st.booleans()), draw(QOS))


def packets(version: int) -> st.SearchStrategy[Packet]:
    """Every packet of a version."""
    kind = PacketType
    suback = reason(kind.SUBACK) if version == V5 else st.sampled_from([0, 1, 2, 0x80])
    unsuback = st.lists(reason(kind.UNSUBACK), min_size=1, max_size=4) if version == V5 else st.just([])
    every: list[st.SearchStrategy[Any]] = [
        connects(version),
        connacks(version),
        publishes(version),
        acks(Puback, kind.PUBACK, version),
        acks(Pubrec, kind.PUBREC, version),
        acks(Pubrel, kind.PUBREL, version),
        acks(Pubcomp, kind.PUBCOMP, version),
        st.builds(
            Subscribe,
            PACKET_ID,
            st.lists(requests(version), min_size=1, max_size=4),
            properties(kind.SUBSCRIBE, version),
        ),
        st.builds(Suback, PACKET_ID, st.lists(suback, min_size=1, max_size=4), properties(kind.SUBACK, version)),
        st.builds(
            Unsubscribe, PACKET_ID, st.lists(FILTER, min_size=1, max_size=4), properties(kind.UNSUBSCRIBE, version)
        ),
        st.builds(Unsuback, PACKET_ID, unsuback, properties(kind.UNSUBACK, version)),
        st.just(Pingreq()),
        st.just(Pingresp()),
    ]
    if version == V4:
        return st.one_of(*every, st.just(Disconnect()))
    return st.one_of(
        *every,
        st.builds(Disconnect, reason(kind.DISCONNECT), properties(kind.DISCONNECT, version)),
        st.builds(Auth, reason(kind.AUTH), properties(kind.AUTH, version, auth_method=TEXT)),
    )


PACKETS = {version: packets(version) for version in (V4, V5)}


def read(wire: bytes, version: int) -> Packet:
    """The one packet that `wire` is."""
    found = split(wire, 0, 1 << 20)
    assert found is not None
    first, start, end = found
    assert end == len(wire)
    return decode(first, wire[start:end], version)


@pytest.mark.parametrize("version", [V4, V5])
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_again(version: int, data: st.DataObject) -> None:
    packet = data.draw(PACKETS[version])
    again = read(encode(packet, version), version)
    assert again == packet
    assert type(again) is type(packet)


def check_any(first: int, body: bytes, version: int) -> None:
    """Bytes are refused as a protocol error, or are a packet whose encoding is that packet again."""
    try:
        packet = decode(first, body, version)
    except ProtocolError:
        return
    assert read(encode(packet, version), version) == packet


FIRST_BYTES = sorted({case.wire[0] for case in CASES if case.packet is not None})


@settings(max_examples=2000, deadline=None)
@given(st.sampled_from(FIRST_BYTES) | st.integers(0, 255), st.binary(max_size=64), st.sampled_from([V4, V5]))
@example(0x20, b"\x00\x06", V4)
@example(0xF0, b"", V5)
def test_any_bytes(first: int, body: bytes, version: int) -> None:
    check_any(first, body, version)


SEEDS = [case for case in CASES if case.packet is not None and len(case.wire) < 128]


@settings(max_examples=3000, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_valid_packets_damaged(case: Any, data: st.DataObject) -> None:
    """Bytes close to valid packets reach deeper than random ones."""
    first, body = case.wire[0], bytearray(case.wire[2:])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        match data.draw(st.integers(0, 3)):
            case 0 if at < len(body):
                body[at] ^= 1 << data.draw(st.integers(0, 7))
            case 1:
                body[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case 2:
                del body[at : at + 2]
            case _:
                first ^= 1 << data.draw(st.integers(0, 7))
    check_any(first, bytes(body), data.draw(st.sampled_from([V4, V5])))
