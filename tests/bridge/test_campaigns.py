"""Campaigns from their definition to what came of them: real records, books and sends; only nobody dispatches."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.bridge import request as requests
from broker.bridge.address import Addresses
from broker.bridge.campaigns import Campaigner, Definition, Variant
from broker.bridge.engaged import Engaged
from broker.bridge.message_id import MessageIds
from broker.bridge.request import RequestRefused
from broker.bridge.schedule import Schedule
from broker.bridge.sends import Sends
from broker.errors import Failed, NotFound, Refused
from broker.store.campaigns import Campaigns
from broker.store.entries import Overflow, Preferences, Who
from broker.store.messages import MessageRow, Messages
from broker.store.profiles import Profiles
from broker.store.records import Records

USERS = [f"user-{number:02}" for number in range(40)]
HOUR = 3600
CIAO = {"notification": {"title": "Spring"}}
TO = {"to": {"condition": "tag:vip"}}


class Shop:
    """All that a campaign needs, with a clock that is set by hand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.seconds = datetime(2026, 11, 22, 8, tzinfo=UTC).timestamp()
        self.tasks: set[asyncio.Task[None]] = set()
        self.unexpected: list[Exception] = []
        self.withdrawn: list[str] = []
        self.held: set[tuple[str, str | None]] = set()
        self.looked = 0
        self.records: Records
        self.messages: Messages
        self.store: Campaigns
        self.campaigns: Campaigner

    def now(self) -> int:
        return int(self.seconds * 1000)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def open(self) -> None:
        self.records = await Records.open(self.directory / "records.db")
        self.messages = await Messages.open(self.directory / "messages.db")
        self.store = await Campaigns.open(self.messages, self.directory / "records.db")
        self.profiles = Profiles(self.records)
        sends = Sends(
            messages=self.messages,
            ids=MessageIds(),
            audience=Engaged(Addresses(self.profiles, self.messages).audience, self.store),
            run=self.run,
            reply=lambda *_: None,
            schedule=lambda *_: None,
            withdraw=self.begun,
            log=lambda *_, **__: None,
            unexpected=self.unexpected.append,
        )
        self.campaigns = Campaigner(
            store=self.store,
            messages=self.messages,
            sends=sends,
            dispatcher=self,
            withdraw=self.withdraw,
            log=lambda *_, **__: None,
            unexpected=self.unexpected.append,
            now=self.now,
        )

    async def close(self) -> None:
        await asyncio.gather(*self.tasks)
        await self.store.close()
        await self.messages.close()
        await self.records.close()

    async def look(self) -> None:
        self.looked += 1

    async def withdraw(self, row: MessageRow, by: str) -> int:
        assert by == ""
        self.withdrawn.append(row.id)
        return 1

    async def begun(self, row: MessageRow, by: str) -> Awaitable[int]:
        return self.withdraw(row, by)

    async def until(self, met: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """Let campaigns run, as the broker does, until something is so."""
        running = asyncio.create_task(self.campaigns.run())
        try:
            async with asyncio.timeout(20):
                while not await met():  # noqa: ASYNC110 - a run tells nobody that it is over
                    await asyncio.sleep(0)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        assert not self.unexpected

    async def ran(self, name: str, times: int = 1) -> dict[str, Any]:
        """Let it run so many times in all."""

        async def met() -> bool:
            return len((await self.campaigns.show("acme", name))["runs"]) >= times

        await self.until(met)
        return await self.campaigns.show("acme", name)

    async def all(self, sql: str, *values: object) -> list[Any]:
        return await self.messages.read(lambda db: db.execute(sql, values).fetchall())

    async def happened(self, sql: str, *values: object) -> None:
        await self.messages.write(lambda db: db.execute(sql, values))


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    """Forty users with a tag, each with a device in one of two stores; one more without the tag."""
    found = Shop(tmp_path)
    monkeypatch.setattr("broker.bridge.sends.now_ms", found.now)
    await found.open()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    async with found.records.transaction():
        await found.records.add_brand("acme", "", Overflow.REJECT, at)
        for store in ("milano", "roma"):
            await found.records.add_place("store", "acme", store, "", at)
        for number, user in enumerate([*USERS, "staff"]):
            await found.records.add_place("user", "acme", user, "", at)
            await found.records.add_device("acme", f"phone-{user}", at)
            await found.records.assign_device("acme", f"phone-{user}", user, ("milano", "roma")[number % 2])
            if user != "staff":
                await found.profiles.tag(Who("acme", "user", user), ["vip"])
    yield found
    await found.close()


def defined(**more: Any) -> Definition:
    return Definition(**{"request": TO, "variants": (Variant("", 100, CIAO),), **more})


SPLIT = (
    Variant("a", 50, {"notification": {"title": "A"}}),
    Variant("b", 50, {"notification": {"title": "B"}}),
)


async def test_a_campaign_that_is_started_is_sent_once_to_all_whom_it_addresses(shop: Shop) -> None:
    added = await shop.campaigns.add("acme", "spring", defined())
    assert (added["state"], added["next_run"]) == ("draft", None)
    await shop.campaigns.start("acme", "spring")
    shown = await shop.ran("spring")
    assert (shown["state"], shown["next_run"]) == ("done", None)
    assert await shop.all("SELECT campaign, variant, state, recipients FROM message") == [("spring", "", "open", 40)]
    assert [name for (name,) in await shop.all("SELECT name FROM recipient ORDER BY name")] == USERS


async def test_a_run_that_is_interrupted_before_it_is_written_down_is_not_sent_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.campaigns.add("acme", "spring", defined(variants=SPLIT))
    await shop.campaigns.start("acme", "spring")

    async def crash(*_: object) -> None:
        raise Failed("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(shop.store, "ran", crash)

        async def accepted() -> bool:
            return len(await shop.all("SELECT 1 FROM message WHERE state = 'open'")) == 2

        await shop.until(accepted)
    assert (await shop.campaigns.show("acme", "spring"))["runs"] == []
    await shop.close()
    await shop.open()
    shop.seconds += HOUR
    shown = await shop.ran("spring")
    assert shown["state"] == "done"
    assert len(await shop.all("SELECT 1 FROM message")) == 2
    assert len(await shop.all("SELECT DISTINCT name FROM recipient")) == 40
    assert len(await shop.all("SELECT 1 FROM campaign_message")) == 2


async def test_a_recurring_campaign_makes_up_once_for_what_it_missed(shop: Shop) -> None:
    daily = Schedule(cron="0 9 * * *", zone="Europe/Rome")
    await shop.campaigns.add("acme", "news", defined(schedule=daily))
    started = await shop.campaigns.start("acme", "news")
    assert started["next_run"] == "2026-11-23T08:00:00Z"
    shop.seconds += timedelta(days=3, hours=2).total_seconds()  # the 25th, 10:00
    shown = await shop.ran("news")
    assert [run["at"] for run in shown["runs"]] == ["2026-11-23T08:00:00.000Z"]
    assert (shown["state"], shown["next_run"]) == ("running", "2026-11-26T08:00:00Z")


async def test_what_was_due_while_a_campaign_was_paused_is_left_out(shop: Shop) -> None:
    await shop.campaigns.add("acme", "news", defined(schedule=Schedule(cron="0 9 * * *")))
    await shop.campaigns.start("acme", "news")
    await shop.campaigns.pause("acme", "news")
    shop.seconds += timedelta(days=2).total_seconds()
    assert await shop.store.due(shop.now()) == []
    assert shop.held == {("acme", "news")}
    shop.held = set()
    await shop.campaigns.begin()  # as after a restart
    assert shop.held == {("acme", "news")}
    assert (await shop.campaigns.resume("acme", "news"))["next_run"] == "2026-11-24T09:00:00Z"
    assert (shop.held, shop.looked) == (set(), 1)
    assert await shop.store.due(shop.now()) == []


async def test_a_run_a_week_late_is_not_made_and_says_so(shop: Shop) -> None:
    at = datetime(2026, 11, 23, 9)
    await shop.campaigns.add("acme", "spring", defined(schedule=Schedule(at=at)))
    await shop.campaigns.start("acme", "spring")
    shop.seconds += timedelta(days=9).total_seconds()
    shown = await shop.ran("spring")
    assert "no broker was there for 7 days" in shown["runs"][0]["problem"]
    assert await shop.all("SELECT 1 FROM message") == []


async def test_where_each_of_them_is_their_own_clock_counts(shop: Shop) -> None:
    zones = {"user-00": "Pacific/Kiritimati", "user-01": "Pacific/Pago_Pago", "user-02": "Asia/Kolkata"}
    async with shop.records.transaction():
        for user, zone in zones.items():
            await shop.profiles.prefer(Who("acme", "user", user), Preferences(time_zone=zone))
    nine = Schedule(at=datetime(2026, 11, 24, 9), local=True)
    await shop.campaigns.add("acme", "nine", defined(schedule=nine))
    started = await shop.campaigns.start("acme", "nine")
    assert started["next_run"] == "2026-11-24T09:00 where each of them is"
    shop.seconds = datetime(2026, 11, 23, 18, 59, 59, tzinfo=UTC).timestamp()
    assert await shop.store.due(shop.now()) == []
    shop.seconds += 1
    await shop.ran("nine")
    due = {
        name: datetime.fromtimestamp(at / 1000, UTC)
        for name, at in await shop.all("SELECT name, due_at FROM recipient WHERE name < 'user-04' ORDER BY name")
    }
    assert due["user-00"] == datetime(2026, 11, 23, 19, tzinfo=UTC)
    assert due["user-01"] == datetime(2026, 11, 24, 20, tzinfo=UTC)
    assert due["user-02"] == datetime(2026, 11, 24, 3, 30, tzinfo=UTC)
    assert due["user-03"] == datetime(2026, 11, 24, 9, tzinfo=UTC)


async def test_everybody_is_in_one_part_and_stays_there(shop: Shop) -> None:
    await shop.campaigns.add("acme", "ab", defined(variants=SPLIT, holdout=20, schedule=Schedule(cron="0 9 * * *")))
    tried = await shop.campaigns.test("acme", "ab")
    await shop.campaigns.start("acme", "ab")
    runs = []
    for number in (1, 2):
        shop.seconds += timedelta(days=1).total_seconds()
        shown = await shop.ran("ab", number)
        sql = """SELECT m.variant, r.name FROM message m JOIN recipient r ON r.message = m.number
                 WHERE m.number > ? ORDER BY 2"""
        runs.append({name: variant for variant, name in await shop.all(sql, 2 * number - 2)})
    assert runs[0] == runs[1]
    assert set(runs[0].values()) == {"a", "b"}
    held_out = shown["runs"][0]["held_out"]
    assert held_out == 40 - len(runs[0]) > 0
    assert {name: answer.recipients for name, answer in tried["variants"].items()} == {
        "a": sum(variant == "a" for variant in runs[0].values()),
        "b": sum(variant == "b" for variant in runs[0].values()),
        "holdout": held_out,
    }


async def test_nobody_has_more_of_a_campaign_than_its_cap(shop: Shop) -> None:
    capped = {"to": {**TO["to"], "cap": {"campaign": "news", "most": 1, "within_s": 7 * 86400}}}
    await shop.campaigns.add("acme", "news", defined(request=capped, schedule=Schedule(cron="0 9 * * *")))
    await shop.campaigns.start("acme", "news")
    shop.seconds += 86400
    await shop.ran("news")
    await shop.happened("UPDATE recipient SET state = 'expired' WHERE name = 'user-07'")
    shop.seconds += 86400
    await shop.ran("news", 2)
    sql = "SELECT state, reason, count(*) FROM recipient WHERE message = 2 GROUP BY 1, 2 ORDER BY 1"
    assert await shop.all(sql) == [("accepted", "", 1), ("dropped", "campaign_cap", 39)]


# -- again -------------------------------------------------------------------------------------------------------------


async def sent_and_opened(shop: Shop) -> None:
    """Spring went out in two variants a day ago; ten have it for less, ten have opened it, five lack it."""
    await shop.campaigns.add("acme", "spring", defined(variants=SPLIT))
    await shop.campaigns.start("acme", "spring")
    await shop.ran("spring")
    ago = shop.now() - 2 * HOUR * 1000
    await shop.happened("UPDATE recipient SET state = 'delivered', delivered_at = ? WHERE name < 'user-35'", ago)
    await shop.happened("UPDATE recipient SET delivered_at = ? WHERE name < 'user-10'", ago + 2 * 24 * HOUR * 1000)
    await shop.happened("UPDATE recipient SET opened_at = ? WHERE name BETWEEN 'user-10' AND 'user-19'", ago + 1000)
    shop.seconds += 24 * HOUR


async def names_after(shop: Shop, message: int) -> list[str]:
    return [name for (name,) in await shop.all("SELECT name FROM recipient WHERE message > ? ORDER BY name", message)]


async def test_who_has_not_opened_it_gets_it_again_and_only_once(shop: Shop) -> None:
    await sent_and_opened(shop)
    tried = await shop.campaigns.retarget("acme", "spring", 24 * HOUR, dry_run=True)
    answers = await shop.campaigns.retarget("acme", "spring", 24 * HOUR)
    assert sum(answer.recipients or 0 for answer in answers) == sum(answer.recipients or 0 for answer in tried) == 15
    assert await names_after(shop, 2) == USERS[20:35]
    assert await shop.all("SELECT m.variant, m.payload FROM message m WHERE number > 2 ORDER BY 1") == [
        ("a", b'{"title":"A"}'),
        ("b", b'{"title":"B"}'),
    ]
    assert [
        name for (name,) in await shop.all("SELECT DISTINCT substr(because, 1, 10) FROM recipient WHERE message > 2")
    ] == ["unopened:m"]

    again = await shop.campaigns.retarget("acme", "spring", 24 * HOUR)
    assert [answer.recipients for answer in again] == [0, 0]
    shop.seconds += 2 * 24 * HOUR  # now the others have it for long enough
    last = {"notification": {"title": "Last chance"}}
    late = await shop.campaigns.retarget("acme", "spring", 24 * HOUR, content=last)
    assert sum(answer.recipients or 0 for answer in late) == 10
    assert await names_after(shop, 6) == USERS[:10]
    assert set(await shop.all("SELECT payload FROM message WHERE number > 6")) == {(b'{"title":"Last chance"}',)}


async def test_two_at_once_do_not_find_the_same_people(shop: Shop) -> None:
    await sent_and_opened(shop)
    both = await asyncio.gather(*(shop.campaigns.retarget("acme", "spring", 24 * HOUR) for _ in range(2)))
    assert sum(answer.recipients or 0 for answers in both for answer in answers) == 15
    assert await names_after(shop, 2) == USERS[20:35]


async def test_one_message_can_be_sent_again_by_its_id(shop: Shop) -> None:
    await sent_and_opened(shop)
    ((id,),) = await shop.all("SELECT id FROM message WHERE variant = 'a'")
    (answer,) = await shop.campaigns.retarget("acme", id, HOUR)
    sql = """SELECT count(*) FROM recipient WHERE message = 1 AND name BETWEEN 'user-20' AND 'user-34'"""
    assert answer.recipients == (await shop.all(sql))[0][0]


async def test_who_is_gone_gets_nothing_again_and_is_no_error(shop: Shop) -> None:
    await sent_and_opened(shop)
    async with shop.records.transaction():
        await shop.records.remove_place("user", "acme", "user-20")
    answers = await shop.campaigns.retarget("acme", "spring", 24 * HOUR)
    assert sum(answer.recipients or 0 for answer in answers) == 14


async def test_there_must_be_something_to_send_again(shop: Shop) -> None:
    with pytest.raises(NotFound, match="has sent nothing for a campaign 'spring'"):
        await shop.campaigns.retarget("acme", "spring", HOUR)
    await shop.campaigns.add("acme", "spring", defined())
    await shop.campaigns.start("acme", "spring")
    await shop.ran("spring")
    with pytest.raises(Refused, match="has not run 24 hours ago"):
        await shop.campaigns.retarget("acme", "spring", 24 * HOUR)


# -- figures -----------------------------------------------------------------------------------------------------------


async def test_figures_add_up_by_variant_run_and_store(shop: Shop) -> None:
    await sent_and_opened(shop)
    await shop.happened(
        """INSERT INTO event (message, recipient, device, event, at)
           SELECT message, number, 'phone-' || name, 'delivered', delivered_at FROM recipient
           WHERE delivered_at IS NOT NULL"""
    )
    await shop.campaigns.retarget("acme", "spring", 24 * HOUR)
    tables = {
        by: (await shop.campaigns.figures("acme", "spring", by))[0] for by in ("campaign", "variant", "run", "store")
    }
    (everything,) = tables["campaign"]
    assert (everything.accepted, everything.delivered, everything.opened, everything.waiting) == (55, 35, 10, 20)
    assert everything.delivered_rate == pytest.approx(35 / 55, abs=1e-4)
    assert everything.opened_rate == pytest.approx(10 / 35, abs=1e-4)
    for by in ("variant", "run", "store"):
        total, *rows = tables[by]
        assert total == everything
        for count in ("accepted", "delivered", "opened", "waiting", "delivered_within", "opened_within"):
            assert sum(getattr(row, count) for row in rows) == getattr(total, count)
    assert [row.what for row in tables["variant"]] == ["all", "a", "b", "(again)"]
    assert [row.what for row in tables["store"]] == ["all", "milano", "roma"]
    assert tables["variant"][2].note == "too few to say anything"
    only, _ = await shop.campaigns.figures("acme", "spring", run=datetime.fromtimestamp(shop.seconds - 24 * HOUR, UTC))
    assert only[0].accepted == 40


async def test_within_counts_from_when_it_was_due(shop: Shop) -> None:
    await shop.campaigns.add("acme", "spring", defined())
    await shop.campaigns.start("acme", "spring")
    await shop.ran("spring")
    sql = "UPDATE recipient SET state = 'delivered', delivered_at = due_at + ?, opened_at = due_at + ? WHERE name = ?"
    await shop.happened(sql, 900_000, 900_001, "user-01")
    await shop.happened(sql, 1000, 900_000, "user-02")
    await shop.happened(sql, 900_001, 900_002, "user-03")
    ((found,), _) = await shop.campaigns.figures("acme", "spring")
    assert (found.delivered, found.delivered_within, found.opened, found.opened_within) == (3, 2, 3, 1)
    ((found,), _) = await shop.campaigns.figures("acme", "spring", within_s=1000)
    assert (found.delivered_within, found.opened_within) == (3, 3)


async def test_who_has_it_nowhere_counts_in_the_store_of_a_device_of_theirs(shop: Shop) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    async with shop.records.transaction():
        await shop.records.add_device("acme", "atablet", at)
        await shop.records.assign_device("acme", "atablet", "user-01", "")  # no store, and before phone-user-01
        await shop.records.assign_device("acme", "phone-user-02", "user-02", "")
    await shop.campaigns.add("acme", "spring", defined())
    await shop.campaigns.start("acme", "spring")
    await shop.ran("spring")
    # user-03's phone stands in roma, but a device in milano had it first
    sql = """INSERT INTO event (message, recipient, device, event, at)
             SELECT message, number, ?, 'delivered', ? FROM recipient WHERE name = 'user-03'"""
    await shop.happened(sql, "phone-user-03", 9)
    await shop.happened(sql, "phone-user-04", 8)
    (_, *rows), _ = await shop.campaigns.figures("acme", "spring", "store")
    assert {row.what: row.accepted for row in rows} == {"(no store)": 1, "milano": 20, "roma": 19}


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ({"request": {"to": {"condition": "tag:"}}}, "tag"),
        ({"request": {"to": {"segment": "lapsed"}}}, "lapsed"),
        ({"request": {"to": {"users": ["nobody"]}}}, "acme has no user 'nobody'"),
        ({"request": {}}, "to is missing"),
        ({"request": {**TO, "ttl": 60}}, "there is no field ttl; did you mean ttl_s"),
        ({"request": {**TO, "withdraw": "m1"}}, "there is no field"),
        ({"variants": (Variant("", 100, {"notification": {}}),)}, "a title or a body"),
        ({"variants": (Variant("", 100, {}),)}, "one of notification"),
        ({"variants": (Variant("", 50, CIAO), Variant("b", 50, CIAO))}, "a name of its own"),
        ({"variants": (Variant("a", 50, CIAO), Variant("a", 50, CIAO))}, "a name of its own"),
        ({"variants": (Variant("holdout", 50, CIAO),)}, "a name of its own"),
        ({"schedule": Schedule(cron="9")}, "no cron line"),
    ],
)
async def test_what_could_not_be_sent_is_refused_when_it_is_added(
    shop: Shop, definition: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused, match=words):
        await shop.campaigns.add("acme", "spring", defined(**definition))
    assert await shop.campaigns.all("acme") == []


