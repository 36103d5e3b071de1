"""What one client, one brand or one clock could do to all others, tried on a whole broker."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from support.engine import until
from support.live import BOTH, device, device_context, port, running, server, settings
from support.mqtt import Client

from broker.address import Listener
from broker.app import Broker
from broker.errors import Failed, Refused
from broker.identity import Role
from broker.trust.directory import Directory, open_directory
from broker.wire.packets import Connect, Properties, Publish

KEEPS = {"clean_start": False, "properties": Properties(session_expiry=1000)}


# -- time --------------------------------------------------------------------------------------------------------------


async def test_a_token_that_ends_ends_its_connections(broker: Broker) -> None:
    token = await broker.directory.token_issue("acme", ttl_s=2)
    fields = {"username": "acme", "password": token.secret.encode()}
    short = await Client.connected(port(broker), "short", keep_alive=0, **fields)
    lasting = await server(broker)
    await short.expect_end(0xA0)
    await lasting.silent()
    await Client.connected(port(broker), "short", reason=0x86, **fields)


# -- open mode ---------------------------------------------------------------------------------------------------------


async def test_a_reload_cannot_open_what_listens_to_all(tmp_path: Path) -> None:
    """Addresses change with a restart only, so it counts where the broker does listen, not where it would."""
    async with running(tmp_path) as broker:
        everywhere = (Listener("mqtt", "0.0.0.0", 1883),)
        broker.settings = msgspec.structs.replace(broker.settings, listen=everywhere)
        with pytest.raises(Refused):
            await broker.reload(settings(tmp_path, listen=BOTH, allow_anonymous=True))
        await broker.reload(settings(tmp_path, listen=BOTH))
        with pytest.raises(Refused):
            await broker.reload(settings(tmp_path, listen=BOTH, allow_anonymous=True))
        await Client.connected(port(broker), reason=0x87)


async def test_sessions_of_open_mode_end_when_it_does(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True) as broker:
        inside = await Client.connected(port(broker), "inside", **KEEPS)
        await inside.subscribe("#", qos=1)
    async with running(tmp_path) as broker:
        assert not broker.core.sessions
        assert broker.status()["subscriptions"] == 0


# -- what was changed while nobody ran ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["revoke", "remove", "brand"])
async def test_what_was_taken_away_while_the_broker_was_down(tmp_path: Path, how: str) -> None:
    """The sessions of who is gone are gone, too: a successor of the same name must not find what waited for it."""
    async with running(tmp_path) as broker:
        await broker.directory.brand_add("acme")
        await broker.directory.device_code("acme", "kiosk-7")
        await broker.directory.device_code("acme", "till-3")
        for name in ("kiosk-7", "till-3"):
            client = await device(broker, name, **KEEPS)
            await client.subscribe(f"acme/device/{name}", qos=1)
        sender = await server(broker, client_id="crm", **KEEPS)
        await sender.subscribe("acme/#", qos=1)
    async with open_directory(tmp_path, trust_domain="pushbroker.local") as directory:
        await _take_away(directory, how)
    gone = {
        "revoke": {"acme/device/kiosk-7\nkiosk-7"},
        "remove": {"acme/device/kiosk-7\nkiosk-7"},
    }
    everybody = {"acme/device/kiosk-7\nkiosk-7", "acme/device/till-3\ntill-3", "acme/server/server\ncrm"}
    async with running(tmp_path) as broker:
        assert set(broker.core.sessions) == everybody - gone.get(how, everybody)
        assert broker.core.counters.wills_published == 0


async def _take_away(directory: Directory, how: str) -> None:
    match how:
        case "revoke":
            await directory.device_revoke("acme", "kiosk-7")
        case "remove":
            await directory.device_remove("acme", "kiosk-7")
        case _:
            await directory.brand_remove("acme")


# -- what a stranger learns and costs ----------------------------------------------------------------------------------


async def test_our_troubles_are_not_told_to_those_who_enrol(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths and commands of our machine are for the log."""
    code = await broker.directory.device_code("acme", "kiosk-9")

    async def full(*_: object) -> None:
        raise Failed("there is no room left for /var/lib/pushbroker/records.db", remedy="df -h /var/lib/pushbroker")

    monkeypatch.setattr(broker.directory, "enrol", full)
    enrolling = await Client.connected(port(broker), username="enrol", password=code.code.encode())
    await enrolling.send(Publish(b"$enrol/csr", b"csr"))
    answer = (await enrolling.expect(Publish)).payload
    assert b"/var/lib" not in answer
    assert b"error" in answer


async def test_those_who_hang_up_are_not_looked_up(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of wrong tokens waits for the store in one line with everybody else; who has left it costs no more."""
    gate = broker.gate
    holding, let_go, asked = asyncio.Event(), asyncio.Event(), []
    admit = gate.admit

    async def counted(presented: object) -> object:
        asked.append(presented)
        holding.set()
        await let_go.wait()
        return await admit(presented)  # type: ignore[arg-type]

    monkeypatch.setattr(gate, "admit", counted)
    monkeypatch.setattr("broker.admission.ADMISSIONS_MAX", 3)
    clients = []
    for _ in range(3):
        clients.append(await Client.open(port(broker)))
        await clients[-1].send(Connect("x", 5, username="acme", password=b"pbt_wrong"))
    await until(lambda: len(asked) == 3)
    await Client.connected(port(broker), username="acme", password=b"pbt_wrong", reason=0x89)
    let_go.set()
    await clients[0].receive()
    await clients[1].receive()
    await clients[2].receive()
    await Client.connected(port(broker), username="acme", password=b"pbt_wrong", reason=0x86)


async def test_certificates_end_their_connections_with_them(broker: Broker) -> None:
    """What is told to the core is the end of the proof, whichever it is."""
    context = await device_context(broker, "acme", "kiosk-7")
    kiosk = await Client.connected(port(broker, "mqtts"), "k", tls=context)
    (session,) = broker.reactor.sessions()
    assert session.channel is not None
    left = session.channel.until - broker.core.now
    assert 364 * 86400 < left < 366 * 86400
    sender = await server(broker)
    channels = {s.identity.role: s.channel for s in broker.reactor.sessions()}
    assert channels[Role.SERVER] is not None
    assert not channels[Role.SERVER].until
    await kiosk.silent()
    await sender.silent()
