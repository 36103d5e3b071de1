"""Operations on the records themselves, for when no broker runs. The caller holds the lock on the data directory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from broker.admin.operations import Context, jsonable, perform, stream
from broker.config import Settings
from broker.trust.directory import open_directory

T = TypeVar("T")


def call(settings: Settings, operation: str, arguments: Mapping[str, Any]) -> Any:
    """Do one operation."""

    async def work() -> Any:
        async with opened(settings) as context:
            return await perform(context, operation, arguments)

    return asyncio.run(work())


class Stream:
    """An operation that answers with one thing after the other. Close it."""

    def __init__(self, settings: Settings, operation: str, arguments: Mapping[str, Any], ended: Callable[[], None]):
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._ended = ended
        try:
            context = self._run(self._stack.enter_async_context(opened(settings)))
            self._iterator: AsyncIterator[Any] = self._run(stream(context, operation, arguments))
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = self._run(anext(self._iterator, None))
        if item is None:
            raise StopIteration
        return jsonable(item)

    def _run(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return self._runner.run(run())

    def close(self) -> None:
        """Let go of the records."""
        try:
            self._run(self._stack.aclose())
            self._runner.close()
        finally:
            self._ended()


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Context]:
    """The directory in the data directory; what is missing there is made."""
    opening = open_directory(settings.data, trust_domain=settings.trust_domain, names=settings.names)
    async with opening as directory:
        yield Context(settings, directory)
