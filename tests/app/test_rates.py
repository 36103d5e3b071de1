"""How much each may do, on a whole broker: devices, servers, addresses; and a broker that has too much to do."""

import time
from pathlib import Path

import msgspec
import pytest
from support.engine import until
from support.live import device, device_context, populate, port, running, server, settings, trusting
from support.mqtt import Client

from broker.address import Listener
from broker.app import Broker
from broker.limits import BURST_S, WRONG_SECRETS_PER_S
from broker.wire.encode import encode
from broker.wire.packets import Connack, Connect, Disconnect, Publish

AT_ONCE = int(BURST_S)  # at one a second
PROXIED = (Listener("mqtt", "127.0.0.1", 0, proxy=("127.0.0.1/32",)),)


async def _announced(broker: Broker, host: str, **fields: object) -> Client:
    """A client for whom a proxy connects."""
    client = await Client.open(broker.listeners[0].port)
    family = "TCP6" if ":" in host else "TCP4"
    here = "::1" if ":" in host else "127.0.0.1"
    await client.send(f"PROXY {family} {host} {here} 1 2\r\n".encode(), Connect("", 5, **fields))  # type: ignore[arg-type]
    return client


# -- connects ----------------------------------------------------------------------------------------------------------


async def test_a_device_that_connects_again_and_again_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, device_connects_per_s=1) as broker:
        await populate(broker)
        context = await device_context(broker, "acme", "kiosk-7")
        at = port(broker, "mqtts")
        for _ in range(AT_ONCE):
            client = await Client.connected(at, "kiosk-7", tls=context)
        await Client.connected(at, "kiosk-7", tls=context, reason=0x9F)
        await Client.connected(at, "kiosk-7", tls=context, version=4, reason=0x88)  # return code 3
        await client.silent()  # the one that is connected stays
        await (await device(broker, "till-3")).silent()
        assert broker.core.counters.connections_refused == 2


async def test_servers_may_connect_as_often_as_they_like(tmp_path: Path) -> None:
    async with running(tmp_path, device_connects_per_s=1) as broker:
        await populate(broker)
        for _ in range(AT_ONCE + 5):
            await server(broker, client_id="crm")


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"),  # a customer has a /64
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"),
    ],
)
async def test_an_address_that_connects_again_and_again_is_closed(
    tmp_path: Path, one: str, same: str, other: str
) -> None:
    more = {"allow_anonymous": True, "allow_anonymous_anywhere": True}
    async with running(tmp_path, listen=PROXIED, address_connects_per_s=1, **more) as broker:
        for _ in range(AT_ONCE):
            await (await _announced(broker, one)).expect(Connack)
        await (await _announced(broker, same)).expect_end()
        await (await _announced(broker, other)).expect(Connack)
        assert broker.core.counters.connections_refused == 1


async def test_who_is_refused_by_its_address_takes_nothing_from_the_others_of_the_listener(tmp_path: Path) -> None:
    listen = (msgspec.structs.replace(PROXIED[0], connects_per_s=2),)
    more = {"allow_anonymous": True, "allow_anonymous_anywhere": True}
    async with running(tmp_path, listen=listen, address_connects_per_s=1, **more) as broker:
        began = time.monotonic()
        for _ in range(AT_ONCE + 8):
            await (await _announced(broker, "192.0.2.1")).receive()
        (listener,) = broker.reactor.listeners
        let_in = broker.core.counters.connections_accepted - broker.core.counters.connections_refused
        assert listener.meter.connects - began == pytest.approx(let_in / 2, abs=time.monotonic() - began)


GUESSES = WRONG_SECRETS_PER_S * int(BURST_S)


async def _guess(broker: Broker, host: str, secret: bytes = b"pbt_wrong") -> int:
    client = await _announced(broker, host, username="acme", password=secret)
    reason = (await client.expect(Connack)).reason
    await client.close()
    return reason


