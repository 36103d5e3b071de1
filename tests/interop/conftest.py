"""A broker that lets everybody in, on a plain and a TLS port."""

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.live import port, running

from broker.app import Broker


@dataclass
class Address:
    """Where a client is to go. `ca` is None for the plain port."""

    broker: Broker
    port: int
    ca: Path | None

    @property
    def context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.ca) if self.ca else None


@pytest.fixture(params=["plain", "tls"])
async def address(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Address]:
    async with running(tmp_path, allow_anonymous=True) as broker:
        if request.param == "tls":
            yield Address(broker, port(broker, "mqtts"), tmp_path / "certs" / "ca.crt")
        else:
            yield Address(broker, port(broker), None)
        assert broker.core.counters.protocol_errors == 0
        assert broker.core.counters.handshakes_failed == 0
