"""The bounds that an operator may change."""

import msgspec

from broker import limits


class Limits(msgspec.Struct, frozen=True):
    """Each is a setting; the other bounds are constants of `broker.limits`."""

    connections_max: int = limits.CONNECTIONS_MAX
    packet_bytes_max: int = limits.PACKET_BYTES_MAX
    queue_messages_max: int = limits.QUEUE_MESSAGES_MAX
    queue_bytes_max: int = limits.QUEUE_BYTES_MAX
    sessions_max: int = limits.SESSIONS_MAX
    session_expiry_max_s: int = limits.SESSION_EXPIRY_MAX_S
    retained_messages_max: int = limits.RETAINED_MESSAGES_MAX
    retained_bytes_max: int = limits.RETAINED_BYTES_MAX
    retained_messages_of_brand_max: int = limits.RETAINED_MESSAGES_OF_BRAND_MAX
    retained_bytes_of_brand_max: int = limits.RETAINED_BYTES_OF_BRAND_MAX
    durability: str = "commit"  # or "memory": the publisher is told at once, and what is to be written follows
    commit_window_ms: int = limits.COMMIT_WINDOW_MS
    log_bytes_max: int = limits.LOG_BYTES_MAX

    @property
    def retained(self) -> tuple[int, int, int, int]:
        """Those of retained messages, as `Retained` takes them."""
        return (
            self.retained_messages_max,
            self.retained_bytes_max,
            self.retained_messages_of_brand_max,
            self.retained_bytes_of_brand_max,
        )
