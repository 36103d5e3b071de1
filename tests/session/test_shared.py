"""Shared subscriptions (§4.8.2): each message goes to one member of a group, and stays with it."""

import pytest
from support.loopback import Client, Lab

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
