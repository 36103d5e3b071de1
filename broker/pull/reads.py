"""Answers what agents' tools only look at, beside the books, so that it holds up nothing that is to be written.

A request that changes something is a fact, and done in the order of all facts. A look changes nothing: it is answered
now, one after the other for each brand, and not at all by the next process, whose client asks again.
"""

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from broker.bridge.desk import Handler
from broker.bridge.facts import Asked
from broker.counters import Counters
from broker.errors import Failed
from broker.limits import READ_BYTES_MAX, READS_WAITING_MAX
from broker.pull.inbox_requests import refusal

_READS: Final = frozenset({"list", "show", "typing"})


class _What(msgspec.Struct):
    do: str = ""


_what: Final = msgspec.json.Decoder(_What).decode


class Reads:
    """do(request): what it is answered, not at all written. answer(request, answer): send it."""

    def __init__(
        self,
        *,
        do: Handler,
        answer: Callable[[Asked, bytes], object],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        counters: Counters,
        log: Callable[..., object],
        unexpected: Callable[[Exception], object],
    ) -> None:
        self._do = do
        self._answer = answer
        self._spawn = spawn
        self._counters = counters
        self._log = log
        self._unexpected = unexpected
        self._waiting: dict[str, deque[Asked]] = {}  # of each brand that has any

    def take(self, request: Asked) -> bool:
        """Answer it soon if it only looks at something; False: it is for the books."""
        if not _is_read(request.payload):
            return False
        waiting = self._waiting.get(request.brand)
        if waiting is None:
            self._waiting[request.brand] = deque([request])
            self._spawn(self._run(request.brand))
        elif len(waiting) < READS_WAITING_MAX:
            waiting.append(request)
        else:
            self._refuse(request, "too_many", f"{READS_WAITING_MAX} requests wait: send fewer at a time")
        return True

    async def _run(self, brand: str) -> None:
        waiting = self._waiting[brand]
        try:
            while waiting:
                await self._one(waiting[0])
                waiting.popleft()
        finally:
            del self._waiting[brand]

    async def _one(self, request: Asked) -> None:
        try:
            answer = await self._do(request)
        except Failed as error:
            self._log("an inbox cannot be read", error=error.message, remedy=error.remedy)
            self._refuse(request, "unable", "that cannot be read at present: ask again later")
        except Exception as error:  # noqa: BLE001 - one request does not stop the others
            self._unexpected(error)
            self._refuse(request, "internal_error", "that cannot be answered: the operator is told why")
        else:
            self._answer(request, answer)

    def _refuse(self, request: Asked, code: str, message: str) -> None:
        self._counters.inbox_requests_refused += 1
        self._answer(request, refusal(request.payload, code, "", message))


def _is_read(payload: bytes) -> bool:
    if len(payload) > READ_BYTES_MAX:
        return False
    try:
        return _what(payload).do in _READS
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
