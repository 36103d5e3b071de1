"""Finds out what a question wants: a choice that was offered, a command, or the items that it is about.

Synchronous: it is called in a thread, with a connection to content.db that has the records as `records`.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from math import log
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from broker.pull import rules as rules_
from broker.pull.asking import Code, QuestionRefused
from broker.pull.commands import Command, command_of
from broker.pull.fold import forms, key, phrase_key, telling_words, words
from broker.pull.hours import is_open
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

# Looked at more closely, of those that FTS5 ranks first.
CANDIDATES: Final = 12
# Rows that one search may rank, a microsecond each. Words that are in more items are left out of it, where there are
# rarer ones; of items that have only such words the newest are looked at.
RANKED: Final = 300
_PREFIX_MIN: Final = 3
_COUNTS_KEPT: Final = 100_000  # of words: 10 MB
# What a word is worth where it is; one that is only begun is so in a title or a keyword.
_WORTH: Final = {"title": 1.0, "keywords": 1.0, "beginning": 0.8, "body": 0.6}
_LESS, _OTHER_LANGUAGE, _FOR_THEM = 0.9, 0.9, 0.05
_FOLLOW: Final = "follow:"
ROUTE: Final = "route:"  # and whose, and the id that the brand's server has given to a choice
_COLUMNS: Final = ("number", "name", "language", "title", "body", "image", "link", "keywords", "stores", "tags",
                   "hours", "data", "valid_from", "valid_until")  # fmt: skip
_ITEM: Final = ", ".join(f"i.{column}" for column in _COLUMNS)


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
        self._brands: dict[str, tuple[Rules, int]] = {}  # rules, and how many items
        self._counts: dict[str, int] = {}  # in how many items a word was when it was last looked up

    def decide(self, db: sqlite3.Connection, asker: Asker, question: Question, now: datetime) -> Decided:
        """What becomes of a question. Raises `QuestionRefused` for a choice that was never offered."""
        return self.explain(db, asker, question, now).decided

    def explain(self, db: sqlite3.Connection, asker: Asker, question: Question, now: datetime) -> Explained:
        """The same, and why."""
        rules, items = self._brand(db, asker.brand)
        if len(self._counts) > _COUNTS_KEPT:
            self._counts.clear()
        look = _Look(db, asker, rules, items, now, self._counts)
        decided = look.decided(question)
        return Explained(
            decided=decided, words=look.words, hits=look.shown_hits, score_min=rules.score_min, lead=rules.lead
        )

    def _brand(self, db: sqlite3.Connection, brand: str) -> tuple[Rules, int]:
        (version,) = db.execute("PRAGMA main.data_version").fetchone()
        if version != self._version:
            self._version = version
            self._brands.clear()
            for word in [word for word, count in self._counts.items() if not count]:
                del self._counts[word]
        known = self._brands.get(brand)
        if known is None:
            row = db.execute("SELECT rules FROM rules WHERE brand = ?", (brand,)).fetchone()
            (count,) = db.execute("SELECT count(*) FROM item WHERE brand = ?", (brand,)).fetchone()
            known = self._brands[brand] = rules_.of(row[0] if row else ""), count
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
        counts: dict[str, int],
    ) -> None:
        self._db = db
        self._counts = counts
        self._asker = asker
        self._rules = rules
        self._items = items
        self._now = now
        self.words: list[str] = []
        self.shown_hits: list[Hit] = []

    def decided(self, question: Question) -> Decided:
        """What becomes of it, by the first rule that holds."""
        if question.choice:
            return self._chosen(question.choice)
        text = question.text
        folded = " ".join(words(text))
        found = command_of(text)
        if found is not None and found.verb == "stop":
            return self._stop()
        for command in self._rules.commands:
            if _is_said(folded, command.words):
                return self._brands_own(command, folded)
        if found is not None and (done := self._command(found)) is not None:
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
            if route in self._rules.routes:
                return Decided(outcome="asking", rule=f"route:{route}", action=AskServer(route, id))
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
            text = in_language(command.text, self._asker.language, self._rules.language)
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

    def _command(self, command: Command) -> Decided | None:
        """What a command does; None where it is about nothing that there is: then it is a question."""
        rule, folded = f"command:{command.verb}", f"{command.verb} {command.what}".strip()
        match command.verb:
            case "start":
                return Decided(outcome="command", rule=rule, shown=self._said("started"), action=OptIn(), folded=folded)
            case "help":
                return Decided(outcome="command", rule=rule, shown=self._said("help"), folded=folded)
            case "operator":
                return Decided(outcome="person", rule=rule, action=HandOver("asked"), folded=folded)
        found = self._about(command.what)
        if not found:
            return None
        if len(found) > 1 and command.verb == "follow":
            options = tuple(
                Option(id=f"{_FOLLOW}{one.item.name}:{command.every_s}", title=self._title(one.item)) for one in found
            )
            return Decided(outcome="choice", rule=rule, shown=self._said("choice"), options=options, folded=folded)
        item = found[0].item
        if command.verb == "follow":
            return self._followed(item, command.every_s)
        shown = self._said("unfollowed", item)
        return Decided(outcome="command", rule=rule, shown=shown, action=Unfollow(item.name), folded=folded)

    def _followed(self, item: Item, every_s: int) -> Decided:
        """It is answered now, and later when it changes."""
        shown = self._show(item)
        words = self._said("followed", item).body
        body = f"{shown.body}\n\n{words}" if shown.body else words
        return Decided(
            outcome="command",
            rule="command:follow",
            shown=msgspec.structs.replace(shown, body=body),
            action=Follow(item.name, every_s),
            score=1.0,
            folded=f"follow {item.name}",
        )

    def _about(self, what: str) -> list[_Found]:
        """The items that these words name: one, if it is clear which."""
        named = self._named(what)
        if named is not None:
            return [_Found(Hit(item=named.name, language=named.language, title=named.title, score=1.0), named)]
        self.words = telling_words(what)
        hits = [one for one in self._hits() if one.hit.score >= self._rules.score_min]
        return _leading(hits, self._rules.lead)[: self._rules.choices_max]

    def _for_a_person(self, folded: str) -> str | None:
        asker = self._asker
        for rule in self._rules.hand_over:
            if not (rule.words or rule.tags or rule.stores):
                continue
            word = next((word for word in rule.words if _has(folded, word)), None)
            if (
                (word is not None or not rule.words)
                and (not rule.tags or asker.tags.intersection(rule.tags))
                and (not rule.stores or asker.store in rule.stores)
            ):
                return f"hand_over:{word or ','.join((*rule.tags, *rule.stores))}"
        return None

    # -- search ------------------------------------------------------------------------------------------------------

    def _searched(self) -> Decided:
        rules = self._rules
        hits = self._hits()
        good = [one for one in hits if one.hit.score >= rules.score_min]
        best = hits[0].hit.score if hits else 0.0
        if not good:
            return msgspec.structs.replace(self._otherwise("low_score" if hits else "not_found"), score=best)
        leading = _leading(good, rules.lead)[: rules.choices_max]
        rule = "keyword" if leading[0].hit.exact else "search"
        if len(leading) == 1:
            return self._answered(leading[0].item, rule, best)
        options = tuple(Option(id=one.item.name, title=self._title(one.item)) for one in leading)
        return Decided(outcome="choice", rule=rule, shown=self._said("choice"), options=options, score=best)

    def _otherwise(self, why: str) -> Decided:
        """What becomes of what has no answer."""
        what, _, route = self._rules.otherwise.partition(":")
        if what == "person":
            return Decided(
                outcome="person", rule=why, action=HandOver("low_score" if why == "low_score" else "not_found")
            )
        if what == "route":
            return Decided(outcome="asking", rule=f"route:{route}", action=AskServer(route))
        return Decided(outcome="nothing", rule=why, shown=self._said("nothing"))

    def _hits(self) -> list[_Found]:
        """The items that the question is called, or else those with words of it; best first.

        Each once, in the language that suits best.
        """
        if not self.words or not self._items:
            return []
        asker = self._asker
        phrase = phrase_key(asker.brand, " ".join(self.words), asker.language)
        sql = f"""SELECT {_ITEM} FROM phrase p JOIN item i ON i.number = p.item WHERE p.phrase = ?
            LIMIT {CANDIDATES}"""  # noqa: S608 - our own words
        found = [self._found(Item(*row), 1.0, exact=True) for row in self._db.execute(sql, (phrase,))]
        if all(one.hit.left_out for one in found):
            asked = _Asked(self.words, asker, self._items, self._db, self._counts)
            for row in asked.candidates():
                matched = asked.matched(row[:3])
                score = _LESS * asked.share(matched)
                found.append(self._found(Item(*row[3:]), score, matched=matched, named=asked.names(matched)))
        best: dict[str, _Found] = {}
        for one in found:
            if not one.hit.left_out and (one.item.name not in best or best[one.item.name].hit.score < one.hit.score):
                best[one.item.name] = one
        hits = sorted(best.values(), key=lambda one: (-one.hit.score, one.item.number))
        left_out = sorted((one.hit for one in found if one.hit.left_out), key=lambda hit: -hit.score)
        self.shown_hits = [*(one.hit for one in hits), *left_out]
        return hits

    def _found(
        self,
        item: Item,
        score: float,
        *,
        matched: Mapping[str, str] | None = None,
        exact: bool = False,
        named: bool = False,
    ) -> _Found:
        """An item with its score, as it suits who asks."""
        language = self._asker.language or self._rules.language
        left_out = self._left_out(item)
        if item.language and language and item.language != language:
            score *= _OTHER_LANGUAGE
        if (item.stores != "[]" or item.tags != "[]") and not left_out:
            score = min(1.0, score + _FOR_THEM)
        hit = Hit(
            item=item.name, language=item.language, title=item.title, score=round(score, 3), exact=exact,
            named=named, matched=dict(matched or {}), left_out=left_out,
        )  # fmt: skip
        return _Found(hit, item)

    def _left_out(self, item: Item) -> str:
        """Why an item is not for who asks, or not now; '' if it is."""
        asker, at = self._asker, self._now.timestamp() * 1000
        if item.valid_from is not None and at < item.valid_from:
            return "it does not hold yet"
        if item.valid_until is not None and at >= item.valid_until:
            return "it does not hold any more"
        if item.stores != "[]" and asker.store not in _listed(item.stores):
            return "it is for other stores"
        if item.tags != "[]" and not asker.tags.intersection(_listed(item.tags)):
            return "it is for who has other tags"
        if item.hours != "{}" and not is_open(_mapped(item.hours), ZoneInfo(self._rules.time_zone), self._now):
            return "it holds at other hours"
        return ""

    def _named(self, name: str) -> Item | None:
        """The item of this name that suits who asks, if there is one for them now."""
        sql = f"SELECT {_ITEM} FROM item i WHERE i.brand = ? AND i.name = ?"  # noqa: S608 - our own words
        items = [Item(*row) for row in self._db.execute(sql, (self._asker.brand, name))]
        languages = (self._asker.language, self._rules.language, "")
        there = [item for item in items if not self._left_out(item)]
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

    def _said(self, what: str, item: Item | None = None) -> Shown:
        template = said(self._rules, what, self._asker.language)
        data = {"item": item.name, "title": self._title(item)} if item is not None else {}
        return Shown(item=item.name if item is not None else "", body=render(template, self._asker, data))

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


class _Asked:
    """The words of a question, as they are looked for in the index."""

    def __init__(
        self, asked: Sequence[str], asker: Asker, items: int, db: sqlite3.Connection, counts: dict[str, int]
    ) -> None:
        self._db = db
        self._before = key(asker.brand)
        self._forms = {word: [self._before + form for form in forms(word, asker.language)] for word in asked}
        self._counts = counts
        self._rows = {word: sum(map(self._count, group)) for word, group in self._forms.items()}
        # A rare word says more than a frequent one; one that no item has, half of what a rare one does.
        self._weights = {
            word: log(1 + items / (1 + min(rows, items))) if rows else log(1 + items) / 2
            for word, rows in self._rows.items()
        }
        self._all = sum(self._weights.values()) or 1.0
        last = asked[-1]
        self._begun = last if len(last) >= _PREFIX_MIN and not self._rows[last] else ""

    def _count(self, form: str) -> int:
        """In how many items a word is, about; 0 only if it is in none."""
        known = self._counts.get(form)
        if known is None:
            row = self._db.execute("SELECT doc FROM item_word WHERE term = ?", (form,)).fetchone()
            known = self._counts[form] = int(row[0]) if row is not None else 0
        return known

    def candidates(self) -> list[tuple[Any, ...]]:
        """The folded columns and the item of those that are worth a closer look: one search mostly, two at most."""
        known = sorted(
            (word for word in self._forms if self._rows[word] or word == self._begun), key=lambda word: self._rows[word]
        )
        if not known:
            return []
        rare: list[str] = []
        rows = 0
        for word in known:
            rows += self._rows[word]
            if rare and rows > RANKED:
                break
            rare.append(word)
        ranked = self._rows[rare[0]] <= RANKED
        query = " OR ".join(map(self._group, rare))
        if frequent := known[len(rare) :]:
            together = " AND ".join((f"({query})", *map(self._group, frequent)))
            if found := self._matching(together, ranked=ranked):
                return found
        return self._matching(query, ranked=ranked)

    def _group(self, word: str) -> str:
        quoted = [f'"{form}"' for form in self._forms[word] if self._counts[form]]
        if word == self._begun:
            quoted.append(f'"{self._before}{word}" *')
        return f"({' OR '.join(quoted)})"

    def _matching(self, query: str, *, ranked: bool) -> list[tuple[Any, ...]]:
        order = "rank" if ranked else "t.rowid DESC"
        weights = "AND rank MATCH 'bm25(4.0, 4.0, 1.0)'" if ranked else ""
        sql = f"""SELECT t.title, t.keywords, t.body, {_ITEM} FROM item_text t JOIN item i ON i.number = t.rowid
            WHERE item_text MATCH ? {weights} ORDER BY {order} LIMIT {CANDIDATES}"""  # noqa: S608 - our own words
        return self._db.execute(sql, (query,)).fetchall()

    def matched(self, folded: Sequence[str]) -> dict[str, str]:
        """Which words of the question an item has, and where: in the best place of each."""
        title, keywords, body = (set(text.split()) for text in folded)
        found: dict[str, str] = {}
        for word, group in self._forms.items():
            if not title.isdisjoint(group):
                found[word] = "title"
            elif not keywords.isdisjoint(group):
                found[word] = "keywords"
            elif word == self._begun and any(one.startswith(self._before + word) for one in (*title, *keywords)):
                found[word] = "beginning"
            elif not body.isdisjoint(group):
                found[word] = "body"
        return found

    def names(self, matched: Mapping[str, str]) -> bool:
        """Whether that is all of it that is known here, in what an item is called."""
        return all(
            matched.get(word, "body") in ("title", "keywords") for word, rows in self._rows.items() if rows
        ) and bool(matched)

    def share(self, matched: Mapping[str, str]) -> float:
        """How much of the question that is, from 0 to 1."""
        return sum(_WORTH[where] * self._weights[word] for word, where in matched.items()) / self._all


def _leading(hits: list[_Found], lead: float) -> list[_Found]:
    """The best, and those that are nearly as good; what is called so is ahead of what is not."""
    for better in ("exact", "named"):
        if there := [one for one in hits if getattr(one.hit, better)]:
            return there
    return [one for one in hits if hits[0].hit.score - one.hit.score < lead]


def _is_said(folded: str, phrases: Sequence[str]) -> bool:
    """Whether all of a question is one of these phrases."""
    for phrase in phrases:
        plain = _plain(phrase)
        if folded == plain or (phrase.endswith("*") and plain and folded.startswith(f"{plain} ")):
            return True
    return False


def _has(folded: str, phrase: str) -> bool:
    return f" {_plain(phrase)} " in f" {folded} "


@lru_cache(4096)
def _plain(phrase: str) -> str:
    return " ".join(words(phrase))


@lru_cache(2048)
def _listed(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


@lru_cache(2048)
def _mapped(text: str) -> Mapping[str, Any]:
    decoded: Mapping[str, Any] = json.loads(text)
    return decoded
