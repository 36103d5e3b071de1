"""An MQTT 5 client for tests that play a brand's server or an authority: paho alone, nothing of the SDK."""

import itertools
import queue
import threading
from typing import Any, Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

_numbers = itertools.count(1)


class Tester:
    """Publishes with acknowledgement, and collects what it is subscribed to."""

    __test__ = False

    def __init__(self, port: int, username: str = "tester", password: str = "secret") -> None:
        self.received: queue.SimpleQueue[MQTTMessage] = queue.SimpleQueue()
        self._connected = threading.Event()
        self._subscribed = threading.Event()
        self._client = Client(
            CallbackAPIVersion.VERSION2, f"tester-{next(_numbers)}", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.username_pw_set(username, password)
        self._client.on_connect = lambda *_: self._connected.set()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _data, message: self.received.put(message)
        self._client.reconnect_delay_set(1, 1)
        self._port = port

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._connected.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, *filters: str) -> None:
        for name in filters:
            self._subscribed.clear()
            self._client.subscribe(name, qos=1)
            assert self._subscribed.wait(10)

    def publish(
        self,
        topic: str,
        payload: bytes | str,
        *,
        qos: int = 1,
        message_id: str = "",
        content_type: str = "",
        expiry_s: int | None = None,
        retain: bool = False,
        correlation: bytes = b"",
        **user_properties: str,
    ) -> None:
        properties: Any = Properties(PacketTypes.PUBLISH)
        pairs = list(user_properties.items())
        if message_id:
            pairs.append(("message-id", message_id))
        if pairs:
            properties.UserProperty = pairs
        if content_type:
            properties.ContentType = content_type
        if correlation:
            properties.CorrelationData = correlation
        if expiry_s is not None:
            properties.MessageExpiryInterval = expiry_s
        info = self._client.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(10)
        assert info.is_published()

    def next(self, timeout: float = 10) -> MQTTMessage:
        return self.received.get(timeout=timeout)


def session_present(port: int, client_id: str) -> bool:
    """Whether the broker holds a session for this client id; taking a look ends the session."""
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
    client.username_pw_set("tester", "secret")
    client.on_connect = lambda _client, _data, flags, _code, _properties: answers.put(flags.session_present)
    client.connect("127.0.0.1", port, clean_start=False)
    client.loop_start()
    try:
        return answers.get(timeout=10)
    finally:
        client.disconnect()
        client.loop_stop()
