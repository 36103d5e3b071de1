"""The packets of MQTT, one model for 3.1.1 and 5: what a version lacks stays at its default."""

from typing import Final

import msgspec


class Properties(msgspec.Struct, omit_defaults=True):
    """MQTT 5 properties (§2.2.2). None, or an empty list: not present. Times are in seconds, else as on the wire."""

    payload_format: int | None = None
    message_expiry: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_ids: list[int] = []
    session_expiry: int | None = None
    assigned_client_id: str | None = None
    server_keep_alive: int | None = None
    auth_method: str | None = None
    auth_data: bytes | None = None
    request_problem_info: int | None = None
    will_delay: int | None = None
    request_response_info: int | None = None
    response_info: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user_properties: list[tuple[str, str]] = []
    maximum_packet_size: int | None = None
    wildcard_available: int | None = None
    subscription_ids_available: int | None = None
    shared_available: int | None = None


NO_PROPERTIES: Final = Properties()  # of a CONNECT that can have none; not to be changed


class Will(msgspec.Struct):
    """The will in CONNECT (§3.1.3.2 to §3.1.3.4). `topic` is UTF-8."""

    topic: bytes
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = msgspec.field(default_factory=Properties)


class Connect(msgspec.Struct):
    """CONNECT (§3.1). `keep_alive` in seconds, 0 for none."""

    client_id: str
    version: int = 4
    clean_start: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = msgspec.field(default_factory=Properties)


class Connack(msgspec.Struct):
    """CONNACK (§3.2). `reason` is an MQTT 5 reason code; for 3.1.1 the encoder turns it into a return code."""

    session_present: bool = False
    reason: int = 0
    properties: Properties = msgspec.field(default_factory=Properties)


class Publish(msgspec.Struct):
    """PUBLISH (§3.3). `topic` is UTF-8, empty where only a topic alias is sent; `packet_id` is 0 at QoS 0."""

    topic: bytes
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = msgspec.field(default_factory=Properties)


class Ack(msgspec.Struct):
    """What PUBACK, PUBREC, PUBREL and PUBCOMP have in common (§3.4 to §3.7)."""

    packet_id: int
    reason: int = 0
    properties: Properties = msgspec.field(default_factory=Properties)


class Puback(Ack):
    """PUBACK (§3.4)."""


class Pubrec(Ack):
    """PUBREC (§3.5)."""


class Pubrel(Ack):
    """PUBREL (§3.6)."""


class Pubcomp(Ack):
    """PUBCOMP (§3.7)."""


class Request(msgspec.Struct):
    """One topic filter of a SUBSCRIBE with its options (§3.8.3). `retain_handling` is 0, 1 or 2."""

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


class Subscribe(msgspec.Struct):
    """SUBSCRIBE (§3.8)."""

    packet_id: int
    requests: list[Request]
    properties: Properties = msgspec.field(default_factory=Properties)


class Suback(msgspec.Struct):
    """SUBACK (§3.9). For 3.1.1 every failure is sent as 0x80."""

    packet_id: int
    reasons: list[int]
    properties: Properties = msgspec.field(default_factory=Properties)


class Unsubscribe(msgspec.Struct):
    """UNSUBSCRIBE (§3.10)."""

    packet_id: int
    filters: list[str]
    properties: Properties = msgspec.field(default_factory=Properties)


class Unsuback(msgspec.Struct):
    """UNSUBACK (§3.11). 3.1.1 sends no reasons."""

    packet_id: int
    reasons: list[int] = []
    properties: Properties = msgspec.field(default_factory=Properties)


class Pingreq(msgspec.Struct):
    """PINGREQ (§3.12)."""


class Pingresp(msgspec.Struct):
    """PINGRESP (§3.13)."""


class Disconnect(msgspec.Struct):
    """DISCONNECT (§3.14)."""

    reason: int = 0
    properties: Properties = msgspec.field(default_factory=Properties)


class Auth(msgspec.Struct):
    """AUTH (§3.15), MQTT 5 only."""

    reason: int = 0
    properties: Properties = msgspec.field(default_factory=Properties)


Packet = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)
