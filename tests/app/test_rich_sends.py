"""Rich sends, end to end: a server asks, devices get, and the books say what became of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.live import device, populate, running, server
from support.mqtt import Client

from broker.app import Broker
from broker.bridge import bridge, dispatch
from broker.bridge import request as requests
from broker.bridge.request import SendRequest, To
from broker.errors import Failed
from broker.store.messages import Decision, MessageRow, Messages, NewMessage
from broker.wire.packets import Properties, Puback, Publish

DEEP: dict[str, Any] = {}
for _ in range(100):
    DEEP = {"in": DEEP}
CIAO = {"title": "Ciao", "body": "Your order is ready."}


class Shop:
    """A brand's server that asks for sends and waits for the answers."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.count = 0

    async def ask(self, **request: Any) -> dict[str, Any]:
        """Publish a request and return the answer."""
        return await self.publish(json.dumps(request).encode())

    async def send(self, *users: str, **request: Any) -> dict[str, Any]:
        """A send that is accepted."""
        answer = await self.ask(**{"to": {"users": users}, "notification": CIAO, **request})
        assert answer["ok"], answer
        return answer

    async def publish(self, payload: bytes) -> dict[str, Any]:
        self.count += 1
        key = b"%d" % self.count
        await self.client.publish("acme/send", payload, qos=1, response_topic="acme/answers", correlation_data=key)
        message = await self.client.expect_message()
        assert (message.topic, message.properties.correlation_data) == (b"acme/answers", key)
        answer: dict[str, Any] = json.loads(message.payload)
        return answer


@pytest.fixture
async def shop(broker: Broker) -> Shop:
    client = await server(broker)
    await client.subscribe("acme/answers", qos=1)
    return Shop(client)


async def back(broker: Broker, *, clean: bool = False) -> Client:
    return await device(broker, "kiosk-7", clean_start=clean, properties=Properties(session_expiry=3600))


async def kiosk_of_ada(broker: Broker) -> Client:
    client = await back(broker)
    for name in ("user/ada", "device/kiosk-7"):
        await client.subscribe(f"acme/{name}", qos=1)
    return client


async def until(there: Callable[[], Awaitable[Any]], wanted: Any = True) -> None:
    """Wait until something is as it should be."""
    async with asyncio.timeout(10):
        while await there() != wanted:  # noqa: ASYNC110 - in another thread
            await asyncio.sleep(0.01)  # the books have no event for a test to wait for


async def states(broker: Broker, id: str) -> dict[str, tuple[str, str]]:
    sql = """SELECT r.kind || '/' || r.name, r.state, r.reason FROM recipient r JOIN message m ON m.number = r.message
             WHERE m.id = ?"""
    rows = await broker.bridge.messages.read(lambda db: db.execute(sql, (id,)).fetchall())
    return {name: (state, reason) for name, state, reason in rows}


async def state_of(broker: Broker, id: str) -> str:
    row = await broker.bridge.messages.by_id(id)
    return row.state if row is not None else ""


async def test_a_notification_reaches_the_person_and_the_books_say_so(broker: Broker, shop: Shop) -> None:
    kiosk = await kiosk_of_ada(broker)
    answer = await shop.send("ada", request_id="r1", collapse_key="order-1", priority="high")
    id = answer["message_id"]
    assert answer == {
        "request_id": "r1", "ok": True, "message_id": id, "recipients": 1, "users": 1, "devices": 0
    }  # fmt: skip
    message = await kiosk.expect_message(acknowledge=False)
    assert message.topic == b"acme/user/ada"
    assert message.properties.content_type == "application/vnd.push+json"
    assert message.properties.user_properties == [
        ("message-id", id), ("collapse-key", "order-1"), ("priority", "high")
    ]  # fmt: skip
    assert message.properties.message_expiry in (7 * 86400, 7 * 86400 - 1)
    assert json.loads(message.payload) == {**CIAO, "priority": "high", "collapse_key": "order-1"}
    await until(lambda: states(broker, id), {"user/ada": ("sent", "")})
    await kiosk.send(Puback(message.packet_id))
    await until(lambda: states(broker, id), {"user/ada": ("delivered", "")})
    await until(lambda: state_of(broker, id), "done")
    for event in ("displayed", "opened", "clicked"):
        said = json.dumps({"message_id": id, "event": event, "action": "ok"})
        await kiosk.publish("acme/device/kiosk-7/up/receipt", said.encode(), qos=1)
    sql = "SELECT event, device, detail FROM event ORDER BY at, event"

    async def events() -> list[Any]:
        return await broker.bridge.messages.read(lambda db: db.execute(sql).fetchall())

    said_of = [(event, "kiosk-7", "ok") for event in ("displayed", "opened", "clicked")]
    await until(events, [("delivered", "kiosk-7", ""), *said_of])


