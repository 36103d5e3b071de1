"""What docs/clients.md says of the clients is so: the table, and the examples, which run."""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from interop.clients import CLIENTS
from interop.clients.mqttjs import NODE, installed
from interop.clients.paho import Paho
from interop.conftest import House, Scene
from interop.peer import Client, Feature, Way
from support.live import port
from support.programs import program

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/clients.md").read_text()
EXAMPLES = {
    name: (language, code)
    for name, language, code in re.findall(r"^### (\S+)\n\n```(\w+)\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
}


def rows() -> Iterator[str]:
    """As they must stand in the document."""

    def row(what: str, can: Callable[[type[Client]], bool]) -> str:
        return f"| {what} | {' | '.join('yes' if can(client) else 'no' for client in CLIENTS)} |"

    yield row("MQTT 3.1.1", lambda client: 4 in client.versions)
    yield row("MQTT 5", lambda client: 5 in client.versions)
    yield row("`mqtt://`, `mqtts://`", lambda client: {"mqtt", "mqtts"}.issubset(client.schemes))
    yield row("`ws://`, `wss://`", lambda client: {"ws", "wss"}.issubset(client.schemes))
    for feature in Feature:
        yield row(feature.value, lambda client: feature in Way(client, max(client.versions), "").can)  # noqa: B023


def test_what_they_can_is_documented() -> None:
    table = [line for line in DOCUMENT.splitlines() if line.endswith((" yes |", " no |"))]
    assert table == list(rows())


def test_the_versions_tried_are_documented() -> None:
    """All but mosquitto's, which is the system's."""
    [documented] = re.findall(r"^\| version tried \| (.*) \|$", DOCUMENT, re.MULTILINE)
    locked = dict(re.findall(r"^(\S+)==(\S+) ", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    npm = json.loads((ROOT / "tests/interop/mqttjs/package-lock.json").read_text())["packages"]
    paho, aiomqtt, amqtt, _, mqttjs, _ = documented.split(" | ")
    assert (paho, aiomqtt, amqtt) == (locked["paho-mqtt"], locked["aiomqtt"], locked["amqtt"])
    assert mqttjs == npm["node_modules/mqtt"]["version"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def directory(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run: with ca.crt, and for Node.js with MQTT.js."""
    directory = tmp_path_factory.mktemp("examples")
    (directory / "ca.crt").write_bytes((house.broker.settings.certs_path / "ca.crt").read_bytes())
    return directory


def command(language: str, file: Path) -> list[str | Path]:
    """What runs an example."""
    match language:
        case "python":
            return [sys.executable, file]
        case "sh":
            program("mosquitto_pub")
            return ["sh", file]
        case _:
            (file.parent / "node_modules").symlink_to(installed() / "node_modules")
            return [NODE, file.rename(file.with_suffix(".mjs"))]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["client_sdk", "paho", "aiomqtt", "amqtt", "mosquitto", "MQTT.js"])
async def test_the_example_sends(scene: Scene, directory: Path, name: str) -> None:
    language, code = EXAMPLES[name]
    token = await scene.broker.directory.token_issue("acme")
    ada = await scene.join(Way(Paho, 5, "mqtt"), "ada")
    await ada.subscribe("acme/user/ada")
    file = directory / name
    secure = str(port(scene.broker, "mqtts"))
    file.write_text(code.replace("push.example.org", "localhost").replace("8883", secure))
    process = await asyncio.create_subprocess_exec(
        *command(language, file), cwd=directory, env={**os.environ, "TOKEN": token.secret}, stderr=PIPE
    )
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert (await ada.next()).payload == b"Ciao Ada"
