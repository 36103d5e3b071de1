"""From a one-time code to an identity on disk, with a mosquitto behind which the test plays the authority."""

import dataclasses
import datetime as dt
import json
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from support.authority import TestAuthority
from support.kiosk import Handler, answer, issue
from support.mosquitto import Mosquitto
from support.tester import Tester

from client_sdk import Credentials, Device, NotEnrolled, Refused, Unreachable, Untrusted, enrol

Reply = Callable[[bytes], bytes | None]


class Authority:
    """Answers signing requests as a broker would."""

    def __init__(self, tester: Tester, mosquitto: Mosquitto) -> None:
        self.requests: list[bytes] = []
        self.reply: Reply = lambda csr: answer(mosquitto.authority.answer(csr, "kiosk-7"), mosquitto.authority.pem)
        self._tester = tester
        self._thread = threading.Thread(target=self._work, daemon=True)
        tester.subscribe("$enrol/csr")
        self._thread.start()

    def _work(self) -> None:
        while (request := self._tester.next(timeout=60)).topic == "$enrol/csr":
            csr = bytes(request.payload)
            self.requests.append(csr)
            reply = self.reply(csr)
            if reply is not None:
                self._tester.publish("$enrol/certificate", reply)

    def stop(self) -> None:
        self._tester.subscribe("stop")
        self._tester.publish("stop", "")
        self._thread.join(10)


@pytest.fixture
def authority(tester: Tester, mosquitto: Mosquitto) -> Iterator[Authority]:
    authority = Authority(tester, mosquitto)
    yield authority
    authority.stop()


@pytest.fixture
def ask(mosquitto: Mosquitto, tmp_path: Path) -> Callable[..., Credentials]:
    def ask(**changes: Any) -> Credentials:
        settings: dict[str, Any] = {
            "url": mosquitto.password_url,
            "code": "secret",
            "directory": tmp_path / "new",
            "ca": mosquitto.directory / "ca.crt",
            "timeout": 10,
        }
        return enrol(**{**settings, **changes})

    return ask


def test_enrol(ask: Callable[..., Credentials], authority: Authority, mosquitto: Mosquitto, tmp_path: Path) -> None:
    credentials = ask()
    assert credentials == Credentials.load(tmp_path / "new")
    assert (credentials.identity, credentials.user, credentials.store) == ("acme/device/kiosk-7", "ada", "milano")
    assert credentials.url == mosquitto.password_url
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    assert files == dict.fromkeys(("device.key", "device.crt", "ca.crt", "identity.json"), 0o600)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    key = serialization.load_pem_private_key((tmp_path / "new/device.key").read_bytes(), None)
    request = x509.load_pem_x509_csr(authority.requests[0])
    assert request.public_key() == key.public_key()
    assert list(request.subject) == []  # the authority says who we are, not we
    assert b"PRIVATE" not in authority.requests[0]


def test_what_was_saved_lets_the_device_in(
    ask: Callable[..., Credentials], authority: Authority, mosquitto: Mosquitto, handler: Handler, tmp_path: Path
) -> None:
    ask()
    credentials = dataclasses.replace(Credentials.load(tmp_path / "new"), url=mosquitto.device_url)
    with Device(credentials, on_message=handler) as device:
        device.wait_connected(timeout=10)


@pytest.mark.parametrize("form", ["text", "bytes", "path as text"])
def test_the_ca_in_every_form(
    ask: Callable[..., Credentials], authority: Authority, mosquitto: Mosquitto, form: str
) -> None:
    pem = mosquitto.authority.pem
    ask(ca={"text": pem.decode(), "bytes": pem, "path as text": str(mosquitto.directory / "ca.crt")}[form])


def test_a_wrong_code_is_told_at_once(ask: Callable[..., Credentials], authority: Authority, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(Refused, match="refuses the connection: the code is wrong, used up or too old") as caught:
        ask(code="wrong", timeout=30)
    assert time.monotonic() - began < 10
    assert "pushbroker device code BRAND DEVICE" in caught.value.remedy
    with pytest.raises(NotEnrolled, match="holds no identity"):
        Credentials.load(tmp_path / "new")


def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    ask: Callable[..., Credentials], authority: Authority
) -> None:
    good = authority.reply
    authority.reply = lambda _: None
    with pytest.raises(Unreachable, match="did not answer"):
        ask(timeout=0.5)
    authority.reply = good
    ask()
    keys = {
        x509.load_pem_x509_csr(csr)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        for csr in authority.requests
    }
    assert len(authority.requests) >= 2
    assert len(keys) == 1


