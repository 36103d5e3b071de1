"""What a device remembers across restarts: messages handled, attempts begun, what it has to say, topics followed.

And what is on its screen, what its user wants, what it was told to do, and how it is set up.
"""

import json
import logging
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from client_sdk.errors import InUse, PushError

log = logging.getLogger(__name__)

# Each brings the file from one version to the next.
_SCHEMAS: Final = (
    """
CREATE TABLE handled (id TEXT PRIMARY KEY);
CREATE TABLE attempts (id TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE receipts (n INTEGER PRIMARY KEY, message_id TEXT NOT NULL, event TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE followed (name TEXT PRIMARY KEY);
CREATE TABLE confirmed (filter TEXT PRIMARY KEY)
""",
    """
CREATE TABLE outbox (n INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, payload BLOB NOT NULL);
INSERT INTO outbox SELECT n, 'receipt', CAST(json_object('message_id', message_id, 'event', event, 'at', at) AS BLOB)
  FROM receipts;
DROP TABLE receipts
""",
    """
CREATE TABLE commands (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, payload BLOB NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('kept', 'begun', 'over')));
CREATE TABLE config (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, config TEXT NOT NULL, told TEXT)
""",
    """
CREATE TABLE shown (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL,
  gone INTEGER NOT NULL);
CREATE INDEX shown_by_key ON shown (key, id);
CREATE TABLE preferences (one INTEGER PRIMARY KEY CHECK (one = 1), payload BLOB NOT NULL)
""",
)

# The broker resends what it got no acknowledgement for, at most a full window; a kiosk's flash disk has room for more.
HANDLED_MAX: Final = 10_000
OUTBOX_MAX: Final = 1_000  # of each kind
COMMANDS_MAX: Final = 1_000  # that are over
SHOWN_MAX: Final = 1_000
_RECENT_MAX: Final = 1_000
_TRIM_EVERY: Final = 100


