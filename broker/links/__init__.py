"""Links to brokers of others: what is published there comes here, and back, acknowledged end to end."""
