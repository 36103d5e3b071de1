"""Requests of brands' servers: what is taken, what is refused and how, and the schema and the document that say so."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fuzz import requests as fuzzed
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from support.cli import pushbroker

from broker.bridge.request import (
    _WANTED,
    Answer,
    Code,
    RequestRefused,
    SendRequest,
    WithdrawRequest,
    digest,
    encode_payload,
    parse,
)
from broker.bridge.schema import schema

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA: dict[str, Any] = json.loads(json.dumps(schema()))
REQUEST = Draft202012Validator(SCHEMA)
ANSWER = Draft202012Validator({"$ref": "#/$defs/Answer", "$defs": SCHEMA["$defs"]})
TO = {"users": ["ada"]}
CIAO = {"title": "Ciao"}


def sent(**fields: Any) -> SendRequest:
    request = parse(json.dumps({"to": TO, **fields}).encode())
    assert isinstance(request, SendRequest)
    return request


def refusal(request: dict[str, Any]) -> tuple[str, str, str]:
    with pytest.raises(RequestRefused) as caught:
        parse(json.dumps(request).encode())
    return caught.value.code, caught.value.field, caught.value.message


@pytest.mark.parametrize(
    ("request_", "code", "field", "words"),
    [
        ({"to": {"user": ["ada"]}, "payload": "x"}, "unknown_field", "to.user", "did you mean users?"),
        ({"to": {"unopened": {"mesage": "m"}}}, "unknown_field", "to.unopened.mesage", "did you mean message?"),
        ({"to": TO, "tll_s": 1}, "unknown_field", "tll_s", "did you mean ttl_s?"),
        ({"to": TO, "nope": 1}, "unknown_field", "nope", "there is no field nope"),
        ({"to": TO, "a`\nb": 1}, "unknown_field", "a`\nb", "there is no field"),
        ({"withdraw": "m1", "to": TO}, "unknown_field", "to", "there is no field to"),
        (
            {"to": TO, "notification": {"title": "x", "actions": [{"id": "a", "titel": "b"}]}},
            "unknown_field", "notification.actions[0].titel", "did you mean title?",
        ),
        ({"to": TO, "notification": {**CIAO, "priority": "high"}}, "unknown_field", "notification.priority", "beside"),
        ({"to": TO, "notification": {**CIAO, "expires_at": ""}}, "unknown_field", "notification.expires_at", "ttl_s"),
        ({"payload": "x"}, "missing_field", "to", "to is missing"),
        ({"to": {"unopened": {"message": "m1"}}}, "missing_field", "to.unopened.for_s", "is missing"),
        ({"to": TO, "notification": {}}, "missing_field", "notification.title", "a title or a body"),
        ({"to": {"part": {"of": "c", "first": 0, "until": 1}}, "payload": "x"}, "missing_field", "to", "for nobody"),
        ({"to": {"users": ["ada", "b b"]}, "payload": "x"}, "bad_value", "to.users[1]", "letters, digits"),
        ({"to": {"users": ["ada\n"]}, "payload": "x"}, "bad_value", "to.users[0]", "letters, digits"),
        ({"to": TO, "payload": "x", "campaign": "\n"}, "bad_value", "campaign", "letters, digits"),
        ({"to": TO, "payload": "x", "local_time": "9:00"}, "bad_value", "local_time", "09:00"),
        ({"to": TO, "payload": "x", "local_time": "2026-02-30T09:00"}, "bad_value", "local_time", "no such day"),
        ({"to": TO, "payload": "x", "local_time": "09:00", "ttl_s": 3600}, "bad_value", "ttl_s", "a day at least"),
        ({"to": TO, "payload": "x", "content_type": "text/\0"}, "bad_value", "content_type", "control characters"),
        ({"to": TO, "payload": "x", "content_type": "text/\u0085"}, "bad_value", "content_type", "control characters"),
        ({"to": TO, "notification": CIAO, "content_type": "text/plain"}, "bad_value", "content_type", "leave it out"),
        ({"to": TO, "payload": "x", "payload_base64": ""}, "bad_value", "payload_base64", "one of notification"),
        ({"to": {"users": ["ada"] * 10_001}, "payload": "x"}, "too_many", "to.users", "10,000 at most"),
        ({"to": {"stores": ["milano"] * 1001}, "payload": "x"}, "too_many", "to.stores", "1,000 at most"),
        ({"to": {"condition": "x" * 4097}, "payload": "x"}, "bad_condition", "to.condition", "4096"),
        ({"to": {**TO, "unopened": {"message": "m", "for_s": 1}}, "payload": "x"}, "bad_value", "to.unopened", "alone"),
    ],
)  # fmt: skip
def test_a_refusal_says_where_and_what_would_do(request_: dict[str, Any], code: str, field: str, words: str) -> None:
    found = refusal(request_)
    assert found[:2] == (code, field)
    assert words in found[2]


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"null", b"{", b'{"to": {}} x', b'{"\xff": 1}', b'{"x":' + b"[" * 5000]
)
def test_what_is_no_object_is_no_request(payload: bytes) -> None:
    with pytest.raises(RequestRefused) as caught:
        parse(payload)
    assert caught.value.code is Code.BAD_JSON


def test_data_goes_on_as_it_came() -> None:
    data = '{"order":123456789012345678901234567890,"ratio":9e15,"who":{"name":"Zoë"}}'
    request = parse(f'{{"to": {{"users": ["ada"]}}, "notification": {{"title": "x", "data": {data}}}}}'.encode())
    assert isinstance(request, SendRequest)
    payload, content_type = encode_payload(request)
    assert payload.decode() == f'{{"title":"x","data":{data}}}'
    assert content_type == "application/vnd.push+json"


def test_data_that_is_no_text_is_refused() -> None:
    with pytest.raises(RequestRefused) as caught:
        parse(b'{"to": {"users": ["ada"]}, "notification": {"title": "x", "data": {"n": "\xff"}}}')
    assert caught.value.code is Code.BAD_JSON


def test_what_stands_beside_a_notification_is_in_it_for_devices() -> None:
    payload, _ = encode_payload(sent(notification=CIAO, priority="high", collapse_key="k"))
    assert json.loads(payload) == {"title": "Ciao", "priority": "high", "collapse_key": "k"}


def test_two_requests_are_the_same_whatever_their_ids_and_the_order_of_their_fields() -> None:
    first = parse(
        b'{"to": {"users": ["ada"]}, "notification": {"title": "x", "data": {"a": 1, "b": 2}}, "request_id": "1"}'
    )
    again = parse(b'{"notification": {"data": {"b": 2, "a":1}, "title": "x"}, "to": {"users": ["ada"]}}')
    other = parse(b'{"notification": {"data": {"b": 2, "a":2}, "title": "x"}, "to": {"users": ["ada"]}}')
    assert isinstance(first, SendRequest)
    assert isinstance(again, SendRequest)
    assert isinstance(other, SendRequest)
    assert digest(first) == digest(again) != digest(other)


# -- hostile ones ------------------------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_SOME = {"users": st.lists(st.sampled_from(["ada", "b b"])), "segment": st.text()}
_FIELDS = {
    **dict.fromkeys((*SendRequest.__struct_fields__, *WithdrawRequest.__struct_fields__), _JSON),
    "to": st.fixed_dictionaries({}, optional=_SOME),
    "payload": st.text() | _JSON,
    "notification": st.fixed_dictionaries({}, optional={"title": st.text(), "body": st.text(), "data": _JSON}),
    "ttl_s": st.integers(-1, 3_000_000),
    "local_time": st.sampled_from(["09:00", "2027-01-16T09:00", "2000-13-40T00:00", "0001-01-01T00:00", "x"]),
    "not_before": st.datetimes().map(lambda time: time.isoformat()) | st.just("0001-01-01T00:00:00+14:00"),
}  # fmt: skip


@settings(max_examples=100)
@given(st.fixed_dictionaries({}, optional=_FIELDS) | st.fixed_dictionaries({"to": _FIELDS["to"], "payload": st.text()}))
def test_whatever_comes_is_a_request_or_refused_and_the_schema_takes_what_we_take(request_: dict[str, Any]) -> None:
    payload = json.dumps(request_).encode()
    fuzzed.run(payload)
    try:
        parse(payload)
    except RequestRefused:
        return
    assert list(REQUEST.iter_errors(request_)) == []


# -- what is published -------------------------------------------------------------------------------------------------


def test_the_published_schema_is_that_of_the_code() -> None:
    printed = pushbroker("reference", "--schema").out
    assert (DOCS / "send.schema.json").read_text() == printed, "pushbroker reference --schema > docs/send.schema.json"
    Draft202012Validator.check_schema(json.loads(printed))


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"to": TO},
        {"to": {}, "payload": "x"},
        {"to": {"users": []}, "payload": "x"},
        {"to": {"user": ["ada"]}, "payload": "x"},
        {"to": {"users": ["ada\n"]}, "payload": "x"},
        {"to": {"unopened": {"message": "m1", "for_s": 1}, **TO}, "payload": "x"},
        {"to": TO, "notification": {}},
        {"to": TO, "notification": CIAO, "payload": "x"},
        {"to": TO, "payload": "x", "ttl_s": 0},
        {"to": TO, "payload": "x", "collapse_key": "\0"},
        {"withdraw": "m1", "to": TO},
    ],
)
def test_the_schema_refuses_what_we_refuse(request_: dict[str, Any]) -> None:
    assert not REQUEST.is_valid(request_)
    assert refusal(request_)


def test_every_pattern_has_words_for_who_does_not_meet_it() -> None:
    def patterns(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield from (value for key, value in part.items() if key == "pattern")
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from patterns(inner)

    assert set(patterns(SCHEMA)) == set(_WANTED)


def test_the_document_has_every_field_as_the_schema_says_it() -> None:
    lines = (DOCS / "sends.md").read_text().splitlines()
    rows = [line for line in lines if re.match(r"\| `\w+` \| ", line)]
    parts = [SCHEMA["$defs"][name]["properties"] for name in ("SendRequest", "To", "Answer")]
    wanted = [f"| `{name}` | {field['description']} |" for part in parts for name, field in part.items()]
    assert rows[: len(wanted)] == wanted
    codes = [row.split("`")[1] for row in rows[len(wanted) :]]
    assert codes == [code.value for code in Code]


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"x" * 500_000: 1}, "xxx"), ({"to": {"x" * 500_000: 1}}, "to.xxx"), ({"to": {}, "kind": "x" * 500_000}, "kind")],
)
def test_much_that_is_wrong_is_refused_at_once(fields: dict[str, Any], field: str) -> None:
    payload = json.dumps(fields).encode()
    spent = []
    for _ in range(3):
        began = time.thread_time()
        with pytest.raises(RequestRefused) as caught:
            parse(payload)
        spent.append(time.thread_time() - began)
    assert min(spent) < 0.03
    assert caught.value.field.startswith(field)
    assert len(caught.value.message) < 500


def examples() -> list[str]:
    text = (DOCS / "sends.md").read_text()
    blocks = re.findall(r"^```json\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [example for block in blocks for example in re.split(r"\n(?=\{)", block.strip())]


@pytest.mark.parametrize("example", examples())
def test_the_examples_of_the_document_are_right(example: str) -> None:
    said = json.loads(example)
    if "ok" in said:
        msgspec.convert(said, Answer)
        ANSWER.validate(said)
    else:
        parse(example.encode())
        REQUEST.validate(said)
