"""Message Expiry (§3.3.2.3.3): what is left of it goes on, and what has none left goes nowhere."""

import pytest
from support.effort import lines
from support.loopback import Client, Lab

from broker.limits import SWEPT_MAX
from broker.message import Message
from broker.wire.packets import Packet, Publish, Pubrec, Pubrel

FOREVER = 0xFFFFFFFF


def expiries(packets: list[Packet]) -> list[int | None]:
    return [p.properties.message_expiry for p in packets if isinstance(p, Publish)]


def subscriber(lab: Lab, client_id: str = "c", **options: int) -> Client:
    client = lab.connect(client_id, session_expiry=3600, **options)
    client.subscribe("a", 2)
    return client


@pytest.mark.parametrize("start", [0.25, 0.3, 1000.0, 123456.789, 1e7 + 1 / 3])
@pytest.mark.parametrize("seconds", [0, 1, 7, 10, 3600, 86400, 10**9, FOREVER])
def test_who_gets_it_at_once_gets_all_of_it(seconds: int, start: float) -> None:
    """[MQTT-3.3.2-6]: the received value minus the time that it has waited, which is none; whatever the clock shows."""
    lab = Lab(now=start)
    client = subscriber(lab)
    sender = lab.connect("p")
    for qos in (0, 1):
        sender.publish("a", b"x", qos, message_expiry=seconds)
        assert expiries(client.packets()) == [seconds]


def test_the_time_in_the_queue_is_taken_off() -> None:
    """[MQTT-3.3.2-6], rounded up to whole seconds."""
    lab = Lab()
    subscriber(lab).drop()
    sender = lab.connect("p")
    for seconds in (10, 11, 100, FOREVER):
        sender.publish("a", b"x", 1, message_expiry=seconds)
    sender.publish("a", b"x", 1)
    lab.advance(9.5)
    back = lab.connect("c", clean=False, session_expiry=3600)
    assert expiries(back.early) == [1, 2, 91, FOREVER - 9, None]


def test_what_expired_in_the_queue_is_dropped() -> None:
    """[MQTT-3.3.2-5]; those behind it come."""
    lab = Lab()
    subscriber(lab).drop()
    sender = lab.connect("p")
    for seconds in (5, 60, 5, 60):
        sender.publish("a", b"%d" % seconds, 1, message_expiry=seconds)
    lab.advance(5)
    back = lab.connect("c", clean=False, session_expiry=3600)
    assert [p.payload for p in back.early if isinstance(p, Publish)] == [b"60", b"60"]
    assert lab.core.counters.messages_dropped_expired == 2
    assert back.session.queue_bytes == 0


def test_what_expired_behind_a_full_window_is_dropped() -> None:
    lab = Lab()
    client = subscriber(lab, receive_maximum=1)
    sender = lab.connect("p")
    for seconds in (5, 5, 60):
        sender.publish("a", b"%d" % seconds, 1, message_expiry=seconds)
    (first,) = client.messages()
    lab.advance(6)
    client.ack(first)
    (message,) = client.messages()
    assert (message.payload, message.properties.message_expiry) == (b"60", 54)


def test_what_is_in_flight() -> None:
    """[MQTT-4.4.0-1, MQTT-4.3.3-7]: sent again with what is left, and with 0 when nothing is."""
    lab = Lab()
    client = subscriber(lab)
    sender = lab.connect("p")
    sender.publish("a", b"short 1", 1, message_expiry=5)
    sender.publish("a", b"short 2", 2, message_expiry=5)
    sender.publish("a", b"long 1", 1, message_expiry=60)
    sender.publish("a", b"released", 2, message_expiry=5)
    messages = client.messages()
    client.send(Pubrec(messages[3].packet_id))
    client.drop()
    lab.advance(10)
    back = lab.connect("c", clean=False, session_expiry=3600)
    again = [p for p in back.early if isinstance(p, Publish)]
    assert [(m.payload, m.properties.message_expiry) for m in again] == [
        (b"short 1", 0),
        (b"short 2", 0),
        (b"long 1", 50),
    ]
    assert all(m.dup for m in again)
    assert Pubrel(messages[3].packet_id) in back.early
    assert lab.core.counters.messages_dropped_expired == 0


def test_what_is_retained() -> None:
    """§3.3.1.3: it counts down for each new subscription, then it is gone; in time from memory, too."""
    lab = Lab()
    sender = lab.connect("p", keep_alive=0)
    sender.publish("a", b"x", retain=True, message_expiry=30)
    sender.publish("a/b", b"x", retain=True)
    assert expiries(subscriber(lab, "1").packets()) == [30]
    lab.advance(29.5)
    assert expiries(subscriber(lab, "2").packets()) == [1]
    lab.advance(0.5)
    assert subscriber(lab, "3").packets() == []
    lab.advance(61)
    assert len(lab.core.retained) == 1
    assert lab.core.counters.messages_dropped_expired == 1


def test_3_1_1_receivers_see_no_expiry_but_it_holds_for_them() -> None:
    lab = Lab()
    client = lab.connect("c", 4, clean=False)
    client.subscribe("a", 1)
    client.disconnect()
    sender = lab.connect("p")
    sender.publish("a", b"short", 1, message_expiry=5)
    sender.publish("a", b"long", 1, message_expiry=60)
    lab.advance(6)
    back = lab.connect("c", 4, clean=False)
    assert [p.payload for p in back.early if isinstance(p, Publish)] == [b"long"]


def test_one_message_many_receivers_each_with_what_is_left() -> None:
    """The encoding that receivers share is made anew as time goes."""
    lab = Lab()
    here = subscriber(lab, "here")
    subscriber(lab, "away").drop()
    lab.connect("p").publish("a", b"x", 1, message_expiry=100)
    assert expiries(here.packets()) == [100]
    lab.advance(40)
    assert expiries(lab.connect("away", clean=False, session_expiry=3600).early) == [60]
    here.drop()
    lab.advance(10)
    assert expiries(lab.connect("here", clean=False, session_expiry=3600).early) == [50]


# -- very many -------------------------------------------------------------------------------------------------------


def test_what_does_not_expire_is_not_looked_at() -> None:
    """Each minute all retained messages were, and all topics of the log: 0.2 s with a million."""

    def effort(count: int) -> int:
        lab = Lab()
        away = lab.connect("away", session_expiry=10_000)
        away.subscribe("#", 1)
        away.drop()
        sender = lab.connect("p", 4, keep_alive=0)
        for n in range(count):
            sender.publish(f"t{n}", qos=1, retain=True)
        lab.advance(10)
        return lines(lambda: lab.core.tick(lab.core.now + 61))

    assert effort(200) == effort(5)


def test_all_of_very_many_that_expire_go_in_the_end() -> None:
    """Each minute the same last hundred thousand or so were looked at, and never the others."""
    lab = Lab()
    for n in range(3 * SWEPT_MAX):
        message = Message(b"t%d" % n, b"x", 1, expires_at=lab.core.now + 30, seq=n + 1)
        lab.core.log.append(message, listed=True)
        lab.core.retained.set(message)
    lab.core.log.head = 3 * SWEPT_MAX
    before = lab.core.now
    lab.core.tick(before + 121)
    assert lab.core.log.messages == len(lab.core.retained) == 2 * SWEPT_MAX
    lab.core.tick(before + 121.5)
    lab.core.tick(before + 122)
    assert lab.core.log.messages == len(lab.core.retained) == 0
    assert lab.core.log.topics == {}
    assert lab.core.counters.messages_dropped_expired == 3 * SWEPT_MAX
