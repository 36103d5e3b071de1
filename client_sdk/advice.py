"""Words for the errors that waiting does not heal: what is wrong, and what to do about it."""

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client_sdk.address import Address
from client_sdk.errors import PushError, Refused, Unreachable, Untrusted, describe

# Reason codes that say that who we are does not count.
_NOT_ACCEPTED: Final = frozenset({0x86, 0x87})
# TLS alerts about our certificate (RFC 8446, 6.2), in the words of OpenSSL.
_ALERT: Final = re.compile(r"ALERT_(?:(?:BAD_|UNSUPPORTED_)?CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")
# Of X509_verify_cert_error_string(3): the certificate is of a trusted authority, but not for this name, or not now.
_OTHER_NAME: Final = frozenset({62, 64})
_OTHER_TIME: Final = frozenset({9, 10})


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What a connection shows and whom it trusts.

    `refusal` is what to say when the broker does not accept what we show, `remedy` how to get something better, and
    `authority` where the certificates that we trust come from.
    """

    refusal: str
    remedy: str
    authority: str

    def refused(self, what: str, reason: int, detail: str = "") -> Refused:
        """The broker answered with `reason`; `what` is what it did, such as 'push.example refuses the connection'."""
        if reason in _NOT_ACCEPTED:
            words = f"{what}: {self.refusal} (0x{reason:02X}{': ' + detail if detail else ''})"
            return Refused(words, reason=reason, remedy=self.remedy)
        return Refused(f"{what}: {describe(reason, detail)}", reason=reason)

    def broken(self, host: str, trouble: str) -> PushError:
        """The connection to `host` ended without a word of MQTT; `trouble` is what the system said."""
        if _ALERT.search(trouble):
            return Refused(f"{host} refuses the connection: {self.refusal}", reason=0x87, remedy=self.remedy)
        return Unreachable(f"the connection to {host} broke: {trouble or 'it was closed'}")

    def not_connected(self, address: Address, error: Exception) -> PushError:
        """No connection could be made because of `error`."""
        where = f"{address.host}:{address.port}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._untrusted(address.host, where, error)
        if isinstance(error, ssl.SSLError) and _ALERT.search(str(error)):
            return self.broken(address.host, str(error))
        return Unreachable(f"{where} cannot be reached: {error}")

    def _untrusted(self, host: str, where: str, error: ssl.SSLCertVerificationError) -> Untrusted:
        why = error.verify_message.rstrip(".")
        if error.verify_code in _OTHER_NAME:
            return Untrusted(
                f"the certificate of {where} is for another name: {why}",
                remedy=f"Use a name that is in it, or have the operator add {host} to the broker's setting names",
            )
        if error.verify_code in _OTHER_TIME:
            return Untrusted(
                f"the certificate of {where} is not valid now: {why}",
                remedy="Look at this machine's clock; if it is right, the operator has to renew the certificate",
            )
        return Untrusted(
            f"the certificate of {where} is not trusted: {why}",
            remedy="Get the broker's CA certificate from its operator (pushbroker cert ca > ca.crt) "
            f"and give it as the CA, in place of {self.authority}",
        )


def authority(ca: Path | str | bytes | None) -> str:
    """Where the certificates come from that `ca` (as `read_pem` takes it) has us trust."""
    if ca is None:
        return "the system's authorities"
    if isinstance(ca, bytes) or "-----BEGIN" in str(ca):
        return "the text given as ca="
    return str(ca)
