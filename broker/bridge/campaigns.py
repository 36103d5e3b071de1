"""Campaigns: a message, whom it is for, and when. Each run is accepted as rich sends are, one for each variant.

draft → running ⇄ paused → stopped; one without a next run is done, which may still be sending. It can be paused and
stopped all the same; stopped or done, it can be started again.

A run is known by the time at which it begins, which is in the idempotency keys of what it sends: one that was
interrupted is made again, and what was accepted of it is not accepted twice. Runs that were missed, because no broker
was there, are made up for by one.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Protocol

import msgspec
from msgspec import Meta

from broker import limits
from broker.bridge import request as requests
from broker.bridge import split
from broker.bridge.figures import By, Figures, compared, figures_of, grouped, iso
from broker.bridge.intake import now_ms
from broker.bridge.request import Answer, Code, RequestRefused, SendRequest
from broker.bridge.schedule import Run, Schedule, checked, following, once
from broker.bridge.sends import Sends
from broker.errors import Failed, NotFound, Refused
from broker.store.campaigns import CampaignRow, Campaigns, Counts, RunRow
from broker.store.messages import MessageRow, Messages

RETRY_S: Final = 10.0
# The wall clock may be set while we sleep; nobody notices a run that is late by so much then.
NAP_S: Final = 60.0
HOLDOUT: Final = "holdout"
# A run that is later is not made: nobody wants last week's offer, and its idempotency keys are forgotten.
MISSED: Final = timedelta(seconds=limits.IDEMPOTENCY_MAX_S)
# From the first to the last place where it is nine o'clock.
_AROUND: Final = timedelta(hours=26)

Content = dict[str, Any]  # of a send request: notification, payload or payload_base64, content_type


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What some of those addressed get. A campaign without a split has one, with the name ''."""

    name: Annotated[str, Meta(pattern="^[a-z0-9]{0,16}$")]
    weight: Annotated[int, Meta(ge=1, le=1000)]
    content: Content


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a campaign is. `request` has the fields of a send request that hold for all variants, `to` above all."""

    request: dict[str, Any]
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1, max_length=limits.CAMPAIGN_VARIANTS_MAX)]
    schedule: Schedule = Schedule()
    holdout: Annotated[int, Meta(ge=0, le=90)] = 0  # percent of those addressed who get nothing


class Dispatching(Protocol):
    """Who sends what was accepted."""

    held: set[tuple[str, str | None]]  # brand and name of campaigns of which nothing is sent for now

    async def look(self) -> None:
        """Find what may be sent again."""
        ...


class Campaigner:
    """Keeps campaigns and makes their runs.

    withdraw(message, by): have it taken back; certain when it returns. log(event, **fields). unexpected(error): a bug,
    told and left.
    """

    def __init__(
        self,
        *,
        store: Campaigns,
        messages: Messages,
        sends: Sends,
        dispatcher: Dispatching,
        withdraw: Callable[[MessageRow, str], Awaitable[object]],
        log: Callable[..., object],
        unexpected: Callable[[Exception], object],
        now: Callable[[], int] = now_ms,
    ) -> None:
        self._store = store
        self._messages = messages
        self._sends = sends
        self._dispatcher = dispatcher
        self._withdraw = withdraw
        self._log = log
        self._unexpected = unexpected
        self._now = now
        self._changed = asyncio.Event()

    # -- what there is -------------------------------------------------------------------------------------------------

    async def add(self, brand: str, name: str, definition: Definition) -> dict[str, Any]:
        """Add a campaign, as a draft. `Refused` where it is there, or would not be accepted if it ran now."""
        await self._check(brand, name, definition)
        if len(await self._store.all(brand)) >= limits.CAMPAIGNS_MAX:
            raise Refused(
                f"{brand} has {limits.CAMPAIGNS_MAX:,} campaigns", remedy=f"pushbroker campaign remove {brand} NAME"
            )
        if not await self._store.add(brand, name, _encoded(definition), self._now()):
            raise Refused(f"{brand} has a campaign {name} already", remedy=f"pushbroker campaign show {brand} {name}")
        return await self.show(brand, name)

    async def set(self, brand: str, name: str, definition: Definition) -> dict[str, Any]:
        """Change a campaign. A run that has begun goes on as it was; the next one is as the new schedule has it."""
        row = await self._row(brand, name)
        await self._check(brand, name, definition)
        before = _decoded(row)
        row.definition = _encoded(definition)
        if row.next_run is not None and definition.schedule != before.schedule:
            _plan(row, _next(definition.schedule, self._time(), self._time()))
        await self._change(row)
        return await self.show(brand, name)

    async def all(self, brand: str | None) -> list[dict[str, Any]]:
        """The campaigns of a brand, or of all."""
        return [_shown(row) for row in await self._store.all(brand)]

    async def show(self, brand: str, name: str) -> dict[str, Any]:
        """One campaign, with its latest runs."""
        row = await self._row(brand, name)
        runs = [
            {"at": iso(run.at), "held_out": run.held_out} | ({"problem": run.problem} if run.problem else {})
            for run in await self._store.runs(row.number)
        ]
        return {**_shown(row), "definition": _decoded(row), "runs": runs}

    async def remove(self, brand: str, name: str) -> None:
        """Remove a campaign that is not running. What it has sent stays, and its figures with it."""
        row = await self._row(brand, name)
        self._must_be(row, ("draft", "stopped", "done"), f"pushbroker campaign stop {brand} {name}")
        await self._store.remove(row.number)

    async def test(self, brand: str, name: str) -> dict[str, Any]:
        """Who would get what, if it ran now. Nothing is sent."""
        row = await self._row(brand, name)
        return await self._tried(brand, name, _decoded(row))

    # -- start to end --------------------------------------------------------------------------------------------------

    async def start(self, brand: str, name: str) -> dict[str, Any]:
        """Let it run: at once, or when its time comes."""
        row = await self._row(brand, name)
        self._must_be(row, ("draft", "stopped", "done"), f"pushbroker campaign show {brand} {name}")
        run = _next(_decoded(row).schedule, self._time(), self._time())
        if run is None:
            raise Refused("its time has passed", remedy=f"pushbroker campaign set {brand} {name} --at TIME")
        row.state = "running"
        _plan(row, run)
        await self._change(row)
        return await self.show(brand, name)

    async def pause(self, brand: str, name: str) -> dict[str, Any]:
        """Send nothing until it is resumed: no run begins, and who waits for one that has begun goes on waiting."""
        row = await self._row(brand, name)
        self._must_be(row, ("running", "done"), f"pushbroker campaign show {brand} {name}")
        row.state = "paused"
        await self._change(row)
        self._dispatcher.held.add((brand, name))
        return await self.show(brand, name)

    async def resume(self, brand: str, name: str) -> dict[str, Any]:
        """Go on. Of a recurring campaign what was due meanwhile is left out; one that runs once runs late."""
        row = await self._row(brand, name)
        self._must_be(row, ("paused",), f"pushbroker campaign show {brand} {name}")
        schedule = _decoded(row).schedule
        row.state = "done" if row.next_run is None else "running"
        if schedule.cron:
            _plan(row, following(schedule, self._time()))
        await self._change(row)
        self._dispatcher.held.discard((brand, name))
        await self._dispatcher.look()
        return await self.show(brand, name)

    async def stop(self, brand: str, name: str) -> dict[str, Any]:
        """End it. Messages that somebody has not got yet are withdrawn: from them, and off others' screens."""
        row = await self._row(brand, name)
        self._must_be(row, ("running", "paused", "done"), f"pushbroker campaign show {brand} {name}")
        row.state = "stopped"
        _plan(row, None)
        await self._change(row)
        withdrawn: list[str] = []
        for message in (await self._store.messages(brand, name))[0]:
            sent = await self._messages.by_id(message.id)
            if sent is not None and sent.state == "open":
                await self._withdraw(sent, "")
                withdrawn.append(sent.id)
        self._dispatcher.held.discard((brand, name))
        return {**await self.show(brand, name), "withdrawn": withdrawn}

    # -- runs ----------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Hold what was paused, before anything is sent, and forget the campaigns of brands that are gone."""
        await self._store.forget()
        self._dispatcher.held |= {(row.brand, row.name) for row in await self._store.all(None) if row.state == "paused"}

    async def brand_gone(self, brand: str) -> None:
        """A brand was removed."""
        await self._store.forget(brand)
        self._dispatcher.held = {held for held in self._dispatcher.held if held[0] != brand}

    async def run(self) -> None:
        """Make the runs when their time comes, for ever."""
        while True:
            self._changed.clear()
            try:
                for row in await self._store.due(self._now()):
                    await self._make(row)
                at = await self._store.next_at()
            except Failed as error:
                self._log("campaigns cannot run", error=error.message, remedy=error.remedy)
                await asyncio.sleep(RETRY_S)
                continue
            nap = NAP_S if at is None else min(NAP_S, max(0.0, (at - self._now()) / 1000))
            with suppress(TimeoutError):
                async with asyncio.timeout(nap):
                    await self._changed.wait()

    async def _make(self, row: CampaignRow) -> None:
        """One run. What is refused, or a bug, ends this run and leaves a note; the next one is made all the same."""
        assert row.next_run is not None  # it is due
        assert row.next_run_at is not None
        run = msgspec.json.decode(row.next_run, type=Run)
        definition = _decoded(row)
        ids: list[str] = []
        held_out, problem = 0, ""
        try:
            if self._time() - run.at > MISSED:
                raise RequestRefused(Code.BAD_VALUE, "", f"no broker was there for {MISSED.days} days after its time")
            for name, request in _requests(row.name, definition, run.clock).items():
                if name == HOLDOUT:
                    held_out = (await self._sends.accept(row.brand, request)).recipients or 0
                else:
                    request.idempotency_key = f"campaign/{row.number}/{row.next_run_at}/{name}"
                    request.idempotency_s = limits.IDEMPOTENCY_MAX_S
                    ids.append((await self._sends.accept(row.brand, request)).message_id)
        except RequestRefused as error:
            problem = f"{error.field}: {error.message}" if error.field else error.message
        except Failed:
            raise
        except Exception as error:  # noqa: BLE001 - one campaign's bug is not the others' end
            self._unexpected(error)
            problem = "an error that was not expected: the broker's log says more"
        if problem:
            self._log("a campaign did not run", campaign=f"{row.brand}/{row.name}", problem=problem)
        made = RunRow(at=row.next_run_at, ended_at=self._now(), held_out=held_out, problem=problem)
        schedule = definition.schedule
        _plan(row, following(schedule, max(run.at, self._time())) if schedule.cron else None)
        row.state = "running" if row.next_run is not None else "done"
        await self._store.ran(row, made, ids)

    # -- again ---------------------------------------------------------------------------------------------------------

    async def retarget(
        self, brand: str, what: str, not_opened_s: int, *, content: Content | None = None, dry_run: bool = False
    ) -> list[Answer]:
        """Send it again to those who have had it for so long and have not opened it; each of them once.

        what: a campaign, whose last run of at least that age is meant, or one message id. Each gets what they got, or
        `content`.
        """
        answers = []
        for id in await self._to_repeat(brand, what, not_opened_s):
            source = await self._messages.by_id(id)
            assert source is not None  # it was just found
            to = {"unopened": {"message": id, "for_s": not_opened_s}}
            request = _request(
                {
                    "to": to,
                    **(content or _content(source)),
                    "kind": source.kind,
                    "priority": source.priority,
                    "collapse_key": source.collapse_key,
                    "ttl_s": max(1, min((source.expires_at - source.accepted_at) // 1000, limits.TTL_MAX_S)),
                    "receipts": source.receipts,
                    "throttle_per_s": source.throttle,
                    "campaign": source.campaign or "",
                    "variant": source.variant,
                    "dry_run": dry_run,
                }
            )
            answers.append(await self._sends.accept(brand, request))
        return answers

    async def _to_repeat(self, brand: str, what: str, not_opened_s: int) -> list[str]:
        sent = [message for message in (await self._store.messages(brand, what))[0] if not message.again]
        if not sent:
            row = await self._messages.by_id(what)
            if row is None or row.brand != brand:
                raise NotFound(
                    f"{brand} has sent nothing for a campaign {what!r}, and no message with that id",
                    remedy=f"pushbroker campaign list {brand}",
                )
            return [row.id]
        old = [message for message in sent if message.at <= self._now() - not_opened_s * 1000]
        if not old:
            raise Refused(
                f"{what} has not run {not_opened_s // 3600} hours ago or earlier", remedy="Wait, or say less."
            )
        return [message.id for message in old if message.at == old[0].at]

    # -- what came of it -----------------------------------------------------------------------------------------------

    async def figures(
        self, brand: str, name: str, by: By = "campaign", within_s: int = 900, run: datetime | None = None
    ) -> tuple[list[Figures], bool]:
        """What came of a campaign, or of one run: everything first, then each variant, run or store.

        Also whether that is all; what is older than figures are made of is left out.
        """
        sent, all_of_it = await self._store.messages(brand, name, None if run is None else _ms(run))
        if not sent:
            await self._row(brand, name)  # NotFound, where there is none
            raise NotFound(
                f"{name} has not run yet" if run is None else f"{name} has no such run",
                remedy=f"pushbroker campaign show {brand} {name}",
            )
        within_ms = within_s * 1000
        each = await self._store.counts(numbers := [message.number for message in sent], within_ms)
        if by == "store":
            groups = await self._store.counts_by_store(brand, numbers, within_ms)
        else:
            groups = grouped(sent, each, by)
        total = Counts()
        for counts in each.values():
            total.add(counts)
        found = [figures_of("all", total)]
        if by == "variant":
            return found + compared(groups), all_of_it
        return found + [figures_of(what or "(no store)", counts) for what, counts in groups.items()], all_of_it

    # -- small parts ---------------------------------------------------------------------------------------------------

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._now() / 1000, UTC)

    async def _row(self, brand: str, name: str) -> CampaignRow:
        row = await self._store.one(brand, name)
        if row is None:
            raise NotFound(f"{brand} has no campaign {name!r}", remedy=f"pushbroker campaign list {brand}")
        return row

    async def _change(self, row: CampaignRow) -> None:
        await self._store.change(row)
        self._changed.set()

    @staticmethod
    def _must_be(row: CampaignRow, states: Sequence[str], remedy: str) -> None:
        if row.state not in states:
            raise Refused(f"{row.name} is {_STATES[row.state]}", remedy=remedy)

    async def _check(self, brand: str, name: str, definition: Definition) -> None:
        """That each of its messages would be accepted."""
        if len(_encoded(definition)) > limits.CAMPAIGN_BYTES_MAX:
            raise Refused(
                f"a campaign may take {limits.CAMPAIGN_BYTES_MAX:,} bytes", remedy="Name images by their address."
            )
        names = [variant.name for variant in definition.variants]
        if len(set(names)) < len(names) or ("" in names and len(names) > 1) or HOLDOUT in names:
            raise Refused("each variant has a name of its own", remedy="Write --variant a=FILE:50 --variant b=FILE:50")
        checked(definition.schedule)
        first, *_ = _requests(name, definition, _LONG_AGO if definition.schedule.local else None).values()
        first.dry_run = True
        await self._sends.accept(brand, first)  # the others are for the same people

    async def _tried(self, brand: str, name: str, definition: Definition) -> dict[str, Any]:
        clock = _LONG_AGO if definition.schedule.local else None
        found = {}
        for variant, request in _requests(name, definition, clock).items():
            request.dry_run = True
            found[variant or "all"] = await self._sends.accept(brand, request)
        return {"variants": found, "next_run": _shown_next(_next(definition.schedule, self._time(), self._time()))}


_LONG_AGO: Final = datetime(2000, 1, 1)  # on the clocks of recipients: all of them are due
_STATES: Final = {
    "draft": "not started",
    "running": "running",
    "paused": "paused",
    "stopped": "stopped",
    "done": "done",
}


def _next(schedule: Schedule, now: datetime, after: datetime) -> Run | None:
    """The next run that is not over: one without a time is now."""
    if schedule.cron:
        return following(schedule, after)
    run = once(schedule, now)
    end = run.at + (_AROUND if schedule.local else timedelta())
    return run if end >= now else None


def _plan(row: CampaignRow, run: Run | None) -> None:
    row.next_run = None if run is None else msgspec.json.encode(run).decode()
    row.next_run_at = None if run is None else _ms(run.at)


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _requests(name: str, definition: Definition, clock: datetime | None) -> dict[str, SendRequest]:
    """What a run asks for: for each variant, and who is held out, which is only counted."""
    weights = {variant.name: variant.weight for variant in definition.variants}
    parts = split.cut(weights, definition.holdout)
    found = {}
    for variant in definition.variants:
        fields = {**definition.request, **variant.content, "campaign": name, "variant": variant.name}
        if clock is not None:
            fields["local_time"] = f"{clock:%Y-%m-%dT%H:%M}"
        found[variant.name] = _part(fields, name, *parts[variant.name])
    if definition.holdout:
        fields = {**definition.request, **definition.variants[0].content, "dry_run": True}
        found[HOLDOUT] = _part(fields, name, 0, min(first for first, _ in parts.values()))
    return found


def _part(fields: dict[str, Any], name: str, first: int, until: int) -> SendRequest:
    if (first, until) != (0, split.PARTS):
        fields["to"] = {**fields["to"], "part": {"of": name, "first": first, "until": until}}
    return _request(fields)


def _request(fields: Mapping[str, Any]) -> SendRequest:
    """A request, checked as if it had come from a brand's server."""
    request = requests.parse(msgspec.json.encode(fields))
    if not isinstance(request, SendRequest):
        raise RequestRefused(Code.UNKNOWN_FIELD, "withdraw", "there is no field withdraw")
    return request


def _content(row: MessageRow) -> Content:
    """What a message had, to the byte."""
    return {"payload_base64": base64.b64encode(row.payload).decode(), "content_type": row.content_type}


def _encoded(definition: Definition) -> str:
    return msgspec.json.encode(definition).decode()


def _decoded(row: CampaignRow) -> Definition:
    return msgspec.json.decode(row.definition, type=Definition)


def _shown(row: CampaignRow) -> dict[str, Any]:
    run = None if row.next_run is None else msgspec.json.decode(row.next_run, type=Run)
    return {
        "brand": row.brand,
        "name": row.name,
        "state": row.state,
        "next_run": _shown_next(run),
        "created_at": iso(row.created_at),
    }


def _shown_next(run: Run | None) -> str | None:
    if run is None:
        return None
    if run.clock is not None:
        return f"{run.clock:%Y-%m-%dT%H:%M} where each of them is"
    return f"{run.at:%Y-%m-%dT%H:%M:%SZ}"
