"""Finds out what a question wants: a choice that was offered, a command, or the items that it is about.

Synchronous: it is called in a thread, with a connection to content.db that has the records as `records`.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from functools import lru_cache
from math import log
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from broker.pull import rules as rules_
from broker.pull.asking import Code, QuestionRefused
from broker.pull.commands import Command, command_of
from broker.pull.fold import forms, key, phrase_key, stem, telling_words, token, words
from broker.pull.hours import week, within
from broker.pull.question import (
    Asker,
    AskServer,
    Decided,
    Follow,
    HandOver,
    OptIn,
    Option,
    OptOut,
    Outcome,
    Question,
    Shown,
    Unfollow,
)
from broker.pull.rules import Rules, in_language, said
from broker.pull.template import render
from broker.store.content import ItemRow

# Looked at more closely, of those that FTS5 ranks first and that are for who asks.
CANDIDATES: Final = 12
# Items that are called the same, one for each store for example; more are not looked at, a microsecond each.
NAMESAKES: Final = 2000
# Rows that one search may rank, a microsecond each. Words that are in more items are left out of it, where there are
# rarer ones; of items that have only such words the newest are looked at.
RANKED: Final = 150
# Of such items so many of the newest, for whomever they are: 10 ms.
NEWEST: Final = 10_000
_PREFIX_MIN: Final = 3
_BEGUN_MAX: Final = 100  # words that one may be the beginning of: 20 us
_BEGUN_IN_MAX: Final = 100_000  # items with them, each word's counted: they are put together in 5 ms
_COUNTS_KEPT: Final = 100_000  # of words: 10 MB
_COUNTED_S: Final = 10.0  # how many items there are is known so long: 100,000 are counted in 5 ms
# What a word is worth where it is; one that is only begun is so in a title or a keyword.
_WORTH: Final = {"title": 1.0, "keywords": 1.0, "beginning": 0.8, "body": 0.6}
_UNKNOWN: Final = 0.6
_LESS, _OTHER_LANGUAGE, _FOR_THEM = 0.9, 0.9, 0.05
_FOLLOW: Final = "follow:"
_UNFOLLOW: Final = "unfollow:"
ROUTE: Final = "route:"  # and whose, and the id that the brand's server has given to a choice
_COLUMNS: Final = ("number", "name", "language", "title", "body", "image", "link", "keywords", "stores", "tags",
                   "hours", "data", "valid_from", "valid_until")  # fmt: skip
_ITEM: Final = ", ".join(f"i.{column}" for column in _COLUMNS)
# What is for others, or for another time, is not to take the place of what is for who asks now.
_FITS: Final = """(i.valid_from IS NULL OR i.valid_from <= :at) AND (i.valid_until IS NULL OR i.valid_until > :at)
    AND (i.stores = '[]' OR instr(i.stores, :store)) AND (i.tags = '[]' OR EXISTS
    (SELECT 1 FROM json_each(i.tags) AS t WHERE t.value IN (SELECT value FROM json_each(:tags))))"""


class Item(NamedTuple):
    """A row of content."""

    number: int
    name: str
    language: str
    title: str
    body: str
    image: str
    link: str
    keywords: str
    stores: str
    tags: str
    hours: str
    data: str
    valid_from: int | None
    valid_until: int | None


class Hit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item that has words of the question, and what speaks for it."""

    item: str
    language: str
    title: str
    score: float
    exact: bool = False  # the question is its title, or one of its keywords, and nothing else
    named: bool = False  # all words that any item has are in its title or keywords
    theirs: bool = False  # it is for their store, or a tag of theirs, and not for all
    matched: dict[str, str] = {}  # each word that it has, and where
    left_out: str = ""  # why it is not for who asks, or not now


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a question, and why."""

    decided: Decided
    words: list[str]
    hits: list[Hit]  # best first
    score_min: float
    lead: float


class _Found(NamedTuple):
    hit: Hit
    item: Item


class Recogniser:
    """Decides what becomes of questions. It remembers what brands' rules and libraries are like; for one thread."""

    def __init__(self) -> None:
        self._version = -1
        self._rules: dict[str, Rules] = {}
        self._items: dict[str, tuple[int, float]] = {}  # how many a brand has, and when they were counted
        self._counts: dict[str, int] = {}  # in how many items a word was when it was last looked up
        self._nowhere: set[str] = set()  # words that are in none, until something changes

    def decide(self, db: sqlite3.Connection, asker: Asker, question: Question, now: datetime) -> Decided:
        """What becomes of a question. Raises `QuestionRefused` for a choice that was never offered."""
        return self._look(db, asker, now).decided(question)

    def explain(self, db: sqlite3.Connection, asker: Asker, question: Question, now: datetime) -> Explained:
        """The same, and why."""
        look = self._look(db, asker, now)
        decided = look.decided(question)
        hits = [one.hit for one in (*look.hits, *look.left_out())]
        return Explained(
            decided=decided, words=look.words, hits=hits, score_min=look.rules.score_min, lead=look.rules.lead
        )

    def _look(self, db: sqlite3.Connection, asker: Asker, now: datetime) -> "_Look":
        (version,) = db.execute("PRAGMA main.data_version").fetchone()
        if version != self._version:
            self._version = version
            self._rules.clear()
            self._nowhere.clear()
        items = self._counted(db, asker.brand)
        if len(self._counts) + len(self._nowhere) > _COUNTS_KEPT:
            self._counts.clear()
            self._nowhere.clear()
        if (rules := self._rules.get(asker.brand)) is None:
            row = db.execute("SELECT rules FROM rules WHERE brand = ?", (asker.brand,)).fetchone()
            rules = self._rules[asker.brand] = rules_.of(row[0] if row else "")
        return _Look(db, asker, rules, items, now, _Counts(db, self._counts, self._nowhere))

    def _counted(self, db: sqlite3.Connection, brand: str) -> int:
        """How many items a brand has, or had a moment ago. When these are others, so are the counts of their words."""
        had, at = self._items.get(brand, (0, 0.0))
        now = time.monotonic()
        if had and now < at + _COUNTED_S:
            return had
        (items,) = db.execute("SELECT count(*) FROM item WHERE brand = ?", (brand,)).fetchone()
        self._items[brand] = items, now
        if abs(items - had) > had // 8:
            self._counts.clear()
        return int(items)


