"""Conditions: whom a message is for, as `topic:news AND store:milano AND NOT tag:staff`.

    condition = all {"OR" all}
    all       = one {"AND" one}
    one       = "NOT" one | "(" condition ")" | term
    term      = word ":" value | "attr." name ("=" | "!=") value

A value that has a space or a parenthesis stands in double quotes. What each word means is a row of `TERMS`: once for
what is known of somebody, once as SQL. A user is asked with all of their devices.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from broker.errors import Refused
from broker.identity import check_name
from broker.limits import CONDITION_BYTES_MAX, CONDITION_DEPTH_MAX, CONDITION_TERMS_MAX, VALUE_BYTES_MAX
from broker.store.entries import WhoKind

_EXAMPLE: Final = "Write it like: topic:news AND (store:milano OR attr.city=Milano) AND NOT tag:staff"


class BadCondition(Refused):
    """The condition cannot be used. `place` is the character that is at fault, from 1."""

    def __init__(self, message: str, place: int, *, remedy: str = _EXAMPLE) -> None:
        super().__init__(f"at character {place}: {message}", reason=0x83, remedy=remedy)
        self.place = place


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a condition may ask of somebody. A user has devices, and stands where those do."""

    kind: WhoKind
    name: str
    user: str = ""  # of a device
    devices: frozenset[str] = frozenset()
    stores: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    attributes: Mapping[str, str] = {}
    locale: str = ""


class Term(NamedTuple):
    """`word:value`, or `attr.key=value`. `place` is its first character, from 1; `text` as it was written."""

    word: str
    key: str
    value: str
    place: int
    text: str


def term(word: str, value: str) -> Term:
    """A term that nobody wrote."""
    return Term(word, "", value, 1, f"{word}:{value}")


class Named(NamedTuple):
    """A saved segment, and what it says."""

    term: Term
    of: "Condition"


class Not(NamedTuple):
    """True where `of` is not."""

    of: "Condition"


class All(NamedTuple):
    """True where all of `of` are."""

    of: tuple["Condition", ...]


class Any(NamedTuple):
    """True where at least one of `of` is."""

    of: tuple["Condition", ...]


Condition = Term | Named | Not | All | Any


# -- the words ---------------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """All of whom a term is true: a column, and the rows in which it stands. An index has them in its order."""

    column: str
    rows: str


class Word(NamedTuple):
    """What a term means. In SQL `:brand` is the brand, and `{name}`, `{key}` and `{value}` stand for parameters.

    holds: whether it is true of somebody. sql: the same, where `{name}` is who is asked. source: all for whom it is
    true; without, everybody has to be asked.
    """

    holds: Callable[[Facts, Term], bool]
    sql: Mapping[WhoKind, str]
    source: Mapping[WhoKind, Source] = {}


def _exists(rows: str) -> str:
    return f"EXISTS (SELECT 1 FROM {rows})"  # noqa: S608 - our own words; what is asked for is a parameter


def _kept(table: str, column: str, more: str = "") -> tuple[dict[WhoKind, str], dict[WhoKind, Source]]:
    """What is kept of users and devices alike."""
    kinds: tuple[WhoKind, WhoKind] = ("user", "device")
    rows = f"{table} x WHERE x.brand = :brand AND x.kind = '%s' AND x.{column} = {{value}}{more}"
    sql = {kind: _exists(f"{rows % kind} AND x.name = {{name}}") for kind in kinds}
    return sql, {kind: Source("x.name", rows % kind) for kind in kinds}


def _locale(text: str) -> str:
    return text.replace("_", "-").lower()


_ROWS: Final = "devices x WHERE x.brand = :brand AND x"
_STANDS: Final = f"{_ROWS}.store = {{value}}"
_HAS_VALUE: Final = _kept("attributes", "value", " AND x.key = {key}")

