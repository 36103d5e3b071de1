"""SqliteJournal: what was committed is read back, all of a batch or nothing of it."""

import asyncio
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory_journal import MemoryJournal

from broker.journal import (
    Batch,
    Fact,
    SavedDelivery,
    SavedMessage,
    SavedSession,
    SavedSubscription,
    Totals,
    size_of,
)
from broker.limits import FETCH_BYTES_MAX
from broker.store.journal import SqliteJournal


@asynccontextmanager
async def opened(path: Path, *, durable: bool = True) -> AsyncIterator[SqliteJournal]:
    journal = await SqliteJournal.open(path, durable=durable)
    try:
        yield journal
    finally:
        await journal.close()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    async with opened(tmp_path / "journal.db") as journal:
        yield journal


def messages(*seqs: int, payload: bytes = b"Ciao") -> list[SavedMessage]:
    return [SavedMessage(seq, b"acme/user/ada", payload, 1) for seq in seqs]


def batch_of(*written: SavedMessage, forgotten: list[int] | None = None) -> Batch:
    batch = Batch()
    batch.messages = list(written)
    batch.forgotten = forgotten or []
    return batch


def session(number: int, key: str = "") -> SavedSession:
    key = key or f"acme/device/kiosk-{number}\nkiosk-{number}"
    return SavedSession(number, key, "device", "acme", f"kiosk-{number}", "", "", True, 60, 0.0, 0, 1)


async def all_seqs(journal: SqliteJournal) -> list[int]:
    return [seq for page in [page async for page in journal.index()] for seq, *_ in page]


# -- any batches, against a model --------------------------------------------------------------------------------------

# Few keys, so that they meet again.
numbers, seqs, packet_ids = st.integers(1, 4), st.integers(1, 8), st.integers(0, 3)
topics = st.sampled_from([b"acme/user/ada", "acme/topic/perchè".encode(), b"a", b"\xff\x00"])
blobs = st.binary(max_size=12)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
times = st.integers(0, 2 * 10**15).map(lambda us: us / 1e6)
qos = st.integers(0, 2)


def keyed(values: st.SearchStrategy[SavedMessage]) -> st.SearchStrategy[dict[bytes, SavedMessage | None]]:
    set_ = st.lists(values, max_size=3).map(lambda rows: {row.topic: row for row in rows})
    return st.builds(lambda gone, kept: dict.fromkeys(gone) | kept, st.sets(topics, max_size=2), set_)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    batch = Batch()
    saved = st.builds(SavedMessage, seqs, topics, blobs, qos, st.booleans(), blobs, times, texts, texts, st.booleans())
    key = st.sampled_from(["acme/device/a\na", "\nb", 'acme/server/"c"\n\\'])
    sessions = st.builds(
        SavedSession, numbers, key, texts, texts, texts, texts, texts, st.booleans(),
        st.integers(0, 2**32), times, st.integers(0, 2**40), packet_ids, dup_until=seqs, will=blobs,
    )  # fmt: skip
    batch.sessions = {row.number: row for row in draw(st.lists(sessions, max_size=3))}
    for number, row in draw(
        st.lists(st.tuples(numbers, st.builds(SavedSubscription, topics, qos, blobs, seqs)), max_size=4)
    ):
        batch.subscriptions[number, row.name] = row if draw(st.booleans()) else None
    batch.messages = draw(st.lists(saved, max_size=4, unique_by=lambda message: message.seq))
    batch.forgotten = draw(st.lists(seqs, max_size=4))
    for number, share in draw(
        st.lists(
            st.tuples(numbers, st.builds(SavedDelivery, seqs, packet_ids, qos, qos, st.booleans(), blobs)), max_size=4
        )
    ):
        batch.deliveries[number, share.seq, share.packet_id] = share if draw(st.booleans()) else None
    batch.received = draw(st.dictionaries(st.tuples(numbers, packet_ids), st.booleans(), max_size=3))
    batch.retained = draw(keyed(saved))
    batch.ended = draw(st.lists(numbers, max_size=1))
    return batch


