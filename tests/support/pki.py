"""Certificates for live tests: an authority of our own kind, clients of it, and of another."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.identity import Identity, Role
from broker.trust.authority import Authority

DOMAIN = "pushbroker.local"
KIOSK = Identity(Role.DEVICE, "acme", "kiosk-7")


def key_and_csr() -> tuple[bytes, bytes]:
    """A new P-256 key and its signing request, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anything")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return (
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        csr.public_bytes(serialization.Encoding.PEM),
    )


class Pki:
    """Two authorities of the same name; ours also as it was two years ago, so that what it issues is over."""

    def __init__(self, directory: Path) -> None:
        past = datetime.now(UTC).replace(microsecond=0) - timedelta(days=730)
        self.expired = Authority.ensure(directory / "ours", trust_domain=DOMAIN, clock=lambda: past)
        self.ours = Authority.ensure(directory / "ours", trust_domain=DOMAIN)
        self.other = Authority.ensure(directory / "other", trust_domain=DOMAIN)
        self._key, self._csr = key_and_csr()

    @property
    def context(self) -> ssl.SSLContext:
        """For listeners."""
        return self.ours.server_context()

    def client(self, issuer: Authority | None = None, identity: Identity = KIOSK) -> ssl.SSLContext:
        """A client that trusts ours, with a certificate of `issuer` if one is given."""
        if issuer is None:
            return self.ours.client_context()
        return self.ours.client_context(issuer.issue_from_csr(self._csr, identity), self._key)
