"""amqtt's client, MQTT 3.1.1."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from amqtt.client import MQTTClient
from interop.conftest import Address

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@asynccontextmanager
async def _connected(address: Address, name: str, *, clean: bool = True, **config: Any) -> AsyncIterator[MQTTClient]:
    client = MQTTClient(name, {"auto_reconnect": False, "check_hostname": True, **config})
    scheme, ca = ("mqtts", str(address.ca)) if address.ca else ("mqtt", None)
    assert await client.connect(f"{scheme}://localhost:{address.port}", cleansession=clean, cafile=ca) == 0
    try:
        yield client
    finally:
        await client.disconnect()


async def _next(client: MQTTClient) -> Any:
    message = await client.deliver_message(timeout_duration=10)
    assert message is not None
    return message


async def test_scenario(address: Address) -> None:
    """3.1.1 [MQTT-7.0.0-2]."""
    async with _connected(address, "sender") as sender, _connected(address, "receiver") as receiver:
        assert await receiver.subscribe([("t/#", 2)]) == [2]
        for qos in (0, 1, 2):
            await sender.publish(f"t/{qos}", b"x" * 50_000, qos=qos)
            message = await _next(receiver)
            assert (message.qos, len(message.data)) == (qos, 50_000)
        await sender.publish("r/1", b"kept", qos=1, retain=True)
        await receiver.subscribe([("r/#", 1)])
        assert (await _next(receiver)).retain
        async with _connected(address, "away", clean=False) as away:
            await away.subscribe([("a", 1)])
        for n in range(5):
            await sender.publish("a", b"%d" % n, qos=1)
        async with _connected(address, "away", clean=False) as away:
            assert [(await _next(away)).data for _ in range(5)] == [b"%d" % n for n in range(5)]
    await asyncio.sleep(0)


async def test_will(address: Address) -> None:
    async with _connected(address, "receiver") as receiver:
        await receiver.subscribe([("will", 1)])
        will = {"will": {"topic": "will", "message": "bye", "qos": 1, "retain": False}}
        async with _connected(address, "doomed", **will) as doomed:
            assert doomed._handler is not None
            await doomed._handler.writer.close()
            assert (await _next(receiver)).data == b"bye"
