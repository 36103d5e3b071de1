"""The whole way with our own broker: enrolled, accepted, delivered, displayed; offline, restarted, revoked."""

import asyncio
import queue
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.kiosk import Handler, until
from support.ours import OurBroker

from client_sdk import (
    AsyncBrand,
    AsyncDevice,
    Backoff,
    Brand,
    Credentials,
    Device,
    Message,
    Notification,
    PushError,
    Receipt,
    Refused,
    Status,
    enrol,
)

Quickly = Callable[[], Backoff]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[OurBroker]:
    broker = OurBroker(tmp_path / "data")
    broker.start()
    broker.command("brand", "add", "acme")
    broker.command("user", "add", "acme", "ada")
    broker.command("store", "add", "acme", "milano")
    yield broker
    broker.kill()


@pytest.fixture
def token(broker: OurBroker) -> str:
    return str(broker.command("brand", "token", "issue", "acme")["secret"])


@pytest.fixture
def kiosk(broker: OurBroker, tmp_path: Path) -> Credentials:
    return join(broker, tmp_path / "kiosk-7", "kiosk-7")


def join(broker: OurBroker, directory: Path, name: str) -> Credentials:
    code = broker.command("device", "code", "acme", name, "--user", "ada", "--store", "milano")["code"]
    return enrol(url=broker.url, code=code, directory=directory, ca=broker.ca, timeout=20)


@pytest.fixture
def brand(broker: OurBroker, token: str, quickly: Quickly) -> Callable[..., Brand]:
    def brand(**settings: Any) -> Brand:
        return Brand(broker.url, brand="acme", token=token, ca=broker.ca, backoff=quickly(), **settings)

    return brand


@pytest.fixture
def run(kiosk: Credentials, handler: Handler, quickly: Quickly) -> Callable[[], Device]:
    return lambda: Device(kiosk, on_message=handler, backoff=quickly())


def test_enrolled(broker: OurBroker, kiosk: Credentials, tmp_path: Path) -> None:
    assert (kiosk.identity, kiosk.user, kiosk.store) == ("acme/device/kiosk-7", "ada", "milano")
    assert kiosk.not_after > datetime.now(UTC) + timedelta(days=360)
    assert Credentials.load(tmp_path / "kiosk-7") == kiosk


def test_a_code_is_good_once(broker: OurBroker, tmp_path: Path) -> None:
    code = broker.command("device", "code", "acme", "kiosk-7")["code"]
    enrol(url=broker.url, code=code, directory=tmp_path / "first", ca=broker.ca)
    for attempt in (code, "00000-00000-00000-00000"):
        with pytest.raises(Refused):
            enrol(url=broker.url, code=attempt, directory=tmp_path / "second", ca=broker.ca, timeout=10)


def test_a_lost_answer_is_given_again(broker: OurBroker, tmp_path: Path) -> None:
    code = broker.command("device", "code", "acme", "kiosk-7")["code"]
    enrol(url=broker.url, code=code, directory=tmp_path / "kiosk", ca=broker.ca)
    (tmp_path / "kiosk/identity.json").unlink()  # as if the power had gone in between
    enrol(url=broker.url, code=code, directory=tmp_path / "kiosk", ca=broker.ca)


def test_accepted_delivered_displayed(run: Callable[[], Device], handler: Handler, brand: Callable[..., Brand]) -> None:
    heard: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
    with run() as device, brand(on_receipt=heard.put) as acme:
        device.wait_connected(timeout=10)
        sent = acme.send(to_user="ada", title="Ciao Ada", body="Your order is ready", ttl=60)
        assert sent.message_id.startswith("m")
        assert not sent.no_subscribers
        message = handler.next()
        assert message.id == sent.message_id
        assert message.notification is not None
        assert message.notification.title == "Ciao Ada"
        delivered = sent.wait_delivered(timeout=10)
        assert delivered is not None
        assert (delivered.device, delivered.user, delivered.store) == ("kiosk-7", "ada", "milano")
        message.displayed()
        message.opened()
        assert sent.wait_for("opened", timeout=10)
        assert [r.event for r in sent.receipts] == ["delivered", "displayed", "opened"]
        assert [heard.get(timeout=10).event for _ in range(3)] == ["delivered", "displayed", "opened"]


def test_delivered_is_not_said_before_the_handler_returned(
    run: Callable[[], Device], handler: Handler, brand: Callable[..., Brand]
) -> None:
    handler.go.clear()
    with run() as device, brand() as acme:
        device.wait_connected(timeout=10)
        sending = acme.submit(to_device="kiosk-7", title="Slow")
        handler.next()
        sent = sending.result(10)
        assert sent.wait_delivered(timeout=0.2) is None
        handler.go.set()
        assert sent.wait_delivered(timeout=10)


