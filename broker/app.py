"""The broker as a whole: builds its parts, wires them, starts and stops them in order."""

import asyncio
import resource
import secrets
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import msgspec
import structlog

from broker.address import Listener
from broker.admission import Admission
from broker.bridge.bridge import Bridge
from broker.bridge.enrolment import Enrolment
from broker.bridge.intake import settling
from broker.bridge.receipts import Receipts
from broker.bridge.tail import Tail
from broker.committer import Committer
from broker.config import Settings, check_anonymous
from broker.errors import Failed, Misconfigured, ProtocolError, Refused
from broker.identity import Identity, Role
from broker.journal import Journal, SavedSession, Totals
from broker.links.book import Book
from broker.links.links import Links
from broker.links.near import leftover
from broker.listen.bind import bound, name_of
from broker.listen.proxy import Proxies
from broker.listen.rates import Rates, RatesOf
from broker.listen.reactor import Reactor
from broker.listen.tls import TLSSocket
from broker.listen.websocket import WebRules
from broker.message import Message, Promise
from broker.pull.erasure import Erasures
from broker.pull.pull import Pull
from broker.pull.retention import Kept, Sweeper
from broker.route.access import ENROL_REQUEST
from broker.session.bounds import Limits
from broker.session.core import Core
from broker.session.recovery import restore_session
from broker.session.session import Session
from broker.store.journal import SqliteJournal
from broker.store.links import LinkTable
from broker.store.lock import DataLock
from broker.store.records import Known
from broker.store.retention import Retention
from broker.trust.amqtt_plugins import Plugins
from broker.trust.authority import Authority
from broker.trust.directory import Directory, open_directory
from broker.trust.gate import Gate
from broker.watch.throttle import Throttle
from broker.wire.codes import Reason
from broker.wire.packets import Properties
from broker.wire.publish import forwarded, message_id, properties_of
from broker.wire.topics import SHARE_PREFIX, check_filter, check_topic_name

# Descriptors for the store, the log, listeners, admin commands.
_DESCRIPTORS_OURS: Final = 64
_UNTIL_RESTART: Final = (
    "listen", "data", "trust_domain", "durability", "amqtt_plugins", "amqtt_topics", "amqtt_brands"
)  # fmt: skip
# While a large store is read.
PROGRESS_S: Final = 1.0
# A loop that is later than this does not serve; a supervisor may as well restart the process.
LAG_MAX_S: Final = 5.0
# A disk that does not answer for so long will hardly do so any more.
COMMIT_MAX_S: Final = 60.0


