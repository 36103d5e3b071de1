"""The table of operations: what the CLI can ask for, by name, with JSON in and JSON out.

An operation is an async function of a `Context` and keyword arguments. Its signature is its schema: arguments are
checked against the annotations before it runs. The same table serves the admin socket of a running broker and
a command that works on the records directly, so both do the same.
"""

import asyncio
import base64
import inspect
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, get_type_hints

import msgspec

from broker.admin import audit, fleet, messages, persons, questions
from broker.admin.asking import Asking, explained, ready
from broker.admin.audit import Noted
from broker.admin.wire import no_broker
from broker.bridge import request as requests
from broker.bridge.campaigns import Definition
from broker.bridge.figures import By
from broker.bridge.fleet import Devices, devices_of
from broker.bridge.people import People, Source, Wanted, check_wanted
from broker.config import Settings
from broker.errors import NotFound, PushbrokerError, Refused
from broker.identity import check_name
from broker.limits import ITEMS_AT_ONCE, ITEMS_PAGE_MAX, UNANSWERED_MAX
from broker.links.book import Book
from broker.links.links import idle
from broker.pull import erasure, inbox_requests
from broker.pull import rules as rules_
from broker.pull.conversations import Inbox
from broker.pull.figures import By as AskedBy
from broker.pull.library import Library
from broker.pull.looking import Looking, at
from broker.pull.question import Outcome
from broker.store.agents import Agents
from broker.store.asked import AskedQuestions
from broker.store.audit import AuditLog, AuditReader, Entry, outcome_of
from broker.store.content import Content
from broker.store.conversations import Conversations
from broker.store.database import Database, open_database, open_reader
from broker.store.entries import Device
from broker.store.fleet import DeviceState as State
from broker.store.fleet import FleetTables
from broker.store.links import Link, Version
from broker.store.messages import SCHEMA, Messages
from broker.store.outcomes import PAGE_MAX, Outcomes
from broker.trust.directory import Directory

if TYPE_CHECKING:
    from broker.app import Broker

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Context:
    """What operations work on. Without a running broker, `broker` is None."""

    settings: Settings
    directory: Directory
    broker: "Broker | None" = None
    actor: str = field(default_factory=audit.operator)  # who asks, for the audit log

    @property
    def running(self) -> "Broker":
        """The broker, or `Unreachable`."""
        if self.broker is None:
            raise no_broker(self.settings)
        return self.broker

    @asynccontextmanager
    async def outcomes(self) -> AsyncIterator[Outcomes]:
        """What became of messages, on a connection of its own: who asks for much holds nobody else up."""
        path = self.settings.messages_path
        outcomes = Outcomes(path, await self._reader(path))
        try:
            yield outcomes
        finally:
            await outcomes.close()

    @asynccontextmanager
    async def fleet(self) -> AsyncIterator[FleetTables]:
        """What is kept of devices, in the same way."""
        path = self.settings.messages_path
        async with Messages(path, await self._reader(path)) as messages:
            yield FleetTables(messages)

    @asynccontextmanager
    async def conversations(self) -> AsyncIterator[Conversations]:
        """Conversations, in the same way."""
        path = self.settings.messages_path
        async with Messages(path, await self._reader(path)) as messages:
            yield Conversations(messages)

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[AskedQuestions]:
        """What was asked, in the same way."""
        path = self.settings.messages_path
        asked = AskedQuestions(path, await self._reader(path))
        try:
            yield asked
        finally:
            await asked.close()

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[Looking]:
        """Conversations as agents see them."""
        async with self.conversations() as conversations:
            typing = (lambda _: False) if self.broker is None else self.inbox.typing
            yield Looking(conversations, self.people, typing)

    @asynccontextmanager
    async def agents(self) -> AsyncIterator[Agents]:
        """Agents and their replies, in the same way."""
        path = self.settings.messages_path
        async with Messages(path, await self._reader(path)) as messages:
            yield Agents(messages)

    @property
    def inbox(self) -> Inbox:
        """The inbox of a running broker, or `Unreachable`."""
        return self.running.pull.inbox

    @asynccontextmanager
    async def library(self, *, reading: bool = False) -> AsyncIterator[Library]:
        """What brands have to say; who only reads has a connection of their own."""
        path = self.settings.content_path
        if self.broker is not None and not reading:
            yield Library(self.broker.pull.content)
            return
        opened = await Content.open(path) if self.broker is None else Content(path, await open_reader(path))
        async with opened as content:
            yield Library(content)

    async def _reader(self, path: Path) -> Database:
        return await (open_database(path, SCHEMA) if self.broker is None else open_reader(path))

    @property
    def book(self) -> Book:
        """The links as they are set up."""
        return Book(self.directory.records, self.directory.now)

    @property
    def people(self) -> People:
        """The profiles; those of a running broker tell devices what changes."""
        return People(self.directory) if self.broker is None else self.broker.bridge.people


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table. `arguments` is a struct made from the function's signature."""

    name: str
    function: Callable[..., Any]
    arguments: type[msgspec.Struct]
    needs_broker: bool
    streams: bool


