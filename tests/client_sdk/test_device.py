"""A device against a real broker: what is acknowledged when, and what is shown once."""

import dataclasses
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from support.authority import TestAuthority
from support.kiosk import Handler, issue, until
from support.mosquitto import Mosquitto
from support.mute import CONNACK, MuteServer, publish
from support.tester import Tester

from client_sdk import (
    Action,
    Backoff,
    Credentials,
    Device,
    InUse,
    Message,
    Notification,
    Priority,
    Refused,
    Status,
    Unreachable,
    Untrusted,
)
from client_sdk.notification import CONTENT_TYPE

ADA = "acme/user/ada"
Quickly = Callable[[], Backoff]


@pytest.fixture
def run(credentials: Credentials, handler: Handler, quickly: Quickly) -> Callable[[], Device]:
    """A connected device; enter what it returns."""

    def run(**settings: object) -> Device:
        return Device(credentials, on_message=handler, backoff=quickly(), **settings)  # type: ignore[arg-type]

    return run


# -- what arrives ------------------------------------------------------------------------------------------------------


def test_a_notification_arrives_typed(run: Callable[[], Device], handler: Handler, tester: Tester) -> None:
    """3.1.1 [MQTT-7.1.2-1]."""
    sent = Notification(
        title="Ciao Ada",
        body="Your order is ready",
        click="https://acme.example/orders/1",
        actions=(Action(id="map", title="Show the way"),),
        data={"order": 1},
        priority=Priority.HIGH,
        collapse_key="order-1",
    )
    with run() as device:
        device.wait_connected(timeout=10)
        before = datetime.now(UTC)
        tester.publish(ADA, sent.to_json(), message_id="m1", content_type=CONTENT_TYPE, expiry_s=60, lang="it")
        message = handler.next()
    assert message.notification == sent
    assert (message.id, message.topic, message.content_type, message.attempt) == ("m1", ADA, CONTENT_TYPE, 1)
    assert message.user_properties == (("lang", "it"), ("message-id", "m1"))
    assert message.expires_at is not None
    assert timedelta(seconds=58) < message.expires_at - before < timedelta(seconds=62)


@pytest.mark.parametrize("topic", [ADA, "acme/device/kiosk-7", "acme/store/milano"])
def test_raw_content_arrives_as_it_is(run: Callable[[], Device], handler: Handler, tester: Tester, topic: str) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(topic, b"\xff\x00", content_type="application/x-thing")
        message = handler.next()
    assert (message.payload, message.content_type, message.topic) == (b"\xff\x00", "application/x-thing", topic)
    assert (message.notification, message.id, message.expires_at) == (None, "", None)
    assert message.text == "\ufffd\x00"


def test_a_broken_notification_is_handed_over_raw(run: Callable[[], Device], handler: Handler, tester: Tester) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, b'{"title":1}', message_id="m1", content_type=CONTENT_TYPE)
        message = handler.next()
    assert (message.notification, message.payload) == (None, b'{"title":1}')


def test_many_messages_arrive_in_order(run: Callable[[], Device], handler: Handler, tester: Tester) -> None:
    """More than the window, and more than one TLS record: what OpenSSL has read ahead must not be left lying."""
    with run() as device:
        device.wait_connected(timeout=10)
        for number in range(200):
            tester.publish(ADA, b"x" * 500, message_id=f"m{number}")
        assert [handler.next().id for _ in range(200)] == [f"m{number}" for number in range(200)]


# -- acknowledgement ---------------------------------------------------------------------------------------------------


def test_what_was_sent_while_it_was_off_arrives(run: Callable[[], Device], handler: Handler, tester: Tester) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
    tester.publish(ADA, "while you were away", message_id="m1")
    with run():
        assert handler.next().text == "while you were away"


def test_it_is_acknowledged_after_the_handler_and_not_before(
    run: Callable[[], Device], handler: Handler, tester: Tester, mosquitto: Mosquitto
) -> None:
    handler.go.clear()
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, "one", message_id="m1")
        tester.publish(ADA, "two", message_id="m2")
        assert handler.next().id == "m1"
        assert "Received PUBACK from kiosk-7" not in mosquitto.log
        handler.go.set()
        assert handler.next().id == "m2"
    assert mosquitto.saw("Received PUBACK from kiosk-7", 2)


def test_a_failed_handler_gets_it_again_after_a_restart(
    run: Callable[[], Device], handler: Handler, tester: Tester
) -> None:
    handler.failures = 1
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, "one", message_id="m1")
        assert handler.next().attempt == 1
    with run():
        message = handler.next()
        assert (message.id, message.attempt) == ("m1", 2)
    with run() as device:  # handled by now
        device.wait_connected(timeout=10)
        tester.publish(ADA, "two", message_id="m2")
        assert handler.next().id == "m2"


