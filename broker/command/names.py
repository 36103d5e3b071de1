"""Shell completion of names, read straight from the records: a TAB must not wait for a broker or start one."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import click

from broker.command.base import Run

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _query(context: click.Context, statement: str, *values: str, database: str = "records.db") -> list[str]:
    import sqlite3  # noqa: PLC0415 - only where used

    from broker.config import default_data  # noqa: PLC0415

    run = context.find_object(Run)
    data: Path = (run.data if run else None) or default_data()
    with contextlib.suppress(sqlite3.Error, OSError):
        db = sqlite3.connect(f"{(data / database).absolute().as_uri()}?mode=ro", uri=True, timeout=0.2)
        with contextlib.closing(db):
            return [str(name) for (name,) in db.execute(statement, values)]
    return []


def _escaped(incomplete: str) -> str:
    return incomplete.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_") + "%"


def brands(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of brands."""
    statement = "SELECT name FROM brands WHERE name LIKE ? ESCAPE '\\' ORDER BY name LIMIT 100"
    return _query(context, statement, _escaped(incomplete))


def messages(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ids of messages, the newest first."""
    statement = "SELECT id FROM message WHERE id LIKE ? ESCAPE '\\' ORDER BY number DESC LIMIT 100"
    return _query(context, statement, _escaped(incomplete), database="messages.db")


def commands(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ids of commands for devices, the newest first."""
    statement = "SELECT id FROM command WHERE id LIKE ? ESCAPE '\\' ORDER BY number DESC LIMIT 100"
    return _query(context, statement, _escaped(incomplete), database="messages.db")


def _of_brand(table: str, database: str = "records.db") -> Completer:
    # The table is one of the literals below, never a user's text.
    statement = f"SELECT DISTINCT name FROM {table} WHERE brand = ? AND name LIKE ? ESCAPE '\\' ORDER BY name LIMIT 100"  # noqa: S608

    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        # After an option whose value is being typed click has not yet sorted the arguments; the brand is the first.
        brand = context.params.get("brand") or next(iter(context.args), "")
        return _query(context, statement, str(brand), _escaped(incomplete), database=database)

    return complete


users = _of_brand("users")
stores = _of_brand("stores")
devices = _of_brand("devices")
links = _of_brand("links")
segments = _of_brand("segments")
campaigns = _of_brand("campaign", "messages.db")
agents = _of_brand("agent", "messages.db")
canned_replies = _of_brand("canned", "messages.db")


def conversations(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ids of a brand's conversations that are with a person, or wait for one."""
    statement = """SELECT id FROM conversation WHERE brand = ? AND state IN ('waiting', 'agent')
                   AND id LIKE ? ESCAPE '\\' ORDER BY number DESC LIMIT 100"""
    brand = context.params.get("brand") or next(iter(context.args), "")
    return _query(context, statement, str(brand), _escaped(incomplete), database="messages.db")


items = _of_brand("item", "content.db")