OPERATIONS: Final[dict[str, Operation]] = {}


def _register(name: str, function: Callable[..., Any], *, of: Callable[..., Any], needs_broker: bool = False) -> None:
    hints = get_type_hints(of, include_extras=True)
    fields = [
        (parameter.name, hints[parameter.name])
        if parameter.default is parameter.empty
        else (parameter.name, hints[parameter.name], parameter.default)
        for parameter in list(inspect.signature(of).parameters.values())[1:]
    ]
    arguments = msgspec.defstruct(f"{name} arguments", fields, kw_only=True, forbid_unknown_fields=True)
    OPERATIONS[name] = Operation(name, function, arguments, needs_broker, inspect.isasyncgenfunction(of))


def _of_directory(method: str) -> None:
    """A method of the directory as an operation: `brand_add` is `brand.add`."""
    unbound = getattr(Directory, method)

    async def function(context: Context, **arguments: Any) -> Any:
        return await unbound(context.directory, **arguments)

    _register(method.replace("_", ".", 1), function, of=unbound)


def _of_people(name: str, unbound: Callable[..., Any]) -> None:
    """A method of the profiles as an operation."""

    async def function(context: Context, **arguments: Any) -> Any:
        return await unbound(context.people, **arguments)

    _register(name, function, of=unbound)


def _operation(name: str, *, needs_broker: bool) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        _register(name, function, of=function, needs_broker=needs_broker)
        return function

    return register


for _method in (
    *("brand_add", "brand_list", "brand_show", "brand_set"),
    *("token_issue", "token_list", "token_revoke"),
    *("user_add", "user_list", "user_show", "user_remove"),
    *("store_add", "store_list", "store_show", "store_remove"),
    *("device_code", "device_assign", "device_revoke", "device_remove"),
    *("password_set", "password_remove"),
    *("cert_issue", "cert_renew", "cert_list", "cert_revoke"),
):
    _of_directory(_method)


@_operation("brand.remove", needs_broker=False)
async def _brand_remove(context: Context, *, name: str) -> Any:
    removed = await context.directory.brand_remove(name)
    if context.broker is not None:  # a brand that is added anew under this name begins empty
        await context.broker.pull.brand_gone(name)
        return removed
    async with context.library() as library:
        await library.content.brand_gone(name)
    async with await Messages.open(context.settings.messages_path) as books:
        await Conversations(books).forget(name)
        await Agents(books).forget(name)
        await books.forget(name)
    return removed


_OF_PEOPLE: Final[dict[str, Callable[..., Any]]] = {
    "profile.show": People.show,
    "profile.tag": People.tag,
    "profile.untag": People.untag,
    "profile.set": People.set,
    "profile.unset": People.unset,
    "profile.consents": People.consent_log,
    "profile.explain": People.explain,
    "suppression.add": People.suppress,
    "suppression.list": People.suppressions,
    "suppression.remove": People.unsuppress,
    "segment.add": People.segment_add,
    "segment.list": People.segment_list,
    "segment.show": People.segment_show,
    "segment.remove": People.segment_remove,
    "segment.test": People.segment_test,
    "restraint.show": People.restraint_show,
    "restraint.set": People.restraint_set,
}
for _name, _unbound in _OF_PEOPLE.items():
    _of_people(_name, _unbound)


@_operation("profile.say", needs_broker=False)
async def _say(context: Context, *, brand: str, name: str, wanted: Wanted, source: Source = "operator") -> Any:
    check_wanted(wanted)
    followed = {one.item for one in (await context.people.show(brand, "user", name)).follows}
    begun = [item for item, every_s in wanted.follows.items() if every_s is not None and item not in followed]
    if begun:
        async with context.library(reading=True) as library:
            for item in begun:  # a device may follow what is not there yet; a person who types a name has erred
                await library.show(brand, item)
    return await context.people.say(brand, name, wanted, source)


@_operation("cert.ca", needs_broker=False)
async def _ca(context: Context) -> dict[str, Any]:
    return {"certificate": context.directory.authority.ca_pem}