class Memory:
    """A small SQLite file that belongs to one process at a time. Safe to use from any thread.

    It guards against showing a message twice, so losing it is a nuisance and never a reason to stop: a damaged file is
    set aside, and while the disk is full only the last thousand ids are remembered, in memory.

    Raises `InUse` when another process has it open, and `PushError` when it cannot be opened for another reason.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._since_trim = 0
        try:
            self._db = _open(path)
        except sqlite3.OperationalError as error:  # a lock, a right, no space: nothing is damaged
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise InUse(
                    f"{path.parent} is in use by another process",
                    remedy="Stop that one, or enrol this device under a name and directory of its own",
                ) from error
            raise PushError(f"{path} cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            aside = path.with_suffix(".damaged")
            log.warning(
                "%s is damaged (%s); it is set aside as %s, so a message may be shown twice", path, error, aside
            )
            path.replace(aside)
            for left in ("-wal", "-shm", "-journal"):
                path.with_name(path.name + left).unlink(missing_ok=True)
            self._db = _open(path)

    def close(self) -> None:
        """Let another process have it."""
        with self._lock:
            self._db.close()

    # -- messages ------------------------------------------------------------------------------------------------------

    def handled(self, message_id: str) -> bool:
        """Whether this message is done with: its handler returned, it had expired, or it was given up."""
        if message_id in self._recent:
            return True
        return bool(self._read("SELECT 1 FROM handled WHERE id = ?", message_id))

    def record(self, message_id: str, *, shown_as: str | None = None) -> None:
        """Remember a message as done with; with a collapse key or '', as being on the screen in place of older ones."""
        self._recent[message_id] = None
        if len(self._recent) > _RECENT_MAX:
            self._recent.popitem(last=False)
        statements: list[tuple[object, ...]] = [
            ("INSERT OR IGNORE INTO handled (id) VALUES (?)", message_id),
            ("DELETE FROM attempts WHERE id = ?", message_id),
        ]
        if shown_as:
            statements.append(("UPDATE shown SET gone = 1 WHERE key = ?", shown_as))
        if shown_as is not None:  # it is gone already where its own handler said that it was opened
            shown = "INSERT INTO shown (id, key, gone) VALUES (?, ?, 0) ON CONFLICT DO UPDATE SET key = excluded.key"
            statements.append((shown, message_id, shown_as))
        self._write(*statements)
        self._since_trim += 1
        if self._since_trim >= _TRIM_EVERY:
            self._since_trim = 0
            for table, most in (("handled", HANDLED_MAX), ("attempts", HANDLED_MAX), ("shown", SHOWN_MAX)):
                oldest = f"DELETE FROM {table} WHERE rowid <= (SELECT max(rowid) FROM {table}) - ?"  # noqa: S608
                self._write((oldest, most))

    def newest(self, collapse_key: str) -> str:
        """The newest message that was shown with this key, or ''."""
        return str(self._read("SELECT coalesce(max(id), '') FROM shown WHERE key = ?", collapse_key)[0][0])

    def on_screen(self, collapse_key: str = "") -> tuple[str, ...]:
        """What was shown, and neither opened, dismissed, replaced nor withdrawn, oldest first; of one key, or all."""
        sql = "SELECT id FROM shown WHERE NOT gone AND (? IN ('', key)) ORDER BY n"
        return tuple(id for (id,) in self._read(sql, collapse_key))

    def take_off(self, message_ids: Iterable[str]) -> None:
        """These are no longer on the screen, or will not be."""
        gone = "INSERT INTO shown (id, key, gone) VALUES (?, '', 1) ON CONFLICT DO UPDATE SET gone = 1"
        self._write(*((gone, message_id) for message_id in message_ids))

    def attempts(self, message_id: str) -> int:
        """How often its handler was begun."""
        rows = self._read("SELECT count FROM attempts WHERE id = ?", message_id)
        return int(rows[0][0]) if rows else 0

    def attempt(self, message_id: str) -> None:
        """Count one more. Called before the handler runs, so that a message that kills the process is counted, too."""
        self._write(("INSERT INTO attempts VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET count = count + 1", message_id))

    def forgive(self, message_id: str) -> None:
        """Count one less: the handler was stopped from outside."""
        self._write(("UPDATE attempts SET count = count - 1 WHERE id = ? AND count > 0", message_id))

    # -- what is to be said --------------------------------------------------------------------------------------------

    def keep(self, kind: str, payload: bytes) -> int | None:
        """Keep what is to be said until the broker has it. Returns its number, or None when it cannot be written."""
        late = "SELECT n FROM outbox WHERE kind = ? ORDER BY n DESC LIMIT -1 OFFSET ?"
        return self._write(
            (f"DELETE FROM outbox WHERE n IN ({late})", kind, OUTBOX_MAX - 1),  # noqa: S608
            ("INSERT INTO outbox (kind, payload) VALUES (?, ?)", kind, payload),
        )

    def drop(self, number: int) -> None:
        """The broker has it, or will never take it."""
        self._write(("DELETE FROM outbox WHERE n = ?", number))

    def kept(self) -> list[tuple[int, str, bytes]]:
        """What the broker does not have yet, in order: number, kind, payload."""
        return [(n, kind, payload) for n, kind, payload in self._read("SELECT n, kind, payload FROM outbox ORDER BY n")]

    # -- commands and configuration ------------------------------------------------------------------------------------

    def commanded(self, id: str) -> bool:
        """Whether this command came before."""
        return bool(self._read("SELECT 1 FROM commands WHERE id = ?", id))

    def keep_command(self, id: str, payload: bytes) -> bool:
        """Keep a command; False when it cannot be written."""
        return self._write(("INSERT INTO commands (id, payload, state) VALUES (?, ?, 'kept')", id, payload)) is not None

    def begin_command(self, id: str) -> bool:
        """From now on it is not begun again; False when that cannot be written."""
        return self._write(("UPDATE commands SET state = 'begun' WHERE id = ?", id)) is not None

    def end_command(self, id: str) -> None:
        """It is over, and answered."""
        late = "SELECT n FROM commands WHERE state = 'over' ORDER BY n DESC LIMIT -1 OFFSET ?"
        self._write(
            ("UPDATE commands SET state = 'over', payload = x'' WHERE id = ?", id),
            (f"DELETE FROM commands WHERE n IN ({late})", COMMANDS_MAX),  # noqa: S608
        )

    def commands(self) -> list[tuple[str, bytes, bool]]:
        """What is not over, in order: id, the command, whether it was begun."""
        rows = self._read("SELECT id, payload, state FROM commands WHERE state <> 'over' ORDER BY n")
        return [(id, payload, state == "begun") for id, payload, state in rows]

    def config(self) -> tuple[int, dict[str, str], str | None] | None:
        """The newest configuration: version, settings, and what was said of it."""
        rows = self._read("SELECT version, config, told FROM config")
        return (rows[0][0], json.loads(rows[0][1]), rows[0][2]) if rows else None

    def keep_config(self, version: int, config: Mapping[str, str]) -> None:
        """Keep a configuration of which nothing was said yet."""
        self._write(("INSERT OR REPLACE INTO config VALUES (1, ?, ?, NULL)", version, json.dumps(config)))

    def told_config(self, version: int, told: str) -> None:
        """Note what was said of it."""
        self._write(("UPDATE config SET told = ? WHERE version = ?", told, version))

    # -- preferences ---------------------------------------------------------------------------------------------------

    def preferences(self) -> bytes:
        """What counts, as the broker said last; empty when it said nothing."""
        rows = self._read("SELECT payload FROM preferences")
        return bytes(rows[0][0]) if rows else b""

    def keep_preferences(self, payload: bytes) -> None:
        """Replace it."""
        self._write(("INSERT OR REPLACE INTO preferences VALUES (1, ?)", payload))

    # -- subscriptions -------------------------------------------------------------------------------------------------

    def followed(self) -> frozenset[str]:
        """The names of the topics that the device follows."""
        return frozenset(name for (name,) in self._read("SELECT name FROM followed"))

    def follow(self, name: str) -> None:
        """Remember one more."""
        self._write(("INSERT OR IGNORE INTO followed VALUES (?)", name))

    def unfollow(self, name: str) -> None:
        """Forget one."""
        self._write(("DELETE FROM followed WHERE name = ?", name))

    def confirmed(self) -> frozenset[str]:
        """The filters that the broker has confirmed for our session."""
        return frozenset(name for (name,) in self._read("SELECT filter FROM confirmed"))

    def confirm(self, filters: AbstractSet[str]) -> None:
        """Replace them."""
        self._write(
            ("DELETE FROM confirmed",), *(("INSERT INTO confirmed VALUES (?)", name) for name in sorted(filters))
        )

    # -- the file ------------------------------------------------------------------------------------------------------

    def _read(self, sql: str, *values: object) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                log.warning("what this device remembers cannot be read: %s", error)
                return []

    def _write(self, *statements: tuple[object, ...]) -> int | None:
        """Run statements, all or none; return the number of the row that the last one inserted."""
        with self._lock:
            try:
                with self._db:
                    self._db.execute("BEGIN")
                    for sql, *values in statements:
                        number = self._db.execute(str(sql), values).lastrowid
                return number
            except sqlite3.Error as error:
                log.warning("this device cannot remember what it did, so a message may be shown twice: %s", error)
                return None


def _open(path: Path) -> sqlite3.Connection:
    # FULL, as power cuts are how kiosks are switched off; the exclusive lock is what `InUse` stands on.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.2)
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > len(_SCHEMAS):
            raise PushError(f"{path} was written by a newer SDK", remedy="Update this one")
        for statements in _SCHEMAS[version:]:
            for statement in statements.split(";"):
                db.execute(statement)
        if version < len(_SCHEMAS):
            db.execute(f"PRAGMA user_version = {len(_SCHEMAS)}")
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.close()
        raise
    return db
