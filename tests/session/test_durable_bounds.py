"""What may wait, for a session, on a topic and in the whole log: refused beyond that, or the oldest given up for it."""

from collections.abc import Iterator

import pytest
from support.lasting import away, lasting, receive_all
from support.loopback import Client, Lab

from broker.journal import size_of
from broker.wire.codes import Reason
from broker.wire.packets import Puback, Pubrec


@pytest.fixture(params=["few", "many"])
def receivers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """How many wait: so few that each is counted, or so many that the topic stands for them."""
    monkeypatch.setattr("broker.session.core.NARROW_MAX", 2)
    return 2 if request.param == "few" else 5


def told(lab: Lab, client: Client, topic: str, count: int, size: int = 1, first: int = 0) -> list[bool]:
    """Publish so many, numbered; whether each was taken."""
    for number in range(first, first + count):
        client.publish(topic, b"%d".ljust(size) % number, 1)
    return [p.reason < 0x80 for p in client.packets() if isinstance(p, Puback)]


def numbers(*found: int) -> list[bytes]:
    return [b"%d" % number for number in found]


def adds_up(lab: Lab) -> None:
    counters, log = lab.core.counters, lab.core.log
    assert counters.log_messages_appended == (
        log.messages + counters.log_messages_delivered + counters.log_messages_expired + counters.log_messages_dropped
    )
    assert log.bytes == sum(
        size_of(m.topic, m.payload, m.properties, m.publisher) for m in lab.journal.messages.values()
    )


# -- refused -----------------------------------------------------------------------------------------------------------


def test_beyond_the_bound_publishers_are_refused_until_there_is_room(receivers: int) -> None:
    lab = Lab(queue_messages_max=3)
    for number in range(receivers):
        away(lab, f"c{number}", "a")
    sender = lab.connect("p")
    assert told(lab, sender, "a", 5) == [True] * 3 + [False] * 2
    for number in range(receivers):
        assert receive_all(lab, f"c{number}") == numbers(0, 1, 2)
        lasting(lab, f"c{number}").drop()
    lab.advance(2)
    assert told(lab, sender, "a", 4, first=5) == [True] * 3 + [False]
    assert lab.core.counters.publishes_refused == 3
    assert lab.core.counters.messages_dropped_queue_full == 0
    adds_up(lab)


def test_bytes_are_bounded_and_one_always_fits(receivers: int) -> None:
    lab = Lab(queue_bytes_max=2500)
    for number in range(receivers):
        away(lab, f"c{number}", "a")
    sender = lab.connect("p")
    assert told(lab, sender, "a", 4, size=1000) == [True, True, receivers > 2, False]  # a topic: once it is over
    away(lab, "d", "b")
    assert told(lab, sender, "b", 2, size=9000) == [True, False]


def test_what_waits_on_other_topics_counts() -> None:
    lab = Lab(queue_messages_max=3)
    away(lab, "c", "a", "b/+")
    sender = lab.connect("p")
    assert told(lab, sender, "a", 1) + told(lab, sender, "b/1", 1) + told(lab, sender, "b/2", 1) == [True] * 3
    assert told(lab, sender, "a", 1) == [False]
    assert told(lab, sender, "elsewhere", 1) == [True]


def test_what_was_reclaimed_does_not_count(receivers: int) -> None:
    """Found out at most once in a second: what expired meanwhile, or was got by one who had the rest still to get."""
    lab = Lab(queue_messages_max=3)
    for number in range(receivers):
        away(lab, f"c{number}", "a")
    sender = lab.connect("p", keep_alive=0)
    for _ in range(3):
        sender.publish("a", b"x", 1, message_expiry=10)
    sender.packets()
    assert told(lab, sender, "a", 1) == [False]
    lab.advance(62)
    assert told(lab, sender, "a", 4) == [True] * 3 + [False]


def test_what_waits_is_counted_again_after_a_restart() -> None:
    """A crash does not make room, and neither do many."""
    lab = Lab(queue_messages_max=3)
    away(lab, "c", "a")
    assert told(lab, lab.connect("p"), "a", 2) == [True] * 2
    for _ in range(3):
        lab = lab.crash(queue_messages_max=3)
        sender = lab.connect("p")
        assert told(lab, sender, "nobody's", 1) == [True]
    assert told(lab, sender, "a", 2) == [True, False]


@pytest.mark.parametrize("queued", [False, True])
def test_a_session_that_comes_and_goes_makes_no_room(queued: bool) -> None:
    """What it had read from the log counts when it leaves, and so does what it had not."""
    lab = Lab(queue_messages_max=6)
    away(lab, "c", "a", *(["b"] if queued else []))
    sender = lab.connect("p")
    taken = 0
    for _ in range(5):
        taken += sum(told(lab, sender, "a", 8))
        lasting(lab, receive_maximum=1).drop()
    assert taken <= 7  # and the one in flight
    assert len(receive_all(lab)) == taken
    lab.advance(2)
    assert lab.core.log.messages == 0


