"""What each client publishes reaches every other unharmed, whatever versions and transports are between them."""

import itertools

import pytest
from interop.clients import CLIENTS
from interop.conftest import Scene
from interop.peer import NONE, Message, Options, Properties, Way
from interop.test_scenario import PAYLOADS

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_each_to_each(scene: Scene) -> None:
    """Each client in each version, on a transport in turn."""
    schemes = itertools.cycle(("mqtt", "wss", "mqtts", "ws"))
    ways = [
        Way(client, version, next(scheme for scheme in schemes if scheme in client.schemes))
        for client in CLIENTS
        for version in client.versions
    ]
    peers = [await scene.join(way, str(way)) for way in ways]
    for peer in peers:
        await peer.subscribe(scene.topic("#"), options=Options(2))
    sent: dict[str, Message] = {}
    for way, peer in zip(ways, peers, strict=True):
        properties = Properties(content_type="a/b", user=(("from", str(way)),)) if way.version == 5 else NONE
        for n, (name, payload) in enumerate(PAYLOADS.items()):
            message = Message(scene.topic(f"{way}/{name}"), payload, n % 3, retain=False, properties=properties)
            await peer.publish(message.topic, payload, message.qos, properties=properties)
            sent[message.topic] = message
    for way, peer in zip(ways, peers, strict=True):
        for _ in sent:
            message = await peer.next()
            expected = sent[message.topic]
            assert (message.payload, message.qos) == (expected.payload, expected.qos)
            assert message.properties == (expected.properties if way.version == 5 else NONE)
