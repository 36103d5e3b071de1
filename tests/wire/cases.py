"""One table of packets on the wire: bytes, and the packet they are or the reason code they are refused with.

It feeds the tests of the decoder, of the encoder, and of a live server: `direction` says who may send the packet.
"""

from typing import Final

from wire import connection_cases, message_cases, property_cases, subscription_cases
from wire.notation import Case

CASES: Final[tuple[Case, ...]] = (
    *connection_cases.cases,
    *message_cases.cases,
    *subscription_cases.cases,
    *property_cases.cases,
)
