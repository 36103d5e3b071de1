"""What can be set, typed or found is documented, and the documents point at things that exist."""

import re
import tomllib
from pathlib import Path

import click
import pytest

from broker.command import root
from broker.config import SETTINGS, Setting

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path for path in ROOT.glob("**/*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose_and_code(text: str) -> tuple[str, list[str]]:
    """A document without its fenced code, and that code."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), blocks


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", prose_and_code(path.read_text())[0], flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def row(setting: Setting) -> str:
    default = f"`{setting.default_text}`" if setting.default_text else ""
    return f"| `{setting.name}` | {setting.type_name} | {default} | {setting.sentence} |"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_documented_as_it_is(setting: Setting) -> None:
    assert row(setting) in (ROOT / "docs/configuration.md").read_text().splitlines()


def test_no_setting_is_documented_that_does_not_exist() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ", (ROOT / "docs/configuration.md").read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(setting.name for setting in SETTINGS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_and_code(document.read_text())[0]):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_paths_in_the_code_exist(document: Path) -> None:
    """`broker/wire/decode.py`, where a document names it, is a file of this repository."""
    named = re.findall(
        r"`((?:broker|client_sdk|examples|tests|systemd|scripts|docs|certs)/[\w./-]*)`", document.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def unknown_words(line: str) -> list[str]:
    """What the CLI does not know in the words behind `pushbroker`."""
    command: click.Command = root.pushbroker
    for word in line.split():
        if isinstance(command, click.Group) and re.fullmatch(r"[a-z-]*[a-z]", word) and not word.startswith("-"):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return [f"{command.name} {word}"]
            command = found
        elif flag := re.match(r"--[a-z-]+", word):
            parameters = command.get_params(click.Context(command))
            options = [option for option in parameters if isinstance(option, click.Option)]
            if flag[0] not in {"--help", *(name for o in options for name in (*o.opts, *o.secondary_opts))}:
                return [f"{command.name} {flag[0]}"]
    return []


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_commands_in_the_documents_exist(document: Path) -> None:
    """Every `pushbroker NOUN VERB --flag` in a document is one that the CLI knows."""
    start = r"(?:^(?:\$ )?|`(?:\$ )?|; |&& |\| |bin/|sudo )"
    lines = re.findall(start + r"pushbroker ([^`\n|>#;]*)", document.read_text(), flags=re.MULTILINE)
    assert [word for line in lines for word in unknown_words(line)] == []


@pytest.mark.parametrize(
    "line", ["brant add acme", "brand ad acme", "device code acme kiosk-7 --usr ada", "serve --lisen x"]
)
def test_the_check_sees_a_command_that_does_not_exist(line: str) -> None:
    assert unknown_words(line) != []


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        name
        for path in DOCUMENTS
        for name in re.findall(r"(?:^|`|\$ )make ([a-z-]+)", path.read_text(), flags=re.MULTILINE)
    }
    assert named - targets == set()
    assert {"demo", "test"} <= named


def test_the_first_screen_of_the_readme_has_both_commands() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:30])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_the_lock_files_fit_pyproject() -> None:
    """All that is declared is locked, with hashes and no address of an index; a server gets the same versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked, server = (locked_versions(ROOT / name) for name in ("requirements.lock", "requirements-server.lock"))
    declared = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    names = {re.split(r"[<>=\[;~!]", line)[0].strip() for line in declared}
    assert names - set(locked) == {"pushbroker"}
    assert server.items() <= locked.items()
    assert "pytest" not in server


def locked_versions(path: Path) -> dict[str, str]:
    text = path.read_text()
    assert "://" not in text
    entries = re.findall(
        r"^([a-z0-9-]+)==(\S+).*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, flags=re.MULTILINE
    )
    assert len(entries) == len(re.findall(r"^\w", text, flags=re.MULTILINE))
    return {name: version for name, version, _ in entries}