@pytest.mark.parametrize("receiver", [{"to_user": "ada"}, {"to_device": "kiosk-7"}, {"to_store": "milano"}])
def test_offline_then_online(
    run: Callable[[], Device], handler: Handler, brand: Callable[..., Brand], receiver: Any
) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
    with brand() as acme:
        sent = acme.send(**receiver, title="While you were away")
        assert not sent.no_subscribers
        assert sent.wait_delivered(timeout=0.1) is None
        with run():
            assert handler.next().id == sent.message_id
            assert sent.wait_delivered(timeout=10)


def test_nobody_is_subscribed(brand: Callable[..., Brand]) -> None:
    with brand() as acme:
        sent = acme.send(to_user="ada", title="Hello?")
        assert (sent.no_subscribers, sent.wait_delivered(timeout=0)) == (True, None)


def test_topics(run: Callable[[], Device], handler: Handler, brand: Callable[..., Brand]) -> None:
    with run() as device, brand() as acme:
        device.wait_connected(timeout=10)
        device.follow("news")
        while (sent := acme.send(to_topic="news", title="News")).no_subscribers:
            assert not device.wait(0.05)
        while handler.next().id != sent.message_id:
            pass
    with run() as device, brand() as acme:  # without following again
        device.wait_connected(timeout=10)
        sent = acme.send(to_topic="news", title="More news")
        assert handler.next().id == sent.message_id


def test_what_expired_is_not_shown(run: Callable[[], Device], handler: Handler, brand: Callable[..., Brand]) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
    with brand() as acme:
        acme.send(to_user="ada", title="Soon over", ttl=1)
        late = Notification(title="Over", expires_at=datetime.now(UTC) - timedelta(seconds=1))
        acme.send(to_user="ada", notification=late)
        good = acme.send(to_user="ada", title="Still good", ttl=3600)
        time.sleep(1.1)  # no event tells that a second has passed
        with run():
            assert handler.next().id == good.message_id


def test_the_broker_restarts(
    run: Callable[[], Device], handler: Handler, brand: Callable[..., Brand], broker: OurBroker
) -> None:
    with run() as device:
        device.wait_connected(timeout=10)
    with brand() as acme:
        waiting = acme.send(to_user="ada", title="Before")
        broker.stop()
        broker.start()
        with run() as device:
            assert handler.next().id == waiting.message_id
            broker.stop()
            sending = acme.submit(to_user="ada", title="Meanwhile")
            broker.start()
            message = handler.next(timeout=20)
            assert message.id == sending.result(10).message_id
            assert message.notification is not None
            assert message.notification.title == "Meanwhile"


def test_a_crash_of_the_handlers_process_is_a_redelivery_with_the_same_id(
    run: Callable[[], Device], handler: Handler, brand: Callable[..., Brand]
) -> None:
    handler.failures = 1
    with brand() as acme:
        with run() as device:
            device.wait_connected(timeout=10)
            sent = acme.send(to_user="ada", title="Once more")
            assert handler.next().attempt == 1
        with run():
            again = handler.next()
            assert (again.id, again.attempt) == (sent.message_id, 2)
            assert sent.wait_delivered(timeout=10)


def test_revoked(kiosk: Credentials, handler: Handler, quickly: Quickly, broker: OurBroker) -> None:
    told: list[Status] = []

    def note(status: Status) -> None:
        if not status.connected:
            told.append(status)

    with Device(kiosk, on_message=handler, on_status=note, backoff=quickly()) as device:
        device.wait_connected(timeout=10)
        broker.command("device", "revoke", "acme", "kiosk-7", "--yes")
        until(lambda: len(told) >= 3)  # it goes on trying
    for status in told:
        assert isinstance(status.error, Refused)
        assert status.error.reason == 0x87
        assert "the certificate of acme/device/kiosk-7 is not accepted any more" in status.error.message
        assert "pushbroker device code acme kiosk-7" in status.error.remedy
    with Device(kiosk, on_message=handler, backoff=quickly()) as device, pytest.raises(Refused, match="any more"):
        device.wait_connected(timeout=10)

    (kiosk.directory / "identity.json").unlink()  # as the remedy says
    code = broker.command("device", "code", "acme", "kiosk-7")["code"]
    again = enrol(url=broker.url, code=code, directory=kiosk.directory, ca=broker.ca, timeout=20)
    with Device(again, on_message=handler, backoff=quickly()) as device:
        device.wait_connected(timeout=10)


