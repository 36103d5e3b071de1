"""A mosquitto with TLS, devices with certificates for it, and handlers that can be waited for."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.kiosk import Handler, issue
from support.mosquitto import Mosquitto
from support.tester import Tester

from client_sdk import Backoff, Credentials


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "mosquitto")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def tester(mosquitto: Mosquitto) -> Iterator[Tester]:
    with Tester(mosquitto.plain) as tester:
        yield tester


@pytest.fixture
def credentials(mosquitto: Mosquitto, tmp_path: Path) -> Credentials:
    """kiosk-7 of ada, in milano, with a certificate of mosquitto's authority."""
    return issue(mosquitto, tmp_path / "kiosk")


@pytest.fixture
def quickly() -> Callable[[], Backoff]:
    """Reconnects without the pauses that a fleet needs."""
    return lambda: Backoff(first_s=0.05, longest_s=0.2)


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler = Handler()
    yield handler
    handler.go.set()
