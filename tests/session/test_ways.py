"""One result, whatever the way: any cut of the bytes, the fast way or the general one, any mix of versions."""

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.loopback import Client, Lab, Loopback

from broker.wire.encode import encode
from broker.wire.packets import (
    Connect,
    Packet,
    Pingreq,
    Properties,
    Puback,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Subscribe,
    Unsubscribe,
)

# -- any cut ---------------------------------------------------------------------------------------------------------

TOPIC = st.sampled_from([b"a", b"b", b"a/b", b"t" * 130])
ID = st.integers(1, 5)
PUBLISH = st.builds(
    lambda topic, payload, qos, retain, id: Publish(topic, payload, qos, retain, False, id if qos else 0),
    TOPIC,
    st.one_of(st.binary(max_size=5), st.integers(100, 20_000).map(lambda n: b"x" * n)),
    st.integers(0, 2),
    st.sampled_from([False, False, False, True]),
    ID,
)
FILTER = st.sampled_from(["a", "+", "#", "a/#", "$share/g/a"])
PACKET: st.SearchStrategy[Packet] = st.one_of(
    PUBLISH,
    PUBLISH,
    st.builds(Puback, ID),
    st.builds(Pubrec, ID),
    st.builds(Pubrel, ID),
    st.builds(lambda id, f, qos: Subscribe(id, [Request(f, qos)]), ID, FILTER, st.integers(0, 2)),
    st.builds(lambda id, f: Unsubscribe(id, [f]), ID, FILTER),
    st.builds(Pingreq),
)


def run(version: int, data: bytes, cuts: list[int]) -> tuple[bytes, bytes, bytes, dict[str, int]]:
    """What a client that sends `data`, cut in pieces, and two that listen get; and the figures."""
    lab = Lab()
    readers = [lab.connect("r4", 4), lab.connect("r5", 5)]
    for reader in readers:
        reader.subscribe("#", 1)
    channel = Loopback(lab.core)
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if not channel.closed:
            channel.feed(data[start:end])
            lab.core.flush()
    figures = lab.core.counters.as_dict() | {"sessions": len(lab.core.sessions), "retained": len(lab.core.retained)}
    return bytes(channel.raw), bytes(readers[0].channel.raw), bytes(readers[1].channel.raw), figures


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([4, 5]), st.lists(PACKET, max_size=12), st.sampled_from([b"", b"\xff\0", b"\x30\xff"]), st.data()
)
def test_any_cut_gives_the_same(version: int, packets: list[Packet], end: bytes, data: st.DataObject) -> None:
    """TCP knows no packets: the whole stream at once and any pieces of it have the same effect."""
    stream = b"".join(encode(p, version) for p in [Connect("c", version, keep_alive=60), *packets]) + end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20), label="cuts"))
    assert run(version, stream, cuts) == run(version, stream, [])


def test_byte_by_byte() -> None:
    packets: list[Packet] = [
        Connect("c", 5, keep_alive=60),
        Subscribe(1, [Request("a", 2)]),
        *(Publish(b"a", b"x" * size, qos, packet_id=7 if qos else 0) for size in (0, 1, 130, 300) for qos in (0, 1, 2)),
        Pubrel(7),
        Pingreq(),
    ]
    stream = b"".join(encode(p, 5) for p in packets)
    assert run(5, stream, list(range(1, len(stream)))) == run(5, stream, [])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([4, 5]), st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_noise_gives_the_same_and_hurts_nobody(version: int, noise: bytes, cuts: list[int]) -> None:
    """Whatever comes after CONNECT and a PUBLISH: no exception, no difference, and all others get is well-formed."""
    stream = encode(Connect("c", version, keep_alive=60), version) + encode(Publish(b"a", b"x"), version)
    base = len(stream)
    stream += noise
    pieces = sorted(base + min(cut, len(noise)) for cut in cuts)
    whole = run(version, stream, [])
    assert run(version, stream, pieces) == whole
    for reader_version, raw in ((4, whole[1]), (5, whole[2])):
        reader = Client(Lab(), reader_version)
        reader.channel.raw += raw
        assert all(p is not None for p in reader.packets())


