"""Packets that are begun and never whole: together they are bounded, and who has been at it for longest has to go."""

import pytest
from support.loopback import Client, Lab

from broker.limits import UNFINISHED_BYTES_MAX
from broker.session import core
from broker.wire.encode import encode
from broker.wire.packets import Connect, Publish, Will

SIZE = 100_000
ROOM = 10 * SIZE


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    """With room for ten that are not whole."""
    monkeypatch.setattr(core, "UNFINISHED_BYTES_MAX", ROOM)
    return Lab()


def begin(lab: Lab, client: Client, cut: int = 1) -> bytes:
    """Send a packet without its end; return that."""
    packet = encode(Publish(b"t", bytes(SIZE)), 5)
    client.feed(packet[:-cut])
    return packet[-cut:]


def test_the_bound_is_worth_something() -> None:
    assert UNFINISHED_BYTES_MAX < 1 << 28


def test_who_never_ends_makes_way(lab: Lab) -> None:
    hostile = [lab.connect(f"h{n}") for n in range(20)]
    for client in hostile:
        begin(lab, client)
    assert [client.closed for client in hostile] == [True] * 11 + [False] * 9
    assert hostile[0].goodbye() == 0x97
    assert lab.core.counters.packets_unfinished == 11


def test_who_sends_one_after_the_other_is_not_meant(lab: Lab) -> None:
    """However long the others have been at it, and in whatever pieces it comes."""
    hostile = [lab.connect(f"h{n}") for n in range(9)]
    for client in hostile:
        begin(lab, client)
    client, other = lab.connect("c"), lab.connect("o")
    other.subscribe("t")
    for _ in range(5):
        client.feed(begin(lab, client, cut=50_000))
    assert len(other.messages()) == 5
    assert not client.closed
    assert not any(h.closed for h in hostile)
    begin(lab, client)
    begin(lab, other)
    assert not client.closed
    assert [h.closed for h in hostile] == [True] * 2 + [False] * 7


def test_a_byte_at_a_time(lab: Lab) -> None:
    """What is counted is what has come, neither more nor less."""
    hostile = [lab.connect(f"h{n}") for n in range(10)]
    packet = encode(Publish(b"t", bytes(SIZE)), 5)
    for client in hostile:
        for at in range(0, SIZE - 5000, 5000):
            client.feed(packet[at : at + 5000])
    assert not any(client.closed for client in hostile)
    for client in hostile:
        client.feed(packet[SIZE - 5000 : -1])
    assert [client.closed for client in hostile] == [True] + [False] * 9


def test_room_comes_back(lab: Lab) -> None:
    for n in range(30):
        client = lab.connect(f"h{n}")
        begin(lab, client)
        client.drop()
    assert lab.core.counters.packets_unfinished == 0


def test_before_anybody_is_known(lab: Lab) -> None:
    packet = encode(Connect("c", will=Will(b"w", bytes(50_000))), 5)
    clients = [lab.client() for _ in range(25)]
    for client in clients:
        client.feed(packet[:-1])
    assert [client.closed for client in clients] == [True] * 6 + [False] * 19


@pytest.mark.parametrize("first", [b"G", b"GET / HTTP/1.1\r\n\r\n", b"\0", b"\x30\xff", b"\x05\x01\x00"])
def test_what_is_not_mqtt_is_seen_at_its_first_byte(first: bytes) -> None:
    """A request of HTTP was waited on for 20 s, since its second byte announced more than there is."""
    lab = Lab()
    client = lab.client()
    client.feed(first)
    assert client.closed
    assert client.packets() == []