@_operation("status", needs_broker=True)
async def _status(context: Context) -> Any:
    status = context.running.status()
    content = {"items": await context.running.pull.content.count()}
    return {"pid": os.getpid(), "data": str(context.settings.data), **status, "content": content}


@_operation("connections.list", needs_broker=True)
async def _connections(context: Context) -> Any:
    return context.running.connections()


@_operation("send", needs_broker=True)
async def _send(
    context: Context,
    *,
    topic: str,
    payload: bytes,
    qos: int = 1,
    ttl_s: int | None = None,
    content_type: str | None = None,
    user_properties: tuple[tuple[str, str], ...] = (),
) -> Any:
    return await context.running.send(
        topic, payload, qos=qos, ttl_s=ttl_s, content_type=content_type, user_properties=user_properties
    )


@_operation("tail", needs_broker=True)
async def _tail(context: Context, *, filters: tuple[str, ...]) -> AsyncIterator[Any]:
    async for message in context.running.tail(filters):
        payload = message.pop("payload")
        try:
            yield {**message, "payload": payload.decode()}
        except UnicodeDecodeError:
            yield {**message, "bytes": len(payload), "payload_base64": base64.b64encode(payload).decode("ascii")}


_Page = Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)]


@_operation("message.list", needs_broker=False)
async def _message_list(
    context: Context,
    *,
    brand: str | None = None,
    campaign: str | None = None,
    before: str | None = None,
    most: _Page = 20,
) -> Any:
    async with context.outcomes() as outcomes:
        return await messages.listed(outcomes, brand, campaign, before, most)


@_operation("message.show", needs_broker=False)
async def _message_show(context: Context, *, id: str) -> Any:
    async with context.outcomes() as outcomes:
        return await messages.shown(outcomes, id)


@_operation("message.stores", needs_broker=False)
async def _message_stores(context: Context, *, id: str) -> Any:
    async with context.outcomes() as outcomes:
        return await messages.by_store(outcomes, id)


@_operation("message.watch", needs_broker=True)
async def _message_watch(context: Context, *, id: str) -> AsyncIterator[Any]:
    async with context.outcomes() as outcomes:
        async for figures in messages.watched(outcomes, id):
            yield figures


@_operation("message.recipients", needs_broker=False)
async def _message_recipients(
    context: Context, *, id: str, state: str | None = None, after: int = 0, most: _Page = PAGE_MAX
) -> Any:
    async with context.outcomes() as outcomes:
        return await messages.recipients(outcomes, id, state, after, most)


# -- campaigns ---------------------------------------------------------------------------------------------------------


@_operation("campaign.add", needs_broker=True)
async def _campaign_add(context: Context, *, brand: str, name: str, definition: Definition) -> Any:
    await context.directory.check(brand)
    return await context.running.bridge.campaigns.add(brand, check_name("campaign", name), definition)


@_operation("campaign.set", needs_broker=True)
async def _campaign_set(context: Context, *, brand: str, name: str, definition: Definition) -> Any:
    return await context.running.bridge.campaigns.set(brand, name, definition)


@_operation("campaign.list", needs_broker=True)
async def _campaign_list(context: Context, *, brand: str | None = None) -> Any:
    if brand is not None:
        await context.directory.check(brand)
    return await context.running.bridge.campaigns.all(brand)


def _campaign(verb: str) -> None:
    """What needs only the name of a campaign."""

    async def function(context: Context, *, brand: str, name: str) -> Any:
        return await getattr(context.running.bridge.campaigns, verb)(brand, name)

    _register(f"campaign.{verb}", function, of=function, needs_broker=True)


for _verb in ("show", "test", "start", "pause", "resume", "stop", "remove"):
    _campaign(_verb)


@_operation("campaign.retarget", needs_broker=True)
async def _campaign_retarget(
    context: Context,
    *,
    brand: str,
    what: str,
    not_opened_s: int,
    content: dict[str, Any] | None = None,
    dry_run: bool = False,
) -> Any:
    await context.directory.check(brand)
    campaigns = context.running.bridge.campaigns
    return await campaigns.retarget(brand, what, not_opened_s, content=content, dry_run=dry_run)


@_operation("campaign.figures", needs_broker=True)
async def _campaign_figures(
    context: Context,
    *,
    brand: str,
    name: str,
    by: By = "campaign",
    within_s: Annotated[int, msgspec.Meta(ge=1)] = 900,
    run: datetime | None = None,
) -> Any:
    figures, complete = await context.running.bridge.campaigns.figures(brand, name, by, within_s, run)
    return {"brand": brand, "campaign": name, "within_s": within_s, "complete": complete, "figures": figures}


# -- the fleet ---------------------------------------------------------------------------------------------------------


