"""What is known of a person, and where: each table of each database, and how what is theirs is found in it.

A test compares this with the tables that there are, so that a new column is thought of before it holds anything. Rows
are found by the person's name, by the names of their devices, and where a text names them (`mentions`).
"""
# ruff: noqa: S608 - statements are put together of our own words; all else is a parameter

import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from broker.message import for_whoever_is
from broker.store.database import Database

_json: Final = msgspec.json.Encoder().encode
_pack: Final = msgspec.msgpack.Encoder().encode


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Whom it is about. What is kept of `shared` devices is theirs only where it came from them or was for them."""

    brand: str
    user: str
    devices: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, str | bytes]:
        """Those of the statements below."""
        brand, branches = self.brand, [f"{self.brand}/device/{name}/" for name in self.devices]
        branches += [f"{brand}/device/{name}/{own}" for name in self.shared for own in _OF_WHO_HAS_IT]
        return {
            "brand": brand,
            "user": self.user,
            "devices": _json(self.devices).decode(),
            "whose": for_whoever_is(brand, self.user),
            "topic": f"{brand}/user/{self.user}".encode(),
            "branches": _json([f"{brand}/user/{self.user}/", *branches]).decode(),
            "told": _json([f"{brand}/{branch}/" for branch in ("receipts", "inbox", "ask")]).decode(),
            "quoted": f'"{self.user}"'.encode(),
            "path": f'"user/{self.user}"'.encode(),
        }


# What goes to and from a device for whoever has it, and not for itself, as commands and its configuration do. What it
# is told of preferences follows by itself when it has nobody any more.
_OF_WHO_HAS_IT: Final = ("up/", "answer", "conversation", "withdraw")
_WHO: Final = """(kind = 'user' AND name = :user
  OR kind = 'device' AND name IN (SELECT value FROM json_each(:devices)))"""
_R_WHO: Final = _WHO.replace("kind", "r.kind").replace("name", "r.name")
_DEVICE: Final = "IN (SELECT value FROM json_each(:devices))"
_RECIPIENT: Final = f"recipient r CROSS JOIN message m ON m.number = r.message AND m.brand = :brand WHERE {_R_WHO}"
_OF_RECIPIENT: Final = f"""FROM recipient r CROSS JOIN message m ON m.number = r.message AND m.brand = :brand
  CROSS JOIN {{0}} x ON x.message = r.message AND x.recipient = r.number WHERE {_R_WHO}"""
_CONVERSATION: Final = f"conversation c WHERE c.brand = :brand AND {_WHO}"
_TOPIC: Final = """({0}.topic = :topic OR EXISTS (
    SELECT 1 FROM json_each(:branches) b WHERE substr(CAST({0}.topic AS TEXT), 1, length(b.value)) = b.value))"""
_TOLD: Final = """(instr({0}.payload, :quoted) + instr({0}.payload, :path) > 0 AND EXISTS (
    SELECT 1 FROM json_each(:told) b WHERE substr(CAST({0}.topic AS TEXT), 1, length(b.value)) = b.value))"""
LOG: Final = f"({{0}}.publisher = :whose OR {_TOPIC} OR {_TOLD})"
_SESSION: Final = """s.brand = :brand AND (s.user = :user
  OR s.role = 'device' AND s.name IN (SELECT value FROM json_each(:devices)))"""


class Table(NamedTuple):
    """One table. `about`: why it holds nothing of persons, or what becomes of it when somebody is erased.

    theirs: selects what an export shows, as `section`. left: selects what has to go, where that is not the same.
    """

    schema: str
    name: str
    columns: str
    about: str
    section: str = ""
    theirs: str = ""
    left: str = ""

    @property
    def personal(self) -> bool:
        """Whether anything of a person may be in it."""
        return bool(self.theirs or self.left)

    @property
    def kind(self) -> str:
        """What its rows are called in an export, a proof and a check."""
        return self.section or self.name


_GONE: Final = "deleted"
_NOBODY: Final = "of the brand"

TABLES: Final = (
    # -- records ---------------------------------------------------------------------------------------------------
    Table("records", "users", "brand name title created_at", _GONE, "user",
          "SELECT name, title, created_at FROM users WHERE brand = :brand AND name = :user"),
    Table("records", "devices", "brand name user store state created_at enrolled_at",
          "deleted, or the device belongs to nobody", "devices",
          """SELECT name, user, store, state, created_at, enrolled_at FROM devices
             WHERE brand = :brand AND (user = :user OR name IN (SELECT value FROM json_each(:devices)))"""),
    Table("records", "passwords", "brand role name hash changed_at", "deleted with the device", "passwords",
          f"SELECT name, changed_at FROM passwords WHERE brand = :brand AND role = 'device' AND name {_DEVICE}"),
    Table("records", "codes", "brand device hash created_at expires_at key_hash serial certificate",
          "deleted with the device", "codes",
          f"SELECT device, created_at, expires_at, serial FROM codes WHERE brand = :brand AND device {_DEVICE}"),
    Table("records", "certificates", "serial role brand name issued_at not_before not_after revoked_at",
          "deleted with the device", "certificates",
          f"""SELECT serial, name, issued_at, not_before, not_after, revoked_at FROM certificates
              WHERE brand = :brand AND role = 'device' AND name {_DEVICE}"""),
    Table("records", "tags", "brand kind name tag", _GONE, "tags",
          f"SELECT kind, name, tag FROM tags WHERE brand = :brand AND {_WHO}"),
    Table("records", "attributes", "brand kind name key value", _GONE, "attributes",
          f"SELECT kind, name, key, value FROM attributes WHERE brand = :brand AND {_WHO}"),
    Table("records", "consents", "brand kind name topic state since source", _GONE, "consents",
          f"SELECT kind, name, topic, state, since, source FROM consents WHERE brand = :brand AND {_WHO}"),
    Table("records", "consent_log", "number brand kind name topic state at source", _GONE, "consent_log",
          f"SELECT kind, name, topic, state, at, source FROM consent_log WHERE brand = :brand AND {_WHO}"),
    Table("records", "preferences", "brand kind name quiet_from quiet_until time_zone locale", _GONE, "preferences",
          f"""SELECT kind, name, quiet_from, quiet_until, time_zone, locale FROM preferences
              WHERE brand = :brand AND {_WHO}"""),
    Table("records", "suppressions", "brand user reason since until", _GONE, "suppressions",
          "SELECT user, reason, since, until FROM suppressions WHERE brand = :brand AND user = :user"),
    Table("records", "follows", "brand kind name item every_s since source sent_at sent", _GONE, "follows",
          f"""SELECT kind, name, item, every_s, since, source, sent_at, sent FROM follows
              WHERE brand = :brand AND {_WHO}"""),
    Table("records", "stopped", "brand kind name topic every_s", _GONE, "stopped",
          f"SELECT kind, name, topic, every_s FROM stopped WHERE brand = :brand AND {_WHO}"),
    Table("records", "untold", "brand kind name number", _GONE, "untold",
          f"SELECT kind, name FROM untold WHERE brand = :brand AND {_WHO}"),
    Table("records", "segments", "brand name title condition", "the name gives way to a pseudonym", "segments",
          "SELECT name, title, condition FROM segments WHERE brand = :brand AND mentions(condition)"),
    Table("records", "audit", "number at actor brand operation target detail outcome",
          "the name gives way to a pseudonym", "audit",
          """SELECT at, actor, operation, target, detail, outcome FROM audit
             WHERE brand = :brand AND (target = 'user/' || :user OR mentions(detail)
               OR substr(target, 1, 7) = 'device/'
                 AND substr(target, 8) IN (SELECT value FROM json_each(:devices)))"""),
    Table("records", "brands", "name title created_at overflow", _NOBODY),
    Table("records", "stores", "brand name title created_at", _NOBODY),
    Table("records", "tokens", "id brand name hash created_at expires_at revoked_at used_at", "of brands' servers"),
    Table("records", "restraints", "brand rules", _NOBODY),
    Table("records", "links",
          "brand name url version client_id username password ca cert key inbound outbound paused created_at"
          " subscribed",
          _NOBODY),
    Table("records", "erasures",
          "pseudonym brand user devices shared actor began_at found left_over files",
          "the name goes when nothing is left but files to be written anew",
          left="SELECT 1 FROM erasures WHERE brand = :brand AND user = :user"),
    Table("records", "audit_kept", "since", "a time"),
    # -- messages --------------------------------------------------------------------------------------------------
    Table("messages", "message",
          "number id brand sender campaign variant state kind priority content_type payload collapse_key receipts"
          " throttle address not_before local_time request_id reply_topic reply_data accepted_at expires_at recipients"
          " answer withdrawn_at withdrawn_by withdrawn_to",
          "what was only for them is emptied; where others got it too, their name gives way to a pseudonym", "messages",
          f"""SELECT DISTINCT m.id, m.sender, m.campaign, m.variant, m.kind, m.priority, m.content_type, m.payload,
                m.collapse_key, m.accepted_at, m.expires_at, m.withdrawn_at FROM {_RECIPIENT}""",
          "SELECT 1 FROM message WHERE brand = :brand AND (mentions(address) OR mentions(answer))"),
    Table("messages", "recipient",
          "message number kind name because state reason due_at seq sent_at delivered_at displayed_at opened_at"
          " clicked_at dismissed_at ended_at",
          "the name gives way to a pseudonym of this row alone, so that figures still add up", "recipients",
          f"""SELECT m.id AS message, r.kind, r.name, r.because, r.state, r.reason, r.due_at, r.sent_at, r.delivered_at,
                r.displayed_at, r.opened_at, r.clicked_at, r.dismissed_at, r.ended_at FROM {_RECIPIENT}"""),
    Table("messages", "event", "message recipient device event at detail store",
          "the device's name gives way to the pseudonym", "events",
          f"SELECT m.id AS message, x.device, x.event, x.at, x.detail, x.store {_OF_RECIPIENT.format('event')}",
          f"""SELECT 1 {_OF_RECIPIENT.format('event')} UNION ALL
              SELECT 1 FROM event e CROSS JOIN message m ON m.number = e.message AND m.brand = :brand
              WHERE e.device {_DEVICE}"""),
    Table("messages", "decision", "message recipient at rule outcome detail", _GONE, "decisions",
          f"SELECT m.id AS message, x.at, x.rule, x.outcome, x.detail {_OF_RECIPIENT.format('decision')}"),
    Table("messages", "outbox", "number message recipient event device at detail", _GONE, "outbox",
          f"SELECT m.id AS message, x.event, x.device, x.at, x.detail {_OF_RECIPIENT.format('outbox')}"),
    Table("messages", "idempotency", "brand key digest message expires_at",
          "keys of messages that were only for them are deleted, and keys that name them", "idempotency",
          """SELECT i.key, m.id AS message, i.expires_at FROM idempotency i CROSS JOIN message m ON m.number = i.message
             WHERE i.brand = :brand AND (named(i.key) OR EXISTS (SELECT 1 FROM recipient r
               WHERE r.message = i.message AND r.kind = 'user' AND r.name = :user) AND m.recipients = 1)"""),
    Table("messages", "campaign", "number brand name state definition next_run next_run_at created_at",
          "the name gives way to a pseudonym", "campaigns",
          """SELECT name, state, created_at FROM campaign WHERE brand = :brand
             AND (mentions(definition) OR mentions(coalesce(next_run, '')))"""),
    Table("messages", "campaign_run", "campaign at ended_at held_out problem", "the name gives way to a pseudonym",
          left="""SELECT 1 FROM campaign_run n CROSS JOIN campaign c ON c.number = n.campaign AND c.brand = :brand
                  WHERE mentions(n.problem)"""),
    Table("messages", "presence", "brand device online since seen", "deleted with the device", "presence",
          f"SELECT device, online, since, seen FROM presence WHERE brand = :brand AND device {_DEVICE}"),
    Table("messages", "command_device", "command number device state seq sent_at ended_at output error",
          "the device's name gives way to a pseudonym, and what it answered goes", "commands",
          f"""SELECT c.id, c.name, d.device, d.state, d.sent_at, d.ended_at, d.output, d.error
              FROM command_device d CROSS JOIN command c ON c.number = d.command AND c.brand = :brand
              WHERE d.device {_DEVICE}"""),
    Table("messages", "configuration",
          "brand device version desired desired_at told reported_version reported reported_at error",
          "deleted with the device", "configurations",
          f"""SELECT device, version, desired, desired_at, reported_version, reported, reported_at, error
              FROM configuration WHERE brand = :brand AND device {_DEVICE}"""),
    Table("messages", "conversation",
          "number id brand kind name store language state agent why handed_by opened_at changed_at waiting_since"
          " reminded_at replied_at closed_at closed_by entries read_by_customer read_by_agent", _GONE, "conversations",
          f"""SELECT id, kind, name, store, language, state, agent, why, opened_at, changed_at, waiting_since,
                replied_at, closed_at, closed_by, read_by_customer, read_by_agent FROM {_CONVERSATION}"""),
    Table("messages", "entry", "conversation number id at author who text", _GONE, "entries",
          f"""SELECT c.id AS conversation, x.number, x.id, x.at, x.author, x.who, x.text FROM conversation c
              CROSS JOIN entry x ON x.conversation = c.number WHERE c.brand = :brand AND {_WHO}"""),
    Table("messages", "question",
          "conversation entry brand store at folded outcome rule item score nearest answer took_us person_at thumb",
          _GONE, "questions",
          f"""SELECT c.id AS conversation, x.entry, x.at, x.store, x.outcome, x.rule, x.item, x.score, x.answer,
                x.took_us, x.person_at, x.thumb FROM conversation c
              CROSS JOIN question x ON x.conversation = c.number WHERE c.brand = :brand AND {_WHO}"""),
    Table("messages", "campaign_message", "message at", "numbers and a time"),
    Table("messages", "command",
          "number id brand name args devices stages stage halt_after forgiven state why created_at expires_at ended_at",
          _NOBODY),
    Table("messages", "agent", "brand name title stores tags away most given_at",
          "who works for the brand: pushbroker agent remove"),
    Table("messages", "canned", "brand name language text", _NOBODY),
    Table("messages", "alive", "at", "a time"),
    Table("messages", "applied", "fact", "a number"),
    # -- content ---------------------------------------------------------------------------------------------------
    Table("content", "item",
          "number brand name language title body image link keywords stores tags hours data valid_from valid_until"
          " changed_at", _NOBODY),
    Table("content", "phrase", "phrase item", _NOBODY),
    Table("content", "item_text", "title keywords body", _NOBODY),
    Table("content", "item_text_config", "k v", _NOBODY),
    Table("content", "item_text_content", "id c0 c1 c2", _NOBODY),
    Table("content", "item_text_data", "id block", _NOBODY),
    Table("content", "item_text_docsize", "id sz", _NOBODY),
    Table("content", "item_text_idx", "segid term pgno", _NOBODY),
    Table("content", "item_word", "term doc cnt", _NOBODY),
    Table("content", "rules", "brand rules", _NOBODY),
    Table("content", "changed", "brand name at", _NOBODY),
    Table("content", "request", "number id brand body", _NOBODY),
    # -- journal ---------------------------------------------------------------------------------------------------
    Table("journal", "session",
          "number key role brand name user store v5 expiry_s ends_at cursor next_id dup_until will", "ended",
          "sessions",
          f"SELECT s.role, s.name, s.user, s.store, s.ends_at, s.will FROM session s WHERE {_SESSION}"),
    Table("journal", "subscription", "session name options id since", "ended with the session", "subscriptions",
          f"""SELECT s.name AS device, x.name FROM session s CROSS JOIN subscription x ON x.session = s.number
              WHERE {_SESSION}"""),
    Table("journal", "delivery", "session seq packet_id state qos retain subscription_ids share",
          "ended with the session", "in_flight",
          f"""SELECT s.name AS device, l.topic, l.payload, x.state FROM session s
              CROSS JOIN delivery x ON x.session = s.number LEFT JOIN log l ON l.seq = x.seq WHERE {_SESSION}"""),
    Table("journal", "received", "session packet_id", "ended with the session",
          left=f"SELECT 1 FROM session s CROSS JOIN received x ON x.session = s.number WHERE {_SESSION}"),
    Table("journal", "log", "seq topic payload qos retain properties expires_at publisher id receipt",
          "taken back: what is on their topics, and what tells the brand of them", "log",
          f"""SELECT l.topic, l.payload, l.qos, l.expires_at, l.publisher, l.id FROM log l
              WHERE {LOG.format("l")}"""),
    Table("journal", "retained", "seq topic payload qos retain properties expires_at publisher id receipt",
          "taken away", "retained",
          f"""SELECT l.topic, l.payload, l.expires_at, l.publisher, l.id FROM retained l
              WHERE {LOG.format("l")}"""),
    Table("journal", "fact", "number body", "applied, and deleted", "facts",
          "SELECT body FROM fact WHERE packed(body)"),
    Table("journal", "probe", "count", "a number"),
)  # fmt: skip


def prepare(db: sqlite3.Connection, person: Person) -> None:
    """Give a connection the functions that the statements use."""
    names = (person.user, *person.devices)
    found = words(names)
    token = re.compile("|".join(rf"(?<![\w@-]){re.escape(name)}(?![\w@-])" for name in names))
    bodies = [_pack(name) for name in names]
    # The most of a text that names somebody is told quickly from all that does not.
    db.create_function(
        "mentions", 1, lambda text: any(name in text for name in names) and bool(found.search(text)), deterministic=True
    )
    db.create_function("named", 1, lambda text: bool(token.search(text)), deterministic=True)
    db.create_function("packed", 1, lambda body: any(one in body for one in bodies), deterministic=True)


def words(names: Sequence[str]) -> "re.Pattern[str]":
    """Where a text names one of these: quoted, or as `user:ada`, `user/ada`, `device/till`."""
    any_of = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"""(?P<before>["']|\b(?:user|device)[:/]"?)(?P<name>{any_of})(?![\w@-]|\.\w)""")


def counted(db: sqlite3.Connection, schema: str, person: Person, *, all: bool = False) -> dict[str, int]:
    """How many rows of each kind have to go of this database, of the kinds of which there are any; or all of theirs."""
    prepare(db, person)
    counts = {}
    for table in TABLES:
        if table.schema == schema and table.personal:
            sql = f"SELECT count(*) FROM ({(all and table.theirs) or table.left or table.theirs})"
            (count,) = db.execute(sql, person.parameters).fetchone()
            if count:
                counts[table.kind] = int(count)
    return counts


# What is read at once: many small rows, or few large ones.
_ROWS_AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 256 << 10


async def read(db: Database, schema: str, person: Person) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """All that is theirs in one database as it is now, by section, some rows at a time."""

    def begin(connection: sqlite3.Connection) -> None:
        prepare(connection, person)
        connection.execute("BEGIN")  # until its end nothing changes for this connection

    await db.call(begin)
    for table in TABLES:
        if table.schema == schema and table.theirs:
            cursor = await db.call(lambda connection, sql=table.theirs: connection.execute(sql, person.parameters))  # type: ignore[misc]
            while rows := await db.call(lambda _, cursor=cursor: _page(cursor)):  # type: ignore[misc]
                yield table.section, rows
    await db.all("COMMIT")


def _page(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    rows: list[dict[str, Any]] = []
    size = 0
    while len(rows) < _ROWS_AT_ONCE and size < _BYTES_AT_ONCE and (row := cursor.fetchone()) is not None:
        rows.append(_plain(dict(zip(names, row, strict=True))))
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
    return rows


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON has it: bytes as text where they are."""
    return {name: _text(value) if isinstance(value, bytes) else value for name, value in row.items()}


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()
