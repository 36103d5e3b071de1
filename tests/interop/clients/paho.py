"""paho-mqtt, with its own network thread."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, ClassVar

from interop.peer import (
    AT_QOS_1,
    KEPT_S,
    NONE,
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
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions


class PahoPeer(Peer):
    """A client whose callbacks can be awaited."""

    def __init__(self, client: paho.Client) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self._client = client
        self._connected: asyncio.Future[int] = loop.create_future()
        self._closed: asyncio.Future[int] = loop.create_future()
        self._answers: dict[int, asyncio.Future[list[int]]] = {}

        def told(callback: Any) -> Any:
            return lambda _client, _data, *args: loop.call_soon_threadsafe(callback, *args)

        client.on_connect = told(self._on_connect)
        client.on_disconnect = told(self._on_disconnect)
        client.on_message = told(lambda message: self.inbox.put_nowait(received(message)))
        client.on_subscribe = client.on_unsubscribe = told(lambda id, reasons, _: self._answer(id, reasons))
        client.on_publish = told(lambda id, reason, _: self._answer(id, [reason]))

    async def start(self, **options: Any) -> None:
        try:
            await asyncio.to_thread(self._client.connect, "localhost", **options)
            self._client.loop_start()
            async with asyncio.timeout(RECEIVE_S):
                reason = await self._connected
            if reason:
                raise Refused(reason)
        except BaseException:
            await self.leave()
            raise

    async def subscribe(self, *filters: str, options: Options = AT_QOS_1) -> list[int]:
        how, properties = subscription(options)
        if self._client.protocol == MQTTProtocolVersion.MQTTv5:
            _, id = self._client.subscribe([(filter, how) for filter in filters], properties=properties)
        else:
            _, id = self._client.subscribe([(filter, options.qos) for filter in filters])
        return await self._answered(id)

    async def unsubscribe(self, *filters: str) -> None:
        _, id = self._client.unsubscribe(list(filters))
        await self._answered(id)

    async def publish(
        self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, properties: Properties = NONE
    ) -> int:
        info = self._client.publish(topic, payload, qos, retain, sent(properties))
        [reason] = await self._answered(info.mid)
        return reason if reason >= 0x80 else 0

    async def publish_all(self, topic: str, payloads: Sequence[bytes], qos: int = 1, *, alias: int = 0) -> None:
        infos = []
        for n, payload in enumerate(payloads):
            properties = None
            if alias:
                properties = PahoProperties(PacketTypes.PUBLISH)
                properties.TopicAlias = alias
            infos.append(self._client.publish("" if alias and n else topic, payload, qos, properties=properties))
        for info in infos:
            await self._answered(info.mid)

    async def closed(self) -> int:
        async with asyncio.timeout(RECEIVE_S):
            return await self._closed

    async def leave(self) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    async def die(self) -> None:
        with socket.fromfd(self._client.socket().fileno(), socket.AF_INET, socket.SOCK_STREAM) as same:
            same.shutdown(socket.SHUT_RDWR)
        await asyncio.to_thread(self._client.loop_stop)

    # -- callbacks, on our loop --------------------------------------------------------------------------------------

    def _on_connect(self, flags: paho.ConnectFlags, reason: ReasonCode, _: Any) -> None:
        self.session_present = flags.session_present
        self._connected.set_result(reason.value)

    def _on_disconnect(self, _flags: Any, reason: ReasonCode, _: Any) -> None:
        if not self._closed.done():
            self._closed.set_result(reason.value)

    def _answer(self, id: int, reasons: list[ReasonCode]) -> None:
        self._waiting(id).set_result([reason.value for reason in reasons])

    def _waiting(self, id: int) -> "asyncio.Future[list[int]]":
        return self._answers.setdefault(id, asyncio.get_running_loop().create_future())

    async def _answered(self, id: int | None) -> list[int]:
        assert id is not None
        async with asyncio.timeout(RECEIVE_S):
            reasons = await self._waiting(id)
        del self._answers[id]
        return reasons


class Paho(Client):
    """It can nearly all."""

    name: ClassVar = "paho"
    schemes: ClassVar = ("mqtt", "mqtts", "ws", "wss")
    cannot: ClassVar = {Feature.REFUSED_AT_QOS_2: "shows 0x92 of the PUBCOMP instead"}

    async def join(self, version: int, scheme: str, how: Join) -> PahoPeer:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            how.name,
            clean_session=not how.keep if version == 4 else None,
            protocol=MQTTProtocolVersion(version),
            transport="websockets" if scheme in ("ws", "wss") else "tcp",
            reconnect_on_failure=False,
        )
        if self.trusted(scheme):
            certificate, key = how.certificate or (None, None)
            client.tls_set(str(self.ca), certificate and str(certificate), key and str(key))
        if how.username is not None:
            client.username_pw_set(how.username, how.password)
        if how.will is not None:
            properties = sent(how.will.properties, PacketTypes.WILLMESSAGE)
            client.will_set(how.will.topic, how.will.payload, how.will.qos, properties=properties)
        peer = PahoPeer(client)
        options = {"clean_start": not how.keep, "properties": connecting(how)} if version == 5 else {}
        await peer.start(port=self.ports[scheme], **options)
        return peer


# -- properties, as paho and aiomqtt have them -------------------------------------------------------------------------


def connecting(how: Join) -> PahoProperties:
    """Those of a CONNECT."""
    properties = PahoProperties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = KEPT_S if how.keep else 0
    return properties


def subscription(options: Options) -> tuple[SubscribeOptions, PahoProperties | None]:
    """What goes with a SUBSCRIBE of MQTT 5."""
    how = SubscribeOptions(options.qos, options.no_local, options.retain_as_published, options.retain_handling)
    if options.id is None:
        return how, None
    properties = PahoProperties(PacketTypes.SUBSCRIBE)
    properties.SubscriptionIdentifier = options.id
    return how, properties


def sent(properties: Properties, packet: int = PacketTypes.PUBLISH) -> PahoProperties | None:
    """Those of a PUBLISH or a will."""
    if properties == NONE:
        return None
    made = PahoProperties(packet)
    for name, value in {
        "ContentType": properties.content_type,
        "ResponseTopic": properties.response_topic,
        "CorrelationData": properties.correlation_data,
        "MessageExpiryInterval": properties.expiry_s,
        "PayloadFormatIndicator": int(properties.text) or None,
        "UserProperty": list(properties.user) or None,
    }.items():
        if value is not None:
            setattr(made, name, value)
    return made


def received(message: Any) -> Message:
    """A message of paho's or aiomqtt's."""
    found = message.properties.json() if message.properties is not None else {}
    properties = Properties(
        content_type=found.get("ContentType"),
        response_topic=found.get("ResponseTopic"),
        correlation_data=getattr(message.properties, "CorrelationData", None),
        expiry_s=found.get("MessageExpiryInterval"),
        text=bool(found.get("PayloadFormatIndicator")),
        user=tuple((name, value) for name, value in found.get("UserProperty", ())),
        subscription_ids=tuple(found.get("SubscriptionIdentifier", ())),
    )
    return Message(str(message.topic), bytes(message.payload), message.qos, bool(message.retain), properties)