async def _devices(
    context: Context, found: list[Device], brand: str | None, *, online: bool | None = None, behind: bool = False
) -> Any:
    presence = None if context.broker is None else context.broker.bridge.presence
    async with context.fleet() as tables:
        return await fleet.devices(tables, presence, found, brand, online=online, behind=behind)


@_operation("device.list", needs_broker=False)
async def _device_list(
    context: Context,
    *,
    brand: str | None = None,
    user: str | None = None,
    store: str | None = None,
    online: bool | None = None,
    behind: bool = False,
) -> Any:
    found = await context.directory.device_list(brand, user, store)
    return await _devices(context, found, brand, online=online, behind=behind)


@_operation("device.show", needs_broker=False)
async def _device_show(context: Context, *, brand: str, device: str) -> Any:
    return (await _devices(context, [await context.directory.device_show(brand, device)], brand))[0]


@_operation("config.set", needs_broker=True)
async def _config_set(context: Context, *, brand: str, to: Devices, changes: dict[str, str | None]) -> Any:
    return await context.running.bridge.configuration.set(brand, to, changes)


@_operation("config.show", needs_broker=False)
async def _config_show(context: Context, *, brand: str, to: Devices) -> Any:
    names = [name async for page in devices_of(context.people, brand, to) for name in page]
    async with context.fleet() as tables:
        return await fleet.configurations(tables, brand, names)


@_operation("command.run", needs_broker=True)
async def _command_run(
    context: Context,
    *,
    name: str,
    to: Devices,
    brand: str | None = None,
    args: dict[str, str] | None = None,
    ttl_s: int = 3600,
    stages: tuple[str, ...] = ("100%",),
    halt_after: str = "0",
) -> Any:
    if brand is None:
        brands = await context.directory.brand_list()
        if len(brands) != 1:
            raise Refused("say which brand's devices", remedy="pushbroker command run BRAND COMMAND")
        brand = brands[0].name
    command = await context.running.bridge.fleet.start(
        brand, name, to, args=args or {}, ttl_s=ttl_s, stages=stages, halt_after=halt_after
    )
    return await _command_shown(context, command.id)


async def _command_shown(context: Context, id: str) -> Any:
    async with context.fleet() as tables:
        return await fleet.shown(tables, await fleet.command(tables, id))


@_operation("command.list", needs_broker=False)
async def _command_list(context: Context, *, brand: str | None = None, most: _Page = 20) -> Any:
    async with context.fleet() as tables:
        return [await fleet.shown(tables, one) for one in await tables.commands(brand, most)]


@_operation("command.show", needs_broker=False)
async def _command_show(context: Context, *, id: str) -> Any:
    return await _command_shown(context, id)


@_operation("command.devices", needs_broker=False)
async def _command_devices(
    context: Context, *, id: str, state: State | None = None, after: int = 0, most: _Page = PAGE_MAX
) -> Any:
    async with context.fleet() as tables:
        return await fleet.told(tables, id, state, after, most)


@_operation("command.watch", needs_broker=True)
async def _command_watch(context: Context, *, id: str) -> AsyncIterator[Any]:
    async with context.fleet() as tables:
        async for shown in fleet.watched(tables, id):
            yield shown


@_operation("command.resume", needs_broker=True)
async def _command_resume(context: Context, *, id: str) -> Any:
    await context.running.bridge.fleet.resume(id)
    return await _command_shown(context, id)


@_operation("command.cancel", needs_broker=True)
async def _command_cancel(context: Context, *, id: str) -> Any:
    await context.running.bridge.fleet.cancel(id)
    return await _command_shown(context, id)


# -- the inbox ---------------------------------------------------------------------------------------------------------


@_operation("inbox.list", needs_broker=False)
async def _inbox_list(
    context: Context,
    *,
    brand: str,
    state: inbox_requests.Which | None = None,
    agent: str | None = None,
    store: str | None = None,
    before: str | None = None,
    most: inbox_requests.Page = 50,
) -> Any:
    async with context.looking() as looking:
        return await looking.listed(brand, state=state, agent=agent, store=store, before=before, most=most)


@_operation("inbox.show", needs_broker=False)
async def _inbox_show(
    context: Context,
    *,
    brand: str,
    conversation: str,
    before: inbox_requests.Before = 0,
    most: inbox_requests.Entries = 200,
) -> Any:
    async with context.looking() as looking:
        return await looking.show(brand, conversation, before=before, most=most)


