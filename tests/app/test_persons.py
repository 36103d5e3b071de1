"""All that is known of a person: what an export has in it."""

import asyncio
import json
from pathlib import Path
from typing import Any

from support.live import populate, running
from support.person import NAME, PHONE, WORDS, make

from broker.admin.operations import Context, stream
from broker.app import Broker
from broker.command.root import run


async def exported(broker: Broker, name: str) -> dict[str, list[dict[str, Any]]]:
    context = Context(broker.settings, broker.directory, broker)
    parts = [part async for part in await stream(context, "user.export", {"brand": "acme", "name": name})]
    sections: dict[str, list[dict[str, Any]]] = {name: [] for name in parts[0]["sections"]}
    for part in parts[1:-1]:
        sections[part["section"]] += part["rows"]
    assert parts[-1]["counts"] == {name: len(rows) for name, rows in sections.items()}
    return sections


async def test_all_that_is_known_is_exported(broker: Broker, tmp_path: Path) -> None:
    await make(broker)
    known = await exported(broker, NAME)
    text = json.dumps(known, ensure_ascii=False)
    assert [word for word in WORDS if word not in text] == []
    assert {row["state"] for row in known["recipients"]} == {"delivered", "sent"}
    assert [row["event"] for row in known["events"]] == ["delivered"]
    assert [(row["author"], row["text"]) for row in known["entries"]] == [
        ("customer", "fragewort"),
        ("note", "notizwort"),
    ]
    assert {row["topic"] for row in known["log"]} >= {f"acme/user/{NAME}"}
    assert known["conversations"][0]["opened_at"].endswith("Z")
    assert [row["name"] for row in known["sessions"]] == [PHONE]
    empty = {section for section, rows in known.items() if not rows}
    assert empty <= {"passwords", "stopped", "untold", "decisions", "outbox", "commands", "configurations", "facts",
                     "certificates", "codes", "presence", "in_flight"}  # fmt: skip
    others = await exported(broker, "ada")
    assert [word for word in (*WORDS, PHONE) if word in json.dumps(others)] == []


async def test_the_command_writes_a_private_file_without_a_broker_too(tmp_path: Path, capsys: Any) -> None:
    data, file = tmp_path / "data", tmp_path / "zelda.json"
    async with running(data) as broker:
        await populate(broker)
        await make(broker)
    command = ["user", "export", "acme", NAME, "--output", str(file), "--data", str(data)]
    assert await asyncio.to_thread(run, command) == 0, capsys.readouterr().err
    assert file.stat().st_mode & 0o777 == 0o600
    document = json.loads(file.read_text())
    assert (document["format"], document["version"], document["name"]) == ("pushbroker/person", 1, NAME)
    assert document["user"][0]["title"] == "Zelda-Titel"
    assert [entry["text"] for entry in document["entries"]] == ["fragewort", "notizwort"]
    assert document["facts"] == []
    assert [path.name for path in tmp_path.iterdir() if "zelda" in path.name] == ["zelda.json"]
