"""Ordinary clients beside an attack: one publishes, one receives, at QoS 1, in a process of their own.

    PYTHONPATH=tests python -m hostile.witness PORT

A message is published 200 times a second, whether or not the earlier ones have arrived, and its round trip is taken
from when it was due until both the receiver had it and the publisher its PUBACK: a broker that stands still for a
second has 200 late messages and not one. For each line on stdin it waits until all is answered, and says what it saw
since the last time, in seconds, as JSON. A message that is lost or out of order, or a connection that ends, ends it.
"""

import contextlib
import gc
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hostile.packets import connect, publish, subscribe

PER_S = 200
LAST_S = 20.0  # so long it waits for the last one
TOPIC = b"witness/round"
PUBLISH = publish(TOPIC, bytes(8), 1, packet_id=1)
ID_AT = len(PUBLISH) - 10


class Witness:
    """The clients, for as long as `with` lasts."""

    def __init__(self, port: int) -> None:
        self._command = [sys.executable, "-m", "hostile.witness", str(port)]

    def __enter__(self) -> Self:
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", "the witness cannot connect"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def tell(self) -> list[float]:
        """The round trips since the last time, in seconds. Nothing was lost."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        assert said, "the witness has lost its connection, or a message"
        took: list[float] = json.loads(said)
        return took


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all values do not exceed; 0 of none."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def main() -> None:
    """Measure until stdin ends."""
    gc.disable()
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # that the attacker is busy is not what it measures
    port = int(sys.argv[1])
    receiver = _connected(port, b"witness-r", subscribe([TOPIC], 1), answer=9)
    sender = _connected(port, b"witness-s", b"", answer=4)
    print("ready", flush=True)
    while True:
        print(json.dumps(_measure(sender, receiver)), flush=True)


def _connected(port: int, client_id: bytes, more: bytes, answer: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=LAST_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(connect(client_id, keep_alive=0) + more)
    got = b""
    while len(got) < answer:
        got += sock.recv(answer - len(got))
    return sock


def _measure(sender: socket.socket, receiver: socket.socket) -> list[float]:
    received: list[float] = []
    acknowledged: list[float] = []
    sent, rest = 0, b""
    asking = True
    began = time.monotonic()
    while asking or len(received) < sent or len(acknowledged) < sent:
        due = began + sent / PER_S
        wait_s = max(0.0, due - time.monotonic()) if asking else LAST_S
        ready, _, _ = select.select([sender, receiver, sys.stdin] if asking else [sender, receiver], [], [], wait_s)
        now = time.monotonic()
        if sender in ready:
            acknowledged += [now] * (len(_received(sender)) // 4)
        if receiver in ready:
            rest += _received(receiver)
            while len(rest) >= len(PUBLISH):
                number = int.from_bytes(rest[len(PUBLISH) - 8 : len(PUBLISH)], "big")
                if number != len(received):
                    sys.exit(f"{number} instead of {len(received)}")
                receiver.sendall(b"\x40\x02" + rest[ID_AT : ID_AT + 2])
                received.append(now)
                rest = rest[len(PUBLISH) :]
        if not ready and not asking:
            sys.exit(f"{sent} sent, {len(acknowledged)} acknowledged, {len(received)} received")
        if asking and sys.stdin in ready:
            if not sys.stdin.readline():
                sys.exit()
            asking = False
        while asking and time.monotonic() >= began + sent / PER_S:
            sender.sendall(PUBLISH[:ID_AT] + struct.pack(">HQ", sent % 60000 + 1, sent))
            sent += 1
    return [
        max(one, other) - (began + nth / PER_S)
        for nth, (one, other) in enumerate(zip(received, acknowledged, strict=True))
    ]


def _received(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        sys.exit("a connection was closed")
    return data


if __name__ == "__main__":
    main()
