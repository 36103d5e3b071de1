"""QoS 1 and 2 to the client (§4.3, §4.4): the table of session.py, state by event, and the in-flight window."""

from collections.abc import Callable

import pytest
from support.loopback import Client, Lab

from broker.identity import ANONYMOUS, Identity, Role
from broker.limits import IN_FLIGHT_MAX, OUT_BYTES_MAX
from broker.session.session import released
from broker.wire.packets import (
    Packet,
    Pingreq,
    Pingresp,
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
)

ID = 1  # the first packet id that a session uses


def setting(version: int, state: str) -> tuple[Lab, Client]:
    """A client with one message under packet id 1 in `state`, or with none (`unknown`)."""
    lab = Lab()
    kept = {"session_expiry": 3600} if version == 5 else {}
    client = lab.connect("c", version, clean=False, **kept)
    qos = 2 if state in ("sent 2", "released") else 1
    client.subscribe("a", qos)
    if state != "unknown":
        lab.connect("p").publish("a", b"one", qos)
        (message,) = client.messages()
        assert (message.qos, message.packet_id, message.dup) == (qos, ID, False)
    if state == "released":
        client.send(Pubrec(ID))
        assert client.packets() == [Pubrel(ID)]
    return lab, client


def state_of(client: Client) -> str:
    message = client.session.inflight.get(ID)
    if message is None:
        return "unknown"
    return "released" if released(message) else f"sent {message.qos}"


PUBLISH_AGAIN = "PUBLISH with DUP"
CLOSED = "closed"
Answer = list[Packet] | str

# Every state and every event. Next state, what is sent, how many are delivered by it.
TABLE: list[tuple[str, str, str, Answer, int]] = [
    ("sent 1", "PUBACK", "unknown", [], 1),
    ("sent 1", "PUBACK failure", "unknown", [], 0),
    ("sent 1", "PUBREC", CLOSED, [], 0),
    ("sent 1", "PUBREC failure", CLOSED, [], 0),
    ("sent 1", "PUBCOMP", CLOSED, [], 0),
    ("sent 1", "comes back", "sent 1", PUBLISH_AGAIN, 0),  # [MQTT-4.3.2-3, MQTT-4.4.0-1, MQTT-3.3.1-1]
    ("sent 2", "PUBACK", CLOSED, [], 0),
    ("sent 2", "PUBACK failure", CLOSED, [], 0),
    ("sent 2", "PUBREC", "released", [Pubrel(ID)], 1),  # [MQTT-4.3.3-4]
    ("sent 2", "PUBREC failure", "unknown", [], 0),  # [MQTT-4.4.0-2], as with PUBACK
    ("sent 2", "PUBCOMP", CLOSED, [], 0),
    ("sent 2", "comes back", "sent 2", PUBLISH_AGAIN, 0),  # [MQTT-4.3.3-3]
    ("released", "PUBACK", CLOSED, [], 0),
    ("released", "PUBACK failure", CLOSED, [], 0),
    ("released", "PUBREC", "released", [Pubrel(ID)], 0),
    ("released", "PUBREC failure", "unknown", [], 0),
    ("released", "PUBCOMP", "unknown", [], 0),
    ("released", "comes back", "released", [Pubrel(ID)], 0),  # [MQTT-4.3.3-5, -6]: PUBLISH is not sent again
    ("unknown", "PUBACK", "unknown", [], 0),
    ("unknown", "PUBACK failure", "unknown", [], 0),
    ("unknown", "PUBREC", "unknown", [Pubrel(ID, 0x92)], 0),
    ("unknown", "PUBREC failure", "unknown", [Pubrel(ID, 0x92)], 0),
    ("unknown", "PUBCOMP", "unknown", [], 0),
    ("unknown", "comes back", "unknown", [], 0),
]
EVENTS: dict[str, Callable[[], Packet]] = {
    "PUBACK": lambda: Puback(ID),
    "PUBACK failure": lambda: Puback(ID, 0x80),
    "PUBREC": lambda: Pubrec(ID),
    "PUBREC failure": lambda: Pubrec(ID, 0x80),
    "PUBCOMP": lambda: Pubcomp(ID),
}


