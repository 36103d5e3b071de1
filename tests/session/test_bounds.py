"""Bounds on what waits for one client: its queue, its maximum packet size, its slowness."""

import tracemalloc

import pytest
from support.loopback import Client, Lab, Loopback

from broker.limits import IN_FLIGHT_MAX, LARGE_BYTES, OUT_BYTES_MAX
from broker.message import Message
from broker.wire.packets import Disconnect, Puback, Publish, Pubrec, Pubrel, Request, Suback, Subscribe, Will
from broker.wire.publish import parts

# -- the queue -------------------------------------------------------------------------------------------------------


def away(lab: Lab, client_id: str = "c", qos: int = 2) -> None:
    client = lab.connect(client_id, session_expiry=3600)
    client.subscribe("a", qos)
    client.drop()


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("way", ["first", "later"])
def test_a_full_queue_is_no_success_for_mqtt_5(qos: int, way: str) -> None:
    """0x97, and the connection goes on; what was accepted before is still there, in order."""
    lab = Lab(queue_messages_max=3)
    away(lab)
    sender = lab.connect("p")
    if way == "later":
        sender.publish("a", b"lost, as promised")
    for number in range(5):
        sender.publish("a", b"%d" % number, qos, id=number + 1)
    answers = [p for p in sender.packets() if isinstance(p, Puback | Pubrec)]
    assert [a.reason for a in answers] == [0, 0, 0, 0x97, 0x97]
    sender.send(*(Pubrel(n + 1) for n in range(3) if qos == 2))
    back = lab.connect("c", clean=False, session_expiry=3600)
    assert [p.payload for p in back.early if isinstance(p, Publish)] == [b"0", b"1", b"2"]
    counters = lab.core.counters
    assert (counters.messages_dropped_queue_full, counters.publishes_refused) == (0, 2)


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("way", ["first", "later"])
def test_a_full_queue_closes_3_1_1_without_an_acknowledgement(qos: int, way: str) -> None:
    """3.1.1 [MQTT-3.3.5-2] knows no refusal: it must not take a lost message for a kept one."""
    lab = Lab(queue_messages_max=1)
    away(lab)
    sender = lab.connect("p", 4)
    if way == "later":
        sender.publish("a", b"lost, as promised")
    sender.publish("a", b"1", qos, id=1)
    assert len(sender.packets()) == 1
    sender.publish("a", b"2", qos, id=2)
    assert sender.closed
    assert sender.packets() == []


def test_a_refused_qos_2_message_may_come_again() -> None:
    """[MQTT-4.3.3-9]: after a PUBREC that refuses, the id is free, and the next PUBLISH with it is a new message."""
    lab = Lab(queue_messages_max=1)
    away(lab)
    sender = lab.connect("p")
    sender.publish("a", b"1", 2, id=1)
    sender.publish("a", b"2", 2, id=2)
    reader = lab.connect("c", clean=False, session_expiry=3600)
    sender.publish("a", b"2", 2, id=2)
    assert [p.reason for p in sender.packets() if isinstance(p, Pubrec)] == [0, 0x97, 0]
    assert [p.payload for p in reader.early + reader.packets() if isinstance(p, Publish)] == [b"1", b"2"]


def test_what_is_refused_reaches_nobody() -> None:
    """Its publisher may try again, and nobody gets it twice for that."""
    lab = Lab(queue_messages_max=1)
    away(lab)
    reader, late = lab.connect("r"), lab.connect("r4", 4)
    reader.subscribe("a", 1)
    late.subscribe("a", 1)
    sender = lab.connect("p")
    for _ in range(3):
        sender.publish("a", b"x", 1)
    assert len(reader.messages()) == len(late.messages()) == 1


def test_the_bytes_are_bounded() -> None:
    lab = Lab(queue_bytes_max=2500)
    away(lab)
    sender = lab.connect("p")
    for size in (1000, 2000, 500, 900):
        sender.publish("a", b"x" * size, 1)
    assert [p.reason for p in sender.packets() if isinstance(p, Puback)] == [0, 0x97, 0, 0x97]
    (session,) = [s for s in lab.core.sessions.values() if s.client_id == "c"]
    assert session.queue_bytes == sum(m.size for m in session.queue or ()) <= 2500
    back = lab.connect("c", clean=False, session_expiry=3600)
    assert back.session.queue_bytes == 0
    assert back.session.queue is None


