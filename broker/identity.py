"""Who is at the other end: a role and a name, whatever proved them (certificate, token, password).

In certificates an identity is a SPIFFE URI, `spiffe://{trust domain}/brand/acme/device/kiosk-7`
(https://spiffe.io/docs/latest/spiffe-about/spiffe-concepts/); in records, logs and the CLI its short form,
`acme/device/kiosk-7`.
"""

import re
from enum import StrEnum
from typing import Final

import msgspec

from broker.errors import Refused

# A name is one topic level: no separator, no wildcard, no control characters, and safe in a URI and on a command line.
NAME_BYTES_MAX = 64
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,62}[A-Za-z0-9])?", re.ASCII)


class Role(StrEnum):
    """What kind of client an identity is."""

    ANONYMOUS = "anonymous"
    DEVICE = "device"
    SERVER = "server"
    ADMIN = "admin"
    ENROLLING = "enrolling"  # holds a one-time code; may only ask for its certificate
    GUEST = "guest"  # in none of our records: an amqtt plugin let it in, and says what it may do


# An enum's member costs 60 ns each time it is named, and each connect asks for these.
DEVICES: Final = (Role.DEVICE, Role.ENROLLING)  # what a device is, and what it is before it has its certificate
_WITHIN_BRAND: Final = (*DEVICES, Role.SERVER)


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can name a brand, user, device, store or topic; raise `Refused` (0x90) otherwise."""
    if not _NAME.fullmatch(name):
        raise Refused(
            f"{name!r} cannot name {'an' if kind[0] in 'aeio' else 'a'} {kind}",
            reason=0x90,
            remedy=f"Use 1 to {NAME_BYTES_MAX} letters, digits, '.', '_', '@' and '-', "
            "with a letter or digit at both ends.",
        )
    return name


class Identity(msgspec.Struct, frozen=True, gc=False):
    """A role and a name, and for a device whose it is and where it stands.

    `name` is the device's, the server's or the admin's name. `user` and `store` are empty where a device has none.
    """

    role: Role
    brand: str = ""
    name: str = ""
    user: str = ""
    store: str = ""

    @property
    def path(self) -> str:
        """The short form: `acme/device/kiosk-7`, `acme/server/crm`, `admin/root`, or '' for anonymous.

        A guest's is `guest:` and its user name, which is any text without control characters. No other path begins so,
        for no name of ours has a colon.
        """
        role = self.role
        if role in _WITHIN_BRAND:
            return f"{self.brand}/{role}/{self.name}"
        match role:
            case Role.ADMIN:
                return f"admin/{self.name}"
            case Role.GUEST:
                return f"guest:{self.name}"
            case _:
                return ""


ANONYMOUS = Identity(Role.ANONYMOUS)


def spiffe_uri(identity: Identity, trust_domain: str) -> str:
    """The SPIFFE URI of a device, server or admin."""
    match identity.role:
        case Role.DEVICE | Role.SERVER:
            return f"spiffe://{trust_domain}/brand/{identity.brand}/{identity.role}/{identity.name}"
        case Role.ADMIN:
            return f"spiffe://{trust_domain}/admin/{identity.name}"
        case _:
            raise ValueError(f"{identity.role} has no certificate")


def parse_spiffe_uri(uri: str, trust_domain: str) -> Identity:
    """The identity that a SPIFFE URI names (a device's user and store are in its record, not in its certificate).

    Raises `Refused` for another trust domain or a path that is not ours.
    """
    prefix = f"spiffe://{trust_domain}/"
    if uri.startswith(prefix):
        match uri[len(prefix) :].split("/"):
            case ["brand", brand, "device", name]:
                return Identity(Role.DEVICE, check_name("brand", brand), check_name("device", name))
            case ["brand", brand, "server", name]:
                return Identity(Role.SERVER, check_name("brand", brand), check_name("server", name))
            case ["admin", name]:
                return Identity(Role.ADMIN, name=check_name("admin", name))
    raise Refused("the certificate names no identity of this service")