@pytest.mark.parametrize("online", [False, True])
def test_members_of_groups_are_bounded(online: bool, receivers: int) -> None:
    lab = Lab(queue_messages_max=3)
    for number in range(receivers):
        away(lab, f"c{number}", "a", "b")
    member = lasting(lab, "m", receive_maximum=1)
    member.subscribe("$share/g/a", 1)
    for number in range(receivers):
        lasting(lab, f"c{number}")
    if not online:
        member.drop()
    sender = lab.connect("p")
    assert told(lab, sender, "a", 6) == [True] * (4 if online else 3) + [False] * (2 if online else 3)
    if online:
        assert member.session.waiting == 3
        member.drop()
    assert receive_all(lab, "m") == numbers(*range(4 if online else 3))


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("online", [False, True])
def test_one_that_gets_a_message_twice_has_room_for_both_or_for_none(online: bool, qos: int) -> None:
    """For a group and for itself; what was acknowledged is there after a crash, whatever could not be taken."""
    lab = Lab(queue_messages_max=5)
    client = lasting(lab, receive_maximum=1)
    client.subscribe("a", qos)
    client.subscribe("$share/g/a", qos)
    client.subscribe("$share/h/#", qos)
    if not online:
        client.drop()
    sender = lab.connect("p")
    for number in range(4):
        sender.publish("a", b"%d" % number, qos, id=number + 1)
    taken = [p.reason < 0x80 for p in sender.packets() if isinstance(p, Puback | Pubrec)]
    assert taken == [True, online, False, False]
    assert lab.core.counters.messages_dropped_queue_full == 0
    again = lab.crash(queue_messages_max=5)
    assert set(receive_all(again)) == set(numbers(*range(sum(taken))))


def test_the_whole_log_is_bounded() -> None:
    lab = Lab(log_bytes_max=3000)
    away(lab, "c", "a")
    online = lasting(lab, "online")
    online.subscribe("online", 1)
    sender = lab.connect("p")
    taken = told(lab, sender, "a", 5, size=900)
    assert taken == [True, True, True, False, False]
    assert lab.core.log.bytes <= 3000
    # Who is there and answers gets what comes.
    lab.hold = True
    sender.publish("online", b"x", 1)
    online.ack(*online.messages())
    assert [p.reason for p in sender.packets() if isinstance(p, Puback)] == [0]
    lab.hold = False
    lab.commit()
    assert len(receive_all(lab)) == 3
    lab.advance(2)
    assert told(lab, sender, "a", 1, size=900) == [True]
    adds_up(lab)


def test_what_is_on_the_way_to_the_disk_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab()
    away(lab, "c", "a")
    sender = lab.connect("p")
    monkeypatch.setattr("broker.session.ledger.UNWRITTEN_BYTES_MAX", 2000)
    lab.hold = True
    for _ in range(5):
        sender.publish("a", b"x" * 900, 1)
    lab.commit()
    assert [p.reason for p in sender.packets() if isinstance(p, Puback)] == [0, 0, 0, Reason.QUOTA_EXCEEDED, 0x97]
    sender.publish("a", b"x", 1)
    lab.commit()
    assert [p.reason for p in sender.packets() if isinstance(p, Puback)] == [0]


# -- the oldest given up -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [{"queue_messages_max": 3}, {"queue_bytes_max": 320}])
@pytest.mark.parametrize("how", ["away", "catching up", "slow", "member", "parked"])
def test_the_oldest_goes_for_a_new_one_where_the_brand_wants_that(how: str, bound: dict[str, int]) -> None:
    """As much waits as may, the latest, and what was given up is counted. Nobody is refused."""
    lab = Lab(**bound)
    lab.core.drop_oldest = frozenset({b"acme"})
    client = lasting(lab, receive_maximum=1)
    client.subscribe("$share/g/acme/a" if how == "member" else "acme/a", 1)
    sender = lab.connect("p")
    if how in ("away", "catching up", "member"):
        client.drop()
    if how == "parked":
        assert told(lab, sender, "acme/a", 4) == [True] * 4
        client.drop()
    if how == "catching up":
        assert told(lab, sender, "acme/a", 4) == [True] * 4
        client = lasting(lab, receive_maximum=1)
    assert told(lab, sender, "acme/a", 20, first=4) == [True] * 20
    dropped = lab.core.counters.messages_dropped_queue_full
    if not client.closed:
        client.drop()
    lab.advance(1)
    got = receive_all(lab)
    if "queue_messages_max" in bound:
        assert got[-3:] == numbers(21, 22, 23)
        assert len(got) <= 4  # with the one in flight
    assert got[-1:] == numbers(23)
    assert got == sorted(got, key=int)
    first = 4 if how not in ("catching up", "parked") else 0
    assert len(got) + dropped == 24 - first
    lab.advance(2)
    assert lab.core.log.messages == 0
    adds_up(lab)


def test_the_oldest_on_a_topic_go_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.session.core.NARROW_MAX", 2)
    lab = Lab(queue_messages_max=16)
    lab.core.drop_oldest = frozenset({b"acme"})
    for number in range(5):
        away(lab, f"c{number}", "acme/a")
    sender = lab.connect("p")
    assert told(lab, sender, "acme/a", 40) == [True] * 40
    counters = lab.core.counters
    assert counters.log_messages_dropped == 40 - lab.core.log.messages
    assert 14 <= lab.core.log.messages <= 16
    adds_up(lab)
    for number in range(5):
        got = receive_all(lab, f"c{number}")
        assert got == numbers(*range(40 - lab.core.log.messages if number < 1 else 40 - len(got), 40))
        assert 14 <= len(got) <= 16


def test_another_brand_that_does_not_want_it_is_refused() -> None:
    lab = Lab(queue_messages_max=2)
    lab.core.drop_oldest = frozenset({b"acme"})
    away(lab, "c", "other/a")
    assert told(lab, lab.connect("p"), "other/a", 3) == [True, True, False]


def test_what_was_given_up_stays_so_after_a_crash() -> None:
    lab = Lab(queue_messages_max=3)
    lab.core.drop_oldest = frozenset({b"acme"})
    away(lab, "c", "acme/#")
    away(lab, "other", "acme/a")
    told(lab, lab.connect("p"), "acme/a", 5)
    assert receive_all(lab.crash()) == numbers(2, 3, 4)
