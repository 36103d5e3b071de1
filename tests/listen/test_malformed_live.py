"""Every malformed packet of the table, sent to a live broker: the right answer, and nobody else is touched."""

import pytest
from support.engine import Engine
from support.mqtt import Client
from wire.cases import CASES
from wire.notation import Case

from broker.wire.codes import V5
from broker.wire.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Request,
)

GOOD = [case for case in CASES if case.packet is not None]
BAD = [case for case in CASES if case.packet is None]  # what only servers send is malformed all the same
CONNECTS = [case for case in BAD if case.wire[0] >> 4 == 1]
LATER = [case for case in BAD if case.wire[0] >> 4 != 1]


async def _witness(engine: Engine) -> Client:
    witness = await Client.connected(engine.port, "witness")
    await witness.subscribe("witness/#", qos=1)
    return witness


async def _unharmed(engine: Engine, witness: Client) -> None:
    await witness.publish("witness/1", b"still here")
    assert (await witness.expect_message()).payload == b"still here"
    assert engine.counters.unexpected_errors == 0
    await witness.close()


@pytest.mark.parametrize("case", CONNECTS, ids=lambda case: case.id)
async def test_connect(engine: Engine, case: Case) -> None:
    """[MQTT-3.1.4-1]: closed, and told why in one of CONNACK's reason codes [MQTT-3.2.2-8] where it speaks MQTT 5.

    [MQTT-3.1.2-3].
    """
    witness = await _witness(engine)
    client = await Client.open(engine.port, version=case.version)
    await client.send(case.wire)
    level5 = case.wire[2:8] == b"\0\4MQTT" and len(case.wire) > 8 and case.wire[8] & 0x7F >= V5
    if level5 or (case.reason == 0x84 and case.wire[4:].startswith((b"MQTT", b"MQIsdp"))):
        client.version = 5 if level5 else 4
        assert (await client.expect(Connack)).reason == case.reason
    await client.expect_end()
    await client.close()
    assert engine.counters.protocol_errors == 1
    await _unharmed(engine, witness)


@pytest.mark.parametrize("case", LATER, ids=lambda case: case.id)
async def test_in_a_session(engine: Engine, case: Case) -> None:
    """[MQTT-4.13.1-1, MQTT-4.13.2-1]: closed, and told with what reason.

    3.1.1 [MQTT-4.8.0-1].
    """
    witness = await _witness(engine)
    client = await Client.connected(engine.port, "bad", version=case.version)
    await client.send(case.wire)
    await client.expect_end(case.reason if case.version == V5 else None)
    await client.close()
    assert engine.counters.protocol_errors == 1
    await _unharmed(engine, witness)


WRONG_FIRST = [case for case in GOOD if not isinstance(case.packet, Connect)]


@pytest.mark.parametrize("case", WRONG_FIRST, ids=lambda case: case.id)
async def test_before_connect(engine: Engine, case: Case) -> None:
    """[MQTT-3.1.0-1]: closed without an answer, as no version was agreed on."""
    client = await Client.open(engine.port, version=case.version)
    await client.send(case.wire)
    await client.expect_end()
    await client.close()
    assert engine.counters.protocol_errors == 1


FROM_SERVER = [case for case in GOOD if case.direction == "server" or isinstance(case.packet, Connect)]


@pytest.mark.parametrize("case", FROM_SERVER, ids=lambda case: case.id)
async def test_only_before_or_only_from_a_server(engine: Engine, case: Case) -> None:
    """A second CONNECT [MQTT-3.1.0-2], and what only servers send."""
    client = await Client.connected(engine.port, "wrong", version=case.version)
    await client.send(case.wire)
    await client.expect_end(0x82 if case.version == V5 else None)
    await client.close()


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("packet", [Puback(7), Pubcomp(7)], ids=lambda packet: type(packet).__name__)
async def test_acknowledgement_of_nothing(engine: Engine, packet: Packet, version: int) -> None:
    """§4.4: a client may acknowledge what we have forgotten; there is nothing to do."""
    client = await Client.connected(engine.port, version=version)
    await client.send(packet)
    await client.silent()
    await client.close()


@pytest.mark.parametrize("version", [4, 5])
async def test_unknown_release_and_reception(engine: Engine, version: int) -> None:
    """§4.3.3: PUBREL and PUBREC of unknown ids are answered, so that the other side can go on."""
    client = await Client.connected(engine.port, version=version)
    not_found = 0x92 if version == V5 else 0
    await client.send(Pubrel(7))
    assert await client.expect(Pubcomp) == Pubcomp(7, not_found)
    await client.send(Pubrec(8))
    assert await client.expect(Pubrel) == Pubrel(8, not_found)
    await client.close()


@pytest.mark.parametrize(("qos", "wrong"), [(1, Pubrec), (2, Puback), (2, Pubcomp)])
async def test_wrong_acknowledgement(engine: Engine, qos: int, wrong: type[Packet]) -> None:
    client = await Client.connected(engine.port, "receiver")
    await client.subscribe(Request("t", qos))
    await client.publish("t", b"x", qos=0)
    publisher = await Client.connected(engine.port, "publisher")
    await publisher.publish("t", b"y", qos=qos)
    assert (await client.expect_message(b"x")).qos == 0
    message = await client.expect_message(b"y", acknowledge=False)
    assert message.qos == qos
    await client.send(wrong(message.packet_id))  # type: ignore[call-arg]
    await client.expect_end(0x82)
    await client.close()
    await publisher.close()


async def test_disconnect_ends_silently(engine: Engine) -> None:
    client = await Client.connected(engine.port)
    await client.send(Disconnect())
    await client.expect_end()
    await client.close()
    assert engine.counters.protocol_errors == 0


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    "length",
    ["80 00", "82 00", "82 80 00", "82 80 80 00", "80 80 80 80 01", "FF FF FF FF 7F"],
)
async def test_remaining_length(engine: Engine, length: str, version: int) -> None:
    """[MQTT-1.5.5-1]: in its shortest form, and four bytes at most."""
    client = await Client.connected(engine.port, version=version)
    await client.send(b"\xc0" + bytes.fromhex(length) + bytes(3))
    await client.expect_end(0x81 if version == V5 else None)
    await client.close()
