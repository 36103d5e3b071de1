"""Erases persons: out of the records, the books, the log and what is retained, and out of the files they stood in.

It is written down before anything is done, with the name, and goes on at the next start, whatever happens to the
process: every step may be done again. When nothing is left, the name goes from there, too; then the databases are
written anew, because SQLite leaves pieces of rows behind. What proves it says how much there was, and nothing of whom.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from broker.bridge.bridge import Bridge
from broker.bridge.intake import now_ms
from broker.errors import Failed, NotFound
from broker.identity import Identity, Role
from broker.limits import ERASED_AT_ONCE, REWRITTEN_BYTES_MAX
from broker.session.core import Core
from broker.store import erasures
from broker.store.audit import Done
from broker.store.database import Database, bytes_of, open_reader
from broker.store.entries import Who
from broker.store.erasures import Erasure, ErasureTable, Step, naming, pages
from broker.store.personal import LOG, Person, counted

FORMAT: Final = "pushbroker/erasure"
VERSION: Final = 1
RETRY_S: Final = 1.0
_REST_S: Final = 0.005  # between two steps: others write, too
_TRIES: Final = 40  # until what is under way has come to rest
_TRY_S: Final = 0.1
# What may be in flight to a brand's server that is away: nobody can take that back.
_HELD: Final = frozenset({"log", "retained"})

# What their devices did for others, before they were theirs.
_EVENTS: Final = """SELECT e.message, e.recipient, e.device, e.event FROM event e
  CROSS JOIN message m ON m.number = e.message AND m.brand = :brand
  WHERE e.device IN (SELECT value FROM json_each(:devices))"""
_KEYS: Final = "SELECT key FROM idempotency WHERE brand = :brand AND named(key)"
# Where a text of the books may name them: table, key, columns, which rows.
_TEXTS: Final = (
    ("message", "number", ("address", "answer", "request_id", "collapse_key"), "brand = :brand"),
    ("campaign", "number", ("definition", "next_run"), "brand = :brand"),
    ("campaign_run", "problem", ("problem",), "campaign IN (SELECT number FROM campaign WHERE brand = :brand)"),
)

Devices = Literal["remove", "keep"]
Files = tuple[tuple[str, Path], ...]


class Register(Protocol):
    """Who there is."""

    async def user_erase(
        self, brand: str, name: str, *, devices_too: bool, note: Callable[[], Awaitable[object]]
    ) -> None:
        """Remove a user; `note` is called in the same transaction."""


class Rewritable(Protocol):
    """A database that can be written anew."""

    async def rewrite(self) -> None:
        """Do it."""


class Erasures:
    """Does them, one after the other. `gone`: somebody of whom others remember something is no more."""

    def __init__(
        self,
        *,
        core: Core,
        bridge: Bridge,
        register: Register,
        journal: Rewritable,
        files: Files,
        gone: Callable[[Who], object],
        run: Callable[[Callable[[], object]], None],
        log: Callable[..., object],
    ) -> None:
        self._core = core
        self._bridge = bridge
        self._register = register
        self._files = dict(files)
        self._rewritable: dict[str, Rewritable] = {
            "journal": journal, "messages": bridge.messages, "records": bridge.people.records
        }  # fmt: skip
        self._table = ErasureTable(bridge.people.records)
        self._gone = gone
        self._run = run
        self._log = log
        self._asked: asyncio.Queue[Erasure] = asyncio.Queue()
        self._proofs: dict[str, asyncio.Future[dict[str, Any]]] = {}

    async def open(self) -> None:
        """Take over what the last process left. Files that were too large to be written anew are, before all else."""
        for one in await self._table.all():
            if not one.user:
                await self._rewrite(one, bytes_max=None)
                await self._end(one)
            else:
                self._asked.put_nowait(one)

    async def run(self) -> None:
        """Erase whoever is to be, for ever. What cannot be done now is tried again, after all others."""
        while True:
            one = await self._asked.get()
            told = self._proofs.pop(one.pseudonym, None) or asyncio.get_running_loop().create_future()
            try:
                told.set_result(await self._erase(one))
            except Failed as error:
                self._log("somebody cannot be erased yet", error=error.message, remedy=error.remedy)
                self._asked.put_nowait(one)
                told.set_exception(
                    Failed(error.message, remedy="It is tried again until it is done, after a restart, too.")
                )
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # noqa: BLE001 - it is tried again at the next start; others are erased
                self._core.unexpected(error)
                told.set_exception(
                    Failed("the broker met an error that it did not expect", remedy="Look into its log.")
                )
            told.exception()  # nobody may wait for it

    async def erase(self, brand: str, name: str, *, devices: Devices, actor: str) -> "asyncio.Future[dict[str, Any]]":
        """From when this returns they are being erased, whatever happens. The future has what proves it."""
        theirs = tuple(one.name for one in await self._bridge.people.records.devices(brand, user=name))
        one = Erasure(
            pseudonym=erasures.new_pseudonym(),
            brand=brand,
            user=name,
            devices=theirs if devices == "remove" else (),
            shared=theirs if devices == "keep" else (),
            actor=actor,
            began_at=now_ms(),
            found={},
        )
        one.found = await self._count(one.person, all=True)
        if not one.found:
            raise NotFound(
                f"nothing is known of a user {name!r} of {brand}",
                remedy=f"See who there is: pushbroker user list {brand}",
            )
        await self._register.user_erase(
            brand, name, devices_too=devices == "remove", note=lambda: self._table.write(one)
        )
        told = self._proofs[one.pseudonym] = asyncio.get_running_loop().create_future()
        self._asked.put_nowait(one)
        return told

    # -- one of them -------------------------------------------------------------------------------------------------

    async def _erase(self, one: Erasure) -> dict[str, Any]:
        if one.user:
            await self._data(one)
        await self._rewrite(one, bytes_max=REWRITTEN_BYTES_MAX)
        if one.files:
            return _proof(one)  # the rest is done at the next start, and stands in the log then
        return await self._end(one)

    async def _data(self, one: Erasure) -> None:
        person = one.person
        for _ in range(_TRIES):
            await self._bridge.intake.until(self._core.fact_awaited)
            await self._bridge.devices_gone()
            self._bridge.presence.forget([(person.brand, device) for device in person.devices])
            await self._books(person, one.pseudonym)
            self._gone(Who(person.brand, "user", person.user))
            for device in person.devices:
                self._gone(Who(person.brand, "device", device))
            await self._records(person, one.pseudonym)
            await self._topics(person)
            left = await self._count(person)
            left.pop("erasures", None)
            if not left:
                break
            await asyncio.sleep(_TRY_S)
        if left.keys() - _HELD:
            raise Failed(f"there is something left of somebody: {', '.join(left)}")
        one.left_over = left
        one.user, one.devices, one.shared = "", (), ()
        one.files = tuple(self._files)
        await self._table.keep(one)

    async def _count(self, person: Person, *, all: bool = False) -> dict[str, int]:
        counts: dict[str, int] = {}
        for schema in self._files:
            async with self._reader(schema) as db:
                counts |= await db.call(lambda connection, schema=schema: counted(connection, schema, person, all=all))  # type: ignore[misc]
        return counts

    @asynccontextmanager
    async def _reader(self, schema: str) -> AsyncIterator[Database]:
        db = await open_reader(self._files[schema])
        try:
            yield db
        finally:
            await db.close()

    async def _steps(self, step: Step) -> None:
        more = True
        while more:
            more = await self._bridge.messages.write(step)
            await asyncio.sleep(_REST_S)

    async def _books(self, person: Person, pseudonym: str) -> None:
        await self._steps(erasures.recipients(person, now_ms()))
        await self._steps(erasures.conversations(person))
        await self._steps(erasures.commands(person))
        async with self._reader("messages") as db:
            async for others in pages(db, person, _EVENTS):
                await self._steps(erasures.events(others))
            async for named in pages(db, person, _KEYS):
                await self._steps(erasures.keys(person.brand, [key for (key,) in named]))
            for table, key, columns, where in _TEXTS:
                async for rows in naming(db, person, pseudonym, table, key, columns, where):
                    await self._steps(erasures.renamed(table, key, rows))

    async def _records(self, person: Person, pseudonym: str) -> None:
        ours = "brand = :brand"
        async with self._reader("records") as db:
            async for segments in naming(db, person, pseudonym, "segments", "name", ("condition",), ours):
                for name, columns in segments:
                    await self._table.rename_segment(person.brand, name, columns["condition"])
            async for noted in naming(db, person, pseudonym, "audit", "number", ("target", "detail"), ours):
                await self._table.rename("audit", "number", noted)

    async def _topics(self, person: Person) -> None:
        """Their sessions, what waits under their topics, and what is retained there."""
        core, brand = self._core, person.brand
        sql = "SELECT DISTINCT role, name FROM session WHERE brand = :brand AND user = :user"
        async with self._reader("journal") as db:
            of_theirs = await db.call(lambda connection: connection.execute(sql, person.parameters).fetchall())
        for role, name in of_theirs:
            path = Identity(Role(role), brand, name).path
            self._run(lambda path=path: core.end_sessions(path, person.user))  # type: ignore[misc]
        filters = [f"{brand}/user/{person.user}/#", *(f"{brand}/device/{device}/#" for device in person.devices)]
        filters += [f"{brand}/device/{device}/{own}" for device in person.shared for own in ("answer", "conversation")]

        def retained() -> None:
            for filter in filters:
                core.forget_retained(filter.encode())

        self._run(retained)
        await self._settled()
        waiting = f"SELECT l.seq, l.topic FROM log l WHERE {LOG.format('l')}"  # noqa: S608 - our own words
        async with self._reader("journal") as db:
            found = await db.call(lambda connection: connection.execute(waiting, person.parameters).fetchall())
        for some in (found[at : at + ERASED_AT_ONCE] for at in range(0, len(found), ERASED_AT_ONCE)):

            def take_back(some: list[tuple[int, bytes]] = some) -> None:
                for seq, topic in some:
                    self._bridge.intake.take_back(core, topic, seq, "dropped", "erased", "")

            self._run(take_back)
            await asyncio.sleep(_REST_S)
        await self._bridge.intake.until(core.fact_awaited)
        await self._settled()

    async def _settled(self) -> None:
        """Wait until all that was done is on the disk."""
        done = asyncio.Event()
        self._run(lambda: self._core.settled(done.set))
        await done.wait()

    # -- its end -----------------------------------------------------------------------------------------------------

    async def _rewrite(self, one: Erasure, *, bytes_max: int | None) -> None:
        for schema in one.files:
            path = self._files[schema]
            if bytes_max is not None and bytes_of(path) > bytes_max:
                self._log("a large file is written anew at the next start", path=str(path), bytes=bytes_of(path))
                continue
            began = time.monotonic()
            await self._rewritable[schema].rewrite()
            one.files = tuple(name for name in one.files if name != schema)
            self._log("written anew", path=str(path), seconds=round(time.monotonic() - began, 3))
        await self._table.keep(one)

    async def _end(self, one: Erasure) -> dict[str, Any]:
        proof = _proof(one)
        done = Done(
            actor=one.actor, brand=one.brand, operation="user.erased", target=f"user/{one.pseudonym}", detail=proof
        )
        await self._table.end(one, done)
        return proof


def _proof(one: Erasure) -> dict[str, Any]:
    """What was removed, and when; nothing that says of whom."""

    def iso(at: int) -> str:
        return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

    return {
        "format": FORMAT,
        "version": VERSION,
        "pseudonym": one.pseudonym,
        "brand": one.brand,
        "began_at": iso(one.began_at),
        "ended_at": iso(now_ms()),
        "removed": one.found,
        "left": one.left_over,
        "files_at_next_start": list(one.files),
    }
