"""One log, many cursors: what waits is written once, and found again in its order by whoever was away."""

from collections.abc import Iterator

import pytest
from support.lasting import answer, away, lasting, receive_all
from support.loopback import Lab

from broker.journal import SavedMessage
from broker.wire.packets import (
    Puback,
    Publish,
    Pubrec,
    Request,
    Subscribe,
    Unsubscribe,
)


@pytest.fixture(params=["in memory", "on disk"])
def bodies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Whether what was written lately is in memory still, or is read again, three at a time."""
    if request.param == "on disk":
        monkeypatch.setattr("broker.session.log.BODIES_BYTES_MAX", 0)
    return request.param


def nothing_left(lab: Lab) -> None:
    """After a while no message is in the log, and no delivery either."""
    lab.advance(2)
    assert (lab.journal.messages, lab.journal.deliveries) == ({}, {})
    log, counters = lab.core.log, lab.core.counters
    assert (log.messages, log.bytes, log.topics, log._held, log._detached) == (0, 0, {}, {}, {})
    assert counters.log_messages_appended == (
        counters.log_messages_delivered + counters.log_messages_expired + counters.log_messages_dropped
    )


# -- one row -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("receivers", [1, 100])
def test_a_message_is_one_row_whoever_waits(receivers: int, bodies: str) -> None:
    lab = Lab()
    for number in range(receivers):
        away(lab, f"c{number}", "a" if number % 2 else "#")
    sender = lab.connect("p")
    for number in range(5):
        sender.publish("a", b"%d" % number, 1)
    assert len(lab.journal.messages) == lab.core.counters.journal_rows == 5
    assert lab.journal.deliveries == {}
    for number in range(receivers):
        assert len(lab.journal.messages) == 5
        assert receive_all(lab, f"c{number}") == [b"0", b"1", b"2", b"3", b"4"]
        lab.advance(1)
    nothing_left(lab)


@pytest.mark.parametrize("qos", [1, 2])
def test_what_waited_on_many_topics_comes_in_the_order_in_which_it_was_published(qos: int, bodies: str) -> None:
    lab = Lab()
    away(lab, "c", "a/+", "b", qos=qos)
    sender = lab.connect("p")
    for number in range(700):  # more than is got at once
        sender.publish(("a/1", "b", "a/2", "nobody's")[number % 4], b"%d" % number, 1 + number % 2)
    expected = [b"%d" % number for number in range(700) if number % 4 != 3]
    for receive_maximum in (3, 65535):
        again = lab.crash()
        assert receive_all(again, receive_maximum=receive_maximum) == expected
        break
    nothing_left(again)


@pytest.mark.parametrize("window", [1, 2, 65535])
def test_what_comes_while_a_session_catches_up_comes_behind_what_waited(window: int, bodies: str) -> None:
    """[MQTT-4.6.0-5, -6]."""
    lab = Lab()
    away(lab, "c", "a", qos=2)
    sender = lab.connect("p")
    for number in range(5):
        sender.publish("a", b"%d" % number, 1)
    back = lasting(lab, receive_maximum=window)
    new = [p for p in back.early if isinstance(p, Publish)]
    got = []
    for number in range(5, 20):
        sender.publish("a", b"%d" % number, 1)
        new += back.messages()
        got += new[:1]
        back.ack(*new[:1])
        del new[:1]
    got += answer(back, [*new, *back.packets()])
    assert [m.payload for m in got] == [b"%d" % number for number in range(20)]


def test_each_gets_it_in_the_form_of_its_subscription(bodies: str) -> None:
    """QoS, the retain flag, the identifiers of all subscriptions that match, and not what it published itself."""
    lab = Lab()
    client = lasting(lab)
    client.subscribe("a/+", 1, id=7)
    client.subscribe("a/b", 2, id=8, rap=True)
    client.subscribe("#", 0, id=9)
    client.subscribe("own", 1, no_local=True)
    lab.hold = True
    client.drop()
    sender = lab.connect("p")
    sender.publish("a/b", b"1", 2, retain=True, content_type="t", user_properties=[("k", "v")])
    sender.publish("a/c", b"2", 2, retain=True)
    lab.hold = False
    lab.commit()
    again = lab.crash()
    back = lasting(again)
    first, second = (p for p in back.early if isinstance(p, Publish))
    assert (first.qos, first.retain, sorted(first.properties.subscription_ids)) == (2, True, [7, 8, 9])
    assert (first.properties.content_type, first.properties.user_properties) == ("t", [("k", "v")])
    assert (second.qos, second.retain, sorted(second.properties.subscription_ids)) == (1, False, [7, 9])


@pytest.mark.parametrize("also", [None, ("#", False), ("#", True)])
def test_no_local_holds_for_what_waited(also: tuple[str, bool] | None, bodies: str) -> None:
    """[MQTT-3.8.3-3]: of two subscriptions both must ask for it, also if one is of QoS 0."""
    lab = Lab()
    client = lasting(lab, will=None)
    client.subscribe("a", 1, no_local=True)
    if also is not None:
        client.subscribe(also[0], 0, no_local=also[1])
    other = lasting(lab, "other")
    other.subscribe("a", 1)
    other.drop()
    lab.hold = True
    client.drop()
    lab.connect("p").publish("a", b"first", 1)
    client = lasting(lab)
    assert not client.session.live  # it has not caught up: its own message is found in the log
    client.publish("a", b"mine", 1)
    lab.connect("p").publish("a", b"theirs", 1)
    lab.hold = False
    lab.commit()
    got = [m.payload for m in answer(client, client.packets())]
    assert got == [b"first", *([b"mine"] if also is not None and not also[1] else []), b"theirs"]
    assert receive_all(lab, "other") == [b"first", b"mine", b"theirs"]
    nothing_left(lab)


# -- what nobody needs any more ----------------------------------------------------------------------------------------


def test_what_the_last_who_waited_unsubscribed_from_is_forgotten() -> None:
    lab = Lab()
    for name in ("c", "d"):
        away(lab, name, "a")
    lab.connect("p").publish("a", b"x", 1)
    for name in ("c", "d"):
        client = lasting(lab, name, receive_maximum=1)
        lab.hold = True
        client.send(Unsubscribe(9, ["a"]))
        lab.hold = False
        lab.commit()
        answer(client, [*client.early, *client.packets()])
    nothing_left(lab)


@pytest.mark.parametrize("how", ["expiry", "clean start", "end"])
def test_what_waited_for_a_session_that_ended_is_forgotten(how: str) -> None:
    lab = Lab()
    away(lab, "c", "a")
    lab.connect("p").publish("a", b"x", 1)
    if how == "expiry":
        lab.advance(3602)
    elif how == "clean start":
        lab.connect("c", clean=True)
    else:
        lasting(lab).disconnect(session_expiry=0)
    nothing_left(lab)
    assert lab.journal.subscriptions == {}


def test_what_expires_is_forgotten_and_counted() -> None:
    lab = Lab()
    away(lab, "c", "#")
    sender = lab.connect("p", keep_alive=0)
    for number in range(20):
        sender.publish("a", b"%d" % number, 1, message_expiry=(10, 1000)[number % 3 == 0])
    lab.advance(62)
    counters = lab.core.counters
    assert (counters.log_messages_appended, counters.log_messages_expired) == (20, 13)
    assert sorted(m.payload for m in lab.journal.messages.values()) == sorted(b"%d" % n for n in range(0, 20, 3))
    assert receive_all(lab) == [b"%d" % n for n in range(0, 20, 3)]
    nothing_left(lab)


def test_what_is_in_flight_when_it_expires_in_the_log_is_still_delivered() -> None:
    lab = Lab()
    away(lab, "c", "a")
    lab.connect("p").publish("a", b"x", 1, message_expiry=10)
    client = lasting(lab, keep_alive=0)
    (message,) = client.early
    lab.advance(62)
    assert isinstance(message, Publish)
    client.ack(message)
    assert lab.core.counters.messages_delivered == 1
    nothing_left(lab)


def test_a_subscription_that_a_session_makes_while_it_catches_up_leaves_nothing() -> None:
    """It begins behind what waits on its topics; the one of QoS 0 that it had does not lead there either."""
    lab = Lab()
    away(lab, "other", "b")
    client = lasting(lab)
    client.subscribe("#", 0)
    client.subscribe("a", 1)
    client.drop()
    sender = lab.connect("p")
    sender.publish("a", b"1", 1)
    lab.hold = True
    client = lasting(lab)
    sender.publish("b", b"2", 1)
    client.send(Subscribe(9, [Request("b", 1)]))
    lab.hold = False
    lab.commit()
    assert [(m.payload, m.qos) for m in answer(client, client.packets())] == [(b"2", 0), (b"1", 1)]
    assert receive_all(lab, "other") == [b"2"]
    nothing_left(lab)


# -- reading it again --------------------------------------------------------------------------------------------------


class Slow(Lab):
    """Reading takes its time: it ends with `read`."""

    def commit(self) -> None:
        core = self.core
        while core.to_write:
            batch = core.take()
            if batch is not None:
                self.journal.commit(batch)
                core.committed()
            core.flush()

    def look_up(self) -> tuple[list, list[SavedMessage]]:  # type: ignore[type-arg]
        sessions, seqs = self.core.next_wanted(1000)
        return sessions, self.journal.fetch(seqs)

    def read(self) -> None:
        while self.core.wanted:
            self.core.fetched(*self.look_up())
            self.flush()


def test_what_was_read_for_one_connection_is_not_taken_for_what_the_next_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes back while the disk is slow: what it wants now was not asked for, and is not missing."""
    monkeypatch.setattr("broker.session.log.BODIES_BYTES_MAX", 0)
    lab = Slow()
    away(lab, "c", "a")
    sender = lab.connect("p")
    sender.publish("a", b"1", 1)
    sender.publish("a", b"2", 1)
    client = lasting(lab, receive_maximum=1)
    lab.read()
    (first,) = client.messages()
    client.ack(first)
    assert [m.payload for m in client.messages()] == [b"2"]  # in flight
    for number in range(3, 6):
        sender.publish("a", b"%d" % number, 1)
    client.drop()
    client = lasting(lab)
    lab.read()
    lab.flush()
    client.drop()
    client = lasting(lab)
    late = lab.look_up()
    client.drop()
    client = lasting(lab)
    lab.core.fetched(*late)
    lab.read()
    assert [m.payload for m in answer(client, client.packets())] == [b"2", b"3", b"4", b"5"]


