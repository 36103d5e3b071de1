"""What a push asks for, and what becomes of it when the answer is no, late, or lost with the connection."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from paho.mqtt.client import MQTTMessage
from support.kiosk import until
from support.mosquitto import Mosquitto
from support.tester import Tester

from client_sdk import (
    Action,
    AsyncBrand,
    Backoff,
    Brand,
    Notification,
    Priority,
    Pushed,
    PushError,
    Rejected,
    To,
    Unconfirmed,
    Unreachable,
)
from client_sdk.pushing import compose_push

ADA = To(users=["ada"])


def asked(to: To = ADA, **options: Any) -> dict[str, Any]:
    """The fields of the request, without the key."""
    fields: dict[str, Any] = json.loads(compose_push(to, **options).payload)
    if "idempotency_key" not in options:
        assert len(fields.pop("idempotency_key")) >= 16
    return fields


def test_a_notification() -> None:
    button = Action(id="ok", title="OK")
    fields = asked(title="Ciao", body="☕", actions=[button], data={"n": 1}, collapse_key="c", priority=Priority.HIGH)
    shown = {"title": "Ciao", "body": "☕", "actions": [{"id": "ok", "title": "OK"}], "data": {"n": 1}}
    assert fields == {"to": {"users": ["ada"]}, "notification": shown, "collapse_key": "c", "priority": "high"}
    assert asked(notification=Notification(title="Ciao", collapse_key="c", priority=Priority.HIGH)) == {
        "to": {"users": ["ada"]}, "notification": {"title": "Ciao"}, "collapse_key": "c", "priority": "high"
    }  # fmt: skip


def test_a_payload() -> None:
    assert asked(payload="x", content_type="text/csv") == {
        "to": {"users": ["ada"]}, "payload": "x", "content_type": "text/csv"
    }  # fmt: skip
    assert base64.b64decode(asked(payload=b"\xff\x00")["payload_base64"]) == b"\xff\x00"


def test_everything_else() -> None:
    to = To(
        devices=["k"], stores=["m"], topics=["news"], segment="best", condition="tag:vip", following="wipro",
        only="language:it",
    )  # fmt: skip
    at = datetime(2026, 11, 23, 9, tzinfo=UTC)
    options: dict[str, Any] = {
        "kind": "transactional", "idempotency_key": "k1", "local_time": "09:00", "throttle_per_s": 200.0,
        "dry_run": True, "receipts": "each", "campaign": "c", "variant": "a",
    }  # fmt: skip
    windows = {"ttl": timedelta(days=2), "idempotency_window": timedelta(hours=1), "not_before": at}
    addressed = {
        "devices": ["k"], "stores": ["m"], "topics": ["news"], "segment": "best", "condition": "tag:vip",
        "following": "wipro", "only": "language:it",
    }  # fmt: skip
    assert asked(to, title="x", **options, **windows) == {
        "to": addressed, "notification": {"title": "x"}, **options,
        "ttl_s": 172800, "idempotency_s": 3600, "not_before": "2026-11-23T09:00:00.000Z",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("to", "options", "says"),
    [
        (To(), {"title": "x"}, "for nobody"),
        (To(users="ada"), {"title": "x"}, "is a list"),
        (ADA, {}, "fields of a notification"),
        (ADA, {"title": "x", "payload": "y"}, "fields of a notification"),
        (ADA, {"title": "x", "content_type": "text/plain"}, "goes with payload="),
        (ADA, {"title": "x", "ttl": 0}, "ttl must be"),
        (ADA, {"title": "x", "tll": 1}, "does not know tll"),
        (ADA, {"title": "x", "not_before": datetime(2026, 11, 23)}, "time zone"),
        (ADA, {"notification": Notification(title="x", expires_at=datetime.now(UTC))}, "give push a ttl="),
        (ADA, {"title": "x", "data": {"a": object()}}, "cannot be written as JSON"),
    ],
)
def test_what_makes_no_sense_is_refused(to: To, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        compose_push(to, **options)


Make = Callable[..., Brand]


@pytest.fixture
def make(mosquitto: Mosquitto, quickly: Callable[[], Backoff]) -> Make:
    def make(**settings: Any) -> Brand:
        ca = mosquitto.directory / "ca.crt"
        return Brand(mosquitto.password_url, brand="acme", token="secret", ca=ca, backoff=quickly(), **settings)

    return make


@pytest.fixture
def bridge(mosquitto: Mosquitto) -> Iterator[Tester]:
    """Gets the requests, and answers as the test says."""
    with Tester(mosquitto.plain) as tester:
        tester.subscribe("acme/send")
        yield tester


def answer(bridge: Tester, request: MQTTMessage, **fields: Any) -> None:
    assert request.properties is not None
    said = {"ok": True, "message_id": "m1", "recipients": 1, "users": 1, "devices": 0, **fields}
    where, which = request.properties.ResponseTopic, request.properties.CorrelationData
    bridge.publish(where, json.dumps(said), correlation=which)


def test_many_are_under_way_and_each_gets_its_own_answer(make: Make, bridge: Tester) -> None:
    with make() as brand:
        pushing = [brand.submit_push(To(users=[f"u{n}"]), title="Ciao") for n in range(50)]
        for request in reversed([bridge.next() for _ in range(50)]):
            (user,) = json.loads(request.payload)["to"]["users"]
            answer(bridge, request, message_id=f"of-{user}", left_out={"suppressed": 2})
        pushed = [future.result(10) for future in pushing]
    assert [one.message_id for one in pushed] == [f"of-u{n}" for n in range(50)]
    assert isinstance(pushed[0], Pushed)
    assert (pushed[0].recipients, pushed[0].users, pushed[0].left_out) == (1, 1, {"suppressed": 2})


def test_rejected(make: Make, bridge: Tester) -> None:
    said = {"ok": False, "code": "unknown_user", "field": "to.users[0]", "message": "acme has no user 'ada'"}
    with make() as brand:
        pushing = brand.submit_push(ADA, title="Ciao")
        answer(bridge, bridge.next(), **said)
        with pytest.raises(Rejected, match=r"to.users\[0\]: acme has no user 'ada'") as caught:
            pushing.result(10)
    assert (caught.value.code, caught.value.field) == ("unknown_user", "to.users[0]")


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"ok": true, "recipients": "many"}', "[" * 90_000])
def test_an_answer_that_is_none(make: Make, bridge: Tester, said: str) -> None:
    with make() as brand:
        pushing = brand.submit_push(ADA, title="Ciao")
        properties: Any = bridge.next().properties
        bridge.publish(properties.ResponseTopic, said, correlation=properties.CorrelationData)
        with pytest.raises(PushError, match="cannot be read"):
            pushing.result(10)


def test_no_answer_in_time(make: Make, bridge: Tester) -> None:
    """Whoever pushes again with the key that the error names sends the same message."""
    with make() as brand:
        with pytest.raises(Unconfirmed, match="idempotency_key='k1'"):
            brand.push(ADA, title="Ciao", idempotency_key="k1", timeout=0.2)
        late = bridge.next()
        answer(bridge, late)
        pushing = brand.submit_push(ADA, title="Ciao", idempotency_key="k1")
        again = bridge.next()
        assert again.payload == late.payload
        answer(bridge, again, duplicate=True)
        assert pushing.result(10).duplicate


def test_nothing_is_sent_without_a_connection(make: Make, mosquitto: Mosquitto) -> None:
    with make() as brand:
        mosquitto.stop()
        until(lambda: not brand._core.link.is_up)
        with pytest.raises(Unreachable, match="nothing has been sent"):
            brand.push(ADA, title="Ciao", timeout=0.1)
        assert not brand._core._asked


def test_asked_again_on_the_next_connection(make: Make, bridge: Tester) -> None:
    """The broker has it, and ends before it answers."""
    with make() as brand:
        pushing = brand.submit_push(ADA, title="Ciao")
        first = bridge.next()
        until(lambda: all(asked.received for asked in brand._core._asked.values()))
        brand._core.link.call(lambda: brand._core.link._drop(Unreachable("a cable is cut")))
        again = bridge.next()
        assert again.payload == first.payload
        answer(bridge, again, duplicate=True)  # of which the program knows nothing
        assert not pushing.result(10).duplicate


def test_closed_before_the_answer(make: Make, bridge: Tester) -> None:
    with make() as brand:
        pushing = brand.submit_push(ADA, title="Ciao")
        bridge.next()
    with pytest.raises(Unconfirmed, match="Push it again with idempotency_key"):
        pushing.result(10)


async def test_with_asyncio(mosquitto: Mosquitto, bridge: Tester) -> None:
    ca = mosquitto.directory / "ca.crt"
    async with AsyncBrand(mosquitto.password_url, brand="acme", token="secret", ca=ca) as brand:
        with pytest.raises(Unconfirmed, match="Do it again"):
            await brand.withdraw("m1", timeout=0.2)
        assert json.loads(bridge.next().payload) == {"withdraw": "m1"}
