"""What can go wrong for a user of the SDK, with what to do about it. A wrong argument is a plain `ValueError`."""

from typing import Final


class PushError(Exception):
    """Base of all errors that the SDK raises on purpose. `remedy` says what to do next, or is empty."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}. {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class Refused(PushError):
    """The broker said no. `reason` is its MQTT 5 reason code (table 2-6), such as 0x87 for not authorized."""

    def __init__(self, message: str, *, reason: int, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class Rejected(Refused):
    """The broker understood a push or a withdrawal, and does not do it.

    `code` is for programs, such as 'unknown_user' (docs/sends.md lists them); `field` is where the request is wrong,
    such as 'to.users[0]', or ''.
    """

    def __init__(self, message: str, *, code: str, field: str) -> None:
        super().__init__(f"{field}: {message}" if field and field not in message else message, reason=0x83)
        self.code = code
        self.field = field


class AskRefused(Refused):
    """The broker does not answer a question. `code` is for programs, such as 'too_long' (docs/asking.md lists them)."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message, reason=0x83)
        self.code = code


class Unreachable(PushError):
    """No broker was reached in time, so nothing has been sent."""


class Untrusted(Unreachable):
    """The broker's certificate is not of an authority that we trust, or is for another name: nothing was said to it."""


class Unconfirmed(PushError):
    """It was sent, but the broker's answer did not come: it may have been accepted or not."""


class NotEnrolled(PushError):
    """The directory holds no identity: `enrol` makes one."""


class InUse(PushError):
    """Another process runs this device; two with one identity would push each other off the broker for ever."""


# Refusals that trying again soon does not change.
_LASTING: Final = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C})


def lasting(error: PushError | None) -> bool:
    """Whether the error stays until somebody does something about it, so that waiting is in vain."""
    return isinstance(error, Untrusted) or (isinstance(error, Refused) and error.reason in _LASTING)


_REASONS: Final = {
    0x80: "the broker gave no reason",
    0x81: "the broker could not read the packet",
    0x82: "the broker saw a breach of the protocol",
    0x83: "the broker cannot do this",
    0x84: "the broker does not speak MQTT 5",
    0x85: "the client id is not valid",
    0x86: "the name, code, token or password is wrong, or no longer valid",
    0x87: "this identity may not do that",
    0x88: "the broker is not available",
    0x89: "the broker is busy",
    0x8A: "this client is banned",
    0x8B: "the broker is shutting down",
    0x8D: "nothing was heard from this client for too long",
    0x8E: "another connection with the same client id took the session over",
    0x8F: "the topic filter is not valid",
    0x90: "the topic name is not valid",
    0x91: "the packet id is in use",
    0x93: "too many messages were sent without waiting for their acknowledgements",
    0x94: "the topic alias is not valid",
    0x95: "the message is larger than the broker takes",
    0x96: "messages come too fast",
    0x97: "a quota is used up: the receiver's queue or the broker's store is full",
    0x98: "an administrator closed the connection",
    0x99: "the payload is not what its format says",
    0x9A: "the broker keeps no retained messages",
    0x9B: "the broker does not do this quality of service",
    0x9C: "another server is to be used",
    0x9D: "the server has moved",
    0x9F: "connections come too fast",
    0xA0: "the connection lasted as long as it may",
}


def describe(reason: int, detail: str = "") -> str:
    """A reason code as a sentence's end, with the broker's own words where it gave some."""
    words = _REASONS.get(reason, "the broker gave a reason that this SDK does not know")
    return f"{words} (0x{reason:02X}{': ' + detail if detail else ''})"
