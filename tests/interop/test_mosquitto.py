"""What is peculiar to mosquitto_pub and mosquitto_sub."""

import pytest
from interop.clients.mosquitto import Mosquitto
from interop.conftest import Scene
from interop.peer import Way, Will

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_many_lines(scene: Scene) -> None:
    """Far more lines from standard input than a kept queue holds, and a slower receiver: none is lost, all in order."""
    way, topic = Way(Mosquitto, 5, "mqtt"), scene.topic("m")
    sender, receiver = await scene.join(way, "sender"), await scene.join(way, "receiver")
    await receiver.subscribe(topic)
    payloads = [b"%d" % n for n in range(5000)]
    await sender.publish_all(topic, payloads)
    assert [(await receiver.next()).payload for _ in payloads] == payloads
    assert scene.broker.core.counters.messages_dropped_queue_full == 0


@pytest.mark.parametrize("version", [4, 5])
async def test_stopped_by_a_signal(scene: Scene, version: int) -> None:
    """In MQTT 5 it leaves with reason 0x04 then, which asks for its will to be published."""
    way, will = Way(Mosquitto, version, "mqtt"), Will(scene.topic("will"), "addio")
    sender, heir = await scene.join(way, "sender"), await scene.join(way, "heir")
    await heir.subscribe(scene.topic("+"))
    stopped = await scene.join(way, "stopped", will=will)
    await stopped.subscribe(scene.topic("x"))
    await stopped.leave()
    await sender.publish(scene.topic("after"), b"")
    expected = [will.topic, scene.topic("after")][5 - version :]
    assert [(await heir.next()).topic for _ in expected] == expected