async def test_who_is_away_gets_it_later(broker: Broker, shop: Shop) -> None:
    kiosk = await kiosk_of_ada(broker)
    await kiosk.disconnect()
    id = (await shop.send("ada"))["message_id"]
    await until(lambda: states(broker, id), {"user/ada": ("sent", "")})
    kiosk = await back(broker)
    assert dict((await kiosk.expect_message()).properties.user_properties)["message-id"] == id
    await until(lambda: states(broker, id), {"user/ada": ("delivered", "")})


async def test_who_has_no_device_does_not_get_it(broker: Broker, shop: Shop) -> None:
    id = (await shop.send("bob"))["message_id"]
    await until(lambda: states(broker, id), {"user/bob": ("dropped", "no_subscriber")})
    assert await state_of(broker, id) == "done"


async def test_a_session_that_ends_drops_what_waited_for_it(broker: Broker, shop: Shop) -> None:
    await (await kiosk_of_ada(broker)).disconnect()
    id = (await shop.send("ada"))["message_id"]
    await until(lambda: states(broker, id), {"user/ada": ("sent", "")})
    await back(broker, clean=True)
    await until(lambda: states(broker, id), {"user/ada": ("dropped", "session_ended")})


async def test_what_nobody_got_in_time_has_expired(broker: Broker, shop: Shop) -> None:
    await (await kiosk_of_ada(broker)).disconnect()
    id = (await shop.send("ada", ttl_s=1))["message_id"]
    await until(lambda: states(broker, id), {"user/ada": ("expired", "expired")})
    assert await state_of(broker, id) == "done"


async def test_a_newer_one_replaces_what_still_waits(broker: Broker, shop: Shop) -> None:
    await (await kiosk_of_ada(broker)).disconnect()
    older, other, newer = [
        (await shop.ask(to={"users": ["ada"]}, payload=text, collapse_key=key))["message_id"]
        for key, text in (("price", "1"), ("", "other"), ("price", "2"))
    ]
    await until(lambda: states(broker, older), {"user/ada": ("replaced", "collapse")})
    kiosk = await back(broker)
    assert [(await kiosk.expect_message()).payload for _ in range(2)] == [b"other", b"2"]
    await until(lambda: states(broker, newer), {"user/ada": ("delivered", "")})
    assert await states(broker, other) == {"user/ada": ("delivered", "")}


async def test_a_withdrawn_message_reaches_nobody_more(broker: Broker, shop: Shop) -> None:
    await (await kiosk_of_ada(broker)).disconnect()
    id = (await shop.send("ada"))["message_id"]
    await until(lambda: states(broker, id), {"user/ada": ("sent", "")})
    answer = await shop.ask(withdraw=id, request_id="w")
    assert (answer["ok"], answer["message_id"], answer["request_id"]) == (True, id, "w")
    await until(lambda: states(broker, id), {"user/ada": ("withdrawn", "withdraw")})
    kiosk = await back(broker)
    await kiosk.silent()


async def test_a_key_that_came_before_sends_nothing_again(broker: Broker, shop: Shop) -> None:
    kiosk = await kiosk_of_ada(broker)
    first = await shop.send("ada", idempotency_key="k")
    await kiosk.expect_message()
    again = await shop.send("ada", idempotency_key="k", request_id="other")
    assert again == {**first, "duplicate": True, "request_id": "other"}
    await kiosk.silent()
    other = await shop.ask(to={"users": ["bob"]}, notification=CIAO, idempotency_key="k")
    assert (other["ok"], other["code"], other["field"]) == (False, "idempotency_conflict", "idempotency_key")


