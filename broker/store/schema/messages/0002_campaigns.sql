-- Campaigns: what is sent to whom, when, and what was sent of it. Times are milliseconds since 1970 (UTC).

CREATE TABLE campaign (
  number      INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice: runs of a new one are not those of an old one
  brand       TEXT NOT NULL,
  name        TEXT NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('draft', 'running', 'paused', 'stopped', 'done')),
  definition  TEXT NOT NULL,             -- whom it addresses, what with, when: JSON
  next_run    TEXT,                      -- JSON; NULL: none
  next_run_at INTEGER,                   -- when that begins
  created_at  INTEGER NOT NULL,
  UNIQUE (brand, name)
) STRICT;

CREATE INDEX campaign_due ON campaign (next_run_at) WHERE state = 'running' AND next_run_at IS NOT NULL;

-- A run that was made.
CREATE TABLE campaign_run (
  campaign INTEGER NOT NULL REFERENCES campaign (number) ON DELETE CASCADE,
  at       INTEGER NOT NULL,
  ended_at INTEGER NOT NULL,
  held_out INTEGER NOT NULL,             -- who was addressed, and gets nothing, to compare with
  problem  TEXT NOT NULL DEFAULT '',     -- why nothing, or not all of it, was sent
  PRIMARY KEY (campaign, at)
) STRICT, WITHOUT ROWID;

-- Which messages a run sent.
CREATE TABLE campaign_message (
  message INTEGER PRIMARY KEY REFERENCES message (number) ON DELETE CASCADE,
  at      INTEGER NOT NULL               -- of its run
) STRICT, WITHOUT ROWID;
