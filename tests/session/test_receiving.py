"""PUBLISH from the client (§3.3, §4.3): QoS 0, 1 and 2, topic aliases, what is refused and how."""

import pytest
from support.loopback import Client, Lab

from broker.identity import Identity, Role
from broker.limits import RECEIVE_MAXIMUM, TOPIC_ALIASES_MAX
from broker.session.publish import ROUTES_KNOWN_MAX
from broker.wire.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel

# -- acknowledgements ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_qos_1_is_acknowledged_each_time(version: int) -> None:
    """[MQTT-3.3.4-1, MQTT-4.3.2-4, -5]: the same id is a new message after PUBACK, DUP or not. First and later ways.

    3.1.1 [MQTT-2.3.1-6, MQTT-4.3.2-2].
    """
    lab = Lab()
    reader = lab.connect("r", version)
    reader.subscribe("a", 1)
    client = lab.connect("c", version)
    for dup in (False, False, True, False):
        client.publish("a", b"x", 1, id=7, dup=dup)
        assert client.packets() == [Puback(7)]
        (message,) = reader.messages()
        assert message.dup is False  # [MQTT-3.3.1-3]
        reader.ack(message)


def test_the_publisher_is_told_when_nobody_listens() -> None:
    """§3.4.2.1: 0x10 is for MQTT 5, on the first way and on the fast one."""
    lab = Lab()
    client, old = lab.connect("c"), lab.connect("o", 4)
    for _ in range(2):
        client.publish("a", b"x", 1, id=1)
        assert client.packets() == [Puback(1, 0x10)]
        old.publish("a", b"x", 1, id=1)
        assert old.packets() == [Puback(1)]
    client.publish("a", b"x", 2, id=1)
    assert client.packets() == [Pubrec(1, 0x10)]
    reader = lab.connect("r")
    reader.subscribe("a")
    client.publish("a", b"x", 1, id=1)
    assert client.packets() == [Puback(1)]


@pytest.mark.parametrize("version", [4, 5])
def test_a_whole_qos_2_receipt(version: int) -> None:
    """[MQTT-3.3.4-1, MQTT-4.3.3-8, -10]: delivered once, however often PUBLISH comes before PUBREL; then anew.

    No PUBCOMP has a property [MQTT-3.7.2-2, -3]. 3.1.1 [MQTT-2.3.1-6, MQTT-4.3.3-2].
    """
    lab = Lab()
    reader = lab.connect("r", version)
    reader.subscribe("a")
    client = lab.connect("c", version)
    client.publish("a", b"x", 2, id=7)
    assert client.packets() == [Pubrec(7)]
    assert reader.payloads() == [b"x"]
    client.publish("a", b"x", 2, id=7, dup=True)
    client.publish("a", b"x", 2, id=7, dup=False)
    assert client.packets() == [Pubrec(7), Pubrec(7)]
    assert reader.payloads() == []
    client.send(Pubrel(7))
    assert client.packets() == [Pubcomp(7)]  # [MQTT-4.3.3-11]
    client.send(Pubrel(7))
    assert client.packets() == [Pubcomp(7, 0x92 if version == 5 else 0)]
    client.publish("a", b"y", 2, id=7)
    assert reader.payloads() == [b"y"]  # [MQTT-4.3.3-12]


@pytest.mark.parametrize("version", [4, 5])
def test_qos_2_ids_survive_the_connection(version: int) -> None:
    """§4.1: they are session state, so what is sent again after coming back is not delivered twice.

    3.1.1 [MQTT-4.3.3-2].
    """
    lab = Lab()
    reader = lab.connect("r")
    reader.subscribe("a")
    kept = {"session_expiry": 60} if version == 5 else {}
    client = lab.connect("c", version, clean=False, **kept)
    client.publish("a", b"x", 2, id=7)
    client.drop()
    back = lab.connect("c", version, clean=False, **kept)
    back.publish("a", b"x", 2, id=7, dup=True)
    assert back.packets() == [Pubrec(7)]
    assert reader.payloads() == [b"x"]
    back.send(Pubrel(7))
    assert back.packets() == [Pubcomp(7)]
    back.drop()
    fresh = lab.connect("c", version, clean=True)
    fresh.publish("a", b"x", 2, id=7, dup=True)
    assert reader.payloads() == [b"x"]


