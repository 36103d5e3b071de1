"""The gate: who a connecting client is, by what it presents.

| presented                                             | is                                            |
|-------------------------------------------------------|-----------------------------------------------|
| a certificate of our CA (verified by TLS)             | whom it names: device, server or admin        |
| user name `enrol`, a one-time code                    | one who may ask for that device's certificate |
| user name `acme`, a token `pbt_…`                     | the server that the token is for              |
| `acme/device/till-3` or `acme/server/crm`, a password | that device or server (legacy)                |
| nothing                                               | anonymous, in open mode                       |
| anything else, or nothing                             | a guest, if amqtt plugins let it in           |

A brand's devices that have no password here may be known by the amqtt plugins, if the settings say so. A certificate
decides alone. Without one, an unknown name and a wrong secret get the same answer for the same work.
"""

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import msgspec

from broker.errors import Failed, Refused
from broker.identity import ANONYMOUS, Identity, Role
from broker.limits import ADMITTED_BY_PLUGIN_S, GUEST_NAME_BYTES_MAX
from broker.store.entries import DeviceState, Holder, Token
from broker.trust.amqtt_plugins import Plugins
from broker.trust.directory import Directory, code_refused
from broker.trust.secrets import TOKEN_PREFIX, Discreet, digest, normal_code

ENROLMENT_USERNAME: Final = "enrol"
# How late a token's time of last use may be: a reconnect storm must not become a storm of commits.
USED_AT_COARSENESS: Final = timedelta(hours=1)


class Presented(Discreet):
    """What a client presents in its CONNECT and its TLS handshake. `certificate` is DER, its chain verified by TLS."""

    _secret: ClassVar[frozenset[str]] = frozenset({"password"})
    client_id: str
    username: str | None = None
    password: bytes | None = None
    certificate: bytes | None = None
    address: str = ""  # `host:port`, where there are plugins that may want to see it


class Admitted(msgspec.Struct, frozen=True):
    """Who it is, and until when what it presented proves that (None: until it is revoked).

    `session` is what amqtt plugins know a guest by: they say what it may do.
    """

    identity: Identity
    until: datetime | None = None
    session: Any = None


