"""The operator's way in: one table of operations, done by the running broker or on the records directly."""
