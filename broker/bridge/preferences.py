"""What devices say of their user on `up/preferences`, and what counts, retained, for all of the user's devices."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from broker.bridge.facts import Saying
from broker.bridge.people import People, Wanted
from broker.counters import Counters
from broker.errors import Failed, Refused
from broker.limits import PREFERENCES_BYTES_MAX
from broker.store.entries import Profile, Who

AT_ONCE: Final = 100  # of whom is forgotten in one transaction that they had to be told
RETRY_S: Final = 1.0


class Post(Protocol):
    """Publishes, and returns when it is safe."""

    def __call__(self, topic: str, payload: bytes, *, retain: bool) -> Awaitable[int]:
        """Publish one message; returns the reason code."""


class Preferences:
    """Hears what devices say, and tells them what counts, in the order of the changes.

    `handle` may be called again for what was heard before. `run` tells; it goes on for ever. Whom it owes that stands
    in the records, by the same transaction that changed something, so that no crash leaves anybody untold.
    retained(topic): what devices were told last, if anything.
    """

    def __init__(
        self,
        people: People,
        post: Post,
        retained: Callable[[bytes], object],
        counters: Counters,
        log: Callable[..., object],
    ) -> None:
        self._people = people
        self._post = post
        self._retained = retained
        self._counters = counters
        self._log = log
        self._decode = msgspec.json.Decoder(Wanted).decode
        self._encode = msgspec.json.Encoder().encode
        self._changed = asyncio.Event()
        self._changed.set()  # perhaps the last process owes something
        people.watch(self.changed)

    async def handle(self, saying: Saying) -> None:
        """Note what a device says: of its user, or of itself where it has none."""
        who = Who(saying.brand, "user", saying.user) if saying.user else Who(saying.brand, "device", saying.device)
        try:
            if len(saying.payload) > PREFERENCES_BYTES_MAX:
                raise Refused(f"more than {PREFERENCES_BYTES_MAX} bytes")
            await self._people.hear(who, self._decode(saying.payload), f"device/{saying.device}", saying.at)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Refused) as error:
            self._counters.preferences_refused += 1
            self._log("preferences refused", client=f"{saying.brand}/device/{saying.device}", error=str(error))

    def changed(self) -> None:
        """There is somebody to be told."""
        self._changed.set()

    async def run(self) -> None:
        """Tell what has changed. What cannot be read or written is tried again."""
        profiles = self._people.profiles
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                while untold := await profiles.untold(AT_ONCE):
                    for who, _ in untold:
                        await self._tell(who)
                    async with self._people.records.transaction():
                        await profiles.told(untold)
            except Failed as error:
                self._log("preferences cannot be told", error=error.message, remedy=error.remedy)
                await asyncio.sleep(RETRY_S)
                self._changed.set()

    async def _tell(self, who: Who) -> None:
        records = self._people.records
        if who.kind == "user":
            devices = await records.devices(who.brand, user=who.name)
        else:
            devices = await records.devices(who.brand, who.name)
            if devices and devices[0].user:
                who = Who(who.brand, "user", devices[0].user)
        payload = self._said(await self._people.profiles.profile(who))
        for device in devices:
            topic = f"{device.brand}/device/{device.name}/preferences"
            if not payload and not self._retained(topic.encode()):
                continue
            if reason := await self._post(topic, payload, retain=True):  # as much is retained as may be
                self._log("preferences not told", who=f"{device.brand}/device/{device.name}", reason=reason)

    def _said(self, profile: Profile) -> bytes:
        """What counts, as JSON; nothing, which ends the retained message, where nobody ever said anything."""
        wanted = profile.preferences
        topics = {consent.topic: consent.state == "in" for consent in profile.topics}
        follows = {followed.item: followed.every_s for followed in profile.follows}
        if not topics and not follows and wanted == type(wanted)():
            return b""
        said = {"topics": topics, **msgspec.to_builtins(wanted)}
        return self._encode({**said, "follows": follows} if follows else said)