async def test_what_cannot_be_sent_any_more_leaves_a_note_and_the_next_run_is_made(shop: Shop) -> None:
    await shop.campaigns.add(
        "acme", "news", defined(request={"to": {"users": ["staff"]}}, schedule=Schedule(cron="0 9 * * *"))
    )
    await shop.campaigns.start("acme", "news")
    async with shop.records.transaction():
        await shop.records.remove_place("user", "acme", "staff")
    shop.seconds += 86400
    shown = await shop.ran("news")
    assert (
        shown["runs"][0]["problem"]
        == "to.users[0]: acme has no user 'staff'. See which there are: pushbroker user list acme"
    )
    assert (shown["state"], shown["next_run"]) == ("running", "2026-11-23T09:00:00Z")


UNOPENED = {"message": "m1", "for_s": 3600}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"to": {"unopened": UNOPENED, "users": ["ada"]}}, "to.unopened"),
        ({"to": {"unopened": {"message": "m1"}}}, "to.unopened.for_s"),
        ({"to": {"unopened": {"message": "m/1", "for_s": 1}}}, "to.unopened.message"),
        ({"to": {"part": {"of": "ab", "first": 0, "until": 5000}}}, "to"),
        ({"to": {"unopened": UNOPENED, "part": {"of": "ab", "first": 5000, "until": 5000}}}, "to.part.until"),
        ({"to": {"unopened": UNOPENED, "part": {"of": "ab", "first": 0, "until": 10_001}}}, "to.part.until"),
        ({"to": {"cap": {"campaign": "ab", "most": 1, "within_s": 60}}}, "to"),
        ({"to": {"unopened": UNOPENED, "cap": {"campaign": "ab", "most": 0, "within_s": 60}}}, "to.cap.most"),
        ({"to": {"unopened": UNOPENED}, "local_time": "2026-02-30T09:00"}, "local_time"),
        ({"to": {"unopened": UNOPENED}, "local_time": "2026-11-24T24:00"}, "local_time"),
        ({"to": {"unopened": UNOPENED}, "local_time": "2026-11-24T09:00", "ttl_s": 3600}, "ttl_s"),
    ],
)
def test_what_is_wrong_in_what_a_server_asks_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        requests.parse(msgspec.json.encode({**CIAO, **fields}))
    assert refused.value.field == field