class _Counts:
    """In how many items words are, about: as it was when they were last looked up."""

    def __init__(self, db: sqlite3.Connection, counts: dict[str, int], nowhere: set[str]) -> None:
        self._db = db
        self._counts = counts
        self._nowhere = nowhere

    def of(self, form: str) -> int:
        """0 only if it is in none."""
        if form in self._nowhere:
            return 0
        known = self._counts.get(form)
        if known is None:
            row = self._db.execute("SELECT doc FROM item_word WHERE term = ?", (form,)).fetchone()
            if row is None:
                self._nowhere.add(form)
                return 0
            known = self._counts[form] = int(row[0])
        return known


class _Look:
    """One question."""

    def __init__(
        self,
        db: sqlite3.Connection,
        asker: Asker,
        rules: Rules,
        items: int,
        now: datetime,
        counts: _Counts,
    ) -> None:
        self._db = db
        self._counts = counts
        self._asker = asker
        self.rules = rules
        self._items = items
        self._now = now
        self._at = int(now.timestamp() * 1000)
        self._who = {"at": self._at, "store": json.dumps(asker.store), "tags": json.dumps(sorted(asker.tags))}
        self.words: list[str] = []
        self.hits: list[_Found] = []

    def decided(self, question: Question) -> Decided:
        """What becomes of it, by the first rule that holds."""
        if question.choice:
            return self._chosen(question.choice)
        text = question.text
        folded = " ".join(words(text))
        found = command_of(text)
        if found is not None and found.verb == "stop":
            return self._stop()
        for command in self.rules.commands:
            if _is_said(folded, command.words):
                return self._brands_own(command, folded)
        if found is not None and (done := self._command(found, text)) is not None:
            return done
        self.words = telling_words(text)
        signature = " ".join(self.words)
        if (why := self._for_a_person(folded)) is not None:
            return Decided(outcome="person", rule=why, action=HandOver("rule"), folded=signature)
        return msgspec.structs.replace(self._searched(), folded=signature)

    # -- commands ----------------------------------------------------------------------------------------------------

    def _chosen(self, choice: str) -> Decided:
        if choice.startswith(ROUTE):
            _, route, id = (*choice.split(":", 2), "")[:3]
            if route in self.rules.routes:
                return Decided(outcome="asking", rule=f"route:{route}", action=AskServer(route, id))
        if choice.startswith(_UNFOLLOW):
            return self._unfollowed(choice.removeprefix(_UNFOLLOW))
        follow, every_s = choice.startswith(_FOLLOW), 0
        name = choice
        if follow:
            _, name, often = (*choice.split(":", 2), "0")[:3]
            every_s = int(often) if often.isascii() and often.isdecimal() and len(often) < 9 else 0
        item = self._named(name)
        if item is None:
            raise QuestionRefused(Code.UNKNOWN_CHOICE, "That was not offered, or is not there any more: ask again.")
        if follow:
            return self._followed(item, every_s)
        return self._answered(item, "choice", 1.0)

    def _brands_own(self, command: rules_.Command, folded: str) -> Decided:
        rule = f"command:{command.words[0]}"
        if command.hand_over:
            return Decided(outcome="person", rule=rule, action=HandOver("rule"), folded=folded)
        if command.route:
            return Decided(
                outcome="asking", rule=f"route:{command.route}", action=AskServer(command.route), folded=folded
            )
        if command.text:
            text = in_language(command.text, self._asker.language, self.rules.language)
            return Decided(outcome="command", rule=rule, shown=self._words(text), folded=folded)
        item = self._named(command.item or command.follow)
        if item is None:
            return msgspec.structs.replace(self._otherwise("not_found"), folded=folded)
        if command.follow:
            return self._followed(item, 0)
        return msgspec.structs.replace(self._answered(item, rule, 1.0), folded=folded)

    def _stop(self) -> Decided:
        return Decided(
            outcome="command", rule="command:stop", shown=self._said("stopped"), action=OptOut(), folded="stop"
        )

    def _command(self, command: Command, text: str) -> Decided | None:
        """What a command does; None where it is about nothing that there is: then it is a question."""
        rule, folded = f"command:{command.verb}", f"{command.verb} {command.what}".strip()
        match command.verb:
            case "start":
                return Decided(outcome="command", rule=rule, shown=self._said("started"), action=OptIn(), folded=folded)
            case "help":
                return Decided(outcome="command", rule=rule, shown=self._said("help"), folded=folded)
            case "operator":
                return Decided(outcome="person", rule=rule, action=HandOver("asked"), folded=folded)
            case "unfollow" if followed := self._following(command.what):
                if len(followed) == 1:
                    return self._unfollowed(followed[0][0])
                options = tuple(Option(id=f"{_UNFOLLOW}{name}", title=title) for name, title in followed)
                return Decided(outcome="choice", rule=rule, shown=self._said("choice"), options=options, folded=folded)
        found = self._about(command.what, text)
        if not found:
            return None
        if command.verb == "unfollow":  # what they do not follow: only if that is clear
            exact = len(found) == 1 and found[0].hit.exact
            return self._unfollowed(found[0].item.name) if exact else None
        if len(found) == 1:
            return self._followed(found[0].item, command.every_s)
        options = tuple(
            Option(id=f"{_FOLLOW}{one.item.name}:{command.every_s}", title=self._title(one.item)) for one in found
        )
        return Decided(outcome="choice", rule=rule, shown=self._said("choice"), options=options, folded=folded)

    def _following(self, what: str) -> list[tuple[str, str]]:
        """Which of the items that they follow these words name, whether they are there any more or not."""
        asker = self._asker
        sql = """SELECT f.item, coalesce(i.title, f.item) FROM records.follows f
            LEFT JOIN item i ON i.brand = f.brand AND i.name = f.item
            WHERE f.brand = ? AND f.kind = ? AND f.name = ? ORDER BY f.item, i.language = ?"""
        rows = self._db.execute(sql, (asker.brand, asker.kind, asker.name, asker.language)).fetchall()
        wanted = {stem(word, asker.language) for word in telling_words(what)}
        there: dict[str, str] = {}
        for name, title in rows:
            called = {stem(word, asker.language) for word in (*words(name), *words(title))}
            if " ".join(words(name)) == what:
                return [(name, title)]
            if wanted <= called:
                there[name] = title
        return list(there.items())[: self.rules.choices_max]

    def _unfollowed(self, name: str) -> Decided:
        item = self._named(name, for_all=True)
        title = name if item is None else self._title(item)
        return Decided(
            outcome="command",
            rule="command:unfollow",
            shown=self._said("unfollowed", name, title),
            action=Unfollow(name),
            folded=f"unfollow {name}",
        )

    def _followed(self, item: Item, every_s: int) -> Decided:
        """It is answered now, and later when it changes."""
        shown = self._show(item)
        words = self._said("followed", item.name, self._title(item)).body
        body = f"{shown.body}\n\n{words}" if shown.body else words
        return Decided(
            outcome="command",
            rule="command:follow",
            shown=msgspec.structs.replace(shown, body=body),
            action=Follow(item.name, every_s),
            score=1.0,
            folded=f"follow {item.name}",
        )

    def _about(self, what: str, text: str) -> list[_Found]:
        """The items that these words name: one, if it is clear which."""
        written = next((word for word in text.split()[1:2] if " ".join(words(word)) == what), what)
        for name in (written, written.lower(), what.replace(" ", "-")):
            if (named := self._named(name)) is not None:
                hit = Hit(item=named.name, language=named.language, title=named.title, score=1.0, exact=True)
                return [_Found(hit, named)]
        self.words = telling_words(what)
        hits = [one for one in self._looked_up() if one.hit.score >= self.rules.score_min]
        return _leading(hits, self.rules.lead)[: self.rules.choices_max]

    def _for_a_person(self, folded: str) -> str | None:
        asker = self._asker
        for rule in self.rules.hand_over:
            word = _said_in(folded, rule.words, asker.language)
            if (
                (word is not None or not rule.words)
                and (not rule.tags or asker.tags.intersection(rule.tags))
                and (not rule.stores or asker.store in rule.stores)
            ):
                return f"hand_over:{word or ','.join((*rule.tags, *rule.stores))}"
        return None

    # -- search ------------------------------------------------------------------------------------------------------

    def _searched(self) -> Decided:
        rules = self.rules
        hits = self._looked_up()
        good = [one for one in hits if one.hit.score >= rules.score_min]
        best = hits[0].hit.score if hits else 0.0
        if not good:
            nearest = hits[0].item.name if hits else ""
            otherwise = self._otherwise("low_score" if hits else "not_found")
            return msgspec.structs.replace(otherwise, score=best, nearest=nearest)
        leading = _leading(good, rules.lead)[: rules.choices_max]
        rule = "keyword" if leading[0].hit.exact else "search"
        if len(leading) == 1:
            return self._answered(leading[0].item, rule, best)
        options = tuple(Option(id=one.item.name, title=self._title(one.item)) for one in leading)
        return Decided(outcome="choice", rule=rule, shown=self._said("choice"), options=options, score=best)

    def _otherwise(self, why: str) -> Decided:
        """What becomes of what has no answer."""
        what, _, route = self.rules.otherwise.partition(":")
        if what == "person":
            return Decided(
                outcome="person", rule=why, action=HandOver("low_score" if why == "low_score" else "not_found")
            )
        if what == "route":
            return Decided(outcome="asking", rule=f"route:{route}", action=AskServer(route))
        return Decided(outcome="nothing", rule=why, shown=self._said("nothing"))

    def _looked_up(self) -> list[_Found]:
        """The items that the question is called, or else those with words of it; best first.

        Each once, in the language that suits best.
        """
        if not self.words or not self._items:
            return []
        best: dict[str, _Found] = {}
        for one in self._called(_FITS) or self._having(_FITS):
            if one.item.name not in best or best[one.item.name].hit.score < one.hit.score:
                best[one.item.name] = one
        self.hits = sorted(best.values(), key=lambda one: (-one.hit.score, not one.hit.theirs, one.item.number))
        return self.hits

    def left_out(self) -> list[_Found]:
        """Those that would be among them, but are for others, or for another time."""
        if not self.words or not self._items:
            return []
        named = {one.item.name for one in self.hits}
        found = self._called("TRUE", left_out=True)
        if not any(one.hit.exact for one in self.hits):
            found += self._having("TRUE", left_out=True)
        kept = {one.item.number: one for one in reversed(found) if one.item.name not in named}
        return sorted(kept.values(), key=lambda one: -one.hit.score)[:CANDIDATES]

    def _called(self, fits: str, *, left_out: bool = False) -> list[_Found]:
        """The items of which it is the title, or a keyword, as a whole: in their language, or else in others."""
        asker = self._asker
        phrase = phrase_key(asker.brand, " ".join(self.words), asker.language)
        values = {**self._who, "phrase": phrase, "language": self._language}
        found: list[_Found] = []
        for other in ("", "NOT"):
            sql = f"""SELECT {_ITEM} FROM (SELECT item FROM phrase WHERE phrase = :phrase LIMIT {NAMESAKES}) p
                JOIN item i ON i.number = p.item
                WHERE i.language {other} IN (:language, '') AND {fits}"""  # noqa: S608 - our own words
            with closing(self._db.execute(sql, values)) as rows:
                for item in map(Item._make, rows):
                    why = self._left_out(item)
                    if bool(why) is left_out:
                        found.append(self._found(item, 1.0, why, exact=True))
                        if len(found) == CANDIDATES:
                            break
            if found:
                break
        return found

    def _having(self, fits: str, *, left_out: bool = False) -> list[_Found]:
        """The items with words of it."""
        asked = _Asked(self.words, self._asker, self._items, self._db, self._counts)
        for query in asked.queries():
            found = []
            with closing(self._db.execute(asked.sql(query, fits), {**self._who, "query": query.text})) as rows:
                for row in rows:
                    item = Item._make(row[3:])
                    why = self._left_out(item)
                    if bool(why) is not left_out:
                        continue
                    matched = asked.matched(row[:3])
                    score = _LESS * asked.share(matched)
                    found.append(self._found(item, score, why, matched=matched, named=asked.names(matched)))
                    if len(found) == CANDIDATES:
                        break
            if found:
                return found
        return []

    @property
    def _language(self) -> str:
        return self._asker.language or self.rules.language

    def _found(
        self,
        item: Item,
        score: float,
        left_out: str,
        *,
        matched: Mapping[str, str] | None = None,
        exact: bool = False,
        named: bool = False,
    ) -> _Found:
        """An item with its score, as it suits who asks."""
        if item.language and self._language and item.language != self._language:
            score *= _OTHER_LANGUAGE
        theirs = item.stores != "[]" or item.tags != "[]"
        if theirs and not left_out:
            score = min(1.0, score + _FOR_THEM)
        hit = Hit(
            item=item.name, language=item.language, title=item.title, score=round(score, 3), exact=exact,
            named=named, theirs=theirs and not left_out, matched=dict(matched or {}), left_out=left_out,
        )  # fmt: skip
        return _Found(hit, item)

    def _left_out(self, item: Item) -> str:
        """Why an item is not for who asks, or not now; '' if it is."""
        asker, at = self._asker, self._at
        if item.valid_from is not None and at < item.valid_from:
            return "it does not hold yet"
        if item.valid_until is not None and at >= item.valid_until:
            return "it does not hold any more"
        if item.stores != "[]" and asker.store not in _listed(item.stores):
            return "it is for other stores"
        if item.tags != "[]" and not asker.tags.intersection(_listed(item.tags)):
            return "it is for who has other tags"
        if item.hours != "{}" and not within(_week(item.hours), ZoneInfo(self.rules.time_zone), self._now):
            return "it holds at other hours"
        return ""

    def _named(self, name: str, *, for_all: bool = False) -> Item | None:
        """The item of this name that suits who asks, if there is one for them now, or for anybody at any time."""
        sql = f"SELECT {_ITEM} FROM item i WHERE i.brand = ? AND i.name = ?"  # noqa: S608 - our own words
        items = [Item(*row) for row in self._db.execute(sql, (self._asker.brand, name))]
        languages = (self._asker.language, self.rules.language, "")
        there = [item for item in items if for_all or not self._left_out(item)]
        return min(
            there,
            key=lambda item: languages.index(item.language) if item.language in languages else len(languages),
            default=None,
        )

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _answered(self, item: Item, rule: str, score: float) -> Decided:
        outcome: Outcome = "answered"
        return Decided(outcome=outcome, rule=rule, shown=self._show(item), score=score)

    def _show(self, item: Item) -> Shown:
        return show(item, self._asker)

    def _title(self, item: Item) -> str:
        return render(item.title, self._asker, _mapped(item.data)) or item.name

    def _said(self, what: str, item: str = "", title: str = "") -> Shown:
        template = said(self.rules, what, self._asker.language)
        return Shown(item=item, body=render(template, self._asker, {"item": item, "title": title}))

    def _words(self, text: str) -> Shown:
        return Shown(body=render(text, self._asker, {}))


