"""What a clean restart keeps: everything that was promised to be kept."""

import time
from pathlib import Path

import pytest
from support.live import device, populate, port, running, server, settings
from support.mqtt import Client

from broker.app import Broker
from broker.wire.packets import (
    Connack,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Will,
)

DAY_S = 86400


async def _comes_back(broker: Broker, version: int, client_id: str = "kept", **fields: object) -> Client:
    """A client with a session that is to be kept."""
    properties = Properties(session_expiry=DAY_S) if version == 5 else Properties()
    fields = {"clean_start": False, "properties": properties, **fields}
    return await Client.connected(port(broker), client_id, version=version, **fields)


@pytest.mark.parametrize("version", [4, 5])
async def test_sessions_and_what_they_wait_for(tmp_path: Path, version: int) -> None:
    """3.1.1 [MQTT-3.1.2-5]."""
    async with running(tmp_path, allow_anonymous=True) as broker:
        client = await _comes_back(broker, version)
        assert not client.connack.session_present
        await client.subscribe(Request("one", 1), Request("two", 2), Request("wild/+/#", 1), Request("zero", 0))
        await client.disconnect()
        sender = await Client.connected(port(broker), "sender")
        for n in range(3):
            await sender.publish("one", b"one %d" % n, qos=1, content_type="text/plain", user_properties=[("k", "v")])
        await sender.publish("wild/a/b", b"wild", qos=1)
        await sender.publish("zero", b"never kept", qos=1)
        await sender.publish("two", b"two", qos=2)
        await sender.expect(Pubrec)
    async with running(tmp_path, allow_anonymous=True) as broker:
        assert broker.status()["sessions"] == 1
        assert broker.status()["subscriptions"] == 4
        assert broker.status()["waiting"]["messages"] == 5
        client = await _comes_back(broker, version)
        assert client.connack.session_present
        got = [await client.expect_message() for _ in range(5)]
        assert [m.payload for m in got] == [b"one 0", b"one 1", b"one 2", b"wild", b"two"]
        assert [m.qos for m in got] == [1, 1, 1, 1, 2]
        assert not any(m.dup or m.retain for m in got)
        if version == 5:
            assert got[0].properties == Properties(content_type="text/plain", user_properties=[("k", "v")])
        await client.silent()
        # The subscriptions work as before.
        sender = await Client.connected(port(broker), "sender")
        await sender.publish("wild/x", b"again", qos=0)
        await sender.publish("zero", b"now", qos=1)
        await client.expect_message(b"again")
        assert (await client.expect_message(b"now")).qos == 0


@pytest.mark.parametrize("version", [4, 5])
async def test_packet_ids_in_flight(tmp_path: Path, version: int) -> None:
    """In flight both ways, in each state of QoS 2: nothing is lost, nothing comes twice. [MQTT-4.1.0-1]."""
    async with running(tmp_path, allow_anonymous=True) as broker:
        client = await _comes_back(broker, version)
        await client.subscribe(Request("#", 2))
        sender = await Client.connected(port(broker), "sender")
        for qos, payload in ((1, b"a"), (2, b"b"), (2, b"c"), (1, b"d")):
            await sender.send(Publish(b"t", payload, qos, packet_id=sender.next_id()))
        a, b, c, d = [await client.expect_message(acknowledge=False) for _ in range(4)]
        assert [m.payload for m in (a, b, c, d)] == [b"a", b"b", b"c", b"d"]
        await client.send(Pubrec(c.packet_id))
        assert await client.expect(Pubrel) == Pubrel(c.packet_id)
        await client.send(Puback(d.packet_id))
        # What it sends itself: received, and not yet released.
        await client.send(Publish(b"mine", b"x", 2, packet_id=77))
        answers = [await client.receive(), await client.receive()]
        assert Pubrec(77) in answers
        mine = next(p for p in answers if isinstance(p, Publish))
        await client.send(Pubrec(mine.packet_id))
        await client.expect(Pubrel)
        await client.send(Pubcomp(mine.packet_id))
        await client.silent()
    async with running(tmp_path, allow_anonymous=True) as broker:
        client = await _comes_back(broker, version)
        assert await client.expect(Publish) == Publish(b"t", b"a", 1, False, True, a.packet_id)
        assert await client.expect(Publish) == Publish(b"t", b"b", 2, False, True, b.packet_id)
        assert await client.expect(Pubrel) == Pubrel(c.packet_id)
        await client.silent()
        await client.send(Pubcomp(c.packet_id), Puback(a.packet_id), Pubrec(b.packet_id))
        assert await client.expect(Pubrel) == Pubrel(b.packet_id)
        await client.send(Pubcomp(b.packet_id))
        # The same QoS 2 message again is not delivered again; after its release, the id is free.
        await client.send(Publish(b"mine", b"x", 2, dup=True, packet_id=77))
        assert await client.expect(Pubrec) == Pubrec(77)
        await client.send(Pubrel(77))
        assert await client.expect(Pubcomp) == Pubcomp(77)
        await client.silent()
        await client.send(Publish(b"mine", b"y", 2, packet_id=77))
        answers = [await client.receive(), await client.receive()]
        new = next(p for p in answers if isinstance(p, Publish))
        assert new.payload == b"y"
        assert new.packet_id not in (a.packet_id, b.packet_id, c.packet_id, d.packet_id)  # counted on, not anew


