"""The asyncio face: the same promises, on an event loop."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from support.authority import TestAuthority
from support.kiosk import until
from support.mosquitto import Mosquitto
from support.mute import MuteServer
from support.tester import Tester

from client_sdk import (
    AsyncBrand,
    AsyncDevice,
    Backoff,
    Credentials,
    Message,
    Receipt,
    Refused,
    Status,
    Unconfirmed,
    Unreachable,
    Untrusted,
)

ADA = "acme/user/ada"
Quickly = Callable[[], Backoff]


class AsyncHandler:
    """Keeps what it got; can be told to block or to fail."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.go = asyncio.Event()
        self.go.set()
        self.failures = 0
        self.running = 0
        self.most = 0

    async def __call__(self, message: Message) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            self.messages.put_nowait(message)
            await self.go.wait()
            if self.failures:
                self.failures -= 1
                raise RuntimeError("the screen is dark")
        finally:
            self.running -= 1

    async def next(self) -> Message:
        return await asyncio.wait_for(self.messages.get(), 10)


@pytest.fixture
async def handler() -> AsyncHandler:
    return AsyncHandler()


@pytest.fixture
async def run(
    credentials: Credentials, handler: AsyncHandler, quickly: Quickly
) -> AsyncIterator[Callable[..., AsyncDevice]]:
    def run(**settings: Any) -> AsyncDevice:
        return AsyncDevice(credentials, **{"on_message": handler, "backoff": quickly(), **settings})

    return run


