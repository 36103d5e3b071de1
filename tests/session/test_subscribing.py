"""SUBSCRIBE and UNSUBSCRIBE (§3.8 to §3.11): options, identifiers, overlaps, what is retained, what is shared."""

from itertools import permutations

import pytest
from support.loopback import Client, Lab

from broker.identity import Identity, Role
from broker.limits import SUBSCRIPTIONS_MAX, TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX
from broker.wire.packets import Properties, Puback, Publish, Request, Suback, Subscribe, Unsuback, Unsubscribe, Will

# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_each_filter_is_answered_on_its_own(version: int) -> None:
    """[MQTT-3.8.4-1, -2, -5 to -7, MQTT-3.9.3-1]: one reason for each, in order; a bad one spoils no other.

    And nothing but the reasons [MQTT-3.9.2-1, -2]. 3.1.1 [MQTT-2.3.1-7, MQTT-3.8.4-4, -5].
    """
    lab = Lab()
    client = lab.connect("c", version)
    filters = ["a", "b" * (TOPIC_BYTES_MAX + 1), "c/+", "$share/g/d", "/" * TOPIC_LEVELS_MAX, "$SYS/#"]
    client.send(Subscribe(9, [Request(f, n % 3) for n, f in enumerate(filters)]))
    bad, secret = (0x8F, 0x87) if version == 5 else (0x80, 0x80)
    assert client.packets() == [Suback(9, [0, bad, 2, 0, bad, secret])]
    assert [s.name for s in client.session.subscriptions] == [b"a", b"c/+", b"$share/g/d"]
    assert lab.core.counters.subscriptions_refused == 1


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("wrong", ["b/#/c", "b+", "", "$share/g"])
def test_a_filter_that_is_none_closes(wrong: str, version: int) -> None:
    """§4.13.1: nothing of what stands beside it was done. In 3.1.1 `$share/g` is a filter like others, not taken.

    [MQTT-4.7.3-1], 3.1.1 [MQTT-4.7.1-2, -3].
    """
    lab = Lab()
    client = lab.connect("c", version)
    client.send(Subscribe(9, [Request("a"), Request(wrong)]))
    if version == 4 and wrong == "$share/g":
        assert client.packets() == [Suback(9, [0, 0x80])]
        return
    assert client.goodbye() == (0x8F if version == 5 else None)
    assert lab.core.router.subscriptions == 0


@pytest.mark.parametrize("filters", [25, 26, 130])
@pytest.mark.parametrize("kind", [Subscribe, Unsubscribe])
def test_an_answer_has_to_fit(kind: type[Subscribe | Unsubscribe], filters: int) -> None:
    """[MQTT-3.1.2-24]: what would be answered with more than the client takes is not done, and 0x95 (§4.13)."""
    lab = Lab()
    client = lab.connect(maximum_packet_size=30, session_expiry=60)
    names = [f"a/{n}" for n in range(filters)]
    client.send(Subscribe(1, [Request(name) for name in names]) if kind is Subscribe else Unsubscribe(1, names))
    if filters == 25:
        (answer,) = client.packets()
        assert isinstance(answer, Suback | Unsuback)
        assert len(answer.reasons) == filters
    else:
        assert client.goodbye() == 0x95
        assert lab.core.router.subscriptions == 0
    assert len(client.channel.raw) <= 2 * 30


def test_what_may_not_be_seen_is_refused() -> None:
    """§3.9.3: 0x87; a share name in front changes nothing."""
    lab = Lab(admit=lambda _: Identity(Role.SERVER, "acme", "crm"))
    client = lab.connect()
    assert client.subscribe("other/#") == 0x87
    assert client.subscribe("$share/g/other/#") == 0x87
    assert client.subscribe("$share/g/acme/#", 1) == 1
    assert lab.core.router.subscriptions == 1


