"""Our own broker as a process, and its identities through the CLI: what an operator would type."""

import json
import os
import re
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

from support import forked


class OurBroker:
    """TLS on a port that stays the same when it is stopped and started."""

    def __init__(self, data: Path) -> None:
        self.data = data
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self.url = f"mqtts://localhost:{self.port}"
        self.ca = data / "certs/ca.crt"
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[str] = []
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        process = self._process = forked.Process(
            ["serve", "--data", self.data, "--listen", f"mqtts://127.0.0.1:{self.port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ,
        )
        ready = threading.Event()

        def read() -> None:
            assert process.stdout
            for line in process.stdout:
                self._lines.append(line)
                if re.match("ready:", line):
                    ready.set()
            ready.set()

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        assert ready.wait(20)
        assert process.poll() is None, self.log

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(20) == 0, self.log
            self._ended()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._ended()

    def _ended(self) -> None:
        assert self._reader
        assert self._process
        self._reader.join(10)
        assert self._process.stdout
        self._process.stdout.close()
        self._process = None

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def command(self, *arguments: str) -> Any:
        """Run `pushbroker …` on this broker's data and return its JSON."""
        env = {"PATH": "/usr/bin:/bin", "PUSHBROKER_DATA": str(self.data)}
        code, out, err = forked.run([*arguments, "--json"], "", env, 30)
        assert code == 0, out + err
        return json.loads(out)
