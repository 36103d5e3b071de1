"""Who may publish and subscribe where. The rules follow from the identity; there is no rule file.

| identity                             | publishes                     | subscribes                                  |
|--------------------------------------|-------------------------------|---------------------------------------------|
| device kiosk-7 of ada, store milano  | its own `up/#`                | its branch, user/ada, store/milano, topic/+ |
| server of brand acme                 | `acme/#`, but no device's up/ | `acme/#`                                    |
| admin                                | `$control/#`                  | everything                                  |
| anonymous, in open mode              | all but `$` topics            | all but `$` topics                          |

A device and one who holds a one-time code may also ask for a certificate. A filter is allowed when all that it could
match is allowed, so a wildcard can show nothing that its parts would not.
"""

from broker.identity import Identity, Role
from broker.wire.topics import covers

ENROL_REQUEST = b"$enrol/csr"
ENROL_ANSWER = b"$enrol/certificate"


def may_publish(identity: Identity, topic: bytes) -> bool:
    """Whether `identity` may publish to `topic` (a checked topic name)."""
    match identity.role:
        case Role.ANONYMOUS:
            return topic[:1] != b"$"
        case Role.SERVER:
            levels = topic.split(b"/", 4)
            if len(levels) < 2 or levels[0] != identity.brand.encode():
                return False
            # What devices say, and what the bridge says of messages, is not for a server to make up.
            if levels[1] == b"receipts":
                return False
            return not (levels[1] == b"device" and len(levels) > 3 and levels[3] == b"up")
        case Role.DEVICE:
            return topic == ENROL_REQUEST or topic.startswith(f"{identity.brand}/device/{identity.name}/up/".encode())
        case Role.ENROLLING:
            return topic == ENROL_REQUEST
        case Role.ADMIN:
            return topic.startswith(b"$control/")


def may_subscribe(identity: Identity, filter: str) -> bool:
    """Whether `identity` may subscribe to `filter` (a checked filter, without `$share/group/`)."""
    match identity.role:
        case Role.ADMIN:
            return True
        case Role.ANONYMOUS:
            return not filter.startswith("$")
        case _:
            return any(covers(allowed, filter) for allowed in _readable(identity))


def _readable(identity: Identity) -> list[str]:
    """The filters that between them show an identity all that it may see."""
    match identity.role:
        case Role.SERVER:
            return [f"{identity.brand}/#"]
        case Role.DEVICE:
            allowed = [
                f"{identity.brand}/device/{identity.name}/#",
                f"{identity.brand}/topic/+",
                ENROL_ANSWER.decode(),
            ]
            if identity.user:
                allowed.append(f"{identity.brand}/user/{identity.user}")
            if identity.store:
                allowed.append(f"{identity.brand}/store/{identity.store}")
            return allowed
        case Role.ENROLLING:
            return [ENROL_ANSWER.decode()]
        case _:
            return []
