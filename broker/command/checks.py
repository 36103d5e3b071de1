"""What `doctor` looks at, one function for each thing. None of them changes anything."""

import ctypes
import importlib.resources
import os
import resource
import shutil
import socket
import sqlite3
import ssl
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import msgspec

from broker.address import DEFAULT_PORTS, Listener
from broker.command.certificate import load, names
from broker.config import Settings
from broker.errors import PushbrokerError

_MIB: Final = 1 << 20
DISK_BYTES_WARN: Final = 1024 * _MIB
DISK_BYTES_FAIL: Final = 100 * _MIB
# Beside a file for each connection: database, log, listeners, epoll, and room for what comes and goes.
FILES_BESIDE_CONNECTIONS: Final = 100
# A fleet that comes back at once fills the kernel's queue of connections that nobody has accepted yet.
BACKLOG_MIN: Final = 1024
CONNECT_TIMEOUT_S: Final = 5
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronized


class Check(msgspec.Struct, frozen=True):
    """What was looked at, how it is, and what to do where it is not well."""

    name: str
    state: Literal["ok", "warning", "failed", "skipped"]
    words: str
    remedy: str = ""


def configuration(settings: Settings) -> Iterator[Check]:
    """Where the settings are from; what they are was checked when they were read."""
    path = settings.config_path
    try:
        path.open("rb").close()
    except PermissionError:
        words = f"you may not read {path}, which may say something else than the defaults"
        yield Check("settings", "skipped", words, "Run this with sudo.")
    except OSError:
        yield Check("settings", "ok", "defaults, no configuration file")
    else:
        yield Check("settings", "ok", f"from {path}")


def data_directory(settings: Settings) -> Iterator[Check]:
    """That it is there, ours, and closed to others."""
    data = settings.data
    try:
        mode = data.stat().st_mode
    except FileNotFoundError:
        yield Check("data", "failed", f"there is no directory {data}", f"pushbroker init --data {data}")
        return
    except PermissionError:  # not even through the directory above, which is systemd's way with a dynamic user
        mode = 0
    if not os.access(data, os.R_OK | os.X_OK):
        words = f"you may not look into {data}: its disk, databases, certificates and keys are not checked"
        yield Check("data", "skipped", words, "Run this with sudo.")
        return
    if mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_IROTH):
        yield Check("data", "failed", f"{data} is open to others ({stat.filemode(mode)})", f"chmod 700 {data}")
    else:
        yield Check("data", "ok", f"{data} is closed to others")
    for key in sorted(settings.certs_path.glob("*.key")):
        mode = key.stat().st_mode
        if mode & 0o077:
            yield Check("keys", "failed", f"others may read {key} ({stat.filemode(mode)})", f"chmod 600 {key}")
        else:
            yield Check("keys", "ok", f"{key.name} is readable by its owner only")


def disk(settings: Settings) -> Iterator[Check]:
    """That there is room for what must be kept."""
    try:
        free = shutil.disk_usage(settings.data).free
        inodes = os.statvfs(settings.data)
    except OSError as error:
        yield Check("disk", "skipped", f"cannot look at {settings.data}: {error.strerror}")
        return
    words = f"{free // _MIB:,} MiB are free for {settings.data}"
    remedy = f"Make room: du -xh --max-depth=1 {settings.data} | sort -h"
    if free < DISK_BYTES_FAIL:
        yield Check("disk", "failed", words, remedy)
    elif free < DISK_BYTES_WARN:
        yield Check("disk", "warning", words, remedy)
    elif inodes.f_files and inodes.f_favail * 100 < inodes.f_files:
        yield Check(
            "disk", "warning", f"{inodes.f_favail:,} inodes are left for {settings.data}", "Remove small files."
        )
    else:
        yield Check("disk", "ok", words)


