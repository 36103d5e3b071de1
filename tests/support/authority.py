"""A small certificate authority for tests against brokers that are not ours."""

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])


class TestAuthority:
    """Issues certificates whose common name is what mosquitto takes as the user name."""

    __test__ = False

    def __init__(self, name: str = "Test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(subject, subject, self._key.public_key(), None, dt.timedelta(days=30), ca=True)

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def server(self, directory: Path) -> None:
        """`server.crt` and `server.key` for localhost, and `ca.crt`."""
        key = ec.generate_private_key(ec.SECP256R1())
        (directory / "server.crt").write_bytes(self.issue(key.public_key(), "localhost", server=True))
        (directory / "server.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (directory / "ca.crt").write_bytes(self.pem)

    def issue(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        *,
        server: bool = False,
        names: x509.SubjectAlternativeName = LOCAL,
        life: dt.timedelta = dt.timedelta(days=30),
        age: dt.timedelta = dt.timedelta(hours=1),
    ) -> bytes:
        """A certificate as PEM, issued `age` ago for `life`; a server's is for `names`."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = self._certificate.subject
        made = self._sign(subject, issuer, key, names if server else None, life, age=age, server=server)
        return made.public_bytes(serialization.Encoding.PEM)

    def answer(self, request: bytes, name: str, **settings: dt.timedelta) -> bytes:
        """A certificate for a signing request, whose signature is checked."""
        csr = x509.load_pem_x509_csr(request)
        assert csr.is_signature_valid
        key = csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return self.issue(key, name, **settings)

    def _sign(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePublicKey,
        names: x509.SubjectAlternativeName | None,
        life: dt.timedelta,
        *,
        age: dt.timedelta = dt.timedelta(hours=1),
        ca: bool = False,
        server: bool = False,
    ) -> x509.Certificate:
        begin = dt.datetime.now(dt.UTC) - age
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + life)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if not ca:
            usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())
