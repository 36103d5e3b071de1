"""Reading a certificate file for a person."""

from pathlib import Path
from typing import Any

from cryptography import x509

from broker.errors import Failed


def load(path: Path) -> x509.Certificate:
    """The first certificate in a PEM file."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise Failed(f"{path} is no PEM certificate", remedy="Name the file that ends in .crt.") from None


def describe(path: Path) -> dict[str, Any]:
    """What a certificate says, for `cert show`."""
    certificate = load(path)
    return {
        "serial": f"{certificate.serial_number:x}",
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "names": names(certificate),
        "not_before": certificate.not_valid_before_utc,
        "not_after": certificate.not_valid_after_utc,
        "file": str(path),
    }


def names(certificate: x509.Certificate) -> list[str]:
    """The subject alternative names: hosts, addresses, SPIFFE URIs."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in found]
