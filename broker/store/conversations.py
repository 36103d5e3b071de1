"""Conversations in DATA/messages.db: what was asked, answered and said. Times are milliseconds since 1970 (UTC)."""
# ruff: noqa: S608 - statements are put together of our own words; all else is a parameter

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from broker.store.messages import Messages, applied_in

ASKING: Final = "asking"
CLOSING: Final = "command:close"  # the rule by which a customer ends their conversation: it is closed with that

State = Literal["automated", "waiting", "agent", "closed"]
# With a person, or for one.
HELD: Final = ("waiting", "agent")


class Asked(msgspec.Struct, kw_only=True):
    """A question and what became of it, as it is booked. `conversation` is a new id, should none be open."""

    id: str
    conversation: str
    brand: str
    kind: str
    name: str
    device: str
    store: str
    language: str
    at: int
    text: str
    folded: str
    outcome: str
    rule: str
    item: str
    score: float
    answer: str  # while the brand's server is asked: how to answer
    took_us: int | None
    nearest: str = ""


class Place(NamedTuple):
    """Where something that was said stands: the number of its conversation, and its own in there."""

    conversation: int
    entry: int


class Conversation(msgspec.Struct, kw_only=True):
    """A conversation as it is kept, with what lists show of it."""

    number: int
    id: str
    brand: str
    kind: Literal["user", "device"]
    name: str
    store: str
    language: str
    state: State
    agent: str
    why: str
    handed_by: str
    opened_at: int
    changed_at: int
    waiting_since: int | None
    reminded_at: int | None
    replied_at: int | None
    closed_at: int | None
    closed_by: str
    entries: int
    read_by_customer: int
    read_by_agent: int
    unread: int  # entries of the customer that no agent has read
    last: str  # how what was said last begins


class Entry(msgspec.Struct, kw_only=True):
    """What was said, with the answer of a question, and what became of an agent's reply."""

    number: int
    id: str
    at: int
    author: Literal["customer", "agent", "note", "system"]
    who: str
    text: str
    outcome: str | None = None
    item: str | None = None
    answer: str | None = None
    thumb: int | None = None
    message: str | None = None
    state: str | None = None  # of the message: sent, delivered, dropped ...
    reason: str | None = None
    delivered_at: int | None = None
    displayed_at: int | None = None


class NewEntry(NamedTuple):
    """What is to stand there. One whose id is there already was written before."""

    id: str
    at: int
    author: Literal["agent", "note", "system"]
    who: str
    text: str


class Opening(NamedTuple):
    """With whom a conversation is, and the id that it gets if none is open."""

    id: str
    brand: str
    kind: str
    name: str
    store: str
    language: str
    at: int


# What is to change of a conversation; raises where that may not be.
Change = Callable[[Conversation], Mapping[str, object]]

_LAST_CHARS: Final = 120
_COLUMNS: Final = ", ".join(f"c.{name}" for name in Conversation.__struct_fields__[:-2])
_LISTED: Final = f"""SELECT {_COLUMNS},
    (SELECT count(*) FROM entry e
      WHERE e.conversation = c.number AND e.number > c.read_by_agent AND e.author = 'customer'),
    coalesce((SELECT substr(e.text, 1, {_LAST_CHARS}) FROM entry e
      WHERE e.conversation = c.number AND e.author IN ('customer', 'agent') ORDER BY e.number DESC LIMIT 1), '')
  FROM conversation c"""
_ENTRIES: Final = """SELECT e.number, e.id, e.at, e.author, e.who, e.text, q.outcome, q.item, q.answer, q.thumb,
    m.id, r.state, r.reason, r.delivered_at, r.displayed_at
  FROM entry e LEFT JOIN question q ON q.conversation = e.conversation AND q.entry = e.number
    LEFT JOIN message m ON e.author = 'agent' AND m.id = e.id
    LEFT JOIN recipient r ON r.message = m.number AND r.number = 1
  WHERE e.conversation = ?"""

