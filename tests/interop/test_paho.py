"""paho-mqtt, with its own network thread, against our broker."""

import asyncio
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from interop.conftest import Address
from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

V5 = MQTTProtocolVersion.MQTTv5
VERSIONS = [MQTTProtocolVersion.MQTTv311, V5]


class Paho:
    """A paho client whose callbacks can be waited for."""

    def __init__(self, address: Address, name: str, version: MQTTProtocolVersion, *, keep: bool = False) -> None:
        session = {} if version == V5 else {"clean_session": not keep}
        self.client = Client(CallbackAPIVersion.VERSION2, name, protocol=version, **session)
        if address.ca:
            self.client.tls_set(str(address.ca))
        self.messages: queue.SimpleQueue[MQTTMessage] = queue.SimpleQueue()
        self.flags: ConnectFlags | None = None
        self._connected = threading.Event()
        self._subscribed: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = lambda _c, _d, _m, reasons, _p: self._subscribed.put([r.value for r in reasons])
        self.client.on_message = lambda _c, _d, message: self.messages.put(message)
        self._address, self._version, self._keep = address, version, keep

    def _on_connect(self, _client: Any, _data: Any, flags: ConnectFlags, reason: Any, _properties: Any) -> None:
        assert not reason.is_failure
        self.flags = flags
        self._connected.set()

    def start(self) -> None:
        options: dict[str, Any] = {}
        if self._version == V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 1000 if self._keep else 0
            options = {"clean_start": not self._keep, "properties": properties}
        self.client.connect("localhost", self._address.port, **options)
        self.client.loop_start()
        assert self._connected.wait(10)

    def subscribe(self, *args: Any, **more: Any) -> list[int]:
        self.client.subscribe(*args, **more)
        return self._subscribed.get(timeout=10)

    def publish(self, *args: Any, **more: Any) -> None:
        self.client.publish(*args, **more).wait_for_publish(10)

    def next(self) -> MQTTMessage:
        return self.messages.get(timeout=10)

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def die(self) -> None:
        """Go without a DISCONNECT."""
        self.client._sock_close()  # type: ignore[no-untyped-call]
        self.client.loop_stop()


@contextmanager
def started(*args: Any, **more: Any) -> Iterator[Paho]:
    paho = Paho(*args, **more)
    paho.start()
    try:
        yield paho
    finally:
        paho.stop()


@pytest.mark.parametrize("version", VERSIONS, ids=["3.1.1", "5"])
async def test_scenario(address: Address, version: MQTTProtocolVersion) -> None:
    """3.1.1 [MQTT-4.6.0-6, MQTT-7.0.0-2]."""
    await asyncio.to_thread(_scenario, address, version)


def _scenario(address: Address, version: MQTTProtocolVersion) -> None:
    with started(address, "sender", version) as sender, started(address, "receiver", version) as receiver:
        # QoS 0, 1 and 2, small and large.
        assert receiver.subscribe("t/#", 2) == [2]
        for qos in (0, 1, 2):
            for payload in (b"", b"x", bytes(300_000)):
                sender.publish(f"t/{qos}", payload, qos)
                message = receiver.next()
                assert (message.topic, message.qos, message.payload) == (f"t/{qos}", qos, payload)
        for n in range(500):
            sender.client.publish("t/many", b"%d" % n, n % 3)
        by_qos: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for _ in range(500):
            message = receiver.next()
            by_qos[message.qos].append(int(message.payload))
        assert all(numbers == sorted(numbers) for numbers in by_qos.values())
        # Retained.
        sender.publish("r/1", b"kept", 1, retain=True)
        receiver.subscribe("r/+", 1)
        assert receiver.next().retain
        # A will.
        doomed = Paho(address, "doomed", version)
        doomed.client.will_set("t/will", b"bye", 1)
        doomed.start()
        doomed.die()
        assert receiver.next().payload == b"bye"
        # A session that is kept.
        with started(address, "away", version, keep=True) as away:
            assert away.flags is not None
            assert not away.flags.session_present
            away.subscribe("a", 1)
        for n in range(10):
            sender.publish("a", b"%d" % n, 1)
        with started(address, "away", version, keep=True) as away:
            assert [away.next().payload for _ in range(10)] == [b"%d" % n for n in range(10)]
            assert away.flags is not None
            assert away.flags.session_present


async def test_properties(address: Address) -> None:
    await asyncio.to_thread(_properties, address)


def _properties(address: Address) -> None:
    with started(address, "sender", V5) as sender, started(address, "receiver", V5) as receiver:
        subscription = Properties(PacketTypes.SUBSCRIBE)
        subscription.SubscriptionIdentifier = 42
        receiver.subscribe("p", options=SubscribeOptions(qos=1, retainAsPublished=True), properties=subscription)
        properties = Properties(PacketTypes.PUBLISH)
        properties.PayloadFormatIndicator = 1
        properties.MessageExpiryInterval = 600
        properties.ContentType = "application/json"
        properties.ResponseTopic = "answer/here"
        properties.CorrelationData = b"\x00\xff"
        properties.UserProperty = [("a", "1"), ("a", "2"), ("ä", "€")]
        properties.TopicAlias = 3
        sender.publish("p", b"{}", 1, retain=True, properties=properties)
        alias = Properties(PacketTypes.PUBLISH)
        alias.TopicAlias = 3
        got: Any = receiver.next()
        assert got.retain
        got = got.properties
        assert got.PayloadFormatIndicator == 1
        assert 590 < got.MessageExpiryInterval <= 600
        assert got.ContentType == "application/json"
        assert got.ResponseTopic == "answer/here"
        assert got.CorrelationData == b"\x00\xff"
        assert got.UserProperty == [("a", "1"), ("a", "2"), ("ä", "€")]
        assert got.SubscriptionIdentifier == [42]
        assert not hasattr(got, "TopicAlias")
        # No Local, Retain Handling, and a group.
        receiver.subscribe("own", options=SubscribeOptions(qos=1, noLocal=True))
        receiver.publish("own", b"mine", 1)
        receiver.subscribe("p", options=SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND))
        receiver.subscribe("$share/g/s", qos=1)
        sender.publish("s", b"shared", 1)
        assert receiver.next().payload == b"shared"


async def test_refusals_are_understood(address: Address) -> None:
    await asyncio.to_thread(_refusals, address)


def _refusals(address: Address) -> None:
    with started(address, "c", V5) as client:
        assert client.subscribe("$SYS/#", 0) == [0x87]
    with started(address, "c", MQTTProtocolVersion.MQTTv311) as client:
        assert client.subscribe([("$SYS/#", 0), ("ok", 1)]) == [0x80, 1]
