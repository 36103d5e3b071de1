"""The directory: the register, and what proves to be one of those in it: tokens, passwords, codes, certificates.

Secrets are in what `token_issue` and `device_code` return, once, and nowhere else. What a change takes away is taken
from live connections, too: see `Register.watch`.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from broker.errors import NotFound, Refused
from broker.identity import Identity, Role, check_name
from broker.store.entries import Certificate, Device, DeviceState, Token
from broker.store.records import Records
from broker.trust import certificates
from broker.trust.authority import Authority, Clock, utc_now
from broker.trust.register import Register, to_type
from broker.trust.secrets import Discreet, PasswordHasher, digest, new_code, new_token, normal_code, same

CODE_TTL_S_MAX: Final = 30 * 86400
TOKEN_TTL_S_MAX: Final = 10 * 365 * 86400
# A device that loses the answer asks again; one that asks without end must not fill the records.
CERTIFICATES_PER_DAY_MAX: Final = 10


class IssuedToken(Discreet, kw_only=True):
    """A new token; the only time that its secret is seen."""

    _secret: ClassVar[frozenset[str]] = frozenset({"secret"})
    id: str
    brand: str
    name: str
    secret: str
    expires_at: datetime | None


class IssuedCode(Discreet, kw_only=True):
    """A new enrolment code; the only time that it is seen."""

    _secret: ClassVar[frozenset[str]] = frozenset({"code"})
    code: str
    brand: str
    device: str
    expires_at: datetime


class PasswordSet(msgspec.Struct, frozen=True, kw_only=True):
    """Whose password was set or removed: the identity is the user name to sign in with."""

    identity: str


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate, whom it names, and the CA's certificate to trust."""

    identity: Identity
    certificate_pem: bytes
    ca_pem: bytes
    serial: str
    not_after: datetime