def test_the_table_is_complete() -> None:
    states = {state for state, *_ in TABLE}
    assert {(state, event) for state, event, *_ in TABLE} == {
        (state, event) for state in states for event in [*EVENTS, "comes back"]
    }
    assert len(TABLE) == len(states) * (len(EVENTS) + 1)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(("state", "event", "after", "answer", "delivered"), TABLE)
def test_state_and_event(version: int, state: str, event: str, after: str, answer: Answer, delivered: int) -> None:
    """No PUBREL has a property, a reason string or a user property neither [MQTT-3.6.2-2, -3].

    3.1.1 [MQTT-4.3.2-1, MQTT-4.3.3-1].
    """
    if version == 4 and event.endswith("failure"):
        return  # 3.1.1 has no reason codes
    lab, client = setting(version, state)
    before = lab.core.counters.messages_delivered
    if event == "comes back":
        client.drop()
        kept = {"session_expiry": 3600} if version == 5 else {}
        client = lab.connect("c", version, clean=False, **kept)
        got = client.early
    else:
        client.send(EVENTS[event]())
        if after == CLOSED:
            assert client.goodbye() == (0x82 if version == 5 else None)
            return
        got = client.packets()
    assert state_of(client) == after
    assert lab.core.counters.messages_delivered - before == delivered
    if answer == PUBLISH_AGAIN:
        (message,) = got
        assert isinstance(message, Publish)
        assert (message.dup, message.packet_id, message.payload) == (True, ID, b"one")
        assert message.qos == int(state[-1])
    elif version == 4:
        assert got == [Pubrel(p.packet_id) for p in answer if isinstance(p, Pubrel)]
    else:
        assert got == answer


@pytest.mark.parametrize("version", [4, 5])
def test_a_whole_qos_2_delivery(version: int) -> None:
    """§4.3.3, figure 4.3. 3.1.1 [MQTT-2.3.1-6, MQTT-4.3.3-1]."""
    lab, client = setting(version, "sent 2")
    client.send(Pubrec(ID))
    assert client.packets() == [Pubrel(ID)]
    client.send(Pubcomp(ID))
    assert client.packets() == []
    assert client.session.inflight == {}
    assert lab.core.counters.messages_delivered == 1


# -- packet ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fast", "general", "QoS 2"])
def test_packet_ids_go_round_and_pass_over_those_in_use(way: str) -> None:
    """[MQTT-2.2.1-4, MQTT-4.3.2-1, MQTT-4.3.3-1]: an id is used again only after its message is done; 0 is none.

    3.1.1 [MQTT-2.3.1-4, MQTT-4.3.2-1].
    """
    lab = Lab()
    client = lab.connect("c", 4)
    qos = 2 if way == "QoS 2" else 1
    client.subscribe("a", qos)
    sender = lab.connect("p", 4 if way == "fast" else 5)

    def complete(message: Publish) -> None:
        client.send(
            *([Puback(message.packet_id)] if qos == 1 else [Pubrec(message.packet_id), Pubcomp(message.packet_id)])
        )

    for _ in range(3):
        sender.publish("a", b"x", qos)
    held = client.messages()
    assert [m.packet_id for m in held] == [1, 2, 3]
    client.session.next_id = 65533
    ids = []
    for _ in range(5):
        sender.publish("a", b"x", qos)
        (message,) = [p for p in client.packets() if isinstance(p, Publish)]
        ids.append(message.packet_id)
        complete(message)
    assert ids == [65534, 65535, 4, 5, 6]
    complete(held[1])
    client.packets()
    for last, expected in ((65535, 2), (2, 4), (0, 5)):
        client.session.next_id = last
        sender.publish("a", b"x", qos)
        assert [m.packet_id for m in client.messages()] == [expected]


