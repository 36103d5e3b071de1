"""What devices and operators send inside messages and requests: each is taken, or refused in words."""

import asyncio
import base64
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from fuzz.target import Target

from broker.admin import operations
from broker.admin.server import _object
from broker.bridge.books import Books
from broker.bridge.facts import Saying
from broker.bridge.receipts import Receipt, Receipts
from broker.config import Settings
from broker.counters import Counters
from broker.errors import PushbrokerError, Refused
from broker.identity import Identity, Role
from broker.message import Message
from broker.pull import importing, inbox_requests, library
from broker.pull.moves import InboxRefused
from broker.pull.voices import Voices
from broker.store.entries import Who
from broker.trust.certificates import alternative_names, load_certificate, requested_key
from broker.trust.secrets import normal_code
from broker.wire.topics import check_topic_name

_DEVICE = cast("Any", SimpleNamespace(identity=Identity(Role.DEVICE, "acme", "kiosk-7", "ada", "milano")))
_CONTEXT = operations.Context(Settings(data=Path("/nowhere")), cast("Any", None))
_NAMES = sorted(operations.OPERATIONS)


def run(data: bytes) -> None:
    """What it is, and what it says."""
    kind, rest = data[0] if data else 0, data[1:]
    _KINDS[kind % len(_KINDS)](rest)


def _csr(data: bytes) -> None:
    with suppress(Refused):
        requested_key(_pem("CERTIFICATE REQUEST", data))
    with suppress(Refused):
        requested_key(data)


def _certificate(data: bytes) -> None:
    with suppress(Refused):
        alternative_names(load_certificate(data))


class _Empty:
    """Books in which no message is, so that what a device says goes on to the brand."""

    async def known(self, _ids: object) -> dict[str, str]:
        return {}

    async def apply(self, **_: object) -> list[object]:
        return []


def _receipt(data: bytes) -> None:
    told: list[Message] = []
    logged: list[str] = []
    receipts = Receipts(told.append, lambda *_: None)
    books = Books(cast("Any", _Empty()), receipts, lambda event, **_: logged.append(event), asyncio.Event())
    with suppress(StopIteration):  # nothing in it waits
        books.book([Saying("acme", "kiosk-7", "ada", "milano", "receipt", data, 0)], 1).send(None)
    assert len(told) + len(logged) == 1
    for message in told:
        check_topic_name(message.topic)
        assert message.topic.startswith(b"acme/receipts/")
        receipt = msgspec.json.decode(message.payload, type=Receipt)
        assert message.topic == f"acme/receipts/{receipt.message_id}".encode()
        assert receipt.event in ("displayed", "opened", "clicked", "dismissed")
        datetime.fromisoformat(receipt.at)


def _operation(data: bytes) -> None:
    """A request on the admin socket, up to where the records begin."""
    name = _NAMES[data[0] % len(_NAMES)] if data else ""
    try:
        operations.checked(_CONTEXT, name, _object(data[1:]))
    except PushbrokerError:
        return
    assert name


def _code(data: bytes) -> None:
    code = normal_code(data.decode("ascii", "replace"))
    assert code is None or normal_code(code) == code


def _asked_by_an_agent(data: bytes) -> None:
    """A request to a brand's inbox."""
    try:
        assert isinstance(inbox_requests.parse(data), inbox_requests.REQUESTS)
    except InboxRefused as error:
        told = msgspec.json.decode(inbox_requests.refusal(data, error.code, error.field, error.message))
        assert told["code"] in ("bad_json", "bad_value")
        assert told["message"]


