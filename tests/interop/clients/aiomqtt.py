"""aiomqtt: paho-mqtt on asyncio, here on our broker's own loop."""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import aiomqtt
from interop.clients.paho import connecting, received, sent, subscription
from interop.peer import AT_QOS_1, NONE, RECEIVE_S, Client, Feature, Join, Message, Options, Peer, Properties, Refused
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode


class AiomqttPeer(Peer):
    """A client that is entered and left by hand."""

    def __init__(self, client: aiomqtt.Client, version: int) -> None:
        super().__init__()
        self._client, self._version = client, version

    async def subscribe(self, *filters: str, options: Options = AT_QOS_1) -> list[int]:
        if self._version == 5:
            how, properties = subscription(options)
            granted = await self._client.subscribe([(filter, how) for filter in filters], properties=properties)
        else:
            granted = await self._client.subscribe([(filter, options.qos) for filter in filters])
        return [reason.value if isinstance(reason, ReasonCode) else reason for reason in granted]

    async def unsubscribe(self, *filters: str) -> None:
        await self._client.unsubscribe(list(filters))

    async def publish(
        self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, properties: Properties = NONE
    ) -> int:
        await self._client.publish(topic, payload, qos, retain, sent(properties))
        return 0

    async def publish_all(self, topic: str, payloads: Sequence[bytes], qos: int = 1, *, alias: int = 0) -> None:
        self._client.pending_calls_threshold = len(payloads)
        publishes = []
        for n, payload in enumerate(payloads):
            properties = None
            if alias:
                properties = PahoProperties(PacketTypes.PUBLISH)
                properties.TopicAlias = alias
            publishes.append(self._client.publish("" if alias and n else topic, payload, qos, properties=properties))
        await asyncio.gather(*publishes)

    async def next(self) -> Message:
        async with asyncio.timeout(RECEIVE_S):
            return received(await anext(self._client.messages))

    async def closed(self) -> int:
        try:
            await self.next()
        except aiomqtt.MqttError as error:
            return _reason(error.__cause__)
        raise AssertionError("a message came")

    async def leave(self) -> None:
        await self._client.__aexit__(None, None, None)

    async def die(self) -> None:
        self._client._client._sock_close()


class Aiomqtt(Client):
    """Of what paho can do, it leaves out some."""

    name: ClassVar = "aiomqtt"
    schemes: ClassVar = ("mqtt", "mqtts", "ws", "wss")
    cannot: ClassVar = {
        Feature.SESSION_PRESENT: "keeps the flags of the CONNACK for itself",
        Feature.REFUSED_PUBLISH: "`publish` returns as if all were well",
        Feature.REFUSED_AT_QOS_2: "`publish` returns as if all were well",
    }

    async def join(self, version: int, scheme: str, how: Join) -> AiomqttPeer:
        options: dict[str, Any] = (
            {"clean_start": not how.keep, "properties": connecting(how)}
            if version == 5
            else {"clean_session": not how.keep}
        )
        if self.trusted(scheme):
            certificate, key = how.certificate or (None, None)
            options["tls_params"] = aiomqtt.TLSParameters(
                str(self.ca), certificate and str(certificate), key and str(key)
            )
        if how.will is not None:
            properties = sent(how.will.properties, PacketTypes.WILLMESSAGE)
            options["will"] = aiomqtt.Will(how.will.topic, how.will.payload, how.will.qos, properties=properties)
        client = aiomqtt.Client(
            "localhost",
            self.ports[scheme],
            identifier=how.name,
            protocol=aiomqtt.ProtocolVersion(version),
            transport="websockets" if scheme in ("ws", "wss") else "tcp",
            username=how.username,
            password=how.password,
            **options,
        )
        try:
            await client.__aenter__()
        except aiomqtt.MqttCodeError as error:
            raise Refused(_reason(error)) from None
        return AiomqttPeer(client, version)


def _reason(error: BaseException | None) -> int:
    assert isinstance(error, aiomqtt.MqttCodeError)
    assert isinstance(error.rc, ReasonCode)
    return error.rc.value
