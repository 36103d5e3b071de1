"""What the scenario asks of a client: an adapter for each (in `clients/`) does it, or says that its client cannot."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar, Final

RECEIVE_S: Final = 10.0  # how long a client may take before a test gives up
WEBSOCKET_PATH: Final = "/mqtt"
KEPT_S: Final = 1000  # how long a session outlives its connection, where it is to


class Feature(Enum):
    """What not every client can do. The value is the row in docs/clients.md."""

    CERTIFICATE = "signs in with a certificate"
    CHANGES = "subscribes more than once, and unsubscribes"
    SESSION_PRESENT = "says whether its session was still there"
    PROPERTIES = "properties of messages and wills"
    BINARY_CORRELATION = "correlation data that is not text"
    SUBSCRIPTION_ID = "subscription identifiers"
    TOPIC_ALIAS = "topic aliases, when it publishes"
    NO_LOCAL = "No Local"
    RETAIN_AS_PUBLISHED = "Retain As Published"
    RETAIN_HANDLING = "Retain Handling"
    REFUSED_PUBLISH = "says that a publish was refused, and why"
    REFUSED_AT_QOS_2 = "does so at QoS 2, too"
    CLOSED_BECAUSE = "says why the broker closed the connection"


# What there is in MQTT 5 only.
OF_VERSION_5: Final = frozenset(
    {
        Feature.PROPERTIES,
        Feature.BINARY_CORRELATION,
        Feature.SUBSCRIPTION_ID,
        Feature.TOPIC_ALIAS,
        Feature.NO_LOCAL,
        Feature.RETAIN_AS_PUBLISHED,
        Feature.RETAIN_HANDLING,
        Feature.REFUSED_PUBLISH,
        Feature.REFUSED_AT_QOS_2,
        Feature.CLOSED_BECAUSE,
    }
)


class Refused(Exception):
    """The broker did not let the client in, for the reason of its CONNACK."""

    def __init__(self, reason: int) -> None:
        super().__init__(hex(reason))
        self.reason = reason


@dataclass(frozen=True)
class Properties:
    """What a message of MQTT 5 carries besides its payload."""

    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    expiry_s: int | None = None
    text: bool = False
    user: tuple[tuple[str, str], ...] = ()
    subscription_ids: tuple[int, ...] = ()  # received only


NONE: Final = Properties()


@dataclass(frozen=True)
class Message:
    """As a client received it."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties = NONE


@dataclass(frozen=True)
class Will:
    """What the broker is to publish when the client dies."""

    topic: str
    payload: str
    properties: Properties = NONE
    qos: int = 1


@dataclass(frozen=True)
class Options:
    """How to subscribe; all but the QoS is of MQTT 5."""

    qos: int = 1
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    id: int | None = None


AT_QOS_1: Final = Options()


@dataclass(frozen=True)
class Join:
    """How to connect. A session that is kept outlives its connection, and is resumed when it is there."""

    name: str
    keep: bool = False
    will: Will | None = None
    username: str | None = None
    password: str | None = None
    certificate: tuple[Path, Path] | None = None  # and its key


@dataclass(frozen=True)
class Way:
    """A client, the version that it speaks and the scheme of the address that it goes to."""

    client: "type[Client]"
    version: int  # 4 is 3.1.1
    scheme: str

    def __str__(self) -> str:
        return f"{self.client.name}-{'5' if self.version == 5 else '3.1.1'}-{self.scheme}"

    @property
    def can(self) -> frozenset[Feature]:
        """What it can do in this version."""
        return frozenset(Feature) - self.client.cannot.keys() - (frozenset() if self.version == 5 else OF_VERSION_5)


class Peer(ABC):
    """A connected client. What it receives is put into its inbox as it comes."""

    def __init__(self) -> None:
        self.session_present = False
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()

    @abstractmethod
    async def subscribe(self, *filters: str, options: Options = AT_QOS_1) -> list[int]:
        """Subscribe in one packet; what the SUBACK says for each filter."""

    @abstractmethod
    async def unsubscribe(self, *filters: str) -> None: ...

    @abstractmethod
    async def publish(
        self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, properties: Properties = NONE
    ) -> int:
        """Publish, and wait for the acknowledgement; its reason, 0 for all that are successes."""

    @abstractmethod
    async def publish_all(self, topic: str, payloads: Sequence[bytes], qos: int = 1, *, alias: int = 0) -> None:
        """Publish them all, text, not waiting for one before the next. With an alias the topic goes with the first."""

    async def next(self) -> Message:
        """The next message."""
        async with asyncio.timeout(RECEIVE_S):
            return await self.inbox.get()

    @abstractmethod
    async def closed(self) -> int:
        """Wait until the broker has closed the connection; why."""

    @abstractmethod
    async def leave(self) -> None:
        """Disconnect. Nothing happens when there is no connection any more."""

    @abstractmethod
    async def die(self) -> None:
        """Close the connection without a DISCONNECT."""


class Client(ABC):
    """A client library or program, and where the broker listens."""

    name: ClassVar[str]
    versions: ClassVar[tuple[int, ...]] = (4, 5)
    schemes: ClassVar[tuple[str, ...]]
    cannot: ClassVar[Mapping[Feature, str]] = {}

    def __init__(self, ports: Mapping[str, int], ca: Path) -> None:
        self.ports, self.ca = ports, ca

    @abstractmethod
    async def join(self, version: int, scheme: str, how: Join) -> Peer:
        """Connect; raises `Refused`, where the client says so before it has subscribed."""

    async def stop(self) -> None:  # noqa: B027 - most have nothing to end
        """End what the adapter has started besides its peers."""

    def trusted(self, scheme: str) -> Path | None:
        """The certificate of the authority, where there is TLS."""
        return self.ca if scheme in ("mqtts", "wss") else None

    def url(self, scheme: str, *, credentials: str = "") -> str:
        """Where to connect to."""
        path = WEBSOCKET_PATH if scheme in ("ws", "wss") else ""
        return f"{scheme}://{credentials}localhost:{self.ports[scheme]}{path}"
