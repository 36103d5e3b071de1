-- What brands know of whom they address, and what those have said. It is kept of a user, or of a device; what a device
-- says that belongs to a user is its user's. Times in milliseconds since 1970 (UTC).
-- `kind` and `name` name one of two tables, so triggers take the place of references: below.

CREATE TABLE tags (
  brand TEXT NOT NULL,
  kind  TEXT NOT NULL CHECK (kind IN ('user', 'device')),
  name  TEXT NOT NULL,
  tag   TEXT NOT NULL,
  PRIMARY KEY (brand, kind, name, tag)
) STRICT, WITHOUT ROWID;

CREATE INDEX tags_by_tag ON tags (brand, tag, kind, name);

CREATE TABLE attributes (
  brand TEXT NOT NULL,
  kind  TEXT NOT NULL CHECK (kind IN ('user', 'device')),
  name  TEXT NOT NULL,
  key   TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (brand, kind, name, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX attributes_by_value ON attributes (brand, key, value, kind, name);

-- What counts for each topic, since when, and who said so.
CREATE TABLE consents (
  brand  TEXT NOT NULL,
  kind   TEXT NOT NULL CHECK (kind IN ('user', 'device')),
  name   TEXT NOT NULL,
  topic  TEXT NOT NULL,
  state  TEXT NOT NULL CHECK (state IN ('in', 'out')),
  since  INTEGER NOT NULL,
  source TEXT NOT NULL,            -- 'device/kiosk-7', 'brand' or 'operator'
  PRIMARY KEY (brand, kind, name, topic)
) STRICT, WITHOUT ROWID;

CREATE INDEX consents_by_topic ON consents (brand, topic, kind, name) WHERE state = 'in';

-- Each consent given and taken back; nothing here changes.
CREATE TABLE consent_log (
  number INTEGER PRIMARY KEY,
  brand  TEXT NOT NULL,
  kind   TEXT NOT NULL CHECK (kind IN ('user', 'device')),
  name   TEXT NOT NULL,
  topic  TEXT NOT NULL,
  state  TEXT NOT NULL CHECK (state IN ('in', 'out')),
  at     INTEGER NOT NULL,
  source TEXT NOT NULL
) STRICT;

CREATE INDEX consent_log_of ON consent_log (brand, kind, name, number);

-- '' is: not said. Quiet hours are 'HH:MM' where they are.
CREATE TABLE preferences (
  brand       TEXT NOT NULL,
  kind        TEXT NOT NULL CHECK (kind IN ('user', 'device')),
  name        TEXT NOT NULL,
  quiet_from  TEXT NOT NULL,
  quiet_until TEXT NOT NULL,
  time_zone   TEXT NOT NULL,       -- of the IANA: 'Europe/Rome'
  locale      TEXT NOT NULL,
  PRIMARY KEY (brand, kind, name)
) STRICT, WITHOUT ROWID;

-- Whose devices have not been told yet what counts; or a device that has another user. `number` differs each time.
CREATE TABLE untold (
  brand  TEXT NOT NULL REFERENCES brands (name) ON DELETE CASCADE,
  kind   TEXT NOT NULL CHECK (kind IN ('user', 'device')),
  name   TEXT NOT NULL,
  number INTEGER NOT NULL,
  PRIMARY KEY (brand, kind, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX untold_by_number ON untold (number);

-- Who gets nothing at all. `until` is NULL for ever.
CREATE TABLE suppressions (
  brand  TEXT NOT NULL,
  user   TEXT NOT NULL,
  reason TEXT NOT NULL,
  since  INTEGER NOT NULL,
  until  INTEGER,
  PRIMARY KEY (brand, user),
  FOREIGN KEY (brand, user) REFERENCES users (brand, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE segments (
  brand     TEXT NOT NULL REFERENCES brands (name) ON DELETE CASCADE,
  name      TEXT NOT NULL,
  title     TEXT NOT NULL,
  condition TEXT NOT NULL,
  PRIMARY KEY (brand, name)
) STRICT, WITHOUT ROWID;

-- Quiet hours and caps of a brand, as JSON.
CREATE TABLE restraints (
  brand TEXT PRIMARY KEY REFERENCES brands (name) ON DELETE CASCADE,
  rules TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Whose devices stand in a store, in the order of their users.
CREATE INDEX devices_in_store_of_user ON devices (brand, store, user);

CREATE TRIGGER user_removed AFTER DELETE ON users BEGIN
  DELETE FROM tags WHERE brand = OLD.brand AND kind = 'user' AND name = OLD.name;
  DELETE FROM attributes WHERE brand = OLD.brand AND kind = 'user' AND name = OLD.name;
  DELETE FROM consents WHERE brand = OLD.brand AND kind = 'user' AND name = OLD.name;
  DELETE FROM consent_log WHERE brand = OLD.brand AND kind = 'user' AND name = OLD.name;
  DELETE FROM preferences WHERE brand = OLD.brand AND kind = 'user' AND name = OLD.name;
  DELETE FROM untold WHERE brand = OLD.brand AND kind = 'user' AND name = OLD.name;
END;

CREATE TRIGGER device_removed AFTER DELETE ON devices BEGIN
  DELETE FROM tags WHERE brand = OLD.brand AND kind = 'device' AND name = OLD.name;
  DELETE FROM attributes WHERE brand = OLD.brand AND kind = 'device' AND name = OLD.name;
  DELETE FROM consents WHERE brand = OLD.brand AND kind = 'device' AND name = OLD.name;
  DELETE FROM consent_log WHERE brand = OLD.brand AND kind = 'device' AND name = OLD.name;
  DELETE FROM preferences WHERE brand = OLD.brand AND kind = 'device' AND name = OLD.name;
  DELETE FROM untold WHERE brand = OLD.brand AND kind = 'device' AND name = OLD.name;
END;

CREATE TRIGGER device_reassigned AFTER UPDATE OF user ON devices WHEN OLD.user IS NOT NEW.user BEGIN
  INSERT OR REPLACE INTO untold
    SELECT NEW.brand, 'device', NEW.name, coalesce(max(number), 0) + 1 FROM untold;
END;