def test_a_refusal_carries_its_remedy(ask: Callable[..., Credentials], authority: Authority) -> None:
    authority.reply = lambda _: b'{"error":"the code is used up.","remedy":"pushbroker device code acme kiosk-7"}'
    with pytest.raises(Refused, match=r"the code is used up\. pushbroker device code") as caught:
        ask()
    assert caught.value.remedy == "pushbroker device code acme kiosk-7"


def change(**fields: Any) -> Callable[[TestAuthority, bytes], bytes]:
    return lambda ca, csr: json.dumps({**json.loads(answer(ca.answer(csr, "kiosk-7"), ca.pem)), **fields}).encode()


BAD_ANSWERS: dict[str, Callable[[TestAuthority, bytes], bytes]] = {
    "not JSON": lambda _ca, _csr: b"{",
    "not an object": lambda _ca, _csr: b"[]",
    "a deep nest": lambda _ca, _csr: b"[" * 50_000,
    "no certificate": change(certificate=""),
    "no PEM": change(certificate="certificate"),
    "a number": change(brand=7),
    "a path as name": change(device="../../etc"),
    "a wildcard as user": change(user="#"),
    "no CA": change(ca="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
    "another key": lambda ca, _csr: answer(_other_key(ca), ca.pem),
}


def _other_key(ca: TestAuthority) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ca.issue(ec.generate_private_key(ec.SECP256R1()).public_key(), "kiosk-7")


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_bad_answer_makes_no_identity(
    ask: Callable[..., Credentials], authority: Authority, mosquitto: Mosquitto, tmp_path: Path, kind: str
) -> None:
    authority.reply = lambda csr: BAD_ANSWERS[kind](mosquitto.authority, csr)
    with pytest.raises(Refused):
        ask()
    assert not (tmp_path / "new/identity.json").exists()
    assert not (tmp_path / "new/device.crt").exists()


def test_the_code_is_not_given_to_a_server_that_nobody_vouches_for(
    ask: Callable[..., Credentials], mosquitto: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(TestAuthority("Somebody else").pem)
    for ca, named in ((other, str(other)), (other.read_bytes(), "given as ca="), (None, "the system's authorities")):
        began = time.monotonic()
        with pytest.raises(Untrusted, match="not trusted") as caught:
            ask(ca=ca, timeout=30)
        assert time.monotonic() - began < 10  # trying again would be in vain
        assert named in caught.value.remedy
        assert "pushbroker cert ca > ca.crt" in caught.value.remedy
    assert "New client connected" not in mosquitto.log
    assert "next attempt" not in caplog.text


OTHER = x509.SubjectAlternativeName([x509.DNSName("other.example")])


@pytest.mark.parametrize(
    ("settings", "says", "remedy"),
    [
        ({"names": OTHER}, "for another name", "localhost to the broker's setting names"),
        ({"life": dt.timedelta(0)}, "not valid now", "clock"),
    ],
    ids=["name", "time"],
)
def test_the_code_is_not_given_to_a_server_of_another_name_or_time(
    ask: Callable[..., Credentials], tmp_path: Path, settings: dict[str, Any], says: str, remedy: str
) -> None:
    """A certificate of the right authority for another host, or of last year, is not enough."""
    authority = TestAuthority()
    authority.server(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes()).public_key()
    (tmp_path / "other.crt").write_bytes(authority.issue(key, "other", server=True, **settings))  # type: ignore[arg-type]
    context.load_cert_chain(tmp_path / "other.crt", tmp_path / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    with context.wrap_socket(connection, server_side=True):
                        pass
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        began = time.monotonic()
        with pytest.raises(Untrusted, match=says) as caught:
            ask(url=f"mqtts://localhost:{listener.getsockname()[1]}", ca=authority.pem, timeout=30)
        assert time.monotonic() - began < 10
        assert remedy in caught.value.remedy
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_the_code_does_not_travel_in_the_clear(ask: Callable[..., Credentials]) -> None:
    with pytest.raises(ValueError, match="in the clear"):
        ask(url="mqtt://localhost:1883")


def test_an_identity_is_not_overwritten(ask: Callable[..., Credentials], credentials: Credentials) -> None:
    with pytest.raises(FileExistsError, match="holds an identity already"):
        ask(directory=credentials.directory)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: (d / "identity.json").write_text("{"), "damaged"),
        (lambda d: (d / "identity.json").write_text("[]"), "not of this SDK"),
        (lambda d: (d / "device.key").unlink(), "device.key is missing"),
        (lambda d: (d / "device.crt").unlink(), "device.crt is missing"),
    ],
)
def test_a_damaged_identity_is_told(credentials: Credentials, damage: Callable[[Path], object], says: str) -> None:
    damage(credentials.directory)
    with pytest.raises(NotEnrolled, match=says):
        Credentials.load(credentials.directory)