async def _inbox_do(context: Context, brand: str, request: inbox_requests.Request) -> Any:
    await context.running.bridge.caught_up()  # else a reply would stand before what was asked before a crash
    done = await context.inbox.do(brand, request)
    return {**done["conversation"], **({"entry": done["entry"]} if "entry" in done else {})}


def _of_agent(verb: str, request: Callable[..., inbox_requests.Request]) -> None:
    """What an agent does with a conversation, and nothing more to say."""

    async def function(context: Context, *, brand: str, conversation: str, agent: str) -> Any:
        return await _inbox_do(context, brand, request(conversation=conversation, agent=agent))

    _register(f"inbox.{verb}", function, of=function, needs_broker=True)


_of_agent("take", inbox_requests.Take)
_of_agent("hand_back", inbox_requests.HandBack)
_of_agent("close", inbox_requests.Close)
_of_agent("typing", inbox_requests.Typing)
_of_agent("read", inbox_requests.Read)


@_operation("inbox.reply", needs_broker=True)
async def _inbox_reply(
    context: Context,
    *,
    brand: str,
    conversation: str,
    agent: str,
    text: inbox_requests.Words = "",
    canned: str = "",
) -> Any:
    request = inbox_requests.Reply(conversation=conversation, agent=agent, text=text, canned=canned)
    return await _inbox_do(context, brand, request)


@_operation("inbox.note", needs_broker=True)
async def _inbox_note(
    context: Context, *, brand: str, conversation: str, agent: str, text: inbox_requests.Words
) -> Any:
    request = inbox_requests.Note(conversation=conversation, agent=agent, text=text)
    return await _inbox_do(context, brand, request)


@_operation("inbox.assign", needs_broker=True)
async def _inbox_assign(context: Context, *, brand: str, conversation: str, to: str, agent: str = "") -> Any:
    request = inbox_requests.Assign(conversation=conversation, to=to, agent=agent)
    return await _inbox_do(context, brand, request)


@_operation("inbox.watch", needs_broker=True)
async def _inbox_watch(context: Context, *, brand: str) -> AsyncIterator[Any]:
    await context.directory.check(brand)
    inbox = context.inbox
    watch = inbox.watch(brand)
    try:
        while True:
            yield await watch.next()
    finally:
        inbox.leave(watch)


@_operation("agent.list", needs_broker=False)
async def _agent_list(context: Context, *, brand: str) -> Any:
    await context.directory.check(brand)
    async with context.agents() as agents:
        busy = await agents.busy(brand)
        return [
            {
                **msgspec.structs.asdict(one),
                "given_at": at(one.given_at or None),
                "conversations": busy.get(one.name, 0),
            }
            for one in await agents.all(brand)
        ]


@_operation("agent.add", needs_broker=True)
async def _agent_add(
    context: Context,
    *,
    brand: str,
    name: str,
    title: str = "",
    stores: tuple[str, ...] = (),
    tags: tuple[str, ...] = (),
    most: int | None = None,
) -> Any:
    await context.inbox.staff.add(brand, name, title=title, stores=stores, tags=tags, most=most)
    return await _agent(context, brand, name)


@_operation("agent.set", needs_broker=True)
async def _agent_set(
    context: Context,
    *,
    brand: str,
    name: str,
    title: str | None = None,
    stores: tuple[str, ...] | None = None,
    tags: tuple[str, ...] | None = None,
    most: int | None = None,
    away: bool | None = None,
) -> Any:
    await context.inbox.staff.set(brand, name, title=title, stores=stores, tags=tags, most=most, away=away)
    return await _agent(context, brand, name)


async def _agent(context: Context, brand: str, name: str) -> Any:
    return next(one for one in await _agent_list(context, brand=brand) if one["name"] == name)


@_operation("agent.remove", needs_broker=True)
async def _agent_remove(context: Context, *, brand: str, name: str) -> Any:
    await context.inbox.staff.remove(brand, name)
    return {"brand": brand, "name": name, "removed": True}


@_operation("canned.list", needs_broker=False)
async def _canned_list(context: Context, *, brand: str) -> Any:
    await context.directory.check(brand)
    async with context.agents() as agents:
        return await agents.canned(brand)


@_operation("canned.set", needs_broker=True)
async def _canned_set(context: Context, *, brand: str, name: str, text: str, language: str = "") -> Any:
    return await context.inbox.staff.canned_set(brand, name, text, language)


@_operation("canned.remove", needs_broker=True)
async def _canned_remove(context: Context, *, brand: str, name: str, language: str | None = None) -> Any:
    count = await context.inbox.staff.canned_remove(brand, name, language)
    return {"brand": brand, "name": name, "language": language, "removed": count}


# -- content -----------------------------------------------------------------------------------------------------------