async def test_who_guesses_secrets_is_not_listened_to_for_a_while(tmp_path: Path) -> None:
    """By address, and only what is a guess: a store whose certificates are good comes in beside it."""
    listen = (*PROXIED, Listener("mqtts", "127.0.0.1", 0, proxy=("127.0.0.1/32",)))
    async with running(tmp_path, listen=listen) as broker:
        await populate(broker)
        token = (await broker.directory.token_issue("acme")).secret.encode()
        for n in range(GUESSES):
            assert await _guess(broker, "192.0.2.1") == 0x86
            if n % 10 == 0:
                assert await _guess(broker, "192.0.2.1", token) == 0  # a right one is none
        while await _guess(broker, "192.0.2.1") == 0x86:
            pass  # what came in meanwhile
        assert await _guess(broker, "192.0.2.9") == 0x86
        assert await _guess(broker, "192.0.2.9", token) == 0
        assert await _guess(broker, "192.0.2.1") == 0x9F
        kiosk = await Client.open(port(broker, "mqtts"))
        await kiosk.send(b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n")
        await kiosk.writer.start_tls(await device_context(broker, "acme", "kiosk-7"), server_hostname="localhost")
        await kiosk.send(Connect("kiosk-7", 5))
        assert (await kiosk.expect(Connack)).reason == 0


async def test_guesses_on_many_connections_at_once_all_count(tmp_path: Path) -> None:
    """Each counts before it is looked at, not when it turns out wrong."""
    async with running(tmp_path, listen=PROXIED) as broker:
        await populate(broker)
        clients = [
            await _announced(broker, "192.0.2.1", username="acme", password=b"pbt_wrong") for _ in range(GUESSES + 50)
        ]
        reasons = [(await client.expect(Connack)).reason for client in clients]
        assert reasons.count(0x9F) >= 10
        assert reasons.count(0x86) >= GUESSES


async def test_this_machine_may_connect_as_often_as_it_likes(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True, address_connects_per_s=1) as broker:
        for _ in range(AT_ONCE + 5):
            await Client.connected(port(broker))


# -- messages and bytes ------------------------------------------------------------------------------------------------


async def test_a_device_that_floods_is_read_more_slowly_on_all_its_connections(tmp_path: Path) -> None:
    async with running(tmp_path, device_messages_per_s=20) as broker:
        await populate(broker)
        first, second = await device(broker, "kiosk-7", "a"), await device(broker, "kiosk-7", "b")
        flood = [encode(Publish(b"acme/device/kiosk-7/up/x", b""), 5)] * 150
        await first.send(*flood)
        await second.send(*flood)
        counters = broker.core.counters
        await until(lambda: counters.readings_paused == 2)
        assert 200 < counters.messages_received < 300  # 20 x 10 s, and what a piece of 1 KiB is more
        await (await device(broker, "till-3")).silent()
        await (await server(broker)).silent()


@pytest.mark.parametrize("version", [4, 5])
async def test_what_follows_a_connect_counts_even_if_a_goodbye_follows(tmp_path: Path, version: int) -> None:
    """In one go: CONNECT, a flood, DISCONNECT; and so again and again, as often as it may connect."""
    async with running(tmp_path, device_messages_per_s=20) as broker:
        await populate(broker)
        context = await device_context(broker, "acme", "kiosk-7")
        flood = [encode(Publish(b"acme/device/kiosk-7/up/x", b""), version)] * 150
        for _ in range(10):  # who comes back in its pause has it still
            client = await Client.open(port(broker, "mqtts"), version=version, tls=context)
            goodbye = encode(Disconnect(), version)
            await client.send(b"".join((encode(Connect("kiosk-7", version), version), *flood, goodbye)))
            assert (await client.expect(Connack)).reason == 0
        await until(lambda: broker.core.counters.readings_paused > 0)
        assert 200 < broker.core.counters.messages_received < 300


async def test_servers_may_send_as_much_as_they_like(tmp_path: Path) -> None:
    async with running(tmp_path, device_messages_per_s=1) as broker:
        await populate(broker)
        client = await server(broker)
        await client.send(*[encode(Publish(b"acme/user/ada", b""), 5)] * 500)
        await client.silent()
        assert broker.core.counters.readings_paused == 0


async def test_a_reload_changes_what_those_may_who_are_connected(tmp_path: Path) -> None:
    async with running(tmp_path, device_messages_per_s=1) as broker:
        await populate(broker)
        client = await device(broker, "kiosk-7")
        flood = [encode(Publish(b"acme/device/kiosk-7/up/x", b""), 5)] * 100
        await broker.reload(settings(tmp_path, device_messages_per_s=0))
        await client.send(*flood)
        await client.silent()
        assert broker.core.counters.readings_paused == 0
        await broker.reload(settings(tmp_path, device_messages_per_s=1))
        await client.send(*flood)
        await until(lambda: broker.core.counters.readings_paused == 1)


async def test_a_reload_bounds_those_who_had_no_bound(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await populate(broker)
        client = await server(broker)
        await broker.reload(settings(tmp_path, server_messages_per_s=1))
        await client.send(*[encode(Publish(b"acme/user/ada", b""), 5)] * 100)
        await until(lambda: broker.core.counters.readings_paused == 1)


async def test_the_bounds_of_a_listener_are_in_its_url(tmp_path: Path) -> None:
    bounded = Listener("mqtt", "127.0.0.1", 0, connections_max=1, messages_per_s=10, connects_per_s=100)
    async with running(tmp_path, listen=(bounded,), allow_anonymous=True) as broker:
        (actual,) = broker.listeners
        assert broker.status()["listeners"] == [msgspec.structs.replace(bounded, port=actual.port).url]
        client = await Client.connected(actual.port)
        second = await Client.open(actual.port)
        await second.expect_end()
        await client.send(*[encode(Publish(b"x", b""), 5)] * 300)
        await until(lambda: broker.core.counters.readings_paused == 1)


# -- overload ----------------------------------------------------------------------------------------------------------


async def test_an_overloaded_broker_lets_nobody_new_in_and_serves_the_others(tmp_path: Path) -> None:
    async with running(tmp_path, allow_anonymous=True) as broker:
        here = await Client.connected(port(broker), "here")
        await here.subscribe("t")
        broker.reactor.overload_lag_s = -1  # from now on it is always late
        await until(lambda: broker.status()["overloaded"])
        await Client.connected(port(broker), "new", reason=0x89)
        await Client.connected(port(broker), "new", version=4, reason=0x88)  # return code 3
        await Client.connected(port(broker, "mqtts"), "new", tls=trusting(broker), reason=0x89)
        await here.publish("t", b"x")
        await here.expect_message(b"x")
        broker.reactor.overload_lag_s = 60
        await until(lambda: not broker.status()["overloaded"])
        await Client.connected(port(broker), "new")
        assert broker.core.counters.overloads == 1
