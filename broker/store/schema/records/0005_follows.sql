-- Who hears of changes of an item of content, and how often. Times are milliseconds since 1970 (UTC).
CREATE TABLE follows (
  brand   TEXT NOT NULL,
  kind    TEXT NOT NULL CHECK (kind IN ('user', 'device')),
  name    TEXT NOT NULL,
  item    TEXT NOT NULL,
  every_s INTEGER NOT NULL,              -- at most one in so many seconds; 0: each
  since   INTEGER NOT NULL,
  source  TEXT NOT NULL,                 -- 'device/kiosk-7', 'brand' or 'operator'
  sent_at INTEGER NOT NULL DEFAULT 0,    -- the last one
  sent    TEXT NOT NULL DEFAULT '',      -- its message id
  PRIMARY KEY (brand, kind, name, item)
) STRICT, WITHOUT ROWID;

CREATE INDEX follows_of_item ON follows (brand, item, kind, name);

-- What counted for who said stop, until they say start: topics, and as 'item/NAME' what they followed. What they say of
-- one of these themselves since then is not in here any more.
CREATE TABLE stopped (
  brand   TEXT NOT NULL,
  kind    TEXT NOT NULL CHECK (kind IN ('user', 'device')),
  name    TEXT NOT NULL,
  topic   TEXT NOT NULL,
  every_s INTEGER NOT NULL,              -- of what they followed
  PRIMARY KEY (brand, kind, name, topic)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER user_removed_follows AFTER DELETE ON users BEGIN
  DELETE FROM follows WHERE brand = OLD.brand AND kind = 'user' AND name = OLD.name;
  DELETE FROM stopped WHERE brand = OLD.brand AND kind = 'user' AND name = OLD.name;
END;

CREATE TRIGGER device_removed_follows AFTER DELETE ON devices BEGIN
  DELETE FROM follows WHERE brand = OLD.brand AND kind = 'device' AND name = OLD.name;
  DELETE FROM stopped WHERE brand = OLD.brand AND kind = 'device' AND name = OLD.name;
END;
