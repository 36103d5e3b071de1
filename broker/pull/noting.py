"""Notes in the audit log what brands' servers ask for over MQTT.

What agents do in the inbox is noted one by one, before the server is answered: a request that is done again after a
crash is noted again. Changes of content are counted and noted once a minute: a price may change each second.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgspec

from broker.bridge.desk import Handler
from broker.bridge.facts import Asked
from broker.errors import Failed
from broker.store.audit import AuditLog, Done

COUNTED_S: Final = 60.0
# What agents do, and whom they look at; not that they are writing, or have read.
_DONE: Final = frozenset({"list", "show", "take", "reply", "note", "hand_back", "assign", "close"})
_CHANGES: Final = ("put", "set", "remove")
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text: Final = msgspec.json.Decoder(str).decode


class Notes:
    """Wraps those who answer requests. `run` writes down what was counted; `flush` does it now."""

    def __init__(self, audit: AuditLog, log: Callable[..., object]) -> None:
        self._audit = audit
        self._log = log
        self._counts: Counter[tuple[str, str, str, str]] = Counter()

    def each(self, handler: Handler) -> Handler:
        """What `handler` answers is noted one by one."""

        async def answer(request: Asked) -> bytes:
            said = await handler(request)
            fields = _fields(request.payload)
            verb, agent, target = (_word(fields.get(name)) for name in ("do", "agent", "conversation"))
            if verb in _DONE:
                server, outcome = f"server:{request.sender}", _outcome(said)
                done = Done(
                    actor=f"agent:{agent}" if agent and outcome == "done" else server,
                    brand=request.brand,
                    operation=f"{request.kind}.{verb}",
                    target=f"conversation/{target}" if target else "",
                    detail={"by": server} if agent else {},
                )
                await self._audit.note(done, outcome)
            return said

        return answer

    def counted(self, handler: Handler) -> Handler:
        """What `handler` answers is counted."""

        async def answer(request: Asked) -> bytes:
            said = await handler(request)
            fields = _fields(request.payload)
            for verb in _CHANGES:
                if verb in fields:
                    self._counts[request.brand, request.sender, f"{request.kind}.{verb}", _outcome(said)] += 1
            return said

        return answer

    async def run(self) -> None:
        """Note what was counted, once a minute, for ever."""
        while True:
            await asyncio.sleep(COUNTED_S)
            try:
                await self.flush()
            except Failed as error:
                self._log("the audit log cannot be written", error=error.message, remedy=error.remedy)

    async def flush(self) -> None:
        """Note what was counted."""
        for key, count in list(self._counts.items()):
            brand, sender, operation, outcome = key
            done = Done(actor=f"server:{sender}", brand=brand, operation=operation, detail={"requests": count})
            await self._audit.note(done, outcome)
            self._counts[key] -= count
            if not self._counts[key]:
                del self._counts[key]


def _fields(payload: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _object(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _word(raw: Any) -> str:
    try:
        word = _text(raw) if raw is not None else ""
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    return word if len(word) <= 64 and word.isprintable() else ""


def _outcome(answer: bytes) -> str:
    return "done" if bytes(_fields(answer).get("ok", b"")) == b"true" else "refused"