def show(item: Item | ItemRow, asker: Asker) -> Shown:
    """An item with its templates filled in."""
    data = _mapped(item.data)
    return Shown(
        item=item.name,
        language=item.language,
        title=render(item.title, asker, data),
        body=render(item.body, asker, data),
        image=item.image,
        link=render(item.link, asker, data),
        data=data,
    )


class _Query(NamedTuple):
    """FTS5's expression, and whether it may take the time to rank what it finds."""

    text: str
    ranked: bool


class _Asked:
    """The words of a question, as they are looked for in the index."""

    def __init__(self, asked: Sequence[str], asker: Asker, items: int, db: sqlite3.Connection, counts: _Counts) -> None:
        self._db = db
        self._before = key(asker.brand)
        self._counts = counts
        self._forms: dict[str, list[str]] = {}
        self._rows: dict[str, int] = {}
        for word in asked:
            for language in dict.fromkeys((asker.language, "")):  # one that nobody has may be of another language
                self._forms[word] = [self._before + form for form in forms(word, language)]
                self._rows[word] = sum(map(counts.of, self._forms[word]))
                if self._rows[word]:
                    break
        last = asked[-1]
        self._begun = ""
        if len(last) >= _PREFIX_MIN and not self._rows[last] and (rows := self._beginning(last)):
            self._begun, self._rows[last] = last, rows
        # A word that one item has counts twice as much as one that all have, and that much more than one of none.
        self._weights = {
            word: 1 + log(1 + items / (1 + min(rows, items))) / log(1 + items) if rows else _UNKNOWN
            for word, rows in self._rows.items()
        }
        self._all = sum(self._weights.values())

    def _beginning(self, word: str) -> int:
        """In how many items words are that begin so, about; 0 also if these are too many to say anything."""
        first = self._before + token(word)
        sql = f"SELECT doc FROM item_word WHERE term > ? AND term < ? LIMIT {_BEGUN_MAX + 1}"  # noqa: S608 - our own
        found = 0
        with closing(self._db.execute(sql, (first, first + "\x7f"))) as rows:
            for number, (doc,) in enumerate(rows):
                found += doc
                if number == _BEGUN_MAX or found > _BEGUN_IN_MAX:
                    return 0
        return found

    def queries(self) -> Iterator["_Query"]:
        """How those are found that are worth a closer look: one search mostly, two at most."""
        known = sorted((word for word in self._forms if self._rows[word]), key=lambda word: self._rows[word])
        if not known:
            return
        rare: list[str] = []
        rows = 0
        for word in known:
            rows += self._rows[word]
            if rare and rows > RANKED:
                break
            rare.append(word)
        query = " OR ".join(map(self._group, rare))
        if frequent := known[len(rare) :]:
            yield _Query(" AND ".join((f"({query})", *map(self._group, frequent))), ranked=False)
        yield _Query(query, ranked=self._rows[rare[0]] <= RANKED)

    def _group(self, word: str) -> str:
        quoted = [f'"{form}"' for form in self._forms[word] if self._counts.of(form)]
        if word == self._begun:
            quoted.append(f'"{self._before}{token(word)}" *')
        return f"({' OR '.join(quoted)})"

    def sql(self, query: "_Query", fits: str) -> str:
        """The folded columns and the item of each that matches: best first, or newest first."""
        columns = f"SELECT t.title, t.keywords, t.body, {_ITEM}"
        if query.ranked:
            return f"""{columns} FROM item_text t JOIN item i ON i.number = t.rowid
                WHERE item_text MATCH :query AND rank MATCH 'bm25(4.0, 4.0, 1.0)' AND {fits} ORDER BY rank"""
        newest = f"SELECT rowid FROM item_text WHERE item_text MATCH :query ORDER BY rowid DESC LIMIT {NEWEST}"  # noqa: S608
        # CROSS JOIN: in this order, one by one, until there are enough.
        return f"""{columns} FROM ({newest}) n CROSS JOIN item i ON i.number = n.rowid
            CROSS JOIN item_text t ON t.rowid = n.rowid WHERE {fits}"""

    def matched(self, folded: Sequence[str]) -> dict[str, str]:
        """Which words of the question an item has, and where: in the best place of each."""
        title, keywords, body = (f" {text} " for text in folded)
        found: dict[str, str] = {}
        for word, group in self._forms.items():
            if not self._rows[word]:
                continue
            for place, text in (("title", title), ("keywords", keywords), ("body", body)):
                if any(f" {form} " in text for form in group):
                    found[word] = place
                    break
            if word == self._begun and f" {self._before}{token(word)}" in title + keywords:
                found[word] = "beginning"
        return found

    def names(self, matched: Mapping[str, str]) -> bool:
        """Whether that is all of it that is known here, in what an item is called."""
        return all(matched.get(word, "body") != "body" for word, rows in self._rows.items() if rows) and bool(matched)

    def share(self, matched: Mapping[str, str]) -> float:
        """How much of the question that is, from 0 to 1."""
        return sum(_WORTH[where] * self._weights[word] for word, where in matched.items()) / self._all


