"""The CA's files: made, kept, renewed, and refused with a remedy when they are not as they must be."""

import base64
import os
import socket
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.identities import TRUST_DOMAIN, Clock, new_key, pem_of, request_for
from support.programs import program

from broker.errors import Failed, Refused
from broker.identity import Identity, Role
from broker.trust.authority import Authority

KIOSK = Identity(Role.DEVICE, "acme", "kiosk-7")
CRM = Identity(Role.SERVER, "acme", "crm")
ROOT = Identity(Role.ADMIN, name="root")


def ensure(directory: Path, clock: Clock | None = None, *names: str) -> Authority:
    return Authority.ensure(directory, trust_domain=TRUST_DOMAIN, names=names, clock=clock or Clock())


def loaded(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def foreign_pair(directory: Path, clock: Clock, *names: str, days: int = 365) -> Authority:
    """Put the server certificate of another CA into `directory`."""
    other = ensure(directory.parent / "other", clock, *names)
    key = new_key()
    leaf = (
        x509.CertificateBuilder()
        .subject_name(loaded(other.ca_pem).subject)
        .issuer_name(loaded(other.ca_pem).subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(clock() - timedelta(days=1))
        .not_valid_after(clock() + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(other._key, hashes.SHA256())
    )
    (directory / "server.crt").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    (directory / "server.key").write_bytes(pem_of(key))
    return other


# -- what is made ------------------------------------------------------------------------------------------------------


def test_the_files_are_made_private_and_kept(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    old = os.umask(0)
    try:
        ensure(directory)
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}
    assert modes == {"ca.crt": 0o644, "ca.key": 0o600, "server.crt": 0o644, "server.key": 0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    assert ensure(directory).notices == ()
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before


def test_keys_are_private_from_their_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    open_ = os.open

    def watched(path: object, flags: int, mode: int = 0o777, **rest: object) -> int:
        fd: int = open_(path, flags, mode, **rest)  # type: ignore[call-overload]
        if flags & os.O_CREAT and ".key." in str(path):
            modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return fd

    monkeypatch.setattr(os, "open", watched)
    ensure(tmp_path / "certs")
    assert modes == [0o600, 0o600]


def test_the_ca_is_one_and_can_only_sign_leaves(tmp_path: Path) -> None:
    clock = Clock()
    ca = loaded(ensure(tmp_path, clock).ca_pem)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)
    assert ca.not_valid_after_utc - clock() == timedelta(days=3650)
    assert clock() - ca.not_valid_before_utc == timedelta(hours=1)
    assert ensure(tmp_path, clock).ca.uris == (f"spiffe://{TRUST_DOMAIN}",)


def test_the_servers_certificate_is_for_its_names(tmp_path: Path) -> None:
    clock = Clock()
    authority = ensure(tmp_path, clock, "push.example.com", "192.0.2.7", "bücher.example", "*.example.org")
    names = set(authority.server.names)
    assert {"localhost", "127.0.0.1", "::1", socket.gethostname()} <= names
    assert {"push.example.com", "192.0.2.7", "xn--bcher-kva.example", "*.example.org"} <= names
    assert authority.server.not_after - clock() == timedelta(days=397)
    usage = loaded((tmp_path / "server.crt").read_bytes()).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(usage.value) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize("name", ["", " ", "a b", "a..b", "x" * 64, "http://example.com", "a/b", "ex*mple.com"])
def test_a_name_that_can_be_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(Failed, match="cannot be a name") as caught:
        ensure(tmp_path, None, name)
    assert caught.value.remedy


def test_the_cas_certificate_stands_behind_the_servers(tmp_path: Path) -> None:
    """Or OpenSSL would look for it, and check a signature, in each handshake. One that was alone keeps its key."""
    ensure(tmp_path)
    path = tmp_path / "server.crt"
    server, ca = x509.load_pem_x509_certificates(path.read_bytes())
    assert ca == loaded((tmp_path / "ca.crt").read_bytes())
    path.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    ensure(tmp_path)
    assert x509.load_pem_x509_certificates(path.read_bytes()) == [server, ca]


@pytest.mark.parametrize(("identity", "days"), [(KIOSK, 365), (CRM, 365), (ROOT, 90)], ids=lambda v: str(v)[:20])
def test_a_clients_certificate_says_who_it_is(tmp_path: Path, identity: Identity, days: int) -> None:
    clock = Clock()
    authority = ensure(tmp_path, clock)
    key = new_key()
    pem = authority.issue_from_csr(request_for(key), identity)
    leaf = loaded(pem)
    assert authority.identify(leaf.public_bytes(serialization.Encoding.DER))[0] == identity
    assert leaf.public_key() == key.public_key()
    assert leaf.not_valid_after_utc - clock() == timedelta(days=days)
    assert clock() - leaf.not_valid_before_utc == timedelta(hours=1)
    # What the request claimed of itself (admin, and its SPIFFE URI) is not in it, unless it was asked for.
    assert authority.inspect(pem).uris == (
        f"spiffe://{TRUST_DOMAIN}/{'' if identity is ROOT else 'brand/'}{identity.path}",
    )
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature


def test_serials_are_random_and_long(tmp_path: Path) -> None:
    authority = ensure(tmp_path)
    request = request_for(new_key())
    serials = {loaded(authority.issue_from_csr(request, KIOSK)).serial_number for _ in range(20)}
    assert len(serials) == 20
    assert max(serials).bit_length() > 128


def test_nothing_outlives_the_ca(tmp_path: Path) -> None:
    clock = Clock()
    authority = ensure(tmp_path, clock)
    clock.turn(days=3600)
    assert loaded(authority.issue_from_csr(request_for(new_key()), KIOSK)).not_valid_after_utc == authority.ca.not_after
    assert any("The CA ends in 50 days" in notice for notice in authority.reload())


def test_openssl_verifies_the_chain_strictly(tmp_path: Path) -> None:
    verify = [program("openssl"), "verify", "-x509_strict", "-check_ss_sig", "-CAfile", "ca.crt", "-purpose"]
    authority = ensure(tmp_path)
    (tmp_path / "kiosk.crt").write_bytes(authority.issue_from_csr(request_for(new_key()), KIOSK))

    def verdict(purpose: str, file: str) -> str:
        done = subprocess.run([*verify, purpose, file], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert verdict("sslserver", "server.crt") == "server.crt: OK\n"
    assert verdict("sslclient", "kiosk.crt") == "kiosk.crt: OK\n"
    assert "unsuitable certificate purpose" in verdict("sslserver", "kiosk.crt")


# -- signing requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p384", "ed25519", "rsa2048"],
)
def test_other_good_keys_are_certified(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
) -> None:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    pem = ensure(tmp_path).issue_from_csr(request_for(key, algorithm=algorithm), KIOSK)
    assert loaded(pem).public_key() == key.public_key()


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 1024),
    ],
    ids=["p521", "secp256k1", "rsa1024"],
)
def test_other_keys_are_refused(tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    with pytest.raises(Refused, match="a key that we do not certify") as caught:
        ensure(tmp_path).issue_from_csr(request_for(key), KIOSK)
    assert caught.value.reason == 0x99
    assert "P-256" in caught.value.remedy


@pytest.mark.parametrize("kind", ["empty", "text", "bytes", "certificate", "truncated", "endless", "version"])
def test_what_is_no_signing_request_is_refused(tmp_path: Path, kind: str) -> None:
    authority = ensure(tmp_path)
    good = request_for(new_key())
    der = x509.load_pem_x509_csr(good).public_bytes(serialization.Encoding.DER)
    strange = base64.encodebytes(der.replace(b"\2\1\0", b"\2\1\7", 1))
    csr = {
        "empty": b"",
        "text": b"please",
        "bytes": bytes(range(256)),
        "certificate": authority.ca_pem,
        "truncated": good[: len(good) // 2],
        "endless": good + b"\n" * (16 << 10),
        "version": b"-----BEGIN CERTIFICATE REQUEST-----\n%b-----END CERTIFICATE REQUEST-----\n" % strange,
    }[kind]
    with pytest.raises(Refused, match="signing request") as caught:
        authority.issue_from_csr(csr, KIOSK)
    assert caught.value.reason == 0x99
    assert "openssl req" in caught.value.remedy


def test_a_request_for_a_key_of_someone_else_is_refused(tmp_path: Path) -> None:
    """Its signature is not of the key in it: who sent it does not have that key."""
    der = bytearray(x509.load_pem_x509_csr(request_for(new_key())).public_bytes(serialization.Encoding.DER))
    mine = (
        new_key().public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    )
    at = der.index(b"\x03\x42\x00\x04") + 3
    der[at : at + 65] = mine
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(Refused, match="not signed by its own key"):
        ensure(tmp_path).issue_from_csr(forged, KIOSK)


def test_a_certificate_of_another_trust_domain_names_nobody(tmp_path: Path) -> None:
    other = Authority.ensure(tmp_path / "a", trust_domain="elsewhere.example")
    der = loaded(other.issue_from_csr(request_for(new_key()), KIOSK)).public_bytes(serialization.Encoding.DER)
    with pytest.raises(Refused, match="no identity of this service"):
        ensure(tmp_path / "b").identify(der)
    with pytest.raises(Refused, match="no identity of this service"):
        other.identify(loaded((tmp_path / "a" / "server.crt").read_bytes()).public_bytes(serialization.Encoding.DER))
    with pytest.raises(Refused, match="not a certificate"):
        other.identify(b"junk")


# -- renewal -----------------------------------------------------------------------------------------------------------


def test_the_servers_certificate_is_renewed_in_its_last_month(tmp_path: Path) -> None:
    clock = Clock()
    authority = ensure(tmp_path, clock)
    first, context, key = authority.server, authority.server_context(), (tmp_path / "server.key").read_bytes()
    clock.turn(days=366)
    assert authority.reload() == []
    assert authority.server == first
    clock.turn(days=2)
    assert authority.reload() == []
    assert authority.server.not_after == clock() + timedelta(days=397)
    assert authority.server_context() is not context
    assert (tmp_path / "server.key").read_bytes() == key  # one file to replace, so no crash can part the pair
    assert ensure(tmp_path, clock).server == authority.server


def test_a_new_name_makes_a_new_certificate(tmp_path: Path) -> None:
    first = ensure(tmp_path).server
    second = ensure(tmp_path, None, "push.example.com").server
    assert second.serial != first.serial
    assert ensure(tmp_path, None, "push.example.com").server == second
    assert ensure(tmp_path).server == second  # a name more is no reason


def test_a_certificate_that_is_not_ours_is_never_overwritten(tmp_path: Path) -> None:
    clock = Clock()
    directory = tmp_path / "certs"
    authority = ensure(directory, clock, "push.example.com")
    foreign_pair(directory, clock, "push.example.com", days=60)
    before = (directory / "server.crt").read_bytes()
    assert authority.reload() == []
    assert authority.server.serial == "7"
    clock.turn(days=40)
    (notice,) = authority.reload()
    assert "ends in 20 days" in notice
    clock.turn(days=40)
    (notice,) = authority.reload()
    assert "has ended" in notice
    assert ensure(directory, clock, "push.example.com").notices == (notice,)
    assert (directory / "server.crt").read_bytes() == before


def test_a_name_that_a_certificate_of_another_ca_lacks_is_said(tmp_path: Path) -> None:
    clock = Clock()
    directory = tmp_path / "certs"
    authority = ensure(directory, clock, "push.example.com", "192.0.2.7")
    foreign_pair(directory, clock, "push.example.com")
    (notice,) = authority.reload()
    assert "not for 192.0.2.7" in notice


def test_a_reload_takes_over_names(tmp_path: Path) -> None:
    authority = Authority.ensure(tmp_path, trust_domain="pushbroker.local", names=["old.example"])
    authority.reload(["new.example"])
    shown = authority.server.names
    assert "new.example" in shown
    assert authority.reload(["new.example"]) == []


def test_a_reload_that_fails_leaves_what_was(tmp_path: Path) -> None:
    authority = ensure(tmp_path)
    server, context = authority.server, authority.server_context()
    (tmp_path / "server.crt").write_text("junk")
    with pytest.raises(Failed):
        authority.reload()
    assert (authority.server, authority.server_context()) == (server, context)


# -- files that are not as they must be --------------------------------------------------------------------------------


def failing(directory: Path, clock: Clock | None = None) -> Failed:
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    with pytest.raises(Failed) as caught:
        ensure(directory, clock)
    assert caught.value.remedy
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before  # nothing was overwritten
    return caught.value


@pytest.mark.parametrize("file", ["ca.crt", "ca.key", "server.crt", "server.key"])
@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n"])
def test_a_corrupt_file_is_said(tmp_path: Path, file: str, content: bytes) -> None:
    ensure(tmp_path)
    (tmp_path / file).write_bytes(content)
    failed = failing(tmp_path)
    assert file in failed.message
    assert ("backup" if file.startswith("ca") else f"rm {tmp_path}/server.crt {tmp_path}/server.key") in failed.remedy


@pytest.mark.parametrize("pair", ["ca", "server"])
def test_a_certificate_and_a_key_that_do_not_fit(tmp_path: Path, pair: str) -> None:
    ensure(tmp_path)
    (tmp_path / f"{pair}.key").write_bytes(pem_of(new_key()))
    assert "is not for the key" in failing(tmp_path).message


@pytest.mark.parametrize(
    ("file", "mode"), [("ca.key", 0o640), ("ca.key", 0o604), ("server.key", 0o644), ("server.key", 0o660)]
)
def test_a_key_that_others_can_use(tmp_path: Path, file: str, mode: int) -> None:
    ensure(tmp_path)
    (tmp_path / file).chmod(mode)
    failed = failing(tmp_path)
    assert f"{mode:04o}" in failed.message
    assert failed.remedy.startswith("chmod 06")
    subprocess.run(failed.remedy.split(",")[0].split(), check=True)  # it can be typed as it stands
    ensure(tmp_path)


def test_a_key_for_a_group_will_do_for_the_server(tmp_path: Path) -> None:
    ensure(tmp_path)
    (tmp_path / "server.key").chmod(0o640)
    ensure(tmp_path)


def test_an_encrypted_key_is_said_and_nobody_is_asked(tmp_path: Path) -> None:
    ensure(tmp_path)
    encrypted = new_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    (tmp_path / "server.key").write_bytes(encrypted)
    assert "encrypted" in failing(tmp_path).message


def test_a_ca_without_its_key(tmp_path: Path) -> None:
    ensure(tmp_path)
    (tmp_path / "ca.key").unlink()
    assert "its key" in failing(tmp_path).message


def test_a_first_start_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    authority = ensure(tmp_path)
    issued = loaded(authority.issue_from_csr(request_for(new_key()), KIOSK))
    for file in ("ca.crt", "server.crt"):
        (tmp_path / file).unlink()
    again = ensure(tmp_path)
    issued.verify_directly_issued_by(loaded(again.ca_pem))  # the same key under the same name


def test_a_lost_server_key_is_made_anew_with_its_certificate(tmp_path: Path) -> None:
    first = ensure(tmp_path).server
    (tmp_path / "server.key").unlink()
    assert ensure(tmp_path).server.serial != first.serial


def test_a_foreign_certificate_without_its_key_is_kept(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    clock = Clock()
    ensure(directory, clock)
    foreign_pair(directory, clock, "push.example.com")
    (directory / "server.key").unlink()
    assert "its key" in failing(directory, clock).message


def test_another_trust_domain(tmp_path: Path) -> None:
    Authority.ensure(tmp_path, trust_domain="elsewhere.example")
    assert failing(tmp_path).remedy == 'Set trust_domain = "elsewhere.example".'


def test_a_ca_that_has_ended(tmp_path: Path) -> None:
    clock = Clock()
    ensure(tmp_path, clock)
    clock.turn(days=3651)
    failed = failing(tmp_path, clock)
    assert "ended on" in failed.message
    assert "clock" in failed.remedy


def test_a_leaf_is_no_ca(tmp_path: Path) -> None:
    ensure(tmp_path)
    (tmp_path / "ca.crt").write_bytes((tmp_path / "server.crt").read_bytes())
    (tmp_path / "ca.key").write_bytes((tmp_path / "server.key").read_bytes())
    assert "no CA" in failing(tmp_path).message


def test_a_ca_that_was_brought_along_is_used(tmp_path: Path) -> None:
    """With a key identifier that is not derived as ours, and without a trust domain in it."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Acme Root")])
    identifier = x509.SubjectKeyIdentifier(b"our own idea of it!!")
    now = datetime.now(UTC)
    ca = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "ca.key").write_bytes(pem_of(key))
    (tmp_path / "ca.key").chmod(0o600)
    leaf = loaded(ensure(tmp_path).issue_from_csr(request_for(new_key()), KIOSK))
    leaf.verify_directly_issued_by(ca)
    found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert found.key_identifier == identifier.digest


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match="cannot make") as caught:
        ensure(tmp_path / "file" / "certs")
    assert "ls -ld" in caught.value.remedy
