"""The client of amqtt."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import quote

from amqtt.client import MQTTClient
from amqtt.errors import ConnectError
from interop.peer import (
    AT_QOS_1,
    NONE,
    OF_VERSION_5,
    RECEIVE_S,
    Client,
    Feature,
    Join,
    Message,
    Options,
    Peer,
    Properties,
    Refused,
)


class AmqttPeer(Peer):
    def __init__(self, client: MQTTClient) -> None:
        super().__init__()
        self._client = client

    async def subscribe(self, *filters: str, options: Options = AT_QOS_1) -> list[int]:
        return await self._client.subscribe([(filter, options.qos) for filter in filters])

    async def unsubscribe(self, *filters: str) -> None:
        await self._client.unsubscribe(list(filters))

    async def publish(
        self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, properties: Properties = NONE
    ) -> int:
        await self._client.publish(topic, payload, qos, retain)
        return 0

    async def publish_all(self, topic: str, payloads: Sequence[bytes], qos: int = 1, *, alias: int = 0) -> None:
        await asyncio.gather(*(self._client.publish(topic, payload, qos) for payload in payloads))

    async def next(self) -> Message:
        message = await self._client.deliver_message(RECEIVE_S)
        assert message is not None
        return Message(message.topic, bytes(message.data), message.qos, bool(message.retain))

    async def closed(self) -> int:
        raise NotImplementedError  # Feature.CLOSED_BECAUSE

    async def leave(self) -> None:
        await self._client.disconnect()

    async def die(self) -> None:
        assert self._client._handler is not None
        assert self._client._handler.writer is not None
        await self._client._handler.writer.close()


class Amqtt(Client):
    """It speaks MQTT 3.1.1 only."""

    name: ClassVar = "amqtt"
    versions: ClassVar = (4,)
    schemes: ClassVar = ("mqtt", "mqtts", "ws", "wss")
    cannot: ClassVar = {
        Feature.SESSION_PRESENT: "keeps the flags of the CONNACK for itself",
        **dict.fromkeys(OF_VERSION_5, "speaks MQTT 3.1.1 only"),
    }

    async def join(self, version: int, scheme: str, how: Join) -> AmqttPeer:
        config: dict[str, object] = {"auto_reconnect": False}
        if how.will is not None:
            config["will"] = {"topic": how.will.topic, "message": how.will.payload, "qos": how.will.qos}
        if how.certificate is not None:
            certificate, key = how.certificate
            config["connection"] = {"certfile": certificate, "keyfile": key}
        credentials = f"{quote(how.username, safe='')}:{quote(how.password or '', safe='')}@" if how.username else ""
        client = MQTTClient(how.name, config)
        ca = self.trusted(scheme)
        try:
            await client.connect(
                self.url(scheme, credentials=credentials), cleansession=not how.keep, cafile=ca and str(ca)
            )
        except ConnectError as error:
            if error.return_code is None:
                raise
            raise Refused(error.return_code) from None
        return AmqttPeer(client)
