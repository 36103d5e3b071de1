"""All that is known of a person: read out of every database, in one document."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from broker.admin.messages import at
from broker.store import personal
from broker.store.database import Database, open_database, open_reader
from broker.store.personal import Person

if TYPE_CHECKING:
    from broker.admin.operations import Context

FORMAT: Final = "pushbroker/person"
VERSION: Final = 1
# Columns that are times. Those of identities are whole seconds, those of the journal microseconds, all others
# milliseconds: no time since 1973 is taken for one of another unit.
_TIMES: Final = ("at", "since", "until", "seen", "not_before", "not_after")
_MILLISECONDS_MIN: Final = 10**11
_MICROSECONDS_MIN: Final = 10**14


async def exported(context: "Context", brand: str, name: str) -> AsyncIterator[dict[str, Any]]:
    """A head, then rows by section, then how many there were of each."""
    await context.directory.check(brand, "user", name)
    devices = await context.directory.device_list(brand, user=name)
    person = Person(brand=brand, user=name, devices=tuple(device.name for device in devices))
    sections = [table.section for table in personal.TABLES if table.theirs]
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    yield {"format": FORMAT, "version": VERSION, "brand": brand, "name": name, "exported_at": now, "sections": sections}
    counts = dict.fromkeys(sections, 0)
    for schema, path in databases(context):
        async for section, rows in _read(context, schema, path, person):
            counts[section] += len(rows)
            yield {"section": section, "rows": [_for_readers(row) for row in rows]}
    yield {"end": True, "counts": counts}


async def traces(context: "Context", brand: str, name: str) -> dict[str, Any]:
    """How much there is of somebody who is there, or was."""
    await context.directory.check(brand)
    devices = await context.directory.records.devices(brand, user=name)
    person = Person(brand=brand, user=name, devices=tuple(device.name for device in devices))
    counts: dict[str, int] = {}
    for schema, path in databases(context):
        db = await _open(context, schema, path)
        try:
            counts |= await db.call(lambda connection, schema=schema: personal.counted(connection, schema, person))  # type: ignore[misc]
        finally:
            await db.close()
    return {"devices": list(person.devices), "counts": counts}


def databases(context: "Context") -> list[tuple[str, Path]]:
    """Each with its file, those that are there."""
    settings = context.settings
    paths = (
        ("records", settings.records_path),
        ("messages", settings.messages_path),
        ("journal", settings.journal_path),
    )
    return [(schema, path) for schema, path in paths if path.exists()]


async def _read(
    context: "Context", schema: str, path: Path, person: Person
) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    db = await _open(context, schema, path)
    try:
        async for found in personal.read(db, schema, person):
            yield found
    finally:
        await db.close()


async def _open(context: "Context", schema: str, path: Path) -> Database:
    # The records are open here, even where no broker runs.
    live = context.broker is not None or schema == "records"
    return await (open_reader(path) if live else open_database(path, schema))


def _for_readers(row: dict[str, Any]) -> dict[str, Any]:
    """Times as people and programs read them."""
    return {name: _time(name, value) for name, value in row.items()}


def _time(name: str, value: Any) -> Any:
    if not isinstance(value, int) or not (name in _TIMES or name.endswith(("_at", "_since"))):
        return value
    if value == 0:  # never
        return None
    if value < _MILLISECONDS_MIN:
        return at(value * 1000)
    return at(value // 1000 if value > _MICROSECONDS_MIN else value)
