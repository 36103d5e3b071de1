"""Questions and answers: what a device asks on its `up/ask`, who asks, what is decided, what the device is answered."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Outcome = Literal["answered", "choice", "command", "server", "asking", "person", "nothing"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to know. `choice` is the id of an option that they were offered and took."""

    text: str
    locale: str = ""
    choice: str = ""


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: a user at a device, or a device that has none. What they are known by is what templates may use."""

    brand: str
    device: str
    user: str = ""
    store: str = ""  # where the device stands
    language: str = ""  # the two letters of their locale, or of the question's; '': not known
    time_zone: str = ""
    title: str = ""  # the user's name, for people
    tags: frozenset[str] = frozenset()
    attributes: Mapping[str, str] = {}

    @property
    def kind(self) -> Literal["user", "device"]:
        """As whom conversations, follows and preferences have them."""
        return "user" if self.user else "device"

    @property
    def name(self) -> str:
        """The user's, or the device's."""
        return self.user or self.device


class Shown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Content as it is shown: an item with its templates filled in, or a sentence of the brand's in `body`."""

    item: str = ""
    language: str = ""
    title: str = ""
    body: str = ""
    image: str = ""
    link: str = ""
    data: Mapping[str, Any] = {}


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One of several to tap. Who takes it asks with `choice` = `id`."""

    id: str
    title: str


# What is to be done, beyond showing something.


class Follow(msgspec.Struct, frozen=True, tag=True):
    """They want to hear of changes of an item, at most once in so many seconds (0: of each)."""

    item: str
    every_s: int = 0


class Unfollow(msgspec.Struct, frozen=True, tag=True):
    """They do not any more."""

    item: str


class OptOut(msgspec.Struct, frozen=True, tag=True):
    """They want no more messages: no topic, no follow."""


class OptIn(msgspec.Struct, frozen=True, tag=True):
    """They want again what they had before they said stop."""


class HandOver(msgspec.Struct, frozen=True, tag=True):
    """A person is to answer."""

    why: Literal["asked", "not_found", "low_score", "rule", "server"]


class AskServer(msgspec.Struct, frozen=True, tag=True):
    """The brand's own server is to answer, on this route of the brand's rules; `choice`: one of those it offered."""

    route: str
    choice: str = ""


class Close(msgspec.Struct, frozen=True, tag=True):
    """They have no more to say to the person who has their conversation."""


Action = Close | Follow | Unfollow | OptOut | OptIn | HandOver | AskServer


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a question. `rule` says by which rule, for people and figures: 'command:help', 'search'."""

    outcome: Outcome
    rule: str
    shown: Shown = Shown()
    options: tuple[Option, ...] = ()
    action: Action | None = None
    score: float = 0.0  # of the best hit, 0 to 1
    nearest: str = ""  # which item that was, where none was good enough
    folded: str = ""  # the question's words as they were looked for


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the device gets. `text` says all of it in words, for a screen that knows nothing else."""

    question: str
    kind: Literal["answer", "choice", "person", "nothing", "refused"]
    by: Literal["automation", "server", "agent"] = "automation"
    text: str = ""
    item: str = ""
    language: str = ""
    title: str = ""
    body: str = ""
    image: str = ""
    link: str = ""
    data: Mapping[str, Any] = {}
    choices: tuple[Option, ...] = ()
    code: str = ""  # of a refusal, for programs
    message: str = ""  # of a refusal, for people
