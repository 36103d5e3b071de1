"""Records: transactions that hold, whatever interrupts them, and lookups that use an index."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.errors import Failed
from broker.identity import Identity, Role
from broker.store import database
from broker.store import records as module
from broker.store.entries import Certificate, DeviceState, Overflow, Token
from broker.store.records import Records

NOW = datetime(2026, 11, 22, 8, 0, 0, tzinfo=UTC)
DEVICE = Identity(Role.DEVICE, "acme", "kiosk-7")


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    async with await Records.open(tmp_path / "records.db") as found:
        async with found.transaction():
            for brand in ("acme", "bolt"):
                await found.add_brand(brand, brand.title(), Overflow.REJECT, NOW)
                await found.add_place("user", brand, "ada", "Ada", NOW)
                await found.add_place("store", brand, "milano", "", NOW)
                await found.add_device(brand, "kiosk-7", NOW)
                await found.assign_device(brand, "kiosk-7", "ada", "milano")
        yield found


def certificate(serial: str, *, issued_at: datetime = NOW, days: int = 365) -> Certificate:
    return Certificate(
        serial=serial,
        identity=DEVICE.path,
        role=DEVICE.role,
        brand=DEVICE.brand,
        name=DEVICE.name,
        issued_at=issued_at,
        not_before=issued_at,
        not_after=issued_at + timedelta(days=days),
        revoked_at=None,
    )


async def test_what_is_kept_comes_back_typed(records: Records) -> None:
    (device,) = await records.devices("acme", "kiosk-7")
    assert (device.user, device.store, device.state, device.created_at) == ("ada", "milano", DeviceState.PENDING, NOW)
    assert device.password is False
    (brand,) = await records.brands(NOW, "acme")
    assert (brand.title, brand.users, brand.stores, brand.devices, brand.tokens) == ("Acme", 1, 1, 1, 0)
    assert [user.brand for user in await records.users()] == ["acme", "bolt"]
    assert [store.devices for store in await records.stores("acme")] == [1]


async def test_records_of_version_1_are_brought_to_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was there stays, and its brands overflow as they did: by refusing."""
    path = tmp_path / "records.db"
    migrations = database._migrations("records")
    monkeypatch.setattr(database, "_migrations", lambda schema: migrations[:1])
    old = await database.open_database(path, "records")
    try:
        await old.execute_fetchall("INSERT INTO brands VALUES ('acme', 'Acme', 1700000000)")
        await old.execute_fetchall("INSERT INTO users VALUES ('acme', 'ada', '', 1700000001)")
    finally:
        await old.close()
    monkeypatch.undo()
    async with await Records.open(path) as found:
        assert [tuple(row) for row in await found._run("PRAGMA user_version")] == [(len(migrations),)]
        (brand,) = await found.brands(NOW)
        assert (brand.name, brand.title, brand.created_at.timestamp(), brand.users) == ("acme", "Acme", 1700000000, 1)
        assert brand.overflow is Overflow.REJECT
        async with found.transaction():
            await found.set_brand("acme", None, Overflow.DROP_OLDEST)
            await found.remove_place("user", "acme", "ada")  # foreign keys still hold
    async with await Records.open(path) as found:
        assert await found.drop_oldest() == {"acme"}


async def test_how_brands_overflow(records: Records) -> None:
    async with records.transaction():
        await records.add_brand("corp", "Corp", Overflow.DROP_OLDEST, NOW)
        await records.set_brand("bolt", None, Overflow.DROP_OLDEST)
        await records.set_brand("acme", "Acme S.p.A.", None)
    assert await records.drop_oldest() == {"bolt", "corp"}
    assert [(brand.title, brand.overflow) for brand in await records.brands(NOW)] == [
        ("Acme S.p.A.", Overflow.REJECT),
        ("Bolt", Overflow.DROP_OLDEST),
        ("Corp", Overflow.DROP_OLDEST),
    ]
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        await records._run("UPDATE brands SET overflow = 'perhaps'")


