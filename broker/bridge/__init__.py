"""What brand servers ask for beyond plain MQTT: names for messages, receipts, certificates for devices."""