# -- any way ---------------------------------------------------------------------------------------------------------

Way = Callable[[Client, str, bytes, int], None]


def fast(client: Client, topic: str, payload: bytes, qos: int) -> None:
    """As plain as it can be: the fast way, but for the first time on a topic and for QoS 2."""
    client.publish(topic, payload, qos, id=9)


def with_dup(client: Client, topic: str, payload: bytes, qos: int) -> None:
    """DUP takes it out of the fast way and changes nothing else."""
    client.publish(topic, payload, qos, id=9, dup=qos > 0)


def with_alias(client: Client, topic: str, payload: bytes, qos: int) -> None:
    """A topic alias is the connection's business, not the receivers'."""
    client.publish(topic, payload, qos, id=9, **({"topic_alias": 1} if client.version == 5 else {}))


def with_stale_routes(client: Client, topic: str, payload: bytes, qos: int) -> None:
    """Every route that the connection holds is stale."""
    for route in client.channel.routes.values():
        route.any4 = None
    client.publish(topic, payload, qos, id=9)


def cut_off(client: Client, topic: str, payload: bytes, qos: int) -> None:
    """In two pieces."""
    data = encode(Publish(topic.encode(), payload, qos, packet_id=9 if qos else 0), client.version)
    client.feed(data[:3])
    client.feed(data[3:])


def several(client: Client, topic: str, payload: bytes, qos: int) -> None:
    """In one read with others."""
    data = encode(Publish(topic.encode(), payload, qos, packet_id=9 if qos else 0), client.version)
    client.feed(b"\xc0\0" + data + b"\xc0\0")


WAYS: list[Way] = [with_dup, with_alias, with_stale_routes, cut_off, several]


def everybody(lab: Lab) -> list[Client]:
    """One receiver of each kind: version, QoS, options, limits, window, shared, slow, away."""
    clients = []
    for version, qos in product((4, 5), (0, 1, 2)):
        client = lab.connect(f"{version}-{qos}", version)
        client.subscribe("a", qos)
        clients.append(client)
    special: list[tuple[str, dict[str, int], dict[str, int | bool]]] = [
        ("id", {}, {"id": 5}),
        ("rap", {}, {"rap": True}),
        ("local", {}, {"no_local": True}),
        ("small", {"maximum_packet_size": 40}, {}),
        ("narrow", {"receive_maximum": 2}, {}),
        ("slow", {}, {}),
        ("away", {"session_expiry": 60}, {}),
    ]
    for name, properties, options in special:
        client = lab.connect(name, **properties)
        client.subscribe("a", 1, **options)  # type: ignore[arg-type]
        clients.append(client)
    overlap = lab.connect("overlap")
    for number, topic_filter in enumerate(("a", "+", "#")):
        overlap.subscribe(topic_filter, number)
    clients.append(overlap)
    for name in ("s1", "s2"):
        client = lab.connect(name, 4 if name == "s1" else 5)
        client.subscribe("$share/g/a", 1)
        clients.append(client)
    clients[-5].channel.stuck = True  # slow
    clients[-5].feed(b"\xc0\0")
    clients[-4].drop()  # away
    return clients


def outcome(way: Way, version: int, own: bool) -> list[object]:
    lab = Lab()
    clients = everybody(lab)
    sender = lab.connect("p", version)
    if own:
        sender.subscribe("a", 1)
    for qos in (0, 1, 2, 1, 0, 1):
        way(sender, "a", b"payload %d" % qos, qos)
        if qos == 2:
            sender.send(Pubrel(9))
    assert clients[-5].session.client_id == "slow"
    clients[-5].channel.unstick()
    clients.append(lab.connect("away", clean=False, session_expiry=60))
    clients[-1].early = []
    shown: list[object] = [bytes(client.channel.raw) for client in clients]
    shown.append([p for p in sender.packets() if not isinstance(p, type(Pingreq())) and type(p).__name__ != "Pingresp"])
    shown.append(lab.core.counters.as_dict())
    return shown


