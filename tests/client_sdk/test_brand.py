"""A brand's server against a real broker, and against what may answer in its place."""

import dataclasses
import json
import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.authority import TestAuthority
from support.kiosk import Handler, until
from support.mosquitto import Mosquitto
from support.mute import CONNACK, MuteServer
from support.tester import Tester, session_present

from client_sdk import (
    Backoff,
    Brand,
    Credentials,
    Device,
    PushError,
    Receipt,
    Refused,
    Unconfirmed,
    Unreachable,
    Untrusted,
)

Make = Callable[..., Brand]


@pytest.fixture
def make(mosquitto: Mosquitto, quickly: Callable[[], Backoff]) -> Make:
    def make(**changes: Any) -> Brand:
        settings = {"token": "secret", "ca": mosquitto.directory / "ca.crt", "backoff": quickly(), **changes}
        return Brand(settings.pop("url", mosquitto.password_url), brand="acme", **settings)

    return make


def mute(server: MuteServer, **changes: Any) -> Brand:
    settings = {"token": "secret", "receipts": False, "backoff": Backoff(first_s=0.05, longest_s=0.1), **changes}
    return Brand(server.url, brand="acme", **settings)


def test_a_message_is_accepted(make: Make, tester: Tester) -> None:
    tester.subscribe("acme/user/ada")
    with make() as brand:
        sent = brand.send(to_user="ada", title="Ciao Ada", ttl=60, user_properties=[("lang", "it")])
        got = tester.next()
    assert (sent.topic, sent.no_subscribers) == ("acme/user/ada", False)
    assert json.loads(got.payload)["title"] == "Ciao Ada"
    assert (got.topic, got.qos) == ("acme/user/ada", 1)
    assert got.properties is not None
    assert got.properties.ContentType == "application/vnd.push+json"
    assert got.properties.UserProperty == [("lang", "it"), ("receipt", "delivered")]
    assert 58 <= got.properties.MessageExpiryInterval <= 60


def test_nobody_is_subscribed(make: Make) -> None:
    with make() as brand:
        assert brand.send(to_user="nobody", title="Hello?").no_subscribers


def test_a_device_gets_it(make: Make, credentials: Credentials, handler: Handler) -> None:
    with Device(credentials, on_message=handler) as device, make() as brand:
        device.wait_connected(timeout=10)
        brand.send(to_device="kiosk-7", title="Ciao", body="☕")
        message = handler.next()
    assert message.notification is not None
    assert message.notification.body == "☕"


def test_a_refused_message_is_told_with_its_reason(make: Make) -> None:
    with (
        make() as brand,
        pytest.raises(Refused, match=r"acme/device/forbidden: this identity may not do that") as caught,
    ):
        brand.send(to_device="forbidden", payload="x")
    assert caught.value.reason == 0x87


def test_a_message_that_is_too_large_is_told_without_sending_it(make: Make) -> None:
    with make() as brand:
        with pytest.raises(Refused, match="larger than the broker's 100000 bytes") as caught:
            brand.send(to_user="ada", payload=b"x" * 100_000)
        assert caught.value.reason == 0x95
        brand.send(to_user="ada", payload="and the connection is still there")


def test_many_at_a_time(make: Make, tester: Tester) -> None:
    """More than the broker's receive maximum of 20: the window is kept."""
    tester.subscribe("acme/topic/news")
    with make() as brand:
        sending = [brand.submit(to_topic="news", payload=str(number)) for number in range(300)]
        assert [future.result(10).topic for future in sending] == ["acme/topic/news"] * 300
    assert [tester.next().payload for _ in range(300)] == [str(number).encode() for number in range(300)]