async def test_a_request_that_comes_again_before_it_is_answered_gets_the_same_answer(
    broker: Broker, shop: Shop
) -> None:
    for name, ok in (("eve", False), ("ada", True)):
        request = json.dumps({"to": {"users": [name]}, "payload": "x", "idempotency_key": name}).encode()
        properties = Properties(response_topic="acme/answers")
        await shop.client.send(
            *(Publish(b"acme/send", request, 1, packet_id=id, properties=properties) for id in (71, 72, 73))
        )
        answers: list[dict[str, Any]] = []
        while len(answers) < 3:
            packet = await shop.client.receive()
            if isinstance(packet, Publish):
                answers.append(json.loads(packet.payload))
        assert [(answer["ok"], answer.get("code"), answer.get("recipients")) for answer in answers] == 3 * [
            (True, None, 1) if ok else (False, "unknown_user", None)
        ]


async def test_all_that_was_not_written_to_the_end_is_at_the_next_start(broker: Broker, shop: Shop) -> None:
    kiosk = await kiosk_of_ada(broker)
    messages = broker.bridge.messages
    of = (await shop.send("ada"))["message_id"]
    await kiosk.expect_message()
    row = await messages.by_id(of)
    assert row is not None
    fields = {name: getattr(row, name) for name in NewMessage.__struct_fields__}
    await messages.add([(NewMessage(**{**fields, "id": f"m{n}", "reply_topic": ""}), None) for n in range(150)], 0)
    await broker.bridge.sends.resume()
    assert [(await kiosk.expect_message()).payload for _ in range(150)] == 150 * [row.payload]


async def test_all_that_was_being_withdrawn_is_at_the_next_start(broker: Broker, shop: Shop) -> None:
    kiosk = await kiosk_of_ada(broker)
    await kiosk.disconnect()
    ids = [(await shop.send("ada"))["message_id"] for _ in range(120)]
    messages = broker.bridge.messages
    for id in ids:
        await until(lambda id=id: states(broker, id), {"user/ada": ("sent", "")})  # type: ignore[misc]
        row = await messages.by_id(id)
        assert row is not None
        await messages.withdraw(row.number, "", 1)
    await broker.bridge.withdrawals.resume()
    for id in ids:
        await until(lambda id=id: states(broker, id), {"user/ada": ("withdrawn", "withdraw")})  # type: ignore[misc]


async def test_a_dry_run_says_who_would_get_it(broker: Broker, shop: Shop) -> None:
    kiosk = await kiosk_of_ada(broker)
    answer = await shop.ask(to={"users": ["ada"], "stores": ["roma"]}, notification=CIAO, dry_run=True)
    assert answer == {
        "ok": True, "recipients": 2, "users": 1, "devices": 1, "sample": ["user/ada", "device/till-3"], "dry_run": True
    }  # fmt: skip
    await kiosk.silent()


async def test_a_message_that_cannot_be_sent_is_not_tried_all_the_time(
    broker: Broker, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "PAUSE_S", 3600.0)
    kiosk = await kiosk_of_ada(broker)
    counters = broker.core.counters
    unsendable = SendRequest(to=To(users=["ada"]), payload="x", content_type="\0")  # no request has it: a bug of ours
    await broker.bridge.sends.accept("acme", unsendable)
    await until(lambda: asyncio.sleep(0, counters.unexpected_errors > 0))
    id = (await shop.send("ada"))["message_id"]
    assert dict((await kiosk.expect_message()).properties.user_properties)["message-id"] == id
    assert counters.unexpected_errors == 1
    counters.unexpected_errors = 0


async def test_a_message_with_which_something_is_wrong_does_not_hold_up_the_others(
    broker: Broker, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "PAUSE_S", 3600.0)
    kiosk = await kiosk_of_ada(broker)
    restrain = broker.bridge.dispatcher._restrain

    async def faulty(row: MessageRow, *rest: Any) -> list[Decision]:
        if row.campaign == "faulty":
            raise Failed("no room", remedy="")
        return await restrain(row, *rest)

    monkeypatch.setattr(broker.bridge.dispatcher, "_restrain", faulty)
    await shop.send("ada", campaign="faulty")
    id = (await shop.send("ada"))["message_id"]
    assert dict((await kiosk.expect_message()).properties.user_properties)["message-id"] == id