@pytest.mark.parametrize("sender_version", [4, 5])
def test_a_session_that_promised_nothing_is_bounded_by_bytes(sender_version: int) -> None:
    """With session expiry 0 nothing outlives the connection: as long as it lasts a slow reader loses nothing."""
    lab = Lab(queue_messages_max=2, queue_bytes_max=1000)
    client = lab.connect("c", receive_maximum=1)
    client.subscribe("a", 1)
    sender = lab.connect("p", sender_version)
    for number in range(3000):
        sender.publish("a", b"%d" % number, 1)
    assert (client.session.waiting, len(client.session.inflight)) == (2999, 1)
    assert lab.core.counters.messages_dropped_queue_full == 0
    for number in range(3000):
        (message,) = client.messages()
        assert message.payload == b"%d" % number
        client.ack(message)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("sender_version", [4, 5])
def test_a_client_that_nothing_more_can_wait_for_is_disconnected(version: int, sender_version: int) -> None:
    """[MQTT-4.1.0-1]: no session loses a message and goes on as if it had not. The publisher waits for nobody."""
    lab = Lab()
    client = lab.connect("c", version)
    client.subscribe("a", 1)
    sender = lab.connect("p", sender_version)
    size, sent = 10_000, 0
    while not client.closed:
        sent += 1
        sender.publish("a", b"%d" % sent + b"x" * size, 1)
        assert sent * size < 2 * (OUT_BYTES_MAX + IN_FLIGHT_MAX * size)
    assert [p.packet_id for p in sender.packets() if isinstance(p, Puback) and not p.reason] == [*range(1, sent + 1)]
    *got, last = client.packets() if version == 5 else (*client.packets(), Disconnect(0x97))
    assert last == Disconnect(0x97)
    assert [p.payload.rstrip(b"x") for p in got if isinstance(p, Publish)] == [
        b"%d" % n for n in range(1, len(got) + 1)
    ]
    waited = sent - 1 - len(got)
    assert OUT_BYTES_MAX * 0.9 < waited * size < OUT_BYTES_MAX
    counters = lab.core.counters
    assert (counters.sessions_overrun, counters.messages_dropped_queue_full, counters.publishes_refused) == (1, 1, 0)
    assert counters.messages_dropped_session_end == sent - 1
    assert len(lab.core.sessions) == 1


def test_wills_of_those_who_are_disconnected_so_may_hit_the_others() -> None:
    """One after the other, none twice, and the rest of the round goes on."""
    lab = Lab(packet_bytes_max=OUT_BYTES_MAX + 1000)
    will = Will(b"a", b"bye", 1)
    clients = [lab.connect(f"c{number}", receive_maximum=1, will=will) for number in range(5)]
    for client in clients:
        client.subscribe("a", 1)
    watcher = lab.connect("w")
    watcher.subscribe("a")
    sender = lab.connect("p")
    for size in (1, OUT_BYTES_MAX, 1):
        sender.publish("a", b"x" * size, 1)
    assert all(client.goodbye() == 0x97 for client in clients)
    assert len(watcher.messages()) == 3 + len(clients)
    assert (lab.core.counters.sessions_overrun, lab.core.counters.wills_published) == (5, 5)
    assert len(lab.core.sessions) == 2


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("qos", [1, 2])
def test_one_message_always_fits(kept: bool, qos: int) -> None:
    """However large it is; a second one does not."""
    lab = Lab(queue_bytes_max=5000, packet_bytes_max=OUT_BYTES_MAX + 1000)
    size = 4990 if kept else OUT_BYTES_MAX
    client = slow(lab, session_expiry=60 if kept else 0)
    sender = lab.connect("p")
    for _ in range(2):
        sender.publish("a", b"x" * size, qos)
    reasons = [p.reason for p in sender.packets() if isinstance(p, Puback | Pubrec)]
    assert reasons == [0, 0x97 if kept else 0]
    counters = lab.core.counters
    assert (counters.messages_dropped_queue_full, counters.publishes_refused) == ((0, 1) if kept else (1, 0))
    assert client.closed is not kept