def test_a_revoked_token(brand: Callable[..., Brand], broker: OurBroker) -> None:
    with brand() as acme:
        (token,) = broker.command("brand", "token", "list", "acme")
        broker.command("brand", "token", "revoke", "acme", token["id"], "--yes")
        with pytest.raises(PushError):
            acme.send(to_user="ada", title="x", timeout=1)
    with pytest.raises(Refused), brand():
        pass


def test_one_brand_cannot_speak_for_another(broker: OurBroker, token: str) -> None:
    broker.command("brand", "add", "rival")
    with pytest.raises(Refused), Brand(broker.url, brand="rival", token=token, ca=broker.ca):
        pass


def test_the_certificate_is_renewed(run: Callable[[], Device], handler: Handler, kiosk: Credentials) -> None:
    before = (kiosk.directory / "device.crt").read_bytes()
    with run() as device:
        device.wait_connected(timeout=10)
        renewed = device.renew(timeout=10)
    assert (renewed.identity, renewed.user, renewed.store) == ("acme/device/kiosk-7", "ada", "milano")
    assert (kiosk.directory / "device.crt").read_bytes() != before
    with run() as device:
        device.wait_connected(timeout=10)


def test_several_devices_of_one_user(
    broker: OurBroker, tmp_path: Path, brand: Callable[..., Brand], quickly: Quickly
) -> None:
    def show(message: Message) -> None:
        message.displayed()

    kiosks = [join(broker, tmp_path / name, name) for name in ("kiosk-7", "tablet-1")]
    with (
        Device(kiosks[0], on_message=show, backoff=quickly()) as first,
        Device(kiosks[1], on_message=show, backoff=quickly()) as second,
        brand() as acme,
    ):
        first.wait_connected(timeout=10)
        second.wait_connected(timeout=10)
        sent = acme.send(to_user="ada", title="Ciao")
        heard = set()
        for _ in range(200):
            heard = {(r.device, r.event) for r in sent.receipts}
            if len(heard) == 4:
                break
            first.wait(0.05)
    assert heard == {(d, e) for d in ("kiosk-7", "tablet-1") for e in ("delivered", "displayed")}


async def test_the_asyncio_faces(broker: OurBroker, kiosk: Credentials, token: str, quickly: Quickly) -> None:
    got: asyncio.Queue[Message] = asyncio.Queue()
    async with (
        AsyncDevice(kiosk, on_message=got.put, backoff=quickly()) as device,
        AsyncBrand(broker.url, brand="acme", token=token, ca=broker.ca, backoff=quickly()) as acme,
    ):
        await device.wait_connected(timeout=10)
        sent = await acme.send(to_user="ada", title="Ciao Ada")
        message = await asyncio.wait_for(got.get(), 10)
        assert message.id == sent.message_id
        assert await sent.wait_delivered(timeout=10)
        message.dismissed()
        assert await sent.wait_for("dismissed", timeout=10)
        assert await sent.wait_for("opened", timeout=0.05) is None
        many = await asyncio.gather(*(acme.send(to_user="ada", payload=str(n)) for n in range(100)))
        order = [(await asyncio.wait_for(got.get(), 10)).text for _ in range(100)]
    assert order == [str(n) for n in range(100)]
    assert len({s.message_id for s in many}) == 100


def test_moved_to_another_user(
    broker: OurBroker, kiosk: Credentials, run: Callable[[], Device], handler: Handler, brand: Callable[..., Brand]
) -> None:
    """It hears what is for its new user and no more what is for the old one, and remembers it."""
    broker.command("user", "add", "acme", "bob")
    with brand() as acme:
        with run() as device:
            device.wait_connected(timeout=10)
            first = acme.send(to_user="ada", title="Ciao Ada")
            assert handler.next().id == first.message_id
            broker.command("device", "assign", "acme", "kiosk-7", "--user", "bob")
            until(lambda: not acme.send(to_user="bob", title="Ciao Bob").no_subscribers)
            assert acme.send(to_user="ada", title="Not for you").no_subscribers
            last = acme.send(to_store="milano", title="All of you")
            titles = []
            while (message := handler.next()).id != last.message_id:
                assert message.notification is not None
                titles.append(message.notification.title)
            assert set(titles) == {"Ciao Bob"}
        moved = Credentials.load(kiosk.directory)
        assert (moved.user, moved.store) == ("bob", "milano")
