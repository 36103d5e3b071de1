"""A journal of version 1, the state at a clean stop, read through what keeps it now."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from broker.journal import RELEASED, SENT, SavedDelivery, SavedMessage, SavedSession, SavedSubscription, Totals
from broker.store import database
from broker.store.journal import SqliteJournal

ADA, ALL = b"acme/user/ada", b"acme/topic/offers"


def session_row(number: int, ends_at: float, will: bytes = b"") -> tuple[object, ...]:
    key = f"acme/device/kiosk-{number}\nclient"
    return (
        number, key, "client", "device", "acme", f"kiosk-{number}", "ada", "milano", 1, 86400, ends_at, 17, will,
    )  # fmt: skip


CONTENT: dict[str, list[tuple[object, ...]]] = {
    "message": [
        # number, topic, payload, properties, expires_at, publisher, id, receipt
        (1, ADA, b"second", b"", 0.0, "crm", "m2", 0),
        (2, ADA, b"first", b"\x08\x00", 1795000000.25, "crm", "m1", 1),
        (3, ALL, b"\xff\x00", b"", 0.0, "crm", "m3", 0),
    ],
    "session": [session_row(1, 1790000000.5), session_row(2, 1790000001.0, b"will")],
    "subscription": [(1, ADA, 1, b""), (1, ALL, 2, b"\x05"), (2, ADA, 1, b"")],
    "delivery": [
        # session, position, message, packet_id, qos, retain, subscription_ids
        (1, 0, 0, 8, 2, 0, b""),
        (1, 1, 0, 9, 2, 0, b""),
        (1, 2, 1, 10, 1, 0, b""),
        (1, 3, 3, 0, 1, 1, b"\x05"),
        (1, 4, 3, 0, 2, 1, b"\x05"),
        (2, 0, 0, 8, 2, 0, b""),
        (2, 1, 2, 0, 1, 0, b""),
        (2, 2, 1, 0, 1, 0, b""),
    ],
    "received": [(2, 40), (2, 41)],
    "retained": [(ALL, b"now", b"\x01\x01", 1795000001.75, "crm", "m0", 0, 1)],
}


def made_at_version_1(path: Path, content: dict[str, list[tuple[object, ...]]]) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA application_id = {database.application_id('journal')}")
        db.executescript(database._migrations("journal")[0] + "PRAGMA user_version = 1;")
        for table, rows in content.items():
            db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        db.commit()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = await SqliteJournal.open(path)
    try:
        yield journal
    finally:
        await journal.close()


async def test_all_of_version_1_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    made_at_version_1(path, CONTENT)
    for _ in range(2):
        async with opened(path) as journal:
            # In the order of their ids; QoS is the highest that somebody gets. 4 to 6 are those of which PUBREC came.
            assert await journal.fetch(range(10)) == [
                SavedMessage(1, ADA, b"first", 1, False, b"\x08\x00", 1795000000.25, "crm", "m1", True),
                SavedMessage(2, ADA, b"second", 1, False, b"", 0.0, "crm", "m2"),
                SavedMessage(3, ALL, b"\xff\x00", 2, False, b"", 0.0, "crm", "m3"),
            ]
            assert [session async for session in journal.sessions()] == [
                SavedSession(
                    1, "acme/device/kiosk-1\nclient", "device", "acme", "kiosk-1", "ada", "milano",
                    True, 86400, 1790000000.5, 6, 17, 0, b"",
                    [SavedSubscription(ALL, 2, b"\x05", 6), SavedSubscription(ADA, 1, b"", 6)],
                    [
                        SavedDelivery(2, 10, SENT, 1),
                        SavedDelivery(3, 0, SENT, 2, True, b"\x05"),  # it waited twice
                        SavedDelivery(4, 8, RELEASED, 2),
                        SavedDelivery(5, 9, RELEASED, 2),
                    ],
                    [],
                ),
                SavedSession(
                    2, "acme/device/kiosk-2\nclient", "device", "acme", "kiosk-2", "ada", "milano",
                    True, 86400, 1790000001.0, 6, 17, 0, b"will",
                    [SavedSubscription(ADA, 1, b"", 6)],
                    [
                        SavedDelivery(1, 0, SENT, 1),
                        SavedDelivery(2, 0, SENT, 1),
                        SavedDelivery(6, 8, RELEASED, 2),
                    ],
                    [40, 41],
                ),
            ]  # fmt: skip
            assert [message async for message in journal.retained()] == [
                SavedMessage(0, ALL, b"now", 1, True, b"\x01\x01", 1795000001.75, "crm", "m0")
            ]
            assert await journal.totals() == Totals(sessions=2, messages=3, head=6)
            await journal.probe()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (4,)
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        assert tables == {"log", "session", "subscription", "delivery", "received", "retained", "fact", "probe"}


async def test_an_empty_one_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    made_at_version_1(path, {"session": [session_row(1, 1.0)], "subscription": [(1, ADA, 1, b"")]})
    async with opened(path) as journal:
        assert await journal.totals() == Totals(sessions=1, messages=0, head=0)
        (session,) = [session async for session in journal.sessions()]
        assert session.cursor == 0
        assert session.subscriptions == [SavedSubscription(ADA, 1)]