def test_a_read_that_ends_before_what_it_waits_for_is_on_the_disk_sends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In flight first, then what waited, however slow the disk is."""
    monkeypatch.setattr("broker.session.log.BODIES_BYTES_MAX", 0)
    lab = Slow()
    away(lab, "c", "a", qos=2)
    sender = lab.connect("p")
    for number in range(4):
        sender.publish("a", b"%d" % number, 2)
    client = lasting(lab, receive_maximum=2)
    lab.read()
    assert [m.payload for m in client.messages()] == [b"0", b"1"]
    client.drop()
    client = lasting(lab)
    late = lab.look_up()
    client.drop()
    lab.hold = True
    client = lasting(lab)
    lab.core.fetched(*late)
    lab.flush()
    assert client.packets() == []
    lab.hold = False
    lab.flush()
    lab.read()
    assert [(m.payload, m.dup) for m in client.messages()][:2] == [(b"0", True), (b"1", True)]


def test_what_went_out_of_memory_while_the_rest_was_read_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Slow()
    away(lab, "c", "a")
    sender = lab.connect("p")
    for number in range(5):
        sender.publish("a", b"%d" % number, 1)
    (first, *_) = lab.core.log._recent
    lab.core.log._recent_bytes -= lab.core.log._recent.pop(first).size
    client = lasting(lab)
    late = lab.look_up()
    monkeypatch.setattr("broker.session.log.BODIES_BYTES_MAX", 0)
    lab.core.log.remember(lab.core.log.restored(SavedMessage(99, b"z", b"z" * 100, 1)))
    assert not lab.core.log._recent
    lab.core.fetched(*late)
    lab.read()
    assert [m.payload for m in answer(client, client.packets())] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_connection_that_ends_in_the_middle_of_reading_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some has been read and waits for room, some is still to be read: that stays behind it."""
    monkeypatch.setattr("broker.session.log.BODIES_BYTES_MAX", 0)
    lab = Slow()
    away(lab, "c", "a")
    sender = lab.connect("p")
    for number in range(9):
        sender.publish("a", b"%d" % number, 1)
    client = lasting(lab, receive_maximum=1)
    lab.core.fetched(*lab.look_up())  # three of them
    lab.flush()
    assert client.session.waiting == 2
    assert client.session.fetching
    client.drop()
    for again in (lab, lab.crash()):
        client = lasting(again)
        again.commit()
        while again.core.wanted:
            sessions, seqs = again.core.next_wanted(1000)
            again.core.fetched(sessions, again.journal.fetch(seqs))
            again.flush()
        got = [p.payload for p in [*client.early, *client.packets()] if isinstance(p, Publish)]
        assert got == [b"%d" % number for number in range(9)]


