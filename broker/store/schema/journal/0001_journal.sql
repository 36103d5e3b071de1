-- Messages are stored once; sessions refer to them.
CREATE TABLE message (
    number     INTEGER PRIMARY KEY,
    topic      BLOB NOT NULL,
    payload    BLOB NOT NULL,
    properties BLOB NOT NULL,
    expires_at REAL NOT NULL,          -- wall clock; 0 = never
    publisher  TEXT NOT NULL,
    id         TEXT NOT NULL,
    receipt    INTEGER NOT NULL
) STRICT;

CREATE TABLE session (
    number    INTEGER PRIMARY KEY,
    key       TEXT NOT NULL UNIQUE,
    client_id TEXT NOT NULL,
    role      TEXT NOT NULL,
    brand     TEXT NOT NULL,
    name      TEXT NOT NULL,
    user      TEXT NOT NULL,
    store     TEXT NOT NULL,
    v5        INTEGER NOT NULL,
    expiry_s  INTEGER NOT NULL,
    ends_at   REAL NOT NULL,
    next_id   INTEGER NOT NULL,
    will      BLOB NOT NULL
) STRICT;

CREATE TABLE subscription (
    session INTEGER NOT NULL REFERENCES session ON DELETE CASCADE,
    name    BLOB NOT NULL,
    options INTEGER NOT NULL,
    id      BLOB NOT NULL,
    PRIMARY KEY (session, name)
) STRICT, WITHOUT ROWID;

-- What waits for a session (packet_id 0), or is in flight to it; message 0: only PUBREL and PUBCOMP are left of it.
CREATE TABLE delivery (
    session          INTEGER NOT NULL REFERENCES session ON DELETE CASCADE,
    position         INTEGER NOT NULL,
    message          INTEGER NOT NULL,
    packet_id        INTEGER NOT NULL,
    qos              INTEGER NOT NULL,
    retain           INTEGER NOT NULL,
    subscription_ids BLOB NOT NULL,
    PRIMARY KEY (session, position)
) STRICT, WITHOUT ROWID;

-- QoS 2 packet ids from the client between PUBLISH and PUBREL.
CREATE TABLE received (
    session   INTEGER NOT NULL REFERENCES session ON DELETE CASCADE,
    packet_id INTEGER NOT NULL,
    PRIMARY KEY (session, packet_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE retained (
    topic      BLOB PRIMARY KEY,
    payload    BLOB NOT NULL,
    properties BLOB NOT NULL,
    expires_at REAL NOT NULL,
    publisher  TEXT NOT NULL,
    id         TEXT NOT NULL,
    receipt    INTEGER NOT NULL,
    qos        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Written to find out whether the disk still takes a commit.
CREATE TABLE probe (count INTEGER NOT NULL) STRICT;
INSERT INTO probe VALUES (0);
