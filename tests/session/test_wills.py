"""Wills (§3.1.2.5, §3.1.3.2): published once, when the connection ends without goodbye, or later as asked."""

import pytest
from support.loopback import Client, Lab

from broker.errors import Refused
from broker.identity import Identity, Role
from broker.wire.packets import Properties, Publish, Will


def will(delay: int | None = None, **properties: object) -> Will:
    return Will(b"w", b"bye", 1, False, Properties(will_delay=delay, **properties))  # type: ignore[arg-type]


def watched(version: int = 5, **options: object) -> tuple[Lab, Client, Client]:
    """A lab, somebody who watches for wills, and a client with one."""
    lab = Lab()
    watcher = lab.connect("watcher", keep_alive=0)
    watcher.subscribe("w", 1)
    return lab, watcher, lab.connect("c", version, **options)  # type: ignore[arg-type]


def wait(lab: Lab, watcher: Client, seconds: float) -> None:
    lab.advance(seconds)
    watcher.feed(b"\xc0\0")
    assert watcher.channel.raw[-2:] == b"\xd0\0"
    del watcher.channel.raw[-2:]


@pytest.mark.parametrize("version", [4, 5])
def test_a_broken_connection_publishes_the_will(version: int) -> None:
    """[MQTT-3.1.2-7, -8], once, though the session goes on and comes back [MQTT-3.1.2-10]. 3.1.1 [MQTT-3.1.2-12]."""
    lab, watcher, client = watched(version, clean=version == 5, will=will())
    client.drop()
    assert watcher.payloads() == [b"bye"]
    lab.connect("c", version, clean=False).drop()
    assert watcher.messages() == []
    assert lab.core.counters.wills_published == 1


@pytest.mark.parametrize("version", [4, 5])
def test_a_goodbye_takes_the_will_away(version: int) -> None:
    """[MQTT-3.1.2-8, -10, MQTT-3.14.4-3]."""
    lab, watcher, client = watched(version, will=will())
    client.disconnect()
    assert watcher.messages() == []
    assert lab.core.counters.wills_published == 0


@pytest.mark.parametrize("reason", [0x04, 0x80, 0x97])
def test_a_goodbye_with_the_will(reason: int) -> None:
    """§3.14.2.1: 0x04 asks for it, and only 0x00 takes it away."""
    _, watcher, client = watched(will=will())
    client.disconnect(reason)
    assert watcher.payloads() == [b"bye"]


@pytest.mark.parametrize("version", [4, 5])
def test_a_protocol_error_publishes_the_will(version: int) -> None:
    """§3.1.2.5 names it. [MQTT-3.1.2-8]."""
    _, watcher, client = watched(version, will=will())
    client.feed(b"\xff\0")
    assert watcher.payloads() == [b"bye"]


@pytest.mark.parametrize("version", [4, 5])
def test_silence_publishes_the_will(version: int) -> None:
    """§3.1.2.5: Keep Alive passed. [MQTT-3.1.2-8], 3.1.1 [MQTT-3.1.2-24]."""
    lab, watcher, _ = watched(version, keep_alive=10, will=will())
    wait(lab, watcher, 14)
    assert watcher.messages() == []
    wait(lab, watcher, 3)
    assert watcher.payloads() == [b"bye"]


def test_a_will_is_a_message_like_others() -> None:
    """§3.1.3.2: QoS, retain and properties, in order [MQTT-3.1.3-10]; the delay is not one of those that go on."""
    pairs = [("k", "v"), ("a", "1"), ("k", "v"), ("k", "2")]
    lab, watcher, client = watched(
        session_expiry=60,
        will=Will(
            b"w",
            b"bye",
            2,
            True,
            Properties(will_delay=0, content_type="t", message_expiry=30, user_properties=pairs),
        ),
    )
    client.drop()
    (message,) = watcher.messages()
    given = Properties(content_type="t", message_expiry=30, user_properties=pairs)
    assert (message.qos, message.retain, message.properties) == (1, False, given)
    lab.advance(10)
    late = lab.connect("late")
    late.subscribe("w", 2)
    (message,) = late.messages()
    assert (message.qos, message.retain, message.properties.message_expiry) == (2, True, 20)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_will_is_retained_if_it_says_so(version: int, retain: bool, qos: int) -> None:
    """3.1.1 [MQTT-3.1.2-16, -17], [MQTT-3.1.2-14, -15]; of any QoS [MQTT-3.1.2-12, MQTT-3.2.2-12, -13]."""
    lab, watcher, client = watched(version, will=Will(b"w", b"bye", qos, retain))
    client.drop()
    (message,) = watcher.messages()
    assert (message.payload, message.qos, message.retain) == (b"bye", min(qos, 1), False)
    late = lab.connect("late", version)
    late.subscribe("w", 2)
    assert [(m.payload, m.qos, m.retain) for m in late.messages()] == [(b"bye", qos, True)] * retain


