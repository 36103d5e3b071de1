"""The library of a brand: its items, how they are written, and what is checked of them before they are kept."""

import difflib
import re
import time
from asyncio import to_thread
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from broker import limits
from broker.bridge.request import Code, Name, RequestRefused, at_fault, too_deep
from broker.errors import NotFound, Refused
from broker.pull import rules, template
from broker.pull.fold import forms, index_words, key, phrases, telling_words
from broker.pull.hours import check_hours
from broker.store.content import Content, ItemRow, Words, Written

# Their patterns are how a value that does not fit is told from others: see `_WANTED`.
_LANGUAGE: Final = r"^([a-z]{2,3})?$(?!\n)"
_TITLE: Final = r"^[^\x00-\x1f\x7f-\x9f]+$(?!\n)"
_LINE: Final = r"^[^\x00-\x1f\x7f]+$(?!\n)"
_BODY: Final = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$(?!\n)"
_WANTED: Final = {
    _LANGUAGE: "write a language as it, en or de; nothing for all languages",
    _TITLE: "a title is one line of text without control characters",
    _LINE: "write one line of text without control characters",
    _BODY: "a body must not have control characters besides line breaks and tabs",
}
_ADDRESS: Final = re.compile(r"https?://[^\s/?#\"<>][^\s\"<>\x00-\x1f\x7f]*", re.ASCII | re.IGNORECASE)
_TEMPLATE: Final = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TEXTS: Final = ("title", "body", "keywords")
_TIMES: Final = ("valid_from", "valid_until")
_NEAR: Final = 200  # so many names on either side are looked at for what was meant
_GIVEN_ONCE: Final = ("name", "language")

Language = Annotated[str, Meta(pattern=_LANGUAGE)]
Places = Annotated[list[Name], Meta(max_length=limits.ITEM_PLACES_MAX)]
Tags = Annotated[list[Annotated[str, Meta(pattern=_LINE, max_length=64)]], Meta(max_length=limits.ITEM_PLACES_MAX)]


