"""Does what brands' servers ask of their content, one after the other, each brand in turn.

A put of 1,000 items takes half a second. Among the facts it would hold up what becomes of everybody's messages;
so the fact only puts the request into the library's own queue, and it is done, and answered, from there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from broker.bridge.facts import Asked
from broker.errors import Failed
from broker.limits import CONTENT_WAITING_MAX
from broker.store.content import Content

RETRY_S: Final = 1.0
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Asked).decode


class Queue:
    """do(request): do it, and return the answer; it may come again after a crash. answer(request, answer): send it.

    full(request): the answer where too much waits.
    """

    def __init__(
        self,
        *,
        content: Content,
        do: Callable[[Asked], Awaitable[bytes]],
        answer: Callable[[Asked, bytes], object],
        full: Callable[[Asked], bytes],
        log: Callable[..., object],
        unexpected: Callable[[Exception], object],
    ) -> None:
        self._content = content
        self._do = do
        self._answer = answer
        self._full = full
        self._log = log
        self._unexpected = unexpected
        self._arrived = asyncio.Event()
        self._arrived.set()  # perhaps the last process left some
        self._last = ""  # whose turn it was
        self.working = asyncio.Lock()  # from when a request is read until it is done

    async def keep(self, request: Asked) -> None:
        """Put it behind the others."""
        if await self._content.keep(request.id, request.brand, _encode(request), CONTENT_WAITING_MAX):
            self._arrived.set()
        else:
            self._answer(request, self._full(request))

    async def run(self) -> None:
        """Do what comes, for ever. What the disk does not let us do is tried again."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            try:
                while await self._next():
                    pass
            except Failed as error:
                self._log("content cannot be changed", error=error.message, remedy=error.remedy)
                await asyncio.sleep(RETRY_S)
                self._arrived.set()

    async def _next(self) -> bool:
        """Do the next one. False: there is none."""
        async with self.working:
            found = await self._content.next_request(self._last)
            if found is None:
                return False
            number, self._last, body = found
            await self._one(_decode(body))
            await self._content.request_done(number)
        return True

    async def _one(self, request: Asked) -> None:
        try:
            answer = await self._do(request)
        except Failed:
            raise
        except Exception as error:  # noqa: BLE001 - one request does not stop the others
            self._unexpected(error)
            return
        self._answer(request, answer)
