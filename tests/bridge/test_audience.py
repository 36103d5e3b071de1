"""Whom a request is for: found once, for the first reason, in pages, and never in another brand."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.bridge import audience as module
from broker.bridge.audience import Address, Addressee, Audience, BadAddress
from broker.bridge.request import Code
from broker.store.entries import DeviceState, Overflow, Segment, Suppression, Who
from broker.store.profiles import Profiles
from broker.store.records import Records

NOW = datetime(2026, 11, 22, 8, 0, 0, tzinfo=UTC)
USERS = {"ada": ["milano"], "bob": ["roma"], "eve": [], "kay": ["milano"]}


@pytest.fixture
async def profiles(tmp_path: Path) -> AsyncIterator[Profiles]:
    """Users with a device each, which stands in a store; two tills that are nobody's; another brand with the same."""
    async with await Records.open(tmp_path / "records.db") as records:
        found = Profiles(records)
        async with records.transaction():
            for brand in ("acme", "bolt"):
                await records.add_brand(brand, "", Overflow.REJECT, NOW)
                for store in ("milano", "roma"):
                    await records.add_place("store", brand, store, "", NOW)
                for user, stores in USERS.items():
                    await records.add_place("user", brand, user, "", NOW)
                    await records.add_device(brand, f"phone-{user}", NOW)
                    await records.assign_device(brand, f"phone-{user}", user, "".join(stores))
                for till in ("till-1", "till-2"):
                    await records.add_device(brand, till, NOW)
                    await records.assign_device(brand, till, "", "milano")
            for user in ("ada", "bob", "kay"):
                await found.consent(Who("acme", "user", user), "news", "in", NOW, "brand", 10)
            await found.consent(Who("acme", "device", "till-1"), "news", "in", NOW, "brand", 10)
            await found.tag(Who("acme", "user", "kay"), ["staff"])
            await found.set_segment(Segment(brand="acme", name="milan", title="", condition="store:milano"))
            for who in (("user", "ada"), ("user", "bob"), ("device", "till-1"), ("device", "phone-eve")):
                await found.follows.begin(Who("acme", *who), "wipro", 60, 0, "operator")  # type: ignore[arg-type]
            await found.follows.begin(Who("acme", "user", "kay"), "cakes", 60, 0, "operator")
            for user in USERS:
                await found.follows.begin(Who("bolt", "user", user), "wipro", 60, 0, "operator")
                await found.consent(Who("bolt", "user", user), "only-bolt", "in", NOW, "brand", 10)
        yield found


async def found(profiles: Profiles, **to: Any) -> list[tuple[str, str]]:
    """Whom a request is for, as `user/ada`, and because of what."""
    audience = await Audience.of(profiles, "acme", Address(**to), NOW)
    return [(f"{one.kind}/{one.name}", one.because) async for page in audience.pages() for one in page]


async def test_each_is_found_once_for_the_first_reason(profiles: Profiles) -> None:
    assert await found(profiles, users=["bob", "eve", "bob"]) == [("user/bob", "user"), ("user/eve", "user")]
    assert await found(profiles, devices=["phone-eve", "till-1"]) == [
        ("device/phone-eve", "device"),
        ("device/till-1", "device"),
    ]
    assert await found(profiles, topics=["offers", "news"], users=["ada"]) == [
        ("user/ada", "user"),
        ("user/bob", "topic:news"),
        ("user/kay", "topic:news"),
        ("device/till-1", "topic:news"),
    ]
    assert await found(profiles, condition="topic:news AND store:milano AND NOT tag:staff") == [
        ("user/ada", "condition"),
        ("device/till-1", "condition"),
    ]
    assert await found(profiles, segment="milan", condition="tag:staff OR user:bob") == [
        ("user/ada", "segment:milan"),
        ("user/bob", "condition"),
        ("user/kay", "segment:milan"),
        ("device/till-1", "segment:milan"),
        ("device/till-2", "segment:milan"),
    ]


async def test_who_follows_an_item_is_found_for_that(profiles: Profiles) -> None:
    assert await found(profiles, following="wipro", users=["bob"]) == [
        ("user/ada", "follow:wipro"),
        ("user/bob", "user"),
        ("device/till-1", "follow:wipro"),  # and not eve's phone: what a device says that is hers is hers
    ]
    assert await found(profiles, following="nothing") == []


