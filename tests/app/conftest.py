"""A broker with two brands, and one that lets everybody in."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.live import populate, running

from broker.app import Broker


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        yield broker


@pytest.fixture
async def open_broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running(tmp_path / "open", allow_anonymous=True) as broker:
        yield broker
