-- What is not over yet, under each collapse key.
CREATE INDEX message_collapsing ON message (brand, collapse_key, number) WHERE state = 'open';