# Who is looked for by several terms is looked for by the first of these: it mostly names the fewest.
TERMS: Final[dict[str, Word]] = {
    "user": Word(
        lambda who, term: term.value == (who.name if who.kind == "user" else who.user),
        {
            "user": "{name} = {value}",
            "device": _exists(f"{_ROWS}.name = {{name}} AND x.user = {{value}}"),
        },
        {
            "user": Source("x.name", "users x WHERE x.brand = :brand AND x.name = {value}"),
            "device": Source("x.name", f"{_ROWS}.user = {{value}}"),
        },
    ),
    "device": Word(
        lambda who, term: term.value in who.devices or (who.kind, who.name) == ("device", term.value),
        {
            "user": _exists(f"{_ROWS}.name = {{value}} AND x.user = {{name}}"),
            "device": "{name} = {value}",
        },
        {
            "user": Source("x.user", f"{_ROWS}.name = {{value}}"),
            "device": Source("x.name", f"{_ROWS}.name = {{value}}"),
        },
    ),
    "store": Word(
        lambda who, term: term.value in who.stores,
        {
            "user": _exists(f"{_STANDS} AND x.user = {{name}}"),
            "device": _exists(f"{_STANDS} AND x.name = {{name}}"),
        },
        {"user": Source("x.user", _STANDS), "device": Source("x.name", _STANDS)},
    ),
    "tag": Word(lambda who, term: term.value in who.tags, *_kept("tags", "tag")),
    "attr=": Word(lambda who, term: who.attributes.get(term.key) == term.value, *_HAS_VALUE),
    "topic": Word(lambda who, term: term.value in who.topics, *_kept("consents", "topic", " AND x.state = 'in'")),
    "language": Word(
        lambda who, term: f"{_locale(who.locale)}-".startswith(f"{_locale(term.value)}-"),
        {
            kind: _exists(
                f"preferences x WHERE x.brand = :brand AND x.kind = '{kind}' AND x.name = {{name}} AND "
                "substr(lower(replace(x.locale, '_', '-')) || '-', 1, length({value}) + 1) "
                "= lower(replace({value}, '_', '-')) || '-'"
            )
            for kind in ("user", "device")
        },
    ),
    "attr!=": Word(
        lambda who, term: who.attributes.get(term.key) != term.value,
        {kind: f"NOT {sql}" for kind, sql in _HAS_VALUE[0].items()},
    ),
}
_WORDS: Final = tuple(word for word in TERMS if word.isalpha())
_RANK: Final = {word: rank for rank, word in enumerate(TERMS)}


# -- from text ---------------------------------------------------------------------------------------------------------

