"""The library that makes disks fail, and the faults of one test's broker."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.faults import Faults, build
from support.mqtt import Client


@pytest.fixture(autouse=True)
async def _no_clients_left() -> AsyncIterator[None]:
    yield
    await Client.abort_all()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def faults(library: Path, tmp_path: Path) -> Faults:
    """Of the journal of a broker in `tmp_path / "data"`."""
    return Faults(library, tmp_path / "control", tmp_path / "data" / "journal.db")