def test_the_number_of_subscriptions_is_bounded() -> None:
    lab = Lab()
    client = lab.connect()
    client.send(Subscribe(1, [Request(f"t/{n}") for n in range(SUBSCRIPTIONS_MAX)]))
    client.packets()
    assert client.subscribe("one/more") == 0x97
    assert client.subscribe("t/0", 1) == 1  # replaces one
    client.send(Unsubscribe(2, ["t/1"]))
    client.packets()
    assert client.subscribe("one/more") == 0


@pytest.mark.parametrize("version", [4, 5])
def test_unsubscribe(version: int) -> None:
    """[MQTT-3.10.4-1, -2, -4 to -6, MQTT-3.11.3-1]: compared character by character, answered always, in order.

    And with nothing but the reasons [MQTT-3.11.2-1, -2]. 3.1.1 [MQTT-2.3.1-7].
    """
    lab = Lab()
    client = lab.connect("c", version)
    for topic_filter in ("a/+", "a/b", "$share/g/a/b"):
        client.subscribe(topic_filter)
    client.send(Unsubscribe(6, ["A/b", "a/b/", "a", "a/#", "+/b"]))
    assert client.packets() == [Unsuback(6, [0x11] * 5 if version == 5 else [])]
    assert lab.core.router.subscriptions == 3
    client.send(Unsubscribe(7, ["a/+", "a/#", "a/b", "a/b", "$share/g/a/b"]))
    assert client.packets() == [Unsuback(7, [0, 0x11, 0, 0x11, 0] if version == 5 else [])]
    assert lab.core.router.subscriptions == 0
    lab.connect("p").publish("a/b", b"x", 1)
    assert client.packets() == []


def test_what_waits_is_delivered_after_unsubscribe() -> None:
    """§3.10.4: what is queued may, what is in flight must be completed [MQTT-3.10.4-3]."""
    lab = Lab()
    client = lab.connect(receive_maximum=1)
    client.subscribe("a", 1)
    sender = lab.connect("p")
    sender.publish("a", b"1", 1)
    sender.publish("a", b"2", 1)
    (message,) = client.messages()
    client.send(Unsubscribe(1, ["a"]), Puback(message.packet_id))
    unsuback, second = client.packets()
    assert isinstance(unsuback, Unsuback)
    assert isinstance(second, Publish)


def test_a_second_subscription_to_a_filter_replaces_the_first() -> None:
    """[MQTT-3.8.4-3]: QoS, options and identifier."""
    lab = Lab()
    client = lab.connect()
    client.subscribe("a", 2, id=1, rap=True)
    client.subscribe("a", 1, id=2)
    client.subscribe("b", 2, id=3)
    client.subscribe("b", 0)
    lab.connect("p").publish("a", b"x", 2, retain=True)
    lab.connect("p").publish("b", b"x", 2)
    one, two = client.messages()
    assert (one.qos, one.retain, one.properties.subscription_ids) == (1, False, [2])
    assert (two.qos, two.properties.subscription_ids) == (0, [])


def test_a_second_subscription_in_3_1_1_interrupts_nothing() -> None:
    """[MQTT-3.8.4-3]: what is retained comes again; what is in flight or waits is not touched."""
    lab = Lab()
    sender = lab.connect("p", 4)
    sender.publish("a", b"retained", 1, retain=True)
    client = lab.connect("c", 4)
    client.subscribe("a", 1)
    (first,) = client.messages()
    assert (first.payload, first.retain) == (b"retained", True)
    sender.publish("a", b"1", 1)
    (in_flight,) = client.messages()
    assert (in_flight.payload, in_flight.qos, in_flight.retain) == (b"1", 1, False)
    assert client.subscribe("a", 0) == 0
    (again,) = client.messages()
    assert (again.payload, again.qos, again.retain) == (b"retained", 0, True)
    sender.publish("a", b"2", 1)
    assert [(m.payload, m.qos) for m in client.messages()] == [(b"2", 0)]
    assert len(client.session.inflight) == 2
    client.ack(first, in_flight)
    assert client.session.inflight == {}
    assert len(client.session.subscriptions) == lab.core.router.subscriptions == 1


