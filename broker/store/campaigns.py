"""Campaigns and what came of them, in DATA/messages.db: the SQL. Times are milliseconds since 1970 (UTC).

Figures are counted from the recipients by a reader of their own, which sees the records too: who asks for them does not
hold up what is being sent.
"""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

import msgspec

from broker import limits
from broker.store.database import Database, guarded, open_reader
from broker.store.messages import Messages

State = Literal["draft", "running", "paused", "stopped", "done"]

_COUNTS: Final = """count(*) AS accepted, count(*) FILTER (WHERE r.state = 'delivered') AS delivered,
  count(r.displayed_at) AS displayed, count(r.opened_at) AS opened, count(r.clicked_at) AS clicked,
  count(r.dismissed_at) AS dismissed, count(*) FILTER (WHERE r.state IN ('accepted', 'sent')) AS waiting,
  count(*) FILTER (WHERE r.state = 'expired') AS expired, count(*) FILTER (WHERE r.state = 'replaced') AS replaced,
  count(*) FILTER (WHERE r.state = 'dropped') AS dropped, count(*) FILTER (WHERE r.state = 'withdrawn') AS withdrawn,
  count(*) FILTER (WHERE r.delivered_at <= r.due_at + :within) AS delivered_within,
  count(*) FILTER (WHERE r.opened_at <= r.due_at + :within) AS opened_within"""

# Where somebody counts: in the store of the device that got it first, else in that of a device of theirs, so that
# everybody counts once. SQLite takes one index for as good as the other, and would read all devices of the brand for
# each of its users.
_BY_STORE: Final = f"""
  SELECT coalesce(d.store, '') AS store, {_COUNTS}
  FROM (SELECT *, (SELECT e.device FROM event e WHERE e.message = x.message AND e.recipient = x.number
                     AND e.event = 'delivered' ORDER BY e.at LIMIT 1) AS device
        FROM recipient x WHERE x.message IN (SELECT value FROM json_each(:messages))) r
  LEFT JOIN records.devices d ON d.brand = :brand AND d.name = coalesce(r.device,
    iif(r.kind = 'device', r.name,
      (SELECT o.name FROM records.devices o INDEXED BY devices_of_user
       WHERE o.brand = :brand AND o.user = r.name ORDER BY o.store IS NULL, o.name LIMIT 1)))
  GROUP BY 1 ORDER BY 1
"""  # noqa: S608 - our own words
_BY_MESSAGE: Final = f"""
  SELECT r.message AS message, {_COUNTS} FROM recipient r
  WHERE r.message IN (SELECT value FROM json_each(:messages)) GROUP BY r.message
"""  # noqa: S608 - our own words

# Those who have it for so long, have not opened it, and were not sent it again.
_UNOPENED: Final = """
  SELECT r.number, r.kind, r.name FROM recipient r
  WHERE r.message = :message AND r.number > :after AND r.delivered_at <= :before AND r.opened_at IS NULL
    AND iif(r.kind = 'user', EXISTS (SELECT 1 FROM records.users u WHERE u.brand = :brand AND u.name = r.name),
          EXISTS (SELECT 1 FROM records.devices d WHERE d.brand = :brand AND d.name = r.name))
    AND NOT EXISTS (SELECT 1 FROM recipient o WHERE o.kind = r.kind AND o.name = r.name AND o.message > r.message
                      AND o.because = :again)
  ORDER BY r.number LIMIT :most
"""


class CampaignRow(msgspec.Struct, kw_only=True):
    """A campaign as it is kept."""

    number: int
    brand: str
    name: str
    state: State
    definition: str
    next_run: str | None
    next_run_at: int | None
    created_at: int


class RunRow(msgspec.Struct, kw_only=True):
    """A run that was made."""

    at: int
    ended_at: int
    held_out: int
    problem: str


class Message(msgspec.Struct, kw_only=True):
    """A message of a campaign. `at` is the time of its run; `again` the message that it repeats, or ''."""

    number: int
    id: str
    variant: str
    recipients: int
    accepted_at: int
    at: int
    again: str


