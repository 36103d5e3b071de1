-- What happened, in the transaction in which it did, until the bridge has it in its own records.
CREATE TABLE fact (
    number INTEGER PRIMARY KEY,
    body   BLOB NOT NULL
) STRICT;
