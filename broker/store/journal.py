"""The journal on SQLite: a batch is one statement, and so one transaction and one hop to the database's thread.

Who shares the interpreter with a busy loop waits up to 5 ms each time that its lock was given up and is to be taken
again. `executemany` does that for each row: 5000 rows took 15 s beside a loop that was never idle. Here it happens once
for each batch. The rows go in as JSON, their bytes joined to one blob, and a trigger takes them apart; they are read
from the log in the same way. And without BEGIN and COMMIT there is no half of a transaction, and nothing to roll back.
"""

import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from broker.errors import Failed
from broker.journal import Batch, Fact, SavedDelivery, SavedMessage, SavedSession, SavedSubscription, Totals
from broker.limits import FETCH_BYTES_MAX
from broker.store.database import BUSY_TIMEOUT_MS, Database, guarded, open_database, open_reader, rewrite

Row = Sequence[Any]

# The log of the database (-wal) is copied into the file by the commit at which it has come to 16 MiB, and the next one
# begins it anew, unless somebody reads what is in it. At 32 MiB the commit waits for them, milliseconds for each. Only
# a reader that is not ours, such as a backup, can take longer, and then it grows.
_WAL_PAGES: Final = 4096
_WAL_BYTES_MAX: Final = 32 << 20
_WAL_WAIT_MS: Final = 50
_SQLITE_MIN: Final = (3, 38)  # the operator ->>
_PRAGMAS: Final = (
    "cache_size = 4096",  # pages; what one transaction changes beyond that is written twice
    f"wal_autocheckpoint = {_WAL_PAGES}",
    f"journal_size_limit = {_WAL_BYTES_MAX}",  # after one large transaction it would stay as large for ever
    "secure_delete = FAST",  # Debian's default writes zeros over what is forgotten, which costs as much as writing it
)
# Rows read at once: enough to make the hop not count, few enough to hold in memory.
_MESSAGES_AT_ONCE: Final = 5000
_SESSIONS_AT_ONCE: Final = 1000
_RETAINED_AT_ONCE: Final = 100  # with their bodies
_FACTS_AT_ONCE: Final = 100  # a request may be as large as a packet

_SIZE: Final = "length(topic) + length(payload) + length(properties) + length(publisher) + 60"  # as `size_of` has it
_MESSAGE: Final = "seq, topic, payload, qos, retain, properties, expires_at, publisher, id, receipt"


def _rows(column: str) -> str:
    """The rows of an array. Without OFFSET each element that is taken out of a row writes the row's JSON anew."""
    return f"(SELECT value FROM json_each(new.{column}) LIMIT -1 OFFSET 0)"  # noqa: S608 - our own words


def _blob(at: int, length: int) -> str:
    """A piece of the joined bytes: which elements of a row have its place and its length."""
    return f"substr(new.bytes, value ->> {at}, value ->> {length})"


def _messages(column: str) -> str:
    """The columns of `_MESSAGE` out of rows."""
    return f"""SELECT value ->> 0, {_blob(1, 2)}, {_blob(3, 4)}, value ->> 5, value ->> 6, {_blob(7, 8)}, value ->> 9,
        value ->> 10, value ->> 11, value ->> 12 FROM {_rows(column)}"""  # noqa: S608


