-- What operators, agents and brands' servers did, and what they looked at. Times are milliseconds since 1970 (UTC).
CREATE TABLE audit (
  number    INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice: whoever follows it misses nothing
  at        INTEGER NOT NULL,
  actor     TEXT NOT NULL,             -- 'operator:root', 'server:acme/server/crm', 'agent:mia'
  brand     TEXT NOT NULL,             -- '': of none, or of all
  operation TEXT NOT NULL,
  target    TEXT NOT NULL,             -- 'user/ada', 'conversation/c038g...'; '': no single one
  detail    TEXT NOT NULL,             -- the arguments without secrets and without what was said: JSON
  outcome   TEXT NOT NULL              -- 'done', 'refused', 'not_found', 'failed'; '': begun, and its end not seen
) STRICT;

CREATE INDEX audit_of_brand ON audit (brand, number);
CREATE INDEX audit_by_time ON audit (at);

-- Entries that are older may go: retention says so first.
CREATE TABLE audit_kept (since INTEGER NOT NULL) STRICT;
INSERT INTO audit_kept VALUES (0);

CREATE TRIGGER audit_stays BEFORE DELETE ON audit WHEN OLD.at >= (SELECT since FROM audit_kept) BEGIN
  SELECT raise(ABORT, 'the audit log is only added to');
END;

CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit
  WHEN EXISTS (SELECT 1 FROM audit WHERE number = NEW.number) BEGIN
  SELECT raise(ABORT, 'the audit log is only added to');
END;

-- But for the outcome, once, and for who was erased: their name gives way to a pseudonym.
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit WHEN NOT (
  (OLD.number, OLD.at, OLD.actor, OLD.brand, OLD.operation) IS (NEW.number, NEW.at, NEW.actor, NEW.brand, NEW.operation)
  AND (
    OLD.outcome = '' AND (OLD.target, OLD.detail) IS (NEW.target, NEW.detail)
    OR OLD.outcome = NEW.outcome AND instr(NEW.target || NEW.detail, 'erased-') > 0
  )
) BEGIN
  SELECT raise(ABORT, 'the audit log is only added to');
END;
