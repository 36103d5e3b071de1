"""What would be answered if somebody asked now, and why. Nothing is done, and nothing is written."""

import asyncio
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from broker.errors import Refused
from broker.pull.asker import asker_of
from broker.pull.asking import QuestionRefused, parse
from broker.pull.question import Asker, Question
from broker.pull.recognise import Explained, Recogniser
from broker.store.content import Content, connect
from broker.store.conversations import HELD, Conversations
from broker.store.database import guarded
from broker.trust.directory import Directory

_ACTIONS: Final = {
    "Follow": "follow",
    "Unfollow": "unfollow",
    "OptOut": "stop",
    "OptIn": "start",
    "HandOver": "person",
    "AskServer": "server",
}


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """Who would ask what, and when. Times without a zone are UTC."""

    brand: str
    text: str = ""
    choice: str = ""
    user: str = ""
    device: str = ""  # whose user and store count
    store: str = ""
    locale: str = ""
    at: datetime | None = None

    def question(self) -> Question:
        """As a device would publish it. Raises `Refused` where that would be."""
        try:
            return parse(msgspec.json.encode({"text": self.text, "locale": self.locale, "choice": self.choice}))
        except QuestionRefused as error:
            raise _refused(error) from None

    @property
    def now(self) -> datetime:
        """When that is."""
        at = self.at or datetime.now(UTC)
        return at if at.tzinfo else at.replace(tzinfo=UTC)


async def explained(
    directory: Directory, asking: Asking, content: Path, conversations: Conversations
) -> dict[str, Any]:
    """What is decided, on connections of our own. Raises `NotFound` and `Refused`."""
    brand, user, store = asking.brand, asking.user, asking.store
    await directory.brand_show(brand)
    question = asking.question()
    if asking.device:
        device = await directory.device_show(brand, asking.device)
        user, store = user or device.user, device.store
    elif store:
        await directory.store_show(brand, store)
    if user:
        await directory.user_show(brand, user)
    now = asking.now

    def look() -> tuple[Asker, Explained]:
        with guarded(content), closing(connect(content, directory.records.path)) as db:
            asker = asker_of(db, brand, asking.device, user, store, asking.locale)
            return asker, Recogniser().explain(db, asker, question, now)

    try:
        asker, found = await asyncio.to_thread(look)
    except QuestionRefused as error:
        raise _refused(error) from None
    conversation = await conversations.of(brand, asker.kind, asker.name)
    held = conversation is not None and conversation.state in HELD
    return {
        "brand": brand,
        "user": user,
        "device": asking.device,
        "store": store,
        "language": asker.language,
        "tags": sorted(asker.tags),
        "at": now,
        "held": conversation.state if conversation is not None and held else "",
        **_shown(found),
    }


def _shown(found: Explained) -> dict[str, Any]:
    decided = found.decided
    action = decided.action
    does = {} if action is None else {"does": _ACTIONS[type(action).__name__], **msgspec.structs.asdict(action)}
    return {
        "outcome": decided.outcome,
        "rule": decided.rule,
        "why": why(found),
        "score": decided.score,
        "shown": decided.shown,
        "choices": decided.options,
        "action": does,
        "words": found.words,
        "score_min": found.score_min,
        "lead": found.lead,
        "hits": found.hits,
    }


def why(found: Explained) -> str:
    """The rule by which it was decided, as a sentence."""
    decided = found.decided
    kind, _, what = decided.rule.partition(":")
    good = [hit for hit in found.hits if not hit.left_out]
    match kind:
        case "choice":
            return "It is an option that was offered."
        case "command":
            return f"It is the command {what!r}, and nothing else."
        case "hand_over":
            return f"The brand's rules give it to a person: {what}."
        case "route":
            return f"The brand's server is asked, on route {what}."
        case "keyword":
            return "It is what an item is called, title or keyword, and nothing else."
        case "low_score":
            return f"No item has enough of it: {good[0].score:.2f} at best, and {found.score_min:.2f} is wanted."
        case "not_found":
            return "No item that is for them now has a word of it."
    named = [hit for hit in good if hit.named]
    if decided.outcome == "choice":
        if named:
            return "Several items have all of it that any item has, in title or keywords."
        return f"Several items have about as much of it: the first is not {found.lead:.2f} ahead of all others."
    if named:
        return "One item has all of it that any item has, in title or keywords."
    if len(good) == 1:
        return f"One item has enough of it: {found.score_min:.2f} is wanted."
    return f"One item has enough of it, and is {good[0].score - good[1].score:.2f} ahead: {found.lead:.2f} is wanted."


async def ready(content: Path) -> None:
    """Make or migrate the library, where no broker has done so."""
    await (await Content.open(content)).close()


def _refused(error: QuestionRefused) -> Refused:
    remedy = "Ask without --choice to see what is offered." if error.code == "unknown_choice" else "Ask it differently."
    return Refused(f"{error.code}: {error.message}", reason=0x83, remedy=remedy)
