"""The promise: PUBACK and PUBREC leave when all who must not lose a message have it, or when it is on the disk."""

from collections.abc import Callable

import pytest
from support.lasting import lasting, receive_all
from support.loopback import Client, Lab

from broker.journal import DONE
from broker.limits import RECEIVE_MAXIMUM
from broker.message import Message, Promise
from broker.wire.codes import Reason
from broker.wire.packets import (
    Packet,
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
    Will,
)


def held(**limits: int | str) -> Lab:
    """A lab that writes only when it is told to, with a window that does not close by itself."""
    lab = Lab(**{"commit_window_ms": 1000, **limits})
    lab.hold = True
    return lab


def ready(lab: Lab, *clients: Client) -> int:
    """All is written that those have changed so far, and what they got is read; the number of commits until now."""
    lab.commit()
    for client in clients:
        client.packets()
    return lab.journal.commits


ACK = {1: Puback, 2: Pubrec}


# -- on the disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [1, 2])
def test_who_publishes_to_somebody_away_is_told_once_it_is_on_the_disk(version: int, qos: int) -> None:
    """[MQTT-4.5.0-1]: there it is part of the session."""
    lab = held()
    away = lasting(lab)
    away.send(Subscribe(1, [Request("a", qos)]))
    ready(lab)
    away.drop()
    sender = lab.connect("p", version)
    sender.publish("a", b"x", qos)
    lab.advance(10)
    assert sender.packets() == []
    lab.commit()
    assert sender.packets() == [ACK[qos](1)]
    assert [m.payload for m in lab.journal.messages.values()] == [b"x"]


@pytest.mark.parametrize("qos", [1, 2])
def test_nothing_is_told_of_a_commit_that_fails(qos: int) -> None:
    lab = held()
    away = lasting(lab)
    away.send(Subscribe(1, [Request("a", qos)]))
    ready(lab)
    away.drop()
    sender = lab.connect("p", 5)
    lab.commit()
    sender.publish("a", b"x", qos)
    lab.journal.broken = "disk full"
    lab.commit()
    assert sender.packets() == [ACK[qos](1, Reason.QUOTA_EXCEEDED)]


def test_qos_2_is_on_the_disk_before_the_receiver_sees_it_and_before_the_publisher_is_told() -> None:
    """With the packet id: after a crash the receiver gets the same under the same id, and knows it."""
    lab = held()
    receiver, sender = lasting(lab), lab.connect("p")
    receiver.send(Subscribe(1, [Request("a", 2)]))
    ready(lab, receiver)
    sender.publish("a", b"x", 2)
    assert (receiver.packets(), sender.packets()) == ([], [])
    lab.commit()
    assert sender.packets() == [Pubrec(1)]
    (message,) = receiver.messages()
    assert [(key[2], row.packet_id) for key, row in lab.journal.deliveries.items()] == [(message.packet_id,) * 2]


def test_each_step_of_qos_2_is_on_the_disk_before_the_next() -> None:
    """PUBREL and PUBCOMP leave when what they say is written, for otherwise the id could be taken for a free one."""
    lab = held()
    receiver, sender = lasting(lab), lasting(lab, "p")
    receiver.send(Subscribe(1, [Request("a", 2)]))
    ready(lab, receiver, sender)
    sender.publish("a", b"x", 2)
    ready(lab, receiver, sender)
    assert len(lab.journal.received) == 1
    receiver.send(Pubrec(1))
    sender.send(Pubrel(1))
    assert (receiver.packets(), sender.packets()) == ([], [])
    lab.commit()
    assert (receiver.packets(), sender.packets()) == ([Pubrel(1)], [Pubcomp(1)])
    assert not lab.journal.received
    receiver.send(Pubcomp(1))
    lab.commit()
    assert [row.state for row in lab.journal.deliveries.values()] == [DONE]
    lab.advance(1)
    lab.commit()
    assert not lab.journal.deliveries


