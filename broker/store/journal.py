"""The journal on SQLite: the state of the broker is written at a clean stop and read at the next start."""

import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite
import msgspec

from broker.journal import SavedDelivery, SavedMessage, SavedSession, SavedSubscription, Snapshot
from broker.store.database import guarded

T = TypeVar("T")

# Rows in one call of the database thread: enough to make the call itself not count, few enough to hold in memory.
_BATCH: Final = 1000
_MESSAGE: Final = "topic, payload, properties, expires_at, publisher, id, receipt"


class SqliteJournal:
    """A `Journal` in the SQLite file at `path`, opened with the schema `journal`."""

    def __init__(self, database: aiosqlite.Connection, path: Path) -> None:
        self._database = database
        self._path = path

    async def save(self, snapshot: Snapshot) -> None:
        """Replace what is kept, in one transaction. Raises `Failed` when it cannot be written."""
        with guarded(self._path):
            await self._database.execute("BEGIN IMMEDIATE")
            try:
                await self._replace(snapshot)
                await self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has ended the transaction already
                    await self._database.execute("ROLLBACK")
                raise

    async def _replace(self, snapshot: Snapshot) -> None:
        for table in ("delivery", "received", "subscription", "session", "message", "retained"):
            await self._database.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
        number = 0
        for sessions in _batches(snapshot.sessions()):
            first = number + 1
            numbered = list(enumerate(sessions, first))
            number += len(sessions)
            await self._insert("session", 13, ((n, *_session_row(s)) for n, s in numbered))
            await self._insert(
                "subscription", 4, ((n, u.name, u.options, u.id) for n, s in numbered for u in s.subscriptions)
            )
            await self._insert(
                "delivery",
                7,
                (
                    (n, position, d.message, d.packet_id, d.qos, d.retain, d.subscription_ids)
                    for n, s in numbered
                    for position, d in enumerate(s.deliveries)
                ),
            )
            await self._insert("received", 2, ((n, id) for n, s in numbered for id in s.received))
            await self._insert("message", 8, (msgspec.structs.astuple(m) for m in snapshot.messages()))
        for retained in _batches(snapshot.retained()):
            await self._insert("retained", 8, ((*msgspec.structs.astuple(m)[1:], qos) for m, qos in retained))

    async def _insert(self, table: str, columns: int, rows: Iterable[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" * columns)
        await self._database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608

    async def messages(self) -> AsyncIterator[SavedMessage]:
        """The messages that sessions wait for, in order."""
        async with self._database.execute(f"SELECT number, {_MESSAGE} FROM message ORDER BY number") as rows:  # noqa: S608
            async for row in rows:
                yield _message(tuple(row))

    async def sessions(self) -> AsyncIterator[SavedSession]:
        """The sessions with all that belongs to them, a batch of look-ups at a time."""
        after = 0
        while True:
            batch = await self._all(f"SELECT * FROM session WHERE number > ? ORDER BY number LIMIT {_BATCH}", after)  # noqa: S608
            if not batch:
                return
            last = batch[-1][0]
            loaded = {row[0]: _session(row) for row in batch}
            between = (after, last)
            for row in await self._all("SELECT * FROM subscription WHERE session > ? AND session <= ?", *between):
                loaded[row[0]].subscriptions.append(SavedSubscription(*row[1:]))
            for row in await self._all(
                "SELECT session, message, packet_id, qos, retain, subscription_ids FROM delivery"
                " WHERE session > ? AND session <= ? ORDER BY session, position",
                *between,
            ):
                loaded[row[0]].deliveries.append(SavedDelivery(row[1], row[2], row[3], bool(row[4]), row[5]))
            for row in await self._all("SELECT * FROM received WHERE session > ? AND session <= ?", *between):
                loaded[row[0]].received.append(row[1])
            for session in loaded.values():
                yield session
            after = last

    async def retained(self) -> AsyncIterator[tuple[SavedMessage, int]]:
        """The retained messages with their QoS."""
        async with self._database.execute(f"SELECT {_MESSAGE}, qos FROM retained") as rows:  # noqa: S608
            async for row in rows:
                yield _message((0, *tuple(row)[:7])), row[7]

    async def probe(self) -> None:
        """Commit something small. Raises `Failed` when that cannot be done."""
        with guarded(self._path):
            await self._database.execute("UPDATE probe SET count = count + 1")

    async def close(self) -> None:
        """Close the file."""
        await self._database.close()

    async def _all(self, statement: str, *values: int) -> list[Any]:
        return list(await self._database.execute_fetchall(statement, values))


def _message(row: tuple[Any, ...]) -> SavedMessage:
    number, topic, payload, properties, expires_at, publisher, id, receipt = row
    return SavedMessage(number, topic, payload, properties, expires_at, publisher, id, bool(receipt))


def _session(row: tuple[Any, ...]) -> SavedSession:
    _, key, client_id, role, brand, name, user, store, v5, expiry_s, ends_at, next_id, will = row
    return SavedSession(
        key, client_id, role, brand, name, user, store, bool(v5), expiry_s, ends_at, next_id, will, [], [], []
    )


def _session_row(session: SavedSession) -> tuple[Any, ...]:
    return (
        session.key,
        session.client_id,
        session.role,
        session.brand,
        session.name,
        session.user,
        session.store,
        session.v5,
        session.expiry_s,
        session.ends_at,
        session.next_id,
        session.will,
    )


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
