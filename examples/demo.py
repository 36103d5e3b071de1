"""The whole way of a message, with real programs: what `make demo` runs.

    make demo
    .venv/bin/python examples/demo.py --keep     # and leave the directory for a look

A broker with TLS, a kiosk that enrols itself, a brand's server that sends. Everything lives in a throw-away directory
and on a free port, and is stopped and removed at the end. Exit code 0: all of it happened; 1: the step that did not is
shown with what the programs said.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

HERE = Path(__file__).parent
PUSHBROKER = str(Path(sys.executable).with_name("pushbroker"))
WAIT_S_MAX = 30.0
STOP_S_MAX = 10.0
COLOURS = {"broker": "34", "kiosk": "32", "acme": "35", "shell": "36", "title": "1", "quiet": "2"}


class DemoFailed(Exception):
    """A step did not happen."""


class Console:
    """Prints whole lines, from several threads, with colours where a terminal can show them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._steps = 0

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self._colours else text

    def line(self, text: str = "") -> None:
        with self._lock:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def step(self, title: str, *explanation: str) -> None:
        """A numbered heading, and what it means for somebody who sees this for the first time."""
        self._steps += 1
        self.line(f"\n{self.paint(f'{self._steps}. {title}', 'title')}")
        for text in explanation:
            self.line(f"   {text}")

    def said(self, who: str, text: str) -> None:
        """A line of another program."""
        self.line(f"   {self.paint(f'{who:>6} |', who)} {text}")


def brief(line: str) -> str:
    """A line of the broker's log without its time, level and logger; any other line as it is."""
    return re.sub(r"^\S+Z \[\w+ *\] (.*?) +\[\S+\] *", r"\1  ", line)


class Program:
    """A process whose lines are shown as they come, and can be waited for."""

    def __init__(self, console: Console, who: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.who = who
        self.lines: list[str] = []
        self._console = console
        self._seen = 0
        self._news = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._reader = threading.Thread(target=self._read, name=f"reader of {who}")
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            text = line.rstrip()
            self._console.said(self.who, brief(text))
            with self._news:
                self.lines.append(text)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, pattern: str, what: str) -> re.Match[str]:
        """The next line that has `pattern` in it, among those not waited for yet."""
        deadline = time.monotonic() + WAIT_S_MAX
        with self._news:
            while True:
                while self._seen < len(self.lines):
                    self._seen += 1
                    if found := re.search(pattern, self.lines[self._seen - 1]):
                        return found
                if self._ended:
                    raise DemoFailed(f"{self.who} ended before {what}")
                if not self._news.wait(deadline - time.monotonic()):
                    raise DemoFailed(f"{self.who}: not within {WAIT_S_MAX:.0f} s: {what}")

    def stop(self) -> int:
        """Ask it to end (SIGTERM), wait until it has; its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        return self.join(STOP_S_MAX)

    def join(self, seconds: float = WAIT_S_MAX) -> int:
        """Wait until it ends by itself; its exit code. One that does not is killed."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join()
        assert self._process.stdout
        self._process.stdout.close()
        return code


