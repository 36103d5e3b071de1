"""CONNECT and DISCONNECT (§3.1, §3.2, §3.14): from the first packet to a session, and goodbye."""

from typing import TYPE_CHECKING, Final

from broker.errors import ProtocolError, Refused
from broker.identity import Identity, Role
from broker.limits import CLIENT_ID_BYTES_MAX, CONNECT_WORK, KEEP_ALIVE_MAX_S, RECEIVE_MAXIMUM, TOPIC_ALIASES_MAX
from broker.route.access import may_publish
from broker.wire.codes import SERVER_ONLY, V4, V5, Reason
from broker.wire.encode import encode
from broker.wire.packets import Connack, Connect, Disconnect, Properties

if TYPE_CHECKING:
    from broker.session.channel import Channel
    from broker.session.rights import Rights
    from broker.session.session import Session

# An enum's member costs 60 ns each time it is named.
_DEVICE: Final = Role.DEVICE
_ENROLLING: Final = Role.ENROLLING
_SERVER: Final = Role.SERVER
_CONNACK: Final = [encode(Connack(present), V4) for present in (False, True)]
_NEVER = 0xFFFFFFFF  # a session expiry that means: keep for ever (§3.1.2.11.2)
_NAMED_ACK_BYTES = 64  # PUBACK or PUBREC with a message id in it


def received(channel: "Channel", packet: Connect) -> None:
    """CONNECT arrived: check it, and ask who this is. The answer comes through `accepted` or `refused`."""
    channel.v5 = int(packet.version == V5)
    channel.admitting = packet
    if packet.properties.auth_method is not None:
        # We have none: whichever it names is refused at once [MQTT-4.12.0-1, -4].
        refused(channel, Refused("no extended authentication here", reason=Reason.BAD_AUTH_METHOD))
        return
    if len(packet.client_id.encode()) > CLIENT_ID_BYTES_MAX:
        # 256 bytes of UTF-8 are more than must be allowed [MQTT-3.1.3-5]. [MQTT-3.1.3-8], 3.1.1 [MQTT-3.1.3-9].
        refused(channel, Refused("client id too long", reason=Reason.CLIENT_ID_NOT_VALID))
        return
    if not packet.client_id and not packet.clean_start and packet.version != V5:
        # Without a client id there is nothing to come back to: 3.1.1 [MQTT-3.1.3-7, -8].
        refused(channel, Refused("no client id", reason=Reason.CLIENT_ID_NOT_VALID))
        return
    channel.core.admit(channel, packet)


def unreadable(channel: "Channel", body: bytes, error: ProtocolError) -> None:
    """CONNECT arrived, and is not one: answer as its protocol level can understand (§3.1.4), where it can be seen.

    What does not call itself MQTT, or MQIsdp as 3.1 does, gets no answer [MQTT-3.1.2-1], and 3.1.1 has none for what is
    malformed [MQTT-3.1.4-1], 3.1.1 [MQTT-3.2.2-6].
    """
    # The highest bit is no version: mosquitto's bridges set it, and come again without it when they are told 1.
    level = body[6] & 0x7F if len(body) > 6 and body[:6] == b"\0\4MQTT" else 0
    channel.v5 = int(level >= V5)
    if channel.v5 or (error.reason == Reason.UNSUPPORTED_VERSION and body.startswith((b"\0\4MQTT", b"\0\6MQIsdp"))):
        channel.send(Connack(False, error.reason))  # [MQTT-3.1.2-2]


