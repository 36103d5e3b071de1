"""What a device says on its `up/ask`: its form, its bounds, where the answer goes."""

import re
from enum import StrEnum
from typing import Final

import msgspec

from broker.errors import ProtocolError
from broker.identity import Identity
from broker.limits import CHOICE_MAX, LOCALE_BYTES_MAX, QUESTION_BYTES_MAX, QUESTION_MAX
from broker.pull.question import Answer, Question
from broker.wire.topics import check_topic_name

_LOCALE: Final = re.compile(rf"[A-Za-z0-9_-]{{0,{LOCALE_BYTES_MAX}}}", re.ASCII)


class Code(StrEnum):
    """Why a question was not taken, for programs. docs/asking.md says what each means."""

    BAD_JSON = "bad_json"
    EMPTY = "empty"
    TOO_LONG = "too_long"
    BAD_LOCALE = "bad_locale"
    BAD_TOPIC = "bad_topic"  # the Response Topic is not the device's own
    UNKNOWN_CHOICE = "unknown_choice"
    TOO_MANY = "too_many"  # of one device
    BUSY = "busy"  # of all
    UNABLE = "unable"  # the message says why
    INTERNAL_ERROR = "internal_error"  # a bug of ours


class QuestionRefused(Exception):
    """A question that is not answered, but with this."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def answer(self, id: str) -> Answer:
        """What the device gets."""
        return Answer(question=id, kind="refused", text=self.message, code=self.code, message=self.message)


class _Wire(msgspec.Struct):
    """A question as JSON. What we do not know of it may be there: an app's own."""

    text: str = ""
    locale: str = ""
    choice: str = ""


_decode: Final = msgspec.json.Decoder(_Wire).decode


def parse(payload: bytes) -> Question:
    """The question in a payload: JSON if it begins as an object does, else text. Raises `QuestionRefused`."""
    if len(payload) > QUESTION_BYTES_MAX:
        raise QuestionRefused(Code.TOO_LONG, f"A question has at most {QUESTION_MAX} characters.")
    try:
        said = _decode(payload) if payload.lstrip()[:1] == b"{" else _Wire(text=payload.decode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise QuestionRefused(
            Code.BAD_JSON, 'Write the question as text, or as JSON: {"text": "...", "locale": "it"}.'
        ) from None
    text = "".join(c if c.isprintable() else " " for c in said.text).strip()
    if len(text) > QUESTION_MAX or len(said.choice) > CHOICE_MAX:
        raise QuestionRefused(Code.TOO_LONG, f"A question has at most {QUESTION_MAX} characters.")
    if not text and not said.choice:
        raise QuestionRefused(Code.EMPTY, "There is no question: write what you want to know.")
    if not _LOCALE.fullmatch(said.locale):
        raise QuestionRefused(Code.BAD_LOCALE, "That is no locale: write it like it, it-IT or zh-Hant.")
    return Question(text=text, locale=said.locale, choice=said.choice)


def reply_topic(who: Identity, wanted: str | None) -> str:
    """Where a device's answer goes: to the Response Topic that it names, or to its `answer`.

    Raises `QuestionRefused` for one that only others may read, or that it publishes to itself.
    """
    own = f"{who.brand}/device/{who.name}/"
    if not wanted:
        return f"{own}answer"
    try:
        check_topic_name(wanted.encode())
    except ProtocolError:
        wanted = ""
    if not wanted.startswith(own) or wanted.startswith(f"{own}up/"):
        raise QuestionRefused(Code.BAD_TOPIC, f"Answers go to topics under {own} that you subscribe to: {own}answer.")
    return wanted
