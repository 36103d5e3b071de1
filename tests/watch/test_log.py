"""The log: JSON lines or text on stderr, from structlog and from the standard library alike."""

import json
import subprocess
import sys

CODE = """
import logging, structlog
from broker.watch import log
log.set_up({level!r}, {form!r})
structlog.get_logger("pushbroker.x").info("client connected", client="kiosk-7")
logging.getLogger("other").warning("from %s", "elsewhere")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("pushbroker.x").exception("a bug")
"""


def run(level: str, form: str) -> list[str]:
    code = CODE.format(level=level, form=form)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_lines() -> None:
    connected, elsewhere, bug = (json.loads(line) for line in run("info", "json"))
    assert connected["event"] == "client connected"
    assert connected["client"] == "kiosk-7"
    assert connected["level"] == "info"
    assert connected["logger"] == "pushbroker.x"
    assert connected["timestamp"].endswith("Z")
    assert elsewhere["event"] == "from elsewhere"
    assert "ZeroDivisionError" in bug["exception"]


def test_text_and_level() -> None:
    lines = run("warning", "text")
    assert "from elsewhere" in lines[0]
    assert not any("client connected" in line for line in lines)
    assert any("ZeroDivisionError" in line for line in lines)