# The columns hold arrays of rows, or of numbers, but for the bytes. `no_...` are the keys of rows that go.
_COLUMNS: Final = (
    "sessions", "no_subscriptions", "subscriptions", "messages", "forgotten", "no_deliveries", "deliveries",
    "no_received", "received", "no_retained", "retained", "ended", "facts", "applied", "bytes",
)  # fmt: skip
# In the temporary schema, for it belongs to this program rather than to the file.
_TRIGGER: Final = f"""
  CREATE TEMP VIEW batch AS SELECT {", ".join(f"NULL AS {column}" for column in _COLUMNS)};
  CREATE TEMP TRIGGER write INSTEAD OF INSERT ON batch BEGIN
    INSERT OR REPLACE INTO session
      SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, {_blob(13, 14)}
      FROM {_rows("sessions")};

    DELETE FROM subscription WHERE (session, name) IN
      (SELECT value ->> 0, {_blob(1, 2)} FROM {_rows("no_subscriptions")});
    INSERT OR REPLACE INTO subscription
      SELECT value ->> 0, {_blob(1, 2)}, value ->> 3, {_blob(4, 5)}, value ->> 6 FROM {_rows("subscriptions")};

    INSERT OR REPLACE INTO log {_messages("messages")};
    DELETE FROM log WHERE seq IN (SELECT value FROM json_each(new.forgotten));

    DELETE FROM delivery WHERE (session, seq, packet_id) IN
      (SELECT value ->> 0, value ->> 1, value ->> 2 FROM {_rows("no_deliveries")});
    INSERT OR REPLACE INTO delivery
      SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, {_blob(6, 7)},
        {_blob(8, 9)}
      FROM {_rows("deliveries")};

    DELETE FROM received WHERE (session, packet_id) IN
      (SELECT value ->> 0, value ->> 1 FROM {_rows("no_received")});
    INSERT OR REPLACE INTO received SELECT value ->> 0, value ->> 1 FROM {_rows("received")};

    DELETE FROM retained WHERE topic IN (SELECT {_blob(0, 1)} FROM {_rows("no_retained")});
    INSERT OR REPLACE INTO retained {_messages("retained")};

    DELETE FROM fact WHERE number <= new.applied;
    INSERT INTO fact SELECT value ->> 0, {_blob(1, 2)} FROM {_rows("facts")};

    DELETE FROM session WHERE number IN (SELECT value FROM json_each(new.ended));
    DELETE FROM subscription WHERE session IN (SELECT value FROM json_each(new.ended));
    DELETE FROM delivery WHERE session IN (SELECT value FROM json_each(new.ended));
    DELETE FROM received WHERE session IN (SELECT value FROM json_each(new.ended));
  END;
"""  # noqa: S608
_COMMIT: Final = f"INSERT INTO batch VALUES ({', '.join('?' for _ in _COLUMNS)})"  # noqa: S608
_FETCH: Final = f"""
  SELECT
    json_group_array(json_array(
      seq, length(topic), length(payload), qos, retain, length(properties), expires_at, publisher, id, receipt)),
    CAST(coalesce(group_concat(topic || payload || properties, ''), '') AS BLOB)
  FROM log WHERE seq IN (
    SELECT seq FROM (
      SELECT seq, {_SIZE} AS size, sum({_SIZE}) OVER (ORDER BY seq) AS up_to
      FROM log WHERE seq IN (SELECT value FROM json_each(?)))
    WHERE up_to <= {FETCH_BYTES_MAX} OR up_to = size)
"""  # noqa: S608
_HIGHEST: Final = " UNION ALL ".join(
    f"SELECT max({column}) AS number FROM {table}"  # noqa: S608
    for table, column in {
        "log": "seq", "delivery": "seq", "retained": "seq", "session": "cursor", "subscription": "since"
    }.items()
)  # fmt: skip

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class SqliteJournal:
    """A `Journal` in an SQLite file. Close it: the threads of its connections keep the process alive."""

    def __init__(self, path: Path, writer: Database, reader: Database) -> None:
        self._path = path
        self._files = (path, path.with_name(f"{path.name}-wal"))
        self._writer = writer
        self._reader = reader

    @classmethod
    async def open(cls, path: Path, *, durable: bool = True) -> Self:
        """Open or make it. Unless it is `durable`, commits do not wait for the disk.

        The caller holds the lock of the data directory. Raises `Failed` as `open_database` does.
        """
        if sqlite3.sqlite_version_info < _SQLITE_MIN:
            raise Failed(
                f"SQLite {sqlite3.sqlite_version} is too old for the journal",
                remedy=f"Use a Python with SQLite {'.'.join(map(str, _SQLITE_MIN))} or newer (Debian 12 has one).",
            )
        writer = await open_database(path, "journal", durable=durable)
        try:
            with guarded(path):
                for pragma in (*_PRAGMAS, f"synchronous = {'FULL' if durable else 'NORMAL'}"):
                    await writer.all(f"PRAGMA {pragma}")
                await writer.executescript(_TRIGGER)
            return cls(path, writer, await open_reader(path))
        except BaseException:
            await writer.close()
            raise

    async def commit(self, batch: Batch) -> None:
        """Write `batch`, all of it or nothing. When this returns it is on the disk.

        It must stay as it is meanwhile, and its bytes be less than 1 GB in all. A caller who is cancelled does not know
        whether it was written. Raises `Failed` when it cannot be: the journal is as before, and may be tried again.
        """
        with guarded(self._path):
            await self._writer.call(lambda db: _commit(db, batch))
            if self._files[1].stat().st_size > _WAL_BYTES_MAX:
                await self._writer.call(_begin_wal_anew)

    async def fetch(self, seqs: Sequence[int]) -> list[SavedMessage]:
        """The messages with these numbers, ascending, as many as fit FETCH_BYTES_MAX but at least one.

        Those below the last one returned that are missing are not there; if none is returned, none of them is there.
        It does not wait for a commit, and sees all that were before. Raises `Failed` when it cannot be read.
        """
        with guarded(self._path):
            return await self._reader.call(lambda db: _fetch(db, seqs))

    async def totals(self) -> Totals:
        """How much there is. `head` is the highest number that anything refers to."""
        ((sessions, messages, head, facts),) = await self._all(
            "SELECT (SELECT count(*) FROM session), (SELECT count(*) FROM log),"  # noqa: S608
            f" (SELECT max(number) FROM ({_HIGHEST})), (SELECT max(number) FROM fact)"
        )
        return Totals(sessions, messages, head or 0, facts or 0)

    async def index(self) -> AsyncIterator[list[tuple[int, bytes, int, float]]]:
        """Number, topic, size and expiry of every message, ascending, a few thousand at a time."""
        select = f"seq, topic, {_SIZE}, expires_at / 1e6 FROM log"
        async for page in self._pages(select, "seq", _MESSAGES_AT_ONCE):
            yield page

    async def sessions(self) -> AsyncIterator[SavedSession]:
        """The sessions with all that belongs to them; deliveries in the order of their numbers."""
        async for page in self._pages("* FROM session", "number", _SESSIONS_AT_ONCE):
            first, last = page[0][0], page[-1][0]
            subscriptions = await self._of("subscription", first, last)
            deliveries = await self._of("delivery", first, last)
            received = await self._of("received", first, last)
            for row in page:
                number = row[0]
                yield _session(row, subscriptions[number], deliveries[number], received[number])

    async def _of(self, table: str, first: int, last: int) -> defaultdict[int, list[Row]]:
        """The rows of these sessions, by session, in the order of the table's key; without the session's number."""
        found = defaultdict(list)
        for number, *row in await self._all(f"SELECT * FROM {table} WHERE session BETWEEN ? AND ?", first, last):  # noqa: S608
            found[number].append(row)
        return found

    async def retained(self) -> AsyncIterator[SavedMessage]:
        """The retained messages."""
        async for page in self._pages(f"rowid, {_MESSAGE} FROM retained", "rowid", _RETAINED_AT_ONCE):
            for row in page:
                yield _message(row[1:])

    async def facts(self) -> AsyncIterator[Fact]:
        """The facts that are there, in their order."""
        async for page in self._pages("number, body FROM fact", "number", _FACTS_AT_ONCE):
            for number, body in page:
                yield Fact(number, body, firm=True)

    @property
    def bytes_on_disk(self) -> int:
        """How large its files are."""
        return sum(file.stat().st_size for file in self._files if file.exists())

    async def probe(self) -> None:
        """Commit something small. Raises `Failed` when that cannot be done."""
        with guarded(self._path):
            await self._writer.all("UPDATE probe SET count = count + 1")

    async def rewrite(self) -> None:
        """Write the file anew, so that nothing is left in it of what was deleted."""
        with guarded(self._path):
            await rewrite(self._writer)

    async def close(self) -> None:
        """Close the file."""
        await self._reader.close()
        await self._writer.close()

    async def _all(self, statement: str, *values: int) -> list[Any]:
        with guarded(self._path):
            return await self._reader.all(statement, *values)

    async def _pages(self, select: str, key: str, rows: int) -> AsyncIterator[list[Any]]:
        """All rows in the order of their key, which is the first column and above 0. None keeps a read open."""
        after = 0
        while page := await self._all(f"SELECT {select} WHERE {key} > ? ORDER BY {key} LIMIT {rows}", after):
            yield page
            after = page[-1][0]


