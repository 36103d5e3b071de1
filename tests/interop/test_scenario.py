"""The scenario: what MQTT promises, with each client, in each version that it speaks, over each transport.

A chapter runs for every client that can do what it needs; what a client cannot do is written in its adapter.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from interop.clients import WAYS
from interop.conftest import Scene
from interop.peer import Feature, Message, Options, Peer, Properties, Way, Will

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAYLOADS = {
    "empty": b"",
    "text": "Ciao, è pronto: 5 €".encode(),
    "bytes": bytes(range(256)),
    "large": bytes(range(250)) * 410,  # 100 KiB
}
DENIED = {4: 0x80, 5: 0x87}


def who_can(*features: Feature) -> Callable[[Any], Any]:
    """Run for each way of a client's that has these features."""
    return pytest.mark.parametrize("way", [way for way in WAYS if way.can.issuperset(features)], ids=str)


async def nothing_before(peer: Peer, sender: Peer, topic: str) -> None:
    """What comes next is what is published now; so nothing was on its way."""
    await sender.publish(topic, b"now")
    message = await peer.next()
    assert (message.topic, message.payload) == (topic, b"now")


@who_can()
async def test_every_qos(scene: Scene, way: Way) -> None:
    """Each QoS of publishing to each QoS of subscribing: the lesser of both arrives, and the payload unharmed.

    3.1.1 [MQTT-7.0.0-2].
    """
    sender = await scene.join(way, "sender")
    receivers = []
    for qos in (0, 1, 2):
        receiver = await scene.join(way, f"receiver-{qos}")
        assert await receiver.subscribe(scene.topic("#"), options=Options(qos)) == [qos]
        receivers.append(receiver)
    for qos in (0, 1, 2):
        for name, payload in PAYLOADS.items():
            topic = scene.topic(f"{qos}/{name}")
            await sender.publish(topic, payload, qos)
            for granted, receiver in enumerate(receivers):
                assert await receiver.next() == Message(topic, payload, min(qos, granted), retain=False)


@who_can()
async def test_as_large_as_may_be(scene: Scene, way: Way) -> None:
    """A packet of nearly 1 MiB, which no socket takes at once."""
    topic, payload = scene.topic("large"), bytes(range(250)) * 4190
    sender, receiver = await scene.join(way, "sender"), await scene.join(way, "receiver")
    await receiver.subscribe(topic)
    await sender.publish(topic, payload)
    assert await receiver.next() == Message(topic, payload, 1, retain=False)


@who_can()
async def test_many_under_way(scene: Scene, way: Way) -> None:
    """Not waiting for one before the next: all arrive, once and in order. 3.1.1 [MQTT-4.6.0-6]."""
    sender, receiver = await scene.join(way, "sender"), await scene.join(way, "receiver")
    await receiver.subscribe(scene.topic("#"), options=Options(2))
    payloads = [b"%d" % n for n in range(100)]
    for qos in (0, 1, 2):
        _, *received = await asyncio.gather(
            sender.publish_all(scene.topic(str(qos)), payloads, qos), *(receiver.next() for _ in payloads)
        )
        assert received == [Message(scene.topic(str(qos)), payload, qos, retain=False) for payload in payloads]


@who_can()
async def test_retained(scene: Scene, way: Way) -> None:
    """Kept for who comes later, replaced, and deleted; to who is there already it is a message like any other."""
    topic, marker = scene.topic("kept"), scene.topic("marker")
    sender, early = await scene.join(way, "sender"), await scene.join(way, "early")
    await early.subscribe(topic, marker)
    for payload in (b"first", b"second"):
        await sender.publish(topic, payload, retain=True)
        assert await early.next() == Message(topic, payload, 1, retain=False)
    late = await scene.join(way, "late")
    await late.subscribe(scene.topic("+"))
    assert await late.next() == Message(topic, b"second", 1, retain=True)
    await sender.publish(topic, b"", retain=True)
    for peer in (early, late):
        assert await peer.next() == Message(topic, b"", 1, retain=False)
    too_late = await scene.join(way, "too-late")
    await too_late.subscribe(topic, marker)
    await nothing_before(too_late, sender, marker)


