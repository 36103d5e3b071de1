"""Somebody is erased: nothing of them is left in any file, and what others have to do with it stays right."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.live import populate, running, server
from support.person import NAME, PHONE, WORDS, found, make, operate, phone

from broker.admin.operations import Context, stream
from broker.app import Broker
from broker.errors import NotFound
from broker.pull import erasure
from broker.store.personal import TABLES
from broker.wire.packets import Publish

ALL = (NAME, PHONE, *WORDS)


async def erased(broker: Broker, name: str = NAME, **how: Any) -> dict[str, Any]:
    context = Context(broker.settings, broker.directory, broker)
    parts = [part async for part in await stream(context, "user.erase", {"brand": "acme", "name": name, **how})]
    proof: dict[str, Any] = parts[-1]["proof"]
    return proof


async def rows(broker: Broker, sql: str) -> list[tuple[Any, ...]]:
    return await broker.bridge.messages.read(lambda db: db.execute(sql).fetchall())


@pytest.fixture
async def known(broker: Broker) -> Broker:
    await make(broker)
    return broker


async def test_no_byte_of_them_is_left(known: Broker, tmp_path: Path) -> None:
    assert {word for words in found(tmp_path / "data", ALL).values() for word in words} == set(ALL)
    proof = await erased(known)
    assert found(tmp_path / "data", ALL) == {}
    assert proof["left"] == {}
    assert proof["files_at_next_start"] == []
    assert proof["removed"]["entries"] == 2
    assert proof["removed"]["recipients"] == 3
    assert [word for word in ALL if word in json.dumps(proof)] == []
    (entry,) = await operate(known, "audit.list", operation="user.erased")
    assert entry["target"] == f"user/{proof['pseudonym']}"
    assert entry["detail"] == proof
    assert (await operate(known, "user.traces", brand="acme", name=NAME)) == {"devices": [], "counts": {}}
    assert known.core.counters.unexpected_errors == 0


async def test_figures_still_add_up_and_others_keep_what_is_theirs(known: Broker) -> None:
    sql = "SELECT id FROM message ORDER BY number"
    ids = [id for (id,) in await rows(known, sql)]
    before = [await operate(known, "message.show", id=id) for id in ids]
    await erased(known)
    after = [await operate(known, "message.show", id=id) for id in ids]
    assert [one["counts"]["accepted"] for one in after] == [one["counts"]["accepted"] for one in before] == [1, 1, 2]
    for one in after:
        counts = one["counts"]
        ends = ("delivered", "expired", "replaced", "dropped", "withdrawn")
        assert counts["accepted"] == counts["waiting"] + sum(counts[end] for end in ends)
    assert after[0]["counts"]["delivered"] == 1
    assert after[0]["events"] == before[0]["events"]
    assert after[1]["counts"]["dropped"] == 1
    assert after[1]["reasons"] == {"dropped": {"erased": 1}}
    assert after[1]["title"] == ""
    assert after[2]["title"] == before[2]["title"]
    names = await rows(known, "SELECT name FROM recipient")
    assert ("ada",) in names
    assert len(set(names)) == len(names) == 4
    users = [user.name for user in await known.directory.user_list("acme")]
    assert users == ["ada", "bob"]
    (segment,) = await operate(known, "segment.list", brand="acme")
    assert segment["condition"].endswith(" OR user:ada")
    assert await known.directory.device_list("acme", user="ada")


async def test_their_phone_is_locked_out_and_their_name_may_be_somebody_elses(known: Broker) -> None:
    client = await phone(known)
    await erased(known)
    while await client.receive():
        pass
    await operate(known, "user.add", brand="acme", name=NAME)
    assert (await operate(known, "user.traces", brand="acme", name=NAME))["counts"].keys() == {"user", "audit"}


async def test_a_device_that_others_use_stays_and_has_nothing_of_theirs(known: Broker) -> None:
    proof = await erased(known, devices="keep")
    assert proof["left"] == {}
    (device,) = [one for one in await known.directory.device_list("acme") if one.name == PHONE]
    assert device.user == ""
    client = await phone(known)
    assert not client.connack.session_present
    counts = (await operate(known, "user.traces", brand="acme", name=NAME))["counts"]
    assert counts == {}


async def test_who_was_only_removed_can_be_erased(known: Broker, tmp_path: Path) -> None:
    await operate(known, "user.remove", brand="acme", name=NAME)
    assert (await operate(known, "user.traces", brand="acme", name=NAME))["counts"]["entries"] == 2
    await erased(known)
    assert found(tmp_path / "data", (NAME, "fragewort", "nachricht-eins")) == {}
    with pytest.raises(NotFound, match="nothing is known"):
        await erased(known)


async def test_what_a_large_file_has_left_goes_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "REWRITTEN_BYTES_MAX", 0)
    async with running(tmp_path / "data") as broker:
        await populate(broker)
        await make(broker)
        proof = await erased(broker)
        assert proof["files_at_next_start"] == ["messages", "journal", "records"]
        assert await operate(broker, "audit.list", operation="user.erased") == []
    async with running(tmp_path / "data") as broker:
        assert found(tmp_path / "data", ALL) == {}
        (entry,) = await operate(broker, "audit.list", operation="user.erased")
        assert entry["detail"]["removed"] == proof["removed"]


async def test_many_rows_are_no_pause_for_others(known: Broker, tmp_path: Path) -> None:
    """Each step is short: what others want of the books comes between."""
    (number,) = (await rows(known, "SELECT number FROM conversation"))[0]
    insert = """WITH RECURSIVE n (i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 5100)
                INSERT INTO entry SELECT ?, i, 'x' || i, 0, 'customer', '', 'langes-gespraech' FROM n"""
    await known.bridge.messages.write(lambda db: db.execute(insert, (number,)))
    seen: list[int] = []

    async def look() -> None:
        while True:
            ((left,),) = await rows(known, "SELECT count(*) FROM entry")
            seen.append(left)
            if not left:
                return

    looking = asyncio.create_task(look())
    await erased(known)
    await looking
    assert len({count for count in seen if 0 < count < 5000}) >= 3
    assert found(tmp_path / "data", ("langes-gespraech",)) == {}


async def test_a_send_that_is_under_way_leaves_nothing(known: Broker, tmp_path: Path) -> None:
    crm = await server(known)
    request = {"to": {"users": [NAME]}, "notification": {"title": "x", "body": "zugleich-gesendet"}}
    proof = await known.erasures.erase("acme", NAME, devices="remove", actor="operator:test")
    await crm.send(Publish(b"acme/send", json.dumps(request).encode(), 1, packet_id=99))
    assert (await proof)["left"].keys() <= {"log"}


def test_what_is_known_is_known_everywhere() -> None:
    """The sections of an export, of a proof and of a check have the same names."""
    assert {table.kind for table in TABLES if table.personal} >= {"user", "entries", "recipients", "log", "audit"}
