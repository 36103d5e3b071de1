"""The links as they are set up: added, changed, removed, and never so that messages could go in a circle."""

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from broker.errors import NotFound, Refused
from broker.identity import check_name
from broker.limits import CLIENT_ID_BYTES_MAX, LINKS_MAX, LINKS_OF_BRAND_MAX
from broker.links.far import context, parse_url, test
from broker.links.mapping import Step, check, check_circles, parse, steps
from broker.links.near import PREFIX
from broker.store.links import Link, LinkTable, Version
from broker.store.records import Records

_SECRET_BYTES_MAX: Final = 65535  # MQTT has no room for more


class Book:
    """Every operation on links that needs no connection. `NotFound` and `Refused` say what to do instead."""

    def __init__(self, records: Records, now: Callable[[], datetime]) -> None:
        self.table = LinkTable(records)
        self._records = records
        self._now = now

    async def all(self, brand: str | None = None) -> list[Link]:
        """All links, or those of a brand."""
        return await self.table.all(brand)

    async def one(self, brand: str, name: str) -> Link:
        """One link."""
        found = await self.table.find(brand, name)
        if found is None:
            raise NotFound(f"{brand} has no link {name!r}", remedy="pushbroker link list")
        return found

    async def add(
        self,
        brand: str,
        name: str,
        *,
        url: str,
        version: Version,
        client_id: str,
        username: str,
        password: str | None,
        ca: str,
        cert: str,
        key: str,
        inbound: Sequence[str],
        outbound: Sequence[str],
    ) -> Link:
        """Add a link that is not there. Without a client id it gets one that nobody else has."""
        check_name("link", name)
        check_name("link", f"{PREFIX}{name}")  # its name on our side
        link = Link(
            brand=brand,
            name=name,
            url=url,
            version=version,
            client_id=client_id or f"pushbroker-{brand}-{name}-{secrets.token_hex(4)}",
            username=username,
            password=password is not None,
            ca=ca,
            cert=cert,
            key=key,
            inbound=tuple(inbound),
            outbound=tuple(outbound),
            paused=False,
            created_at=self._now(),
        )
        async with self._records.transaction():
            if not await self._records.has_brand(brand):
                raise NotFound(f"there is no brand {brand!r}", remedy="pushbroker brand list")
            every = await self.table.all()
            mine = [other for other in every if other.brand == brand]
            if any(other.name == name for other in mine):
                raise Refused(f"{brand} has a link {name} already", remedy=f"pushbroker link set {brand} {name}")
            if len(every) >= LINKS_MAX or len(mine) >= LINKS_OF_BRAND_MAX:
                raise Refused(
                    f"there are {len(mine)} links of {brand} and {len(every)} in all; "
                    f"{LINKS_OF_BRAND_MAX} and {LINKS_MAX} are allowed",
                    reason=0x97,
                    remedy="Give a link that is there more mappings: pushbroker link list",
                )
            _check(link, password, mine)
            await self.table.put(link, password, keep_password=False)
        return link

    async def set(
        self,
        brand: str,
        name: str,
        *,
        url: str | None,
        version: Version | None,
        client_id: str | None,
        username: str | None,
        password: str | None,
        ca: str | None,
        cert: str | None,
        key: str | None,
        inbound: Sequence[str] | None,
        outbound: Sequence[str] | None,
        paused: bool | None,
    ) -> Link:
        """Change what is given; None leaves it as it is. A password of '' takes it away."""
        changes = {
            "url": url,
            "version": version,
            "client_id": client_id or None,
            "username": username,
            "ca": ca,
            "cert": cert,
            "key": key,
            "inbound": None if inbound is None else tuple(inbound),
            "outbound": None if outbound is None else tuple(outbound),
            "paused": paused,
            "password": None if password is None else password != "",
        }
        async with self._records.transaction():
            old = await self.one(brand, name)
            link = msgspec.structs.replace(old, **{what: to for what, to in changes.items() if to is not None})
            _check(link, password, [other for other in await self.table.all(brand) if other.name != name])
            await self.table.put(link, password or None, keep_password=password is None)
            if (link.url, link.client_id) != (old.url, old.client_id):
                await self.table.forget_session(brand, name)
        return link

    async def test(self, brand: str, name: str) -> dict[str, Any]:
        """Connect once, beside the link itself, and say how that went."""
        link = await self.one(brand, name)
        filters = [parse(text).filter for text in link.inbound]
        return await test(link, await self.table.password(brand, name), filters)

    async def remove(self, brand: str, name: str) -> Link:
        """Remove a link."""
        async with self._records.transaction():
            link = await self.one(brand, name)
            await self.table.remove(brand, name)
        return link


def _check(link: Link, password: str | None, others: Sequence[Link]) -> None:
    """Raise `Refused` for a link that cannot be, alone or with the brand's others."""
    if len(link.client_id.encode()) > CLIENT_ID_BYTES_MAX or not link.client_id.isprintable():
        raise Refused(f"a client id has up to {CLIENT_ID_BYTES_MAX} printable bytes", reason=0x85)
    if len((password or "").encode()) > _SECRET_BYTES_MAX or len(link.username.encode()) > _SECRET_BYTES_MAX:
        raise Refused("the user name or the password is too long for MQTT", reason=0x86)
    if link.password and not link.username:
        raise Refused("a password needs a user name", reason=0x86, remedy="Give one: --username NAME")
    address = parse_url(link.url)
    if not address.tls and (link.ca or link.cert or link.key):
        raise Refused(
            f"{link.url} is not encrypted: certificates have no use there",
            reason=0x83,
            remedy="Write mqtts:// or wss://.",
        )
    if link.key and not link.cert:
        raise Refused("a key needs its certificate", reason=0x83, remedy="Give it: --cert FILE")
    for path in (link.ca, link.cert, link.key):
        if path and not Path(path).is_absolute():
            raise Refused(
                f"{path} is not an absolute path", reason=0x83, remedy="The broker runs elsewhere: write /..."
            )
    context(link)
    if not link.inbound and not link.outbound:
        raise Refused(
            "a link without mappings carries nothing",
            reason=0x90,
            remedy="Give some: --in 'crm/{user} -> acme/user/{user}'",
        )
    check(link.brand, [parse(text) for text in link.inbound], [parse(text) for text in link.outbound])
    check_circles(link.brand, [way for one in (*others, link) for way in _steps(one)])


def _steps(link: Link) -> list[Step]:
    address = parse_url(link.url)
    where = f"{address.host}:{address.port}"
    return steps(link.name, where, map(parse, link.inbound), map(parse, link.outbound))
