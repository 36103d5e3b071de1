"""Forgets what was kept for as long as it may: each call is a short transaction, and says whether there may be more."""

import sqlite3

from broker.limits import FORGOTTEN_AT_ONCE
from broker.store.audit import AuditLog
from broker.store.messages import Messages
from broker.store.records import Records


class Retention:
    """What goes when its time is over. Times are milliseconds since 1970; raises `Failed` as the databases do."""

    def __init__(self, records: Records, messages: Messages) -> None:
        self._records = records
        self._messages = messages
        self._audit = AuditLog(records)

    async def conversations(self, before: int) -> bool:
        """Conversations that were closed before then."""
        return await self._messages.write(lambda db: _conversation(db, before))

    async def questions(self, before: int) -> bool:
        """The words of questions that were asked before then, in conversations that are closed; figures stay."""
        return await self._messages.write(lambda db: _questions(db, before))

    async def audit(self, before: int) -> bool:
        """Entries of the audit log."""
        return await self._audit.sweep(before, FORGOTTEN_AT_ONCE) == FORGOTTEN_AT_ONCE

    async def consents(self, before: int, after: int) -> int:
        """What was said of topics before then, and taken back or said again since: what counts now keeps its proof.

        Looks at some entries behind the number `after`; returns that of the last, or 0 where there are no more.
        """
        run = self._records._run
        async with self._records.transaction():
            rows = await run(
                "SELECT number FROM consent_log WHERE number > :after AND at < :before ORDER BY number LIMIT :most",
                after=after,
                before=before,
                most=FORGOTTEN_AT_ONCE,
            )
            if not rows:
                return 0
            first, last = rows[0][0], rows[-1][0]
            await run(
                """DELETE FROM consent_log WHERE number BETWEEN :first AND :last AND at < :before AND EXISTS (
                     SELECT 1 FROM consent_log n WHERE n.brand = consent_log.brand AND n.kind = consent_log.kind
                       AND n.name = consent_log.name AND n.topic = consent_log.topic
                       AND n.number > consent_log.number)""",
                first=first,
                last=last,
                before=before,
            )
            return int(last)


# -- in the books' thread, in a transaction ----------------------------------------------------------------------------


def _conversation(db: sqlite3.Connection, before: int) -> bool:
    sql = "SELECT number FROM conversation WHERE state = 'closed' AND closed_at < ? ORDER BY closed_at LIMIT 1"
    row = db.execute(sql, (before,)).fetchone()
    return row is not None and forget_some(db, row[0])


def forget_some(db: sqlite3.Connection, conversation: int) -> bool:
    """Some of what was said in a conversation, at last itself."""
    gone = db.execute(
        """DELETE FROM entry WHERE (conversation, number) IN (
             SELECT conversation, number FROM entry WHERE conversation = ? LIMIT ?)""",
        (conversation, FORGOTTEN_AT_ONCE),
    ).rowcount
    if gone < FORGOTTEN_AT_ONCE:
        db.execute("DELETE FROM conversation WHERE number = ?", (conversation,))
    return True


def _questions(db: sqlite3.Connection, before: int) -> bool:
    db.execute("CREATE TEMP TABLE IF NOT EXISTS silenced (conversation, entry)")
    db.execute("DELETE FROM temp.silenced")
    count = db.execute(
        """INSERT INTO temp.silenced SELECT q.conversation, q.entry FROM question q INDEXED BY question_in_words
           CROSS JOIN conversation c ON c.number = q.conversation AND c.state = 'closed'
           WHERE q.at < ? AND q.answer <> '' ORDER BY q.at LIMIT ?""",
        (before, FORGOTTEN_AT_ONCE),
    ).rowcount
    these = "IN (SELECT conversation, entry FROM temp.silenced)"
    db.execute(f"UPDATE entry SET text = '' WHERE (conversation, number) {these}")  # noqa: S608 - our own words
    db.execute(f"UPDATE question SET folded = '', answer = '' WHERE (conversation, entry) {these}")  # noqa: S608
    return count == FORGOTTEN_AT_ONCE