def test_qos_2_that_has_expired_is_completed() -> None:
    """[MQTT-4.3.3-13]: what is acknowledged is the packet."""
    lab = Lab()
    reader = lab.connect("r", session_expiry=60)
    reader.subscribe("a", 2)
    reader.drop()
    client = lab.connect("c")
    client.publish("a", b"x", 2, id=7, message_expiry=1)
    lab.advance(70)
    client.publish("a", b"x", 2, id=7, dup=True, message_expiry=1)
    client.send(Pubrel(7))
    assert client.packets() == [Pubrec(7), Pubrec(7), Pubcomp(7)]
    assert lab.connect("r", clean=False, session_expiry=60).early == []


def test_no_more_qos_2_than_our_receive_maximum() -> None:
    """[MQTT-3.3.4-7] is the client's duty; 0x93 is what it is told."""
    lab = Lab()
    client = lab.connect()
    for number in range(RECEIVE_MAXIMUM):
        client.publish("a", b"", 2, id=number + 1)
    client.publish("a", b"", 2, id=1, dup=True)  # one of those
    assert all(isinstance(p, Pubrec) for p in client.packets())
    client.send(Pubrel(1))
    client.publish("a", b"", 2, id=RECEIVE_MAXIMUM + 1)
    assert not client.closed
    client.publish("a", b"", 2, id=RECEIVE_MAXIMUM + 2)
    assert client.goodbye() == 0x93


@pytest.mark.parametrize("twos", [0, 24, 1000, 1024])
def test_no_more_of_qos_1_and_2_together_than_our_receive_maximum(twos: int) -> None:
    """[MQTT-3.3.4-7] is the client's duty. QoS 1 counts until PUBACK, QoS 2 until PUBCOMP, and a refusal ends it."""
    lab = Lab()
    reader = lab.connect("r", session_expiry=60)
    reader.subscribe("a", 1)
    reader.drop()
    lab.hold = True
    client = lab.connect("c")
    for number in range(twos):
        client.publish("b", b"", 2, id=number + 1)
    for number in range(twos, RECEIVE_MAXIMUM):
        client.publish("a", b"", 1, id=number + 1)
    assert not client.closed
    client.publish("a", b"", 1, id=RECEIVE_MAXIMUM + 1)
    assert client.goodbye() == 0x93


# -- delivery --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", [4, 5])
@pytest.mark.parametrize("receiver", [4, 5])
@pytest.mark.parametrize("asked", [0, 1, 2])
@pytest.mark.parametrize("published", [0, 1, 2])
def test_the_lower_qos_counts(sender: int, receiver: int, asked: int, published: int) -> None:
    """[MQTT-3.8.4-8, MQTT-3.2.2-10], between all versions, for the first message on a topic and for the next.

    None has DUP [MQTT-3.3.1-2, MQTT-4.3.1-1, MQTT-4.3.2-2, MQTT-4.3.3-2]. 3.1.1 [MQTT-3.8.4-6].
    """
    lab = Lab()
    client = lab.connect("r", receiver)
    assert client.subscribe("a", asked) == asked
    publisher = lab.connect("p", sender)
    for number in range(3):
        publisher.publish("a", b"%d" % number, published, id=5 + number)
        (message,) = client.messages()
        qos = min(asked, published)
        assert message == Publish(b"a", b"%d" % number, qos, packet_id=number + 1 if qos else 0)
    assert lab.core.counters.messages_sent == 3
    assert lab.core.counters.messages_received == 3


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("sender", [4, 5])
def test_all_who_match_get_it(sender: int, qos: int) -> None:
    """[MQTT-4.5.0-1]: of both versions, for their connection or for longer, there or away, first message and later."""
    lab = Lab()

    def client(number: int) -> Client:
        version, lasting = 4 + number % 2, number % 3 > 0
        kept = {"session_expiry": 60} if lasting and version == 5 else {}
        return lab.connect(f"c{number}", version, clean=not lasting, **kept)

    clients = {number: client(number) for number in range(12)}
    for number, one in clients.items():
        one.subscribe(("a/b", "a/+", "#")[number % 4 % 3], 1 + (number % 4 > 1))
    away = (1, 2, 7, 8)  # of those that last
    for number in away:
        clients.pop(number).drop()
    publisher = lab.connect("p", sender)
    for number in range(3):
        publisher.publish("a/b", b"%d" % number, qos, id=5 + number)
    assert [one.payloads() for one in clients.values()] == [[b"0", b"1", b"2"]] * 8
    for number in away:
        got = [packet.payload for packet in client(number).early if isinstance(packet, Publish)]
        assert got == ([b"0", b"1", b"2"] if qos else [])


