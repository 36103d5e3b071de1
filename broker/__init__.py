"""pushbroker: a self-hosted push notification service on MQTT.

Read the rooms in the order in which a message passes them: `listen`, `wire`, `session`, `route`, `store`;
`trust` says who may, `bridge` what brands ask for, `watch` what happened, `command` is the CLI.
"""
