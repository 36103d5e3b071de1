"""The records in DATA/records.db: brands, their users, stores and devices, and what proves who they are.

Here is the SQL; which changes are allowed is decided by the caller (`trust/`). Each lookup that a connecting client
causes is one indexed query.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar

import aiosqlite
import msgspec

from broker.identity import Identity, Role
from broker.store.database import Database, guarded, open_database, rewrite
from broker.store.entries import Brand, Certificate, Code, Device, DeviceState, Holder, Overflow, Store, Token, User

SCHEMA: Final = "records"
T = TypeVar("T")
Place = Literal["user", "store"]
# What is to be written in the transaction that is made next: who asked for it, for the audit log.
Note = Callable[[list[Callable[[], None]]], Awaitable[None]]
NOTE: Final[ContextVar[Note | None]] = ContextVar("note", default=None)

_BRAND = """
  SELECT name, title, overflow, created_at,
    (SELECT count(*) FROM users WHERE brand = b.name) AS users,
    (SELECT count(*) FROM stores WHERE brand = b.name) AS stores,
    (SELECT count(*) FROM devices WHERE brand = b.name) AS devices,
    (SELECT count(*) FROM tokens WHERE brand = b.name AND revoked_at IS NULL
      AND (expires_at IS NULL OR expires_at > :now)) AS tokens
  FROM brands b
"""
_USER = """
  SELECT brand, name, title, created_at,
    (SELECT count(*) FROM devices d WHERE d.brand = u.brand AND d.user = u.name) AS devices FROM users u
"""
_STORE = """
  SELECT brand, name, title, created_at,
    (SELECT count(*) FROM devices d WHERE d.brand = s.brand AND d.store = s.name) AS devices FROM stores s
"""
_DEVICE = """
  SELECT brand, name, coalesce(user, '') AS user, coalesce(store, '') AS store, state, created_at, enrolled_at,
    (SELECT expires_at FROM codes c
      WHERE c.brand = d.brand AND c.device = d.name AND c.key_hash IS NULL) AS code_expires_at,
    (SELECT max(not_after) FROM certificates c WHERE c.brand = d.brand AND c.role = 'device' AND c.name = d.name
      AND c.revoked_at IS NULL) AS certificate_not_after,
    EXISTS (SELECT 1 FROM passwords p WHERE p.brand = d.brand AND p.role = 'device' AND p.name = d.name) AS password
  FROM devices d
"""
_TOKEN = "SELECT id, brand, name, created_at, expires_at, revoked_at, used_at FROM tokens"  # noqa: S105 - a query
_CERTIFICATE = """
  SELECT serial, CASE role WHEN 'admin' THEN 'admin/' || name ELSE brand || '/' || role || '/' || name END AS identity,
    role, coalesce(brand, '') AS brand, name, issued_at, not_before, not_after, revoked_at FROM certificates
"""
_CREDENTIAL = """
  SELECT p.role, p.brand, p.name, p.hash, coalesce(d.user, '') AS user, coalesce(d.store, '') AS store, d.state
  FROM passwords p LEFT JOIN devices d ON p.role = 'device' AND d.brand = p.brand AND d.name = p.name
  WHERE p.brand = :brand AND p.role = :role AND p.name = :name
"""
_CODE = """
  SELECT c.brand, c.device, coalesce(d.user, '') AS user, coalesce(d.store, '') AS store,
    c.expires_at, c.key_hash, c.serial, c.certificate
  FROM codes c JOIN devices d ON d.brand = c.brand AND d.name = c.device
  WHERE c.hash = :digest
"""
_HOLDER = """
  SELECT c.role, coalesce(c.brand, '') AS brand, c.name, c.revoked_at, c.not_after,
    coalesce(d.user, '') AS user, coalesce(d.store, '') AS store, d.state
  FROM certificates c LEFT JOIN devices d ON c.role = 'device' AND d.brand = c.brand AND d.name = c.name
  WHERE c.serial = :serial
