"""Their end of a link: the SDK's connection, which is paho on a thread of its own, and how it is made from the records.

paho rather than aiomqtt: it acknowledges by hand, which aiomqtt does not let, and the SDK has it on a thread already.
That thread resolves names, connects and shakes hands, so that a broker that hangs does not hold up our loop.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.address import DEFAULT_PORTS
from broker.errors import Refused
from broker.limits import LINK_HELD_BYTES_MAX, LINK_IN_FLIGHT_MAX, LINK_SESSION_S, LINK_STOP_S
from broker.store.links import Link
from client_sdk.address import Address, tls_context
from client_sdk.advice import Advice
from client_sdk.backoff import Backoff
from client_sdk.errors import PushError, Unreachable, lasting
from client_sdk.link import Link as Connection
from client_sdk.packets import Incoming, Publish, UserProperties

MqttVersion = Literal[4, 5]
_EXAMPLE: Final = "Write mqtts://HOST:8883, or mqtt, wss://HOST/mqtt or ws for mqtts."
UNSUPPORTED_VERSION: Final = 0x84
_FILTERS_MAX: Final = 8  # in one SUBSCRIBE: all that AWS IoT takes
_TEST_S: Final = 20.0


class Events(Protocol):
    """Who is told, on the loop, what happens at their end."""

    def up(self, far: "Far", session_present: bool) -> None:
        """Their broker took the connection."""

    def down(self, far: "Far", error: PushError, retry_in_s: float) -> None:
        """The connection ended, or could not be made."""

    def heard(self, far: "Far", incoming: Incoming) -> None:
        """A message came; `Far.release` is called when it was dealt with."""

    def ended(self, far: "Far") -> None:
        """It will not connect any more: it was closed, or its thread has met a bug."""


class Far:
    """One connection that comes back by itself. Its methods are for the loop."""

    def __init__(
        self,
        link: Link,
        password: str | None,
        *,
        version: MqttVersion,
        events: Events,
        backoff: Backoff | None = None,
        client_id: str = "",
        lasting: bool = True,
    ) -> None:
        self.version: MqttVersion = version
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._held = self._held_bytes = 0  # of messages that were not dealt with, on the network thread
        self.connection = Connection(
            address=parse_url(link.url),
            context=context(link),
            events=self,
            advice=Advice(
                refusal="it does not accept our client id, user name, password or certificate",
                remedy=f"pushbroker link set {link.brand} {link.name} --help",
                authority=link.ca or "the system's authorities",
            ),
            client_id=client_id or link.client_id,
            username=link.username or None,
            password=password,
            clean_start=not lasting,
            session_expiry_s=LINK_SESSION_S if lasting else 0,
            receive_maximum=LINK_IN_FLIGHT_MAX,
            patient=lasting,
            backoff=backoff,
            version=version,
            keeps=False,  # our session does, and sends it again
        )

    def start(self) -> None:
        """Begin to connect, and keep at it."""
        self.connection.ended.add_done_callback(lambda _: self.soon(self._events.ended, self))
        self.connection.start()

    async def close(self) -> None:
        """Say goodbye. A connection that is just being made says nothing any more, and is not waited for."""
        was_up = self.connection.is_up
        self.connection.close(LINK_STOP_S, wait=False)
        if not was_up:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self.connection.ended)), LINK_STOP_S + 1)

    def publish(self, publish: Publish) -> "Future[None]":
        """Publish at QoS 1; fails with `Refused` where they say so, else as the SDK's `Link.publish`."""
        return self.connection.publish(publish, lambda _accepted: None)

    def release(self, incoming: Incoming) -> None:
        """A message was dealt with: acknowledge it."""

        def release() -> None:
            if incoming.connection == self.connection.connection:  # else it comes again
                self.connection.ack(incoming.connection, incoming.packet_id, incoming.qos)
                self._hold(-1, -len(incoming.payload))

        self.connection.call(release)

    async def subscribe(self, filters: Sequence[str], stale: Sequence[str] = ()) -> list[str]:
        """Subscribe, and give up what is stale. Returns the filters that were refused.

        Raises `Unreachable` when the connection ends before the answer.
        """
        refused: list[str] = []
        for some in _parts(filters):
            codes = await self._ask(partial(self.connection.subscribe, some, _options()))
            refused += [filter for filter, code in zip(some, codes, strict=True) if code >= 0x80]
        for some in _parts(stale):
            await self._ask(partial(self.connection.unsubscribe, some))
        return refused

    async def _ask(self, ask: Callable[[], "Future[list[int]]"]) -> list[int]:
        answer: Future[list[int]] = Future()

        def on_thread() -> None:
            asked = ask()
            asked.add_done_callback(hand_on)

        def hand_on(asked: "Future[list[int]]") -> None:
            if answer.set_running_or_notify_cancel():
                error = asked.exception()
                if error is not None:
                    answer.set_exception(error)
                else:
                    answer.set_result(asked.result())

        if not self.connection.call(on_thread):
            raise Unreachable("the connection has been closed")
        return await asyncio.wrap_future(answer)

    def soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call it on the loop; from any thread, and not any more when the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    # -- on the network thread ---------------------------------------------------------------------------------------

    def up(self, *, session_present: bool, told: UserProperties) -> None:
        """As the SDK's `Events` has it."""
        del told
        self._held = self._held_bytes = 0  # it will come again
        self.connection.reading = True
        self.soon(self._events.up, self, session_present)

    def down(self, error: PushError, retry_in_s: float) -> None:
        """As the SDK's `Events` has it."""
        self.soon(self._events.down, self, error, retry_in_s)

    def arrived(self, incoming: Incoming) -> None:
        """As the SDK's `Events` has it. Their broker waits while too much is not dealt with."""
        self._hold(1, len(incoming.payload))
        self.soon(self._events.heard, self, incoming)

    def _hold(self, messages: int, size: int) -> None:
        self._held += messages
        self._held_bytes += size
        self.connection.reading = self._held < LINK_IN_FLIGHT_MAX and self._held_bytes < LINK_HELD_BYTES_MAX