async def check_same(journal: SqliteJournal, model: MemoryJournal) -> None:
    log = [message for _, message in sorted(model.messages.items())]
    assert await journal.fetch([*range(10, 0, -1)]) == log
    entries = [entry for page in [page async for page in journal.index()] for entry in page]
    assert entries == [
        (m.seq, m.topic, size_of(m.topic, m.payload, m.properties, m.publisher), m.expires_at) for m in log
    ]
    assert {m.topic: m async for m in journal.retained()} == model.retained
    found = {}
    async for session in journal.sessions():
        number = found[session.number] = session.number
        assert {s.name: s for s in session.subscriptions} == {
            name: s for (n, name), s in model.subscriptions.items() if n == number
        }
        assert session.deliveries == [d for (n, *_), d in sorted(model.deliveries.items()) if n == number]
        assert set(session.received) == {id for n, id in model.received if n == number}
        session.subscriptions, session.deliveries, session.received = [], [], []
        assert session == model.sessions[number]
    assert found.keys() == model.sessions.keys()
    head = [seq for _, seq, _ in model.deliveries] + [s.since for s in model.subscriptions.values()]
    head += [*model.messages, *(m.seq for m in model.retained.values()), *(s.cursor for s in model.sessions.values())]
    assert await journal.totals() == Totals(len(model.sessions), len(model.messages), max(head, default=0))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(batches(), st.booleans()), min_size=1, max_size=4))
def test_any_batches_are_read_back_as_written(steps: list[tuple[Batch, bool]]) -> None:
    async def run(path: Path) -> None:
        model = MemoryJournal()
        journal = await SqliteJournal.open(path)
        try:
            for batch, again in steps:
                await journal.commit(batch)
                model.commit(batch)
                if again:
                    await journal.close()
                    journal = await SqliteJournal.open(path)
                await check_same(journal, model)
        finally:
            await journal.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder, "journal.db")))


async def test_a_batch_may_be_written_again(journal: SqliteJournal) -> None:
    batch = batch_of(*messages(1, 2, 3), forgotten=[2, 9])
    batch.sessions = {7: session(7)}
    batch.subscriptions = {(7, b"a"): SavedSubscription(b"a", 1), (7, b"b"): None}
    batch.deliveries = {(7, 1, 5): SavedDelivery(1, 5, 0, 1), (7, 1, 6): None}
    batch.received = {(7, 3): True, (7, 4): False}
    batch.retained = {b"acme/user/ada": messages(1)[0], b"b": None}
    batch.ended = [6]
    model = MemoryJournal()
    model.commit(batch)
    for _ in range(2):
        await journal.commit(batch)
        await check_same(journal, model)


async def test_a_new_session_takes_the_key_of_one_that_ends_with_it(journal: SqliteJournal) -> None:
    batch = Batch()
    batch.sessions = {1: session(1, "a"), 2: session(2, "b")}
    batch.deliveries = {(1, 5, 0): SavedDelivery(5, 0, 0, 1), (2, 5, 0): SavedDelivery(5, 0, 0, 1)}
    await journal.commit(batch)
    batch = Batch()
    batch.sessions = {3: session(3, "a")}
    batch.ended = [1]
    await journal.commit(batch)
    found = [saved async for saved in journal.sessions()]
    assert [(saved.number, saved.key, len(saved.deliveries)) for saved in found] == [(2, "b", 1), (3, "a", 0)]


async def test_of_a_session_that_ended_nothing_is_left(journal: SqliteJournal) -> None:
    batch = Batch()
    batch.sessions = {1: session(1), 2: session(2)}
    batch.subscriptions = {(n, b"a"): SavedSubscription(b"a", 1) for n in (1, 2)}
    batch.deliveries = {(n, 5, 0): SavedDelivery(5, 0, 0, 1) for n in (1, 2)}
    batch.received = {(n, 7): True for n in (1, 2)}
    batch.ended = [2]
    await journal.commit(batch)
    tables = {"session": "number", "subscription": "session", "delivery": "session", "received": "session"}
    for table, column in tables.items():
        assert await journal._reader.all(f"SELECT {column} FROM {table}") == [(1,)]


