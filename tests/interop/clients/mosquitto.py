"""mosquitto_sub and mosquitto_pub: what most people try first.

A peer is one mosquitto_sub from its first subscription on, and a mosquitto_pub for each publish.
"""

import asyncio
import json
import re
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

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
from support.programs import program

REASONS: Final = {"Not authorized": 0x87}
_LINE_BYTES_MAX: Final = 1 << 23
_BY_LINES: Final = ("stdbuf", "-oL")  # it keeps what it says back until a message comes, when nobody looks


class MosquittoPeer(Peer):
    def __init__(self, client: "Mosquitto", version: int, where: list[str], how: Join) -> None:
        super().__init__()
        self._client, self._version, self._where, self._how = client, version, where, how
        self._receiver: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._granted: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def subscribe(self, *filters: str, options: Options = AT_QOS_1) -> list[int]:
        assert self._receiver is None, Feature.CHANGES
        args = ["-q", str(options.qos), *(word for filter in filters for word in ("-t", filter))]
        if options.retain_as_published:
            args.append("--retain-as-published")
        if options.id is not None:
            args += ["-D", "subscribe", "subscription-identifier", str(options.id)]
        if self._how.keep:
            self._client.subscribed[self._how.name] = args
        return await self.receive(args)

    async def receive(self, args: list[str]) -> list[int]:
        """Start mosquitto_sub."""
        how = self._how
        args = [*args, "-i", how.name, "-d", "-F", "MESSAGE %x %j"]
        if how.keep:
            args.append("-c")
            if self._version == 5:
                args += ["-x", str(KEPT_S)]
        args += self._will()
        self._receiver = await asyncio.create_subprocess_exec(
            *_BY_LINES,
            program("mosquitto_sub"),
            *self._where,
            *args,
            stdout=PIPE,
            stderr=DEVNULL,
            limit=_LINE_BYTES_MAX,
        )
        self._reader = asyncio.create_task(self._read(self._receiver))
        async with asyncio.timeout(RECEIVE_S):
            return await self._granted

    def _will(self) -> list[str]:
        will = self._how.will
        if will is None:
            return []
        args = ["--will-topic", will.topic, "--will-payload", will.payload, "--will-qos", str(will.qos)]
        return args + _properties("will", will.properties)

    async def _read(self, receiver: Process) -> None:
        assert receiver.stdout is not None
        while line := (await receiver.stdout.readline()).decode(errors="replace"):
            if line.startswith("MESSAGE "):
                _, payload, fields = line.split(" ", 2)
                self.inbox.put_nowait(_message(bytes.fromhex(payload), fields))
            elif line.startswith("Subscribed "):
                if not self._granted.done():  # a signal in the midst of writing makes it write the line twice
                    self._granted.set_result([int(reason) for reason in line.partition("): ")[2].split(",")])
            elif closed := re.match(r"Received DISCONNECT \((\d+)\)", line):
                self._closed.set_result(int(closed[1]))
        code = await receiver.wait()
        if not self._granted.done():
            self._granted.set_exception(Refused(code))

    async def unsubscribe(self, *filters: str) -> None:
        raise NotImplementedError  # Feature.CHANGES

    async def publish(
        self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, properties: Properties = NONE
    ) -> int:
        args = ["-t", topic, "-q", str(qos), "-s" if payload else "-n", *_properties("publish", properties)]
        said = await self._publish([*args, "-r"] if retain else args, payload)
        refused = re.search(r"Publish \d+ failed: (.+)\.", said)
        return REASONS[refused[1]] if refused else 0

    async def publish_all(self, topic: str, payloads: Sequence[bytes], qos: int = 1, *, alias: int = 0) -> None:
        args = ["-t", topic, "-q", str(qos), "-l"]
        if alias:
            args += ["-D", "publish", "topic-alias", str(alias)]
        await self._publish(args, b"".join(payload + b"\n" for payload in payloads))

    async def _publish(self, args: list[str], stdin: bytes) -> str:
        process = await asyncio.create_subprocess_exec(
            program("mosquitto_pub"), *self._where, *args, *self._will(), stdin=PIPE, stdout=DEVNULL, stderr=PIPE
        )
        async with asyncio.timeout(RECEIVE_S):
            _, said = await process.communicate(stdin)
        if process.returncode:
            raise Refused(process.returncode)
        return said.decode()

    async def closed(self) -> int:
        async with asyncio.timeout(RECEIVE_S):
            return await self._closed

    async def leave(self) -> None:
        if self._receiver is not None and self._receiver.returncode is None:
            self._receiver.terminate()  # it sends a DISCONNECT
        await self._end()

    async def die(self) -> None:
        assert self._receiver is not None
        self._receiver.kill()
        await self._end()

    async def _end(self) -> None:
        if self._reader is not None:
            async with asyncio.timeout(RECEIVE_S):
                await self._reader


