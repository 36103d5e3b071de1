"""How much each may do: the buckets, and a client that takes more than it may."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engine import Engine, until
from support.mqtt import Client
from support.pki import Pki

from broker.identity import Identity, Role
from broker.limits import BURST_S, METERS_MAX
from broker.listen import rates
from broker.listen.rates import Allowance, Meter, Meters, Rates
from broker.wire.encode import encode
from broker.wire.packets import Disconnect, Pingresp, Puback, Publish, Request, Subscribe, Will

KIOSK = Identity(Role.DEVICE, "acme", "kiosk-7")
TILL = Identity(Role.DEVICE, "acme", "till-3")

# -- buckets -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 500)), max_size=50), st.integers(1, 200))
def test_no_more_gets_through_than_the_rate_and_one_burst(asked: list[tuple[float, int]], rate: int) -> None:
    """Whatever the pattern, for one who waits as it is told: time x rate + burst + the last piece."""
    meter, now, taken = Meter(), 1000.0, 0
    began = now
    for pause, messages in asked:
        now += pause
        taken += messages
        over = meter.spend(Rates(messages=rate), now, messages, 0)
        assert taken <= (now - began + BURST_S) * rate + messages + 1e-6
        now += max(0.0, over)


@pytest.mark.parametrize("what", ["messages", "bytes"])
def test_a_bucket_holds_a_burst_and_fills_with_time(what: str) -> None:
    meter, rate = Meter(), Rates(messages=10) if what == "messages" else Rates(bytes=10)
    assert meter.spend(rate, 1000, 100, 100) == 0
    assert meter.spend(rate, 1000, 10, 10) == pytest.approx(1)
    assert meter.spend(rate, 1001, 0, 0) == pytest.approx(0)
    assert not meter.full(1010)
    assert meter.full(1011)
    assert meter.spend(rate, 5000, 100, 100) == 0  # it never holds more than that


def test_connects_that_are_refused_take_nothing_out() -> None:
    meter, rate = Meter(), Rates(connects=1)
    assert all(meter.connect(rate, 1000) for _ in range(10))
    assert not any(meter.connect(rate, 1000.5) for _ in range(100))
    assert meter.connect(rate, 1001)


def test_no_rate_is_no_bound() -> None:
    meter = Meter()
    assert all(meter.connect(Rates(), 1000) for _ in range(1000))
    assert meter.spend(Rates(), 1000, 10**9, 10**12) == 0


def test_meters_of_those_who_did_nothing_lately_are_forgotten() -> None:
    meters = Meters()
    for n in range(3000):
        meters.of(str(n), n).spend(Rates(messages=100), n, 1, 0)
    assert len(meters) <= 1024


def test_meters_are_bounded_even_if_nobody_rests() -> None:
    meters = Meters()
    for n in range(METERS_MAX + 10):
        meters.of(str(n), 1000).spend(Rates(messages=1), 1000, 5, 0)
    assert len(meters) <= METERS_MAX
    assert meters.of(str(METERS_MAX + 9), 1000).spend(Rates(messages=1), 1000, 6, 0) == pytest.approx(1)


def test_identities_have_a_bucket_each_and_share_the_listeners() -> None:
    allowance = Allowance(Rates(messages=100), Meter(), Rates(messages=10), Meters())
    assert allowance.spend(KIOSK, 1000, 101, 0) == pytest.approx(0.1)
    assert allowance.spend(TILL, 1000, 100, 0) == pytest.approx(0)
    for n in range(8):
        assert allowance.spend(Identity(Role.DEVICE, "acme", str(n)), 1000, 99, 0) <= 0
    assert allowance.spend(Identity(Role.DEVICE, "acme", "late"), 1000, 50, 0) == pytest.approx(0.43)


def test_a_bound_may_come_and_go() -> None:
    allowance = Allowance(Rates(), Meter(), Rates(), Meters())
    assert not allowance.bounded
    allowance.change(Rates(bytes=10))
    assert allowance.bounded
    assert allowance.spend(KIOSK, 1000, 0, 110) == pytest.approx(1)
    allowance.change(Rates())
    assert not allowance.bounded


# -- on a socket -------------------------------------------------------------------------------------------------------


@pytest.fixture
def _short_burst(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(rates, "BURST_S", 0.1)
    return


@pytest.mark.usefixtures("_short_burst")
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("rate", [Rates(messages=1000), Rates(bytes=30_000)], ids=["messages", "bytes"])
async def test_a_flood_is_read_more_slowly_and_nothing_of_it_is_lost(engine: Engine, rate: Rates, version: int) -> None:
    port = engine.listen(rates=rate)
    receiver = await Client.connected(engine.port, "receiver")
    await receiver.subscribe("flood/#")
    flooder = await Client.connected(port, "flooder", version=version)
    began = time.monotonic()
    body = bytes(30)
    await flooder.send(*(encode(Publish(b"flood/%d" % n, body, 1, packet_id=n + 1), version) for n in range(600)))
    for n in range(600):
        assert (await receiver.expect_message()).topic == b"flood/%d" % n
        assert (await flooder.expect(Puback)).packet_id == n + 1
    assert time.monotonic() - began > 0.3  # 600 at 1,000 a second; 27 KB at 30,000; both less the burst
    assert engine.counters.readings_paused > 0
    assert any(event == "sends too much, read more slowly" for event, _ in engine.events)


@pytest.mark.usefixtures("_short_burst")
async def test_one_who_floods_is_nobody_elses_burden(engine: Engine) -> None:
    """Its connection is not read; those on the same listener with a bucket of their own, and all others, are."""
    port = engine.listen(rates=Rates(messages=100))
    flooder = await Client.connected(port, "flooder")
    await flooder.send(*(encode(Publish(b"x"), 5) for _ in range(400)))
    await until(lambda: engine.counters.readings_paused > 0)
    taken = engine.counters.messages_received
    other = await Client.connected(engine.port, "other")
    await other.subscribe("t")
    for n in range(50):
        await other.publish("t", b"%d" % n)
        await other.expect_message(b"%d" % n)
    assert taken < 300
    await flooder.close()


@pytest.mark.usefixtures("_short_burst")
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_large_packets_survive_being_taken_in_pieces(engine: Engine, pki: Pki, tls: bool) -> None:
    port = engine.listen((lambda: pki.context) if tls else None, rates=Rates(bytes=100_000))  # 10 KB at once
    flooder = await Client.connected(port, "flooder", tls=pki.client() if tls else None)
    receiver = await Client.connected(engine.port, "receiver")
    await receiver.subscribe("large")
    bodies = [bytes((n,)) * (n * 700) for n in range(0, 25, 3)]  # up to 17 KB, 75 KB in all
    await flooder.send(*(encode(Publish(b"large", body), 5) for body in bodies))
    for body in bodies:
        await receiver.expect_message(body)
    assert engine.counters.readings_paused > 0
    await flooder.silent()


@pytest.mark.usefixtures("_short_burst")
async def test_topic_filters_count_as_messages(engine: Engine) -> None:
    port = engine.listen(rates=Rates(messages=200))
    client = await Client.connected(port, "c")
    await client.send(Subscribe(1, [Request(f"f/{n}", 0) for n in range(100)]))
    await until(lambda: engine.counters.readings_paused == 1)


@pytest.mark.usefixtures("_short_burst")
async def test_bytes_that_are_of_no_message_count_too(engine: Engine) -> None:
    port = engine.listen(rates=Rates(bytes=10_000))
    client = await Client.connected(port, "c")
    for _ in range(10):  # 2,000 bytes, a few at a time
        await client.send(b"\xc0\0" * 100)
        for _ in range(100):
            await client.expect(Pingresp)
    assert engine.counters.readings_paused > 0


@pytest.mark.usefixtures("_short_burst")
async def test_who_leaves_during_its_pause_is_gone(engine: Engine) -> None:
    port = engine.listen(rates=Rates(messages=100))
    client = await Client.connected(port, "c")
    await client.send(*(encode(Publish(b"x"), 5) for _ in range(100)))
    await until(lambda: engine.counters.readings_paused == 1)
    (connection,) = engine.reactor.connections.values()
    connection.close()
    client.abort()
    await until(lambda: not engine.reactor.connections)
    connection._try_again()
    assert not engine.reactor.connections


@pytest.mark.usefixtures("_short_burst")
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("version", [4, 5])
async def test_who_leaves_during_its_pause_is_heard_to_the_end(
    engine: Engine, pki: Pki, tls: bool, version: int
) -> None:
    """What it had sent counts, and its DISCONNECT takes the will away [MQTT-3.14.4-3], though TCP knows it is gone."""
    port = engine.listen((lambda: pki.context) if tls else None, rates=Rates(messages=400))
    watcher, other = await Client.connected(engine.port, "watcher"), await Client.connected(engine.port, "other")
    await watcher.subscribe("gone", "flood")
    flooder = await Client.connected(
        port, "flooder", version=version, tls=pki.client() if tls else None, will=Will(b"gone", b"bye")
    )
    await flooder.subscribe("to it")
    messages = (Publish(b"flood", b"%d" % n) for n in range(400))
    await flooder.send(b"".join(encode(packet, version) for packet in (*messages, Disconnect())))
    await until(lambda: engine.counters.readings_paused > 0)
    flooder.abort()
    for _ in range(3):  # the first makes its kernel say that nobody is there, the next ones fail
        await other.publish("to it", b"x", qos=0)
        await other.silent()
    for n in range(400):
        assert (await watcher.expect_message()).payload == b"%d" % n
    await until(lambda: len(engine.reactor.connections) == 2)
    await watcher.silent()
    assert engine.counters.wills_published == 0


@pytest.mark.usefixtures("_short_burst")
async def test_a_message_rate_of_a_websocket(engine: Engine) -> None:
    """What its frames carry is counted as on any other connection."""
    from support.web import WebClient

    from broker.listen.websocket import WebRules

    port = engine.listen(web=WebRules(), rates=Rates(messages=200))
    client = await WebClient.connected(port, "c")
    await client.send(*(encode(Publish(b"x"), 5) for _ in range(100)))
    await client.silent()
    assert engine.counters.readings_paused >= 1
    assert engine.counters.messages_received == 100


# -- connects ----------------------------------------------------------------------------------------------------------


async def test_a_listener_that_is_full_lets_the_next_in_when_one_has_left(engine: Engine) -> None:
    port = engine.listen(connections_max=2)
    first, second = await Client.connected(port, "a"), await Client.connected(port, "b")
    third = await Client.open(port)
    await third.expect_end()
    elsewhere = await Client.connected(engine.port, "c")
    await first.disconnect()
    await until(lambda: len(engine.reactor.connections) == 2)
    again = await Client.connected(port, "d")
    for client in (second, elsewhere, again):
        await client.silent()
    assert engine.counters.connections_refused >= 1


@pytest.mark.usefixtures("_short_burst")
async def test_more_connects_than_a_listener_takes_wait(engine: Engine) -> None:
    port = engine.listen(rates=Rates(connects=20))  # two at once, then one each 50 ms
    began = time.monotonic()
    for n in range(6):
        await Client.connected(port, f"c{n}")
    assert time.monotonic() - began > 0.1
    assert any("too many connects a second" in str(fields) for _, fields in engine.events)
    assert engine.counters.connections_refused == 0


# -- overload ----------------------------------------------------------------------------------------------------------


async def test_a_loop_that_is_late_again_and_again_is_overloaded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.reactor.overload_lag_s = 0.05
    monkeypatch.setattr("broker.listen.reactor.TICK_S", 0.01)
    await until(lambda: engine.reactor._tick_at - engine.reactor.loop.time() < 0.02)
    for _ in range(2):
        assert not engine.reactor.overloaded
        count = engine.reactor._strained
        time.sleep(0.1)  # noqa: ASYNC251 - as a long piece of work would
        await until(lambda count=count: engine.reactor._strained != count)  # type: ignore[misc]
    assert engine.reactor.overloaded
    assert engine.counters.overloads == 1
    await until(lambda: not engine.reactor.overloaded)
    assert [event for event, _ in engine.events if "overloaded" in event] == [
        "overloaded",
        "not overloaded any more",
    ]


async def test_one_long_piece_of_work_is_no_overload(engine: Engine) -> None:
    engine.reactor.overload_lag_s = 0.05
    for lag in (0.3, 0, 0.3, 0):
        engine.reactor.lag_s = lag
        engine.reactor._judge()
        assert not engine.reactor.overloaded
