-- Who is who. Times are whole seconds since 1970 (UTC). Secrets are kept only as hashes.
-- A name is unique within its brand, so every key begins with the brand and no query can stray into another's.

CREATE TABLE brands (
  name       TEXT PRIMARY KEY,
  title      TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
  brand      TEXT NOT NULL REFERENCES brands (name) ON DELETE CASCADE,
  name       TEXT NOT NULL,
  title      TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (brand, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE stores (
  brand      TEXT NOT NULL REFERENCES brands (name) ON DELETE CASCADE,
  name       TEXT NOT NULL,
  title      TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (brand, name)
) STRICT, WITHOUT ROWID;

-- "user" and "store" have no ON DELETE action: SET NULL would clear the brand with them. Who removes one unassigns first.
CREATE TABLE devices (
  brand       TEXT NOT NULL REFERENCES brands (name) ON DELETE CASCADE,
  name        TEXT NOT NULL,
  user        TEXT,
  store       TEXT,
  state       TEXT NOT NULL CHECK (state IN ('pending', 'active', 'revoked')),
  created_at  INTEGER NOT NULL,
  enrolled_at INTEGER,
  PRIMARY KEY (brand, name),
  FOREIGN KEY (brand, user) REFERENCES users (brand, name),
  FOREIGN KEY (brand, store) REFERENCES stores (brand, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX devices_of_user ON devices (brand, user);
CREATE INDEX devices_in_store ON devices (brand, store);

-- hash: SHA-256 of a secret with 256 random bits.
CREATE TABLE tokens (
  id         TEXT PRIMARY KEY,
  brand      TEXT NOT NULL REFERENCES brands (name) ON DELETE CASCADE,
  name       TEXT NOT NULL,
  hash       BLOB NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  expires_at INTEGER,
  revoked_at INTEGER,
  used_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX tokens_of_brand ON tokens (brand, name);

-- hash: argon2id, with its parameters and salt in it.
CREATE TABLE passwords (
  brand      TEXT NOT NULL REFERENCES brands (name) ON DELETE CASCADE,
  role       TEXT NOT NULL CHECK (role IN ('device', 'server')),
  name       TEXT NOT NULL,
  hash       TEXT NOT NULL,
  changed_at INTEGER NOT NULL,
  PRIMARY KEY (brand, role, name)
) STRICT, WITHOUT ROWID;

-- At most one enrolment code for each device. key_hash is the SHA-256 of the first public key that asked, and
-- certificate what it got: the same again when its answer was lost.
CREATE TABLE codes (
  brand       TEXT NOT NULL,
  device      TEXT NOT NULL,
  hash        BLOB NOT NULL UNIQUE,
  created_at  INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,
  key_hash    BLOB,
  serial      TEXT,
  certificate BLOB,
  PRIMARY KEY (brand, device),
  FOREIGN KEY (brand, device) REFERENCES devices (brand, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX codes_by_expiry ON codes (expires_at);

-- Every certificate that is good has its row here; one without is refused. serial is lower-case hexadecimal; brand is
-- NULL for an admin.
CREATE TABLE certificates (
  serial     TEXT PRIMARY KEY,
  role       TEXT NOT NULL CHECK (role IN ('device', 'server', 'admin')),
  brand      TEXT REFERENCES brands (name) ON DELETE CASCADE,
  name       TEXT NOT NULL,
  issued_at  INTEGER NOT NULL,
  not_before INTEGER NOT NULL,
  not_after  INTEGER NOT NULL,
  revoked_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX certificates_of_identity ON certificates (brand, role, name);
