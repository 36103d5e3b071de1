"""The one record that travels: an application message, from the publisher to the last receiver."""

import msgspec


class Message(msgspec.Struct, gc=False):
    """An application message. It is shared by all who wait for it, so nobody changes it after it was routed.

    gc=False: a message refers to bytes and strings only, so it can be part of no cycle, and a million queued ones cost
    the garbage collector nothing.
    """

    topic: bytes  # UTF-8, checked
    payload: bytes
    qos: int = 0
    retain: bool = False
    # MQTT 5 properties that are forwarded unaltered, encoded, without their length [MQTT-3.3.2-15 to -20].
    properties: bytes = b""
    expires_at: float = 0.0  # on the monotonic clock; 0 = never
    publisher: str = ""  # key of the session that published it, for No Local
    id: str = ""  # message id, where the bridge gave one
    subscription_ids: bytes = b""  # encoded properties, of the receiver's subscriptions that matched
    # Its acknowledgement goes through the long way: a receipt was asked for, or it is QoS 2.
    tracked: bool = False
    receipt: bool = False
    # Encodings made on the way, for all receivers of one version: fixed header and topic, and what stands between the
    # packet id and the payload.
    parts4: tuple[bytes, bytes] | None = None
    parts5: tuple[bytes, bytes] | None = None
    encoded_at: float = 0.0

    @property
    def size(self) -> int:
        """Bytes that this message holds in memory, near enough for bounds.

        Measured: 200 for the record with its topic and payload, 110 (3.1.1) or 160 (MQTT 5) for one encoding, which has
        the topic and the properties in it once more; the rest is its place in a queue or in flight.
        """
        return len(self.payload) + 2 * (len(self.topic) + len(self.properties)) + 400

    def variant(self, qos: int, retain: bool, subscription_ids: bytes) -> "Message":
        """This message as one class of receivers gets it; itself where nothing differs."""
        if qos == self.qos and retain == self.retain and subscription_ids == self.subscription_ids:
            return self
        return Message(
            self.topic,
            self.payload,
            qos,
            retain,
            self.properties,
            self.expires_at,
            self.publisher,
            self.id,
            subscription_ids,
            self.receipt or qos == 2,
            self.receipt,
        )