# -- in the database's thread ------------------------------------------------------------------------------------------


def _commit(db: sqlite3.Connection, batch: Batch) -> None:
    db.execute(_COMMIT, _encoded(batch))


def _begin_wal_anew(db: sqlite3.Connection) -> None:
    """Let readers finish. What fails here is tried again after the next commit; this one is on the disk."""
    db.execute(f"PRAGMA busy_timeout = {_WAL_WAIT_MS}")
    with suppress(sqlite3.Error):
        db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")


def _encoded(batch: Batch) -> list[str | bytes]:
    """The values of `_COMMIT`. By place: by name, the lock is given up for each."""
    parts = [b"\0"]  # SQLite takes a piece of nothing for NULL
    end = 2  # it counts from 1

    def blob(part: bytes) -> tuple[int, int]:
        """Place and length."""
        nonlocal end
        at, length = end, len(part)
        parts.append(part)
        end += length
        return at, length

    def message(m: SavedMessage) -> Row:
        return (
            m.seq, *blob(m.topic), *blob(m.payload), m.qos, m.retain, *blob(m.properties), _us(m.expires_at),
            m.publisher, m.id, m.receipt,
        )  # fmt: skip

    rows: dict[str, Any] = {
        "sessions": [
            (
                s.number, s.key, s.role, s.brand, s.name, s.user, s.store, s.v5, s.expiry_s, _us(s.ends_at), s.cursor,
                s.next_id, s.dup_until, *blob(s.will),
            )
            for s in batch.sessions.values()
        ],
        "no_subscriptions": [(number, *blob(name)) for (number, name), s in batch.subscriptions.items() if s is None],
        "subscriptions": [
            (number, *blob(name), s.options, *blob(s.id), s.since)
            for (number, name), s in batch.subscriptions.items()
            if s is not None
        ],
        "messages": [message(m) for m in batch.messages],
        "forgotten": batch.forgotten,
        "no_deliveries": [key for key, d in batch.deliveries.items() if d is None],
        "deliveries": [
            (*key, d.state, d.qos, d.retain, *blob(d.subscription_ids), *blob(d.share))
            for key, d in batch.deliveries.items()
            if d is not None
        ],
        "no_received": [key for key, is_there in batch.received.items() if not is_there],
        "received": [key for key, is_there in batch.received.items() if is_there],
        "no_retained": [blob(topic) for topic, m in batch.retained.items() if m is None],
        "retained": [message(m) for m in batch.retained.values() if m is not None],
        "ended": batch.ended,
        "facts": [(fact.number, *blob(fact.body)) for fact in batch.facts],
        "applied": batch.applied,
    }  # fmt: skip
    return [*(_encode(rows[column]).decode() for column in _COLUMNS[:-1]), b"".join(parts)]