class _Conversations:
    """Notes what is done with them."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.store = self

    async def seen(self, who: Who, number: int) -> None:
        assert 0 <= number < 1 << 53
        self.done.append(who)

    async def end(self, who: Who, _at: int) -> None:
        self.done.append(who)

    async def rate(self, brand: str, kind: str, name: str, question: str, thumb: int) -> bool:
        assert (len(question) <= 64, thumb) in ((True, 1), (True, -1))
        self.done.append(Who(brand, "user", name))
        return kind == "user"


def _said_of_a_conversation(data: bytes) -> None:
    """What a device says on its `up/conversation`."""
    conversations, counters = _Conversations(), Counters()
    heard = cast("Any", SimpleNamespace(on=lambda *_: None, serve=lambda *_: None))
    nothing = cast("Any", lambda *_, **__: None)
    voices = Voices(
        inbox=cast("Any", conversations), intake=heard, router=heard, publish=nothing, spawn=nothing,
        counters=counters, log=nothing,
    )  # fmt: skip
    with suppress(StopIteration):  # nothing in it waits
        voices.handle(Saying("acme", "kiosk-7", "ada", "milano", "conversation", data, 0)).send(None)
    assert len(conversations.done) + counters.inbox_refused == 1
    assert conversations.done in ([], [Who("acme", "user", "ada")])


def _item(data: bytes) -> None:
    """Content as a brand's server puts it, and as a file of Markdown has it."""
    try:
        try:
            fields = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            fields = {"name": "x", **importing.markdown(data.decode(errors="replace"))}
        row, words = library.made("acme", fields, ZoneInfo("Europe/Rome"))
    except Refused:
        return
    words()
    again, _ = library.made("acme", library.fields_of(row), ZoneInfo("UTC"))
    assert again == row


_KINDS = [_csr, _certificate, _receipt, _operation, _code, _asked_by_an_agent, _said_of_a_conversation, _item]


def _pem(what: str, data: bytes) -> bytes:
    text = "\n".join(textwrap.wrap(base64.b64encode(data).decode(), 64))
    return f"-----BEGIN {what}-----\n{text}\n-----END {what}-----\n".encode()


def seeds() -> Iterator[bytes]:
    keys = [ec.derive_private_key(7, ec.SECP256R1()), ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))]
    spiffe = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://a/b")])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    for key in keys:
        digest = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, digest)
        yield b"\x00" + request.public_bytes(serialization.Encoding.DER)
        issued = (
            x509.CertificateBuilder(name, name, key.public_key(), 1)
            .not_valid_before(datetime(2026, 1, 1))
            .not_valid_after(datetime(2027, 1, 1))
            .add_extension(spiffe, critical=False)
            .sign(key, digest)
        )
        yield b"\x01" + issued.public_bytes(serialization.Encoding.DER)
    yield b'\x02{"x": ' + b"[" * 1010
    for at in ("", ', "at": "2026-01-01T00:00:00Z"', ', "at": "0001-01-01T00:00:00+14:00"', ', "at": 1'):
        yield f'\x02{{"message_id": "m1", "event": "opened"{at}}}'.encode()
    yield b'\x02{"message_id": "a/b", "event": "displayed"}'
    for at, operation in enumerate(_NAMES):
        fields = msgspec.structs.fields(operations.OPERATIONS[operation].arguments)
        arguments: dict[str, Any] = {field.encode_name: "acme" for field in fields}
        yield b"\x03" + bytes((at,)) + msgspec.json.encode(arguments)
        yield b"\x03" + bytes((at,)) + b'{"topic": "a/b", "payload": "eA==", "qos": 1, "ttl_s": 5, "filters": ["a/#"]}'
    yield b"\x047K3QD-00000-00000-00000"
    yield b"\x04 7k3qdoiilloooo-1234567"
    for do in inbox_requests.REQUESTS:
        given = {field.encode_name: "x" for field in msgspec.structs.fields(do) if field.required}
        yield b"\x05" + msgspec.json.encode({"do": do.__struct_config__.tag, "request_id": "r", **given})
    yield b'\x05{"do": "show", "conversation": "c1", "most": 1e99}'
    yield b'\x06{"do": "read", "entry": 3}'
    yield b'\x06{"do": "rate", "question": "q1", "thumb": -1}'
    yield b'\x06{"do": "close"}'
    yield b'\x07{"name": "a", "title": "{{ data.x }}", "hours": {"mon": ["09:00-18:00"]}, "valid_until": "2026-12-24"}'
    yield b"\x07---\ntitle: x\ndata: {price: 3.5, day: 2026-12-24}\nkeywords: [&a b]\n---\n{% if user %}y{% endif %}"


TARGET = Target(
    "payloads",
    "requests, receipts, codes, operations, items, what agents and devices say of conversations",
    run,
    seeds,
    bytes_max=1024,
    runs_in_ci=2000,
)
