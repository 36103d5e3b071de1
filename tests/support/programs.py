"""System programs that some tests need."""

import shutil

import pytest

# The Debian package that each comes with; scripts/system-packages installs them where it may.
PACKAGES = {
    "cc": "gcc libc6-dev",
    "mosquitto": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "mosquitto_sub": "mosquitto-clients",
    "openssl": "openssl",
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
}


def program(name: str) -> str:
    """The path of a program; the test is skipped, with the command that would enable it, when there is none."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed; as root on Debian: apt-get install {PACKAGES[name]}")
    return path