def test_receipts_are_heard(make: Make, tester: Tester, mosquitto: Mosquitto) -> None:
    heard: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
    go = threading.Event()

    def hear(receipt: Receipt) -> None:
        heard.put(receipt)
        go.wait(10)
        if receipt.event == "delivered":
            raise RuntimeError("the database is away")

    fields = {"message_id": "m1", "event": "delivered", "device": "kiosk-7", "at": "2026-11-22T08:00:00Z"}
    with make(on_receipt=hear, client_id="acme-crm"):
        tester.publish("acme/receipts/m1", json.dumps(fields))
        assert heard.get(timeout=10).event == "delivered"
        assert "Received PUBACK from acme-crm" not in mosquitto.log
        tester.publish("acme/receipts/m1", b"not a receipt")
        tester.publish("acme/receipts/m1", json.dumps({**fields, "event": "displayed"}))
        go.set()
        assert heard.get(timeout=10).event == "displayed"  # one that raised does not stop the others
    assert mosquitto.saw("Received PUBACK from acme-crm", 3)


def test_a_named_server_gets_the_receipts_of_its_restart(make: Make, tester: Tester) -> None:
    heard: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
    with make(on_receipt=heard.put, client_id="acme-crm"):
        pass
    fields = {"message_id": "m1", "event": "delivered", "device": "kiosk-7", "at": "2026-11-22T08:00:00Z"}
    tester.publish("acme/receipts/m1", json.dumps(fields))
    with make(on_receipt=heard.put, client_id="acme-crm"):
        assert heard.get(timeout=10).message_id == "m1"


@pytest.mark.parametrize(("client_id", "stays"), [(None, False), ("acme-crm", True)])
def test_only_a_named_server_leaves_a_session_behind(
    make: Make, mosquitto: Mosquitto, client_id: str | None, stays: bool
) -> None:
    with make(client_id=client_id) as brand:
        brand.send(to_user="ada", payload="x")
        found = re.search(r" as (acme-\w+) \(p5", mosquitto.log)
    assert found
    assert session_present(mosquitto.plain, found[1]) is stays


def test_it_comes_back_and_sends_what_waited(make: Make, mosquitto: Mosquitto) -> None:
    with make() as brand:
        mosquitto.stop()
        until(lambda: not brand._core.link.is_up)
        waiting = brand.submit(to_user="ada", payload="later")
        with pytest.raises(Unreachable, match="nothing has been sent"):
            brand.send(to_user="ada", payload="never", timeout=0.2)
        mosquitto.start()
        assert waiting.result(10).topic == "acme/user/ada"
        brand.send(to_user="ada", payload="now")
    assert mosquitto.saw("Received PUBLISH from acme-", 2)  # what was given up was not sent


def test_a_message_does_not_outlive_its_ttl_in_the_queue(make: Make, mosquitto: Mosquitto) -> None:
    with make() as brand:
        mosquitto.stop()
        until(lambda: not brand._core.link.is_up)
        late = brand.submit(to_user="ada", payload="late", ttl=1)
        threading.Event().wait(1.1)
        mosquitto.start()
        with pytest.raises(Unreachable, match="expired before"):
            late.result(10)


def test_a_certificate_instead_of_a_token(make: Make, mosquitto: Mosquitto, tmp_path: Path) -> None:
    _certificate(mosquitto.authority, tmp_path)
    with make(
        url=mosquitto.device_url, token=None, certificate=tmp_path / "brand.crt", key=tmp_path / "brand.key"
    ) as brand:
        brand.send(to_user="ada", payload="x")


def _certificate(authority: TestAuthority, directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "brand.key").write_bytes(pem)
    (directory / "brand.crt").write_bytes(authority.issue(key.public_key(), "acme"))


# -- no connection -----------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_told_at_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    with pytest.raises(Refused, match="refuses the connection: the token is not one of acme") as caught:
        make(token="wrong", timeout=30).__enter__()
    assert time.monotonic() - began < 10
    assert "pushbroker brand token issue acme" in caught.value.remedy
    assert "next attempt" not in caplog.text  # there is none


