"""How operations and errors are written on the admin socket.

`POST /v1/{operation}` with a JSON object of arguments. The answer is the operation's JSON, or for a stream one JSON
value on each line; an error is `{"error": {"kind", "message", "remedy"}}`, as the last line where a stream has begun.
"""

from typing import Any, Final

from broker.config import Settings
from broker.errors import Failed, NotFound, PushbrokerError, Refused, Unreachable

PREFIX: Final = "/v1/"
REQUEST_BYTES_MAX: Final = 2 << 20  # a packet of PACKET_BYTES_MAX in base64, and room around it

_KINDS: Final[dict[str, type[PushbrokerError]]] = {
    "not_found": NotFound,
    "refused": Refused,
    "unreachable": Unreachable,
    "failed": Failed,
}
HTTP_STATUS: Final = {"not_found": 404, "refused": 403, "unreachable": 503, "failed": 500}


def encode_error(error: PushbrokerError) -> dict[str, Any]:
    """An error as JSON has it."""
    kind = next((kind for kind, family in _KINDS.items() if isinstance(error, family)), "failed")
    return {"error": {"kind": kind, "message": error.message, "remedy": error.remedy}}


def decode_error(value: Any) -> PushbrokerError | None:
    """The error that `value` is, or None when it is data."""
    match value:
        case {"error": {"kind": str(kind), "message": str(message), "remedy": str(remedy)}, **rest} if not rest:
            return _KINDS.get(kind, Failed)(message, remedy=remedy)
        case _:
            return None


def no_broker(settings: Settings) -> Unreachable:
    """The error of an operation that needs a running broker."""
    return Unreachable(
        f"no broker is running on {settings.data}",
        remedy=f"pushbroker serve --data {settings.data}, or name another with --data or PUSHBROKER_DATA",
    )