_Items = Annotated[tuple[Any, ...], msgspec.Meta(max_length=ITEMS_AT_ONCE)]
_Named = Annotated[tuple[tuple[str, str], ...], msgspec.Meta(max_length=ITEMS_AT_ONCE)]
_ItemPage = Annotated[int, msgspec.Meta(ge=1, le=ITEMS_PAGE_MAX)]


@_operation("content.put", needs_broker=False)
async def _content_put(context: Context, *, brand: str, items: _Items, dry_run: bool = False) -> Any:
    await context.directory.check(brand)
    async with context.library() as library:
        return await library.put(brand, items, dry_run=dry_run)


@_operation("content.set", needs_broker=False)
async def _content_set(
    context: Context, *, brand: str, name: str, language: str | None = None, changes: dict[str, Any]
) -> Any:
    await context.directory.check(brand)
    async with context.library() as library:
        await library.set(brand, name, language, changes)
        return await library.show(brand, name, language)


@_operation("content.list", needs_broker=False)
async def _content_list(
    context: Context,
    *,
    brand: str,
    search: str = "",
    language: str | None = None,
    after: str = "",
    most: _ItemPage = 100,
) -> Any:
    await context.directory.check(brand)
    async with context.library(reading=True) as library:
        return await library.list(brand, search=search, language=language, after=after, most=most)


@_operation("content.show", needs_broker=False)
async def _content_show(context: Context, *, brand: str, name: str, language: str | None = None) -> Any:
    await context.directory.check(brand)
    async with context.library(reading=True) as library:
        return await library.show(brand, name, language)


@_operation("content.remove", needs_broker=False)
async def _content_remove(context: Context, *, brand: str, name: str, language: str | None = None) -> Any:
    await context.directory.check(brand)
    async with context.library() as library:
        if not (removed := await library.remove(brand, [(name, language)])):
            raise await library.missing(brand, name, language)
        return {"brand": brand, "name": name, "removed": removed}


@_operation("content.prune", needs_broker=False)
async def _content_prune(context: Context, *, brand: str, items: _Named) -> Any:
    """Remove items, each as its name and language, that a file of all of them does not have."""
    await context.directory.check(brand)
    async with context.library() as library:
        return {"removed": await library.remove(brand, items)}


@_operation("content.rules", needs_broker=False)
async def _content_rules(context: Context, *, brand: str) -> Any:
    await context.directory.check(brand)
    async with context.library(reading=True) as library:
        return rules_.of(await library.content.rules(brand))


@_operation("content.rules_set", needs_broker=False)
async def _content_rules_set(context: Context, *, brand: str, rules: bytes) -> Any:
    await context.directory.check(brand)
    checked = rules_.parse(rules)
    async with context.library() as library:
        await library.content.set_rules(brand, msgspec.json.encode(checked).decode())
    return checked


# -- links -------------------------------------------------------------------------------------------------------------


@_operation("link.list", needs_broker=False)
async def _links(context: Context, *, brand: str | None = None) -> Any:
    return [_link(context, link) for link in await context.book.all(brand)]


@_operation("link.show", needs_broker=False)
async def _link_show(context: Context, *, brand: str, name: str) -> Any:
    return _link(context, await context.book.one(brand, name))


@_operation("link.add", needs_broker=False)
async def _link_add(
    context: Context,
    *,
    brand: str,
    name: str,
    url: str,
    version: Version = "auto",
    client_id: str = "",
    username: str = "",
    password: str | None = None,
    ca: str = "",
    cert: str = "",
    key: str = "",
    inbound: tuple[str, ...] = (),
    outbound: tuple[str, ...] = (),
) -> Any:
    link = await context.book.add(
        brand,
        name,
        url=url,
        version=version,
        client_id=client_id,
        username=username,
        password=password,
        ca=ca,
        cert=cert,
        key=key,
        inbound=inbound,
        outbound=outbound,
    )
    return await _link_changed(context, link)


@_operation("link.set", needs_broker=False)
async def _link_set(
    context: Context,
    *,
    brand: str,
    name: str,
    url: str | None = None,
    version: Version | None = None,
    client_id: str | None = None,
    username: str | None = None,
    password: str | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    inbound: tuple[str, ...] | None = None,
    outbound: tuple[str, ...] | None = None,
    paused: bool | None = None,
) -> Any:
    link = await context.book.set(
        brand,
        name,
        url=url,
        version=version,
        client_id=client_id,
        username=username,
        password=password,
        ca=ca,
        cert=cert,
        key=key,
        inbound=inbound,
        outbound=outbound,
        paused=paused,
    )
    return await _link_changed(context, link)


