"""CONNECT, CONNACK, DISCONNECT (§3.1, §3.2, §3.14): who gets in, to which session, and how it ends."""

import pytest
from support.effort import lines
from support.loopback import START_S, Lab

from broker.errors import Refused
from broker.identity import ANONYMOUS, Identity, Role
from broker.limits import (
    CLIENT_ID_BYTES_MAX,
    CONNECT_BYTES_MAX,
    CONNECT_TIMEOUT_S,
    RECEIVE_MAXIMUM,
    TOPIC_ALIASES_MAX,
    TURN_WORK_MAX,
)
from broker.wire.codes import REASONS, PacketType
from broker.wire.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Publish,
    Request,
    Suback,
    Subscribe,
    Will,
)

NEVER = 0xFFFFFFFF
DAY = 86400


# -- getting in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_a_new_client_is_welcome(version: int) -> None:
    """3.1.1 [MQTT-3.1.4-4]."""
    lab = Lab()
    client = lab.connect("c", version)
    assert client.connack.reason == 0  # [MQTT-3.1.4-5]
    assert not client.connack.session_present  # [MQTT-3.2.2-2]
    assert client.early == []
    client.send(Pingreq())
    assert client.packets() == [Pingresp()]  # [MQTT-3.12.4-1]


def test_mqtt_5_is_told_the_bounds() -> None:
    """§3.2.2.3: what is not the default is said; all QoS and retained messages are supported [MQTT-3.2.2-9, -13]."""
    told = Lab(packet_bytes_max=5000).connect().connack.properties
    assert told == Properties(
        receive_maximum=RECEIVE_MAXIMUM, maximum_packet_size=5000, topic_alias_maximum=TOPIC_ALIASES_MAX
    )


@pytest.mark.parametrize("asked", [0, 1, None])
def test_there_is_no_response_information(asked: int | None) -> None:
    """[MQTT-3.1.2-28]; to whom asks for it, it is optional (§3.2.2.3.15)."""
    assert Lab().connect(request_response_info=asked).connack.properties.response_info is None


@pytest.mark.parametrize("maximum", [None, 30, 1000])
def test_a_device_is_told_whose_it_is(maximum: int | None) -> None:
    """So that it can subscribe accordingly; not if its CONNACK would be too large for it [MQTT-3.2.2-20]."""
    place = {"user": "ada", "store": ""}
    lab = Lab(admit=lambda _: Identity(Role.DEVICE, "acme", "k", **place))
    connack = lab.connect("c", maximum_packet_size=maximum).connack
    assert connack.reason == 0
    told = connack.properties.user_properties
    assert told == ([] if maximum == 30 else [("user", "ada"), ("store", "")])
    place = {"user": "bob", "store": "milano"}
    told = lab.connect("c", clean=False).connack.properties.user_properties
    assert told == [("user", "bob"), ("store", "milano")]
    assert lab.connect("c", 4).connack.reason == 0


@pytest.mark.parametrize("role", [Role.SERVER, Role.ENROLLING])
def test_others_are_not(role: Role) -> None:
    lab = Lab(admit=lambda _: Identity(role, "acme", "crm"))
    assert lab.connect("c").connack.properties.user_properties == []


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    "packet", [Pingreq(), Publish(b"a"), Subscribe(1, [Request("a")]), Disconnect(), Puback(1)], ids=repr
)
def test_anything_before_connect_closes(version: int, packet: Packet) -> None:
    """[MQTT-3.1.0-1]; there is nobody yet to whom DISCONNECT could be sent [MQTT-3.14.0-1]."""
    client = Lab().client(version)
    client.send(packet)
    assert client.closed
    assert client.packets() == []


@pytest.mark.parametrize("version", [4, 5])
def test_a_second_connect_closes(version: int) -> None:
    """[MQTT-3.1.0-2]."""
    client = Lab().connect("c", version)
    client.send(Connect("c", version), Pingreq())
    assert client.closed
    assert client.packets() == ([Disconnect(0x82)] if version == 5 else [])  # no other CONNACK [MQTT-3.2.0-2]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("packet", [Connack(), Suback(1, [0]), Pingresp()], ids=repr)
def test_what_only_servers_send_closes(version: int, packet: Packet) -> None:
    client = Lab().connect("c", version)
    client.send(packet)
    assert client.goodbye() == (0x82 if version == 5 else None)


