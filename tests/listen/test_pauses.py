"""Whatever makes a connection not be read for a while, at whatever byte: nothing is lost, doubled or out of order."""

import asyncio
import random
import socket
from typing import Any

import pytest
from support.engine import Engine, until
from support.mqtt import Client
from support.pki import Pki
from support.web import WebClient, frame

from broker.identity import ANONYMOUS, Role
from broker.listen import connection, rates, reactor
from broker.listen.rates import Rates
from broker.listen.websocket import WebRules
from broker.session import channel as channels
from broker.session import connect, core
from broker.session.channel import ASKING, Channel
from broker.wire.encode import encode
from broker.wire.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Suback,
    Subscribe,
    Will,
)

MESSAGES = 150


def _script(dice: random.Random) -> tuple[list[Packet], list[tuple[type, int]]]:
    """What a client sends after CONNECT, and what it is answered, by packet id; messages for itself not counted."""
    packets: list[Packet] = [Subscribe(1, [Request("t", 0)])]
    answers: list[tuple[type, int]] = [(Suback, 1)]
    for n in range(MESSAGES):
        body = b"%d " % n + dice.randbytes(dice.choice((0, 3, 100, 1100, 5000, 17_000)))
        qos = dice.randrange(3)
        packets.append(Publish(b"t", body, qos, packet_id=n + 2 if qos else 0))
        if qos == 1:
            answers.append((Puback, n + 2))
        elif qos == 2:
            packets.append(Pubrel(n + 2))
            answers += [(Pubrec, n + 2), (Pubcomp, n + 2)]
        if dice.random() < 0.2:
            packets.append(Pingreq())
            answers.append((Pingresp, 0))
    return packets, answers


def _cut(dice: random.Random, data: bytes) -> list[bytes]:
    pieces = []
    while data:
        size = dice.choice((1, 5, 700, 4000, 16_384, 60_000))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("web", [False, True], ids=["mqtt", "websocket"])
async def test_pauses_change_nothing(
    engine: Engine, pki: Pki, monkeypatch: pytest.MonkeyPatch, web: bool, tls: bool, seed: int
) -> None:
    """Admission that takes its time, rates, turns, questions, a slow reader; and a goodbye right behind."""
    dice = random.Random(f"{seed} {web} {tls}")
    loop = asyncio.get_running_loop()
    witness = await Client.connected(engine.port, "witness")
    await witness.subscribe("t", "gone")
    monkeypatch.setattr(rates, "BURST_S", 0.005)
    monkeypatch.setattr(connection, "PIECE_BYTES", dice.choice((13, 200, 1024)))
    monkeypatch.setattr(connection, "UNREAD_MAX", dice.choice((2, 4096)))
    monkeypatch.setattr(connection, "SEND_BYTES", dice.choice((17_000, 65_536)))
    monkeypatch.setattr(core, "TURN_WORK_MAX", dice.choice((5, 20_000)))
    monkeypatch.setattr(channels, "OWN_WORK_MIN", 0)
    monkeypatch.setattr(reactor, "OPTIONS", ((socket.SOL_SOCKET, socket.SO_SNDBUF, 4096),))

    def let_in(channel: Channel) -> None:
        connect.accepted(channel, ANONYMOUS)
        if channel.session is not None:
            engine.reactor.allow(channel, Role.ANONYMOUS)
        channel.resume()

    def admit(channel: Channel, packet: Connect) -> None:
        if packet.username is None:
            let_in(channel)
            return
        channel.pause()
        loop.call_later(dice.random() / 50, engine.reactor.run, lambda: let_in(channel), channel)

    monkeypatch.setattr(engine.core, "admit", admit)
    rate = dice.choice((Rates(), Rates(messages=5000), Rates(bytes=8_000_000)))
    port = engine.listen((lambda: pki.context) if tls else None, web=WebRules() if web else None, rates=rate)
    kind = WebClient if web else Client
    version = dice.choice((4, 5))
    client = await kind.open(port, version=version, tls=pki.client() if tls else None)
    packets, answers = _script(dice)
    late = dice.random() < 0.5  # in being looked up
    will = Will(b"gone", b"")
    first = Connect("c", version, username="u" if late else None, keep_alive=60, clean_start=True, will=will)
    data = b"".join(encode(packet, version) for packet in (first, *packets))
    goodbye = encode(Disconnect(), version)

    def ask() -> None:
        """A question is put, and answered a little later."""
        for one in list(engine.reactor.connections.values()):
            if one.session is not None and one.session.client_id == "c" and one.reading:
                one.held |= ASKING
                one.pause()
                loop.call_later(dice.random() / 200, engine.reactor.run, lambda one=one: answered(one))

    def answered(one: Any) -> None:
        one.held &= ~ASKING
        one.resume()

    async def send() -> None:
        for piece in _cut(dice, data):
            await client.send(piece)
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() / 200)
            if dice.random() < 0.2:
                ask()

    async def read() -> None:
        bodies = []
        await asyncio.sleep(dice.random() / 5)
        assert (await client.expect(Connack)).reason == 0
        left = list(answers)
        while left or len(bodies) < MESSAGES:
            packet = await client.receive()
            if isinstance(packet, Publish):
                bodies.append(packet.payload)
            else:
                assert (type(packet), getattr(packet, "packet_id", 0)) == left.pop(0)
            if dice.random() < 0.05:
                await asyncio.sleep(dice.random() / 50)
        assert bodies == sent

    sent = [packet.payload for packet in packets if isinstance(packet, Publish)]
    await asyncio.gather(send(), read())
    for body in sent:
        assert (await witness.expect_message()).payload == body
    # Once more, without a look at the answers, and gone at once.
    again = [Publish(b"t", b"%d" % n, 0) for n in range(MESSAGES)]
    flood = b"".join(encode(packet, version) for packet in again)
    ask()
    await client.send(flood + goodbye)
    if web and dice.random() < 0.5:
        client.raw.write(frame(8, b"\x03\xe8"))  # type: ignore[attr-defined]
    for packet in again:
        assert (await witness.expect_message()).payload == packet.payload
    await until(lambda: len(engine.reactor.connections) == 1)
    await witness.silent()
    assert engine.counters.wills_published == 0
    assert sum(listener.connections for listener in engine.reactor.listeners) == 1