class Directory(Register):
    """Every operation on identities. Close it: its password threads keep the process alive once one was hashed."""

    def __init__(self, records: Records, authority: Authority, *, passwords: PasswordHasher | None = None) -> None:
        super().__init__(records, authority)
        self.passwords = passwords or PasswordHasher()

    def close(self) -> None:
        """Let go of the password threads. The records are closed by who opened them."""
        self.passwords.close()

    # -- tokens --------------------------------------------------------------------------------------------------------

    async def token_issue(self, brand: str, name: str = "server", ttl_s: int | None = None) -> IssuedToken:
        """A token with which a server signs in as `{brand}/server/{name}`; several may share a name, for rotation."""
        check_name("server", name)
        now = self.now()
        expires_at = None if ttl_s is None else now + _ttl(ttl_s, TOKEN_TTL_S_MAX)
        secret = new_token()
        token = Token(
            id=secrets.token_hex(6),
            brand=brand,
            name=name,
            created_at=now,
            expires_at=expires_at,
            revoked_at=None,
            used_at=None,
        )
        async with self.change():
            await self._check_brand(brand)
            await self.records.add_token(token, digest(secret))
        return IssuedToken(id=token.id, brand=brand, name=name, secret=secret, expires_at=expires_at)

    async def token_list(self, brand: str) -> list[Token]:
        """A brand's tokens, revoked ones too."""
        await self._check_brand(brand)
        return await self.records.tokens(brand)

    async def token_revoke(self, brand: str, token_id: str) -> Token:
        """Revoke a token. The connections of its server end; those with another token come back."""
        async with self.change() as announce:
            token = await self._token(brand, token_id)
            await self.records.revoke_token(brand, token_id, self.now())
            announce(Identity(Role.SERVER, brand, token.name).path)
        return await self._token(brand, token_id)

    async def _token(self, brand: str, token_id: str) -> Token:
        await self._check_brand(brand)
        found = await self.records.tokens(brand, token_id)
        if not found:
            raise NotFound(f"{brand} has no token {token_id!r}", remedy=to_type("brand", "token", "list", brand))
        return found[0]

    # -- passwords -----------------------------------------------------------------------------------------------------

    async def password_set(self, brand: str, role: Role, name: str, password: str) -> PasswordSet:
        """Set the password of a legacy device or server; the device is added when it is not there."""
        identity = _of_brand(role, brand, name)
        await self._check_brand(brand)
        password_hash = await self.passwords.hash(password)
        async with self.change() as announce:
            if identity.role is Role.DEVICE:
                await self._usable_device(brand, name)
                await self.records.set_device_state(brand, name, DeviceState.ACTIVE)
            await self._check_brand(brand)
            await self.records.set_password(brand, identity.role, name, password_hash, self.now())
            announce(identity.path)
        return PasswordSet(identity=identity.path)

    async def password_remove(self, brand: str, role: Role, name: str) -> PasswordSet:
        """Remove a password. The connections of its identity end."""
        identity = _of_brand(role, brand, name)
        async with self.change() as announce:
            await self._check_brand(brand)
            if not await self.records.remove_password(brand, identity.role, name):
                raise NotFound(f"{identity.path} has no password", remedy=to_type("device", "list", brand))
            await self._settle(identity)
            announce(identity.path)
        return PasswordSet(identity=identity.path)

    # -- enrolment -----------------------------------------------------------------------------------------------------

    async def device_code(
        self, brand: str, device: str, *, user: str = "", store: str = "", ttl_s: int = 86400
    ) -> IssuedCode:
        """A one-time code for a device, which is added when it is not there. The code before it counts no more.

        `user` and `store`, where given, are assigned to the device.
        """
        now = self.now()
        expires_at = now + _ttl(ttl_s, CODE_TTL_S_MAX)
        code = new_code()
        async with self.change() as announce:
            found = await self._device_or_new(brand, device)
            await self._assign(found, user or None, store or None, announce)
            await self.records.set_code(brand, device, digest(code), now, expires_at)
            announce(Identity(Role.ENROLLING, brand, device).path, gone=True)
        return IssuedCode(code=code, brand=brand, device=device, expires_at=expires_at)

    async def enrol(self, code: str, csr_pem: bytes) -> Enrolled:
        """Exchange a one-time code for a certificate of the signing request's key.

        The first key to come is bound to the code. It gets the same answer again while the code lives, should the first
        have been lost; another key is refused. Certificates that the device had before are revoked: a new enrolment
        is a new machine.
        """
        key_hash = digest(certificates.public_bytes(certificates.requested_key(csr_pem)))
        typed = normal_code(code)
        now = self.now()
        async with self.change() as announce:
            held = await self.records.code(digest(typed)) if typed else None
            if held is None or held.expires_at <= now:
                raise code_refused()
            identity = Identity(Role.DEVICE, held.brand, held.device, held.user, held.store)
            if held.key_hash is not None:
                if not same(held.key_hash, key_hash):
                    raise Refused(
                        "this enrolment code was used already, with another key",
                        remedy=to_type("device", "code", held.brand, held.device),
                    )
                return await self._again(identity, held.serial, held.certificate)
            if await self.records.revoke_certificates_of(identity, now):
                announce(identity.path)
            enrolled = await self._issue(identity, csr_pem, now)
            await self.records.set_device_enrolled(held.brand, held.device, now)
            await self.records.use_code(
                held.brand,
                held.device,
                key_hash=key_hash,
                serial=enrolled.serial,
                certificate=enrolled.certificate_pem,
            )
        return enrolled

    async def _again(self, identity: Identity, serial: str | None, certificate: bytes | None) -> Enrolled:
        holder = await self.records.holder(serial or "")
        if holder is None or holder.revoked_at or holder.not_after is None or certificate is None or serial is None:
            raise Refused(
                "the certificate that this enrolment code gave was revoked",
                remedy=to_type("device", "code", identity.brand, identity.name),
            )
        return self._enrolled(identity, certificate, serial, holder.not_after)

    # -- certificates --------------------------------------------------------------------------------------------------

    async def cert_issue(self, role: Role, brand: str, name: str, csr_pem: bytes) -> Enrolled:
        """A certificate for a device (added when it is not there), a brand's server, or an admin (`brand` is '')."""
        now = self.now()
        async with self.change():
            if Role(role) is Role.ADMIN:
                identity = Identity(Role.ADMIN, name=check_name("admin", name))
            else:
                identity = _of_brand(role, brand, name)
                await self._check_brand(brand)
            if identity.role is Role.DEVICE:
                device = await self._usable_device(brand, name)
                identity = Identity(Role.DEVICE, brand, name, device.user, device.store)
                await self.records.set_device_enrolled(brand, name, now)
            return await self._issue(identity, csr_pem, now)

    async def cert_renew(self, role: Role, brand: str, name: str, csr_pem: bytes) -> Enrolled:
        """Another certificate for an identity that has a good one, which stays good until its own end.

        Raises `Refused` when it has none (0x87), or asked too often today (0x97).
        """
        now = self.now()
        identity = Identity(Role(role), brand, name)
        async with self.change():
            had = await self.records.certificates_of(identity)
            if not any(old.revoked_at is None and old.not_after > now for old in had):
                new = (
                    ("device", "code", brand, name)
                    if identity.role is Role.DEVICE
                    else ("cert", "issue", identity.path)
                )
                raise Refused(f"{identity.path} has no certificate to renew", remedy=to_type(*new))
            if sum(old.issued_at > now - timedelta(days=1) for old in had) >= CERTIFICATES_PER_DAY_MAX:
                raise Refused(
                    f"{identity.path} got {CERTIFICATES_PER_DAY_MAX} certificates within a day",
                    reason=0x97,
                    remedy="Use the newest of them, or try again tomorrow.",
                )
            if identity.role is Role.DEVICE:
                device = await self._usable_device(brand, name)
                identity = Identity(Role.DEVICE, brand, name, device.user, device.store)
            return await self._issue(identity, csr_pem, now)

    async def cert_list(self, brand: str | None = None) -> list[Certificate]:
        """The certificates of one brand, or all, admins' too. Expired ones go when their identity gets another."""
        await self._check_brand(brand)
        return await self.records.certificates(brand)

    async def cert_revoke(self, serial: str) -> Certificate:
        """Revoke one certificate. The connections of its identity end; those with another proof come back."""
        serial = serial.replace(":", "").lower().lstrip("0")  # as openssl prints it, too
        async with self.change() as announce:
            certificate = await self._certificate(serial)
            await self.records.revoke_certificate(serial, self.now())
            await self._settle(Identity(certificate.role, certificate.brand, certificate.name))
            announce(certificate.identity)
        return await self._certificate(serial)

    async def _certificate(self, serial: str) -> Certificate:
        found = await self.records.certificates(serial=serial)
        if not found:
            raise NotFound(f"there is no certificate {serial!r}", remedy=to_type("cert", "list"))
        return found[0]

    async def _issue(self, identity: Identity, csr_pem: bytes, now: datetime) -> Enrolled:
        pem = self.authority.issue_from_csr(csr_pem, identity)
        info = certificates.inspect(pem)
        entry = Certificate(
            serial=info.serial,
            identity=identity.path,
            role=identity.role,
            brand=identity.brand,
            name=identity.name,
            issued_at=now,
            not_before=info.not_before,
            not_after=info.not_after,
            revoked_at=None,
        )
        await self.records.add_certificate(entry, identity)
        return self._enrolled(identity, pem, info.serial, info.not_after)

    def _enrolled(self, identity: Identity, pem: bytes, serial: str, not_after: datetime) -> Enrolled:
        return Enrolled(
            identity=identity,
            certificate_pem=pem,
            ca_pem=self.authority.ca_pem,
            serial=serial,
            not_after=not_after,
        )

    # -- a device's state ----------------------------------------------------------------------------------------------

    async def _usable_device(self, brand: str, name: str) -> Device:
        """The device, added when it is not there; `Refused` when it is revoked."""
        device = await self._device_or_new(brand, name)
        if device.state is DeviceState.REVOKED:
            raise Refused(f"{brand}/device/{name} is revoked", remedy=to_type("device", "code", brand, name))
        return device

    async def _settle(self, identity: Identity) -> None:
        """Mark a device pending when the last with which it could sign in is gone."""
        if identity.role is not Role.DEVICE:
            return
        for device in await self.records.devices(identity.brand, identity.name):
            ends = device.certificate_not_after
            if device.state is DeviceState.ACTIVE and not device.password and (ends is None or ends <= self.now()):
                await self.records.set_device_state(identity.brand, identity.name, DeviceState.PENDING)


