"""Who follows what: the tables `follows` and `stopped` of the records. Times are milliseconds here."""
# ruff: noqa: S608 - statements are put together of our own words; all else is a parameter

import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from broker.store.database import guarded
from broker.store.entries import Followed, Who, WhoKind
from broker.store.records import Records

_OF: Final = "brand = :brand AND kind = :kind AND name = :name"
_AMONG: Final = "(kind, name) IN (SELECT value ->> 0, value ->> 1 FROM json_each(:names))"

Name = tuple[WhoKind, str]


def topic_of(item: str) -> str:
    """As what the consent log has an item; no topic has such a name."""
    return f"item/{item}"


def item_of(topic: str) -> str:
    """Which item that is; '' of a topic."""
    return topic[5:] if topic.startswith("item/") else ""


class Last(NamedTuple):
    """What a follower was sent last, and how soon they want the next."""

    every_s: int
    sent_at: int
    sent: str  # the message's id

    @property
    def next_at(self) -> int:
        """Not before."""
        return self.sent_at + self.every_s * 1000


class FollowTable:
    """The follows in one `Records`. Every method raises `Failed` as those do; changes go inside a transaction."""

    def __init__(self, records: Records) -> None:
        self._path = records.path
        self._run = records._run
        self._all = records._all
        self._transaction = records.transaction

    async def of(self, who: Who) -> list[Followed]:
        """What somebody follows."""
        sql = f"SELECT item, every_s, since / 1000.0 AS since, source FROM follows WHERE {_OF} ORDER BY item"
        return await self._all(Followed, sql, **who._asdict())

    async def begin(self, who: Who, item: str, every_s: int, at: int, source: str) -> bool:
        """Somebody follows an item from now on, this often; says whether they did not."""
        values = {**who._asdict(), "item": item, "every_s": every_s, "at": at, "source": source}
        sql = f"UPDATE follows SET every_s = :every_s WHERE {_OF} AND item = :item RETURNING 1"
        if await self._run(sql, **values):
            return False
        sql = """INSERT INTO follows (brand, kind, name, item, every_s, since, source)
                 VALUES (:brand, :kind, :name, :item, :every_s, :at, :source)"""
        await self._run(sql, **values)
        return True

    async def end(self, who: Who, item: str) -> bool:
        """They do not any more; says whether they did."""
        sql = f"DELETE FROM follows WHERE {_OF} AND item = :item RETURNING 1"
        return bool(await self._run(sql, **who._asdict(), item=item))

    async def followed(self, items: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Which of these, as brand and item, anybody follows."""
        sql = """SELECT value ->> 0, value ->> 1 FROM json_each(:items) WHERE EXISTS (
                   SELECT 1 FROM follows WHERE brand = value ->> 0 AND item = value ->> 1)"""
        with guarded(self._path):
            return {(row[0], row[1]) for row in await self._run(sql, items=json.dumps(items))}

    async def last(self, brand: str, item: str, names: Sequence[Name]) -> dict[Name, Last]:
        """Of each of these who follows it, what they got last."""
        sql = f"""SELECT kind, name, every_s, sent_at, sent FROM follows
                  WHERE brand = :brand AND item = :item AND {_AMONG}"""
        with guarded(self._path):
            rows = await self._run(sql, brand=brand, item=item, names=json.dumps(names))
        return {(row[0], row[1]): Last(*row[2:]) for row in map(tuple, rows)}

    async def sent(self, brand: str, item: str, names: Sequence[Name], message: str, at: int) -> None:
        """These are sent this message now, which is on the disk then. It is not for the inside of a transaction."""
        sql = f"""UPDATE follows SET sent = :message, sent_at = :at
                  WHERE brand = :brand AND item = :item AND sent != :message AND {_AMONG}"""
        async with self._transaction():
            await self._run(sql, brand=brand, item=item, names=json.dumps(names), message=message, at=at)

    # -- stop and start ------------------------------------------------------------------------------------------------

    async def remember(self, who: Who, topic: str, every_s: int = 0) -> None:
        """This counted when they said stop."""
        sql = "INSERT OR REPLACE INTO stopped VALUES (:brand, :kind, :name, :topic, :every_s)"
        await self._run(sql, **who._asdict(), topic=topic, every_s=every_s)

    async def remembered(self, who: Who) -> list[tuple[str, int]]:
        """What did."""
        with guarded(self._path):
            rows = await self._run(f"SELECT topic, every_s FROM stopped WHERE {_OF} ORDER BY topic", **who._asdict())
        return [(row[0], row[1]) for row in rows]

    async def forget(self, who: Who, topic: str) -> None:
        """They have said something of it since."""
        await self._run(f"DELETE FROM stopped WHERE {_OF} AND topic = :topic", **who._asdict(), topic=topic)
