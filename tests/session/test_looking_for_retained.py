"""Looking for what is retained costs time that all pay: it is done bit by bit, and cannot be asked for without end."""

from support.loopback import Lab

from broker.limits import RETAINED_WALK_MAX, SUBSCRIPTIONS_MAX
from broker.message import Message
from broker.wire.packets import Pingreq, Pingresp, Puback, Publish, Request, Suback, Subscribe, Unsubscribe

TOPICS = RETAINED_WALK_MAX // 2  # walking through all of them twice is too much at once


def full() -> Lab:
    lab = Lab()
    for number in range(TOPICS):
        lab.core.retained.set(Message(b"r/%d" % number, b"x", 1, True))
    return lab


def test_a_thousand_filters_do_not_hold_up_all_others() -> None:
    """With 50,000 retained messages one SUBSCRIBE was a minute in which nobody was served."""
    lab = full()
    client = lab.connect()
    before = lab.core.retained.walked
    client.send(Subscribe(1, [Request(f"r/+/no-{n}") for n in range(50)] + [Request("r/7", 1)]), Pingreq())
    suback, pong = client.packets()
    assert isinstance(suback, Suback)
    assert isinstance(pong, Pingresp)
    most = 3 * RETAINED_WALK_MAX
    assert 0 < lab.core.retained.walked - before < most
    lab.connect("p").publish("r/7", b"later", 1)
    client.send(Subscribe(2, [Request("r/8", 1)]), Puback(99))  # does not get ahead by asking again
    assert lab.core.retained.walked - before < most
    found: list[bytes] = []
    ticks = 0
    while len(found) < 3:
        before, ticks = lab.core.retained.walked, ticks + 1
        assert ticks < 100
        lab.advance(0.5)
        assert lab.core.retained.walked - before < most
        found += [p.payload for p in client.packets() if isinstance(p, Publish)]
    assert ticks > 5
    assert found == [b"x", b"x", b"later"]  # what is retained comes before what came later
    assert not lab.core.resting
    client.send(Unsubscribe(3, ["r/8"]))


def test_who_leaves_is_not_looked_for() -> None:
    lab = full()
    client = lab.connect()
    client.send(Subscribe(1, [Request(f"r/+/no-{n}") for n in range(50)]))
    assert lab.core.resting
    client.drop()
    assert not lab.core.resting
    before = lab.core.retained.walked
    lab.advance(5)
    assert lab.core.retained.walked == before


def test_what_matches_is_not_held_up() -> None:
    """A walk that finds something goes out as fast as it is taken."""
    lab = full()
    client = lab.connect()
    assert client.subscribe("r/#") == 0
    assert len(client.messages()) == TOPICS


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
