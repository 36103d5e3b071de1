"""The fleet in DATA/messages.db: when devices were there, what they were told to do, how they are set up. The SQL.

Times are milliseconds since 1970 (UTC).
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from broker.store.messages import Messages

CommandState = Literal["running", "halted", "cancelled", "done"]
DeviceState = Literal["waiting", "sent", "succeeded", "failed", "expired", "cancelled"]
STATES: Final[tuple[DeviceState, ...]] = ("waiting", "sent", "succeeded", "failed", "expired", "cancelled")

_json: Final = msgspec.json.Encoder().encode


class Seen(NamedTuple):
    """Whether a device is online, since when it is or is not, and when it was there last."""

    brand: str
    device: str
    online: bool
    since: int
    seen: int


class Command(msgspec.Struct, kw_only=True):
    """A command as it is kept. `number` is 0 before that."""

    number: int = 0
    id: str
    brand: str
    name: str
    args: str
    devices: int
    stages: str
    stage: int = 1
    halt_after: str
    forgiven: int = 0
    state: CommandState = "running"
    why: str = ""
    created_at: int
    expires_at: int
    ended_at: int | None = None


class Told(msgspec.Struct, kw_only=True):
    """What became of a command on one device."""

    number: int
    device: str
    state: DeviceState
    seq: int | None
    sent_at: int | None
    ended_at: int | None
    output: str
    error: str


class Configured(msgspec.Struct, kw_only=True):
    """How a device is to be set up, and how it says that it is."""

    brand: str
    device: str
    version: int
    desired: str
    desired_at: int
    told: int
    reported_version: int
    reported: str
    reported_at: int | None
    error: str


class Answer(NamedTuple):
    """What a device says came of a command."""

    id: str
    brand: str
    device: str
    state: Literal["succeeded", "failed"]
    output: str
    error: str
    at: int


_COMMAND: Final = Command.__struct_fields__
_TOLD: Final = Told.__struct_fields__
_CONFIGURED: Final = Configured.__struct_fields__


class FleetTables:
    """The tables of the fleet, among the books. Every method raises `Failed` as those of `Messages` do."""

    def __init__(self, messages: Messages) -> None:
        self._read = messages.read
        self._write = messages.write

    # -- who is there --------------------------------------------------------------------------------------------------

    async def presence(self, seen: Sequence[Seen], now: int) -> None:
        """Keep these; the broker is there now."""

        def work(db: sqlite3.Connection) -> None:
            sql = """INSERT INTO presence (brand, device, online, since, seen)
                     SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?) WHERE true
                     ON CONFLICT DO UPDATE SET online = excluded.online, since = excluded.since, seen = excluded.seen"""
            db.execute(sql, (_array(seen),))
            db.execute("UPDATE alive SET at = ?", (now,))

        await self._write(work)

    async def nobody(self) -> None:
        """At the start nobody is there. Who was when the broker ended, was seen until then."""
        sql = """UPDATE presence SET online = 0, since = max(since, (SELECT at FROM alive)),
                   seen = max(seen, (SELECT at FROM alive)) WHERE online"""
        await self._write(lambda db: db.execute(sql))

    async def last_seen(self, brand: str | None) -> list[Seen]:
        """Who was ever there; as the tables have it, not as it is."""
        sql = "SELECT brand, device, online, since, seen FROM presence WHERE ?1 IS NULL OR brand = ?1"
        rows = await self._read(lambda db: db.execute(sql, (brand,)).fetchall())
        return [Seen(brand, device, bool(online), since, seen) for brand, device, online, since, seen in rows]

    async def forget(self, gone: Sequence[tuple[str, str]], now: int) -> None:
        """These devices are no more."""

        def work(db: sqlite3.Connection) -> None:
            names = _array(gone)
            for table in ("presence", "configuration"):
                sql = f"""DELETE FROM {table} WHERE (brand, device) IN
                            (SELECT value ->> 0, value ->> 1 FROM json_each(?))"""  # noqa: S608 - our own words
                db.execute(sql, (names,))
            sql = """UPDATE command_device SET state = 'cancelled', ended_at = ?, error = 'the device was removed'
                     WHERE state IN ('waiting', 'sent') AND (command, number) IN (
                       SELECT d.command, d.number FROM json_each(?) g
                       CROSS JOIN command_device d ON d.device = g.value ->> 1 AND d.state IN ('waiting', 'sent')
                       CROSS JOIN command c ON c.number = d.command AND c.brand = g.value ->> 0)"""
            db.execute(sql, (now, names))

        await self._write(work)

    async def known(self) -> list[tuple[str, str]]:
        """All devices of which anything is kept that is to be forgotten with them."""
        sql = """SELECT brand, device FROM presence UNION SELECT brand, device FROM configuration
                 UNION SELECT c.brand, d.device FROM command c CROSS JOIN command_device d ON d.command = c.number
                   WHERE c.state IN ('running', 'halted') AND d.state IN ('waiting', 'sent')"""
        return await self._read(lambda db: db.execute(sql).fetchall())

    # -- commands ------------------------------------------------------------------------------------------------------

    async def add(self, command: Command, devices: Sequence[str], keep: int) -> Command:
        """A new command for these devices, in their order. Of those of the brand that are over, `keep` are kept."""

        def work(db: sqlite3.Connection) -> int:
            fields = [name for name in _COMMAND if name != "number"]
            sql = f"INSERT INTO command ({', '.join(fields)}) VALUES ({', '.join('?' * len(fields))})"  # noqa: S608
            number = db.execute(sql, [getattr(command, name) for name in fields]).lastrowid
            assert number is not None
            sql = """INSERT INTO command_device (command, number, device, state)
                     SELECT ?, key + 1, value, 'waiting' FROM json_each(?)"""
            db.execute(sql, (number, _array(devices)))
            sql = """DELETE FROM command WHERE number IN (
                       SELECT number FROM command WHERE brand = ? AND state IN ('done', 'cancelled')
                       ORDER BY number DESC LIMIT -1 OFFSET ?)"""
            db.execute(sql, (command.brand, keep))
            return number

        command.number = await self._write(work)
        return command

    async def command(self, id: str) -> Command | None:
        """One command."""
        found = await self._read(lambda db: _commands(db, "id = ?", id))
        return found[0] if found else None

    async def open(self) -> list[Command]:
        """All that are not over."""
        return await self._read(lambda db: _commands(db, "state IN ('running', 'halted') ORDER BY number"))

    async def commands(self, brand: str | None, most: int) -> list[Command]:
        """The latest, the newest first."""
        where = "(?1 IS NULL OR brand = ?1) ORDER BY number DESC LIMIT ?2"
        return await self._read(lambda db: _commands(db, where, brand, most))

    async def change(self, command: Command) -> None:
        """Keep where a command is."""
        sql = "UPDATE command SET stage = ?, forgiven = ?, state = ?, why = ?, ended_at = ? WHERE number = ?"
        values = (command.stage, command.forgiven, command.state, command.why, command.ended_at, command.number)
        await self._write(lambda db: db.execute(sql, values))

    async def counts(self, command: int, up_to: int | None = None) -> dict[DeviceState, int]:
        """How many of its devices, or of the first of them, are in each state."""
        sql = """SELECT state, count(*) FROM command_device
                 WHERE command = ?1 AND (?2 IS NULL OR number <= ?2) GROUP BY state"""
        found = dict(await self._read(lambda db: db.execute(sql, (command, up_to)).fetchall()))
        return {state: found.get(state, 0) for state in STATES}

    async def told(
        self, command: int, state: DeviceState | None, after: int, most: int, up_to: int | None = None
    ) -> list[Told]:
        """What became of it on its devices, some of them, those behind the one with the number `after`."""
        sql = f"""SELECT {", ".join(_TOLD)} FROM command_device
                  WHERE command = ?1 AND (?2 IS NULL OR state = ?2) AND number > ?3 AND (?5 IS NULL OR number <= ?5)
                  ORDER BY number LIMIT ?4"""  # noqa: S608 - our own words
        values = (command, state, after, most, up_to)
        rows = await self._read(lambda db: db.execute(sql, values).fetchall())
        return [Told(**dict(zip(_TOLD, row, strict=True))) for row in rows]

    async def waiting_of(self, command: Command, devices: Sequence[str], up_to: int) -> list[tuple[int, str]]:
        """Those of these devices, with their numbers, that wait for the command and may have it."""
        sql = """SELECT d.number, d.device FROM json_each(?) n
                 CROSS JOIN command_device d ON d.command = ? AND d.device = n.value
                 WHERE d.state = 'waiting' AND d.number <= ?"""
        values = (_array(devices), command.number, up_to)
        return await self._read(lambda db: db.execute(sql, values).fetchall())

    async def sent(self, command: int, sent: Sequence[tuple[int, int]], now: int) -> None:
        """These devices (their numbers) were sent it; each with the place in the log."""
        sql = """UPDATE command_device SET state = 'sent', sent_at = ?, seq = s.value ->> 1 FROM json_each(?) s
                 WHERE command = ? AND number = s.value ->> 0 AND state = 'waiting'"""
        await self._write(lambda db: db.execute(sql, (now, _array(sent), command)))

    async def unsend(self, brand: str, devices: Sequence[str]) -> None:
        """The sessions of these devices are new: what was sent to them and not answered waits again."""
        sql = """UPDATE command_device SET state = 'waiting', seq = NULL WHERE state = 'sent' AND (command, number) IN (
                   SELECT d.command, d.number FROM json_each(?) n
                   CROSS JOIN command_device d ON d.device = n.value AND d.state IN ('waiting', 'sent')
                   CROSS JOIN command c ON c.number = d.command AND c.brand = ?)"""
        await self._write(lambda db: db.execute(sql, (_array(devices), brand)))

    async def unsend_all(self, command: int) -> None:
        """Who was sent this and has not answered waits for it again."""
        sql = "UPDATE command_device SET state = 'waiting', seq = NULL WHERE command = ? AND state = 'sent'"
        await self._write(lambda db: db.execute(sql, (command,)))

    async def answer(self, answer: Answer) -> bool:
        """Note what a device says; the first word counts. False: nothing was asked of it, or it has said so before."""
        sql = """UPDATE command_device SET state = ?, ended_at = ?, output = ?, error = ?
                 WHERE state NOT IN ('succeeded', 'failed') AND device = ?
                   AND command = (SELECT number FROM command WHERE id = ? AND brand = ?)"""
        values = (
            *(answer.state, answer.at, answer.output, answer.error),
            *(answer.device, answer.id, answer.brand),
        )
        return bool(await self._write(lambda db: db.execute(sql, values).rowcount))

    async def end(self, command: int, state: Literal["expired", "cancelled"], now: int) -> None:
        """Who has not answered by now is not waited for."""
        sql = """UPDATE command_device SET state = ?, ended_at = ?
                 WHERE command = ? AND state IN ('waiting', 'sent')"""
        await self._write(lambda db: db.execute(sql, (state, now, command)))

    # -- configuration -------------------------------------------------------------------------------------------------

    async def configure(
        self, brand: str, devices: Sequence[str], changes: Mapping[str, str | None], now: int, most: int, *, write: bool
    ) -> tuple[int, str]:
        """Change what is desired of these devices, or see what that would do; None takes a key out. All, or nothing.

        Returns of how many that changed anything, and the device whose configuration would be larger than `most` bytes.
        """

        def work(db: sqlite3.Connection) -> tuple[int, str]:
            sql = """SELECT device, version, desired FROM configuration
                     WHERE brand = ? AND device IN (SELECT value FROM json_each(?))"""
            known = {
                device: (version, desired) for device, version, desired in db.execute(sql, (brand, _array(devices)))
            }
            changed = []
            for device in devices:
                version, before = known.get(device, (0, "{}"))
                config = {**msgspec.json.decode(before), **changes}
                after = _text({key: config[key] for key in sorted(config) if config[key] is not None})
                if len(after.encode()) > most:
                    return 0, device
                if after != before:
                    changed.append((brand, device, version + 1, after, now))
            if not write:
                return len(changed), ""
            db.executemany(
                """INSERT INTO configuration (brand, device, version, desired, desired_at, told)
                   VALUES (?, ?, ?, ?, ?, 0)
                   ON CONFLICT DO UPDATE SET version = excluded.version, desired = excluded.desired,
                     desired_at = excluded.desired_at""",
                changed,
            )
            return len(changed), ""

        return await self._write(work)

    async def untold(self, most: int) -> list[Configured]:
        """Devices that were not told yet."""
        return await self._read(lambda db: _configured(db, "told < version LIMIT ?", most))

    async def was_told(self, told: Sequence[Configured]) -> None:
        """These were published as they are here."""
        sql = "UPDATE configuration SET told = ? WHERE brand = ? AND device = ? AND told < ?"
        rows = [(one.version, one.brand, one.device, one.version) for one in told]
        await self._write(lambda db: db.executemany(sql, rows))

    async def reported(self, brand: str, device: str, version: int, config: str, error: str, now: int) -> bool:
        """Note what a device says; False when it could not have been told so, or has said something newer."""
        sql = """UPDATE configuration SET reported_version = ?, reported = ?, error = ?, reported_at = ?
                 WHERE brand = ? AND device = ? AND reported_version <= ? AND version >= ?"""
        values = (version, config, error, now, brand, device, version, version)
        return bool(await self._write(lambda db: db.execute(sql, values).rowcount))

    async def configurations(self, brand: str | None, devices: Sequence[str] | None = None) -> list[Configured]:
        """Of one brand or all, and of these devices or all."""
        where = """(?1 IS NULL OR brand = ?1) AND (?2 IS NULL OR device IN (SELECT value FROM json_each(?2)))
                   ORDER BY brand, device"""
        names = None if devices is None else _array(devices)
        return await self._read(lambda db: _configured(db, where, brand, names))


def _commands(db: sqlite3.Connection, where: str, *values: object) -> list[Command]:
    rows = db.execute(f"SELECT {', '.join(_COMMAND)} FROM command WHERE {where}", values)  # noqa: S608 - our own words
    return [Command(**dict(zip(_COMMAND, row, strict=True))) for row in rows]


def _configured(db: sqlite3.Connection, where: str, *values: object) -> list[Configured]:
    rows = db.execute(f"SELECT {', '.join(_CONFIGURED)} FROM configuration WHERE {where}", values)  # noqa: S608
    return [Configured(**dict(zip(_CONFIGURED, row, strict=True))) for row in rows]


def _text(value: Any) -> str:
    return _json(value).decode()


def _array(values: Sequence[Any]) -> str:
    return _text(values)
