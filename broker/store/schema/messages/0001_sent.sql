-- What brands' servers sent through the bridge, and what became of it for each recipient. Times are milliseconds since
-- 1970 (UTC); NULL: not yet, or never.

-- One accepted request. `id` is the message id that receivers and receipts name.
CREATE TABLE message (
  number       INTEGER PRIMARY KEY,
  id           TEXT NOT NULL UNIQUE,
  brand        TEXT NOT NULL,
  sender       TEXT NOT NULL,              -- path of the identity that asked: acme/server/crm, or '' for the operator
  campaign     TEXT,
  variant      TEXT NOT NULL DEFAULT '',   -- 'a', 'b' ... of an A/B split
  state        TEXT NOT NULL CHECK (state IN ('filling', 'open', 'done', 'withdrawn')), -- filling: recipients are still being written
  kind         TEXT NOT NULL CHECK (kind IN ('marketing', 'transactional')),
  priority     TEXT NOT NULL CHECK (priority IN ('normal', 'high')),
  content_type TEXT NOT NULL,
  payload      BLOB NOT NULL,
  collapse_key TEXT NOT NULL DEFAULT '',
  receipts     TEXT NOT NULL CHECK (receipts IN ('none', 'summary', 'each')),
  throttle     REAL,                       -- messages in a second; NULL: as fast as the broker goes
  address      TEXT NOT NULL,              -- whom it addresses, as JSON, as it was asked for
  not_before   INTEGER,
  local_time   TEXT NOT NULL DEFAULT '',   -- 'HH:MM' where each of them is
  request_id   TEXT NOT NULL DEFAULT '',
  reply_topic  TEXT NOT NULL DEFAULT '',   -- where its sender waits for the answer; '': nobody does
  reply_data   BLOB NOT NULL DEFAULT x'',
  accepted_at  INTEGER NOT NULL,
  expires_at   INTEGER NOT NULL,
  recipients   INTEGER NOT NULL DEFAULT 0, -- all of them, also those that were left out at once
  answer       TEXT NOT NULL DEFAULT ''    -- what its sender was told, once it is open
) STRICT;

CREATE INDEX message_of_brand ON message (brand, number);
CREATE INDEX message_of_campaign ON message (brand, campaign) WHERE campaign IS NOT NULL;
CREATE INDEX message_over ON message (accepted_at) WHERE state IN ('done', 'withdrawn');
CREATE INDEX message_filling ON message (number) WHERE state = 'filling';
CREATE INDEX message_expiring ON message (expires_at) WHERE state = 'open';

-- A person (on all their devices), or a device. `state` is where the transport has it; what apps say stands beside it.
CREATE TABLE recipient (
  message      INTEGER NOT NULL REFERENCES message (number) ON DELETE CASCADE,
  number       INTEGER NOT NULL,           -- from 1, in the order in which they are served
  kind         TEXT NOT NULL CHECK (kind IN ('user', 'device')),
  name         TEXT NOT NULL,
  because      TEXT NOT NULL,              -- how it was addressed: 'user', 'device', 'store:milano', 'topic:news', 'condition'
  state        TEXT NOT NULL CHECK (state IN ('accepted', 'sent', 'delivered', 'expired', 'replaced', 'dropped', 'withdrawn')),
  reason       TEXT NOT NULL DEFAULT '',   -- for all but sent and delivered: a code, such as 'suppressed', 'cap', 'queue_full', 'no_subscriber'
  due_at       INTEGER NOT NULL,           -- not sent before
  seq          INTEGER,                    -- in the log, once sent
  sent_at      INTEGER,
  delivered_at INTEGER,
  displayed_at INTEGER,
  opened_at    INTEGER,
  clicked_at   INTEGER,
  dismissed_at INTEGER,
  ended_at     INTEGER,                    -- expired, replaced, dropped, withdrawn
  PRIMARY KEY (message, number)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX recipient_by_name ON recipient (message, kind, name);
CREATE INDEX recipient_of ON recipient (kind, name, message);
CREATE INDEX recipient_due ON recipient (message, due_at) WHERE state = 'accepted';
CREATE INDEX recipient_sent ON recipient (message) WHERE state = 'sent';
CREATE INDEX recipient_by_seq ON recipient (seq) WHERE state = 'sent' AND seq IS NOT NULL;

-- What each device of a recipient did with it, the first time of each.
CREATE TABLE event (
  message   INTEGER NOT NULL REFERENCES message (number) ON DELETE CASCADE,
  recipient INTEGER NOT NULL,
  device    TEXT NOT NULL,
  event     TEXT NOT NULL CHECK (event IN ('delivered', 'displayed', 'opened', 'clicked', 'dismissed')),
  at        INTEGER NOT NULL,
  detail    TEXT NOT NULL DEFAULT '',      -- which action was clicked
  PRIMARY KEY (message, recipient, device, event)
) STRICT, WITHOUT ROWID;

-- Why a recipient was made to wait, or left out: what `pushbroker why` tells.
CREATE TABLE decision (
  message   INTEGER NOT NULL REFERENCES message (number) ON DELETE CASCADE,
  recipient INTEGER NOT NULL,
  at        INTEGER NOT NULL,
  rule      TEXT NOT NULL,                 -- 'quiet_hours', 'cap', 'suppressed', 'opted_out', 'collapse', 'withdraw', 'queue_full' ...
  outcome   TEXT NOT NULL,                 -- 'deferred', 'dropped', 'replaced', 'withdrawn'
  detail    TEXT NOT NULL DEFAULT '',      -- a sentence with the figures
  PRIMARY KEY (message, recipient, at, rule)
) STRICT, WITHOUT ROWID;

-- What a brand's server asked for before under this key.
CREATE TABLE idempotency (
  brand      TEXT NOT NULL,
  key        TEXT NOT NULL,
  digest     BLOB NOT NULL,                -- SHA-256 of the request
  message    INTEGER NOT NULL REFERENCES message (number) ON DELETE CASCADE,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (brand, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_expiry ON idempotency (expires_at);

-- Up to which number the facts of the journal are in here.
CREATE TABLE applied (fact INTEGER NOT NULL) STRICT;
INSERT INTO applied VALUES (0);