@pytest.mark.parametrize("qos", [1, 2])
def test_an_answer_to_what_came_on_the_last_connection_ends_nothing(qos: int, bodies: str) -> None:
    """It comes before the message is sent again: that goes on, and whoever else waits for it still gets it."""
    lab = Lab()
    away(lab, "other", "a", qos=qos)
    client = lasting(lab)
    client.subscribe("a", qos)
    lab.connect("p").publish("a", b"x", qos)
    (message,) = client.messages()
    client.drop()
    lab.hold = True
    client = lasting(lab)
    for _ in range(3):
        client.send((Puback if qos == 1 else Pubrec)(message.packet_id))
    lab.hold = False
    lab.commit()
    assert [(m.payload, m.dup) for m in answer(client, client.packets())] == [(b"x", True)]
    assert receive_all(lab, "other") == [b"x"]
    nothing_left(lab)


# -- groups ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_what_a_group_gets_while_all_are_away_waits_for_the_one_whose_turn_it_was(qos: int, bodies: str) -> None:
    lab = Lab()
    for name in ("c", "d"):
        away(lab, name, "$share/g/a", qos=qos)
    sender = lab.connect("p")
    for number in range(6):
        sender.publish("a", b"%d" % number, qos)
    again = lab.crash()
    shares = [receive_all(again, name) for name in ("c", "d")]
    assert sorted(shares) == [[b"0", b"2", b"4"], [b"1", b"3", b"5"]]
    nothing_left(again)


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("online", [False, True])
def test_who_gets_a_message_for_a_group_and_for_itself_leaves_nothing(online: bool, crash: bool, qos: int) -> None:
    lab = Lab()
    client = lasting(lab)
    client.subscribe("a", qos)
    client.subscribe("$share/g/a", qos)
    client.subscribe("$share/h/#", qos)
    if not online:
        client.drop()
    lab.connect("p").publish("a", b"x", qos)
    if online:
        first = client.messages()
        assert len(first) == 3
        client.send((Puback if qos == 1 else Pubrec)(first[0].packet_id))
        client.drop()
    lab = lab.crash() if crash else lab
    assert 1 <= len(receive_all(lab)) <= 3
    nothing_left(lab)


# -- from lasting to passing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", ["", "$share/g/"])
@pytest.mark.parametrize("version", [4, 5])
def test_one_that_will_end_with_its_connection_gets_all_until_then(version: int, shared: str, bodies: str) -> None:
    """It takes up its session without keeping it: what waited comes first, then what is published meanwhile."""
    lab = Lab()
    away(lab, "c", f"{shared}a")
    sender = lab.connect("p", version)
    for number in range(3):
        sender.publish("a", b"%d" % number, 1)
    client = lab.connect("c", clean=False, receive_maximum=1)  # session expiry 0
    got = [p for p in client.early if isinstance(p, Publish)]
    for number in range(3, 8):
        sender.publish("a", b"%d" % number, 1)
    assert not client.session.live
    got += answer(client, [*got, *client.packets()])[len(got) :]
    assert [m.payload for m in got] == [b"%d" % number for number in range(8)]
    sender.publish("a", b"8", 1)
    client.drop()
    nothing_left(lab)
    assert lab.journal.sessions == {}
