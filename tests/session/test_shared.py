"""Shared subscriptions (§4.8.2): each message goes to one member of a group, and stays with it."""

import pytest
from support.loopback import Client, Lab

from broker.limits import HAND_ON_WORK, TURN_WORK_MAX
from broker.wire.packets import Packet, Puback, Pubcomp, Publish, Pubrec, Pubrel, Unsubscribe


def shared(lab: Lab, *names: str, qos: int = 1, **options: int) -> list[Client]:
    clients = [lab.connect(name, session_expiry=60, **options) for name in names]
    for client in clients:
        assert client.subscribe("$share/g/a/+", qos) == qos
    return clients


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_message_goes_to_one_member(qos: int) -> None:
    """In turn."""
    lab = Lab()
    clients = shared(lab, "1", "2", "3")
    sender = lab.connect("p")
    for number in range(9):
        sender.publish("a/b", b"%d" % number, qos)
    got = [[(m.payload, m.qos) for m in client.messages()] for client in clients]
    assert [len(one) for one in got] == [3, 3, 3]
    assert sorted(p for one in got for p, _ in one) == [b"%d" % n for n in range(9)]
    assert {q for one in got for _, q in one} == {min(qos, 1)}


def test_groups_and_plain_subscriptions_do_not_see_one_another() -> None:
    """§4.8.2: each gets its own copy, with its own identifier [MQTT-3.3.4-5]; for one client, too."""
    lab = Lab()
    client = lab.connect()
    for number, topic_filter in enumerate(("$share/g/a", "$share/h/a", "$share/g/+", "a", "+")):
        client.subscribe(topic_filter, 1, id=number + 1)
    lab.connect("p").publish("a", b"x", 1)
    assert sorted(sorted(m.properties.subscription_ids) for m in client.messages()) == [[1], [2], [3], [4, 5]]


def test_who_is_away_is_passed_over() -> None:
    """§4.8.2: a member that can take it now comes first; if none can, it waits for one."""
    lab = Lab()
    one, two = shared(lab, "1", "2")
    one.drop()
    sender = lab.connect("p")
    for _ in range(4):
        sender.publish("a/b", b"x", 1)
    assert len(two.messages()) == 4
    two.drop()
    for _ in range(4):
        sender.publish("a/b", b"y", 1)
    back = [lab.connect(name, clean=False, session_expiry=60) for name in ("1", "2")]
    new = [m.payload for client in back for m in client.early if isinstance(m, Publish) and not m.dup]
    assert new == [b"y"] * 4


def test_a_member_whose_window_is_full_is_passed_over() -> None:
    lab = Lab()
    one, two = shared(lab, "1", "2", receive_maximum=2)
    sender = lab.connect("p")
    for _ in range(4):
        sender.publish("a/b", b"x", 1)
    assert len(one.messages()) == 2
    two.ack(*two.messages())
    for _ in range(2):
        sender.publish("a/b", b"y", 1)
    assert one.messages() == []
    assert len(two.messages()) == 2


def test_the_last_member_takes_the_group_with_it() -> None:
    lab = Lab()
    one, two = shared(lab, "1", "2")
    one.send(Unsubscribe(1, ["$share/g/a/+"]))
    two.disconnect(session_expiry=0)
    sender = lab.connect("p")
    sender.publish("a/b", b"x", 1, id=1)
    assert sender.packets() == [Puback(1, 0x10)]
    assert lab.core.router.subscriptions == 0


def test_a_shared_subscription_gets_nothing_retained() -> None:
    """§4.8.2."""
    lab = Lab()
    sender = lab.connect("p")
    sender.publish("a/b", b"x", 1, retain=True)
    (client,) = shared(lab, "1")
    assert client.packets() == []
    sender.publish("a/b", b"y", 1, retain=True)
    (message,) = client.messages()
    assert message.retain is False


@pytest.mark.parametrize(("expiry", "away"), [(0, False), (60, False), (60, True)])
def test_a_shared_subscription_has_its_options(expiry: int, away: bool) -> None:
    """[MQTT-3.3.1-12], [MQTT-3.3.1-13]: also for a member that outlives its connection, and for what waits for it."""
    lab = Lab()
    client = lab.connect(session_expiry=expiry)
    client.subscribe("$share/g/a", 1, rap=True)
    client.subscribe("$share/h/a", 1)
    if away:
        client.drop()
    lab.connect("p").publish("a", b"x", 1, retain=True)
    if away:
        client = lab.connect(clean=False, session_expiry=expiry)
    messages = [p for p in (client.early if away else client.packets()) if isinstance(p, Publish)]
    assert sorted(m.retain for m in messages) == [False, True]


