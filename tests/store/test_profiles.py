"""Profiles: what is said of somebody comes back, is bounded, and goes with them."""

from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from sqlite3 import connect

import pytest

from broker.store.entries import (
    Cap,
    Overflow,
    Preferences,
    Profile,
    Quiet,
    Recipient,
    Restraint,
    Segment,
    Suppression,
    Who,
)
from broker.store.profiles import Profiles
from broker.store.records import Records

NOW = datetime(2026, 11, 22, 8, 0, 0, 125000, tzinfo=UTC)
ADA = Who("acme", "user", "ada")
KIOSK = Who("acme", "device", "kiosk-7")
TILL = Who("acme", "device", "till")
NIGHT = Quiet("22:00", "08:00")
MINE = Preferences(quiet_hours=NIGHT, time_zone="Europe/Rome", locale="it")


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    async with await Records.open(tmp_path / "records.db") as found:
        async with found.transaction():
            for brand in ("acme", "bolt"):
                await found.add_brand(brand, "", Overflow.REJECT, NOW)
                await found.add_place("user", brand, "ada", "", NOW)
                for device, user in (("kiosk-7", "ada"), ("till", "")):
                    await found.add_device(brand, device, NOW)
                    await found.assign_device(brand, device, user, "")
        yield found


async def filled(records: Records, brand: str = "acme") -> Profiles:
    """Something of everything, for ada and the till."""
    profiles = Profiles(records)
    async with records.transaction():
        for who in (Who(brand, "user", "ada"), Who(brand, "device", "till")):
            await profiles.tag(who, ["vip", "staff"])
            await profiles.set(who, {"city": "Milano"})
            await profiles.consent(who, "news", "in", NOW, "operator", 10)
            await profiles.prefer(who, MINE)
            await profiles.follows.begin(who, "wipro", 3600, 0, "operator")
            await profiles.follows.remember(who, "offers")
        await profiles.suppress(brand, Suppression(user="ada", reason="complaint", since=NOW, until=None))
        await profiles.set_segment(Segment(brand=brand, name="best", title="", condition="tag:vip"))
        await profiles.set_restraint(brand, Restraint(quiet_hours=NIGHT, caps=(Cap(max=3),)))
    return profiles


async def test_what_is_kept_comes_back_typed(records: Records) -> None:
    profiles = await filled(records)
    shown = await profiles.profile(ADA)
    assert (shown.tags, shown.attributes, shown.preferences) == (("staff", "vip"), {"city": "Milano"}, MINE)
    (news,) = shown.topics
    assert (news.topic, news.state, news.at, news.source) == ("news", "in", NOW, "operator")
    assert shown.suppressed == Suppression(user="ada", reason="complaint", since=NOW, until=None)
    assert await profiles.restraint("acme") == Restraint(quiet_hours=NIGHT, caps=(Cap(max=3),))
    assert await profiles.restraint("bolt") == Restraint()
    assert [segment.condition for segment in await profiles.segments("acme")] == ["tag:vip"]


async def test_what_is_taken_away_is_gone(records: Records) -> None:
    profiles = await filled(records)
    async with records.transaction():
        assert await profiles.tag(ADA, ["vip"]) == 2
        await profiles.untag(ADA, ["vip", "staff"])
        assert await profiles.set(ADA, {"city": "Roma", "zip": "00100"}) == 2
        await profiles.unset(ADA, ["city", "none"])
        await profiles.prefer(ADA, Preferences())
        assert await profiles.unsuppress("acme", "ada")
        assert not await profiles.unsuppress("acme", "ada")
        assert await profiles.remove_segment("acme", "best")
        assert not await profiles.remove_segment("acme", "best")
    shown = await profiles.profile(ADA)
    assert (shown.tags, shown.attributes, shown.suppressed) == ((), {"zip": "00100"}, None)
    assert shown.preferences == Preferences()


async def test_each_consent_is_written_down_once(records: Records) -> None:
    profiles = Profiles(records)
    later = [NOW + timedelta(milliseconds=n) for n in range(4)]
    said = [("in", later[0]), ("in", later[1]), ("out", later[2]), ("in", later[3])]
    for _ in range(2):  # after a crash they come again
        async with records.transaction():
            for state, at in said:
                await profiles.consent(ADA, "news", state, at, "device/kiosk-7", 10)  # type: ignore[arg-type]
    assert [(entry.state, entry.at) for entry in await profiles.consent_log(ADA)] == [
        ("in", later[0]),
        ("out", later[2]),
        ("in", later[3]),
    ]
    (now,) = (await profiles.profile(ADA)).topics
    assert (now.state, now.at) == ("in", later[3])


