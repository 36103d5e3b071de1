"""What happened: the log, the word to the supervisor, counters, health."""