class Counts(msgspec.Struct):
    """What became of some recipients. accepted = delivered + waiting + expired + replaced + dropped + withdrawn."""

    accepted: int = 0
    delivered: int = 0
    displayed: int = 0
    opened: int = 0
    clicked: int = 0
    dismissed: int = 0
    waiting: int = 0
    expired: int = 0
    replaced: int = 0
    dropped: int = 0
    withdrawn: int = 0
    delivered_within: int = 0
    opened_within: int = 0

    def add(self, other: "Counts") -> None:
        """Count those in, too."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Unopened(NamedTuple):
    """Somebody who has a message and has not opened it."""

    number: int
    kind: Literal["user", "device"]
    name: str


_ROW: Final = ", ".join(CampaignRow.__struct_fields__)


class Campaigns:
    """The campaigns of one data directory. Every method raises `Failed` as the books do. Close it before them."""

    def __init__(self, messages: Messages, reader: Database) -> None:
        self._messages = messages
        self._reader = reader

    @classmethod
    async def open(cls, messages: Messages, records: Path) -> Self:
        """Those beside the messages; `records` is where users and devices are."""
        reader = await open_reader(messages.path)
        uri = records.absolute().as_uri()  # noqa: ASYNC240 - it asks the disk for the current directory at most
        try:
            with guarded(records):
                await reader.all("ATTACH DATABASE ? AS records", f"{uri}?mode=ro")
        except BaseException:
            await reader.close()
            raise
        return cls(messages, reader)

    async def close(self) -> None:
        """Let go of the reader."""
        await self._reader.close()

    # -- campaigns -----------------------------------------------------------------------------------------------------

    async def add(self, brand: str, name: str, definition: str, now: int) -> bool:
        """Add a campaign; False where there is one of that name."""
        sql = """INSERT OR IGNORE INTO campaign (brand, name, state, definition, created_at)
                 VALUES (?, ?, 'draft', ?, ?) RETURNING number"""
        return await self._messages.write(
            lambda db: db.execute(sql, (brand, name, definition, now)).fetchone() is not None
        )

    async def one(self, brand: str, name: str) -> CampaignRow | None:
        """The campaign of this name."""
        found = await self._rows("brand = ? AND name = ?", brand, name)
        return found[0] if found else None

    async def all(self, brand: str | None) -> list[CampaignRow]:
        """Those of a brand, or all."""
        return await self._rows("?1 IS NULL OR brand = ?1 ORDER BY brand, name", brand)

    async def due(self, now: int) -> list[CampaignRow]:
        """Those whose time has come, the earliest first."""
        return await self._rows("state = 'running' AND next_run_at <= ? ORDER BY next_run_at, number", now)

    async def next_at(self) -> int | None:
        """When the next run of any begins."""
        sql = "SELECT min(next_run_at) FROM campaign WHERE state = 'running' AND next_run_at IS NOT NULL"
        (at,) = await self._messages.read(lambda db: db.execute(sql).fetchone())
        return None if at is None else int(at)

    async def change(self, row: CampaignRow) -> None:
        """Keep the state, the definition and the next run of `row`."""
        sql = """UPDATE campaign SET state = :state, definition = :definition, next_run = :next_run,
                 next_run_at = :next_run_at WHERE number = :number"""
        await self._messages.write(lambda db: db.execute(sql, msgspec.structs.asdict(row)))

    async def forget(self, *brands: str) -> None:
        """Remove what there is of these brands, and of all that are gone: campaigns and what was sent.

        Another brand of that name shall not find it, and its people not get it.
        """
        there = """SELECT DISTINCT brand FROM (SELECT brand FROM campaign UNION SELECT brand FROM message)
                 WHERE brand NOT IN (SELECT name FROM records.brands)"""
        gone = {*brands, *(brand for (brand,) in await self._read(there))}
        if gone:
            sql = "DELETE FROM campaign WHERE brand IN (SELECT value FROM json_each(?))"
            await self._messages.write(lambda db: db.execute(sql, (_array(sorted(gone)),)))
        for brand in gone:
            await self._messages.forget(brand)

    async def remove(self, number: int) -> None:
        """Remove a campaign. What it has sent stays."""
        await self._messages.write(lambda db: db.execute("DELETE FROM campaign WHERE number = ?", (number,)))

    async def _rows(self, where: str, *values: object) -> list[CampaignRow]:
        sql = f"SELECT {_ROW} FROM campaign WHERE {where}"  # noqa: S608 - our own words
        rows = await self._messages.read(lambda db: db.execute(sql, values).fetchall())
        return [CampaignRow(**dict(zip(CampaignRow.__struct_fields__, row, strict=True))) for row in rows]

    # -- runs ----------------------------------------------------------------------------------------------------------

    async def ran(self, row: CampaignRow, run: RunRow, ids: Sequence[str]) -> None:
        """A run has sent these messages; `row` says what comes next.

        Who has paused, stopped or changed the campaign meanwhile has the last word.
        """

        def work(db: sqlite3.Connection) -> None:
            values = msgspec.structs.asdict(row) | msgspec.structs.asdict(run)
            db.execute(
                "INSERT OR REPLACE INTO campaign_run VALUES (:number, :at, :ended_at, :held_out, :problem)", values
            )
            db.executemany(
                "INSERT OR REPLACE INTO campaign_message SELECT number, ? FROM message WHERE id = ?",
                [(run.at, id) for id in ids],
            )
            db.execute(
                """UPDATE campaign SET next_run = :next_run, next_run_at = :next_run_at,
                   state = iif(state = 'running', :state, state) WHERE number = :number AND next_run_at = :at""",
                values,
            )

        await self._messages.write(work)

    async def runs(self, number: int) -> list[RunRow]:
        """The latest runs, the last one first."""
        sql = "SELECT at, ended_at, held_out, problem FROM campaign_run WHERE campaign = ? ORDER BY at DESC LIMIT ?"
        rows = await self._messages.read(lambda db: db.execute(sql, (number, limits.CAMPAIGN_RUNS_SHOWN)).fetchall())
        return [RunRow(at=at, ended_at=ended, held_out=held, problem=problem) for at, ended, held, problem in rows]

    # -- what came of it -----------------------------------------------------------------------------------------------

    async def messages(self, brand: str, campaign: str, run_at: int | None = None) -> tuple[list[Message], bool]:
        """The messages of a campaign, or of one run, the latest first, of as many recipients as figures are made of.

        Also whether these are all.
        """
        sql = """SELECT m.number, m.id, m.variant, m.recipients, m.accepted_at, coalesce(c.at, m.accepted_at) AS at,
                   coalesce(m.address ->> '$.unopened.message', '') AS again
                 FROM message m LEFT JOIN campaign_message c ON c.message = m.number
                 WHERE m.brand = ?1 AND m.campaign = ?2 AND m.state <> 'filling' AND (?3 IS NULL OR c.at = ?3)
                 ORDER BY m.number DESC LIMIT ?4"""
        rows = await self._read(sql, brand, campaign, run_at, limits.CAMPAIGN_MESSAGES_MAX)
        found: list[Message] = []
        recipients = 0
        for row in rows:
            message = Message(**dict(zip(Message.__struct_fields__, row, strict=True)))
            recipients += message.recipients
            if found and recipients > limits.FIGURES_RECIPIENTS_MAX:
                return found, False
            found.append(message)
        return found, len(rows) < limits.CAMPAIGN_MESSAGES_MAX

    async def counts(self, messages: Sequence[int], within_ms: int) -> dict[int, Counts]:
        """What became of messages, by their numbers."""
        rows = await self._read(_BY_MESSAGE, messages=_array(messages), within=within_ms)
        return {number: Counts(*counts) for number, *counts in rows}

    async def counts_by_store(self, brand: str, messages: Sequence[int], within_ms: int) -> dict[str, Counts]:
        """What became of messages, by store; '' are those who are in none."""
        rows = await self._read(_BY_STORE, brand=brand, messages=_array(messages), within=within_ms)
        return {store: Counts(*counts) for store, *counts in rows}

    async def unopened(self, brand: str, id: str, before: int) -> AsyncIterator[list[Unopened]]:
        """Who has had a message since `before` and has not opened it, some at a time; nobody to whom it went again."""
        found = await self._read("SELECT number FROM message WHERE brand = ? AND id = ?", brand, id)
        if not found:
            return
        values = {"brand": brand, "message": found[0][0], "before": before, "again": unopened_of(id)}
        after = 0
        while True:
            rows = await self._read(_UNOPENED, **values, after=after, most=limits.UNOPENED_PAGE)
            if not rows:
                return
            yield [Unopened(*row) for row in rows]
            after = rows[-1][0]

    async def had_enough(
        self, brand: str, campaign: str, names: Sequence[tuple[str, str]], most: int, since: int
    ) -> set[tuple[str, str]]:
        """Which of these (kind, name) have had, or are about to get, so many messages of a campaign since then."""
        sql = """SELECT r.kind, r.name FROM json_each(?) n
                 CROSS JOIN recipient r ON r.kind = n.value ->> 0 AND r.name = n.value ->> 1
                   AND r.state IN ('accepted', 'sent', 'delivered')
                 CROSS JOIN message m ON m.number = r.message AND m.brand = ? AND m.campaign = ? AND m.accepted_at > ?
                 GROUP BY 1, 2 HAVING count(*) >= ?"""
        return {(kind, name) for kind, name in await self._read(sql, _array(names), brand, campaign, since, most)}

    async def _read(self, sql: str, *values: object, **named: object) -> list[Any]:
        with guarded(self._messages.path):
            return await self._reader.call(lambda db: db.execute(sql, named or values).fetchall())


def unopened_of(id: str) -> str:
    """How somebody is addressed who has not opened the message with this id."""
    return f"unopened:{id}"


def _array(values: Sequence[Any]) -> str:
    return msgspec.json.encode(values).decode()