def test_auth_without_a_method_closes() -> None:
    """[MQTT-4.12.0-6, -7, MQTT-4.12.1-1, -2]: no method was agreed on, and nobody can authenticate again."""
    client = Lab().connect()
    client.send(Auth(0x19, Properties(auth_method="X")))
    assert client.goodbye() == 0x82


def test_extended_authentication_is_refused() -> None:
    """[MQTT-4.12.0-1, -4]: 0x8C; what follows is not served [MQTT-3.1.2-30].

    So there is no AUTH that we send, and no success that names a method [MQTT-4.12.0-2, -5, MQTT-3.15.2-2, -3].
    """
    client = Lab().client()
    client.send(Connect("c", properties=Properties(auth_method="SCRAM-SHA-1"), version=5), Auth(0x18), Pingreq())
    (answer,) = client.packets()
    assert isinstance(answer, Connack)
    assert answer.reason == 0x8C
    assert client.closed


def test_a_closed_connection_takes_nothing() -> None:
    """[MQTT-3.14.4-1, -2]: what follows DISCONNECT in the same read, and in later ones, is not looked at.

    3.1.1 [MQTT-3.14.4-2].
    """
    lab = Lab()
    reader = lab.connect("reader")
    reader.subscribe("#")
    client = lab.connect("c")
    client.send(Disconnect(), Publish(b"a"))
    client.send(Connect("again", 5))
    assert client.closed
    assert client.packets() == reader.packets() == []
    assert len(lab.core.sessions) == 1


# -- the client's maximum packet size --------------------------------------------------------------------------------


@pytest.mark.parametrize("maximum", range(1, 18))
def test_a_connack_has_to_fit(maximum: int) -> None:
    """[MQTT-3.1.2-24]: who has no room for it is refused, in the shortest words; or in none, and loses no session."""
    lab = Lab()
    here = lab.connect("c", session_expiry=60)
    client = lab.client()
    client.send(Connect("c", 5, False, 60, properties=Properties(maximum_packet_size=maximum)))
    assert len(client.channel.raw) <= maximum
    answer = client.packets()
    if maximum < 16:
        assert client.closed
        assert not here.closed
        assert answer == ([Connack(False, 0x83)] if maximum >= 5 else [])
        assert lab.core.counters.connections_refused == 1
    else:
        assert isinstance(answer[0], Connack)
        assert answer[0].session_present
        assert here.closed


def test_an_assigned_client_id_has_to_fit() -> None:
    """[MQTT-3.1.2-24]: it cannot be left out [MQTT-3.2.2-16]."""
    needed = len(Lab().connect("").channel.raw)
    assert Lab().connect("", maximum_packet_size=needed).connack.reason == 0
    assert Lab().connect("", maximum_packet_size=needed - 1).connack == Connack(False, 0x83)


# -- client ids ------------------------------------------------------------------------------------------------------


def test_an_empty_client_id_gets_one() -> None:
    """[MQTT-3.1.3-6, -7, MQTT-3.2.2-16]: also with clean start off, for MQTT 5."""
    lab = Lab()
    first = lab.connect("", clean=True).connack.properties.assigned_client_id
    second = lab.connect("", clean=False).connack.properties.assigned_client_id
    assert first
    assert second
    assert first != second
    assert [s.client_id for s in lab.core.sessions.values()] == [first, second]
    assert lab.connect("named").connack.properties.assigned_client_id is None


def test_an_empty_client_id_in_3_1_1() -> None:
    """3.1.1 [MQTT-3.1.3-7, -8]: only with clean session, else return code 2. [MQTT-3.1.3-6]."""
    lab = Lab()
    assert lab.connect("", 4).connack.reason == 0
    refused = lab.connect("", 4, clean=False)
    assert refused.connack.reason == 0x85
    assert refused.closed
    assert len(lab.core.sessions) == 1


