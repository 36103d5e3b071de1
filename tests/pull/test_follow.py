"""Follows: they begin and end as somebody says, with consent, and come back after stop and start."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.bridge.people import People, Wanted
from broker.errors import Refused
from broker.limits import FOLLOWS_MAX
from broker.pull.follow import Follows
from broker.pull.question import Asker
from broker.store.entries import Who
from broker.trust.directory import Directory, open_directory

THEN = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
ADA = Who("acme", "user", "ada")
ASKER = Asker(brand="acme", device="kiosk-7", user="ada")
LOBBY = Asker(brand="acme", device="lobby")


class Clock:
    """Goes on by a second each time that it is looked at."""

    at = THEN

    def __call__(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Directory]:
    async with open_directory(tmp_path, trust_domain="pushbroker.local", names=()) as directory:
        await directory.brand_add("acme")
        await directory.user_add("acme", "ada")
        await directory.device_code("acme", "kiosk-7", user="ada")
        await directory.device_code("acme", "lobby")
        yield directory


@pytest.fixture
def people(directory: Directory) -> People:
    people = People(directory)
    people.clock = Clock()
    return people


async def followed(people: People, who: Who = ADA) -> dict[str, int]:
    return {one.item: one.every_s for one in (await people.profiles.profile(who)).follows}


async def topics(people: People) -> set[str]:
    return {one.topic for one in (await people.profiles.profile(ADA)).topics if one.state == "in"}


async def log(people: People) -> list[tuple[str, str]]:
    return [(one.topic, one.state) for one in await people.profiles.consent_log(ADA)]


async def test_a_follow_begins_once_and_ends_once(people: People) -> None:
    follows = Follows(people)
    for every_s in (3600, 60):
        await follows.follow(ASKER, "wipro", every_s, "device/kiosk-7")
    assert await followed(people) == {"wipro": 60}
    for _ in range(2):
        await follows.unfollow(ASKER, "wipro")
    assert await followed(people) == {}
    assert await log(people) == [("item/wipro", "in"), ("item/wipro", "out")]


async def test_a_device_that_is_nobodys_follows_itself(people: People) -> None:
    await Follows(people).follow(LOBBY, "wipro", 0, "device/lobby")
    assert await followed(people, Who("acme", "device", "lobby")) == {"wipro": 0}
    assert await followed(people) == {}


async def test_stop_ends_all_and_start_brings_back_exactly_that(people: People) -> None:
    follows = Follows(people)
    await people.hear(ADA, Wanted(topics={"news": True, "offers": False}, follows={"wipro": 60}), "operator", THEN)
    for _ in range(2):
        await follows.opt_out(ASKER)
    assert (await topics(people), await followed(people)) == (set(), {})
    for _ in range(2):
        await follows.opt_in(ASKER)
    assert (await topics(people), await followed(people)) == ({"news"}, {"wipro": 60})
    assert (await log(people))[3:] == [("news", "out"), ("item/wipro", "out"), ("item/wipro", "in"), ("news", "in")]


async def test_what_is_said_after_stop_counts_after_start(people: People) -> None:
    follows = Follows(people)
    await people.hear(ADA, Wanted(topics={"news": True}, follows={"wipro": 60, "old": 60}), "operator", THEN)
    await follows.opt_out(ASKER)
    await follows.unfollow(ASKER, "old")
    await follows.follow(ASKER, "wipro", 5, "device/kiosk-7")
    await people.hear(ADA, Wanted(topics={"news": False}), "operator", people.clock())
    await follows.opt_in(ASKER)
    assert (await topics(people), await followed(people)) == (set(), {"wipro": 5})


async def test_what_is_heard_again_after_a_crash_changes_nothing(people: People) -> None:
    said = [(Wanted(follows={"wipro": 60}), THEN), (Wanted(follows={"wipro": None}), THEN + timedelta(seconds=1))]
    for _ in range(2):
        for wanted, at in said:
            await people.hear(ADA, wanted, "device/kiosk-7", at)
    assert await followed(people) == {}
    assert await log(people) == [("item/wipro", "in"), ("item/wipro", "out")]


async def test_nobody_follows_more_than_may_be(people: People) -> None:
    await people.hear(ADA, Wanted(follows={f"i{n}": 60 for n in range(FOLLOWS_MAX)}), "operator", THEN)
    with pytest.raises(Refused, match="more than 100 follows"):
        await Follows(people).follow(ASKER, "one-more", 60, "device/kiosk-7")
    await Follows(people).follow(ASKER, "i7", 5, "device/kiosk-7")
    assert len(await followed(people)) == FOLLOWS_MAX
