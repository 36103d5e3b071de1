"""What holds a message back, when a brand's server sends it through the bridge: said in the answer and in the books."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.live import device, server
from support.mqtt import Client

from broker.admin.operations import Context, perform
from broker.app import Broker

Send = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def kiosk(broker: Broker) -> Client:
    """ada's."""
    client = await device(broker, "kiosk-7")
    await client.subscribe("acme/user/ada", qos=1)
    return client


@pytest.fixture
async def send(broker: Broker) -> Send:
    """Send something that is accepted."""
    crm = await server(broker)
    await crm.subscribe("acme/send/answer", qos=1)

    async def send(**request: Any) -> dict[str, Any]:
        asked = {"notification": {"title": "Ciao", "body": "x"}, "to": {"users": ["ada"]}, **request}
        await crm.publish("acme/send", json.dumps(asked).encode(), qos=1)
        answer: dict[str, Any] = json.loads((await crm.expect_message()).payload)
        assert answer["ok"], answer
        return answer

    return send


async def operate(broker: Broker, operation: str, **arguments: Any) -> Any:
    return await perform(Context(broker.settings, broker.directory, broker), operation, {"brand": "acme", **arguments})


async def decided(broker: Broker, answer: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was decided of a message, once something was: the recipient's name, the rule, and what came of it."""
    sql = """SELECT r.name, d.rule, d.outcome FROM decision d JOIN message m ON m.number = d.message
             JOIN recipient r ON r.message = d.message AND r.number = d.recipient WHERE m.id = ? ORDER BY r.number"""
    async with asyncio.timeout(10):
        while not (  # noqa: ASYNC110 - in another thread
            rows := await broker.bridge.messages.read(lambda db: db.execute(sql, (answer["message_id"],)).fetchall())
        ):
            await asyncio.sleep(0.01)  # the books have no event for a test to wait for
    return [(name, rule, outcome) for name, rule, outcome in rows]


async def test_the_second_is_one_too_many_unless_it_is_transactional(broker: Broker, kiosk: Client, send: Send) -> None:
    await operate(broker, "restraint.set", caps=[{"max": 1}])
    first = await send()
    assert first["message_id"] in str((await kiosk.expect_message()).properties.user_properties)
    assert await decided(broker, await send()) == [("ada", "cap", "dropped")]
    third = await send(kind="transactional")
    assert third["message_id"] in str((await kiosk.expect_message()).properties.user_properties)


async def test_a_device_that_is_named_like_a_user_is_not_that_user(broker: Broker, kiosk: Client, send: Send) -> None:
    await operate(broker, "restraint.set", caps=[{"max": 1}])
    await broker.directory.device_code("acme", "ada")
    other = await device(broker, "ada")
    await other.subscribe("acme/device/ada", qos=1)
    await send()
    await kiosk.expect_message()
    assert await decided(broker, await send(to={"users": ["ada"], "devices": ["ada"]})) == [("ada", "cap", "dropped")]
    await other.expect_message()


async def test_in_quiet_hours_it_waits_for_their_end(broker: Broker, kiosk: Client, send: Send) -> None:
    now = datetime.now(UTC)
    begin, end = now - timedelta(hours=1), now + timedelta(hours=1)
    quiet = {"from": f"{begin:%H:%M}", "until": f"{end:%H:%M}"}
    await operate(broker, "profile.say", name="ada", wanted={"quiet_hours": quiet, "time_zone": "UTC"})
    answer = await send()
    assert await decided(broker, answer) == [("ada", "quiet_hours", "deferred")]
    ((state, due_at),) = await broker.bridge.messages.read(
        lambda db: db.execute("SELECT state, due_at FROM recipient").fetchall()
    )
    assert state == "accepted"
    assert datetime.fromtimestamp(due_at / 1000, UTC) == end.replace(second=0, microsecond=0)
    urgent = await send(kind="transactional")
    assert urgent["message_id"] in str((await kiosk.expect_message()).properties.user_properties)


@pytest.mark.parametrize(
    ("operation", "arguments", "rule"),
    [
        ("profile.say", {"wanted": {"topics": {"news": False}}}, "opted_out"),
        ("suppression.add", {"reason": "complaint"}, "suppressed"),
    ],
)
async def test_what_was_said_after_the_request_counts(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, send: Send, operation: str, arguments: dict[str, Any], rule: str
) -> None:
    restrain, said = broker.bridge.dispatcher._restrain, asyncio.Event()

    async def later(*of: Any) -> Any:
        await said.wait()
        return await restrain(*of)

    monkeypatch.setattr(broker.bridge.dispatcher, "_restrain", later)
    await operate(broker, "profile.say", name="ada", wanted={"topics": {"news": True}})
    answer = await send(to={"topics": ["news"]})
    assert answer["recipients"] == 1
    await operate(broker, operation, name="ada", **arguments)
    said.set()
    assert await decided(broker, answer) == [("ada", rule, "dropped")]
