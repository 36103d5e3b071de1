"""Receipts and withdrawals of a broker that is killed again and again: everybody is told of, and counts add up."""

import asyncio
import json
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.mqtt import Client
from support.served import Served, eventually

from broker.wire.packets import Puback, Publish

USERS = 200
LIVES = 2


@pytest.fixture(autouse=True)
async def no_client_stays() -> AsyncIterator[None]:
    yield
    await Client.abort_all()


def populate(served: Served) -> bytes:
    """A brand with many users; a token of its server's."""
    assert not served.command("init").code
    assert not served.command("brand", "add", "acme").code
    with closing(sqlite3.connect(served.data / "records.db")) as db, db:
        names = [(f"u{n:04}",) for n in range(USERS)]
        db.executemany("INSERT INTO users VALUES ('acme', ?, '', 0)", names)
        db.executemany("INSERT INTO tags VALUES ('acme', 'user', ?, 'all')", names)
    return str(json.loads(served.command("brand", "token", "issue", "acme", "--json").out)["secret"]).encode()


async def ask(served: Served, token: bytes, **request: Any) -> None:
    """Ask for something; when this returns it will be done."""
    client = await Client.connected(served.port, username="acme", password=token)
    await client.publish("acme/send", json.dumps(request).encode(), qos=1)


async def listen(served: Served, name: str, filter: str, more: int) -> list[Publish]:
    """Take and acknowledge so many messages, or until the broker is gone."""
    client = await served.lasting(name)
    if not client.connack.session_present:
        await client.subscribe(filter, qos=1)
    got: list[Publish] = []
    while len(got) < more and isinstance(packet := await client.receive(20), Publish):
        got.append(packet)
        await client.send(Puback(packet.packet_id))
    client.abort()
    return got


def states(served: Served) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{served.data}/messages.db?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT state, count(*) FROM recipient GROUP BY state").fetchall())


async def test_each_delivery_is_told_of_however_often_the_broker_is_killed(tmp_path: Path) -> None:
    served = Served(tmp_path)
    token = populate(served)
    dice = random.Random()
    with served:
        for name, filter in (("devices", "acme/user/+"), ("crm", "acme/receipts/+")):
            await listen(served, name, filter, 0)
        await ask(served, token, to={"condition": "tag:all"}, payload="x", receipts="each", throttle_per_s=1000)
        for _ in range(LIVES):
            await listen(served, "devices", "acme/user/+", dice.randrange(1, USERS // LIVES))
            served.kill()
            served.start()
        listening = asyncio.create_task(listen(served, "devices", "acme/user/+", 10 * USERS))
        await eventually(lambda: states(served) == {"delivered": USERS}, within_s=30)
        told: set[str] = set()
        while len(told) < USERS:
            receipts = await listen(served, "crm", "acme/receipts/+", USERS - len(told))
            said = [json.loads(receipt.payload) for receipt in receipts]
            assert {one["event"] for one in said} == {"delivered"}
            told |= {one["recipient"] for one in said}
        assert told == {f"user/u{n:04}" for n in range(USERS)}
        listening.cancel()


async def test_a_withdrawal_is_done_however_often_the_broker_is_killed(tmp_path: Path) -> None:
    served = Served(tmp_path)
    token = populate(served)
    dice = random.Random()
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    with served:
        await ask(served, token, to={"condition": "tag:all"}, payload="x", not_before=tomorrow)
        await eventually(lambda: states(served) == {"accepted": USERS}, within_s=30)
        (message,) = json.loads(served.command("message", "list", "--json").out)
        await ask(served, token, withdraw=message["id"])
        for _ in range(LIVES):
            served.kill()
            served.start()
            await asyncio.sleep(dice.random() * 0.02)
        await eventually(lambda: states(served) == {"withdrawn": USERS}, within_s=30)
