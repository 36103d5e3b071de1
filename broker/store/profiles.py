"""What the records have of whom brands address: tags, attributes, consents, preferences, segments, restraint.

Here is the SQL, on the connection and in the transactions of `Records`; what may be said is decided by the caller.
Times are milliseconds here, for consent is given and taken back within a second.
"""
# ruff: noqa: S608 - statements are put together of our own words; all else is a parameter

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from broker.store.database import guarded
from broker.store.entries import (
    Consent,
    ConsentState,
    Preferences,
    Profile,
    Quiet,
    Recipient,
    Restraint,
    Segment,
    Suppression,
    Who,
    WhoKind,
)
from broker.store.follows import FollowTable
from broker.store.records import Records

_OF: Final = "brand = :brand AND kind = :kind AND name = :name"
_CONSENT: Final = "topic, state, {} / 1000.0 AS at, source"
_SUPPRESSION: Final = "SELECT user, reason, since / 1000.0 AS since, until / 1000.0 AS until FROM suppressions"
# Of a device that belongs to a user, the user's.
_RECIPIENTS: Final = """
  WITH asked AS (
    SELECT value ->> 0 AS kind, value ->> 1 AS name FROM json_each(:asked)
  ), who AS (
    SELECT a.kind, a.name, CASE WHEN d.user IS NULL THEN a.kind ELSE 'user' END AS of_kind,
      coalesce(d.user, a.name) AS of_name
    FROM asked a LEFT JOIN devices d ON a.kind = 'device' AND d.brand = :brand AND d.name = a.name
    WHERE d.name IS NOT NULL OR a.kind = 'user' AND
      EXISTS (SELECT 1 FROM users u WHERE u.brand = :brand AND u.name = a.name)
  )
  SELECT w.kind, w.name, p.quiet_from, p.quiet_until, coalesce(p.time_zone, '') AS time_zone,
    coalesce(p.locale, '') AS locale, s.user, s.reason, s.since / 1000.0 AS since, s.until / 1000.0 AS until,
    (SELECT json_group_array(topic) FROM consents c
      WHERE c.brand = :brand AND c.kind = w.of_kind AND c.name = w.of_name AND c.state = 'in') AS topics
  FROM who w
    LEFT JOIN preferences p ON p.brand = :brand AND p.kind = w.of_kind AND p.name = w.of_name
    LEFT JOIN suppressions s ON w.of_kind = 'user' AND s.brand = :brand AND s.user = w.of_name
"""