def test_properties_go_on_as_they_came() -> None:
    """[MQTT-3.3.2-4, -15 to -20]: unaltered and in order; 3.1.1 gets the rest. No alias [MQTT-3.1.2-26, -27]."""
    lab = Lab()
    new, old = lab.connect("5", topic_alias_maximum=10), lab.connect("4", 4)
    new.subscribe("a", 1)
    old.subscribe("a", 1)
    sender = lab.connect("p")
    pairs = [("b", "1"), ("a", "2"), ("b", "1")]
    given = {
        "payload_format": 1,
        "content_type": "text/plain",
        "response_topic": "r",
        "correlation_data": b"\0\1",
        "user_properties": pairs,
    }
    for qos in (0, 1):
        sender.publish("a", b"x", qos, topic_alias=3, **given)
        for client in (new, old):
            (message,) = client.messages()
            assert message.topic == b"a"
            got = message.properties
            if client is new:
                assert {name: getattr(got, name) for name in given} == given
            assert got.topic_alias is None
            client.ack(message) if qos else None


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_payload_is_the_publishers(qos: int) -> None:
    """§3.3.2.3.2: that it is UTF-8, as its format indicator says, may be checked, and is not (decision 31)."""
    lab = Lab()
    reader = lab.connect("r")
    reader.subscribe("a", 2)
    sender = lab.connect("p")
    sender.publish("a", b"\xff\0\xed\xa0\x80", qos, payload_format=1)
    (message,) = reader.messages()
    assert (message.payload, message.properties.payload_format) == (b"\xff\0\xed\xa0\x80", 1)
    assert all(answer.reason == 0 for answer in sender.packets() if isinstance(answer, Puback | Pubrec))


# -- topic aliases ---------------------------------------------------------------------------------------------------


def test_topic_aliases() -> None:
    """[MQTT-3.3.2-12]: set, used, set anew, up to the maximum; the topic goes out without one [MQTT-3.3.2-11]."""
    lab = Lab()
    reader = lab.connect("r", topic_alias_maximum=10)
    reader.subscribe("#")
    client = lab.connect("c")
    client.publish("a", b"1", topic_alias=1)
    client.publish("", b"2", topic_alias=1)
    client.publish("b", b"3", 1, topic_alias=TOPIC_ALIASES_MAX)
    client.publish("", b"4", 2, topic_alias=TOPIC_ALIASES_MAX)
    client.publish("c", b"5", topic_alias=1)
    client.publish("", b"6", topic_alias=1)
    messages = reader.messages()
    assert [m.properties.topic_alias for m in messages] == [None] * 6
    shown = [(m.topic, m.payload) for m in messages]
    assert shown == [(b"a", b"1"), (b"a", b"2"), (b"b", b"3"), (b"b", b"4"), (b"c", b"5"), (b"c", b"6")]


@pytest.mark.parametrize(
    ("topic", "alias", "reason"), [("a", TOPIC_ALIASES_MAX + 1, 0x94), ("", 5, 0x82), ("a", 0, 0x94)]
)
def test_a_wrong_topic_alias_closes(topic: str, alias: int, reason: int) -> None:
    """[MQTT-3.3.2-8, -9, MQTT-3.2.2-17], §3.3.4."""
    client = Lab().connect()
    client.publish("x", topic_alias=1)
    client.publish(topic, topic_alias=alias)
    assert client.goodbye() == reason