def test_a_failed_handler_gets_it_again_by_itself_while_others_pass(
    run: Callable[[], Device], handler: Handler, tester: Tester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client_sdk.inbox._REST_FIRST_S", 0.3)
    handler.failures = 1
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, "one", message_id="m1")
        tester.publish(ADA, "two", message_id="m2")
        assert [handler.next().id for _ in range(3)] == ["m1", "m2", "m1"]


def test_a_message_that_always_fails_is_given_up(
    run: Callable[..., Device],
    handler: Handler,
    tester: Tester,
    mosquitto: Mosquitto,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("client_sdk.inbox._REST_FIRST_S", 0.01)
    handler.failures = 3
    with run(attempts=3) as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, "one", message_id="m1")
        assert [handler.next().attempt for _ in range(3)] == [1, 2, 3]
        tester.publish(ADA, "two", message_id="m2")
        assert handler.next().id == "m2"
    assert mosquitto.saw("Received PUBACK from kiosk-7", 2)
    assert "given up" in caplog.text


_DIES = """
import os, sys
from client_sdk import Credentials, Device
def handler(message):
    sys.stdout.write(f"{message.id} {message.attempt}\\n")
    sys.stdout.flush()
    os._exit(3)
with Device(Credentials.load(sys.argv[1]), on_message=handler) as device:
    device.wait(20)
"""


def test_a_crash_before_the_acknowledgement_loses_nothing(
    run: Callable[[], Device], credentials: Credentials, handler: Handler, tester: Tester
) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
    tester.publish(ADA, "one", message_id="m1")
    dead = subprocess.run(
        [sys.executable, "-c", _DIES, str(credentials.directory)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (dead.returncode, dead.stdout) == (3, "m1 1\n"), dead.stderr
    with run():
        message = handler.next()
    assert (message.id, message.text, message.attempt) == ("m1", "one", 2)


def test_closing_waits_for_the_running_handler(
    run: Callable[[], Device], handler: Handler, tester: Tester, mosquitto: Mosquitto
) -> None:
    handler.go.clear()
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, "one", message_id="m1")
        tester.publish(ADA, "two", message_id="m2")
        handler.next()
        threading.Timer(0.2, handler.go.set).start()
    assert handler.idle  # the second was not begun
    assert mosquitto.saw("Received PUBACK from kiosk-7", 1)
    with run():
        message = handler.next()
    assert (message.id, message.attempt) == ("m2", 1)  # having waited is no attempt


# -- duplicates and expiry ---------------------------------------------------------------------------------------------


def test_a_duplicate_is_dropped_and_acknowledged(
    run: Callable[[], Device], handler: Handler, tester: Tester, mosquitto: Mosquitto
) -> None:
    """[MQTT-4.5.0-2]."""
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, "one", message_id="m1")
        assert handler.next().id == "m1"
        tester.publish(ADA, "one", message_id="m1")
    tester.publish(ADA, "one", message_id="m1")
    with run() as device:  # which remembers across restarts
        device.wait_connected(timeout=10)
        tester.publish(ADA, "two", message_id="m2")
        assert handler.next().id == "m2"
    assert mosquitto.saw("Received PUBACK from kiosk-7", 4)


def test_messages_without_id_are_not_duplicates(run: Callable[[], Device], handler: Handler, tester: Tester) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
        for _ in range(2):
            tester.publish(ADA, "same")
        assert [handler.next().text for _ in range(2)] == ["same", "same"]


def test_a_copy_that_comes_while_the_handler_runs_is_not_handed_over(
    run: Callable[[], Device], handler: Handler, tester: Tester, mosquitto: Mosquitto
) -> None:
    handler.go.clear()
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, "one", message_id="m1")
        handler.next()
        mosquitto.stop()
        mosquitto.start()
        assert mosquitto.saw("Sending PUBLISH to kiosk-7", 2)
        assert "Received PUBACK from kiosk-7" not in mosquitto.log
        handler.go.set()
        with Tester(mosquitto.plain) as other:
            other.publish(ADA, "two", message_id="m2")
        assert handler.next().id == "m2"
    assert mosquitto.saw("Received PUBACK from kiosk-7", 2)