@who_can()
async def test_will(scene: Scene, way: Way) -> None:
    """Published for one who dies, not for one who leaves."""
    will = Will(scene.topic("will"), "addio, è finita")
    sender, heir = await scene.join(way, "sender"), await scene.join(way, "heir")
    await heir.subscribe(scene.topic("#"))
    doomed = await scene.join(way, "doomed", will=will)
    await doomed.subscribe(scene.topic("doomed"))
    await doomed.die()
    assert await heir.next() == Message(will.topic, will.payload.encode(), 1, retain=False)
    polite = await scene.join(way, "polite", will=will)
    await polite.publish(scene.topic("bye"), b"bye")
    await polite.leave()
    assert (await heir.next()).payload == b"bye"
    await nothing_before(heir, sender, scene.topic("marker"))


@who_can()
async def test_session(scene: Scene, way: Way) -> None:
    """What is published while a client is away waits for it, until it wants a new session."""
    topic = scene.topic("a")
    payloads = [b"%d" % n for n in range(10)]
    sender = await scene.join(way, "sender")
    away = await scene.join(way, "away", keep=True)
    assert not away.session_present
    await away.subscribe(topic, options=Options(2))
    for qos in (2, 1):
        await (away.die() if qos == 2 else away.leave())
        for payload in payloads:
            await sender.publish(topic, payload, qos)
        away = await scene.join(way, "away", keep=True)
        if Feature.SESSION_PRESENT in way.can:
            assert away.session_present
        for payload in payloads:
            assert await away.next() == Message(topic, payload, qos, retain=False)
    await away.leave()
    await sender.publish(topic, b"for nobody")
    anew = await scene.join(way, "away")
    assert not anew.session_present
    await anew.subscribe(topic)
    await nothing_before(anew, sender, topic)


@who_can(Feature.SESSION_PRESENT)
async def test_session_that_is_not_kept(scene: Scene, way: Way) -> None:
    first = await scene.join(way, "short")
    await first.subscribe(scene.topic("a"))
    await first.leave()
    again = await scene.join(way, "short", keep=True)
    assert not again.session_present


@who_can(Feature.CHANGES)
async def test_unsubscribe(scene: Scene, way: Way) -> None:
    a, b = scene.topic("a"), scene.topic("b")
    peer = await scene.join(way, "peer")
    await peer.subscribe(a)
    await peer.subscribe(b)
    await peer.publish(a, b"1")
    assert (await peer.next()).topic == a
    await peer.unsubscribe(a)
    await peer.publish(a, b"2")
    await nothing_before(peer, peer, b)


@who_can()
async def test_shared_subscription(scene: Scene, way: Way) -> None:
    """Each message to one of the group; both get some, and the end comes to both."""
    topic, end = scene.topic("work"), scene.topic("end")
    sender = await scene.join(way, "sender")
    workers = [await scene.join(way, f"worker-{n}") for n in (1, 2)]
    for worker in workers:
        assert await worker.subscribe(f"$share/{scene.prefix}/{topic}", end) == [1, 1]
    payloads = [b"%d" % n for n in range(10)]
    await sender.publish_all(topic, payloads)
    await sender.publish(end, b"")
    done = []
    for worker in workers:
        part = []
        while (message := await worker.next()).topic != end:
            part.append(message.payload)
        assert part
        done += part
    assert sorted(done) == payloads


@who_can()
async def test_refused_subscription(scene: Scene, way: Way) -> None:
    """The SUBACK says it for each filter."""
    peer = await scene.join(way, "peer")
    assert await peer.subscribe("$SYS/#", scene.topic("a")) == [DENIED[way.version], 1]


# -- MQTT 5 ------------------------------------------------------------------------------------------------------------


@who_can(Feature.PROPERTIES)
async def test_properties(scene: Scene, way: Way) -> None:
    """All come to the receiver as they were sent; the expiry has become less."""
    topic = scene.topic("p")
    sender, receiver = await scene.join(way, "sender"), await scene.join(way, "receiver")
    await receiver.subscribe(topic)
    sent = Properties(
        content_type="application/json",
        response_topic="answer/here",
        correlation_data=b"\x00\xff" if Feature.BINARY_CORRELATION in way.can else b"order 17",
        expiry_s=600,
        text=True,
        user=(("a", "1"), ("a", "2"), ("ä", "€")),
    )
    await sender.publish(topic, b"{}", properties=sent)
    message = await receiver.next()
    assert message.properties.expiry_s is not None
    assert 590 < message.properties.expiry_s <= 600
    assert replace(message.properties, expiry_s=600) == sent


@who_can(Feature.PROPERTIES)
async def test_properties_of_a_will(scene: Scene, way: Way) -> None:
    sent = Properties(content_type="text/plain", response_topic="r", user=(("why", "died"),))
    heir = await scene.join(way, "heir")
    await heir.subscribe(scene.topic("will"))
    doomed = await scene.join(way, "doomed", will=Will(scene.topic("will"), "addio", sent))
    await doomed.subscribe(scene.topic("x"))
    await doomed.die()
    assert (await heir.next()).properties == sent


