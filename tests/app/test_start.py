"""Starting where something is in the way, stopping where nothing can be saved, and changing settings while running."""

import asyncio
import os
import resource
import sqlite3
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from support.live import BOTH, port, running, settings, trusting
from support.mqtt import Client

from broker.address import Listener
from broker.app import Broker
from broker.errors import Failed, Refused
from broker.wire.packets import Properties

TESTS = Path(__file__).parent.parent


def _descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except OSError:
            continue
    return found


async def _refuses(data: Path, **more: object) -> Failed | Refused:
    """The error with which a broker does not start, leaving nothing open."""
    before = _descriptors()
    with pytest.raises((Failed, Refused)) as caught:
        await Broker(settings(data, **more)).start()
    assert caught.value.remedy
    assert _descriptors() == before
    return caught.value


async def _with_a_session(data: Path) -> None:
    """Leave a session, a queued message and a retained one in a data directory."""
    async with running(data, allow_anonymous=True) as broker:
        client = await Client.connected(
            port(broker), "kept", clean_start=False, properties=Properties(session_expiry=1000)
        )
        await client.subscribe("t", qos=1)
        await client.disconnect()
        sender = await Client.connected(port(broker))
        await sender.publish("t", b"kept", qos=1, retain=True)


async def _is_intact(data: Path) -> None:
    async with running(data, allow_anonymous=True) as broker:
        assert broker.status()["sessions"] == 1
        assert broker.status()["waiting"]["messages"] == 1
        assert broker.status()["retained"]["messages"] == 1


async def test_port_in_use(tmp_path: Path) -> None:
    await _with_a_session(tmp_path)
    async with running(tmp_path / "other") as other:
        taken = port(other)
        error = await _refuses(
            tmp_path, listen=(Listener("mqtt", "127.0.0.1", 0), Listener("mqtt", "127.0.0.1", taken))
        )
    assert str(taken) in error.message
    assert "ss -ltnp" in error.remedy
    await _is_intact(tmp_path)


async def test_the_same_address_twice(tmp_path: Path, free_port: int) -> None:
    listener = Listener("mqtt", "127.0.0.1", free_port)
    error = await _refuses(tmp_path, listen=(listener, listener))
    assert str(free_port) in error.message


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_no_such_address(tmp_path: Path, host: str) -> None:
    error = await _refuses(tmp_path, listen=(Listener("mqtt", host, 0),))
    assert host in error.message


async def test_two_brokers_on_one_directory(tmp_path: Path) -> None:
    async with running(tmp_path):
        error = await _refuses(tmp_path)
        assert str(os.getpid()) in error.message
    async with running(tmp_path):
        pass


async def test_open_to_other_machines(tmp_path: Path) -> None:
    error = await _refuses(tmp_path, listen=(Listener("mqtt", "0.0.0.0", 0),), allow_anonymous=True)
    assert isinstance(error, Refused)


async def test_data_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await _refuses(tmp_path / "file" / "data")
    await _refuses(tmp_path / "file")


