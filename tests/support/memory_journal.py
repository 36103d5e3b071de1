"""A journal without a disk, for tests of the core: what was committed is here, and a new core can be made from it."""

import copy
from collections.abc import Sequence

from broker.errors import Failed
from broker.journal import Batch, SavedDelivery, SavedMessage, SavedSession, SavedSubscription, size_of
from broker.session.core import Core
from broker.session.recovery import restore_session


class MemoryJournal:
    """What has been committed, in the tables of `Batch`. While `broken`, nothing can be."""

    def __init__(self) -> None:
        self.broken = ""
        self.commits = 0
        self.sessions: dict[int, SavedSession] = {}
        self.subscriptions: dict[tuple[int, bytes], SavedSubscription] = {}
        self.messages: dict[int, SavedMessage] = {}
        self.deliveries: dict[tuple[int, int, int], SavedDelivery] = {}
        self.received: set[tuple[int, int]] = set()
        self.retained: dict[bytes, SavedMessage] = {}
        self.facts: dict[int, bytes] = {}

    def commit(self, batch: Batch) -> None:
        """Apply `batch`, in the order of its fields."""
        if self.broken:
            raise Failed(self.broken)
        self.commits += 1
        for number, session in batch.sessions.items():
            for other in [n for n, known in self.sessions.items() if known.key == session.key and n != number]:
                del self.sessions[other]
            self.sessions[number] = session
        _apply(self.subscriptions, batch.subscriptions)
        self.messages |= {message.seq: message for message in batch.messages}
        for seq in batch.forgotten:
            self.messages.pop(seq, None)
        _apply(self.deliveries, batch.deliveries)
        for key, there in batch.received.items():
            (self.received.add if there else self.received.discard)(key)
        _apply(self.retained, batch.retained)
        self.facts = {number: body for number, body in self.facts.items() if number > batch.applied}
        self.facts |= {fact.number: fact.body for fact in batch.facts}
        for number in batch.ended:
            self.sessions.pop(number, None)
            for table in (self.subscriptions, self.deliveries):
                for key in [key for key in table if key[0] == number]:
                    del table[key]  # type: ignore[arg-type]
            self.received = {key for key in self.received if key[0] != number}

    def fetch(self, seqs: Sequence[int]) -> list[SavedMessage]:
        """The messages with these numbers, a few at a time."""
        return [self.messages[seq] for seq in seqs if seq in self.messages][:3]

    def restore(self, core: Core) -> None:
        """Put all that was committed into a new core."""
        core.log.load(
            (m.seq, m.topic, size_of(m.topic, m.payload, m.properties, m.publisher), m.expires_at)
            for _, m in sorted(self.messages.items())
        )
        for number, row in sorted(self.sessions.items()):
            saved = copy.copy(row)
            saved.subscriptions = [s for (n, _), s in self.subscriptions.items() if n == number]
            saved.deliveries = [d for (n, *_), d in sorted(self.deliveries.items()) if n == number]
            saved.received = [id for n, id in self.received if n == number]
            restore_session(core, saved, now=core.now)
        for message in self.retained.values():
            core.restore_retained(message)
        core.log.touched.update(dict.fromkeys(core.log.topics))


def _apply(table: dict, changes: dict) -> None:  # type: ignore[type-arg]
    for key, row in changes.items():
        if row is None:
            table.pop(key, None)
        else:
            table[key] = row