def test_topic_aliases_belong_to_the_connection() -> None:
    """[MQTT-3.3.2-7]: not to the session, and not to others."""
    lab = Lab()
    client = lab.connect("c", session_expiry=60)
    client.publish("a", topic_alias=1)
    other = lab.connect("o")
    other.publish("", topic_alias=1)
    assert other.goodbye() == 0x82
    client.drop()
    back = lab.connect("c", clean=False, session_expiry=60)
    back.publish("", topic_alias=1)
    assert back.goodbye() == 0x82


def test_an_alias_of_a_refused_topic_is_refused_each_time() -> None:
    """An alias is a short name, not a permission."""
    lab = Lab(admit=lambda _: Identity(Role.SERVER, "acme", "crm"))
    client = lab.connect()
    for topic in ("other/user/ada", "", ""):
        client.publish(topic, b"x", 1, id=1, topic_alias=1)
        assert client.packets() == [Puback(1, 0x87)]


# -- what is refused -------------------------------------------------------------------------------------------------


def test_a_publish_that_is_not_allowed() -> None:
    """§3.3.5, §4.13.2: MQTT 5 is told (0x87) and goes on; 3.1.1 has no word for it, so it is closed, unacknowledged.

    3.1.1 [MQTT-3.3.5-2].
    """
    lab = Lab(admit=lambda _: Identity(Role.SERVER, "acme", "crm"))
    reader = lab.connect("r")
    reader.subscribe("acme/#")
    client = lab.connect("c")
    # Without a reason string, as ever [MQTT-3.4.2-2, MQTT-3.5.2-2].
    for _ in range(2):
        for qos, answer in ((0, []), (1, [Puback(1, 0x87)]), (2, [Pubrec(1, 0x87)])):
            client.publish("acme/receipts/m1", b"x", qos, id=1)
            assert client.packets() == answer
    old = lab.connect("o", 4)
    old.publish("acme/receipts/m1", b"x", 0)
    assert not old.closed
    old.publish("acme/receipts/m1", b"x", 1)
    assert old.closed
    assert old.packets() == reader.packets() == []
    assert lab.core.counters.publishes_refused == 8


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("topic", ["a/+", "#", "", "a" * 2000])
def test_a_topic_that_is_none_closes(version: int, topic: str) -> None:
    """[MQTT-3.3.2-2, MQTT-4.7.0-1, MQTT-4.7.3-1].

    3.1.1 [MQTT-4.7.1-1].
    """
    client = Lab().connect("c", version)
    client.publish(topic)
    reason = client.goodbye()
    assert reason in ((0x90, 0x82) if version == 5 else (None,))


def test_a_subscription_identifier_from_a_client_closes() -> None:
    """[MQTT-3.3.4-6]."""
    client = Lab().connect()
    client.publish("a", subscription_ids=[1])
    assert client.goodbye() == 0x82


def test_a_packet_over_the_maximum_closes() -> None:
    """[MQTT-3.2.2-15] is the client's duty; 0x95 as soon as the length is known."""
    lab = Lab(packet_bytes_max=100)
    client = lab.connect()
    client.publish("a", b"x" * (100 - 6))
    client.publish("a", b"x" * (100 - 6))
    assert not client.closed
    client.publish("a", b"x" * (100 - 5))
    assert client.goodbye() == 0x95
    early = lab.connect()
    early.feed(b"\x30\x65\x00")
    assert early.goodbye() == 0x95


@pytest.mark.parametrize("payload", [b"x", b"x" * 200])
@pytest.mark.parametrize("qos", [0, 1])
def test_a_length_that_is_not_the_shortest_closes(payload: bytes, qos: int) -> None:
    """[MQTT-1.5.5-1]: what goes out as it came in must be well-formed, or one client could break the others."""
    lab = Lab()
    reader = lab.connect("r", 4)
    reader.subscribe("a", 1)
    client = lab.connect("c", 4)
    client.publish("a", b"first", qos)
    client.packets()
    reader.messages()
    body = b"\0\1a" + (b"\0\7" if qos else b"") + payload
    size = len(body)
    length = bytes((size | 0x80, 0)) if size < 128 else bytes((size & 127 | 0x80, size >> 7 | 0x80, 0))
    client.feed(bytes((0x30 | qos << 1,)) + length + body)
    assert client.closed
    assert reader.packets() == []