@pytest.mark.parametrize("version", [4, 5])
def test_topics_are_compared_as_they_are(version: int) -> None:
    """[MQTT-4.7.3-4]: not composed, not folded, nothing replaced that Unicode does not know, and U+FEFF kept.

    3.1.1 [MQTT-1.5.3-3].
    """
    names = [
        "caf\u00e9",
        "cafe\u0301",
        "Caf\u00e9",
        "\ufeffcaf\u00e9",
        "caf\u00e9 ",
        "\U000e1234",
        "\uffff",
        "/caf\u00e9",
    ]
    lab = Lab()
    client, every = lab.connect("c", version), lab.connect("e", version)
    every.subscribe("#")
    for name in names:
        client.subscribe(name)
    sender = lab.connect("p", version)
    for name in names:
        for _ in range(2):
            sender.publish(name, b"x")
            for reader in (client, every):
                assert [m.topic.decode() for m in reader.messages()] == [name]


# -- overlaps and identifiers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("granted", list(permutations((0, 1, 2))), ids=str)
def test_overlapping_subscriptions_deliver_once_at_the_highest_qos(version: int, granted: tuple[int, ...]) -> None:
    """[MQTT-3.3.4-2]: our choice of the two that §3.3.4 allows is one copy. 3.1.1 [MQTT-3.3.5-1, MQTT-3.8.3-2]."""
    lab = Lab()
    client = lab.connect("c", version)
    for topic_filter, qos in zip(("a/b", "a/+", "#"), granted, strict=True):
        client.subscribe(topic_filter, qos)
    sender = lab.connect("p")
    for qos in (0, 1, 2):
        sender.publish("a/b", b"x", qos)
        assert [m.qos for m in client.messages()] == [qos]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_all_identifiers_of_overlapping_subscriptions(qos: int) -> None:
    """[MQTT-3.3.4-3, -4]: those that matched, and only those."""
    lab = Lab()
    client, other = lab.connect(), lab.connect("o")
    client.subscribe("a/b", 1, id=1)
    client.subscribe("a/+", 2, id=268_435_455)
    client.subscribe("a/#", 0)
    client.subscribe("b", 1, id=3)
    other.subscribe("a/#", 1, id=7)
    sender = lab.connect("p")
    for _ in range(2):
        sender.publish("a/b", b"x", qos)
        (message,) = client.messages()
        assert sorted(message.properties.subscription_ids) == [1, 268_435_455]
        (message,) = other.messages()
        assert message.properties.subscription_ids == [7]
    sender.publish("b", b"x", qos)
    (message,) = client.messages()
    assert message.properties.subscription_ids == [3]


@pytest.mark.parametrize("qos", [0, 1])
def test_no_local(qos: int) -> None:
    """[MQTT-3.8.3-3]: not to the one who published it; to all others, and from all others."""
    lab = Lab()
    client, other = lab.connect("c"), lab.connect("o")
    client.subscribe("a", 1, no_local=True)
    other.subscribe("a", 1, no_local=True)
    for _ in range(2):
        for sender, receiver in ((client, other), (other, client)):
            sender.publish("a", b"x", qos)
            assert not any(isinstance(p, Publish) for p in sender.packets())
            assert receiver.payloads() == [b"x"]


def test_no_local_yields_to_an_overlapping_subscription_without_it() -> None:
    lab = Lab()
    client = lab.connect()
    client.subscribe("a", no_local=True)
    client.subscribe("+")
    client.publish("a")
    assert len(client.messages()) == 1