class Broker:
    """A running broker on one data directory. `start`, then `stop`; not to be started again."""

    def __init__(self, settings: Settings, inherited: Sequence[socket.socket] = ()) -> None:
        """`inherited` are sockets that a supervisor handed over; each must be one of the addresses to listen on."""
        self.settings = settings
        self._inherited = list(inherited)
        self.log = structlog.get_logger("broker")
        self.listeners: list[Listener] = []  # with the ports that they have got
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._throttle = Throttle(time.monotonic)
        self._started_at = 0.0
        self.core: Core
        self.reactor: Reactor
        self.directory: Directory
        self.authority: Authority
        self.gate: Gate
        self.links: Links

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as URLs without options."""
        return [listener.address for listener in self.listeners]

    # -- start -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make what is missing in the data directory, load what was kept, and listen.

        Raises `Failed` or `Refused`, with everything undone, when one of these cannot be done.
        """
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        settings, stack = self.settings, self._stack
        check_anonymous(settings)
        try:
            settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Failed(
                f"cannot make the data directory {settings.data}: {error.strerror}",
                remedy="Name one that can be written to with --data.",
            ) from None
        stack.enter_context(DataLock(settings.lock_path))
        if settings.journal_path.exists() and not settings.records_path.exists():
            raise Failed(
                f"{settings.records_path} is damaged: the file is gone, but {settings.journal_path.name} is there",
                remedy="Restore a backup with pushbroker store restore. To start empty on purpose, move both away.",
            )
        # Sockets first: a port in use is found before a large store is loaded.
        inherited = self._inherited
        sockets = [(listener, stack.enter_context(bound(listener, inherited))) for listener in settings.listen]
        if inherited:
            name = name_of(inherited[0])
            raise Misconfigured(
                f"systemd handed over a socket at {name}, which is not an address to listen on",
                remedy=f"Add it to listen, such as mqtts://{name}, or take it out of the .socket unit.",
            )

        self.directory = await stack.enter_async_context(
            open_directory(settings.data, trust_domain=settings.trust_domain, names=settings.names)
        )
        self.authority = self.directory.authority
        self._note_certificates(self.authority.notices)
        self.gate = Gate(self.directory, allow_anonymous=settings.allow_anonymous)
        self.admission = Admission(self.gate, run=self._spawn, log=self._log, opened=settings.amqtt_topics)
        self.directory.watch(self._identity_changed)

        self.receipts = Receipts(self._tell, self._book)
        self.core = Core(
            now=time.monotonic(),
            wall=time.time(),
            admit=self.admission.admit,
            random_id=lambda: f"auto-{secrets.token_hex(12)}",
            bridge=self.receipts,
            log=self._log,
            wake=self._wake,
            limits=_limits(settings),
        )
        await self._start_plugins()
        await self.directory.watch_overflow(self._overflow_changed)
        enrolment = Enrolment(
            sign=self._sign,
            code_of=self.admission.code_of,
            run=self._spawn,
            reply=self._reply,
            log=self._log,
        )
        self.core.router.serve(ENROL_REQUEST, enrolment.heard)

        self.journal: Journal = await SqliteJournal.open(settings.journal_path, durable=self.core.durable)
        stack.push_async_callback(self.journal.close)
        self.bridge = Bridge(
            core=self.core,
            receipts=self.receipts,
            register=self.directory,
            post=self.post,
            run=self._do,
            spawn=self._spawn,
            log=self._log,
        )
        await self._restore()
        await self.bridge.open(settings.messages_path, self.journal, settings.messages_kept_s)
        stack.push_async_callback(self.bridge.close)
        self.pull = Pull(core=self.core, bridge=self.bridge, run=self._do, spawn=self._spawn, log=self._log)
        await self.pull.open(settings.content_path, settings.records_path)
        stack.push_async_callback(self.pull.close)
        self.erasures = Erasures(
            core=self.core,
            bridge=self.bridge,
            register=self.directory,
            journal=self.journal,
            files=(
                ("messages", settings.messages_path),
                ("journal", settings.journal_path),
                ("records", settings.records_path),
            ),
            gone=self.pull.inbox.gone,
            run=self._do,
            log=self._log,
        )
        await self.erasures.open()
        kept = Retention(self.directory.records, self.bridge.messages)
        self.sweeper = Sweeper(kept, _kept(settings), self._log, self.core.unexpected)

        self.reactor = self.admission.reactor = Reactor(self.core, asyncio.get_running_loop())
        stack.callback(self.reactor.close)
        self._set_pace(settings)
        self.committer = Committer(self.core, self.journal, self.reactor.run)
        self.committer.start()
        self.bridge.start()
        self.pull.start()
        self._spawn(self.erasures.run())
        self._spawn(self.sweeper.run())
        self.links = Links(Book(self.directory.records, self.directory.now), self.core, self.reactor.run, self._log)
        self._context = self._tls_context()
        for listener, sock in sockets:
            path = "" if listener.unix else listener.path  # a Unix socket's is that of its file
            self.reactor.listen(
                sock,
                (lambda: self._context) if listener.tls else None,
                web=WebRules(path, frozenset(listener.origin)) if listener.web else None,
                proxy=Proxies(listener.proxy) if listener.proxy else None,
                connections_max=listener.connections_max,
                rates=Rates(listener.connects_per_s, listener.messages_per_s, listener.bytes_per_s),
            )
            if not listener.unix:
                host, port = sock.getsockname()[:2]
                listener = msgspec.structs.replace(listener, host=host, port=port)
            self.listeners.append(listener)
        await self.links.start()
        self._started_at = time.monotonic()
        self.log.info("listening", addresses=self.addresses, sessions=len(self.core.sessions))

    async def _start_plugins(self) -> None:
        """Start amqtt's plugins, all that are asked for, and say what is odd about them."""
        settings = self.settings
        for filter in settings.amqtt_topics:
            try:
                check_filter(filter)
            except ProtocolError as error:
                raise Misconfigured(
                    f"amqtt_topics: {filter!r} is not a topic filter: {error.message}", remedy='Write such as "shop/#".'
                ) from None
            if filter.startswith("$"):
                raise Misconfigured(f"amqtt_topics: {filter!r} cannot be opened", remedy="Topics with $ are our own.")
        if not settings.amqtt_plugins:
            return
        plugins = Plugins(settings.amqtt_plugins, counters=self.core.counters, log=self._log)
        await plugins.start()
        self._stack.push_async_callback(plugins.stop)
        if not plugins.authenticates:
            raise Misconfigured(
                "none of the amqtt plugins lets clients in, and topic plugins are asked only of those whom one let in",
                remedy='Add one, such as [amqtt_plugins."amqtt.plugins.authentication.AnonymousAuthPlugin"].',
            )
        if not (plugins.decides_topics and settings.amqtt_topics) and not settings.amqtt_brands:
            self.log.warning(
                "whom the amqtt plugins let in may neither publish nor subscribe",
                remedy="Add a topic plugin, and say in amqtt_topics what it may open, such as shop/#.",
            )
        for handler in plugins.never_called():
            self.log.warning("this handler of an amqtt plugin is never called", handler=handler)
        self.gate.plugins, self.gate.plugin_brands = plugins, settings.amqtt_brands

    async def _restore(self) -> None:
        core, journal = self.core, self.journal
        totals = await journal.totals()
        told = time.monotonic()
        async for entries in journal.index():
            core.log.load(entries)
            told = self._progress(told, totals)
        core.log.head, core.fact_head = totals.head, totals.facts
        known, gone = await self.directory.records.identities(), 0
        links = {(link.brand, link.name) for link in await LinkTable(self.directory.records).all()}
        now = time.monotonic()
        async for session in journal.sessions():
            if self._still_there(session, known) and not leftover(session, links):
                restore_session(core, session, now=now)
            else:
                gone += 1
                core.drop_saved(session.number)
            told = self._progress(told, totals)
        if gone:
            self.log.info("sessions of identities that are gone were dropped", sessions=gone)
        async for message in journal.retained():
            core.restore_retained(message)
        core.log.touched.update(dict.fromkeys(core.log.topics))

    def _progress(self, told: float, totals: Totals) -> float:
        """Say how far reading has got, once in a while; the supervisor sees that it goes on."""
        now = time.monotonic()
        if now < told + PROGRESS_S:
            return told
        core = self.core
        self.log.info(
            "reading the journal",
            messages=core.log.messages,
            messages_total=totals.messages,
            sessions=len(core.sessions),
            sessions_total=totals.sessions,
        )
        return now

    def _still_there(self, session: SavedSession, known: Known) -> bool:
        """Whether the session's owner was not taken away while nobody ran. What waits for it is not its successor's."""
        match session.role:
            case Role.ANONYMOUS:
                return self.settings.allow_anonymous
            case Role.GUEST:
                return bool(self.settings.amqtt_plugins)
            case Role.DEVICE:
                return (session.brand, session.name) in known.devices
            case Role.SERVER:
                return session.brand in known.brands
            case _:
                return True

    # -- stop and reload ---------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Say goodbye to all who are connected, save all state, let go of everything.

        Raises `Failed` when the state cannot be saved; what was saved before is unharmed then.
        """
        try:
            self.core.now = time.monotonic()
            self.reactor.stop_listening()
            await self.links.stop()
            self._say_goodbye()
            await self.pull.stop()
            await self.bridge.stop()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self.reactor.close()
            await self.committer.stop()
            self.log.info("stopped", sessions=len(self.core.sessions))
        finally:
            await self._stack.aclose()

    def _say_goodbye(self) -> None:
        """Close every connection with 0x8B. Wills of sessions that go on wait for their clients to come back."""
        for session in [s for s in self.reactor.sessions() if not s.expiry_s]:
            if session.channel is not None:
                session.channel.close(Reason.SERVER_SHUTTING_DOWN)
        for session in list(self.reactor.sessions()):
            will, session.will = session.will, None
            if session.channel is not None:
                session.channel.close(Reason.SERVER_SHUTTING_DOWN)
            session.will = will
        for connection in list(self.reactor.connections.values()):
            connection.close()

    async def reload(self, settings: Settings | None = None) -> None:
        """Take over renewed certificates and changed settings without dropping a connection.

        Addresses, the data directory and the trust domain stay as they are until a restart.
        """
        if settings is not None:
            check_anonymous(settings)
            for name in _UNTIL_RESTART:
                if getattr(settings, name) != getattr(self.settings, name):
                    self.log.warning("setting needs a restart", setting=name)
            settings = msgspec.structs.replace(
                settings, **{name: getattr(self.settings, name) for name in _UNTIL_RESTART}
            )
            check_anonymous(settings)  # where we do listen, too
        self._note_certificates(self.authority.reload(None if settings is None else settings.names))
        self._context = self._tls_context()
        if settings is not None:
            self.settings = settings
            self.core.limits = _limits(settings)
            self.core.retained.bound(*self.core.limits.retained)
            self._set_pace(settings)
            self.bridge.dispatcher.kept_s = settings.messages_kept_s
            self.sweeper.kept = _kept(settings)
            self.gate.allow_anonymous = settings.allow_anonymous
        self.log.info("reloaded")

    def _set_pace(self, settings: Settings) -> None:
        """How much each may do in a second, and how late we may be ourselves."""
        self.reactor.set_rates(
            RatesOf(
                device=Rates(
                    settings.device_connects_per_s, settings.device_messages_per_s, settings.device_bytes_per_s
                ),
                server=Rates(
                    settings.server_connects_per_s, settings.server_messages_per_s, settings.server_bytes_per_s
                ),
                address=Rates(settings.address_connects_per_s),
            )
        )
        self.reactor.overload_lag_s = settings.overload_lag_ms / 1000

    def _tls_context(self) -> ssl.SSLContext:
        context = self.authority.server_context()
        context.sslsocket_class = TLSSocket
        return context

    def _note_certificates(self, notices: Sequence[str]) -> None:
        for notice in notices:
            self.log.warning("certificate", notice=notice)

    # -- who is it ---------------------------------------------------------------------------------------------------

    def _overflow_changed(self, names: frozenset[str]) -> None:
        self.core.drop_oldest = frozenset(name.encode() for name in names)

    def _identity_changed(self, path: str, gone: bool) -> None:
        """An identity was revoked, removed or changed: whoever is connected as it is disconnected at once."""
        self.admission.identities_changed()
        self.bridge.preferences.changed()  # perhaps: a device may have another user now
        self.reactor.run(lambda: self.core.drop_identity(path, gone))
        if gone and path.endswith("/"):
            self._spawn(self.bridge.campaigns.brand_gone(path[:-1]))
        if gone and path.endswith("/"):
            self._spawn(self.links.brand_gone(path[:-1]))
            self._spawn(self.pull.brand_gone(path[:-1]))
        if gone and (path.endswith("/") or "/device/" in path):
            self._spawn(self.bridge.devices_gone())

    async def _sign(self, identity: Identity, code: str, csr: bytes) -> dict[str, Any]:
        if identity.role is Role.ENROLLING:
            enrolled = await self.directory.enrol(code, csr)
        else:
            enrolled = await self.directory.cert_renew(identity.role, identity.brand, identity.name, csr)
        who = enrolled.identity
        return {
            "identity": who.path,
            "brand": who.brand,
            "device": who.name,
            "user": who.user,
            "store": who.store,
            "certificate": enrolled.certificate_pem.decode(),
            "ca": enrolled.ca_pem.decode(),
            "not_after": _iso(enrolled.not_after),
        }

    def _reply(self, session: Session, message: Message) -> None:
        self.reactor.run(lambda: session.take(message))

    # -- what the admin asks for -------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What goes on, as one JSON object."""
        core = self.core
        connected = list(self.reactor.sessions())
        return {
            "version": version("pushbroker"),
            "uptime_s": round(time.monotonic() - self._started_at, 1),
            "listeners": [listener.url for listener in self.listeners],
            "open_mode": self.settings.allow_anonymous,
            "durability": self.settings.durability,
            "journal": {
                "state": f"failing: {core.failing}" if core.failing else "ok",
                "messages": core.log.messages,
                "bytes": core.log.bytes,
                "bytes_max": core.limits.log_bytes_max,
                "bytes_on_disk": self.journal.bytes_on_disk,
            },
            "certificates": {
                "server_not_after": _iso(self.authority.server.not_after),
                "ca_not_after": _iso(self.authority.ca.not_after),
            },
            "connections": self.reactor.open,
            "clients": len(connected),
            "sessions": len(core.sessions),
            "subscriptions": core.router.subscriptions,
            "questions": self.pull.questions.status(),
            "links": {"connected": self.links.connected, "all": self.links.count},
            "retained": {"messages": len(core.retained), "bytes": core.retained.bytes},
            "waiting": {
                "messages": core.log.messages + sum(s.waiting for s in connected),
                "bytes": core.log.bytes + sum(s.queue_bytes for s in connected),
                "in_flight": sum(len(s.inflight) for s in connected),
            },
            "loop_lag_ms": round(self.reactor.lag_s * 1000, 2),
            "overloaded": self.reactor.overloaded,
            "counters": core.counters.as_dict(),
        }

    def probe(self) -> None:
        """Return if all is well: the loop turns in time, and so do commits. Raises `Failed` if not."""
        if self.reactor.lag_s > LAG_MAX_S:
            raise Failed(f"the event loop was {self.reactor.lag_s:.1f} s late")
        if self.committer.busy_s > COMMIT_MAX_S:
            raise Failed(f"a commit has taken {self.committer.busy_s:.0f} s so far", remedy="Look at the disk: dmesg")

    def connections(self) -> list[dict[str, Any]]:
        """The clients that are connected."""
        return [
            {
                "identity": s.identity.path or "anonymous",
                "client_id": s.client_id,
                "address": s.channel.address,
                "version": "5" if s.v5 else "3.1.1",
                "keep_alive_s": s.channel.keep_alive_s,
                "silent_s": round(time.monotonic() - s.channel.seen, 1),
                "subscriptions": len(s.subscriptions),
                "in_flight": len(s.inflight),
                "waiting": s.waiting,
            }
            for s in self.reactor.sessions()
            if s.channel is not None
        ]

    async def send(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        ttl_s: int | None = None,
        content_type: str | None = None,
        user_properties: Sequence[tuple[str, str]] = (),
    ) -> dict[str, Any]:
        """Publish as the admin. Returns the message id ('' for topics that have none) and how many receive it.

        Raises `Refused` for a topic that is not one, a message over our bounds, or a full queue (0x97).
        """
        name = topic.encode()
        try:
            check_topic_name(name)
        except ProtocolError as error:
            raise Refused(error.message, reason=error.reason, remedy="Write it as BRAND/user/NAME.") from None
        if not 0 <= qos <= 2:
            raise Refused(f"there is no QoS {qos}", reason=Reason.QOS_NOT_SUPPORTED, remedy="Use 0, 1 or 2.")
        if len(payload) > self.settings.packet_bytes_max - len(name):
            raise Refused(f"a payload of {len(payload)} bytes is too large", reason=Reason.PACKET_TOO_LARGE)
        id = self.receipts.stamp(name) if qos else ""
        given = [pair for pair in user_properties if pair[0] != "message-id"]
        properties = forwarded(Properties(content_type=content_type, user_properties=given))
        receipt = bool(id) and ("receipt", "delivered") in given
        now = self.core.now = time.monotonic()
        message = Message(
            name,
            payload,
            qos,
            False,
            message_id(id) + properties if id else properties,
            now + ttl_s if ttl_s is not None else 0.0,
            id=id,
            tracked=receipt or qos == 2,
            receipt=receipt,
        )
        recipients = self.core.router.route(name).receivers
        promise = Promise()
        settled = asyncio.get_running_loop().create_future()
        promise.then = settling(settled)
        reason: int | None = self.core.publish(message, promise=promise)
        self.core.flush()
        if reason is None:
            reason = await settled
        if reason == Reason.QUOTA_EXCEEDED:
            raise Refused(
                f"what is sent to {topic} cannot be kept: a queue is full, or the disk",
                reason=reason,
                remedy="See how much waits, and whether the journal can be written: pushbroker status",
            )
        return {"message_id": id, "recipients": recipients}

    async def post(
        self,
        topic: str,
        payload: bytes,
        *,
        content_type: str = "application/json",
        ttl_s: float | None = None,
        retain: bool = False,
        correlation_data: bytes | None = None,
        user_properties: Sequence[tuple[str, str]] = (),
        publisher: str = "",
    ) -> int:
        """Publish at QoS 1 for the bridge. Returns the reason code once it is certain; 0x97: it cannot be kept."""
        properties = Properties(
            content_type=content_type or None,
            correlation_data=correlation_data,
            payload_format=1 if content_type == "application/json" else None,
            user_properties=list(user_properties),
        )
        expires_at = time.monotonic() + ttl_s if ttl_s is not None else 0.0
        message = Message(topic.encode(), payload, 1, retain, forwarded(properties), expires_at, publisher)
        settled: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        told: list[Reason | None] = []
        promise = Promise()
        promise.then = settling(settled)
        self.reactor.run(lambda: told.append(self.core.publish(message, retain=retain, promise=promise)))
        return await settled if told == [None] else int(told[0] or 0)

    async def tail(self, filters: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
        """What is retained, then what is published, on topics that match. Raises `Refused` for a bad filter."""
        try:
            for filter in filters:
                check_filter(filter)
        except ProtocolError as error:
            raise Refused(error.message, reason=error.reason) from None
        if any(filter.startswith(SHARE_PREFIX) for filter in filters):
            raise Refused("a shared subscription cannot be followed", remedy="Name the filter behind $share/GROUP/.")
        names = [filter.encode() for filter in filters]
        tail = Tail(self.core.router, names)
        kept = {m.topic: m for name in names for m in self.core.retained.match(name, time.monotonic())}
        waiting = deque(kept.values())
        try:
            while True:
                message = waiting.popleft() if waiting else await tail.next()
                properties = properties_of(message)
                yield {
                    "at": _iso(datetime.now(UTC)),
                    "topic": message.topic.decode(),
                    "payload": message.payload,
                    "qos": message.qos,
                    "retain": message.retain,
                    "content_type": properties.content_type or "",
                    "user_properties": properties.user_properties,
                    "message_id": message.id,
                    "from": message.publisher.rpartition("\n")[0],
                    "dropped": tail.dropped,
                }
        finally:
            tail.close()

    # -- small parts -------------------------------------------------------------------------------------------------

    def _tell(self, receipt: Message) -> None:
        self.core.publish(receipt, once=True)

    def _book(self, session: Session, message: Message) -> None:
        self.bridge.intake.delivered(session, message)

    def _do(self, work: Callable[[], object]) -> None:
        self.reactor.run(work)

    def _wake(self) -> None:
        self.committer.wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.core.unexpected(error)

    def _log(self, event: str, **fields: Any) -> None:
        """What the pure rooms have to say. A bug is an error, all else an operator asks for when needed."""
        held_back = self._throttle.admits(event)
        if held_back < 0:
            self.core.counters.log_lines_held_back += 1
            return
        if held_back:
            fields["held_back"] = held_back
        if "exc_info" in fields or "remedy" in fields:
            self.log.error(event, **fields)
        else:
            self.log.info(event, **fields)


def _limits(settings: Settings) -> Limits:
    """The bounds of the settings; never more connections than descriptors, less what store and listeners need."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = Limits(**{field: getattr(settings, field) for field in Limits.__struct_fields__})
    if descriptors == resource.RLIM_INFINITY:
        return limits
    room = max(1, descriptors - _DESCRIPTORS_OURS)
    return msgspec.structs.replace(limits, connections_max=min(limits.connections_max, room))


def _kept(settings: Settings) -> Kept:
    """How long what is said and done is kept."""
    return Kept(
        settings.conversations_kept_s, settings.questions_kept_s, settings.consents_kept_s, settings.audit_kept_s
    )


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
