"""Runs of `pushbroker` that do not start Python first: a process that has imported it all forks for each of them.

Each is a process of its own as ever, with its own arguments, environment and files; only the 0.3 s are saved that
Python and its libraries take to be there. This file is that process, too, when it is run.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence

_REQUEST_MAX = 200_000
_lock = threading.Lock()
_running: "tuple[socket.socket, subprocess.Popen[bytes]] | None" = None


def run(args: Sequence[str], stdin: str, env: Mapping[str, str], timeout_s: float) -> tuple[int, str, str]:
    """Run a command to its end: its exit code, what it wrote to stdout, what it wrote to stderr."""
    request = json.dumps({"args": args, "env": dict(env), "cwd": os.getcwd()}).encode()  # noqa: PTH109 - for chdir
    with _lock, tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        ours = _started()
        ours.settimeout(timeout_s)
        socket.send_fds(ours, [request], [given.fileno(), out.fileno(), err.fileno()])
        pid = int(ours.recv(100))
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


def _serve(theirs: socket.socket) -> None:
    """Fork for each request; returns in the child, which then is the command."""
    while True:
        request, fds, _, _ = socket.recv_fds(theirs, _REQUEST_MAX, 3)
        if not request:
            os._exit(0)
        pid = os.fork()
        if not pid:
            break
        for fd in fds:
            os.close(fd)
        theirs.send(str(pid).encode())
        theirs.send(str(os.waitpid(pid, 0)[1]).encode())
    theirs.close()
    wanted = json.loads(request)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    sys.argv = ["pushbroker", *wanted["args"]]


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory, where modules have names that others have, too
    import gc
    import importlib

    from broker.command import main
    from broker.command.root import COMMANDS

    for _name in (*(f"command.{name}" for name in COMMANDS), "admin.client", "admin.direct"):
        importlib.import_module(f"broker.{_name}")
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    main()
