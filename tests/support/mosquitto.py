"""A real mosquitto with TLS, for tests that need a broker which is not ours."""

import base64
import getpass
import hashlib
import os
import socket
import subprocess
import time
from pathlib import Path

from support.authority import TestAuthority
from support.programs import program

_CONFIG = """
user {user}
per_listener_settings false
allow_anonymous false
password_file {directory}/passwords
acl_file {directory}/acl
persistence true
persistence_location {directory}/
autosave_interval 1
autosave_on_changes true
set_tcp_nodelay true
max_packet_size 100000
listener {plain} 127.0.0.1
listener {certificates} 127.0.0.1
cafile {directory}/ca.crt
certfile {directory}/server.crt
keyfile {directory}/server.key
require_certificate true
use_identity_as_username true
listener {passwords} 127.0.0.1
cafile {directory}/ca.crt
certfile {directory}/server.crt
keyfile {directory}/server.key
"""
# mosquitto lets a wildcard match no $-topic; an entry of its own does.
_ACL = """
topic readwrite #
topic readwrite $enrol/#
topic deny acme/device/forbidden
"""


class Mosquitto:
    """Three listeners: TLS with client certificates, TLS with passwords, and a plain one for the tests' own client.

    User names: acme, enrol and tester, each with the password "secret". Stop and start it at will: sessions and what is
    queued in them are kept.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.authority = TestAuthority()
        self.authority.server(directory)
        self._process: subprocess.Popen[bytes] | None = None
        self.plain, certificates, passwords = _free_ports(3)
        self.device_url = f"mqtts://localhost:{certificates}"
        self.password_url = f"mqtts://localhost:{passwords}"
        (directory / "mosquitto.conf").write_text(
            _CONFIG.format(
                user=getpass.getuser(),
                directory=directory,
                plain=self.plain,
                certificates=certificates,
                passwords=passwords,
            )
        )
        names = ("acme", "enrol", "tester")
        (directory / "passwords").write_text("".join(f"{name}:{_hashed('secret')}\n" for name in names))
        (directory / "acl").write_text(_ACL + "".join(f"user {name}\n{_ACL}" for name in (*names, "kiosk-7")))
        for name in ("passwords", "acl"):
            (directory / name).chmod(0o600)

    @property
    def log(self) -> str:
        """What it wrote so far: a line for each packet."""
        return (self.directory / "log").read_text()

    def saw(self, text: str, count: int) -> bool:
        """Whether it logs `text` `count` times, within ten seconds, and not more often."""
        deadline = time.monotonic() + 10
        while self.log.count(text) < count:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return self.log.count(text) == count

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("mosquitto"), "-c", str(self.directory / "mosquitto.conf"), "-v"], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.plain), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, self.log
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def kill(self) -> None:
        """As a power cut would: nothing is written any more."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


def _hashed(password: str) -> str:
    """As mosquitto_passwd writes it: PBKDF2 with SHA-512."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
