"""A disk that takes nothing more for a while: who needs it is told so, all others notice nothing, and it passes."""

import errno
import json
import queue
import re
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.faults import Faults
from support.mqtt import Client
from support.served import Served, answering, eventually, gets, publish, receive_until
from support.tmpfs import Tmpfs, tmpfs_works

from broker.wire.codes import Reason
from broker.wire.packets import Puback, Publish

OVER = Reason.QUOTA_EXCEEDED
# The receivers of these tests answer at once, and yet a machine that is busy with other tests may be late.
ENV = {"PUSHBROKER_COMMIT_WINDOW_MS": "1000", "PUSHBROKER_QUEUE_BYTES_MAX": str(64 << 20)}


class Outage:
    """A broker whose disk fails between `begin` and `end`."""

    def __init__(self, broker: Served, begin: Callable[[], object], end: Callable[[], object]) -> None:
        self.broker = broker
        self.begin = begin
        self.end = end


INJECTED = {
    "no room": ("write", errno.ENOSPC),
    "writes fail": ("write", errno.EIO),
    "syncs fail": ("sync", errno.EIO),
}
# Where the system lets us have a small disk, it is filled; what fails then is up to the system.
KINDS = [*INJECTED, "locked", *(["full"] if tmpfs_works() else [])]


def outage(kind: str, directory: Path, faults: Faults, stack: ExitStack) -> Outage:
    """The broker is started and stopped by `stack`."""
    if kind in INJECTED:
        call, error = INJECTED[kind]
        broker = Served(directory, **faults.environment, **ENV)
        return Outage(stack.enter_context(broker), lambda: faults.set(call, error=error), faults.clear)
    if kind == "full":
        disk = Tmpfs(directory / "data", "4m")
        stack.callback(disk.close)
        broker = Served(directory, inside=disk.inside, **ENV)
        return Outage(stack.enter_context(broker), disk.fill, disk.free)
    broker = stack.enter_context(Served(directory, **ENV))
    other = sqlite3.connect(broker.data / "journal.db", isolation_level=None)
    stack.callback(other.close)
    return Outage(broker, lambda: other.execute("BEGIN IMMEDIATE"), lambda: other.execute("COMMIT"))


@pytest.fixture
def no_room(tmp_path: Path, faults: Faults) -> Iterator[Outage]:
    with ExitStack() as stack:
        yield outage("no room", tmp_path, faults, stack)


async def until_refused(sender: Client, topic: str, accepted: list[bytes]) -> None:
    """Publish until it is noticed that the disk takes nothing; what it still took is added to `accepted`."""
    for n in range(100):
        payload = b"unnoticed %d " % n + bytes(20_000)
        if await publish(sender, topic, payload) == OVER:
            return
        accepted.append(payload)
    raise AssertionError("the disk still takes it")


async def recovered(broker: Served) -> None:
    """Within seconds, by itself."""
    await eventually(lambda: broker.journal["state"] == "ok")


