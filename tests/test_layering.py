"""The arrows between the rooms, and their purity: read from the source, so that no import can hide in a function."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each room may import besides itself. A module directly in broker/ is a room of its own.
BASE = {"address", "counters", "errors", "identity", "journal", "limits", "message"}
BELOW_APP = BASE | {"wire", "route", "session", "store", "trust", "listen", "bridge", "watch", "config"}
ARROWS = {
    **dict.fromkeys(BASE, BASE),
    "wire": BASE,
    "route": BASE | {"wire"},
    "session": BASE | {"wire", "route"},
    "store": BASE | {"wire"},
    "trust": BASE | {"store"},
    "listen": BASE | {"wire", "route", "session"},
    "bridge": BASE | {"wire", "route", "session", "store"},
    "pull": BASE | {"wire", "route", "session", "store", "bridge"},
    "links": BASE | {"wire", "route", "session", "store", "client_sdk"},
    "watch": BASE,
    "config": BASE,
    "admission": BELOW_APP,
    "bench": {"errors"},  # it measures all the others from outside
    "committer": BASE | {"wire", "route", "session"},
    "app": BELOW_APP | {"admission", "committer", "links", "pull"},
    "admin": BELOW_APP | {"app", "links", "pull"},
    "command": BELOW_APP | {"app", "admin", "bench", "client_sdk", "pull"},
    "client_sdk": set(),
    "__init__": set(),
    "__main__": {"command"},
}

# Rooms in which the clock, the network and the disk are arguments: fast to test, to fuzz and to compile.
PURE = {"wire", "route", "session"}
IMPURE = {
    "aiosqlite", "asyncio", "concurrent", "datetime", "multiprocessing", "select", "selectors", "signal", "socket",
    "sqlite3", "ssl", "subprocess", "threading", "time",
}  # fmt: skip

# Where the name to install is not the name to import.
DISTRIBUTIONS = {"paho": "paho-mqtt", "argon2": "argon2-cffi", "yaml": "pyyaml", "Stemmer": "pystemmer"}


def sources() -> list[Path]:
    return sorted([*ROOT.glob("broker/**/*.py"), *ROOT.glob("client_sdk/**/*.py")])


def room_of(module: str) -> str:
    """`broker.wire.packets` → `wire`; `broker` → `__init__`; `client_sdk.device` → `client_sdk`."""
    parts = module.split(".")
    if parts[0] == "broker":
        return parts[1] if len(parts) > 1 else "__init__"
    return parts[0]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(module: str, source: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of each import, wherever in the module it stands, relative ones resolved."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*package[: len(package) - node.level + 1], node.module or ""] if node.level else [node.module or ""]
            )
            base = base.rstrip(".")
            # `from broker import wire` names a room; `from broker.wire import packets` is in one already.
            rooms = [f"broker.{a.name}" for a in node.names if base == "broker" and a.name in ARROWS]
            yield from ((node.lineno, name) for name in rooms or [base])


def offences(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Every import of `module` that goes against an arrow or is not pure."""
    room = room_of(module)
    found = []
    for line, name in imports(module, source, is_package=is_package):
        top = name.split(".")[0]
        if top in ("broker", "client_sdk"):
            target = room_of(name)
            if room == "client_sdk" and top == "broker":
                found.append(f"{module}:{line} imports {name}, but client_sdk imports nothing of broker")
            elif target not in (room, "__init__") and target not in ARROWS[room]:
                found.append(f"{module}:{line} imports {name}, but {room} may not import {target}")
        elif room in PURE and top in IMPURE:
            found.append(f"{module}:{line} imports {name}, but {room} is pure")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_against_an_arrow(path: Path) -> None:
    module = module_of(path)
    assert room_of(module) in ARROWS, f"{module} is a new room: say in ARROWS what it may import"
    assert offences(module, path.read_text(), is_package=path.name == "__init__.py") == []


def test_there_is_something_to_check() -> None:
    assert {"errors", "wire", "command", "client_sdk"} <= {room_of(module_of(p)) for p in sources()}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("broker.wire.decode", "from broker.session import window"),
        ("broker.wire.decode", "import broker.store.journal"),
        ("broker.wire.decode", "def f():\n    import time"),
        ("broker.session.window", "from time import monotonic"),
        ("broker.session.window", "from ..listen import reactor"),
        ("broker.session.window", "from broker import listen"),
        ("broker.route.tree", "import socket as s"),
        ("broker.errors", "import broker.wire"),
        ("broker.listen.reactor", "from broker.store.journal import Journal"),
        ("broker.app", "from broker.command import main"),
        ("broker.app", "from broker.bench.run import Plan"),
        ("broker.bench.load", "from broker.wire.packets import Publish"),
        ("broker.trust.gate", "from client_sdk import Device"),
        ("client_sdk.device", "from broker.errors import Failed"),
        ("client_sdk.device", "import broker"),
    ],
)
def test_the_check_sees_a_wrong_import(module: str, source: str) -> None:
    assert len(offences(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("broker.wire.decode", "from broker.wire.packets import Publish\nfrom . import packets\nimport struct"),
        ("broker.session.window", "from broker.wire.packets import Publish\nfrom ..route import tree"),
        ("broker.listen.reactor", "import ssl, time, asyncio\nfrom broker.session.window import Window"),
        ("broker.command.send", "from client_sdk import Brand\nfrom broker.app import Broker"),
        ("broker.command", "from broker import __version__"),
    ],
)
def test_the_check_lets_a_right_import_pass(module: str, source: str) -> None:
    assert offences(module, source) == []


def test_the_broker_sends_no_connect_of_its_own() -> None:
    """3.1.1 [MQTT-7.0.0-1] would want it to conform as a client, too.

    It only reads CONNECT; a link presents itself to our own core with one that is never encoded. To other brokers links
    and the command line go with the SDK, that is with paho.
    """
    makers = {
        module_of(path)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Connect"
    }
    assert makers == {"broker.wire.decode", "broker.links.near"}
    assert {room for room, below in ARROWS.items() if "client_sdk" in below} == {"command", "links"}


def declared() -> dict[str, set[str]]:
    """What pyproject.toml declares: '' is the plain install, the rest are its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: {re.split(r"[<>=\[;~!]", line)[0].strip() for line in lines} for extra, lines in lists.items()}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_declared_packages_are_imported(path: Path) -> None:
    """The SDK runs with the plain install alone; the broker with its other extras, never with `dev`."""
    extras = declared()
    module = module_of(path)
    allowed = (
        extras[""]
        if room_of(module) == "client_sdk"
        else extras[""] | extras["server"] | extras["amqtt"] | extras["bench"]
    )
    names = {name.split(".")[0] for _, name in imports(module, path.read_text(), is_package=path.name == "__init__.py")}
    foreign = names - set(sys.stdlib_module_names) - {"broker", "client_sdk"}
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= allowed
