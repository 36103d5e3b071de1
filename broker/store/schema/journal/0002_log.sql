-- A log of messages with a cursor for each session, in place of the state at a clean stop. Times are microseconds of the
-- wall clock, 0 = never. Nothing refers by foreign key: what belongs to a session is deleted together with it.
ALTER TABLE message RENAME TO old_message;
ALTER TABLE session RENAME TO old_session;
ALTER TABLE subscription RENAME TO old_subscription;
ALTER TABLE delivery RENAME TO old_delivery;
ALTER TABLE received RENAME TO old_received;
ALTER TABLE retained RENAME TO old_retained;

-- A message is a row, whoever waits for it.
CREATE TABLE log (
    seq        INTEGER PRIMARY KEY,
    topic      BLOB NOT NULL,
    payload    BLOB NOT NULL,
    qos        INTEGER NOT NULL,
    retain     INTEGER NOT NULL,
    properties BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    publisher  TEXT NOT NULL,
    id         TEXT NOT NULL,
    receipt    INTEGER NOT NULL
) STRICT;

CREATE TABLE session (
    number   INTEGER PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE,
    role     TEXT NOT NULL,
    brand    TEXT NOT NULL,
    name     TEXT NOT NULL,
    user     TEXT NOT NULL,
    store    TEXT NOT NULL,
    v5       INTEGER NOT NULL,
    expiry_s INTEGER NOT NULL,
    ends_at  INTEGER NOT NULL,
    cursor   INTEGER NOT NULL,  -- it has all of the log up to here, but for what its deliveries say
    next_id  INTEGER NOT NULL,
    dup_until INTEGER NOT NULL,  -- messages up to here may have been sent to it before a crash
    will     BLOB NOT NULL
) STRICT;

CREATE TABLE subscription (
    session INTEGER NOT NULL,
    name    BLOB NOT NULL,
    options INTEGER NOT NULL,
    id      BLOB NOT NULL,
    since   INTEGER NOT NULL,   -- it gets what comes in the log after this
    PRIMARY KEY (session, name)
) STRICT, WITHOUT ROWID;

-- What is in flight to a session, or waits for it out of turn (packet_id 0).
CREATE TABLE delivery (
    session          INTEGER NOT NULL,
    seq              INTEGER NOT NULL,
    packet_id        INTEGER NOT NULL,
    state            INTEGER NOT NULL,  -- 0 sent or to be sent, 1 after PUBREC, 2 after PUBCOMP
    qos              INTEGER NOT NULL,
    retain           INTEGER NOT NULL,
    subscription_ids BLOB NOT NULL,
    PRIMARY KEY (session, seq, packet_id)
) STRICT, WITHOUT ROWID;

-- QoS 2 packet ids from the client between PUBLISH and PUBREL.
CREATE TABLE received (
    session   INTEGER NOT NULL,
    packet_id INTEGER NOT NULL,
    PRIMARY KEY (session, packet_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE retained (
    seq        INTEGER NOT NULL,
    topic      BLOB PRIMARY KEY NOT NULL,
    payload    BLOB NOT NULL,
    qos        INTEGER NOT NULL,
    retain     INTEGER NOT NULL,
    properties BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    publisher  TEXT NOT NULL,
    id         TEXT NOT NULL,
    receipt    INTEGER NOT NULL
) STRICT;

-- Messages were numbered as sessions were read. Ids, where there are any, tell the order in which they came.
CREATE TABLE place (number INTEGER PRIMARY KEY, seq INTEGER NOT NULL, qos INTEGER NOT NULL) STRICT;
INSERT INTO place
SELECT m.number, row_number() OVER (ORDER BY m.id, m.number), max(d.qos)
FROM old_message m JOIN old_delivery d ON d.message = m.number GROUP BY m.number;

INSERT INTO log
SELECT p.seq, m.topic, m.payload, p.qos, 0, m.properties, CAST(round(m.expires_at * 1e6) AS INTEGER), m.publisher, m.id, m.receipt
FROM place p JOIN old_message m USING (number);

-- A message that waited twice for one session waits once.
INSERT INTO delivery
SELECT d.session, p.seq, d.packet_id, 0, max(d.qos), d.retain, d.subscription_ids
FROM old_delivery d JOIN place p ON p.number = d.message GROUP BY d.session, p.seq, d.packet_id;

-- Of released ones the message is gone. They get numbers of their own.
INSERT INTO delivery
SELECT session, (SELECT coalesce(max(seq), 0) FROM place) + row_number() OVER (ORDER BY session, position), packet_id, 1, qos, retain,
    subscription_ids
FROM old_delivery WHERE message = 0;

-- All that a session is to get is a delivery, so that its cursor is above everything.
INSERT INTO session
SELECT number, key, role, brand, name, user, store, v5, expiry_s, CAST(round(ends_at * 1e6) AS INTEGER),
    (SELECT coalesce(max(seq), 0) FROM delivery), next_id, 0, will
FROM old_session;

INSERT INTO subscription
SELECT session, name, options, id, (SELECT coalesce(max(seq), 0) FROM delivery) FROM old_subscription;

INSERT INTO received SELECT session, packet_id FROM old_received;

INSERT INTO retained
SELECT 0, topic, payload, qos, 1, properties, CAST(round(expires_at * 1e6) AS INTEGER), publisher, id, receipt FROM old_retained;

DROP TABLE place;
DROP TABLE old_subscription;
DROP TABLE old_delivery;
DROP TABLE old_received;
DROP TABLE old_retained;
DROP TABLE old_session;
DROP TABLE old_message;
