"""An engine on plain and TLS sockets."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.engine import Engine, running
from support.mqtt import Client
from support.pki import Pki


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(Path(tmp_path_factory.mktemp("pki")))


@pytest.fixture
async def engine(pki: Pki) -> AsyncIterator[Engine]:
    async with running(tls=pki.context) as engine:
        yield engine
        await Client.abort_all()
        assert engine.counters.unexpected_errors == 0
