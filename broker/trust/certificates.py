"""X.509 as we use it: what our certificates say, what a signing request must be, and what a given certificate says.

Ours follow RFC 5280 closely enough for OpenSSL's strict check: critical basic constraints and key usage, key
identifiers, and a random serial of more than 64 bits. An identity is a SPIFFE URI in the subject alternative name.
"""

import ipaddress
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, cast

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificateIssuerPublicKeyTypes,
    PublicKeyTypes,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.errors import Failed, Refused
from broker.identity import Identity

CSR_BYTES_MAX: Final = 16 << 10
RSA_BITS_MIN: Final = 2048
RSA_BITS_MAX: Final = 8192  # beyond, checking one signature would hold up the loop for milliseconds
# The clock of a device may be behind ours; a certificate must not be refused for not being valid yet.
BACKDATED: Final = timedelta(hours=1)
COMMON_NAME_CHARACTERS_MAX: Final = 64  # ub-common-name

_HOST_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")


class CertificateInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a certificate says. `serial` and `fingerprint` (SHA-256) are lower-case hexadecimal."""

    serial: str
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]  # DNS names and addresses
    uris: tuple[str, ...]
    fingerprint: str


def inspect(certificate: bytes) -> CertificateInfo:
    """What a certificate in PEM or DER says. Raises `Refused` when it is none."""
    return describe(load_certificate(certificate))


def load_certificate(certificate: bytes) -> x509.Certificate:
    """A certificate in PEM (the first, where there is a chain) or DER. Raises `Refused` when it is none."""
    try:
        if b"-----BEGIN" in certificate:
            return x509.load_pem_x509_certificate(certificate)
        return x509.load_der_x509_certificate(certificate)
    except (ValueError, x509.InvalidVersion):
        raise Refused("that is not a certificate", remedy="Give a certificate in PEM or DER.") from None


def describe(certificate: x509.Certificate) -> CertificateInfo:
    """What `certificate` says."""
    names, uris = alternative_names(certificate)
    return CertificateInfo(
        serial=format(certificate.serial_number, "x"),
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        names=names,
        uris=uris,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def alternative_names(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names and addresses, and the URIs, in the subject alternative name. `Refused` when it cannot be read."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), ()
    except (ValueError, x509.UnsupportedGeneralNameType, x509.DuplicateExtension):
        raise Refused("the certificate's alternative names cannot be read") from None
    addresses = (str(address) for address in san.get_values_for_type(x509.IPAddress))
    return (*san.get_values_for_type(x509.DNSName), *addresses), tuple(
        san.get_values_for_type(x509.UniformResourceIdentifier)
    )


def public_bytes(key: PublicKeyTypes) -> bytes:
    """A public key as DER: what two keys are compared by."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


# -- signing requests --------------------------------------------------------------------------------------------------


def requested_key(csr_pem: bytes) -> CertificateIssuerPublicKeyTypes:
    """The public key of a signing request, whose holder has proved to have the private one.

    Everything else in the request is ignored: who it is for is not for it to say. Raises `Refused` (0x99) for one that
    cannot be read, whose signature is wrong, or whose key is too weak or of a kind that we do not take.
    """
    remedy = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout device.key -subj /CN=device"
    try:
        if len(csr_pem) > CSR_BYTES_MAX:
            raise ValueError
        request = x509.load_pem_x509_csr(csr_pem)
        key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion):
        raise Refused("that is not a certificate signing request in PEM", reason=0x99, remedy=remedy) from None
    if not signed:
        raise Refused("the signing request is not signed by its own key", reason=0x99, remedy=remedy)
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()) | ed25519.Ed25519PublicKey():
            return key
        case rsa.RSAPublicKey(key_size=bits) if RSA_BITS_MIN <= bits <= RSA_BITS_MAX:
            return key
    raise Refused(
        "the signing request has a key that we do not certify",
        reason=0x99,
        remedy=f"Use a P-256 key (or P-384, Ed25519, RSA of {RSA_BITS_MIN} to {RSA_BITS_MAX} bits).",
    )


# -- certificates that we issue ----------------------------------------------------------------------------------------


def build_authority(
    key: CertificateIssuerPrivateKeyTypes, *, trust_domain: str, now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """A self-signed CA certificate that may sign leaves only."""
    public = key.public_key()
    name = _name(f"{trust_domain} CA"[:COMMON_NAME_CHARACTERS_MAX], organization="pushbroker")
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(name, name, public, now=now, not_after=now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        # SPIFFE: a signing certificate names its trust domain, without a path.
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
    )
    return builder.sign(key, _signature_hash(key))


def build_leaf(
    *,
    issuer: x509.Certificate,
    issuer_key: CertificateIssuerPrivateKeyTypes,
    public: CertificateIssuerPublicKeyTypes,
    subject: x509.Name,
    san: Iterable[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """A certificate for a server (TLS server authentication) or a client. It never outlives its issuer."""
    not_after = min(now + lifetime, issuer.not_valid_after_utc)
    builder = (
        _builder(subject, issuer.subject, public, now=now, not_after=not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
        .add_extension(x509.SubjectAlternativeName(list(san)), critical=False)
    )
    return builder.sign(issuer_key, _signature_hash(issuer_key))


SERVER_USAGE: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_USAGE: Final = ExtendedKeyUsageOID.CLIENT_AUTH


def server_subject(name: str) -> x509.Name:
    """The subject of the broker's own certificate."""
    return _name(name[:COMMON_NAME_CHARACTERS_MAX])


def client_subject(identity: Identity) -> x509.Name:
    """The subject of a client's certificate: for people; what counts is the SPIFFE URI."""
    return _name(identity.name, organization=identity.brand)


def host_name(name: str) -> x509.GeneralName:
    """A host name or an address as an alternative name. Raises `Failed` for one that cannot be either."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        # IDNA refuses empty labels and those of more than 63 bytes.
        ascii_name = name.encode("idna").decode("ascii")
    except UnicodeError:
        ascii_name = ""
    if not _HOST_NAME.fullmatch(ascii_name):
        raise Failed(
            f"{name!r} cannot be a name of this server",
            remedy="Use host names and addresses, such as push.example.com.",
        )
    return x509.DNSName(ascii_name)


def _name(common_name: str, *, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: CertificateIssuerPublicKeyTypes,
    *,
    now: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(not_after)
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The identifier that the issuer gives its key: a CA that was brought along need not derive it as we do."""
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(
            cast("CertificateIssuerPublicKeyTypes", issuer.public_key())
        )
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signature_hash(key: CertificateIssuerPrivateKeyTypes) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
