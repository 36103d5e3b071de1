"""The log in memory: what is listed under a topic, what is held, and what is forgotten. Against a simple model."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import lines
from support.loopback import Lab

from broker.counters import Counters
from broker.journal import SavedMessage, size_of
from broker.limits import SWEPT_MAX
from broker.message import Message
from broker.session.log import Log

OFFSET_S = 1.7e9


def new() -> Log:
    return Log(Counters(), OFFSET_S)


def put(log: Log, topic: bytes = b"a", payload: bytes = b"x", *, listed: bool = True, expires_at: float = 0.0) -> int:
    """One more message; its number."""
    log.head += 1
    log.append(Message(topic, payload, 1, expires_at=expires_at, seq=log.head), listed=listed)
    return log.head


def written(log: Log) -> list[SavedMessage]:
    """What is to be written is on the disk."""
    batch, log.batch = log.batch, type(log.batch)()
    log.written(batch.messages)
    return batch.messages


def listed(log: Log) -> dict[bytes, list[int]]:
    return {topic: list(found.seqs) for topic, found in log.topics.items()}


def adds_up(log: Log) -> None:
    counters = log.counters
    sizes: dict[int, int] = dict(log._detached)
    for found in log.topics.values():
        assert found.bytes == sum(found.sizes)
        assert list(found.seqs) == sorted(found.seqs)
        assert len(found.seqs) == len(found.sizes) == len(found.expires or found.seqs)
        sizes |= dict(zip(found.seqs, found.sizes, strict=True))
    assert (log.messages, log.bytes) == (len(sizes), sum(sizes.values()))
    assert counters.log_messages_appended == (
        log.messages + counters.log_messages_delivered + counters.log_messages_expired + counters.log_messages_dropped
    )
    assert log.unwritten_bytes == sum(
        size_of(m.topic, m.payload, m.properties, m.publisher) for m in log._unwritten.values()
    )
    assert log._recent_bytes == sum(m.size for m in log._recent.values())
    assert set(log._unwritten).isdisjoint(log._recent)


# -- what is forgotten -------------------------------------------------------------------------------------------------


def test_a_message_is_forgotten_when_nobody_lists_and_nobody_holds_it() -> None:
    log = new()
    kept, both, held = put(log), put(log), put(log, listed=False)
    log.hold(both, 2)
    log.hold(held)
    log.drop(b"a", both)
    assert log.batch.forgotten == [kept]
    assert log.size_of_detached(both) > 0
    log.release(both)
    log.release(held)
    assert log.batch.forgotten == [kept, held]
    log.release(both)
    assert log.batch.forgotten == [kept, held, both]
    assert (log.messages, log.bytes, log.unwritten_bytes) == (0, 0, 0)
    assert listed(log) == {}
    adds_up(log)


def test_what_is_listed_stays_when_it_is_let_go_of() -> None:
    log = new()
    seq = put(log)
    log.hold(seq)
    log.release(seq)
    assert log.batch.forgotten == []
    assert listed(log) == {b"a": [seq]}


def test_dropping_goes_up_to_a_number() -> None:
    log = new()
    seqs = [put(log, topic) for topic in (b"a", b"b") * 3]
    log.drop(b"a", seqs[3])
    assert listed(log) == {b"a": [seqs[4]], b"b": seqs[1::2]}
    log.drop(b"nobody's", log.head)
    log.drop(b"b", log.head)
    assert listed(log) == {b"a": [seqs[4]]}
    assert log.counters.log_messages_delivered == 5
    adds_up(log)


@pytest.mark.parametrize("pattern", ["", "x", "-", "x-", "-x", "xx--xx", "-x-x-x", "x--xx---x", "xxxx"])
@pytest.mark.parametrize("held", [False, True])
def test_what_has_expired_goes_wherever_it_is(pattern: str, held: bool) -> None:
    """`x` has expired. What somebody holds goes from the list only."""
    log = new()
    first = put(log, b"before")  # a topic that nobody looks at
    seqs = {put(log, expires_at=10.0 if mark == "x" else (0.0, 30.0)[at % 2]): mark for at, mark in enumerate(pattern)}
    gone = [seq for seq, mark in seqs.items() if mark == "x"]
    if held and gone:
        log.hold(gone[0])
    log.expire(b"a", 20.0)
    left = [seq for seq, mark in seqs.items() if mark == "-"]
    assert listed(log) == {b"before": [first], **({b"a": left} if left else {})}
    assert log.counters.log_messages_expired == max(0, len(gone) - (held and bool(gone)))
    adds_up(log)


@pytest.mark.parametrize(("messages_max", "bytes_max", "left"), [(3, 10**9, 2), (16, 10**9, 14), (100, 640, 9)])
def test_a_full_topic_gives_up_the_oldest_and_an_eighth_to_spare(messages_max: int, bytes_max: int, left: int) -> None:
    log = new()
    full = []
    while not (found := log.topics.get(b"a")) or not found.full(messages_max, bytes_max):
        full.append(put(log))
    log.trim(b"a", messages_max, bytes_max)
    assert listed(log) == {b"a": full[-left:]}
    assert log.counters.log_messages_dropped == len(full) - left
    adds_up(log)


def test_one_large_message_is_not_too_much() -> None:
    log = new()
    put(log, payload=b"x" * 1000)
    assert not log.topics[b"a"].full(10, 100)
    put(log)
    assert log.topics[b"a"].full(10, 100)


# -- in and out of memory ----------------------------------------------------------------------------------------------


def test_a_body_is_in_memory_until_it_is_written_and_a_while_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    log = new()
    seqs = [put(log, payload=b"x" * 600) for _ in range(4)]
    size = log._unwritten[seqs[0]].size
    monkeypatch.setattr("broker.session.log.BODIES_BYTES_MAX", 2 * size)
    assert all(log.body(seq) for seq in seqs)
    assert log.unwritten_bytes > 4 * 600
    written(log)
    assert log.unwritten_bytes == 0
    assert [log.body(seq) is not None for seq in seqs] == [False, False, True, True]
    log.drop(b"a", log.head)
    assert not any(log.body(seq) for seq in seqs)
    adds_up(log)


def test_a_message_comes_back_as_it_was() -> None:
    log = new()
    message = Message(b"a", b"x", 2, True, b"\x03\0\1t", 10.0, "acme/crm\np", "m1", receipt=True, seq=7, tracked=True)
    again = log.restored(log.saved(message))
    assert again == message
    log.offset += 100  # the process began anew, or the clock was set
    assert log.restored(log.saved(message)) == message
    forever = Message(b"a", b"x", 1, seq=8, tracked=True)
    assert log.restored(log.saved(forever)) == forever


def test_what_could_not_be_written_was_never_there() -> None:
    """But for who holds it: that is let go of later."""
    log = new()
    before = put(log)
    written(log)
    free, held, gone, alone = put(log), put(log), put(log, b"b", listed=False), put(log, b"b", listed=False)
    for seq in (held, gone, alone):
        log.hold(seq)
    log.release(gone)  # got, and forgotten
    batch = log.batch
    assert [m.seq for m in batch.messages] == [free, held, gone, alone]
    log.batch = type(batch)()
    log.undo(batch.messages)
    adds_up(log)
    assert listed(log) == {b"a": [before]}
    assert (log.counters.log_messages_appended, log.counters.log_messages_delivered) == (2, 1)
    assert (log.messages, log.body(free), log.body(held), log.body(alone)) == (1, None, None, None)
    log.release(held)
    log.release(alone)
    assert (log._held, log._detached) == ({}, {})
    adds_up(log)


def test_a_retained_message_is_adopted_once() -> None:
    log = new()
    first, second = put(log, b"a"), put(log, b"b", listed=False)
    log.hold(second)
    for topic, seq in ((b"a", first), (b"b", second)):
        log.adopt(Message(topic, b"x", 2, True, seq=seq))
    assert len(log.batch.messages) == 2
    log.release(second)
    assert log.batch.forgotten == [second]
    log.adopt(Message(b"b", b"x", 2, True, seq=second))
    log.hold(second)
    assert log.batch.forgotten == []  # else it would be deleted behind its being written
    assert [m.seq for m in log.batch.messages] == [first, second, second]
    log.adopt(Message(b"a", b"x", 2, True, seq=first))
    adds_up(log)


def test_what_was_in_the_journal_is_listed() -> None:
    log = new()
    log.load([(3, b"a", 70, 0.0), (5, b"b", 80, OFFSET_S + 10), (9, b"a", 90, OFFSET_S + 50)])
    assert (log.head, log.messages, log.bytes) == (9, 3, 240)
    assert listed(log) == {b"a": [3, 9], b"b": [5]}
    log.expire(b"a", 20.0)
    log.expire(b"b", 20.0)
    assert listed(log) == {b"a": [3, 9]}
    adds_up(log)


# -- topics ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a", [b"a"]),
        (b"a/b", [b"a/b"]),
        (b"nobody's", []),
        (b"#", [b"a", b"a/b", b"a/c/d", b"ab", b"/"]),
        (b"a/#", [b"a", b"a/b", b"a/c/d"]),
        (b"+", [b"a", b"ab"]),
        (b"a/+", [b"a/b"]),
        (b"a/+/d", [b"a/c/d"]),
        (b"+/+", [b"a/b", b"/"]),
        (b"$s/#", [b"$s/x"]),
    ],
)
def test_topics_by_filter(name: bytes, expected: list[bytes]) -> None:
    log = new()
    for topic in (b"a", b"a/b", b"a/c/d", b"ab", b"/", b"$s/x"):
        put(log, topic)
    assert sorted(topic for topic, _ in log.matching(name)) == sorted(expected)


def test_a_filter_looks_at_no_topic_that_it_does_not_match() -> None:
    """Each subscription with a wildcard that came, went or came back looked at all: 0.2 s with a million topics."""

    def effort(topics: int) -> tuple[int, int]:
        lab = Lab()
        for n in range(topics):
            put(lab.core.log, b"acme/user/u%d" % n)
        client = lab.connect("c", session_expiry=1000)
        coming = lines(lambda: client.subscribe("acme/device/+", 1))
        client.drop()
        put(lab.core.log, b"acme/device/k")
        return coming, lines(lambda: lab.connect("c", clean=False, session_expiry=1000))

    few, many = effort(10), effort(500)
    assert many == pytest.approx(few, abs=30)


def test_what_very_many_topics_are_looked_through_for_is_done_in_parts() -> None:
    lab = Lab()
    for n in range(3 * SWEPT_MAX):
        put(lab.core.log, b"acme/user/u%d" % n)
    lab.core.log.touch(b"acme/#")
    before = lab.core.log.messages
    lab.core.tick(lab.core.now + 0.5)
    assert lab.core.log.messages == before
    lab.advance(10)
    assert lab.core.log.messages == 0


# -- any order ---------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 120))
def test_any_order_adds_up(seed: int, steps: int) -> None:
    """And what is neither listed nor held is forgotten, once, and nothing else is."""
    chance = random.Random(seed)
    log = new()
    holds: dict[int, int] = {}
    there: dict[int, tuple[bytes, bool, float]] = {}  # topic, listed, expiry
    forgotten: list[int] = []

    def expected() -> None:
        for seq in [seq for seq, (_, is_listed, _) in there.items() if not is_listed and seq not in holds]:
            del there[seq]
            forgotten.append(seq)

    for _ in range(steps):
        topic = chance.choice([b"a", b"b"])
        match chance.randrange(8):
            case 0 | 1 | 2:
                is_listed = chance.random() < 0.7
                expires_at = chance.choice([0.0, 0.0, 5.0, 15.0])
                seq = put(log, topic, b"x" * chance.randrange(200), listed=is_listed, expires_at=expires_at)
                there[seq] = (topic, is_listed, expires_at)
                if not is_listed or chance.random() < 0.3:
                    log.hold(seq)
                    holds[seq] = 1
            case 3 if there:
                seq = chance.choice(list(there))
                times = chance.randrange(1, 3)
                log.hold(seq, times)
                holds[seq] = holds.get(seq, 0) + times
            case 4 | 5 if holds:
                seq = chance.choice(list(holds))
                log.release(seq)
                holds[seq] -= 1
                if not holds[seq]:
                    del holds[seq]
            case 6:
                low = chance.randrange(log.head + 1)
                log.drop(topic, low)
                for seq, (of, _, at) in list(there.items()):
                    if of == topic and seq <= low:
                        there[seq] = (of, False, at)
            case 7 if chance.random() < 0.5:
                written(log)
                log.batch.forgotten = list(forgotten)
            case 7:
                log.expire(topic, 10.0)
                for seq, (of, is_listed, at) in list(there.items()):
                    if of == topic and is_listed and 0 < at <= 10.0:
                        there[seq] = (of, False, at)
        expected()
        adds_up(log)
        assert log._held == holds
        assert sorted(log.batch.forgotten) == sorted(forgotten)
        expected_list: dict[bytes, list[int]] = {}
        for seq, (of, is_listed, _) in there.items():
            if is_listed:
                expected_list.setdefault(of, []).append(seq)
        assert listed(log) == expected_list


def test_what_expired_before_the_machine_started_goes() -> None:
    """On a clock that begins with the machine its time is negative. It stayed for ever, and kept others from going."""
    log = new()
    stuck = [(n + 1, b"old/%d" % n, 10, OFFSET_S - 3600) for n in range(SWEPT_MAX)]
    log.load([*stuck, (SWEPT_MAX + 1, b"new", 10, OFFSET_S + 20), (SWEPT_MAX + 2, b"kept", 10, 0.0)])
    for now in (50.0, 120.0, 120.5):
        log.expire_due(now, SWEPT_MAX)
    assert listed(log) == {b"kept": [SWEPT_MAX + 2]}
    assert log.counters.log_messages_expired == SWEPT_MAX + 1
    adds_up(log)