async def test_a_message_whose_time_comes_when_the_books_cannot_be_read_is_sent_later(
    broker: Broker, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "PAUSE_S", 0.01)
    kiosk = await kiosk_of_ada(broker)
    numbered, failures = broker.bridge.messages.numbered, iter(range(2))

    async def failing(number: int) -> MessageRow | None:
        if next(failures, None) is not None:
            raise Failed("a fault of the disk", remedy="")
        return await numbered(number)

    monkeypatch.setattr(broker.bridge.messages, "numbered", failing)
    id = (await shop.send("ada"))["message_id"]
    assert dict((await kiosk.expect_message()).properties.user_properties)["message-id"] == id
    assert next(failures, None) is None


async def test_what_is_left_of_the_last_process_waits_until_the_books_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "RETRY_S", 0.01)
    filling, failures = Messages.filling, iter(range(2))

    async def failing(messages: Messages) -> list[str]:
        if next(failures, None) is not None:
            raise Failed("a fault of the disk", remedy="")
        return await filling(messages)

    monkeypatch.setattr(Messages, "filling", failing)
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        kiosk = await kiosk_of_ada(broker)
        await broker.bridge.sends.accept("acme", SendRequest(to=To(users=["ada"]), payload="x"))
        await kiosk.expect_message(b"x")


async def test_nobody_gets_what_a_brand_of_the_same_name_has_sent_before_it_was_removed(
    broker: Broker, shop: Shop
) -> None:
    await (await kiosk_of_ada(broker)).disconnect()
    soon = f"{datetime.now(UTC) + timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"
    ids = [(await shop.send("ada", **more))["message_id"] for more in ({}, {"not_before": soon})]
    await broker.directory.brand_remove("acme")
    for id in ids:
        await until(lambda id=id: state_of(broker, id), "")  # type: ignore[misc]
    await broker.directory.brand_add("acme")
    await broker.directory.user_add("acme", "ada")
    await broker.directory.device_code("acme", "kiosk-7", user="ada")
    kiosk = await kiosk_of_ada(broker)
    await kiosk.silent()


async def test_a_request_that_a_bug_is_in_the_way_of_does_not_hold_up_the_others(
    broker: Broker, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = requests.digest

    def faulty(request: SendRequest) -> bytes:
        if request.idempotency_key == "bug":
            raise RecursionError
        return digest(request)

    monkeypatch.setattr(requests, "digest", faulty)
    unfortunate = json.dumps({"to": {"users": ["ada"]}, "payload": "x", "idempotency_key": "bug"}).encode()
    for _ in range(3):
        await shop.client.publish("acme/send", unfortunate, qos=1, response_topic="acme/answers")
    await shop.send("ada", idempotency_key="k")
    assert broker.core.counters.unexpected_errors == 3
    broker.core.counters.unexpected_errors = 0


async def test_what_is_for_later_waits_through_a_restart_of_its_sender(broker: Broker, shop: Shop) -> None:
    kiosk = await kiosk_of_ada(broker)
    id = (await shop.ask(to={"users": ["ada"]}, payload="x", not_before="2026-12-24T08:00:00Z"))["message_id"]
    await until(lambda: states(broker, id), {"user/ada": ("accepted", "")})
    await kiosk.silent()


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (b"{", "bad_json", ""),
        (b"[]", "bad_json", ""),
        (b"\xff", "bad_json", ""),
        ({"notification": CIAO}, "missing_field", "to"),
        ({"to": {}, "notification": CIAO}, "missing_field", "to"),
        ({"to": {"users": ["ada"]}}, "missing_field", "notification"),
        ({"to": {"user": ["ada"]}, "payload": "x"}, "unknown_field", "to.user"),
        ({"to": {"users": ["ada", "bo/b"]}, "payload": "x"}, "bad_value", "to.users[1]"),
        ({"to": {"users": ["ada", "eve"]}, "payload": "x"}, "unknown_user", "to.users[1]"),
        ({"to": {"devices": ["rival/kiosk-7"]}, "payload": "x"}, "bad_value", "to.devices[0]"),
        ({"to": {"stores": ["parigi"]}, "payload": "x"}, "unknown_store", "to.stores[0]"),
        ({"to": {"condition": "topic:"}, "payload": "x"}, "bad_condition", "to.condition"),
        ({"to": {"segment": "none"}, "payload": "x"}, "unknown_segment", "to.segment"),
        ({"to": {"users": ["ada"] * 10_001}, "payload": "x"}, "too_many", "to.users"),
        ({"to": {"users": ["ada\n"]}, "payload": "x"}, "bad_value", "to.users[0]"),
        ({"to": {"users": ["ada"]}, "payload": "x", "ttl_s": 0}, "bad_value", "ttl_s"),
        ({"to": {"users": ["ada"]}, "payload": "x", "notification": CIAO}, "bad_value", "payload"),
        ({"to": {"users": ["ada"]}, "payload_base64": "?"}, "bad_value", "payload_base64"),
        ({"to": {"users": ["ada"]}, "payload": "x", "not_before": "2036-01-01"}, "bad_value", "not_before"),
        ({"to": {"users": ["ada"]}, "payload": "x", "local_time": "0001-01-01T00:00"}, "bad_value", "local_time"),
        ({"to": {"users": ["ada"]}, "payload": "x", "local_time": "2099-12-31T09:00"}, "bad_value", "local_time"),
        ({"to": {"users": ["ada"]}, "payload": "x", "content_type": "text/\0"}, "bad_value", "content_type"),
        ({"to": {"users": ["ada"]}, "payload": "x", "collapse_key": "\0"}, "bad_value", "collapse_key"),
        ({"to": {"users": ["ada"]}, "notification": {"title": "x", "data": DEEP}}, "bad_value", "notification.data"),
        ({"withdraw": "m0"}, "not_found", "withdraw"),
    ],
)
async def test_what_is_not_right_is_refused_with_its_code_and_field(
    broker: Broker, shop: Shop, request_: Any, code: str, field: str
) -> None:
    payload = request_ if isinstance(request_, bytes) else json.dumps({**request_, "request_id": "r"}).encode()
    answer = await shop.publish(payload)
    assert (answer["ok"], answer["code"], answer.get("field", "")) == (False, code, field), answer
    assert answer["message"]
    assert answer.get("request_id", "") == ("" if code == "bad_json" else "r")
    count = await broker.bridge.messages.read(lambda db: db.execute("SELECT count(*) FROM message").fetchone())
    assert count == (0,)


