"""What agents ask for: the requests of the command line, and of their own tools on `{brand}/inbox`."""

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from broker import limits
from broker.bridge.request import request_id_of, words_of
from broker.pull.moves import InboxRefused

Words = Annotated[str, Meta(max_length=limits.REPLY_MAX)]
Id = Annotated[str, Meta(max_length=64)]
Which = Literal["automated", "waiting", "agent", "closed", "held"]
Page = Annotated[int, Meta(ge=1, le=limits.INBOX_PAGE_MAX)]
Entries = Annotated[int, Meta(ge=1, le=limits.ENTRIES_MAX)]
Before = Annotated[int, Meta(ge=0, lt=1 << 53)]  # the number of an entry; 0: behind the last


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag=str.lower):
    """Fields that we do not know are an error."""


class List(_Request):
    """Conversations, the newest first."""

    state: Which | None = None
    agent: str | None = None
    store: str | None = None
    before: str | None = None
    most: Page = 50


class Show(_Request):
    """One with the last of what was said, or the last of it before the entry `before`."""

    conversation: Id
    before: Before = 0
    most: Entries = 200


class _Doing(_Request):
    conversation: Id
    agent: str


class Take(_Doing):
    """This agent has it from now on."""


class Reply(_Doing):
    """Say something to the customer: `text`, or the reply `canned`."""

    text: Words = ""
    canned: str = ""


class Note(_Doing):
    """Write down what only agents see."""

    text: Words


class HandBack(_Doing, tag="hand_back"):
    """Let the automation answer again."""


class Assign(_Request):
    """Let it wait for another agent; '': for whoever is next."""

    conversation: Id
    to: str
    agent: str = ""


class Close(_Doing):
    """It is over."""


class Typing(_Doing):
    """The agent is writing."""


class Read(_Doing):
    """The agent has read all of it."""


Request = List | Show | Take | Reply | Note | HandBack | Assign | Close | Typing | Read
REQUESTS: Final[tuple[type[Any], ...]] = (List, Show, Take, Reply, Note, HandBack, Assign, Close, Typing, Read)

_AT: Final = re.compile(r"^(?P<words>.*?)(?: - at `(?:key in )?\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_FIELD: Final = re.compile(r"^Object (?:contains unknown|missing required) field `(.*)`$", re.DOTALL)
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode: Final = msgspec.json.Decoder(Request).decode
_json: Final = msgspec.json.Encoder().encode


def parse(payload: bytes) -> Request:
    """The request in a payload, but for its `request_id`. Raises `InboxRefused`."""
    try:
        fields = _object(payload)
        fields.pop("request_id", None)
        request: Request = _decode(_json(fields))
    except msgspec.ValidationError as error:
        found = _AT.match(words_of(error))
        assert found is not None  # it matches everything
        which = _FIELD.match(found["words"])
        field = which[1] if which else found["path"] or ""
        raise InboxRefused("bad_value" if field else "bad_json", field[:64], found["words"][:300]) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InboxRefused("bad_json", "", f"the request is no JSON object: {error}") from None
    return request


def answer(payload: bytes, fields: dict[str, Any]) -> bytes:
    """What the sender of a request is told."""
    return _json({"ok": True, "request_id": request_id_of(payload), **fields})


def refusal(payload: bytes, code: str, field: str, message: str) -> bytes:
    """What the sender of one is told that cannot be done."""
    said = {"ok": False, "request_id": request_id_of(payload), "code": code, "field": field, "message": message}
    return _json(said)
