"""One connection that comes back by itself: paho's packets on a network thread of our own.

All of paho runs on this one thread; other threads only put work into its mailbox. So an acknowledgement may come from
any thread, nothing depends on a lock of paho's, and an SSL socket is never used from two threads at once. paho's own
loops are not used: they reconnect on CONNACK's word alone (see `backoff`), wait in `select.select`, which knows no
descriptor above 1023, and let a publishing thread write to the socket in the middle of the network thread's write.

asyncio programs use the same thread, rather than `loop.add_reader` on paho's socket: paho resolves, connects and shakes
hands while blocking, which must not happen on an event loop, and reads one packet at a time while OpenSSL may hold more
in its buffer, for which the socket never becomes readable again.
"""

import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final, Literal, Protocol, TypeVar

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from client_sdk.address import Address
from client_sdk.advice import Advice
from client_sdk.backoff import Backoff
from client_sdk.errors import PushError, Refused, Unconfirmed, Unreachable, describe, lasting
from client_sdk.mailbox import Mailbox, guard
from client_sdk.packets import Accepted, Incoming, Later, Outgoing, Publish, UserProperties, user_properties

log = logging.getLogger(__name__)
T = TypeVar("T")

V5: Final = 5
PACKET_BYTES_MAX: Final = 1 << 20  # what we take: the broker's own default for what it takes
WAITING_MAX: Final = 10_000  # publishes that wait for a connection or for the broker's window
WINDOW_MAX: Final = 1_000  # publishes that wait for their PUBACK, less when the broker says so
_CONNECT_TIMEOUT_S: Final = 10.0  # each of: TCP, TLS, CONNACK
_TICK_S: Final = 5.0  # paho looks at the keep-alive that often
# What a broker answers to one bad PUBLISH by closing the connection: sending it again would go on for ever.
POISON: Final = frozenset({0x81, 0x90, 0x94, 0x95, 0x99, 0x9A, 0x9B})


class Events(Protocol):
    """Who is told what happens. All methods are called on the network thread and must not block."""

    def up(self, *, session_present: bool, told: UserProperties) -> None:
        """The broker accepted the connection, and `told` us something in user properties."""

    def down(self, error: PushError, retry_in_s: float) -> None:
        """The connection ended or could not be made."""

    def arrived(self, incoming: Incoming) -> None:
        """A message came."""


