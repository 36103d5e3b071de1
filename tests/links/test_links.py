"""Links to a real mosquitto, which is killed and started again meanwhile, and to another broker of ours."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.engine import until
from support.live import device, populate, running, server, settings
from support.mosquitto import Mosquitto
from support.mqtt import Client

from broker.address import Listener
from broker.admin.direct import opened
from broker.admin.operations import Context, perform
from broker.app import Broker
from broker.links import relay
from broker.links.relay import PASSED
from broker.wire.packets import Properties, Puback, Publish
from client_sdk.backoff import Backoff

INBOUND = ("crm/{user}/notify -> acme/user/{user}", "crm/requests -> acme/topic/requests")
OUTBOUND = ("acme/receipts/{id} -> push/receipts/{id}", "acme/topic/{name} -> push/topic/{name}")
LASTING: dict[str, Any] = {"clean_start": False, "properties": Properties(session_expiry=3600)}
SIGNED: dict[str, Any] = {"username": "tester", "password": b"secret"}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running(tmp_path / "data") as broker:
        broker.links.backoff = lambda: Backoff(first_s=0.05, longest_s=0.2)
        await populate(broker)
        yield broker


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path / "mosquitto")
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


async def do(broker: Broker, operation: str, **arguments: Any) -> Any:
    context = Context(broker.settings, broker.directory, broker)
    return await perform(context, f"link.{operation}", {"brand": "acme", "name": "crm", **arguments})


async def state(broker: Broker, wanted: str) -> Any:
    """The link, once it has come to this state."""
    link = broker.links._relays["acme", "crm"]
    await until(lambda: link.state == wanted)
    return link


async def add(broker: Broker, mosquitto: Mosquitto, **more: Any) -> Any:
    given = {
        "url": f"mqtt://127.0.0.1:{mosquitto.plain}",
        "username": "tester",
        "password": "secret",
        "inbound": INBOUND,
        "outbound": OUTBOUND,
    }
    await do(broker, "add", **{**given, **more})
    return await state(broker, "connected")


async def subscribed(broker: Broker, mosquitto: Mosquitto, count: int = 1) -> None:
    """Their broker knows what the link wants."""
    assert await asyncio.to_thread(mosquitto.saw, "Sending SUBACK to pushbroker-acme-crm", count)


async def their_client(mosquitto: Mosquitto, client_id: str, **more: Any) -> Client:
    return await Client.connected(mosquitto.plain, client_id, **SIGNED, **more)


def key_and_certificate(mosquitto: Mosquitto, folder: Path) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "link.crt").write_bytes(mosquitto.authority.issue(key.public_key(), "tester"))
    (folder / "link.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {
        "url": mosquitto.device_url,
        "username": "",
        "password": None,  # type: ignore[dict-item]
        "ca": str(mosquitto.directory / "ca.crt"),
        "cert": str(folder / "link.crt"),
        "key": str(folder / "link.key"),
    }


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("secured", [False, True])
async def test_messages_pass_both_ways(
    broker: Broker, theirs: Mosquitto, tmp_path: Path, version: str, secured: bool
) -> None:
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/user/ada", qos=1)
    brand = await server(broker)
    listener = await their_client(theirs, "listener")
    await listener.subscribe("push/#", qos=1)
    more = key_and_certificate(theirs, tmp_path) if secured else {}
    link = await add(broker, theirs, version=version, **more)
    await subscribed(broker, theirs)
    publisher = await their_client(theirs, "publisher")
    await publisher.publish("crm/ada/notify", b"in", qos=1, content_type="text/plain", user_properties=[("k", "v")])
    got = await kiosk.expect_message(b"in")
    assert got.topic == b"acme/user/ada"
    assert got.properties.user_properties[0][0] == "message-id"  # as a message of any server of the brand
    if version == "5":
        assert got.properties.content_type == "text/plain"
        assert ("k", "v") in got.properties.user_properties
    await brand.publish("acme/topic/news", b"out", qos=1, content_type="text/plain")
    back = await listener.expect_message(b"out")
    assert back.topic == b"push/topic/news"
    assert back.properties.content_type == ("text/plain" if version == "5" else None)
    await until(lambda: link.counts.messages_in == 1 and link.counts.messages_out == 1)
    shown = await do(broker, "show")
    assert (shown["state"], shown["mqtt"], shown["waiting_out"], shown["waiting_in"]) == ("connected", version, 0, 0)
    assert shown["last_error"] == ""
    assert "secret" not in str(shown)


async def test_what_is_sent_while_their_broker_is_killed_waits_and_arrives_in_order(
    broker: Broker, theirs: Mosquitto
) -> None:
    listener = await their_client(theirs, "listener", **LASTING)
    await listener.subscribe("push/#", qos=1)
    await listener.disconnect()
    link = await add(broker, theirs)
    await subscribed(broker, theirs)
    brand = await server(broker)
    theirs.kill()
    await state(broker, "retrying")
    for n in range(30):
        answer = await brand.publish("acme/topic/news", b"%d" % n, qos=1)
        assert answer is not None
        assert answer.reason == 0  # it is on the disk
    assert (await do(broker, "show"))["waiting_out"] == 30
    theirs.start()
    await until(lambda: link.counts.messages_out == 30)
    assert (await do(broker, "show"))["waiting_out"] == 0
    listener = await their_client(theirs, "listener", **LASTING)
    assert [(await listener.expect_message()).payload for _ in range(30)] == [b"%d" % n for n in range(30)]


async def test_what_their_broker_has_for_a_link_that_is_away_comes_when_it_is_back(
    broker: Broker, theirs: Mosquitto
) -> None:
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/user/ada", qos=1)
    await add(broker, theirs)
    await subscribed(broker, theirs)
    await do(broker, "set", paused=True)
    assert (await do(broker, "show"))["state"] == "paused"
    publisher = await their_client(theirs, "publisher")
    for n in range(20):
        await publisher.publish("crm/ada/notify", b"%d" % n, qos=1)
    theirs.stop()
    theirs.start()
    await do(broker, "set", paused=False)
    assert [(await kiosk.expect_message()).payload for _ in range(20)] == [b"%d" % n for n in range(20)]


async def test_nothing_is_lost_while_their_broker_is_killed_under_load(broker: Broker, theirs: Mosquitto) -> None:
    """From us to them. What they kept for us dies with them, and is for them to keep."""
    listener = await their_client(theirs, "listener", **LASTING)
    await listener.subscribe("push/#", qos=1)
    link = await add(broker, theirs)
    brand = await server(broker)
    seen: list[int] = []

    async def collect(client: Client) -> None:
        while (packet := await client.receive(60)) is not None:
            if isinstance(packet, Publish):
                seen.append(int(packet.payload))
                await client.send(Puback(packet.packet_id))

    collecting = asyncio.create_task(collect(listener))
    for n in range(300):
        answer = await brand.publish("acme/topic/news", b"%d" % n, qos=1)
        assert answer is not None
        assert answer.reason == 0
        if n in (100, 200):
            await until(lambda: link.counts.messages_out > 0)
            theirs.kill()
            await collecting
            theirs.start()
            listener = await their_client(theirs, "listener", **LASTING)
            if not listener.connack.session_present:
                await listener.subscribe("push/#", qos=1)
            collecting = asyncio.create_task(collect(listener))
    await until(lambda: link.status()["waiting_out"] == 0)
    await until(lambda: seen and seen[-1] == 299)
    firsts = list(dict.fromkeys(seen))
    assert firsts == sorted(firsts)
    # Those that are missing were acknowledged by a mosquitto that was killed before it had handed them out.
    assert link.counts.messages_out >= 300
    assert len(firsts) >= 300 - 2 * 64
    collecting.cancel()


async def test_their_message_is_acknowledged_only_when_ours_is_accepted(broker: Broker, theirs: Mosquitto) -> None:
    kiosk = await device(broker, "kiosk-7", **LASTING)
    await kiosk.subscribe("acme/user/ada", qos=1)
    await kiosk.disconnect()
    brand = await server(broker)
    full = broker.settings.queue_messages_max
    for n in range(full):
        await brand.publish("acme/user/ada", b"before %d" % n, qos=1)
    await add(broker, theirs)
    await subscribed(broker, theirs)
    publisher = await their_client(theirs, "publisher")
    for n in range(5):
        await publisher.publish("crm/ada/notify", b"%d" % n, qos=1)
    link = broker.links._relays["acme", "crm"]
    await until(lambda: len(link._items) == 5 and link.error)
    assert "Received PUBACK from pushbroker-acme-crm" not in theirs.log
    shown = await do(broker, "show")
    assert shown["waiting_in"] == 5
    assert "no room here" in shown["last_error"]
    # There is room again: they come behind what was there, in their order.
    kiosk = await device(broker, "kiosk-7", **LASTING)
    got = [(await kiosk.expect_message()).payload for _ in range(full + 5)]
    assert got[-5:] == [b"%d" % n for n in range(5)]
    assert await asyncio.to_thread(theirs.saw, "Received PUBACK from pushbroker-acme-crm", 5)


async def test_what_will_never_be_taken_is_acknowledged_counted_and_told(broker: Broker, theirs: Mosquitto) -> None:
    link = await add(broker, theirs, inbound=("crm/{rest...} -> acme/user/{rest...}",))
    await subscribed(broker, theirs)
    publisher = await their_client(theirs, "publisher")
    deep = "crm/" + "/".join("x" * 31)
    await publisher.publish(deep, b"too deep here", qos=1)
    await publisher.publish("crm/ada", b"fine", qos=1)
    await until(lambda: link.counts.messages_in == 1)
    assert link.counts.refused_in == 1
    assert "is refused on acme/user/" in link.error
    assert await asyncio.to_thread(theirs.saw, "Received PUBACK from pushbroker-acme-crm", 2)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_rich_send_by_way_of_their_broker(broker: Broker, theirs: Mosquitto, version: str) -> None:
    """Request and answer are on topics of theirs."""
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/user/ada", "acme/device/kiosk-7/#", qos=1)
    inbound, outbound = ["crm/send -> acme/send"], ["acme/send/answer -> crm/answers"]
    await add(broker, theirs, version=version, inbound=inbound, outbound=outbound)
    await subscribed(broker, theirs)
    crm = await their_client(theirs, "asks")
    await crm.subscribe("crm/answers", qos=1)
    sender = await their_client(theirs, "sends")
    request = {"request_id": "r1", "to": {"users": ["ada"]}, "kind": "transactional"}
    await sender.publish("crm/send", json.dumps({**request, "notification": {"title": "Ciao"}}).encode(), qos=1)
    answer = json.loads((await crm.expect_message()).payload)
    assert (answer["request_id"], answer["ok"], answer["recipients"]) == ("r1", True, 1)
    message = await kiosk.expect_message()
    assert ("message-id", answer["message_id"]) in message.properties.user_properties


async def test_a_receipt_that_was_asked_for_there_arrives_there(broker: Broker, theirs: Mosquitto) -> None:
    kiosk = await device(broker, "kiosk-7")
    await kiosk.subscribe("acme/user/ada", qos=1)
    await add(broker, theirs)
    await subscribed(broker, theirs)
    client = await their_client(theirs, "asks")
    await client.subscribe("push/receipts/+", qos=1)
    publisher = await their_client(theirs, "publisher")
    await publisher.publish("crm/ada/notify", b"in", qos=1, user_properties=[("receipt", "delivered")])
    message = await kiosk.expect_message(b"in")
    (id,) = [value for name, value in message.properties.user_properties if name == "message-id"]
    receipt = await client.expect_message()
    assert receipt.topic == f"push/receipts/{id}".encode()
    assert json.loads(receipt.payload)["event"] == "delivered"


async def test_a_request_gets_its_answer_where_it_asked_for_it(broker: Broker, theirs: Mosquitto) -> None:
    """Their response topic is one of ours here: the one that is mapped to it."""
    brand = await server(broker)
    await brand.subscribe("acme/topic/requests", qos=1)
    await add(broker, theirs)
    await subscribed(broker, theirs)
    client = await their_client(theirs, "asks")
    await client.subscribe("push/#", qos=1)
    await client.publish("crm/requests", b"?", qos=1, response_topic="push/topic/answers", correlation_data=b"\x00\x01")
    asked = await brand.expect_message(b"?")
    assert asked.properties.response_topic == "acme/topic/answers"
    assert asked.properties.correlation_data == b"\x00\x01"
    await brand.publish("acme/topic/answers", b"!", qos=1, correlation_data=b"\x00\x01")
    answer = await client.expect_message(b"!")
    assert (answer.topic, answer.properties.correlation_data) == (b"push/topic/answers", b"\x00\x01")


async def test_what_has_passed_a_link_does_not_come_back_by_it(broker: Broker, theirs: Mosquitto) -> None:
    brand = await server(broker)
    await brand.subscribe("acme/user/+", "acme/topic/+", qos=1)
    link = await add(broker, theirs)
    await subscribed(broker, theirs)
    client = await their_client(theirs, "echo")
    await client.subscribe("push/#", qos=1)
    await (await server(broker)).publish("acme/topic/news", b"once", qos=1)
    await brand.expect_message(b"once")
    message = await client.expect_message(b"once")
    assert message.properties.user_properties[-1][0] == PASSED
    # Somebody there sends it on to where the link listens.
    await client.publish("crm/ada/notify", b"once", qos=1, user_properties=message.properties.user_properties)
    await until(lambda: link.counts.circled == 1)
    await brand.silent()


async def test_a_changed_mapping_holds_at_once_and_the_old_one_no_more(broker: Broker, theirs: Mosquitto) -> None:
    brand = await server(broker)
    await brand.subscribe("acme/store/+", qos=1)
    await add(broker, theirs)
    await subscribed(broker, theirs)
    await do(broker, "set", inbound=("shop/{store} -> acme/store/{store}",), outbound=())
    link = await state(broker, "connected")
    await subscribed(broker, theirs, 2)
    assert await asyncio.to_thread(theirs.saw, "Received UNSUBSCRIBE from pushbroker-acme-crm", 1)
    client = await their_client(theirs, "publisher")
    await client.publish("crm/ada/notify", b"old", qos=1)
    await client.publish("shop/milano", b"new", qos=1)
    await brand.expect_message(b"new")
    assert (link.counts.messages_in, link.counts.refused_in) == (1, 0)
    assert broker.core.sessions["acme/server/link-crm\n$link"].subscriptions == ()


async def test_wrong_secrets_are_told_with_what_to_do(broker: Broker, theirs: Mosquitto) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await add(broker, theirs, password="wrong")
    shown = await do(broker, "show")
    assert shown["state"] == "retrying"
    assert "refuses the connection" in shown["last_error"]
    assert shown["retry_at"]
    tried = await do(broker, "test")
    assert not tried["ok"]
    assert "pushbroker link set acme crm" in tried["remedy"]
    await do(broker, "set", password="secret")
    await state(broker, "connected")
    assert (await do(broker, "test"))["ok"]


async def test_removing_a_link_leaves_no_session_behind(broker: Broker, theirs: Mosquitto) -> None:
    await add(broker, theirs)
    await subscribed(broker, theirs)
    await do(broker, "remove")
    assert await perform(Context(broker.settings, broker.directory, broker), "link.list", {}) == []
    assert "acme/server/link-crm\n$link" not in broker.core.sessions
    assert await asyncio.to_thread(theirs.saw, "Received UNSUBSCRIBE from pushbroker-acme-crm", 1)


async def test_links_go_with_their_brand(broker: Broker, theirs: Mosquitto) -> None:
    await add(broker, theirs)
    await broker.directory.brand_remove("acme")
    await until(lambda: not broker.links._relays)


async def test_links_start_with_the_broker_and_what_waits_outlives_it(tmp_path: Path, theirs: Mosquitto) -> None:
    listener = await their_client(theirs, "listener", **LASTING)
    await listener.subscribe("push/#", qos=1)
    async with running(tmp_path / "data") as broker:
        broker.links.backoff = lambda: Backoff(first_s=0.05, longest_s=0.2)
        await populate(broker)
        await add(broker, theirs)
        theirs.kill()
        await state(broker, "retrying")
        brand = await server(broker)
        for n in range(5):
            await brand.publish("acme/topic/news", b"%d" % n, qos=1)
    theirs.start()
    listener = await their_client(theirs, "listener", **LASTING)
    if not listener.connack.session_present:
        await listener.subscribe("push/#", qos=1)
    async with running(tmp_path / "data") as broker:
        assert [(await listener.expect_message()).payload for _ in range(5)] == [b"%d" % n for n in range(5)]


async def test_what_a_link_left_behind_that_was_removed_meanwhile_goes(tmp_path: Path, theirs: Mosquitto) -> None:
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        await add(broker, theirs)
        assert len(broker.core.sessions) == 1
        given = settings(tmp_path / "data")
    async with opened(given) as context:
        await perform(context, "link.remove", {"brand": "acme", "name": "crm"})
    async with running(tmp_path / "data") as broker:
        assert broker.core.sessions == {}


async def test_a_session_that_their_broker_has_forgotten_is_told(broker: Broker, theirs: Mosquitto) -> None:
    link = await add(broker, theirs)
    await subscribed(broker, theirs)
    theirs.stop()
    await state(broker, "retrying")
    (theirs.directory / "mosquitto.db").unlink()
    theirs.start()
    await until(lambda: "forgotten our session" in link.error)
    await subscribed(broker, theirs, 2)


async def test_a_bug_in_a_connection_costs_nothing_else(broker: Broker, theirs: Mosquitto, monkeypatch: Any) -> None:
    monkeypatch.setattr(relay, "LINK_RETRY_S_MAX", 0.05)
    link = await add(broker, theirs)
    await subscribed(broker, theirs)

    def bug() -> None:
        raise RuntimeError("a bug")  # in the one function that catches none

    link._far.connection._turn = bug  # the thread ends
    link._far.connection.call(lambda: None)
    await until(lambda: link.state == "retrying")
    await subscribed(broker, theirs, 2)
    await until(lambda: link.state == "connected")
    assert broker.core.counters.unexpected_errors == 1
    broker.core.counters.unexpected_errors = 0


@pytest.mark.parametrize("scheme", ["mqtt", "ws", "wss"])
async def test_another_broker_of_ours_can_be_at_the_other_end(broker: Broker, tmp_path: Path, scheme: str) -> None:
    async with running(
        tmp_path / "other",
        allow_anonymous=True,
        listen=(Listener(scheme, "127.0.0.1", 0, path="/mqtt" if scheme != "mqtt" else ""),),  # type: ignore[arg-type]
    ) as other:
        url = other.addresses[0].replace("127.0.0.1", "localhost")
        ca = str(tmp_path / "other" / "certs" / "ca.crt") if scheme == "wss" else ""
        await do(broker, "add", url=url, ca=ca, inbound=INBOUND, outbound=OUTBOUND)
        link = await state(broker, "connected")
        await until(lambda: other.core.router.subscriptions == len(INBOUND))
        brand = await server(broker)
        await brand.publish("acme/topic/news", b"x" * 100_000, qos=1)
        await until(lambda: link.counts.messages_out == 1)
        await other.send("crm/ada/notify", b"y" * 100_000)
        await until(lambda: link.counts.messages_in == 1)