_THERE: Final = "SELECT id FROM entry WHERE id IN (SELECT value FROM json_each(?))"
# What a customer says goes into the conversation that is open with them, or begins one.
_BEGIN: Final = """INSERT INTO conversation
    (id, brand, kind, name, store, language, state, opened_at, changed_at, entries)
  SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, 'automated', value ->> 6,
    value ->> 7, value ->> 8 FROM json_each(?) WHERE true
  ON CONFLICT (brand, kind, name) WHERE state <> 'closed' DO UPDATE SET entries = entries + excluded.entries,
    changed_at = max(changed_at, excluded.changed_at), store = excluded.store,
    language = coalesce(nullif(excluded.language, ''), language),
    waiting_since = iif(state IN ('waiting', 'agent'), coalesce(waiting_since, excluded.opened_at), NULL)
  RETURNING brand, kind, name, number, entries, state"""
# What was said to a person in vain: meanwhile the conversation was closed, or handed back.
_LATE: Final = """UPDATE conversation SET state = 'waiting', agent = '', waiting_since = ?, reminded_at = NULL,
    replied_at = NULL, why = 'asked', handed_by = ? WHERE number = ? AND state = 'automated'"""
_END: Final = """UPDATE conversation SET state = 'closed', waiting_since = NULL, closed_at = ?, closed_by = 'customer'
  WHERE number = ?"""
_SAY: Final = """INSERT INTO entry (conversation, number, id, at, author, who, text)
  SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, 'customer', value ->> 4, value ->> 5 FROM json_each(?)"""
_ASK: Final = """INSERT INTO question
    (conversation, entry, brand, store, at, folded, outcome, rule, item, score, answer, took_us, nearest)
  SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
    value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12 FROM json_each(?)"""


