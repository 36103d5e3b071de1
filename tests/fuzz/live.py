"""A real broker in a process of its own, and clients that say what clients say, damaged.

Each conversation follows from the seed and its number. What must hold: clients that behave are served all the time, the
broker meets no error that it did not expect, its memory stays bounded, and it stops when it is told to.
"""

import asyncio
import random
import re
import socket
import struct
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from support.cli import Serving, serving
from support.mqtt import Client
from support.web import BINARY, frame, request
from wire.cases import CASES

from broker.admin import client as admin
from broker.wire.codes import V4, V5
from broker.wire.encode import encode
from broker.wire.packets import (
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Properties,
    Puback,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Subscribe,
    Unsubscribe,
    Will,
)

AT_ONCE = 8
MORE_MEMORY_MIB_MAX = 200
_ANSWER_S = 20
_FRAGMENTS = [case.wire for case in CASES if len(case.wire) < 300 and case.direction != "server"]


class Broker:
    """`pushbroker serve` that lets everybody in, over TCP and WebSocket."""

    def __init__(self, process: Serving, data: Path) -> None:
        self.process = process
        self.admin = data / "admin.sock"
        self.tcp, self.web = (int(port) for port in re.findall(r":(\d+)\b", process.first_line)[:2])
        self.memory_at_first = self.memory_mib

    @property
    def memory_mib(self) -> int:
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None, "it is gone"
        return int(found[1]) >> 10


def conversation(chance: random.Random) -> bytes:
    """What a client sends from CONNECT on, in one piece."""
    version = chance.choice((V4, V5))
    v5 = version == V5
    name = f"c{chance.randrange(20)}"
    will = Will(b"w", b"gone", chance.randrange(3)) if chance.random() < 0.3 else None
    expiry = Properties(session_expiry=chance.choice((0, 1, 60))) if v5 else Properties()
    packets: list[Packet] = [Connect(name, version, chance.random() < 0.5, 60, will=will, properties=expiry)]
    for id in range(1, chance.randrange(2, 12)):
        topic, qos = chance.choice(("a", "a/b", "b", "x" * 50)), chance.randrange(3)
        filter_ = chance.choice(("a", "#", "a/+", "$share/g/a", "+/b"))
        properties = Properties(topic_alias=1, user_properties=[("k", "v")]) if v5 else Properties()
        packets.append(
            chance.choice(
                (
                    Publish(
                        topic.encode(), chance.randbytes(30), qos, chance.random() < 0.2, packet_id=id if qos else 0
                    ),
                    Publish(topic.encode(), b"p", 1, packet_id=id, properties=properties),
                    Subscribe(id, [Request(filter_, qos)]),
                    Unsubscribe(id, [filter_]),
                    chance.choice((Puback, Pubrec, Pubrel))(chance.randrange(1, 5)),
                    Pingreq(),
                )
            )
        )
    if chance.random() < 0.5:
        packets.append(Disconnect(4 if v5 and chance.random() < 0.3 else 0))
    return b"".join(encode(packet, version) for packet in packets)


def damaged(chance: random.Random, data: bytes) -> bytes:
    """Something else."""
    out = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        at = chance.randrange(len(out) + 1)
        length = chance.choice((1, 2, 4, 20))
        match chance.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                out[at:at] = chance.randbytes(length)
            case 2:
                del out[at : at + length]
            case 3:
                out[at:at] = out[at : at + length]
            case 4:
                out[at:at] = chance.choice(_FRAGMENTS)
            case 5:
                del out[at:]
            case _:
                out[at : at + length] = chance.choice((b"\xff", b"\0", b"\x80")) * length
    return bytes(out)


async def _converse(broker: Broker, chance: random.Random) -> None:
    """One conversation: over TCP, over WebSocket, or on the admin socket; to its end, or broken off."""
    data = damaged(chance, conversation(chance))
    way = chance.random()
    if way < 0.1:
        body = damaged(chance, b'{"brand": "acme", "name": "x"}')
        operation = chance.choice(("brand.add", "status", "user.list", "tail", "send", "x"))
        head = f"POST /v1/{operation} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        opened = asyncio.open_unix_connection(broker.admin)
        data = head.encode() + body
    elif way < 0.4:
        opened = asyncio.open_connection("127.0.0.1", broker.web)
        cut = chance.randrange(1, len(data) + 1) if data else 0
        frames = frame(BINARY, data[:cut]) + frame(BINARY, data[cut:])
        data = request("/mqtt") + (damaged(chance, frames) if chance.random() < 0.5 else frames)
    else:
        opened = asyncio.open_connection("127.0.0.1", broker.tcp)
    reader, writer = await opened
    try:
        with suppress(ConnectionError):
            at = 0
            while at < len(data):
                length = chance.choice((1, 7, 100, len(data)))
                writer.write(data[at : at + length])
                await writer.drain()
                at += length
            if chance.random() < 0.3:
                linger = struct.pack("ii", 1, 0)  # reset
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            else:
                with suppress(OSError):  # it has been closed already
                    writer.write_eof()
                async with asyncio.timeout(_ANSWER_S):
                    while await reader.read(65536):
                        pass
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _witness(broker: Broker, payload: bytes) -> None:
    """Two who do all right hear of each other. At QoS 0: the queues of those who are away may be full."""
    client, sender = await Client.connected(broker.tcp, "witness"), await Client.connected(broker.tcp, "sender")
    await client.subscribe("witness/#", qos=1)
    await sender.publish("witness/1", payload)
    assert (await client.expect_message()).payload == payload
    await client.disconnect()
    await sender.disconnect()


async def _run(broker: Broker, seed: int, numbers: Sequence[int], progress: Callable[[int], bool]) -> int:
    done = 0
    for first in range(0, len(numbers), AT_ONCE):
        batch = numbers[first : first + AT_ONCE]
        await asyncio.gather(*(_converse(broker, random.Random(f"{seed} {number}")) for number in batch))
        done += len(batch)
        if first % (AT_ONCE * 8) == 0:
            await _witness(broker, b"%d" % first)
            assert broker.memory_mib < broker.memory_at_first + MORE_MEMORY_MIB_MAX, f"{broker.memory_mib} MiB"
        if not progress(done):
            break
    await _witness(broker, b"last")
    return done


def run(seed: int, count: int, progress: Callable[[int], bool] = lambda _: True) -> int:
    """So many conversations, at most, with a broker of their own. Returns how many there were."""
    with tempfile.TemporaryDirectory(prefix="pb-") as directory:
        data = Path(directory)
        listen = ("--listen", "mqtt://127.0.0.1:0", "--listen", "ws://127.0.0.1:0/mqtt")
        flags = ("--data", data / "data", *listen, "--allow-anonymous")
        with serving(*flags, PUSHBROKER_ADMIN_SOCKET=str(data / "admin.sock")) as process:
            broker = Broker(process, data)
            done = asyncio.run(_run(broker, seed, range(count), progress))
            counters = admin.call(broker.admin, "status", {})["counters"]
            code, log = process.stop()
        assert counters["unexpected_errors"] == 0, log
        assert code == 0, f"it stopped with {code}\n{log}"
        for wrong in ("Traceback", "unexpected", "operation failed"):
            assert wrong not in log, log
    return done
