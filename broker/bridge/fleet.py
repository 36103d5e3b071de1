"""Commands for devices: whom they address, in which stages they go out, what came of them.

A command is in the books before anything is published, and what was published is in the books a moment later. After a
restart all is sent again that was not answered; a device knows a command by its id, and does it once.

    waiting ──→ sent ──→ succeeded, failed     the device has said so: its first word counts, however late
       └─────────┴─────→ expired, cancelled    nobody waits for it any more

The next stage begins when all before have answered or expired. With more failures than `halt_after` allows the command
halts: nothing more is sent until somebody has looked and resumes it.
"""
# ruff: noqa: S608 - statements are put together of our own words; all else is a parameter

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final

import msgspec

from broker import limits
from broker.bridge.audience import check_names
from broker.bridge.condition import Any as AnyOf
from broker.bridge.condition import BadCondition, Condition, Query, parse, term
from broker.bridge.facts import Saying
from broker.bridge.figures import iso
from broker.bridge.intake import Intake, now_ms, settling
from broker.bridge.message_id import MessageIds
from broker.bridge.people import People
from broker.bridge.presence import Presence, Who
from broker.errors import Failed, NotFound, Refused
from broker.identity import check_name
from broker.message import Message, Promise
from broker.route.subscription import QOS
from broker.session.core import Core
from broker.store.fleet import Answer, Command, FleetTables
from broker.wire.packets import Properties
from broker.wire.publish import forwarded
from broker.wire.topics import matches

TICK_S: Final = 1.0
# Between two looks at the commands, however fast answers come.
REST_S: Final = 0.1
_PAGE: Final = 1000

_json: Final = msgspec.json.Encoder().encode