class Conversations:
    """What is said, in the books. Every method raises `Failed` when they cannot be read or written."""

    def __init__(self, messages: Messages) -> None:
        self.messages = messages

    async def book(self, asked: Sequence[Asked], up_to: int) -> dict[str, Place]:
        """Write questions down, each once, with the number of the last fact. Returns where those stand that are new."""

        def work(db: sqlite3.Connection) -> dict[str, Place]:
            places = _booked_in_turn(db, asked)
            applied_in(db, up_to)
            return places

        return await self.messages.write(work)

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Which of these questions are in the books."""
        sql = "SELECT id FROM entry WHERE id IN (SELECT value FROM json_each(?))"
        return {id for (id,) in await self.messages.read(lambda db: db.execute(sql, (_array(ids),)).fetchall())}

    async def answered(self, id: str, outcome: str, answer: str, took_us: int, rule: str) -> Place | None:
        """A question for which the brand's server was asked has its answer, from whomever.

        Returns where it stands now; None: it had one.
        """

        def work(db: sqlite3.Connection) -> Place | None:
            sql = """UPDATE question SET outcome = ?, answer = ?, took_us = ?, rule = ?
                WHERE outcome = 'asking'
                AND (conversation, entry) = (SELECT conversation, number FROM entry WHERE id = ?)
                RETURNING conversation, entry"""
            found = db.execute(sql, (outcome, answer, took_us, rule, id)).fetchall()
            if not found:
                return None
            return _with_a_person(db, Place(*found[0])) if outcome == "person" else Place(*found[0])

        return await self.messages.write(work)

    async def handed_over(self) -> set[str]:
        """The questions by which somebody waits for a person, or is with one."""
        sql = "SELECT handed_by FROM conversation WHERE state IN ('waiting', 'agent')"
        return {id for (id,) in await self.messages.read(lambda db: db.execute(sql).fetchall())}

    async def asking(self) -> list[Asked]:
        """The questions for which the brand's server was asked when the last process ended."""
        sql = """SELECT e.id, c.id, c.brand, c.kind, c.name, e.who, q.store, c.language, q.at, e.text, q.folded,
                q.outcome, q.rule, q.item, q.score, q.answer, q.took_us, q.nearest
            FROM question q JOIN entry e ON (e.conversation, e.number) = (q.conversation, q.entry)
            JOIN conversation c ON c.number = q.conversation WHERE q.outcome = 'asking' ORDER BY q.at"""
        rows = await self.messages.read(lambda db: db.execute(sql).fetchall())
        return [Asked(**dict(zip(Asked.__struct_fields__, row, strict=True))) for row in rows]

    # -- looking -----------------------------------------------------------------------------------------------------

    async def by_id(self, brand: str, id: str) -> Conversation | None:
        """One of a brand's."""
        return await self._one("c.brand = ? AND c.id = ?", brand, id)

    async def numbered(self, number: int) -> Conversation | None:
        """The one with this number."""
        return await self._one("c.number = ?", number)

    async def of(self, brand: str, kind: str, name: str) -> Conversation | None:
        """The one with somebody that is not closed, or else the last one."""
        return await self._one("c.brand = ? AND c.kind = ? AND c.name = ? ORDER BY c.number DESC", brand, kind, name)

    async def _one(self, where: str, *values: object) -> Conversation | None:
        found = await self.messages.read(lambda db: _listed(db, f"WHERE {where} LIMIT 1", *values))
        return found[0] if found else None

    async def held(self) -> list[Conversation]:
        """All that are with an agent, or wait for one."""
        return await self.messages.read(lambda db: _listed(db, "WHERE c.state IN ('waiting', 'agent')"))

    async def unbooked(self) -> set[tuple[str, str, str]]:
        """Who waits for a person by a question that is not in the books: a crash came in between."""
        sql = """SELECT brand, kind, name FROM conversation WHERE state = 'waiting' AND handed_by <> ''
                 AND NOT EXISTS (SELECT 1 FROM entry WHERE id = handed_by)"""
        return {tuple(row) for row in await self.messages.read(lambda db: db.execute(sql).fetchall())}

    async def place(self, id: str) -> Place | None:
        """Where the entry with this id stands."""
        sql = "SELECT conversation, number FROM entry WHERE id = ?"
        row = await self.messages.read(lambda db: db.execute(sql, (id,)).fetchone())
        return None if row is None else Place(*row)

    async def listed(
        self,
        brand: str,
        *,
        states: Sequence[str] = (),
        agent: str | None = None,
        store: str | None = None,
        before: str | None = None,
        most: int,
    ) -> list[Conversation]:
        """Those of a brand, the newest first; behind the one with the id `before`."""
        where, values = ["c.brand = ?"], [brand]
        if states:
            where.append("c.state IN (SELECT value FROM json_each(?))")
            values.append(_array(states))
        for column, value in (("agent", agent), ("store", store)):
            if value is not None:
                where.append(f"c.{column} = ?")
                values.append(value)
        if before is not None:
            where.append("c.number < (SELECT number FROM conversation WHERE brand = ? AND id = ?)")
            values += [brand, before]
        rest = f"WHERE {' AND '.join(where)} ORDER BY c.number DESC LIMIT ?"
        return await self.messages.read(lambda db: _listed(db, rest, *values, most))

    async def entries(self, conversation: int, *, before: int = 0, most: int, notes: bool = True) -> list[Entry]:
        """The last ones, or the last ones before a number, in their order; without notes only what was said."""
        values: list[object] = [conversation]
        sql = _ENTRIES
        if before:
            sql += " AND e.number < ?"
            values.append(before)
        if not notes:
            sql += " AND e.author IN ('customer', 'agent')"
        sql += " ORDER BY e.number DESC LIMIT ?"
        rows = await self.messages.read(lambda db: db.execute(sql, (*values, most)).fetchall())
        return [_entry(row) for row in reversed(rows)]

    async def entry(self, place: Place) -> Entry | None:
        """One entry."""
        sql = f"{_ENTRIES} AND e.number = ?"
        row = await self.messages.read(lambda db: db.execute(sql, place).fetchone())
        return None if row is None else _entry(row)

    # -- changing ----------------------------------------------------------------------------------------------------

    async def hand_over(self, opening: Opening, change: Change, booked: str = "") -> Conversation | None:
        """Change the conversation with somebody, which begins with that if none is open.

        booked: by a question that was in the books. None: it is not there any more, and nothing is done.
        """

        def work(db: sqlite3.Connection) -> Conversation | None:
            if booked and db.execute("SELECT 1 FROM entry WHERE id = ?", (booked,)).fetchone() is None:
                return None
            return _change(db, _open(db, opening), change)

        return await self.messages.write(work)

    async def change(self, number: int, change: Change, entry: NewEntry | None = None) -> tuple[Conversation, int]:
        """Change a conversation, and write down what was said or done. Returns it, and the entry's number.

        Where the entry is there already, nothing changes.
        """
        return await self.messages.write(lambda db: changed(db, number, change, entry))

    async def reserve(self, conversation: int, id: str) -> int:
        """The number that an entry with this id has, or is to get."""

        def work(db: sqlite3.Connection) -> int:
            known = db.execute("SELECT number FROM entry WHERE id = ?", (id,)).fetchone()
            sql = "UPDATE conversation SET entries = entries + 1 WHERE number = ? RETURNING entries"
            (number,) = known or db.execute(sql, (conversation,)).fetchone()
            return int(number)

        return await self.messages.write(work)

    async def rate(self, brand: str, kind: str, name: str, question: str, thumb: int) -> bool:
        """Note whether an answer was of use to who asked. False: it was not their question."""
        sql = """UPDATE question SET thumb = ? WHERE (conversation, entry) = (
                   SELECT e.conversation, e.number FROM entry e JOIN conversation c ON c.number = e.conversation
                   WHERE e.id = ? AND c.brand = ? AND c.kind = ? AND c.name = ?)"""
        values = (thumb, question, brand, kind, name)
        return await self.messages.write(lambda db: db.execute(sql, values).rowcount > 0)

    async def close_idle(self, brand: str, before: int, now: int, most: int) -> int:
        """Close those of the automation in which nothing was said since then, some of them. Returns how many."""
        sql = """UPDATE conversation SET state = 'closed', closed_at = ?, closed_by = 'idle' WHERE number IN (
                   SELECT number FROM conversation WHERE brand = ? AND state = 'automated' AND changed_at < ?
                   LIMIT ?)"""
        return await self.messages.write(lambda db: db.execute(sql, (now, brand, before, most)).rowcount)

    async def brands(self) -> set[str]:
        """Those that have conversations, agents, or replies that are ready."""
        sql = "SELECT brand FROM conversation UNION SELECT brand FROM agent UNION SELECT brand FROM canned"
        return {brand for (brand,) in await self.messages.read(lambda db: db.execute(sql).fetchall())}

    async def forget(self, brand: str) -> None:
        """Forget all of a brand's, some at a time."""
        sql = "DELETE FROM conversation WHERE number IN (SELECT number FROM conversation WHERE brand = ? LIMIT 100)"
        while await self.messages.write(lambda db: db.execute(sql, (brand,)).rowcount):
            pass