def adds_up(broker: Served) -> bool:
    status = broker.status
    counters = status["counters"]
    went = sum(counters[f"log_messages_{what}"] for what in ("delivered", "expired", "dropped"))
    return bool(counters["log_messages_appended"] == status["journal"]["messages"] + went)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_outage(kind: str, tmp_path: Path, faults: Faults) -> None:
    with ExitStack() as stack:
        failing = outage(kind, tmp_path, faults, stack)
        broker = failing.broker
        await broker.away("early", "t/#")
        await broker.away("late", "t/#")
        sender = await broker.client("sender")
        accepted: list[bytes] = []

        async def accept(topic: str, words: bytes) -> None:
            for n in range(6):
                payload = b"%s %d" % (words, n)
                assert await publish(sender, topic, payload, 1 + n % 2) == 0
                accepted.append(payload)

        await accept("t/before", b"before")
        fleeting = await broker.client("fleeting")
        await fleeting.subscribe("fleeting", qos=1)
        steady = await broker.lasting("steady")
        await steady.subscribe("steady", qos=1)
        await broker.away("known", "known", qos=1)
        mute = await broker.lasting("mute")
        await mute.subscribe("mute", qos=1)

        before = len(_of_the_journal(broker))
        failing.begin()
        await until_refused(sender, "t/during", accepted)
        # Who needs the disk is told that it does not go, each time.
        for _ in range(3):
            assert await publish(sender, "t/during", b"refused", 1) == OVER
            assert await publish(sender, "t/during", b"refused", 2) == OVER
        for qos in (1, 2):
            old = await broker.client(version=4)
            assert await publish(old, "t/during", b"refused", qos) is None
        assert await publish(sender, "mute", b"refused") == OVER  # it was sent, and its receiver says nothing
        # All others go on.
        async with answering(steady) as got:
            for n in range(3):
                await sender.publish("fleeting", b"%d" % n, qos=0)
                await fleeting.expect_message(b"%d" % n)
                assert await publish(sender, "steady", b"%d" % n) == 0
            assert got == [b"0", b"1", b"2"]
            async with answering(fleeting):
                for _ in range(3):
                    assert await publish(sender, "fleeting", b"x") == 0
        # Who comes is let in, and is told when what is asked for cannot be kept.
        new = await broker.lasting("new")
        assert not new.connack.session_present
        (granted,) = (await new.subscribe("new", qos=1)).reasons
        assert granted in (1, OVER)
        await new.disconnect()
        known = await broker.lasting("known")
        assert (await known.subscribe("known", qos=1)).reasons == [1]  # as it has been
        assert (await fleeting.subscribe("more", qos=1)).reasons == [1]
        await (await broker.client("steady")).disconnect()  # a clean start: the session ends
        assert broker.journal["state"].startswith("failing: ")

        failing.end()
        await recovered(broker)
        if kind != "full":  # where now and then something small finds a place
            assert len(_of_the_journal(broker)) == before + 2  # once when it began, once when it was over
        await accept("t/after", b"after")
        new = await broker.lasting("new")
        assert new.connack.session_present
        if granted != 1:
            assert (await new.subscribe("new", qos=1)).reasons == [1]
        await new.disconnect()
        assert await publish(sender, "new", b"for the new one") == 0
        assert broker.status["counters"]["journal_failures"] > 0
        await gets(await broker.lasting("early"), accepted)
        assert adds_up(broker)

        broker.kill()
        broker.start()
        for name, expected in (("late", accepted), ("new", [b"for the new one"])):
            client = await broker.lasting(name)
            assert client.connack.session_present
            await gets(client, expected)
        assert not (await broker.lasting("steady")).connack.session_present


async def test_what_is_acknowledged_by_receivers_meanwhile_is_written_later(no_room: Outage) -> None:
    broker = no_room.broker
    for name in ("reader", "witness"):
        await broker.away(name, "t")
    sender = await broker.client("sender")
    payloads = [b"%d" % n for n in range(50)]
    for payload in payloads:
        assert await publish(sender, "t", payload, 1) == 0
    no_room.begin()
    await until_refused(sender, "t", [])
    reader = await broker.lasting("reader")
    await gets(reader, payloads)
    no_room.end()
    await recovered(broker)
    assert await publish(sender, "t", b"last") == 0  # in the same commit as those acknowledgements, or a later one
    broker.kill()
    broker.start()
    reader = await broker.lasting("reader")
    await gets(reader, [b"last"])
    await gets(await broker.lasting("witness"), [*payloads, b"last"])