def test_qos_2_between_sessions_that_end_with_their_connections_writes_nothing() -> None:
    lab = held()
    receiver, sender = lab.connect("c"), lab.connect("p", 4)
    receiver.subscribe("a", 2)
    sender.publish("a", b"x", 2)
    receiver.send(Pubrec(1))
    sender.send(Pubrel(1))
    receiver.send(Pubcomp(1))
    assert [type(p) for p in receiver.packets()] == [Publish, Pubrel]
    assert sender.packets() == [Pubrec(1), Pubcomp(1)]
    lab.advance(3)
    lab.commit()
    assert lab.journal.commits == 0


def test_a_subscription_is_on_the_disk_before_suback() -> None:
    lab = held()
    client = lasting(lab)
    client.send(Subscribe(1, [Request("a", 1)]))
    client.send(Subscribe(2, [Request("a", 1)]))  # the same again says no more than the first
    assert client.packets() == []
    lab.commit()
    assert client.packets() == [Suback(1, [1]), Suback(2, [1])]
    client.send(Subscribe(3, [Request("a", 1)]))  # now it is known
    assert client.packets() == [Suback(3, [1])]
    client.send(Unsubscribe(4, ["a"]))
    assert client.packets() == []
    lab.commit()
    assert client.packets() == [Unsuback(4, [0])]
    assert lab.journal.subscriptions == {}


def test_a_retained_message_is_on_the_disk_before_its_publisher_is_told() -> None:
    lab = held()
    sender = lab.connect("p")
    sender.publish("a", b"x", 1, retain=True)
    assert sender.packets() == []
    lab.commit()
    assert sender.packets() == [Puback(1, Reason.NO_MATCHING_SUBSCRIBERS)]
    assert [m.payload for m in lab.journal.retained.values()] == [b"x"]
    sender.publish("a", b"", 1, retain=True)
    lab.commit()
    assert lab.journal.retained == {}


def test_who_asked_for_durability_memory_is_told_at_once_and_it_is_written_behind() -> None:
    lab = held(durability="memory")
    away = lasting(lab)
    away.subscribe("a", 2)
    away.drop()
    sender = lab.connect("p")
    for qos in (1, 2):
        sender.publish("a", b"%d" % qos, qos)
    assert sender.packets() == [Puback(1), Pubrec(2)]
    assert lab.journal.messages == {}
    lab.commit()
    assert [m.payload for m in lab.journal.messages.values()] == [b"1", b"2"]


def test_a_publish_of_the_broker_itself_is_settled_too() -> None:
    lab = held()
    away = lasting(lab)
    away.send(Subscribe(1, [Request("a", 1)]))
    ready(lab)
    away.drop()
    lab.commit()
    told: list[int] = []
    promise = Promise()
    promise.then = told.append
    assert lab.core.publish(Message(b"a", b"x", 1), promise=promise) is None
    assert told == []
    lab.commit()
    assert told == [0]


# -- all have it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("sender_version", [4, 5])
@pytest.mark.parametrize("filters", [["a"], ["a", "a"], ["a", "+", "#"], ["a", "$share/g/a"], ["$share/g/a"] * 2])
def test_what_all_receivers_answer_in_time_is_not_written(
    filters: list[str], sender_version: int, refuses: bool
) -> None:
    """And the publisher is told when the last has answered, in whatever way, and not before."""
    lab = held()
    receivers = [lasting(lab, f"c{n}", 4 if n == 1 and not refuses else 5) for n in range(len(filters))]
    for receiver, name in zip(receivers, filters, strict=True):
        receiver.send(Subscribe(1, [Request(name, 1)]))
    sender = lab.connect("p", sender_version)
    before = ready(lab, *receivers)
    for _ in range(3):  # the first time on a topic goes another way than the next
        sender.publish("a", b"x", 1)
        waiting = [(receiver, message) for receiver in receivers for message in receiver.messages()]
        assert waiting
        for receiver, message in waiting:
            assert sender.packets() == []
            receiver.send(Puback(message.packet_id, 0x80 if refuses else 0))
        assert [type(p) for p in sender.packets()] == [Puback]
        lab.advance(2)
        lab.commit()
    assert lab.journal.commits == before
    assert lab.core.counters.journal_rows == lab.core.counters.log_messages_appended == 0
    assert lab.core.log._held == {}