_TOKEN: Final = re.compile(r'\s*([()]|(?:"(?:[^"\\]|\\.)*"|[^\s()"])+)')
_ATTRIBUTE: Final = re.compile(r"attr\.([^=!:]+)(=|!=)(.*)", re.DOTALL)
_VALUE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[^"]+', re.DOTALL)
_TERM_EXPECTED: Final = "a term such as topic:news or attr.city=Milano"


def parse(text: str, segments: Mapping[str, str]) -> Condition:
    """The condition that `text` is; `segments` are the brand's saved ones. Raises `BadCondition`."""
    return _Parser(text, segments, _Effort(), (), 0).whole()


class _Effort:
    """How many terms there are, segments within segments included."""

    terms = 0


class _Parser:
    """Recursive descent; `depth` and `path` go on into segments, which are parsed where they are named."""

    def __init__(
        self, text: str, segments: Mapping[str, str], effort: _Effort, path: tuple[str, ...], depth: int
    ) -> None:
        if len(text.encode()) > CONDITION_BYTES_MAX:
            raise BadCondition(f"it is longer than {CONDITION_BYTES_MAX} bytes", 1, remedy="Save parts of it: segments")
        self._segments = segments
        self._effort = effort
        self._path = path
        self._depth = depth
        self._tokens = list(_tokens(text))
        self._at = 0

    def whole(self) -> Condition:
        condition = self._any()
        if self._peek() != "":
            raise self._wrong("AND, OR or the end")
        return condition

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _took(self, token: str) -> bool:
        taken = self._peek() == token
        self._at += taken
        return taken

    def _wrong(self, expected: str) -> BadCondition:
        token, place = self._tokens[self._at]
        return BadCondition(f"expected {expected}, found {repr(token) if token else 'the end'}", place)

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._took("OR"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._took("AND"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self) -> Condition:
        token, place = self._tokens[self._at]
        if token in ("", ")", "AND", "OR"):
            raise self._wrong(f"{_TERM_EXPECTED}, NOT or '('")
        self._at += 1
        if token not in ("NOT", "("):
            return self._term(token, place)
        self._deeper(place, +1)
        if token == "NOT":  # noqa: S105 - no password
            inner: Condition = Not(self._one())
        else:
            inner = self._any()
            if not self._took(")"):
                raise self._wrong("AND, OR or ')'")
        self._deeper(place, -1)
        return inner

    def _deeper(self, place: int, by: int) -> None:
        self._depth += by
        if self._depth > CONDITION_DEPTH_MAX:
            raise BadCondition(f"more than {CONDITION_DEPTH_MAX} within each other", place)

    def _term(self, token: str, place: int) -> Condition:
        self._effort.terms += 1
        if self._effort.terms > CONDITION_TERMS_MAX:
            raise BadCondition(f"more than {CONDITION_TERMS_MAX} terms, those of its segments included", place)
        if attribute := _ATTRIBUTE.fullmatch(token):
            word, key = f"attr{attribute[2]}", _name("key", attribute[1], place)
            value = _unquoted(attribute[3], place)
            if len(value.encode()) > VALUE_BYTES_MAX:
                raise BadCondition(f"a value has at most {VALUE_BYTES_MAX} bytes", place)
            return Term(word, key, value, place, token)
        word, colon, value = token.partition(":")
        if not colon or word not in (*_WORDS, "segment"):
            raise BadCondition(
                f"expected {_TERM_EXPECTED}, found {token!r}",
                place,
                remedy=f"The words are {', '.join(_WORDS)} and segment, each with ':', and attr.NAME with '=' or '!='.",
            )
        term = Term(word, "", _name(word, _unquoted(value, place), place), place, token)
        return term if word != "segment" else self._segment(term)

    def _segment(self, term: Term) -> Condition:
        name = term.value
        if name in self._path:
            circle = " -> ".join((*self._path[self._path.index(name) :], name))
            raise BadCondition(f"the segment refers to itself: {circle}", term.place)
        if name not in self._segments:
            raise BadCondition(
                f"there is no segment {name!r}", term.place, remedy="See which there are: pushbroker segment list"
            )
        self._deeper(term.place, +1)
        try:
            inner = _Parser(self._segments[name], self._segments, self._effort, (*self._path, name), self._depth)
            condition = inner.whole()
        except BadCondition as error:
            raise BadCondition(f"in segment {name}: {error.message}", term.place, remedy=error.remedy) from None
        self._deeper(term.place, -1)
        return Named(term, condition)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Each token with its place; at the end ''."""
    at = 0
    end = len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            quote = text.index('"', at)
            raise BadCondition("a quote that is not closed", quote + 1)
        yield found[1], found.start(1) + 1
        at = found.end()
    yield "", end + 1


def _unquoted(value: str, place: int) -> str:
    if not _VALUE.fullmatch(value):
        raise BadCondition("expected a value: a word, or text in double quotes", place)
    return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL) if value.startswith('"') else value


def _name(kind: str, name: str, place: int) -> str:
    try:
        return check_name(kind, name)
    except Refused as error:
        raise BadCondition(error.message, place, remedy=error.remedy) from None


def with_segment(segments: Mapping[str, str], name: str, text: str) -> Condition:
    """The condition of a segment that is to be saved; `BadCondition` also when it would refer to itself."""
    return _Parser(text, {**segments, name: text}, _Effort(), (name,), 0).whole()


# -- of one of them ----------------------------------------------------------------------------------------------------


def holds(condition: Condition, who: Facts) -> bool:
    """Whether it is true of somebody."""
    match condition:
        case Term():
            return TERMS[condition.word].holds(who, condition)
        case Named() | Not():
            return holds(condition.of, who) is isinstance(condition, Named)
        case All():
            return all(holds(part, who) for part in condition.of)
        case Any():
            return any(holds(part, who) for part in condition.of)


def terms(condition: Condition, *, of_segments: bool = True) -> Iterator[Term]:
    """Its terms as they were written."""
    match condition:
        case Term():
            yield condition
        case Not():
            yield from terms(condition.of, of_segments=of_segments)
        case Named():
            if of_segments:
                yield from terms(condition.of)
        case All() | Any():
            for part in condition.of:
                yield from terms(part, of_segments=of_segments)


def explain(condition: Condition, who: Facts) -> dict[str, bool]:
    """For each of its terms, as it was written, whether it is true of somebody."""
    return {term.text: TERMS[term.word].holds(who, term) for term in terms(condition)}


# -- of all ------------------------------------------------------------------------------------------------------------


class Query:
    """Makes SQL of conditions, and gathers the values of its parameters."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def parameter(self, value: str) -> str:
        """What stands for a value in the statement."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f":{name}"

    def where(self, condition: Condition, kind: WhoKind, name: str) -> str:
        """An expression: whether the condition is true of the user or device that `name` names."""
        match condition:
            case Term():
                return self._filled(TERMS[condition.word].sql[kind], condition, name)
            case Named():
                return self.where(condition.of, kind, name)
            case Not():
                return f"NOT ({self.where(condition.of, kind, name)})"
            case All() | Any():
                between = " AND " if isinstance(condition, All) else " OR "
                return f"({between.join(self.where(part, kind, name) for part in condition.of)})"

    def sources(self, condition: Condition, kind: WhoKind) -> list[Source] | None:
        """Where all stand of whom it is true, and perhaps others; None: only among all there are."""
        found = _narrowest(condition, kind)
        if found is None:
            return None
        return [
            Source(source.column, self._filled(source.rows, term, ""))
            for term in found
            for source in (TERMS[term.word].source[kind],)
        ]

    def _filled(self, sql: str, term: Term, name: str) -> str:
        key = self.parameter(term.key) if "{key}" in sql else ""
        return sql.format(name=name, key=key, value=self.parameter(term.value))


def _narrowest(condition: Condition, kind: WhoKind) -> list[Term] | None:
    """The terms of which one is true of each of whom the condition is true; None where there are none such."""
    match condition:
        case Term():
            return [condition] if kind in TERMS[condition.word].source else None
        case Named():
            return _narrowest(condition.of, kind)
        case Not():
            return None
        case Any():
            parts = [_narrowest(part, kind) for part in condition.of]
            return None if None in parts else [term for part in parts for term in part or ()]
        case All():
            found = [part for part in (_narrowest(part, kind) for part in condition.of) if part is not None]
            return min(found, key=lambda part: max(_RANK[term.word] for term in part), default=None)
