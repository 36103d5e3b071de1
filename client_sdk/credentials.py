"""A device's identity on disk: the private key that never leaves it, its certificate, whom it trusts, who it is.

    device.key      private key, P-256, mode 0600; made here before anything is asked for
    device.crt      certificate (and chain), issued by the broker's authority
    ca.crt          whose signature a broker's certificate must bear
    identity.json   where the broker is and whose the device is; written last, so without it there is no identity
    memory.db       what `Device` remembers between runs

Each file is replaced as a whole, flushed to the disk first: a power cut leaves the old one or the new one.
"""

import json
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client_sdk.address import tls_context
from client_sdk.errors import NotEnrolled, Refused
from client_sdk.topics import Place, check_name

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who a device is and how it proves it. Get them from `enrol` once, and with `load` ever after."""

    directory: Path
    url: str
    brand: str
    device: str
    user: str = ""
    store: str = ""
    trust_system: bool = False
    """Whether the system's certificate authorities may vouch for the broker, too."""

    @classmethod
    def load(cls, directory: Path | str) -> Self:
        """Read what `enrol` wrote. Raises `NotEnrolled` when there is none, or part of it is missing."""
        directory = Path(directory)
        try:
            fields: Any = json.loads((directory / "identity.json").read_text())
        except FileNotFoundError as error:
            raise NotEnrolled(
                f"{directory} holds no identity", remedy="Ask the operator for a one-time code and enrol with it"
            ) from error
        except ValueError as error:
            raise NotEnrolled(
                f"{directory}/identity.json is damaged: {error}", remedy="Enrol the device again"
            ) from error
        if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
            raise NotEnrolled(f"{directory}/identity.json is not of this SDK", remedy="Enrol the device again")
        for name in ("device.key", "device.crt", "ca.crt"):
            if not (directory / name).exists():
                raise NotEnrolled(f"{directory}/{name} is missing", remedy="Enrol the device again")
        return cls(
            directory=directory,
            url=fields["url"],
            brand=fields["brand"],
            device=fields["device"],
            user=fields["user"],
            store=fields["store"],
            trust_system=fields["trust_system"],
        )

    @property
    def identity(self) -> str:
        """The short form, such as acme/device/kiosk-7."""
        return f"{self.brand}/device/{self.device}"

    @property
    def place(self) -> Place:
        """Where the device listens."""
        return Place(brand=self.brand, device=self.device, user=self.user, store=self.store)

    @property
    def not_after(self) -> datetime:
        """When the certificate expires."""
        return _certificate(self.directory / "device.crt").not_valid_after_utc

    def needs_renewal(self, now: datetime) -> bool:
        """Whether less than a third of the certificate's life is left."""
        certificate = _certificate(self.directory / "device.crt")
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return certificate.not_valid_after_utc - now < life / 3

    def context(self) -> ssl.SSLContext:
        """The TLS context of a connection as this device. Raises `NotEnrolled` when the files do not fit together."""
        context = tls_context(ca=None, system=self.trust_system)
        self.refresh(context)
        return context

    def refresh(self, context: ssl.SSLContext) -> None:
        """Have `context` use the files as they are now, from its next connection on."""
        try:
            if trusted := (self.directory / "ca.crt").read_text():
                context.load_verify_locations(cadata=trusted)
            context.load_cert_chain(self.directory / "device.crt", self.directory / "device.key")
        except ssl.SSLError as error:
            raise NotEnrolled(
                f"the certificates and the key in {self.directory} cannot be used: {error}",
                remedy="Enrol the device again",
            ) from error

    def request(self) -> bytes:
        """A certificate signing request (PEM) for the key of this device, which is made when there is none yet.

        The authority takes the identity from the code or the connection, never from the request, so it names none.
        """
        key = _private_key(self.directory)
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def accept(self, answer: bytes) -> Self:
        """Save the authority's answer to `request` and return the credentials that it makes.

        Raises `Refused` when the answer is a refusal, or not a certificate for our key.
        """
        fields = _answer(answer)
        pem = fields["certificate"].encode()
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            place = Place(
                brand=check_name("brand", fields["brand"]),
                device=check_name("device", fields["device"]),
                user=fields["user"] and check_name("user", fields["user"]),
                store=fields["store"] and check_name("store", fields["store"]),
            )
            trusted = _merge(_read(self.directory / "ca.crt") + fields["ca"].encode(), datetime.now(UTC))
        except ValueError as error:
            raise Refused(f"the broker's answer cannot be read: {error}", reason=0x83) from error
        if certificate.public_key() != _private_key(self.directory).public_key():
            raise Refused("the broker's answer is a certificate for another key than ours", reason=0x83)
        _write(self.directory / "ca.crt", trusted)
        _write(self.directory / "device.crt", pem)
        return replace(self, brand=place.brand, device=place.device).moved(user=place.user, store=place.store)

    def moved(self, *, user: str, store: str) -> Self:
        """Save that the device belongs to another user or store now."""
        credentials = replace(self, user=user, store=store)
        fields = {
            "format": _FORMAT,
            "url": credentials.url,
            "identity": credentials.identity,
            "brand": credentials.brand,
            "device": credentials.device,
            "user": user,
            "store": store,
            "trust_system": credentials.trust_system,
        }
        _write(self.directory / "identity.json", json.dumps(fields, indent=2).encode() + b"\n")
        return credentials


def prepare(directory: Path, *, url: str, ca: bytes | None) -> Credentials:
    """The beginning of an enrolment: a private directory, and whom to trust."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(directory / "ca.crt", ca or b"")
    return Credentials(directory=directory, url=url, brand="", device="", trust_system=ca is None)


def _private_key(directory: Path) -> ec.EllipticCurvePrivateKey:
    path = directory / "device.key"
    if not path.exists():
        # Saved before it is used: when the answer is lost on the way, asking again with the same key gets it again.
        made = ec.generate_private_key(ec.SECP256R1())
        pem = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write(path, pem)
        return made
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise NotEnrolled(f"{path} is not a P-256 key", remedy="Enrol the device again in another directory")
    return key


def _answer(payload: bytes) -> dict[str, str]:
    try:
        fields: Any = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        raise Refused(f"the broker's answer cannot be read: {error}", reason=0x83) from error
    if not isinstance(fields, dict):
        raise Refused("the broker's answer cannot be read: it is no object", reason=0x83)
    if fields.get("error"):
        raise Refused(str(fields["error"]).rstrip("."), reason=0x87, remedy=str(fields.get("remedy", "")).rstrip("."))
    texts = {name: fields.get(name) or "" for name in ("brand", "device", "user", "store", "certificate", "ca")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise Refused("the broker's answer cannot be read: a field is no text", reason=0x83)
    return texts


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _merge(pem: bytes, now: datetime) -> bytes:
    """Each certificate once, without those that have expired: an authority is replaced while both are trusted."""
    found = {c.fingerprint(hashes.SHA256()): c for c in x509.load_pem_x509_certificates(pem)} if pem.strip() else {}
    valid = [c for c in found.values() if c.not_valid_after_utc > now]
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in valid)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _write(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, for its mode
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