@pytest.mark.parametrize("what", ["cursor", "since", "delivery", "message", "retained"])
async def test_the_head_is_the_highest_number_that_anything_refers_to(journal: SqliteJournal, what: str) -> None:
    batch = batch_of(*messages(90 if what == "message" else 1))
    batch.sessions = {1: session(1)}
    batch.sessions[1].cursor = 90 if what == "cursor" else 2
    batch.subscriptions = {(1, b"a"): SavedSubscription(b"a", 1, b"", 90 if what == "since" else 3)}
    batch.deliveries = {(1, seq, 0): SavedDelivery(seq, 0, 0, 1) for seq in [90 if what == "delivery" else 4]}
    batch.retained = {b"a": SavedMessage(90 if what == "retained" else 5, b"a", b"", 1)}
    await journal.commit(batch)
    assert (await journal.totals()).head == 90


# -- reading -----------------------------------------------------------------------------------------------------------


async def test_a_fetch_is_bounded_by_bytes_and_ascending(journal: SqliteJournal) -> None:
    half = FETCH_BYTES_MAX // 2
    await journal.commit(batch_of(*messages(3, 5, 6, payload=bytes(half)), *messages(4), *messages(9)))
    assert [m.seq for m in await journal.fetch([9, 6, 5, 4, 3, 2])] == [3, 4]
    assert [m.seq for m in await journal.fetch([5, 6, 9])] == [5]
    assert [m.seq for m in await journal.fetch([6, 9])] == [6, 9]
    assert await journal.fetch([7, 8]) == []
    assert await journal.fetch([]) == []


async def test_a_fetch_has_at_least_one_however_large(journal: SqliteJournal) -> None:
    large = messages(1, 2, payload=b"x" * (2 * FETCH_BYTES_MAX))
    await journal.commit(batch_of(*large))
    assert await journal.fetch([1, 2]) == large[:1]


async def test_a_fetch_sees_what_was_committed_while_another_reads_all(journal: SqliteJournal) -> None:
    await journal.commit(batch_of(*messages(1)))
    reading = journal.index()
    assert await anext(reading)
    await journal.commit(batch_of(*messages(2)))
    assert await journal.fetch([1, 2]) == messages(1, 2)
    await reading.aclose()  # type: ignore[attr-defined]


async def test_a_fetch_does_not_wait_for_a_commit(journal: SqliteJournal) -> None:
    await journal.commit(batch_of(*messages(1)))
    go_on = threading.Event()
    held = asyncio.create_task(journal._writer.call(lambda db: db.execute("BEGIN IMMEDIATE") and go_on.wait()))
    written = asyncio.create_task(journal._writer.call(lambda db: db.execute("COMMIT") and None))
    try:
        assert await journal.fetch([1]) == messages(1)
        assert not held.done()
    finally:
        go_on.set()
        await asyncio.gather(held, written)


async def test_more_than_a_page_of_everything_is_read(journal: SqliteJournal) -> None:
    batch = batch_of(*messages(*range(1, 12_000)))
    batch.sessions = {n: session(n) for n in range(1, 2500)}
    batch.deliveries = {(n, n + k, 0): SavedDelivery(n + k, 0, 0, 1) for n in batch.sessions for k in (1, 0)}
    batch.retained = {b"%d" % n: SavedMessage(n, b"%d" % n, b"", 0) for n in range(1, 250)}
    await journal.commit(batch)
    assert await all_seqs(journal) == [*range(1, 12_000)]
    found = [(saved.number, *(d.seq for d in saved.deliveries)) async for saved in journal.sessions()]
    assert found == [(n, n, n + 1) for n in range(1, 2500)]
    assert sorted([m.seq async for m in journal.retained()]) == [*range(1, 250)]


# -- the disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 1)])
async def test_durability_says_whether_a_commit_waits_for_the_disk(
    tmp_path: Path, durable: bool, synchronous: int
) -> None:
    async with opened(tmp_path / "journal.db", durable=durable) as journal:
        assert await journal._writer.all("PRAGMA synchronous") == [(synchronous,)]
        await journal.commit(batch_of(*messages(1)))
    async with opened(tmp_path / "journal.db") as journal:
        assert await all_seqs(journal) == [1]


