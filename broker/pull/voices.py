"""What a device says of its conversation, beside what it asks: read, closed, of use or not; that somebody is writing.

It says these on its `up/conversation`, which is kept until it was done, and on `up/typing`, which is not. On
`up/history` it asks for what was said so far.
"""

import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from broker import limits
from broker.bridge.facts import Saying
from broker.bridge.intake import Intake
from broker.counters import Counters
from broker.errors import Failed
from broker.identity import Identity, Role
from broker.message import Message, for_whoever_is
from broker.pull.asking import QuestionRefused, reply_topic
from broker.pull.conversations import Inbox
from broker.pull.looking import at
from broker.route.router import Router
from broker.session.session import Session
from broker.store.conversations import Entry
from broker.store.entries import Who
from broker.wire.packets import Properties
from broker.wire.publish import forwarded, properties_of

_FULL: Final = "Too much is asked at the moment: ask again in a second."


class Read(msgspec.Struct, tag_field="do", tag="read"):
    """They have read up to this entry."""

    entry: Annotated[int, Meta(ge=0, lt=1 << 53)]


class Rate(msgspec.Struct, tag_field="do", tag="rate"):
    """An answer was of use, or not."""

    question: Annotated[str, Meta(max_length=64)]
    thumb: Literal[1, -1]


class Close(msgspec.Struct, tag_field="do", tag="close"):
    """They have no more to say."""


class _Wanted(msgspec.Struct):
    before: Annotated[int, Meta(ge=0, lt=1 << 53)] = 0
    most: Annotated[int, Meta(ge=1)] = 50


_decode: Final = msgspec.json.Decoder(Read | Rate | Close).decode
_decode_wanted: Final = msgspec.json.Decoder(_Wanted).decode
_json: Final = msgspec.json.Encoder().encode


class Voices:
    """`handle` may be called again for what was heard before. publish(message): now, and durably."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        intake: Intake,
        router: Router[Session],
        publish: Callable[[Message], object],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        counters: Counters,
        log: Callable[..., object],
    ) -> None:
        self._inbox = inbox
        self._publish = publish
        self._spawn = spawn
        self._counters = counters
        self._log = log
        self._typed: dict[tuple[str, str], float] = {}  # when devices last said so
        self._asking: set[tuple[str, str]] = set()  # whose history is being read
        intake.on("conversation", self.handle)
        router.serve(b"+/device/+/up/typing", self.typing)
        router.serve(b"+/device/+/up/history", self.history)

    async def handle(self, saying: Saying) -> None:
        """Do what a device says."""
        who = _whose(saying.brand, saying.user, saying.device)
        try:
            if len(saying.payload) > limits.VOICE_BYTES_MAX:
                raise msgspec.ValidationError("too long")
            said = _decode(saying.payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._refused(f"{saying.brand}/device/{saying.device}", str(error))
            return
        match said:
            case Read():
                await self._inbox.seen(who, said.entry)
            case Close():
                await self._inbox.end(who, saying.at_ms)
            case Rate():
                if not await self._inbox.store.rate(*who, said.question, said.thumb):
                    self._refused(f"{saying.brand}/device/{saying.device}", "it asked no such question")

    def _refused(self, client: str, why: str) -> None:
        self._counters.inbox_refused += 1
        self._log("what a device says of its conversation is ignored", client=client, error=why)

    # -- what is not kept ----------------------------------------------------------------------------------------------

    def typing(self, _message: Message, origin: Session | None) -> None:
        """Somebody is writing; said too often it goes no further."""
        if origin is None or origin.identity.role is not Role.DEVICE:
            return
        who = origin.identity
        now = time.monotonic()
        if now < self._typed.get((who.brand, who.name), 0.0) + limits.TYPING_S:
            return
        self._typed[who.brand, who.name] = now
        if len(self._typed) > limits.TYPISTS_KEPT:
            self._typed = {key: then for key, then in self._typed.items() if now < then + limits.TYPING_S}
        self._inbox.writes(_whose(who.brand, who.user, who.name))

    def history(self, message: Message, origin: Session | None) -> None:
        """Somebody wants to see what was said."""
        if origin is None or origin.identity.role is not Role.DEVICE:
            return
        who, properties = origin.identity, properties_of(message)
        data = properties.correlation_data
        topic = reply_topic(who, None)
        try:
            topic = reply_topic(who, properties.response_topic)
            if len(message.payload) > limits.VOICE_BYTES_MAX:
                raise msgspec.ValidationError("too long")
            wanted = _decode_wanted(message.payload or b"{}")
        except QuestionRefused as error:
            self._answer(who, topic, data, {"code": error.code, "message": error.message})
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._answer(who, topic, data, {"code": "bad_json", "message": f'Write it like {{"most": 50}}: {error}'})
        else:
            if (who.brand, who.name) in self._asking or len(self._asking) >= limits.HISTORIES_MAX:
                self._answer(who, topic, data, {"code": "too_many", "message": _FULL})
                return
            self._asking.add((who.brand, who.name))
            self._spawn(self._history(who, wanted, topic, data))

    async def _history(self, who: Identity, wanted: _Wanted, topic: str, data: bytes | None) -> None:
        try:
            self._answer(who, topic, data, await self._said(who, wanted))
        except Failed as error:
            self._answer(who, topic, data, {"code": "unable", "message": "That cannot be read at present."})
            self._log("a history cannot be read", error=error.message, remedy=error.remedy)
        finally:
            self._asking.discard((who.brand, who.name))

    async def _said(self, who: Identity, wanted: _Wanted) -> dict[str, Any]:
        store = self._inbox.store
        row = await store.of(*_whose(who.brand, who.user, who.name))
        if row is None:
            return {"conversation": "", "state": "closed", "agent": "", "read": 0, "entries": []}
        entries = await store.entries(
            row.number, before=wanted.before, most=min(wanted.most, limits.HISTORY_MAX), notes=False
        )
        return {
            "conversation": row.id,
            "state": row.state,
            "agent": self._inbox.called(row.brand, row.agent) if row.state == "agent" else "",
            "read": row.read_by_agent,
            "entries": [self._entry(who.brand, entry) for entry in entries],
        }

    def _entry(self, brand: str, entry: Entry) -> dict[str, Any]:
        return {
            "number": entry.number,
            "id": entry.id,
            "at": at(entry.at),
            "author": entry.author,
            "who": self._inbox.called(brand, entry.who) if entry.author == "agent" else entry.who,
            "text": entry.text,
            "outcome": entry.outcome,
            "item": entry.item,
            "answer": None if entry.answer is None else msgspec.Raw(entry.answer.encode()),
            "thumb": entry.thumb,
        }

    def _answer(self, who: Identity, topic: str, data: bytes | None, fields: dict[str, Any]) -> None:
        if "code" in fields:
            self._counters.inbox_refused += 1
        properties = Properties(content_type="application/json", payload_format=1, correlation_data=data)
        expires_at = time.monotonic() + limits.ANSWER_TTL_S
        whose = for_whoever_is(who.brand, who.user)
        self._publish(Message(topic.encode(), _json(fields), 1, False, forwarded(properties), expires_at, whose))


def _whose(brand: str, user: str, device: str) -> Who:
    return Who(brand, "user", user) if user else Who(brand, "device", device)
