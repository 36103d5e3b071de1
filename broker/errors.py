"""Three families of errors, named after whose fault it is. Any other exception is a bug.

* `ProtocolError`: the peer broke MQTT; the reason code is what it is told.
* `Refused`: policy says no: not known, not allowed, already there, over a bound.
* `Failed`: we failed: a disk, a port, a file, a broker that does not answer.

`Refused` and `Failed` carry a `remedy`: what the reader can do next, usually a command to type.
"""


class PushbrokerError(Exception):
    """Base of all errors that this project raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class ProtocolError(PushbrokerError):
    """The peer broke the protocol. `reason` is the MQTT 5 reason code that says how (0x82 by default)."""

    def __init__(self, message: str, reason: int = 0x82) -> None:
        super().__init__(message)
        self.reason = reason


class MalformedPacket(ProtocolError):
    """A packet cannot be parsed as the specification says (reason 0x81 by default)."""

    def __init__(self, message: str, reason: int = 0x81) -> None:
        super().__init__(message, reason)


class Refused(PushbrokerError):
    """Policy refuses. `reason` is the MQTT 5 reason code for a client (0x87 not authorized by default)."""

    exit_code = 4

    def __init__(self, message: str, *, reason: int = 0x87, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class NotFound(Refused):
    """The thing named is not there."""

    exit_code = 3


class Failed(PushbrokerError):
    """We failed, through no fault of the peer."""


class Unreachable(Failed):
    """The broker that should answer does not."""

    exit_code = 5


class Misconfigured(Failed):
    """A setting that cannot be used as it is: a usage error, wherever it was written."""

    exit_code = 2