async def test_without_a_response_topic_the_answer_comes_on_its_own(broker: Broker) -> None:
    client = await server(broker, version=4, client_id="old")
    await client.subscribe("acme/send/answer", qos=1)
    await client.publish("acme/send", b'{"to": {"users": ["ada"]}, "payload": "x", "request_id": "r"}', qos=1)
    message = await client.expect_message()
    assert json.loads(message.payload)["request_id"] == "r"


@pytest.mark.parametrize("topic", ["rival/answers", "acme/device/kiosk-7/up/receipt", "acme/send", "$enrol/csr"])
async def test_no_answer_goes_where_the_sender_may_not_publish(broker: Broker, shop: Shop, topic: str) -> None:
    await shop.client.subscribe("acme/send/answer", qos=1)
    request = Publish(b"acme/send", b"{}", 1, packet_id=77, properties=Properties(response_topic=topic))
    await shop.client.send(request)
    answer = json.loads((await shop.client.expect_message()).payload)  # before the PUBACK: it is no matter of the disk
    assert (answer["ok"], answer["field"]) == (False, "Response Topic")


async def test_a_device_says_nothing_of_another_brands_message(broker: Broker, shop: Shop) -> None:
    kiosk = await kiosk_of_ada(broker)
    id = (await shop.send("ada"))["message_id"]
    await kiosk.expect_message()
    rival = await device(broker, "kiosk-7", client_id="rival", brand="rival")
    said = json.dumps({"message_id": id, "event": "opened"}).encode()
    await rival.publish("rival/device/kiosk-7/up/receipt", said, qos=1)
    await broker.bridge.intake.until(broker.core.fact_head)
    sql = "SELECT count(*) FROM event WHERE event = 'opened'"
    assert await broker.bridge.messages.read(lambda db: db.execute(sql).fetchone()) == (0,)


async def test_what_was_over_long_ago_is_forgotten(broker: Broker, shop: Shop) -> None:
    kiosk = await kiosk_of_ada(broker)
    id = (await shop.send("ada"))["message_id"]
    await kiosk.expect_message()
    await until(lambda: state_of(broker, id), "done")
    books = broker.bridge.messages
    row = await books.by_id(id)
    assert row is not None
    assert not await books.purge(row.accepted_at, 1)
    while await books.purge(row.accepted_at + 1, 1):
        pass
    left = "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM recipient), (SELECT count(*) FROM event)"
    assert await books.read(lambda db: db.execute(left).fetchone()) == (0, 0, 0)
