"""Who may do what, asked over the wire: devices, brands, strangers."""

import pytest
from support.live import device, port, server
from support.mqtt import Client

from broker.app import Broker
from broker.wire.packets import (
    Connack,
    Connect,
    Properties,
    Puback,
    Publish,
    Pubrec,
    Request,
    Suback,
    Subscribe,
    Will,
)

DENIED = 0x87

DEVICE_SEES = (
    "acme/device/kiosk-7",
    "acme/device/kiosk-7/#",
    "acme/device/kiosk-7/up/receipt",
    "acme/user/ada",
    "acme/store/milano",
    "acme/topic/news",
    "acme/topic/+",
    "$share/group/acme/topic/news",
    "$enrol/certificate",
)
DEVICE_DOES_NOT_SEE = (
    "#",
    "+/#",
    "acme/#",
    "acme",
    "acme/user/bob",
    "acme/user/+",
    "acme/user/#",
    "acme/+/ada",
    "+/user/ada",
    "acme/store/roma",
    "acme/store/milano/#",
    "acme/user/ada/#",
    "acme/device/till-3",
    "acme/device/+",
    "acme/device/+/up/#",
    "acme/device/kiosk-77",
    "acme/topic/#",
    "acme/topic",
    "acme/receipts/#",
    "rival/user/ada",
    "rival/device/kiosk-7",
    "rival/topic/+",
    "$share/group/rival/topic/news",
    "$share/group/#",
    "$share/group/acme/user/bob",
    "$enrol/#",
    "$enrol/csr",
    "$SYS/#",
    "$control/#",
    "/acme/user/ada",
    "acme//user/ada",
)
SERVER_SEES = ("acme/#", "acme/user/ada", "acme/+/ada", "acme/device/+/up/#", "$share/g/acme/receipts/#", "acme")
SERVER_DOES_NOT_SEE = (
    "#", "+", "+/#", "+/user/ada", "rival/#", "rival/user/ada", "$share/g/rival/#", "$share/g/+/user/ada", "acmes/#",
    "$SYS/#", "$control/#", "$enrol/certificate",
)  # fmt: skip

DEVICE_SENDS = ("acme/device/kiosk-7/up/event", "acme/device/kiosk-7/up/a/b")
DEVICE_DOES_NOT_SEND = (
    "acme/device/kiosk-7",
    "acme/device/kiosk-7/up",
    "acme/device/kiosk-7/upper",
    "acme/device/kiosk-77/up/event",
    "acme/device/till-3/up/receipt",
    "acme/user/ada",
    "acme/user/bob",
    "acme/topic/news",
    "acme/receipts/m1",
    "rival/device/kiosk-7/up/event",
    "$enrol/certificate",
    "$SYS/x",
    "$control/x",
)
SERVER_SENDS = ("acme/user/ada", "acme/device/kiosk-7", "acme/store/milano", "acme/topic/news", "acme/anything/at/all")
SERVER_DOES_NOT_SEND = (
    "rival/user/ada", "acme/device/kiosk-7/up/receipt", "acme/device/kiosk-7/up", "acme/receipts/m1", "acme", "other",
    "$SYS/x", "$control/x", "$enrol/csr", "/acme/user/ada",
)  # fmt: skip


async def _sees(client: Client, allowed: tuple[str, ...], refused: tuple[str, ...]) -> None:
    for filter in allowed:
        assert (await client.subscribe(filter, qos=1)).reasons == [1], filter
    for filter in refused:
        assert (await client.subscribe(filter, qos=1)).reasons == [DENIED], filter


async def _sends(client: Client, allowed: tuple[str, ...], refused: tuple[str, ...]) -> None:
    for topic in allowed:
        answer = await client.publish(topic, b"x", qos=1)
        assert answer is not None
        assert answer.reason in (0, 0x10), topic
    for topic in refused:
        answer = await client.publish(topic, b"x", qos=1)
        assert answer is not None
        assert answer.reason == DENIED, topic
        # Not the fast way either, nor with the other services.
        await client.publish(topic, b"x", qos=0, retain=True)
        await client.publish(topic, b"x", qos=2)
        assert (await client.expect(Pubrec)).reason == DENIED, topic


async def test_device_subscribes(broker: Broker) -> None:
    await _sees(await device(broker, "kiosk-7"), DEVICE_SEES, DEVICE_DOES_NOT_SEE)


