"""The way from the core to the books."""

import asyncio

from broker.bridge.intake import settling


async def test_nobody_minds_an_answer_that_comes_when_its_asker_has_gone() -> None:
    told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    settle = settling(told)
    told.cancel()
    settle(0)
    assert told.cancelled()
    waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    settling(waiting)(16)
    assert await waiting == 16
