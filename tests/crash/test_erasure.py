"""Somebody is being erased by a broker that is killed again and again: it goes on, and nothing is left."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.live import populate, running
from support.mqtt import Client
from support.person import NAME, PHONE, WORDS, found, make
from support.served import Served

from broker.admin import client as admin

LIVES = 2
SAID = 5_000
ALL = (NAME, PHONE, "langes-gespraech", *WORDS)


@pytest.fixture(autouse=True)
async def no_client_stays() -> AsyncIterator[None]:
    yield
    await Client.abort_all()


async def test_a_killed_broker_goes_on_erasing(tmp_path: Path) -> None:
    await fill(tmp_path / "data")
    assert {word for words in found(tmp_path / "data", ALL).values() for word in words} == set(ALL)
    pauses = random.Random(7)
    with Served(tmp_path) as served:
        for life in range(LIVES):
            if life == 0:
                with closing(admin.Stream(served.socket, "user.erase", {"brand": "acme", "name": NAME})) as stream:
                    assert next(stream) == {"erasing": True}  # it is written down now
            await asyncio.sleep(pauses.random() / 10)
            served.kill()
            served.start()
        async with asyncio.timeout(20):
            while not (noted := await ask(served, "audit.list", operation="user.erased")):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # another process
        (entry,) = noted
        assert entry["detail"]["removed"]["entries"] == SAID + 2
        assert entry["detail"]["left"] == {}
        assert (await ask(served, "user.traces", brand="acme", name=NAME))["counts"] == {}
    assert found(tmp_path / "data", ALL) == {}


async def fill(data: Path) -> None:
    """Somebody of whom much is known, and who has said a lot."""
    insert = f"""WITH RECURSIVE n (i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < {99 + SAID})
                 INSERT INTO entry SELECT number, i, 'x' || i, 0, 'customer', '', 'langes-gespraech'
                 FROM n, conversation WHERE name = '{NAME}'"""
    async with running(data) as broker:
        await populate(broker)
        await make(broker)
        await broker.bridge.messages.write(lambda db: db.execute(insert))


async def ask(served: Served, what: str, **arguments: Any) -> Any:
    return await asyncio.to_thread(admin.call, served.socket, what, arguments)
