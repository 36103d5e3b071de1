"""`pushbroker store check`, `backup` and `restore` as processes: with a broker that runs, and with damaged files."""

import asyncio
import os
import pty
import re
import subprocess
import threading
from pathlib import Path

import pytest
from support.cli import PUSHBROKER, Serving, environment, ok, pushbroker, serving, without_rights
from support.mqtt import Client

from broker.wire.packets import Properties, Request

OPEN = ("--listen", "mqtt://127.0.0.1:0", "--allow-anonymous")
MESSAGES = [b"message %d" % n for n in range(5)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a brand and a session for which messages wait, and beside it a backup of it."""
    made = tmp_path_factory.mktemp("made")
    data = made / "data"
    with serving("--data", data, *OPEN) as broker:
        asyncio.run(leave_messages(broker))
        ok("brand", "add", "acme", "--data", data)
        assert broker.stop()[0] == 0
    ok("store", "backup", made / "backup", "--data", data)
    return made


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    ok("store", "restore", made / "backup", "--yes", "--data", tmp_path / "data")
    return tmp_path / "data"


async def lasting(broker: Serving) -> Client:
    properties = Properties(session_expiry=3600)
    return await Client.connected(broker.port("mqtt"), "kiosk", clean_start=False, properties=properties)


async def leave_messages(broker: Serving) -> None:
    kiosk = await lasting(broker)
    await kiosk.subscribe(Request("news", 1))
    await kiosk.disconnect()
    sender = await Client.connected(broker.port("mqtt"), "sender")
    for message in MESSAGES:
        await sender.publish("news", message, qos=1)
    await Client.abort_all()


async def waiting_messages(broker: Serving) -> list[bytes]:
    kiosk = await lasting(broker)
    assert kiosk.connack.session_present
    found = [(await kiosk.expect_message()).payload for _ in MESSAGES]
    await Client.abort_all()
    return found


def brands(data: Path) -> list[str]:
    return [brand["name"] for brand in ok("brand", "list", "--json", "--data", data).json]


def damage(path: Path) -> None:
    """No page but the first is of a kind that there is."""
    whole = bytearray(path.read_bytes())
    for start in range(4096, len(whole), 4096):
        whole[start] ^= 0xFF
    path.write_bytes(whole)


@pytest.mark.parametrize("name", ["records.db", "journal.db"])
def test_the_way_back_from_a_damaged_store(made: Path, data: Path, name: str) -> None:
    """The start names the commands that help; with them everything is there again."""
    damage(data / name)
    authority = (data / "certs" / "ca.key").read_bytes()
    refused = pushbroker("serve", "--data", data, *OPEN)
    assert refused.code == 1
    check, restore = re.findall(r"pushbroker (store (?:check|restore) [^.\n]*)", refused.err)
    checked = pushbroker(*check.split())
    assert checked.code == 1
    assert re.search(rf"^damaged +{name.removesuffix('.db')} ", checked.out, flags=re.MULTILINE)
    assert f"try: pushbroker {restore}" in checked.out
    ok(*restore.replace("BACKUP", str(made / "backup")).split(), "--yes")
    assert ok("store", "check", "--full", "--data", data).code == 0
    with serving("--data", data, *OPEN) as broker:
        assert asyncio.run(waiting_messages(broker)) == MESSAGES
        assert brands(data) == ["acme"]
    assert (data / "certs" / "ca.key").read_bytes() == authority


def test_a_backup_while_the_broker_writes(made: Path, data: Path, tmp_path: Path) -> None:
    """All that was answered before it began is in it, and it is whole."""
    with serving("--data", data, *OPEN) as broker:
        stop = threading.Event()
        added: list[str] = []

        def write() -> None:
            while not stop.is_set():
                name = f"b{len(added)}"
                ok("brand", "add", name, "--data", data)
                added.append(name)
                asyncio.run(publish(broker))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            sure = 0
            for n in range(3):
                sure = len(added)
                ok("store", "backup", tmp_path / f"backup-{n}", "--data", data)
        finally:
            stop.set()
            writer.join()
        assert asyncio.run(waiting_messages(broker)) == MESSAGES  # it went on
    assert ok("store", "check", tmp_path / "backup-2", "--full").code == 0
    ok("store", "restore", tmp_path / "backup-2", "--yes", "--data", tmp_path / "other")
    with serving("--data", tmp_path / "other", *OPEN) as broker:
        assert asyncio.run(waiting_messages(broker)) == MESSAGES
        found = brands(tmp_path / "other")
    assert set(found) >= {"acme", *added[:sure]}


async def publish(broker: Serving) -> None:
    sender = await Client.connected(broker.port("mqtt"))
    await sender.publish("other", b"", qos=1)
    await Client.abort_all()


def test_check_beside_a_broker(data: Path) -> None:
    with serving("--data", data, *OPEN):
        found = ok("store", "check", "--full", "--json", "--data", data).json
    assert [(finding["name"], finding["state"]) for finding in found] == [
        ("records", "ok"),
        ("journal", "ok"),
        ("messages", "ok"),
        ("content", "ok"),
        ("certs", "ok"),
    ]
    assert found[0]["tables"]["brands"] == 1
    assert found[0]["schema"] >= 1
    assert found[0]["path"] == str(data / "records.db")


def test_check_of_a_backup(made: Path, tmp_path: Path) -> None:
    well = ok("store", "check", made / "backup")
    assert "0 not well" in well.err
    rows = "audit 1, audit_kept 1, brands 1"
    assert re.search(rf"^ok +records +whole, schema \d+, [\d,]+ KiB: {rows}$", well.out, flags=re.MULTILINE)
    assert "private keys" in well.out
    bad = tmp_path / "bad"
    subprocess.run(["cp", "-a", made / "backup", bad], check=True)
    (bad / "certs" / "ca.key").write_text("another key")
    ill = pushbroker("store", "check", bad, "--json")
    assert ill.code == 1
    assert [(finding["name"], finding["state"]) for finding in ill.json if finding["state"] != "ok"] == [
        ("certs/ca.key", "damaged")
    ]


@pytest.mark.parametrize("content", [None, b"", b"x", b"no database at all" * 1000])
def test_check_of_what_is_no_database(data: Path, content: bytes | None) -> None:
    if content is None:
        (data / "journal.db").unlink()
    else:
        (data / "journal.db").write_bytes(content)
    done = pushbroker("store", "check", "--data", data)
    assert done.code == 1
    assert re.search(r"^(missing|damaged) +journal ", done.out, flags=re.MULTILINE)
    assert "5 things looked at" in done.err
    assert "1 not well" in done.err
    assert "Traceback" not in done.err


def test_what_is_neither(tmp_path: Path) -> None:
    for arguments in (("check", tmp_path), ("check",), ("backup", tmp_path / "x"), ("restore", tmp_path, "--yes")):
        done = pushbroker("store", *arguments, "--data", tmp_path / "none")
        assert done.code == 3, (arguments, done)
        assert "try: " in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_backup_says_what_it_holds(made: Path, data: Path, tmp_path: Path) -> None:
    done = ok("store", "backup", tmp_path / "backup", "--data", data)
    assert done.out == ""
    assert "private keys" in done.err
    assert "records.db" in done.err
    assert "\r" not in done.err  # no progress where nobody looks
    again = pushbroker("store", "backup", tmp_path / "backup", "--data", data)
    assert again.code == 4
    assert "--replace" in again.err
    replaced = ok("store", "backup", tmp_path / "backup", "--replace", "--json", "--data", data)
    assert replaced.err == ""
    assert replaced.json["path"] == str(tmp_path / "backup")
    assert set(replaced.json["manifest"]["files"]) >= {"records.db", "journal.db", "certs/ca.key"}


def test_restore_needs_a_stopped_broker(made: Path, data: Path) -> None:
    with serving("--data", data, *OPEN) as broker:
        refused = pushbroker("store", "restore", made / "backup", "--yes", "--data", data)
        assert refused.code == 4
        assert f"in use by process {broker.process.pid}" in refused.err
        assert "systemctl stop pushbroker" in refused.err
        assert broker.stop()[0] == 0


def test_restore_asks_first(made: Path, data: Path) -> None:
    before = sorted(path.name for path in data.iterdir())
    refused = pushbroker("store", "restore", made / "backup", "--data", data)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert on_terminal("store", "restore", made / "backup", "--data", data, typed=b"n\n")[0] == 1
    assert sorted(path.name for path in data.iterdir()) == before
    code, shown = on_terminal("store", "restore", made / "backup", "--data", data, typed=b"y\n")
    assert code == 0
    assert "revocations" in shown
    assert "replaced-" in shown
    done = ok("store", "restore", made / "backup", "--data", data, "--yes", "--json").json
    assert Path(done["replaced"]).is_dir()


def on_terminal(*args: object, typed: bytes = b"") -> tuple[int, str]:
    """Run a command on a terminal; its exit code and what was to be seen."""
    here, there = pty.openpty()
    with subprocess.Popen(
        [PUSHBROKER, *map(str, args)], stdin=there, stdout=there, stderr=there, env=environment(TERM="xterm")
    ) as process:
        os.close(there)
        os.write(here, typed)
        shown = b""
        try:
            while chunk := os.read(here, 4096):
                shown += chunk
        except OSError:  # the other end is closed
            pass
    os.close(here)
    return process.returncode, shown.decode()


def test_progress_on_a_terminal(data: Path, tmp_path: Path) -> None:
    code, shown = on_terminal("store", "backup", tmp_path / "backup", "--data", data)
    assert code == 0
    assert re.search(r"copying records\.db, 100% of \d+ KiB", shown)
    assert "\r\x1b[K" + str(tmp_path / "backup") in shown  # wiped when it is done


def test_a_restore_that_was_interrupted_is_finished_by_another(made: Path, data: Path) -> None:
    """Nothing starts or works on it before; `check` and every refusal say how to go on."""
    restoring = data / "restoring"
    subprocess.run(["cp", "-a", made / "backup", data / "new"], check=True)
    restoring.mkdir()
    (data / "new").rename(restoring / "new")
    (restoring / "new" / "manifest.json").rename(restoring / "manifest.json")
    (data / "records.db").unlink()
    for command in (
        ("serve", *OPEN),
        ("init",),
        ("store", "check"),
        ("store", "backup", data / "b"),
    ):
        done = pushbroker(*command, "--data", data)
        assert done.code != 0, command
        assert f"pushbroker store restore BACKUP --data {data}" in done.out + done.err, command
    ok("store", "restore", made / "backup", "--yes", "--data", data)
    assert brands(data) == ["acme"]
    assert not restoring.exists()


def test_a_restore_needs_no_settings(made: Path, data: Path) -> None:
    """What they are is in the backup, and those that are there may be the damage."""
    (data / "pushbroker.toml").write_bytes(b"\xff\0")
    assert pushbroker("serve", "--data", data, *OPEN).code == 2
    ok("store", "check", "--data", data)
    ok("store", "restore", made / "backup", "--yes", "--data", data)
    assert brands(data) == ["acme"]


def test_who_may_not_read_is_told(data: Path, tmp_path: Path) -> None:
    data.chmod(0)
    for command in (("check",), ("backup", tmp_path / "b")):
        done = without_rights("store", *command, "--data", data)
        assert done.code in (1, 4), (command, done)
        assert "sudo" in done.err
        assert "Traceback" not in done.err
    data.chmod(0o700)


def test_help_keeps_the_two_meanings_apart() -> None:
    shown = ok("store", "--help").out
    devices, broker = shown.index("Stores, where devices stand:"), shown.index("The broker's own store, ")
    assert devices < shown.index("  remove ") < broker < shown.index("  check ") < shown.index("  restore ")
    assert not re.search(r"\w\.\.\.", shown)  # no sentence is cut