class Item(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One answer, in one language. See docs/content.md."""

    name: Name
    language: Language = ""
    title: Annotated[str, Meta(pattern=_TITLE, max_length=limits.ITEM_TITLE_MAX)]
    body: Annotated[str, Meta(pattern=_BODY, max_length=limits.ITEM_BODY_MAX)] = ""
    image: Annotated[str, Meta(max_length=2048)] = ""
    link: Annotated[str, Meta(max_length=2048)] = ""
    keywords: Annotated[
        list[Annotated[str, Meta(pattern=_LINE, max_length=limits.ITEM_KEYWORD_MAX)]],
        Meta(max_length=limits.ITEM_KEYWORDS_MAX),
    ] = []
    stores: Places = []
    tags: Tags = []
    hours: dict[str, list[str]] = {}
    data: dict[str, Any] = {}
    valid_from: str | None = None
    valid_until: str | None = None


FIELDS: Final = Item.__struct_fields__
_json: Final = msgspec.json.Encoder().encode
_unjson: Final = msgspec.json.Decoder().decode


class ItemRefused(RequestRefused):
    """An item that is not right: `field` is where, the remedy is what would do."""

    def __init__(self, code: str, field: str, message: str, remedy: str = "") -> None:
        super().__init__(code, field, message)
        self.remedy = remedy


def parse(fields: Any) -> Item:
    """The item that these fields are; its form is right then. Raises `ItemRefused`."""
    try:
        return msgspec.convert(fields, Item)
    except msgspec.ValidationError as error:
        code, field, words = at_fault(error)
        wanted = next((what for pattern, what in _WANTED.items() if repr(pattern) in words), "")
        if code == Code.UNKNOWN_FIELD:
            wanted = f"Items have {', '.join(FIELDS)}; fields of your own stand in data."
        elif code == Code.MISSING_FIELD:
            wanted = "Every item has a name and a title."
        elif "regex" in words and not wanted:  # a name's
            wanted = "A name has 1 to 64 letters, digits, '.', '_', '@' and '-', with a letter or digit at both ends."
        if "regex" in words:
            words = "it is empty" if _of(fields, field) == "" else "it is not written as it must be"
        raise ItemRefused(code, field, words, wanted) from None


def made(brand: str, fields: Any, zone: ZoneInfo) -> Written:
    """The item that these fields are, as it is kept. Raises `ItemRefused`. zone: of times that name none."""
    item = parse(fields)
    for field in ("title", "body", "link"):
        _checked(field, template.check, getattr(item, field))
    _checked("hours", check_hours, item.hours)
    for field, text in (("image", item.image), ("link", _TEMPLATE.sub("x", item.link))):
        if text and not _ADDRESS.fullmatch(text):
            raise ItemRefused(Code.BAD_VALUE, field, "it is no address", "Write it as https://example.org/cake.")
    try:
        data = _json(item.data)
    except (TypeError, ValueError, RecursionError):
        raise ItemRefused(Code.BAD_VALUE, "data", "it has what JSON has not", "Use texts and numbers.") from None
    if len(data) > limits.ITEM_DATA_BYTES_MAX:
        kib = limits.ITEM_DATA_BYTES_MAX >> 10
        raise ItemRefused(Code.BAD_VALUE, "data", f"it is larger than {kib} KiB", "Link to what is larger.")
    if too_deep(item.data):
        raise ItemRefused(Code.BAD_VALUE, "data", "it has too many lists within each other", "Make it flatter.")
    begin, end = _time("valid_from", item.valid_from, zone), _time("valid_until", item.valid_until, zone, until=True)
    if begin is not None and end is not None and end <= begin:
        raise ItemRefused(Code.BAD_VALUE, "valid_until", "it ends before it begins", "Exchange the two times.")
    row = ItemRow(
        brand=brand,
        name=item.name,
        language=item.language,
        title=item.title.strip(),
        body=item.body,
        image=item.image,
        link=item.link,
        keywords=_json(item.keywords).decode(),
        stores=_json(item.stores).decode(),
        tags=_json(item.tags).decode(),
        hours=_json(item.hours).decode(),
        data=data.decode(),
        valid_from=begin,
        valid_until=end,
    )
    if not row.title:
        raise ItemRefused(Code.BAD_VALUE, "title", "it is empty", "Say in a few words what the item is about.")
    return row, lambda: words_of(row)


def words_of(row: ItemRow) -> Words:
    """By what an item is found."""
    keywords = _unjson(row.keywords)
    texts = (row.title, " ".join(keywords), row.body)
    title, folded, body = (index_words(row.brand, text, row.language) for text in texts)
    return Words(title, folded, body, phrases(row.brand, (row.title, *keywords), row.language))


def fields_of(row: ItemRow) -> dict[str, Any]:
    """An item as it is written; what it has not is left out."""
    lists = {name: _unjson(getattr(row, name)) for name in ("keywords", "stores", "tags", "hours", "data")}
    times = {name: _iso(getattr(row, name)) for name in _TIMES}
    texts = {name: getattr(row, name) for name in FIELDS if name not in lists and name not in times}
    every = {**texts, **lists, **times}
    return {name: every[name] for name in FIELDS if every[name]}


def match(brand: str, text: str) -> str:
    """FTS5's expression for items of a brand that have all of these words, or what they begin."""
    before = key(brand)
    return " AND ".join(
        "(" + " OR ".join(f'"{before}{form}" *' for form in forms(word, "")) + ")" for word in telling_words(text)
    )


def _of(fields: Any, path: str) -> object:
    return fields.get(path) if isinstance(fields, dict) else None


def _checked(field: str, check: Any, value: Any) -> None:
    try:
        check(value)
    except ItemRefused:
        raise
    except Refused as error:
        raise ItemRefused(Code.BAD_VALUE, field, error.message, error.remedy) from None


def _time(field: str, text: str | None, zone: ZoneInfo, *, until: bool = False) -> int | None:
    """Milliseconds since 1970; a day alone is all of that day."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        if until and _DAY.fullmatch(text):
            at += timedelta(days=1)
        return int((at if at.tzinfo else at.replace(tzinfo=zone)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ItemRefused(
            Code.BAD_VALUE, field, f"{text[:40]!r} is no time", "Write 2026-12-24 or 2026-12-24T18:00."
        ) from None


def _iso(at: int | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Bad(msgspec.Struct, frozen=True, kw_only=True):
    """An item of several that was refused: which, and why."""

    index: int
    name: str
    language: str
    code: str
    field: str
    message: str
    remedy: str = ""


class Stored(msgspec.Struct, kw_only=True):
    """What became of items."""

    new: int = 0
    changed: int = 0
    same: int = 0
    refused: list[Bad] = []
    blanks: list[str] = []  # names of items that say data which they have not, with those


class Library:
    """What brands have to say: every way to read and to change it.

    Raises `Refused` (an `ItemRefused` where an item is not right), and `Failed` for the disk.
    """

    def __init__(self, content: Content) -> None:
        self.content = content

    async def put(self, brand: str, items: Sequence[Any], *, dry_run: bool = False) -> Stored:
        """Add or replace items. One that is not right holds up no other."""
        zone = await self._zone(brand)
        good, bad = await to_thread(_sorted, brand, items, zone)
        outcomes = await self.content.put([written for _, written in good], _now(), dry_run=dry_run)
        for (index, _), outcome in zip(good, outcomes, strict=True):
            if outcome == "full":
                bad.append(_bad(index, items[index], _full()))
        counts = Counter(outcomes)
        bad.sort(key=lambda one: one.index)
        blanks = [blank for _, (row, _) in good if (blank := _blank(row))]
        return Stored(new=counts["new"], changed=counts["changed"], same=counts["same"], refused=bad, blanks=blanks)

    async def set(self, brand: str, name: str, language: str | None, changes: Mapping[str, Any]) -> Stored:
        """Change fields of an item; None takes one back. Of `data` the fields that are named are changed.

        Without a language it is changed in all; what is text then only if there is one language.
        """
        # What is there already says its zone.
        zone = await self._zone(brand) if any(field in changes for field in _TIMES) else ZoneInfo("UTC")

        def change(rows: list[ItemRow]) -> list[Written]:
            if not rows:
                raise NotFound(name)
            if len(rows) > 1 and (text := next((field for field in _TEXTS if field in changes), None)) is not None:
                languages = ", ".join(row.language or "(all)" for row in rows)
                raise ItemRefused(
                    Code.BAD_VALUE, "language", f"{name} has a {text} in each of {languages}", "Say which language."
                )
            return [made(brand, _merged(fields_of(row), changes), zone) for row in rows]

        if given := next((field for field in changes if field in _GIVEN_ONCE), None):
            raise ItemRefused(
                Code.BAD_VALUE, given, f"the {given} of an item cannot be changed", "Put a new item, remove this one."
            )
        try:
            counts = Counter(await self.content.change(brand, name, language, change, _now()))
        except NotFound:
            raise await self.missing(brand, name, language) from None
        return Stored(changed=counts["changed"], same=counts["same"])

    async def show(self, brand: str, name: str, language: str | None = None) -> list[dict[str, Any]]:
        """An item in each of its languages, or in one."""
        rows = await self.content.named(brand, name, language)
        if not rows:
            raise await self.missing(brand, name, language)
        return [fields_of(row) for row in rows]

    async def list(
        self, brand: str, *, search: str = "", language: str | None = None, after: str = "", most: int = 100
    ) -> list[dict[str, Any]]:
        """Items by name, those behind `after` (`NAME`, or `NAME:LANGUAGE`); or those with these words, best first."""
        if search:
            expression = match(brand, search)
            rows = await self.content.search(brand, expression, most, language) if expression else []
        else:
            name, _, last = after.partition(":")
            rows = await self.content.page(brand, (name, last), most, language)
        return [{**fields_of(row), "language": row.language, "changed_at": _iso(at)} for row, at in rows]

    async def remove(self, brand: str, names: Iterable[tuple[str, str | None]]) -> int:
        """Remove items. Returns how many there were."""
        return await self.content.remove(brand, list(names))

    async def missing(self, brand: str, name: str, language: str | None = None) -> NotFound:
        """What to say of an item that there is not: what was perhaps meant."""
        which = f"{name!r} in {language!r}" if language else repr(name)
        close = difflib.get_close_matches(name, await self.content.names_near(brand, name, _NEAR))
        everything = f"pushbroker content list {brand}"
        meant = f"Did you mean {' or '.join(map(repr, close))}? {everything} shows them all."
        return NotFound(f"{brand} has no item {which}", remedy=meant if close else everything)

    async def _zone(self, brand: str) -> ZoneInfo:
        return ZoneInfo(rules.of(await self.content.rules(brand)).time_zone)


def _full() -> ItemRefused:
    return ItemRefused(
        Code.TOO_MANY, "", f"a brand has {limits.ITEMS_MAX:,} items at most", "Remove those that nobody needs."
    )


def _sorted(brand: str, items: Sequence[Any], zone: ZoneInfo) -> tuple[list[tuple[int, Written]], list[Bad]]:
    good, bad = [], []
    for index, fields in enumerate(items):
        try:
            good.append((index, made(brand, fields, zone)))
        except ItemRefused as error:
            bad.append(_bad(index, fields, error))
    return good, bad


def _blank(row: ItemRow) -> str:
    data = _unjson(row.data)
    missing = sorted({name for text in (row.title, row.body, row.link) for name in template.blanks(text, data)})
    return f"{row.name}: {', '.join(f'data.{name}' for name in missing)}" if missing else ""


def _bad(index: int, fields: Any, error: ItemRefused) -> Bad:
    name, language = (str(_of(fields, field) or "")[:64] for field in _GIVEN_ONCE)
    return Bad(
        index=index,
        name=name,
        language=language,
        code=error.code,
        field=error.field,
        message=error.message,
        remedy=error.remedy,
    )


def _merged(fields: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    data = changes.get("data", {})
    merged = {**fields, **changes}
    if isinstance(data, dict):
        merged["data"] = {**fields.get("data", {}), **data}
        merged["data"] = {name: value for name, value in merged["data"].items() if value is not None}
    return {name: value for name, value in merged.items() if value is not None}


def _now() -> int:
    return time.time_ns() // 1_000_000
