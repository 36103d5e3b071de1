"""MQTT over WebSocket (§6), plain and TLS: packets in any frames, and whatever else may come."""

from typing import Any

import pytest
from support.engine import Engine
from support.pki import Pki
from support.web import WebClient

from broker.listen.websocket import WebRules
from broker.wire.packets import Connack, Connect, Publish, Request, Suback, Subscribe


@pytest.fixture(params=[False, True], ids=["ws", "wss"])
def either(engine: Engine, pki: Pki, request: pytest.FixtureRequest) -> dict[str, Any]:
    """A port, and what a client needs for it."""
    if request.param:
        return {"port": engine.listen(lambda: pki.context, web=WebRules()), "tls": pki.client()}
    return {"port": engine.listen(web=WebRules())}


# -- packets and frames ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
async def test_packets_in_frames(either: dict[str, Any], version: int) -> None:
    client = await WebClient.connected(client_id="a", version=version, **either)
    await client.subscribe("t", qos=1)
    await client.publish("t", b"x")
    await client.expect_message(b"x")
    await client.disconnect()
    assert client.frames.close == b"\x03\xe8"  # 1000


@pytest.mark.parametrize("version", [4, 5])
async def test_a_byte_in_a_frame(either: dict[str, Any], version: int) -> None:
    """[MQTT-6.0.0-2]: packets need not be aligned with frames."""
    client = await WebClient.open(version=version, **either)
    client.writer.size = 1  # type: ignore[attr-defined]
    await client.send(Connect("bytes", version))
    await client.expect(Connack)
    await client.subscribe("t")
    await client.publish("t", b"payload")
    await client.expect_message(b"payload")


@pytest.mark.parametrize("version", [4, 5])
async def test_ten_packets_in_a_frame(either: dict[str, Any], version: int) -> None:
    """Both ways: what a round has for a client goes in one frame, however many packets it is."""
    client = await WebClient.open(version=version, **either)
    await client.send(
        Connect("many", version), Subscribe(1, [Request("t")]), *(Publish(b"t", b"%d" % n) for n in range(10))
    )
    await client.expect(Connack)
    await client.expect(Suback)
    for n in range(10):
        await client.expect_message(b"%d" % n)
    assert len(client.frames.sizes) == 1
