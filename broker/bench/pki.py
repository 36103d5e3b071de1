"""An authority and the certificate that all brokers of a run have, so that TLS costs each the same: ECDSA P-256."""

import datetime
import ipaddress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_HOUR: Final = datetime.timedelta(hours=1)
_LIFE: Final = datetime.timedelta(days=3650)  # our broker gives notice where an authority's end is near


class Pki:
    """Four files in a directory, named as our broker names them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = directory / "server.crt"
        self.key = directory / "server.key"
        directory.mkdir()
        ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pushbroker bench CA")])
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        authority = (
            _builder(ca_name, ca_name, ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(ca_key, hashes.SHA256())
        )
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        server = (
            _builder(name, ca_name, key.public_key())
            .add_extension(names, critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        for certificate, path in ((authority, directory / "ca.crt"), (server, self.certificate)):
            path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        for secret, path in ((ca_key, directory / "ca.key"), (key, self.key)):
            path.touch(mode=0o600)
            path.write_bytes(
                secret.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )

    def install(self, directory: Path) -> None:
        """Put all four where our broker looks for them, unless they are there."""
        if directory.exists():
            return
        directory.mkdir(mode=0o700)
        for path in self.directory.iterdir():
            copy = directory / path.name
            copy.touch(mode=path.stat().st_mode & 0o777)
            copy.write_bytes(path.read_bytes())


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _HOUR)
        .not_valid_after(now + _LIFE)
    )