def test_a_server_can_ask_for_the_same() -> None:
    part, cap = {"of": "ab", "first": 0, "until": 10_000}, {"campaign": "ab", "most": 1, "within_s": 60}
    for to in ({"unopened": UNOPENED}, {"users": ["ada"], "part": part, "cap": cap}):
        request = requests.parse(msgspec.json.encode({**CIAO, "to": to, "local_time": "2026-11-24T09:00"}))
        assert msgspec.to_builtins(request)["to"] == to


MOVES = {  # state → what can be done in it
    "draft": {"start", "remove"},
    "running": {"pause", "stop"},
    "paused": {"resume", "stop"},
    "stopped": {"start", "remove"},
    "done": {"start", "pause", "stop", "remove"},
}


async def test_every_move_from_every_state(shop: Shop) -> None:
    for number, (state, allowed) in enumerate(MOVES.items()):
        for move in ("start", "pause", "resume", "stop", "remove"):
            name = f"{move}-{number}"
            await shop.campaigns.add("acme", name, defined(schedule=Schedule(cron="0 9 * * *")))
            row = await shop.store.one("acme", name)
            assert row is not None
            await shop.store.change(msgspec.structs.replace(row, state=state))
            if move in allowed:
                await getattr(shop.campaigns, move)("acme", name)
            else:
                with pytest.raises(Refused, match=f"{name} is"):
                    await getattr(shop.campaigns, move)("acme", name)