async def test_of_all_those_a_condition_leaves_some(profiles: Profiles) -> None:
    assert await found(profiles, following="wipro", users=["eve"], only="store:milano") == [
        ("user/ada", "follow:wipro"),
        ("device/till-1", "follow:wipro"),
    ]
    assert await found(profiles, topics=["news"], only="segment:milan AND NOT tag:staff AND user:ada") == [
        ("user/ada", "topic:news")
    ]
    assert await found(profiles, users=["ada"], devices=["phone-ada", "till-2"], only="device:till-2") == [
        ("device/till-2", "device")
    ]


async def test_a_store_is_the_devices_that_stand_there(profiles: Profiles) -> None:
    milano = ["phone-ada", "phone-kay", "till-1", "till-2"]
    assert await found(profiles, stores=["milano"]) == [(f"device/{name}", "store:milano") for name in milano]
    both = await found(profiles, stores=["roma", "milano"], devices=["till-2"])
    assert dict(both)["device/till-2"] == "device"
    assert dict(both)["device/phone-bob"] == "store:roma"


@pytest.mark.parametrize(
    "to", [{"users": ["ada", "kay"]}, {"topics": ["news"]}, {"condition": "NOT (user:eve OR user:bob)"}]
)
async def test_who_gets_it_as_a_user_does_not_get_it_on_their_device_again(
    profiles: Profiles, to: dict[str, Any]
) -> None:
    names = [name for name, _ in await found(profiles, stores=["milano"], **to)]
    assert {"user/ada", "user/kay", "device/till-1", "device/till-2"} <= set(names)
    assert not {"device/phone-ada", "device/phone-kay"} & set(names)


async def test_who_gets_nothing_is_said_with_the_reason(profiles: Profiles, tmp_path: Path) -> None:
    async with await Records.open(tmp_path / "records.db") as records, records.transaction():
        again = Profiles(records)
        for user, until in (("ada", None), ("bob", NOW + timedelta(seconds=1)), ("kay", NOW)):
            await again.suppress("acme", Suppression(user=user, reason="complaint", since=NOW, until=until))
        await records.set_device_state("acme", "till-2", DeviceState.REVOKED)
    audience = await Audience.of(profiles, "acme", Address(topics=("news",), stores=("milano",)), NOW)
    assert [one async for page in audience.pages() for one in page] == [
        Addressee("user", "ada", "topic:news", "suppressed"),
        Addressee("user", "bob", "topic:news", "suppressed"),
        Addressee("user", "kay", "topic:news", ""),
        Addressee("device", "till-1", "store:milano", ""),
        Addressee("device", "till-2", "store:milano", "revoked"),
    ]
    audience = await Audience.of(profiles, "acme", Address(devices=("phone-ada",)), NOW)
    assert [one async for page in audience.pages() for one in page] == [
        Addressee("device", "phone-ada", "device", "suppressed")
    ]


@pytest.mark.parametrize(
    ("to", "code", "field", "words"),
    [
        ({}, "missing_field", "", "nobody"),
        ({"users": ["ada", "bo", "be"]}, "unknown_user", "users[1]", "acme has no user 'bo'"),
        ({"users": ["ada", "a/b"]}, "bad_value", "users[1]", "cannot name"),
        ({"devices": ["kiosk-7"]}, "unknown_device", "devices[0]", "acme has no device 'kiosk-7'"),
        ({"stores": ["milano", "oslo"]}, "unknown_store", "stores[1]", "acme has no store 'oslo'"),
        ({"topics": ["news", "+"]}, "bad_value", "topics[1]", "cannot name a topic"),
        ({"topics": ["news"] * 1001}, "too_many", "topics", "more than 1000"),
        ({"segment": "none"}, "unknown_segment", "segment", "acme has no segment 'none'"),
        ({"condition": "topic:"}, "bad_condition", "condition", "at character 1"),
        ({"condition": "topic:news AND NOT store:oslo"}, "unknown_store", "condition", "at character 20: acme has no"),
    ],
)
async def test_what_the_brand_has_not_is_named(
    profiles: Profiles, to: dict[str, Any], code: str, field: str, words: str
) -> None:
    with pytest.raises(BadAddress) as refused:
        await Audience.of(profiles, "acme", Address(**to), NOW)
    assert (refused.value.code, refused.value.field) == (code, field)
    assert words in refused.value.message


