"""What brands' servers ask for over MQTT, in the audit log."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.bridge.facts import Asked
from broker.pull.noting import Notes
from broker.store.audit import AuditLog
from broker.store.records import Records


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    async with await Records.open(tmp_path / "records.db") as records:
        yield records


@pytest.fixture
def notes(records: Records) -> Notes:
    return Notes(AuditLog(records), lambda *_, **__: None)


def asked(kind: str, payload: bytes | dict[str, Any]) -> Asked:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Asked("acme", "acme/server/crm", "m1", body, "acme/a", b"", 1, kind)


async def answered(request: Asked) -> bytes:
    return b'{"ok": false}' if b"bad" in request.payload else b'{"ok": true}'


async def noted(records: Records) -> list[tuple[Any, ...]]:
    sql = "SELECT actor, operation, target, detail, outcome FROM audit ORDER BY number"
    return [(*row[:3], json.loads(row[3]), row[4]) for row in map(tuple, await records._run(sql))]


async def test_what_agents_do_is_noted_one_by_one(records: Records, notes: Notes) -> None:
    answer = notes.each(answered)
    by = {"by": "server:acme/server/crm"}
    for payload in (
        {"do": "list"},
        {"do": "reply", "conversation": "c1", "agent": "mia", "text": "secret words"},
        {"do": "take", "conversation": "c1", "agent": "bad"},
        {"do": "typing", "conversation": "c1", "agent": "mia"},
        {"do": "burn\x1b"},
        b"{",
        b'{"do": 7, "agent": ["mia"]}',
    ):
        await answer(asked("inbox", payload))
    assert await noted(records) == [
        ("server:acme/server/crm", "inbox.list", "", {}, "done"),
        ("agent:mia", "inbox.reply", "conversation/c1", by, "done"),
        ("server:acme/server/crm", "inbox.take", "conversation/c1", by, "refused"),
    ]


async def test_changes_of_content_are_counted(records: Records, notes: Notes) -> None:
    answer = notes.counted(answered)
    for _ in range(400):
        await answer(asked("content", {"set": {"name": "cake", "data": {"price": 1}}}))
    await answer(asked("content", {"get": "cake"}))
    await answer(asked("content", {"put": ["bad"]}))
    assert await noted(records) == []
    await notes.flush()
    await notes.flush()
    assert await noted(records) == [
        ("server:acme/server/crm", "content.set", "", {"requests": 400}, "done"),
        ("server:acme/server/crm", "content.put", "", {"requests": 1}, "refused"),
    ]