async def test_stop_takes_back_what_has_not_been_delivered(shop: Shop) -> None:
    await shop.campaigns.add("acme", "spring", defined(variants=SPLIT))
    await shop.campaigns.start("acme", "spring")
    await shop.ran("spring")
    await shop.happened("UPDATE message SET state = 'done' WHERE variant = 'a'")
    stopped = await shop.campaigns.stop("acme", "spring")
    ((waiting,),) = await shop.all("SELECT id FROM message WHERE variant = 'b'")
    assert (stopped["state"], stopped["withdrawn"], shop.withdrawn) == ("stopped", [waiting], [waiting])


async def test_figures_say_when_older_runs_are_left_out(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.campaigns.add("acme", "news", defined(schedule=Schedule(cron="0 9 * * *")))
    await shop.campaigns.start("acme", "news")
    for number in (1, 2, 3):
        shop.seconds += 86400
        await shop.ran("news", number)
    monkeypatch.setattr("broker.limits.FIGURES_RECIPIENTS_MAX", 80)
    figures, all_of_it = await shop.campaigns.figures("acme", "news")
    assert (figures[0].accepted, all_of_it) == (80, False)
    first = datetime(2026, 11, 22, 9, tzinfo=UTC)
    figures, all_of_it = await shop.campaigns.figures("acme", "news", run=first)
    assert (figures[0].accepted, all_of_it) == (40, True)


async def test_the_campaigns_of_a_brand_go_with_it(shop: Shop) -> None:
    await shop.campaigns.add("acme", "news", defined(schedule=Schedule(cron="0 9 * * *")))
    await shop.campaigns.start("acme", "news")
    await shop.campaigns.pause("acme", "news")
    async with shop.records.transaction():
        await shop.records.remove_brand("acme")
    await shop.campaigns.brand_gone("acme")
    assert await shop.campaigns.all(None) == []
    assert shop.held == set()


async def test_a_changed_schedule_counts_from_the_next_run_on(shop: Shop) -> None:
    await shop.campaigns.add("acme", "news", defined(schedule=Schedule(cron="0 9 * * *")))
    await shop.campaigns.start("acme", "news")
    changed = await shop.campaigns.set("acme", "news", defined(schedule=Schedule(cron="30 10 * * *")))
    assert (changed["state"], changed["next_run"]) == ("running", "2026-11-22T10:30:00Z")


async def test_a_time_that_has_passed_cannot_be_started(shop: Shop) -> None:
    await shop.campaigns.add("acme", "late", defined(schedule=Schedule(at=datetime(2026, 11, 22, 7, 59))))
    with pytest.raises(Refused, match="its time has passed"):
        await shop.campaigns.start("acme", "late")


async def test_a_campaign_is_its_brands_alone(shop: Shop) -> None:
    await shop.campaigns.add("acme", "spring", defined())
    for wrong in (shop.campaigns.show, shop.campaigns.start, shop.campaigns.figures):
        with pytest.raises(NotFound):
            await wrong("bolt", "spring")
    with pytest.raises(RequestRefused):
        await shop.campaigns.add("bolt", "spring", defined(request={"to": {"users": ["staff"]}}))


async def test_a_message_for_nobody_is_done(shop: Shop) -> None:
    await shop.campaigns.add("acme", "spring", defined(request={"to": {"condition": "tag:nobody"}}))
    await shop.campaigns.start("acme", "spring")
    await shop.ran("spring")
    assert await shop.all("SELECT state, recipients FROM message") == [("done", 0)]
