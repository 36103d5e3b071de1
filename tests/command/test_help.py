"""Help, examples, reference, start-up: what holds for every command."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.cli import PUSHBROKER, pushbroker

from broker.admin.operations import OPERATIONS
from broker.admin.reach import BROKER_ONLY
from broker.command.base import Command
from broker.command.root import COMMANDS, SECTIONS
from broker.command.root import pushbroker as root

ROOT = Path(__file__).parents[2]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))
        else:
            yield (*path, name), found


ALL = dict(commands(root))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_and_examples_that_parse(path: tuple[str, ...]) -> None:
    command = ALL[path]
    assert isinstance(command, Command)
    first, _, _ = (command.help or "").partition("\n")
    assert first.endswith("."), "the first line of the help is one sentence"
    assert command.examples
    ours = [part for example in command.examples for part in split_pipe(example) if part.startswith("pushbroker ")]
    assert any(part.startswith(f"pushbroker {' '.join(path)}") for part in ours)
    for part in ours:
        words = shlex.split(part.split(" (")[0].split(" > ")[0])
        context = root.make_context("pushbroker", words[1:], resilient_parsing=True)
        found, rest = resolve(words[1:])
        assert found is not None, part
        # Not resilient: unknown options and missing arguments are errors. Files need not be there.
        for parameter in found.get_params(context):
            if isinstance(parameter.type, click.Path):
                parameter.type.exists = False
        found.make_context(" ".join(path), rest).close()


def split_pipe(example: str) -> list[str]:
    return [part.strip() for part in re.split(r"[|]|\$\(", example.replace(')"', ""))]


def resolve(words: list[str]) -> tuple[click.Command | None, list[str]]:
    command: click.Command | None = root
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command, words = command.get_command(click.Context(command), words[0]), words[1:]
    return command, words


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_of_each_option(path: tuple[str, ...]) -> None:
    context = click.Context(ALL[path])
    for parameter in ALL[path].get_params(context):
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_the_sections_have_all_commands() -> None:
    modules = {
        path.stem
        for path in (ROOT / "broker/command").glob("*.py")
        if "command =" in path.read_text() or "def command(" in path.read_text()
    }
    assert modules - {"reference", "root"} == set(COMMANDS)
    assert len(COMMANDS) == sum(len(names) for names in SECTIONS.values())


def test_help_starts_quickly() -> None:
    """Nothing heavy is imported for help: that is what keeps it under 150 ms, on any machine."""
    code = (
        "import sys; sys.argv = ['pushbroker', '--help']\n"
        "from broker.command import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "asyncio",
        "rich",
        "aiohttp",
        "cryptography",
        "structlog",
        "msgspec",
        "sqlite3",
        "ssl",
        "http.client",
        "paho",
    }
    assert heavy & set(done.stderr.split()) == set()


def test_without_the_server_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None\nfrom broker.command import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'pushbroker[server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_commands_get_a_suggestion() -> None:
    done = pushbroker("usr", "list")
    assert done.code == 2
    assert "Did you mean 'user'?" in done.err
    assert "Did you mean 'list'?" in pushbroker("brand", "lst").err


def test_version() -> None:
    assert re.fullmatch(r"pushbroker \d+\.\d+\.\d+\S*\n", pushbroker("--version").out)


def test_the_reference_in_the_docs_is_what_the_commands_say() -> None:
    assert (ROOT / "docs/cli.md").read_text() == pushbroker("reference").out, "pushbroker reference > docs/cli.md"


def test_operations_that_need_a_broker() -> None:
    """The client's short list, which spares it an import, is that of the table."""
    assert {name for name, operation in OPERATIONS.items() if operation.needs_broker} == BROKER_ONLY


def test_every_operation_is_used_by_a_command() -> None:
    source = "".join(path.read_text() for path in (ROOT / "broker/command").glob("*.py"))
    others = ("device.revoke", "device.remove", "inbox.typing")  # typing is for screens that see each key
    unused = {name for name in OPERATIONS if f'"{name}"' not in source and name not in others}
    assert unused == set()


def remedies() -> list[tuple[str, str]]:
    """The commands that errors tell to type, wherever in the sources they stand."""
    found = []
    for path in sorted(path for folder in ("broker", "client_sdk") for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text()
        quoted = [
            " ".join(re.findall("[a-z]+", call)) for call in re.findall(r'_command\(((?:"[a-z]+"(?:, )?)+)', text)
        ]
        typed = re.findall(r"pushbroker ((?:[a-z]+(?:-[a-z]+)* ?)+)", text)
        found += [(path.name, words) for words in quoted + typed if words.split()[0] in COMMANDS]
    return sorted(set(found))


@pytest.mark.parametrize(("file", "words"), remedies())
def test_remedies_are_commands(file: str, words: str) -> None:
    command: click.Command | None = root
    for word in words.split():
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(command), word)
        assert command is not None, f"{file}: pushbroker {words}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = pushbroker("completion", shell)
    assert done.code == 0
    assert "_PUSHBROKER_COMPLETE" in done.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.out, text=True, check=True)


def complete(line: str, **env: str) -> list[str]:
    words = line.split(" ")
    done = subprocess.run(
        [PUSHBROKER],
        capture_output=True,
        text=True,
        check=True,
        env={
            "PATH": "/usr/bin:/bin",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            "_PUSHBROKER_COMPLETE": "bash_complete",
            **env,
        },
    )
    return [entry.partition(",")[2] for entry in done.stdout.split()]


def test_completion_of_commands() -> None:
    assert complete("pushbroker us") == ["user"]
    assert complete("pushbroker brand token is") == ["issue"]
    assert complete("pushbroker send --ti") == ["--title"]


def test_completion_without_records_is_empty(tmp_path: Path) -> None:
    assert complete("pushbroker brand show ", PUSHBROKER_DATA=str(tmp_path / "none")) == []