def test_no_local_holds_for_what_is_retained_and_for_wills() -> None:
    """[MQTT-3.8.3-3] speaks of client ids: it holds when a message comes later, and on another connection."""
    lab = Lab()
    client = lab.connect("c", session_expiry=60, will=Will(b"a/will", b"bye"))
    lab.connect("o").publish("a/other", b"x", retain=True)
    client.publish("a/own", b"x", retain=True)
    client.subscribe("a/#", 1, no_local=True)
    assert [m.topic for m in client.messages()] == [b"a/other"]
    client.drop()
    back = lab.connect("c", clean=False, session_expiry=60)
    assert back.early == []
    back.subscribe("a/own", no_local=True)
    assert back.messages() == []
    back.subscribe("a/+", no_local=False)
    assert len(back.messages()) == 2


def test_no_local_on_a_shared_subscription_closes() -> None:
    """[MQTT-3.8.3-4]."""
    client = Lab().connect()
    client.send(Subscribe(1, [Request("$share/g/a", no_local=True)]))
    assert client.goodbye() == 0x82


# -- retained messages -----------------------------------------------------------------------------------------------


def retained(client: Client) -> dict[bytes, bytes]:
    messages = client.messages()
    assert all(m.retain for m in messages)
    return {m.topic: m.payload for m in messages}


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_new_subscription_gets_what_is_retained(version: int, qos: int) -> None:
    """[MQTT-3.3.1-5 to -8]: the last of each topic, marked as retained, at the lower QoS.

    3.1.1 [MQTT-3.3.1-6, -8, -10, -12].
    """
    lab = Lab()
    sender = lab.connect("p", version)
    for topic, payload in (("a/1", b"old"), ("a/1", b"new"), ("a/2", b"x"), ("a/2", b""), ("a/3", b"y"), ("b", b"z")):
        sender.publish(topic, payload, qos, retain=True)
    sender.publish("a/3", b"not kept", qos)
    client = lab.connect("c", version)
    client.send(Subscribe(1, [Request("a/+", 1)]))
    suback, *messages = client.packets()
    assert isinstance(suback, Suback)  # before the messages, so that the client knows what they are for
    shown = {m.topic: (m.payload, m.qos, m.retain) for m in messages if isinstance(m, Publish)}
    assert shown == {b"a/1": (b"new", min(qos, 1), True), b"a/3": (b"y", min(qos, 1), True)}


@pytest.mark.parametrize("version", [4, 5])
def test_a_retained_message_of_qos_0_takes_the_place_of_another(version: int) -> None:
    """3.1.1 [MQTT-3.3.1-7], [MQTT-3.3.1-5]: whatever the QoS of the one before; and the other way round."""
    lab = Lab()
    sender = lab.connect("p", version)
    for qos in (1, 0, 2, 0, 1):
        sender.publish("a", b"%d" % qos, qos, retain=True)
        client = lab.connect("c", version)
        client.subscribe("a", 2)
        assert [(m.payload, m.qos) for m in client.messages()] == [(b"%d" % qos, qos)]
    assert len(lab.core.retained) == 1


@pytest.mark.parametrize("version", [4, 5])
def test_what_is_retained_outlives_the_session(version: int) -> None:
    """3.1.1 [MQTT-3.1.2-7]: it is no part of the session of who published it, nor of who got it."""
    lab = Lab()
    sender = lab.connect("p", version, clean=True)
    sender.publish("a", b"x", 1, retain=True)
    sender.disconnect()
    for _ in range(2):
        client = lab.connect("c", version, clean=True)
        client.subscribe("a", 1)
        assert retained(client) == {b"a": b"x"}
        client.drop()
    assert lab.core.sessions == {}
    assert len(lab.core.retained) == 1


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_live_message_is_not_marked_as_retained(version: int, qos: int) -> None:
    """[MQTT-3.3.1-12]; an empty one is delivered, too. 3.1.1 [MQTT-3.3.1-9 to -11]."""
    lab = Lab()
    client = lab.connect("c", version)
    client.subscribe("a", 2)
    sender = lab.connect("p", version)
    for payload in (b"x", b""):
        sender.publish("a", payload, qos, retain=True)
        (message,) = client.messages()
        assert (message.payload, message.qos, message.retain) == (payload, qos, False)
    assert len(lab.core.retained) == 0