def schemas(settings: Settings) -> Iterator[Check]:
    """That the databases can be read, are whole, and are of a version that this program knows."""
    databases = {
        "records": settings.records_path,
        "journal": settings.journal_path,
        "messages": settings.messages_path,
        "content": settings.content_path,
    }
    for name, path in databases.items():
        if not os.access(path, os.R_OK):
            yield Check(name, "skipped", f"there is no {path} that you may read")
            continue
        newest = len(list((importlib.resources.files("broker.store") / "schema" / name).iterdir()))
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2)) as database:
                (version,) = database.execute("PRAGMA user_version").fetchone()
                (whole,) = database.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            yield Check(
                name, "failed", f"{path} cannot be read: {error}", "Restore it from a backup: docs/operations.md."
            )
            continue
        if whole != "ok":
            yield Check(name, "failed", f"{path} is damaged: {whole}", "Restore it from a backup: docs/operations.md.")
        elif version > newest:
            words = f"{path} has schema {version}, this program knows {newest}"
            yield Check(name, "failed", words, "Use the version that wrote it: git pull && make install")
        elif version < newest:
            words = f"{path} has schema {version} of {newest}: it is migrated at the next start"
            yield Check(name, "warning", words, "Make a backup, then restart the broker.")
        else:
            yield Check(name, "ok", f"{path.name} is whole, schema {version}")


def certificates(settings: Settings, now: datetime) -> Iterator[Check]:
    """That the CA and the server's certificate are valid now and for a while."""
    for name, warn_days in (("ca", 365), ("server", 21)):
        path = settings.certs_path / f"{name}.crt"
        if not os.access(path, os.R_OK):
            yield Check("certificates", "skipped", f"there is no {path} that you may read")
            continue
        try:
            certificate = load(path)
        except PushbrokerError as error:
            yield Check("certificates", "failed", error.message, f"Restore {path} from a backup: docs/operations.md.")
            continue
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        words = f"{name}.crt is good until {end:%Y-%m-%d}"
        renew = "Restart or reload the broker: it renews the server's certificate." if name == "server" else _NEW_CA
        if now < begin:
            words = f"{name}.crt begins only at {begin:%Y-%m-%d %H:%M}: is the clock right?"
            yield Check("certificates", "failed", words, "timedatectl")
        elif now > end:
            yield Check("certificates", "failed", f"{name}.crt ended on {end:%Y-%m-%d}", renew)
        elif end - now < timedelta(days=warn_days):
            yield Check("certificates", "warning", words, renew)
        else:
            more = f", for {', '.join(names(certificate))}" if name == "server" else ""
            yield Check("certificates", "ok", words + more)


_NEW_CA: Final = "Plan a new CA: every device has to trust it and enrol again; docs/operations.md says how."


def clock() -> Iterator[Check]:
    """That the clock is kept right: certificates and expiry depend on it."""
    timex = ctypes.create_string_buffer(512)  # struct timex has 208 bytes; all zero only asks
    state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    now = datetime.now(UTC)
    if state < 0:
        yield Check("clock", "skipped", "the system does not say whether the clock is synchronized")
    elif state == _TIME_ERROR:
        words = f"nothing keeps the clock right; it says {now:%Y-%m-%d %H:%M:%S} UTC"
        yield Check("clock", "warning", words, "timedatectl set-ntp true (or install chrony)")
    else:
        yield Check("clock", "ok", f"the clock is synchronized, {now:%Y-%m-%d %H:%M:%S} UTC")


def limits(settings: Settings, broker_pid: int | None) -> Iterator[Check]:
    """That the system lets us have as many connections as the settings do."""
    wanted = settings.connections_max + FILES_BESIDE_CONNECTIONS
    files = _open_files_of(broker_pid) if broker_pid else resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    whose = f"the broker (process {broker_pid})" if broker_pid else "a process started from here"
    if files is None:
        yield Check("files", "skipped", f"you may not see the limits of {whose}", "Run this with sudo.")
    elif files < wanted:
        words = f"{whose} may open {files:,} files; connections_max = {settings.connections_max:,} needs {wanted:,}"
        remedy = f"LimitNOFILE={wanted} in the unit or ulimit -Hn {wanted}; or a smaller connections_max"
        yield Check("files", "warning", words, remedy)
    else:
        yield Check("files", "ok", f"{whose} may open {files:,} files")
    for name in ("net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog"):
        try:
            value = int((Path("/proc/sys") / name.replace(".", "/")).read_text())
        except (OSError, ValueError):
            continue
        state: Literal["ok", "warning"] = "ok" if value >= BACKLOG_MIN else "warning"
        yield Check("kernel", state, f"{name} = {value}", "" if state == "ok" else f"sysctl -w {name}=65535")