async def test_server_subscribes(broker: Broker) -> None:
    await _sees(await server(broker), SERVER_SEES, SERVER_DOES_NOT_SEE)


async def test_device_publishes(broker: Broker) -> None:
    rival = await server(broker, "rival")
    await rival.subscribe("rival/#", qos=1)
    ours = await server(broker)
    await ours.subscribe("acme/#", qos=1)
    kiosk = await device(broker, "kiosk-7")
    await _sends(kiosk, (), DEVICE_DOES_NOT_SEND)
    await rival.silent()
    await ours.silent()
    assert broker.status()["retained"]["messages"] == 0
    await _sends(kiosk, DEVICE_SENDS, ())
    for topic in DEVICE_SENDS:
        assert (await ours.expect_message()).topic == topic.encode()


async def test_server_publishes(broker: Broker) -> None:
    rival = await server(broker, "rival")
    await rival.subscribe("rival/#", qos=1)
    await _sends(await server(broker), SERVER_SENDS, SERVER_DOES_NOT_SEND)
    await rival.silent()


async def test_refusal_in_3_1_1(broker: Broker) -> None:
    """0x80 for a filter; for a publish there is no word, so QoS 0 is dropped and QoS 1 ends the connection."""
    client = await device(broker, "kiosk-7", version=4)
    await client.send(Subscribe(1, [Request("acme/user/bob"), Request("acme/user/ada", 1)]))
    assert (await client.expect(Suback)).reasons == [0x80, 1]
    await client.publish("acme/user/bob", b"x")
    await client.silent()
    await client.send(Publish(b"acme/user/bob", b"x", 1, packet_id=5))
    await client.expect_end()


@pytest.mark.parametrize("will", ["rival/user/ada", "acme/user/ada", "acme/device/till-3/up/x", "$SYS/x"])
async def test_a_will_is_a_publish(broker: Broker, will: str) -> None:
    client = await device(broker, "kiosk-7", will=Will(will.encode(), b"x"), reason=DENIED)
    await client.expect_end()


async def test_a_will_that_is_allowed(broker: Broker) -> None:
    ours = await server(broker)
    await ours.subscribe("acme/device/+/up/gone", qos=1)
    kiosk = await device(broker, "kiosk-7", will=Will(b"acme/device/kiosk-7/up/gone", b"", 1))
    kiosk.abort()
    await ours.expect_message()


async def test_a_client_id_reaches_no_other_identity(broker: Broker) -> None:
    """The same client id under two identities: two sessions, nobody is taken over, nothing is inherited.

    [MQTT-3.1.3-2].
    """
    keeps = {"clean_start": False, "properties": Properties(session_expiry=1000)}
    kiosk = await device(broker, "kiosk-7", "same", **keeps)
    await kiosk.subscribe("acme/user/ada", qos=1)
    others = [
        await device(broker, "till-3", "same", **keeps),
        await device(broker, "kiosk-7", "same", brand="rival", **keeps),
        await server(broker, client_id="same", **keeps),
        await server(broker, "rival", client_id="same", **keeps),
    ]
    for client_id in ("acme/device/kiosk-7\nsame", "acme/device/kiosk-7\\nsame", "\nsame"):
        others.append(await device(broker, "till-3", client_id, **keeps))
    for other in others:
        assert not other.connack.session_present
    sender = await server(broker)
    await sender.publish("acme/user/ada", b"for ada", qos=1)
    await kiosk.expect_message(b"for ada")
    for other in others:
        await other.silent()


async def test_shared_subscriptions_stay_within_a_brand(broker: Broker) -> None:
    """A group's name is no bridge: rival's members of `g` get nothing of acme's."""
    ours, rival = await server(broker, client_id="a"), await server(broker, "rival", client_id="b")
    assert (await ours.subscribe("$share/g/acme/#", qos=1)).reasons == [1]
    assert (await rival.subscribe("$share/g/rival/#", qos=1)).reasons == [1]
    sender = await server(broker)
    for _ in range(4):
        await sender.publish("acme/x", b"x", qos=1)
    for _ in range(4):
        await ours.expect_message(b"x")
    await rival.silent()


