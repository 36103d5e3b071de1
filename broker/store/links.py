"""The links to other brokers, in the records. Their passwords are there as they are: the other side asks for them."""

from datetime import datetime
from typing import Any, Literal

import msgspec

from broker.store.database import guarded
from broker.store.records import Records

Version = Literal["auto", "5", "3.1.1"]


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A link of a brand, as it was set up. Mappings are as people write them; files are absolute paths, '' for none."""

    brand: str
    name: str
    url: str
    version: Version
    client_id: str
    username: str
    password: bool  # whether it has one
    ca: str
    cert: str
    key: str
    inbound: tuple[str, ...]
    outbound: tuple[str, ...]
    paused: bool
    created_at: datetime


class LinkTable:
    """The SQL of links. Changes are made inside `records.transaction()`."""

    def __init__(self, records: Records) -> None:
        self.records = records

    async def all(self, brand: str | None = None) -> list[Link]:
        """All links, or those of a brand, by their names."""
        with guarded(self.records.path):
            rows = await self.records._run(
                """SELECT brand, name, url, version, client_id, username, password IS NOT NULL AS password, ca, cert,
                     key, inbound, outbound, paused, created_at
                   FROM links WHERE :brand IS NULL OR brand = :brand ORDER BY brand, name""",
                brand=brand,
            )
        found = [{**row, **{side: msgspec.json.decode(row[side]) for side in ("inbound", "outbound")}} for row in rows]
        return msgspec.convert(found, list[Link], strict=False)

    async def find(self, brand: str, name: str) -> Link | None:
        """One link."""
        return next((link for link in await self.all(brand) if link.name == name), None)

    async def password(self, brand: str, name: str) -> str | None:
        """What the link shows to their broker."""
        return await self._value("password", brand, name)

    async def subscribed(self, brand: str, name: str) -> set[str]:
        """The filters that the session at their broker may have."""
        return set(msgspec.json.decode(await self._value("subscribed", brand, name) or "[]"))

    async def _value(self, column: Literal["password", "subscribed"], brand: str, name: str) -> str | None:
        sql = f"SELECT {column} FROM links WHERE brand = :brand AND name = :name"  # noqa: S608 - one of two literals
        with guarded(self.records.path):
            rows = await self.records._run(sql, brand=brand, name=name)
        return rows[0][0] if rows else None

    async def set_subscribed(self, brand: str, name: str, filters: set[str]) -> None:
        """Note the filters that the session at their broker may have."""
        async with self.records.transaction():
            await self._set(brand, name, {"subscribed": _json(sorted(filters))})

    async def forget_session(self, brand: str, name: str) -> None:
        """There is no session of it where it connects from now on."""
        await self._set(brand, name, {"subscribed": "[]"})

    async def put(self, link: Link, password: str | None, *, keep_password: bool) -> None:
        """Keep a link, new or changed."""
        values: dict[str, Any] = msgspec.structs.asdict(link)
        del values["password"]
        values |= {"inbound": _json(link.inbound), "outbound": _json(link.outbound), "paused": int(link.paused)}
        values["created_at"] = int(link.created_at.timestamp())
        columns = ", ".join(values)
        marks = ", ".join(f":{column}" for column in values)
        sets = ", ".join(f"{column} = :{column}" for column in values)
        sql = f"INSERT INTO links ({columns}) VALUES ({marks}) ON CONFLICT DO UPDATE SET {sets}"  # noqa: S608 - ours
        await self.records._run(sql, **values)
        if not keep_password:
            await self._set(link.brand, link.name, {"password": password})

    async def _set(self, brand: str, name: str, values: dict[str, str | None]) -> None:
        sets = ", ".join(f"{column} = :{column}" for column in values)
        sql = f"UPDATE links SET {sets} WHERE brand = :brand AND name = :name"  # noqa: S608 - our own words
        await self.records._run(sql, brand=brand, name=name, **values)

    async def remove(self, brand: str, name: str) -> None:
        """Take a link away."""
        await self.records._run("DELETE FROM links WHERE brand = :brand AND name = :name", brand=brand, name=name)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
