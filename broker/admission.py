"""From a CONNECT to an identity: the gate is asked, off the loop where that takes time, and its answer carried out."""

import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from broker.errors import Refused
from broker.identity import Identity, Role
from broker.limits import ADMISSIONS_MAX
from broker.listen.reactor import Reactor
from broker.session import connect
from broker.session.channel import Channel
from broker.session.core import session_key
from broker.session.rights import Action, Ask, Rights, Verdicts, is_open
from broker.session.session import Session
from broker.trust.amqtt_plugins import Plugins
from broker.trust.gate import Admitted, Gate, Presented, unavailable
from broker.wire.codes import Reason
from broker.wire.packets import Connect

# Who holds a one-time code is connected for seconds; more codes than this in memory are of connections long gone.
_CODES_MAX: Final = 1000
# What one is told who did not know a secret.
_UNKNOWN: Final = Reason.BAD_USER_OR_PASSWORD


class Admission:
    """Lets clients in. `run` takes the work that awaits; `log` what an operator should see.

    opened: the filters beyond which amqtt plugins can allow nothing.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        run: Callable[[Coroutine[Any, Any, None]], object],
        log: Callable[..., object],
        opened: Sequence[str] = (),
    ) -> None:
        self.gate = gate
        self.opened = opened
        self.reactor: Reactor  # set once there is one: nobody connects before
        self._run = run
        self._log = log
        self._codes: dict[str, str] = {}  # of who enrols, by session key
        self._under_way = 0
        self._revision = 0  # of the identities: counts their changes

    def admit(self, channel: Channel, packet: Connect) -> None:
        """A client presents itself: it is let in, refused, or has to wait for the records."""
        if self.reactor.overloaded:
            connect.refused(channel, Refused("too much to do at the moment", reason=Reason.SERVER_BUSY))
            return
        presented = Presented(
            client_id=packet.client_id,
            username=packet.username,
            password=packet.password,
            certificate=channel.certificate,
            address=channel.address if self.gate.plugins is not None else "",
        )
        identity = self.gate.admit_now(presented)
        if identity is not None:
            self._let_in(channel, identity)
            return
        if self._under_way >= ADMISSIONS_MAX:
            connect.refused(channel, Refused("too many clients at once", reason=Reason.SERVER_BUSY))
            return
        guess = presented.certificate is None and presented.password is not None
        if guess and not self.reactor.may_guess(channel):
            refusal = Refused("too many wrong secrets from this address", reason=Reason.CONNECTION_RATE_EXCEEDED)
            connect.refused(channel, refusal)
            return
        channel.pause()
        self._under_way += 1
        self._run(self._look_up(channel, presented, guess))

    def identities_changed(self) -> None:
        """What was looked up before now may not hold any more: who is being looked up is looked up again."""
        self._revision += 1

    def code_of(self, session: Session) -> str:
        """The one-time code with which `session` came; '' for others."""
        return self._codes.get(session.key, "")

    async def _look_up(self, channel: Channel, presented: Presented, guess: bool) -> None:
        try:
            while not channel.closed:
                revision = self._revision
                admitted = await self.gate.admit(presented)
                lost = await self._lost(channel, admitted)
                if revision == self._revision:  # else it may have been revoked meanwhile
                    break
            else:
                return
        except Refused as error:
            refusal = error
            if guess and error.reason != _UNKNOWN:
                self.reactor.was_right(channel)
            self.reactor.run(lambda: connect.refused(channel, refusal))
            return
        except Exception as error:  # noqa: BLE001 - logged; whatever it is, this client gets an answer
            self.reactor.core.counters.unexpected_errors += 1
            self._log("cannot check an identity", client=channel.address, exc_info=error)
            self.reactor.run(lambda: connect.refused(channel, unavailable()))
            return
        finally:
            self._under_way -= 1
        if guess:
            self.reactor.was_right(channel)
        self.reactor.run(lambda: self._enter(channel, admitted, lost, presented.password or b""), channel)

    async def _lost(self, channel: Channel, admitted: Admitted) -> set[bytes]:
        """What a guest was subscribed to when it left, and may not read any more.

        Raises `Refused` if it may not publish its will, or if nobody can say: then it loses nothing.
        """
        plugins, packet = self.gate.plugins, channel.admitting
        if admitted.session is None or plugins is None or packet is None:
            return set()
        if packet.will is not None:
            topic = packet.will.topic.decode()
            if not await self._may(plugins, admitted.session, "publish", [topic]):
                raise Refused("the will's topic is not allowed")
        session = self.reactor.core.sessions.get(session_key(admitted.identity, packet.client_id))
        if session is None or packet.clean_start:
            return set()
        filters = {s.name: s.filter.decode() for s in session.subscriptions}
        allowed = await self._may(plugins, admitted.session, "subscribe", list(filters.values()))
        return {name for name, filter in filters.items() if filter not in allowed}

    async def _may(self, plugins: Plugins, session: Any, action: Action, names: Sequence[str]) -> set[str]:
        """Those of `names` that are open and that the plugins allow. Raises `Refused` if they do not answer."""
        asked = [name for name in dict.fromkeys(names) if is_open(self.opened, name)]
        verdicts = await plugins.allowed(session, action, asked)
        if None in verdicts:
            raise unavailable()
        return {name for name, verdict in zip(asked, verdicts, strict=True) if verdict}

    def _asks(self, plugins: Plugins, session: Any, channel: Channel) -> Ask:
        async def question(action: Action, names: Sequence[str], then: Callable[[Verdicts], None]) -> None:
            verdicts: Verdicts = [None] * len(names)
            try:
                verdicts = await plugins.allowed(session, action, names)
            finally:  # whatever happens, the client waits no longer
                self.reactor.run(lambda: then(verdicts), channel)

        def ask(action: Action, names: Sequence[str], then: Callable[[Verdicts], None]) -> None:
            self._run(question(action, names, then))

        return ask

    def _enter(self, channel: Channel, admitted: Admitted, lost: set[bytes], password: bytes) -> None:
        until = 0.0
        if admitted.until is not None:
            until = time.monotonic() + max(0.001, (admitted.until - datetime.now(UTC)).total_seconds())
        rights = None
        if (plugins := self.gate.plugins) is not None and admitted.session is not None:
            rights = Rights(channel, self.opened, self._asks(plugins, admitted.session, channel))
        core = self.reactor.core
        if lost and channel.admitting is not None:
            session = core.sessions.get(session_key(admitted.identity, channel.admitting.client_id))
            if session is not None:
                core.revoke(session, lost)
        self._let_in(channel, admitted.identity, until, rights)
        if admitted.identity.role is Role.ENROLLING and channel.session is not None:
            if len(self._codes) >= _CODES_MAX:
                sessions = self.reactor.core.sessions
                self._codes = {key: code for key, code in self._codes.items() if key in sessions}
            self._codes[channel.session.key] = password.decode("ascii", "replace")
        channel.resume()

    def _let_in(self, channel: Channel, identity: Identity, until: float = 0.0, rights: Rights | None = None) -> None:
        if not self.reactor.may_connect(identity):
            refusal = Refused("connects too often", reason=Reason.CONNECTION_RATE_EXCEEDED)
            connect.refused(channel, refusal)
            return
        connect.accepted(channel, identity, until, rights)
        if channel.session is not None:
            self.reactor.allow(channel, identity.role)