def _leading(hits: list[_Found], lead: float) -> list[_Found]:
    """The best, and those that are nearly as good; what is called so is ahead of what is not.

    Of those that are called just so, those in their language and for them are ahead of others.
    """
    if exact := [one for one in hits if one.hit.exact]:
        first = exact[0].hit
        return [one for one in exact if (one.hit.score, one.hit.theirs) == (first.score, first.theirs)]
    if named := [one for one in hits if one.hit.named]:
        return named
    return [one for one in hits if hits[0].hit.score - one.hit.score < lead]


def _is_said(folded: str, command: Sequence[str]) -> bool:
    """Whether all of a question is one of these phrases."""
    whole, begun = _plain(tuple(command))
    return folded in whole or any(folded.startswith(one) for one in begun)


def _said_in(folded: str, phrases: Sequence[str], language: str) -> str | None:
    """The first of these phrases that a question has, with any endings."""
    text = f" {_stems(folded, language)} "
    return next((one for one, stems in _stemmed(tuple(phrases), language) if stems in text), None)


# Kept for all phrases of a rule at once: a brand may have 10,000 of them, and each question is compared with all.
@lru_cache(4096)
def _plain(phrases: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """What is said as a whole, and, with a * behind it, begins so."""
    plain = [" ".join(words(one)) for one in phrases]
    begun = tuple(f"{said} " for one, said in zip(phrases, plain, strict=True) if one.endswith("*") and said)
    return frozenset(plain), begun


@lru_cache(4096)
def _stemmed(phrases: tuple[str, ...], language: str) -> tuple[tuple[str, str], ...]:
    return tuple((one, f" {_stems(' '.join(words(one)), language)} ") for one in phrases)


@lru_cache(4096)
def _stems(folded: str, language: str) -> str:
    return " ".join(stem(word, language) for word in folded.split())


@lru_cache(2048)
def _listed(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


@lru_cache(2048)
def _week(text: str) -> list[tuple[int, int]]:
    return week(json.loads(text))


@lru_cache(2048)
def _mapped(text: str) -> Mapping[str, Any]:
    decoded: Mapping[str, Any] = json.loads(text)
    return decoded