def _open_files_of(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    soft = next(line for line in lines if line.startswith("Max open files")).split()[3]
    return int(soft) if soft.isdecimal() else 1 << 30


def free_ports(settings: Settings) -> Iterator[Check]:
    """Without a broker: that its addresses can be had."""
    for listener in settings.listen:
        yield from _free_port(listener)
        yield from _in_the_clear(listener)


def _free_port(listener: Listener) -> Iterator[Check]:
    if listener.unix:
        directory = Path(listener.path).parent
        if os.access(directory, os.W_OK | os.X_OK):
            yield Check("ports", "ok", f"{listener.address} can be made")
        else:
            words = f"{listener.address} cannot be made by you: {directory} is missing, or you may not write there"
            yield Check("ports", "warning", words, f"mkdir -p {directory}, or name another place with --listen")
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        remedy = f"ss -ltnp 'sport = :{listener.port}' says who has it; --listen names another"
        yield Check("ports", "failed", f"{listener.address} cannot be had: {error.strerror or error}", remedy)
    else:
        yield Check("ports", "ok", f"{listener.address} is free")


def _in_the_clear(listener: Listener) -> Iterator[Check]:
    if not (listener.tls or listener.unix or listener.loopback):
        words = f"{listener.address} carries tokens and messages in the clear"
        safe = "wss" if listener.web else "mqtts"
        yield Check("ports", "warning", words, f"--listen {safe}://{listener.host}:{DEFAULT_PORTS[safe]}")


def open_ports(settings: Settings, listeners: list[Listener]) -> Iterator[Check]:
    """With a broker: that its addresses answer, with a certificate that clients will accept."""
    ca = settings.certs_path / "ca.crt"
    for listener in listeners:
        address = listener.address
        try:
            with _connect(listener) as plain:
                if not listener.tls:
                    yield Check("ports", "ok", f"{address} answers")
                elif listener.proxy:
                    yield Check("ports", "skipped", f"{address} answers; only the proxies before it may say more")
                elif not os.access(ca, os.R_OK):
                    yield Check("ports", "skipped", f"{address} answers; you may not read {ca}", "Run with sudo.")
                else:
                    context = ssl.create_default_context()  # the certificate may be a public authority's
                    context.load_verify_locations(cafile=str(ca))
                    context.check_hostname = False  # names are the business of the certificates check
                    with context.wrap_socket(plain) as tls:
                        yield Check("ports", "ok", f"{address} answers with {tls.version()}")
        except ssl.SSLError as error:
            remedy = (
                "Restart the broker; if its certificate is not of our CA, have clients trust the one that issued it."
            )
            yield Check("ports", "failed", f"{address} answers, but {error.reason or error}", remedy)
        except OSError as error:
            remedy = "Look for a firewall, and into the broker's log."
            yield Check("ports", "failed", f"{address} does not answer: {error.strerror or error}", remedy)
        yield from _in_the_clear(listener)


def _connect(listener: Listener) -> socket.socket:
    if not listener.unix:
        return socket.create_connection((reachable_host(listener), listener.port), CONNECT_TIMEOUT_S)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(CONNECT_TIMEOUT_S)
        sock.connect(listener.path)
    except OSError:
        sock.close()
        raise
    return sock


def reachable_host(listener: Listener) -> str:
    """Where this machine itself reaches a listener that may listen everywhere."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.host, listener.host)  # noqa: S104
