"""Who may publish and subscribe where. The rules follow from the identity; there is no rule file.

| identity                             | publishes                     | subscribes                                  |
|--------------------------------------|-------------------------------|---------------------------------------------|
| device kiosk-7 of ada, store milano  | its own `up/#`                | its branch, user/ada, store/milano, topic/+ |
| server of brand acme                 | `acme/#`, but no device's up/ | `acme/#`                                    |
| admin                                | `$control/#`                  | everything                                  |
| anonymous, in open mode              | all but `$` topics            | all but `$` topics                          |
| guest, let in by an amqtt plugin     | what plugins allow, but no    | what plugins allow, but no `$` topics       |
|                                      | `$` topics, no device's up/   |                                             |

What plugins allow is asked besides (`session/rights.py`). A device and one who holds a one-time code may also ask for a
certificate. A filter is allowed when all that it could match is allowed, so a wildcard can show nothing that its parts
would not.
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
        case Role.GUEST:
            return topic[:1] != b"$" and not _said_by_others(topic)
        case Role.SERVER:
            return topic.startswith(f"{identity.brand}/".encode()) and not _said_by_others(topic)
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
        case Role.ANONYMOUS | Role.GUEST:
            return not filter.startswith("$")
        case _:
            return any(covers(allowed, filter) for allowed in _readable(identity))


def _said_by_others(topic: bytes) -> bool:
    """Whether what is on `topic` is said by a device, or by the bridge of a message: nobody else may make it up."""
    levels = topic.split(b"/", 4)[1:]
    return levels[:1] == [b"receipts"] or (levels[:1] == [b"device"] and levels[2:3] == [b"up"])


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
