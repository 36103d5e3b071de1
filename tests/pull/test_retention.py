"""What was kept for as long as it may is forgotten, and nothing else."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.pull import retention
from broker.pull.retention import Kept, Sweeper
from broker.store.audit import AuditLog, Done
from broker.store.messages import Messages
from broker.store.records import Records
from broker.store.retention import Retention

DAY = 86400
NOW = 1_800_000_000_000
KEPT = Kept(conversations_s=10 * DAY, questions_s=5 * DAY, consents_s=10 * DAY, audit_s=10 * DAY)


def ago(days: float) -> int:
    return NOW - int(days * DAY * 1000)


class Store:
    """The databases, with what is written into them as it stands there later."""

    def __init__(self, records: Records, messages: Messages) -> None:
        self.records, self.messages = records, messages
        self.sweeper = Sweeper(Retention(records, messages), KEPT, lambda *_, **__: None, lambda error: None)

    async def conversation(self, number: int, state: str, closed: int | None, asked: int, entries: int = 1) -> None:
        def work(db: Any) -> None:
            db.execute(
                """INSERT INTO conversation (number, id, brand, kind, name, store, language, state, opened_at,
                     changed_at, closed_at) VALUES (?, ?, 'acme', 'user', ?, '', '', ?, 0, 0, ?)""",
                (number, f"c{number}", f"u{number}", state, closed),
            )
            for entry in range(1, entries + 1):
                row = (number, entry, f"q{number}-{entry}", asked)
                db.execute("INSERT INTO entry VALUES (?, ?, ?, ?, 'customer', 'till', 'torta?')", row)
                db.execute(
                    """INSERT INTO question (conversation, entry, brand, store, at, folded, outcome, rule, answer)
                       VALUES (?, ?, 'acme', '', ?, 'tort', 'answered', 'search', '{}')""",
                    (number, entry, asked),
                )

        await self.messages.write(work)

    async def rows(self, sql: str) -> list[Any]:
        return await self.messages.read(lambda db: db.execute(sql).fetchall())


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with (
        await Records.open(tmp_path / "records.db") as records,
        await Messages.open(tmp_path / "messages.db") as messages,
    ):
        yield Store(records, messages)


async def test_closed_conversations_go_and_others_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.retention.FORGOTTEN_AT_ONCE", 2)
    monkeypatch.setattr(retention, "_REST_S", 0)
    await store.conversation(1, "closed", ago(11), ago(1), entries=5)
    await store.conversation(2, "closed", ago(9), ago(1))
    await store.conversation(3, "waiting", None, ago(100))
    await store.sweeper.sweep(NOW)
    assert await store.rows("SELECT number FROM conversation ORDER BY number") == [(2,), (3,)]
    assert await store.rows("SELECT DISTINCT conversation FROM entry ORDER BY 1") == [(2,), (3,)]
    assert await store.rows("SELECT DISTINCT conversation FROM question ORDER BY 1") == [(2,), (3,)]


async def test_words_of_questions_go_and_figures_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.retention.FORGOTTEN_AT_ONCE", 2)
    await store.conversation(1, "closed", ago(4), ago(6), entries=3)
    await store.conversation(2, "closed", ago(4), ago(4))
    await store.conversation(3, "automated", None, ago(6))
    await store.sweeper.sweep(NOW)
    sql = """SELECT q.conversation, e.text, q.folded, q.answer, q.outcome FROM question q
             JOIN entry e ON e.conversation = q.conversation AND e.number = q.entry ORDER BY q.conversation, q.entry"""
    assert await store.rows(sql) == [
        *[(1, "", "", "", "answered")] * 3,
        (2, "torta?", "tort", "{}", "answered"),
        (3, "torta?", "tort", "{}", "answered"),
    ]


async def test_a_consent_that_counts_keeps_its_proof(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.retention.FORGOTTEN_AT_ONCE", 2)
    said = [
        ("ada", "news", "in", 30), ("ada", "news", "out", 20), ("ada", "offers", "in", 25), ("bob", "news", "in", 15),
        ("ada", "news", "in", 12), ("bob", "news", "out", 5), ("bob", "news", "in", 4),
    ]  # fmt: skip
    async with store.records.transaction():
        for name, topic, state, days in said:
            await store.records._run(
                """INSERT INTO consent_log (brand, kind, name, topic, state, at, source)
                   VALUES ('acme', 'user', :name, :topic, :state, :at, 'operator')""",
                name=name,
                topic=topic,
                state=state,
                at=ago(days),
            )
    await store.sweeper.sweep(NOW)
    left = await store.records._run("SELECT name, topic, state FROM consent_log ORDER BY number")
    assert [tuple(row) for row in left] == [
        ("ada", "offers", "in"),
        ("ada", "news", "in"),
        ("bob", "news", "out"),
        ("bob", "news", "in"),
    ]


async def test_the_audit_log_is_kept_for_its_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(store.records)
    for days in (11, 9):
        monkeypatch.setattr("broker.store.audit.time.time_ns", lambda days=days: ago(days) * 1_000_000)
        await log.note(Done(actor="operator:carla", operation=f"d{days}.x"), "done")
    await store.sweeper.sweep(NOW)
    assert [tuple(row) for row in await store.records._run("SELECT operation FROM audit")] == [("d9.x",)]