def test_a_small_message_is_counted_with_what_it_costs() -> None:
    """A record around a few bytes: what is counted must not be far below what is held."""
    tracemalloc.start()
    try:
        messages = [Message(b"topic/%d" % n, b"%d" % n, 1, properties=b"p%d" % n) for n in range(2000)]
        for message in messages:
            parts(message, True, 0.0)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < sum(message.size for message in messages) < 1.5 * held


def test_an_encoding_does_not_hold_the_payload_again() -> None:
    """The bytes that are queued and in flight are counted once."""
    message = Message(b"a", bytes(1 << 20), 1)
    for v5 in (False, True):
        assert sum(map(len, parts(message, v5, 0.0))) < 100


# -- in flight -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("sender_version", [4, 5])
@pytest.mark.parametrize("size", [LARGE_BYTES + 1, 1_000_000])
def test_large_messages_in_flight_are_bounded_by_bytes(version: int, sender_version: int, size: int) -> None:
    """Not by their number, which is good for small ones; as they are acknowledged, the rest goes, in order."""
    lab = Lab()
    client = lab.connect("c", version)
    client.subscribe("a", 1)
    sender = lab.connect("p", sender_version)
    sender.publish("a", b"0", 1)
    client.ack(*client.messages())
    count = OUT_BYTES_MAX // size + 4
    for number in range(1, count):
        sender.publish("a", b"%d " % number + b"x" * size, 1)
    assert 0.9 * (OUT_BYTES_MAX - size) < len(client.session.inflight) * size < OUT_BYTES_MAX + size
    assert client.session.waiting > 0
    got = []
    while messages := client.messages():
        got += messages
        client.ack(messages[0])
        client.ack(*messages[1:])
    assert [m.payload.split()[0] for m in got] == [b"%d" % number for number in range(1, count)]
    assert not client.session.inflight
    assert client.session.queue is None


def test_large_retained_messages_in_flight_are_bounded_by_bytes() -> None:
    """Each may have been replaced by the time the next one goes, so that nobody else holds it."""
    lab = Lab()
    client, sender = lab.connect("c"), lab.connect("p")
    for number in range(12):
        sender.publish(f"r/{number}", bytes(1_000_000), 1, retain=True)
    client.subscribe("r/+", 1)
    got = 0
    while messages := client.messages():
        got += len(messages)
        assert len(client.session.inflight) <= OUT_BYTES_MAX // 1_000_000 + 1
        client.ack(*messages)
    assert got == 12


def test_qos_0_waits_for_nobody() -> None:
    lab = Lab()
    away(lab)
    sender = lab.connect("p")
    for _ in range(2):
        sender.publish("a", b"x", 0)
    assert lab.connect("c", clean=False, session_expiry=3600).early == []
    assert lab.core.counters.messages_sent == 0


# -- the client's maximum packet size --------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_is_too_large_for_a_client_is_not_sent(qos: int) -> None:
    """[MQTT-3.1.2-24], [MQTT-3.1.2-25]: dropped as if it had been delivered; exactly the maximum is not too large."""
    lab = Lab()
    client, other = lab.connect("c", maximum_packet_size=50), lab.connect("o")
    client.subscribe("a", 2)
    other.subscribe("a", 2)
    sender = lab.connect("p")
    overhead = 2 + 3 + (2 if qos else 0) + 1
    for size in (51, 50, 49, 51):
        sender.publish("a", b"x" * (size - overhead), qos)
    assert [len(m.payload) + overhead for m in client.messages()] == [50, 49]
    assert len(other.messages()) == 4
    assert all(p.reason == 0 for p in sender.packets() if isinstance(p, Puback | Pubrec))
    assert lab.core.counters.messages_dropped_too_large == 2
    assert len(client.session.inflight) == (2 if qos else 0)


