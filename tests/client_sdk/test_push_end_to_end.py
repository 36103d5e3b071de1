"""Pushes through our own broker: answered, delivered, told of, withdrawn."""

import queue
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.kiosk import Handler, until
from support.ours import OurBroker

from client_sdk import (
    AsyncBrand,
    Backoff,
    Brand,
    Credentials,
    Device,
    Priority,
    QuietHours,
    Receipt,
    Rejected,
    Summary,
    To,
    enrol,
)

Quickly = Callable[[], Backoff]
ADA = To(users=["ada"])


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurBroker]:
    broker = OurBroker(tmp_path_factory.mktemp("push") / "data")
    broker.start()
    broker.command("brand", "add", "acme")
    broker.command("user", "add", "acme", "ada")
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def token(broker: OurBroker) -> str:
    return str(broker.command("brand", "token", "issue", "acme")["secret"])


def join(broker: OurBroker, directory: Path, name: str) -> Credentials:
    code = broker.command("device", "code", "acme", name, "--user", "ada")["code"]
    return enrol(url=broker.url, code=code, directory=directory, ca=broker.ca, timeout=20)


@pytest.fixture(scope="module")
def kiosk(broker: OurBroker, tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return join(broker, tmp_path_factory.mktemp("kiosk"), "kiosk-7")


@pytest.fixture
def acme(broker: OurBroker, token: str, quickly: Quickly) -> Callable[..., Brand]:
    def acme(**settings: Any) -> Brand:
        return Brand(broker.url, brand="acme", token=token, ca=broker.ca, backoff=quickly(), **settings)

    return acme


@pytest.fixture
def device(kiosk: Credentials, handler: Handler, quickly: Quickly) -> Iterator[Device]:
    with Device(kiosk, on_message=handler, backoff=quickly()) as device:
        device.wait_connected(timeout=10)
        yield device


def test_pushed_delivered_clicked(device: Device, handler: Handler, acme: Callable[..., Brand]) -> None:
    with acme() as brand:
        pushed = brand.push(ADA, title="Ciao Ada", priority=Priority.HIGH, collapse_key="order", receipts="each")
        assert (pushed.recipients, pushed.users, pushed.devices, pushed.duplicate) == (1, 1, 0, False)
        message = handler.next()
        assert message.id == pushed.message_id
        assert message.notification is not None
        assert (message.notification.title, message.notification.priority) == ("Ciao Ada", Priority.HIGH)
        delivered = pushed.wait_delivered(timeout=10)
        assert delivered is not None
        assert (delivered.recipient, delivered.device) == ("user/ada", "kiosk-7")
        message.clicked("ok")
        clicked = pushed.wait_for("clicked", timeout=10)
        assert clicked is not None
        assert clicked.action == "ok"


def test_a_summary(device: Device, handler: Handler, acme: Callable[..., Brand]) -> None:
    heard: queue.SimpleQueue[Summary] = queue.SimpleQueue()
    with acme(on_summary=heard.put) as brand:
        pushed = brand.push(ADA, payload=b"\xff", receipts="summary")
        assert handler.next().payload == b"\xff"
        while not (summary := heard.get(timeout=10)).done:
            pass
        assert (summary.message_id, summary.counts["delivered"]) == (pushed.message_id, 1)
        assert pushed.summary == summary


def test_rejected(acme: Callable[..., Brand]) -> None:
    with acme() as brand, pytest.raises(Rejected, match="nobody") as caught:
        brand.push(To(users=["ada", "nobody"]), title="Ciao")
    assert (caught.value.code, caught.value.field) == ("unknown_user", "to.users[1]")


def test_the_same_key_is_the_same_message(device: Device, handler: Handler, acme: Callable[..., Brand]) -> None:
    with acme() as brand:
        first = brand.push(ADA, title="Once", idempotency_key="once")
        second = brand.push(ADA, title="Once", idempotency_key="once")
        assert (second.message_id, second.duplicate, second.recipients) == (first.message_id, True, 1)
        with pytest.raises(Rejected) as caught:
            brand.push(ADA, title="Twice", idempotency_key="once")
        assert caught.value.code == "idempotency_conflict"
        assert handler.next().id == first.message_id
        last = brand.push(ADA, title="Last")
        assert handler.next().id == last.message_id


def test_a_dry_run(acme: Callable[..., Brand]) -> None:
    with acme() as brand:
        pushed = brand.push(ADA, title="Nothing", dry_run=True)
    assert (pushed.message_id, pushed.recipients, pushed.dry_run) == ("", 1, True)
    assert list(pushed.sample) == ["user/ada"]


async def test_withdrawn_before_it_is_sent(device: Device, handler: Handler, broker: OurBroker, token: str) -> None:
    heard: list[Receipt] = []

    async def hear(receipt: Receipt) -> None:
        heard.append(receipt)

    async with AsyncBrand(broker.url, brand="acme", token=token, ca=broker.ca, on_receipt=hear) as brand:
        pushed = await brand.push(ADA, title="Slow", not_before=datetime.now(UTC) + timedelta(days=1), receipts="each")
        assert await brand.withdraw(pushed.message_id) == 1
        withdrawn = await pushed.wait_for("withdrawn", timeout=10)
        assert withdrawn is not None
        assert (withdrawn.recipient, withdrawn.device) == ("user/ada", "")
        assert withdrawn.reason
        with pytest.raises(Rejected) as caught:
            await brand.withdraw("m0")
        assert caught.value.code == "not_found"
    assert [one.event for one in heard] == ["withdrawn"]
    assert handler.idle


def test_opened_on_one_device_leaves_the_others(
    device: Device, handler: Handler, acme: Callable[..., Brand], broker: OurBroker, tmp_path: Path, quickly: Quickly
) -> None:
    """And what is withdrawn leaves all of them."""
    taken_off: queue.SimpleQueue[tuple[tuple[str, ...], str]] = queue.SimpleQueue()
    other = Handler()
    with (
        Device(
            join(broker, tmp_path / "tablet", "tablet"),
            on_message=other,
            on_withdrawn=lambda ids, why: taken_off.put((ids, why)),
            backoff=quickly(),
        ) as tablet,
        acme() as brand,
    ):
        tablet.wait_connected(timeout=10)
        first, second = brand.push(ADA, title="First"), brand.push(ADA, title="Second")
        message = handler.next()
        until(lambda: tablet.on_screen == (first.message_id, second.message_id))
        message.opened()
        assert taken_off.get(timeout=10) == ((first.message_id,), "opened")
        assert brand.withdraw(second.message_id) == 0
        assert taken_off.get(timeout=10) == ((second.message_id,), "withdrawn")
        until(lambda: second.message_id not in device.on_screen)


def test_opted_in(device: Device, handler: Handler, acme: Callable[..., Brand]) -> None:
    news = To(topics=["news"])
    with acme() as brand:
        assert brand.push(news, title="News").recipients == 0
        device.opt_in("news")
        until(lambda: brand.push(news, title="News", dry_run=True).recipients == 1)
        sent = brand.push(news, title="News")
        assert handler.next().id == sent.message_id
        device.opt_out("news")
        until(lambda: brand.push(news, title="News", dry_run=True).recipients == 0)
    assert device.preferences.topics == {"news": False}


def test_what_is_set_is_what_counts(device: Device, broker: OurBroker) -> None:
    quiet = QuietHours(time(22), time(8))
    device.set_preferences(quiet_hours=quiet, time_zone="Europe/Rome", locale="it")
    until(lambda: broker.command("user", "preferences", "acme", "ada")["locale"] == "it")
    assert broker.command("user", "preferences", "acme", "ada")["quiet_hours"] == {"from": "22:00", "until": "08:00"}
    broker.command("user", "preferences", "acme", "ada", "--time-zone", "Europe/London")
    until(lambda: device.preferences.time_zone == "Europe/London")
    assert (device.preferences.quiet_hours, device.preferences.locale) == (quiet, "it")
    device.set_preferences(quiet_hours=None)
    until(lambda: broker.command("user", "preferences", "acme", "ada")["quiet_hours"] is None)


def test_killed_meanwhile(device: Device, handler: Handler, acme: Callable[..., Brand], broker: OurBroker) -> None:
    """Each push is one message, whatever had to be asked again."""
    with acme() as brand:
        pushing = [brand.submit_push(ADA, payload=str(n)) for n in range(100)]
        pushing[0].result(10)
        broker.kill()
        broker.start()
        pushed = [one.result(20) for one in pushing]
        assert len({one.message_id for one in pushed}) == 100
        assert not any(one.duplicate for one in pushed)
        last = brand.push(ADA, payload="last")
        got = []
        while (message := handler.next(timeout=20)).id != last.message_id:
            got.append((message.id, message.text))
    assert sorted(got) == sorted((one.message_id, str(n)) for n, one in enumerate(pushed))