class Demo:
    """The story, and what it needs."""

    def __init__(self, directory: Path) -> None:
        self.console = Console()
        self.programs: list[Program] = []
        self.data = directory / "broker"
        self.kiosk_directory = directory / "kiosk"
        self.ca = self.data / "certs/ca.crt"
        self.url = ""
        self.environment = {**os.environ, "PUSHBROKER_DATA": str(self.data), "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}

    # -- means ---------------------------------------------------------------------------------------------------------

    def start(self, who: str, *command: str, **environment: str) -> Program:
        program = Program(self.console, who, command, {**self.environment, **environment})
        self.programs.append(program)
        return program

    def typed(self, command: str) -> None:
        """Show a command as it would be typed."""
        self.console.line(f"   {self.console.paint('$ ' + command, 'shell')}")

    def pushbroker(self, *arguments: str) -> Any:
        """Run a command, show it, and return its `--json` answer."""
        self.typed(shlex.join(["pushbroker", *arguments]))
        done = subprocess.run(
            [PUSHBROKER, *arguments, "--json"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S_MAX,
            check=False,
        )
        if done.returncode != 0:
            words = f"{done.stdout}{done.stderr}".strip()
            raise DemoFailed(f"pushbroker {' '.join(arguments)} ended with exit code {done.returncode}:\n{words}")
        return json.loads(done.stdout)

    def kiosk(self, *arguments: str) -> Program:
        return self.start(
            "kiosk",
            sys.executable,
            str(HERE / "kiosk.py"),
            "--url",
            self.url,
            "--dir",
            str(self.kiosk_directory),
            *arguments,
        )

    def brand_server(self, token: str, *arguments: str) -> Program:
        """The token travels in the environment: command lines can be read by everyone on the machine."""
        return self.start(
            "acme",
            *(sys.executable, str(HERE / "brand_server.py"), "--url", self.url, "--ca", str(self.ca), *arguments),
            PUSHBROKER_TOKEN=token,
        )

    # -- the story -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        began = time.monotonic()
        self.start_broker()
        code, token = self.make_identities()
        kiosk = self.enrol_kiosk(code)
        self.send_to_kiosk(kiosk, token)
        self.send_while_offline(kiosk, token)
        self.console.step("Stop", "The broker takes leave of its clients, saves everything and ends.")
        for program in reversed(self.programs):
            if (exit_code := program.stop()) != 0:
                raise DemoFailed(f"{program.who} ended with exit code {exit_code}")
        self.console.line(
            f'\nAll of it happened, in {time.monotonic() - began:.0f} s. Next: README.md, from "Five minutes".'
        )

    def start_broker(self) -> None:
        self.console.step("A broker", "It makes its own certificate authority. There is no port without TLS.")
        self.typed(f"export PUSHBROKER_DATA={self.data}")
        self.pushbroker("init")
        self.typed("pushbroker serve --listen mqtts://127.0.0.1:0")
        broker = self.start("broker", PUSHBROKER, "serve", "--listen", "mqtts://127.0.0.1:0")
        port = broker.wait_for(r"ready:.*mqtts://127\.0\.0\.1:(\d+)", "it was ready")[1]
        self.url = f"mqtts://localhost:{port}"

    def make_identities(self) -> tuple[str, str]:
        """A brand, a user, a store, a device; returns the device's code and the brand's token."""
        self.console.step(
            "Who there is", "A brand whose server sends, a user, a store, and her kiosk that stands there."
        )
        self.pushbroker("brand", "add", "acme")
        self.pushbroker("user", "add", "acme", "ada")
        self.pushbroker("store", "add", "acme", "milano")
        token = str(self.pushbroker("brand", "token", "issue", "acme")["secret"])
        self.console.line(f"   {token[:8]}…  lets acme's server in; the broker keeps a hash of it")
        code = str(self.pushbroker("device", "code", "acme", "kiosk-7", "--user", "ada", "--store", "milano")["code"])
        self.console.line(f"   {code}  is good once: somebody types it into the kiosk")
        return code, token

    def enrol_kiosk(self, code: str) -> Program:
        self.console.step(
            "A kiosk enrols",
            "It makes its own key, sends a signing request with the code, and gets a certificate from our authority.",
            "The key stays on the kiosk. From now on the certificate is how it signs in.",
        )
        kiosk = self.kiosk("--ca", str(self.ca), "--code", code)
        kiosk.wait_for("connected", "it was connected")
        return kiosk

    def send_to_kiosk(self, kiosk: Program, token: str) -> None:
        self.console.step(
            "acme sends to ada",
            "Over MQTT and TLS, to the topic acme/user/ada: to every device of hers. Then it waits for the receipt.",
        )
        server = self.brand_server(
            token, "--user", "ada", "--title", "Ciao Ada", "--body", "Your order is ready at the counter."
        )
        kiosk.wait_for("Ciao Ada", "it showed the notification")
        server.wait_for("delivered.*kiosk-7", "the delivered receipt came")
        self.finish(server)

    def send_while_offline(self, kiosk: Program, token: str) -> None:
        self.console.step(
            "The kiosk is switched off, and acme sends again", "The broker accepts the message and keeps it."
        )
        if kiosk.stop() != 0:
            raise DemoFailed("the kiosk did not stop cleanly")
        server = self.brand_server(
            token, "--user", "ada", "--title", "While you were away", "--body", "The store closes at eight today."
        )
        server.wait_for("accepted", "the broker accepted the message")

        self.console.step("The kiosk comes back", "With its certificate alone, no code; what waited for it arrives.")
        kiosk = self.kiosk()
        kiosk.wait_for("While you were away", "it showed what had waited")
        server.wait_for("delivered.*kiosk-7", "the delivered receipt came")
        self.finish(server)

    def finish(self, program: Program) -> None:
        """A program that ends by itself must end well."""
        if (code := program.join()) != 0:
            raise DemoFailed(f"{program.who} ended with exit code {code}")

    # -- its end -------------------------------------------------------------------------------------------------------

    def stop_all(self) -> None:
        for program in reversed(self.programs):
            program.stop()

    def show_failure(self, error: Exception) -> None:
        self.console.line(f"\nThe demo failed: {error}")
        for program in self.programs:
            self.console.line(f"\n--- all that {program.who} said ---")
            for text in program.lines:
                self.console.line(text)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(143)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--keep", action="store_true", help="do not remove the directory at the end")
    keep = parser.parse_args().keep
    signal.signal(signal.SIGTERM, _terminate)
    directory = Path(tempfile.mkdtemp(prefix="pushbroker-demo-"))
    demo = Demo(directory)
    try:
        demo.run()
    except (DemoFailed, subprocess.SubprocessError, OSError) as error:
        demo.stop_all()
        demo.show_failure(error)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        demo.stop_all()
        if keep:
            demo.console.line(f"The directory is still there: {directory}")
        else:
            shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
