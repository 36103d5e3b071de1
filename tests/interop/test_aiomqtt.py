"""aiomqtt, on our broker's own loop."""

import asyncio
from typing import Any

import aiomqtt
import pytest
from interop.conftest import Address

V4, V5 = aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5


def _client(address: Address, name: str, version: aiomqtt.ProtocolVersion, **more: Any) -> aiomqtt.Client:
    return aiomqtt.Client(
        "localhost", address.port, identifier=name, protocol=version, tls_context=address.context, **more
    )


async def _next(client: aiomqtt.Client) -> aiomqtt.Message:
    async with asyncio.timeout(10):
        return await anext(aiter(client.messages))


@pytest.mark.parametrize("version", [V4, V5], ids=["3.1.1", "5"])
async def test_scenario(address: Address, version: aiomqtt.ProtocolVersion) -> None:
    if version == V5:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        expiry = Properties(PacketTypes.CONNECT)
        expiry.SessionExpiryInterval = 1000
        keep: dict[str, Any] = {"clean_start": False, "properties": expiry}
    else:
        keep = {"clean_session": False}
    async with _client(address, "sender", version) as sender, _client(address, "receiver", version) as receiver:
        await receiver.subscribe("t/#", qos=2)
        for qos in (0, 1, 2):
            await sender.publish(f"t/{qos}", b"x" * 100_000, qos=qos)
            message = await _next(receiver)
            assert (message.qos, len(message.payload)) == (qos, 100_000)
        await sender.publish("r/1", b"kept", qos=1, retain=True)
        await receiver.subscribe("r/#", qos=1)
        assert (await _next(receiver)).retain
        with pytest.raises(RuntimeError, match="on purpose"):  # noqa: PT012 - so that it leaves without a DISCONNECT
            async with _client(address, "doomed", version, will=aiomqtt.Will("t/will", b"bye", 1)) as doomed:
                doomed._client._sock_close()  # type: ignore[no-untyped-call]
                raise RuntimeError("on purpose")
        assert (await _next(receiver)).payload == b"bye"
        async with _client(address, "away", version, **keep) as away:
            await away.subscribe("a", qos=1)
        for n in range(10):
            await sender.publish("a", str(n), qos=1)
        async with _client(address, "away", version, **keep) as away:
            assert [(await _next(away)).payload for _ in range(10)] == [b"%d" % n for n in range(10)]


async def test_sees_why_it_is_closed(address: Address) -> None:
    async with _client(address, "twice", V5) as first, _client(address, "twice", V5):
        with pytest.raises(aiomqtt.MqttError):
            await _next(first)
