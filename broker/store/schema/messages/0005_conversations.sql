-- Who asked what, and what they were answered: by the automation, by the brand's server, by a person. Times are
-- milliseconds since 1970 (UTC); NULL: not yet.

-- With one person on all their devices, or with a device that has no user. One at a time is not closed.
CREATE TABLE conversation (
  number        INTEGER PRIMARY KEY,
  id            TEXT NOT NULL UNIQUE,
  brand         TEXT NOT NULL,
  kind          TEXT NOT NULL CHECK (kind IN ('user', 'device')),
  name          TEXT NOT NULL,
  store         TEXT NOT NULL,             -- where they asked last
  language      TEXT NOT NULL,
  state         TEXT NOT NULL CHECK (state IN ('automated', 'waiting', 'agent', 'closed')),
  agent         TEXT NOT NULL DEFAULT '',  -- who has it, or who it is for while it waits
  why           TEXT NOT NULL DEFAULT '',  -- it was handed over: 'asked', 'not_found', 'low_score', 'rule', 'server'
  handed_by     TEXT NOT NULL DEFAULT '',  -- by which question: its id
  opened_at     INTEGER NOT NULL,
  changed_at    INTEGER NOT NULL,          -- when somebody last said something
  waiting_since INTEGER,                   -- for a person: since they were handed over, or said something an agent has not answered
  reminded_at   INTEGER,
  replied_at    INTEGER,                   -- when a person first replied since it was handed over
  closed_at     INTEGER,
  closed_by     TEXT NOT NULL DEFAULT '',
  entries       INTEGER NOT NULL DEFAULT 0,
  read_by_customer INTEGER NOT NULL DEFAULT 0, -- entries up to this
  read_by_agent INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX conversation_open ON conversation (brand, kind, name) WHERE state <> 'closed';
CREATE INDEX conversation_of ON conversation (brand, kind, name, number);
CREATE INDEX conversation_by_state ON conversation (brand, state, changed_at);
CREATE INDEX conversation_idle ON conversation (changed_at) WHERE state = 'automated';
CREATE INDEX conversation_waiting ON conversation (waiting_since) WHERE state IN ('waiting', 'agent');
CREATE INDEX conversation_over ON conversation (closed_at) WHERE state = 'closed';

-- What was said, one row each; a customer's question stands with what it was answered at once.
CREATE TABLE entry (
  conversation INTEGER NOT NULL REFERENCES conversation (number) ON DELETE CASCADE,
  number       INTEGER NOT NULL,           -- from 1
  id           TEXT NOT NULL UNIQUE,       -- the question's; of an agent's reply the message's; else the request's
  at           INTEGER NOT NULL,
  author       TEXT NOT NULL CHECK (author IN ('customer', 'agent', 'note', 'system')),
  who          TEXT NOT NULL,              -- the device, the agent
  text         TEXT NOT NULL,              -- of the system's: what was done, as 'taken', 'assigned mia'
  PRIMARY KEY (conversation, number)
) STRICT, WITHOUT ROWID;

-- The questions among them: what figures are made of. Rows of 1 KB: in the order of a key each would take a page more,
-- and each that is written would be in another one.
CREATE TABLE question (
  conversation INTEGER NOT NULL,
  entry        INTEGER NOT NULL,
  brand        TEXT NOT NULL,
  store        TEXT NOT NULL,
  at           INTEGER NOT NULL,
  folded       TEXT NOT NULL,              -- its words, in order, so that the same question is the same
  outcome      TEXT NOT NULL CHECK (outcome IN ('answered', 'choice', 'command', 'server', 'asking', 'person', 'nothing')),
  rule         TEXT NOT NULL,              -- by which it was decided
  item         TEXT NOT NULL DEFAULT '',
  score        REAL NOT NULL DEFAULT 0,    -- of the best hit, 0 to 1
  nearest      TEXT NOT NULL DEFAULT '',   -- which item that was, where none was good enough
  answer       TEXT NOT NULL,              -- as the device got it, JSON
  took_us      INTEGER,                    -- until it was answered, by whomever
  person_at    INTEGER,                    -- when a person first replied to it
  thumb        INTEGER NOT NULL DEFAULT 0 CHECK (thumb IN (-1, 0, 1)),
  PRIMARY KEY (conversation, entry),
  FOREIGN KEY (conversation, entry) REFERENCES entry (conversation, number) ON DELETE CASCADE
) STRICT;

CREATE INDEX question_of_brand ON question (brand, at);
CREATE INDEX question_asking ON question (at) WHERE outcome = 'asking';

-- Who answers for a brand.
CREATE TABLE agent (
  brand     TEXT NOT NULL,
  name      TEXT NOT NULL,
  title     TEXT NOT NULL,
  stores    TEXT NOT NULL,                 -- JSON: for whom they are first; []: for all
  tags      TEXT NOT NULL,
  away      INTEGER NOT NULL DEFAULT 0,
  most      INTEGER NOT NULL,              -- conversations at a time that are given to them
  given_at  INTEGER NOT NULL DEFAULT 0,    -- when they last were given one
  PRIMARY KEY (brand, name)
) STRICT, WITHOUT ROWID;

-- Replies that are ready.
CREATE TABLE canned (
  brand TEXT NOT NULL,
  name  TEXT NOT NULL,
  language TEXT NOT NULL,
  text  TEXT NOT NULL,
  PRIMARY KEY (brand, name, language)
) STRICT, WITHOUT ROWID;
