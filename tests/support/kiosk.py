"""Devices for the SDK's tests: their certificates, and a handler that can be waited for."""

import json
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from support.mosquitto import Mosquitto

from client_sdk import Credentials, Message
from client_sdk.credentials import prepare


def issue(mosquitto: Mosquitto, directory: Path) -> Credentials:
    new = prepare(directory, url=mosquitto.device_url, ca=mosquitto.authority.pem)
    return new.accept(answer(mosquitto.authority.answer(new.request(), "kiosk-7"), mosquitto.authority.pem))


def answer(certificate: bytes, ca: bytes, *, user: str = "ada", store: str = "milano") -> bytes:
    """What a broker answers to a signing request."""
    fields = {
        "identity": "acme/device/kiosk-7",
        "brand": "acme",
        "device": "kiosk-7",
        "user": user,
        "store": store,
        "certificate": certificate.decode(),
        "ca": ca.decode(),
        "not_after": "2027-11-22T08:00:00Z",
    }
    return json.dumps(fields).encode()


class Handler:
    """Keeps what it got; can be told to block or to fail."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.go = threading.Event()
        self.go.set()
        self.failures = 0

    def __call__(self, message: Message) -> None:
        self.messages.put(message)
        assert self.go.wait(20)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the screen is dark")

    def next(self, timeout: float = 10) -> Message:
        return self.messages.get(timeout=timeout)

    @property
    def idle(self) -> bool:
        return self.messages.empty()


def until(condition: Callable[[], object]) -> None:
    """Wait for something that has no event, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
