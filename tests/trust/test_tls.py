"""The contexts in real handshakes: who is let in, and whom a client trusts."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from support.identities import TRUST_DOMAIN, Clock, new_key, pem_of, request_for

from broker.identity import Identity, Role
from broker.trust.authority import Authority

KIOSK = Identity(Role.DEVICE, "acme", "kiosk-7")


def ensure(directory: Path, clock: Clock) -> Authority:
    return Authority.ensure(directory, trust_domain=TRUST_DOMAIN, names=["push.example.com"], clock=clock)


def client_of(authority: Authority, issuer: Authority | None = None) -> ssl.SSLContext:
    """A client that trusts `authority`, with a certificate of `issuer`."""
    key = new_key()
    return authority.client_context((issuer or authority).issue_from_csr(request_for(key), KIOSK), pem_of(key))


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, *, name: str = "localhost", session: ssl.SSLSession | None = None
) -> tuple[bytes | None, str | None, ssl.SSLSession | None]:
    """Both ends of a connection over real sockets.

    Returns the client's certificate as the server sees it, the TLS version, and the client's session. Raises what the
    server's side raised, else what the client's side did.
    """
    ours, theirs = socket.socketpair()
    seen: list[ssl.SSLSession | None] = []
    failures: list[BaseException] = []

    def connect() -> None:
        try:
            with client.wrap_socket(theirs, server_hostname=name, session=session) as connection:
                assert connection.recv(2) == b"ok"
                assert connection.session_reused == (session is not None)
                seen.append(connection.session)
        except OSError as error:
            failures.append(error)
        finally:
            theirs.close()

    ours.settimeout(10)
    theirs.settimeout(10)
    thread = threading.Thread(target=connect)
    thread.start()
    try:
        with server.wrap_socket(ours, server_side=True) as connection:
            certificate, version = connection.getpeercert(binary_form=True), connection.version()
            connection.sendall(b"ok")
    finally:
        ours.close()
        thread.join()
    if failures:
        raise failures[0]
    return certificate, version, seen[0]


def test_a_client_with_a_certificate_is_verified_and_known(tmp_path: Path) -> None:
    authority = ensure(tmp_path, Clock())
    certificate, version, _ = handshake(authority.server_context(), client_of(authority), name="push.example.com")
    assert certificate is not None
    assert authority.identify(certificate)[0] == KIOSK
    assert version == "TLSv1.3"


def test_a_client_without_one_is_let_in_unknown(tmp_path: Path) -> None:
    authority = ensure(tmp_path, Clock())
    certificate, _, _ = handshake(authority.server_context(), authority.client_context())
    assert certificate is None


def test_a_certificate_that_has_ended_is_refused(tmp_path: Path) -> None:
    clock = Clock()
    clock.turn(days=-366)
    authority = ensure(tmp_path, clock)
    client = client_of(authority)
    clock.turn(days=366)
    authority.reload()
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        handshake(authority.server_context(), client)


def test_a_certificate_that_is_not_valid_yet_is_refused(tmp_path: Path) -> None:
    clock = Clock()
    authority = ensure(tmp_path, clock)
    clock.turn(hours=2)
    with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
        handshake(authority.server_context(), client_of(authority))


def test_the_clock_of_a_new_certificate_has_an_hours_grace(tmp_path: Path) -> None:
    clock = Clock()
    authority = ensure(tmp_path, clock)
    clock.turn(minutes=59)
    assert handshake(authority.server_context(), client_of(authority))[0] is not None


def test_a_certificate_of_another_ca_is_refused(tmp_path: Path) -> None:
    clock = Clock()
    ours, theirs = ensure(tmp_path / "ours", clock), ensure(tmp_path / "theirs", clock)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        handshake(ours.server_context(), client_of(ours, issuer=theirs))


def test_a_servers_certificate_is_no_clients(tmp_path: Path) -> None:
    authority = ensure(tmp_path, Clock())
    stolen = authority.client_context((tmp_path / "server.crt").read_bytes(), (tmp_path / "server.key").read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        handshake(authority.server_context(), stolen)


def test_a_client_verifies_the_server_and_its_name(tmp_path: Path) -> None:
    clock = Clock()
    ours, theirs = ensure(tmp_path / "ours", clock), ensure(tmp_path / "theirs", clock)
    with pytest.raises(ssl.SSLError, match=r"UNKNOWN_CA|unknown ca|verify failed"):
        handshake(ours.server_context(), theirs.client_context())
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.certificate|mismatch"):
        handshake(ours.server_context(), ours.client_context(), name="other.example.com")


def test_a_devices_certificate_is_no_servers(tmp_path: Path) -> None:
    authority = ensure(tmp_path, Clock())
    key = new_key()
    (tmp_path / "kiosk.pem").write_bytes(authority.issue_from_csr(request_for(key), KIOSK) + pem_of(key))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "kiosk.pem")
    client = authority.client_context()
    client.check_hostname = False
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.certificate|purpose"):
        handshake(server, client)


def test_tls_1_2_is_the_oldest(tmp_path: Path) -> None:
    authority = ensure(tmp_path, Clock())
    client = client_of(authority)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    certificate, version, _ = handshake(authority.server_context(), client)
    assert certificate is not None
    assert version == "TLSv1.2"
    assert authority.server_context().minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_resumed_session_still_shows_the_certificate(tmp_path: Path) -> None:
    """What the gate relies on: revocation is checked for those who resume, too."""
    authority = ensure(tmp_path, Clock())
    client = client_of(authority)
    first, _, session = handshake(authority.server_context(), client)
    again, _, _ = handshake(authority.server_context(), client, session=session)
    assert first == again is not None


def test_after_a_reload_new_connections_see_the_new_certificate(tmp_path: Path) -> None:
    clock = Clock()
    authority = ensure(tmp_path, clock)
    client = authority.client_context()
    before = authority.server_context()
    (tmp_path / "server.crt").unlink()
    (tmp_path / "server.key").unlink()
    authority.reload()
    handshake(before, client)  # those of before go on
    handshake(authority.server_context(), client)
    assert authority.server_context() is not before
