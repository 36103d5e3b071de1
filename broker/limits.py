"""Every bound in one place, with its arithmetic. A peer can make nothing grow that is not limited here.

Units stand last in the names. What an operator may want to change is a setting in `config.py` whose default is here.
"""

from typing import Final

# -- one packet ------------------------------------------------------------------------------------------------------
# A notification with an inline image fits 256 KiB; 1 MiB leaves room, and 20,000 devices announcing it at once cannot
# make us allocate it: the buffer grows only by what has arrived.
PACKET_BYTES_MAX: Final = 1 << 20
TOPIC_BYTES_MAX: Final = 1024
TOPIC_LEVELS_MAX: Final = 32
# Before a client is known it may send no more than a CONNECT with a will and an enrolment request need.
CONNECT_BYTES_MAX: Final = 64 << 10
USER_PROPERTIES_MAX: Final = 64
CLIENT_ID_BYTES_MAX: Final = 256

# -- one connection --------------------------------------------------------------------------------------------------
CONNECT_TIMEOUT_S: Final = 20  # TCP accept to CONNECT, TLS handshake included
KEEP_ALIVE_MAX_S: Final = 3600  # longer ones, and none at all, are answered with this (Server Keep Alive)
RECEIVE_MAXIMUM: Final = 1024  # what we take from one client unacknowledged
TOPIC_ALIASES_MAX: Final = 32  # 32 x 1 KiB of topic at worst for each connection
OUT_BYTES_MAX: Final = 4 << 20  # waiting in our memory for one slow reader; beyond: QoS 0 dropped, QoS 1 and 2 queued

# -- one session -----------------------------------------------------------------------------------------------------
SUBSCRIPTIONS_MAX: Final = 1000
IN_FLIGHT_MAX: Final = 1024
QUEUE_MESSAGES_MAX: Final = 1000
QUEUE_BYTES_MAX: Final = 1 << 20
SESSION_EXPIRY_MAX_S: Final = 90 * 86400  # "never" (0xFFFFFFFF) is answered with this

# -- the whole broker ------------------------------------------------------------------------------------------------
CONNECTIONS_MAX: Final = 100_000
SESSIONS_MAX: Final = 1_000_000
RETAINED_MESSAGES_MAX: Final = 100_000
RETAINED_BYTES_MAX: Final = 256 << 20
ROUTES_CACHED_MAX: Final = 50_000
