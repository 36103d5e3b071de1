"""MQTT bytes to packets and back: 3.1.1 and 5 in one model, the version a parameter. Pure: no I/O, no clock."""
