"""The five minutes of the README, typed as they stand there: only port, directories and code are other ones."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WAIT_S_MAX = 60


def tour() -> dict[str, str]:
    """Each step's commands, by the bold words before them."""
    text = (ROOT / "README.md").read_text().partition("## Five minutes")[2].partition("\n## ")[0]
    steps = re.findall(
        r"^\*\*(.+?)\*\*[^`]*(?:`[^`]+`[^`]*)*?\n\n```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL
    )
    return dict(steps)


class Typist:
    """Types commands into a shell."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.replaced = {"8883": str(port), "/tmp/kiosk-7": str(directory / "kiosk-7")}
        self.replaced |= {f"/tmp/{name}": str(directory / name) for name in ("offer.json", "content.json")}
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PUSHBROKER_DATA": str(directory / "broker"),
            "PYTHONUNBUFFERED": "1",
        }

    def words(self, commands: str) -> str:
        for word, other in self.replaced.items():
            commands = commands.replace(word, other)
        return commands

    def run(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.words(commands)],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WAIT_S_MAX,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, command: str) -> Iterator["Output"]:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {self.words(command)}"],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output = Output(process)
        try:
            yield output
        finally:
            process.terminate()
            process.wait(WAIT_S_MAX)
            output.close()


class Output:
    """What a program says, to be waited for; and the way to type something into it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()

    def wait_for(self, words: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: any(words in line for line in self.lines), WAIT_S_MAX), self.lines

    def type(self, words: str) -> None:
        print(words, file=self._process.stdin, flush=True)

    def close(self) -> None:
        self._reader.join()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture
def typist(short_path: Path, free_port: int) -> Typist:
    return Typist(short_path, free_port)


def test_the_five_minutes_of_the_readme(typist: Typist) -> None:
    steps = tour()
    send, by_hand = steps["Send"], steps["As a brand's server"]
    kiosk_first = steps["The kiosk"].strip()
    kiosk_again = re.sub(r" --code CODE", "", kiosk_first)
    with typist.running(steps["The broker"].strip()) as broker:
        broker.wait_for("ready")
        typist.replaced["CODE"] = typist.run(steps["Who there is"]).split()[-1]
        with typist.running(kiosk_first) as kiosk:
            kiosk.wait_for("connected")
            typist.run(send)
            kiosk.wait_for("Ciao Ada")
            kiosk.wait_for("We close in ten minutes.")
            assert "acme" in typist.run(steps["Or to whom a condition says"])
            kiosk.wait_for("Cake at four.")
            assert "Nine to six, ada." in typist.run(steps["A customer asks"])
            kiosk.type("when are you open?")
            kiosk.wait_for("Nine to six, ada.")
        typist.run(send)
        with typist.running(kiosk_again) as kiosk:
            kiosk.wait_for("Ciao Ada")
            assert "delivered" in typist.run(by_hand)
            # `tail` follows until it is stopped, and what `doctor` says of this machine is not our matter.
            typist.run("\n".join(line for line in steps["Look"].splitlines() if not re.search("tail|doctor", line)))
            typist.run(steps["Lock a device out"])
            kiosk.wait_for("offline")