def test_a_delayed_will() -> None:
    """[MQTT-3.1.3-9]: after the delay, within a second of the wheel."""
    lab, watcher, client = watched(session_expiry=60, will=will(10))
    client.drop()
    wait(lab, watcher, 9.5)
    assert watcher.messages() == []
    wait(lab, watcher, 2)
    assert watcher.payloads() == [b"bye"]
    wait(lab, watcher, 100)
    assert watcher.messages() == []


def test_the_session_ends_before_the_delay() -> None:
    """[MQTT-3.1.2-8], §3.1.3.2.2: whichever comes first."""
    lab, watcher, client = watched(session_expiry=10, will=will(30))
    client.drop()
    wait(lab, watcher, 12)
    assert watcher.payloads() == [b"bye"]
    lab2, watcher2, client2 = watched(will=will(30))
    client2.drop()
    assert watcher2.payloads() == [b"bye"]
    wait(lab2, watcher2, 60)
    assert watcher2.messages() == []


def test_who_comes_back_in_time_has_not_gone() -> None:
    """[MQTT-3.1.3-9]: the will is not published; the new connection's counts from then on."""
    lab, watcher, client = watched(session_expiry=60, will=will(10))
    client.drop()
    wait(lab, watcher, 5)
    back = lab.connect("c", clean=False, session_expiry=60)
    wait(lab, watcher, 20)
    assert watcher.messages() == []
    back.drop()
    wait(lab, watcher, 100)
    assert watcher.messages() == []


def test_the_delay_begins_anew() -> None:
    lab, watcher, client = watched(session_expiry=60, will=will(10))
    client.drop()
    wait(lab, watcher, 8)
    lab.connect("c", clean=False, session_expiry=60, will=will(10)).drop()
    wait(lab, watcher, 8)
    assert watcher.messages() == []
    wait(lab, watcher, 4)
    assert watcher.payloads() == [b"bye"]


def test_a_clean_start_ends_the_session_and_so_the_wait() -> None:
    """§3.1.3.2.2: the session ends, so the will is published at once."""
    lab, watcher, client = watched(session_expiry=60, will=will(10))
    client.drop()
    lab.connect("c", clean=True)
    assert watcher.payloads() == [b"bye"]
    wait(lab, watcher, 30)
    assert watcher.messages() == []


@pytest.mark.parametrize(
    ("delay", "clean", "published"), [(0, False, True), (0, True, True), (10, False, False), (10, True, True)]
)
def test_takeover(delay: int, clean: bool, published: bool) -> None:
    """§3.1.4: the will of the older connection, unless it is delayed and the session goes on."""
    lab, watcher, _ = watched(session_expiry=60, will=will(delay))
    lab.connect("c", clean=clean, session_expiry=60)
    assert watcher.payloads() == [b"bye"] * published
    wait(lab, watcher, 30)
    assert watcher.messages() == []


@pytest.mark.parametrize(("expiry", "at_once"), [(0, True), (5, False)])
def test_an_expiry_changed_on_the_way_out_bounds_the_delay(expiry: int, at_once: bool) -> None:
    lab, watcher, client = watched(session_expiry=60, will=will(30))
    client.disconnect(0x04, session_expiry=expiry)
    assert watcher.payloads() == [b"bye"] * at_once
    wait(lab, watcher, 6.5)
    assert watcher.payloads() == [b"bye"] * (not at_once)
    assert [s.client_id for s in lab.core.sessions.values()] == ["watcher"]


def test_the_payload_of_a_will_is_its_own() -> None:
    """§3.1.3.2.3: that it is UTF-8, as its format indicator says, may be checked, and is not (decision 31)."""
    _, watcher, client = watched(will=Will(b"w", b"\xff", properties=Properties(payload_format=1)))
    client.drop()
    (message,) = watcher.messages()
    assert (message.payload, message.properties.payload_format) == (b"\xff", 1)


def test_a_will_where_one_may_not_publish_is_refused() -> None:
    """At CONNECT, not when it is too late to tell anybody; and it costs the session nothing."""
    lab = Lab(admit=lambda _: Identity(Role.SERVER, "acme", "crm"))
    client = lab.connect(will=Will(b"other/w", b"x"))
    assert client.connack.reason == 0x87
    assert client.closed
    assert lab.core.sessions == {}


def test_a_refused_client_has_no_will() -> None:
    lab = Lab(admit=lambda p: Refused("no"))
    client = lab.connect(will=Will(b"w", b"x"))
    assert client.closed
    assert lab.core.counters.wills_published == 0


def test_a_will_reaches_its_own_session() -> None:
    """The session is a receiver like any other; its queue takes it while the client is away."""
    lab = Lab()
    client = lab.connect("c", session_expiry=60, will=will())
    client.subscribe("w", 1)
    client.drop()
    back = lab.connect("c", clean=False, session_expiry=60)
    assert [m.payload for m in back.early if isinstance(m, Publish)] == [b"bye"]
