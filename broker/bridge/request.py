"""What a brand's server asks for on `{brand}/send`: its form, its bounds, and what it is told when it is not right.

The structs are the schema: requests are checked against them, and docs/send.schema.json is made from them.
"""

import base64
import binascii
import difflib
import hashlib
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from broker import limits
from broker.errors import Refused

RICH: Final = "application/vnd.push+json"


def _whole(pattern: str) -> str:
    """As JSON Schema means it: Python's `$` would let a newline at the end pass."""
    return rf"^(?:{pattern})$(?!\n)"


_NAME: Final = "[A-Za-z0-9]([A-Za-z0-9._@-]{0,62}[A-Za-z0-9])?"
_NAMED: Final = _whole(_NAME)
_CAMPAIGN: Final = _whole(f"({_NAME})?")
_VARIANT: Final = _whole("[a-z0-9]{0,16}")
_ID: Final = _whole("[0-9A-Za-z_-]{1,64}")
_PLAIN: Final = _whole(r"[^\x00-\x1f\x7f-\x9f]*")
_CLOCK: Final = _whole("((20[0-9]{2}-[01][0-9]-[0-3][0-9]T)?([01][0-9]|2[0-3]):[0-5][0-9])?")
# Where a pattern is not met: what would.
_WANTED: Final = {
    _NAMED: "a name has 1 to 64 letters, digits, '.', '_', '@' and '-', with a letter or digit at both ends",
    _CAMPAIGN: "a campaign has a name as users have, of up to 64 letters, digits, '.', '_', '@' and '-'",
    _VARIANT: "a variant has up to 16 small letters and digits",
    _ID: "an id has 1 to 64 letters, digits, '_' and '-': write it as it was answered",
    _PLAIN: "it must not have control characters",
    _CLOCK: "write a time of day as 09:00, or with a day as 2026-12-24T09:00",
}

Name = Annotated[str, Meta(pattern=_NAMED)]
Names = Annotated[list[Name], Meta(max_length=limits.ADDRESSED_MAX)]
Places = Annotated[list[Name], Meta(max_length=limits.ADDRESS_PLACES_MAX)]
Words = Annotated[str, Meta(max_length=4096)]
Url = Annotated[str, Meta(max_length=2048)]
Short = Annotated[str, Meta(max_length=64)]
Id = Annotated[str, Meta(pattern=_ID)]


def _said(words: str, **bounds: Any) -> Meta:
    """What a field is for, in the published schema and in docs/sends.md."""
    return Meta(description=words, **bounds)


class Code(StrEnum):
    """Why a request was refused, for programs. docs/sends.md says what each means."""

    BAD_JSON = "bad_json"  # it is no JSON object
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    BAD_VALUE = "bad_value"  # of the wrong type, or out of its bounds
    BAD_CONDITION = "bad_condition"
    TOO_MANY = "too_many"  # more names, or more recipients, than one message may have
    UNKNOWN_USER = "unknown_user"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_STORE = "unknown_store"
    UNKNOWN_SEGMENT = "unknown_segment"
    NOT_FOUND = "not_found"  # no message has this id
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"  # the key came with another request before
    INTERNAL_ERROR = "internal_error"  # a bug of ours


class RequestRefused(Refused):
    """A request that is not right. `field` is where, as `to.users[0]`; '' is the whole."""

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(message, reason=0x83)
        self.code = code
        self.field = field