"""
_IS_IDENTITY = "brand IS :brand AND role = :role AND name = :name"


class Known(NamedTuple):
    """The brands, and the devices that are not revoked as brand and name."""

    brands: frozenset[str]
    devices: frozenset[tuple[str, str]]


class Records:
    """The records of one data directory. Close it: its database's thread keeps the process alive.

    Every method raises `Failed` when the database cannot be read or written. Changes are made inside `transaction()`.
    """

    def __init__(self, db: Database, path: Path) -> None:
        db.row_factory = aiosqlite.Row
        self.path = path
        self._db = db
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or make the database; `Failed` when that cannot be done."""
        return cls(await open_database(path, SCHEMA), path)

    async def close(self) -> None:
        """Let go of the database."""
        await self._db.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[list[Callable[[], None]]]:
        """All changes or none. What the block appends to the list is called as soon as the commit is on the disk.

        One at a time. A cancelled caller never leaves a commit behind whose callbacks were not called.
        """
        after: list[Callable[[], None]] = []
        async with self._writing:
            with guarded(self.path):
                try:
                    await self._run("BEGIN IMMEDIATE")
                    yield after
                    if (note := NOTE.get()) is not None:
                        await note(after)
                    cancelled = await _to_the_end(self._run("COMMIT"))
                except BaseException:
                    await _to_the_end(self._roll_back())
                    raise
            for callback in after:
                callback()
        if cancelled:
            raise asyncio.CancelledError

    async def rewrite(self) -> None:
        """Write the file anew, so that nothing is left in it of what was deleted."""
        async with self._writing:
            with guarded(self.path):
                await rewrite(self._db)

    async def _roll_back(self) -> None:
        with suppress(aiosqlite.OperationalError):  # BEGIN itself failed, or SQLite has rolled back (disk full)
            await self._run("ROLLBACK")

    async def _run(self, sql: str, /, **values: Any) -> list[aiosqlite.Row]:
        return list(await self._db.execute_fetchall(sql, values))

    async def _all(self, kind: type[T], sql: str, /, **values: Any) -> list[T]:
        with guarded(self.path):
            rows = await self._run(sql, **values)
        # Not strict: times are numbers and booleans 0 or 1 in SQLite.
        return [msgspec.convert(dict(row), kind, strict=False, builtin_types=(bytes,)) for row in rows]

    async def _one(self, kind: type[T], sql: str, **values: Any) -> T | None:
        found = await self._all(kind, sql, **values)
        return found[0] if found else None

    async def _list(self, kind: type[T], sql: str, values: Mapping[str, Any] | None = None, /, **given: Any) -> list[T]:
        """The rows whose columns are as given; None is any. In the order of the keys, which begin with the brand."""
        given = {column: value for column, value in given.items() if value is not None}
        where = " AND ".join(f"{column} = :{column}" for column in given)
        order = "brand, name" if kind is not Brand else "name"
        sql = f"{sql} WHERE {where or 'true'} ORDER BY {order}"
        return await self._all(kind, sql, **given, **(values or {}))

    async def identities(self) -> Known:
        """Who there is."""
        with guarded(self.path):
            brands = await self._run("SELECT name FROM brands")
            devices = await self._run("SELECT brand, name FROM devices WHERE state != 'revoked'")
        return Known(frozenset(row[0] for row in brands), frozenset((row[0], row[1]) for row in devices))

    # -- brands, users, stores ----------------------------------------------------------------------------------------

    async def brands(self, now: datetime, name: str | None = None) -> list[Brand]:
        """All brands, or the one with this name if there is one."""
        return await self._list(Brand, _BRAND, {"now": _s(now)}, name=name)

    async def has_brand(self, name: str) -> bool:
        """Whether there is such a brand."""
        return bool(await self._run("SELECT 1 FROM brands WHERE name = :name", name=name))

    async def drop_oldest(self) -> frozenset[str]:
        """The names of the brands whose sessions drop the oldest message when too much waits."""
        with guarded(self.path):
            rows = await self._run("SELECT name FROM brands WHERE overflow = :overflow", overflow=Overflow.DROP_OLDEST)
        return frozenset(row[0] for row in rows)

    async def add_brand(self, name: str, title: str, overflow: Overflow, now: datetime) -> None:
        """Add a brand that is not there."""
        sql = "INSERT INTO brands (name, title, overflow, created_at) VALUES (:name, :title, :overflow, :now)"
        await self._run(sql, name=name, title=title, overflow=overflow, now=_s(now))

    async def set_brand(self, name: str, title: str | None, overflow: Overflow | None) -> None:
        """Change what of a brand is given; None leaves it as it is."""
        sql = """UPDATE brands SET title = coalesce(:title, title), overflow = coalesce(:overflow, overflow)
                 WHERE name = :name"""
        await self._run(sql, name=name, title=title, overflow=overflow)

    async def remove_brand(self, name: str) -> dict[str, int]:
        """Remove a brand and, by cascade, everything of it; says how many of each."""
        (row,) = await self._run(
            """SELECT (SELECT count(*) FROM users WHERE brand = :name) AS users,
                 (SELECT count(*) FROM stores WHERE brand = :name) AS stores,
                 (SELECT count(*) FROM devices WHERE brand = :name) AS devices,
                 (SELECT count(*) FROM tokens WHERE brand = :name) AS tokens,
                 (SELECT count(*) FROM passwords WHERE brand = :name) AS passwords,
                 (SELECT count(*) FROM certificates WHERE brand = :name) AS certificates""",
            name=name,
        )
        await self._run("DELETE FROM brands WHERE name = :name", name=name)
        return dict(row)

    async def users(self, brand: str | None = None, name: str | None = None) -> list[User]:
        """All users, a brand's, or one."""
        return await self._list(User, _USER, brand=brand, name=name)

    async def stores(self, brand: str | None = None, name: str | None = None) -> list[Store]:
        """All stores, a brand's, or one."""
        return await self._list(Store, _STORE, brand=brand, name=name)

    async def names_near(self, kind: Place | Literal["device"], brand: str, name: str, each: int) -> list[str]:
        """The names of a brand that stand around `name` in the alphabet, up to `each` on either side."""
        names = f"SELECT name FROM {kind}s WHERE brand = :brand AND name"  # noqa: S608 - one of three literals
        with guarded(self.path):
            before = await self._run(
                f"{names} < :name ORDER BY name DESC LIMIT :each", brand=brand, name=name, each=each
            )
            after = await self._run(f"{names} > :name ORDER BY name LIMIT :each", brand=brand, name=name, each=each)
        return [row["name"] for row in (*before, *after)]

    async def add_place(self, kind: Place, brand: str, name: str, title: str, now: datetime) -> None:
        """Add a user or a store that is not there."""
        sql = f"INSERT INTO {kind}s VALUES (:brand, :name, :title, :now)"  # noqa: S608 - one of two literals
        await self._run(sql, brand=brand, name=name, title=title, now=_s(now))

    async def remove_place(self, kind: Place, brand: str, name: str) -> list[str]:
        """Remove a user or a store; returns the names of the devices that are now without."""
        sql = f"UPDATE devices SET {kind} = NULL WHERE brand = :brand AND {kind} = :name RETURNING name"  # noqa: S608
        rows = await self._run(sql, brand=brand, name=name)
        await self._run(f"DELETE FROM {kind}s WHERE brand = :brand AND name = :name", brand=brand, name=name)  # noqa: S608
        return sorted(row["name"] for row in rows)

    # -- devices -------------------------------------------------------------------------------------------------------

    async def devices(
        self, brand: str | None = None, name: str | None = None, *, user: str | None = None, store: str | None = None
    ) -> list[Device]:
        """All devices for which what is given is true."""
        return await self._list(Device, _DEVICE, brand=brand, name=name, user=user, store=store)

    async def add_device(self, brand: str, name: str, now: datetime) -> None:
        """Add a device that is not there, pending."""
        sql = "INSERT INTO devices (brand, name, state, created_at) VALUES (:brand, :name, 'pending', :now)"
        await self._run(sql, brand=brand, name=name, now=_s(now))

    async def assign_device(self, brand: str, name: str, user: str, store: str) -> None:
        """Set whose a device is and where it stands; '' for none."""
        sql = """UPDATE devices SET user = nullif(:user, ''), store = nullif(:store, '')
                 WHERE brand = :brand AND name = :name"""
        await self._run(sql, brand=brand, name=name, user=user, store=store)

    async def set_device_state(self, brand: str, name: str, state: DeviceState) -> None:
        """Set a device's state."""
        sql = "UPDATE devices SET state = :state WHERE brand = :brand AND name = :name"
        await self._run(sql, brand=brand, name=name, state=str(state))

    async def set_device_enrolled(self, brand: str, name: str, now: datetime) -> None:
        """Note that a device has got a certificate: it is active."""
        sql = "UPDATE devices SET state = 'active', enrolled_at = :now WHERE brand = :brand AND name = :name"
        await self._run(sql, brand=brand, name=name, now=_s(now))

    async def remove_device(self, brand: str, name: str) -> dict[str, int]:
        """Remove a device with its certificates and password; says how many of each."""
        gone = {}
        for table in ("certificates", "passwords"):
            sql = f"DELETE FROM {table} WHERE brand = :brand AND role = 'device' AND name = :name RETURNING 1"  # noqa: S608
            gone[table] = len(await self._run(sql, brand=brand, name=name))
        await self._run("DELETE FROM devices WHERE brand = :brand AND name = :name", brand=brand, name=name)
        return gone

    # -- tokens --------------------------------------------------------------------------------------------------------

    async def tokens(self, brand: str, token_id: str | None = None) -> list[Token]:
        """A brand's tokens, or the one with this id."""
        return await self._list(Token, _TOKEN, brand=brand, id=token_id)

    async def token(self, brand: str, digest: bytes) -> Token | None:
        """The brand's token with this hash."""
        return await self._one(Token, f"{_TOKEN} WHERE hash = :digest AND brand = :brand", digest=digest, brand=brand)

    async def add_token(self, token: Token, digest: bytes) -> None:
        """Keep a new token with the hash of its secret."""
        sql = """INSERT INTO tokens (id, brand, name, hash, created_at, expires_at)
                 VALUES (:id, :brand, :name, :digest, :created_at, :expires_at)"""
        times = {"created_at": _s(token.created_at), "expires_at": token.expires_at and _s(token.expires_at)}
        await self._run(sql, id=token.id, brand=token.brand, name=token.name, digest=digest, **times)

    async def revoke_token(self, brand: str, token_id: str, now: datetime) -> None:
        """Revoke a token, once."""
        sql = "UPDATE tokens SET revoked_at = coalesce(revoked_at, :now) WHERE brand = :brand AND id = :id"
        await self._run(sql, brand=brand, id=token_id, now=_s(now))

    async def touch_token(self, token_id: str, now: datetime) -> None:
        """Note that a token was used."""
        await self._run("UPDATE tokens SET used_at = :now WHERE id = :id", id=token_id, now=_s(now))

    # -- passwords -----------------------------------------------------------------------------------------------------

    async def password(self, brand: str, role: Role, name: str) -> Holder | None:
        """The holder of a password, with its hash."""
        return await self._one(Holder, _CREDENTIAL, brand=brand, role=str(role), name=name)

    async def set_password(self, brand: str, role: Role, name: str, password_hash: str, now: datetime) -> None:
        """Keep the hash of a password in place of an older one."""
        sql = "INSERT OR REPLACE INTO passwords VALUES (:brand, :role, :name, :hash, :now)"
        await self._run(sql, brand=brand, role=str(role), name=name, hash=password_hash, now=_s(now))

    async def remove_password(self, brand: str, role: Role, name: str) -> bool:
        """Remove a password; says whether there was one."""
        sql = "DELETE FROM passwords WHERE brand = :brand AND role = :role AND name = :name RETURNING 1"
        return bool(await self._run(sql, brand=brand, role=str(role), name=name))

    # -- enrolment codes -----------------------------------------------------------------------------------------------

    async def code(self, digest: bytes) -> Code | None:
        """The code with this hash."""
        return await self._one(Code, _CODE, digest=digest)

    async def set_code(self, brand: str, device: str, digest: bytes, now: datetime, expires_at: datetime) -> None:
        """Give a device its code in place of an older one. Codes of any device that have expired go."""
        await self._run("DELETE FROM codes WHERE expires_at <= :now", now=_s(now))
        sql = """INSERT OR REPLACE INTO codes (brand, device, hash, created_at, expires_at)
                 VALUES (:brand, :device, :digest, :now, :expires_at)"""
        await self._run(sql, brand=brand, device=device, digest=digest, now=_s(now), expires_at=_s(expires_at))

    async def use_code(self, brand: str, device: str, *, key_hash: bytes, serial: str, certificate: bytes) -> None:
        """Bind a device's code to a key, and keep what it got for it."""
        sql = """UPDATE codes SET key_hash = :key_hash, serial = :serial, certificate = :certificate
                 WHERE brand = :brand AND device = :device"""
        await self._run(sql, brand=brand, device=device, key_hash=key_hash, serial=serial, certificate=certificate)

    async def remove_code(self, brand: str, device: str) -> bool:
        """Remove a device's code; says whether there was one."""
        sql = "DELETE FROM codes WHERE brand = :brand AND device = :device RETURNING 1"
        return bool(await self._run(sql, brand=brand, device=device))

    # -- certificates --------------------------------------------------------------------------------------------------

    async def certificates(self, brand: str | None = None, serial: str | None = None) -> list[Certificate]:
        """All certificates, a brand's, or one."""
        return await self._list(Certificate, _CERTIFICATE, brand=brand, serial=serial)

    async def certificates_of(self, identity: Identity) -> list[Certificate]:
        """Those of one identity."""
        return await self._all(Certificate, f"{_CERTIFICATE} WHERE {_IS_IDENTITY}", **_key(identity))

    async def holder(self, serial: str) -> Holder | None:
        """Whose the certificate with this serial is."""
        return await self._one(Holder, _HOLDER, serial=serial)

    async def add_certificate(self, certificate: Certificate, identity: Identity) -> None:
        """Keep a certificate. Rows of the identity's certificates that have expired go."""
        issued_at = _s(certificate.issued_at)
        expired = f"DELETE FROM certificates WHERE {_IS_IDENTITY} AND not_after <= :now"  # noqa: S608 - our own words
        await self._run(expired, **_key(identity), now=issued_at)
        sql = """INSERT INTO certificates (serial, role, brand, name, issued_at, not_before, not_after)
                 VALUES (:serial, :role, :brand, :name, :issued_at, :not_before, :not_after)"""
        times = {"not_before": _s(certificate.not_before), "not_after": _s(certificate.not_after)}
        await self._run(sql, serial=certificate.serial, **_key(identity), issued_at=issued_at, **times)

    async def revoke_certificate(self, serial: str, now: datetime) -> None:
        """Revoke a certificate, once."""
        sql = "UPDATE certificates SET revoked_at = coalesce(revoked_at, :now) WHERE serial = :serial"
        await self._run(sql, serial=serial, now=_s(now))

    async def revoke_certificates_of(self, identity: Identity, now: datetime) -> int:
        """Revoke all certificates of one identity; says how many were still good."""
        sql = f"UPDATE certificates SET revoked_at = :now WHERE {_IS_IDENTITY} AND revoked_at IS NULL RETURNING 1"  # noqa: S608
        return len(await self._run(sql, **_key(identity), now=_s(now)))


def _key(identity: Identity) -> dict[str, str | None]:
    return {"brand": identity.brand or None, "role": str(identity.role), "name": identity.name}


def _s(time: datetime) -> int:
    """Whole seconds since 1970."""
    return int(time.timestamp())


async def _to_the_end(work: Awaitable[object]) -> bool:
    """Await `work` even when we are cancelled meanwhile; says whether we were."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    return cancelled
