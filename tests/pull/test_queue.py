"""Changes of content: done in turn, beside all else, each once it is kept."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.live import populate, running, server
from support.mqtt import Client

from broker.app import Broker
from broker.bridge.facts import Asked
from broker.errors import Failed
from broker.pull import queue
from broker.pull.queue import Queue
from broker.store.content import Content


class Lab:
    """A queue whose work is to note what it is asked; what it answers, too."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.done: list[str] = []
        self.answers: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.fails = 0
        self.bugs: list[Exception] = []
        self.queue = Queue(
            content=content,
            do=self.do,
            answer=lambda request, answer: self.answers.put_nowait((request.id, answer)),
            full=lambda request: b"full",
            log=lambda *_, **__: None,
            unexpected=self.bugs.append,
        )

    async def do(self, request: Asked) -> bytes:
        if request.payload == b"bug":
            raise ValueError("oh")
        if self.fails:
            self.fails -= 1
            raise Failed("the disk is full")
        self.done.append(request.id)
        return request.payload.upper()

    async def all(self, count: int) -> list[tuple[str, bytes]]:
        running = asyncio.ensure_future(self.queue.run())
        try:
            async with asyncio.timeout(10):
                return [await self.answers.get() for _ in range(count)]
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def asked(id: str, brand: str = "acme", payload: bytes = b"x") -> Asked:
    return Asked(brand, f"{brand}/server/crm", id, payload, "t", b"", 0, "content")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with await Content.open(tmp_path / "content.db") as content:
        yield Lab(content)


async def test_each_brand_has_its_turn(lab: Lab) -> None:
    for id in ("a1", "a2", "a3"):
        await lab.queue.keep(asked(id))
    await lab.queue.keep(asked("r1", "rival"))
    await lab.queue.keep(asked("z1", "zoo"))
    assert [id for id, _ in await lab.all(5)] == ["a1", "r1", "z1", "a2", "a3"]


async def test_what_is_kept_twice_is_done_once_and_after_a_restart(lab: Lab) -> None:
    for _ in range(2):
        await lab.queue.keep(asked("a1", payload=b"put"))
    again = Lab(lab.content)
    assert await again.all(1) == [("a1", b"PUT")]
    assert await lab.content.next_request("") is None


async def test_what_the_disk_refuses_is_done_later_and_a_bug_stops_nobody(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "RETRY_S", 0.01)
    lab.fails = 2
    await lab.queue.keep(asked("a1"))
    await lab.queue.keep(asked("a2", payload=b"bug"))
    await lab.queue.keep(asked("a3"))
    assert [id for id, _ in await lab.all(2)] == ["a1", "a3"]
    assert [str(bug) for bug in lab.bugs] == ["oh"]


async def test_a_brand_has_room_for_so_much(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "CONTENT_WAITING_MAX", 200)
    await lab.queue.keep(asked("a1", payload=b"x" * 100))
    await lab.queue.keep(asked("a2", payload=b"x" * 100))
    await lab.queue.keep(asked("r1", "rival", payload=b"x" * 100))
    assert lab.answers.get_nowait() == ("a2", b"full")
    assert [id for id, _ in await lab.all(2)] == ["a1", "r1"]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        yield broker


async def test_large_changes_do_not_hold_up_what_becomes_of_messages(broker: Broker) -> None:
    shop = await server(broker)
    await shop.subscribe("acme/content/answer", "acme/send/answer", qos=1)
    items = [{"name": f"i{number}", "title": f"Item {number} of many"} for number in range(1000)]
    held = asyncio.Event()
    writes = broker.pull.content.put

    async def slow(*given: object, **more: object) -> object:
        await held.wait()
        return await writes(*given, **more)  # type: ignore[arg-type]

    broker.pull.content.put = slow  # type: ignore[method-assign]
    await shop.publish("acme/content", json.dumps({"put": items}).encode(), qos=1)
    await shop.publish("acme/send", b'{"to": {"users": ["ada"]}, "payload": "x"}', qos=1)
    assert (await next_of(shop, b"acme/send/answer"))["ok"]
    held.set()
    assert (await next_of(shop, b"acme/content/answer"))["changed"] == 1000


async def next_of(client: Client, topic: bytes) -> dict[str, object]:
    message = await client.expect_message()
    assert message.topic == topic
    said: dict[str, object] = json.loads(message.payload)
    return said
