"""A large send whose broker is killed again and again: nobody is left out, and nobody gets it twice."""

import asyncio
import json
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.mqtt import Client
from support.served import Served, eventually

from broker.wire.packets import Properties, Puback, Publish

USERS = 600
AWAY = 20  # of them have a device that is away until the end
LIVES = 4
REQUEST = {"to": {"condition": "tag:all"}, "payload": "hello", "idempotency_key": "spring", "throttle_per_s": 1000}


class Devices:
    """One client that stands for the devices of all users, and what it has got."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.got: Counter[bytes] = Counter()
        self.again: Counter[bytes] = Counter()  # marked DUP
        self.ids: set[str] = set()

    async def listen(self, more: int) -> None:
        """Take and acknowledge so many more, or until the broker is gone."""
        client = await self.served.lasting("devices")
        if not client.connack.session_present:
            await client.subscribe("acme/user/+", qos=1)
        while more:
            packet = await client.receive(20)
            if not isinstance(packet, Publish):
                return
            (self.again if packet.dup else self.got)[packet.topic] += 1
            self.ids.add(dict(packet.properties.user_properties)["message-id"])
            more -= 1
            await client.send(Puback(packet.packet_id))


def populate(served: Served) -> str:
    """A brand with many users; a token of its server's."""
    assert not served.command("init").code
    assert not served.command("brand", "add", "acme").code
    with closing(sqlite3.connect(served.data / "records.db")) as db, db:
        names = [(f"u{n:04}",) for n in range(USERS)]
        db.executemany("INSERT INTO users VALUES ('acme', ?, '', 0)", names)
        db.executemany("INSERT INTO tags VALUES ('acme', 'user', ?, 'all')", names)
    return str(json.loads(served.command("brand", "token", "issue", "acme", "--json").out)["secret"])


async def ask(served: Served, token: str) -> dict[str, Any]:
    """Ask for the send, and wait for its answer."""
    client = await Client.connected(served.port, username="acme", password=token.encode())
    await client.subscribe("acme/answers", qos=1)
    properties = Properties(response_topic="acme/answers")
    await client.send(Publish(b"acme/send", json.dumps(REQUEST).encode(), 1, packet_id=7, properties=properties))
    while not isinstance(packet := await client.receive(20), Publish):
        assert packet is not None
    answer: dict[str, Any] = json.loads(packet.payload)
    return answer


def states(served: Served) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{served.data}/messages.db?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT state, count(*) FROM recipient GROUP BY state").fetchall())


@pytest.fixture(autouse=True)
async def no_client_stays() -> AsyncIterator[None]:
    yield
    await Client.abort_all()


async def test_a_send_goes_on_where_it_was_when_the_broker_was_killed(tmp_path: Path) -> None:
    served = Served(tmp_path)
    token = populate(served)
    devices = Devices(served)
    dice = random.Random()
    with served:
        await devices.listen(0)
        for number in range(AWAY):
            await served.away(f"away-{number}", f"acme/user/u{number:04}", qos=1)
        # The first life ends as soon as the request is acknowledged, before anybody can have been written down.
        client = await Client.connected(served.port, username="acme", password=token.encode())
        await client.publish("acme/send", json.dumps(REQUEST).encode(), qos=1)
        served.kill()
        for _ in range(LIVES):
            served.start()
            await devices.listen(dice.randrange(1, USERS // LIVES))
            await asyncio.sleep(dice.random() * 0.02)
            served.kill()
        served.start()
        listening = asyncio.create_task(devices.listen(10 * USERS))
        await eventually(lambda: states(served) == {"delivered": USERS}, within_s=30)
        answer = await ask(served, token)
        assert (answer["ok"], answer["duplicate"], answer["recipients"]) == (True, True, USERS)
        assert devices.ids == {answer["message_id"]}
        listening.cancel()
        assert len(devices.got | devices.again) == USERS
        assert {topic: count for topic, count in devices.got.items() if count > 1} == {}
        for number in range(AWAY):
            client = await served.lasting(f"away-{number}")
            message = await client.expect_message()
            assert message.topic == b"acme/user/u%04d" % number
            await client.silent()