@pytest.mark.parametrize("kind", INJECTED)
async def test_a_crash_in_an_outage(kind: str, tmp_path: Path, faults: Faults) -> None:
    with ExitStack() as stack:
        failing = outage(kind, tmp_path, faults, stack)
        broker = failing.broker
        await broker.away("away", "t", qos=1)
        sender = await broker.client("sender")
        accepted = [b"%d" % n for n in range(10)]
        for payload in accepted:
            assert await publish(sender, "t", payload) == 0
        failing.begin()
        await until_refused(sender, "t", accepted)
        assert await publish(sender, "t", b"refused") == OVER
        await eventually(lambda: broker.status["counters"]["journal_failures"] >= 3)
        broker.kill()
        failing.end()
        broker.start()
        assert await publish(await broker.client(), "t", b"last") == 0
        *got, _ = await receive_until(await broker.lasting("away"), b"last")
        assert got[: len(accepted)] == accepted
        if kind == "syncs fail":  # what was written is there after all, though nobody could know
            assert len(got) <= len(accepted) + 1
        else:
            assert len(got) == len(accepted)


async def test_retained_messages_that_are_accepted_meanwhile_are_kept(no_room: Outage) -> None:
    broker = no_room.broker
    await broker.away("away", "t")
    sender = await broker.client("sender")
    assert await publish(sender, "r/before", b"", retain=True) in (0, Reason.NO_MATCHING_SUBSCRIBERS)
    no_room.begin()
    await until_refused(sender, "t", [])
    answers = {}
    for n in range(3):
        await sender.publish(f"r/zero/{n}", b"zero", qos=0, retain=True)
        answers[f"r/{n}"] = await publish(sender, f"r/{n}", b"one", retain=True)
    no_room.end()
    await recovered(broker)
    assert await publish(sender, "t", b"x") == 0
    broker.kill()
    broker.start()
    client = await broker.client()
    await client.subscribe("r/#", qos=1)
    expected = {topic for topic, reason in answers.items() if reason is not None and reason < 0x80}
    expected |= {f"r/zero/{n}" for n in range(3)}
    got = {(await client.expect_message()).topic.decode() for _ in expected}
    assert got == expected
    await client.silent()


async def test_with_durability_memory_nothing_is_forgotten(tmp_path: Path, faults: Faults) -> None:
    """The publisher has been told of success before the disk was asked: what it was told stays true without a crash."""
    with Served(tmp_path, **faults.environment, **ENV, PUSHBROKER_DURABILITY="memory") as broker:
        await broker.away("one", "t")
        await broker.away("two", "t")
        sender = await broker.client("sender")
        accepted = []
        for n in range(30):
            if n == 5:
                faults.set("write", error=errno.ENOSPC)
            if n == 10:
                await eventually(lambda: broker.journal["state"].startswith("failing: "))
            if n == 20:
                faults.clear()
                await recovered(broker)
            reason = await publish(sender, "t", b"%d" % n, 1 + n % 2)
            assert reason == 0 or 5 < n < 20
            if reason == 0:
                accepted.append(b"%d" % n)
        assert broker.status["durability"] == "memory"
        await gets(await broker.lasting("one"), accepted)
        assert broker.stop().code == 0
        broker.start()
        await gets(await broker.lasting("two"), accepted)


async def test_the_operator_is_told(no_room: Outage, faults: Faults) -> None:
    """Once, with what to do; by everything that says how the broker is; and again when it is over."""
    broker = no_room.broker
    await broker.away("away", "t")
    sender = await broker.client("sender")
    assert broker.command("doctor", "--no-push").code in (0, 1)
    assert broker.journal["state"] == "ok"
    before = len(_of_the_journal(broker))
    no_room.begin()
    await until_refused(sender, "t", [])
    failures = broker.status["counters"]["journal_failures"]
    await eventually(lambda: broker.status["counters"]["journal_failures"] >= failures + 2)  # it has tried again
    told = _of_the_journal(broker)[before:]
    assert len(told) == 1, told
    (line,) = told
    assert line["level"] in ("error", "warning")
    words = json.dumps(line)
    assert "no room" in words
    assert "df -h" in words
    shown = broker.command("status")
    assert shown.code == 0
    assert "failing: " in shown.out
    assert "no room" in shown.out
    doctor = broker.command("doctor", "--no-push", "--json")
    assert doctor.code == 1
    failed = [check for check in doctor.json if check["state"] == "failed" and "no room" in check["words"]]
    assert len(failed) == 1, doctor.out
    assert failed[0]["remedy"]
    no_room.end()
    await recovered(broker)
    told = _of_the_journal(broker)[before:]
    assert len(told) == 2, told
    assert told[1]["level"] in ("info", "warning")
    shown = broker.command("status")
    assert "failing" not in shown.out