@_operation("link.remove", needs_broker=False)
async def _link_remove(context: Context, *, brand: str, name: str) -> Any:
    link = await context.book.remove(brand, name)
    await _link_changed(context, link)
    return {"brand": brand, "name": name, "removed": True}


@_operation("link.test", needs_broker=False)
async def _link_test(context: Context, *, brand: str, name: str) -> Any:
    return await context.book.test(brand, name)


async def _link_changed(context: Context, link: Link) -> Any:
    if context.broker is not None:
        await context.broker.links.changed(link.brand, link.name)
    return _link(context, link)


def _link(context: Context, link: Link) -> dict[str, Any]:
    state = idle(link) if context.broker is None else context.broker.links.state(link)
    return {**msgspec.structs.asdict(link), **state}


@_operation("message.send", needs_broker=True)
async def _message_send(context: Context, *, brand: str, request: bytes, dry_run: bool = False) -> Any:
    await context.directory.brand_show(brand)
    asked = requests.parse(request)
    if not isinstance(asked, requests.SendRequest):
        raise Refused(
            "this withdraws a message, and sends none",
            reason=0x83,
            remedy=f"pushbroker message withdraw {asked.withdraw}",
        )
    asked.dry_run |= dry_run
    return await context.running.bridge.sends.accept(brand, asked)


@_operation("message.withdraw", needs_broker=True)
async def _message_withdraw(context: Context, *, id: str) -> AsyncIterator[Any]:
    bridge = context.running.bridge
    row = await bridge.messages.by_id(id)
    if row is None:
        raise messages.unknown(id)
    progress = await bridge.withdrawals.begin(row, "")
    while True:
        yield {"id": id, **msgspec.structs.asdict(progress)}
        if progress.done:
            return
        await bridge.withdrawals.next_step()


@_operation("why", needs_broker=False)
async def _why(context: Context, *, id: str, who: str) -> Any:
    async with context.outcomes() as outcomes:
        return await messages.why(outcomes, context.people, id, who)


# -- all of a person ---------------------------------------------------------------------------------------------------


@_operation("user.export", needs_broker=False)
async def _user_export(context: Context, *, brand: str, name: str) -> AsyncIterator[Any]:
    async for part in persons.exported(context, brand, name):
        yield part


@_operation("user.traces", needs_broker=False)
async def _user_traces(context: Context, *, brand: str, name: str) -> Any:
    return await persons.traces(context, brand, name)


@_operation("user.erase", needs_broker=True)
async def _user_erase(
    context: Context, *, brand: str, name: str, devices: erasure.Devices = "remove"
) -> AsyncIterator[Any]:
    proof = await context.running.erasures.erase(brand, name, devices=devices, actor=context.actor)
    while not proof.done():
        yield {"erasing": True}
        await asyncio.wait([proof], timeout=messages.WATCH_S)
    yield {"proof": proof.result()}


# -- the audit log -----------------------------------------------------------------------------------------------------


@_operation("audit.list", needs_broker=False)
async def _audit_list(
    context: Context,
    *,
    brand: str | None = None,
    actor: str | None = None,
    operation: str | None = None,
    since: datetime | None = None,
    most: _Page = 100,
) -> Any:
    reader = await AuditReader.open(context.directory.records)
    try:
        found = await reader.entries(brand=brand, actor=actor, operation=operation, since=_ms(since), most=most)
    finally:
        await reader.close()
    return [_line(entry) for entry in found]


@_operation("audit.watch", needs_broker=True)
async def _audit_watch(
    context: Context, *, brand: str | None = None, actor: str | None = None, operation: str | None = None
) -> AsyncIterator[Any]:
    reader = await AuditReader.open(context.directory.records)
    try:
        after = await reader.last()
        while True:
            found = await reader.entries(brand=brand, actor=actor, operation=operation, after=after, most=PAGE_MAX)
            for entry in found:
                after = entry.number
                yield _line(entry)
            await asyncio.sleep(messages.WATCH_S)
    finally:
        await reader.close()


def _line(entry: Entry) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(entry),
        "at": messages.at(entry.at),
        "detail": msgspec.json.decode(entry.detail),
    }


def _ms(time: datetime | None) -> int:
    return 0 if time is None else round(time.timestamp() * 1000)


# -- questions ---------------------------------------------------------------------------------------------------------