class Profiles:
    """The profiles in one `Records`. Every method raises `Failed` as those do; changes go inside a transaction."""

    def __init__(self, records: Records) -> None:
        self.path = records.path
        self._run = records._run
        self._all = records._all
        self.follows = FollowTable(records)

    async def select(self, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of a query that was made of conditions."""
        with guarded(self.path):
            return [tuple(row) for row in await self._run(sql, **values)]

    async def profile(self, who: Who) -> Profile:
        """What is known of somebody; nothing, of who is not there."""
        of = who._asdict()
        with guarded(self.path):
            tags = await self._run(f"SELECT tag FROM tags WHERE {_OF} ORDER BY tag", **of)
            attributes = await self._run(f"SELECT key, value FROM attributes WHERE {_OF} ORDER BY key", **of)
        consent = _CONSENT.format("since")
        suppressed = await self.suppressions(who.brand, who.name) if who.kind == "user" else []
        return Profile(
            tags=tuple(row[0] for row in tags),
            attributes={row[0]: row[1] for row in attributes},
            topics=tuple(await self._all(Consent, f"SELECT {consent} FROM consents WHERE {_OF} ORDER BY topic", **of)),
            follows=tuple(await self.follows.of(who)),
            preferences=await self.preferences(who),
            suppressed=suppressed[0] if suppressed else None,
        )

    async def recipients(
        self, brand: str, asked: Sequence[tuple[WhoKind, str]]
    ) -> dict[tuple[WhoKind, str], Recipient]:
        """What decides for each of these that is there; for a device that belongs to a user, what they said."""
        with guarded(self.path):
            rows = await self._run(_RECIPIENTS, brand=brand, asked=json.dumps(asked))
        return {(row["kind"], row["name"]): _recipient(dict(row)) for row in rows}

    # -- tags and attributes -------------------------------------------------------------------------------------------

    async def tag(self, who: Who, tags: Iterable[str]) -> int:
        """Add tags; returns how many there are now."""
        for tag in tags:
            await self._run("INSERT OR IGNORE INTO tags VALUES (:brand, :kind, :name, :tag)", **who._asdict(), tag=tag)
        return await self._count("tags", who)

    async def untag(self, who: Who, tags: Iterable[str]) -> None:
        """Take tags away."""
        for tag in tags:
            await self._run(f"DELETE FROM tags WHERE {_OF} AND tag = :tag", **who._asdict(), tag=tag)

    async def set(self, who: Who, attributes: Mapping[str, str]) -> int:
        """Set attributes; returns how many there are now."""
        sql = "INSERT OR REPLACE INTO attributes VALUES (:brand, :kind, :name, :key, :value)"
        for key, value in attributes.items():
            await self._run(sql, **who._asdict(), key=key, value=value)
        return await self._count("attributes", who)

    async def unset(self, who: Who, keys: Iterable[str]) -> None:
        """Take attributes away."""
        for key in keys:
            await self._run(f"DELETE FROM attributes WHERE {_OF} AND key = :key", **who._asdict(), key=key)

    async def _count(self, table: Literal["tags", "attributes", "consents"], who: Who) -> int:
        ((count,),) = await self._run(f"SELECT count(*) FROM {table} WHERE {_OF}", **who._asdict())
        return int(count)

    # -- consent and preferences ---------------------------------------------------------------------------------------

    async def consent(self, who: Who, topic: str, state: ConsentState, at: datetime, source: str, kept: int) -> int:
        """Note what somebody said of a topic; returns on how many topics they said something.

        What is known already changes nothing, nor does what is older. `kept` is how long the log may get.
        """
        said = {**who._asdict(), "topic": topic, "state": state, "at": ms(at), "source": source}
        changed = await self._run(
            """INSERT INTO consents VALUES (:brand, :kind, :name, :topic, :state, :at, :source)
               ON CONFLICT DO UPDATE SET state = excluded.state, since = excluded.since, source = excluded.source
               WHERE state != excluded.state AND since <= excluded.since RETURNING 1""",
            **said,
        )
        if changed:
            await self.log_consent(who, topic, state, at, source, kept)
        return await self._count("consents", who)

    async def log_consent(
        self, who: Who, topic: str, state: ConsentState, at: datetime, source: str, kept: int
    ) -> None:
        """Write down what changed."""
        await self._run(
            """INSERT INTO consent_log (brand, kind, name, topic, state, at, source)
               VALUES (:brand, :kind, :name, :topic, :state, :at, :source)""",
            **who._asdict(),
            topic=topic,
            state=state,
            at=ms(at),
            source=source,
        )
        await self._run(
            f"""DELETE FROM consent_log WHERE {_OF} AND number <=
                (SELECT number FROM consent_log WHERE {_OF} ORDER BY number DESC LIMIT 1 OFFSET :kept)""",
            **who._asdict(),
            kept=kept,
        )

    async def said_later(self, who: Who, topic: str, at: datetime) -> bool:
        """Whether the log has something of a topic that is newer."""
        sql = f"SELECT 1 FROM consent_log WHERE {_OF} AND topic = :topic AND at > :at LIMIT 1"
        return bool(await self._run(sql, **who._asdict(), topic=topic, at=ms(at)))

    async def consent_log(self, who: Who, topic: str | None = None) -> list[Consent]:
        """Each consent given and taken back, the oldest first."""
        consent = _CONSENT.format("at")
        sql = f"SELECT {consent} FROM consent_log WHERE {_OF} AND topic = coalesce(:topic, topic) ORDER BY number"
        return await self._all(Consent, sql, **who._asdict(), topic=topic)

    async def preferences(self, who: Who) -> Preferences:
        """What somebody wants."""
        with guarded(self.path):
            rows = await self._run(f"SELECT * FROM preferences WHERE {_OF}", **who._asdict())
        return _preferences(dict(rows[0])) if rows else Preferences()

    async def prefer(self, who: Who, wanted: Preferences) -> None:
        """Keep what somebody wants, in place of what they wanted before."""
        quiet = wanted.quiet_hours or Quiet("", "")
        await self._run(
            "INSERT OR REPLACE INTO preferences VALUES (:brand, :kind, :name, :from, :until, :time_zone, :locale)",
            **who._asdict(),
            **{"from": quiet.from_},
            until=quiet.until,
            time_zone=wanted.time_zone,
            locale=wanted.locale,
        )

    async def owe(self, who: Who) -> None:
        """Note that somebody's devices are to be told what counts now."""
        sql = """INSERT OR REPLACE INTO untold
                 SELECT :brand, :kind, :name, coalesce(max(number), 0) + 1 FROM untold"""
        await self._run(sql, **who._asdict())

    async def untold(self, most: int) -> list[tuple[Who, int]]:
        """Who is to be told, each with a number; the oldest first."""
        sql = "SELECT brand, kind, name, number FROM untold ORDER BY number LIMIT :most"
        return [(Who(*row[:3]), row[3]) for row in await self.select(sql, {"most": most})]

    async def told(self, done: Iterable[tuple[Who, int]]) -> None:
        """Forget that these were to be told, but who has said something since."""
        for who, number in done:
            await self._run(f"DELETE FROM untold WHERE {_OF} AND number = :number", **who._asdict(), number=number)

    # -- suppression ---------------------------------------------------------------------------------------------------

    async def suppress(self, brand: str, entry: Suppression) -> None:
        """Keep that a user gets nothing."""
        await self._run(
            "INSERT OR REPLACE INTO suppressions VALUES (:brand, :user, :reason, :since, :until)",
            brand=brand,
            user=entry.user,
            reason=entry.reason,
            since=ms(entry.since),
            until=entry.until and ms(entry.until),
        )

    async def unsuppress(self, brand: str, user: str) -> bool:
        """End that; says whether it was so."""
        sql = "DELETE FROM suppressions WHERE brand = :brand AND user = :user RETURNING 1"
        return bool(await self._run(sql, brand=brand, user=user))

    async def suppressions(self, brand: str, user: str | None = None) -> list[Suppression]:
        """Who gets nothing, also where that has passed."""
        sql = f"{_SUPPRESSION} WHERE brand = :brand AND user = coalesce(:user, user) ORDER BY user"
        return await self._all(Suppression, sql, brand=brand, user=user)

    # -- segments and restraint ----------------------------------------------------------------------------------------

    async def segments(self, brand: str | None = None, name: str | None = None) -> list[Segment]:
        """The segments of a brand or of all, or the one with this name."""
        sql = """SELECT * FROM segments WHERE brand = coalesce(:brand, brand) AND name = coalesce(:name, name)
                 ORDER BY brand, name"""
        return await self._all(Segment, sql, brand=brand, name=name)

    async def set_segment(self, segment: Segment) -> None:
        """Keep a segment in place of an older one."""
        await self._run(
            "INSERT OR REPLACE INTO segments VALUES (:brand, :name, :title, :condition)",
            **msgspec.structs.asdict(segment),
        )

    async def remove_segment(self, brand: str, name: str) -> bool:
        """Remove a segment; says whether there was one."""
        sql = "DELETE FROM segments WHERE brand = :brand AND name = :name RETURNING 1"
        return bool(await self._run(sql, brand=brand, name=name))

    async def restraint(self, brand: str) -> Restraint:
        """What a brand holds itself to."""
        with guarded(self.path):
            rows = await self._run("SELECT rules FROM restraints WHERE brand = :brand", brand=brand)
        return msgspec.json.decode(rows[0][0], type=Restraint) if rows else Restraint()

    async def set_restraint(self, brand: str, rules: Restraint) -> None:
        """Keep what a brand holds itself to."""
        sql = "INSERT OR REPLACE INTO restraints VALUES (:brand, :rules)"
        await self._run(sql, brand=brand, rules=msgspec.json.encode(rules).decode())


def ms(time: datetime) -> int:
    """Milliseconds since 1970."""
    return round(time.timestamp() * 1000)


def _preferences(row: Mapping[str, Any]) -> Preferences:
    quiet = Quiet(row["quiet_from"], row["quiet_until"]) if row["quiet_from"] else None
    return Preferences(quiet_hours=quiet, time_zone=row["time_zone"], locale=row["locale"])


def _recipient(row: Mapping[str, Any]) -> Recipient:
    wanted = _preferences(row)
    suppressed = None if row["user"] is None else msgspec.convert(row, Suppression, strict=False)
    return Recipient(
        time_zone=wanted.time_zone,
        quiet_hours=wanted.quiet_hours,
        locale=wanted.locale,
        topics=frozenset(json.loads(row["topics"])),
        suppressed=suppressed,
    )
