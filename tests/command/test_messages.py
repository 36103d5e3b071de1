"""`send`, `tail`, `status`, `connections`, `doctor` against a running broker with a real device."""

import json
import select
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.cli import PUSHBROKER, Serving, environment, ok, pushbroker, serving, without_rights

from client_sdk import Credentials, Device, Message, enrol


@dataclass
class World:
    """A broker with a brand, a user, and a device that notes what it gets."""

    data: Path
    broker: Serving
    credentials: Credentials
    got: list[Message] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def note(self, message: Message) -> None:
        with self.arrived:
            self.got.append(message)
            self.arrived.notify_all()

    def next(self) -> Message:
        with self.arrived:
            assert self.arrived.wait_for(lambda: self.got, 10)
            return self.got.pop(0)

    def ok(self, *args: object, stdin: str = "") -> Any:
        return ok(*args, "--data", self.data, stdin=stdin)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The device is enrolled and not connected."""
    data = tmp_path_factory.mktemp("data")
    with serving("--data", data, "--listen", "mqtt://127.0.0.1:0", "--listen", "mqtts://127.0.0.1:0") as broker:
        ok("brand", "add", "acme", "--data", data)
        ok("user", "add", "acme", "ada", "--data", data)
        code = ok("device", "code", "acme", "kiosk-1", "--user", "ada", "--data", data).out.strip()
        url = f"mqtts://127.0.0.1:{broker.port('mqtts')}"
        credentials = enrol(url=url, code=code, directory=data / "kiosk", ca=data / "certs/ca.crt", timeout=20)
        yield World(data, broker, credentials)
        code, err = broker.stop()
        assert code == 0, err
        assert "Traceback" not in err


@pytest.fixture
def world(quiet: World) -> Iterator[World]:
    quiet.got.clear()
    with Device(quiet.credentials, on_message=quiet.note) as device:
        device.wait_connected(timeout=20)
        yield quiet


def test_text_reaches_the_device_and_is_acknowledged(world: World) -> None:
    done = world.ok("send", "acme/user/ada", "Ciao Ada", "--wait", "20s", "--ttl", "1h")
    message = world.next()
    assert message.text == "Ciao Ada"
    assert message.content_type == "text/plain"
    assert message.expires_at is not None
    assert done.out.strip() == message.id
    assert "delivered to kiosk-1" in done.err


def test_a_rich_notification(world: World, tmp_path: Path) -> None:
    world.ok("send", "acme/device/kiosk-1", "Doors close", "--title", "Closing", "--qos", "2")
    notification = world.next().notification
    assert notification is not None
    assert (notification.title, notification.body) == ("Closing", "Doors close")
    file = tmp_path / "n.json"
    file.write_text(json.dumps({"title": "From a file", "actions": [{"id": "go", "title": "Go"}]}))
    world.ok("send", "acme/user/ada", "--json-body", file)
    notification = world.next().notification
    assert notification is not None
    assert notification.actions[0].id == "go"
    for bad in ("[]", "{}", "{"):
        assert pushbroker("send", "acme/user/ada", "--json-body", "-", "--data", world.data, stdin=bad).code == 2


def test_bytes_from_a_file_and_stdin(world: World, tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(bytes(range(256)))
    world.ok("send", "acme/user/ada", "--file", file, "--content-type", "image/x", "--property", "a=b=c")
    message = world.next()
    assert message.payload == bytes(range(256))
    assert message.content_type == "image/x"
    assert ("a", "b=c") in message.user_properties
    world.ok("send", "acme/user/ada", "-", stdin="due righe\nperché no\n")
    assert world.next().text == "due righe\nperché no\n"


def test_what_cannot_be_sent(world: World, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes((1 << 20) + 1))
    for code, args in (
        (2, ["acme/user/ada"]),
        (2, ["acme/user/ada", "x", "--file", large]),
        (2, ["acme/user/ada", "x", "--property", "novalue"]),
        (2, ["acme/user/ada", "x", "--qos", "0", "--wait"]),
        (2, ["acme/user/ada", "x", "--ttl", "soon"]),
        (4, ["acme/user/#", "x"]),
        (4, ["acme/user/ada", "--file", large]),
        (1, ["acme/user/ada", "--file", tmp_path / "none"]),
    ):
        done = pushbroker("send", *args, "--data", world.data)
        assert done.code == code, (args, done)
        assert "Traceback" not in done.err


def test_send_as_json_and_to_nobody(world: World) -> None:
    sent = world.ok("send", "acme/topic/empty", "x", "--json").json
    assert sent["recipients"] == 0
    assert sent["message_id"].startswith("m")
    waited = world.ok("send", "acme/user/ada", "x", "--json", "--wait", "20s").json
    (receipt,) = waited["receipts"]
    assert (receipt["event"], receipt["device"], receipt["message_id"]) == (
        "delivered",
        "kiosk-1",
        waited["message_id"],
    )
    world.next()


@pytest.mark.parametrize(
    ("topic", "next_command"),
    [
        ("acme/user/bob", "pushbroker device list acme --user bob"),
        ("acme/store/roma", "pushbroker device list acme --store roma"),
        ("acme/device/kiosk-9", "pushbroker device show acme kiosk-9"),
        ("acme/usr/ada", "BRAND/user/NAME"),
    ],
)
def test_a_message_for_nobody_says_where_to_look(world: World, topic: str, next_command: str) -> None:
    """It is accepted all the same; but who waits for a delivery is told that there is none."""
    sent, waited = (pushbroker("send", topic, "x", *more, "--data", world.data) for more in ([], ["--wait", "9s"]))
    assert (sent.code, waited.code) == (0, 1)
    assert "nobody is subscribed" in sent.err
    assert next_command in sent.err
    assert next_command in waited.err


def test_waiting_in_vain(quiet: World) -> None:
    """The device has a session and is away: the message is kept, and the command says so and fails."""
    with Device(quiet.credentials, on_message=quiet.note) as device:
        device.wait_connected(timeout=20)
    done = pushbroker("send", "acme/user/ada", "for later", "--wait", "0s", "--data", quiet.data)
    assert done.code == 1
    assert "delivered to 0 of 1" in done.err
    assert "pushbroker tail 'acme/receipts/m" in done.err
    quiet.got.clear()
    with Device(quiet.credentials, on_message=quiet.note):
        assert quiet.next().text == "for later"


def test_tail(world: World) -> None:
    command = [PUSHBROKER, "tail", "acme/user/+", "acme/topic/bytes", "--data", world.data]
    with (
        subprocess.Popen(
            [*command, "--count", "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        ) as people,
        subprocess.Popen(
            [*command, "acme/topic/there", "--json"], stdout=subprocess.PIPE, text=True, env=environment()
        ) as program,
    ):
        assert people.stderr is not None
        assert "following" in people.stderr.readline()
        assert program.stdout is not None
        while not select.select([program.stdout], [], [], 0)[0]:  # it says nothing but what it sees
            world.ok("send", "acme/topic/there", "yet?")
        world.ok("send", "acme/user/ada", "Ciao \x1b[31mAda")
        world.ok("send", "acme/user/ada", "body", "--title", "Title")
        world.ok("send", "acme/topic/other", "not followed")
        send_bytes(world)
        lines = people.communicate(timeout=20)[0].splitlines()
        objects: list[dict[str, Any]] = []
        while len(objects) < 3:
            seen = json.loads(program.stdout.readline())
            objects += [seen] if seen["topic"] != "acme/topic/there" else []
        program.terminate()
    assert "\x1b" not in "".join(lines)
    assert "acme/user/ada" in lines[0]
    assert "Title - body" in lines[1]
    assert "3 bytes that are no text" in lines[2]
    assert [message["topic"] for message in objects] == ["acme/user/ada", "acme/user/ada", "acme/topic/bytes"]
    assert objects[0]["payload"] == "Ciao \x1b[31mAda"
    assert objects[0]["message_id"]
    assert objects[2]["payload_base64"] == "//79"


def send_bytes(world: World) -> None:
    command = [PUSHBROKER, "send", "acme/topic/bytes", "--file", "-", "--data", world.data]
    subprocess.run(command, input=b"\xff\xfe\xfd", check=True, capture_output=True, env=environment())


def test_flags_from_the_environment(world: World) -> None:
    env = {
        "PUSHBROKER_DATA": str(world.data),
        "PUSHBROKER_SEND_TITLE": "From the environment",
        "PUSHBROKER_SEND_TTL": "1m",
    }
    ok("send", "acme/user/ada", "x", **env)
    message = world.next()
    assert message.notification is not None
    assert message.notification.title == "From the environment"
    assert message.expires_at is not None


def test_status_and_connections(world: World) -> None:
    status = world.ok("status", "--json").json
    assert status["pid"] == world.broker.process.pid
    assert status["clients"] == 1
    assert status["listeners"] == world.broker.urls
    assert status["counters"]["protocol_errors"] == 0
    people = world.ok("status").out
    assert "connections accepted" in people
    assert "protocol_errors" not in people
    (connection,) = world.ok("connections", "list", "--json").json
    assert connection["identity"] == "acme/device/kiosk-1"
    assert "acme/device/kiosk-1" in world.ok("connections").out
    assert world.ok("connections", "--json").json[0]["identity"] == "acme/device/kiosk-1"


def test_doctor_finds_a_running_broker_well(world: World) -> None:
    done = pushbroker("doctor", "--json", "--data", world.data)
    checks = done.json
    assert [check for check in checks if check["state"] == "failed"] == []
    assert done.code == 0
    by_name = {check["name"]: check for check in checks}
    assert by_name["push"]["state"] == "ok"
    assert "acknowledged after" in by_name["push"]["words"]
    assert {check["words"].split()[0] for check in checks if check["name"] == "ports"} == set(world.broker.urls)
    assert {"settings", "data", "keys", "disk", "records", "journal", "certificates", "clock", "files"} <= set(by_name)
    assert [brand["name"] for brand in world.ok("brand", "list", "--json").json] == ["acme"]
    for check in checks:
        assert check["state"] in ("ok", "skipped") or check["remedy"], check


@pytest.mark.parametrize("closed", ["vault", "vault/data"])
def test_doctor_goes_on_without_the_data_directory(tmp_path: Path, closed: str) -> None:
    """A member of the admin group may use the socket and nothing else."""
    data = tmp_path / "vault" / "data"
    data.parent.mkdir()
    env = {"PUSHBROKER_ADMIN_SOCKET": str(tmp_path / "admin.sock")}
    with serving("--data", data, "--listen", "mqtts://127.0.0.1:0", **env) as broker:
        mode = (tmp_path / closed).stat().st_mode
        (tmp_path / closed).chmod(0)
        try:
            done = without_rights("doctor", "--json", "--data", data, **env)
        finally:
            (tmp_path / closed).chmod(mode)
        assert broker.stop()[0] == 0
    assert done.err == ""
    by_name = {check["name"]: check for check in done.json}
    assert by_name["broker"]["words"].startswith("running")
    assert by_name["push"]["state"] == "ok"
    assert (by_name["settings"]["state"], by_name["data"]["state"]) == ("skipped", "skipped")
    assert str(data / "pushbroker.toml") in by_name["settings"]["words"]
    assert "databases, certificates and keys" in by_name["data"]["words"]
    assert "sudo" in by_name["settings"]["remedy"] + by_name["data"]["remedy"]
    assert done.code == 0


def test_doctor_goes_on_without_any_rights(tmp_path: Path) -> None:
    data = tmp_path / "vault" / "data"
    ok("init", "--data", data)
    data.parent.chmod(0)
    try:
        done = without_rights("doctor", "--json", "--data", data, PUSHBROKER_LISTEN="mqtts://127.0.0.1:0")
    finally:
        data.parent.chmod(0o700)
    states = {check["name"]: check["state"] for check in done.json}
    assert (states["data"], states["broker"], states["ports"]) == ("skipped", "failed", "ok")
    assert done.code == 1


def test_revocation_ends_a_live_connection(world: World) -> None:
    assert world.ok("connections", "--json").json
    world.ok("device", "revoke", "acme", "kiosk-1", "--yes")
    assert world.ok("connections", "--json").json == []
    code = world.ok("device", "code", "acme", "kiosk-1", "--user", "ada").out.strip()
    assert code


def test_commands_while_nobody_runs_say_so(tmp_path: Path) -> None:
    ok("init", "--data", tmp_path)
    for command in (["status"], ["send", "acme/user/ada", "x"], ["tail"], ["connections", "list"]):
        done = pushbroker(*command, "--data", tmp_path)
        assert done.code == 5
        assert f"no broker is running on {tmp_path}" in done.err


def test_many_commands_at_a_time_wait_for_each_other(tmp_path: Path) -> None:
    ok("init", "--data", tmp_path)
    processes = [
        subprocess.Popen(
            [PUSHBROKER, "brand", "add", f"b{number}", "--data", tmp_path],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for number in range(4)
    ]
    for process in processes:
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    assert len(ok("brand", "list", "--json", "--data", tmp_path).json) == 4