class Link:
    """See the module. `context` is None for plain TCP. Start it once, close it once.

    The session outlives the connection by `session_expiry_s`, except that `forget_session` ends it with `close`. A link
    that is not `patient` ends by itself when its first connection fails for a reason that waiting does not heal.

    will: what the broker publishes when the connection ends without a goodbye.
    version: of MQTT, 5, or 4 for 3.1.1, where a session ends with the connection or never. keeps: what was not answered
    when the connection ends is sent again on the next one; else it fails with `Unconfirmed`, and its sender decides.
    """

    def __init__(
        self,
        *,
        address: Address,
        context: ssl.SSLContext | None,
        events: Events,
        advice: Advice,
        client_id: str,
        username: str | None = None,
        password: str | None = None,
        clean_start: bool = False,
        session_expiry_s: int = 0,
        receive_maximum: int = 32,
        keep_alive_s: int = 60,
        forget_session: bool = False,
        patient: bool = True,
        backoff: Backoff | None = None,
        version: Literal[4, 5] = 5,
        keeps: bool = True,
        will: Publish | None = None,
    ) -> None:
        self.reading = True  # on the network thread only: False leaves what comes with the sender, for a while
        self.reached = False  # in the latest attempt, up to the point where MQTT begins
        self.ended: Future[None] = Future()  # when the thread has
        self.connection = 0  # the number of the newest connection that the broker accepted
        self.is_up = False
        self._address = address
        self._events = events
        self._advice = advice
        self._patient = patient
        self._backoff = backoff or Backoff()
        self._keep_alive_s = keep_alive_s
        self._clean_start = clean_start
        self._version = version
        self._keeps = keeps
        # Without a session expiry MQTT 5 throws the session and all that waits in it away at the first disconnect.
        self._connect_properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self._connect_properties.SessionExpiryInterval = session_expiry_s
        self._connect_properties.ReceiveMaximum = receive_maximum
        self._connect_properties.MaximumPacketSize = PACKET_BYTES_MAX
        self._goodbye: Properties | None = None
        if forget_session and session_expiry_s:
            self._goodbye = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            self._goodbye.SessionExpiryInterval = 0
        self._client = self._make_client(client_id, username, password, context)
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=will.retain)

        self._mailbox = Mailbox()
        self._waiting: deque[Outgoing[Any]] = deque()
        self._in_flight: dict[int, Outgoing[Any]] = {}
        self._subscribing: dict[int, Future[list[int]]] = {}
        self._window = WINDOW_MAX
        self._packet_bytes_max = 0  # 0: the broker named no bound
        self._trouble = ""  # what paho last logged as an error, which it tells nobody else
        self._refusal: Refused | None = None
        self._attempting = False  # from the first SYN to the last FIN
        self._retry_in_s = 0.0
        self._stopping = False
        self._stop_by = 0.0
        self._thread = threading.Thread(target=self._run, name=f"pushbroker-{client_id}", daemon=True)

    def _make_client(
        self, client_id: str, username: str | None, password: str | None, context: ssl.SSLContext | None
    ) -> Client:
        v5 = self._version == V5
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if v5 else self._clean_start,
            protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
            transport="websockets" if self._address.path else "tcp",
            reconnect_on_failure=False,
            manual_ack=True,
        )
        if self._address.path:
            client.ws_set_options(self._address.path)
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_inflight_messages = 0  # the window is kept here: paho does not look at the broker's
        if username is not None:
            client.username_pw_set(username, password)
        if context is not None:
            client.tls_set_context(context)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribed
        client.on_unsubscribe = self._on_unsubscribed
        client.on_socket_open = lambda _c, _u, sock: self._mailbox.watch(sock, new=True)
        client.on_socket_close = lambda _c, _u, sock: self._mailbox.unwatch(sock)
        # With this set, paho leaves writing to our loop instead of writing from within publish() and ack().
        client.on_socket_register_write = lambda *_: None
        client.on_log = self._on_log
        return client

    # -- from any thread -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect, and keep at it."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0, *, wait: bool = True) -> None:
        """Send what waits, for at most `timeout_s`, then say goodbye. What is left over fails.

        Without `wait` it returns at once, and `ended` says when that was done.
        """
        if self._thread.ident is None:
            self._end()
            return

        def stop() -> None:
            self._stopping = True
            self._stop_by = time.monotonic() + timeout_s

        self._mailbox.call(stop)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s + 3 * _CONNECT_TIMEOUT_S)

    def call(self, function: Callable[[], None]) -> bool:
        """Run `function` soon on the network thread. False when the link has ended and it never will."""
        return self._mailbox.call(function)

    def publish(self, publish: Publish, convert: Callable[[Accepted], T | Later]) -> Future[T]:
        """Publish at QoS 1 and get what `convert` makes of the answer, on the network thread.

        Where that is `LATER`, who asked sets the result.

        The future fails with `Refused` or, when the link ends first, with `Unconfirmed` or `Unreachable`. While it can
        be cancelled, nothing has been sent.
        """
        outgoing = Outgoing(publish, convert, time.monotonic())
        if not self._mailbox.call(lambda: self._enqueue(outgoing)):
            outgoing.future.set_exception(Unreachable("the connection has been closed"))
        return outgoing.future

    # -- on the network thread only ------------------------------------------------------------------------------------

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        """Run `function` on the network thread after a while, unless the link ends before."""
        self._mailbox.call_later(delay_s, function)

    def ack(self, connection: int, packet_id: int, qos: int) -> None:
        """Acknowledge; a no-op for QoS 0, and for a connection that is gone: what came on it will come again."""
        if qos and self.is_up and connection == self.connection:
            self._client.ack(packet_id, qos)

    def subscribe(self, filters: Iterable[str], options: SubscribeOptions | None = None) -> Future[list[int]]:
        """Subscribe at QoS 1. The future gets a reason code for each filter, or fails when the connection ends first.

        Never at QoS 2: paho confirms the receipt of such a message (PUBREC) before the handler has seen it, and it
        would be lost in a crash. `options` are of MQTT 5.
        """
        if self._version != V5:
            return self._answer_to(self._client.subscribe([(name, 1) for name in filters]))
        options = options or SubscribeOptions(qos=1)
        return self._answer_to(self._client.subscribe([(name, options) for name in filters]))

    def unsubscribe(self, filters: Iterable[str]) -> Future[list[int]]:
        """The reverse of `subscribe`."""
        return self._answer_to(self._client.unsubscribe(list(filters)))

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._connect()
                if self._stopping:
                    break  # nothing was said yet
                while self._client.socket() is not None:
                    self._turn()
                self._pause()
        except Exception:
            log.exception("the network thread has a bug and ends")
        finally:
            self._end()

    def _connect(self) -> None:
        self._attempting = True
        self._trouble = ""
        self._refusal = None
        self.reached = False
        try:
            only_v5: dict[str, Any] = {"clean_start": self._clean_start, "properties": self._connect_properties}
            self._client.connect_async(
                self._address.host,
                self._address.port,
                keepalive=self._keep_alive_s,
                **(only_v5 if self._version == V5 else {}),
            )
            self._client.reconnect()
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            self._lost(self._advice.not_connected(self._address, error))
        else:
            self.reached = True
            before = self.connection
            self.call_later(_CONNECT_TIMEOUT_S, lambda: self._no_answer(before))

    def _no_answer(self, before: int) -> None:
        if self._attempting and self.connection == before and self._refusal is None:
            self._drop(Unreachable(f"{self._address.host} took the connection but does not answer as a broker"))

    def _turn(self) -> None:
        """Wait for something to happen, and deal with all that did."""
        client = self._client
        try:
            if client.want_write():
                client.loop_write()
            sock = client.socket()
            if sock is None:
                return
            # What OpenSSL has read ahead makes no descriptor readable.
            reading = self.reading
            pending = reading and self._address.tls and sock.pending() > 0  # type: ignore[attr-defined]
            self._mailbox.watch(sock, reading=reading, writing=client.want_write())
            ready = self._mailbox.wait(0.0 if pending else 0.05 if self._stopping else _TICK_S)
            if (pending or sock in ready) and client.socket() is sock and self.reading:
                client.loop_read()
            client.loop_misc()
        except Exception as error:
            # A bug, paho's or ours, must not end the thread: a kiosk has nobody to restart it.
            log.exception("the connection is given up because of a bug")
            self._drop(Unreachable(f"the connection was given up because of a bug: {error!r}"))
            return
        self._flush()
        if self._stopping and client.socket() is not None and self._may_stop():
            self._say_goodbye()

    def _pause(self) -> None:
        until = time.monotonic() + self._retry_in_s
        while not self._stopping and (left_s := until - time.monotonic()) > 0:
            self._mailbox.wait(left_s)

    def _may_stop(self) -> bool:
        # A receipt that was asked for before the end may still be on its way from the mailbox to `_waiting`.
        return time.monotonic() >= self._stop_by or not (self._waiting or self._in_flight or self._mailbox.busy)

    def _say_goodbye(self) -> None:
        self._client.disconnect(properties=self._goodbye)
        by = time.monotonic() + 1.0
        while (sock := self._client.socket()) is not None and time.monotonic() < by:
            self._client.loop_write()
            if self._client.socket() is sock:
                self._mailbox.watch(sock, writing=True)
                self._mailbox.wait(0.05)
        self._close_socket()

    def _end(self) -> None:
        self.is_up = False
        self._close_socket()
        if not self._mailbox.close():
            return
        self.ended.set_result(None)
        self._fail_waiting()
        self._fail_in_flight(Unconfirmed("the connection was closed before the broker answered"))
        self._fail_subscribing()

    # -- the connection ------------------------------------------------------------------------------------------------

    def _on_connect(self, _c: Client, _u: Any, flags: ConnectFlags, code: ReasonCode, props: Properties | None) -> None:
        if code.is_failure:
            self._refusal = self._turned_away("refuses the connection", code, props)
            return
        self.connection += 1
        self.is_up = True
        self._backoff.connected(time.monotonic())
        self._window = min(getattr(props, "ReceiveMaximum", WINDOW_MAX), WINDOW_MAX)
        self._packet_bytes_max = getattr(props, "MaximumPacketSize", 0)
        log.debug("connected to %s:%d", self._address.host, self._address.port)
        guard(lambda: self._events.up(session_present=flags.session_present, told=user_properties(props)))

    def _on_disconnect(
        self, _c: Client, _u: Any, flags: DisconnectFlags, code: ReasonCode, props: Properties | None
    ) -> None:
        if self._refusal is not None:
            self._lost(self._refusal)
        elif flags.is_disconnect_packet_from_server:
            error = self._turned_away("closed the connection", code, props)
            if self._keeps and code.value in POISON:
                self._client.drop_out_messages()
                self._fail_in_flight(error)
            self._lost(error)
        else:
            self._lost(self._advice.broken(self._address.host, self._trouble))

    def _turned_away(self, what: str, code: ReasonCode, props: Properties | None) -> Refused:
        return self._advice.refused(f"{self._address.host} {what}", code.value, _detail(props))

    def _lost(self, error: PushError) -> None:
        """The one place where a connection, or an attempt at one, ends."""
        if not self._attempting:
            return
        self._attempting = False
        self.is_up = False
        self._backoff.disconnected(time.monotonic())
        if isinstance(error, Refused) and lasting(error):
            self._backoff.hopeless()
        self._retry_in_s = self._backoff.delay_s()
        self._fail_subscribing()
        if not self._keeps:
            self._client.drop_out_messages()
            self._fail_in_flight(Unconfirmed("the connection broke before the broker answered"))
            self._fail_waiting()
        if self._stopping:
            return
        if not self._patient and self.connection == 0 and lasting(error):
            log.debug("%s; there is no other attempt", error.message)
            self._stopping = True
            self._retry_in_s = 0.0
        else:
            level = logging.WARNING if lasting(error) or isinstance(error, Refused) else logging.INFO
            log.log(level, "%s; next attempt in %.1f s", error.message, self._retry_in_s)
        guard(lambda: self._events.down(error, self._retry_in_s))

    def _drop(self, error: PushError) -> None:
        self._lost(error)
        self._close_socket()

    def _close_socket(self) -> None:
        # connect_async() "terminates any already established connection immediately"; no other public method does.
        self._client.connect_async(self._address.host, self._address.port)

    def _on_log(self, _c: Client, _u: Any, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._trouble = text.removeprefix("failed to receive on socket: ")

    # -- messages ------------------------------------------------------------------------------------------------------

    def _on_message(self, _c: Client, _u: Any, message: MQTTMessage) -> None:
        props = message.properties
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("a message on a topic that is not UTF-8 is dropped")
            self.ack(self.connection, message.mid, message.qos)
            return
        incoming = Incoming(
            connection=self.connection,
            packet_id=message.mid,
            qos=message.qos,
            topic=topic,
            payload=bytes(message.payload),
            retained=message.retain,
            content_type=getattr(props, "ContentType", ""),
            expiry_s=getattr(props, "MessageExpiryInterval", None),
            user_properties=user_properties(props),
            response_topic=getattr(props, "ResponseTopic", ""),
            correlation_data=getattr(props, "CorrelationData", b""),
        )
        guard(lambda: self._events.arrived(incoming))

    def _enqueue(self, outgoing: Outgoing[Any]) -> None:
        if not (self._keeps or self.is_up):
            outgoing.future.set_exception(Unreachable("there is no connection"))
        elif len(self._waiting) < WAITING_MAX:
            self._waiting.append(outgoing)
            self._flush()
        elif outgoing.future.set_running_or_notify_cancel():
            outgoing.future.set_exception(Unreachable(f"{WAITING_MAX} messages are waiting to be sent already"))

    def _flush(self) -> None:
        while self._waiting and self.is_up and len(self._in_flight) < self._window:
            outgoing = self._waiting.popleft()
            if outgoing.future.set_running_or_notify_cancel():  # else its sender has given up
                try:
                    self._in_flight[self._send(outgoing)] = outgoing
                except (PushError, ValueError) as error:
                    outgoing.future.set_exception(error)

    def _send(self, outgoing: Outgoing[Any]) -> int:
        """Hand a message to paho, which keeps it until its PUBACK and sends it again after a reconnect."""
        publish = outgoing.publish
        properties = outgoing.properties(time.monotonic())
        if properties is None:
            raise Unreachable("the message expired before there was a connection")
        size = len(publish.payload) + len(publish.topic.encode()) + len(properties.pack()) + 16  # type: ignore[no-untyped-call]
        if 0 < self._packet_bytes_max < size:
            raise Refused(f"the message is larger than the broker's {self._packet_bytes_max} bytes", reason=0x95)
        info = self._client.publish(publish.topic, publish.payload, qos=1, retain=publish.retain, properties=properties)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            raise Unreachable("all packet ids are in use")
        return info.mid

    def _on_publish(self, _c: Client, _u: Any, mid: int, code: ReasonCode, props: Properties | None) -> None:
        outgoing = self._in_flight.pop(mid, None)
        if outgoing is None:
            return
        if code.is_failure:
            what = f"{self._address.host} does not accept the message to {outgoing.publish.topic}"
            words = describe(code.value, _detail(props))
            outgoing.fail(Refused(f"{what}: {words}", reason=code.value))
        else:
            guard(lambda: outgoing.accept(Accepted(code.value, user_properties(props))))

    def _fail_waiting(self) -> None:
        failed, self._waiting = self._waiting, deque()
        for outgoing in failed:
            if outgoing.future.set_running_or_notify_cancel():
                outgoing.future.set_exception(Unreachable("the connection was closed before the message was sent"))

    def _fail_in_flight(self, error: PushError) -> None:
        failed, self._in_flight = self._in_flight, {}
        for outgoing in failed.values():
            outgoing.fail(error)

    # -- subscriptions -------------------------------------------------------------------------------------------------

    def _answer_to(self, sent: tuple[MQTTErrorCode, int | None]) -> Future[list[int]]:
        future: Future[list[int]] = Future()
        mid = sent[1]
        if mid is None:
            future.set_exception(Unreachable("there is no connection"))
        else:
            self._subscribing[mid] = future
        return future

    def _on_subscribed(self, _c: Client, _u: Any, mid: int, codes: Sequence[ReasonCode], _p: Properties | None) -> None:
        future = self._subscribing.pop(mid, None)
        if future is not None:
            guard(lambda: future.set_result([code.value for code in codes]))

    def _on_unsubscribed(self, c: Client, u: Any, mid: int, codes: Sequence[ReasonCode], p: Properties | None) -> None:
        self._on_subscribed(c, u, mid, codes, p)

    def _fail_subscribing(self) -> None:
        failed, self._subscribing = self._subscribing, {}
        for future in failed.values():
            future.set_exception(Unreachable("the connection broke before the broker answered"))


def _detail(props: Properties | None) -> str:
    return str(getattr(props, "ReasonString", ""))