def test_retain_as_published() -> None:
    """[MQTT-3.3.1-13]; for overlaps, if one of them asks for it."""
    lab = Lab()
    client, both = lab.connect("c"), lab.connect("b")
    client.subscribe("a", 1, rap=True)
    both.subscribe("a", 1)
    both.subscribe("+", 0, rap=True)
    sender = lab.connect("p")
    for retain in (True, False, True):
        for qos in (0, 1):
            sender.publish("a", b"x", qos, retain=retain)
            assert [m.retain for m in client.messages()] == [retain]
            assert [m.retain for m in both.messages()] == [retain]


def test_retain_handling() -> None:
    """[MQTT-3.3.1-9 to -11, MQTT-3.8.4-4]: 0 always, 1 for a new subscription only, 2 never."""
    lab = Lab()
    lab.connect("p").publish("a", b"x", retain=True)
    client = lab.connect(session_expiry=60)
    client.subscribe("a", handling=2)
    assert retained(client) == {}
    client.subscribe("a", handling=1)
    assert retained(client) == {}
    for _ in range(2):
        client.subscribe("a", handling=0)
        assert retained(client) == {b"a": b"x"}
    client.send(Unsubscribe(1, ["a"]))
    client.packets()
    client.subscribe("a", handling=1)
    assert retained(client) == {b"a": b"x"}
    client.drop()
    back = lab.connect(clean=False, session_expiry=60)
    assert back.early == []  # a resumed subscription is not a new one
    back.subscribe("a", handling=1)
    assert retained(back) == {}


def test_retained_messages_carry_the_identifier_and_properties() -> None:
    """[MQTT-3.3.4-3]."""
    lab = Lab()
    lab.connect("p").publish("a", b"x", 1, retain=True, content_type="t", user_properties=[("k", "v")])
    client = lab.connect()
    for id in (5, 6):
        client.subscribe("a", 1, id=id)
        (message,) = client.messages()
        assert message.properties == Properties(content_type="t", user_properties=[("k", "v")], subscription_ids=[id])


def test_retained_messages_wait_for_the_window() -> None:
    """[MQTT-3.3.4-9]; they outnumber any queue, and none is lost."""
    lab = Lab(queue_messages_max=5)
    sender = lab.connect("p", keep_alive=0)
    for number in range(50):
        sender.publish(f"a/{number}", b"x", 1, retain=True)
    client = lab.connect(receive_maximum=3)
    client.subscribe("a/+", 1)
    got = []
    for _ in range(60):
        messages = client.messages()
        assert len(messages) <= 3
        got += messages
        client.ack(*messages)
    assert len({m.topic for m in got}) == len(got) == 50
    assert client.session.queue is None


def test_a_retained_message_that_may_not_be_kept() -> None:
    """Over the bound the publisher is told (0x97), and nobody gets it: no half success."""
    lab = Lab(retained_messages_max=1)
    client = lab.connect()
    client.subscribe("#")
    sender, old = lab.connect("p"), lab.connect("o", 4)
    sender.publish("a", b"x", 1, retain=True, id=1)
    sender.publish("b", b"x", 1, retain=True, id=2)
    assert sender.packets() == [Puback(1), Puback(2, 0x97)]
    assert [m.topic for m in client.messages()] == [b"a"]
    old.publish("b", b"x", 1, retain=True)
    assert old.closed
    assert old.packets() == []
    sender.publish("a", b"", 1, retain=True)
    sender.publish("b", b"x", 1, retain=True)
    assert [p.reason for p in sender.packets() if isinstance(p, Puback)] == [0, 0]
    assert lab.core.counters.retained_refused == 2