async def test_of_the_log_the_oldest_go(records: Records) -> None:
    profiles = Profiles(records)
    async with records.transaction():
        await profiles.consent(TILL, "news", "in", NOW, "brand", 3)
        for n in range(10):
            at = NOW + timedelta(seconds=n)
            assert await profiles.consent(ADA, "news", "out" if n % 2 else "in", at, "brand", 3) == 1
        assert await profiles.consent(ADA, "offers", "out", NOW, "brand", 3) == 2
    assert [entry.state for entry in await profiles.consent_log(ADA, "news")] == ["in", "out"]
    assert [entry.topic for entry in await profiles.consent_log(ADA)] == ["news", "news", "offers"]
    assert len(await profiles.consent_log(TILL)) == 1


async def test_what_decides_is_read_for_many_at_once(records: Records) -> None:
    profiles = await filled(records)
    suppressed = Suppression(user="ada", reason="complaint", since=NOW, until=None)
    of_ada = Recipient(
        time_zone="Europe/Rome", quiet_hours=NIGHT, locale="it", topics=frozenset({"news"}), suppressed=suppressed
    )
    nothing = Recipient(time_zone="", quiet_hours=None, locale="", topics=frozenset(), suppressed=None)
    asked = [("user", "ada"), ("device", "kiosk-7"), ("device", "till"), ("user", "gone"), ("device", "gone")]
    assert await profiles.recipients("acme", asked) == {  # type: ignore[arg-type]
        ("user", "ada"): of_ada,
        ("device", "kiosk-7"): of_ada,  # hers
        ("device", "till"): Recipient(
            time_zone="Europe/Rome", quiet_hours=NIGHT, locale="it", topics=frozenset({"news"}), suppressed=None
        ),
    }
    assert await profiles.recipients("bolt", [("user", "ada")]) == {("user", "ada"): nothing}


async def test_who_is_to_be_told_is_written_down_until_they_were(records: Records) -> None:
    profiles = Profiles(records)
    async with records.transaction():
        await profiles.told(await profiles.untold(10))  # that kiosk-7 is ada's: the fixture has said so
        await profiles.owe(ADA)
        await profiles.owe(TILL)
    first = await profiles.untold(10)
    assert [who for who, _ in first] == [ADA, TILL]
    assert [who for who, _ in await profiles.untold(1)] == [ADA]
    async with records.transaction():
        await profiles.owe(ADA)  # while the others are told
        await profiles.told(first)
    assert [who for who, _ in await profiles.untold(10)] == [ADA]


async def test_a_device_with_another_user_is_to_be_told(records: Records) -> None:
    profiles = Profiles(records)
    async with records.transaction():
        await profiles.told(await profiles.untold(10))
        await records.assign_device("acme", "kiosk-7", "ada", "")
    assert await profiles.untold(10) == []
    async with records.transaction():
        await records.remove_place("user", "acme", "ada")
    assert [who for who, _ in await profiles.untold(10)] == [KIOSK]
    async with records.transaction():
        await records.remove_device("acme", "kiosk-7")
    assert await profiles.untold(10) == []


@pytest.mark.parametrize("removed", ["ada", "till", "brand"])
async def test_it_goes_with_whom_it_is_of(records: Records, removed: str) -> None:
    await filled(records)
    await filled(records, "bolt")
    async with records.transaction():
        match removed:
            case "ada":
                await records.remove_place("user", "acme", "ada")
            case "till":
                await records.remove_device("acme", "till")
            case _:
                await records.remove_brand("acme")
    of_somebody = ("tags", "attributes", "consents", "consent_log", "preferences", "follows", "stopped")
    tables = (*of_somebody, "suppressions", "segments", "restraints")
    with closing(connect(records.path)) as db:
        left = {
            (table, *row)
            for table in of_somebody
            for row in db.execute(f"SELECT DISTINCT kind, name FROM {table} WHERE brand = 'acme'")
        }
        others = {
            table: db.execute(f"SELECT count(*) FROM {table} WHERE brand = 'bolt'").fetchone() for table in tables
        }
        suppressed = db.execute("SELECT user FROM suppressions WHERE brand = 'acme'").fetchall()
        of_brand = db.execute("SELECT brand FROM segments UNION ALL SELECT brand FROM restraints").fetchall()
    assert {row[2] for row in left} == {"ada": {"till"}, "till": {"ada"}, "brand": set()}[removed]
    assert suppressed == ([("ada",)] if removed == "till" else [])
    assert (("acme",) in of_brand) is (removed != "brand")
    assert all(count != (0,) for count in others.values())


async def test_nobody_is_a_profile_without_anything(records: Records) -> None:
    assert await Profiles(records).profile(KIOSK) == Profile(
        tags=(), attributes={}, topics=(), follows=(), preferences=Preferences(), suppressed=None
    )