async def test_a_segment_that_lost_what_it_refers_to_is_refused_as_a_condition(profiles: Profiles) -> None:
    await profiles.set_segment(Segment(brand="acme", name="lost", title="", condition="segment:gone"))
    with pytest.raises(BadAddress) as refused:
        await Audience.of(profiles, "acme", Address(segment="lost"), NOW)
    assert (refused.value.code, refused.value.field) == ("bad_condition", "segment")


async def test_the_codes_are_those_that_requests_are_refused_with(profiles: Profiles) -> None:
    source = Path(module.__file__).read_text()
    codes = re.findall(r'BadAddress\(\s*"(\w+)"', source) + [f"unknown_{kind}" for kind in (*module._TABLES, "segment")]
    assert len(codes) >= 7
    assert set(codes) <= set(Code)


async def test_names_are_looked_for_in_many_pieces(profiles: Profiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AUDIENCE_PAGE", 2)
    with pytest.raises(BadAddress) as refused:
        await Audience.of(profiles, "acme", Address(users=("ada", "bob", "eve", "kay", "zoe")), NOW)
    assert refused.value.field == "users[4]"


async def test_other_brands_never_match(profiles: Profiles) -> None:
    assert await found(profiles, topics=["only-bolt"]) == []
    assert await found(profiles, condition="topic:only-bolt OR tag:nobody") == []


EVERYBODY = [f"user/{name}" for name in USERS] + ["device/till-1", "device/till-2"]


@pytest.mark.parametrize("page", [1, 2, 3, 6, 7, 1000])
@pytest.mark.parametrize(
    "to",
    [
        {"condition": "NOT tag:nobody"},
        {"topics": ["news"], "users": ["eve"], "segment": "milan"},
        {"users": list(USERS), "devices": ["till-2", "till-1"]},
    ],
)
async def test_pages_leave_nobody_out_and_can_be_gone_on_with(
    profiles: Profiles, monkeypatch: pytest.MonkeyPatch, page: int, to: dict[str, Any]
) -> None:
    monkeypatch.setattr(module, "AUDIENCE_PAGE", page)
    audience = await Audience.of(profiles, "acme", Address(**to), NOW)
    pages = [some async for some in audience.pages()]
    everybody = [one for some in pages for one in some]
    assert max(map(len, pages)) <= page
    assert [f"{one.kind}/{one.name}" for one in everybody] == EVERYBODY
    for at, one in enumerate(everybody):
        rest = [more async for some in audience.pages(after=(one.kind, one.name)) for more in some]
        assert rest == everybody[at + 1 :]


async def test_more_stores_than_have_a_place_in_one_query(profiles: Profiles, tmp_path: Path) -> None:
    stores = [f"s{n}" for n in range(20)]
    async with await Records.open(tmp_path / "records.db") as records, records.transaction():
        for store in stores:
            await records.add_place("store", "acme", store, "", NOW)
        await records.assign_device("acme", "till-1", "", "s19")
    assert await found(profiles, stores=stores) == [("device/till-1", "store:s19")]
    assert await found(profiles, condition=" OR ".join(f"store:{store}" for store in stores)) == [
        ("device/till-1", "condition")
    ]


@pytest.mark.parametrize(
    "to",
    [
        {"topics": ["news"]},
        {"condition": "store:milano AND NOT tag:staff"},
        {"condition": "NOT tag:staff"},
        {"following": "wipro", "only": "language:it AND store:milano"},
        {"users": ["ada"], "stores": ["milano"], "segment": "milan"},
    ],
)
async def test_no_query_looks_through_a_whole_table(
    profiles: Profiles, monkeypatch: pytest.MonkeyPatch, to: dict[str, Any]
) -> None:
    """Each finds its candidates, and asks of them, by an index."""
    plans: list[str] = []
    select = profiles.select

    async def explained(sql: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        plans.extend(row[3] for row in await select(f"EXPLAIN QUERY PLAN {sql}", values))
        return await select(sql, values)

    monkeypatch.setattr(profiles, "select", explained)
    await found(profiles, **to)
    scans = [plan for plan in plans if plan.startswith("SCAN ")]
    assert plans
    assert [plan for plan in scans if not plan.startswith(("SCAN json_each", "SCAN c", "SCAN (subquery"))] == []