async def test_one_file_is_left_behind(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as journal:
        await journal.commit(batch_of(*messages(1)))
        assert await journal.fetch([1])
        assert journal.bytes_on_disk == sum(
            (tmp_path / name).stat().st_size for name in ("journal.db", "journal.db-wal")
        )
    assert [file.name for file in tmp_path.iterdir()] == ["journal.db"]
    assert journal.bytes_on_disk == (tmp_path / "journal.db").stat().st_size


async def test_the_room_of_forgotten_messages_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    sizes = []
    async with opened(path) as journal:
        before: list[int] = []
        for round in range(8):
            seqs = [*range(1000 * round + 1, 1000 * round + 1001)]
            await journal.commit(batch_of(*messages(*seqs, payload=bytes(2000)), forgotten=before))
            await journal._writer.all("PRAGMA wal_checkpoint(TRUNCATE)")
            before = seqs
            sizes.append(path.stat().st_size)
    assert sizes[0] > 2_000_000
    assert sizes[-1] <= sizes[1]


def read_without_end(path: Path, stop: threading.Event) -> None:
    """Two readers who take turns: when the one begins, the other still reads what was before."""
    with closing(sqlite3.connect(path, isolation_level=None)) as one, closing(sqlite3.connect(path)) as other:
        other.isolation_level = None
        reading, next_ = one, other
        reading.execute("BEGIN").execute("SELECT count(*) FROM log")
        while not stop.wait(0.005):
            next_.execute("BEGIN").execute("SELECT count(*) FROM log").fetchall()
            reading.execute("COMMIT")
            reading, next_ = next_, reading


async def test_what_is_to_go_into_the_file_stays_bounded_while_others_read(tmp_path: Path) -> None:
    wal = tmp_path / "journal.db-wal"
    async with opened(tmp_path / "journal.db") as journal:
        stop = threading.Event()
        reading = threading.Thread(target=read_without_end, args=(tmp_path / "journal.db", stop))
        reading.start()
        sizes = []
        try:
            for round in range(100):
                seqs = [*range(10 * round + 1, 10 * round + 11)]
                forgotten = [seq - 10 for seq in seqs] if round else []
                await journal.commit(batch_of(*messages(*seqs, payload=bytes(100_000)), forgotten=forgotten))
                sizes.append(wal.stat().st_size)
        finally:
            stop.set()
            reading.join()
        assert max(sizes) < 36 << 20


async def test_what_is_to_go_into_the_file_is_small_again_after_a_large_batch(tmp_path: Path) -> None:
    wal = tmp_path / "journal.db-wal"
    async with opened(tmp_path / "journal.db") as journal:
        await journal.commit(batch_of(*messages(*range(1, 65), payload=bytes(1 << 20))))
        assert wal.stat().st_size > 64 << 20
        await journal.commit(batch_of(forgotten=[*range(1, 65)]))
        assert wal.stat().st_size <= 32 << 20


async def test_a_batch_goes_in_beside_a_busy_thread(journal: SqliteJournal) -> None:
    """Row by row it takes 3 s and more: each would wait for the interpreter's lock."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            for _ in range(1000):
                pass

    busy = threading.Thread(target=spin)
    busy.start()
    try:
        async with asyncio.timeout(1.5):
            await journal.commit(batch_of(*messages(*range(1, 5001))))
            assert len(await journal.fetch(range(1, 5001))) == 5000
    finally:
        stop.set()
        busy.join()


async def test_facts_stay_until_they_are_applied(journal: SqliteJournal) -> None:
    batch = Batch()
    batch.facts = [Fact(1, b'["one"]'), Fact(2, b"\0\xff", firm=True), Fact(7, b"")]
    await journal.commit(batch)
    assert (await journal.totals()).facts == 7
    batch = Batch()
    batch.facts, batch.applied = [Fact(8, b"last")], 2
    await journal.commit(batch)
    assert [(fact.number, fact.body) async for fact in journal.facts()] == [(7, b""), (8, b"last")]