@pytest.mark.parametrize("version", [4, 5])
def test_a_client_id_that_is_too_long_is_refused(version: int) -> None:
    """[MQTT-3.1.3-8]; bytes count, not characters. 3.1.1 [MQTT-3.1.3-9]."""
    lab = Lab()
    assert lab.connect("é" * (CLIENT_ID_BYTES_MAX // 2), version).connack.reason == 0
    client = lab.connect("é" * (CLIENT_ID_BYTES_MAX // 2) + "x", version)
    assert client.connack.reason == 0x85
    assert client.closed


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    "client_id", ["0", "0123456789ABCDEFGHIJKLM", "NOPQRSTUVWXYZabcdefghij", "klmnopqrstuvwxyz", "z" * 23]
)
def test_client_ids_that_every_server_must_allow(version: int, client_id: str) -> None:
    """[MQTT-3.1.3-5]: 1 to 23 bytes of 0-9, A-Z and a-z; each is a session of its own."""
    lab = Lab()
    assert lab.connect(client_id, version).connack.reason == 0
    assert lab.connect(client_id.swapcase() + "1", version).connack.reason == 0
    assert len(lab.core.sessions) == 2


# -- who it is -------------------------------------------------------------------------------------------------------


def test_a_refusal_is_explained() -> None:
    """[MQTT-3.1.4-2, MQTT-3.2.2-7, MQTT-4.13.2-1]: CONNACK, then closed. No session comes to be."""
    lab = Lab(admit=lambda _: Refused("no such token", reason=0x86))
    client = lab.connect()
    assert client.connack.reason == 0x86
    assert client.connack.properties.reason_string == "no such token"
    assert client.closed
    assert client.early == []
    assert lab.core.sessions == {}
    assert lab.core.counters.connections_refused == 1


@pytest.mark.parametrize(("reason", "code"), [(0x86, 4), (0x87, 5), (0x89, 3), (0x97, 3), (0x8C, 4)])
def test_a_refusal_in_3_1_1(reason: int, code: int) -> None:
    """3.1.1 [MQTT-3.2.2-4, -5]."""
    lab = Lab(admit=lambda _: Refused("no", reason=reason))
    client = lab.client(4)
    client.send(Connect("c", 4))
    assert bytes(client.channel.raw) == bytes((0x20, 2, 0, code))
    assert client.closed


def test_no_explanation_for_those_who_want_none() -> None:
    """[MQTT-3.1.2-29]: allowed in CONNACK, but not wanted."""
    client = Lab(admit=lambda _: Refused("no")).connect(request_problem_info=0)
    assert client.connack.properties.reason_string is None


@pytest.mark.parametrize("maximum", [20, 60, 1000])
def test_no_explanation_for_those_who_bound_their_packets(maximum: int) -> None:
    """[MQTT-3.2.2-19]: it would have to fit, and who has little room has none for words."""
    client = Lab(admit=lambda _: Refused("no" * 20, reason=0x87)).connect(maximum_packet_size=maximum)
    assert client.connack.reason == 0x87
    assert len(client.channel.raw) < 20


def test_an_admission_that_takes_its_time() -> None:
    """What the client sends meanwhile waits (§3.1.4), then is served in order. 3.1.1 [MQTT-3.2.0-1]."""
    lab = Lab(admit=lambda _: None)
    client = lab.client()
    client.send(Connect("c", 5), Subscribe(1, [Request("a")]), Publish(b"a", b"early"))
    assert client.channel.paused
    client.send(Pingreq())
    assert client.packets() == []
    client.decide(ANONYMOUS)
    assert not client.channel.paused
    connack, suback, message, pong = client.packets()
    assert isinstance(connack, Connack)
    assert isinstance(suback, Suback)
    assert isinstance(message, Publish)
    assert message.payload == b"early"
    assert pong == Pingresp()


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("late", [False, True])
def test_what_follows_a_refused_connect_is_not_looked_at(version: int, late: bool) -> None:
    """3.1.1 [MQTT-3.1.4-5], [MQTT-3.1.4-6]: in the same read or in another, refused at once or after a while."""
    refusal = Refused("no", reason=0x87)
    lab = Lab(admit=lambda packet: ANONYMOUS if packet.client_id == "w" else None if late else refusal)
    watcher = lab.connect("w")
    watcher.subscribe("#")
    client = lab.client(version)
    client.send(Connect("c", version), Subscribe(1, [Request("a")]), Publish(b"a", b"x", retain=True))
    if late:
        client.send(Publish(b"a", b"y", 1, packet_id=2))
        client.decide(refusal)
    client.send(Publish(b"a", b"z", 1, packet_id=3))
    assert [type(p) for p in client.packets()] == [Connack]
    assert client.closed
    assert watcher.messages() == []
    assert len(lab.core.retained) == 0


def test_an_admission_that_comes_too_late() -> None:
    lab = Lab(admit=lambda _: None)
    for answer in (ANONYMOUS, Refused("no")):
        client = lab.client()
        client.send(Connect("c", 5))
        client.drop()
        client.decide(answer)
        assert client.packets() == []
    assert lab.core.sessions == {}


def test_an_admission_may_take_longer_than_a_connect() -> None:
    lab = Lab(admit=lambda _: None)
    client = lab.client()
    client.send(Connect("c", 5))
    lab.advance(3 * CONNECT_TIMEOUT_S)
    assert not client.closed
    client.decide(ANONYMOUS)
    client.send(Pingreq())
    assert [type(p) for p in client.packets()] == [Connack, Pingresp]


def test_who_says_nothing_is_closed() -> None:
    """§3.1.4: after a reasonable time; half a CONNECT is nothing."""
    lab = Lab()
    client = lab.client()
    client.feed(b"\x10\x20")
    lab.advance(CONNECT_TIMEOUT_S - 1)
    client.feed(b"\x00")
    assert not client.closed
    lab.advance(2.5)
    assert client.closed
    assert client.packets() == []


def test_a_connect_that_is_too_large_is_not_waited_for() -> None:
    client = Lab().client()
    client.feed(b"\x10\xff\xff\x7f")
    assert client.closed
    assert client.packets() == []
    within = Lab().client()
    within.feed(b"\x10\x80\x80\x03")
    assert CONNECT_BYTES_MAX > 3 << 14
    assert not within.closed


def test_anonymous_clients_leave_room_for_the_others() -> None:
    """Whoever can reach an open listener could otherwise use up all sessions, and lock out the devices."""
    known = {"kiosk": Identity(Role.DEVICE, "acme", "kiosk"), "crm": Identity(Role.SERVER, "acme", "crm")}
    lab = Lab(sessions_max=4, admit=lambda packet: known.get(packet.username or "", ANONYMOUS))
    assert [lab.connect(f"a{n}").connack.reason for n in range(4)] == [0, 0, 0x97, 0x97]
    assert lab.connect("k", username="kiosk").connack.reason == 0
    assert lab.connect("s", username="crm").connack.reason == 0
    assert lab.connect("s2", username="crm").connack.reason == 0x97
    assert lab.core.counters.sessions_refused == 3


def test_the_number_of_sessions_is_bounded() -> None:
    lab = Lab(sessions_max=2, admit=lambda _: Identity(Role.SERVER, "acme", "crm"))
    first = lab.connect("a", session_expiry=60)
    first.disconnect()
    lab.connect("b")
    refused = lab.connect("c")
    assert refused.connack.reason == 0x97
    assert refused.closed
    assert lab.connect("a", clean=True).connack.reason == 0  # takes the place of its own
    assert lab.core.counters.sessions_refused == 1


# -- which session ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("again", [4, 5])
def test_a_session_is_resumed(version: int, again: int) -> None:
    """[MQTT-3.1.2-5, MQTT-3.1.4-4, MQTT-3.2.2-3], over a change of version, too.

    [MQTT-3.1.3-2, MQTT-4.5.0-1], 3.1.1 [MQTT-3.1.2-4, -5, MQTT-3.2.2-2, -3].
    """
    lab = Lab()
    kept = {"session_expiry": 3600} if version == 5 else {}
    client = lab.connect("c", version, clean=False, **kept)
    client.subscribe("a", 1)
    client.disconnect()
    lab.connect("p").publish("a", b"while away", 1)
    kept = {"session_expiry": 3600} if again == 5 else {}
    back = lab.connect("c", again, clean=False, **kept)
    assert back.connack.session_present
    assert [m.payload for m in back.early if isinstance(m, Publish)] == [b"while away"]
    lab.connect("p").publish("a", b"now")
    assert back.payloads() == [b"now"]
    assert not lab.connect("C", again, clean=False, **kept).connack.session_present


@pytest.mark.parametrize("durability", ["commit", "memory"])
@pytest.mark.parametrize("version", [4, 5])
def test_connack_comes_before_all_that_waits(version: int, durability: str) -> None:
    """[MQTT-3.2.0-1], 3.1.1 [MQTT-3.2.0-1]: in flight, in the log, the will of the connection that is taken over."""
    lab = Lab(durability=durability)
    kept = {"session_expiry": 3600} if version == 5 else {}
    client = lab.connect("c", version, clean=False, will=Will(b"a", b"bye", 1), **kept)
    client.subscribe("a", 1)
    sender = lab.connect("p")
    sender.publish("a", b"in flight", 1)
    client.drop()
    sender.publish("a", b"waits", 1)
    again = lab.connect("c", version, clean=False, will=Will(b"a", b"bye again", 1), **kept)
    assert len(again.early) == 3
    last = lab.connect("c", version, clean=False, **kept)
    assert [m.payload for m in last.early if isinstance(m, Publish)] == [b"in flight", b"bye", b"waits", b"bye again"]


@pytest.mark.parametrize("version", [4, 5])
def test_a_clean_start_forgets(version: int) -> None:
    """[MQTT-3.1.2-4, MQTT-3.1.4-4, MQTT-3.2.2-2]. 3.1.1 [MQTT-3.1.2-6, MQTT-3.1.4-3, MQTT-3.2.2-1]."""
    lab = Lab()
    kept = {"session_expiry": 3600} if version == 5 else {}
    client = lab.connect("c", version, clean=False, **kept)
    client.subscribe("a", 1)
    client.disconnect()
    lab.connect("p").publish("a", b"while away", 1)
    back = lab.connect("c", version, clean=True)
    assert not back.connack.session_present
    assert back.early == []
    lab.connect("p").publish("a", b"now")
    assert back.packets() == []
    assert lab.core.router.subscriptions == 0


@pytest.mark.parametrize("version", [4, 5])
def test_a_session_of_expiry_0_ends_with_its_connection(version: int) -> None:
    """§3.1.2.11.2; and who comes then gets a new one [MQTT-3.1.2-6, MQTT-3.2.2-3].

    3.1.1 [MQTT-3.1.2-6, MQTT-3.2.2-3].
    """
    lab = Lab()
    client = lab.connect("c", version, clean=version == 4)
    client.subscribe("a", 1)
    client.drop()
    assert lab.core.sessions == {}
    assert lab.core.router.subscriptions == 0
    assert not lab.connect("c", version, clean=False).connack.session_present


def test_a_session_expires() -> None:
    """[MQTT-3.1.2-23, MQTT-4.1.0-2]: until then it is kept; afterwards it is gone with all it had."""
    lab = Lab()
    client = lab.connect("c", session_expiry=100)
    client.subscribe("a", 1)
    client.drop()
    sender = lab.connect("p")
    sender.publish("a", b"1", 1)
    sender.drop()
    lab.advance(99)
    assert len(lab.core.sessions) == 1
    lab.advance(2)
    assert lab.core.sessions == {}
    assert lab.core.router.subscriptions == 0
    assert lab.core.counters.sessions_expired == 1
    assert lab.core.counters.messages_dropped_session_end == 1
    assert not lab.connect("c", clean=False).connack.session_present


@pytest.mark.parametrize("after", [99.75, 100.0])
def test_a_session_that_has_expired_is_not_resumed(after: float) -> None:
    """[MQTT-4.1.0-2]: to the moment, though the clock that ends sessions is a coarse one."""
    lab = Lab()
    lab.connect("c", session_expiry=100).drop()
    lab.core.now += after
    assert lab.connect("c", clean=False, session_expiry=100).connack.session_present == (after < 100)
    assert lab.core.counters.sessions_expired == (after >= 100)


@pytest.mark.parametrize("version", [4, 5])
def test_time_does_not_run_against_who_is_connected(version: int) -> None:
    """§3.1.2.11.2: the interval starts when the connection is closed, each time anew [MQTT-4.1.0-1].

    3.1.1 [MQTT-4.1.0-2].
    """
    lab = Lab(session_expiry_max_s=100)
    kept = {"session_expiry": 100} if version == 5 else {}
    client = lab.connect("c", version, clean=False, **kept)
    for _ in range(3):
        client.drop()
        lab.advance(80)
        client = lab.connect("c", version, clean=False, **kept)
        assert client.connack.session_present
        for _ in range(5):
            client.send(Pingreq())
            lab.advance(50)
        assert not client.closed


def test_the_expiry_is_bounded_and_the_client_told() -> None:
    """§3.2.2.3.2: a session expiry that is not the asked one is told."""
    lab = Lab(session_expiry_max_s=DAY)
    assert lab.connect(session_expiry=NEVER).connack.properties.session_expiry == DAY
    assert lab.connect(session_expiry=DAY + 1).connack.properties.session_expiry == DAY
    assert lab.connect(session_expiry=DAY).connack.properties.session_expiry is None
    assert lab.connect().connack.properties.session_expiry is None


def test_a_3_1_1_session_is_kept_as_long_as_any_may() -> None:
    """3.1.1 [MQTT-3.1.2-4] knows no expiry; ours bounds it. [MQTT-4.1.0-1]."""
    lab = Lab(session_expiry_max_s=1000)
    lab.connect("c", 4, clean=False).disconnect()
    lab.advance(999)
    assert len(lab.core.sessions) == 1
    lab.advance(2)
    assert lab.core.sessions == {}


# -- one client id, one connection -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("clean", [True, False])
def test_takeover(version: int, clean: bool) -> None:
    """[MQTT-3.1.4-3]: the older connection is closed, with 0x8E where it can be told. 3.1.1 [MQTT-3.1.4-2, -3]."""
    lab = Lab()
    kept = {"session_expiry": 3600} if version == 5 else {}
    old = lab.connect("c", version, clean=False, **kept)
    old.subscribe("a", 1)
    new = lab.connect("c", version, clean=clean, **kept)
    assert old.goodbye() == (0x8E if version == 5 else None)
    assert new.connack.session_present is not clean
    lab.connect("p").publish("a", b"x")
    assert new.payloads() == ([] if clean else [b"x"])
    assert lab.core.counters.sessions_taken_over == 1
    assert len(lab.core.sessions) == 2


def test_takeover_of_a_session_that_ends_with_its_connection() -> None:
    lab = Lab()
    old = lab.connect("c")
    old.subscribe("a", 1)
    new = lab.connect("c", clean=False)
    assert old.goodbye() == 0x8E
    assert not new.connack.session_present
    assert lab.core.router.subscriptions == 0
    old.drop()  # what is closed stays closed, and takes nothing from the new one
    assert new.session.channel is new.channel


def by_username(packet: Connect) -> Identity:
    if not packet.username:
        return ANONYMOUS
    brand, role, name = packet.username.split("/")
    return Identity(Role(role), brand, name)


def test_one_identity_cannot_take_the_session_of_another() -> None:
    """A session belongs to who made it: the same client id of somebody else is another session."""
    lab = Lab(admit=by_username)
    crm = lab.connect("c", username="acme/server/crm", session_expiry=60)
    other = lab.connect("c", username="acme/server/erp", session_expiry=60, clean=False)
    nobody = lab.connect("c", session_expiry=60, clean=False)
    assert not other.connack.session_present
    assert not nobody.connack.session_present
    assert not crm.closed
    assert not other.closed


def test_no_client_id_reaches_the_session_of_an_identity() -> None:
    """Whatever an anonymous client calls itself, it does not come upon what waits for a device."""
    lab = Lab(admit=by_username)
    device = lab.connect("k", username="acme/device/k", session_expiry=60)
    key = device.session.key
    device.subscribe("acme/device/k", 1)
    device.drop()
    for client_id in {key, "acme/device/k\nk", "acme/device/k", "\nk"}:
        thief = lab.connect(client_id, clean=False, session_expiry=60)
        assert not thief.connack.session_present, client_id
        assert thief.session.identity == ANONYMOUS
    assert lab.connect("k", username="acme/device/k", clean=False, session_expiry=60).connack.session_present


def test_a_device_that_moved_loses_what_it_may_no_longer_see() -> None:
    """Subscriptions of its former user, and what waits or is in flight for that one, are not the new user's."""
    users = iter(["ada", "bob"])
    lab = Lab(admit=lambda p: Identity(Role.DEVICE, "acme", "k", next(users)) if p.client_id == "k" else ANONYMOUS)
    device = lab.connect("k", session_expiry=60, receive_maximum=1)
    for filter in ("acme/user/ada", "acme/device/k", "$share/g/acme/user/ada"):
        assert device.subscribe(filter, 1) == 1
    sender = lab.connect("p")
    sender.publish("acme/user/ada", b"in flight", 1)
    assert [m.payload for m in device.messages()] == [b"in flight"]
    sender.publish("acme/user/ada", b"waits", 1)
    device.drop()
    sender.publish("acme/user/ada", b"waits, too", 1)
    sender.publish("acme/device/k", b"for the device", 1)
    back = lab.connect("k", clean=False, session_expiry=60)
    assert back.connack.session_present
    assert [m.payload for m in back.early if isinstance(m, Publish)] == [b"for the device"]
    assert back.session.queue_bytes == 0
    sender.publish("acme/user/ada", b"new", 1)
    assert back.messages() == []
    assert [s.name for s in back.session.subscriptions] == [b"acme/device/k"]
    assert lab.core.router.subscriptions == 1


def test_a_device_that_moved_loses_what_is_retained_for_its_former_user() -> None:
    """What a new subscription was still to get goes, too."""
    users = iter(["ada", "bob"])
    lab = Lab(admit=lambda p: Identity(Role.DEVICE, "acme", "k", next(users)) if p.client_id == "k" else ANONYMOUS)
    sender = lab.connect("p")
    sender.publish("acme/user/ada", b"1", 1, retain=True)
    device = lab.connect("k", session_expiry=60, receive_maximum=1)
    sender.publish("acme/device/k", b"fills the window", 1)
    device.subscribe("acme/device/k", 1)
    sender.publish("acme/device/k", b"fills the window", 1)
    assert len(device.messages()) == 1
    device.subscribe("acme/user/ada", 1)
    device.drop()
    back = lab.connect("k", clean=False, session_expiry=60)
    assert [m.payload for m in back.early if isinstance(m, Publish)] == [b"fills the window"]
    assert back.session.queue is None


def test_who_enrols_leaves_no_session() -> None:
    """It comes back under its own name; the answer says that its expiry is not what it asked for."""
    lab = Lab(admit=lambda _: Identity(Role.ENROLLING, "acme", "k"))
    client = lab.connect(session_expiry=60)
    assert client.connack.properties.session_expiry == 0
    client.drop()
    assert lab.core.sessions == {}


# -- goodbye ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_disconnect(version: int) -> None:
    """[MQTT-3.14.4-1], [MQTT-3.14.4-2]: closed, and nothing is answered. 3.1.1 [MQTT-3.14.4-1]."""
    client = Lab().connect("c", version)
    client.disconnect()
    assert client.closed
    assert client.packets() == []


def test_the_expiry_may_change_with_disconnect() -> None:
    """§3.14.2.2.2."""
    lab = Lab(session_expiry_max_s=1000)
    lab.connect("shorter", session_expiry=100).disconnect(session_expiry=10)
    lab.connect("longer", session_expiry=100).disconnect(session_expiry=500)
    lab.connect("none", session_expiry=100).disconnect(session_expiry=0)
    lab.connect("bounded", session_expiry=100).disconnect(session_expiry=NEVER)
    lab.connect("same", session_expiry=100).disconnect()

    def left() -> list[str]:
        return [s.client_id for s in lab.core.sessions.values()]

    assert left() == ["shorter", "longer", "bounded", "same"]
    lab.advance(11.5)
    assert left() == ["longer", "bounded", "same"]
    lab.advance(90)
    assert left() == ["longer", "bounded"]
    lab.advance(400)
    assert left() == ["bounded"]
    lab.advance(500)
    assert left() == []


@pytest.mark.parametrize("reason", sorted(REASONS[PacketType.DISCONNECT]))
def test_the_reason_of_a_disconnect(reason: int) -> None:
    """[MQTT-3.14.2-1]: those of servers are not for clients (§3.14.2.1); all others close without a word.

    Ours has a reason and no properties [MQTT-3.14.2-2 to -4], and is the last that is sent [MQTT-3.14.4-1, -2].
    """
    of_servers = reason in (0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F) or reason >= 0x9A
    client = Lab().connect()
    client.send(Disconnect(reason), Pingreq())
    assert client.closed
    assert client.packets() == ([Disconnect(0x82)] if of_servers else [])


def test_an_expiry_of_0_cannot_become_another_with_disconnect() -> None:
    """§3.14.2.2.2: a protocol error."""
    client = Lab().connect()
    client.disconnect(session_expiry=10)
    assert client.goodbye() == 0x82
    fine = Lab().connect()
    fine.disconnect(session_expiry=0)
    assert fine.goodbye() is None


# -- a CONNECT that cannot be read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"\0\4MQTT\5\3\0\0\0\0\1c", b"\x20\x03\0\x81\0"),  # the reserved flag [MQTT-3.1.2-3]
        (b"\0\4MQTT\6\2\0\0\0\0\1c", b"\x20\x03\0\x84\0"),  # [MQTT-3.1.2-2]
        (b"\0\4MQTT\3\2\0\0\0\1c", b"\x20\x02\0\1"),
        (b"\0\4MQTT\x84\2\0\0\0\1c", b"\x20\x02\0\1"),  # mosquitto's bridge, which then comes as 4
        (b"\0\6MQIsdp\3\2\0\0\0\1c", b"\x20\x02\0\1"),  # 3.1
        (b"\0\6MQIsdp\x83\2\0\0\0\1c", b"\x20\x02\0\1"),
        (b"\0\4mqtt\4\2\0\0\0\1c", b""),  # not MQTT [MQTT-3.1.2-1]
        (b"\0\4MQTT\4\3\0\0\0\1c", b""),  # 3.1.1 has no return code for it
        (b"\0", b""),
    ],
)
def test_an_unreadable_connect_is_answered_as_its_level_understands(body: bytes, answer: bytes) -> None:
    """[MQTT-3.1.4-1], 3.1.1 [MQTT-3.2.2-6]."""
    client = Lab().client()
    client.feed(bytes((0x10, len(body))) + body)
    assert bytes(client.channel.raw) == answer
    assert client.closed


# -- what is revoked -------------------------------------------------------------------------------------------------


def test_an_identity_that_is_dropped_is_disconnected_at_once() -> None:
    lab = Lab(admit=by_username)
    will = Will(b"acme/last", b"gone")
    watcher = lab.connect("w")
    watcher.subscribe("acme/last")
    changed = lab.connect("c", username="acme/server/crm", session_expiry=60, will=will)
    lab.core.drop_identity("acme/server/crm", gone=False)
    lab.core.flush()
    assert changed.goodbye() == 0x98
    assert watcher.payloads() == [b"gone"]
    assert lab.connect("c", username="acme/server/crm", clean=False, session_expiry=60).connack.session_present


@pytest.mark.parametrize("path", ["acme/server/crm", "acme/"])
def test_an_identity_that_is_gone_leaves_nothing(path: str) -> None:
    """No session, no subscription, and no last word: its will, pending ones too, is not published."""
    lab = Lab(admit=by_username)
    watcher = lab.connect("w")
    watcher.subscribe("acme/#")
    lab.connect("other", username="acmes/server/crm", session_expiry=60)
    will = Will(b"acme/last", b"gone", properties=Properties(will_delay=30))
    away = lab.connect("away", username="acme/server/crm", session_expiry=60, will=will)
    away.drop()
    here = lab.connect("here", username="acme/server/crm", session_expiry=60, will=Will(b"acme/last", b"gone"))
    here.subscribe("acme/#", 1)
    lab.core.drop_identity(path, gone=True)
    lab.core.flush()
    assert here.goodbye() == 0x87
    lab.advance(50)
    assert watcher.messages() == []
    assert sorted(s.client_id for s in lab.core.sessions.values()) == ["other", "w"]
    assert lab.core.router.subscriptions == 1


def test_who_is_dropped_is_found_among_many() -> None:
    """What it costs depends on whom it concerns, not on how many sessions there are."""
    lab = Lab(admit=by_username)
    for n in range(100):
        lab.connect("c", username=f"acme/device/k{n}", session_expiry=60).drop()
    effort = lines(lambda: lab.core.drop_identity("acme/device/k50", gone=True))
    assert len(lab.core.sessions) == 99
    assert effort < 100


def test_a_brand_is_dropped_in_turns() -> None:
    lab = Lab(admit=by_username)
    for n in range(1000):
        lab.connect("c", username=f"acme/device/k{n}", session_expiry=60).drop()
    kept = lab.connect("c", username="other/device/k", session_expiry=60)
    lab.one_turn = True
    before = lab.core.work
    lab.core.drop_identity("acme/", gone=True)
    assert lab.core.work - before < 2 * TURN_WORK_MAX
    assert lab.core.resting
    lab.one_turn = False
    lab.flush()
    assert list(lab.core.sessions.values()) == [kept.session]


def test_the_clock_starts_where_it_is_set() -> None:
    assert Lab().core.now == START_S