def test_what_waits_may_be_too_large_for_the_next_connection() -> None:
    """The same for what is sent again and for what was queued: it takes no packet id and no room."""
    lab = Lab()
    client = lab.connect("c", session_expiry=60)
    client.subscribe("a", 2)
    sender = lab.connect("p")
    sender.publish("a", b"x" * 100, 1)
    sender.publish("a", b"x" * 100, 2)
    sender.publish("a", b"y", 1)
    assert len(client.messages()) == 3
    client.drop()
    sender.publish("a", b"x" * 100, 1)
    sender.publish("a", b"z", 1)
    back = lab.connect("c", clean=False, session_expiry=60, maximum_packet_size=60)
    assert [p.payload for p in back.early if isinstance(p, Publish)] == [b"y", b"z"]
    assert len(back.session.inflight) == 2
    assert lab.core.counters.messages_dropped_too_large == 3
    back.drop()
    sender.publish("a", b"x" * 100, 1)
    again = lab.connect("c", clean=False, session_expiry=60)
    assert [p.payload for p in again.early if isinstance(p, Publish)] == [b"y", b"z", b"x" * 100]


def test_a_subscription_identifier_counts() -> None:
    lab = Lab()
    client = lab.connect(maximum_packet_size=40)
    client.subscribe("a", id=200)
    sender = lab.connect("p")
    sender.publish("a", b"x" * (40 - 6))
    sender.publish("a", b"x" * (40 - 9))
    assert len(client.messages()) == 1


# -- slow clients ----------------------------------------------------------------------------------------------------


def slow(lab: Lab, version: int = 5, **options: int) -> Client:
    """A client whose socket takes nothing more."""
    client = lab.connect("slow", version, **options)
    client.subscribe("a", 1)
    client.channel.stuck = True
    client.feed(b"\xc0\0")
    assert client.session.out is None
    return client


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("sender_version", [4, 5])
def test_a_slow_client_gets_all_when_it_reads_again(version: int, sender_version: int) -> None:
    """QoS 1 is kept back, QoS 0 put behind what waits; nothing is lost, QoS 1 stays in order."""
    lab = Lab()
    client = slow(lab, version)
    sender = lab.connect("p", sender_version)
    for number in range(6):
        sender.publish("a", b"%d" % number, number % 2)
    assert client.session.waiting == 3
    client.channel.unstick()
    _, *messages = client.packets()
    assert [m.payload for m in messages if isinstance(m, Publish) and m.qos] == [b"1", b"3", b"5"]
    assert [m.payload for m in messages if isinstance(m, Publish) and not m.qos] == [b"0", b"2", b"4"]
    assert client.session.out is client.channel.out
    sender.publish("a", b"now")
    assert client.payloads() == [b"now"]
    assert lab.core.counters.messages_sent == 7
    assert lab.core.counters.messages_dropped_slow == 0


def test_qos_0_for_a_slow_client_is_bounded() -> None:
    """4 MiB wait, more is dropped and counted; those who read are not held up, and it recovers."""
    lab = Lab()
    client, other = slow(lab), lab.connect("o")
    other.subscribe("a")
    sender = lab.connect("p")
    count = OUT_BYTES_MAX // 100_000 + 10
    for _ in range(count):
        sender.publish("a", b"x" * 100_000)
    assert len(other.messages()) == count
    dropped = lab.core.counters.messages_dropped_slow
    assert 10 <= dropped <= 11
    assert lab.core.counters.messages_sent == 2 * count - dropped
    client.channel.unstick()
    assert len(client.packets()) == count - dropped + 1
    sender.publish("a", b"x" * 100_000)
    assert len(client.messages()) == 1


def test_qos_1_for_a_slow_client_is_bounded_by_its_queue() -> None:
    lab = Lab(queue_messages_max=2)
    slow(lab, session_expiry=60)
    sender = lab.connect("p")
    for _ in range(3):
        sender.publish("a", b"x", 1)
    assert [p.reason for p in sender.packets() if isinstance(p, Puback)] == [0, 0, 0x97]


def test_a_slow_client_goes_away_and_comes_back() -> None:
    """What waited in its socket is lost with it; QoS 1 is not."""
    lab = Lab()
    client = slow(lab, session_expiry=60)
    sender = lab.connect("p")
    sender.publish("a", b"0", 0)
    sender.publish("a", b"1", 1)
    client.drop()
    back = lab.connect("slow", clean=False, session_expiry=60)
    assert [p.payload for p in back.early if isinstance(p, Publish)] == [b"1"]
    assert back.session.out is back.channel.out


