"""Whom a request is for: users first, then devices, each once, in the order of their names and a page at a time.

A page is a query of its own that looks at a bounded number of candidates, so however many there are, connecting
clients' lookups on the same connection wait for 10 ms at most, and a caller may go on where it stopped.
"""
# ruff: noqa: S608 - statements are put together of our own words; all else is a parameter

import json
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple, Self

import msgspec

from broker.bridge.condition import BadCondition, Condition, Query, Source, parse, term, terms
from broker.errors import Refused
from broker.identity import check_name
from broker.limits import ADDRESS_PLACES_MAX, AUDIENCE_PAGE, AUDIENCE_SOURCES_MAX, AUDIENCE_TERMS
from broker.store.entries import WhoKind
from broker.store.profiles import Profiles, ms

_TABLES: Final = {"user": "users", "device": "devices", "store": "stores"}
_SUPPRESSED: Final = """EXISTS (SELECT 1 FROM suppressions s WHERE s.brand = :brand AND s.user = {user}
    AND (s.until IS NULL OR s.until > :now))"""
_USERS: Final = f"""
  SELECT c.name, {{because}}, CASE WHEN {_SUPPRESSED.format(user="c.name")} THEN 'suppressed' ELSE '' END, NULL
  FROM ({{candidates}}) c ORDER BY c.name
"""
# A device that gets it as its user's is not a recipient of its own.
_DEVICES: Final = f"""
  SELECT c.name,
    CASE WHEN d.name IS NULL OR d.user IS NOT NULL AND {{as_user}} IS NOT NULL THEN NULL ELSE {{because}} END,
    CASE WHEN d.state = 'revoked' THEN 'revoked' WHEN {_SUPPRESSED.format(user="d.user")} THEN 'suppressed' ELSE '' END,
    d.user
  FROM ({{candidates}}) c LEFT JOIN devices d ON d.brand = :brand AND d.name = c.name ORDER BY c.name
"""
_USERS_ALL: Final = Source("name", "users WHERE brand = :brand")
_DEVICES_ALL: Final = Source("name", "devices WHERE brand = :brand")
_DEVICES_OF_NOBODY: Final = Source("name", "devices WHERE brand = :brand AND user IS NULL")


