"""The register: brands, their users, stores and devices, and who wants to know when one of them changes.

Errors name things of the brand that was asked for only: whether another brand has them makes no difference.
"""

import difflib
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Literal, Protocol

import msgspec

from broker.errors import NotFound, Refused
from broker.identity import Identity, Role, check_name
from broker.store.entries import Brand, Device, DeviceState, Overflow, Store, User
from broker.store.records import Place, Records
from broker.trust.authority import Authority

TITLE_CHARACTERS_MAX: Final = 200
# With how many names, on either side in the alphabet, one is compared that is not there: a brand may have a million.
_NEAR: Final = 200
# `enrol` is the user name of those who have a one-time code, and `admin/` begins the path of an admin's identity.
RESERVED_BRANDS: Final = frozenset({"admin", "enrol"})


class Watcher(Protocol):
    """Called after a change is on the disk, in the event loop; it must return soon and must not raise."""

    def __call__(self, path: str, gone: bool, /) -> None:
        """What the identity at `path`, or all whose paths begin with it when it ends with '/', may do has changed.

        With `gone` it may do nothing any more: what is kept for it can go, too. Without, it may come back, with other
        rights or another proof.
        """


class Announce(Protocol):
    """Says, within a change, what the watchers are told once it is on the disk."""

    def __call__(self, path: str, *, gone: bool = False) -> None:
        """As for `Watcher`."""


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What went, how many of each kind, and which devices lost their user or store and stay."""

    what: str
    users: int = 0
    stores: int = 0
    devices: int = 0
    tokens: int = 0
    passwords: int = 0
    certificates: int = 0
    unassigned: tuple[str, ...] = ()


class Register:
    """What there is. Every method may raise `Failed`, for the disk; `NotFound` and `Refused` as they say."""

    def __init__(self, records: Records, authority: Authority) -> None:
        self.records = records
        self.authority = authority
        self.now = authority.now
        self._watchers: list[Watcher] = []
        self._overflow_watchers: list[Callable[[frozenset[str]], None]] = []

    def watch(self, callback: Watcher) -> Callable[[], None]:
        """Call `callback` after each change; returns what ends that."""
        self._watchers.append(callback)
        return partial(self._watchers.remove, callback)

    async def watch_overflow(self, callback: Callable[[frozenset[str]], None]) -> None:
        """Call `callback` with the names of the brands that drop the oldest message, now and after each change.

        Like a `Watcher` it is called in the event loop, when the change is on the disk; it must not raise.
        """
        async with self._change_brands():
            self._overflow_watchers.append(callback)

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Announce]:
        """A transaction that tells the watchers, after its commit, what was announced in it."""
        async with self.records.transaction() as after:
            yield partial(self._announce, after)

    @asynccontextmanager
    async def _change_brands(self) -> AsyncIterator[Announce]:
        """The same; who watches how brands overflow is told, too."""
        async with self.records.transaction() as after:
            yield partial(self._announce, after)
            after.append(partial(self._tell_overflow, await self.records.drop_oldest()))

    def _announce(self, after: list[Callable[[], None]], path: str, *, gone: bool = False) -> None:
        after.append(partial(self._tell, path, gone))

    def _tell(self, path: str, gone: bool) -> None:
        for watcher in tuple(self._watchers):
            watcher(path, gone)

    def _tell_overflow(self, names: frozenset[str]) -> None:
        for callback in self._overflow_watchers:
            callback(names)

    # -- brands --------------------------------------------------------------------------------------------------------

    async def brand_add(self, name: str, title: str = "", overflow: Overflow = Overflow.REJECT) -> Brand:
        """Add a brand. `Refused` when it is there, or its name or title cannot be one."""
        check_name("brand", name)
        if name in RESERVED_BRANDS:
            raise Refused(f"{name!r} is reserved and cannot name a brand", reason=0x90, remedy="Choose another name.")
        _check_title(title)
        async with self._change_brands():
            if await self.records.has_brand(name):
                raise Refused(f"there is a brand {name} already", remedy=to_type("brand", "show", name))
            await self.records.add_brand(name, title, overflow, self.now())
        return await self.brand_show(name)

    async def brand_set(self, name: str, title: str | None = None, overflow: Overflow | None = None) -> Brand:
        """Change a brand's title, what happens when too much waits for a session of it, or both: None for as it is."""
        _check_title(title or "")
        async with self._change_brands():
            await self._check_brand(name)
            await self.records.set_brand(name, title, overflow)
        return await self.brand_show(name)

    async def brand_list(self) -> list[Brand]:
        """All brands, by name."""
        return await self.records.brands(self.now())

    async def brand_show(self, name: str) -> Brand:
        """One brand, or `NotFound`."""
        found = await self.records.brands(self.now(), name)
        if not found:
            raise await self._no_brand(name)
        return found[0]

    async def brand_remove(self, name: str) -> Removed:
        """Remove a brand and everything of it; its connections end at once."""
        async with self._change_brands() as announce:
            await self._check_brand(name)
            counts = await self.records.remove_brand(name)
            announce(f"{name}/", gone=True)
        return Removed(what=f"brand {name}", unassigned=(), **counts)

    # -- users and stores ----------------------------------------------------------------------------------------------

    async def user_add(self, brand: str, name: str, title: str = "") -> User:
        """Add a user to a brand."""
        await self._add("user", brand, name, title)
        return await self.user_show(brand, name)

    async def user_list(self, brand: str | None = None) -> list[User]:
        """The users of one brand, or of all."""
        await self._check_brand(brand)
        return await self.records.users(brand)

    async def user_show(self, brand: str, name: str) -> User:
        """One user, or `NotFound`."""
        await self._check_brand(brand)
        found = await self.records.users(brand, name)
        if not found:
            raise await self._missing("user", brand, name)
        return found[0]

    async def user_remove(self, brand: str, name: str) -> Removed:
        """Remove a user. Their devices stay, and belong to nobody."""
        return await self._remove("user", brand, name)

    async def user_erase(
        self, brand: str, name: str, *, devices_too: bool, note: Callable[[], Awaitable[object]]
    ) -> None:
        """Remove a user who may have been removed before, with their devices or without.

        `note` writes down, in the same transaction, what is to follow. The connections of devices that stay end as when
        they are assigned to somebody else.
        """
        async with self.change() as announce:
            await self._check_brand(brand)
            await note()
            for device in await self.records.devices(brand, user=name):
                identity = Identity(Role.DEVICE, brand, device.name)
                if devices_too:
                    await self.records.remove_device(brand, device.name)
                    self._announce_gone(identity, announce)
                else:
                    announce(identity.path)
            await self.records.remove_place("user", brand, name)

    async def store_add(self, brand: str, name: str, title: str = "") -> Store:
        """Add a store to a brand."""
        await self._add("store", brand, name, title)
        return await self.store_show(brand, name)

    async def store_list(self, brand: str | None = None) -> list[Store]:
        """The stores of one brand, or of all."""
        await self._check_brand(brand)
        return await self.records.stores(brand)

    async def store_show(self, brand: str, name: str) -> Store:
        """One store, or `NotFound`."""
        await self._check_brand(brand)
        found = await self.records.stores(brand, name)
        if not found:
            raise await self._missing("store", brand, name)
        return found[0]

    async def store_remove(self, brand: str, name: str) -> Removed:
        """Remove a store. Its devices stay, and stand nowhere."""
        return await self._remove("store", brand, name)

    async def _add(self, kind: Place, brand: str, name: str, title: str) -> None:
        check_name(kind, name)
        _check_title(title)
        async with self.change():
            await self._check_brand(brand)
            if await self._has_place(kind, brand, name):
                raise Refused(f"{brand} has a {kind} {name} already", remedy=to_type(kind, "show", brand, name))
            await self.records.add_place(kind, brand, name, title, self.now())

    async def _remove(self, kind: Place, brand: str, name: str) -> Removed:
        async with self.change() as announce:
            await self._check_brand(brand)
            if not await self._has_place(kind, brand, name):
                raise await self._missing(kind, brand, name)
            devices = await self.records.remove_place(kind, brand, name)
            for device in devices:
                announce(Identity(Role.DEVICE, brand, device).path)
        users, stores = (1, 0) if kind == "user" else (0, 1)
        return Removed(what=f"{kind} {name} of {brand}", users=users, stores=stores, unassigned=tuple(devices))

    # -- devices -------------------------------------------------------------------------------------------------------

    async def device_list(
        self, brand: str | None = None, user: str | None = None, store: str | None = None
    ) -> list[Device]:
        """The devices of one brand or of all, of one user, in one store."""
        await self._check_brand(brand)
        if brand is not None:
            await self._check_places(brand, user, store)
        return await self.records.devices(brand, user=user, store=store)

    async def device_show(self, brand: str, device: str) -> Device:
        """One device, or `NotFound`."""
        await self._check_brand(brand)
        return await self._device(brand, device)

    async def device_assign(self, brand: str, device: str, user: str | None = None, store: str | None = None) -> Device:
        """Say whose a device is and where it stands: '' for none, None for what it was.

        Its connection ends, and comes back with the new rights.
        """
        async with self.change() as announce:
            await self._check_brand(brand)
            before = await self._device(brand, device)
            await self._assign(before, user, store, announce)
        return await self.device_show(brand, device)

    async def device_revoke(self, brand: str, device: str) -> Device:
        """Lock a device out at once: its certificates, password and code. A new code lets it enrol again."""
        async with self.change() as announce:
            await self._check_brand(brand)
            await self._device(brand, device)
            identity = Identity(Role.DEVICE, brand, device)
            await self.records.set_device_state(brand, device, DeviceState.REVOKED)
            await self.records.revoke_certificates_of(identity, self.now())
            await self.records.remove_password(brand, Role.DEVICE, device)
            await self.records.remove_code(brand, device)
            self._announce_gone(identity, announce)
        return await self.device_show(brand, device)

    async def device_remove(self, brand: str, device: str) -> Removed:
        """Remove a device; its certificates are refused from now on."""
        async with self.change() as announce:
            await self._check_brand(brand)
            await self._device(brand, device)
            gone = await self.records.remove_device(brand, device)
            self._announce_gone(Identity(Role.DEVICE, brand, device), announce)
        return Removed(what=f"device {device} of {brand}", unassigned=(), devices=1, **gone)

    def _announce_gone(self, identity: Identity, announce: Announce) -> None:
        announce(identity.path, gone=True)
        announce(Identity(Role.ENROLLING, identity.brand, identity.name).path, gone=True)

    async def _device(self, brand: str, device: str) -> Device:
        found = await self.records.devices(brand, device)
        if not found:
            raise await self._missing("device", brand, device)
        return found[0]

    async def _device_or_new(self, brand: str, device: str) -> Device:
        check_name("device", device)
        await self._check_brand(brand)
        if not await self.records.devices(brand, device):
            await self.records.add_device(brand, device, self.now())
        return await self._device(brand, device)

    async def _assign(self, before: Device, user: str | None, store: str | None, announce: Announce) -> None:
        user = before.user if user is None else user
        store = before.store if store is None else store
        if (user, store) == (before.user, before.store):
            return
        await self._check_places(before.brand, user or None, store or None)
        await self.records.assign_device(before.brand, before.name, user, store)
        announce(Identity(Role.DEVICE, before.brand, before.name).path)

    # -- what must be there --------------------------------------------------------------------------------------------

    async def _check_brand(self, name: str | None) -> None:
        if name is not None and not await self.records.has_brand(name):
            raise await self._no_brand(name)

    async def _no_brand(self, name: str) -> NotFound:
        """What to say of a brand that there is not: what was perhaps meant, else how to get it."""
        close = difflib.get_close_matches(name, [brand.name for brand in await self.records.brands(self.now())])
        meant = f"Did you mean {' or '.join(map(repr, close))}? {to_type('brand', 'list')} shows them all."
        return NotFound(f"there is no brand {name!r}", remedy=meant if close else to_type("brand", "add", name))

    async def check(self, brand: str, kind: Place | Literal["device"] | None = None, name: str = "") -> None:
        """`NotFound` when there is no such brand, or when it has no such user, store or device."""
        await self._check_brand(brand)
        if kind == "device":
            await self._device(brand, name)
        elif kind is not None and not await self._has_place(kind, brand, name):
            raise await self._missing(kind, brand, name)

    async def _has_place(self, kind: Place, brand: str, name: str) -> bool:
        return bool(await (self.records.users if kind == "user" else self.records.stores)(brand, name))

    async def _check_places(self, brand: str, user: str | None, store: str | None) -> None:
        if user is not None and not await self._has_place("user", brand, user):
            raise await self._missing("user", brand, user)
        if store is not None and not await self._has_place("store", brand, store):
            raise await self._missing("store", brand, store)

    async def _missing(self, kind: Place | Literal["device"], brand: str, name: str) -> NotFound:
        """What to say of a thing that the brand does not have: what was perhaps meant, else how to get it."""
        there = await self.records.names_near(kind, brand, name, _NEAR)
        close = difflib.get_close_matches(name, there)
        everything = to_type(kind, "list", brand)
        add = to_type(kind, "code" if kind == "device" else "add", brand, name)
        if close:
            remedy = f"Did you mean {' or '.join(map(repr, close))}? {everything} shows them all."
        else:
            remedy = f"{everything}, or {add}" if there else add
        return NotFound(f"{brand} has no {kind} {name!r}", remedy=remedy)


def _check_title(title: str) -> None:
    if len(title) > TITLE_CHARACTERS_MAX or not title.isprintable():
        raise Refused(
            "that title is too long or has control characters",
            reason=0x90,
            remedy=f"Use up to {TITLE_CHARACTERS_MAX} characters on one line.",
        )


def to_type(*words: str) -> str:
    """The command for a remedy."""
    return shlex.join(("pushbroker", *words))
