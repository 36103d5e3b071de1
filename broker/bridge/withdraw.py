"""Takes messages back: from who has not got them, and off the screens of who has.

A withdrawal is written down first, then done for some recipients at a time, with how far it has got; so the next
process goes on with it. Devices may be told twice, and take it off once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Final, Protocol

import msgspec

from broker.bridge.dispatch import Announce, Dispatcher, topic_of
from broker.bridge.intake import Intake, now_ms
from broker.errors import Failed
from broker.session.core import Core
from broker.store.messages import MessageRow, Messages, Older
from broker.store.profiles import Profiles

# Done in one turn of the core: less than 2 ms.
AT_ONCE: Final = 100
RETRY_S: Final = 1.0
FILLING_S: Final = 0.1
# What was shown may be on a screen for longer than it was of use.
NOTICE_S_MIN: Final = 60.0

_DEVICES: Final = """SELECT d.user, d.name FROM json_each(:users) u
  JOIN devices d ON d.brand = :brand AND d.user = u.value AND d.state <> 'revoked' ORDER BY d.user, d.name"""
_encode: Final = msgspec.json.Encoder().encode


class Notice(msgspec.Struct):
    """What a device is told on its `withdraw`. `why`: 'withdrawn', or 'opened' on another device of the same user."""

    message_ids: list[str]
    why: str


class PostNotice(Protocol):
    """Who publishes it."""

    def __call__(self, topic: str, payload: bytes, *, ttl_s: float) -> Awaitable[int]:
        """Returns the reason code, when it is certain."""
        ...


class Progress(msgspec.Struct):
    """How far a withdrawal has got."""

    recipients: int
    looked_at: int = 0
    withdrawn: int = 0  # who will not get it
    told: int = 0  # devices that were told to take it off the screen
    done: bool = False


class Withdrawals:
    """Does them, each once at a time."""

    def __init__(
        self,
        *,
        core: Core,
        messages: Messages,
        profiles: Profiles,
        intake: Intake,
        books: Announce,
        dispatcher: Dispatcher,
        post: PostNotice,
        run: Callable[[Callable[[], object]], None],
        spawn: Callable[[Coroutine[None, None, None]], object],
        log: Callable[..., object],
    ) -> None:
        self._core = core
        self._messages = messages
        self._profiles = profiles
        self._intake = intake
        self._books = books
        self._dispatcher = dispatcher
        self._post = post
        self._run = run
        self._spawn = spawn
        self._log = log
        self._going: dict[int, Progress] = {}
        self._changed = asyncio.Condition()

    async def begin(self, row: MessageRow, by: str) -> Progress:
        """Withdraw a message; from when this returns it will be, whatever happens to the process.

        `by`: path of who asks for it, or '' for the operator.
        """
        await self._messages.withdraw(row.number, by, now_ms())
        if (found := await self._messages.withdrawal(row.number)) is not None:
            return self._go(*found)
        return Progress(row.recipients, row.recipients, done=True)  # it was, before

    async def begun(self, row: MessageRow, by: str) -> Awaitable[int]:
        """The same. What it returns waits for the end, and says from how many it was taken back."""
        return self._until_done(await self.begin(row, by))

    async def withdraw(self, row: MessageRow, by: str) -> int:
        """Withdraw a message, and return from how many when that is done."""
        return await self._until_done(await self.begin(row, by))

    async def resume(self) -> None:
        """Go on with what the last process left."""
        for number in await self._messages.withdrawing():
            if (found := await self._messages.withdrawal(number)) is not None:
                self._go(*found)

    async def _until_done(self, progress: Progress) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: progress.done)
        return progress.withdrawn

    async def next_step(self) -> None:
        """Wait until something has changed."""
        async with self._changed:
            await self._changed.wait()

    async def devices_of(self, brand: str, users: Sequence[str]) -> dict[str, list[str]]:
        """The devices of each of these."""
        devices: dict[str, list[str]] = {}
        values = {"brand": brand, "users": _encode(users).decode()}
        for user, device in await self._profiles.select(_DEVICES, values):
            devices.setdefault(user, []).append(device)
        return devices

    async def tell(self, brand: str, devices: Sequence[str], id: str, why: str, expires_at: int) -> None:
        """Have devices take a message off the screen."""
        notice = _encode(Notice([id], why))
        ttl_s = max((expires_at - now_ms()) / 1000, NOTICE_S_MIN)
        posts = (self._post(f"{brand}/device/{device}/withdraw", notice, ttl_s=ttl_s) for device in devices)
        await asyncio.gather(*posts)

    def take_back(self, brand: str, older: Sequence[Older], detail: str) -> list[Older]:
        """Let nobody have these who has not got them yet. Returns those whom nobody had."""
        taken: list[Older] = []

        def work() -> None:
            for one in older:
                topic = topic_of(brand, one.kind, one.name)
                if one.seq is None or self._intake.take_back(
                    self._core, topic, one.seq, "withdrawn", "withdraw", detail
                ):
                    taken.append(one)

        self._run(work)
        return taken

    def _go(self, row: MessageRow, by: str, done: int) -> Progress:
        if (going := self._going.get(row.number)) is not None:
            return going
        progress = self._going[row.number] = Progress(row.recipients, done)
        self._spawn(self._withdraw(row, by, progress))
        return progress

    async def _withdraw(self, row: MessageRow, by: str, progress: Progress) -> None:
        try:
            # Who was published to before it was withdrawn stands so in the books, and nobody is any more.
            self._dispatcher.forget(row.number)
            await self._intake.until(self._core.fact_awaited)
            while not progress.done:
                try:
                    await self._some(row, by, progress)
                except Failed as error:
                    self._log("a message cannot be withdrawn", error=error.message, remedy=error.remedy)
                    await asyncio.sleep(RETRY_S)
                async with self._changed:
                    self._changed.notify_all()
        finally:
            del self._going[row.number]

    async def _some(self, row: MessageRow, by: str, progress: Progress) -> None:
        if progress.looked_at == 0:
            found = await self._messages.numbered(row.number)
            if found is not None and found.state == "filling":
                await asyncio.sleep(FILLING_S)
                return
            progress.recipients = 0 if found is None else found.recipients
        some = await self._messages.withdrawable(row.number, progress.looked_at, AT_ONCE)
        detail = f"{by or 'the operator'} withdrew it"
        taken = {one.recipient for one in self.take_back(row.brand, [one for one, _ in some], detail)}
        out = {one.recipient for one, state in some if state != "delivered"} & taken
        ended = [(row.number, one) for one in out]
        happened = await self._messages.end(ended, "withdrawn", "withdraw", detail, now_ms())
        self._books.announce(happened)
        there = [one for one, _ in some if one.recipient not in out]  # it is on a screen, or on the way to one
        users = await self.devices_of(row.brand, [one.name for one in there if one.kind == "user"])
        told = {one.recipient: users.get(one.name, []) if one.kind == "user" else [one.name] for one in there}
        devices = [device for of in told.values() for device in of]
        await self.tell(row.brand, devices, row.id, "withdrawn", row.expires_at)
        progress.withdrawn += len(happened)
        progress.told += len(devices)
        done = len(some) < AT_ONCE
        progress.looked_at = progress.recipients if done else some[-1][0].recipient
        words = {one: f"{detail}; told to take it off: {', '.join(of) or 'no device'}" for one, of in told.items()}
        await self._messages.withdrawn_from(row.number, None if done else progress.looked_at, words, now_ms())
        progress.done = done