class Devices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which devices are meant: those of which any of these is true, or all of the brand."""

    devices: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    condition: str = ""
    all: bool = False


async def devices_of(people: People, brand: str, to: Devices) -> AsyncIterator[list[str]]:
    """Their names, in order, a page at a time. `NotFound` and `Refused` where it names what the brand has not."""
    await people.register.check(brand)
    where = await _condition(people, brand, to)
    query = Query()
    condition = "" if where is None else f"AND {query.where(where, 'device', 'd.name')}"
    sql = f"""SELECT d.name FROM devices d WHERE d.brand = :brand AND d.state <> 'revoked' AND d.name > :after
              {condition} ORDER BY d.name LIMIT :page"""
    after, more = "", True
    while more:
        values = {"brand": brand, "after": after, "page": _PAGE, **query.values}
        page = [name for (name,) in await people.profiles.select(sql, values)]
        if page:
            yield page
        if more := len(page) == _PAGE:
            after = page[-1]


async def _condition(people: People, brand: str, to: Devices) -> Condition | None:
    """What is true of them; None: all of the brand."""
    if to == Devices(all=True):
        return None
    if to.all or to == Devices():
        raise Refused("say which devices", remedy="Use --device, --store, --tag, --condition or --all.")
    wanted: list[Condition] = []
    for word, names in (("device", to.devices), ("store", to.stores), ("tag", to.tags)):
        for name in names:
            check_name(word, name)
            if word != "tag":
                await people.register.check(brand, word, name)  # type: ignore[arg-type]
            wanted.append(term(word, name))
    if len(wanted) > limits.ADDRESS_PLACES_MAX:
        raise Refused(f"more than {limits.ADDRESS_PLACES_MAX} names", remedy="Use a tag, or --condition.")
    if to.condition:
        segments = {segment.name: segment.condition for segment in await people.profiles.segments(brand)}
        try:
            condition = parse(to.condition, segments)
        except BadCondition as error:
            raise Refused(f"the condition: {error.message}", reason=0x83, remedy=error.remedy) from None
        await check_names(people.profiles, brand, condition)
        wanted.append(condition)
    return AnyOf(tuple(wanted))


# -- what is asked for -------------------------------------------------------------------------------------------------


def stages_of(stages: Sequence[str], devices: int) -> list[int]:
    """How many devices have a command at the end of each stage: `1`, `10%`, `100%`."""
    remedy = "Write them like 1,10%,100%: each more than the one before, the last one 100%."
    if len(stages) > limits.COMMAND_STAGES_MAX or list(stages[-1:]) != ["100%"]:
        raise Refused(f"there are 1 to {limits.COMMAND_STAGES_MAX} stages, and the last one is 100%", remedy=remedy)
    found: list[int] = []
    for stage in stages:
        number = _amount(stage, remedy)
        reached = -(-devices * number // 100) if stage.endswith("%") else number
        reached = max(1, min(int(reached), devices))
        if not found or reached > found[-1]:  # of few devices 1 and 10% are the same
            found.append(reached)
    return found


def allowed(halt_after: str, devices: int) -> int:
    """How many of so many devices may fail."""
    number = _amount(halt_after, "Write --halt-after like 3 or 5%.", least=0)
    return devices * number // 100 if halt_after.endswith("%") else number


def _amount(text: str, remedy: str, least: int = 1) -> int:
    digits, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 7:
        raise Refused(f"{text!r} is no number of devices, and no percentage", remedy=remedy)
    number = int(digits)
    if number < least or (percent and number > 100):
        raise Refused(f"{text!r} is out of range", remedy=remedy)
    return number


class _Result(msgspec.Struct):
    """What a device says on `up/result`."""

    command_id: Annotated[str, msgspec.Meta(max_length=64)]
    ok: bool
    output: str = ""
    error: str = ""


class Fleet:
    """Sends commands out, and hears what came of them. `handle` may be called again for what was heard before.

    run(work): do something to the core, and write out what came of it.
    """

    def __init__(
        self,
        *,
        core: Core,
        tables: FleetTables,
        people: People,
        presence: Presence,
        intake: Intake,
        ids: MessageIds,
        run: Callable[[Callable[[], object]], None],
        log: Callable[..., object],
    ) -> None:
        self._core = core
        self._tables = tables
        self._people = people
        self._presence = presence
        self._intake = intake
        self._ids = ids
        self._run = run
        self._log = log
        self._open: dict[str, Command] = {}  # by id, in the order in which they were made
        self._looked: dict[str, int] = {}  # the stage in which all devices were looked at
        self._look: dict[Who, None] = {}  # devices that may have something waiting for them
        self._fresh: dict[Who, None] = {}  # whose session is new: what was sent to the old one is lost
        self._change = asyncio.Lock()  # of a command, by its rules or by a person
        self._changed = asyncio.Event()
        self._decode = msgspec.json.Decoder(_Result).decode
        presence.watch(self._came)
        intake.on("result", self.handle)

    # -- what operators ask for ----------------------------------------------------------------------------------------

    async def start(
        self,
        brand: str,
        name: str,
        to: Devices,
        *,
        args: Mapping[str, str],
        ttl_s: int,
        stages: Sequence[str] = ("100%",),
        halt_after: str = "0",
    ) -> Command:
        """Have devices do something. It is in the books when this returns."""
        check_name("command", name)
        encoded = _json(args).decode()
        if len(encoded.encode()) > limits.COMMAND_BYTES_MAX:
            raise Refused(f"the arguments take more than {limits.COMMAND_BYTES_MAX:,} bytes", reason=0x95)
        if not 0 < ttl_s <= limits.COMMAND_TTL_MAX_S:
            raise Refused(f"a command lives for 1 second to {limits.COMMAND_TTL_MAX_S // 86400} days")
        allowed(halt_after, 1)
        devices: list[str] = []
        async for page in devices_of(self._people, brand, to):
            devices += page
            if len(devices) > limits.COMMAND_DEVICES_MAX:
                raise Refused(
                    f"more than {limits.COMMAND_DEVICES_MAX:,} devices", remedy="Address them in parts: --store, --tag."
                )
        if not devices:
            raise Refused("there is no such device", remedy=f"See which there are: pushbroker device list {brand}")
        # Who is there can answer, so they go first; mixed, so that a stage is not one store.
        id = "c" + self._ids.next()[1:]
        devices.sort(key=lambda device: ((brand, device) not in self._presence.online, hash((id, device))))
        now = now_ms()
        command = Command(
            id=id,
            brand=brand,
            name=name,
            args=encoded,
            devices=len(devices),
            stages=_json(stages_of(stages, len(devices))).decode(),
            halt_after=halt_after,
            created_at=now,
            expires_at=now + ttl_s * 1000,
        )
        async with self._change:
            if sum(one.brand == brand for one in self._open.values()) >= limits.COMMANDS_OPEN_MAX:
                raise Refused(
                    f"{limits.COMMANDS_OPEN_MAX} commands of {brand} are not over",
                    reason=0x97,
                    remedy=f"pushbroker command list {brand}; cancel what nobody needs: pushbroker command cancel ID",
                )
            self._open[id] = await self._tables.add(command, devices, limits.COMMANDS_KEPT)
        self._changed.set()
        return command

    async def resume(self, id: str) -> Command:
        """Go on with one that halted: with the next stage; the failures so far are forgiven."""
        async with self._change:
            command = await self._one(id)
            if command.state != "halted":
                raise Refused(f"{id} is {command.state}, not halted", remedy=f"pushbroker command show {id}")
            command.forgiven = await self._failures(command)
            command.state, command.why = "running", ""
            await self._tables.change(command)
            self._looked.pop(id, None)
        self._changed.set()
        return command

    async def cancel(self, id: str) -> Command:
        """Nobody more is to do it. Who has it already may, and what they say of it is noted."""
        async with self._change:
            command = await self._one(id)
            if command.state not in ("running", "halted"):
                raise Refused(f"{id} is {command.state}", remedy=f"pushbroker command show {id}")
            await self._take_back(command)
            await self._end(command, "cancelled")
        return command

    async def _take_back(self, command: Command) -> None:
        """Whoever has it waiting in a session is not to get it any more."""
        after = 0
        while told := await self._tables.told(command.number, "sent", after, limits.COMMAND_AT_ONCE):
            after = told[-1].number
            waiting = [(_topic(command.brand, one.device), one.seq) for one in told if one.seq]

            def take_back(waiting: Sequence[tuple[bytes, int]] = waiting) -> None:
                for topic, seq in waiting:
                    self._core.take_back(topic, seq)

            self._run(take_back)

    async def _one(self, id: str) -> Command:
        command = self._open.get(id) or await self._tables.command(id)
        if command is None:
            raise NotFound(f"there is no command {id!r}", remedy="pushbroker command list")
        return command

    # -- what devices say ----------------------------------------------------------------------------------------------

    async def handle(self, saying: Saying) -> None:
        """Note what a device says of a command."""
        try:
            if len(saying.payload) > limits.RESULT_BYTES_MAX:
                raise Refused(f"more than {limits.RESULT_BYTES_MAX} bytes")
            result = self._decode(saying.payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Refused) as error:
            self._refused(saying, str(error))
            return
        state: Final = "succeeded" if result.ok else "failed"
        answer = Answer(
            result.command_id, saying.brand, saying.device, state, result.output, result.error, saying.at_ms
        )
        if not await self._tables.answer(answer):
            self._refused(saying, f"nobody waits for a result of {result.command_id!r}")
        self._changed.set()

    def _refused(self, saying: Saying, why: str) -> None:
        self._core.counters.fleet_refused += 1
        self._log("a command's result is ignored", client=f"{saying.brand}/device/{saying.device}", error=why)

    def _came(self, who: Who, present: bool) -> None:
        if self._open:
            self._look[who] = None
            if not present:
                self._fresh[who] = None

    def forget(self, gone: Sequence[Who]) -> None:
        """These devices are no more, and nothing waits for them."""
        for who in gone:
            self._look.pop(who, None)
            self._fresh.pop(who, None)
        self._changed.set()

    # -- going on ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve, for ever."""
        begun = False
        while True:
            self._changed.clear()
            try:
                if not begun:
                    await self._begin()
                    begun = True
                await self._round()
            except Failed as error:
                self._log("commands cannot be sent", error=error.message, remedy=error.remedy)
                await asyncio.sleep(TICK_S)
            except Exception as error:  # noqa: BLE001 - one command's bug is not the others' end
                self._core.unexpected(error)
                await asyncio.sleep(TICK_S)
            await asyncio.sleep(REST_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S if self._open else None):
                    await self._changed.wait()

    async def _begin(self) -> None:
        """Send again what nobody has answered: a session may have been lost just before the last process ended."""
        async with self._change:
            for command in await self._tables.open():
                await self._take_back(command)  # so that nobody has it waiting twice
                await self._tables.unsend_all(command.number)
                self._open.setdefault(command.id, command)

    async def _round(self) -> None:
        for brand in {brand for brand, _ in self._fresh}:
            fresh = [name for of, name in self._fresh if of == brand]
            await self._tables.unsend(brand, fresh)
            for name in fresh:
                self._fresh.pop((brand, name), None)
        listening = [who for who in self._look if self._listens(*who)]
        for who in [who for who in self._look if who not in self._presence.online]:
            del self._look[who]
        for who in listening:
            self._look.pop(who, None)
        for command in list(self._open.values()):
            async with self._change:
                if command.id in self._open:
                    await self._go_on(command, [name for brand, name in listening if brand == command.brand])

    async def _go_on(self, command: Command, listening: Sequence[str]) -> None:
        """Send a command to whom it can be sent now, and look whether its stage, or all of it, is over."""
        if now_ms() >= command.expires_at:
            await self._end(command, "expired")
            return
        stages: list[int] = msgspec.json.decode(command.stages)
        while command.state == "running":
            up_to = stages[command.stage - 1]
            if self._looked.get(command.id) != command.stage:
                await self._send_stage(command, up_to)
                self._looked[command.id] = command.stage
            elif listening:
                await self._send(command, await self._tables.waiting_of(command, listening, up_to))
            counts = await self._tables.counts(command.number, up_to)
            failures = counts["failed"] + counts["expired"] - command.forgiven
            may = allowed(command.halt_after, up_to)
            if command.stage < len(stages) and failures > may:
                command.state = "halted"
                command.why = (
                    f"{failures} of the first {up_to} devices failed, and {may} may: --halt-after {command.halt_after}"
                )
                self._log("a command has halted", command=command.id, why=command.why)
                await self._tables.change(command)
            elif counts["waiting"] or counts["sent"]:
                return
            elif command.stage == len(stages):
                await self._end(command)
            else:
                command.stage += 1
                await self._tables.change(command)

    async def _end(self, command: Command, state: Any = None) -> None:
        """It is over; whoever has not answered is in `state` now."""
        now = now_ms()
        if state is not None:
            await self._tables.end(command.number, state, now)
        ended = "cancelled" if state == "cancelled" else "done"
        await self._tables.change(msgspec.structs.replace(command, state=ended, why="", ended_at=now))
        command.state, command.why, command.ended_at = ended, "", now  # type: ignore[assignment]
        self._open.pop(command.id, None)
        self._looked.pop(command.id, None)

    async def _failures(self, command: Command) -> int:
        stages: list[int] = msgspec.json.decode(command.stages)
        counts = await self._tables.counts(command.number, stages[command.stage - 1])
        return counts["failed"] + counts["expired"]

    # -- publishing ----------------------------------------------------------------------------------------------------

    async def _send_stage(self, command: Command, up_to: int) -> None:
        """Send it to all who wait for it in this stage and those before."""
        after = 0
        while told := await self._tables.told(command.number, "waiting", after, limits.COMMAND_AT_ONCE, up_to):
            after = told[-1].number
            await self._send(command, [(one.number, one.device) for one in told])

    async def _send(self, command: Command, devices: Sequence[tuple[int, str]]) -> None:
        """Publish it to those of these who have a session that wants it; the others wait until they come."""
        sending: list[tuple[int, Message, asyncio.Future[int]]] = []
        self._run(lambda: sending.extend(self._publish(command, devices)))
        sent = []
        for number, message, settled in sending:
            if await settled < 0x80:
                sent.append((number, message.seq))
            else:  # nothing can be written at present, or a queue is full
                self._look[command.brand, message.topic.decode().split("/")[2]] = None
        if sent:
            await self._tables.sent(command.number, sent, now_ms())

    def _publish(
        self, command: Command, devices: Sequence[tuple[int, str]]
    ) -> list[tuple[int, Message, asyncio.Future[int]]]:
        core, loop = self._core, asyncio.get_running_loop()
        expires_at = command.expires_at / 1000
        payload = _json(
            {
                "command_id": command.id,
                "name": command.name,
                "args": msgspec.json.decode(command.args),
                "expires_at": iso(command.expires_at),
            }
        )
        properties = forwarded(Properties(content_type="application/json", payload_format=1))
        sending = []
        for number, device in devices:
            if not self._listens(command.brand, device):
                if (command.brand, device) in self._presence.online:
                    self._look[command.brand, device] = None  # it has connected, and may subscribe in a moment
                continue
            message = Message(
                _topic(command.brand, device), payload, 1, False, properties, expires_at - core.log.offset
            )
            settled: asyncio.Future[int] = loop.create_future()
            promise = Promise()
            promise.then = settling(settled)
            reason = core.publish(message, once=True, promise=promise)
            if reason is not None:
                settled.set_result(int(reason))
            sending.append((number, message, settled))
        return sending

    def _listens(self, brand: str, device: str) -> bool:
        """Whether a session of the device itself wants commands, connected or not; others may listen, too."""
        topic = _topic(brand, device).decode()
        return any(
            subscription.options & QOS and matches(subscription.filter.decode(), topic)
            for session in self._core.sessions_of(f"{brand}/device/{device}")
            for subscription in session.subscriptions
            if not subscription.group
        )


def _topic(brand: str, device: str) -> bytes:
    return f"{brand}/device/{device}/command".encode()
