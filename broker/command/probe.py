"""A message the whole way, for `doctor`: a device enrols, a brand's server sends, the device acknowledges."""

import os
import queue
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cryptography import x509

from broker.address import Listener
from broker.command.base import Run
from broker.command.certificate import load, names
from broker.command.checks import Check, reachable_host
from broker.errors import NotFound, PushbrokerError
from client_sdk import Brand, Device, Message, PushError, enrol

BRAND: Final = "pushbroker-doctor"
_DEVICE: Final = "probe"
_TIMEOUT_S: Final = 10


def push(run: Run, listeners: list[Listener]) -> Iterator[Check]:
    """Send through the first listener that we can reach with TLS, as a brand of our own to a device of our own."""
    listener = next((listener for listener in listeners if listener.scheme == "mqtts" and not listener.proxy), None)
    if listener is None:
        words = "no listener has TLS and no proxy before it, which a device here needs to enrol"
        yield Check("push", "skipped", words, "--listen mqtts://0.0.0.0:8883")
        return
    try:
        with _brand(run) as token, tempfile.TemporaryDirectory(prefix="pushbroker-doctor-") as directory:
            url, ca = _door(run, listener)
            code = run.call("device.code", brand=BRAND, device=_DEVICE, ttl_s=60)["code"]
            took_ms = _push(url, token, code, ca, Path(directory))
    except PushError as error:
        host = reachable_host(listener)
        remedy = error.remedy or f"Look into the broker's log; if its certificate lacks {host}, add that to names."
        yield Check("push", "failed", f"through {listener.address}: {error.message}", remedy)
    except PushbrokerError as error:
        yield Check("push", "failed", error.message, error.remedy)
    else:
        yield Check("push", "ok", f"a message through {listener.address} was acknowledged after {took_ms:.1f} ms")


def _door(run: Run, listener: Listener) -> tuple[str, bytes | None]:
    """The URL at which the broker's certificate is right, and whose signature it bears (None: a public authority's)."""
    ca = x509.load_pem_x509_certificate(pem := run.call("cert.ca")["certificate"].encode())
    shown = run.settings.certs_path / "server.crt"
    host = reachable_host(listener)
    if os.access(shown, os.R_OK) and (server := load(shown)).issuer != ca.subject:
        host = next((name for name in names(server) if "*" not in name), host)
        return f"mqtts://{host}:{listener.port}", None
    return f"mqtts://[{host}]:{listener.port}" if ":" in host else f"mqtts://{host}:{listener.port}", pem


@contextmanager
def _brand(run: Run) -> Iterator[str]:
    """Our brand, with a token for it; what an interrupted run may have left is removed first."""
    with suppress(NotFound):
        run.call("brand.remove", name=BRAND)
    run.call("brand.add", name=BRAND, title="made and removed by pushbroker doctor")
    try:
        yield run.call("token.issue", brand=BRAND, ttl_s=60)["secret"]
    finally:
        run.call("brand.remove", name=BRAND)


def _push(url: str, token: str, code: str, ca: bytes | None, directory: Path) -> float:
    """Send and receive; returns the milliseconds from sending to the receipt. Raises `PushError`."""
    arrived: queue.SimpleQueue[Message] = queue.SimpleQueue()
    credentials = enrol(url=url, code=code, directory=directory, ca=ca, timeout=_TIMEOUT_S)
    with (
        Device(credentials, on_message=arrived.put) as device,
        Brand(url, brand=BRAND, token=token, ca=ca, timeout=_TIMEOUT_S) as brand,
    ):
        device.wait_connected(timeout=_TIMEOUT_S)
        began = time.perf_counter()
        sent = brand.send(to_device=_DEVICE, title="Hello", body="from pushbroker doctor", ttl=60)
        receipt = sent.wait_delivered(timeout=_TIMEOUT_S)
        took_ms = (time.perf_counter() - began) * 1000
        if receipt is None:
            raise PushError(f"message {sent.message_id} was accepted, but no receipt came within {_TIMEOUT_S} s")
        with suppress(queue.Empty):
            if arrived.get(timeout=_TIMEOUT_S).id == sent.message_id:
                return took_ms
    raise PushError(f"message {sent.message_id} did not arrive at the device")
