"""How devices are to be set up, and how they say that they are.

What is desired of a device is retained on its `desired`, with a version that grows with each change; the device says
on `up/reported` which version it has, and what went wrong with it. Between the two is who is behind.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Final, Protocol

import msgspec

from broker import limits
from broker.bridge.facts import Saying
from broker.bridge.fleet import Devices, devices_of
from broker.bridge.intake import Intake, now_ms
from broker.bridge.people import People
from broker.bridge.presence import Who
from broker.counters import Counters
from broker.errors import Failed, NotFound, Refused
from broker.identity import check_name
from broker.store.fleet import FleetTables

RETRY_S: Final = 5.0
_json: Final = msgspec.json.Encoder().encode


class Post(Protocol):
    """Publishes, and returns when it is safe."""

    def __call__(self, topic: str, payload: bytes, *, retain: bool) -> Awaitable[int]:
        """Publish one message; returns the reason code."""


class _Report(msgspec.Struct):
    """What a device says on `up/reported`."""

    version: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    config: dict[str, str] = {}
    error: str = ""


class Configuration:
    """Keeps what is desired, tells devices, hears them. `handle` may be called again for what was heard before."""

    def __init__(
        self,
        *,
        tables: FleetTables,
        people: People,
        intake: Intake,
        post: Post,
        counters: Counters,
        log: Callable[..., object],
    ) -> None:
        self._tables = tables
        self._people = people
        self._post = post
        self._counters = counters
        self._log = log
        self._change = asyncio.Lock()
        self._changed = asyncio.Event()
        self._decode = msgspec.json.Decoder(_Report).decode
        intake.on("reported", self.handle)

    async def set(self, brand: str, to: Devices, changes: Mapping[str, str | None]) -> dict[str, int]:
        """Change what is desired of devices; None takes a key out. Says of how many, and how many that changed."""
        for key, value in changes.items():
            check_name("setting", key)
            if value is not None and not value.isprintable():
                raise Refused(f"the value of {key} has characters that cannot be seen")
        async with self._change:
            await self._change_all(brand, to, changes, write=False)  # it is refused before anything is changed
            return await self._change_all(brand, to, changes, write=True)

    async def _change_all(
        self, brand: str, to: Devices, changes: Mapping[str, str | None], *, write: bool
    ) -> dict[str, int]:
        devices = changed = 0
        async for page in devices_of(self._people, brand, to):
            now_changed, large = await self._tables.configure(
                brand, page, changes, now_ms(), limits.CONFIG_BYTES_MAX, write=write
            )
            if large:
                raise Refused(
                    f"the configuration of {large} would take more than {limits.CONFIG_BYTES_MAX:,} bytes",
                    reason=0x95,
                    remedy="Have devices fetch what is large, and write where it is.",
                )
            devices += len(page)
            changed += now_changed
            self._changed.set()
        if not devices:
            raise NotFound("there is no such device", remedy=f"See which there are: pushbroker device list {brand}")
        return {"devices": devices, "changed": changed}

    async def handle(self, saying: Saying) -> None:
        """Note how a device says that it is set up."""
        try:
            if len(saying.payload) > limits.REPORT_BYTES_MAX:
                raise Refused(f"more than {limits.REPORT_BYTES_MAX} bytes")
            report = self._decode(saying.payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Refused) as error:
            self._refused(saying, str(error))
            return
        config = _json(dict(sorted(report.config.items()))).decode()
        noted = await self._tables.reported(
            saying.brand, saying.device, report.version, config, report.error, saying.at_ms
        )
        if not noted:
            self._refused(saying, f"it is not to have version {report.version}, or has said that it has a newer one")

    def _refused(self, saying: Saying, why: str) -> None:
        self._counters.fleet_refused += 1
        self._log("a report of a configuration is ignored", client=f"{saying.brand}/device/{saying.device}", error=why)

    async def forget(self, gone: Sequence[Who]) -> None:
        """These devices are no more: what is retained for them goes."""
        for brand, device in gone:
            for one in await self._tables.configurations(brand, [device]):
                await self._post(_topic(one.brand, one.device), b"", retain=True)

    async def run(self) -> None:
        """Tell devices what has changed, for ever."""
        self._changed.set()  # what the last process did not get to
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                told = await self._tell()
            except Failed as error:
                self._log("devices are not told their configuration", error=error.message, remedy=error.remedy)
                told = False
            if not told:
                await asyncio.sleep(RETRY_S)
                self._changed.set()

    async def _tell(self) -> bool:
        """Whether all of them could be told."""
        while untold := await self._tables.untold(limits.CONFIG_AT_ONCE):
            said = [_json({"version": one.version, "config": msgspec.json.decode(one.desired)}) for one in untold]
            reasons = await asyncio.gather(
                *(
                    self._post(_topic(one.brand, one.device), payload, retain=True)
                    for one, payload in zip(untold, said, strict=True)
                )
            )
            await self._tables.was_told([one for one, reason in zip(untold, reasons, strict=True) if reason < 0x80])
            if refused := [reason for reason in reasons if reason >= 0x80]:
                self._log("devices are not told their configuration", devices=len(refused), reason=refused[0])
                return False
        return True


def _topic(brand: str, device: str) -> str:
    return f"{brand}/device/{device}/desired"