def test_expired_on_arrival_is_dropped_and_acknowledged(
    run: Callable[[], Device], handler: Handler, tester: Tester, mosquitto: Mosquitto
) -> None:
    late = Notification(title="Yesterday", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, late.to_json(), message_id="m1", content_type=CONTENT_TYPE)
        tester.publish(ADA, "today", message_id="m2")
        assert handler.next().id == "m2"
    assert mosquitto.saw("Received PUBACK from kiosk-7", 2)


def test_expired_behind_a_slow_handler_is_dropped(
    run: Callable[[], Device], handler: Handler, tester: Tester, mosquitto: Mosquitto
) -> None:
    handler.go.clear()
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, "slow", message_id="m1")
        assert handler.next().id == "m1"
        soon = Notification(title="Soon over", expires_at=datetime.now(UTC) + timedelta(milliseconds=200))
        tester.publish(ADA, soon.to_json(), message_id="m2", content_type=CONTENT_TYPE)
        tester.publish(ADA, "still good", message_id="m3")
        assert not device.wait(0.3)
        handler.go.set()
        assert handler.next().id == "m3"
    assert mosquitto.saw("Received PUBACK from kiosk-7", 3)


# -- receipts ----------------------------------------------------------------------------------------------------------


def test_receipts_are_published(credentials: Credentials, quickly: Quickly, tester: Tester) -> None:
    def handler(message: Message) -> None:
        message.displayed()
        message.opened()
        message.dismissed()

    tester.subscribe("acme/device/kiosk-7/up/receipt")
    with Device(credentials, on_message=handler, backoff=quickly()) as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, "no id, no receipt")
        tester.publish(ADA, "one", message_id="m1")
        got = [tester.next() for _ in range(3)]
    assert {message.topic for message in got} == {"acme/device/kiosk-7/up/receipt"}
    receipts = [json.loads(message.payload) for message in got]
    assert [(r["message_id"], r["event"]) for r in receipts] == [
        ("m1", "displayed"), ("m1", "opened"), ("m1", "dismissed")
    ]  # fmt: skip
    assert datetime.fromisoformat(receipts[0]["at"]).tzinfo is not None


def test_receipts_are_sent_before_it_closes(credentials: Credentials, quickly: Quickly, tester: Tester) -> None:
    shown = threading.Event()

    def handler(message: Message) -> None:
        message.displayed()
        shown.set()

    tester.subscribe("acme/device/kiosk-7/up/receipt")
    for number in range(20):
        with Device(credentials, on_message=handler, backoff=quickly()) as device:
            device.wait_connected(timeout=10)
            tester.publish(ADA, "x", message_id=f"m{number}")
            assert shown.wait(10)
            shown.clear()
        assert json.loads(tester.next(timeout=2).payload)["message_id"] == f"m{number}"


def test_a_receipt_survives_a_restart_without_network(
    run: Callable[[], Device], handler: Handler, tester: Tester, mosquitto: Mosquitto
) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
        tester.publish(ADA, "one", message_id="m1")
        message = handler.next()
        mosquitto.stop()
        message.opened()
        device.close(timeout=0.1)
    mosquitto.start()
    with Tester(mosquitto.plain) as other:
        other.subscribe("acme/device/kiosk-7/up/receipt")
        with run():
            assert json.loads(other.next().payload)["event"] == "opened"
        with run() as device:  # and is sent once
            device.wait_connected(timeout=10)
        other.publish("acme/device/kiosk-7/up/receipt", "end")
        assert other.next().payload == b"end"


# -- subscriptions -----------------------------------------------------------------------------------------------------


def test_topics_are_followed_until_they_are_not(run: Callable[[], Device], handler: Handler, tester: Tester) -> None:
    with run() as device:
        device.follow("news")
        device.wait_connected(timeout=10)
        tester.publish("acme/topic/news", "one", message_id="m1")
        assert handler.next().topic == "acme/topic/news"
    with run() as device:
        assert device.followed == {"news"}
        device.wait_connected(timeout=10)
        tester.publish("acme/topic/news", "two", message_id="m2")
        assert handler.next().id == "m2"
        device.unfollow("news")
    tester.publish("acme/topic/news", "three", message_id="m3")
    tester.publish(ADA, "four", message_id="m4")
    with run():
        assert handler.next().id == "m4"


def test_a_kept_session_is_not_subscribed_again(run: Callable[[], Device], mosquitto: Mosquitto) -> None:
    for _ in range(3):
        with run() as device:
            device.wait_connected(timeout=10)
    assert mosquitto.saw("Received SUBSCRIBE from kiosk-7", 1)


