"""What agents' tools only look at is answered beside the books, in order, bounded, each brand by itself."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from broker.bridge.facts import Asked
from broker.counters import Counters
from broker.errors import Failed
from broker.limits import READ_BYTES_MAX, READS_WAITING_MAX
from broker.pull.reads import Reads


def asked(request: Any, brand: str = "acme", id: str = "") -> Asked:
    payload = request if isinstance(request, bytes) else json.dumps(request).encode()
    return Asked(brand, f"{brand}/server", id, payload, f"{brand}/inbox/answer", b"", 0, "inbox")


class Room:
    """Reads whose answers come when `gates` let them; a brand without a gate is answered at once."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.answers: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.gates: dict[str, asyncio.Event] = {}
        self.raising: list[Exception] = []
        self.bugs: list[Exception] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.reads = Reads(
            do=self.do, answer=self.answered, spawn=self.spawn, counters=self.counters,
            log=lambda *_, **__: None, unexpected=self.bugs.append,
        )  # fmt: skip

    async def do(self, request: Asked) -> bytes:
        if gate := self.gates.get(request.brand):
            await gate.wait()
        if self.raising:
            raise self.raising.pop()
        return json.dumps({"ok": True, "id": request.id}).encode()

    def answered(self, request: Asked, answer: bytes) -> None:
        self.answers.put_nowait((request.id, json.loads(answer)))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def next(self) -> tuple[str, dict[str, Any]]:
        async with asyncio.timeout(5):
            return await self.answers.get()


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.mark.parametrize(
    "request_",
    [{"do": "take"}, {"do": "reply"}, {}, {"do": 1}, b"", b"[]", b"\xff", b"[" * 5000,
     {"do": "list", "more": "x" * READ_BYTES_MAX}],
)  # fmt: skip
def test_all_else_is_for_the_books(request_: Any, room: Room) -> None:
    assert not room.reads.take(asked(request_))


async def test_one_after_the_other_in_order(room: Room) -> None:
    for number, do in enumerate(("list", "show", "typing")):
        assert room.reads.take(asked({"do": do}, id=str(number)))
    assert [(await room.next())[0] for _ in range(3)] == ["0", "1", "2"]
    assert room.reads.take(asked({"do": "list"}, id="3"))
    assert (await room.next())[0] == "3"


async def test_a_brand_that_asks_much_holds_up_no_other_and_is_told_so(room: Room) -> None:
    gate = room.gates["acme"] = asyncio.Event()
    for number in range(READS_WAITING_MAX + 1):
        assert room.reads.take(asked({"do": "list", "request_id": "r"}, id=str(number)))
    id, answer = await room.next()
    assert (id, answer["ok"], answer["code"], answer["request_id"]) == (str(READS_WAITING_MAX), False, "too_many", "r")
    assert room.counters.inbox_requests_refused == 1
    assert room.reads.take(asked({"do": "list"}, "rival", "theirs"))
    assert (await room.next())[0] == "theirs"
    gate.set()
    assert [(await room.next())[0] for _ in range(READS_WAITING_MAX)] == [str(n) for n in range(READS_WAITING_MAX)]


@pytest.mark.parametrize(("error", "code"), [(Failed("no disk"), "unable"), (ValueError("bug"), "internal_error")])
async def test_what_cannot_be_read_is_said_and_the_next_is_answered(error: Exception, code: str, room: Room) -> None:
    room.raising.append(error)
    room.reads.take(asked({"do": "list"}, id="0"))
    room.reads.take(asked({"do": "list"}, id="1"))
    assert (await room.next())[1]["code"] == code
    assert (await room.next())[1]["ok"]
    assert [str(bug) for bug in room.bugs] == (["bug"] if code == "internal_error" else [])
