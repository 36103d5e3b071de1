"""Clients whose identity does not say what they may do: somebody is asked, and nothing overtakes the question."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from support.engine import Engine, running, until
from support.mqtt import Client

from broker.identity import ANONYMOUS, Identity, Role
from broker.journal import Batch
from broker.limits import DECISION_S, DECISIONS_MAX
from broker.session import connect
from broker.session.channel import Channel
from broker.session.rights import Action, Rights, Verdicts
from broker.wire.packets import Connect, Pingreq, Pingresp, Puback, Publish, Pubrec, Request, Suback, Subscribe

DENIED = 0x87


class Oracle:
    """Is asked. Answers at once what `says` has, or when a test has it do so."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.asked: list[tuple[Action, list[str]]] = []
        self.waiting: list[tuple[list[str], Callable[[Verdicts], None]]] = []
        self.says: Callable[[str], bool | None] | None = lambda name: True
        self.channel: Channel | None = None

    def admit(self, channel: Channel, packet: Connect) -> None:
        if packet.username is None:
            connect.accepted(channel, ANONYMOUS)
            return
        self.channel = channel
        rights = Rights(channel, ("shop/#", "other/+"), self.ask)
        connect.accepted(channel, Identity(Role.GUEST, name=packet.username), rights=rights)

    def ask(self, action: Action, names: Sequence[str], then: Callable[[Verdicts], None]) -> None:
        self.asked.append((action, list(names)))
        self.waiting.append((list(names), then))
        if self.says is not None:
            asyncio.get_running_loop().call_soon(self.answer, self.says)

    def answer(self, says: Callable[[str], bool | None]) -> None:
        names, then = self.waiting.pop(0)
        self.engine.reactor.run(lambda: then([says(name) for name in names]), self.channel)


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with running() as engine:
        yield engine
        assert engine.counters.unexpected_errors == 0


@pytest.fixture
def oracle(engine: Engine) -> Oracle:
    oracle = Oracle(engine)
    engine.core.admit = oracle.admit
    return oracle


async def guest(engine: Engine, client_id: str = "g", **fields: Any) -> Client:
    return await Client.connected(engine.port, client_id, **{"username": "ada", **fields})


async def reader(engine: Engine) -> Client:
    client = await Client.connected(engine.port, "reader")
    await client.subscribe("#")
    return client


async def test_a_topic_is_asked_about_once(engine: Engine, oracle: Oracle) -> None:
    client, other = await guest(engine), await reader(engine)
    for number in range(5):
        await client.publish("shop/a", b"%d" % number)
        await other.expect_message(b"%d" % number)
        answer = await client.publish("shop/a", b"q%d" % number, qos=1)
        assert answer is not None
        assert answer.reason == 0
        await other.expect_message(b"q%d" % number)
    assert oracle.asked == [("publish", ["shop/a"])]
    assert engine.counters.messages_received == 10


async def test_what_is_refused_is_told_and_asked_about_once(engine: Engine, oracle: Oracle) -> None:
    oracle.says = lambda name: False
    client, other = await guest(engine), await reader(engine)
    for _ in range(3):
        answer = await client.publish("shop/a", b"x", qos=1)
        assert answer is not None
        assert answer.reason == DENIED
        await client.publish("shop/a", b"x")
        await client.publish("shop/a", b"x", qos=2)
        assert (await client.expect(Pubrec)).reason == DENIED
    assert (await client.subscribe("shop/#", "shop/b", qos=1)).reasons == [DENIED, DENIED]
    assert oracle.asked == [("publish", ["shop/a"]), ("subscribe", ["shop/#", "shop/b"])]
    assert engine.counters.publishes_refused == 9
    await other.silent()


async def test_an_old_client_is_told_in_its_way(engine: Engine, oracle: Oracle) -> None:
    oracle.says = lambda name: False
    client = await guest(engine, version=4)
    assert (await client.subscribe("shop/#")).reasons == [0x80]
    await client.send(Publish(b"shop/a", b"x", 1, packet_id=1))
    await client.expect_end()


@pytest.mark.parametrize("topic", ["other", "other/a/b", "shops/a", "acme/user/ada", "$SYS/x", "$enrol/csr"])
async def test_beyond_what_is_open_nobody_is_asked(engine: Engine, oracle: Oracle, topic: str) -> None:
    client = await guest(engine)
    answer = await client.publish(topic, b"x", qos=1)
    assert answer is not None
    assert answer.reason == DENIED
    filters = (topic, "#", "+/#", "+/a", "other/#", "$share/g/#", "$SYS/#")
    assert set((await client.subscribe(*filters)).reasons) == {DENIED}
    assert oracle.asked == []


async def test_what_only_others_may_say_is_closed(engine: Engine, oracle: Oracle) -> None:
    client = await guest(engine)
    for topic in ("shop/receipts/m1", "shop/device/till-3/up/receipt", "shop/device/till-3/up"):
        answer = await client.publish(topic, b"x", qos=1)
        assert answer is not None
        assert answer.reason == DENIED
    assert oracle.asked == []


async def test_each_filter_is_answered_for_itself(engine: Engine, oracle: Oracle) -> None:
    oracle.says = lambda name: name != "shop/b"
    client, other = await guest(engine), await reader(engine)
    answer = await client.subscribe("shop/a", "shop/b", "other/#", "$share/g/shop/c", "shop/a")
    assert answer.reasons == [0, DENIED, DENIED, 0, 0]
    assert oracle.asked == [("subscribe", ["shop/a", "shop/b", "shop/c"])]
    for topic in ("shop/b", "shop/c", "shop/a"):
        await other.publish(topic, topic.encode())
    assert [(await client.expect_message()).topic for _ in range(2)] == [b"shop/c", b"shop/a"]