@who_can(Feature.SUBSCRIPTION_ID)
async def test_subscription_identifier(scene: Scene, way: Way) -> None:
    topic = scene.topic("i")
    sender, receiver = await scene.join(way, "sender"), await scene.join(way, "receiver")
    await receiver.subscribe(topic, options=Options(id=42))
    await sender.publish(topic, b"x")
    assert (await receiver.next()).properties.subscription_ids == (42,)


@who_can(Feature.SUBSCRIPTION_ID, Feature.CHANGES)
async def test_subscription_identifiers_of_overlapping_filters(scene: Scene, way: Way) -> None:
    peer = await scene.join(way, "peer")
    await peer.subscribe(scene.topic("i"), options=Options(id=1))
    await peer.subscribe(scene.topic("+"), options=Options(id=268_435_455))
    await peer.publish(scene.topic("i"), b"x")
    ids = (await peer.next()).properties.subscription_ids
    assert sorted(ids) == [1, 268_435_455]


@who_can(Feature.TOPIC_ALIAS)
async def test_topic_alias(scene: Scene, way: Way) -> None:
    """The topic goes once; the receiver sees it each time."""
    topic = scene.topic("a/long/topic")
    sender, receiver = await scene.join(way, "sender"), await scene.join(way, "receiver")
    await receiver.subscribe(topic)
    payloads = [b"1", b"2", b"3"]
    await sender.publish_all(topic, payloads, alias=1)
    for payload in payloads:
        assert await receiver.next() == Message(topic, payload, 1, retain=False)


@who_can(Feature.NO_LOCAL)
async def test_no_local(scene: Scene, way: Way) -> None:
    topic = scene.topic("own")
    peer, other = await scene.join(way, "peer"), await scene.join(way, "other")
    await peer.subscribe(topic, options=Options(no_local=True))
    await peer.publish(topic, b"mine")
    await nothing_before(peer, other, topic)


@who_can(Feature.RETAIN_AS_PUBLISHED)
async def test_retain_as_published(scene: Scene, way: Way) -> None:
    topic = scene.topic("kept")
    sender, receiver = await scene.join(way, "sender"), await scene.join(way, "receiver")
    await receiver.subscribe(topic, options=Options(retain_as_published=True))
    for retain in (True, False):
        await sender.publish(topic, b"x", retain=retain)
        assert (await receiver.next()).retain == retain


@who_can(Feature.RETAIN_HANDLING)
async def test_retain_handling(scene: Scene, way: Way) -> None:
    """0: what is retained comes with each subscription, 1: with a new one, 2: never."""
    topic = scene.topic("kept")
    peer = await scene.join(way, "peer")
    await peer.publish(topic, b"kept", retain=True)
    await peer.subscribe(topic, options=Options(retain_handling=2))
    await nothing_before(peer, peer, topic)
    await peer.subscribe(topic, options=Options(retain_handling=1))
    await nothing_before(peer, peer, topic)
    await peer.subscribe(topic, options=Options(retain_handling=0))
    assert await peer.next() == Message(topic, b"kept", 1, retain=True)
    await peer.unsubscribe(topic)
    await peer.subscribe(topic, options=Options(retain_handling=1))
    assert await peer.next() == Message(topic, b"kept", 1, retain=True)


@who_can(Feature.REFUSED_PUBLISH)
async def test_refused_publish(scene: Scene, way: Way) -> None:
    """The connection stays."""
    peer = await scene.join(way, "peer")
    for qos in (1, 2) if Feature.REFUSED_AT_QOS_2 in way.can else (1,):
        assert await peer.publish("$SYS/broker", b"x", qos) == 0x87
        assert await peer.publish(scene.topic("a"), b"x", qos) == 0


@who_can(Feature.CLOSED_BECAUSE)
async def test_taken_over(scene: Scene, way: Way) -> None:
    """The second connection with a client id ends the first, which sees why, and goes on with its session."""
    topic = scene.topic("a")
    sender = await scene.join(way, "sender")
    first = await scene.join(way, "twice", keep=True)
    await first.subscribe(topic)
    second = await scene.join(way, "twice", keep=True)
    assert await first.closed() == 0x8E
    await sender.publish(topic, b"for the second")
    assert await second.next() == Message(topic, b"for the second", 1, retain=False)
