"""What outlives the process: the journal of messages, and the records of who is who."""
