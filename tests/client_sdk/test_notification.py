"""Rich notifications: there and back, and what a hostile payload does."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk import Action, Notification, Priority, Receipt, Summary
from client_sdk.message import read_receipt

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
moments = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
notifications = st.builds(
    Notification,
    title=text,
    body=text,
    image=text,
    click=text,
    actions=st.lists(st.builds(Action, id=text, title=text), max_size=3).map(tuple),
    data=st.dictionaries(text, json_values, max_size=3),
    priority=st.sampled_from(Priority),
    collapse_key=text,
    expires_at=st.none() | moments,
)


@given(notifications)
def test_what_is_sent_is_what_arrives(notification: Notification) -> None:
    assert Notification.from_json(notification.to_json()) == notification


def test_the_form_on_the_wire() -> None:
    notification = Notification(
        title="Ciao Ada",
        actions=(Action(id="map", title="Show the way"),),
        priority=Priority.HIGH,
        expires_at=datetime(2026, 11, 22, 9, 0, 0, 123_000, timezone(timedelta(hours=1))),
    )
    assert json.loads(notification.to_json()) == {
        "title": "Ciao Ada",
        "actions": [{"id": "map", "title": "Show the way"}],
        "priority": "high",
        "expires_at": "2026-11-22T08:00:00.123Z",
    }


def test_a_newer_brand_is_understood() -> None:
    payload = b'{"title":"Ciao","priority":"urgent","sound":"bell","click":null}'
    assert Notification.from_json(payload) == Notification(title="Ciao")


HOSTILE: dict[str, bytes] = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "not an object": b'["title"]',
    "nothing": b"",
    "a deep nest": b"[" * 100_000,
    "a deep nest of data": b'{"data":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    "a number as title": b'{"title":1}',
    "an object as body": b'{"body":{}}',
    "text as actions": b'{"actions":"open"}',
    "actions of text": b'{"actions":["open"]}',
    "an action without id": b'{"actions":[{"title":"Open"}]}',
    "a list as data": b'{"data":[]}',
    "not a number": b'{"data":{"a":NaN}}',
    "endless": b'{"data":{"a":-Infinity}}',
    "a huge number": b'{"data":{"a":' + b"9" * 10_000 + b"}}",
    "half a character": b'{"title":"\\ud800"}',
    "half a character within": b'{"data":{"a":["\\udfff"]}}',
    "half a character as a name": b'{"data":{"\\ud800":1}}',
    "a time that is none": b'{"expires_at":"tomorrow"}',
    "a time before all times": b'{"expires_at":"0001-01-01T00:00:00+14:00"}',
    "a time as a number": b'{"expires_at":1700000000}',
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_payload_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the point is that nothing else is raised
        Notification.from_json(payload)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    try:
        notification = Notification.from_json(payload)
    except ValueError:
        return
    f"{notification}".encode()
    Notification.from_json(notification.to_json())


fields = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("title", "body", "actions", "data", "priority", "expires_at", "other"), json_values),
)


@given(fields)
def test_any_object_is_read_or_refused(value: dict[str, Any]) -> None:
    try:
        notification = Notification.from_json(json.dumps(value).encode())
    except ValueError:
        return
    assert isinstance(notification.title, str)
    assert all(isinstance(action.id, str) for action in notification.actions)


def test_a_time_without_zone_is_utc_when_read_and_refused_when_sent() -> None:
    read = Notification.from_json(b'{"expires_at":"2026-11-22T08:00:00"}')
    assert read.expires_at == datetime(2026, 11, 22, 8, tzinfo=UTC)
    with pytest.raises(ValueError, match="time zone"):
        Notification(expires_at=datetime(2026, 11, 22, 8))


@pytest.mark.parametrize("data", [{"a": object()}, {"a": float("nan")}, {"a": "\ud800"}, {"a": {1, 2}}])
def test_data_that_is_not_json_is_refused_when_sent(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each of json's own words
        Notification(data=data).to_json()


def test_a_receipt() -> None:
    payload = b'{"message_id":"m1","event":"delivered","device":"kiosk-7","user":"ada","at":"2026-11-22T08:00:00.123Z"}'
    assert read_receipt(payload) == Receipt(
        message_id="m1",
        event="delivered",
        device="kiosk-7",
        user="ada",
        at=datetime(2026, 11, 22, 8, 0, 0, 123_000, UTC),
    )


def test_a_summary() -> None:
    counts = {"accepted": 3, "delivered": 2, "waiting": 1}
    said = {"message_id": "m1", "event": "summary", "at": "2026-11-22T08:00:00Z", "counts": counts, "opened": 1}
    at = datetime(2026, 11, 22, 8, tzinfo=UTC)
    assert read_receipt(json.dumps(said).encode()) == Summary(message_id="m1", at=at, counts=counts, opened=1)


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"[]", b"{}", b'{"message_id":"m1"}', b'{"message_id":"m1","event":1,"at":""}', b"[" * 100_000),
        b'{"message_id":"m1","event":"summary","at":"2026-11-22T08:00:00Z"}',
        b'{"message_id":"m1","event":"summary","at":"2026-11-22T08:00:00Z","counts":{"sent":"1"}}',
        b'{"message_id":"m1","event":"summary","counts":{}}',
    ],
)
def test_a_bad_receipt_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_receipt(payload)