@pytest.mark.parametrize(("expiry", "away"), [(0, False), (60, False), (60, True)])
def test_a_shared_subscription_has_its_identifier(expiry: int, away: bool) -> None:
    """[MQTT-3.3.4-3]."""
    lab = Lab()
    client = lab.connect(session_expiry=expiry)
    client.subscribe("$share/g/a", 1, id=9)
    if away:
        client.drop()
    lab.connect("p").publish("a", b"x", 1)
    if away:
        client = lab.connect(clean=False, session_expiry=expiry)
    (message,) = [p for p in (client.early if away else client.packets()) if isinstance(p, Publish)]
    assert message.properties.subscription_ids == [9]


# -- what was begun ----------------------------------------------------------------------------------------------------


def begun(qos: int, expiry: int = 60) -> tuple[Lab, Client, Client, Publish]:
    """A member that has got a message and is about to do something else than to acknowledge it, and another one."""
    lab = Lab()
    one, two = (lab.connect(name, session_expiry=expiry) for name in ("1", "2"))
    for client in (one, two):
        client.subscribe("$share/g/a", qos)
    lab.connect("p").publish("a", b"x", qos)
    (message,) = one.messages()
    assert two.messages() == []
    return lab, one, two, message


@pytest.mark.parametrize("published", [0, 1, 2])
def test_each_member_has_a_qos_of_its_own(published: int) -> None:
    """[MQTT-4.8.2-3]."""
    lab = Lab()
    members = [lab.connect(str(qos)) for qos in (0, 1, 2)]
    for qos, member in enumerate(members):
        member.subscribe("$share/g/a", qos)
    sender = lab.connect("p")
    for _ in members:
        sender.publish("a", b"x", published)
    assert [[m.qos for m in member.messages()] for member in members] == [[min(q, published)] for q in (0, 1, 2)]


@pytest.mark.parametrize("released", [False, True])
def test_qos_2_that_was_begun_is_completed_with_its_member(released: bool) -> None:
    """[MQTT-4.8.2-4]: when that one is back, and though another is there."""
    lab, one, two, message = begun(2)
    if released:
        one.send(Pubrec(message.packet_id))
        one.packets()
    one.drop()
    lab.advance(30)
    back = lab.connect("1", clean=False, session_expiry=60)
    expected: Packet = message
    if released:
        expected = Pubrel(message.packet_id)
    else:
        message.dup = True
    assert back.early == [expected]
    back.send(*([] if released else [Pubrec(message.packet_id)]), Pubcomp(message.packet_id))
    assert back.session.inflight == {}
    assert two.messages() == []


@pytest.mark.parametrize("how", ["expires", "clean start", "goodbye", "unsubscribe and goodbye"])
def test_qos_2_that_was_begun_ends_with_its_member(how: str) -> None:
    """[MQTT-4.8.2-5]: nobody else gets it, for that one may have it already."""
    lab, one, two, _ = begun(2)
    if how.startswith("unsubscribe"):
        one.send(Unsubscribe(9, ["$share/g/a"]))
    if how.endswith("goodbye"):
        one.disconnect(session_expiry=0)
    else:
        one.drop()
    if how == "expires":
        lab.advance(65)
    else:
        lab.connect("1", clean=True)
    assert len(lab.core.sessions) == (2 if how == "expires" else 3)
    assert two.messages() == []
    two.drop()
    assert lab.connect("2", clean=False, session_expiry=60).early == []


# -- what is handed on -------------------------------------------------------------------------------------------------


def member(lab: Lab, name: str, expiry: int, qos: int, *filters: str, **options: int) -> Client:
    client = lab.connect(name, clean=False, session_expiry=expiry, **options)
    for topic_filter in filters or ["$share/g/a"]:
        client.subscribe(topic_filter, qos)
    return client


def take_all(client: Client, packets: list[Packet]) -> list[Publish]:
    """Acknowledge whatever comes, until nothing does."""
    found: list[Publish] = []
    while packets:
        for packet in packets:
            if isinstance(packet, Publish):
                found.append(packet)
                client.send((Puback if packet.qos == 1 else Pubrec)(packet.packet_id))
            elif isinstance(packet, Pubrel):
                client.send(Pubcomp(packet.packet_id))
        packets = client.packets()
    return found


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("heir", ["passing", "lasting", "away"])
@pytest.mark.parametrize("how", ["passing", "goodbye", "expires", "clean start", "crash, expires"])
def test_what_a_member_had_goes_to_another_when_its_session_ends(how: str, heir: str, qos: int) -> None:
    """§4.8.2: all that waited, and of what was in flight QoS 1; QoS 2 not [MQTT-4.8.2-5]."""
    lab = Lab()
    expiry = 0 if how == "passing" else 60
    one = member(lab, "1", expiry, qos, receive_maximum=2)
    sender = lab.connect("p", keep_alive=0)
    for number in range(5):
        sender.publish("a", b"%d" % number, qos, retain=number == 4)
    assert one.payloads() == [b"0", b"1"]
    two = member(lab, "2", 0 if heir == "passing" else 600, qos, keep_alive=0)
    if heir == "away":
        two.drop()
    if how == "goodbye":
        one.disconnect(session_expiry=0)
    else:
        one.drop()
    if how.startswith("crash"):
        lab = lab.crash()
        two = member(lab, "2", 0 if heir == "passing" else 600, qos, keep_alive=0)
    if how.endswith("expires"):
        lab.advance(70)
    if how == "clean start":
        lab.connect("1", clean=True)
    got = two.packets()
    if heir == "away" and not how.startswith("crash"):
        assert got == []
        two = member(lab, "2", 600, qos, keep_alive=0)
        got = two.early
    messages = take_all(two, got)
    assert [m.payload for m in messages] == [b"0", b"1", b"2", b"3", b"4"][0 if qos == 1 else 2 :]
    assert not any(m.retain or (m.dup and not how.startswith("crash")) for m in messages)
    assert lab.core.counters.messages_dropped_session_end == (0 if qos == 1 else 2)
    lab.advance(2)
    assert lab.core.log.messages == 0
    assert lab.journal.messages == lab.journal.deliveries == {}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("expiry", [0, 60])
