-- Devices: when they were there, what they were told to do, how they are to be set up. Times are milliseconds since 1970 (UTC).

CREATE TABLE presence (
  brand  TEXT NOT NULL,
  device TEXT NOT NULL,
  online INTEGER NOT NULL,               -- as of the last look
  since  INTEGER NOT NULL,               -- when it came, or went
  seen   INTEGER NOT NULL,
  PRIMARY KEY (brand, device)
) STRICT, WITHOUT ROWID;

-- When the broker was there last: so long those who are online above were, should it have been killed.
CREATE TABLE alive (at INTEGER NOT NULL) STRICT;
INSERT INTO alive VALUES (0);

-- What devices are told to do.
CREATE TABLE command (
  number     INTEGER PRIMARY KEY,
  id         TEXT NOT NULL UNIQUE,
  brand      TEXT NOT NULL,
  name       TEXT NOT NULL,
  args       TEXT NOT NULL,              -- JSON
  devices    INTEGER NOT NULL,
  stages     TEXT NOT NULL,              -- how many devices have it at the end of each: JSON
  stage      INTEGER NOT NULL,           -- how many of them have begun
  halt_after TEXT NOT NULL,              -- how many may fail: '3' or '5%'
  forgiven   INTEGER NOT NULL,           -- failures at which somebody has looked
  state      TEXT NOT NULL CHECK (state IN ('running', 'halted', 'cancelled', 'done')),
  why        TEXT NOT NULL,              -- it is halted
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  ended_at   INTEGER
) STRICT;

CREATE INDEX command_of_brand ON command (brand, number);
CREATE INDEX command_open ON command (number) WHERE state IN ('running', 'halted');

CREATE TABLE command_device (
  command  INTEGER NOT NULL REFERENCES command (number) ON DELETE CASCADE,
  number   INTEGER NOT NULL,             -- from 1, in the order in which they get it
  device   TEXT NOT NULL,
  state    TEXT NOT NULL CHECK (state IN ('waiting', 'sent', 'succeeded', 'failed', 'expired', 'cancelled')),
  seq      INTEGER,                      -- in the log, once sent
  sent_at  INTEGER,
  ended_at INTEGER,
  output   TEXT NOT NULL DEFAULT '',
  error    TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (command, number)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX command_device_by_name ON command_device (command, device);
CREATE INDEX command_device_open ON command_device (device, command) WHERE state IN ('waiting', 'sent');

-- How devices are to be set up, and how they say that they are.
CREATE TABLE configuration (
  brand            TEXT NOT NULL,
  device           TEXT NOT NULL,
  version          INTEGER NOT NULL,
  desired          TEXT NOT NULL,        -- JSON
  desired_at       INTEGER NOT NULL,
  told             INTEGER NOT NULL,     -- the version that was published last
  reported_version INTEGER NOT NULL DEFAULT 0,
  reported         TEXT NOT NULL DEFAULT '{}',
  reported_at      INTEGER,
  error            TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (brand, device)
) STRICT, WITHOUT ROWID;

CREATE INDEX configuration_untold ON configuration (brand, device) WHERE told < version;