async def test_retained_messages_stay_within_a_brand(broker: Broker) -> None:
    sender = await server(broker)
    await sender.publish("acme/user/ada", b"kept", qos=1, retain=True)
    rival = await server(broker, "rival")
    assert (await rival.subscribe("rival/#", "+/user/ada", "#", qos=1)).reasons == [1, DENIED, DENIED]
    await rival.silent()


async def test_a_topic_that_was_allowed_to_another(broker: Broker) -> None:
    """What one connection may is not remembered for the next, and an alias is no way around."""
    kiosk = await device(broker, "kiosk-7")
    await kiosk.send(Publish(b"acme/user/bob", b"x", 1, packet_id=1, properties=Properties(topic_alias=1)))
    assert (await kiosk.expect(Puback)).reason == DENIED
    await kiosk.send(Publish(b"", b"x", 1, packet_id=2, properties=Properties(topic_alias=1)))
    assert (await kiosk.expect(Puback)).reason == DENIED


# -- who gets in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    ("username", "password", "reason"),
    [
        (None, None, 0x87),
        ("acme", None, 0x86),
        ("acme", b"", 0x86),
        ("acme", b"pbt_wrong", 0x86),
        ("nobody", b"pbt_wrong", 0x86),
        ("enrol", b"AAAAA-AAAAA-AAAAA-AAAAA", 0x86),
        ("enrol", b"", 0x86),
        ("acme/device/kiosk-7", b"wrong password", 0x86),
        ("acme/server/crm", b"wrong password", 0x86),
        ("acme/admin/root", b"wrong password", 0x86),
        ("", b"", 0x86),
        ("a/b/c/d", b"\xff\xfe", 0x86),
    ],
)
async def test_refused(broker: Broker, username: str | None, password: bytes | None, reason: int, version: int) -> None:
    client = await Client.open(port(broker), version=version)
    await client.send(Connect("c", version, username=username, password=password))
    answer = await client.expect(Connack)
    assert answer.reason == reason
    await client.expect_end()
    assert broker.status()["sessions"] == 0


async def test_token_of_another_brand(broker: Broker) -> None:
    token = await broker.directory.token_issue("acme")
    client = await Client.connected(port(broker), username="rival", password=token.secret.encode(), reason=0x86)
    await client.expect_end()


async def test_password(broker: Broker) -> None:
    from broker.identity import Role

    await broker.directory.password_set("acme", Role.DEVICE, "legacy-1", "correct horse battery")
    fields = {"username": "acme/device/legacy-1", "password": b"correct horse battery"}
    client = await Client.connected(port(broker), "legacy", version=4, **fields)
    assert (await client.subscribe("acme/device/legacy-1", qos=1)).reasons == [1]
    await client.send(Publish(b"acme/device/legacy-1/up/x", b"x", 1, packet_id=1))
    assert (await client.expect(Puback)).reason == 0


async def test_what_follows_connect_waits_for_the_gate(broker: Broker) -> None:
    """CONNECT, SUBSCRIBE and PUBLISH in one write: nothing is served before it is known who asks."""
    token = await broker.directory.token_issue("acme")
    client = await Client.open(port(broker))
    await client.send(
        Connect("eager", 5, username="acme", password=token.secret.encode()),
        Subscribe(1, [Request("acme/user/ada", 1)]),
        Publish(b"acme/user/ada", b"x", 1, packet_id=2),
    )
    assert (await client.expect(Connack)).reason == 0
    await client.expect(Suback)
    packets = [await client.receive(), await client.receive()]
    assert {type(p) for p in packets} == {Puback, Publish}
    stranger = await Client.open(port(broker))
    await stranger.send(
        Connect("eager", 5, username="acme", password=b"pbt_wrong"),
        Publish(b"acme/user/ada", b"forged", 1, packet_id=2),
    )
    assert (await stranger.expect(Connack)).reason == 0x86
    await stranger.expect_end()
    await client.send(Puback(1))
    await client.silent()


async def test_gone_before_it_is_known(broker: Broker) -> None:
    """A client that leaves while it is being checked leaves nothing behind."""
    from support.engine import until

    token = await broker.directory.token_issue("acme")
    for _ in range(20):
        client = await Client.open(port(broker))
        await client.send(Connect("c", 5, username="acme", password=token.secret.encode(), will=Will(b"acme/x", b"")))
        client.abort()
    await until(lambda: not broker.reactor.connections)
    await until(lambda: not broker.status()["sessions"])
