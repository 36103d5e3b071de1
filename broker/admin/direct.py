"""Operations on the records themselves, for when no broker runs. The caller holds the lock on the data directory."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from broker.admin.operations import Context, perform
from broker.config import Settings
from broker.trust.directory import open_directory


def call(settings: Settings, operation: str, arguments: Mapping[str, Any]) -> Any:
    """Do one operation."""

    async def work() -> Any:
        async with opened(settings) as context:
            return await perform(context, operation, arguments)

    return asyncio.run(work())


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Context]:
    """The directory in the data directory; what is missing there is made."""
    opening = open_directory(settings.data, trust_domain=settings.trust_domain, names=settings.names)
    async with opening as directory:
        yield Context(settings, directory)
