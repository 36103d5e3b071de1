"""Looking for what is retained costs time that all pay: it is done bit by bit, and cannot be asked for without end."""

from support.loopback import Lab

from broker.limits import SUBSCRIPTIONS_MAX, TURN_WORK_MAX
from broker.message import Message
from broker.wire.packets import Pingreq, Pingresp, Puback, Publish, Request, Suback, Subscribe, Unsubscribe

TOPICS = TURN_WORK_MAX * 6 // 5  # walking through all of them is too much at once
MOST = TURN_WORK_MAX * 5 // 4


def full() -> Lab:
    lab = Lab()
    for number in range(TOPICS):
        lab.core.retained.set(Message(b"r/%d" % number, b"x", 1, True))
    lab.one_turn = True
    return lab


def test_a_thousand_filters_do_not_hold_up_all_others() -> None:
    """With 50,000 retained messages one SUBSCRIBE was a minute in which nobody was served."""
    lab = full()
    client = lab.connect()
    before = lab.core.retained.walked
    client.send(Subscribe(1, [Request(f"r/+/no-{n}") for n in range(20)] + [Request("r/7", 1)]), Pingreq())
    suback, pong = client.packets()
    assert isinstance(suback, Suback)
    assert isinstance(pong, Pingresp)
    assert 0 < lab.core.retained.walked - before < MOST
    lab.connect("p").publish("r/7", b"later", 1)
    client.send(Subscribe(2, [Request("r/8", 1)]), Puback(99))  # does not get ahead by asking again
    found: list[bytes] = []
    turns = 0
    while len(found) < 3:
        before, turns = lab.core.retained.walked, turns + 1
        assert turns < 100
        lab.core.turn()
        lab.flush()
        assert lab.core.retained.walked - before < MOST
        found += [p.payload for p in client.packets() if isinstance(p, Publish)]
    assert turns > 20
    assert found == [b"x", b"x", b"later"]  # what is retained comes before what came later
    assert not lab.core.resting
    client.send(Unsubscribe(3, ["r/8"]))


def test_who_leaves_is_not_looked_for() -> None:
    lab = full()
    client = lab.connect()
    client.send(Subscribe(1, [Request(f"r/+/no-{n}") for n in range(20)]))
    assert lab.core.resting
    client.drop()
    before = lab.core.retained.walked
    lab.core.turn()
    assert lab.core.retained.walked == before
    assert not lab.core.resting


def test_what_matches_is_sent_bit_by_bit() -> None:
    """One filter over 100,000 retained messages was half a second in which nobody else was served."""
    lab = full()
    client = lab.connect()
    assert client.subscribe("r/#") == 0
    got = [message.topic for message in client.messages()]
    while lab.core.resting:
        lab.core.turn()
        lab.flush()
        more = [message.topic for message in client.messages()]
        assert len(more) <= TURN_WORK_MAX // 10
        got += more
    assert len(got) == len(set(got)) == TOPICS


def test_what_changes_while_it_is_looked_for() -> None:
    """What is retained later comes as a new message, what is taken away does not come, and nothing comes twice."""
    lab = full()
    client, sender = lab.connect(), lab.connect("p")
    client.subscribe("r/+", 1)
    got = client.messages()
    sender.publish("s/1", b"x", retain=True)
    last = TOPICS - 1
    sender.publish(f"r/{last}", b"", 1, retain=True)
    sender.publish(f"r/{last - 1}", b"new", 1, retain=True)
    sender.publish("r/more", b"more", 1, retain=True)
    more = got
    while more:
        client.ack(*more)
        while lab.core.resting:
            lab.core.turn()
            lab.flush()
        more = client.messages()
        got = got + more
    payloads: dict[bytes, list[bytes]] = {}
    for message in got:
        payloads.setdefault(message.topic, []).append(message.payload)
    assert payloads.pop(b"r/%d" % last) == [b""]
    assert payloads.pop(b"r/%d" % (last - 1)) == [b"new"]
    assert payloads.pop(b"r/more") == [b"more"]
    assert len(payloads) == TOPICS - 2
    assert all(p == [b"x"] for p in payloads.values())


def test_retained_messages_cannot_be_asked_for_without_end() -> None:
    """A client that acknowledges nothing and subscribes again and again: each time another look was kept for later."""
    lab = Lab()
    lab.connect("p").publish("r", b"x", 1, retain=True)
    client = lab.connect(receive_maximum=1)
    client.subscribe("r", 1)
    refused = 0
    for number in range(5):
        client.send(Subscribe(number + 1, [Request(f"t/{n}", 1) for n in range(SUBSCRIPTIONS_MAX - 1)]))
        refused += sum(p.reasons.count(0x97) for p in client.packets() if isinstance(p, Suback))
        assert client.session.replay is not None
        assert len(client.session.replay) <= SUBSCRIPTIONS_MAX
    assert refused > 3 * SUBSCRIPTIONS_MAX
    client.send(Puback(1))
    assert client.session.replay is None
    assert client.subscribe("t/1", 1) == 1
