-- What is still to be told of what happened: receipts that a brand asked for, and what was opened on one device and is to
-- leave the others. A row is written with what happened, and deleted when that was told; so a crash loses none.
CREATE TABLE outbox (
  number    INTEGER PRIMARY KEY AUTOINCREMENT,
  message   INTEGER NOT NULL REFERENCES message (number) ON DELETE CASCADE,
  recipient INTEGER NOT NULL,
  event     TEXT NOT NULL,                 -- 'summary': its counts have changed
  device    TEXT NOT NULL,
  at        INTEGER NOT NULL,
  detail    TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX outbox_summary ON outbox (message) WHERE event = 'summary';

-- Where the device stood when it did that.
ALTER TABLE event ADD COLUMN store TEXT NOT NULL DEFAULT '';

-- When it was withdrawn, by whom, and for which of its recipients that is done; NULL: it is not going on.
ALTER TABLE message ADD COLUMN withdrawn_at INTEGER;
ALTER TABLE message ADD COLUMN withdrawn_by TEXT NOT NULL DEFAULT '';
ALTER TABLE message ADD COLUMN withdrawn_to INTEGER;

CREATE INDEX message_withdrawing ON message (number) WHERE withdrawn_to IS NOT NULL;
