"""mosquitto_pub and mosquitto_sub: what most people try first."""

import asyncio
from asyncio.subprocess import PIPE, Process

import pytest
from interop.conftest import Address
from support.engine import until
from support.programs import program

VERSIONS = ["mqttv311", "mqttv5"]


async def _start(name: str, address: Address, version: str, *more: str, stdin: int | None = None) -> Process:
    tls = ["--cafile", str(address.ca)] if address.ca else []
    where = ["-h", "localhost", "-p", str(address.port), "-V", version]
    return await asyncio.create_subprocess_exec(
        program(name), *where, *tls, *more, stdin=stdin, stdout=PIPE, stderr=PIPE
    )


async def _end(process: Process) -> str:
    """What it wrote, once it has ended well."""
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def _publish(address: Address, version: str, *more: str) -> str:
    return await _end(await _start("mosquitto_pub", address, version, *more))


@pytest.mark.parametrize("version", VERSIONS)
async def test_scenario(address: Address, version: str) -> None:
    broker = address.broker
    receiver = await _start("mosquitto_sub", address, version, "-t", "t/#", "-q", "2", "-C", "5", "-F", "%t %q %p")
    await until(lambda: broker.status()["subscriptions"] == 1)
    for qos in "012":
        await _publish(address, version, "-t", f"t/{qos}", "-q", qos, "-m", "ciao")
    # Its will goes when it is killed.
    doomed = await _start(
        "mosquitto_sub",
        address,
        version,
        "-t",
        "x",
        "--will-topic",
        "t/will",
        "--will-payload",
        "bye",
        "--will-qos",
        "1",
    )
    await until(lambda: broker.status()["subscriptions"] == 2)
    doomed.kill()
    await doomed.communicate()
    # Many from its standard input.
    await until(lambda: broker.core.counters.wills_published == 1)
    await _publish(address, version, "-t", "t/last", "-m", "end", "-q", "1")
    lines = (await _end(receiver)).splitlines()
    assert lines == ["t/0 0 ciao", "t/1 1 ciao", "t/2 2 ciao", "t/will 1 bye", "t/last 1 end"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_retained(address: Address, version: str) -> None:
    await _publish(address, version, "-t", "r/1", "-m", "kept", "-r", "-q", "1")
    receiver = await _start("mosquitto_sub", address, version, "-t", "r/#", "-C", "1", "-F", "%r %p", "-q", "1")
    assert await _end(receiver) == "1 kept\n"
    await _publish(address, version, "-t", "r/1", "-n", "-r", "-q", "1")
    assert address.broker.status()["retained"]["messages"] == 0


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_that_is_kept(address: Address, version: str) -> None:
    keep = ["-c", "-i", "away", "-q", "1", "-t", "a"] + (["-x", "1000"] if version == "mqttv5" else [])
    first = await _start("mosquitto_sub", address, version, *keep, "-E")
    await _end(first)
    for n in range(5):
        await _publish(address, version, "-t", "a", "-m", str(n), "-q", "1")
    assert address.broker.status()["waiting"]["messages"] == 5
    again = await _start("mosquitto_sub", address, version, *keep, "-C", "5")
    assert await _end(again) == "0\n1\n2\n3\n4\n"


async def test_properties(address: Address) -> None:
    receiver = await _start(
        "mosquitto_sub", address, "mqttv5", "-t", "p", "-q", "1", "-C", "1", "-F", "%C|%D|%R|%E|%P|%p",
        "-D", "subscribe", "subscription-identifier", "9",
    )  # fmt: skip
    await until(lambda: address.broker.status()["subscriptions"] == 1)
    sent = {
        "content-type": "text/plain",
        "correlation-data": "c",
        "response-topic": "r",
        "message-expiry-interval": "60",
    }
    flags = [flag for name, value in sent.items() for flag in ("-D", "publish", name, value)]
    await _publish(
        address, "mqttv5", "-t", "p", "-m", "x", "-q", "1", *flags, "-D", "publish", "user-property", "k", "v"
    )
    content_type, correlation, response, expiry, user, payload = (await _end(receiver)).strip().split("|")
    assert (content_type, correlation, response, payload) == ("text/plain", "c", "r", "x")
    assert 55 < int(expiry) <= 60
    assert user.replace(" ", "") == "k:v"


async def test_many(address: Address) -> None:
    """Far more lines from standard input than a kept queue holds, and a slower receiver: none is lost, all in order."""
    broker, count = address.broker, 5000
    receiver = await _start("mosquitto_sub", address, "mqttv5", "-t", "m", "-q", "1", "-C", str(count))
    await until(lambda: broker.status()["subscriptions"] == 1)
    lines = "".join(f"{n}\n" for n in range(count))
    sender = await _start("mosquitto_pub", address, "mqttv5", "-t", "m", "-q", "1", "-l", stdin=PIPE)
    await sender.communicate(lines.encode())
    assert await _end(receiver) == lines
    assert broker.core.counters.messages_dropped_queue_full == 0
