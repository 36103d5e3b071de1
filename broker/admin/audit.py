"""What the audit log says of operations: which of them, and how much of their arguments.

Each operation that changes something, or that shows what is known of persons, is noted. What was said or sent stays
out of it, and so do secrets: they stand where they belong, and go from there.
"""

import os
import pwd
import socket
import struct
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

import msgspec

from broker.store.audit import Done


class Noted(Enum):
    """How an operation is noted."""

    NOT = auto()  # it changes nothing, and shows nothing of persons
    READ = auto()  # it shows what is known of persons
    RECORDS = auto()  # it changes the records, and is noted in the same transaction
    CHANGE = auto()  # it changes something else: noted before, with its outcome after


_NOT: Final = (
    *("brand.list", "brand.show", "store.list", "store.show", "token.list", "cert.list", "cert.ca", "status"),
    *("message.list", "message.show", "message.stores", "message.watch"),
    *("campaign.list", "campaign.show", "campaign.test", "campaign.figures", "questions.figures"),
    *("command.list", "command.show", "command.watch", "link.list", "link.show", "link.test"),
    *("segment.list", "segment.show", "restraint.show", "agent.list", "canned.list", "inbox.typing"),
    *("content.list", "content.show", "content.rules"),
)
_READ: Final = (
    *("user.list", "user.show", "user.export", "user.traces", "device.list", "device.show", "connections.list", "tail"),
    *("profile.show", "profile.consents", "profile.explain", "suppression.list", "segment.test"),
    *("message.recipients", "why", "command.devices", "config.show", "ask"),
    *("questions.unanswered", "questions.list"),
    *("audit.list", "audit.watch", "inbox.list", "inbox.show", "inbox.watch"),
)
_RECORDS: Final = (
    *("brand.add", "brand.set", "brand.remove", "token.issue", "token.revoke", "user.add", "user.remove"),
    *("store.add", "store.remove", "device.code", "device.assign", "device.revoke", "device.remove"),
    *("password.set", "password.remove", "cert.issue", "cert.renew", "cert.revoke"),
    *("profile.tag", "profile.untag", "profile.set", "profile.unset", "profile.say"),
    *("suppression.add", "suppression.remove", "segment.add", "segment.remove", "restraint.set"),
    *("link.add", "link.set", "link.remove"),
)
_CHANGE: Final = (
    *("send", "message.send", "message.withdraw", "config.set", "command.run", "command.resume", "command.cancel"),
    "user.erase",
    *("content.put", "content.set", "content.remove", "content.prune", "content.rules_set"),
    *(f"campaign.{verb}" for verb in ("add", "set", "start", "pause", "resume", "stop", "remove", "retarget")),
    *(f"inbox.{verb}" for verb in ("take", "reply", "note", "hand_back", "assign", "close", "read")),
    *("agent.add", "agent.set", "agent.remove", "canned.set", "canned.remove"),
)
OPERATIONS: Final[Mapping[str, Noted]] = {
    **dict.fromkeys(_NOT, Noted.NOT),
    **dict.fromkeys(_READ, Noted.READ),
    **dict.fromkeys(_RECORDS, Noted.RECORDS),
    **dict.fromkeys(_CHANGE, Noted.CHANGE),
}

# Secrets, what was said or sent, and what is known of somebody: of these stands only that they were given.
HIDDEN: Final = frozenset(
    {
        "password",
        "payload",
        "request",
        "text",
        "content",
        "definition",
        "csr_pem",
        "user_properties",
        "title",
        "reason",
        "items",
        "rules",
    }
)
# Of these the names stand, and not the values.
KEYS: Final = frozenset({"attributes", "args", "changes"})
# Of these it does not even stand whom they are about: nothing of that is to be left.
UNNAMED: Final = frozenset({"user.erase", "user.traces"})
# Which argument says whom or what an operation is about, by the first part of its name.
_TARGETS: Final = {
    "brand": ("brand", "name"),
    "token": ("token", "token_id"),
    "user": ("user", "name"),
    "store": ("store", "name"),
    "device": ("device", "device"),
    "suppression": ("user", "name"),
    "segment": ("segment", "name"),
    "message": ("message", "id"),
    "why": ("message", "id"),
    "campaign": ("campaign", "name"),
    "command": ("command", "id"),
    "link": ("link", "name"),
    "cert": ("certificate", "serial"),
    "inbox": ("conversation", "conversation"),
    "agent": ("agent", "name"),
    "canned": ("canned", "name"),
    "content": ("item", "name"),
}


def noted(operation: str) -> Noted:
    """How it is noted. What nobody has thought of is taken for a change."""
    return OPERATIONS.get(operation, Noted.CHANGE)


def done(actor: str, operation: str, arguments: Mapping[str, Any]) -> Done:
    """What the log says of it."""
    nothing: tuple[Any, ...] = (None, "", (), {})
    given = {name: value for name, value in arguments.items() if value is not msgspec.UNSET and value not in nothing}
    noun = operation.partition(".")[0]
    brand = str(given.pop("brand", "") if noun != "brand" else given.get("name", ""))
    if noun in ("profile", "password"):
        kind = str(given.pop("kind", "") or given.pop("role", "") or "user")
        target = f"{kind}/{given.pop('name', '')}"
    else:
        kind, field = _TARGETS.get(noun, ("", ""))
        target = f"{kind}/{given.pop(field)}" if field in given else ""
    if operation in UNNAMED:
        given = {name: value for name, value in given.items() if name != "name"}
        target = ""
    if noun in ("inbox", "conversation") and given.get("agent") and operation != "inbox.list":
        given["by"] = actor
        actor = f"agent:{given.pop('agent')}"
    detail = {name: _said(name, value) for name, value in given.items()}
    return Done(actor=actor, brand=brand, operation=operation, target=target, detail=detail)


def _said(name: str, value: Any) -> Any:
    if name in HIDDEN:
        return "(given)"
    if name in KEYS and isinstance(value, Mapping):
        return list(value)
    return msgspec.to_builtins(value)


def operator(uid: int | None = None) -> str:
    """The operator with this user id; without one, whose process this is."""
    number = os.getuid() if uid is None else uid
    try:
        return f"operator:{pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"operator:{number}"


def peer(sock: socket.socket | None) -> str:
    """Who is at the other end of a Unix socket, as the kernel knows them."""
    if sock is None:
        return "operator:"
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("3i", credentials)
    return operator(uid)
