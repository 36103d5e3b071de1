-- What happens when a session of the brand has as much waiting as it may: 'reject' refuses the new message, and its
-- publisher is told; 'drop-oldest' lets the oldest that waits go.
ALTER TABLE brands ADD COLUMN overflow TEXT NOT NULL DEFAULT 'reject' CHECK (overflow IN ('reject', 'drop-oldest'));