@pytest.mark.parametrize("own", [False, True], ids=["others", "itself, too"])
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_all_ways_lead_to_the_same(way: Way, version: int, own: bool) -> None:
    """The fast way is a shorter one, not another: each receiver gets the same bytes, and the figures are the same.

    [MQTT-4.5.0-1].
    """
    assert outcome(way, version, own) == outcome(fast, version, own)


@pytest.mark.parametrize("version", [4, 5])
def test_properties_and_retain_change_nothing_else(version: int) -> None:
    """Through the general way with something that is taken off again: receivers see the same messages otherwise."""

    def seen(**extra: object) -> list[list[tuple[bytes, bytes, int, int]]]:
        lab = Lab()
        clients = everybody(lab)[:-7]
        sender = lab.connect("p", version)
        for qos in (0, 1, 1, 2, 0):
            sender.publish("a", b"x%d" % qos, qos, id=9, **extra)  # type: ignore[arg-type]
        return [[(m.topic, m.payload, m.qos, m.packet_id) for m in c.messages()] for c in clients if c.session]

    assert seen(retain=True) == seen()
    if version == 5:
        assert seen(user_properties=[("k", "v")]) == seen(message_expiry=100) == seen()


# -- any mix ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 120, 121, 122, 123, 124, 125, 126, 127, 128, 16_380, 16_384, 70_000])
def test_receivers_of_both_versions(version: int, qos: int, size: int) -> None:
    """Each gets a packet that is well-formed for it; the lengths at which the header grows are the risky ones."""
    lab = Lab()
    clients = [lab.connect(f"{v}{q}", v) for v, q in product((4, 5), (0, 1))]
    for client in clients:
        client.subscribe("a", int(client.session.client_id[1]))
    sender = lab.connect("p", version)
    for number in range(2):
        payload = bytes((number,)) * size
        sender.publish("a", payload, qos, id=1 + number)
        for client in clients:
            (message,) = client.messages()
            asked = min(qos, int(client.session.client_id[1]))
            expected = Publish(b"a", payload, asked, packet_id=number + 1 if asked else 0, properties=Properties())
            assert message == expected


@pytest.mark.parametrize("sender_version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1])
def test_a_receiver_that_comes_back_as_another(sender_version: int, qos: int) -> None:
    """Routes sort receivers by version and limits: who changes them is sorted anew, for those who publish all along."""
    lab = Lab()
    client = lab.connect("c", 5, session_expiry=60)
    client.subscribe("a", 1)
    sender = lab.connect("p", sender_version, keep_alive=0)
    for version, properties in (
        (5, {"session_expiry": 60}),
        (5, {"session_expiry": 60, "maximum_packet_size": 30}),
        (4, {}),
        (5, {"session_expiry": 60}),
    ):
        client.disconnect()
        client = lab.connect("c", version, clean=False, **properties)
        assert client.connack.session_present
        for _ in range(2):
            sender.publish("a", b"x" * 20, qos)
            (message,) = client.messages()
            assert message.payload == b"x" * 20
            client.ack(message) if qos else None
        sender.publish("a", b"x" * 30, qos)
        messages = client.messages()
        assert len(messages) == ("maximum_packet_size" not in properties)
        client.ack(*messages) if qos else None


def test_who_publishes_to_very_many_waits_for_its_next_turn() -> None:
    """Memory stays bounded, and others are served: no more than 20,000 deliveries are put out at once."""
    lab = Lab()
    clients = [lab.connect(str(number), 4) for number in range(100)]
    for client in clients:
        client.subscribe("a", 1)
    sender = lab.connect("p", 4)
    sender.publish("a")
    for client in clients:
        client.packets()
    most = 0

    class Watch(Loopback):
        __slots__ = ()

        def flush(self) -> None:
            nonlocal most
            most = max(most, len(self.out))
            super().flush()

    clients[0].channel.__class__ = Watch
    sender.feed(encode(Publish(b"a", b"x"), 4) * 1000)
    assert all(len(client.messages()) == 1000 for client in clients)
    assert most <= 300
