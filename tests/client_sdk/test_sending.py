"""What a brand sends, and how receipts find the message they belong to."""

import gc
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk import Action, Notification, Receipt, Sent
from client_sdk.packets import Publish
from client_sdk.sending import _EARLY_MAX, Ledger, compose

NOW = datetime(2026, 11, 22, 8, tzinfo=UTC)


def made(**options: Any) -> Publish:
    return compose("acme", NOW, **options)


@pytest.mark.parametrize(
    ("receiver", "topic"),
    [
        ({"to_user": "ada"}, "acme/user/ada"),
        ({"to_device": "kiosk-7"}, "acme/device/kiosk-7"),
        ({"to_store": "milano"}, "acme/store/milano"),
        ({"to_topic": "news"}, "acme/topic/news"),
    ],
)
def test_where_it_goes(receiver: dict[str, str], topic: str) -> None:
    assert made(**receiver, payload=b"x").topic == topic


def test_a_notification_from_its_fields() -> None:
    publish = made(to_user="ada", title="Ciao", actions=[Action(id="a", title="A")], ttl=60)
    assert publish.content_type == "application/vnd.push+json"
    assert publish.expiry_s == 60
    assert publish.user_properties == (("receipt", "delivered"),)
    assert json.loads(publish.payload) == {
        "title": "Ciao",
        "actions": [{"id": "a", "title": "A"}],
        "expires_at": "2026-11-22T08:01:00.000Z",
    }


def test_a_whole_notification() -> None:
    notification = Notification(title="Ciao", expires_at=NOW)
    assert Notification.from_json(made(to_user="ada", notification=notification).payload) == notification


def test_its_own_end_goes_before_the_ttl() -> None:
    publish = made(to_user="ada", title="Ciao", ttl=timedelta(hours=1), expires_at=NOW)
    assert publish.expiry_s == 3600
    assert Notification.from_json(publish.payload).expires_at == NOW


def test_a_payload_as_it_is() -> None:
    publish = made(to_user="ada", payload=b"\xff", content_type="application/x-thing", user_properties=[("lang", "it")])
    assert (publish.payload, publish.content_type) == (b"\xff", "application/x-thing")
    assert publish.user_properties == (("lang", "it"), ("receipt", "delivered"))
    text = made(to_user="ada", payload="Ciao ☕", receipt=False)
    assert (text.payload, text.content_type, text.user_properties) == (
        "Ciao ☕".encode(), "text/plain; charset=utf-8", ()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"title": "x"}, "one receiver"),
        ({"to_user": "ada", "to_store": "milano", "title": "x"}, "one receiver"),
        ({"to_user": "ada"}, "fields of a notification"),
        ({"to_user": "ada", "title": "x", "payload": "y"}, "fields of a notification"),
        ({"to_user": "ada", "title": "x", "notification": Notification()}, "fields of a notification"),
        ({"to_user": "ada", "title": "x", "content_type": "text/plain"}, "content_type= goes with payload="),
        ({"to_user": "ada/#", "title": "x"}, "cannot name a user"),
        ({"to_user": "", "title": "x"}, "cannot name a user"),
        ({"to_user": "ada", "title": "x", "ttl": 0}, "ttl"),
        ({"to_user": "ada", "title": "x", "ttl": -1}, "ttl"),
        ({"to_user": "ada", "title": "x", "ttl": timedelta(days=100_000)}, "ttl"),
        ({"to_user": "ada", "title": "x", "tll": 1}, "does not know tll"),
        ({"to_user": "ada", "data": {"a": object()}}, "cannot be written as JSON"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        made(**options)


def receipt(message_id: str = "m1", event: str = "delivered", device: str = "kiosk-7") -> Receipt:
    return Receipt(message_id=message_id, event=event, device=device, at=NOW)


def sent(message_id: str = "m1") -> Sent:
    return Sent(message_id, "acme/user/ada", no_subscribers=False)


def test_a_receipt_finds_its_message() -> None:
    ledger = Ledger()
    ours = ledger.accepted(sent())
    ledger.received(receipt("m2"))
    assert ours.wait_delivered(timeout=0) is None
    ledger.received(receipt())
    assert ours.wait_delivered(timeout=0) == receipt()
    assert ours.wait_for("displayed", timeout=0) is None


def test_a_receipt_can_come_before_the_acknowledgement() -> None:
    """A device may be faster than the broker's disk."""
    ledger = Ledger()
    ledger.received(receipt())
    ledger.received(receipt(event="displayed"))
    assert ledger.accepted(sent()).receipts == (receipt(), receipt(event="displayed"))


def test_each_device_counts_once() -> None:
    ours = sent()
    for device in ("kiosk-7", "kiosk-8", "kiosk-7"):
        ours.learn(receipt(device=device))
    assert [r.device for r in ours.receipts] == ["kiosk-7", "kiosk-8"]


def test_messages_that_nobody_holds_are_forgotten() -> None:
    ledger = Ledger()
    ledger.accepted(sent())
    gc.collect()
    assert len(ledger._sent) == 0


@given(st.lists(st.integers(0, 3 * _EARLY_MAX), max_size=50))
def test_early_receipts_are_bounded(numbers: list[int]) -> None:
    ledger = Ledger()
    for number in range(_EARLY_MAX + 10):
        ledger.received(receipt(f"m{number}"))
    for number in numbers:
        ledger.received(receipt(f"m{number}"))
    for number in range(_EARLY_MAX + 10):
        ledger.received(receipt("same", device=f"kiosk-{number}"))
    assert len(ledger._early) <= _EARLY_MAX
    assert sum(map(len, ledger._early.values())) <= 3 * _EARLY_MAX
