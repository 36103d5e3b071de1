"""From a topic to those who get it: subscriptions, the route cache, retained messages, access rules. Pure."""
