"""A log that has reached its bound: publishers are told, nobody else notices, and there is room when it drains."""

from pathlib import Path

from support.mqtt import Client
from support.served import Served, answering, eventually, gets, publish

from broker.wire.codes import Reason

OVER = Reason.QUOTA_EXCEEDED
BYTES_MAX = 1 << 20
ENV = {
    "PUSHBROKER_LOG_BYTES_MAX": str(BYTES_MAX),
    "PUSHBROKER_QUEUE_BYTES_MAX": str(64 << 20),
    "PUSHBROKER_QUEUE_MESSAGES_MAX": "100000",
    "PUSHBROKER_COMMIT_WINDOW_MS": "1000",
}


async def fill(sender: Client, words: bytes) -> list[bytes]:
    """Publish until it is full; what was accepted."""
    accepted: list[bytes] = []
    while True:
        payload = b"%s %d " % (words, len(accepted)) + bytes(10_000)
        reason = await publish(sender, "t", payload, 1 + len(accepted) % 2)
        if reason != 0:
            assert reason == OVER
            return accepted
        accepted.append(payload)
        assert len(accepted) * 10_000 < BYTES_MAX


async def test_full_and_drained(tmp_path: Path) -> None:
    with Served(tmp_path, **ENV) as broker:
        for name in ("one", "two"):
            await broker.away(name, "t")
        sender = await broker.client("sender")
        accepted = await fill(sender, b"first")
        assert len(accepted) * 10_000 > BYTES_MAX * 0.8  # of one session and of two: each message is there once
        # Each time, and to everyone.
        assert await publish(sender, "t", b"refused " + bytes(10_000), 1) == OVER
        assert await publish(sender, "t", b"refused " + bytes(10_000), 2) == OVER
        assert await publish(await broker.client(version=4), "t", b"refused " + bytes(10_000)) is None
        journal = broker.journal
        assert journal["state"] == "ok"
        assert journal["messages"] == len(accepted)
        assert 0.8 * BYTES_MAX < journal["bytes"] <= journal["bytes_max"] == BYTES_MAX
        # Who is online needs no room.
        steady = await broker.lasting("steady")
        await steady.subscribe("steady", qos=1)
        async with answering(steady) as got:
            assert await publish(sender, "steady", bytes(10_000)) == 0
            assert len(got) == 1
        # One of two has got it: the other still waits.
        one = await broker.lasting("one")
        await gets(one, accepted)
        await one.disconnect()
        assert await publish(sender, "t", b"refused " + bytes(10_000)) == OVER
        # A restart changes nothing.
        assert broker.stop().code == 0
        broker.start()
        sender = await broker.client("sender")
        assert await publish(sender, "t", b"refused " + bytes(10_000)) == OVER
        two = await broker.lasting("two")
        await gets(two, accepted)
        await two.disconnect()
        await eventually(lambda: broker.journal["bytes"] == 0)
        again = await fill(sender, b"second")
        assert len(again) == len(accepted)
        await gets(await broker.lasting("two"), again)


async def test_the_file_is_used_again(tmp_path: Path) -> None:
    with Served(tmp_path, **ENV) as broker:
        await broker.away("away", "t")
        sender = await broker.client("sender")
        for _ in range(6):
            accepted = await fill(sender, b"again")
            away = await broker.lasting("away")
            await gets(away, accepted)
            await away.disconnect()
            await eventually(lambda: broker.journal["messages"] == broker.journal["bytes"] == 0)
        counters = broker.status["counters"]
        assert counters["log_messages_appended"] == counters["log_messages_delivered"] == 6 * len(accepted)
        assert broker.stop().code == 0
        assert (broker.data / "journal.db").stat().st_size < 3 * BYTES_MAX
