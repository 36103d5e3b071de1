"""The disk is full, or broken: publishers are told, connected traffic goes on, and nothing is forgotten."""

import pytest
from support.lasting import answer, away, lasting, receive_all
from support.loopback import Client, Lab

from broker.wire.codes import Reason
from broker.wire.packets import (
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Suback,
    Subscribe,
    Unsubscribe,
)

ACK = {1: Puback, 2: Pubrec}


def broken(lab: Lab) -> None:
    """Nothing can be written from now on, and that was noticed."""
    lab.journal.broken = "disk full"
    lab.core.changed[next(iter(lab.core.sessions.values()))] = None
    lab.commit()
    assert lab.core.failing == "disk full"


def well(lab: Lab) -> None:
    lab.journal.broken = ""
    lab.hold = False
    lab.commit()
    if lab.core.failing:
        lab.core.committed()  # there was nothing to be written, and the disk was asked
    assert lab.core.failing == ""


def reasons(client: Client) -> list[int]:
    return [p.reason for p in client.packets() if isinstance(p, Puback | Pubrec)]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("noticed", [False, True])
def test_a_message_that_cannot_be_written_is_refused_and_reaches_nobody_later(noticed: bool, qos: int) -> None:
    lab = Lab()
    for name in ("c", "d"):
        away(lab, name, "a", qos=qos)
    sender = lab.connect("p")
    if noticed:
        broken(lab)
    lab.journal.broken = "disk full"
    sender.publish("a", b"refused", qos)
    assert reasons(sender) == [Reason.QUOTA_EXCEEDED]
    sender.publish("a", b"refused too", qos)
    assert reasons(sender) == [Reason.QUOTA_EXCEEDED]
    well(lab)
    sender.publish("a", b"taken", qos)
    assert reasons(sender) == [0]
    lab = lab.crash()
    for name in ("c", "d"):
        assert receive_all(lab, name) == [b"taken"]
    lab.advance(2)
    assert (lab.journal.messages, lab.journal.deliveries) == ({}, {})


@pytest.mark.parametrize("qos", [1, 2])
def test_3_1_1_is_closed_and_what_it_sends_again_is_taken_once(qos: int) -> None:
    """And what came behind it, before it was known that it could not be written, is not taken before it."""
    lab = Lab()
    away(lab, "c", "a", qos=qos)
    sender = lasting(lab, "p", 4)
    lab.hold = True
    sender.publish("a", b"1", qos, id=1)
    batch = lab.core.take()
    assert batch is not None
    sender.publish("a", b"2", qos, id=2)
    lab.core.failed("disk full")
    lab.flush()
    assert sender.closed
    assert sender.packets() == []
    well(lab)
    sender = lasting(lab, "p", 4)
    for number in (1, 2):
        sender.publish("a", b"%d" % number, qos, id=number, dup=True)
    assert sender.packets() == [ACK[qos](1), ACK[qos](2)]
    assert receive_all(lab) == [b"1", b"2"]


@pytest.mark.parametrize("window", [1, 65535])
def test_qos_2_that_could_not_be_written_is_not_sent_and_its_place_is_free(window: int) -> None:
    """In flight or queued: its publisher may send it again, and nobody gets it twice for that."""
    lab = Lab()
    receiver = lasting(lab, receive_maximum=window)
    receiver.subscribe("a", 2)
    sender = lab.connect("p")
    lab.hold = True
    for number in range(3):
        sender.publish("a", b"%d" % number, 2, id=number + 1)
    lab.journal.broken = "disk full"
    lab.commit()
    assert reasons(sender) == [Reason.QUOTA_EXCEEDED] * 3
    assert receiver.packets() == []
    assert receiver.session.inflight == {}
    well(lab)
    for number in range(3):
        sender.publish("a", b"%d" % number, 2, id=number + 1)
    assert reasons(sender) == [0] * 3
    assert [m.payload for m in answer(receiver, receiver.packets())] == [b"0", b"1", b"2"]
    lab.advance(2)
    assert lab.core.log._held == {}