def test_a_slow_client_is_taken_over() -> None:
    """The old socket may say later what it wants: it has nothing to do with the session any more."""
    lab = Lab()
    old = slow(lab, session_expiry=60)
    sender = lab.connect("p")
    sender.publish("a", b"1", 1)
    new = lab.connect("slow", clean=False, session_expiry=60)
    assert old.closed
    old.channel.unblock()
    assert new.session.out is new.channel.out
    sender.publish("a", b"2", 1)
    assert [p.payload for p in [*new.early, *new.packets()] if isinstance(p, Publish)] == [b"1", b"2"]


def test_a_client_that_turns_slow_while_it_is_served() -> None:
    """More waits for it than its socket takes: what is in flight stays so, the rest stays in the queue."""
    lab = Lab()
    client = lab.connect("c", session_expiry=60, receive_maximum=2)
    client.subscribe("a", 1)
    sender = lab.connect("p")
    for number in range(5):
        sender.publish("a", b"%d" % number, 1)
    first = client.messages()
    client.channel.stuck = True
    client.ack(*first)
    assert client.messages() == []
    assert client.session.out is None
    assert (len(client.session.inflight), client.session.waiting) == (2, 1)
    client.channel.unstick()
    second = client.messages()
    assert [m.payload for m in second] == [b"2", b"3"]
    client.ack(*second)
    assert client.payloads() == [b"4"]


def test_a_slow_client_is_closed_for_its_own_silence_only() -> None:
    """[MQTT-3.1.2-22]: it may read slowly for as long as it says something."""
    lab = Lab()
    client = slow(lab)
    for _ in range(5):
        client.feed(b"\xc0\0")
        lab.advance(60)
    assert not client.closed
    lab.advance(60)
    assert client.closed


def test_retained_messages_for_a_slow_client() -> None:
    """They stay where they are until it reads; a message that comes meanwhile is not lost."""
    lab = Lab()
    sender = lab.connect("p")
    for number in range(20):
        sender.publish(f"r/{number}", b"x" * 100_000, number % 2, retain=True)
    client = slow(lab)
    client.send(Subscribe(5, [Request("r/+", 1)]))
    sender.publish("r/live", b"live", 1)
    client.channel.unstick()
    packets = client.packets()
    assert any(isinstance(p, Suback) for p in packets)
    topics = [p.topic for p in packets if isinstance(p, Publish)]
    assert len(topics) == len(set(topics)) == 21


def test_a_retained_message_that_is_replaced_before_its_turn() -> None:
    """The new one is sent, once; the old one is not."""
    lab = Lab()
    sender = lab.connect("p")
    for topic in ("r/1", "r/2", "r/3"):
        sender.publish(topic, b"old", 1, retain=True)
    client = lab.connect("c", receive_maximum=1)
    client.subscribe("r/+", 1)
    (first,) = client.messages()
    others = sorted({b"r/1", b"r/2", b"r/3"} - {first.topic})
    sender.publish(others[0].decode(), b"new", 1, retain=True)
    sender.publish(others[1].decode(), b"", 1, retain=True)
    got = []
    while messages := ([first] if not got else client.messages()):
        got += messages
        client.ack(*messages)
    assert [(m.topic, m.payload, m.retain) for m in got] == [
        (first.topic, b"old", True),
        (others[0], b"new", False),
        (others[1], b"", False),
    ]


def test_retained_messages_are_written_out_in_between() -> None:
    """A filter may match more than fits the memory: no more than a part of it is put out before it is written."""
    lab = Lab()
    sender = lab.connect("p")
    for number in range(100):
        sender.publish(f"r/{number}", b"x" * 50_000, retain=True)
    most = 0

    class Watch(Loopback):
        __slots__ = ()

        def flush(self) -> None:
            nonlocal most
            most = max(most, sum(map(len, self.out)))
            super().flush()

    client = lab.connect("c")
    client.channel.__class__ = Watch
    client.subscribe("r/+")
    assert len(client.messages()) == 100
    assert most < 400_000