def accepted(channel: "Channel", identity: Identity, until: float = 0.0, rights: "Rights | None" = None) -> None:
    """The client is `identity`: give it its session and answer (§3.2).

    What it proved that with ends at `until` (monotonic; 0 = never), and with it the connection. rights: where its
    identity does not say what it may do; whether its will's topic is among that was asked before.
    """
    packet, core = channel.admitting, channel.core
    if channel.closed or packet is None:
        return
    limits, asked = core.limits, packet.properties
    will = packet.will
    if will is not None and not may_publish(identity, will.topic):
        refused(channel, Refused("the will's topic is not allowed"))
        return
    client_id = packet.client_id or core.random_id()  # [MQTT-3.1.3-6]
    v5 = bool(channel.v5)
    # What MQTT 5 says in one number, the clean session flag says in 3.1.1 [MQTT-3.1.2-6].
    wanted = (asked.session_expiry or 0) if v5 else (0 if packet.clean_start else _NEVER)
    # Who enrols comes back under its own name.
    expiry_s = 0 if identity.role is _ENROLLING else min(wanted, limits.session_expiry_max_s)
    keep_alive = packet.keep_alive
    if v5 and not 0 < keep_alive <= KEEP_ALIVE_MAX_S:
        keep_alive = KEEP_ALIVE_MAX_S
    answer = None
    if v5:
        answer = Connack(properties=_told(packet, identity, client_id, expiry_s, keep_alive, limits.packet_bytes_max))
        if not _fits(answer, asked):
            answer.properties.user_properties = []  # [MQTT-3.2.2-20]
        if not _fits(answer, asked):
            # All that it is sent later, but messages, SUBACK and UNSUBACK, is smaller.
            refused(channel, Refused("its maximum packet size is too small", reason=Reason.IMPLEMENTATION_SPECIFIC))
            return
    before = core.router.walked
    try:
        # [MQTT-3.2.2-2, -3], 3.1.1 [MQTT-3.2.2-1 to -3]
        session, present = core.open(channel, identity, client_id, packet.clean_start)
    except Refused as error:
        refused(channel, error)
        return
    channel.admitting = None
    channel.session = session
    channel.packet_max = limits.packet_bytes_max
    channel.rights = rights
    channel.stamps = identity.role is _SERVER
    # [MQTT-3.1.2-29, MQTT-3.4.2-3, MQTT-3.5.2-3]
    channel.names = asked.request_problem_info != 0 and (asked.maximum_packet_size or 1024) > _NAMED_ACK_BYTES
    session.will = will  # [MQTT-3.1.2-7]
    core.configure(session, v5, expiry_s, asked.maximum_packet_size or 0, asked.receive_maximum or 65535)
    channel.keep_alive_s = keep_alive
    channel.seen = core.now
    channel.until = until
    deadline = core.now + keep_alive * 1.5 if keep_alive else until
    if deadline:
        core.wheel.schedule(channel, min(deadline, until) if until else deadline)
    # The first packet that a client gets [MQTT-3.2.0-1], 3.1.1 [MQTT-3.2.0-1, MQTT-3.1.4-4], and the only CONNACK
    # [MQTT-3.2.0-2].
    if answer is None:
        channel.write(_CONNACK[present])  # [MQTT-3.1.4-5]
    else:
        answer.session_present = present
        channel.send(answer)
    session.resume(channel)
    core.work += CONNECT_WORK + len(session.subscriptions) + core.router.walked - before


def _told(
    packet: Connect, identity: Identity, client_id: str, expiry_s: int, keep_alive: int, packet_bytes_max: int
) -> Properties:
    """What an MQTT 5 client is told when it is let in (§3.2.2.3): all that is not as it asked, or not the default.

    All QoS and retained messages are supported, so nothing is said of them [MQTT-3.2.2-9, -13], and there is no
    Response Information [MQTT-3.1.2-28].
    """
    told = Properties(
        session_expiry=expiry_s if expiry_s != (packet.properties.session_expiry or 0) else None,
        assigned_client_id=None if packet.client_id else client_id,  # [MQTT-3.1.3-7, MQTT-3.2.2-16]
        server_keep_alive=keep_alive if keep_alive != packet.keep_alive else None,  # [MQTT-3.2.2-22]
        receive_maximum=RECEIVE_MAXIMUM,
        maximum_packet_size=packet_bytes_max,
        topic_alias_maximum=TOPIC_ALIASES_MAX,
    )
    if identity.role is _DEVICE:
        # Whose it is and where it stands may have changed since it enrolled: it subscribes accordingly.
        told.user_properties = [("user", identity.user), ("store", identity.store)]
    return told


def refused(channel: "Channel", error: Refused) -> None:
    """The client is not let in: say why in CONNACK, and close [MQTT-3.1.4-2, MQTT-3.2.2-7], 3.1.1 [MQTT-3.2.2-5]."""
    if channel.closed:
        return
    core = channel.core
    core.counters.connections_refused += 1
    core.note("connection refused", client=channel.address, reason=f"0x{error.reason:02x}", error=error.message)
    packet = channel.admitting
    properties = Properties()
    asked = packet.properties if packet is not None else properties
    if channel.v5 and asked.request_problem_info != 0 and asked.maximum_packet_size is None:  # [MQTT-3.2.2-19]
        properties.reason_string = error.message
    answer = Connack(False, error.reason, properties)
    if _fits(answer, asked):
        channel.send(answer)
    channel.close()


def _fits(answer: Connack, asked: Properties) -> bool:
    """Whether the client takes a packet of that size [MQTT-3.1.2-24]."""
    return not asked.maximum_packet_size or len(encode(answer, V5)) <= asked.maximum_packet_size


def disconnect(channel: "Channel", session: "Session", packet: Disconnect) -> None:
    """DISCONNECT arrived: the will goes unless asked for [MQTT-3.1.2-10, MQTT-3.14.4-3], the expiry may change."""
    if packet.reason in SERVER_ONLY:
        raise ProtocolError(f"reason code 0x{packet.reason:02X} is for servers")
    expiry = packet.properties.session_expiry
    if expiry is not None:
        if expiry and not session.expiry_s:
            raise ProtocolError("session expiry of a session that was to end", Reason.PROTOCOL_ERROR)
        session.expiry_s = min(expiry, channel.core.limits.session_expiry_max_s)
    if not packet.reason:
        session.will = None  # [MQTT-3.1.2-10]
    channel.close()
