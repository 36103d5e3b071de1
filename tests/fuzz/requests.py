"""Rich sends: each request is taken, with all that is made of it, or refused with a code and in words."""

from collections.abc import Iterator

import msgspec
from fuzz.target import Target

from broker.bridge.dispatch import _properties
from broker.bridge.facts import Asked
from broker.bridge.request import (
    RICH,
    Answer,
    Code,
    RequestRefused,
    SendRequest,
    digest,
    encode_answer,
    parse,
    request_id_of,
)
from broker.bridge.sends import _message, _refused
from broker.store.messages import MessageRow, NewMessage
from broker.wire.codes import PacketType
from broker.wire.primitives import encode_varint
from broker.wire.properties import decode_properties
from client_sdk.notification import Notification

_ASKED = Asked("acme", "acme/server/crm", "m1", b"", "acme/answers", b"", 1_800_000_000_000)


def run(data: bytes) -> None:
    """A request."""
    id = request_id_of(data)
    try:
        request = parse(data)
        row = _message(_ASKED, request) if isinstance(request, SendRequest) else None
    except RequestRefused as error:
        _check(_refused(error, id))
        return
    assert request.request_id == id
    if row is None:
        return
    assert isinstance(request, SendRequest)
    assert len(row.payload) <= len(data)
    assert digest(request) == digest(_again(request))
    kept = MessageRow(**msgspec.structs.asdict(row), number=1, state="open", recipients=1, answer="")
    encoded = _properties(kept)
    properties, _ = decode_properties(encode_varint(len(encoded)) + encoded, 0, PacketType.PUBLISH)
    assert properties.content_type == (row.content_type or None)
    assert dict(properties.user_properties).get("collapse-key", "") == row.collapse_key
    if request.notification is not msgspec.UNSET:
        assert row.content_type == RICH
        _shown(row)


def _check(answer: Answer) -> None:
    assert answer.code in list(Code), answer.code
    assert answer.message
    assert msgspec.json.decode(encode_answer(answer), type=Answer) == answer


def _again(request: SendRequest) -> SendRequest:
    again = parse(msgspec.json.encode(request))
    assert isinstance(again, SendRequest)
    return again


def _shown(row: NewMessage) -> None:
    shown = Notification.from_json(row.payload)
    assert shown.title or shown.body
    assert shown.collapse_key == row.collapse_key


def seeds() -> Iterator[bytes]:
    to = '"to": {"users": ["ada"]}'
    yield from (
        text.encode()
        for text in (
            f'{{{to}, "notification": {{"title": "x", "actions": [{{"id": "a"}}], "data": {{"o": [1e9]}}}}}}',
            f'{{{to}, "payload": "x", "content_type": "text/plain", "collapse_key": "k", "priority": "high"}}',
            f'{{{to}, "payload_base64": "eA==", "not_before": "2027-01-15T08:00:00Z", "request_id": "r"}}',
            f'{{{to}, "payload": "", "local_time": "2027-01-16T09:00", "ttl_s": 2419200, "throttle_per_s": 0.1}}',
            f'{{{to}, "payload": "x", "local_time": "09:00", "campaign": "c", "variant": "a", "dry_run": true}}',
            '{"to": {"unopened": {"message": "m1", "for_s": 6}, "part": {"of": "c", "first": 0, "until": 1}}}',
            '{"to": {"segment": "s", "condition": "tag:x", "cap": {"campaign": "c", "most": 1, "within_s": 60}}}',
            '{"withdraw": "m1", "request_id": "w"}',
            f'{{{to}, "payload": "x", "nope`\\n": 1}}',
            f'{{{to}, "notification": {{"body": "\\ud83d\\ude00\\u0000", "data": {{"d": 18446744073709551616}}}}}}',
        )
    )  # fmt: skip
    yield b'{"request_id": "r", "to": ' + b"[" * 900


TARGET = Target("requests", "rich sends and withdrawals", run, seeds, bytes_max=1024, runs_in_ci=2000)
