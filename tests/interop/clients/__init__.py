"""The clients with which we try the broker."""

from typing import Final

from interop.clients.aiomqtt import Aiomqtt
from interop.clients.amqtt import Amqtt
from interop.clients.mosquitto import Mosquitto
from interop.clients.mqttjs import MqttJs, MqttJsInBrowser
from interop.clients.paho import Paho
from interop.peer import Client, Way

CLIENTS: Final[tuple[type[Client], ...]] = (Paho, Aiomqtt, Amqtt, Mosquitto, MqttJs, MqttJsInBrowser)
WAYS: Final = tuple(
    Way(client, version, scheme) for client in CLIENTS for version in client.versions for scheme in client.schemes
)