@pytest.mark.parametrize("gone", [False, True])
def test_who_was_slow_to_answer_keeps_what_it_got(gone: bool) -> None:
    """The window closes and it cannot be written: the publisher is refused, and the receiver's answer ends it."""
    lab = Lab(commit_window_ms=50)
    receiver, sender = lasting(lab), lab.connect("p")
    receiver.subscribe("a", 1)
    broken(lab)
    sender.publish("a", b"x", 1)
    (message,) = receiver.messages()
    assert reasons(sender) == []
    lab.advance(1)
    assert reasons(sender) == [Reason.QUOTA_EXCEEDED]
    if gone:
        receiver.drop()
        receiver = lasting(lab)
        (message,) = receiver.early  # type: ignore[assignment]
        assert (message.payload, message.dup) == (b"x", True)
    receiver.ack(message)
    well(lab)
    lab.advance(2)
    assert lab.core.log._held == {}
    assert (lab.journal.messages, lab.journal.deliveries) == ({}, {})


def test_what_was_queued_for_somebody_online_is_not_sent_after_the_refusal() -> None:
    lab = Lab(commit_window_ms=50)
    receiver, sender = lasting(lab, receive_maximum=1), lab.connect("p")
    receiver.subscribe("a", 1)
    broken(lab)
    for number in range(3):
        sender.publish("a", b"%d" % number, 1)
    lab.advance(1)
    assert reasons(sender) == [Reason.QUOTA_EXCEEDED] * 3
    (first,) = receiver.messages()
    receiver.ack(first)
    assert receiver.packets() == []
    assert receiver.session.queue is None


# -- what goes on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_connected_traffic_goes_on(version: int) -> None:
    """QoS 0 and 1 to whoever is there and answers, QoS 2 between those who end with their connections."""
    lab = Lab(commit_window_ms=1000)
    kept, passing = lasting(lab, "kept"), lab.connect("passing")
    kept.subscribe("a", 1)
    passing.subscribe("b", 2)
    sender = lab.connect("p", version)
    broken(lab)
    for _ in range(2):
        sender.publish("a", b"x", 0)
        sender.publish("a", b"x", 1, id=1)
        assert len(answer(kept, kept.packets())) == 2
        assert sender.packets() == [Puback(1)]
        sender.publish("b", b"x", 2, id=2)
        sender.send(Pubrel(2))
        assert sender.packets() == [Pubrec(2), Pubcomp(2)]
        assert len(answer(passing, passing.packets())) == 1
    assert lab.core.counters.publishes_refused == 0


def test_who_comes_back_gets_what_waits_while_nothing_can_be_written() -> None:
    lab = Lab()
    away(lab, "c", "a")
    lab.connect("p").publish("a", b"x", 1)
    broken(lab)
    assert receive_all(lab) == [b"x"]
    client = lasting(lab)
    assert client.session.live
    well(lab)
    lab.advance(2)
    assert lab.journal.messages == {}


def test_who_came_back_just_before_gets_it_too() -> None:
    """It waits for a commit, which fails: what it gets is not made to wait for the disk to come back."""
    lab = Lab()
    away(lab, "c", "a")
    lab.connect("p").publish("a", b"x", 1)
    lab.hold = True
    client = lasting(lab)
    assert client.early == []
    lab.journal.broken = "disk full"
    lab.commit()
    assert [m.payload for m in client.messages()] == [b"x"]


def test_a_new_subscription_that_should_last_is_refused() -> None:
    lab = Lab()
    known, passing = lasting(lab), lab.connect("passing")
    known.subscribe("a", 1)
    broken(lab)
    known.send(Subscribe(7, [Request("a", 1), Request("b", 1)]))
    passing.send(Subscribe(8, [Request("b", 1)]))
    assert known.packets() == [Suback(7, [1, Reason.QUOTA_EXCEEDED])]
    assert passing.packets() == [Suback(8, [1])]