# -- in the database's thread ------------------------------------------------------------------------------------------


def _listed(db: sqlite3.Connection, rest: str, *values: object) -> list[Conversation]:
    fields = Conversation.__struct_fields__
    return [Conversation(**dict(zip(fields, row, strict=True))) for row in db.execute(f"{_LISTED} {rest}", values)]


def _entry(row: Sequence[Any]) -> Entry:
    return Entry(**dict(zip(Entry.__struct_fields__, row, strict=True)))


def _open(db: sqlite3.Connection, opening: Opening) -> int:
    row = db.execute(
        """INSERT INTO conversation (id, brand, kind, name, store, language, state, opened_at, changed_at)
           VALUES (?, ?, ?, ?, ?, ?, 'automated', ?, ?)
           ON CONFLICT (brand, kind, name) WHERE state <> 'closed' DO UPDATE SET
             store = excluded.store, language = coalesce(nullif(excluded.language, ''), language)
           RETURNING number""",
        (*opening, opening.at),
    ).fetchone()
    return int(row[0])


def _change(db: sqlite3.Connection, number: int, change: Change) -> Conversation:
    (row,) = _listed(db, "WHERE c.number = ?", number)
    fields = change(row)
    if not fields:
        return row
    columns = ", ".join(f"{name} = :{name}" for name in fields)
    db.execute(f"UPDATE conversation SET {columns} WHERE number = :number", {**fields, "number": number})
    (row,) = _listed(db, "WHERE c.number = ?", number)
    return row