def test_who_does_not_answer_in_time_is_not_waited_for() -> None:
    lab = held(commit_window_ms=50)
    quick, slow = lasting(lab, "quick"), lasting(lab, "slow")
    for client in (quick, slow):
        client.send(Subscribe(1, [Request("a", 1)]))
    sender = lab.connect("p")
    ready(lab, quick, slow)
    sender.publish("a", b"x", 1)
    quick.ack(*quick.messages())
    lab.core.now += 0.04
    lab.commit()
    assert sender.packets() == []
    assert lab.journal.messages == {}
    lab.core.now += 0.02
    lab.commit()
    assert sender.packets() == [Puback(1)]
    assert [m.payload for m in lab.journal.messages.values()] == [b"x"]
    slow.ack(*slow.messages())
    lab.commit()
    assert lab.journal.messages == {}


@pytest.mark.parametrize(("low", "high"), [(100, 0), (0, 100)])
@pytest.mark.parametrize("qos", [1, 2])
def test_one_for_whom_it_is_too_large_does_not_end_it_for_the_others(low: int, high: int, qos: int) -> None:
    lab = held()
    receivers = []
    for name, bound in (("c0", low), ("c1", high), ("c2", low)):
        receivers.append(lasting(lab, name, **({"maximum_packet_size": bound} if bound else {})))
        receivers[-1].send(Subscribe(1, [Request("a", qos)]))
    sender = lab.connect("p")
    ready(lab, *receivers)
    sender.publish("a", b"x" * 200, qos)
    assert sender.packets() == []
    for receiver in receivers:
        receiver.drop()
    lab.commit()
    assert [p.reason for p in sender.packets()] == [0]  # type: ignore[attr-defined]
    got = []
    again = lab.crash()
    for name in ("c0", "c1", "c2"):
        got += [p.payload for p in lasting(again, name).early if isinstance(p, Publish)]
    assert len(got) == (1 if low else 2)


def test_what_only_its_publisher_would_get_and_does_not_want_leaves_nothing() -> None:
    lab = Lab()
    client = lasting(lab)
    client.subscribe("a", 2, no_local=True)
    client.publish("a", b"x", 2, id=7)
    assert client.packets() == [Pubrec(7)]
    client.send(Pubrel(7))
    lab.advance(1)
    assert (lab.journal.messages, lab.core.log.messages) == ({}, 0)


def test_a_session_that_ends_is_not_waited_for() -> None:
    lab = held()
    receiver, sender = lasting(lab), lab.connect("p")
    receiver.send(Subscribe(1, [Request("a", 1)]))
    ready(lab, receiver)
    sender.publish("a", b"x", 1)
    receiver.disconnect(session_expiry=0)
    lab.commit()
    assert sender.packets() == [Puback(1)]
    assert lab.journal.messages == {}


def test_a_connection_that_ends_has_the_message_written() -> None:
    lab = held()
    receiver, sender = lasting(lab), lab.connect("p")
    receiver.send(Subscribe(1, [Request("a", 1)]))
    ready(lab, receiver)
    sender.publish("a", b"x", 1)
    receiver.drop()
    assert sender.packets() == []
    lab.commit()
    assert sender.packets() == [Puback(1)]
    (message,) = [p for p in lasting(lab.crash()).early if isinstance(p, Publish)]
    assert (message.payload, message.dup) == (b"x", True)


# -- in order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_acknowledgements_leave_in_the_order_of_the_publishes(version: int) -> None:
    """[MQTT-4.6.0-2], [MQTT-4.6.0-3]: whatever each of them waits for, and also if it waits for nothing."""
    lab = held()
    away, online, passing = lasting(lab, "away"), lasting(lab, "online"), lab.connect("passing")
    away.send(Subscribe(1, [Request("disk", 2)]))
    online.send(Subscribe(1, [Request("online", 1)]))
    passing.subscribe("nothing", 2)
    sender = lab.connect("p", version)
    ready(lab, online)
    away.drop()
    lab.commit()
    packets: list[Packet] = [
        Publish(b"disk", b"1", 1, packet_id=1),
        Publish(b"nothing", b"2", 2, packet_id=2),
        Publish(b"online", b"3", 1, packet_id=3),
        Publish(b"nothing", b"4", 1, packet_id=4),
        Publish(b"disk", b"5", 2, packet_id=5),
        Publish(b"nothing", b"6", 1, packet_id=6),
    ]
    sender.send(*packets)
    online.ack(*online.messages())
    assert sender.packets() == []
    lab.commit()
    assert sender.packets() == [Puback(1), Pubrec(2), Puback(3), Puback(4), Pubrec(5), Puback(6)]