def _of_the_journal(broker: Served) -> list[dict[str, str]]:
    """The lines of the log that are about it."""
    return [line for line in broker.events if "journal" in json.dumps(line)]


async def test_the_order_stays(no_room: Outage) -> None:
    """What one publisher got accepted arrives in the order in which it was sent, whatever was refused in between."""
    broker = no_room.broker
    await broker.away("away", "t")
    sender = await broker.client("sender")
    accepted = []
    for n in range(300):
        if n % 100 == 50:
            no_room.begin()
        if n % 100 == 75:
            no_room.end()
            await recovered(broker)
        if await publish(sender, "t", b"%d" % n, 1 + n % 2) == 0:
            accepted.append(b"%d" % n)
    assert len(accepted) == 225
    away = await broker.lasting("away")
    await gets(away, accepted)


async def test_many_publishes_at_once(no_room: Outage) -> None:
    """The disk fails while much is under way: each publish has exactly one answer, and the right one."""
    broker = no_room.broker
    await broker.away("away", "t/#")
    sender = await broker.client("sender")
    count, topics = 800, 7
    answers: dict[int, int] = {}

    async def send(ids: range) -> None:
        await sender.send(*(Publish(b"t/%d" % (n % topics), b"%d" % n, 1, packet_id=n) for n in ids))

    async def heard(number: int) -> None:
        while len(answers) < number:
            answer = await sender.expect(Puback)
            assert answer.packet_id not in answers
            answers[answer.packet_id] = answer.reason

    await send(range(1, count // 2))
    await heard(1)
    no_room.begin()
    await send(range(count // 2, count + 1))
    await heard(count)
    assert set(answers.values()) == {0, OVER}
    no_room.end()
    await recovered(broker)
    assert await publish(sender, "t/last", b"last") == 0
    *got, _ = await receive_until(await broker.lasting("away"), b"last")
    accepted = [b"%d" % id for id, reason in sorted(answers.items()) if reason == 0]
    assert sorted(got) == sorted(accepted)
    for topic in range(topics):
        assert [p for p in got if int(p) % topics == topic] == [p for p in accepted if int(p) % topics == topic]


async def test_the_supervisor_hears_of_it_and_lets_us_be(short_path: Path, tmp_path: Path, faults: Faults) -> None:
    """A restart would not make room, and would end what still goes on: the watchdog is fed."""
    with supervisor(short_path / "notify") as heard:
        env = {"NOTIFY_SOCKET": str(short_path / "notify"), "WATCHDOG_USEC": "400000"}
        with Served(tmp_path, **faults.environment, **ENV, **env) as broker:
            await broker.away("away", "t")
            heard("READY=1")
            sender = await broker.client("sender")
            faults.set("write", error=errno.ENOSPC)
            await until_refused(sender, "t", [])
            heard("STATUS=.*no room.*")
            for _ in range(4):
                heard("WATCHDOG=1")
            faults.clear()
            await recovered(broker)
            heard("STATUS=serving.*")
            heard("WATCHDOG=1")


@contextmanager
def supervisor(path: Path) -> Iterator[Callable[[str], None]]:
    """What waits for the next notification with a line that matches."""
    said: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        while text := listening.recv(4096).decode():
            said.put(text)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        reader = threading.Thread(target=read)
        reader.start()

        def heard(pattern: str) -> None:
            while not any(re.fullmatch(pattern, line) for line in said.get(timeout=20).splitlines()):
                pass

        try:
            yield heard
        finally:
            listening.shutdown(socket.SHUT_RD)
            reader.join(10)