@pytest.mark.parametrize("version", [4, 5])
def test_a_length_over_four_bytes_closes(version: int) -> None:
    """§1.5.5."""
    client = Lab().connect("c", version)
    client.feed(b"\x30\xff\xff\xff\xff\x01")
    assert client.goodbye() in ((0x81, 0x95) if version == 5 else (None,))


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("size", range(4))
@pytest.mark.parametrize("first", [0x30, 0x32, 0x34, 0x3B, 0x40, 0x62])
def test_a_publish_that_is_cut_off_closes(version: int, size: int, first: int) -> None:
    lab = Lab()
    client = lab.connect("c", version)
    client.publish("a", b"x")  # the topic is known: the fast way looks at the next
    client.feed(bytes((first, size)) + b"\0\1a"[:size] + b"\0\1a\0\1a\0")
    if (first, size, version) in ((0x30, 3, 4), (0x40, 2, 4), (0x40, 2, 5), (0x62, 2, 4), (0x62, 2, 5), (0x40, 3, 5)):
        return
    assert client.closed


def test_packet_id_0_closes() -> None:
    """[MQTT-2.2.1-3], on the fast way as on the general one: the client has to give another. 3.1.1 [MQTT-2.3.1-1]."""
    for data in (b"\x32\x06\0\1a\0\0\0", b"\x34\x06\0\1a\0\0\0", b"\x40\x02\0\0", b"\x62\x02\0\0"):
        client = Lab().connect()
        client.publish("a")
        client.feed(data)
        assert client.goodbye() == 0x82, data


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("error", [b"\xff\x00", b"\x00\x00", b"\x36\x05\0\1a\0\1", b"\x82\x06\0\1\0\0\0\0"])
def test_nothing_that_follows_an_error_is_served(error: bytes, version: int) -> None:
    """[MQTT-4.13.1-1]: whatever came in the same read, or comes later."""
    lab = Lab()
    reader = lab.connect("r")
    reader.subscribe("#")
    client = lab.connect("c", version)
    client.publish("a", b"before")
    after = b"\x30\x04\0\1ax" if version == 4 else b"\x30\x05\0\1a\0x"
    client.feed(error + after)
    client.feed(after)
    assert client.closed
    assert len(client.packets()) == (version == 5)  # DISCONNECT
    assert reader.payloads() == [b"before"]


def test_what_was_served_before_an_error_is_counted() -> None:
    """The figures add up, whatever a read ends with."""
    lab = Lab()
    reader = lab.connect("r")
    reader.subscribe("a", 1)
    client = lab.connect("c")
    client.publish("a", b"x")
    reader.packets()
    client.feed(b"\x30\x05\0\1a\0x" * 3 + b"\x32\x07\0\1a\0\1\0x" + b"\xff\0")
    assert client.goodbye() == 0x81
    got = reader.messages()
    assert len(got) == 4
    counters = lab.core.counters
    assert (counters.messages_received, counters.messages_sent) == (5, 5)
    reader.feed(b"\x40\x02\0\1" + b"\x00\0")
    assert reader.goodbye() == 0x81
    assert counters.messages_delivered == 1


def test_more_topics_than_a_connection_remembers() -> None:
    """The short way to known topics is bounded; those that were dropped from it are served as well."""
    lab = Lab()
    reader = lab.connect("r")
    reader.subscribe("t/#")
    client = lab.connect("c")
    for number in range(ROUTES_KNOWN_MAX + 10):
        client.publish(f"t/{number}", b"1")
    for number in (0, 1, ROUTES_KNOWN_MAX + 9):
        client.publish(f"t/{number}", b"2")
    assert len(reader.messages()) == ROUTES_KNOWN_MAX + 13
    assert len(client.channel.routes) <= ROUTES_KNOWN_MAX
