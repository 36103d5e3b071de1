"""The audit log: what is noted, by whom, with how much of it, and that nothing of it can be changed."""

import asyncio
import getpass
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.admin import audit, client, operations
from broker.admin.operations import Context, perform, stream
from broker.admin.server import AdminServer
from broker.config import load
from broker.errors import NotFound, Refused
from broker.store.audit import AuditLog
from broker.trust.directory import open_directory


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[Context]:
    settings = load({"data": tmp_path}, environment={})
    async with open_directory(settings.data, trust_domain=settings.trust_domain) as directory:
        yield Context(settings, directory, actor="operator:carla")


async def log(context: Context, **which: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await perform(context, "audit.list", which)
    return found


async def brief(context: Context, **which: Any) -> list[tuple[str, str, str]]:
    return [(one["operation"], one["target"], one["outcome"]) for one in await log(context, **which)]


def test_each_operation_says_how_it_is_noted() -> None:
    assert [name for name in operations.OPERATIONS if name not in audit.OPERATIONS] == []


def test_what_nobody_has_thought_of_is_noted_as_a_change() -> None:
    assert audit.noted("shelf.burn") is audit.Noted.CHANGE


def test_secrets_and_what_was_said_are_nowhere_in_it() -> None:
    """A new argument of bytes holds what was sent or a key: it must be hidden."""
    for name, operation in operations.OPERATIONS.items():
        if audit.noted(name) is not audit.Noted.NOT:
            fields = operation.arguments.__annotations__
            assert {f for f, kind in fields.items() if kind in (bytes, "bytes")} <= audit.HIDDEN, name
    done = audit.done(
        "operator:carla", "password.set", {"brand": "acme", "role": "device", "name": "till", "password": "hunter2"}
    )
    assert (done.target, done.detail) == ("device/till", {"password": "(given)"})
    done = audit.done("operator:carla", "profile.set", {"brand": "acme", "name": "ada", "attributes": {"city": "Roma"}})
    assert (done.target, done.detail) == ("user/ada", {"attributes": ["city"]})


async def test_changes_and_looks_are_noted_with_who_did_them(context: Context) -> None:
    await perform(context, "brand.add", {"name": "acme"})
    await perform(context, "user.add", {"brand": "acme", "name": "ada", "title": "Ada Lovelace"})
    await perform(context, "brand.list", {})
    await perform(context, "user.show", {"brand": "acme", "name": "ada"})
    with pytest.raises(NotFound):
        await perform(context, "profile.tag", {"brand": "acme", "kind": "user", "name": "bob", "tags": ("vip",)})
    with pytest.raises(NotFound):
        await perform(context, "user.show", {"brand": "acme", "name": "bob"})
    with pytest.raises(Refused):
        await perform(context, "brand.add", {"name": "acme"})
    found = await log(context)
    assert [(one["operation"], one["brand"], one["target"], one["outcome"]) for one in found] == [
        ("brand.add", "acme", "brand/acme", "done"),
        ("user.add", "acme", "user/ada", "done"),
        ("user.show", "acme", "user/ada", "done"),
        ("profile.tag", "acme", "user/bob", "not_found"),
        ("user.show", "acme", "user/bob", "not_found"),
        ("brand.add", "acme", "brand/acme", "refused"),
    ]
    assert {one["actor"] for one in found} == {"operator:carla"}
    assert found[1]["detail"] == {"title": "(given)"}
    assert await brief(context, brand="acme", operation="profile") == [("profile.tag", "user/bob", "not_found")]
    assert await brief(context, operation="us") == []


async def test_a_change_of_the_records_and_its_entry_are_one_transaction(context: Context) -> None:
    """When the entry cannot be written nothing is changed."""
    await perform(context, "brand.add", {"name": "acme"})
    await context.directory.records._run("DROP TABLE audit")
    with pytest.raises(sqlite3.OperationalError):
        await perform(context, "user.add", {"brand": "acme", "name": "ada"})
    assert await context.directory.user_list("acme") == []


async def test_what_is_no_change_of_the_records_is_noted_before_it_is_done(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    async def fire(context: Context, *, brand: str, text: str) -> None:
        seen.extend(await brief(context, operation="cannon"))
        raise KeyError("a bug")

    monkeypatch.setattr(operations, "OPERATIONS", dict(operations.OPERATIONS))
    operations._register("cannon.fire", fire, of=fire)
    with pytest.raises(KeyError):
        await perform(context, "cannon.fire", {"brand": "acme", "text": "secret words"})
    assert seen == [("cannon.fire", "", "")]
    (entry,) = await log(context, operation="cannon")
    assert (entry["outcome"], entry["detail"]) == ("error", {"text": "(given)"})


async def test_what_goes_on_is_noted_when_it_begins(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    async def watch(context: Context, *, brand: str) -> AsyncIterator[Any]:
        yield await brief(context, operation="bird")

    monkeypatch.setattr(operations, "OPERATIONS", dict(operations.OPERATIONS))
    operations._register("bird.watch", watch, of=watch)
    assert [one async for one in await stream(context, "bird.watch", {"brand": "acme"})] == [
        [("bird.watch", "", "begun")]
    ]


async def test_the_socket_knows_whose_process_asks(context: Context) -> None:
    server = AdminServer(context, context.settings.admin_path)
    await server.start()
    await asyncio.to_thread(client.call, context.settings.admin_path, "brand.add", {"name": "acme"})
    await server.stop()
    (entry,) = await log(context)
    assert entry["actor"] == f"operator:{getpass.getuser()}"


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit",
        "UPDATE audit SET actor = 'operator:nobody'",
        "UPDATE audit SET outcome = 'refused'",
        "UPDATE audit SET detail = '{}'",
        "UPDATE audit SET at = 1, outcome = 'done'",
        "INSERT OR REPLACE INTO audit SELECT number, 1, '', '', '', '', '', '' FROM audit",
    ],
)
async def test_entries_stay_as_they_are(context: Context, statement: str) -> None:
    await perform(context, "brand.add", {"name": "acme"})
    with pytest.raises(sqlite3.IntegrityError, match="only added to"):
        await context.directory.records._run(statement)
    assert await brief(context) == [("brand.add", "brand/acme", "done")]


async def test_entries_go_when_their_time_is_over(context: Context) -> None:
    for name in ("acme", "bolt", "rival"):
        await perform(context, "brand.add", {"name": name})
    times = [at for (at,) in await context.directory.records._run("SELECT at FROM audit ORDER BY number")]
    sweeper = AuditLog(context.directory.records)
    assert await sweeper.sweep(times[0], 10) == 0
    assert await sweeper.sweep(times[-1] + 1, 2) == 2
    assert await brief(context) == [("brand.add", "brand/rival", "done")]
