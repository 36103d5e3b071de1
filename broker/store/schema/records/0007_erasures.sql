-- Persons who are being erased, until nothing is left of them. Times are milliseconds since 1970 (UTC).
CREATE TABLE erasures (
  pseudonym TEXT PRIMARY KEY,          -- in place of their name in the audit log; nothing says whose it is
  brand     TEXT NOT NULL,
  user      TEXT NOT NULL,             -- '' once only files are to be written anew
  devices   TEXT NOT NULL,             -- those that went with them: JSON
  shared    TEXT NOT NULL,             -- those that stay: JSON
  actor     TEXT NOT NULL,
  began_at  INTEGER NOT NULL,
  found     TEXT NOT NULL,             -- how many rows of each kind were theirs: JSON
  left_over TEXT NOT NULL,             -- how many of these could not go: JSON
  files     TEXT NOT NULL              -- databases that are still to be written anew: JSON
) STRICT, WITHOUT ROWID;