def test_a_lost_session_is_subscribed_again(
    run: Callable[[], Device], handler: Handler, tester: Tester, mosquitto: Mosquitto
) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
        mosquitto.stop()
        (mosquitto.directory / "mosquitto.db").unlink()
        mosquitto.start()
        assert mosquitto.saw("Received SUBSCRIBE from kiosk-7", 2)
        with Tester(mosquitto.plain) as other:
            other.publish(ADA, "one", message_id="m1")
        assert handler.next().id == "m1"


@pytest.mark.parametrize("topic", ["", "a/b", "#", "+", "-x", "x" * 65])
def test_a_topic_that_cannot_be_is_refused(run: Callable[[], Device], topic: str) -> None:
    device = run()
    with pytest.raises(ValueError, match="cannot name a topic"):
        device.follow(topic)
    device.close()


# -- connection --------------------------------------------------------------------------------------------------------


def test_it_comes_back_after_the_broker_was_away(
    credentials: Credentials, handler: Handler, quickly: Quickly, mosquitto: Mosquitto
) -> None:
    seen: list[bool] = []
    away = threading.Event()

    def note(status: Status) -> None:
        seen.append(status.connected)
        if not status.connected:
            assert isinstance(status.error, Unreachable)
            away.set()

    with Device(credentials, on_message=handler, on_status=note, backoff=quickly()) as device:
        device.wait_connected(timeout=10)
        mosquitto.stop()
        assert away.wait(10)
        assert not device.status.connected
        mosquitto.start()
        device.wait_connected(timeout=10)
        with Tester(mosquitto.plain) as other:
            other.publish(ADA, "back", message_id="m1")
        assert handler.next().text == "back"
    assert seen[0] is True
    assert False in seen
    assert seen[-1] is True


