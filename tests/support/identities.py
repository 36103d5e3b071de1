"""Keys, signing requests and a directory on a clock that tests can turn."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

from broker.store.records import Records
from broker.trust.authority import Authority
from broker.trust.directory import Directory
from broker.trust.secrets import PasswordHasher

TRUST_DOMAIN = "pushbroker.local"


class Clock:
    """Shows the time until it is turned."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.time

    def turn(self, **by: float) -> None:
        self.time += timedelta(**by)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def request_for(key: CertificateIssuerPrivateKeyTypes, *, algorithm: hashes.SHA256 | None = hashes.SHA256()) -> bytes:  # noqa: B008
    """A signing request whose subject and alternative name claim what they should not."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/admin/root")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(san, critical=False)
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def der_of(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


@asynccontextmanager
async def directory_in(data: Path, clock: Clock, *, waiting_max: int = 64) -> AsyncIterator[Directory]:
    """A directory with brand acme, its user ada and its store milano; passwords are hashed cheaply."""
    authority = Authority.ensure(data / "certs", trust_domain=TRUST_DOMAIN, clock=clock)
    async with await Records.open(data / "records.db") as records:
        passwords = PasswordHasher(memory_kib=64, time_cost=1, waiting_max=waiting_max)
        directory = Directory(records, authority, passwords=passwords)
        try:
            await directory.brand_add("acme", "Acme S.p.A.")
            await directory.user_add("acme", "ada")
            await directory.store_add("acme", "milano")
            yield directory
        finally:
            directory.close()
