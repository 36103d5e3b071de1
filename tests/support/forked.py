"""Runs of `pushbroker` that do not start Python first: a process that has imported it all forks for each of them.

Each is a process of its own as ever, with its own arguments, environment and files; only the 0.5 s are saved that
Python and its libraries take to be there. This file is that process, too, when it is run.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

_REQUEST_MAX = 200_000
_lock = threading.Lock()
_running: "tuple[socket.socket, subprocess.Popen[bytes]] | None" = None


def run(args: Sequence[str], stdin: str, env: Mapping[str, str], timeout_s: float) -> tuple[int, str, str]:
    """Run a command to its end: its exit code, what it wrote to stdout, what it wrote to stderr."""
    with _lock, tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        ours = _started()
        ours.settimeout(timeout_s)
        pid = _forked(ours, args, env, [given.fileno(), out.fileno(), err.fileno()], orphan=False)
        try:
            status = int(ours.recv(100))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            ours.recv(100)
            raise
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode().replace("\r\n", "\n"))
        return os.waitstatus_to_exitcode(status), texts[0], texts[1]


class Process(subprocess.Popen[str]):
    """A command that goes on beside the test, as `subprocess.Popen` has it: args without the program's name."""

    def __init__(self, args: Sequence[object], *, env: Mapping[str, str], stdout: Any, stderr: Any) -> None:
        super().__init__([str(arg) for arg in args], env=env, stdout=stdout, stderr=stderr, text=True)

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        # All of what Popen does, but for fork and exec: pipes are made before this, and closed by what this calls.
        env, pipes = rest[5], rest[9:15]
        stdin, _, _, stdout, _, stderr = pipes
        with open(os.devnull) as nothing, _lock:  # noqa: PTH123 - a descriptor
            fds = [nothing.fileno() if stdin == -1 else stdin, stdout, stderr]
            self.pid = _forked(_started(), args, env, fds, orphan=True)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def stop() -> None:
    """End the process that forks, if there is one."""
    global _running  # noqa: PLW0603 - one for all tests of a worker
    if _running is not None:
        _running[0].close()
        _running[1].wait(10)
        _running = None


def _started() -> socket.socket:
    global _running  # noqa: PLW0603
    if _running is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        _running = ours, process
    return _running[0]


def _forked(ours: socket.socket, args: Sequence[str], env: Mapping[str, str], fds: list[int], *, orphan: bool) -> int:
    """The process id of a command. An orphan is the child of who asks, who is a subreaper (conftest.py)."""
    request = {"args": args, "env": dict(env), "cwd": os.getcwd(), "orphan": orphan}  # noqa: PTH109 - for chdir
    socket.send_fds(ours, [json.dumps(request).encode()], fds)
    return int(ours.recv(100))


def _serve(theirs: socket.socket) -> None:
    """Fork for each request; returns in the child, which then is the command."""
    while True:
        request, fds, _, _ = socket.recv_fds(theirs, _REQUEST_MAX, 3)
        if not request:
            os._exit(0)
        wanted = json.loads(request)
        if wanted["orphan"]:
            pid = _orphan()
            if not pid:
                break
            theirs.send(str(pid).encode())
        else:
            pid = os.fork()
            if not pid:
                break
            theirs.send(str(pid).encode())
            theirs.send(str(os.waitpid(pid, 0)[1]).encode())
        for fd in fds:
            os.close(fd)
    theirs.close()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    sys.argv = ["pushbroker", *wanted["args"]]
    random.seed()


def _orphan() -> int:
    """Fork a process whose parent ends at once: its id, or 0 in it."""
    read, write = os.pipe()
    parent = os.fork()
    if not parent:
        pid = os.fork()
        if pid:
            os.write(write, str(pid).encode())
            os._exit(0)
        os.close(read)
        os.close(write)
        return 0
    os.close(write)
    os.waitpid(parent, 0)
    pid = int(os.read(read, 100))
    os.close(read)
    return pid


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory, where modules have names that others have, too
    import gc
    import importlib

    from broker.command import main
    from broker.command.root import COMMANDS

    for _name in (*(f"command.{name}" for name in COMMANDS), "admin.client", "admin.direct", "command.service"):
        importlib.import_module(f"broker.{_name}")
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    main()