def _parts(filters: Sequence[str]) -> Iterator[Sequence[str]]:
    """A packet's worth each."""
    return (filters[at : at + _FILTERS_MAX] for at in range(0, len(filters), _FILTERS_MAX))


def _options() -> SubscribeOptions:
    """Not what we have sent; retained messages once, and marked as such."""
    return SubscribeOptions(
        qos=1,
        noLocal=True,
        retainAsPublished=True,
        retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB,
    )


def parse_url(url: str) -> Address:
    """Where their broker is. Raises `Refused` with an example for what is no URL of one."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Refused(f"{url!r} is not a broker's URL: {error}", reason=0x83, remedy=_EXAMPLE) from None
    web = parts.scheme in ("ws", "wss")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise Refused(f"{url!r} is not a broker's URL", reason=0x83, remedy=_EXAMPLE)
    if parts.username is not None:
        raise Refused(
            "a URL ends up in logs: the user name and the password do not belong there",
            reason=0x83,
            remedy="Use --username, and --password, which reads it from stdin.",
        )
    if not web and parts.path not in ("", "/"):
        raise Refused(f"{url!r} has a path, which only ws and wss have", reason=0x83, remedy=_EXAMPLE)
    return Address(
        host=parts.hostname,
        port=port or DEFAULT_PORTS[parts.scheme],
        tls=parts.scheme in ("mqtts", "wss"),
        path=(parts.path if parts.path not in ("", "/") else "/mqtt") if web else "",
    )


def context(link: Link) -> ssl.SSLContext | None:
    """How their broker is checked, and what is shown to it; None without TLS. Raises `Refused` for files of no use."""
    if not parse_url(link.url).tls:
        return None
    try:
        made = tls_context(ca=Path(link.ca).read_bytes() if link.ca else None, system=not link.ca)
        if link.cert:
            made.load_cert_chain(link.cert, link.key or None, password=_no_passphrase)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        where = getattr(error, "filename", None) or link.cert or link.ca
        raise Refused(
            f"the link's certificates are of no use: {where}: {getattr(error, 'strerror', None) or error}",
            reason=0x83,
            remedy="Give PEM files that the broker's user can read: --ca, --cert, and --key without a passphrase.",
        ) from None
    return made


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


class _Test:
    """Sees how a first connection goes."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def up(self, far: Far, session_present: bool) -> None:
        del far
        if not self.outcome.done():
            self.outcome.set_result(session_present)

    def down(self, far: Far, error: PushError, retry_in_s: float) -> None:
        del far, retry_in_s
        if not self.outcome.done():
            self.outcome.set_exception(error)

    def heard(self, far: Far, incoming: Incoming) -> None:
        """It is not acknowledged, and goes with the session."""

    def ended(self, far: Far) -> None:
        """Nobody waits for that."""


async def test(link: Link, password: str | None, filters: Sequence[str]) -> dict[str, Any]:
    """Connect once, with a session that ends at once, subscribe, and say how that went."""
    began = time.monotonic()
    versions: list[MqttVersion] = [4] if link.version == "3.1.1" else [5] if link.version == "5" else [5, 4]
    for version in versions:
        watch = _Test()
        far = Far(link, password, version=version, events=watch, client_id=f"{link.client_id}-test", lasting=False)
        far.start()
        try:
            await asyncio.wait_for(watch.outcome, _TEST_S)
            refused = await asyncio.wait_for(far.subscribe(filters), _TEST_S)
            return {
                "ok": not refused,
                "mqtt": "5" if version == 5 else "3.1.1",
                "took_ms": round((time.monotonic() - began) * 1000),
                "refused": refused,
                "error": f"their broker refuses the subscription to {refused[0]}" if refused else "",
                "remedy": "Allow it there for this client id and user." if refused else "",
            }
        except PushError as error:
            if getattr(error, "reason", 0) == UNSUPPORTED_VERSION and version != versions[-1]:
                continue
            failed = error
        except TimeoutError:
            failed = Unreachable(f"their broker does not answer within {_TEST_S:.0f} s")
        finally:
            await far.close()
        return {
            "ok": False,
            "mqtt": "5" if version == 5 else "3.1.1",
            "took_ms": round((time.monotonic() - began) * 1000),
            "refused": [],
            "error": failed.message,
            "remedy": failed.remedy or ("" if lasting(failed) else "Look whether it runs, and at the way there."),
        }
    raise AssertionError("the last version returns")