async def apart(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The tests' own client blocks: not on our loop."""
    return await asyncio.to_thread(function, *arguments, **named)


async def test_a_message_is_acknowledged_after_the_handler_and_not_before(
    run: Callable[..., AsyncDevice], handler: AsyncHandler, tester: Tester, mosquitto: Mosquitto
) -> None:
    handler.go.clear()
    async with run() as device:
        await device.wait_connected(timeout=10)
        for number in (1, 2):
            await apart(tester.publish, ADA, "x", message_id=f"m{number}")
        assert (await handler.next()).id == "m1"
        await asyncio.sleep(0)
        assert "Received PUBACK from kiosk-7" not in mosquitto.log
        handler.go.set()
        assert (await handler.next()).id == "m2"
    assert handler.most == 1
    assert await apart(mosquitto.saw, "Received PUBACK from kiosk-7", 2)


async def test_several_handlers_at_a_time(
    run: Callable[..., AsyncDevice], handler: AsyncHandler, tester: Tester
) -> None:
    handler.go.clear()
    async with run(concurrency=3) as device:
        await device.wait_connected(timeout=10)
        for number in range(5):
            await apart(tester.publish, ADA, "x", message_id=f"m{number}")
        for _ in range(3):
            await handler.next()
        assert handler.messages.empty()
        handler.go.set()
        for _ in range(2):
            await handler.next()
    assert handler.most == 3


async def test_a_failed_handler_gets_it_again(
    run: Callable[..., AsyncDevice], handler: AsyncHandler, tester: Tester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client_sdk.inbox._REST_FIRST_S", 0.05)
    handler.failures = 1
    async with run() as device:
        await device.wait_connected(timeout=10)
        await apart(tester.publish, ADA, "x", message_id="m1")
        assert [(await handler.next()).attempt for _ in range(2)] == [1, 2]


async def test_a_cancelled_handler_has_not_handled_its_message(
    run: Callable[..., AsyncDevice], handler: AsyncHandler, tester: Tester
) -> None:
    handler.go.clear()
    for _ in range(6):  # more often than a failure would be forgiven
        async with run() as device:
            await device.wait_connected(timeout=10)
            if handler.messages.empty() and _ == 0:
                await apart(tester.publish, ADA, "x", message_id="m1")
            message = await handler.next()
            assert (message.id, message.attempt) == ("m1", 1)
            await device.close(timeout=0.01)
    assert handler.running == 0


async def test_a_duplicate_is_dropped_across_restarts(
    run: Callable[..., AsyncDevice], handler: AsyncHandler, tester: Tester
) -> None:
    for number in (1, 2):
        async with run() as device:
            await device.wait_connected(timeout=10)
            await apart(tester.publish, ADA, "same", message_id="m1")
            await apart(tester.publish, ADA, "new", message_id=f"n{number}")
            if number == 1:
                assert (await handler.next()).id == "m1"
            assert (await handler.next()).id == f"n{number}"


async def test_receipts_and_topics(run: Callable[..., AsyncDevice], handler: AsyncHandler, tester: Tester) -> None:
    await apart(tester.subscribe, "acme/device/kiosk-7/up/receipt")
    async with run() as device:
        await device.follow("news")
        await device.wait_connected(timeout=10)
        await apart(tester.publish, "acme/topic/news", "x", message_id="m1")
        (await handler.next()).displayed()
        assert json.loads((await apart(tester.next)).payload)["event"] == "displayed"
        await device.unfollow("news")
        assert device.followed == frozenset()


async def test_it_comes_back_after_the_broker_was_away(
    run: Callable[..., AsyncDevice], handler: AsyncHandler, mosquitto: Mosquitto
) -> None:
    seen: asyncio.Queue[Status] = asyncio.Queue()
    async with run(on_status=seen.put_nowait) as device:
        assert (await asyncio.wait_for(seen.get(), 10)).connected
        await apart(mosquitto.stop)
        assert not (await asyncio.wait_for(seen.get(), 10)).connected
        with pytest.raises(Unreachable):
            await device.wait_connected(timeout=0.1)
        await apart(mosquitto.start)
        await device.wait_connected(timeout=10)
        assert device.status.connected


async def test_waiting_for_the_end(run: Callable[..., AsyncDevice]) -> None:
    async with run() as device:
        waiting = asyncio.create_task(device.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 10)


def test_a_loop_that_ends_without_closing_loses_nothing(
    credentials: Credentials, quickly: Quickly, tester: Tester
) -> None:
    """`asyncio.run` was left by an exception somewhere else: what comes then is not acknowledged."""
    devices = []
    shown: list[str] = []

    async def show(message: Message) -> None:
        shown.append(message.id)

    async def forget_to_close() -> None:
        device = AsyncDevice(credentials, on_message=show, backoff=quickly())
        devices.append(device)
        await device.__aenter__()
        await device.wait_connected(timeout=10)

    async def again() -> None:
        come = asyncio.Event()

        async def show_again(message: Message) -> None:
            await show(message)
            come.set()

        async with AsyncDevice(credentials, on_message=show_again, backoff=quickly()):
            await come.wait()

    asyncio.run(forget_to_close())
    tester.publish(ADA, "x", message_id="m1")
    devices[0]._core.close(5)
    assert shown == []
    asyncio.run(asyncio.wait_for(again(), 10))
    assert shown == ["m1"]


# -- brand -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def brand(mosquitto: Mosquitto, quickly: Quickly) -> Callable[..., AsyncBrand]:
    def brand(**changes: Any) -> AsyncBrand:
        settings = {"token": "secret", "ca": mosquitto.directory / "ca.crt", "backoff": quickly(), **changes}
        return AsyncBrand(mosquitto.password_url, brand="acme", **settings)

    return brand


async def test_many_at_a_time(brand: Callable[..., AsyncBrand]) -> None:
    async with brand() as acme:
        sent = await asyncio.gather(*(acme.send(to_topic="news", payload=str(n)) for n in range(200)))
    assert [s.no_subscribers for s in sent] == [True] * 200


async def test_refusals_and_time_limits(brand: Callable[..., AsyncBrand], mosquitto: Mosquitto) -> None:
    async with brand() as acme:
        with pytest.raises(Refused) as caught:
            await acme.send(to_device="forbidden", payload="x")
        assert caught.value.reason == 0x87
        await apart(mosquitto.stop)
        await apart(until, lambda: not acme._core.link.is_up)
        with pytest.raises(Unreachable, match="nothing has been sent"):
            await acme.send(to_user="ada", payload="x", timeout=0.1)
    with pytest.raises(Unreachable, match="cannot be reached"):
        async with brand(timeout=0.2):
            pass


async def test_a_wrong_token(brand: Callable[..., AsyncBrand]) -> None:
    with pytest.raises(Refused, match="refuses the connection"):
        async with brand(token="wrong"):
            pass


async def test_a_broker_that_is_not_trusted(brand: Callable[..., AsyncBrand]) -> None:
    with pytest.raises(Untrusted, match="not trusted"):
        async with asyncio.timeout(10), brand(ca=TestAuthority("Somebody else").pem, timeout=30):
            pass


async def test_an_answer_that_does_not_come() -> None:
    with MuteServer() as server:
        async with AsyncBrand(server.url, brand="acme", token="t", receipts=False) as acme:
            with pytest.raises(Unconfirmed):
                await acme.send(to_user="ada", payload="x", timeout=0.1)
            await acme.close(timeout=0)


async def test_a_cancelled_send_is_not_sent_later(brand: Callable[..., AsyncBrand], mosquitto: Mosquitto) -> None:
    async with brand() as acme:
        await apart(mosquitto.stop)
        await apart(until, lambda: not acme._core.link.is_up)
        sending = asyncio.create_task(acme.send(to_user="ada", payload="x"))
        await asyncio.sleep(0.05)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await apart(mosquitto.start)
        await acme.send(to_user="ada", payload="y")
    assert await apart(mosquitto.saw, "Received PUBLISH from acme-", 1)


async def test_receipts_are_heard(brand: Callable[..., AsyncBrand], tester: Tester, mosquitto: Mosquitto) -> None:
    heard: asyncio.Queue[Receipt] = asyncio.Queue()
    go = asyncio.Event()

    async def hear(receipt: Receipt) -> None:
        heard.put_nowait(receipt)
        await go.wait()

    fields = {"message_id": "m1", "event": "delivered", "device": "kiosk-7", "at": "2026-11-22T08:00:00Z"}
    listener: Callable[[Receipt], Awaitable[None]] = hear
    async with brand(on_receipt=listener, client_id="acme-crm"):
        await apart(tester.publish, "acme/receipts/m1", json.dumps(fields))
        assert (await asyncio.wait_for(heard.get(), 10)).event == "delivered"
        assert "Received PUBACK from acme-crm" not in mosquitto.log
        go.set()
    assert await apart(mosquitto.saw, "Received PUBACK from acme-crm", 1)