def test_it_starts_without_a_broker(run: Callable[[], Device], handler: Handler, mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    with run() as device:
        with pytest.raises(Unreachable, match="cannot be reached"):
            device.wait_connected(timeout=0.3)
        mosquitto.start()
        device.wait_connected(timeout=10)


def test_a_broker_that_is_not_vouched_for_gets_nothing(
    run: Callable[[], Device], credentials: Credentials, mosquitto: Mosquitto
) -> None:
    (credentials.directory / "ca.crt").write_bytes(TestAuthority("Somebody else").pem)
    with run() as device:
        with pytest.raises(Untrusted, match="not trusted") as caught:
            device.wait_connected(timeout=30)
        assert str(credentials.directory / "ca.crt") in caught.value.remedy
    assert "New client connected" not in mosquitto.log


def test_a_certificate_of_somebody_else_is_not_let_in(run: Callable[[], Device], credentials: Credentials) -> None:
    pem = TestAuthority("Somebody else").answer(credentials.request(), "kiosk-7")
    (credentials.directory / "device.crt").write_bytes(pem)
    with run() as device:
        with pytest.raises(Refused, match="acme/device/kiosk-7 is not accepted any more") as caught:
            device.wait_connected(timeout=30)
        assert caught.value.reason == 0x87
        assert "pushbroker device code acme kiosk-7" in caught.value.remedy


def test_a_refusal_is_told_at_once(credentials: Credentials, handler: Handler, mosquitto: Mosquitto) -> None:
    """The password listener knows no certificates, so a device is nobody there."""
    elsewhere = dataclasses.replace(credentials, url=mosquitto.password_url)
    with Device(elsewhere, on_message=handler) as device:
        with pytest.raises(Refused, match=r"refuses the connection: .*0x87") as caught:
            device.wait_connected(timeout=10)
        assert caught.value.reason == 0x87
        assert device.status.retry_in_s >= 0


def test_one_process_at_a_time(run: Callable[[], Device]) -> None:
    with run(), pytest.raises(InUse, match="another process"):
        run()
    with run():
        pass


def test_two_devices_with_one_identity_do_not_fight_in_a_tight_loop(
    credentials: Credentials, mosquitto: Mosquitto, tmp_path: Path, handler: Handler
) -> None:
    """Each takes the other's session over, and each time gets a good CONNACK."""
    twin = issue(mosquitto, tmp_path / "twin")
    # No jitter, to be able to count: 0.1, 0.2, 0.4, 0.8 ...
    settings = {"first_s": 0.1, "uniform": lambda _low, high: high}
    with (
        Device(credentials, on_message=handler, backoff=Backoff(**settings)) as first,  # type: ignore[arg-type]
        Device(twin, on_message=handler, backoff=Backoff(**settings)),  # type: ignore[arg-type]
    ):
        first.wait(2.0)
    assert mosquitto.log.count("New client connected") <= 12


def test_a_bug_costs_the_connection_and_not_the_thread(
    run: Callable[[], Device],
    handler: Handler,
    tester: Tester,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No bytes are known that make paho raise; should there be some, the device comes back all the same."""
    read = Client.loop_read
    bugs = [KeyError("packet")]

    def read_badly(client: Client) -> object:
        if bugs and client.is_connected() and not client._client_id.startswith(b"tester"):
            raise bugs.pop()
        return read(client)

    with run() as device:
        device.wait_connected(timeout=10)
        monkeypatch.setattr(Client, "loop_read", read_badly)
        tester.publish(ADA, "one", message_id="m1")
        assert handler.next().id == "m1"
    assert not bugs
    assert "because of a bug" in caplog.text


def test_a_closed_device_stays_closed(run: Callable[[], Device]) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
        assert not device.wait(0.01)
    assert device.wait(1)
    device.close()


def test_a_device_learns_where_it_belongs_now(credentials: Credentials, handler: Handler, quickly: Quickly) -> None:
    """The broker may say so with each CONNACK, since an operator can give a device to another user at any time."""
    told = b"\x26\x00\x04user\x00\x05grace" + b"\x26\x00\x05store\x00\x00"
    connack = bytes([0x20, 3 + len(told), 0x01, 0x00, len(told)]) + told
    with MuteServer(connack) as server:
        elsewhere = dataclasses.replace(credentials, url=server.url)
        with Device(elsewhere, on_message=handler, backoff=quickly()) as device:
            server.wait(b"acme/user/grace")
            assert (device.credentials.user, device.credentials.store) == ("grace", "")
            device.close(timeout=0)
        assert b"acme/store/milano" not in server.received
    assert Credentials.load(credentials.directory).place.filters(frozenset()) == {
        "acme/device/kiosk-7",
        "acme/device/kiosk-7/preferences",
        "acme/device/kiosk-7/withdraw",
        "acme/user/grace",
    }


def test_what_openssl_has_read_ahead_is_not_left_lying(
    credentials: Credentials, handler: Handler, quickly: Quickly, mosquitto: Mosquitto
) -> None:
    """Many packets in one TLS record: after the first one is read, the socket never becomes readable again."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(mosquitto.directory / "server.crt", mosquitto.directory / "server.key")
    batch = b"".join(publish(ADA, b"x", packet_id=number) for number in range(1, 31))
    with MuteServer(CONNACK, context=context) as server:
        elsewhere = dataclasses.replace(credentials, url=server.url)
        with Device(elsewhere, on_message=handler, backoff=quickly()) as device:
            server.wait(b"acme/user/ada")
            server.say(batch)
            for _ in range(30):
                handler.next(timeout=1)
            device.close(timeout=0)


def test_a_late_acknowledgement_does_not_hit_another_message(
    credentials: Credentials, handler: Handler, quickly: Quickly
) -> None:
    """Packet ids are used again: an acknowledgement counts only on the connection on which the message came."""
    puback = bytes.fromhex("40020001")
    handler.go.clear()
    with MuteServer(CONNACK + publish(ADA, b"old", packet_id=1)) as server:
        elsewhere = dataclasses.replace(credentials, url=server.url)
        with Device(elsewhere, on_message=handler, backoff=quickly()) as device:
            assert handler.next().text == "old"
            server.greeting = CONNACK + publish(ADA, b"new", packet_id=1)
            server.hang_up()
            server.wait(b"acme/user/ada")
            until(lambda: device._core.link.connection == 2 and device._core._inbox._waiting)
            handler.go.set()
            assert handler.next().text == "new"
            server.wait(puback)
            device.close(timeout=0)
        assert server.received.count(puback) == 1


def test_it_says_that_it_is_there_and_that_it_goes_and_its_will_says_so_when_it_cannot(
    run: Callable[[], Device], tester: Tester, mosquitto: Mosquitto
) -> None:
    tester.subscribe("acme/device/kiosk-7/up/state")

    def state() -> Any:
        return json.loads(tester.next().payload)

    with run() as device:
        online = state()
        assert online["state"] == "online"
        assert datetime.fromisoformat(online["since"]) <= datetime.now(UTC)
        link = device._core.link
        until(lambda: not link._in_flight)  # else it is said again on the next connection
        link.call(lambda: link._drop(Unreachable("the line was cut")))
        assert state() == {"state": "offline"}  # its will
        assert state()["state"] == "online"
    assert state() == {"state": "offline"}
    with Tester(mosquitto.plain) as late:
        late.subscribe("acme/device/kiosk-7/up/state")
        kept = late.next()
        assert (json.loads(kept.payload), kept.retain) == ({"state": "offline"}, True)
