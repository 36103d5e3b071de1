"""Who answers for a brand, and replies that are ready, in DATA/messages.db."""

import sqlite3

import msgspec

from broker.store.messages import Messages


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """A person who answers. `stores` and `tags`: whom they are first for."""

    brand: str
    name: str
    title: str
    stores: tuple[str, ...]
    tags: tuple[str, ...]
    away: bool
    most: int  # conversations at a time that are given to them
    given_at: int  # when they last were given one; 0: never


class Canned(msgspec.Struct, frozen=True, kw_only=True):
    """A reply that is ready, with placeholders. Of one name there may be one in each language."""

    brand: str
    name: str
    language: str
    text: str


class Agents:
    """The tables of agents and their replies. Every method raises `Failed` as those of `Messages` do."""

    def __init__(self, messages: Messages) -> None:
        self._read = messages.read
        self._write = messages.write

    async def all(self, brand: str | None = None) -> list[Agent]:
        """Those of one brand, or of all."""
        sql = """SELECT brand, name, title, stores, tags, away, most, given_at FROM agent
                 WHERE ?1 IS NULL OR brand = ?1 ORDER BY brand, name"""
        return [_agent(row) for row in await self._read(lambda db: db.execute(sql, (brand,)).fetchall())]

    async def busy(self, brand: str) -> dict[str, int]:
        """How many conversations each of a brand's has, or is to have."""
        sql = """SELECT agent, count(*) FROM conversation WHERE brand = ? AND state IN ('waiting', 'agent')
                 GROUP BY agent"""
        return dict(await self._read(lambda db: db.execute(sql, (brand,)).fetchall()))

    async def put(self, agent: Agent) -> None:
        """Write one down, as they are now."""
        row = msgspec.to_builtins(agent) | {name: _json(getattr(agent, name)) for name in ("stores", "tags")}
        sql = """INSERT OR REPLACE INTO agent (brand, name, title, stores, tags, away, most, given_at)
                 VALUES (:brand, :name, :title, :stores, :tags, :away, :most, :given_at)"""
        await self._write(lambda db: db.execute(sql, row))

    async def remove(self, brand: str, name: str) -> None:
        """Take one away."""
        await self._write(lambda db: db.execute("DELETE FROM agent WHERE brand = ? AND name = ?", (brand, name)))

    async def canned(self, brand: str, name: str | None = None) -> list[Canned]:
        """The replies of a brand, or those with one name."""
        sql = """SELECT brand, name, language, text FROM canned WHERE brand = ?1 AND (?2 IS NULL OR name = ?2)
                 ORDER BY name, language"""
        rows = await self._read(lambda db: db.execute(sql, (brand, name)).fetchall())
        return [Canned(brand=brand, name=name, language=language, text=text) for brand, name, language, text in rows]

    async def put_canned(self, canned: Canned, most: int) -> bool:
        """Write one down; False where the brand has `most` others."""

        def work(db: sqlite3.Connection) -> bool:
            sql = "SELECT count(*) FROM canned WHERE brand = ? AND (name, language) <> (?, ?)"
            if db.execute(sql, (canned.brand, canned.name, canned.language)).fetchone()[0] >= most:
                return False
            row = (canned.brand, canned.name, canned.language, canned.text)
            db.execute("INSERT OR REPLACE INTO canned (brand, name, language, text) VALUES (?, ?, ?, ?)", row)
            return True

        return await self._write(work)

    async def remove_canned(self, brand: str, name: str, language: str | None) -> int:
        """Take one away, in one language or in all. Returns how many there were."""
        sql = "DELETE FROM canned WHERE brand = ?1 AND name = ?2 AND (?3 IS NULL OR language = ?3)"
        return await self._write(lambda db: db.execute(sql, (brand, name, language)).rowcount)

    async def forget(self, brand: str) -> None:
        """Forget all of a brand's."""

        def work(db: sqlite3.Connection) -> None:
            for table in ("agent", "canned"):
                db.execute(f"DELETE FROM {table} WHERE brand = ?", (brand,))  # noqa: S608 - our own words

        await self._write(work)


def _agent(row: tuple[str, str, str, str, str, int, int, int]) -> Agent:
    brand, name, title, stores, tags, away, most, given_at = row
    return Agent(
        brand=brand,
        name=name,
        title=title,
        stores=tuple(msgspec.json.decode(stores)),
        tags=tuple(msgspec.json.decode(tags)),
        away=bool(away),
        most=most,
        given_at=given_at,
    )


def _json(values: tuple[str, ...]) -> str:
    return msgspec.json.encode(values).decode()
