"""What goes over a link, free of paho's types."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

T = TypeVar("T")
UserProperties = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A PUBLISH from the broker. `expiry_s` is None when the message does not expire."""

    connection: int
    packet_id: int
    qos: int
    topic: str
    payload: bytes
    retained: bool = False
    content_type: str = ""
    expiry_s: int | None = None
    user_properties: UserProperties = ()
    response_topic: str = ""
    correlation_data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """What to publish, always at QoS 1. `expiry_s` counts from now."""

    topic: str
    payload: bytes
    content_type: str = ""
    expiry_s: int | None = None
    user_properties: UserProperties = ()
    retain: bool = False
    response_topic: str = ""
    correlation_data: bytes = b""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The broker's good answer to a PUBLISH: 0x00, or 0x10 when nobody is subscribed."""

    reason: int
    user_properties: UserProperties


class Later(Enum):
    """What `convert` returns when the answer comes by itself, after the PUBACK or before it."""

    LATER = "later"


LATER: Final = Later.LATER


@dataclass(slots=True)
class Outgoing(Generic[T]):
    """A PUBLISH on its way, and who waits for the answer. `queued_at` is monotonic seconds."""

    publish: Publish
    convert: Callable[[Accepted], T | Later]
    queued_at: float
    future: Future[T] = field(default_factory=Future)

    def accept(self, accepted: Accepted) -> None:
        """Hand the answer to who waits for it."""
        try:
            answer = self.convert(accepted)
        except Exception as error:
            self.fail(error)
            raise
        if not isinstance(answer, Later):
            self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """There will be none, unless it is there already."""
        if not self.future.done():
            self.future.set_exception(error)

    def properties(self, now: float) -> Properties | None:
        """As paho wants them, at the moment of sending; None when the message has expired while it waited."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if self.publish.content_type:
            properties.ContentType = self.publish.content_type
        if self.publish.expiry_s is not None:
            left_s = self.publish.expiry_s - int(now - self.queued_at)
            if left_s <= 0:
                return None
            properties.MessageExpiryInterval = left_s
        if self.publish.user_properties:
            properties.UserProperty = list(self.publish.user_properties)
        if self.publish.response_topic:
            properties.ResponseTopic = self.publish.response_topic
        if self.publish.correlation_data:
            properties.CorrelationData = self.publish.correlation_data
        return properties


def user_properties(properties: Properties | None) -> UserProperties:
    """The user properties of any packet, in order."""
    pairs: Any = getattr(properties, "UserProperty", ())
    return tuple((str(name), str(value)) for name, value in pairs)


def first(properties: UserProperties, name: str) -> str | None:
    """The first value of a user property, or None."""
    return next((value for key, value in properties if key == name), None)