class Gate:
    """Admits or refuses. `plugins` are amqtt's, if there are any; `plugin_brands` trust them with their devices."""

    def __init__(self, directory: Directory, *, allow_anonymous: bool) -> None:
        self._directory = directory
        self.allow_anonymous = allow_anonymous
        self.plugins: Plugins | None = None
        self.plugin_brands: Collection[str] = ()

    def admit_now(self, presented: Presented) -> Identity | None:
        """Who it is when that needs no look at the records, else None: ask `admit`."""
        return ANONYMOUS if self.allow_anonymous and _nothing(presented) else None

    async def admit(self, presented: Presented) -> Admitted:
        """Who it is, and for how long.

        Raises `Refused`: 0x86 for a wrong name or secret, 0x87 for nothing presented or a certificate that does not
        count any more, 0x89 when too many passwords are being checked. Raises `Failed` when the records cannot be read.
        """
        if _nothing(presented):
            if self.allow_anonymous:
                return Admitted(ANONYMOUS)
            if self.plugins is not None:
                return await self._by_plugins(self.plugins, presented)
            raise Refused("the client presented nothing to say who it is", remedy="pushbroker device code BRAND DEVICE")
        if presented.certificate is not None:
            return await self._by_certificate(presented.certificate)
        username, secret = presented.username or "", presented.password or b""
        if username == ENROLMENT_USERNAME:
            return await self._by_code(secret)
        match username.split("/"):
            case [brand] if secret.startswith(TOKEN_PREFIX.encode()):
                return await self._by_token(brand, secret)
            case [brand, Role.DEVICE | Role.SERVER as role, name]:
                trusted = self.plugins if role == Role.DEVICE and brand in self.plugin_brands else None
                if trusted is not None and await self._directory.records.password(brand, Role.DEVICE, name) is None:
                    return await self._vouched_for(trusted, brand, name, presented)
                return await self._by_password(brand, Role(role), name, secret)
        if self.plugins is not None:
            return await self._by_plugins(self.plugins, presented)
        raise _wrong()

    async def _by_certificate(self, certificate: bytes) -> Admitted:
        identity, serial = self._directory.authority.identify(certificate)
        holder = await self._directory.records.holder(serial)
        if holder is None or holder.identity.path != identity.path:
            raise Refused(f"the certificate of {identity.path} is not in the records: it was removed")
        if holder.revoked_at is not None or not _counts(holder):
            raise Refused(f"the certificate of {identity.path} is revoked")
        # TLS looks at the dates in a full handshake only, not when a session is resumed.
        if holder.not_after is None or holder.not_after <= self._directory.now():
            raise Refused(f"the certificate of {identity.path} has ended")
        return Admitted(holder.identity, holder.not_after)

    async def _by_code(self, secret: bytes) -> Admitted:
        typed = normal_code(secret.decode("ascii", "replace"))
        held = await self._directory.records.code(digest(typed)) if typed else None
        if held is None or held.expires_at <= self._directory.now():
            raise code_refused()
        enrolling = Identity(Role.ENROLLING, held.brand, held.device, held.user, held.store)
        return Admitted(enrolling, held.expires_at)

    async def _by_token(self, brand: str, secret: bytes) -> Admitted:
        now = self._directory.now()
        token = await self._good_token(brand, secret)
        if token.used_at is None or now - token.used_at >= USED_AT_COARSENESS:
            with suppress(Failed):  # a full disk is no reason to keep a server out
                async with self._directory.records.transaction():
                    await self._directory.records.touch_token(token.id, now)
            token = await self._good_token(brand, secret)  # it may have been revoked while we wrote
        return Admitted(Identity(Role.SERVER, brand, token.name), token.expires_at)

    async def _good_token(self, brand: str, secret: bytes) -> Token:
        token = await self._directory.records.token(brand, digest(secret))
        now = self._directory.now()
        if token is None or token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= now):
            raise _wrong()
        return token

    async def _by_password(self, brand: str, role: Role, name: str, password: bytes) -> Admitted:
        holder = await self._directory.records.password(brand, role, name)
        right = await self._directory.passwords.verify(holder.hash if holder else None, password)
        if not right or holder is None:
            raise _wrong()
        # Hashing took its time: what was revoked or changed meanwhile does not count.
        now = await self._directory.records.password(brand, role, name)
        if now is None or now.hash != holder.hash or not _counts(now):
            raise _wrong()
        return Admitted(now.identity)

    async def _by_plugins(self, plugins: Plugins, presented: Presented) -> Admitted:
        """A guest. Its name becomes part of its sessions' keys, and of the log: it is one line, and not a long one."""
        name = presented.username or ""
        if not name.isprintable() or len(name.encode()) > GUEST_NAME_BYTES_MAX:
            raise _wrong()
        session = await _asked(plugins, presented)
        if session is None:
            raise _wrong()
        return Admitted(Identity(Role.GUEST, name=name), self._for_a_while(), session)

    async def _vouched_for(self, plugins: Plugins, brand: str, name: str, presented: Presented) -> Admitted:
        """A device that has no password of ours, but is known to a plugin that does more than believe everybody."""
        session = await _asked(plugins, presented)
        found = await self._directory.records.devices(brand, name)
        if session is None or not session.proven or not found or found[0].state is DeviceState.REVOKED:
            raise _wrong()
        return Admitted(Identity(Role.DEVICE, brand, name, found[0].user, found[0].store), self._for_a_while())

    def _for_a_while(self) -> datetime:
        return self._directory.now() + timedelta(seconds=ADMITTED_BY_PLUGIN_S)


async def _asked(plugins: Plugins, presented: Presented) -> Any:
    try:
        return await plugins.authenticate(presented)
    except Failed:
        raise unavailable() from None


def unavailable() -> Refused:
    """The answer to a client of which nobody knows now who it is, or what it may do."""
    return Refused("identities cannot be checked now", reason=0x88)


def _nothing(presented: Presented) -> bool:
    return presented.certificate is None and presented.username is None and presented.password is None


def _counts(holder: Holder) -> bool:
    return holder.role is not Role.DEVICE or holder.state is DeviceState.ACTIVE


def _wrong() -> Refused:
    return Refused("wrong user name or password", reason=0x86)
