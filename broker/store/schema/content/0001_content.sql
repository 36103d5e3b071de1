-- What brands have to say to who asks. Times are milliseconds since 1970 (UTC).

-- One answer, in one language. Items of one name in several languages are the same thing.
CREATE TABLE item (
  number      INTEGER PRIMARY KEY,
  brand       TEXT NOT NULL,
  name        TEXT NOT NULL,
  language    TEXT NOT NULL,             -- 'it', 'en', 'de' ...; '': for all
  title       TEXT NOT NULL,
  body        TEXT NOT NULL,
  image       TEXT NOT NULL,
  link        TEXT NOT NULL,
  keywords    TEXT NOT NULL,             -- JSON: a list of words and phrases that mean it, synonyms among them
  stores      TEXT NOT NULL,             -- JSON: only for who is in one of them; []: for all
  tags        TEXT NOT NULL,             -- JSON: only for who has one of them; []: for all
  hours       TEXT NOT NULL,             -- JSON: only then ({"mon-fri": ["09:00-18:00"]}); {}: always
  data        TEXT NOT NULL,             -- JSON: fields for templates and apps
  valid_from  INTEGER,
  valid_until INTEGER,
  changed_at  INTEGER NOT NULL,
  UNIQUE (brand, name, language)
) STRICT;

-- The words of items by which they are found: folded, each with its brand in front, so that no search ever meets
-- another brand's. The row's number is the item's.
CREATE VIRTUAL TABLE item_text USING fts5 (title, keywords, body, tokenize = 'unicode61 remove_diacritics 0');

-- In how many items each of these words is.
CREATE VIRTUAL TABLE item_word USING fts5vocab (item_text, row);

-- What items are called, title and keywords, as a whole: folded, in any order. Who asks just that wants them.
CREATE TABLE phrase (
  phrase TEXT NOT NULL,                  -- with its brand in front
  item   INTEGER NOT NULL REFERENCES item (number) ON DELETE CASCADE,
  PRIMARY KEY (phrase, item)
) STRICT, WITHOUT ROWID;

CREATE INDEX phrase_of ON phrase (item);

-- How a brand answers: bounds, commands, texts, hours, as JSON. See broker/pull/rules.py.
CREATE TABLE rules (
  brand TEXT PRIMARY KEY,
  rules TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Items that have changed, until whoever follows them has been told.
CREATE TABLE changed (
  brand TEXT NOT NULL,
  name  TEXT NOT NULL,
  at    INTEGER NOT NULL,
  PRIMARY KEY (brand, name)
) STRICT, WITHOUT ROWID;

-- What brands' servers have asked to be changed, in the order in which it is done: so much of it holds up nothing else.
CREATE TABLE request (
  number INTEGER PRIMARY KEY,
  id     TEXT NOT NULL UNIQUE,
  brand  TEXT NOT NULL,
  body   BLOB NOT NULL
) STRICT;

CREATE INDEX request_of ON request (brand, number);