def _us(at: float) -> int:
    return round(at * 1_000_000)


def _fetch(db: sqlite3.Connection, seqs: Sequence[int]) -> list[SavedMessage]:
    rows: str
    joined: bytes
    rows, joined = db.execute(_FETCH, (_encode(list(seqs)).decode(),)).fetchone()
    found = []
    end = 0

    def blob(length: int) -> bytes:
        nonlocal end
        at, end = end, end + length
        return joined[at:end]

    for seq, topic, payload, qos, retain, properties, *rest in _decode(rows):
        found.append(_message((seq, blob(topic), blob(payload), qos, retain, blob(properties), *rest)))
    return found


# -- rows --------------------------------------------------------------------------------------------------------------


def _message(row: Row) -> SavedMessage:
    seq, topic, payload, qos, retain, properties, expires_at, publisher, id, receipt = row
    return SavedMessage(seq, topic, payload, qos, bool(retain), properties, expires_at / 1e6, publisher, id, receipt)


def _session(row: Row, subscriptions: list[Row], deliveries: list[Row], received: list[Row]) -> SavedSession:
    number, key, role, brand, name, user, store, v5, expiry_s, ends_at, cursor, next_id, dup_until, will = row
    return SavedSession(
        number, key, role, brand, name, user, store, bool(v5), expiry_s, ends_at / 1e6, cursor, next_id, dup_until,
        will,
        [SavedSubscription(*subscription) for subscription in subscriptions],
        [
            SavedDelivery(seq, packet_id, state, qos, bool(retain), ids, share)
            for seq, packet_id, state, qos, retain, ids, share in deliveries
        ],
        [packet_id for (packet_id,) in received],
    )  # fmt: skip