class Mosquitto(Client):
    """One subscription for each process, and that at the start."""

    name: ClassVar = "mosquitto"
    schemes: ClassVar = ("mqtt", "mqtts")
    cannot: ClassVar = {
        Feature.CHANGES: "each mosquitto_sub subscribes once, when it starts",
        Feature.SESSION_PRESENT: "does not show it",
        Feature.BINARY_CORRELATION: "text on its command line",
        Feature.NO_LOCAL: "mosquitto_sub does not publish",
        Feature.RETAIN_HANDLING: "has no flag for it",
    }

    def __init__(self, ports: Mapping[str, int], ca: Path) -> None:
        super().__init__(ports, ca)
        self.subscribed: dict[str, list[str]] = {}  # how the sessions that are kept did, to do it again

    async def join(self, version: int, scheme: str, how: Join) -> MosquittoPeer:
        where = ["-h", "localhost", "-p", str(self.ports[scheme]), "-V", "mqttv5" if version == 5 else "mqttv311"]
        if self.trusted(scheme):
            where += ["--cafile", str(self.ca)]
        if how.certificate is not None:
            where += ["--cert", str(how.certificate[0]), "--key", str(how.certificate[1])]
        if how.username is not None:
            where += ["-u", how.username, "-P", how.password or ""]
        peer = MosquittoPeer(self, version, where, how)
        if how.keep and how.name in self.subscribed:
            await peer.receive(self.subscribed[how.name])
        return peer


def _properties(command: str, properties: Properties) -> list[str]:
    """As flags."""
    correlation = properties.correlation_data
    found: list[tuple[str, ...]] = [
        (name, str(value))
        for name, value in {
            "content-type": properties.content_type,
            "response-topic": properties.response_topic,
            "correlation-data": None if correlation is None else correlation.decode(),
            "message-expiry-interval": properties.expiry_s,
            "payload-format-indicator": int(properties.text) or None,
        }.items()
        if value is not None
    ]
    found += [("user-property", name, value) for name, value in properties.user]
    return [word for words in found for word in ("-D", command, *words)]


def _message(payload: bytes, fields: str) -> Message:
    """From what `%j` shows. Objects are read as pairs: a user property's name may be there more than once."""
    shown = dict(json.loads(fields, object_pairs_hook=tuple))
    found = dict(shown.get("properties", ()))
    correlation = found.get("correlation-data")
    properties = Properties(
        content_type=found.get("content-type"),
        response_topic=found.get("response-topic"),
        correlation_data=None if correlation is None else correlation.encode(),
        expiry_s=found.get("message-expiry-interval"),
        text=bool(found.get("payload-format-indicator")),
        user=tuple(found.get("user-properties", ())),
        subscription_ids=(found["subscription-identifier"],) if "subscription-identifier" in found else (),
    )
    return Message(shown["topic"], payload, shown["qos"], bool(shown["retain"]), properties)
