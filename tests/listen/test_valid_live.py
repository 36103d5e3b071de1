"""Every valid packet of the table that a client may send, sent to a live broker: its answer, and what becomes of it."""

import pytest
from support.engine import Engine
from support.mqtt import Client
from wire.cases import CASES
from wire.notation import Case

from broker.limits import TOPIC_ALIASES_MAX
from broker.wire.codes import SERVER_ONLY, V5
from broker.wire.packets import (
    Auth,
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
    Unsuback,
    Unsubscribe,
)

VALID = [case for case in CASES if case.packet is not None and case.direction in ("client", "both")]
VERSIONS = pytest.mark.parametrize("version", [4, 5])


def of(version: int, *kinds: type[Packet]) -> list[Case]:
    """The cases of these packets; there are some."""
    found = [case for case in VALID if case.version == version and isinstance(case.packet, kinds)]
    assert {type(case.packet) for case in found} == set(kinds)
    return found


def may(request: Request) -> bool:
    """Whether anybody may subscribe to that."""
    return not request.filter.startswith("$SYS")


def answers(packet: Packet | None, v5: bool) -> list[Packet]:
    """What a session that has nothing under way, and subscribed to nothing, is told."""
    not_found = 0x92 if v5 else 0
    match packet:
        case Publish(qos=1):
            return [Puback(packet.packet_id, 0x10 if v5 else 0)]  # no matching subscribers
        case Publish(qos=2):
            return [Pubrec(packet.packet_id, 0x10 if v5 else 0)]
        case Pubrec():
            return [Pubrel(packet.packet_id, not_found)]
        case Pubrel():
            return [Pubcomp(packet.packet_id, not_found)]
        case Subscribe():
            refused = 0x87 if v5 else 0x80
            return [Suback(packet.packet_id, [r.qos if may(r) else refused for r in packet.requests])]
        case Unsubscribe():
            return [Unsuback(packet.packet_id, [0x11] * len(packet.filters) if v5 else [])]
        case Pingreq():
            return [Pingresp()]
    return []


def end(packet: Packet | None) -> int | None:
    """The reason for which the connection ends; None: it does not."""
    if isinstance(packet, Publish) and packet.properties.subscription_ids:
        return 0x82  # only a server sends those [MQTT-3.3.4-6]
    if isinstance(packet, Publish) and packet.properties.topic_alias is not None:
        if packet.properties.topic_alias > TOPIC_ALIASES_MAX:
            return 0x94
        return None if packet.topic else 0x82  # an alias that was not set
    return None


@VERSIONS
async def test_in_a_session(engine: Engine, version: int) -> None:
    """One connection for all; what a case leaves is taken back. Ids come back as they were [MQTT-2.2.1-5, -6]."""
    client = await Client.connected(engine.port, "valid", version=version)
    kinds = [Publish, Puback, Pubrec, Pubrel, Pubcomp, Subscribe, Unsubscribe, Pingreq]
    for case in of(version, *kinds):
        await client.send(case.wire)
        reason = end(case.packet)
        if reason is not None:
            await client.expect_end(reason)
            await client.close()
            client = await Client.connected(engine.port, "valid", version=version)
            continue
        for answer in answers(case.packet, version == V5):
            assert await client.receive() == answer, case.id
        if isinstance(case.packet, Subscribe):
            requests = case.packet.requests
            await client.send(Unsubscribe(9, [request.filter for request in requests]))
            gone = [0 if may(request) else 0x11 for request in requests]
            assert await client.receive() == Unsuback(9, gone if version == V5 else []), case.id
        if isinstance(case.packet, Publish) and case.packet.qos == 2:
            await client.send(Pubrel(case.packet.packet_id))
            assert await client.receive() == Pubcomp(case.packet.packet_id), case.id
        await client.silent()
    await client.close()
    assert engine.counters.protocol_errors == sum(end(case.packet) is not None for case in of(version, Publish))


@VERSIONS
async def test_connect(engine: Engine, version: int) -> None:
    """[MQTT-3.1.4-5, MQTT-3.2.2-1, -8]: each is let in, but for what we do not have, or what has no room."""
    for case in of(version, Connect):
        packet = case.packet
        assert isinstance(packet, Connect)
        client = await Client.open(engine.port, version=packet.version)
        await client.send(case.wire)
        if packet.properties.maximum_packet_size == 1:
            await client.expect_end()
        else:
            answer = await client.expect(Connack)
            refusal = 0
            if packet.properties.auth_method is not None:
                refusal = 0x8C
            elif packet.version < V5 and not packet.client_id and not packet.clean_start:
                refusal = 0x85
            assert answer.reason == refusal, case.id
            if refusal:
                await client.expect_end()
            else:
                assert not answer.session_present
                assert bool(answer.properties.assigned_client_id) == (packet.version == V5 and not packet.client_id)
                await client.silent()
                await client.send(Disconnect())
                await client.expect_end()
        await client.close()
    assert engine.counters.protocol_errors == 0


@VERSIONS
async def test_disconnect(engine: Engine, version: int) -> None:
    """[MQTT-3.14.4-1, -2]: nothing is answered, and the connection is closed."""
    errors = 0
    for case in of(version, Disconnect):
        assert isinstance(case.packet, Disconnect)
        client = await Client.connected(engine.port, version=version)
        await client.send(case.wire)
        # Some reasons are for servers (§3.14.2.1); and that the session ends with the connection cannot be changed now.
        wrong = case.packet.reason in SERVER_ONLY or bool(case.packet.properties.session_expiry)
        await client.expect_end(0x82 if wrong else None)
        await client.close()
        errors += wrong
    assert engine.counters.protocol_errors == errors


async def test_auth(engine: Engine) -> None:
    """§4.12: nobody has agreed on a method."""
    cases = of(V5, Auth)
    for case in cases:
        client = await Client.connected(engine.port)
        await client.send(case.wire)
        await client.expect_end(0x82)
        await client.close()
    assert engine.counters.protocol_errors == len(cases)


def test_no_packet_is_left_out() -> None:
    kinds = {type(case.packet) for case in VALID}
    assert kinds == {
        *(Publish, Puback, Pubrec, Pubrel, Pubcomp, Subscribe, Unsubscribe, Pingreq),
        *(Connect, Disconnect, Auth),
    }