def changed(
    db: sqlite3.Connection, number: int, change: Change, entry: NewEntry | None, place: int = 0
) -> tuple[Conversation, int]:
    """What `Conversations.change` does; `place` is the number that was reserved for the entry."""
    if entry is not None:
        known = db.execute("SELECT number FROM entry WHERE id = ?", (entry.id,)).fetchone()
        if known is not None:
            return _listed(db, "WHERE c.number = ?", number)[0], int(known[0])
    row = _change(db, number, change)
    if entry is None:
        return row, 0
    if not place:
        sql = "UPDATE conversation SET entries = entries + 1 WHERE number = ? RETURNING entries"
        (place,) = db.execute(sql, (number,)).fetchone()
    db.execute(
        "INSERT INTO entry (conversation, number, id, at, author, who, text) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (number, place, *entry),
    )
    if entry.author == "agent":
        db.execute(
            """UPDATE question SET person_at = ? WHERE conversation = ? AND person_at IS NULL AND outcome = 'person'""",
            (entry.at, number),
        )
    return _listed(db, "WHERE c.number = ?", number)[0], place


def _booked_in_turn(db: sqlite3.Connection, asked: Sequence[Asked]) -> dict[str, Place]:
    """Write questions down; what comes after one that ends a conversation begins another."""
    places: dict[str, Place] = {}
    begin = 0
    for end, one in enumerate(asked, 1):
        if one.rule == CLOSING:
            places |= _booked(db, asked[begin:end])
            begin = end
            if one.id in places:
                db.execute(_END, (one.at, places[one.id].conversation))
    return places | _booked(db, asked[begin:])


def _booked(db: sqlite3.Connection, asked: Sequence[Asked]) -> dict[str, Place]:
    """Write down those questions that are not there yet.

    A statement for each table, not for each row: beside a busy loop each statement waits for the interpreter's lock.
    """
    there = {id for (id,) in db.execute(_THERE, (_array([one.id for one in asked]),))}
    fresh = [one for one in asked if one.id not in there]
    of: dict[tuple[str, str, str], list[Asked]] = {}
    for one in fresh:
        of.setdefault((one.brand, one.kind, one.name), []).append(one)
    begun = [
        (
            all_[0].conversation,
            *who,
            all_[-1].store,
            next((one.language for one in reversed(all_) if one.language), ""),
            all_[0].at,
            max(one.at for one in all_),
            len(all_),
        )
        for who, all_ in of.items()
    ]
    places: dict[str, Place] = {}
    for *who, number, entries, state in db.execute(_BEGIN, (_array(begun),)).fetchall():
        all_ = of[who[0], who[1], who[2]]
        places |= {one.id: Place(number, entries - len(all_) + at) for at, one in enumerate(all_, 1)}
        if state == "automated" and (late := next((one for one in all_ if one.outcome == "person"), None)) is not None:
            db.execute(_LATE, (late.at, late.id, number))
    db.execute(_SAY, (_array([(*places[one.id], one.id, one.at, one.device, one.text) for one in fresh]),))
    questions = [
        (*places[one.id], one.brand, one.store, one.at, one.folded, one.outcome, one.rule, one.item, one.score,
         one.answer, one.took_us, one.nearest)
        for one in fresh
    ]  # fmt: skip
    db.execute(_ASK, (_array(questions),))
    return places


def _with_a_person(db: sqlite3.Connection, place: Place) -> Place:
    """Have a question stand where the person sees it: its conversation may have been closed since. Returns where."""
    sql = """UPDATE conversation SET entries = entries + 1
        WHERE state IN ('waiting', 'agent') AND (brand, kind, name) =
          (SELECT brand, kind, name FROM conversation WHERE number = ? AND state = 'closed')
        RETURNING number, entries"""
    found = db.execute(sql, (place.conversation,)).fetchall()
    if not found:
        return place
    db.execute("PRAGMA defer_foreign_keys = ON")  # the question follows its entry, within the transaction
    for table, column in (("entry", "number"), ("question", "entry")):
        sql = f"UPDATE {table} SET conversation = ?, {column} = ? WHERE (conversation, {column}) = (?, ?)"
        db.execute(sql, (*found[0], *place))
    return Place(*found[0])


def _array(values: Sequence[Any]) -> str:
    return msgspec.json.encode(values).decode()
