"""`make demo` as a newcomer runs it: real processes, TLS, a free port, a throw-away directory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[1] / "examples/demo.py"
WAIT_S_MAX = 100


def run(temporary: Path) -> subprocess.Popen[str]:
    temporary.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(DEMO)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
    )


def test_the_demo_shows_the_whole_way(short_path: Path) -> None:
    with run(short_path) as demo:
        output, _ = demo.communicate(timeout=WAIT_S_MAX)
    assert demo.returncode == 0, output
    # In this order; what two programs say at the same moment may come either way, so each has its own list.
    story = {
        "kiosk": ["enrolled as acme/device/kiosk-7", "Ciao Ada", "Your order is ready", "While you were away"],
        "acme": ["accepted", "delivered", "accepted", "delivered"],
        "broker": ["ready: mqtts://127.0.0.1:", "stopped"],
    }
    for who, expected in story.items():
        lines = [line for line in output.splitlines() if line.strip().startswith(f"{who} |")]
        for words in expected:
            while lines and words not in lines[0]:
                lines.pop(0)
            assert lines, f"{who} never said {words!r}, or not in this order:\n{output}"
            lines.pop(0)
    assert list(short_path.iterdir()) == []


def test_a_demo_that_fails_says_why(short_path: Path) -> None:
    """In a directory whose name is too long for the admin socket the broker cannot start."""
    temporary = short_path / ("x" * 100)
    with run(temporary) as demo:
        output, _ = demo.communicate(timeout=WAIT_S_MAX)
    assert demo.returncode == 1, output
    assert "The demo failed" in output
    assert "admin.sock" in output
    assert list(temporary.iterdir()) == []


def test_a_demo_that_is_stopped_leaves_nothing(short_path: Path) -> None:
    """Its programs too: the suite fails when a process is left behind."""
    with run(short_path) as demo:
        assert demo.stdout
        for line in demo.stdout:
            if "connected" in line:
                demo.send_signal(signal.SIGTERM)
                break
        demo.communicate(timeout=WAIT_S_MAX)
    assert demo.returncode == 143
    assert list(short_path.iterdir()) == []
