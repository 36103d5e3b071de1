-- Links to brokers of others. The password is shown to the other side, so it cannot be a hash. version: 'auto', '5',
-- '3.1.1'. inbound and outbound are JSON lists of mappings; subscribed is one of the filters that the session at the
-- other side may have, those of mappings that are gone included.
CREATE TABLE links (
  brand      TEXT NOT NULL REFERENCES brands (name) ON DELETE CASCADE,
  name       TEXT NOT NULL,
  url        TEXT NOT NULL,
  version    TEXT NOT NULL,
  client_id  TEXT NOT NULL,
  username   TEXT NOT NULL,
  password   TEXT,
  ca         TEXT NOT NULL,
  cert       TEXT NOT NULL,
  key        TEXT NOT NULL,
  inbound    TEXT NOT NULL,
  outbound   TEXT NOT NULL,
  paused     INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  subscribed TEXT NOT NULL DEFAULT '[]',
  PRIMARY KEY (brand, name)
) STRICT, WITHOUT ROWID;