# -- the window ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fast", "general"])
def test_no_more_in_flight_than_the_client_takes(way: str) -> None:
    """[MQTT-3.3.4-9, MQTT-4.9.0-1, -2], and in order [MQTT-4.6.0-5, -6] when room comes.

    3.1.1 [MQTT-4.6.0-5, -6].
    """
    lab = Lab()
    client = lab.connect("c", receive_maximum=3)
    client.subscribe("a", 2)
    sender = lab.connect("p", 5 if way == "fast" else 4)
    for number in range(8):
        sender.publish("a", b"%d" % number, 1)
    first = client.messages()
    assert [m.payload for m in first] == [b"0", b"1", b"2"]
    client.ack(first[1])
    assert client.payloads() == [b"3"]
    client.ack(first[0], first[2])
    assert client.payloads() == [b"4", b"5"]
    assert client.session.waiting == 2


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("way", ["fast", "general"])
def test_a_small_message_does_not_overtake_a_large_one(way: str, qos: int) -> None:
    """[MQTT-4.6.0-5, -6]: a large one waits although there is room for a small one, which waits behind it."""
    lab = Lab()
    client = lab.connect("c")
    client.subscribe("a", qos)
    sender = lab.connect("p", 5 if way == "fast" else 4)
    large = b"x" * (OUT_BYTES_MAX // 5)
    for number in range(7):
        sender.publish("a", b"%d" % number + large, qos)
        sender.publish("a", b"%d" % number, qos)
    got: list[Publish] = []
    while packets := client.packets():
        messages = [p for p in packets if isinstance(p, Publish)]
        got += messages
        client.send(*((Puback if qos == 1 else Pubrec)(m.packet_id) for m in messages))
        client.send(*(Pubcomp(m.packet_id) for m in messages if qos == 2))
    assert [m.payload[:1] + (b"" if len(m.payload) > 1 else b"s") for m in got] == [
        b"%d%s" % (number, size) for number in range(7) for size in (b"", b"s")
    ]


@pytest.mark.parametrize("version", [4, 5])
def test_qos_1_does_not_overtake_qos_2_that_is_still_written(version: int) -> None:
    """[MQTT-4.6.0-5, -6]: QoS 2 to one who outlives its connection goes out when its packet id is on the disk."""
    lab = Lab(commit_window_ms=10_000)
    client = lab.connect("c", session_expiry=100)
    client.subscribe("a", 2)
    sender = lab.connect("p", version)
    lab.hold = True
    for number in range(6):
        sender.send(Publish(b"a", b"%d" % number, 2 - number % 2, packet_id=number + 1))
    assert not client.payloads()
    lab.commit()
    assert client.payloads() == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_qos_2_leaves_the_window_with_pubcomp() -> None:
    """§4.9: the quota is given back by PUBCOMP or by a PUBREC that refuses, not by PUBREC."""
    lab = Lab()
    client = lab.connect("c", receive_maximum=1)
    client.subscribe("a", 2)
    sender = lab.connect("p")
    for number in range(4):
        sender.publish("a", b"%d" % number, 2)
    (message,) = client.messages()
    client.send(Pubrec(message.packet_id))
    assert client.packets() == [Pubrel(message.packet_id)]
    client.send(Pubcomp(message.packet_id))
    (message,) = client.messages()
    client.send(Pubrec(message.packet_id, 0x97))
    assert client.payloads() == [b"2"]


@pytest.mark.parametrize("expiry", [0, 60])
def test_a_full_window_holds_up_nothing_but_publish(expiry: int) -> None:
    """[MQTT-3.3.4-10, MQTT-4.9.0-3]: all other packets are answered, its own messages, too."""
    lab = Lab()
    client, reader = lab.connect("c", receive_maximum=1, session_expiry=expiry), lab.connect("r")
    client.subscribe("a", 1)
    reader.subscribe("b", 2)
    sender = lab.connect("p")
    for number in range(3):
        sender.publish("a", b"%d" % number, 1)
    assert client.payloads() == [b"0"]
    client.send(Pingreq(), Subscribe(1, [Request("c")]), Unsubscribe(2, ["c"]))
    assert client.packets() == [Pingresp(), Suback(1, [0]), Unsuback(2, [0])]
    client.publish("b", b"1", 1, id=3)
    client.publish("b", b"2", 2, id=4)
    client.send(Pubrel(4), Pubrec(9))
    assert client.packets() == [Puback(3), Pubrec(4), Pubcomp(4), Pubrel(9, 0x92)]
    assert reader.payloads() == [b"1", b"2"]


def test_qos_0_needs_no_window() -> None:
    """§4.9: only QoS 1 and 2 count."""
    lab = Lab()
    client = lab.connect("c", receive_maximum=1)
    client.subscribe("a", 2)
    sender = lab.connect("p")
    for qos in (1, 1, 0):
        sender.publish("a", b"%d" % qos, qos)
    assert client.payloads() == [b"1", b"0"]


@pytest.mark.parametrize("version", [4, 5])
def test_our_own_window_bounds_all(version: int) -> None:
    """[MQTT-4.9.0-1]: less than the client would take."""
    lab = Lab(queue_messages_max=10)
    client = lab.connect("c", version)
    client.subscribe("a", 1)
    sender = lab.connect("p", version)
    for _ in range(IN_FLIGHT_MAX + 5):
        sender.publish("a", b"x", 1)
    assert len(client.messages()) == IN_FLIGHT_MAX
    assert client.session.waiting == 5


# -- coming back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_what_was_in_flight_comes_again_in_order_then_what_waited(version: int) -> None:
    """[MQTT-4.4.0-1], [MQTT-4.6.0-1], with the original packet ids; PUBREL where PUBREC had come.

    [MQTT-3.3.1-1], 3.1.1 [MQTT-2.3.1-4, MQTT-3.1.2-5].
    """
    lab = Lab()
    kept = {"session_expiry": 3600} if version == 5 else {}
    client = lab.connect("c", version, clean=False, **kept)
    client.subscribe("a", 2)
    sender = lab.connect("p")
    for number, qos in enumerate((1, 2, 1, 2)):
        sender.publish("a", b"%d" % number, qos)
    messages = client.messages()
    client.send(Pubrec(messages[1].packet_id))
    client.ack(messages[0])
    client.drop()
    sender.publish("a", b"4", 1)
    sender.publish("a", b"lost", 0)
    sender.publish("a", b"5", 2)
    for _ in range(2):  # the same each time
        back = lab.connect("c", version, clean=False, **kept)
        pubrel = Pubrel(messages[1].packet_id)
        assert back.early[2] == pubrel  # after what was sent later, before what was never sent
        rest = [p for p in back.early if p != pubrel]
        shown = [(m.payload, m.packet_id, m.dup, m.qos) for m in rest if isinstance(m, Publish)]
        assert [s[0] for s in shown] == [b"2", b"3", b"4", b"5"]
        assert [s[1] for s in shown[:2]] == [m.packet_id for m in messages[2:]]
        assert [s[2] for s in shown[:2]] == [True, True]
        assert [s[3] for s in shown] == [1, 2, 1, 2]
        assert len({s[1] for s in shown} | {pubrel.packet_id}) == 5
        back.drop()
    last = lab.connect("c", version, clean=False, **kept)
    assert all(m.dup for m in last.early if isinstance(m, Publish))


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("replaced", [False, True])
def test_what_was_retained_comes_again_under_its_packet_id(replaced: bool, version: int) -> None:
    """[MQTT-4.4.0-1]: in flight is in flight; what was acknowledged does not come again, replaced meanwhile or not."""
    lab = Lab()
    kept = {"session_expiry": 3600} if version == 5 else {}
    sender = lab.connect("p", keep_alive=0)
    for topic, qos in (("a/1", 1), ("a/2", 1), ("a/3", 2)):
        sender.publish(topic, b"x", qos, retain=True)
    client = lab.connect("c", version, clean=False, **kept)
    client.subscribe("a/+", 2)
    first = {m.topic: m for m in client.messages()}
    client.ack(first[b"a/1"])
    client.drop()
    lab.advance(2)
    if replaced:
        sender.publish("a/2", b"", 1, retain=True)
        sender.publish("a/3", b"", 2, retain=True)
    back = lab.connect("c", version, clean=False, **kept)
    got = [m for m in back.early if isinstance(m, Publish)]
    again = [m for m in got if m.payload]
    assert all(m.dup and m.retain for m in again)
    assert {m.topic: m.packet_id for m in again} == {t: m.packet_id for t, m in first.items() if t != b"a/1"}
    back.ack(*(m for m in got if m.qos == 1))
    back.send(*(Pubrec(m.packet_id) for m in got if m.qos == 2))
    back.send(*(Pubcomp(m.packet_id) for m in got if m.qos == 2))
    lab.advance(2)
    assert lab.journal.messages == {}


@pytest.mark.parametrize("qos", [1, 2])
def test_what_was_refused_does_not_come_again(qos: int) -> None:
    """[MQTT-4.4.0-2]: PUBACK or PUBREC with a reason from 0x80 on ends it."""
    lab = Lab()
    client = lab.connect("c", session_expiry=60)
    client.subscribe("a", qos)
    lab.connect("p").publish("a", b"x", qos)
    (message,) = client.messages()
    client.send((Puback if qos == 1 else Pubrec)(message.packet_id, 0x80))
    assert client.packets() == []
    client.drop()
    assert lab.connect("c", clean=False, session_expiry=60).early == []


@pytest.mark.parametrize("qos", [1, 2])
def test_what_was_retained_and_has_arrived_does_not_come_again(qos: int) -> None:
    """[MQTT-4.4.0-1]: the last one fills the window, so nobody has looked yet whether there are more."""
    lab = Lab()
    sender = lab.connect("p")
    for topic in ("a/1", "a/2"):
        sender.publish(topic, b"x", qos, retain=True)
    client = lab.connect("c", session_expiry=60, receive_maximum=1)
    client.subscribe("a/+", qos)
    (first,) = client.messages()
    client.send(*([Puback(1)] if qos == 1 else [Pubrec(1), Pubcomp(1)]))
    (second,) = [p for p in client.packets() if isinstance(p, Publish)]
    client.drop()
    back = lab.connect("c", clean=False, session_expiry=60)
    second.dup = True
    assert back.early == [second]
    assert first.topic != second.topic


@pytest.mark.parametrize("version", [4, 5])
def test_pubrel_comes_again_in_the_order_of_pubrec(version: int) -> None:
    """[MQTT-4.6.0-4]."""
    lab = Lab()
    kept = {"session_expiry": 3600} if version == 5 else {}
    client = lab.connect("c", version, clean=False, **kept)
    client.subscribe("a", 2)
    sender = lab.connect("p")
    for _ in range(4):
        sender.publish("a", b"x", 2)
    one, two, three, four = (m.packet_id for m in client.messages())
    client.send(Pubrec(three), Pubrec(one), Pubrec(four), Pubrec(three))
    client.packets()
    client.drop()
    back = lab.connect("c", version, clean=False, **kept)
    publish, *rest = back.early
    assert isinstance(publish, Publish)
    assert publish.packet_id == two
    assert rest == [Pubrel(three), Pubrel(one), Pubrel(four)]


def test_pubrec_while_the_rest_waits_to_be_sent_again() -> None:
    """What is released goes behind what is not: the window still holds, and nothing is left behind."""
    lab = Lab()
    client = lab.connect("c", session_expiry=60)
    client.subscribe("a", 2)
    sender = lab.connect("p")
    for number in range(6):
        sender.publish("a", b"%d" % number, 2)
    ids = [m.packet_id for m in client.messages()]
    client.send(Pubrec(ids[5]), Pubrec(ids[1]))
    client.packets()
    client.drop()
    back = lab.connect("c", clean=False, session_expiry=60, receive_maximum=2)
    got, open_ids, most = [], [], 0
    packets: list[Packet] = back.early
    while packets:
        for packet in packets:
            if isinstance(packet, Publish):
                got.append(packet.payload)
                open_ids.append(packet.packet_id)
                most = max(most, len(open_ids))
                back.send(Pubrec(packet.packet_id))
            elif isinstance(packet, Pubrel):
                if packet.packet_id in open_ids:
                    open_ids.remove(packet.packet_id)
                back.send(Pubcomp(packet.packet_id))
        packets = back.packets()
    assert got == [b"0", b"2", b"3", b"4"]
    assert most <= 2
    assert back.session.inflight == {}
    assert back.session.resend is None


def test_a_smaller_window_after_coming_back() -> None:
    """[MQTT-3.3.4-9] holds for what is sent again, too; the order stays."""
    lab = Lab()
    client = lab.connect("c", session_expiry=60)
    client.subscribe("a", 1)
    sender = lab.connect("p")
    for number in range(5):
        sender.publish("a", b"%d" % number, 1)
    client.drop()
    back = lab.connect("c", clean=False, session_expiry=60, receive_maximum=2)
    sender.publish("a", b"5", 1)
    sender.publish("a", b"6", 1)
    got = [m for m in back.early if isinstance(m, Publish)]
    assert [m.payload for m in got] == [b"0", b"1"]
    for number in range(2, 7):
        back.ack(got[number - 2])
        got += back.messages()
        assert got[-1].payload == b"%d" % number
        assert got[-1].dup is (number < 5)
    assert len(got) == 7


def test_acknowledged_before_the_resend_reached_it() -> None:
    """An id that is done while its resend still waits is not sent any more."""
    lab = Lab()
    client = lab.connect("c", session_expiry=60)
    client.subscribe("a", 1)
    sender = lab.connect("p")
    for number in range(3):
        sender.publish("a", b"%d" % number, 1)
    client.drop()
    back = lab.connect("c", clean=False, session_expiry=60, receive_maximum=1)
    (first,) = [m for m in back.early if isinstance(m, Publish)]
    back.send(Puback(2))
    assert back.packets() == []
    back.ack(first)
    assert back.payloads() == [b"2"]
    back.send(Puback(3))
    assert back.packets() == []
    assert back.session.inflight == {}
    assert back.session.resend is None


@pytest.mark.parametrize("version", [4, 5])
def test_qos_1_is_not_sent_again_on_the_same_connection(version: int) -> None:
    """[MQTT-4.4.0-1]: only after a reconnection."""
    lab, client = setting(version, "sent 1")
    for _ in range(20):
        client.feed(b"\xc0\0")
        lab.advance(30)
    assert all(p != Publish for p in map(type, client.packets()))


# -- receipts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_a_receipt_is_given_when_the_receiver_has_it(qos: int) -> None:
    server = Identity(Role.SERVER, "acme", "crm")
    lab = Lab(admit=lambda p: server if p.client_id == "s" else ANONYMOUS)
    lab.bridge.named = b"acme/user/"
    client = lab.connect("c", session_expiry=60)
    client.subscribe("acme/#", qos)
    sender = lab.connect("s")
    sender.publish("acme/user/ada", b"x", qos, user_properties=[("receipt", "delivered"), ("message-id", "forged")])
    (answer,) = sender.packets()
    assert isinstance(answer, Puback if qos == 1 else Pubrec)
    assert answer.properties.user_properties == [("message-id", "m1")]
    (message,) = client.messages()
    # The broker's own first; the publisher's follow, unaltered and in their order [MQTT-3.3.2-17, -18].
    assert message.properties.user_properties == [
        ("message-id", "m1"),
        ("receipt", "delivered"),
        ("message-id", "forged"),
    ]
    assert lab.bridge.receipts == []
    if qos == 1:
        client.ack(message)
    else:
        client.send(Pubrec(message.packet_id), Pubrec(message.packet_id), Pubcomp(message.packet_id))
    assert lab.bridge.receipts == [("c", "m1")]
    sender.publish("acme/user/ada", b"x", qos)  # plain, on a topic that is known by now: named all the same
    (answer,) = sender.packets()
    assert isinstance(answer, Puback | Pubrec)
    assert answer.properties.user_properties == [("message-id", "m2")]
    (message,) = [p for p in client.packets() if isinstance(p, Publish)]
    client.send(Puback(message.packet_id) if qos == 1 else Pubrec(message.packet_id))
    assert lab.bridge.receipts == [("c", "m1")]  # none was asked for


def test_no_names_for_those_who_want_no_properties() -> None:
    """[MQTT-3.1.2-29]: with Request Problem Information 0 neither user property nor reason goes into an answer."""
    lab = Lab(admit=lambda _: Identity(Role.SERVER, "acme", "crm"))
    lab.bridge.named = b"acme/"
    watcher = lab.connect("w")
    watcher.subscribe("acme/#", 1)
    for qos in (1, 2):
        sender = lab.connect("s", request_problem_info=0)
        sender.publish("acme/user/ada", b"x", qos)
        (answer,) = sender.packets()
        assert isinstance(answer, Puback | Pubrec)
        assert answer.properties.user_properties == []
        (message,) = watcher.messages()
        assert message.properties.user_properties == [("message-id", f"m{qos}")]
    sender.publish("other/a", b"x", 1)
    sender.send(Pubrel(99), Pubrec(98), Subscribe(1, [Request("other/#")]), Unsubscribe(2, ["b"]))
    assert sender.packets() == [
        Puback(2, 0x87),
        Pubcomp(99, 0x92),
        Pubrel(98, 0x92),
        Suback(1, [0x87]),
        Unsuback(2, [0x11]),
    ]


@pytest.mark.parametrize("qos", [1, 2])
def test_no_names_that_make_an_acknowledgement_too_large(qos: int) -> None:
    """[MQTT-3.4.2-3, MQTT-3.5.2-3]: the user property is left out rather than the maximum packet size broken."""
    lab = Lab(admit=lambda _: Identity(Role.SERVER, "acme", "crm"))
    lab.bridge.named = b"acme/"
    sender = lab.connect("s", maximum_packet_size=20)
    sender.publish("acme/user/ada", b"x", qos, id=1)
    assert sender.packets() == [Puback(1, 0x10) if qos == 1 else Pubrec(1, 0x10)]


@pytest.mark.parametrize("version", [4, 5])
def test_messages_with_names_are_acknowledged_in_their_order(version: int) -> None:
    """[MQTT-4.6.0-2]: one for somebody who is there and promised nothing waits behind one that is not settled yet."""
    server = Identity(Role.SERVER, "acme", "crm")
    lab = Lab(admit=lambda p: server if p.client_id == "s" else ANONYMOUS, commit_window_ms=10_000)
    lab.bridge.named = b"acme/"
    lasting, other = lab.connect("lasting", session_expiry=60), lab.connect("other")
    lasting.subscribe("acme/user/ada", 1)
    other.subscribe("acme/user/bob", 1)
    sender = lab.connect("s", version)
    for round_ in range(3):  # the first makes the topics known
        before = lab.core.counters.messages_received
        for id, user in enumerate(("ada", "bob", "ada"), 3 * round_ + 1):
            sender.send(Publish(f"acme/user/{user}".encode(), b"%d" % id, 1, packet_id=id))
        assert lab.core.counters.messages_received == before + 3
        assert sender.packets() == []
        messages = lasting.messages()
        for message in messages:
            lasting.ack(message)
        assert [p.packet_id for p in sender.packets() if isinstance(p, Puback)] == list(range(id - 2, id + 1))
        names = [dict(m.properties.user_properties)["message-id"] for m in (*messages, *other.messages())]
        assert names == [f"m{id - 2}", f"m{id}", f"m{id - 1}"]