def test_a_certificate_without_its_key_is_told(credentials: Credentials, handler: Handler) -> None:
    (credentials.directory / "device.crt").write_bytes(_other_key(TestAuthority()))
    with pytest.raises(NotEnrolled, match="cannot be used"):
        Device(credentials, on_message=handler)


# -- renewal -----------------------------------------------------------------------------------------------------------


def shorten(mosquitto: Mosquitto, credentials: Credentials, *, left: dt.timedelta) -> None:
    """Give it a certificate of thirty days of which so many are left."""
    life = dt.timedelta(days=30)
    pem = mosquitto.authority.answer(credentials.request(), "kiosk-7", life=life, age=life - left)
    (credentials.directory / "device.crt").write_bytes(pem)


def test_when_it_needs_renewal(mosquitto: Mosquitto, credentials: Credentials) -> None:
    now = dt.datetime.now(dt.UTC)
    shorten(mosquitto, credentials, left=dt.timedelta(days=10, hours=1))
    assert not credentials.needs_renewal(now)
    shorten(mosquitto, credentials, left=dt.timedelta(days=9, hours=23))
    assert credentials.needs_renewal(now)


def test_it_renews_itself(
    mosquitto: Mosquitto, credentials: Credentials, handler: Handler, authority: Authority
) -> None:
    shorten(mosquitto, credentials, left=dt.timedelta(days=5))
    # mosquitto does not answer to one connection only, as our broker does: let it be subscribed.
    with Device(credentials, on_message=handler) as device:
        device._core.link.call(lambda: device._core.link.subscribe(["$enrol/certificate"]) and None)
        device.wait_connected(timeout=10)
        while Credentials.load(credentials.directory).needs_renewal(dt.datetime.now(dt.UTC)):
            assert not device.wait(0.05)
        key = (credentials.directory / "device.key").read_bytes()
        until = device.renew(timeout=10).not_after  # and once more, by hand
        assert until > dt.datetime.now(dt.UTC) + dt.timedelta(days=29)
    assert (credentials.directory / "device.key").read_bytes() == key
    assert handler.idle  # the answer is no message
    with Device(credentials, on_message=handler) as device:
        device.wait_connected(timeout=10)


def test_a_refused_renewal_leaves_the_old_certificate(
    mosquitto: Mosquitto, credentials: Credentials, handler: Handler, authority: Authority
) -> None:
    before = (credentials.directory / "device.crt").read_bytes()
    authority.reply = lambda _: b'{"error":"not now"}'
    with Device(credentials, on_message=handler) as device:
        device._core.link.call(lambda: device._core.link.subscribe(["$enrol/certificate"]) and None)
        device.wait_connected(timeout=10)
        with pytest.raises(Refused, match="not now"):
            device.renew(timeout=10)
    assert (credentials.directory / "device.crt").read_bytes() == before


def test_renewal_tells_where_the_device_belongs_now(mosquitto: Mosquitto, tmp_path: Path) -> None:
    credentials = issue(mosquitto, tmp_path / "kiosk")
    certificate = mosquitto.authority.answer(credentials.request(), "kiosk-7")
    moved = credentials.accept(answer(certificate, mosquitto.authority.pem, user="bob", store=""))
    own = {"acme/device/kiosk-7", "acme/device/kiosk-7/preferences", "acme/device/kiosk-7/withdraw"}
    assert moved.place.filters(frozenset()) == {*own, "acme/user/bob"}
    assert Credentials.load(tmp_path / "kiosk") == moved


def test_an_authority_is_replaced_while_both_are_trusted(mosquitto: Mosquitto, tmp_path: Path) -> None:
    credentials = issue(mosquitto, tmp_path / "kiosk")
    new = TestAuthority("New")
    for _ in range(2):
        credentials = credentials.accept(answer(new.answer(credentials.request(), "kiosk-7"), new.pem))
    trusted = x509.load_pem_x509_certificates((tmp_path / "kiosk/ca.crt").read_bytes())
    assert len(trusted) == 2
