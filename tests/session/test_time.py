"""Keep Alive (§3.1.2.10) and the timer wheel that serves all deadlines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.loopback import Lab

from broker.limits import KEEP_ALIVE_MAX_S, TURN_WORK_MAX
from broker.session.wheel import Wheel
from broker.wire.packets import Pingreq, Puback

# -- keep alive ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("keep_alive", [1, 10, 60, 1000])
def test_silence_closes_after_one_and_a_half_times_the_keep_alive(version: int, keep_alive: int) -> None:
    """[MQTT-3.1.2-20, -22, MQTT-3.2.2-22]: 0x8D where it can be told; within a second and a tick, never before.

    3.1.1 [MQTT-3.1.2-24].
    """
    lab = Lab()
    client = lab.connect("c", version, keep_alive=keep_alive)
    lab.advance(keep_alive * 1.5 - 0.5)
    assert not client.closed
    lab.advance(2)
    assert client.goodbye() == (0x8D if version == 5 else None)
    assert lab.core.counters.keep_alive_timeouts == 1


@pytest.mark.parametrize("what", ["PINGREQ", "PUBLISH", "half a packet"])
def test_whatever_comes_counts(what: str) -> None:
    """§3.1.2.10: a packet on its way, too. The interval is from the end of one to the start of the next."""
    lab = Lab()
    client = lab.connect(keep_alive=10)
    data = {"PINGREQ": b"\xc0\0", "PUBLISH": b"\x30\x04\0\1a\0", "half a packet": b"\x30"}[what]
    for _ in range(10):
        lab.advance(14)
        client.feed(data if what != "half a packet" else b"\x30\x7f\0\1a" if client.channel.tail == b"" else b"x")
        assert not client.closed
    lab.advance(16.5)
    assert client.closed


def test_what_goes_out_does_not_count() -> None:
    """[MQTT-3.1.2-22] is about what the client sends: a dead peer must not live on what we send to it."""
    lab = Lab()
    client = lab.connect(keep_alive=10)
    client.subscribe("a", 1)
    sender = lab.connect("p", keep_alive=0)
    for _ in range(16):
        lab.advance(1)
        sender.publish("a", b"x")
        sender.publish("a", b"x", 1)
    lab.advance(1)
    assert client.closed
    assert not sender.closed


@pytest.mark.parametrize("why", ["held", "throttled"])
def test_silence_of_one_whom_we_do_not_read_does_not_count(why: str) -> None:
    lab = Lab()
    client = lab.connect(keep_alive=10)
    setattr(client.channel, why, True)
    lab.advance(100)
    assert not client.closed
    setattr(client.channel, why, False)
    lab.advance(17)
    assert client.closed


def test_no_keep_alive_in_3_1_1() -> None:
    """3.1.1 §3.1.2.10: 0 turns it off. 3.1.1 [MQTT-3.1.2-24]."""
    lab = Lab()
    client = lab.connect("c", 4, keep_alive=0)
    lab.advance(3 * KEEP_ALIVE_MAX_S)
    client.send(Pingreq())
    assert not client.closed


@pytest.mark.parametrize("asked", [0, KEEP_ALIVE_MAX_S + 1, 65535])
def test_mqtt_5_is_told_another_keep_alive(asked: int) -> None:
    """[MQTT-3.1.2-21, MQTT-3.2.2-21]: Server Keep Alive, and it is the one that counts."""
    lab = Lab()
    client = lab.connect(keep_alive=asked)
    assert client.connack.properties.server_keep_alive == KEEP_ALIVE_MAX_S
    lab.advance(KEEP_ALIVE_MAX_S * 1.5 - 1)
    assert not client.closed
    lab.advance(3)
    assert client.closed
    assert lab.connect(keep_alive=KEEP_ALIVE_MAX_S).connack.properties.server_keep_alive is None


def test_what_is_over_is_forgotten() -> None:
    """Neither a closed connection nor an ended session stays in memory until its deadline would have come."""
    lab = Lab(session_expiry_max_s=90 * 86400)
    for _ in range(20):
        client = lab.connect("c", clean=True, session_expiry=90 * 86400, keep_alive=3600)
        lab.advance(25)  # past the deadline of CONNECT, so that the long one is waited for
        client.send(Pingreq())
        client.drop()
    wheel = lab.core.wheel
    waiting = [item for bucket in wheel._buckets.values() for item in bucket]
    assert waiting == list(lab.core.sessions.values())
    lab.connect("c", clean=True).disconnect()
    assert wheel._buckets == {}


# -- the wheel -------------------------------------------------------------------------------------------------------


class Item:
    """Wants to be asked at `wants`; notes when it was, and then wants what `then` says."""

    def __init__(self, then: list[float] | None = None) -> None:
        self.wheel_at = 0
        self.wants = 0.0
        self.asked: list[float] = []
        self.then = then or []

    def due(self, now: float) -> float:
        self.asked.append(now)
        if now < self.wants:
            return self.wants
        self.wants = now + self.then.pop(0) if self.then else 0.0
        return self.wants


@given(
    st.floats(1, 1e6),
    st.lists(st.tuples(st.floats(0, 300), st.floats(0, 30)), min_size=1, max_size=10),
    st.lists(st.floats(0, 200), max_size=3),
)
def test_asked_in_time_and_not_before(start: float, moves: list[tuple[float, float]], then: list[float]) -> None:
    """A deadline may move either way while the clock goes on; it is met within a second of it, never early."""
    wheel, now = Wheel(start), start
    item = Item(then)
    deadline = 0.0
    for after, step in moves:
        if not item.wants:
            item.asked.clear()
        item.wants = deadline = now + after
        wheel.schedule(item, deadline)
        now += step
        wheel.advance(now)
        if now > deadline + 1:
            assert item.wants != deadline
    while item.wants:
        deadline = item.wants
        now += 0.5
        wheel.advance(now)
        if item.wants == deadline:
            assert now < deadline + 1
        else:
            assert deadline <= now < deadline + 1.5
    wheel.advance(now + 400)
    assert item.wheel_at == 0
    assert wheel._buckets == {}


def test_many_seconds_at_once() -> None:
    """The loop stood still: all that is due is asked, in order, what comes due anew meanwhile, too."""
    wheel = Wheel(0.0)
    items = [Item() for _ in range(50)]
    for number, item in enumerate(items):
        item.wants = float(number)
        wheel.schedule(item, item.wants)
    wheel.advance(40.0)
    assert [bool(item.asked) for item in items] == [number < 40 for number in range(50)]
    wheel.advance(51.0)
    assert all(len(item.asked) == 1 for item in items)


def test_those_who_are_due_together_are_asked_in_turns() -> None:
    """Nothing is asked twice or left out, though some are cancelled or hung anew between turns."""
    wheel = Wheel(0.0)
    items = [Item() for _ in range(50)]
    for item in items:
        wheel.schedule(item, 5.0)
    for turn in range(1, 5):
        wheel.advance(20.0, lambda: sum(len(item.asked) for item in items) >= 10 * turn)  # noqa: B023 - called at once
        assert wheel.behind
        assert sum(len(item.asked) for item in items) == 10 * turn
    left, gone = [item for item in items if not item.asked][:2]
    wheel.cancel(gone)
    wheel.cancel(left)
    left.wants = 21.0
    wheel.schedule(left, 21.0)
    wheel.advance(20.0)
    assert not wheel.behind
    assert [len(item.asked) for item in items].count(1) == 48
    wheel.advance(22.0)
    assert len(left.asked) == 1
    assert not gone.asked
    assert wheel._buckets == {}


def test_what_is_far_ahead_shares_its_place() -> None:
    """And is asked when it should be all the same."""
    wheel = Wheel(0.0)
    items = [Item() for _ in range(5000)]
    for number, item in enumerate(items):
        item.wants = 86400.5 + number
        wheel.schedule(item, item.wants)
    assert len(wheel._buckets) < 10
    for now in range(0, 86400 + 5001, 500):
        wheel.advance(float(now))
        assert [not item.wants for item in items] == [86400.5 + number < now for number in range(5000)]
    assert max(len(item.asked) for item in items) <= 2


def test_very_many_sessions_end_in_turns() -> None:
    lab = Lab()
    for n in range(1000):
        lab.connect(f"c{n}", session_expiry=10).drop()
    lab.one_turn = True
    before = lab.core.work
    lab.core.tick(lab.core.now + 12)
    assert lab.core.work - before < 2 * TURN_WORK_MAX
    assert 0 < len(lab.core.sessions) < 1000
    lab.one_turn = False
    lab.flush()
    assert not lab.core.sessions
    assert lab.core.counters.sessions_expired == 1000


def test_cancelled_by_one_that_is_asked_before_it() -> None:
    wheel = Wheel(0.0)

    class Last(Item):
        def due(self, now: float) -> float:
            for other in others:
                wheel.cancel(other)
            return super().due(now)

    others = [Last() for _ in range(3)]
    for item in others:
        wheel.schedule(item, 5.0)
    wheel.advance(10.0)
    assert sum(len(item.asked) for item in others) == 1
    wheel.cancel(others[0])  # who waits for nothing may be cancelled, too
    assert wheel._buckets == {}


def test_the_session_outlives_what_its_connection_waited_for() -> None:
    """The connection's deadlines go with it, the session's come when they should."""
    lab = Lab()
    client = lab.connect("c", session_expiry=30, keep_alive=5)
    client.subscribe("a", 1)
    client.drop()
    lab.advance(29)
    assert len(lab.core.sessions) == 1
    lab.advance(2.5)
    assert lab.core.sessions == {}
    assert lab.core.wheel._buckets == {}
    assert client.packets() == []
    client.send(Puback(1))