async def test_nothing_overtakes_a_question(engine: Engine, oracle: Oracle) -> None:
    oracle.says = None
    client, other = await guest(engine), await reader(engine)
    names = [b"shop/a", b"shop/b", b"shop/a"]
    await client.send(
        *(Publish(topic, b"%d" % number, 1, packet_id=number) for number, topic in enumerate(names, 1)),
        Subscribe(9, [Request("shop/c")]),
        Pingreq(),
    )
    for messages in ([b"1"], [b"2", b"3"], []):
        await until(lambda: oracle.waiting)
        await other.silent()  # the others are served meanwhile
        assert len(oracle.waiting) == 1
        oracle.answer(lambda name: True)
        for payload in messages:
            await other.expect_message(payload)
    assert [(await client.expect(Puback)).packet_id for _ in range(3)] == [1, 2, 3]
    await client.expect(Suback)
    await client.expect(Pingresp)


async def test_no_answer_is_a_no_that_is_forgotten(engine: Engine, oracle: Oracle) -> None:
    oracle.says = lambda name: None
    client = await guest(engine)
    for _ in range(2):
        answer = await client.publish("shop/a", b"x", qos=1)
        assert answer is not None
        assert answer.reason == DENIED
        assert (await client.subscribe("shop/a")).reasons == [DENIED]
    oracle.says = lambda name: True
    answer = await client.publish("shop/a", b"x", qos=1)
    assert answer is not None
    assert answer.reason == 0x10
    assert len(oracle.asked) == 5


async def test_after_a_minute_it_is_asked_again(engine: Engine, oracle: Oracle) -> None:
    client, other = await guest(engine), await reader(engine)
    await client.publish("shop/a", b"1")
    await other.expect_message(b"1")
    oracle.says = lambda name: False
    engine.core.wheel.advance(engine.core.now + DECISION_S - 2)
    await client.publish("shop/a", b"2")
    await other.expect_message(b"2")  # still known, on the fast way
    engine.core.wheel.advance(engine.core.now + DECISION_S + 2)
    await client.publish("shop/a", b"3")
    await client.silent()
    assert len(oracle.asked) == 2
    engine.core.wheel.advance(engine.core.now + 3 * DECISION_S)
    oracle.says = lambda name: True
    await client.publish("shop/a", b"4")
    await other.expect_message(b"4")
    assert len(oracle.asked) == 3


async def test_a_flood_of_topics_stays_bounded(engine: Engine, oracle: Oracle) -> None:
    client, other = await guest(engine), await reader(engine)
    count = 2 * DECISIONS_MAX + 10
    await client.send(*(Publish(b"shop/%d" % number, b"x") for number in range(count)))
    for number in range(count):
        assert (await other.expect(Publish)).topic == b"shop/%d" % number
    assert len(oracle.asked) == count
    channel = oracle.channel
    assert channel is not None
    assert channel.rights is not None
    assert len(channel.rights._known) <= DECISIONS_MAX
    assert len(channel.routes) <= DECISIONS_MAX


async def test_a_subscribe_of_the_largest_size(engine: Engine, oracle: Oracle) -> None:
    """It is answered, though what is known has to make room for it."""
    client = await guest(engine)
    for number in range(30):
        await client.publish(f"shop/{number}", b"x")
    filters = [f"shop/{number}" for number in range(1000)]
    assert (await client.subscribe(*filters)).reasons == [0] * 250 + [0x97] * 750
    assert [len(names) for action, names in oracle.asked if action == "subscribe"] == [1000]


async def test_who_is_gone_gets_no_answer(engine: Engine, oracle: Oracle) -> None:
    oracle.says = None
    client, other = await guest(engine), await reader(engine)
    await client.publish("shop/a", b"1")
    await until(lambda: oracle.waiting)
    assert oracle.channel is not None
    engine.reactor.run(oracle.channel.close)
    await client.expect_end()
    oracle.answer(lambda name: True)
    await other.silent()


async def test_waiting_is_not_silence(engine: Engine, oracle: Oracle) -> None:
    """A client is not told that it is silent by one who does not read it."""
    oracle.says = None
    client, other = await guest(engine, keep_alive=1), await reader(engine)
    await client.publish("shop/a", b"1")
    await until(lambda: oracle.waiting)
    channel = oracle.channel
    assert channel is not None
    engine.core.wheel.advance(engine.core.now + 10)
    assert not channel.closed
    oracle.answer(lambda name: True)
    await other.expect_message(b"1")


async def test_a_commit_does_not_end_the_wait(engine: Engine, oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that is held for an answer is not read again because an older message has been written."""
    away = await Client.connected(engine.port, "away", clean_start=False, version=4)
    await away.subscribe("shop/a", qos=1)
    await away.disconnect()
    client, other = await guest(engine), await reader(engine)
    go, commit = asyncio.Event(), engine.committer._journal.commit

    async def slow(batch: Batch) -> None:
        await go.wait()
        await commit(batch)

    monkeypatch.setattr(engine.committer._journal, "commit", slow)
    await client.publish("shop/a", b"0")
    await other.expect_message(b"0")
    oracle.says = None
    await client.send(Publish(b"shop/a", b"1", 1, packet_id=1), Publish(b"shop/b", b"2"), Publish(b"shop/a", b"3"))
    await other.expect_message(b"1")
    await until(lambda: oracle.waiting)
    go.set()
    await client.expect(Puback)
    await other.silent()
    oracle.answer(lambda name: True)
    await other.expect_message(b"2")
    await other.expect_message(b"3")