class _Strict(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Fields that we do not know are an error: a misspelt bound would bound nothing."""


class Part(_Strict):
    """A part of all of them: those whose place in the audience of `of` is in it. See `broker/bridge/split.py`."""

    of: Name
    first: Annotated[int, Meta(ge=0, lt=10_000)]
    until: Annotated[int, Meta(ge=1, le=10_000)]


class Unopened(_Strict):
    """Those who got an earlier message so long ago and have not opened it; each of them once for that message."""

    message: Id
    for_s: Annotated[int, Meta(ge=0, le=limits.TTL_MAX_S)]


class Cap(_Strict):
    """Not those who have had so many messages of a campaign within this time."""

    campaign: Name
    most: Annotated[int, Meta(ge=1, le=1000)]
    within_s: Annotated[int, Meta(ge=60, le=366 * 86400)]


class To(_Strict):
    """Whom it is for: all of these together, each of them once; of those, `only`, `part` and `cap` leave some out."""

    users: Annotated[Names, _said("names of users: on all their devices")] = []
    devices: Annotated[Names, _said("names of devices")] = []
    stores: Annotated[Places, _said("the devices that stand in these stores")] = []
    topics: Annotated[Places, _said("who opted in to one of these topics")] = []
    segment: Annotated[str, _said("who is in this segment", max_length=64)] = ""
    condition: Annotated[str, _said("of whom this is true: `topic:news AND NOT tag:staff`", max_length=4096)] = ""
    following: Annotated[
        str,
        _said(
            "who follows this item, each of them at most as often as they said",
            max_length=64,
            pattern=_whole(f"({_NAME})?"),
        ),
    ] = ""
    unopened: Annotated[Unopened | None, _said("who has not opened an earlier message; alone")] = None
    only: Annotated[str, _said("of all those only of whom this is true: `language:it`", max_length=4096)] = ""
    part: Annotated[Part | None, _said("of all those a part, as for an A/B test")] = None
    cap: Annotated[Cap | None, _said("but for those who have had enough of a campaign")] = None

    @property
    def anybody(self) -> bool:
        """Whether it names somebody."""
        return self.direct or self.unopened is not None

    @property
    def direct(self) -> bool:
        """Whether it names somebody other than by what they did with an earlier message."""
        return bool(
            (self.users or self.devices or self.stores or self.topics)
            or (self.segment or self.condition or self.following)
        )


class Action(_Strict):
    """A button."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    title: Short = ""


class Notification(_Strict):
    """What a person is to see: a title, a body or both."""

    title: Annotated[str, Meta(max_length=1024)] = ""
    body: Words = ""
    image: Url = ""
    click: Url = ""
    actions: Annotated[list[Action], Meta(max_length=8)] = []
    data: dict[str, msgspec.Raw] = {}  # goes on as it came: no number of it is rounded


class _Shown(Notification):
    """What devices get of it."""

    priority: str = "normal"
    collapse_key: str = ""


class SendRequest(_Strict):
    """A rich send. Times without a zone are UTC."""

    to: Annotated[To, _said("whom it is for: all that stands in it together, each of them once")]
    notification: Annotated[Notification | UnsetType, _said("what a person is to see")] = UNSET
    payload: Annotated[
        Annotated[str, Meta(max_length=limits.PACKET_BYTES_MAX)] | UnsetType,
        _said("instead: text, which goes to the app as it is"),
    ] = UNSET
    payload_base64: Annotated[
        Annotated[str, Meta(max_length=2 * limits.PACKET_BYTES_MAX)] | UnsetType,
        _said("instead: any bytes, as base64"),
    ] = UNSET
    content_type: Annotated[str, _said("of a payload", max_length=128, pattern=_PLAIN)] = ""
    kind: Annotated[
        Literal["marketing", "transactional"],
        _said("quiet hours and caps are for marketing, unless the brand says more"),
    ] = "marketing"
    ttl_s: Annotated[int, _said("of use for so many seconds from `not_before`, or now", ge=1, le=limits.TTL_MAX_S)] = (
        limits.TTL_S
    )
    priority: Annotated[Literal["normal", "high"], _said("how soon it wants to be seen: apps are told")] = "normal"
    collapse_key: Annotated[
        str, _said("replaces what waits under the same key, and what is on the screen", max_length=64, pattern=_PLAIN)
    ] = ""
    idempotency_key: Annotated[
        str, _said("the same key again sends nothing, and is answered as before", max_length=128, pattern=_PLAIN)
    ] = ""
    idempotency_s: Annotated[int, _said("so long that key is remembered", ge=60, le=limits.IDEMPOTENCY_MAX_S)] = (
        limits.IDEMPOTENCY_S
    )
    not_before: Annotated[
        datetime | None,
        _said(
            f"at the earliest then (ISO 8601), up to {limits.NOT_BEFORE_MAX_S // 86400} days ahead",
            extra_json_schema={"examples": ["2026-12-24T08:00:00Z"]},
        ),
    ] = None
    local_time: Annotated[
        str, _said("at this time where the recipient is: `09:00`, or `2026-12-24T09:00`", pattern=_CLOCK)
    ] = ""
    throttle_per_s: Annotated[
        Annotated[float, Meta(ge=0.1, le=10_000)] | None, _said("to so many recipients in a second")
    ] = None
    dry_run: Annotated[bool, _said("answer who would get it, and send nothing")] = False
    receipts: Annotated[Literal["none", "summary", "each"], _said("what comes on `{brand}/receipts/{message id}`")] = (
        "none"
    )
    campaign: Annotated[str, _said("counts in the figures of this campaign", pattern=_CAMPAIGN)] = ""
    variant: Annotated[str, _said("of that campaign: `a`", pattern=_VARIANT)] = ""
    request_id: Annotated[str, _said("comes back in the answer", max_length=128)] = ""


class WithdrawRequest(_Strict):
    """Take a message back: who has not got it will not, and devices take it off the screen."""

    withdraw: Annotated[Id, _said("the message's id")]
    request_id: Annotated[str, _said("comes back in the answer", max_length=128)] = ""


class Answer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the sender is told. `ok` decides which of the others are there."""

    request_id: Annotated[str, _said("the request's, if it had one")] = ""
    ok: Annotated[bool, _said("accepted; otherwise `code`, `field` and `message` say why not")]
    message_id: Annotated[str, _said("the message's id, in receipts and for `withdraw`")] = ""
    recipients: Annotated[int | None, _said("how many get it; of a withdrawal: from how many it was taken back")] = None
    users: Annotated[int | None, _said("of those, how many are users")] = None
    devices: Annotated[int | None, _said("of those, how many are devices")] = None
    left_out: Annotated[dict[str, int], _said("how many more were addressed and get nothing, by reason")] = {}
    sample: Annotated[list[str], _said("of a dry run: the first of those who would get it, as `user/ada`")] = []
    dry_run: Annotated[bool, _said("nothing was sent")] = False
    duplicate: Annotated[bool, _said("the idempotency key was known: this is the message of then")] = False
    code: Annotated[str, _said("why it was refused, for programs")] = ""
    field: Annotated[str, _said("which field is at fault, as `to.users[0]`")] = ""
    message: Annotated[str, _said("why, for people, and what would do")] = ""


_AT = re.compile(r"^(?P<words>.*?)(?: - at `(?P<key>key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_FIELD = re.compile(r"^Object (contains unknown|missing required) field `(.*)`$", re.DOTALL)
_LENGTH = re.compile(r"^Expected `array` of length <= (\d+)$")
_PATTERN = re.compile(r"^Expected `str` matching regex '")
# Structs, by where they stand in a request.
_FIELDS_AT: Final[dict[str, type[_Strict]]] = {
    "to": To,
    "to.unopened": Unopened,
    "to.part": Part,
    "to.cap": Cap,
    "notification": Notification,
    "notification.actions": Action,
}
# What a notification has when it is published as it is, and how a request says it.
_BESIDE: Final = {
    "priority": "say it beside that",
    "collapse_key": "say it beside that",
    "expires_at": "say ttl_s beside that",
}
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_send = msgspec.json.Decoder(SendRequest).decode
_withdraw = msgspec.json.Decoder(WithdrawRequest).decode
_json = msgspec.json.Encoder().encode
encode_answer: Final = msgspec.json.Encoder().encode


def parse(payload: bytes) -> SendRequest | WithdrawRequest:
    """The request in a payload. Raises `RequestRefused` for whatever is not one."""
    try:
        payload.decode()  # of what goes on as it came nobody else would see that it is no text
        fields = _object(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRefused(Code.BAD_JSON, "", f"the request is no JSON object: {error}") from None
    if "withdraw" in fields:
        withdrawal: WithdrawRequest = _checked(_withdraw, payload)
        return withdrawal
    request: SendRequest = _checked(_send, payload)
    check(request)
    return request


def request_id_of(payload: bytes) -> str:
    """The id that a request has, as far as it can be read, for its answer."""
    try:
        said = msgspec.json.decode(_object(payload).get("request_id", b'""'))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return said[:128] if isinstance(said, str) else ""


def words_of(error: msgspec.ValidationError) -> str:
    """What it says; of more than 1,000 characters, which quote what was sent, the beginning and the end."""
    words = str(error)
    return words if len(words) <= 1000 else f"{words[:500]}{words[-500:]}"


def at_fault(error: msgspec.ValidationError) -> tuple[Code, str, str]:
    """What is wrong with something: a code, the field, and words."""
    found = _AT.match(words_of(error))
    assert found is not None  # it matches everything
    words, path = found["words"], (found["path"] or "").lstrip(".")
    if (which := _FIELD.match(words)) is not None:
        field = (f"{path}.{which[2]}" if path else which[2])[:300]
        if which[1].startswith("missing"):
            return Code.MISSING_FIELD, field, f"{field} is missing"
        return Code.UNKNOWN_FIELD, field, f"there is no field {field}"
    return Code.BAD_VALUE, path[:300], words[:300]


def _checked(decode: Any, payload: bytes) -> Any:
    try:
        return decode(payload)
    except msgspec.ValidationError as error:
        found = _AT.match(words_of(error))
        assert found is not None  # it matches everything
        words, path = found["words"], (found["path"] or "").lstrip(".")
        which = _FIELD.match(words)
        if which is not None:
            field = f"{path}.{which[2]}" if path else which[2]
            if which[1].startswith("missing"):
                raise RequestRefused(Code.MISSING_FIELD, field, f"{field} is missing") from None
            raise RequestRefused(Code.UNKNOWN_FIELD, field[:300], _unknown(decode, path, which[2])) from None
        if length := _LENGTH.match(words):
            what = f"there may be {int(length[1]):,} at most: send it in parts, or to a topic, a segment or a condition"
            raise RequestRefused(Code.TOO_MANY, path, what) from None
        code = Code.BAD_CONDITION if path in ("to.condition", "to.only") else Code.BAD_VALUE
        if _PATTERN.match(words):
            words = next(what for pattern, what in _WANTED.items() if repr(pattern) in words)
        raise RequestRefused(code, path, words[:300]) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestRefused(Code.BAD_JSON, "", f"the request cannot be read: {error}") from None


def _unknown(decode: Any, path: str, name: str) -> str:
    """What is said of a field that there is not."""
    if path == "notification" and name in _BESIDE:
        return f"{name} does not stand in a notification: {_BESIDE[name]}"
    known = _FIELDS_AT.get(path.partition("[")[0], SendRequest) if decode is _send else WithdrawRequest
    near = difflib.get_close_matches(name, known.__struct_fields__, n=1)
    field = (f"{path}.{name}" if path else name)[:300]
    return f"there is no field {field}{f'; did you mean {near[0]}?' if near else ''}"


def check(request: SendRequest) -> None:
    """What its form alone does not say. Raises `RequestRefused`."""
    if not request.to.anybody:
        raise RequestRefused(Code.MISSING_FIELD, "to", "it is for nobody: name users, devices, stores, topics, ...")
    if request.to.unopened is not None and request.to.direct:
        what = "who has not opened a message is addressed alone: send to the others with another request"
        raise RequestRefused(Code.BAD_VALUE, "to.unopened", what)
    if (part := request.to.part) is not None and part.first >= part.until:
        raise RequestRefused(Code.BAD_VALUE, "to.part.until", "a part ends after it begins")
    given = [name for name in ("notification", "payload", "payload_base64") if getattr(request, name) is not UNSET]
    if len(given) != 1:
        field = given[1] if given else "notification"
        code = Code.BAD_VALUE if given else Code.MISSING_FIELD
        raise RequestRefused(code, field, "there must be one of notification, payload and payload_base64")
    if isinstance(shown := request.notification, Notification):
        if not (shown.title or shown.body):
            raise RequestRefused(Code.MISSING_FIELD, "notification.title", "a notification has a title or a body")
        if request.content_type not in ("", RICH):
            raise RequestRefused(Code.BAD_VALUE, "content_type", f"a notification's is {RICH}: leave it out")
        for name, value in shown.data.items():
            try:
                deep = too_deep(msgspec.json.decode(value))
            except (msgspec.MsgspecError, RecursionError) as error:
                raise RequestRefused(Code.BAD_VALUE, "notification.data", f"{name[:64]} is no JSON: {error}") from None
            if deep:
                what = f"{name[:64]} has more than {limits.DATA_DEPTH_MAX} lists or objects within each other"
                raise RequestRefused(Code.BAD_VALUE, "notification.data", what)
    if "T" in request.local_time:
        try:
            datetime.fromisoformat(request.local_time)
        except ValueError:
            raise RequestRefused(Code.BAD_VALUE, "local_time", "there is no such day") from None
    if request.local_time and request.ttl_s < limits.LOCAL_TTL_MIN_S:
        what = "a message for a local time must be of use for a day at least, until that time has come everywhere"
        raise RequestRefused(Code.BAD_VALUE, "ttl_s", what)
    encode_payload(request)


def too_deep(value: Any) -> bool:
    """Whether more is within each other than others can be expected to read."""
    level = [value]
    for _ in range(limits.DATA_DEPTH_MAX + 1):
        within = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [one for inner in within for one in inner]
    return bool(level)


def encode_payload(request: SendRequest) -> tuple[bytes, str]:
    """What its recipients get, and its content type. Raises `RequestRefused` if it cannot be had."""
    shown = request.notification
    if isinstance(shown, Notification):
        fields = {name: getattr(shown, name) for name in shown.__struct_fields__}
        return _json(_Shown(**fields, priority=request.priority, collapse_key=request.collapse_key)), RICH
    if isinstance(request.payload, str):
        return request.payload.encode(), request.content_type or "text/plain"
    assert isinstance(request.payload_base64, str)  # it is one of the three
    try:
        return base64.b64decode(request.payload_base64, validate=True), request.content_type
    except (binascii.Error, ValueError) as error:
        raise RequestRefused(Code.BAD_VALUE, "payload_base64", f"it is not base64: {error}") from None


def digest(request: SendRequest) -> bytes:
    """What tells one request from another, whatever their ids and the order of their fields."""
    fields = msgspec.json.decode(_json(request))
    fields.pop("request_id", None)
    return hashlib.sha256(msgspec.json.encode(fields, order="deterministic")).digest()


def utc(time: datetime) -> datetime:
    """A time as it is meant: without a zone it is UTC."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)