class Address(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`to` of a request: all of these together."""

    users: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    segment: str = ""
    condition: str = ""
    following: str = ""  # an item
    only: str = ""  # a condition for all of them


class BadAddress(Refused):
    """A request is for somebody whom the brand has not. `field` says where that stands: 'users[0]'."""

    def __init__(self, code: str, field: str, message: str, *, remedy: str = "") -> None:
        super().__init__(message, reason=0x83, remedy=remedy)
        self.code = code
        self.field = field


class Addressee(NamedTuple):
    """A user or a device, and by what it was addressed: 'user', 'store:milano', 'topic:news', 'follow:wipro', ...

    left_out: why it gets nothing all the same: 'suppressed' (or its user is), 'revoked', or ''.
    """

    kind: WhoKind
    name: str
    because: str
    left_out: Literal["", "suppressed", "revoked"]


class Audience:
    """Whom one request is for. `Audience.of` makes it, after a look at whether all that it names is there."""

    def __init__(
        self,
        profiles: Profiles,
        brand: str,
        to: Address,
        conditions: Sequence[tuple[str, Condition]],
        only: Condition | None,
        now: datetime,
    ) -> None:
        self._profiles = profiles
        self._to = to
        self._conditions = conditions  # each with what it is called
        self._only = only
        self._users = frozenset(to.users)
        self._owned = bool(to.devices or to.stores)  # whether it is for devices that belong to a user, too
        asked = sum(1 for condition in (*(one for _, one in conditions), only) if condition for _ in terms(condition))
        self._page = max(1, AUDIENCE_PAGE // (1 + asked // AUDIENCE_TERMS))
        self._values = {
            "brand": brand,
            "now": ms(now),
            "page": self._page,
            "stores": json.dumps(to.stores),
            "topics": json.dumps(to.topics),
            "following": to.following,
        }

    @classmethod
    async def of(cls, profiles: Profiles, brand: str, to: Address, now: datetime) -> Self:
        """`BadAddress` where it names what the brand has not, or nobody."""
        if to == Address(only=to.only):
            raise BadAddress(
                "missing_field", "", "it is addressed to nobody", remedy='Name somebody: "to": {"users": ["ada"]}'
            )
        for field in ("stores", "topics"):
            if len(getattr(to, field)) > ADDRESS_PLACES_MAX:
                raise BadAddress("too_many", field, f"more than {ADDRESS_PLACES_MAX} {field}; use a condition")
        _check_names("topic", to.topics)
        for kind, names in (("user", to.users), ("device", to.devices), ("store", to.stores)):
            _check_names(kind, names)
            await _check_there(profiles, brand, kind, names)
        segments = {}
        if to.segment or "segment:" in to.condition or "segment:" in to.only:
            segments = {segment.name: segment.condition for segment in await profiles.segments(brand)}
        conditions: list[tuple[str, Condition]] = []
        if to.segment:
            if to.segment not in segments:
                raise _unknown(brand, "segment", to.segment, "segment")
            condition = _parsed("segment", f"segment:{to.segment}", segments, brand)
            conditions.append((f"segment:{to.segment}", condition))
        if to.condition:
            condition = _parsed("condition", to.condition, segments, brand)
            await check_names(profiles, brand, condition)
            conditions.append(("condition", condition))
        only = None
        if to.only:
            only = _parsed("only", to.only, segments, brand)
            await check_names(profiles, brand, only, "only")
        return cls(profiles, brand, to, conditions, only, now)

    async def pages(self, after: tuple[WhoKind, str] | None = None) -> AsyncIterator[list[Addressee]]:
        """All of them, or those who come after one of them, some at a time."""
        kind, name = after or ("user", "")
        if kind == "user":
            async for page in self._of("user", self._to.users, name):
                yield page
            name = ""
        async for page in self._of("device", self._to.devices, name):
            yield page

    async def _of(self, kind: WhoKind, given: Sequence[str], after: str) -> AsyncIterator[list[Addressee]]:
        query = Query()
        sources = self._sources(query, kind)
        if kind == "user":
            columns = {"because": self._because(query, "user", "c.name")}
        else:
            as_user = self._because(query, "user", "d.user", given=False) if self._owned else "NULL"
            columns = {"because": self._because(query, "device", "c.name"), "as_user": as_user}
        candidates = " UNION ".join(f"SELECT * FROM ({_in_order(source)})" for source in sources)
        sql = (_USERS if kind == "user" else _DEVICES).format(
            **columns, candidates=f"SELECT name FROM ({candidates}) ORDER BY name LIMIT :page"
        )
        names = sorted(set(given))
        more = True
        while more:
            first = bisect_right(names, after)
            slice_ = json.dumps(names[first : first + self._page])
            rows = await self._profiles.select(sql, {**self._values, **query.values, "after": after, "given": slice_})
            page = [
                Addressee(kind, name, because, left_out)
                for name, because, left_out, user in rows
                if because is not None and user not in self._users
            ]
            if page:
                yield page
            if more := len(rows) == self._page:
                after = rows[-1][0]

    def _sources(self, query: Query, kind: WhoKind) -> list[Source]:
        """Where to look for candidates: all who are addressed stand in one of them."""
        found = [Source("value", "json_each(:given) WHERE true")]
        if self._to.following:
            found.append(Source("name", f"follows WHERE brand = :brand AND item = :following AND kind = '{kind}'"))
        wanted: list[Condition] = [term("topic", topic) for topic in self._to.topics]
        if kind == "device":
            wanted += [term("store", store) for store in self._to.stores]
        for condition in (*wanted, *(condition for _, condition in self._conditions)):
            sources = query.sources(condition, kind)
            if sources is None or len(found) + len(sources) > AUDIENCE_SOURCES_MAX:
                return [_USERS_ALL if kind == "user" else _DEVICES_ALL if self._owned else _DEVICES_OF_NOBODY]
            found += sources
        return found

    def _because(self, query: Query, kind: WhoKind, name: str, *, given: bool = True) -> str:
        """The first way in which somebody is addressed, as SQL; NULL where they are not."""
        ways = [f"CASE WHEN {name} IN (SELECT value FROM json_each(:given)) THEN '{kind}' END"] if given else []
        if kind == "device" and self._to.stores:
            ways.append("CASE WHEN d.store IN (SELECT value FROM json_each(:stores)) THEN 'store:' || d.store END")
        alone = "d.user IS NULL AND " if kind == "device" else ""
        if self._to.topics:
            ways.append(
                f"""CASE WHEN {alone}true THEN 'topic:' || (SELECT topic FROM consents x WHERE x.brand = :brand
                    AND x.kind = '{kind}' AND x.name = {name} AND x.state = 'in'
                    AND x.topic IN (SELECT value FROM json_each(:topics)) ORDER BY topic LIMIT 1) END"""
            )
        if self._to.following:
            follows = f"""EXISTS (SELECT 1 FROM follows x WHERE x.brand = :brand AND x.item = :following
                    AND x.kind = '{kind}' AND x.name = {name})"""
            ways.append(f"CASE WHEN {alone}{follows} THEN 'follow:' || :following END")
        for called, condition in self._conditions:
            where = query.where(condition, kind, name)
            ways.append(f"CASE WHEN {alone}{where} THEN {query.parameter(called)} END")
        because = f"coalesce(NULL, {', '.join((*ways, 'NULL'))})"
        return f"CASE WHEN {query.where(self._only, kind, name)} THEN {because} END" if self._only else because


def _in_order(source: Source) -> str:
    column = source.column
    return f"SELECT DISTINCT {column} AS name FROM {source.rows} AND {column} > :after ORDER BY {column} LIMIT :page"


def _parsed(field: str, text: str, segments: dict[str, str], brand: str) -> Condition:
    try:
        return parse(text, segments)
    except BadCondition as error:
        raise BadAddress("bad_condition", field, f"{brand}: {error.message}", remedy=error.remedy) from None


async def check_names(profiles: Profiles, brand: str, condition: Condition, field: str = "condition") -> None:
    """`BadAddress` when a condition names a user, device or store that the brand has not."""
    for found in terms(condition, of_segments=False):
        if found.word in _TABLES:
            try:
                await _check_there(profiles, brand, found.word, [found.value])
            except BadAddress as error:
                message = f"at character {found.place}: {error.message}"
                raise BadAddress(error.code, field, message, remedy=error.remedy) from None


def _check_names(kind: str, names: Sequence[str]) -> None:
    for at, name in enumerate(names):
        try:
            check_name(kind, name)
        except Refused as error:
            raise BadAddress("bad_value", f"{kind}s[{at}]", error.message, remedy=error.remedy) from None


async def _check_there(profiles: Profiles, brand: str, kind: str, names: Sequence[str]) -> None:
    """`BadAddress` for the first of these that the brand has not."""
    sql = f"""SELECT key FROM json_each(:names)
              WHERE NOT EXISTS (SELECT 1 FROM {_TABLES[kind]} WHERE brand = :brand AND name = value)
              ORDER BY key LIMIT 1"""
    for first in range(0, len(names), AUDIENCE_PAGE):
        some = json.dumps(names[first : first + AUDIENCE_PAGE])
        for (key,) in await profiles.select(sql, {"brand": brand, "names": some}):
            at = first + key
            raise _unknown(brand, kind, names[at], f"{kind}s[{at}]")


def _unknown(brand: str, kind: str, name: str, field: str) -> BadAddress:
    return BadAddress(
        f"unknown_{kind}",
        field,
        f"{brand} has no {kind} {name!r}",
        remedy=f"See which there are: pushbroker {kind} list {brand}",
    )