def code_refused() -> Refused:
    """The same for a code that was mistyped, never given, replaced or is too old."""
    return Refused(
        "this enrolment code is not valid: it was mistyped, replaced, or is too old",
        reason=0x86,
        remedy="Get a new one: pushbroker device code BRAND DEVICE",
    )


def _of_brand(role: Role, brand: str, name: str) -> Identity:
    """The identity of a device or server with a name that can be one; `Refused` for any other role."""
    if role not in (Role.DEVICE, Role.SERVER):
        raise Refused(f"{role} cannot have that", remedy="Only a device or a server of a brand can.")
    return Identity(Role(role), check_name("brand", brand), check_name(role, name))


def _ttl(ttl_s: int, ttl_s_max: int) -> timedelta:
    if not 0 < ttl_s <= ttl_s_max:
        raise Refused("that time is too short or too long", remedy=f"Use 1 to {ttl_s_max} seconds.")
    return timedelta(seconds=ttl_s)


@asynccontextmanager
async def open_directory(
    data: Path, *, trust_domain: str, names: Sequence[str] = (), clock: Clock = utc_now
) -> AsyncIterator[Directory]:
    """The directory in a data directory, whose lock the caller holds; what is missing there is made.

    Raises `Failed` as `Authority.ensure` and `open_database` do.
    """
    authority = Authority.ensure(data / "certs", trust_domain=trust_domain, names=names, clock=clock)
    async with await Records.open(data / "records.db") as records:
        directory = Directory(records, authority)
        try:
            yield directory
        finally:
            directory.close()
