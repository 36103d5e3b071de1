"""When a campaign runs: once, or as a cron line says, on the clock of one place or on that of each recipient.

Times come and go as aware datetimes. A day without 02:30 has a run of 02:30 at 03:00, and one with two of them has one
run, as cron does it.
"""

from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from broker.bridge.restraint import check_zone
from broker.errors import Refused

# Where a day begins first (Kiritimati). On the clocks of recipients a run begins when that place has its time, and each
# of them waits for its own.
EARLIEST: Final = timedelta(hours=14)
_CRON_FIELDS: Final = 5


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`at` or `cron`; with neither it runs once, when it is started. `at` is the time on the clock that counts."""

    at: datetime | None = None  # without a zone
    cron: str = ""  # minute hour day month weekday
    zone: str = "UTC"
    local: bool = False  # the clock that counts is not that of `zone`, but that of each recipient


class Run(msgspec.Struct, frozen=True):
    """One time at which a campaign runs."""

    at: datetime  # when it begins, which is what it is known by
    clock: datetime | None = None  # without a zone: when each recipient is due where they are


def checked(schedule: Schedule) -> Schedule:
    """The schedule, or `Refused` with what is wrong."""
    if schedule.at is not None and schedule.cron:
        raise Refused("a campaign runs at a time or as a cron line says", remedy="Give --at or --cron, not both.")
    if schedule.at is not None and schedule.at.tzinfo is not None:
        raise Refused("a time on the clock of a zone has no offset of its own", remedy="Write 2026-11-24T09:00.")
    if schedule.local and schedule.at is None and not schedule.cron:
        raise Refused("there is no time to wait for where each recipient is", remedy="Say which: --at or --cron.")
    check_zone(schedule.zone)
    if schedule.cron:
        try:
            if len(schedule.cron.split()) != _CRON_FIELDS:
                raise CronSimError("five fields are needed: minute, hour, day, month, weekday")
            CronSim(schedule.cron, datetime(2026, 1, 1))  # only whether it can be read
        except CronSimError as error:
            raise Refused(
                f"{schedule.cron!r} is no cron line: {error}", remedy="Write such as '0 9 * * mon': Mondays at 9:00."
            ) from None
    return schedule


def once(schedule: Schedule, now: datetime) -> Run:
    """The run of a schedule without a cron line: at its time, else now."""
    return Run(now) if schedule.at is None else _run(schedule, schedule.at)


def following(schedule: Schedule, after: datetime) -> Run | None:
    """The first run of a cron line that begins after `after`; None when there is none within 50 years."""
    zone = ZoneInfo(schedule.zone)
    if not schedule.local:
        found = next(CronSim(schedule.cron, after.astimezone(zone)), None)
        return None if found is None else Run(found.astimezone(UTC))
    clock = next(CronSim(schedule.cron, (after.astimezone(UTC) + EARLIEST).replace(tzinfo=None)), None)
    return None if clock is None else _run(schedule, clock)


def _run(schedule: Schedule, clock: datetime) -> Run:
    if schedule.local:
        return Run((clock - EARLIEST).replace(tzinfo=UTC), clock)
    return Run(clock.replace(tzinfo=ZoneInfo(schedule.zone)).astimezone(UTC))