@_operation("ask", needs_broker=False)
async def _ask(
    context: Context,
    *,
    brand: str,
    text: str = "",
    choice: str = "",
    user: str = "",
    device: str = "",
    store: str = "",
    locale: str = "",
    at: datetime | None = None,
) -> Any:
    asking = Asking(brand=brand, text=text, choice=choice, user=user, device=device, store=store, locale=locale, at=at)
    content = context.settings.content_path
    if context.broker is None:
        await ready(content)
    async with context.conversations() as conversations:
        return await explained(context.directory, asking, content, conversations)


async def _asked_within(context: Context, brand: str, since: str | None, until: str | None) -> questions.Time:
    await context.directory.brand_show(brand)
    async with context.library(reading=True) as library:
        return questions.time_of(await library.content.rules(brand), since, until)


@_operation("questions.figures", needs_broker=False)
async def _questions_figures(
    context: Context, *, brand: str, by: AskedBy = "brand", since: str | None = None, until: str | None = None
) -> Any:
    within = await _asked_within(context, brand, since, until)
    async with context.asked() as asked:
        return await questions.counted(asked, brand, within, by)


_Some = Annotated[int, msgspec.Meta(ge=1, le=UNANSWERED_MAX)]


@_operation("questions.unanswered", needs_broker=False)
async def _questions_unanswered(
    context: Context, *, brand: str, since: str | None = None, until: str | None = None, most: _Some = 20
) -> Any:
    within = await _asked_within(context, brand, since, until)
    async with context.asked() as asked:
        return await questions.unanswered(asked, brand, within, most)


@_operation("questions.list", needs_broker=False)
async def _questions_list(
    context: Context,
    *,
    brand: str,
    since: str | None = None,
    until: str | None = None,
    outcome: Outcome | None = None,
    store: str | None = None,
    thumb: Literal[-1, 1] | None = None,
    most: _Some = 50,
) -> Any:
    within = await _asked_within(context, brand, since, until)
    async with context.asked() as asked:
        return await questions.listed(asked, brand, within, outcome=outcome, store=store, thumb=thumb, most=most)


def find(name: str) -> Operation:
    """The operation with this name."""
    try:
        return OPERATIONS[name]
    except KeyError:
        raise NotFound(
            f"this broker has no operation {name!r}", remedy="Restart the broker with the version of this command."
        ) from None


def checked(context: Context, name: str, arguments: Mapping[str, Any]) -> tuple[Operation, dict[str, Any]]:
    """The operation with this name, and its arguments as it takes them; `Refused` when they are not right."""
    operation = find(name)
    if operation.needs_broker:
        context.running  # noqa: B018 - raises where there is none
    try:
        return operation, msgspec.structs.asdict(msgspec.convert(arguments, operation.arguments))
    except msgspec.ValidationError as error:
        raise Refused(
            f"{name}: {error}", reason=0x83, remedy="Use the same version of the command and the broker."
        ) from None


async def perform(context: Context, name: str, arguments: Mapping[str, Any]) -> Any:
    """Do one operation and return what it found, as JSON has it. It is in the audit log then."""
    operation, given = checked(context, name, arguments)
    assert not operation.streams  # those are asked for with `stream`
    log = AuditLog(context.directory.records)
    done = audit.done(context.actor, name, given)
    match audit.noted(name):
        case Noted.NOT:
            result = await operation.function(context, **given)
        case Noted.READ:
            try:
                result = await operation.function(context, **given)
            except PushbrokerError as error:
                await log.note(done, outcome_of(error))
                raise
            await log.note(done, "done")
        case Noted.RECORDS:
            async with log.within(done):
                result = await operation.function(context, **given)
        case Noted.CHANGE:
            async with log.around(done):
                result = await operation.function(context, **given)
    return jsonable(result)


async def stream(context: Context, name: str, arguments: Mapping[str, Any]) -> AsyncIterator[Any]:
    """Begin an operation that answers with one thing after the other. The audit log says that it was begun."""
    operation, given = checked(context, name, arguments)
    assert operation.streams
    if audit.noted(name) is not Noted.NOT:
        await AuditLog(context.directory.records).note(audit.done(context.actor, name, given), "begun")
    iterator: AsyncIterator[Any] = operation.function(context, **given)
    return iterator


def jsonable(value: Any) -> Any:
    """Structs, times and bytes as JSON has them: text bytes (PEM) as text, other bytes in base64."""
    return _texts(msgspec.to_builtins(value, builtin_types=(bytes,)))


def _texts(value: Any) -> Any:
    match value:
        case bytes():
            try:
                return value.decode("ascii")
            except UnicodeDecodeError:
                return base64.b64encode(value).decode("ascii")
        case dict():
            return {name: _texts(item) for name, item in value.items()}
        case list() | tuple():
            return [_texts(item) for item in value]
        case _:
            return value