def test_what_is_handed_on_has_the_options_of_its_new_member(expiry: int, retain: bool, first: bool) -> None:
    """[MQTT-3.3.1-12, -13], whichever the first one had."""
    lab = Lab()
    one = lab.connect("1", session_expiry=expiry)
    one.subscribe("$share/g/a", 1, rap=first)
    lab.connect("p").publish("a", b"x", 1, retain=retain)
    assert [m.retain for m in one.messages()] == [retain and first]
    two = lab.connect("2", session_expiry=expiry)
    two.subscribe("$share/g/a", 1, rap=not first, id=7)
    one.disconnect(session_expiry=0)
    (message,) = two.messages()
    assert message.retain == (retain and not first)
    assert message.properties.subscription_ids == [7]


def test_what_a_member_had_for_itself_goes_to_nobody() -> None:
    """A plain subscription beside the shared one: that copy was its own."""
    lab = Lab()
    one = member(lab, "1", 60, 1, "a", "$share/g/a", "$share/h/a")
    lab.connect("p").publish("a", b"x", 1)
    assert len(one.messages()) == 3
    two = member(lab, "2", 60, 1, "$share/g/a", "$share/other/a")
    one.disconnect(session_expiry=0)
    assert two.payloads() == [b"x"]
    assert lab.core.counters.messages_dropped_session_end == 2


@pytest.mark.parametrize("others", ["none", "QoS 0", "full"])
def test_what_nobody_can_take_over_is_lost_and_counted(others: str) -> None:
    lab = Lab(queue_messages_max=1)
    one = member(lab, "1", 60, 1)
    sender = lab.connect("p")
    sender.publish("a", b"x", 1)
    if others != "none":
        two = member(lab, "2", 60, 0 if others == "QoS 0" else 1, "$share/g/a", "b")
        two.drop()
        sender.publish("b", b"fills it", 1)
    one.disconnect(session_expiry=0)
    assert lab.core.counters.messages_dropped_session_end == 1
    lab.advance(2)
    assert [m.payload for m in lab.journal.messages.values()] == ([b"fills it"] if others == "full" else [])


def test_others_are_served_while_very_much_is_handed_on() -> None:
    lab = Lab(queue_messages_max=5000, queue_bytes_max=1 << 30)
    one = member(lab, "1", 60, 1, receive_maximum=1)
    sender = lab.connect("p")
    count = 2 * TURN_WORK_MAX // HAND_ON_WORK
    for number in range(count):
        sender.publish("a", b"%d" % number, 1)
    two = member(lab, "2", 600, 1)
    lab.one_turn = True
    one.disconnect(session_expiry=0)
    assert lab.core.resting
    got = [m.payload for m in take_all(two, two.packets())]
    assert len(got) < count
    lab.one_turn = False
    lab.advance(1)
    got += [m.payload for m in take_all(two, two.packets())]
    assert got == [b"%d" % number for number in range(count)]
    lab.advance(2)
    assert lab.journal.messages == {}


def test_another_who_can_take_it_is_looked_for() -> None:
    lab = Lab()
    one = member(lab, "1", 60, 1)
    lab.connect("p").publish("a", b"x", 1)
    none, two = member(lab, "0", 60, 0), member(lab, "2", 60, 1)
    one.disconnect(session_expiry=0)
    assert none.packets() == []
    assert two.payloads() == [b"x"]


@pytest.mark.parametrize("expiry", [0, 60])
@pytest.mark.parametrize("qos", [1, 2])
def test_what_a_member_refuses_goes_to_nobody_else(qos: int, expiry: int) -> None:
    """[MQTT-4.8.2-6]."""
    lab, one, two, message = begun(qos, expiry)
    one.send((Puback if qos == 1 else Pubrec)(message.packet_id, 0x99))
    assert one.session.inflight == two.session.inflight == {}
    lab.advance(5)
    one.drop()
    lab.advance(5)
    assert two.packets() == []
    assert lab.connect("1", clean=False, session_expiry=60).early == []
    assert lab.journal.messages == {}
