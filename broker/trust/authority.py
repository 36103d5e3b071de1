"""Our certificate authority: the files in DATA/certs, the broker's own certificate, and those of the clients.

    ca.crt   what clients trust          ca.key       signs everything; mode 0600
    server.crt   what listeners show     server.key   mode 0600, or 0640 for a group

Keys are ECDSA P-256. `server.crt` and `server.key` may be replaced by a public CA's: a certificate that is not of
ours is used as it is and never overwritten.
"""

import socket
import ssl
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PrivateKeyTypes

from broker.errors import Failed, Refused
from broker.identity import Identity, Role, parse_spiffe_uri, spiffe_uri
from broker.trust import certificates, keyfiles
from broker.trust.certificates import CertificateInfo

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
SERVER_LIFETIME: Final = timedelta(days=397)  # what browsers accept at most is 398
CLIENT_LIFETIMES: Final = {
    Role.DEVICE: timedelta(days=365),
    Role.SERVER: timedelta(days=365),
    Role.ADMIN: timedelta(days=90),
}
RENEWED_BEFORE_END: Final = timedelta(days=30)
# Devices that enrol now must not be cut short by it, and trusting a new CA takes a round through the whole fleet.
AUTHORITY_WARNED_BEFORE_END: Final = timedelta(days=400)
_OTHERS: Final = 0o077
_WORLD_AND_GROUP_WRITE: Final = 0o027

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time, in whole seconds: what certificates and records hold."""
    return datetime.now(UTC).replace(microsecond=0)


class Authority:
    """The CA of one data directory, and the TLS contexts made with it. `notices` are sentences for the operator."""

    def __init__(
        self, directory: Path, *, trust_domain: str, names: Sequence[str] = (), clock: Clock = utc_now
    ) -> None:
        self.directory = directory
        self.trust_domain = trust_domain
        self.notices: tuple[str, ...] = ()
        self._names = names
        self.now = clock
        self._certificate, self._key = self._load_authority()
        self._server, self._context = self._load_server()

    @classmethod
    def ensure(cls, directory: Path, *, trust_domain: str, names: Sequence[str] = (), clock: Clock = utc_now) -> Self:
        """The CA in `directory`; what is missing there is made. `names` are more names for the server certificate.

        Raises `Failed` when a file cannot be read or written, does not fit the others, or is open to others.
        """
        keyfiles.make_private_directory(directory)
        return cls(directory, trust_domain=trust_domain, names=names, clock=clock)

    def reload(self, names: Sequence[str] | None = None) -> list[str]:
        """Read the server's certificate and key again, and renew ours when it is near its end; returns the notices.

        `names` replaces the additional names of before; ours is issued anew when one is missing in it. When that
        fails, `Failed` is raised and the context of before stays.
        """
        if names is not None:
            self._names = names
        self._server, self._context = self._load_server()
        return list(self.notices)

    # -- what it shows -------------------------------------------------------------------------------------------------

    @property
    def ca_pem(self) -> bytes:
        """The CA's certificate, which clients need."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def ca(self) -> CertificateInfo:
        """What the CA's certificate says."""
        return certificates.describe(self._certificate)

    @property
    def server(self) -> CertificateInfo:
        """What the server's certificate says: the one that new connections see."""
        return certificates.describe(self._server)

    inspect = staticmethod(certificates.inspect)

    def server_context(self) -> ssl.SSLContext:
        """The context for all listeners, until `reload`. TLS 1.2 or newer.

        A client certificate is asked for but not required; one that is not of our CA, or not valid now, ends the
        handshake.
        """
        return self._context

    def client_context(self, certificate: bytes | None = None, key: bytes | None = None) -> ssl.SSLContext:
        """A context for a client that trusts our CA only, with its certificate and key (PEM) if it has them."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self.ca_pem.decode())
        if certificate and key:
            # The ssl module takes a client's key from a file only.
            with tempfile.TemporaryDirectory() as folder:
                pem = Path(folder, "client.pem")
                keyfiles.write_whole(pem, certificate + key, mode=0o600)
                context.load_cert_chain(pem)
        return context

    # -- clients' certificates -----------------------------------------------------------------------------------------

    def issue_from_csr(self, csr_pem: bytes, identity: Identity) -> bytes:
        """A certificate (PEM) for `identity` and the key of the signing request, whose other content is ignored.

        Raises `Refused` (0x99) for a request that cannot be read, is not signed by its key, or has a weak one.
        """
        public = certificates.requested_key(csr_pem)
        leaf = certificates.build_leaf(
            issuer=self._certificate,
            issuer_key=self._key,
            public=public,
            subject=certificates.client_subject(identity),
            san=[x509.UniformResourceIdentifier(spiffe_uri(identity, self.trust_domain))],
            usage=certificates.CLIENT_USAGE,
            now=self.now(),
            lifetime=CLIENT_LIFETIMES[identity.role],
        )
        return leaf.public_bytes(serialization.Encoding.PEM)

    def identify(self, certificate: bytes) -> tuple[Identity, str]:
        """Whom a client certificate (DER, verified by TLS) names, and its serial.

        A device's user and store are not in it. Raises `Refused` when it names nobody.
        """
        found = certificates.load_certificate(certificate)
        _, uris = certificates.alternative_names(found)
        if len(uris) != 1:  # SPIFFE: exactly one
            raise Refused("the certificate names no identity of this service")
        return parse_spiffe_uri(uris[0], self.trust_domain), format(found.serial_number, "x")

    # -- the CA's own files --------------------------------------------------------------------------------------------

    def _load_authority(self) -> tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes]:
        crt, key_file = self.directory / "ca.crt", self.directory / "ca.key"
        certificate_pem = keyfiles.read_public(crt)
        key_pem = keyfiles.read_private(key_file, forbidden=_OTHERS)
        if key_pem is None:
            if certificate_pem is not None:
                raise Failed(
                    f"{crt} is there, but its key {key_file} is not",
                    remedy=f"Restore {key_file} from a backup. To begin with a new CA, with which every device must "
                    f"enrol again, move {crt} away.",
                )
            key_pem = _new_key()
            keyfiles.write_whole(key_file, key_pem, mode=0o600)
        key = cast("CertificateIssuerPrivateKeyTypes", _parse_key(key_file, key_pem))
        if certificate_pem is None:
            # The first start, or what is left of an interrupted one. The same key under the same name: whatever it
            # may have signed before is still good.
            certificate = certificates.build_authority(
                key, trust_domain=self.trust_domain, now=self.now(), lifetime=AUTHORITY_LIFETIME
            )
            keyfiles.write_whole(crt, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
        else:
            certificate = _parse_certificate(crt, certificate_pem)
            self._check_authority(crt, certificate)
        _check_pair(crt, certificate, key_file, key)
        return certificate, key

    def _check_authority(self, path: Path, certificate: x509.Certificate) -> None:
        if certificate.not_valid_after_utc <= self.now():
            raise Failed(
                f"the CA in {path} ended on {certificate.not_valid_after_utc:%Y-%m-%d}",
                remedy=f"Check the clock: date. If it is right, move {self.directory} away to begin with a new CA, "
                "and enrol every device again.",
            )
        try:
            is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (x509.ExtensionNotFound, ValueError):
            is_ca = False
        if not is_ca:
            raise Failed(f"{path} is no CA's certificate", remedy=f"Restore {path} from a backup.")
        _, uris = certificates.alternative_names(certificate)
        domains = [uri.removeprefix("spiffe://") for uri in uris]
        if domains and self.trust_domain not in domains:
            raise Failed(
                f"the CA in {path} is of the trust domain {domains[0]!r}, but the settings say {self.trust_domain!r}",
                remedy=f'Set trust_domain = "{domains[0]}".',
            )

    # -- the server's files --------------------------------------------------------------------------------------------

    def _load_server(self) -> tuple[x509.Certificate, ssl.SSLContext]:
        """The server's certificate, made or renewed where it is ours to do so, and the context with it."""
        crt, key_file = self.directory / "server.crt", self.directory / "server.key"
        certificate_pem = keyfiles.read_public(crt)
        key_pem = keyfiles.read_private(key_file, forbidden=_WORLD_AND_GROUP_WRITE)
        certificate = _parse_certificate(crt, certificate_pem) if certificate_pem is not None else None
        ours = certificate is None or self._signed(certificate)
        if key_pem is None:
            if not ours:
                raise Failed(
                    f"{crt} is there, but its key {key_file} is not",
                    remedy=f"Put the key there, or remove the certificate to have one of our own: rm {crt}",
                )
            certificate = None
            key_pem = _new_key()
            keyfiles.write_whole(key_file, key_pem, mode=0o600)
        key = _parse_key(key_file, key_pem)
        if certificate is not None:
            _check_pair(crt, certificate, key_file, key)
        if certificate is None or (ours and not self._good(certificate)):
            certificate = self._issue_server(key)
        if ours:
            # With the CA's behind it: OpenSSL would look for that, and check its signature, in each handshake.
            whole = certificate.public_bytes(serialization.Encoding.PEM) + self.ca_pem
            if certificate_pem != whole:
                keyfiles.write_whole(crt, whole, mode=0o644)
        context = self._make_context(crt, key_file)
        self.notices = tuple(self._notices(certificate, ours=ours))
        return certificate, context

    def _signed(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True

    def _wanted_names(self) -> list[x509.GeneralName]:
        host = socket.gethostname()
        try:
            own = [certificates.host_name(host)]
        except Failed:  # what the machine calls itself need not be a name that DNS could have
            own = []
        wanted = [certificates.host_name(name) for name in ("localhost", "127.0.0.1", "::1", *self._names)]
        return list(dict.fromkeys([*wanted, *own]))

    def _missing_names(self, certificate: x509.Certificate, wanted: Sequence[x509.GeneralName]) -> list[str]:
        names, _ = certificates.alternative_names(certificate)
        return [str(name.value) for name in wanted if str(name.value) not in names]

    def _good(self, certificate: x509.Certificate) -> bool:
        """Whether a server certificate of ours will do until the next start."""
        ends_soon = certificate.not_valid_after_utc - self.now() < RENEWED_BEFORE_END
        return not ends_soon and not self._missing_names(certificate, self._wanted_names())

    def _issue_server(self, key: PrivateKeyTypes) -> x509.Certificate:
        names = self._wanted_names()
        return certificates.build_leaf(
            issuer=self._certificate,
            issuer_key=self._key,
            public=cast("CertificateIssuerPrivateKeyTypes", key).public_key(),
            subject=certificates.server_subject(self._names[0] if self._names else "localhost"),
            san=names,
            usage=certificates.SERVER_USAGE,
            now=self.now(),
            lifetime=SERVER_LIFETIME,
        )

    def _make_context(self, crt: Path, key_file: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # in TLS 1.2 a client could ask for handshake after handshake
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.num_tickets = 1  # enough to resume once; each more costs 30 us of a handshake
        try:
            context.load_verify_locations(cadata=self.ca_pem.decode())
            context.load_cert_chain(crt, key_file)
        except (ssl.SSLError, OSError) as error:
            raise _unusable(crt, f"TLS cannot use it with {key_file} ({error})") from error
        return context

    def _notices(self, certificate: x509.Certificate, *, ours: bool) -> list[str]:
        found = []
        now = self.now()
        ca_left = self._certificate.not_valid_after_utc - now
        if ca_left < AUTHORITY_WARNED_BEFORE_END:
            found.append(
                f"The CA ends in {ca_left.days} days, and with it every certificate that it issued. "
                f"Plan a new one: move {self.directory} away, start again, and enrol every device again."
            )
        if ours:
            return found
        left = certificate.not_valid_after_utc - now
        path = self.directory / "server.crt"
        if left <= timedelta(0):
            found.append(
                f"{path} has ended and is refused by clients. It is not of our CA: renew it where it came from."
            )
        elif left < RENEWED_BEFORE_END:
            found.append(f"{path} ends in {left.days} days. It is not of our CA: renew it where it came from.")
        missing = self._missing_names(certificate, [certificates.host_name(name) for name in self._names])
        if missing:
            found.append(f"{path} is not for {', '.join(missing)}, which the settings name. It is not of our CA.")
        return found


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _parse_key(path: Path, pem: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise _unusable(path, "it is encrypted; the broker starts without anyone to type a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable(path, "it is no private key in PEM") from None


def _parse_certificate(path: Path, pem: bytes) -> x509.Certificate:
    try:
        return certificates.load_certificate(pem)
    except Refused:
        raise _unusable(path, "it is no certificate in PEM") from None


def _check_pair(crt: Path, certificate: x509.Certificate, key_file: Path, key: PrivateKeyTypes) -> None:
    public = certificates.public_bytes(cast("CertificateIssuerPrivateKeyTypes", key).public_key())
    if public != certificates.public_bytes(certificate.public_key()):
        raise _unusable(crt, f"it is not for the key in {key_file}")


def _unusable(path: Path, why: str) -> Failed:
    if path.stem == "ca":
        remedy = f"Restore {path.parent}/ca.crt and ca.key from a backup."
    else:
        pair = f"{path.parent}/server.crt {path.parent}/server.key"
        remedy = f"Put the right pair there, or have one of our own made: rm {pair}"
    return Failed(f"cannot use {path}: {why}", remedy=remedy)