def test_what_changed_while_nothing_could_be_written_is_written_after() -> None:
    """Subscriptions that came and went, sessions that ended, acknowledgements, retained messages."""
    lab = Lab()
    client = lasting(lab)
    client.subscribe("a", 1)
    away(lab, "d", "a")
    lab.connect("p").publish("a", b"x", 1)
    lab.hold = True
    client.send(Subscribe(7, [Request("b", 1)]))
    lab.journal.broken = "disk full"
    lab.commit()
    answer(client, client.packets())
    client.send(Unsubscribe(8, ["a"]))
    lasting(lab, "d").disconnect(session_expiry=0)
    lab.connect("p").publish("r", b"kept", 0, retain=True)
    for _ in range(3):
        lab.advance(1)
        lab.commit()
    assert lab.core.counters.journal_failures == 4
    assert lab.logged.count("journal cannot be written") == 1
    well(lab)
    assert [type(p).__name__ for p in client.packets()] == ["Suback", "Unsuback"]
    lab.advance(2)
    again = lab.crash()
    assert [s.client_id for s in again.core.sessions.values()] == ["c"]
    assert [s.filter for s in again.core.sessions["\nc"].subscriptions] == [b"b"]
    assert [m.payload for m in again.core.retained] == [b"kept"]
    assert again.journal.messages == {}


def test_where_publishers_were_told_at_once_nothing_is_refused_for_that() -> None:
    """`durability = "memory"`: what was acknowledged before it was known is written when that can be done."""
    lab = Lab(durability="memory")
    away(lab, "c", "a", qos=2)
    sender = lab.connect("p")
    lab.journal.broken = "disk full"
    for number, qos in enumerate((1, 2)):
        lab.hold = True
        sender.publish("a", b"%d" % number, qos)
        if not number:
            assert lab.core.take() is not None
    lab.core.failed("disk full")
    lab.flush()
    assert reasons(sender) == [0, 0]
    sender.publish("a", b"refused", 1)
    assert reasons(sender) == [Reason.QUOTA_EXCEEDED]
    well(lab)
    assert receive_all(lab.crash(durability="memory")) == [b"0", b"1"]


def test_a_retained_message_that_is_sent_again_is_in_the_log_again() -> None:
    """It was there, and all who got it are through with it: whoever gets it at QoS 2 has it written once more."""
    lab = Lab()
    first = lasting(lab, "first")
    first.subscribe("a", 2)
    lab.hold = True
    lab.connect("p").publish("a", b"x", 2, retain=True)
    lab.commit()
    (message,) = [p for p in first.packets() if isinstance(p, Publish)]
    second = lasting(lab, "second")
    lab.commit()
    first.send(Pubrec(message.packet_id))  # forgotten
    second.send(Subscribe(7, [Request("a", 2)]))
    lab.commit()
    lab.commit()
    assert [p.payload for p in second.packets() if isinstance(p, Publish)] == [b"x"]
    assert [m.payload for m in lab.journal.messages.values()] == [b"x"]
    again = lab.crash()
    assert receive_all(again, "second") == [b"x"]
    assert receive_all(again, "second") == []


def test_numbers_of_sessions_are_not_used_again_for_new_ones() -> None:
    """One that expired while the broker was down is taken out of the journal with what a new one has by then."""
    lab = Lab()
    lab.connect("old", session_expiry=10).drop()
    lab.core.now += 60
    lab = lab.crash()
    lab.hold = True
    client = lasting(lab, "new")
    client.send(Subscribe(1, [Request("a", 1)]))
    lab.commit()
    again = lab.crash()
    assert [s.client_id for s in again.core.sessions.values()] == ["new"]
    assert len(again.core.sessions["\nnew"].subscriptions) == 1
