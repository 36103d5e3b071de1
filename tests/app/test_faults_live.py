"""A bug behind the sockets: while a client is admitted, and in what goes on beside the loop's rounds."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.engine import until
from support.live import device, populate, port, running, server
from support.mqtt import Client
from support.pki import key_and_csr

from broker.app import Broker
from broker.session import connect
from broker.wire.packets import Connect, Properties, Puback, Publish, Pubrec


class _Bug(Exception):
    pass


def _broken(*_: Any, **__: Any) -> Any:
    raise _Bug


async def _expect_one_error(broker: Broker) -> None:
    """It was counted, and the broker goes on."""
    await until(lambda: broker.core.counters.unexpected_errors == 1)
    client = await server(broker)
    await client.silent()
    broker.core.counters.unexpected_errors = 0


async def test_in_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as broker:
        await populate(broker)
        monkeypatch.setattr(broker.gate, "admit", _broken)
        client = await Client.connected(port(broker), username="acme", password=b"pbt_x", reason=0x88)
        await client.expect_end()
        monkeypatch.undo()
        await _expect_one_error(broker)


async def test_in_admitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as broker:
        await populate(broker)
        token = await broker.directory.token_issue("acme")
        monkeypatch.setattr(connect, "accepted", _broken)
        client = await Client.open(port(broker))
        await client.send(Connect("c", 5, username="acme", password=token.secret.encode()))
        await client.expect_end()
        monkeypatch.undo()
        await _expect_one_error(broker)


@pytest.mark.parametrize("qos", [1, 2])
async def test_in_committing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qos: int) -> None:
    """The publisher is not told of success, nor left without a word, and commits go on."""
    async with running(tmp_path, allow_anonymous=True) as broker:
        away = await Client.connected(port(broker), "away", properties=Properties(session_expiry=1000))
        await away.subscribe("t", qos=1)
        await away.disconnect()
        monkeypatch.setattr(broker.journal, "commit", _broken)
        client = await Client.connected(port(broker))
        await client.send(Publish(b"t", b"refused", qos, packet_id=1))
        answer = await client.receive()
        assert answer is None or (isinstance(answer, Puback | Pubrec) and answer.reason >= 0x80)
        monkeypatch.undo()
        await until(lambda: broker.status()["journal"]["state"] == "ok")
        assert broker.core.counters.unexpected_errors >= 1
        client = await Client.connected(port(broker))
        await client.publish("t", b"accepted", qos=1)
        away = await Client.connected(
            port(broker), "away", clean_start=False, properties=Properties(session_expiry=1000)
        )
        await away.expect_message(b"accepted")
        broker.core.counters.unexpected_errors = 0


async def test_in_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for what was to be read gets it later, on this connection or the next."""
    async with running(tmp_path, allow_anonymous=True) as broker:
        away = await Client.connected(port(broker), "away", properties=Properties(session_expiry=1000))
        await away.subscribe("t", qos=1)
        await away.disconnect()
        client = await Client.connected(port(broker))
        await client.publish("t", b"waits", qos=1)
    async with running(tmp_path, allow_anonymous=True) as broker:
        monkeypatch.setattr(broker.journal, "fetch", _broken)
        again = {"clean_start": False, "properties": Properties(session_expiry=1000)}
        away = await Client.connected(port(broker), "away", **again)
        await until(lambda: broker.core.counters.unexpected_errors)
        monkeypatch.undo()
        other = await Client.connected(port(broker), "other")
        await other.silent()
        if away.reader.at_eof():
            away = await Client.connected(port(broker), "away", **again)
        await away.expect_message(b"waits")
        broker.core.counters.unexpected_errors = 0


async def test_in_signing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked is told that it did not work, and may ask again."""
    async with running(tmp_path) as broker:
        await populate(broker)
        kiosk = await device(broker, "kiosk-7")
        monkeypatch.setattr(broker.directory, "cert_renew", _broken)
        await kiosk.send(Publish(b"$enrol/csr", key_and_csr()[1], 1, packet_id=1))
        packets = [await kiosk.receive(), await kiosk.receive()]
        assert Puback(1) in packets
        answer = next(p for p in packets if isinstance(p, Publish))
        assert json.loads(answer.payload)["error"]
        monkeypatch.undo()
        await _expect_one_error(broker)