def test_a_broker_that_is_not_trusted_is_told_at_once(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other.crt").write_bytes(TestAuthority("Somebody else").pem)
    brand = make(ca=tmp_path / "other.crt", timeout=30)
    began = time.monotonic()
    with pytest.raises(Untrusted, match="not trusted") as caught, brand:
        pass
    assert time.monotonic() - began < 10
    assert str(tmp_path / "other.crt") in caught.value.remedy
    assert "next attempt" not in caplog.text
    assert isinstance(brand.submit(to_user="ada", payload="x").exception(10), Unreachable)


def test_a_certificate_that_is_not_accepted_is_told_at_once(make: Make, mosquitto: Mosquitto, tmp_path: Path) -> None:
    _certificate(TestAuthority("Somebody else"), tmp_path)
    began = time.monotonic()
    with pytest.raises(Refused, match="is not accepted") as caught:
        make(
            url=mosquitto.device_url,
            token=None,
            certificate=tmp_path / "brand.crt",
            key=tmp_path / "brand.key",
            timeout=30,
        ).__enter__()
    assert time.monotonic() - began < 10
    assert caught.value.reason == 0x87
    assert "pushbroker cert issue acme/server/NAME" in caught.value.remedy


def test_a_broker_that_starts_later_is_waited_for(make: Make, mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    later = threading.Timer(0.5, mosquitto.start)
    later.start()
    with make(timeout=20) as brand:
        brand.send(to_user="ada", payload="x")
    later.join()


def test_a_token_that_is_revoked_later_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """Once it was let in, a server is not ended by a refusal: somebody may put it right."""
    with MuteServer() as server, mute(server) as brand:
        server.greeting = bytes.fromhex("2003008600")
        server.hang_up()
        with server.news:
            assert server.news.wait_for(lambda: server.connections >= 3, 10)
        server.greeting = CONNACK
        brand.submit(to_user="ada", payload="at last")
        server.wait(b"at last")
        brand.close(timeout=0)
    assert "the token is not one of acme, or was revoked" in caplog.text


def test_no_broker_is_told_after_a_while(make: Make, mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    with pytest.raises(Unreachable, match="cannot be reached"), make(timeout=0.3):
        pass


def test_an_answer_that_does_not_come_is_not_a_failure() -> None:
    with MuteServer() as server:
        brand = mute(server)
        with brand:
            with pytest.raises(Unconfirmed, match="may have been accepted or not"):
                brand.send(to_user="ada", payload="perhaps", timeout=0.2)
            server.wait(b"perhaps")
            left = brand.submit(to_user="ada", payload="left over")
            server.wait(b"left over")
            brand.close(timeout=0.1)
        assert isinstance(left.exception(10), Unconfirmed)


def test_what_was_not_acknowledged_is_sent_again_with_the_same_packet_id() -> None:
    """3.1.1 [MQTT-2.3.1-3]."""
    with MuteServer() as server, mute(server) as brand:
        brand.submit(to_user="ada", payload="again")
        server.wait(b"again")
        server.hang_up()
        with server.news:
            assert server.news.wait_for(lambda: server.received.count(b"again") == 2, 10)
        first, second = (
            server.received.rindex(b"\x00\x0dacme/user/ada", 0, at) for at in _all(server.received, b"again")
        )
        assert server.received[first - 2] | 0x08 == server.received[second - 2]  # DUP
        assert server.received[first + 15 : first + 17] == server.received[second + 15 : second + 17]
        brand.close(timeout=0)


def _all(data: bytearray, what: bytes) -> list[int]:
    first = data.index(what)
    return [first, data.index(what, first + 1)]


def test_the_brokers_window_is_kept() -> None:
    """Beyond its receive maximum a broker may close the connection [MQTT-3.3.4-9]."""
    with MuteServer(bytes.fromhex("2006000003" + "210002")) as server, mute(server) as brand:
        sending = [brand.submit(to_user="ada", payload=f"number {number}") for number in range(3)]
        server.wait(b"number 1")
        assert b"number 2" not in server.received
        server.say(bytes.fromhex("40020001"))
        assert sending[0].result(10)
        server.wait(b"number 2")
        brand.close(timeout=0)


GARBAGE = {
    "not MQTT": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an unknown packet": bytes.fromhex("f000"),
    "an endless length": bytes.fromhex("20ffffffffff"),
    "a PUBLISH before CONNACK": bytes.fromhex("300400016100"),
    "a CONNACK with bad properties": bytes.fromhex("2005000002ff00"),
    "an unknown reason": bytes.fromhex("20030077" + "00"),
    "a PUBACK with an unknown reason": bytes.fromhex("2003000000" + "4003000142"),
    "half a topic": bytes.fromhex("2003000000" + "300500ff616263"),
    "a topic that is not UTF-8": bytes.fromhex("2003000000" + "3205" + "0001ff" + "0001" + "00"),
    "nothing": b"",
}


@pytest.mark.parametrize("greeting", GARBAGE.values(), ids=GARBAGE.keys())
def test_it_outlives_whatever_a_server_says(greeting: bytes) -> None:
    """Whatever it was told: when it meets a broker at last, it works."""
    with MuteServer(greeting) as server:
        brand = mute(server, timeout=0.3)
        try:
            with brand:
                assert greeting.startswith(b"\x20\x03\x00\x00")
        except PushError:
            pass
    with MuteServer(greeting) as server:
        brand = mute(server, timeout=20)
        entered = threading.Thread(target=brand.__enter__, daemon=True)
        entered.start()
        server.wait(b"MQTT")
        server.greeting = bytes.fromhex("2003000000")
        server.hang_up()
        entered.join(20)
        sending = brand.submit(to_user="ada", payload="at last")
        server.wait(b"at last")
        brand.close(timeout=0)
        assert isinstance(sending.exception(10), Unconfirmed)


def test_a_bad_message_is_not_sent_for_ever() -> None:
    """A broker that closes the connection because of a message would do so each time it comes."""
    disconnect = bytes.fromhex("e00199")
    with MuteServer() as server, mute(server) as brand:
        sending = brand.submit(to_user="ada", payload="bad")
        server.wait(b"bad")
        server.say(disconnect)
        with pytest.raises(Refused, match="payload is not what its format says"):
            sending.result(10)
        with server.news:
            assert server.news.wait_for(lambda: server.connections == 2, 10)
        good = brand.submit(to_user="ada", payload="good")
        server.wait(b"good")
        assert server.received.count(b"bad") == 1
        brand.close(timeout=0)
        assert good.done()


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_the_token_from_the_environment(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHBROKER_TOKEN", "secret")
    with make(token=None) as brand:
        brand.send(to_user="ada", payload="x")
    monkeypatch.delenv("PUSHBROKER_TOKEN")
    with pytest.raises(ValueError, match="PUSHBROKER_TOKEN"):
        make(token=None)


def test_the_token_is_never_logged(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    token = "pbt_a-token-that-is-wrong"
    with caplog.at_level(logging.DEBUG):
        brand = make(token=token)
        with pytest.raises(Refused) as caught, brand:
            pass
    assert caplog.text
    assert token not in caplog.text + repr(brand) + str(brand) + repr(caught.value) + repr(vars(brand))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mqtt://push.example", "in the clear"),
        ("https://push.example", "not a broker's URL"),
        ("mqtts://", "not a broker's URL"),
        ("push.example:8883", "not a broker's URL"),
        ("mqtts://acme:token@push.example", "ends up in logs"),
        ("mqtts://push.example/path", "after the port"),
        ("mqtts://push.example:99999", "[Pp]ort"),
    ],
)
def test_a_bad_url_is_refused(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Brand(url, brand="acme", token="token")
    if "acme:token" in url:
        assert "token@" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"certificate": "x"}, {"key": "x"}, {"ca": b"no PEM"}, {"brand": "a/b"}])
def test_bad_arguments_are_refused(changes: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"brand": "acme", "token": "secret", **changes}
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        Brand("mqtts://localhost", **settings)


def test_all_public_dataclasses_are_frozen() -> None:
    receipt = Receipt(message_id="m", event="e", at=datetime.now(UTC))
    with pytest.raises(dataclasses.FrozenInstanceError):
        receipt.event = "opened"  # type: ignore[misc]
