"""What every test gets: nothing is skipped silently in CI, and nothing is left running behind the suite."""

import ctypes
import os
import socket
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from support import forked

_PR_SET_CHILD_SUBREAPER = 36
_LEFTOVERS_GRACE_S = 5.0


# -- a skip is a failure in CI -----------------------------------------------------------------------------------------


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") == "true" and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped with CI=true, but: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


# -- nothing is left behind --------------------------------------------------------------------------------------------


def _running_children() -> list[str]:
    """Our child processes that still run, as 'pid command line'."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # pid (command) state ppid ...: the command may hold anything, a ')' too.
            state, ppid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == os.getpid() and state != "Z":
                found.append(f"{entry.name} {(entry / 'cmdline').read_text().replace(chr(0), ' ').strip()}")
        except OSError:
            continue  # it ended meanwhile
    return found


def _running_threads() -> list[str]:
    """Threads that would keep the interpreter from ending."""
    return [t.name for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail the last test when a process or a thread outlives the suite.

    As a subreaper we become the parent of what a child of ours leaves behind, so that it is found, too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = set(_running_children()) | set(_running_threads())
    yield
    forked.stop()
    deadline = time.monotonic() + _LEFTOVERS_GRACE_S
    while True:
        left = (set(_running_children()) | set(_running_threads())) - before
        if not left:
            return
        if time.monotonic() > deadline:
            pytest.fail("left running behind the suite: " + "; ".join(sorted(left)))
        time.sleep(0.05)


# -- small help --------------------------------------------------------------------------------------------------------


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago, for programs that cannot take port 0 and say what they got."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Like `tmp_path`, but short enough for the Unix sockets in it: 107 bytes are all that their names may have."""
    with tempfile.TemporaryDirectory(prefix="pb-") as directory:
        yield Path(directory)