async def test_retained(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True) as broker:
        sender = await Client.connected(port(broker))
        await sender.publish("r/1", b"one", qos=1, retain=True, content_type="text/plain")
        await sender.publish("r/2", b"two", qos=0, retain=True, message_expiry=1000)
        await sender.publish("r/3", b"three", qos=1, retain=True)
        await sender.publish("r/3", b"", qos=1, retain=True)
    async with running(tmp_path, allow_anonymous=True) as broker:
        assert broker.status()["retained"]["messages"] == 2
        client = await Client.connected(port(broker))
        await client.subscribe("r/#", qos=1)
        got = {m.topic: m for m in [await client.expect_message(), await client.expect_message()]}
        assert got[b"r/1"].retain
        assert got[b"r/1"].qos == 1
        assert got[b"r/1"].properties.content_type == "text/plain"
        assert got[b"r/2"].qos == 0
        assert 990 < (got[b"r/2"].properties.message_expiry or 0) <= 1000
        await client.silent()


async def test_time_goes_on_while_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages, retained messages and sessions that expire meanwhile are gone; others have less time left."""
    async with running(tmp_path, allow_anonymous=True) as broker:
        for name, expiry in (("short", 100), ("long", 10_000)):
            client = await _comes_back(broker, 5, name, properties=Properties(session_expiry=expiry))
            await client.subscribe("t", qos=1)
            await client.disconnect()
        sender = await Client.connected(port(broker))
        await sender.publish("t", b"short", qos=1, message_expiry=100)
        await sender.publish("t", b"long", qos=1, message_expiry=10_000, retain=True)
        await sender.publish("u", b"short", qos=1, message_expiry=100, retain=True)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 1000)
    async with running(tmp_path, allow_anonymous=True) as broker:
        assert broker.status()["sessions"] == 1
        client = await _comes_back(broker, 5, "long", properties=Properties(session_expiry=10_000))
        assert client.connack.session_present
        message = await client.expect_message(b"long")
        assert 8990 <= (message.properties.message_expiry or 0) <= 9001
        await client.silent()
        await client.subscribe("u")
        await client.silent()
        assert broker.status()["counters"]["messages_dropped_expired"] >= 1


async def test_subscription_options_and_groups(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True) as broker:
        client = await _comes_back(broker, 5)
        await client.subscribe(Request("ids", 1, retain_as_published=True), subscription_ids=[7])
        await client.subscribe(Request("local", 1, no_local=True))
        await client.subscribe("$share/g/shared", qos=1)
        await client.disconnect()
    async with running(tmp_path, allow_anonymous=True) as broker:
        client = await _comes_back(broker, 5)
        other = await Client.connected(port(broker), "other")
        await other.subscribe("$share/g/shared", qos=1)
        await client.publish("local", b"mine", qos=1)
        await client.silent()
        await other.publish("ids", b"x", qos=1, retain=True)
        message = await client.expect_message(b"x")
        assert message.properties.subscription_ids == [7]
        assert message.retain
        for _ in range(2):
            await other.send(Publish(b"shared", b"once"))
        await client.expect_message(b"once")
        await other.expect_message(b"once")


async def test_wills(tmp_path: Path) -> None:
    """At a stop, wills of sessions that end are published; those of sessions that go on wait for their clients."""
    async with running(tmp_path, allow_anonymous=True) as broker:
        watcher = await _comes_back(broker, 5, "watcher")
        await watcher.subscribe("will/#", qos=1)
        await Client.connected(port(broker), "ends", will=Will(b"will/ends", b"", 1))
        await _comes_back(broker, 5, "stays", will=Will(b"will/stays", b"", 1))
        await _comes_back(broker, 5, "lost", will=Will(b"will/lost", b"", 1))
    async with running(tmp_path, allow_anonymous=True) as broker:
        watcher = await _comes_back(broker, 5, "watcher")
        assert (await watcher.expect_message()).topic == b"will/ends"
        stays = await _comes_back(broker, 5, "stays", will=Will(b"will/stays", b"", 1))
        await watcher.silent()
        broker.core.tick(broker.core.now + 120)
        broker.core.flush()
        assert (await watcher.expect_message()).topic == b"will/lost"
        await stays.silent()
        await watcher.silent()


async def test_identities_keep_their_sessions(tmp_path: Path) -> None:
    fields = {"clean_start": False, "properties": Properties(session_expiry=DAY_S)}
    async with running(tmp_path) as broker:
        await populate(broker)
        kiosk = await device(broker, "kiosk-7", **fields)
        await kiosk.subscribe("acme/user/ada", qos=1)
        await kiosk.disconnect()
        sender = await server(broker)
        answer = await sender.publish("acme/user/ada", b"Ciao", qos=1, user_properties=[("receipt", "delivered")])
        assert answer is not None
        (name,) = answer.properties.user_properties
        await _receipts(broker, fields)
    async with running(tmp_path) as broker:
        sender = await server(broker, client_id="receipts", **fields)
        assert sender.connack.session_present
        kiosk = await device(broker, "kiosk-7", **fields)
        message = await kiosk.expect_message(b"Ciao")
        assert name in message.properties.user_properties
        receipt = await sender.expect_message()
        assert receipt.topic == b"acme/receipts/" + name[1].encode()
        assert b'"event":"delivered"' in receipt.payload
        assert b'"user":"ada"' in receipt.payload


async def _receipts(broker: Broker, fields: dict[str, object]) -> None:
    waiting = await server(broker, client_id="receipts", **fields)
    await waiting.subscribe("acme/receipts/#", qos=1)
    await waiting.disconnect()


async def test_stop_says_goodbye(tmp_path: Path) -> None:
    broker = Broker(settings(tmp_path, allow_anonymous=True))
    await broker.start()
    five = await Client.connected(port(broker), "five")
    four = await Client.connected(port(broker), "four", version=4)
    unknown = await Client.open(port(broker))
    await broker.stop()
    await five.expect_end(0x8B)
    await four.expect_end()
    await unknown.expect_end()
    await Client.abort_all()


async def test_a_second_restart_keeps_the_same(tmp_path: Path) -> None:
    """What was loaded is saved again, also when nobody came."""
    async with running(tmp_path, allow_anonymous=True) as broker:
        client = await _comes_back(broker, 4)
        await client.subscribe("t", qos=2)
        await client.disconnect()
        sender = await Client.connected(port(broker), "sender")
        for n in range(50):
            await sender.publish("t", b"%d" % n, qos=1)
    for _ in range(2):
        async with running(tmp_path, allow_anonymous=True):
            pass
    async with running(tmp_path, allow_anonymous=True) as broker:
        client = await _comes_back(broker, 4)
        for n in range(50):
            await client.expect_message(b"%d" % n)
        await client.silent()
        await client.disconnect()
    async with running(tmp_path, allow_anonymous=True) as broker:
        client = await Client.connected(port(broker), "kept", version=4, clean_start=True)
        assert client.connack == Connack()