async def test_a_transaction_that_fails_leaves_nothing_and_calls_nobody(records: Records) -> None:
    called: list[int] = []

    async def fail() -> None:
        async with records.transaction() as after:
            after.append(lambda: called.append(1))
            await records.add_brand("corp", "", Overflow.REJECT, NOW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not await records.has_brand("corp")
    assert called == []
    async with records.transaction():  # and the next one works
        await records.add_brand("corp", "", Overflow.REJECT, NOW)


async def test_transactions_do_not_mix(records: Records) -> None:
    """While one waits in its block, the rollback of another must not take its rows."""
    inside = asyncio.Event()
    go_on = asyncio.Event()

    async def slow() -> None:
        async with records.transaction():
            await records.add_brand("slow", "", Overflow.REJECT, NOW)
            inside.set()
            await go_on.wait()

    async def failing() -> None:
        async with records.transaction():
            raise ZeroDivisionError

    first = asyncio.create_task(slow())
    await inside.wait()
    second = asyncio.create_task(failing())
    go_on.set()
    await first
    with pytest.raises(ZeroDivisionError):
        await second
    assert await records.has_brand("slow")


@pytest.mark.parametrize("steps", range(12))
async def test_cancelled_anywhere_it_is_all_or_nothing(records: Records, steps: int) -> None:
    """Committed if and only if the callbacks were called; and the next transaction finds a clean connection."""
    called: list[str] = []

    async def change() -> None:
        async with records.transaction() as after:
            after.append(lambda: called.append("corp"))
            await records.add_brand("corp", "", Overflow.REJECT, NOW)

    task = asyncio.create_task(change())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await records.has_brand("corp") == bool(called)
    async with records.transaction():
        await records.add_brand("next", "", Overflow.REJECT, NOW)
    assert await records.has_brand("next")


async def test_cancelled_during_the_commit_the_callbacks_are_called(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    committing = asyncio.Event()
    run = records._run

    async def slow(sql: str, **values: object) -> object:
        if sql == "COMMIT":
            committing.set()
            await asyncio.sleep(0.01)
        return await run(sql, **values)

    monkeypatch.setattr(records, "_run", slow)

    async def change() -> None:
        async with records.transaction() as after:
            after.append(lambda: called.append("corp"))
            await records.add_brand("corp", "", Overflow.REJECT, NOW)

    task = asyncio.create_task(change())
    await committing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert called == ["corp"]
    assert await records.has_brand("corp")


async def test_a_full_disk_is_failed_and_the_records_go_on(records: Records) -> None:
    ((pages,),) = await records._run("PRAGMA page_count")
    await records._run(f"PRAGMA max_page_count = {pages}")

    async def change() -> None:
        async with records.transaction():
            await records.add_brand("corp", "x" * 99999, Overflow.REJECT, NOW)

    with pytest.raises(Failed, match="no room left"):
        await change()
    assert not await records.has_brand("corp")
    await records._run("PRAGMA max_page_count = 10000")
    await change()
    assert await records.has_brand("corp")


async def test_removing_a_brand_takes_everything_of_it_and_nothing_else(records: Records) -> None:
    async with records.transaction():
        await records.add_certificate(certificate("a1"), DEVICE)
        await records.set_password("acme", Role.SERVER, "crm", "hash", NOW)
        await records.set_code("acme", "kiosk-7", b"1" * 32, NOW, NOW + timedelta(days=1))
        token = Token(id="t1", brand="acme", name="crm", created_at=NOW, expires_at=None, revoked_at=None, used_at=None)
        await records.add_token(token, b"2" * 32)
        counts = await records.remove_brand("acme")
    assert counts == {"users": 1, "stores": 1, "devices": 1, "tokens": 1, "passwords": 1, "certificates": 1}
    assert await records.holder("a1") is None
    assert await records.code(b"1" * 32) is None
    assert await records.token("acme", b"2" * 32) is None
    assert [(device.brand, device.user) for device in await records.devices()] == [("bolt", "ada")]


async def test_certificates_that_have_ended_go_when_another_comes(records: Records) -> None:
    async with records.transaction():
        await records.add_certificate(certificate("a1", days=1), DEVICE)
        await records.add_certificate(certificate("a2", days=30), DEVICE)
        await records.add_certificate(certificate("a3", issued_at=NOW + timedelta(days=2)), DEVICE)
    assert {found.serial for found in await records.certificates()} == {"a2", "a3"}


async def test_codes_that_have_expired_go_when_another_comes(records: Records) -> None:
    async with records.transaction():
        await records.set_code("acme", "kiosk-7", b"1" * 32, NOW, NOW + timedelta(seconds=1))
        await records.set_code("bolt", "kiosk-7", b"2" * 32, NOW + timedelta(seconds=1), NOW + timedelta(days=1))
    assert await records.code(b"1" * 32) is None
    assert await records.code(b"2" * 32) is not None


async def test_a_token_is_found_under_its_own_brand_only(records: Records) -> None:
    token = Token(id="t1", brand="acme", name="crm", created_at=NOW, expires_at=None, revoked_at=None, used_at=None)
    async with records.transaction():
        await records.add_token(token, b"2" * 32)
    assert await records.token("acme", b"2" * 32) == token
    assert await records.token("bolt", b"2" * 32) is None
    assert await records.tokens("bolt", "t1") == []


@pytest.mark.parametrize(
    ("query", "values"),
    [
        (module._HOLDER, {"serial": "a1"}),
        (module._CREDENTIAL, {"brand": "acme", "role": "device", "name": "kiosk-7"}),
        (module._CODE, {"digest": b"1"}),
        (f"{module._TOKEN} WHERE hash = :digest AND brand = :brand", {"digest": b"1", "brand": "acme"}),
        (f"{module._DEVICE} WHERE brand = :brand AND name = :name", {"brand": "acme", "name": "kiosk-7"}),
        (f"{module._CERTIFICATE} WHERE {module._IS_IDENTITY}", {"brand": "acme", "role": "device", "name": "kiosk-7"}),
    ],
)
async def test_what_a_client_causes_is_found_by_index(records: Records, query: str, values: dict[str, object]) -> None:
    plan = [row["detail"] for row in await records._run(f"EXPLAIN QUERY PLAN {query}", **values)]
    assert [step for step in plan if step.startswith("SCAN") and "CONSTANT ROW" not in step] == []


def test_a_holder_does_not_show_its_hash() -> None:
    holder = module.Holder(
        role=Role.SERVER, brand="acme", name="crm", user="", store="", state=None, hash="$argon2id$secret"
    )
    assert "secret" not in repr(holder)
