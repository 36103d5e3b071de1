"""What MQTT remembers and decides: connection state, sessions, QoS, the sans-I/O core of the broker. Pure."""