def test_a_3_1_1_client_is_read_on_when_it_has_been_told() -> None:
    """It knows no Receive Maximum: what it may have unacknowledged is bounded by not reading it."""
    lab = held()
    away = lasting(lab)
    away.send(Subscribe(1, [Request("a", 1)]))
    ready(lab)
    away.drop()
    sender = lab.connect("p", 4)
    count = 3 * RECEIVE_MAXIMUM
    lab.core.limits = type(lab.core.limits)(queue_messages_max=count)
    sender.send(*(Publish(b"a", b"%d" % n, 1, packet_id=n + 1) for n in range(count)))
    assert sender.channel.paused
    assert lab.core.log.messages == RECEIVE_MAXIMUM + 1
    lab.commit()
    assert not sender.channel.paused
    assert [p.packet_id for p in sender.packets() if isinstance(p, Puback)] == [*range(1, count + 1)]


def test_who_is_about_to_be_closed_for_a_refusal_is_not_read_on() -> None:
    """3.1.1 sends it again, and what came after it: that must not have been taken before it."""
    lab = held(queue_messages_max=1)
    away, other = lasting(lab, "full"), lasting(lab, "other")
    away.send(Subscribe(1, [Request("full", 1)]))
    other.send(Subscribe(1, [Request("other", 1)]))
    ready(lab)
    away.drop()
    other.drop()
    sender = lab.connect("p", 4)
    sender.send(*(Publish(topic, b"x", 1, packet_id=n) for n, topic in enumerate((b"full", b"full", b"other"), 1)))
    lab.commit()
    assert sender.closed
    assert sender.packets() == [Puback(1)]
    assert [m.topic for m in lab.journal.messages.values()] == [b"full"]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("first", ["in flight", "queued", "in the log"])
def test_a_retry_of_a_qos_2_publish_is_told_what_becomes_of_the_first(first: str, crash: bool, version: int) -> None:
    """It is not taken twice; and its publisher is not told of success while the first may still fail."""
    lab = held()
    receiver = lasting(lab, "c", receive_maximum=1)
    receiver.send(Subscribe(1, [Request("a", 2)]))
    sender = lasting(lab, "p", version)
    ready(lab, receiver, sender)
    if first == "queued":
        sender.publish("a", b"before", 2, id=9)
        ready(lab, receiver, sender)
    elif first == "in the log":
        receiver.drop()
    sender.publish("a", b"x", 2, id=1)
    batch = lab.core.take()
    assert batch is not None
    sender.drop()
    sender = lasting(lab, "p", version)
    sender.publish("a", b"x", 2, id=1, dup=True)
    assert sender.packets() == []
    if crash:
        lab = lab.crash()
        sender = lasting(lab, "p", version)
        sender.publish("a", b"x", 2, id=1, dup=True)
    else:
        lab.core.failed("disk full")
        lab.core.flush()
        if version == 4:
            assert sender.closed
            assert sender.packets() == []
            lab.commit()
            sender = lasting(lab, "p", version)
        else:
            assert sender.packets() == [Pubrec(1, Reason.QUOTA_EXCEEDED)]
            lab.commit()
        sender.publish("a", b"x", 2, id=1, dup=version == 4)
    lab.hold = False
    lab.commit()
    assert sender.packets()[-1] == Pubrec(1)
    if not receiver.closed and not crash:
        receiver.drop()
    assert receive_all(lab, "c").count(b"x") == 1


@pytest.mark.parametrize("publish", [lambda client: client.drop(), lambda client: client.disconnect(0x04)])
def test_a_will_is_kept_as_any_message_is(publish: Callable[[Client], None]) -> None:
    lab = Lab()
    away = lasting(lab)
    away.subscribe("w", 1)
    away.drop()
    publish(lab.connect("p", will=Will(b"w", b"bye", 1)))
    assert receive_all(lab.crash(), "c") == [b"bye"]