@pytest.mark.parametrize("name", ["journal.db", "records.db"])
@pytest.mark.parametrize("damage", ["garbage", "emptied", "cut off", "newer", "another's"])
async def test_store_that_cannot_be_read(tmp_path: Path, name: str, damage: str) -> None:
    """Never an empty start over what was there, and the file stays as it is."""
    await _with_a_session(tmp_path)
    path = tmp_path / name
    match damage:
        case "garbage":
            path.write_bytes(b"garbage" * 2000)
        case "emptied":
            path.write_bytes(b"")
        case "cut off":
            os.truncate(path, path.stat().st_size // 2)
        case "newer":
            with sqlite3.connect(path) as db:
                db.execute("PRAGMA user_version = 9999")
            db.close()
        case _:
            with sqlite3.connect(path) as db:
                db.execute("PRAGMA application_id = 7")
            db.close()
    before = path.read_bytes()
    error = await _refuses(tmp_path)
    assert name in error.message
    assert path.read_bytes() == before


async def test_journal_with_a_damaged_page(tmp_path: Path) -> None:
    await _with_a_session(tmp_path)
    path = tmp_path / "journal.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    assert "journal.db" in (await _refuses(tmp_path)).message


async def test_missing_key(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass
    (tmp_path / "certs" / "ca.key").unlink()
    assert "ca.key" in (await _refuses(tmp_path)).message


# -- a disk that is full -----------------------------------------------------------------------------------------------

FULL = """
import asyncio, pathlib, resource, signal, sys
from support.live import port, settings
from support.mqtt import Client
from broker.app import Broker
from broker.errors import Failed
from broker.wire.packets import Properties

async def main(data):
    broker = Broker(settings(data, allow_anonymous=True, queue_bytes_max=1 << 30))
    await broker.start()
    client = await Client.connected(port(broker), "kept", clean_start=False,
                                    properties=Properties(session_expiry=1000))
    await client.expect_message(acknowledge=False)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # what becomes of the session has no room
    try:
        await broker.stop()
    except Failed as error:
        print("Failed:", error.message, "|", error.remedy)

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


async def test_disk_full_at_the_stop(tmp_path: Path) -> None:
    """It says so, and what was saved before is still there."""
    await _with_a_session(tmp_path)
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", FULL, tmp_path], cwd=TESTS, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("Failed:")]
    assert "journal.db" in said
    await _is_intact(tmp_path)


# -- reload ------------------------------------------------------------------------------------------------------------


async def _serial(broker: Broker, context: ssl.SSLContext) -> int:
    client = await Client.open(port(broker, "mqtts"), tls=context)
    der = client.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
    await client.close()
    return int(der, 16)


async def test_reload_takes_a_new_certificate(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True) as broker:
        context = trusting(broker)
        client = await Client.connected(port(broker, "mqtts"), tls=context)
        before = await _serial(broker, context)
        for name in ("server.crt", "server.key"):
            (tmp_path / "certs" / name).unlink()
        await broker.reload()
        assert await _serial(broker, context) != before
        await client.silent()


async def test_reload_of_what_is_broken_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True) as broker:
        context = trusting(broker)
        before = await _serial(broker, context)
        (tmp_path / "certs" / "server.crt").write_text("garbage")
        with pytest.raises(Failed):
            await broker.reload()
        assert await _serial(broker, context) == before


async def test_reload_of_settings(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True) as broker:
        client = await Client.connected(port(broker))
        await broker.reload(settings(tmp_path, packet_bytes_max=2048, connections_max=2))
        await client.silent()
        refused = await Client.connected(port(broker), reason=0x87)
        await refused.expect_end()
        with pytest.raises(Refused):
            await broker.reload(settings(tmp_path, listen=(Listener("mqtt", "0.0.0.0", 1),), allow_anonymous=True))
        assert broker.settings.listen == BOTH


async def test_restart_on_the_same_port_at_once(tmp_path: Path, free_port: int) -> None:
    """Connections that are not yet gone from the kernel's tables are in nobody's way."""
    listen = (Listener("mqtt", "127.0.0.1", free_port),)
    for _ in range(3):
        async with running(tmp_path, listen=listen, allow_anonymous=True):
            client = await Client.connected(free_port)
            await client.silent()


@pytest.mark.parametrize(
    ("descriptors", "asked", "granted"),
    [(1000, 100_000, 936), (1000, 50, 50), (10, 100, 1), (resource.RLIM_INFINITY, 100_000, 100_000)],
)
async def test_no_more_connections_than_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descriptors: int, asked: int, granted: int
) -> None:
    """Some are kept for the store and for admin commands; a reload changes nothing in that."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, resource.RLIM_INFINITY))
    async with running(tmp_path, connections_max=asked) as broker:
        assert broker.core.limits.connections_max == granted
        await broker.reload(settings(tmp_path, connections_max=asked + 1))
        assert broker.core.limits.connections_max == (granted if granted < asked else asked + 1)


async def test_records_that_are_gone(tmp_path: Path) -> None:
    """Without them every session would be of nobody, and dropped."""
    await _with_a_session(tmp_path)
    for path in tmp_path.glob("records.db*"):
        path.rename(tmp_path / f"away-{path.name}")
    error = await _refuses(tmp_path)
    assert "the file is gone, but journal.db is there" in error.message
    assert "store restore" in error.remedy
    for path in tmp_path.glob("away-*"):
        path.rename(tmp_path / path.name.removeprefix("away-"))
    await _is_intact(tmp_path)


@pytest.mark.parametrize("turns", range(4))
async def test_what_happens_while_it_is_told_to_stop_does_not_keep_it(tmp_path: Path, turns: int) -> None:
    async with running(tmp_path / "data") as broker:
        bridge = broker.bridge
        async with asyncio.timeout(10):
            while len(bridge._tasks) < 9:  # noqa: ASYNC110 - they begin by themselves
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # and wait
        for part in (bridge.dispatcher, bridge.campaigns, bridge.outbox, bridge.fleet):
            part._changed.set()  # type: ignore[attr-defined]
        for _ in range(turns):
            await asyncio.sleep(0)
        done, _ = await asyncio.wait([asyncio.ensure_future(bridge.stop())], timeout=10)
        assert done
