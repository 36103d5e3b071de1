-- By which shared subscription a session got a message, so that another member gets it when the session ends; empty: by none.
ALTER TABLE delivery ADD COLUMN share BLOB NOT NULL DEFAULT x'';
